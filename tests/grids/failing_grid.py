"""A waiting grid where attempts end as a test says: claimed through the port, without any process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from grids.waiting_grid import WaitingGrid
from sqlalchemy import select

from gridcore.db import Database
from prodsys.job_states import JobState
from prodsys.jobs.queueport import Call, News, QueuePort, Refused, WorkItem
from prodsys.queue import endpoints
from prodsys.queue.sqlport import SqlQueuePort
from prodsys.settling import retry_rules
from prodsys.settling.retries import DEFAULT_RULES, ErrorClass
from prodsys.tables import job, job_class

BIRCH, ALDER, CEDAR = "T2_FI_Birch", "T2_DE_Alder", "T2_IT_Cedar"


class FailingGrid(WaitingGrid):
    """Three sites; what fails is due again at once."""

    def __init__(self, database: Database, root: Path) -> None:
        super().__init__(database, root)
        self.site(2, ALDER, {"memory_mb_per_core": 4000})
        self.site(3, CEDAR, {"memory_mb_per_core": 2500})
        self.offer(BIRCH, memory_mb_per_core=2500)
        self.port: QueuePort = SqlQueuePort(database, self.keys, self.context.instance, scale=0.0)
        self._calls = 0

    def call(self, endpoint: str) -> Call:
        """A call of the endpoint's agent."""
        with self.database.snapshot() as conn:
            key = endpoints.by_name(conn, endpoint).id
        self.keeper.take([endpoints.lease_name(endpoint)])
        (lease,) = self.keeper.held([endpoints.lease_name(endpoint)]).values()
        self._calls += 1
        return Call(f"call-{self._calls}", "a test", key, lease)

    def claim(self, endpoint: str, n: int = 1) -> list[WorkItem]:
        """Jobs handed to an endpoint, as its batch system has them."""
        items = self.port.lease(self.call(endpoint), n)
        self.port.intend(self.call(endpoint), [one.key for one in items])
        return items

    def refuse(self, endpoint: str, key: str, kind: ErrorClass = ErrorClass.SUBMIT) -> None:
        """The endpoint did not take it."""
        self.port.reported(self.call(endpoint), News(refused=[Refused(key, kind.value, "no")]))

    def lose(self, endpoint: str, key: str) -> None:
        """It is gone and silent."""
        self.port.submitted(self.call(endpoint), [(key, "b1")])
        self.port.reported(self.call(endpoint), News(lost=[(key, "gone")]))

    def finish(self, endpoint: str, item: WorkItem, kind: ErrorClass | None = None) -> None:
        """Its worker's report comes in: well, or with a class of failure."""
        self.port.finished(self.call(endpoint), [(item.key, report(item.document, kind))])

    def rule(self, kind: ErrorClass, **values: Any) -> None:
        """Change the retry table."""
        new = replace(DEFAULT_RULES[kind], **values)
        self.database.transaction(lambda conn: retry_rules.put(conn, new))

    def make(self) -> None:
        """What the job maker does, twice: classes that appear in one pass are judged in the next."""
        self.cycle([self.job_maker])
        self.cycle([self.job_maker])

    def jobs(self) -> list[Any]:
        """The jobs with what their class asks for."""
        wanted = select(job, job_class.c.requirements).join(job_class, job_class.c.id == job.c.class_id)
        return self.rows(wanted.order_by(job.c.id))

    def job(self) -> Any:
        """The only job."""
        (row,) = self.jobs()
        return row

    def state(self) -> JobState:
        """Where the only job is."""
        return JobState(self.job().state)


def report(document: Mapping[str, Any], kind: ErrorClass | None) -> dict[str, Any]:
    """A worker's report."""
    outputs = [
        {
            "name": one["name"],
            "lfn": one["lfn"],
            "se": one["destinations"][0]["se"],
            "size": 10,
            "adler32": 1,
            "events": 5,
            "runs": {"1": [[1, 1]]},
        }
        for one in document["outputs"]
    ]
    return {
        "nonce": "n1",
        "host": "wn1",
        "outcome": "failed" if kind else "done",
        "exit_code": 1 if kind else 0,
        "signal": None,
        "error_class": kind.value if kind else None,
        "error": "it failed" if kind else None,
        "usage": {"wall_s": 100.0, "cpu_s": 90.0, "max_rss_kb": 1000},
        "outputs": [] if kind else outputs,
    }
