"""Quotas of space: reserved by wishes, borne by replicas, given back with them, and never exceeded."""

from __future__ import annotations

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from grids.data_grid import DataGrid
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from sqlalchemy import Connection, select, update

from catalogs import bookkeeping, registration, replicas
from catalogs.filebatch import NewFile
from catalogs.replicas import Begin
from catalogs.states import ReplicaState
from catalogs.tables import block, block_replica, se
from datamgmt import recount
from datamgmt.reasons import Reason
from datamgmt.subscription_states import SubscriptionState
from datamgmt.subscriptions import allocating, asking, line, progress, store
from datamgmt.subscriptions.asking import Order
from datamgmt.tables import block_dest, subscription
from datamgmt.wanted import charging, destinations
from gridapp import quotas as limits
from gridcore.db import Database, leases, quotas
from gridcore.db.invariants import violations
from gridcore.tables import quota

AT_B = "space:T2_XX_B:physics"


@pytest.fixture
def grid(database: Database) -> DataGrid:
    grid = DataGrid(database, "AB")
    grid.link("AB")
    return grid


def limit(grid: DataGrid, n: int, of: str = AT_B) -> None:
    key = grid.keys.one("quota")
    grid.do(lambda conn, _: limits.put(conn, key, of, n))


def used(grid: DataGrid, of: str = AT_B) -> int:
    return int(grid.rows(select(quota.c.used_value).where(quota.c.owner == of))[0][0])


def allocate(grid: DataGrid) -> None:
    def unit(conn: Connection, now: Any) -> None:
        for one in allocating.unsettled(conn, 100):
            allocating.allocate_dataset(conn, one, now)

    grid.do(unit)


def stir(grid: DataGrid) -> list[int]:
    """Have the datasets looked at for which room has come."""

    def unit(conn: Connection, _: Any) -> list[int]:
        found = line.ready(conn)
        bookkeeping.unsettle(conn, found)
        return found

    return list(grid.do(unit))


def sizes(grid: DataGrid) -> dict[int, int]:
    with grid.database.snapshot() as conn:
        return {one.id: one.bytes for one in bookkeeping.closed_blocks(conn, grid.dataset_id)}


def said(grid: DataGrid, key: int) -> tuple[SubscriptionState, str | None, dict[str, Any]]:
    with grid.database.snapshot() as conn:
        row = store.one(conn, key)
    return row.state, row.code, dict(row.params)


def test_a_wish_reserves_its_replica_bears_and_its_end_gives_back(grid: DataGrid) -> None:
    grid.produce(2)
    (size,) = sizes(grid).values()
    limit(grid, 10 * size)
    key = grid.subscribe("B")
    allocate(grid)
    assert used(grid) == size
    grid.do(lambda conn, now: replicas.begin_all(conn, [Begin(1, 2)], now))
    grid.do(lambda conn, _: charging.charge(conn, [1]))
    held = select(block_replica.c.acct_group, block_replica.c.charged).where(block_replica.c.se_id == 2)
    assert (grid.rows(held), used(grid)) == ([("physics", size)], size)
    grid.do(lambda conn, now: store.unsubscribe(conn, key, "anna", now))
    allocate(grid)
    assert used(grid) == size, "what has begun to arrive is there until it is gone"
    grid.do(lambda conn, _: charging.remove(conn, [(1, 2)]))
    assert used(grid) == 0


def test_a_wish_that_ends_before_it_begins_gives_back(grid: DataGrid) -> None:
    grid.produce(2)
    limit(grid, 10**6)
    key = grid.subscribe("B")
    allocate(grid)
    assert used(grid) > 0
    grid.do(lambda conn, now: store.unsubscribe(conn, key, "anna", now))
    allocate(grid)
    assert (used(grid), grid.count(block_dest)) == (0, 0)


