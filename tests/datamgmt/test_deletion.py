"""Deletions: what may go, what stays and why, from the word to the deed, and races for the last copy."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from grids.data_grid import DataGrid
from grids.together import at_once
from sqlalchemy import Connection, select, update

from catalogs import exceptions, recount, replicas
from catalogs.exceptions import FileFault
from catalogs.replicas import Begin
from catalogs.states import ReplicaState
from catalogs.tables import block, block_replica
from datamgmt.deletion_states import DeletionState
from datamgmt.deletions import deletion, removal
from datamgmt.deletions.deletion import Asker, Due
from datamgmt.deletions.hindrances import Terms
from datamgmt.reasons import Reason
from datamgmt.subscriptions import allocating, store
from datamgmt.tables import block_dest
from datamgmt.tables import deletion as deletion_table
from gridcore.db import Database, lock_rows
from gridcore.errors import NotFound

DAY = timedelta(days=1)
LATER = timedelta(minutes=10)
ADMIN = Asker("admin", "site", decides=True)
ANNA = Asker("anna", "physics")


@pytest.fixture
def grid(database: Database) -> DataGrid:
    """Block 1 complete at A, B and C."""
    grid = DataGrid(database, "ABCD")
    grid.link("AB", "AD")
    grid.produce(2)
    for name in "BC":
        copy(grid, name)
    return grid


def copy(grid: DataGrid, name: str) -> None:
    se_id = grid.ids[name]
    grid.do(lambda conn, now: replicas.begin_all(conn, [Begin(1, se_id)], now))
    grid.do(lambda conn, now: replicas.complete_all(conn, {(1, se_id): 1}, now))


def ask(grid: DataGrid, name: str, by: Asker = ADMIN, **options: Any) -> int | Reason:
    """The deletion's id, or why it was refused."""
    (key,) = grid.keys.take("deletion", 1)
    place = 1, grid.ids[name]
    options = {"undelete": DAY, **options}
    asked = grid.do(lambda conn, now: deletion.ask_all(conn, [key], [place], by, now, **options))
    return asked.refused[place][0] if place in asked.refused else asked.ids[place]  # type: ignore[no-any-return]


def carry_out(grid: DataGrid) -> Due:
    return grid.do(lambda conn, now: deletion.carry_out(conn, now, 100, LATER))  # type: ignore[no-any-return]


def states(grid: DataGrid) -> list[tuple[DeletionState, str | None]]:
    table = deletion_table.c
    return [(*row,) for row in grid.rows(select(table.state, table.code).order_by(table.id))]


def test_all_but_the_last_replica_may_go(grid: DataGrid) -> None:
    assert [type(ask(grid, name)) for name in "AB"] == [int, int]
    assert ask(grid, "C") is Reason.LAST_REPLICA
    assert ask(grid, "D") is Reason.ABSENT
    assert carry_out(grid) == Due()
    assert set(grid.replicas().values()) == {ReplicaState.COMPLETE}
    grid.clock.advance(DAY.total_seconds())
    assert carry_out(grid) == Due(begun=2)
    assert grid.replicas() == {
        (1, "A"): ReplicaState.DELETING,
        (1, "B"): ReplicaState.DELETING,
        (1, "C"): ReplicaState.COMPLETE,
    }
    assert states(grid) == [(DeletionState.DELETING, None)] * 2
    assert ask(grid, "B") is Reason.ABSENT
    grid.check()


def test_without_the_right_it_waits_for_a_word(grid: DataGrid) -> None:
    first, second = ask(grid, "A", ANNA), ask(grid, "B", ANNA)
    assert states(grid) == [(DeletionState.ASKED, None)] * 2
    grid.clock.advance(10**6)
    assert carry_out(grid) == Due()
    no = grid.do(lambda conn, now: deletion.deny(conn, [second], "admin", now, "not yet"))
    yes = grid.do(lambda conn, now: deletion.approve(conn, [first, second], "admin", now, undelete=DAY))
    assert (no, yes.done, yes.refused) == ([second], [first], {})
    assert states(grid) == [(DeletionState.APPROVED, None), (DeletionState.DENIED, Reason.DENIED)]
    with pytest.raises(NotFound):
        grid.do(lambda conn, now: deletion.deny(conn, [77], "admin", now))


def test_approval_is_judged_anew(grid: DataGrid) -> None:
    waiting = ask(grid, "A", ANNA)
    for name in "BC":
        ask(grid, name)
    assert states(grid)[1][0] == states(grid)[2][0] == DeletionState.APPROVED
    told = grid.do(lambda conn, now: deletion.approve(conn, [waiting], "admin", now, undelete=DAY))
    assert told.refused == {waiting: (Reason.LAST_REPLICA, {"se": grid.ids["A"]})}
    assert states(grid)[0][0] == DeletionState.ASKED


