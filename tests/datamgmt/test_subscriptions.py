"""Subscriptions: idempotent making, states that follow the blocks, ending and beginning anew, wishes."""

from __future__ import annotations

import pytest
from grids.data_grid import DataGrid
from sqlalchemy import select, update

from catalogs import wishes
from catalogs.states import WishState
from catalogs.tables import wish
from datamgmt.reasons import Reason
from datamgmt.subscription_states import SubscriptionState
from datamgmt.subscriptions import allocating, deliveries, progress, store
from datamgmt.tables import block_dest, subscription_history, transfer
from gridcore.db import Database
from gridcore.errors import NotFound


@pytest.fixture
def grid(database: Database) -> DataGrid:
    grid = DataGrid(database, "AB")
    grid.link("AB")
    grid.produce(2)
    return grid


def only(grid: DataGrid) -> store.SubscriptionRow:
    (row,) = grid.do(lambda conn, _: store.subscriptions(conn))
    return row  # type: ignore[no-any-return]


def history(grid: DataGrid) -> list[tuple[object, ...]]:
    columns = subscription_history.c
    return grid.rows(select(columns.frm, columns.dst, columns.actor).order_by(columns.seq))


def test_subscribing_twice_is_one_subscription_and_only_ever_asks_for_more(grid: DataGrid) -> None:
    first = grid.subscribe("B", priority=3)
    assert grid.subscribe("B", custodial=True, priority=1) == first
    assert (only(grid).custodial, only(grid).priority) == (True, 3)
    active = SubscriptionState.ACTIVE
    assert history(grid) == [(None, active, "anna"), (active, active, "anna")]


def test_the_state_follows_the_blocks(grid: DataGrid) -> None:
    at_origin = grid.subscribe("A")
    assert grid.do(progress.review) == 1
    assert (only(grid).state, only(grid).params) == (SubscriptionState.COMPLETE, {"complete": 1, "blocks": 1})
    assert grid.do(progress.review) == 0
    grid.produce(1, "B", first=2)
    assert grid.do(lambda conn, now: progress.review_dataset(conn, grid.dataset_id, now)) == 1
    assert (only(grid).state, only(grid).code) == (SubscriptionState.ACTIVE, Reason.DELIVERING)
    grid.do(lambda conn, now: store.suspend(conn, at_origin, "bert", now))
    assert grid.do(progress.review) == 0
    assert [row[1] for row in history(grid)] == ["ACTIVE", "COMPLETE", "ACTIVE", "SUSPENDED"]


def test_a_dataset_without_closed_blocks_is_not_delivered(database: Database) -> None:
    grid = DataGrid(database, "A")
    grid.produce(1, close=False)
    grid.subscribe("A")
    grid.do(progress.review)
    assert (only(grid).state, only(grid).code) == (SubscriptionState.ACTIVE, Reason.NO_CLOSED_BLOCK)


def test_an_ended_subscription_begins_anew(grid: DataGrid) -> None:
    key = grid.subscribe("B", priority=5)
    assert grid.do(lambda conn, now: store.unsubscribe(conn, key, "anna", now))
    assert not grid.do(lambda conn, now: store.unsubscribe(conn, key, "anna", now))
    assert only(grid).state is SubscriptionState.REMOVED
    assert grid.subscribe("B") == key
    assert (only(grid).state, only(grid).priority) == (SubscriptionState.ACTIVE, 0)


def test_suspending_and_resuming(grid: DataGrid) -> None:
    key = grid.subscribe("B")
    assert not grid.do(lambda conn, now: store.resume(conn, key, "anna", now))
    assert grid.do(lambda conn, now: store.suspend(conn, key, "anna", now))
    assert grid.do(lambda conn, now: store.resume(conn, key, "anna", now))
    assert only(grid).state is SubscriptionState.ACTIVE


def test_what_is_not_there_is_said(grid: DataGrid) -> None:
    with pytest.raises(NotFound):
        grid.do(lambda conn, now: store.unsubscribe(conn, 999, "anna", now))
    with pytest.raises(NotFound):
        grid.do(lambda conn, _: store.one(conn, 999))


def test_a_subscription_tells_who_asked_and_its_block_why_it_waits(grid: DataGrid) -> None:
    key = grid.subscribe("B")
    grid.do(lambda conn, now: allocating.allocate_dataset(conn, grid.dataset_id, now))
    row = grid.do(lambda conn, _: store.one(conn, key))
    assert (row.se, row.requester, row.group) == ("T2_B", "anna", "physics")
    assert grid.word("B")[0] == Reason.ALLOCATED
    assert grid.rows(select(block_dest.c.files)) == [(2,)]
    assert grid.rows(select(transfer.c.id)) == []


def serve(grid: DataGrid) -> int:
    keys = grid.keys.take("subscription", 10)

    def unit(conn: object, now: object) -> int:
        due = wishes.open_wishes(conn, "place", now, 10)  # type: ignore[arg-type]
        return deliveries.serve(conn, due, keys, now, now)  # type: ignore[arg-type]

    return grid.do(unit)  # type: ignore[no-any-return]


def test_a_wish_does_not_bring_back_what_a_person_has_ended(grid: DataGrid) -> None:
    wish_id = grid.place("B")
    assert serve(grid) == 0
    key = only(grid).id
    grid.do(lambda conn, now: store.unsubscribe(conn, key, "anna", now))
    assert serve(grid) == 1
    assert grid.wish(wish_id) == (WishState.REFUSED, Reason.UNSUBSCRIBED)
    assert grid.count(block_dest) == 0


def test_only_datasets_are_placed(grid: DataGrid) -> None:
    wish_id = grid.place("B")
    grid.do(lambda conn, _: conn.execute(update(wish).values(subject_kind="block")))
    assert serve(grid) == 1
    assert grid.wish(wish_id) == (WishState.REFUSED, deliveries.NOT_A_DATASET)
