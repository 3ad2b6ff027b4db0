"""Input for the work grid: a dataset of lumis whose blocks are closed by hand."""

from __future__ import annotations

from collections.abc import Sequence

from servers.work_grid import Grid
from sqlalchemy import Connection

from catalogs import bookkeeping, registration
from catalogs.bookkeeping import BlockPolicy
from catalogs.filebatch import NewFile
from gridcore.db import dbnow
from prodsys.tasks import tasks
from prodsys.tasks.tasks import Task
from prodsys.units import jobmaking, slicing
from prodsys.units.jobmaking import NewKeys

DATASET = "/Data/v1/RAW"
STEP = """
name = "skim"
group = "production"
lfn_area = "/store/mc"

[[step]]
name = "one"
command = ["/bin/sh", "-c", "true"]
input = "/Data/v1/RAW"
output = { name = "events.txt", dataset = "/Toy/v1/SKIM" }
"""

Spans = Sequence[tuple[int, int, int]]


class LumiInput:
    """The dataset, and jobs made from it slice by slice."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self.files = 0
        key = grid.keys.one("dataset")
        policy = BlockPolicy(10**6, 10**15, 10**6)
        now = grid.context.clock.now()
        grid.database.transaction(lambda conn: bookkeeping.create_dataset(conn, key, DATASET, policy, now))
        self.dataset_id = key

    def add_block(self, *files: Spans, events: int | None = 100, size: int = 1000) -> int:
        """A closed block of files with these (run, first lumi, last lumi); its key."""
        names = range(self.files, self.files + len(files))
        self.files += len(files)
        new = [
            NewFile(
                lfn=f"/store/data/f{number}.root",
                bytes=size,
                adler32=number,
                events=events,
                runs={run: [s[1:] for s in spans if s[0] == run] for run in {span[0] for span in spans}},
            )
            for number, spans in zip(names, files, strict=True)
        ]
        reserved = registration.reserve(self.grid.keys, len(new))

        def unit(conn: Connection) -> int:
            now = self.grid.context.clock.now()
            registration.register(conn, reserved, self.dataset_id, 1, new, now)
            block_id = bookkeeping.file_by_lfn(conn, new[0].lfn).block_id  # type: ignore[union-attr]
            bookkeeping.close_blocks(conn, [block_id], "files", now)
            return block_id

        return self.grid.database.transaction(unit)

    def close(self) -> None:
        """No further file will come."""
        close = bookkeeping.close_dataset
        self.grid.database.transaction(lambda conn: close(conn, self.dataset_id, "test", dbnow(conn)))

    def submit(self, *lines: str) -> str:
        """A task with these lines in its step; its name."""
        return self.grid.submit(STEP + "\n".join(lines))

    def make(self, name: str, room: int = 1000, most_jobs: int = 1000) -> int | None:
        """One slice of a task; None where there is none."""
        with self.grid.database.snapshot() as conn:
            task = tasks.by_name(conn, name)
            assert task is not None
            due = slicing.next_slice(conn, task, room, most_jobs)
        return None if due is None else self.make_slice(task, due)

    def make_slice(self, task: Task, due: slicing.Slice) -> int:
        job_ids = self.grid.keys.take("job", max(1, len(due.pieces)))
        class_ids = self.grid.keys.take("job_class")

        def unit(conn: Connection) -> int:
            keys = NewKeys(iter(job_ids), iter(class_ids))
            now = self.grid.context.clock.now()
            return jobmaking.make(conn, keys, tasks.lock(conn, task.id), due, now)

        return self.grid.database.transaction(unit)