def test_what_does_not_fit_waits_with_figures_until_there_is_room(grid: DataGrid) -> None:
    grid.produce(3)
    (size,) = sizes(grid).values()
    limit(grid, size - 1)
    key = grid.subscribe("B")
    allocate(grid)
    facts = {"site": "T2_XX_B", "group": "physics", "free": size - 1, "limit": size - 1, "size": size}
    assert said(grid, key) == (SubscriptionState.ACTIVE, Reason.QUOTA_FULL, facts)
    grid.do(progress.review)
    assert said(grid, key)[1] == Reason.QUOTA_FULL
    assert grid.count(block_dest) == 0
    limit(grid, size)
    allocate(grid)
    assert grid.count(block_dest) == 0, "nothing has happened to the dataset"
    assert stir(grid) == [grid.dataset_id]
    allocate(grid)
    assert (grid.count(block_dest), said(grid, key)[1]) == (1, Reason.DELIVERING)


def by_slices(grid: DataGrid, n: int, dataset_id: int = 0) -> list[int]:
    """Allocate the dataset so many blocks at a time; what each slice changed."""
    done, changed = allocating.Allocated(0), list[int]()
    while not changed or done.after:
        done = grid.do(
            lambda conn, now, last=done: allocating.allocate_dataset(
                conn, dataset_id or grid.dataset_id, now, last.after, last.waits, n
            )
        )
        changed.append(done.changed)
    return changed


def unsettled(grid: DataGrid) -> list[int]:
    return list(grid.do(lambda conn, _: allocating.unsettled(conn, 9)))


def test_a_small_block_of_a_later_slice_does_not_overtake_a_large_one(grid: DataGrid) -> None:
    grid.produce(1, first=9)
    grid.produce(1, first=0)
    large, small = sizes(grid).values()
    limit(grid, large)
    grid.do(lambda conn, _: quotas.take(conn, AT_B, 1))
    key = grid.subscribe("B")
    by_slices(grid, 1)
    assert (grid.count(block_dest), said(grid, key)[1]) == (0, Reason.QUOTA_FULL)
    grid.do(lambda conn, _: quotas.give_back(conn, AT_B, 1))
    stir(grid)
    by_slices(grid, 1)
    assert (grid.rows(select(block_dest.c.bytes)), large > small) == ([(large,)], True)


def test_a_small_dataset_does_not_overtake_what_waits_for_the_same_room(grid: DataGrid) -> None:
    grid.produce(1, first=20)
    (large,) = sizes(grid).values()
    limit(grid, large + 99)
    grid.do(lambda conn, _: quotas.take(conn, AT_B, 100))
    first = grid.subscribe("B")
    allocate(grid)
    small = _dataset(grid, 7, 1)
    allocate(grid)
    grid.do(lambda conn, _: quotas.give_back(conn, AT_B, 100))
    second = next(row[0] for row in grid.rows(select(subscription.c.id)) if row[0] != first)
    assert said(grid, second)[2]["behind"] == first
    assert grid.count(block_dest) == 0
    assert stir(grid) == [grid.dataset_id, small]
    allocate(grid)
    assert grid.rows(select(block_dest.c.bytes).order_by(block_dest.c.bytes)) == [(1,), (large,)]


def test_a_dataset_that_waits_is_settled_and_looked_at_when_room_comes(grid: DataGrid) -> None:
    for number in range(6):
        grid.produce(1, first=number)
    first, second, *_ = sizes(grid).values()
    limit(grid, first + second)
    grid.subscribe("B")
    assert sum(by_slices(grid, 2)) == 2
    assert by_slices(grid, 2) == [0]
    assert (unsettled(grid), stir(grid)) == ([], [])
    limit(grid, sum(sizes(grid).values()))
    assert (stir(grid), unsettled(grid)) == ([grid.dataset_id], [grid.dataset_id])
    by_slices(grid, 2)
    assert grid.count(block_dest) == 6


def test_a_full_storage_element_is_told_with_its_figures(grid: DataGrid) -> None:
    grid.produce(3)
    (size,) = sizes(grid).values()
    grid.do(lambda conn, _: conn.execute(update(se).where(se.c.id == 2).values(space_bytes=size - 1)))
    key = grid.subscribe("B")
    allocate(grid)
    facts = {"site": "T2_XX_B", "se": 2, "free": size - 1, "space": size - 1, "size": size}
    assert said(grid, key) == (SubscriptionState.ACTIVE, Reason.SE_FULL, facts)


