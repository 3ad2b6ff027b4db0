"""A small grid for tests of the work half: one site, one storage element, real processes on this host."""

from __future__ import annotations

import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Select, select

from agents.accountant import Accountant
from agents.job_maker import JobMaker
from agents.merger import Merger
from agents.prodagent import Host, ProdAgent
from agents.runtime.agent import Agent, Context
from agents.runtime.leasing import LeaseKeeper
from catalogs import bookkeeping, sites
from catalogs.bookkeeping import BlockPolicy
from gridcore.bus import NullBus
from gridcore.clock import SystemClock
from gridcore.db import Database, insert_rows
from gridcore.db.keys import Keys
from gridcore.db.leases import Owner
from gridcore.settings import load
from gridcore.tables import instance
from prodsys.executors.base import Executor
from prodsys.executors.local import LocalExecutor
from prodsys.job_states import JobState
from prodsys.queue import endpoints
from prodsys.queue.sqlport import SqlQueuePort
from prodsys.requests import requests
from prodsys.shares import shares
from prodsys.states import TaskState
from prodsys.tables import job, queue
from prodsys.tasks import tasks, workflow, workflow_files

PAYLOADS = Path(__file__).parents[1].parent / "etc/requests/payloads"
STEP = """
name = "toy"
group = "production"
lfn_area = "/store/mc"

[[step]]
name = "gen"
command = ["python", "toy_generate.py"]
sandbox = ["toy_generate.py", "payload.py", "merge_text.py"]
events = {events}
events_per_job = 5
output = {{ name = "events.txt", dataset = "/Toy/v1/GEN" }}
[step.merge]
command = ["python", "merge_text.py"]
min_bytes = 60000
max_bytes = 200000
"""


def quiet(n: int) -> Iterator[None]:
    """Give processes time to move; at most about `n` seconds."""
    end = time.monotonic() + n
    while time.monotonic() < end:
        yield
        time.sleep(0.05)


class Grid:
    """One site with one storage element and the agents of the work half."""

    def __init__(self, database: Database, root: Path, slots: int = 2) -> None:
        self.database, self.root = database, root
        self.keys = Keys(database)
        database.transaction(self._fill)
        settings = load(
            None,
            {
                "dir": str(root),
                "work.lost_after_s": 1,
                "work.wrapper_heartbeat_s": 0.3,
                "lease.seconds": 60,
                "lease.heartbeat_s": 20,
            },
        )
        self.context = Context(
            database=database,
            keys=self.keys,
            settings=settings,
            bus=NullBus(),
            clock=SystemClock(),
            instance="0123456789abcdef",
        )
        self.keeper = LeaseKeeper(database, Owner.current("test"), 60)
        self.executor: Executor = LocalExecutor(root / "spool", slots=slots, python=sys.executable)
        self.agents = self.make_agents()

    def make_agents(self) -> list[Agent]:
        port = SqlQueuePort(self.database, self.keys, self.context.instance, scale=0.001)
        host = Host(python=sys.executable, heartbeat_s=0.3, stop_grace_s=1, cache=None)
        return [
            JobMaker(self.context),
            ProdAgent(self.context, port, {"T2_FI_Birch": self.executor}, host),
            Accountant(self.context, scale=0.001),
            Merger(self.context),
        ]

    def _fill(self, conn: Connection) -> None:
        now = SystemClock().now()
        insert_rows(conn, instance, [{"id": 1, "uuid": "0123456789abcdef", "created_at": now}])
        insert_rows(conn, queue, [{"id": 1, "name": "central"}])
        sites.put_site(conn, sites.Site(id=1, name="T2_FI_Birch", tier=2))
        root = self.root / "storage"
        rules = {
            "lfn-to-pfn": [{"protocol": "local", "path-match": "/+store/(.*)", "result": f"{root}/$1"}],
            "pfn-to-lfn": [],
        }
        element = sites.StorageElement(
            id=1,
            name="Birch_Disk",
            site_id=1,
            kind="disk",
            protocol="local",
            tfc=sites.tfc_text(rules),
            root=str(root),
        )
        sites.put_se(conn, element)
        endpoints.put(
            conn, endpoints.Endpoint(id=1, name="T2_FI_Birch", site_id=1, lease_id=900, kind="local", slots=2)
        )
        shares.put(conn, 901, "production", None, 70, now)

    def submit(self, text: str, client_id: str = "c1") -> str:
        """Hand in and approve a request; the name of its first task."""
        path = PAYLOADS / "request-for-tests.toml"
        document = workflow.parse(tomllib.loads(text), "test")
        boxes = {step.name: workflow_files.packed(step, path) for step in document.step}
        keys = requests.reserve(self.keys, document)

        def unit(conn: Connection) -> str:
            now = self.context.clock.now()
            one = requests.submit(conn, keys, document, boxes, client_id=client_id, requester="anna", now=now)
            policy = BlockPolicy(8, 10**12, 3600)
            return requests.approve(
                conn, keys, one, actor="anna", task_type="production", policy=policy, now=now
            )[0]

        return self.database.transaction(unit)

    def cycle(self, agents: Sequence[Agent] | None = None) -> None:
        """One cycle of each agent, as the runtime would."""
        for agent in agents or self.agents:
            with self.database.snapshot() as conn:
                names = agent.shards(conn)
            self.keeper.take(names)
            agent.cycle(self.keeper.held(names))

    def until(self, true: Callable[[], bool], seconds: int = 30) -> None:
        for _ in quiet(seconds):
            self.cycle()
            if true():
                return
        jobs = self.rows(select(job.c.id, job.c.kind, job.c.state, job.c.code, job.c.params))
        pytest.fail(f"not in time; jobs: {jobs}")

    def until_state(self, state: JobState, agents: Sequence[Agent]) -> None:
        """Cycles of some agents until the only job is in a state."""
        for _ in quiet(20):
            self.cycle(agents)
            if self.rows(select(job.c.state))[0].state == state:
                return
        pytest.fail(f"the job did not become {state}")

    def rows(self, statement: Select[Any]) -> list[Any]:
        """The rows of a query now."""
        with self.database.snapshot() as conn:
            return list(conn.execute(statement))

    def close_blocks(self, name: str) -> None:
        """What the block manager does, then on to the task's end."""

        def unit(conn: Connection) -> None:
            now = self.context.clock.now()
            for block_id, code in bookkeeping.due_blocks(conn, now):
                bookkeeping.close_blocks(conn, [block_id], code, now)

        self.database.transaction(unit)
        self.until(lambda: self.task(name).state != TaskState.CLOSING)

    def task(self, name: str) -> tasks.Task:
        with self.database.snapshot() as conn:
            found = tasks.by_name(conn, name)
        assert found is not None
        return found
