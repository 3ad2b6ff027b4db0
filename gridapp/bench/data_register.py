"""Registering complete files: dataset, block, directory, parents, counters, replica and event, in bulk."""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import text

from catalogs.filebatch import FileBatch
from catalogs.tfc.rules import Rule
from gridapp.bench.data_grid import DataGrid, data_grid
from gridapp.bench.data_limits import BLOCK, file_limit
from gridapp.bench.ground import Ground
from gridapp.bench.measure import TURNS, Figure
from gridcore.clock import SystemClock
from gridcore.db import Database

#: Files of a commit, of a directory, and of how many one has a parent.
BATCH, DIRECTORY, PARENTED = 10_000, 1_000, 5
#: Most bytes a file may take with its indexes.
BYTES = 260
#: Parts of a long run whose first and last are compared.
PARTS = 10


@dataclass(slots=True)
class Shelf:
    """A dataset at a storage element, to which files come."""

    grid: DataGrid
    chance: random.Random
    made: int = 0
    #: A file others may have for a parent.
    first: int = 0

    def batch(self) -> FileBatch:
        """The next files: half of the names random, as people and frameworks make them."""
        n, start = BATCH, self.made
        self.made += n
        names = [
            f"{uuid.UUID(int=self.chance.getrandbits(128))}.root"
            if i % 2
            else f"AuAu_7GeV_{start + i:09}.root"
            for i in range(n)
        ]
        return FileBatch(
            dirs=[
                f"/store/data/Run26/AuAu/DST/v1/{(start + i) // DIRECTORY:07}" for i in range(0, n, DIRECTORY)
            ],
            dir_of=[i // DIRECTORY for i in range(n)],
            names=names,
            bytes=[2_000_000_000 + self.chance.randrange(10**9) for _ in range(n)],
            adler32=[self.chance.getrandbits(32) for _ in range(n)],
            events=[1000 + i % 7 for i in range(n)],
            parents=[(i, self.first) for i in range(0, n, PARENTED)] if self.first else [],
        )


def shelf(ground: Ground) -> Shelf:
    """A new one with one batch on it."""
    grid = data_grid(ground, "/Bench/AuAu-7GeV/DST", BLOCK, (Rule("direct", "(.*)", "$1"),))
    made = Shelf(grid, random.Random(7))
    made.first = grid.put(made.batch())
    return made


def rate(on: Shelf, work: Callable[[FileBatch], object], files: int) -> float:
    """Files per second of the calls alone."""
    seconds, batches = 0.0, -(-files // BATCH)
    for _ in range(batches):
        batch = on.batch()
        began = time.perf_counter()
        work(batch)
        seconds += time.perf_counter() - began
    return batches * BATCH / seconds


def register(ground: Ground) -> Figure:
    """Complete files, 10,000 a commit, half of them named at random; the limit is COPY or executemany."""
    ours, theirs = shelf(ground), shelf(ground)
    limit = file_limit(theirs.grid.database, theirs.grid.dataset_id, theirs.grid.se_id)
    ground.closing(limit.close)
    per_turn = -(-ground.rows // TURNS)

    def raw(batch: FileBatch) -> None:
        limit.register(batch, 10**9 + theirs.made, SystemClock().now())

    arms = {
        "ours": lambda: rate(ours, ours.grid.put, per_turn),
        "limit": lambda: rate(theirs, raw, per_turn),
    }
    return ground.compare("register", "files/s", arms)


def flat(ground: Ground) -> list[Figure]:
    """The last tenth of a long run against its first, and the bytes a file takes in the end."""
    on = shelf(ground)
    before = size_of(on.grid.database)
    part, rates = -(-ground.rows // PARTS), []
    for number in range(PARTS):
        rates.append(rate(on, on.grid.put, part))
        ground.say(f"{on.made:,} files, {rates[-1]:,.0f}/s in part {number + 1} of {PARTS}")
    taken = (size_of(on.grid.database) - before) / (on.made - BATCH)
    return [
        ground.figure("flat", rates[-1], "files/s", rates[0]),
        ground.figure("bytes", taken, "bytes/file", BYTES, less_is_better=True),
    ]


#: What holds files: the parents and lumis of files are reported apart.
HOLDING = (
    "data_file",
    "dir",
    "block",
    "block_replica",
    "block_history",
    "dataset",
    "holding",
    "se_use",
    "outbox",
)


def size_of(database: Database) -> int:
    """Bytes of the tables and indexes that files take; on SQLite those of the file without parents."""
    with database.snapshot() as conn:
        if database.dialect == "postgresql":
            sizes = [
                conn.execute(text(f"SELECT pg_total_relation_size('{name}')")).scalar_one()
                for name in HOLDING
            ]
            return int(sum(sizes))
    with database.snapshot() as conn:
        pages = conn.execute(text("PRAGMA page_count")).scalar_one()
        size = conn.execute(text("PRAGMA page_size")).scalar_one()
    return int(pages * size)