def test_what_was_promised_counts_before_it_begins(grid: DataGrid) -> None:
    grid.produce(3)
    (size,) = sizes(grid).values()
    grid.do(lambda conn, _: conn.execute(update(se).where(se.c.id == 2).values(space_bytes=2 * size)))
    grid.subscribe("B")
    allocate(grid)
    grid.produce(4, first=3)
    allocate(grid)
    assert grid.count(block_dest) == 1


def test_a_transit_copy_that_is_wanted_takes_quota_at_once(grid: DataGrid) -> None:
    grid.produce(2)
    (size,) = sizes(grid).values()
    limit(grid, size)

    def pass_through(conn: Connection, now: Any) -> None:
        replicas.begin_all(conn, [Begin(1, 2, transit=True)], now)
        row = {"block_id": 1, "se_id": 2, "transit_for_id": 1, "custodial": 0, "priority": 0}
        stamps = {"code": Reason.ROUTED, "decided_at": now, "created_at": now, "bytes": size, "files": 2}
        conn.execute(block_dest.insert(), {**row, **stamps})

    grid.do(pass_through)
    grid.subscribe("B")
    allocate(grid)
    held = select(block_replica.c.acct_group, block_replica.c.transit).where(block_replica.c.se_id == 2)
    assert (grid.rows(held), used(grid)) == ([("physics", 0)], size)


def complete_in_transit(grid: DataGrid) -> int:
    """A complete copy of the one block passes through B; its bytes."""
    grid.produce(2)
    grid.do(lambda conn, now: replicas.begin_all(conn, [Begin(1, 2, transit=True)], now))
    grid.do(lambda conn, now: replicas.complete_all(conn, {(1, 2): 1}, now))
    return next(iter(sizes(grid).values()))


HELD_AT_B = select(block_replica.c.acct_group, block_replica.c.charged, block_replica.c.transit).where(
    block_replica.c.se_id == 2
)


def test_a_complete_transit_copy_that_is_wanted_is_charged_from_then_on(grid: DataGrid) -> None:
    size = complete_in_transit(grid)
    limit(grid, size)
    grid.do(lambda conn, _: conn.execute(update(se).where(se.c.id == 2).values(space_bytes=size)))
    key = grid.subscribe("B", custodial=True)
    allocate(grid)
    assert (grid.rows(HELD_AT_B), used(grid)) == ([("physics", size, 0)], size), "its space it has already"
    assert grid.rows(select(block_replica.c.custodial).where(block_replica.c.se_id == 2)) == [(1,)]
    assert said(grid, key)[0] is SubscriptionState.COMPLETE
    grid.do(lambda conn, _: replicas.set_custodial_all(conn, {(1, 2): False}))
    grid.do(lambda conn, _: replicas.mark_deleting_all(conn, [(1, 2)]))
    grid.do(lambda conn, _: charging.remove(conn, [(1, 2)]))
    grid.check()
    assert used(grid) == 0


def test_a_transit_copy_its_group_has_no_room_for_only_passes(grid: DataGrid) -> None:
    size = complete_in_transit(grid)
    limit(grid, size - 1)
    key = grid.subscribe("B")
    allocate(grid)
    grid.do(progress.review)
    assert (said(grid, key)[:2], used(grid)) == ((SubscriptionState.ACTIVE, Reason.QUOTA_FULL), 0)
    assert (grid.rows(HELD_AT_B), unsettled(grid), stir(grid)) == ([(None, 0, 1)], [], [])
    limit(grid, size)
    assert stir(grid) == [grid.dataset_id]
    allocate(grid)
    assert (grid.rows(HELD_AT_B), used(grid)) == ([("physics", size, 0)], size)
    assert said(grid, key)[0] is SubscriptionState.COMPLETE


def test_a_first_quota_counts_what_the_group_has_and_drift_is_mended(grid: DataGrid) -> None:
    grid.produce(2)
    grid.subscribe("B")
    allocate(grid)
    (size,) = sizes(grid).values()
    limit(grid, 1)
    assert used(grid) == size
    grid.do(lambda conn, _: conn.execute(update(quota).values(used_value=5)))
    assert grid.do(lambda conn, _: recount.mend(conn)) == {"space_quotas": 1}
    assert used(grid) == size
    assert grid.do(lambda conn, _: recount.mend(conn)) == {}


