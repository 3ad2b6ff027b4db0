"""Moves whatever comes in between: other wishes, new blocks, deletions, agents that die at any step.

A source goes only when its target has the block for good, no block is ever without a copy, and counters of
space and quota equal what they count, copies in flight and in transit included.
"""

from __future__ import annotations

import shutil
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from grids.data_grid import KINDS, DataGrid, Worker, content
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from sqlalchemy import Connection, select

from catalogs import bookkeeping, replicas
from catalogs.invariants import INVARIANTS
from catalogs.replicas import Begin
from catalogs.states import BlockState, ReplicaState
from catalogs.tables import block, block_replica, se_use
from datamgmt.deletion_states import DeletionState
from datamgmt.deletions import deletion
from datamgmt.reasons import Reason
from datamgmt.subscription_states import SubscriptionState
from datamgmt.subscriptions import line, store
from datamgmt.tables import block_dest, subscription
from datamgmt.tables import deletion as deletion_table
from gridapp import quotas as limits
from gridcore.db import Database
from gridcore.db.invariants import violations
from gridcore.errors import Conflict

#: B is reached through D alone, so that copies pass there.
NAMES, LINKS = "ABCD", ("AC", "AD", "DB", "BD", "CA", "CD", "DC")
COPY = tuple[int, int]


class Moving(RuleBasedStateMachine):
    """One dataset that grows at A; `here` are the complete copies as last seen."""

    def __init__(self, url: str) -> None:
        super().__init__()
        none = {"subscription.move_grace_s": 0, "deletion.undelete_s": 0, "transfer.workers": 0}
        self.grid = DataGrid(Database(url), NAMES, **none)
        self.grid.link(*LINKS)
        for owner, limit in (("transit:T2_D", 2000), ("space:T2_XX_C:physics", 40)):
            key = self.grid.keys.one("quota")
            self.grid.do(lambda conn, _, key=key, of=owner, n=limit: limits.put(conn, key, of, n))
        self.worker = self.successor(0)
        self.lives = self.files = 0
        self.here: set[COPY] = set()
        self.produce(2)
        self.produce(2)
        self.lie("D")

    def teardown(self) -> None:
        """Nothing was lost on the way: what was asked for is there, and each move that can be is over."""
        self.grid.do(lambda conn, now: bookkeeping.close_dataset(conn, self.grid.dataset_id, "anna", now))
        self.worker.run(rounds=80, step_s=20.0)
        with self.grid.database.snapshot() as conn:
            rows = store.subscriptions(conn)
        for row in rows:
            if row.state is SubscriptionState.ACTIVE:
                assert row.code == Reason.QUOTA_FULL, "all else is there"
            assert not (row.move and row.state is SubscriptionState.COMPLETE), "it is not over"
        self.worker.close()
        self.grid.database.close()

    def successor(self, number: int) -> Worker:
        worker = self.grid.worker(f"w{number}")
        worker.take(from_the_dead=True)
        return worker

    # --- people ---

    @rule(n=st.integers(1, 3))
    def produce(self, n: int) -> None:
        self.grid.produce(n, first=self.files)
        self.files += n

    @rule(
        name=st.sampled_from(NAMES),
        source=st.sampled_from((None, None, "A", "C")),
        static=st.sampled_from((True, True, False)),
    )
    def move(self, name: str, source: str | None, static: bool) -> None:
        start = None if source in (None, name) else self.grid.ids[str(source)]
        try:
            self.grid.subscribe(name, move=True, move_from=start, static=static, priority=1)
        except Conflict:
            assert start is not None, "only a move from elsewhere is refused"

    @rule(name=st.sampled_from(NAMES))
    def subscribe(self, name: str) -> None:
        self.grid.subscribe(name)

    @rule(name=st.sampled_from("BCD"))
    def lie(self, name: str) -> None:
        """Copies nobody asks for lie there, of what is neither there nor to come."""
        for number in range(self.files):
            lfn, data = self.grid.lfn(number), content(number)
            self.grid.store(self.grid.pfn(name, lfn), data)
        se_id = self.grid.ids[name]
        taken = {
            row[0]
            for table in (block_replica, block_dest)
            for row in self.grid.rows(select(table.c.block_id).where(table.c.se_id == se_id))
        }
        closed = select(block.c.id).where(block.c.state == BlockState.CLOSED).order_by(block.c.id)
        new = [row[0] for row in self.grid.rows(closed) if row[0] not in taken]

        def unit(conn: Connection, now: datetime) -> None:
            replicas.begin_all(conn, [Begin(one, se_id) for one in new], now)
            replicas.complete_all(conn, {(one, se_id): 1 for one in new}, now)

        self.grid.do(unit)

    @rule(place=st.integers(0, 5))
    def end(self, place: int) -> None:
        with self.grid.database.snapshot() as conn:
            rows = store.subscriptions(conn)
        if rows:
            key = rows[place % len(rows)].id
            self.grid.do(lambda conn, now: store.unsubscribe(conn, key, "anna", now))

    @rule()
    def approve(self) -> None:
        """Who decides lets go what moves have asked away."""
        asked = select(deletion_table.c.id).where(deletion_table.c.state == DeletionState.ASKED)
        ids = [row[0] for row in self.grid.rows(asked)]
        self.grid.do(lambda conn, now: deletion.approve(conn, ids, "admin", now, undelete=timedelta()))

    # --- agents ---

    @rule(kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=4), step_s=st.sampled_from((0, 1, 60)))
    def work(self, kinds: list[str], step_s: int) -> None:
        self.worker.take()
        for kind in kinds:
            self.worker.cycle(kind)
            self.no_block_is_without_a_copy()
        self.grid.clock.advance(step_s)

    @rule()
    def run(self) -> None:
        for _ in range(4):
            self.grid.do(lambda conn, _: bookkeeping.unsettle(conn, line.ready(conn)))
            self.work(list(KINDS), 1)
            self.approve()

    @rule()
    def die(self) -> None:
        """All agents die, and others go on with what they find."""
        self.lives += 1
        self.worker = self.successor(self.lives)

    # --- what holds ---

    @invariant()
    def no_block_is_without_a_copy(self) -> None:
        closed = {
            row[0] for row in self.grid.rows(select(block.c.id).where(block.c.state == BlockState.CLOSED))
        }
        now = self._complete()
        assert closed <= {key[0] for key in now}
        self._sources_went_after_their_targets_had_come(self.here - now, now)
        self.here = now

    @invariant()
    def what_is_counted_is_there(self) -> None:
        self.grid.check()
        with self.grid.database.snapshot() as conn:
            assert violations(conn, INVARIANTS) == []
        used = select(se_use.c.complete_bytes, se_use.c.arriving_bytes, se_use.c.leaving_bytes)
        assert all(n >= 0 for row in self.grid.rows(used) for n in row)

    def _complete(self) -> set[COPY]:
        keys = select(block_replica.c.block_id, block_replica.c.se_id)
        rows = self.grid.rows(keys.where(block_replica.c.state == ReplicaState.COMPLETE))
        return {(row[0], row[1]) for row in rows}

    def _sources_went_after_their_targets_had_come(self, gone: set[COPY], now: set[COPY]) -> None:
        columns = (deletion_table.c[name] for name in ("block_id", "se_id", "ask_id"))
        asked = self.grid.rows(select(*columns).where(deletion_table.c.ask_id.startswith("move/")))
        targets = dict(self.grid.rows(select(subscription.c.id, subscription.c.se_id)))
        for block_id, se_id, ask_id in asked:
            if (block_id, se_id) in gone:
                assert (block_id, targets[int(ask_id.removeprefix("move/"))]) in now


