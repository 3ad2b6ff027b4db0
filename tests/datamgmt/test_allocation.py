"""Allocation: idempotent, driven only by subscriptions and COMPLETE replicas."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamgmt.reasons import Reason
from datamgmt.wanted.allocation import (
    Allocation,
    ClosedBlock,
    Drop,
    Existing,
    Room,
    Subscription,
    Waiting,
    Wanted,
    admitted,
    allocate,
    movable,
)

NOTHING = Existing({}, frozenset())


NOW = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)


def subscription(id: int = 1, se_id: int = 7, **fields: object) -> Subscription:
    return Subscription(id=id, dataset_id=1, se_id=se_id, **fields)  # type: ignore[arg-type]


def row(block_id: int, se_id: int = 7, subscription_id: int = 1, priority: int = 0) -> Wanted:
    return Wanted(
        block_id=block_id,
        se_id=se_id,
        subscription_id=subscription_id,
        custodial=False,
        priority=priority,
    )


def applied(existing: Existing, change: Allocation) -> Existing:
    wanted = dict(existing.wanted)
    for new in change.add:
        assert new.key not in wanted
        wanted[new.key] = new
    for new in change.change:
        assert new.key in wanted
        wanted[new.key] = new
    for drop in change.drop:
        del wanted[drop.key]
    return Existing(wanted, existing.complete)


ids = st.integers(1, 4)
moments = st.integers(0, 3).map(lambda days: NOW + days * DAY)
subscriptions = st.lists(
    st.builds(
        Subscription,
        id=st.integers(1, 99),
        dataset_id=ids,
        se_id=ids,
        custodial=st.booleans(),
        priority=st.integers(0, 3),
        suspended=st.booleans(),
        block_id=st.sampled_from((0, 0, 1, 2)),
        after=st.none() | moments,
        until=st.none() | moments,
        account=st.sampled_from((None, "anna", "top")),
    ),
    unique_by=lambda item: item.id,
)
blocks = st.lists(
    st.builds(
        ClosedBlock,
        id=st.integers(1, 9),
        dataset_id=ids,
        bytes=st.integers(0, 100),
        created_at=moments,
    ),
    unique_by=lambda item: item.id,
)
rooms = st.dictionaries(
    st.sampled_from(("anna", "top", 1, 2)),
    st.tuples(st.integers(-9, 300), st.integers(0, 300)).map(lambda one: Room(min(one), max(one))),
)
rows = st.lists(
    st.builds(
        Wanted,
        block_id=st.integers(1, 9),
        se_id=ids,
        subscription_id=st.integers(1, 99),
        custodial=st.booleans(),
        priority=st.integers(0, 3),
    ),
    unique_by=lambda item: item.key,
)
replicas = st.frozensets(st.tuples(st.integers(1, 9), ids))


@given(subscriptions, blocks, rows, replicas)
def test_a_second_allocation_changes_nothing(asked, closed, wanted, complete):
    existing = Existing({item.key: item for item in wanted}, complete)
    after = applied(existing, allocate(asked, closed, existing))
    assert allocate(asked, closed, after) == Allocation([], [], [])


@given(subscriptions, blocks, rows, replicas)
def test_what_is_wanted_in_the_end(asked, closed, wanted, complete):
    existing = Existing({item.key: item for item in wanted}, complete)
    after = applied(existing, allocate(asked, closed, existing)).wanted.keys()
    active = {(b.id, s.se_id) for s in asked for b in closed if s.covers(b) and not s.suspended}
    held = {(b.id, s.se_id) for s in asked for b in closed if s.covers(b) and s.suspended}
    assert after == (active | (held & existing.wanted.keys())) - complete


@given(subscriptions, blocks, rows, replicas, rooms)
def test_nothing_is_added_beyond_a_limit_and_asking_again_adds_nothing(asked, closed, wanted, complete, room):
    existing = Existing({item.key: item for item in wanted}, complete)
    new = allocate(asked, closed, existing).add
    add, waiting = admitted(new, room)
    left = {limit: one.left for limit, one in room.items()}
    for one in add:
        for limit in {one.account, one.se_id} & left.keys():
            left[limit] -= one.size
    assert all(n >= 0 or n == room[limit].left for limit, n in left.items())
    assert all({one.wanted.account, one.wanted.se_id} & room.keys() for one in waiting)
    assert sorted([*add, *(one.wanted for one in waiting)], key=lambda one: one.key) == new
    rest = {limit: Room(n, room[limit].limit) for limit, n in left.items()}
    again, still = admitted([one.wanted for one in waiting], rest)
    assert (again, [one.wanted for one in still]) == ([], [one.wanted for one in waiting])


@given(subscriptions, blocks, rooms)
def test_nobody_takes_what_one_before_waits_for(asked, closed, room):
    """Of those that share a limit, who stands behind one that waits and could ever fit waits as well."""
    add, waiting = admitted(allocate(asked, closed, NOTHING).add, room)

    def place(one: Wanted) -> object:
        return -one.priority, one.subscription_id, one.key

    for one in waiting:
        limit = one.wanted.account if one.code is Reason.QUOTA_FULL else one.wanted.se_id
        behind = [new for new in add if limit in (new.account, new.se_id) and place(new) > place(one.wanted)]
        assert not behind or one.wanted.size > one.room.limit


def test_what_does_not_fit_keeps_its_place_before_smaller_ones():
    closed = [ClosedBlock(1, 1, 60), ClosedBlock(2, 1, 60), ClosedBlock(3, 1, 10)]
    new = allocate([subscription(account="top")], closed, NOTHING).add
    left = Room(40, 100)
    assert admitted(new, {"top": Room(100, 100)}) == (
        [row(1)],
        [Waiting(row(2), Reason.QUOTA_FULL, left), Waiting(row(3), Reason.QUOTA_FULL, left)],
    )


def test_the_urgent_get_room_first():
    asked = [subscription(1, account="top"), subscription(2, se_id=8, priority=5, account="top")]
    new = allocate(asked, [ClosedBlock(1, 1, 60)], NOTHING).add
    add, waiting = admitted(new, {"top": Room(100, 100)})
    assert add == [row(1, se_id=8, subscription_id=2, priority=5)]
    assert [one.wanted.key for one in waiting] == [(1, 7)]


def test_room_is_kept_for_who_waits_elsewhere():
    """A small block of a younger subscription passes only where the large one before it keeps its room."""
    (small,) = allocate([subscription(9, account="top")], [ClosedBlock(1, 1, 10)], NOTHING).add
    large = replace(row(0, subscription_id=3), account="top", size=60)
    assert admitted([small], {"top": Room(69, 100)}, [large]) == (
        [],
        [Waiting(small, Reason.QUOTA_FULL, Room(9, 100))],
    )
    assert admitted([small], {"top": Room(59, 100)}, [large]) == (
        [],
        [Waiting(small, Reason.QUOTA_FULL, Room(59, 100), behind=3)],
    )
    assert admitted([small], {"top": Room(70, 100)}, [large]) == ([small], [])


def test_what_can_never_fit_holds_up_nobody_else():
    (small,) = allocate([subscription(9, account="top")], [ClosedBlock(1, 1, 10)], NOTHING).add
    never = replace(row(0, subscription_id=3), account="top", size=101)
    assert admitted([small], {"top": Room(10, 100)}, [never]) == ([small], [])


@pytest.mark.parametrize(
    ("fields", "blocks"),
    [
        ({}, [1, 2, 3]),
        ({"block_id": 2}, [2]),
        ({"until": NOW + DAY}, [1, 2]),
        ({"after": NOW + DAY}, [3]),
        ({"after": NOW, "until": NOW + DAY}, [2]),
        ({"block_id": 3, "until": NOW}, []),
    ],
)
def test_one_block_a_fixed_set_or_all_that_come(fields, blocks):
    closed = [ClosedBlock(n + 1, 1, created_at=NOW + n * DAY) for n in range(3)]
    assert [one.block_id for one in allocate([subscription(**fields)], closed, NOTHING).add] == blocks


def test_a_move_lets_go_what_nobody_else_wants_once_all_has_arrived():
    closed = [ClosedBlock(1, 1), ClosedBlock(2, 1)]
    move, other = subscription(1, 7, move=True), subscription(2, 9, block_id=2, suspended=True)
    held = {(1, 7), (1, 8), (1, 9), (2, 8), (2, 9), (3, 8)}
    assert movable(move, closed, [move, other], held) == []
    arrived = held | {(2, 7)}
    assert movable(move, closed, [move, other], arrived) == [(1, 8), (1, 9), (2, 8)]
    assert movable(move, closed, [move, other], arrived, {(2, 8)}) == [(1, 8), (1, 9)]
    assert movable(subscription(1, 7), closed, [], arrived) == []


def test_each_closed_block_is_wanted_unless_complete_there():
    change = allocate(
        [subscription()],
        [ClosedBlock(1, 1), ClosedBlock(2, 1), ClosedBlock(3, 2)],
        Existing({}, frozenset({(2, 7), (1, 8)})),
    )
    assert change == Allocation(add=[row(1)], change=[], drop=[])


def test_a_suspended_subscription_adds_nothing_and_keeps_its_rows():
    existing = Existing({(1, 7): row(1)}, frozenset())
    change = allocate([subscription(suspended=True)], [ClosedBlock(1, 1), ClosedBlock(2, 1)], existing)
    assert change == Allocation([], [], [])


def test_the_highest_priority_speaks_for_all_and_custodial_is_kept():
    asked = [subscription(1, custodial=True), subscription(2, priority=5), subscription(3, priority=5)]
    (wanted,) = allocate(asked, [ClosedBlock(1, 1)], NOTHING).add
    assert (wanted.subscription_id, wanted.priority, wanted.custodial) == (2, 5, True)


def test_a_new_priority_changes_the_row():
    existing = Existing({(1, 7): row(1)}, frozenset())
    change = allocate([subscription(priority=9)], [ClosedBlock(1, 1)], existing)
    assert change == Allocation([], [row(1, priority=9)], [])


def test_rows_are_dropped_with_their_reason():
    existing = Existing({(1, 7): row(1), (2, 8): row(2, se_id=8)}, frozenset({(1, 7)}))
    change = allocate([subscription()], [ClosedBlock(1, 1), ClosedBlock(2, 1)], existing)
    assert change.drop == [Drop((1, 7), Reason.COMPLETE), Drop((2, 8), Reason.UNSUBSCRIBED)]