def test_a_repeat_changes_nothing(grid: DataGrid) -> None:
    first = ask(grid, "A", ANNA, ask_id="one")
    assert ask(grid, "A", ANNA, ask_id="one") == first
    assert ask(grid, "A", ANNA, ask_id="two") == first
    assert ask(grid, "A", ADMIN) == first
    assert states(grid) == [(DeletionState.APPROVED, None)]
    assert grid.do(lambda conn, now: deletion.undo(conn, [first], "anna", now)) == [first]
    assert grid.do(lambda conn, now: deletion.undo(conn, [first], "anna", now)) == []
    assert ask(grid, "A", ANNA, ask_id="one") == first
    third = ask(grid, "A", ANNA, ask_id="three")
    assert third != first
    # The first of this id has ended, another is open: that one it is about.
    assert ask(grid, "A", ANNA, ask_id="one") == third


@pytest.mark.parametrize("later", [True, False])
def test_what_is_open_counts_for_more_than_what_has_ended(grid: DataGrid, later: bool) -> None:
    """Whichever of the two was made first, and is found first."""
    (high, low), place = sorted(grid.keys.take("deletion", 2), reverse=True), (1, grid.ids["A"])
    ended, opened = (low, high) if later else (high, low)
    for key, ask_id in ((ended, "one"), (opened, "two")):
        grid.do(
            lambda conn, now, key=key, ask_id=ask_id: deletion.ask_all(
                conn, [key], [place], ANNA, now, undelete=DAY, ask_id=ask_id
            )
        )
        if key == ended:
            grid.do(lambda conn, now: deletion.deny(conn, [ended], "admin", now))
    fresh = grid.keys.take("deletion", 1)
    again = grid.do(
        lambda conn, now: deletion.ask_all(conn, fresh, [place], ADMIN, now, undelete=DAY, ask_id="one")
    )
    assert (again.ids, again.changed) == ({place: opened}, [opened])


def test_a_repeat_tells_that_it_changed_nothing(grid: DataGrid) -> None:
    places = [(1, grid.ids[name]) for name in "AB"]
    keys = list(grid.keys.take("deletion", 4))

    def order(by: Asker, keys: list[int]) -> list[int]:
        return grid.do(  # type: ignore[no-any-return]
            lambda conn, now: (
                deletion.ask_all(conn, keys, places, by, now, undelete=DAY, ask_id="one").changed
            )
        )

    assert order(ANNA, keys[:2]) == keys[:2]
    assert order(ANNA, keys[2:]) == []
    assert sorted(order(ADMIN, keys[2:])) == keys[:2]
    assert order(ADMIN, keys[2:]) == []


def test_racing_words_leave_one_copy(grid: DataGrid) -> None:
    for _ in range(5):
        answers = at_once(*(lambda name=name: ask(grid, name) for name in "ABC"))
        assert sorted(map(str, map(type, answers)))[:2] == ["<class 'int'>"] * 2
        assert Reason.LAST_REPLICA in answers
        ids = [one for one in answers if isinstance(one, int)]
        grid.do(lambda conn, now, ids=ids: deletion.undo(conn, ids, "admin", now))


def test_racing_deeds_leave_one_copy(grid: DataGrid) -> None:
    """Two deleters, and the router letting go of the third copy."""
    restored = update(block_replica).values(state=ReplicaState.COMPLETE, delete_at=None)
    gone = update(deletion_table).values(state=DeletionState.DELETED)
    third = [(1, grid.ids["C"])]

    def release(conn: Connection, now: datetime) -> int:
        lock_rows(conn, block, [1])
        return deletion.release(conn, third, now)

    for _ in range(5):
        for name in "AB":
            ask(grid, name, undelete=timedelta())
        begun = at_once(
            lambda: carry_out(grid).begun,
            lambda: carry_out(grid).begun,
            lambda: grid.do(release),
        )
        assert sum(begun) == 2
        assert list(grid.replicas().values()).count(ReplicaState.COMPLETE) == 1
        grid.do(lambda conn, _: (conn.execute(restored), conn.execute(gone), recount.mend(conn)))


def test_one_approval_of_two_counts(grid: DataGrid) -> None:
    key = ask(grid, "A", ANNA)

    def approve() -> list[int]:
        return grid.do(  # type: ignore[no-any-return]
            lambda conn, now: deletion.approve(conn, [key], "admin", now, undelete=DAY).done
        )

    assert sorted(at_once(approve, approve)) == [[], [key]]


def test_undo_and_the_deed_exclude_each_other(grid: DataGrid) -> None:
    for _ in range(5):
        key = ask(grid, "A", undelete=timedelta())
        undone, done = at_once(
            lambda key=key: grid.do(lambda conn, now: deletion.undo(conn, [key], "anna", now)),
            lambda: carry_out(grid),
        )
        there = grid.replicas()[1, "A"]
        assert (undone, done.begun, there) in (
            ([key], 0, ReplicaState.COMPLETE),
            ([], 1, ReplicaState.DELETING),
        )
        if there is ReplicaState.DELETING:
            break