def test_what_older_agents_have_asked_for_is_seen(grid: DataGrid) -> None:
    grid.produce(2)
    key = grid.subscribe("B")
    allocate(grid)
    grid.do(lambda conn, _: conn.execute(block_dest.delete()))
    assert grid.do(lambda conn, _: allocating.unsettled(conn, 9)) == []
    assert grid.do(lambda conn, _: recount.mend(conn)) == {"unseen_datasets": 1}
    allocate(grid)
    assert grid.rows(select(block_dest.c.subscription_id)) == [(key,)]


@pytest.mark.parametrize("room", [0, 7, 20])
def test_twenty_writers_at_once_never_exceed_a_quota(database: Database, room: int) -> None:
    """Each allocates a dataset of its own to the same site for the same group."""
    grid = DataGrid(database, "AB")
    datasets = [_dataset(grid, number) for number in range(20)]
    limit(grid, room * 100 + 50)
    barrier = threading.Barrier(20)

    def write(dataset_id: int) -> int:
        barrier.wait()
        return database.transaction(
            lambda conn: allocating.allocate_dataset(conn, dataset_id, grid.clock.now()).changed
        )

    with ThreadPoolExecutor(20) as pool:
        added = sum(pool.map(write, datasets))
    assert (added, used(grid), grid.count(block_dest)) == (room, 100 * room, room)
    full = select(subscription.c.id).where(subscription.c.code == Reason.QUOTA_FULL)
    assert len(grid.rows(full)) == 20 - room


@pytest.mark.parametrize("room", [0, 7])
def test_twenty_writers_under_one_lease_never_promise_the_same_space_twice(
    database: Database, room: int
) -> None:
    """Space of storage elements has no lock of its own: the lease of who promises it is."""
    grid = DataGrid(database, "AB")
    datasets = [_dataset(grid, number) for number in range(20)]
    grid.do(lambda conn, _: conn.execute(update(se).where(se.c.id == 2).values(space_bytes=room * 100 + 50)))
    (lease,) = _lease(grid, "one")
    barrier = threading.Barrier(20)

    def write(dataset_id: int) -> int:
        barrier.wait()

        def unit(conn: Connection) -> int:
            return allocating.allocate_dataset(conn, dataset_id, leases.hold(conn, lease)).changed

        return database.transaction(unit)

    with ThreadPoolExecutor(20) as pool:
        added = sum(pool.map(write, datasets))
    assert (added, grid.count(block_dest)) == (room, room)


def test_a_manager_whose_lease_has_passed_on_promises_nothing(grid: DataGrid) -> None:
    grid.produce(1)
    grid.subscribe("B")
    old, new = grid.worker("one", ["block_manager"]), grid.worker("two", ["block_manager"])
    old.take()
    new.take(from_the_dead=True)
    with pytest.raises(leases.LeaseLost):
        old.cycle("block_manager")
    assert grid.count(block_dest) == 0
    assert new.cycle("block_manager")["allocated"] == 1


def _lease(grid: DataGrid, name: str) -> list[leases.Lease]:
    worker = grid.worker(name, ["block_manager"])
    worker.take()
    return list(worker.held.values())


def _dataset(grid: DataGrid, number: int, size: int = 100) -> int:
    """With one closed block of so many bytes at A, subscribed to B."""
    keys = [grid.keys.one(name) for name in ("dataset", "subscription")]
    reserved = registration.reserve(grid.keys, 1)
    file = NewFile(lfn=f"/store/data/d{number}.root", bytes=size, adler32=1)

    def unit(conn: Connection, now: Any) -> int:
        policy = bookkeeping.BlockPolicy(1, 10**9, 10**6)
        name = f"/Sim/v{number}/RECO"
        dataset_id = bookkeeping.create_dataset(conn, keys[0], name, policy, now)
        registration.register(conn, reserved, dataset_id, 1, [file], now)
        opened = select(block.c.id).where(block.c.dataset_id == dataset_id)
        bookkeeping.close_blocks(conn, conn.execute(opened).scalars().all(), "files", now)
        order = Order(dataset_id=dataset_id, se_id=2, requester="anna", group="physics")
        asking.subscribe(conn, keys[1], order, now, "anna")
        return dataset_id

    return int(grid.do(unit))


