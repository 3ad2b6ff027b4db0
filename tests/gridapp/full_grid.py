"""A grid in the middle of its work, for the tests of the faces: each state and each kind of trouble once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from catalogs import bookkeeping, registration, replicas, sites
from catalogs.bookkeeping import BlockPolicy
from catalogs.replicas import Begin
from datamgmt import recount
from datamgmt.links import linkends
from datamgmt.links.health import LinkPolicy, Outcome
from datamgmt.links.linkends import Ended
from datamgmt.reasons import Reason
from datamgmt.subscriptions import asking
from datamgmt.subscriptions.asking import Order
from datamgmt.tables import block_dest, transfer
from datamgmt.transfer_states import TransferState
from gridapp import schema
from gridcore.clock import FakeClock
from gridcore.db import Database, insert_rows, leases
from gridcore.db.keys import Keys
from gridcore.db.leases import Lease, Owner
from gridcore.tables import heartbeat
from prodsys.jobs.queueport import Admission, Call, News
from prodsys.jobs.store import QUEUE
from prodsys.queue import classes, endpoints
from prodsys.queue.endpoints import Endpoint
from prodsys.queue.sqlport import SqlQueuePort
from prodsys.requests import requests
from prodsys.settling import accounting, retry_rules
from prodsys.settling.settlement import Settler
from prodsys.shares import shares
from prodsys.tables import queue
from prodsys.tasks import tasks, workflow
from prodsys.units import jobmaking, slicing
from prodsys.units.jobmaking import NewKeys

T = TypeVar("T")

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
SCRIPT = "<script>alert('x')</script>"
SITES = ("T0_DE_Oak", "T1_DE_Alder", "T1_RU_Larch", "T2_DE_Birch", "T2_DE_Cedar", "T2_RU_Elm")
LINKS = ((1, 2), (1, 3), (2, 3), (2, 4), (2, 5), (3, 6))
RULES = {
    "lfn-to-pfn": [{"protocol": "direct", "path-match": "/+(.*)", "result": "/data/$1"}],
    "pfn-to-lfn": [],
}
EVENTS, SELECTED = "/MinBiasAuAu7/UrQMD-v1/GEN", "/MinBiasAuAu7/Reduced-v1/NANO"
DOCUMENT: dict[str, Any] = {
    "name": "auau7",
    "group": "heavy",
    "lfn_area": "/store/group/heavy",
    "step": [
        {
            "name": "generate",
            "command": ["generate"],
            "events": 160,
            "events_per_job": 10,
            "output": {"name": "events.root", "dataset": EVENTS},
            "sites": ["T2_DE_Birch", "T2_RU_Elm"],
            "limits": {"wall_s": 600},
            "block": {"files": 2},
            "deliver": [{"se": "Alder_Disk", "custodial": True}],
        },
        {
            "name": "reduce",
            "command": ["reduce"],
            "input": "generate",
            "output": {"name": "tree.root", "dataset": SELECTED},
        },
    ],
}
BIRCH, ELM = 1, 2


@dataclass(frozen=True, slots=True)
class Names:
    """What the tests ask about."""

    generate: str
    reduce: str
    request: int
    subscription: int


class Builder:
    """Fills an empty database by the product's own functions."""

    def __init__(self, database: Database, clock: FakeClock) -> None:
        self.database = database
        self.clock = clock
        self.keys = Keys(database)
        self.port = SqlQueuePort(database, self.keys, "0123456789abcdef")
        self.leases: dict[int, Lease] = {}
        self.calls = 0

    def do(self, act: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        return self.database.transaction(lambda conn: act(conn, *args, **kwargs))

    def read(self, act: Callable[..., T], *args: Any) -> T:
        with self.database.snapshot() as conn:
            return act(conn, *args)

    def build(self) -> Names:
        self.topology()
        request_id, generate, reduce = self.request()
        self.jobs(generate)
        key = self.data()
        self.links()
        self.do(insert_rows, heartbeat, _beats(self.clock.now()))
        return Names(generate, reduce, request_id, key)

    def topology(self) -> None:
        self.do(insert_rows, queue, [{"id": QUEUE, "name": "central"}])
        for number, name in enumerate(SITES, 1):
            self.do(sites.put_site, sites.Site(id=number, name=name, tier=int(name[1])))
            label = name.split("_")[2] + "_Disk"
            text = sites.tfc_text(RULES)
            values = {"id": number, "name": label, "site_id": number, "kind": "disk", "protocol": "direct"}
            self.do(sites.put_se, sites.StorageElement(tfc=text, **values))
        both = [*LINKS, *((dst, src) for src, dst in LINKS)]
        for number, (src, dst) in enumerate(both, 1):
            new = sites.Link(id=number, src_se_id=src, dst_se_id=dst, distance=1.0, tool="local")
            self.do(sites.put_link, new)
        for number, site, name in ((BIRCH, 4, "birch-local"), (ELM, 6, "elm-local")):
            new_one = Endpoint(id=number, name=name, site_id=site, lease_id=number, kind="local", slots=4)
            self.do(endpoints.put, new_one)
        held = self.read(leases.read, [endpoints.lease_name("birch-local")])
        owner = Owner("prodagent@oak:4711.1", "oak", "boot", 4711, 1)
        (self.leases[BIRCH],) = self.do(leases.take, held, owner, 86_400, [])
        self.do(shares.put, self.keys.one("share_node"), "heavy", None, 3.0, START)
        self.do(shares.put, self.keys.one("share_node"), "light", None, 1.0, START)

    def request(self) -> tuple[int, str, str]:
        names: list[str] = []
        ids = []
        for label, outputs in (("auau7", None), ("pbpb", "/PbPb17/Later-v1/GEN")):
            document = DOCUMENT | {"name": label}
            if outputs:
                step = DOCUMENT["step"][0] | {"output": {"name": "events.root", "dataset": outputs}}
                document |= {"step": [step]}
            parsed = workflow.parse(document, "test")
            keys = requests.reserve(self.keys, parsed)
            made = self.do(
                requests.submit, keys, parsed, {}, client_id=label, requester="anna", now=self.clock.now()
            )
            ids.append(made)
            if not outputs:
                how = {"actor": "boss", "task_type": "production", "policy": BlockPolicy(100, 10**12, 3600)}
                names = self.do(requests.approve, keys, made, now=self.clock.now(), **how)
        return ids[0], names[0], names[1]

    def jobs(self, name: str) -> None:
        task = self.read(tasks.by_name, name)
        assert task is not None
        new = NewKeys(iter(self.keys.take("job", 16)), iter(self.keys.take("job_class", 2)))
        self.do(jobmaking.make, new, task, self.read(slicing.next_slice, task, 16, 1000), self.clock.now())
        self.do(classes.store_verdicts, self.read(classes.Watch().news, 1), self.clock.now())
        self.clock.advance(5)
        items = [item.key for item in self.port.lease(self.call(), 10)]
        self.port.intend(self.call(), items[:9])
        self.port.submitted(self.call(), [(key, f"{n}.oak") for n, key in enumerate(items[:8])])
        admitted = [Admission(key, "nonce", "wn1.birch") for key in items[:7]]
        self.port.reported(self.call(), News(admitted=admitted))
        self.clock.advance(60)
        good = [(key, _report(True)) for key in items[:3]]
        self.port.finished(self.call(), [*good, (items[4], _report(False))])
        self.do(self._commit, task.id)
        self._fail_for_good(items[4])
        self.port.finished(self.call(), [(items[3], _report(False))])

    def call(self) -> Call:
        self.calls += 1
        return Call(f"call{self.calls}", "prodagent", BIRCH, self.leases[BIRCH])

    def _commit(self, conn: Any, task_id: int) -> None:
        rules = retry_rules.rules(conn)
        settler = Settler(conn, self.clock.now(), rules, 1.0, self.wish_ids)
        ids = accounting.due(conn)[task_id]
        accounting.commit(conn, settler, task_id, ids, self.reserved)

    @property
    def wish_ids(self) -> range:
        return range(9000, 9100)

    @property
    def reserved(self) -> registration.Reserved:
        return registration.Reserved(range(1, 20), range(1, 20), range(1, 20))

    def _fail_for_good(self, key: str) -> None:
        """The job of this attempt fails until its retries are used up."""
        for _ in range(3):
            self.clock.advance(400)
            self.do(self._due, key)
            for item in self.port.lease(self.call(), 1):
                self.port.intend(self.call(), [item.key])
                self.port.finished(self.call(), [(item.key, _report(False))])

    def _due(self, conn: Any, key: str) -> None:
        from prodsys.jobs import store

        job_id = int(key.split(".")[2])
        moves = [one for one in store.due(conn, self.clock.now(), 10) if one.job_id == job_id]
        store.apply(conn, moves, self.clock.now())

    def data(self) -> int:
        """The first block is at Alder, the next one on its way; a third of another dataset is stuck."""
        now = self.clock.now()
        dataset = self.read(bookkeeping.dataset_by_name, EVENTS)
        assert dataset is not None
        self.do(bookkeeping.close_blocks, [1, 2], "age", now)
        self.do(replicas.begin_all, [Begin(1, 2, custodial=True)], now)
        self.do(replicas.complete_all, {(1, 2): 1}, now)
        key = self.keys.one("subscription")
        by = {"requester": "anna", "group": "heavy"}
        order = Order(dataset_id=dataset.id, se_id=2, custodial=True, priority=1, **by)
        self.do(asking.subscribe, key, order, now, "anna")
        params = {"src": 4, "hop_dst": 2, "path": [4, 2]}
        values = {"subscription_id": key, "priority": 1, "decided_at": now, "created_at": now}
        row = {"block_id": 2, "se_id": 2, "src_se_id": 4, "path": [4, 2], **values}
        sizes = self.read(bookkeeping.blocks_by_id, [2])[2]
        row |= {"files": sizes.files, "bytes": sizes.bytes}
        self.do(replicas.begin_all, [Begin(2, 2, custodial=True)], now)
        self.do(insert_rows, block_dest, [{**row, "code": Reason.ROUTED, "params": params}])
        self.do(insert_rows, transfer, list(self._transfers(now)))
        return key

    def _transfers(self, now: datetime) -> Iterator[dict[str, Any]]:
        for file in self.read(bookkeeping.files_of_block, 2):
            yield {
                "id": self.keys.one("transfer"),
                "file_id": file.id,
                "block_id": 2,
                "src_se_id": 4,
                "dst_se_id": 2,
                "state": TransferState.RETRY_WAIT,
                "attempts": 1,
                "bytes": file.bytes,
                "priority": 1,
                "not_before": now + timedelta(seconds=30),
                "error_class": "checksum",
                "error": f"adler32 differs {SCRIPT}",
                "created_at": now,
                "updated_at": now,
            }

    def links(self) -> None:
        now, policy = self.clock.now(), LinkPolicy(cool_off=timedelta(minutes=10))
        good = Outcome(ok=True, bytes=30_000_000, seconds=2.5)
        bad = Outcome(ok=False)
        ended = [Ended(n, good) for n in (1, 4, 4, 4, 5, 6, 10, 10, 10, 10, 7)]
        ended += [Ended(9, bad, f"connection refused {SCRIPT}") for _ in range(3)]
        ended.append(Ended(10, bad, "adler32 differs"))
        self.do(linkends.record, ended, now, policy)
        self.do(recount.mend)


def _report(good: bool) -> dict[str, Any]:
    said = {"name": "events.root", "size": 105_000, "adler32": 7, "events": 10, "runs": {"1": [[1, 1]]}}
    return {
        "version": 1,
        "nonce": "nonce",
        "host": "wn1.birch",
        "outcome": "done" if good else "failed",
        "exit_code": 0 if good else 84,
        "error_class": None if good else "payload",
        "error": None if good else f"exit code 84: ValueError: no nucleus {SCRIPT}",
        "outputs": [said] if good else [],
        "usage": {"wall_s": 31.5, "cpu_s": 30.1},
    }


def _beats(now: datetime) -> list[dict[str, Any]]:
    names = ("accountant", "block_manager", "deleter", "janitor", "job_maker", "merger", "prodagent")
    rows = [_beat(name, now, 0.4) for name in (*names, "router", "transfer_agent")]
    rows[1] |= {"state": "failing", "note": f"Unavailable: disk full {SCRIPT}"}
    rows[3] |= {"beat_at": now - timedelta(minutes=7)}
    return rows


def _beat(name: str, now: datetime, age: float) -> dict[str, Any]:
    return {
        "agent": name,
        "owner": f"{name}@oak:4711.1",
        "host": "oak",
        "pid": 4711,
        "started_at": now - timedelta(hours=3),
        "beat_at": now - timedelta(seconds=age),
        "progress_at": now - timedelta(seconds=3 * age),
        "cycles": 1200,
        "state": "running",
        "counts": {"done": 12},
        "note": None,
    }


@contextmanager
def full_grid(folder: Path, url: str | None = None) -> Iterator[tuple[Database, Names]]:
    """The database (a new SQLite one, or the empty one at `url`), its clock standing still, and the names."""
    clock = FakeClock(START)
    database = Database(url or f"sqlite:///{folder}/tierflow.db", clock=clock)
    schema.upgrade(database)
    yield database, Builder(database, clock).build()
    database.close()
