"""Twelve sites in virtual time: their links, their faults, and the data agents run by hand."""

from __future__ import annotations

import hashlib
import random
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import Any

from grids.paced_tool import Meter, PacedTool
from sqlalchemy import Connection, Select, select, update

from agents.block_manager import BlockManager
from agents.deleter import Deleter
from agents.janitor import Janitor
from agents.router import Router
from agents.runtime.agent import Agent, Context, own_lease
from agents.transfer_agent import SHARD, TransferAgent
from catalogs import bookkeeping, exceptions, registration, sites
from catalogs.bookkeeping import BlockPolicy
from catalogs.exceptions import FileFault
from catalogs.filebatch import NewFile
from catalogs.states import ReplicaState
from catalogs.tables import block, block_replica, se
from datamgmt.deletions import deletion
from datamgmt.deletions.deletion import Asker
from datamgmt.subscriptions import asking, store
from datamgmt.subscriptions.asking import Order
from datamgmt.tables import subscription
from gridapp.invariants import INVARIANTS
from gridcore import settings
from gridcore.bus import MemoryBus
from gridcore.clock import FakeClock
from gridcore.db import Database, insert_rows, leases
from gridcore.db.invariants import Violation, violations
from gridcore.db.keys import Keys
from gridcore.db.leases import Lease, Owner
from gridcore.tables import quota

GB = 10**9
TAPE = "T1_A_Tape"
#: T1 by the T2s it feeds.
REGIONS = {"T1_A": ("T2_A", "T2_B", "T2_C"), "T1_B": ("T2_D", "T2_E", "T2_F"), "T1_C": ("T2_G", "T2_H")}
T1S = tuple(REGIONS)
T2S = tuple(name for names in REGIONS.values() for name in names)
SES = ("T0", *T1S, TAPE, *T2S)
GROUP = "physics"


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much there is: datasets of blocks of files; the grid's pace in steps of `step_s`."""

    datasets: int = 40
    blocks: int = 10
    files: int = 3
    file_bytes: int = 4 * GB
    hours: int = 48
    step_s: float = 600.0


