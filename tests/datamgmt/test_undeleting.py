"""Deletions taken back, and deletions against copies that begin there: nothing is lost in between."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

from grids.data_grid import DataGrid
from grids.together import at_once
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from sqlalchemy import select, update

from catalogs import recount, replicas
from catalogs.replicas import Begin
from catalogs.states import ReplicaState
from catalogs.tables import block_replica, holding, se_use
from datamgmt.deletion_states import DeletionState
from datamgmt.deletions import deletion
from datamgmt.deletions.deletion import Asker
from datamgmt.links import linkstates
from datamgmt.reasons import Reason
from datamgmt.routing import hops, rerouting, routes
from datamgmt.subscriptions import allocating
from datamgmt.tables import block_dest
from datamgmt.tables import deletion as deletion_table
from gridcore.db import Database

LATER = timedelta(minutes=10)
HOUR = timedelta(hours=1)
ADMIN = Asker("admin", "site", decides=True)
ANNA = Asker("anna", "physics")
NAMES = "ABC"


def copy(grid: DataGrid, name: str) -> None:
    se_id = grid.ids[name]
    grid.do(lambda conn, now: replicas.begin_all(conn, [Begin(1, se_id)], now))
    grid.do(lambda conn, now: replicas.complete_all(conn, {(1, se_id): 1}, now))


class Undeleting(RuleBasedStateMachine):
    """Block 1 at three storage elements; words and deeds in any order."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.grid = DataGrid(Database(url), NAMES)
        self.grid.produce(2)
        for name in "BC":
            copy(self.grid, name)
        self.original = self.rows(block_replica)
        self.counted = self.rows(holding), self.rows(se_use)

    def teardown(self) -> None:
        self.grid.database.close()

    def rows(self, table: Any) -> list[dict[str, Any]]:
        with self.grid.database.snapshot() as conn:
            return [dict(row._mapping) for row in conn.execute(select(table).order_by(*table.primary_key))]

    def ids(self, *states: DeletionState) -> list[int]:
        return [row["id"] for row in self.rows(deletion_table) if row["state"] in states]

    @rule(name=st.sampled_from(NAMES), by=st.sampled_from((ADMIN, ANNA)), hours=st.integers(0, 2))
    def ask(self, name: str, by: Asker, hours: int) -> None:
        (key,) = self.grid.keys.take("deletion", 1)
        place = 1, self.grid.ids[name]
        self.grid.do(lambda conn, now: deletion.ask_all(conn, [key], [place], by, now, undelete=hours * HOUR))

    @rule(of=st.integers(0, 9), yes=st.booleans())
    def decide(self, of: int, yes: bool) -> None:
        asked = self.ids(DeletionState.ASKED)
        chosen = asked[of % len(asked) :][:1] if asked else []
        if yes:
            self.grid.do(lambda conn, now: deletion.approve(conn, chosen, "admin", now, undelete=HOUR))
        else:
            self.grid.do(lambda conn, now: deletion.deny(conn, chosen, "admin", now))

    @rule(of=st.integers(0, 9))
    def undo(self, of: int) -> None:
        known = self.ids(*DeletionState)
        chosen = known[of % len(known) :][:1] if known else []
        self.grid.do(lambda conn, now: deletion.undo(conn, chosen, "anna", now))

    @rule(hours=st.integers(1, 3))
    def wait(self, hours: int) -> None:
        self.grid.clock.advance(hours * 3600)

    @rule()
    def carry_out(self) -> None:
        self.grid.do(lambda conn, now: deletion.carry_out(conn, now, 100, LATER))

    @rule()
    def undo_all(self) -> None:
        """What has not begun is as it was before anybody asked; where nothing has, everything is."""
        for key in self.ids(DeletionState.APPROVED):
            self.grid.do(lambda conn, now, key=key: deletion.undo(conn, [key], "anna", now))
        now = self.rows(block_replica)
        assert all(one in self.original for one in now if one["state"] is ReplicaState.COMPLETE)
        if not self.ids(DeletionState.DELETING):
            assert now == self.original
            assert (self.rows(holding), self.rows(se_use)) == self.counted

    @invariant()
    def what_is_to_go_is_marked_and_nothing_else(self) -> None:
        due = {
            (row["block_id"], row["se_id"]): row["due_at"]
            for row in self.rows(deletion_table)
            if row["state"] is DeletionState.APPROVED
        }
        for old, one in zip(self.original, self.rows(block_replica), strict=True):
            assert one["delete_at"] == due.get((one["block_id"], one["se_id"]))
            if one["state"] is ReplicaState.COMPLETE:
                assert {**one, "delete_at": None} == old
        left = [one for one in self.rows(block_replica) if one["state"] is ReplicaState.COMPLETE]
        assert len(left) - len(due) >= 1
        self.grid.check()


def test_what_is_undone_in_time_is_as_it_was(sqlite_template: Path, tmp_path: Path) -> None:
    numbers = iter(range(10**6))

    def fresh() -> Undeleting:
        path = tmp_path / f"{next(numbers)}.db"
        shutil.copy(sqlite_template, path)
        return Undeleting(f"sqlite:///{path}")

    run_state_machine_as_test(
        fresh, settings=settings(max_examples=25, stateful_step_count=20, deadline=None)
    )


def test_a_copy_begins_there_or_it_goes_and_never_both(database: Database) -> None:
    """The router has chosen a source, and the deleter's time has come, at the same moment."""
    grid = DataGrid(database, "ABD")
    grid.link("AD")
    grid.produce(2)
    copy(grid, "B")
    grid.subscribe("D")
    grid.do(lambda conn, now: allocating.allocate_dataset(conn, grid.dataset_id, now))
    a, d = grid.ids["A"], grid.ids["D"]
    policies = linkstates.policies(grid.settings)
    for _ in range(6):
        at = grid.clock.now()
        with grid.database.snapshot() as conn:
            seen = routes.view(conn, routes.due(conn, at), linkstates.views(conn))
        changes = hops.decide(seen, at, policies, lambda: 0.5)
        assert changes.words[1, d].src == a
        (key,) = grid.keys.take("deletion", 1)
        grid.do(
            lambda conn, now, key=key: deletion.ask_all(
                conn, [key], [(1, a)], ADMIN, now, undelete=timedelta()
            )
        )
        due, _ = at_once(
            lambda: grid.do(lambda conn, now: deletion.carry_out(conn, now, 10, LATER)),
            lambda changes=changes: grid.do(lambda conn, now: rerouting.apply(conn, changes, now)),
        )
        goes = grid.replicas()[1, "A"] is ReplicaState.DELETING
        hop = select(block_dest.c.src_se_id, block_dest.c.valid_until <= grid.clock.now())
        ((src, looked_at_again),) = grid.rows(hop)
        assert (due.begun, due.later) == ((1, 0) if goes else (0, 1))
        assert src == (None if goes else a)
        assert looked_at_again
        grid.do(lambda conn, now: _begin_anew(conn, a, now))


def _begin_anew(conn: Any, se_id: int, now: Any) -> None:
    put = {"state": ReplicaState.COMPLETE, "delete_at": None}
    conn.execute(update(block_replica).where(block_replica.c.se_id == se_id).values(put))
    conn.execute(update(deletion_table).values(state=DeletionState.DELETED))
    conn.execute(update(block_dest).values(src_se_id=None, path=None, code=Reason.ALLOCATED, valid_until=now))
    recount.mend(conn)
