"""Allocation: idempotent, driven only by subscriptions and COMPLETE replicas."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from datamgmt.allocation import Allocation, ClosedBlock, Drop, Existing, Subscription, Wanted, allocate
from datamgmt.reasons import Reason

NOTHING = Existing({}, frozenset())


def subscription(id: int = 1, se_id: int = 7, **fields: bool | int) -> Subscription:
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
subscriptions = st.lists(
    st.builds(
        Subscription,
        id=st.integers(1, 99),
        dataset_id=ids,
        se_id=ids,
        custodial=st.booleans(),
        priority=st.integers(0, 3),
        suspended=st.booleans(),
    ),
    unique_by=lambda item: item.id,
)
blocks = st.lists(
    st.builds(ClosedBlock, id=st.integers(1, 9), dataset_id=ids), unique_by=lambda item: item.id
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
    active = {
        (b.id, s.se_id) for s in asked for b in closed if s.dataset_id == b.dataset_id and not s.suspended
    }
    held = {(b.id, s.se_id) for s in asked for b in closed if s.dataset_id == b.dataset_id and s.suspended}
    assert after == (active | (held & existing.wanted.keys())) - complete


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
