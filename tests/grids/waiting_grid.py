"""A grid whose work waits: sites with endpoints of every kind, requests made into jobs, nothing that runs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from servers.work_grid import Grid
from sqlalchemy import select, update

from catalogs import bookkeeping, registration, replicas, sites
from catalogs.bookkeeping import BlockPolicy
from catalogs.filebatch import NewFile
from catalogs.replicas import Begin
from catalogs.states import Switch
from catalogs.tables import site
from gridcore.db import Database
from prodsys.job_states import JobKind, JobState
from prodsys.jobs import store
from prodsys.jobs.queueport import Call
from prodsys.jobs.store import NewJob
from prodsys.queue import classes, endpoints
from prodsys.queue.brokerage import Verdict
from prodsys.queue.classes import ClassSpec
from prodsys.queue.endpoints import Endpoint
from prodsys.queue.sqlport import SqlQueuePort
from prodsys.tables import job, task

#: One step that generates; the events make the number of jobs.
STEP = """
[[step]]
name = "{name}"
command = ["python", "toy_generate.py"]
sandbox = ["toy_generate.py", "payload.py"]
events = {events}
events_per_job = 5
output = {{ name = "events.txt", dataset = "/{name}/v1/GEN" }}
{more}
"""
HEAD = """
name = "toy"
group = "production"
lfn_area = "/store/mc"
"""


def step(name: str, jobs: int = 1, more: str = "") -> str:
    """A step of so many jobs; `more` are further lines, such as `limits = {{ cores = 8 }}`."""
    return STEP.format(name=name, events=5 * jobs, more=more)


class WaitingGrid(Grid):
    """The small work grid with more sites. Site 1, T2_FI_Birch, offers anything a limit can bound."""

    def __init__(self, database: Database, root: Path) -> None:
        super().__init__(database, root)
        self.job_maker = self.agents[0]

    def site(self, number: int, name: str, *offers: dict[str, Any], state: Switch = Switch.ENABLED) -> None:
        """Make or change a site with one endpoint per offer and one storage element; keys follow from the
        number."""

        def unit(conn: Any) -> None:
            sites.put_site(conn, sites.Site(id=number, name=name, tier=2, state=state, note=None))
            first = sites.storage_elements(conn)[0]
            values = {"id": number, "name": f"{name[6:]}_Disk", "site_id": number, "kind": "disk"}
            element = sites.StorageElement(**values, protocol="local", tfc=first.tfc, root=first.root)
            sites.put_se(conn, element)
            for place, offer in enumerate(offers):
                one = Endpoint(
                    id=10 * number + place,
                    name=f"{name}-{place}" if place else name,
                    site_id=number,
                    lease_id=9000 + 10 * number + place,
                    kind="local",
                    slots=2,
                    offer=offer,
                )
                endpoints.put(conn, one)

        self.database.transaction(unit)

    def offer(self, name: str, **offer: Any) -> None:
        """Change what an endpoint offers, or its state."""
        state = offer.pop("state", Switch.ENABLED)

        def unit(conn: Any) -> None:
            old = endpoints.by_name(conn, name)
            fields = {
                key: getattr(old, key) for key in ("id", "name", "site_id", "lease_id", "kind", "slots")
            }
            endpoints.put(conn, Endpoint(**fields, offer=offer, state=state))

        self.database.transaction(unit)

    def request(self, *steps: str) -> dict[str, str]:
        """Hand in one request and make its jobs; the tasks' names by step."""
        self.submit(HEAD + "".join(steps))
        self.cycle([self.job_maker])
        return {row.name.rpartition("-")[2]: row.name for row in self.rows(select(task.c.name))}

    def more_jobs(self, task_name: str, spec: ClassSpec, n: int = 1) -> int:
        """Ready jobs of a class of one's own in a task that has events left; the class."""
        job_ids, class_id = self.keys.take("job", n), self.keys.one("job_class")
        owner = self.task(task_name)
        base = len(self.rows(select(job.c.id).where(job.c.task_id == owner.id)))

        def unit(conn: Any) -> int:
            now = self.database.now(conn)
            key = classes.put(conn, class_id, spec)
            store.insert(
                conn,
                [
                    NewJob(
                        id=one,
                        task_id=owner.id,
                        index=base + place,
                        kind=JobKind.MERGE,
                        class_id=key,
                        rank=store.rank_of(now, 0) + place,
                        units=0,
                        spec={"inputs": []},
                    )
                    for place, one in enumerate(job_ids, 1)
                ],
                now,
            )
            return key

        return self.database.transaction(unit)

    def serve(self, name: str) -> None:
        """Have an agent take the endpoint's lease."""
        self.keeper.take([endpoints.lease_name(name)])

    def claim(self, name: str, n: int) -> int:
        """What the agent of an endpoint takes; how many jobs it got."""
        with self.database.snapshot() as conn:
            here = endpoints.by_name(conn, name)
        (lease,) = self.keeper.held([here.lease_name]).values()
        port = SqlQueuePort(self.database, self.keys, self.context.instance)
        return len(port.lease(Call(f"{name}-{self.keys.one('job')}", "test", here.id, lease), n))

    def site_note(self, number: int, note: str) -> None:
        """Say why a site is switched off."""
        change = update(site).where(site.c.id == number).values(note=note)
        self.database.transaction(lambda conn: conn.execute(change))

    def block(self, dataset: str, *ses: str) -> int:
        """A closed block of a new dataset, complete at these storage elements; its key."""
        key = self.keys.one("dataset")
        reserved = registration.reserve(self.keys, 1)

        def unit(conn: Any) -> int:
            now = self.database.now(conn)
            by_name = sites.by_name(sites.storage_elements(conn))
            made = bookkeeping.create_dataset(conn, key, dataset, BlockPolicy(1, 10**12, 3600), now)
            file = NewFile(lfn=f"/store/mc{dataset}/1.root", bytes=10, adler32=1, events=1)
            registration.register(conn, reserved, made, by_name[ses[0]].id, [file], now)
            due = [one for one, _ in bookkeeping.due_blocks(conn, now)]
            bookkeeping.close_blocks(conn, due, "files", now)
            (block,) = bookkeeping.closed_blocks(conn, made)
            for name in ses[1:]:
                self.copy(conn, block.id, by_name[name].id)
            return block.id

        return self.database.transaction(unit)

    def copy(self, conn: Any, block_id: int, se_id: int) -> None:
        """A complete replica."""
        now = self.database.now(conn)
        replicas.begin_all(conn, [Begin(block_id, se_id)], now)
        replicas.complete_all(conn, {(block_id, se_id): 1}, now)

    def states(self, name: str) -> list[JobState]:
        """The states of a task's jobs by index."""
        wanted = select(job.c.state).join(task).where(task.c.name == name).order_by(job.c.idx)
        return [row.state for row in self.rows(wanted)]

    def write(self, verdicts: dict[tuple[int, int], Verdict]) -> None:
        """Store verdicts now."""
        self.database.transaction(
            lambda conn: classes.store_verdicts(conn, verdicts, self.database.now(conn))
        )


def codes(verdicts: Iterable[Verdict]) -> list[str]:
    """Their codes in order."""
    return [str(one.code) for one in verdicts]
