"""A small grid for the data half: storage elements, links, files, and its agents run by hand."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Select, func, select
from sqlalchemy.exc import IntegrityError

from agents.block_manager import BlockManager
from agents.deleter import Deleter
from agents.router import Router
from agents.runtime.agent import Agent, Context
from agents.transfer_agent import TransferAgent
from catalogs import bookkeeping, registration, replicas, sites, wishes
from catalogs.bookkeeping import BlockPolicy
from catalogs.filebatch import NewFile
from catalogs.states import BlockState, ReplicaState, WishKind, WishState
from catalogs.tables import block, wish
from datamgmt.invariants import INVARIANTS
from datamgmt.subscriptions import asking
from datamgmt.subscriptions.asking import Order
from datamgmt.tables import block_dest, transfer
from datamgmt.tools.base import TransferTool
from datamgmt.tools.fake import FakeTool
from datamgmt.transfer_states import TransferState
from gridcore import settings
from gridcore.bus import MemoryBus
from gridcore.clock import FakeClock
from gridcore.db import Database, leases
from gridcore.db.invariants import violations
from gridcore.db.keys import Keys
from gridcore.db.leases import Lease, Owner

DATASET = "/Sim/v1/RECO"
POLICY = BlockPolicy(100, 10**12, 10**6)
KINDS = ("block_manager", "router", "transfer_agent", "deleter")


def tfc(prefix: str) -> str:
    rule = {"protocol": "direct", "path-match": "/store/(.*)", "result": f"{prefix}/$1"}
    return sites.tfc_text({"lfn-to-pfn": [rule], "pfn-to-lfn": []})


def content(number: int) -> bytes:
    return f"file {number} ".encode() * (number + 1)


class DataGrid:
    """SEs are named T2_A, T2_B, ... with ids 1, 2, ...; `pfn` is where an SE keeps an LFN."""

    def __init__(
        self, database: Database, names: str = "ABCD", root: Path | None = None, **overrides: object
    ) -> None:
        self.database = database
        self.clock = FakeClock()
        database._clock = self.clock
        self.keys = Keys(database)
        self.ids = {name: number for number, name in enumerate(names, 1)}
        self.root = str(root or "/grid")
        values = {
            "lease.seconds": 10**6,
            "lease.heartbeat_s": 60,
            "retry.base_s": 1,
            "agent.cycle_s": 0.5,
            **overrides,
        }
        self.settings = settings.load(overrides=values, environ={})
        self.tool: Any = FakeTool()
        self.tools: Mapping[str, TransferTool] = {"fake": self.tool}
        self.dataset_id = 0
        database.transaction(self._topology)

    def _topology(self, conn: Connection) -> None:
        for name, key in self.ids.items():
            site = sites.Site(id=key, name=f"T2_XX_{name}", tier=2)
            sites.put_site(conn, site)
            prefix = f"{self.root}/{name}"
            element = sites.StorageElement(
                id=key, name=f"T2_{name}", site_id=key, kind="disk", protocol="direct", tfc=tfc(prefix)
            )
            sites.put_se(conn, element)

    def link(self, *pairs: str, tool: str = "fake", distance: float = 1.0) -> None:
        """Links such as "AB": one way each."""

        def unit(conn: Connection) -> None:
            for pair in pairs:
                src, dst = self.ids[pair[0]], self.ids[pair[1]]
                new = sites.Link(
                    id=100 * src + dst, src_se_id=src, dst_se_id=dst, distance=distance, tool=tool
                )
                sites.put_link(conn, new)

        self.database.transaction(unit)

    def pfn(self, name: str, lfn: str) -> str:
        return f"{self.root}/{name}/{lfn.removeprefix('/store/')}"

    def lfn(self, number: int) -> str:
        return f"/store/data/f{number}.root"

    def produce(self, n: int, at: str = "A", *, first: int = 0, close: bool = True) -> list[int]:
        """Register n files in one block at an SE; its file ids."""
        new = []
        for number in range(first, first + n):
            data = content(number)
            self.store(self.pfn(at, self.lfn(number)), data)
            new.append(NewFile(lfn=self.lfn(number), bytes=len(data), adler32=zlib.adler32(data)))
        reserved = registration.reserve(self.keys, n)
        key = self.keys.one("dataset")

        def unit(conn: Connection) -> list[int]:
            now = self.clock.now()
            self.dataset_id = bookkeeping.create_dataset(conn, key, DATASET, POLICY, now)
            ids = registration.register(conn, reserved, self.dataset_id, self.ids[at], new, now)
            if close:
                open_blocks = select(block.c.id).where(block.c.state == BlockState.OPEN)
                blocks = conn.execute(open_blocks).scalars().all()
                bookkeeping.close_blocks(conn, blocks, "files", now)
            return ids

        return self.database.transaction(unit)

    def store(self, pfn: str, data: bytes) -> None:
        if isinstance(self.tool, FakeTool):
            self.tool.put(pfn, len(data), zlib.adler32(data))
        else:
            Path(pfn).parent.mkdir(parents=True, exist_ok=True)
            Path(pfn).write_bytes(data)

    def subscribe(self, name: str, *, decided_by: str | None = "anna", **asked: Any) -> int:
        key = self.keys.one("subscription")
        by = {"requester": "anna", "group": "physics", **asked}
        order = Order(dataset_id=self.dataset_id, se_id=self.ids[name], **by)
        return self.database.transaction(
            lambda conn: asking.subscribe(conn, key, order, self.clock.now(), decided_by)
        )

    def place(self, name: str, *, custodial: bool = False) -> int:
        """Wish the dataset to an SE; the wish's id."""
        new = {"kind": WishKind.PLACE, "subject_kind": "dataset", "subject": DATASET, "owner": "task/1"}
        return self._wish(name, custodial=custodial, **new)

    def wish_away(self, name: str, lfn: str) -> int:
        """Wish a file deleted; the wish's id."""
        new = {"kind": WishKind.DELETE, "subject_kind": "lfn", "subject": lfn, "owner": "output/1"}
        return self._wish(name, **new)

    def _wish(self, name: str, **values: Any) -> int:
        new = wishes.NewWish(id=self.keys.one("wish"), se_id=self.ids[name], **values)
        (wish_id,) = self.do(lambda conn, now: wishes.make(conn, [new], now))
        return int(wish_id)

    def wish(self, wish_id: int) -> tuple[WishState, str | None]:
        """(state, code)."""
        ((state, code),) = self.rows(select(wish.c.state, wish.c.code).where(wish.c.id == wish_id))
        return state, code

    def word(self, name: str) -> tuple[str, dict[str, Any]]:
        """(code, params): the router's word on the one block that is wanted at an SE."""
        said = select(block_dest.c.code, block_dest.c.params).where(block_dest.c.se_id == self.ids[name])
        ((code, params),) = self.rows(said)
        return code, params

    def context(self) -> Context:
        return Context(
            database=self.database,
            keys=self.keys,
            settings=self.settings,
            bus=MemoryBus(),
            clock=self.clock,
            instance="00000000-0000-0000-0000-000000000001",
        )

    def worker(self, name: str = "one", kinds: Sequence[str] = KINDS) -> Worker:
        return Worker(self, name, kinds)

    def do(self, unit: Any) -> Any:
        """Run unit(conn, now) in a transaction."""
        return self.database.transaction(lambda conn: unit(conn, self.clock.now()))

    def rows(self, statement: Select[Any]) -> list[tuple[Any, ...]]:
        with self.database.snapshot() as conn:
            return [tuple(row) for row in conn.execute(statement)]

    def count(self, table: Any) -> int:
        return int(self.rows(select(func.count()).select_from(table))[0][0])

    def retries_wait(self) -> bool:
        """Whether a failed copy waits for its time."""
        waiting = select(transfer.c.id).where(transfer.c.state == TransferState.RETRY_WAIT)
        return bool(self.rows(waiting.limit(1)))

    def replicas(self) -> dict[tuple[int, str], ReplicaState]:
        """{(block, SE's letter): state}."""
        names = {key: name for name, key in self.ids.items()}
        blocks = [row[0] for row in self.rows(select(block.c.id))]
        with self.database.snapshot() as conn:
            found = replicas.replicas(conn, blocks)
        return {(one.block_id, names[one.se_id]): one.state for rows in found.values() for one in rows}

    def check(self) -> None:
        with self.database.snapshot() as conn:
            assert violations(conn, INVARIANTS) == []