class Charged(RuleBasedStateMachine):
    """Blocks, wishes and replicas come and go at two storage elements of one site each."""

    grid: DataGrid

    def __init__(self, url: str) -> None:
        super().__init__()
        self.database = Database(url)
        self.grid = DataGrid(self.database, "ABC")
        self.files = 0
        self.before = {AT_B: 0, "space:T2_XX_C:physics": 0}
        for of in self.before:
            limit(self.grid, 300, of)

    def teardown(self) -> None:
        self.database.close()

    @rule(n=st.integers(1, 4))
    def produce(self, n: int) -> None:
        self.grid.produce(n, first=self.files)
        self.files += n

    @rule(name=st.sampled_from("BC"), priority=st.integers(0, 2), block_id=st.sampled_from((0, 0, 1)))
    def ask(self, name: str, priority: int, block_id: int) -> None:
        if self.files:
            self.grid.subscribe(name, priority=priority, block_id=block_id)

    @rule(place=st.integers(0, 5))
    def end(self, place: int) -> None:
        with self.database.snapshot() as conn:
            rows = store.subscriptions(conn)
        if rows:
            key = rows[place % len(rows)].id
            self.grid.do(lambda conn, now: store.unsubscribe(conn, key, "anna", now))

    @rule()
    def allocate(self) -> None:
        stir(self.grid)
        allocate(self.grid)

    @rule(place=st.integers(0, 9))
    def begin(self, place: int) -> None:
        keys = self.grid.rows(select(block_dest.c.block_id, block_dest.c.se_id))
        if keys:
            block_id, se_id = sorted(keys)[place % len(keys)]

            def unit(conn: Connection, now: Any) -> None:
                replicas.begin_all(conn, [Begin(block_id, se_id)], now)
                charging.charge(conn, [block_id])

            self.grid.do(unit)

    @rule(place=st.integers(0, 9))
    def complete(self, place: int) -> None:
        copying = select(block_replica.c.block_id, block_replica.c.se_id).where(
            block_replica.c.state == ReplicaState.COPYING
        )
        if keys := self.grid.rows(copying):
            block_id, se_id = sorted(keys)[place % len(keys)]

            def unit(conn: Connection, now: Any) -> None:
                replicas.complete_all(conn, {(block_id, se_id): 1}, now)
                destinations.drop(conn, [(block_id, se_id)], now)

            self.grid.do(unit)

    @rule(place=st.integers(0, 9))
    def delete(self, place: int) -> None:
        asked = {
            (row[0], row[1]) for row in self.grid.rows(select(block_dest.c.block_id, block_dest.c.se_id))
        }
        there = select(block_replica.c.block_id, block_replica.c.se_id).where(block_replica.c.se_id > 1)
        if keys := sorted(set(self.grid.rows(there)) - asked):
            key = keys[place % len(keys)]

            def unit(conn: Connection, _: Any) -> None:
                replicas.mark_deleting_all(conn, [key])
                charging.remove(conn, [key])

            self.grid.do(unit)

    @invariant()
    def holds(self) -> None:
        with self.database.snapshot() as conn:
            assert violations(conn, [charging.USED_IS_HELD]) == []
        for of, before in self.before.items():
            now = used(self.grid, of)
            assert 0 <= now <= max(300, before)
            self.before[of] = now


def test_whatever_comes_and_goes_a_quota_is_right_and_kept(sqlite_template: Path, tmp_path: Path) -> None:
    numbers = iter(range(10**6))

    def fresh() -> Charged:
        path = tmp_path / f"{next(numbers)}.db"
        shutil.copy(sqlite_template, path)
        return Charged(f"sqlite:///{path}")

    run_state_machine_as_test(
        fresh, settings=settings(max_examples=25, stateful_step_count=25, deadline=None)
    )
