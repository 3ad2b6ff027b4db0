"""Subscriptions: blocks and parts, said yes or no to, changed, suspended until; the same order is one."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier

import pytest
from grids.data_grid import DataGrid
from sqlalchemy import select

from catalogs.tables import block
from datamgmt.reasons import Reason
from datamgmt.subscription_states import SubscriptionState as State
from datamgmt.subscriptions import allocating, asking, progress, store
from datamgmt.tables import block_dest, subscription_history
from gridcore.db import Database
from gridcore.errors import Conflict, Denied


@pytest.fixture
def grid(database: Database) -> DataGrid:
    grid = DataGrid(database, "AB")
    grid.link("AB")
    grid.produce(2)
    return grid


def one(grid: DataGrid, key: int) -> store.SubscriptionRow:
    return grid.do(lambda conn, _: store.one(conn, key))  # type: ignore[no-any-return]


def wanted(grid: DataGrid) -> list[int]:
    grid.do(lambda conn, now: allocating.allocate_dataset(conn, grid.dataset_id, now))
    return [row[0] for row in grid.rows(select(block_dest.c.block_id).order_by(block_dest.c.block_id))]


def blocks(grid: DataGrid) -> list[int]:
    return [row[0] for row in grid.rows(select(block.c.id).order_by(block.c.id))]


def history(grid: DataGrid) -> list[tuple[object, ...]]:
    columns = subscription_history.c
    return grid.rows(select(columns.dst, columns.actor, columns.code).order_by(columns.seq))


def test_one_block_all_that_comes_or_what_there_was(grid: DataGrid) -> None:
    grid.clock.advance(10)
    grid.produce(1, first=2)
    first, second = blocks(grid)
    keys = [grid.subscribe("B", block_id=first)]
    assert wanted(grid) == [first]
    keys.append(grid.subscribe("B", block_id=second))
    assert wanted(grid) == [first, second]
    for key in keys:
        grid.do(lambda conn, now, key=key: store.unsubscribe(conn, key, "anna", now))
    assert wanted(grid) == []
    static = grid.subscribe("B", static=True)
    grid.clock.advance(10)
    grid.produce(1, first=3)
    assert wanted(grid) == [first, second]
    grid.do(lambda conn, now: asking.change(conn, static, {"static": 0}, "anna", now))
    assert wanted(grid) == blocks(grid)
    assert len(blocks(grid)) == 3


def test_a_static_one_asked_again_reaches_what_there_is_then(grid: DataGrid) -> None:
    order = {"static": True, "ask_id": "monday"}
    key = grid.subscribe("B", **order)
    assert wanted(grid) == [1]
    made = one(grid, key).created_at
    grid.subscribe("B", static=True, ask_id="tuesday")
    assert (one(grid, key).created_at, len(history(grid))) == (made, 1), "there is nothing newer"
    grid.clock.advance(10)
    grid.produce(1, first=2)
    grid.subscribe("B", **order)
    assert wanted(grid) == [1], "a client that repeats itself asks for nothing new"
    with pytest.raises(Denied, match="without newer blocks"):
        grid.subscribe("B", static=True, ask_id="friday", decided_by=None)
    assert grid.subscribe("B", static=True, ask_id="friday") == key
    assert wanted(grid) == blocks(grid)[:2]
    assert history(grid)[-1] == (State.ACTIVE, "anna", "changed newer blocks")
    grid.clock.advance(10)
    grid.produce(1, first=3)
    grid.subscribe("B", static=True, ask_id="friday")
    assert wanted(grid) == blocks(grid)[:2]
    assert len(blocks(grid)) == 3


def test_one_that_becomes_static_keeps_what_there_is_by_then(grid: DataGrid) -> None:
    key = grid.subscribe("B")
    grid.clock.advance(10)
    grid.produce(1, first=2)
    assert wanted(grid) == blocks(grid)
    grid.do(lambda conn, now: asking.change(conn, key, {"static": 1}, "anna", now))
    assert wanted(grid) == blocks(grid)
    grid.clock.advance(10)
    grid.produce(1, first=3)
    assert wanted(grid) == blocks(grid)[:2]
    assert len(blocks(grid)) == 3


def test_growing_from_a_moment(grid: DataGrid) -> None:
    grid.clock.advance(10)
    grid.subscribe("B", fill_after=grid.clock.now())
    grid.clock.advance(10)
    grid.produce(1, first=2)
    assert wanted(grid) == blocks(grid)[1:]


def test_a_part_is_complete_when_its_blocks_are(grid: DataGrid) -> None:
    at_origin = grid.subscribe("A", block_id=1)
    grid.produce(1, "B", first=2)
    grid.do(progress.review)
    row = one(grid, at_origin)
    assert (row.state, row.params) == (State.COMPLETE, {"complete": 1, "blocks": 1})


def test_an_open_block_is_told(grid: DataGrid) -> None:
    grid.produce(1, first=2, close=False)
    key = grid.subscribe("B", block_id=blocks(grid)[1])
    grid.do(progress.review)
    row = one(grid, key)
    assert (row.state, row.code, row.params["files"]) == (State.ACTIVE, Reason.BLOCK_OPEN, 1)


def test_what_is_asked_waits_for_a_yes(grid: DataGrid) -> None:
    key = grid.subscribe("B", decided_by=None)
    assert (one(grid, key).state, one(grid, key).code) == (State.ASKED, Reason.ASKED)
    assert wanted(grid) == []
    assert grid.do(lambda conn, now: asking.decide(conn, key, "bert", now, approved=True))
    assert not grid.do(lambda conn, now: asking.decide(conn, key, "carl", now, approved=False))
    assert (one(grid, key).state, one(grid, key).decided_by) == (State.ACTIVE, "bert")
    assert wanted(grid) == [1]
    assert history(grid) == [(State.ASKED, "anna", None), (State.ACTIVE, "bert", None)]


def test_a_no_stands_until_it_is_asked_again(grid: DataGrid) -> None:
    key = grid.subscribe("B", decided_by=None)
    grid.do(lambda conn, now: asking.decide(conn, key, "bert", now, approved=False, note="full"))
    row = one(grid, key)
    assert (row.state, row.params) == (State.DENIED, {"actor": "bert", "note": "full"})
    with pytest.raises(Conflict):
        grid.do(lambda conn, now: asking.change(conn, key, {"priority": 1}, "anna", now))
    assert grid.subscribe("B", decided_by=None) == key
    assert one(grid, key).state is State.ASKED


def test_who_decides_approves_by_asking_the_same(grid: DataGrid) -> None:
    key = grid.subscribe("B", decided_by=None)
    assert grid.subscribe("B", decided_by="bert") == key
    assert (one(grid, key).state, one(grid, key).requester) == (State.ACTIVE, "anna")


def test_more_of_what_was_decided_needs_a_decision(grid: DataGrid) -> None:
    key = grid.subscribe("B", priority=2)
    assert grid.subscribe("B", priority=1, decided_by=None) == key
    with pytest.raises(Denied):
        grid.subscribe("B", custodial=True, decided_by=None)
    assert not one(grid, key).custodial


def test_the_same_order_again_changes_nothing(grid: DataGrid) -> None:
    order = {"custodial": True, "priority": 3, "move": True, "comments": "now", "ask_id": "x"}
    grid.subscribe("B", **order)
    wanted(grid)
    before = grid.rows(select(subscription_history)), grid.rows(select(block_dest))
    grid.subscribe("B", **order)
    assert wanted(grid) == [1]
    assert (grid.rows(select(subscription_history)), grid.rows(select(block_dest))) == before


def test_approved_twice_at_once_is_approved_once(grid: DataGrid) -> None:
    key, barrier = grid.subscribe("B", decided_by=None), Barrier(2)

    def say(by: str) -> bool:
        barrier.wait()
        return grid.database.transaction(
            lambda conn: asking.decide(conn, key, by, grid.clock.now(), approved=True)
        )

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(say, ("bert", "carl"))) == [False, True]
    assert [row[0] for row in history(grid)] == [State.ASKED, State.ACTIVE]


def test_what_is_suspended_until_a_moment_goes_on_by_itself(grid: DataGrid) -> None:
    key = grid.subscribe("B", suspended_until=grid.clock.now() + timedelta(hours=1))
    assert (one(grid, key).state, wanted(grid)) == (State.SUSPENDED, [])
    assert not grid.do(store.resumable)
    grid.clock.advance(3601)
    assert grid.do(store.resume_due) == 1
    assert (one(grid, key).state, one(grid, key).suspended_until) == (State.ACTIVE, None)
    assert wanted(grid) == [1]
    until = grid.clock.now() + timedelta(hours=2)
    assert grid.do(lambda conn, now: store.suspend(conn, key, "bert", now, until))
    assert one(grid, key).params == {"id": key, "actor": "bert", "until": until.isoformat()}


def test_a_change_is_written_down_and_reaches_what_is_wanted(grid: DataGrid) -> None:
    key = grid.subscribe("B")
    wanted(grid)
    values = {"priority": 7, "custodial": 1, "acct_group": "physics"}
    assert grid.do(lambda conn, now: asking.change(conn, key, values, "bert", now)) == [
        "custodial",
        "priority",
    ]
    wanted(grid)
    assert grid.rows(select(block_dest.c.priority, block_dest.c.custodial)) == [(7, 1)]
    assert history(grid)[-1] == (State.ACTIVE, "bert", "changed custodial, priority")


def test_large_datasets_are_allocated_by_slices(grid: DataGrid) -> None:
    for number in range(4):
        grid.produce(1, first=2 + number)
    grid.subscribe("B")

    def slice_after(after: int) -> allocating.Allocated:
        return grid.do(  # type: ignore[no-any-return]
            lambda conn, now: allocating.allocate_dataset(conn, grid.dataset_id, now, after, n=2)
        )

    after, changed = 0, []
    while not changed or after:
        done = slice_after(after)
        after = done.after
        changed.append(done.changed)
    assert changed == [2, 2, 1]
    assert grid.do(lambda conn, _: allocating.unsettled(conn, 9)) == [grid.dataset_id]
    assert slice_after(0) == allocating.Allocated(0)
    assert grid.do(lambda conn, _: allocating.unsettled(conn, 9)) == []
