"""The data half under whatever people and faults do, in any order: nothing is lost, nothing miscounted, and
once all is well everything ends."""

from __future__ import annotations

import shutil
import zlib
from datetime import timedelta
from pathlib import Path
from typing import Any

from grids.data_grid import DataGrid, content
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from sqlalchemy import and_, select, update

from catalogs import exceptions, recount, sites, validity
from catalogs.exceptions import FileFault
from catalogs.states import BlockState, InvalidCode, ReplicaState, Switch
from catalogs.tables import block, block_replica, data_file, file_exception, invalid_file
from datamgmt.deletion_states import DeletionState
from datamgmt.deletions import deletion
from datamgmt.deletions.deletion import Asker
from datamgmt.subscription_states import SubscriptionState
from datamgmt.subscriptions import store
from datamgmt.tables import block_dest, subscription, transfer
from datamgmt.tables import deletion as deletion_table
from datamgmt.tools.fake import FakeTool
from gridapp import quotas
from gridapp.invariants import INVARIANTS
from gridcore.db import Database
from gridcore.db.invariants import violations
from gridcore.tables import quota

NAMES = "ABCD"
LINKS = tuple(src + dst for src in NAMES for dst in NAMES if src != dst)
KINDS = ("block_manager", "router", "transfer_agent", "deleter")
UNDELETE = timedelta(seconds=20)
ADMIN = Asker("admin", "physics", decides=True)
ENDED = (SubscriptionState.COMPLETE, SubscriptionState.REMOVED, SubscriptionState.DENIED)
#: Rounds in which all must end once nothing fails.
ROUNDS = 200
PLACES = st.sampled_from(NAMES)
ANY = st.integers(0, 50)