def test_a_source_in_use_goes_later(grid: DataGrid) -> None:
    grid.subscribe("D")
    grid.do(lambda conn, now: allocating.allocate_dataset(conn, grid.dataset_id, now))
    grid.do(lambda conn, _: conn.execute(update(block_dest).values(src_se_id=1)))
    for name in "AB":
        ask(grid, name, undelete=timedelta())
    assert carry_out(grid) == Due(begun=1, later=1)
    assert states(grid)[0] == (DeletionState.APPROVED, Reason.SOURCE_IN_USE)
    grid.do(lambda conn, _: conn.execute(update(block_dest).values(src_se_id=None)))
    assert carry_out(grid) == Due()
    grid.clock.advance(LATER.total_seconds())
    assert carry_out(grid) == Due(begun=1)
    assert states(grid)[0] == (DeletionState.DELETING, None)


def test_what_is_subscribed_stays_unless_told(grid: DataGrid) -> None:
    key = grid.subscribe("B")
    assert ask(grid, "B") is Reason.SUBSCRIBED
    assert isinstance(ask(grid, "B", terms=Terms(subscribed_too=True), undelete=timedelta()), int)
    grid.do(lambda conn, now: allocating.allocate_dataset(conn, grid.dataset_id, now))
    assert carry_out(grid) == Due(begun=1)
    assert grid.do(lambda conn, now: allocating.allocate_dataset(conn, grid.dataset_id, now)).changed == 1
    grid.do(lambda conn, now: store.unsubscribe(conn, key, "anna", now))


def test_a_subscription_in_the_meantime_wins(grid: DataGrid) -> None:
    ask(grid, "B", undelete=timedelta())
    grid.subscribe("B")
    assert carry_out(grid) == Due(refused=1)
    assert states(grid) == [(DeletionState.REFUSED, Reason.SUBSCRIBED)]
    assert grid.rows(select(block_replica.c.delete_at).distinct()) == [(None,)]


def test_allocation_looks_again_at_what_goes(grid: DataGrid) -> None:
    """Who subscribes while it is judged is not seen by the judge, and finds the copy still complete."""
    ask(grid, "B", undelete=timedelta())
    grid.do(lambda conn, now: allocating.allocate_dataset(conn, grid.dataset_id, now))
    assert grid.do(lambda conn, _: allocating.unsettled(conn, 9)) == []
    assert carry_out(grid) == Due(begun=1)
    assert grid.do(lambda conn, _: allocating.unsettled(conn, 9)) == [grid.dataset_id]


def test_the_last_custodial_replica_stays_unless_told(grid: DataGrid) -> None:
    custody = {(1, grid.ids[name]): True for name in "AC"}
    grid.do(lambda conn, _: replicas.set_custodial_all(conn, custody))
    assert isinstance(ask(grid, "A"), int)
    assert ask(grid, "C") is Reason.LAST_CUSTODIAL
    assert isinstance(ask(grid, "C", terms=Terms(custodial_too=True), undelete=timedelta()), int)
    assert carry_out(grid) == Due(begun=1)
    grid.clock.advance(DAY.total_seconds())
    assert carry_out(grid) == Due(refused=1)
    assert states(grid)[0] == (DeletionState.REFUSED, Reason.LAST_CUSTODIAL)


def test_the_only_good_copy_of_a_file_stays(grid: DataGrid) -> None:
    def spoil(name: str, file_id: int) -> None:
        fault = {file_id: FileFault.BAD}
        grid.do(lambda conn, now: exceptions.add(conn, 1, grid.ids[name], fault, now))

    spoil("A", 1)
    spoil("B", 2)
    assert isinstance(ask(grid, "C"), int)
    assert ask(grid, "A") is Reason.LAST_OF_FILES
    assert ask(grid, "B") is Reason.LAST_OF_FILES
    grid.do(lambda conn, _: exceptions.clear(conn, 1, grid.ids["B"], [2]))
    assert isinstance(ask(grid, "A"), int)


def test_an_unfinished_copy_is_no_replica_to_delete(grid: DataGrid) -> None:
    grid.do(lambda conn, now: replicas.begin_all(conn, [Begin(1, grid.ids["D"], transit=True)], now))
    assert ask(grid, "D") is Reason.ABSENT
    grid.do(lambda conn, now: deletion.release(conn, [(1, grid.ids["D"])], now))


def test_a_wish_may_name_a_file_nobody_counts_on(grid: DataGrid) -> None:
    def refused(kind: str, subject: str, name: str) -> Reason | None:
        return grid.do(lambda conn, _: removal.refused_wish(conn, kind, subject, grid.ids[name]))  # type: ignore[no-any-return]

    assert refused("lfn", grid.lfn(0), "A") is Reason.REGISTERED
    assert refused("lfn", grid.lfn(0), "D") is None
    assert refused("lfn", "/store/unmerged/other.root", "A") is None
    assert refused("lfn", "/store/../etc/passwd", "A") is Reason.NOT_AN_LFN
    assert refused("dataset", "/a/b/C", "A") is Reason.NOT_AN_LFN
    ask(grid, "A", undelete=timedelta())
    carry_out(grid)
    assert refused("lfn", grid.lfn(0), "A") is None