class TwoDayGrid:
    """Storage elements by name; `tool` is where files are and what fails."""

    def __init__(self, database: Database, size: Size, seed: int) -> None:
        self.size = size
        self.clock = FakeClock()
        database._clock = self.clock
        self.database = database
        self.keys = Keys(database)
        self.random = random.Random(seed)
        self.tool = PacedTool(seed=seed, rate=40e6, corrupt=0.005)
        self.ids = {name: number for number, name in enumerate(SES, 1)}
        values = {
            "lease.seconds": 10**7,
            "retry.base_s": 60,
            "transfer.workers": 0,
            "transfer.deadline_s": 7200,
            "deletion.undelete_s": 3600,
            "subscription.move_grace_s": 3600,
        }
        self.settings = settings.load(overrides=values, environ={})
        self.datasets: dict[str, int] = {}
        self.did: Counter[str] = Counter()
        """What the agents say they have done."""
        database.transaction(self._topology)
        self.agents = self._agents(seed)
        self.held = self._leases()

    # --- the grid --------------------------------------------------------------------------------

    def _topology(self, conn: Connection) -> None:
        for number, name in enumerate(("T0", *T1S, *T2S), 1):
            sites.put_site(conn, sites.Site(id=number, name=site_name(name), tier=int(name[1])))
        site_ids = {one.name: one.id for one in sites.sites(conn)}
        for name, key in self.ids.items():
            kind = "tape" if name == TAPE else "disk"
            element = sites.StorageElement(
                id=key,
                name=name,
                site_id=site_ids[site_name(name)],
                kind=kind,
                protocol="direct",
                tfc=tfc(f"/{name}/$1"),
            )
            sites.put_se(conn, element)
        for src, dst, distance in _links():
            new = sites.Link(
                id=100 * self.ids[src] + self.ids[dst],
                src_se_id=self.ids[src],
                dst_se_id=self.ids[dst],
                distance=distance,
                tool="fake",
            )
            sites.put_link(conn, new)

    def set_tfc(self, name: str, pattern: str = "/store/(.*)") -> None:
        """Give an SE rules for the LFNs of that pattern."""

        def unit(conn: Connection) -> None:
            found = next(one for one in sites.storage_elements(conn) if one.name == name)
            sites.put_se(conn, replace(found, tfc=tfc(f"/{name}/$1", pattern)))

        self.database.transaction(unit)

    def fill_up(self, name: str) -> None:
        """From now on, what is there and on its way is all that fits: in the books and on the storage."""
        whole = (
            select(block.c.bytes)
            .join_from(block, block_replica)
            .where(block_replica.c.se_id == self.ids[name])
        )
        used = sum(row[0] for row in self.rows(whole))
        full = update(se).where(se.c.id == self.ids[name]).values(space_bytes=used)
        self.database.transaction(lambda conn: conn.execute(full))

    def lose_file(self, name: str, number: int, at: str) -> None:
        """A file of a dataset goes from a storage, unnoticed."""
        self.tool.files.pop(pfn(at, lfn(name, number)), None)

    def spoil_file(self, name: str, number: int, at: str) -> bool:
        """A byte of a file on a storage changes, unnoticed; whether it was there."""
        where = pfn(at, lfn(name, number))
        if where not in self.tool.files:
            return False
        size, adler32 = self.tool.files[where]
        self.tool.put(where, size, adler32 ^ 1)
        return True

    def report_bad(self, name: str, number: int, at: str) -> None:
        """A byte of a file changes, and somebody says so."""
        if not self.spoil_file(name, number, at):
            return

        def unit(conn: Connection) -> None:
            row = bookkeeping.file_by_lfn(conn, lfn(name, number))
            assert row is not None
            bad = {row.id: FileFault.BAD}
            exceptions.add(conn, row.block_id, self.ids[at], bad, self.clock.now(), actor="anna")

        self.database.transaction(unit)

    def heal(self) -> None:
        """All storages and links are well, and there is room for everything."""
        self.tool.failing.clear()
        self.tool.silent.clear()
        self.tool.full.clear()
        lift = [update(quota).values(limit_value=10**18), update(se).values(space_bytes=None)]
        self.database.transaction(lambda conn: [conn.execute(one) for one in lift])

    # --- the agents ------------------------------------------------------------------------------

    def context(self, clock: Any = None) -> Context:
        return Context(
            database=self.database,
            keys=self.keys,
            settings=self.settings,
            bus=MemoryBus(),
            clock=clock or self.clock,
            instance="00000000-0000-0000-0000-000000000001",
        )

    def _agents(self, seed: int) -> list[Agent]:
        tools = {"fake": self.tool}
        router = Router(self.context())
        router._random = random.Random(seed)
        metered = partial(Meter, self.clock, self.tool, streams=4, step_s=self.size.step_s)
        pulling = [TransferAgent(self.context(metered(se=name)), tools) for name in SES]
        return [BlockManager(self.context()), router, *pulling, Deleter(self.context(), tools)]

    def _leases(self) -> dict[str, Lease]:
        names = sorted({own_lease(one.name) for one in self.agents} | {SHARD + name for name in SES})
        names.append(own_lease(Janitor.name))
        keys = self.keys.take("lease", len(names))
        self.database.transaction(partial(leases.create, rows=list(zip(keys, names, strict=True))))
        with self.database.snapshot() as conn:
            rows = leases.read(conn, names)
        owner = Owner("one@here", "elsewhere", "boot", 1, 1)
        taken = self.database.transaction(lambda conn: leases.take(conn, rows, owner, 10**7, []))
        return {one.name: one for one in taken}

    def step(self) -> None:
        """One cycle of each agent; then time goes on."""
        pulling = iter(SES)
        for agent in self.agents:
            name = SHARD + next(pulling) if isinstance(agent, TransferAgent) else own_lease(agent.name)
            self.did.update(agent.cycle({name: self.held[name]}))
        self.clock.advance(self.size.step_s)

    def tidy(self) -> None:
        """The duties of the hour."""
        janitor = Janitor(self.context())
        for agent in (*self.agents, janitor):
            for duty in agent.duties():
                self.did.update(duty.act(self.held[own_lease(agent.name)]))

    def close(self) -> None:
        for agent in self.agents:
            agent.close()

    # --- what people do --------------------------------------------------------------------------

    def produce(self, name: str, at: str, *, first: int, blocks: int, last: bool) -> None:
        """Register closed blocks of a dataset at an SE; with the last ones it is closed."""
        n = blocks * self.size.files
        new = [self._file(name, at, number) for number in range(first, first + n)]
        policy = BlockPolicy(self.size.files, 10**15, 10**6)
        reserved = registration.reserve(self.keys, n)
        key = self.datasets.get(name) or self.keys.one("dataset")

        def unit(conn: Connection) -> int:
            now = self.clock.now()
            found = bookkeeping.create_dataset(conn, key, name, policy, now)
            registration.register(conn, reserved, found, self.ids[at], new, now)
            if last:
                bookkeeping.close_dataset(conn, found, "anna", now)
            return found

        self.datasets[name] = self.database.transaction(unit)

    def _file(self, name: str, at: str, number: int) -> NewFile:
        adler32 = zlib.adler32(lfn(name, number).encode())
        size = self.size.file_bytes - self.random.randrange(self.size.file_bytes // 4)
        self.tool.put(pfn(at, lfn(name, number)), size, adler32)
        return NewFile(lfn=lfn(name, number), bytes=size, adler32=adler32)

    def subscribe(self, name: str, se_name: str, *, decided_by: str | None = "anna", **terms: Any) -> int:
        """A subscription, decided at once unless nobody has; `terms` as of `asking.Order`."""
        key = self.keys.one("subscription")
        who = {"requester": "anna", "group": GROUP}
        order = Order(dataset_id=self.datasets[name], se_id=self.ids[se_name], **who, **terms)
        return self.database.transaction(
            lambda conn: asking.subscribe(conn, key, order, self.clock.now(), decided_by)
        )

    def decide(self, key: int, *, approved: bool) -> None:
        """Somebody of the site says yes or no."""
        self.database.transaction(
            lambda conn: asking.decide(conn, key, "admin", self.clock.now(), approved=approved)
        )

    def block_of(self, name: str) -> int:
        """The first block of a dataset."""
        found = select(block.c.id).where(block.c.dataset_id == self.datasets[name]).order_by(block.c.id)
        return int(self.rows(found.limit(1))[0].id)

    def unsubscribe(self, key: int) -> None:
        """What has arrived stays."""
        self.database.transaction(lambda conn: store.unsubscribe(conn, key, "anna", self.clock.now()))

    def suspend(self, key: int, hours: float) -> None:
        """Move nothing for a while."""
        now = self.clock.now()
        until = now + timedelta(hours=hours)
        self.database.transaction(lambda conn: store.suspend(conn, key, "anna", now, until))

    def delete(self, name: str, se_name: str) -> list[int]:
        """Have all replicas of a dataset away from an SE, but for those that must stay; the deletions."""
        held = (
            select(block_replica.c.block_id)
            .join_from(block_replica, block)
            .where(
                block.c.dataset_id == self.datasets[name],
                block_replica.c.se_id == self.ids[se_name],
                block_replica.c.state == ReplicaState.COMPLETE,
            )
        )
        wanted = [(row[0], self.ids[se_name]) for row in self.rows(held)]
        keys = self.keys.take("deletion", len(wanted))
        window = timedelta(seconds=self.settings.deletion.undelete_s)
        by = Asker("anna", GROUP, decides=True)
        asked = self.database.transaction(
            lambda conn: deletion.ask_all(conn, keys, wanted, by, self.clock.now(), undelete=window)
        )
        return list(asked.ids.values())

    def undelete(self, keys: Sequence[int]) -> None:
        """Take back what has not begun."""
        self.database.transaction(lambda conn: deletion.undo(conn, keys, "anna", self.clock.now()))

    def limit(self, se_name: str, n_bytes: int) -> None:
        """What the group may keep at the SE's site."""
        self._limit(f"space:{site_name(se_name)}:{GROUP}", n_bytes)

    def limit_transit(self, se_name: str, n_bytes: int) -> None:
        """What may pass through the SE at once."""
        self._limit(f"transit:{se_name}", n_bytes)

    def _limit(self, owner: str, n_bytes: int) -> None:
        key = self.keys.one("quota")
        row = {"id": key, "owner": owner, "limit_value": n_bytes, "used_value": 0}
        self.database.transaction(lambda conn: insert_rows(conn, quota, [row]))

    # --- what is seen ----------------------------------------------------------------------------

    def rows(self, statement: Select[Any]) -> list[Any]:
        with self.database.snapshot() as conn:
            return list(conn.execute(statement))

    def broken(self) -> list[Violation]:
        with self.database.snapshot() as conn:
            return violations(conn, INVARIANTS)

    def digest(self) -> str:
        """All that replicas and subscriptions have come to, in one word."""
        columns = [block_replica.c[name] for name in ("block_id", "se_id", "state", "hops", "completed_at")]
        seen = self.rows(select(*columns).order_by(block_replica.c.block_id, block_replica.c.se_id))
        seen += self.rows(select(subscription.c.id, subscription.c.state, subscription.c.code).order_by("id"))
        return hashlib.sha256(repr([tuple(row) for row in seen]).encode()).hexdigest()


def lfn(name: str, number: int) -> str:
    """The name of a file of a dataset."""
    return f"/store/data{name}/f{number}.root"


def pfn(at: str, name: str) -> str:
    """Where an SE keeps an LFN."""
    return f"/{at}/{name.removeprefix('/store/')}"


def site_name(name: str) -> str:
    """T1_A_Tape is at T1_XX_A, T0 at T0_XX_Cern."""
    tier, _, rest = name.partition("_")
    return f"{tier}_XX_{rest.partition('_')[0] or 'Origin'}"


def tfc(result: str, pattern: str = "/store/(.*)") -> str:
    rule = {"protocol": "direct", "path-match": pattern, "result": result}
    return sites.tfc_text({"lfn-to-pfn": [rule], "pfn-to-lfn": []})


def _links() -> Sequence[tuple[str, str, float]]:
    """T0 to the T1s and, from afar, back; these among each other, each to its T2s and back, and to the
    others' from afar."""
    found = [("T0", one, 1.0) for one in T1S] + [(one, "T0", 4.0) for one in T1S]
    found += [(one, other, 1.0) for one in T1S for other in T1S if one != other]
    found += [("T1_A", TAPE, 1.0), (TAPE, "T1_A", 2.0)]
    for region, names in REGIONS.items():
        found += [(region, name, 1.0) for name in names] + [(name, region, 1.0) for name in names]
        found += [(other, name, 4.0) for other in T1S if other != region for name in names]
        found += [(name, other, 4.0) for other in T1S if other != region for name in names]
    return found