class Worker:
    """A process: agents of some kinds with the leases they could get."""

    def __init__(self, grid: DataGrid, name: str, kinds: Sequence[str]) -> None:
        self.grid = grid
        self.owner = Owner(f"{name}@here", "elsewhere", "boot", 1, 1)
        context = grid.context()
        every: dict[str, Agent] = {
            "block_manager": BlockManager(context),
            "router": Router(context),
            "transfer_agent": TransferAgent(context, grid.tools),
            "deleter": Deleter(context, grid.tools),
        }
        self.agents = {kind: every[kind] for kind in kinds}
        self.held: dict[str, Lease] = {}

    def take(self, *, from_the_dead: bool = False) -> None:
        """Take the leases of all its agents that are free, or everybody's."""
        database = self.grid.database
        with database.snapshot() as conn:
            names = sorted({name for agent in self.agents.values() for name in agent.shards(conn)})
            known = {row.name for row in leases.read(conn, names)}
        missing = [name for name in names if name not in known]
        for key, name in zip(self.grid.keys.take("lease", len(missing)), missing, strict=True):
            with suppress(IntegrityError):  # another worker was faster
                database.transaction(partial(leases.create, rows=[(key, name)]))
        with database.snapshot() as conn:
            rows = [row for row in leases.read(conn, names) if row.name not in self.held]
        dead = [row.id for row in rows] if from_the_dead else []
        taken = database.transaction(lambda conn: leases.take(conn, rows, self.owner, 10**6, dead))
        self.held |= {one.name: one for one in taken}

    def cycle(self, kind: str) -> dict[str, int]:
        agent = self.agents[kind]
        with self.grid.database.snapshot() as conn:
            wanted = set(agent.shards(conn))
        held = {name: lease for name, lease in self.held.items() if name in wanted}
        return dict(agent.cycle(held)) if held else {}

    def round(self) -> Counter[str]:
        """One cycle of each agent."""
        self.take()
        total: Counter[str] = Counter()
        for kind in self.agents:
            total.update(self.cycle(kind))
        self.grid.check()
        return total

    def run(self, rounds: int = 60, step_s: float = 1.0, idle: int = 3) -> Counter[str]:
        """Rounds until several in a row did nothing and no copy waits for its next try."""
        total: Counter[str] = Counter()
        quiet = 0
        for _ in range(rounds):
            did = self.round()
            total.update(did)
            quiet = 0 if any(did.values()) or self.grid.retries_wait() else quiet + 1
            if quiet >= idle:
                return total
            self.grid.clock.advance(step_s)
        return total

    def close(self) -> None:
        for agent in self.agents.values():
            agent.close()