class AnyOrder(RuleBasedStateMachine):
    """One dataset at four storage elements, in a row at first, with its agents."""

    def __init__(self, url: str) -> None:
        super().__init__()
        times = {"subscription.move_grace_s": 5, "repair.lost_after_s": 30}
        self.grid = DataGrid(Database(url), NAMES, **{"transfer.workers": 0, **times})
        self.grid.tool = FakeTool(fail=0.1, corrupt=0.1)
        self.grid.tools = {"fake": self.grid.tool}
        self.grid.link(*LINKS)
        self.worker = self.grid.worker(kinds=KINDS)
        self.numbers: dict[int, int] = {}
        self.excused: set[int] = set()
        """Files that may be lost, for somebody has made away with one or said that nobody shall read it."""
        self.spoilt: set[tuple[int, str]] = set()

    @initialize()
    def begin(self) -> None:
        for number, (owner, n) in enumerate((("space:T2_XX_C:physics", 150), ("transit:T2_B", 120)), 1):
            self.grid.do(lambda conn, _, key=number, of=owner, n=n: quotas.put(conn, key, of, n))
        for pair in set(LINKS) - {"AB", "BC", "CB", "CD", "DC"}:
            self.switch(pair, Switch.DISABLED)
        self.register(2, "A", True)
        self.subscribe("D", 0, {})

    def teardown(self) -> None:
        try:
            if self.numbers:
                self.end()
        finally:
            self.worker.close()
            self.grid.database.close()

    # --- what people do --------------------------------------------------------------------------

    @rule(n=st.integers(1, 3), at=st.sampled_from("AB"), close=st.booleans())
    def register(self, n: int, at: str, close: bool) -> None:
        first = len(self.numbers)
        if first < 15:
            ids = self.grid.produce(n, at, first=first, close=close)
            self.numbers |= dict(zip(ids, range(first, first + n), strict=True))

    @rule(
        name=PLACES,
        of=ANY,
        terms=st.fixed_dictionaries(
            {}, optional={name: st.just(True) for name in ("custodial", "move", "static")}
        ),
    )
    def subscribe(self, name: str, of: int, terms: dict[str, bool]) -> None:
        """The dataset, or a block of it."""
        closed = self.ids(select(block.c.id).where(block.c.state == BlockState.CLOSED))
        block_id = closed[of % len(closed)] if closed and of % 3 == 0 else 0
        self.grid.subscribe(name, block_id=block_id, priority=of % 2, **terms)

    @rule(of=ANY, act=st.sampled_from(("unsubscribe", "suspend", "resume")))
    def change(self, of: int, act: str) -> None:
        for key in self.one(select(subscription.c.id), of):
            self.grid.do(lambda conn, now, key=key: getattr(store, act)(conn, key, "anna", now))

    @rule(name=PLACES, of=ANY)
    def delete(self, name: str, of: int) -> None:
        here = select(block_replica.c.block_id).where(block_replica.c.se_id == self.grid.ids[name])
        for block_id in self.one(here, of):
            place, key = (block_id, self.grid.ids[name]), self.grid.keys.one("deletion")
            self.grid.do(
                lambda conn, now, place=place, key=key: deletion.ask_all(
                    conn, [key], [place], ADMIN, now, undelete=UNDELETE
                )
            )

    @rule(of=ANY)
    def undelete(self, of: int) -> None:
        approved = select(deletion_table.c.id).where(deletion_table.c.state == DeletionState.APPROVED)
        for key in self.one(approved, of):
            self.grid.do(lambda conn, now, key=key: deletion.undo(conn, [key], "anna", now))

    @rule(of=ANY, well=st.booleans())
    def judge(self, of: int, well: bool) -> None:
        """Somebody says that a file is, or is not, to be read."""
        for key in self.one(select(data_file.c.id), of):
            if well:
                self.grid.do(lambda conn, now, key=key: validity.revalidate(conn, [key], "anna", now))
            else:
                self.excused.add(key)
                self.grid.do(
                    lambda conn, now, key=key: validity.invalidate(
                        conn, [key], InvalidCode.INVALID, "anna", now
                    )
                )

    # --- what fails ------------------------------------------------------------------------------

    @rule(name=PLACES, of=ANY)
    def report_bad(self, name: str, of: int) -> None:
        """A copy of which there is another good one."""
        good = self.good()
        here = [key for key in sorted(good) if name in good[key] and len(good[key]) > 1]
        if here:
            key = here[of % len(here)]
            self._spoil(key, name)
            block_id = self.ids(select(data_file.c.block_id).where(data_file.c.id == key))[0]
            bad = {key: FileFault.BAD}
            self.grid.do(lambda conn, now: exceptions.add(conn, block_id, self.grid.ids[name], bad, now))

    @rule(name=PLACES, of=ANY)
    def spoil(self, name: str, of: int) -> None:
        """A copy, and nobody knows."""
        good = self.good()
        here = [key for key in sorted(good) if name in good[key]]
        if here:
            key = here[of % len(here)]
            self.excused.add(key)
            self._spoil(key, name)

    def _spoil(self, key: int, name: str) -> None:
        self.spoilt.add((key, name))
        self.grid.tool.put(self.pfn(key, name), 1, 1)

    @rule(pair=st.sampled_from(LINKS), state=st.sampled_from(Switch))
    def switch(self, pair: str, state: Switch) -> None:
        src, dst = (self.grid.ids[name] for name in pair)
        self.grid.do(lambda conn, _: sites.set_link_state(conn, 100 * src + dst, state, "by hand"))

    @rule(name=PLACES)
    def silence(self, name: str) -> None:
        """A storage answers no more, or again."""
        self.grid.tool.silent ^= {f"{self.grid.root}/{name}/"}

    # --- what agents do --------------------------------------------------------------------------

    @rule(kind=st.sampled_from(KINDS))
    def cycle(self, kind: str) -> None:
        self.worker.take()
        self.worker.cycle(kind)
        self.grid.clock.advance(1)

    @rule(rounds=st.integers(1, 3), step_s=st.sampled_from((1, 15)))
    def work(self, rounds: int, step_s: int) -> None:
        for _ in range(rounds):
            for kind in KINDS:
                self.cycle(kind)
            self.grid.clock.advance(step_s)
            self.repair()

    def repair(self) -> None:
        manager: Any = self.worker.agents["block_manager"]
        lease = self.worker.held["agent/block_manager"]
        manager.repair(lease)
        manager.stir(lease)

    # --- what is always so -----------------------------------------------------------------------

    @invariant()
    def all_invariants_hold(self) -> None:
        with self.grid.database.snapshot() as conn:
            assert violations(conn, INVARIANTS) == []
            assert recount.drift(conn) == {}
        above = select(quota.c.owner).where(quota.c.used_value > quota.c.limit_value)
        assert self.grid.rows(above) == []

    @invariant()
    def no_file_is_lost(self) -> None:
        """Each has a good copy that the catalogue knows, and where it knows one there is one."""
        good = self.good()
        assert good.keys() >= self.numbers.keys() - self.excused

    def good(self) -> dict[int, set[str]]:
        """By file, where the catalogue says that it is and it is."""
        fault = and_(
            file_exception.c.file_id == data_file.c.id, file_exception.c.se_id == block_replica.c.se_id
        )
        said = (
            select(data_file.c.id, block_replica.c.se_id)
            .join_from(data_file, block_replica, block_replica.c.block_id == data_file.c.block_id)
            .outerjoin(file_exception, fault)
            .where(block_replica.c.state == ReplicaState.COMPLETE, file_exception.c.file_id.is_(None))
        )
        found: dict[int, set[str]] = {}
        for key, se_id in self.grid.rows(said):
            name, data = NAMES[se_id - 1], content(self.numbers[key])
            if self.grid.tool.files.get(self.pfn(key, name)) == (len(data), zlib.adler32(data)):
                found.setdefault(key, set()).add(name)
            else:
                assert (key, name) in self.spoilt
        return found

    def end(self) -> None:
        """Nothing fails any more and there is room: all that was asked for comes to an end."""
        self.grid.tool._fail = self.grid.tool._corrupt = 0.0
        self.grid.tool.silent.clear()
        for pair in LINKS:
            self.switch(pair, Switch.ENABLED)
        self.grid.do(lambda conn, _: conn.execute(update(quota).values(limit_value=10**9)))
        self.register(1, "A", True)
        for key in self.ids(select(subscription.c.id)):
            self.grid.do(lambda conn, now, key=key: store.resume(conn, key, "anna", now))
        for _ in range(ROUNDS):
            if not self.left():
                return
            self.work(1, 60)
            self.all_invariants_hold()
            self.no_file_is_lost()
        assert self.left() == []

    def left(self) -> list[Any]:
        """What is not over."""
        going = select(block_replica).where(block_replica.c.state != ReplicaState.COMPLETE)
        live = select(subscription).where(subscription.c.state.not_in(ENDED))
        faults = select(file_exception).where(file_exception.c.file_id.not_in(select(invalid_file.c.file_id)))
        nothing = (going, live, faults, select(block_dest), select(transfer))
        return [row for statement in nothing for row in self.grid.rows(statement)]

    # --- shorthands ------------------------------------------------------------------------------

    def ids(self, statement: Any) -> list[int]:
        return sorted(key for (key,) in self.grid.rows(statement))

    def one(self, statement: Any, of: int) -> list[int]:
        """One of them, where there is any."""
        found = self.ids(statement)
        return [found[of % len(found)]] if found else []

    def pfn(self, key: int, name: str) -> str:
        return self.grid.pfn(name, self.grid.lfn(self.numbers[key]))


def test_whatever_happens_nothing_is_lost_and_all_ends(sqlite_template: Path, tmp_path: Path) -> None:
    numbers = iter(range(10**6))

    def fresh() -> AnyOrder:
        path = tmp_path / f"{next(numbers)}.db"
        shutil.copy(sqlite_template, path)
        return AnyOrder(f"sqlite:///{path}")

    patient = [HealthCheck.too_slow, HealthCheck.data_too_large]
    run_state_machine_as_test(
        fresh,
        settings=settings(
            max_examples=6, stateful_step_count=30, suppress_health_check=patient, deadline=None
        ),
    )