def test_moves_lose_nothing_and_come_to_an_end(sqlite_template: Path, tmp_path: Path) -> None:
    numbers = iter(range(10**6))

    def fresh() -> Any:
        path = tmp_path / f"{next(numbers)}.db"
        shutil.copy(sqlite_template, path)
        return Moving(f"sqlite:///{path}")

    run_state_machine_as_test(
        fresh, settings=settings(max_examples=10, stateful_step_count=12, deadline=None)
    )


def test_a_move_that_cannot_end_lets_nothing_go(sqlite_template: Path, tmp_path: Path) -> None:
    """The quota at the target admits one block of two, and the agents die on the way."""
    shutil.copy(sqlite_template, tmp_path / "grid.db")
    moving = Moving(f"sqlite:///{tmp_path / 'grid.db'}")
    before = {key for key in moving.grid.replicas() if key[1] in "AD"}
    moving.move("C", None, True)
    for _ in range(3):
        moving.run()
        moving.die()
    assert {key for key in moving.grid.replicas() if key[1] in "AD"} == before
    assert {key for key in moving.grid.replicas() if key[1] == "C"} == {(min(before)[0], "C")}
    key = moving.grid.keys.one("quota")
    moving.grid.do(lambda conn, _: limits.put(conn, key, "space:T2_XX_C:physics", 10**6))
    for _ in range(3):
        moving.die()
        moving.run()
    assert {name for _, name in moving.grid.replicas()} == {"C"}
    moving.teardown()
