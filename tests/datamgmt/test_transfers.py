"""Transfer rows: windows, claims, ends, completion, statistics, takeover."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from grids.data_grid import DataGrid
from sqlalchemy import func, select, update

from catalogs import replicas
from catalogs.replicas import Begin
from catalogs.states import ReplicaState
from catalogs.tables import block_replica
from datamgmt.links import linkqueues, linkstates
from datamgmt.subscriptions import allocating
from datamgmt.tables import block_dest, link_bin, link_state, transfer
from datamgmt.tools.base import ErrorClass
from datamgmt.transfer_states import TransferState, deadline_factor
from datamgmt.transfers import claiming, filling, finishing, store, tries
from datamgmt.transfers.claiming import Place
from datamgmt.transfers.tries import Claimed, Settled, Try
from gridcore.db import Database

A, B, C = 1, 2, 3
HOP, LINK = (A, B), 102
ROOM = {A: 100}


@pytest.fixture
def grid(database: Database) -> DataGrid:
    """A block of four files at A on its way to B."""
    grid = DataGrid(database, "ABC")
    grid.link("AB", "CB")
    grid.produce(4)
    grid.subscribe("B")
    grid.do(lambda conn, now: allocating.allocate_dataset(conn, grid.dataset_id, now))
    grid.do(lambda conn, now: replicas.begin_all(conn, [Begin(1, B)], now))
    route(grid, A)
    return grid


def route(grid: DataGrid, src: int | None) -> None:
    grid.do(lambda conn, _: conn.execute(update(block_dest).values(src_se_id=src)))


def fill(grid: DataGrid, n: int, hop: tuple[int, int] = HOP) -> int:
    ids = grid.keys.take("transfer", n)
    chosen = grid.do(lambda conn, now: filling.candidates(conn, {hop: n}, now))
    return grid.do(lambda conn, now: filling.fill(conn, chosen, ids, now))  # type: ignore[no-any-return]


def claim(grid: DataGrid, n: int = 10, me: str = "me", room: dict[int, int] = ROOM) -> list[Claimed]:
    return grid.do(lambda conn, now: claiming.claim(conn, [Place(B, me, room, n)], now))  # type: ignore[no-any-return]


def settle(grid: DataGrid, done: list[Try], me: str = "me") -> Settled:
    policies = linkstates.policies(grid.settings)
    found = grid.do(lambda conn, now: tries.settle(conn, done, {B: me}, now, policies))
    grid.check()
    return found  # type: ignore[no-any-return]


def finish(grid: DataGrid, block_id: int = 1) -> list[tuple[int, int]]:
    found = grid.do(lambda conn, now: finishing.finish(conn, [(block_id, B)], now))
    grid.check()
    return found  # type: ignore[no-any-return]


def good(one: Claimed) -> Try:
    return Try(claimed=one, link_id=LINK, bytes=one.bytes, seconds=2.0)


def bad(one: Claimed, why: ErrorClass = ErrorClass.CONNECTION_LOST) -> Try:
    return Try(claimed=one, link_id=LINK, seconds=1.0, error_class=why, error="it broke")


def states(grid: DataGrid) -> list[TransferState]:
    return [row[0] for row in grid.rows(select(transfer.c.state).order_by(transfer.c.id))]


def test_a_window_is_filled_file_by_file(grid: DataGrid) -> None:
    assert fill(grid, 3) == 3
    assert fill(grid, 3) == 1
    assert fill(grid, 3) == 0
    assert states(grid) == [TransferState.QUEUED] * 4
    (load,) = grid.do(lambda conn, _: linkstates.loads(conn)).values()
    assert (load.files, load.active) == (4, 0)


def test_nothing_is_queued_for_what_is_wanted_no_more(grid: DataGrid) -> None:
    chosen = grid.do(lambda conn, now: filling.candidates(conn, {HOP: 10}, now))
    route(grid, C)
    ids = grid.keys.take("transfer", 4)
    assert grid.do(lambda conn, now: filling.fill(conn, chosen, ids, now)) == 0
    route(grid, None)


def test_a_file_is_claimed_once_and_within_the_room(grid: DataGrid) -> None:
    fill(grid, 4)
    assert claim(grid, room={}) == claim(grid, 0) == []
    first = claim(grid, room={A: 3})
    assert len(first) == 3
    assert claim(grid, room={A: 3}) == []
    second = claim(grid)
    assert {one.lfn for one in first + second} == {grid.lfn(n) for n in range(4)}
    assert claim(grid) == []


def test_many_destinations_claim_and_end_together_each_under_its_name(grid: DataGrid) -> None:
    grid.link("AC")
    grid.subscribe("C")
    grid.do(lambda conn, now: allocating.allocate_dataset(conn, grid.dataset_id, now))
    grid.do(lambda conn, now: replicas.begin_all(conn, [Begin(1, C)], now))
    route(grid, A)
    room = {HOP: 10, (A, C): 10}
    chosen = grid.do(lambda conn, now: filling.candidates(conn, room, now))
    ids = grid.keys.take("transfer", 8)
    assert grid.do(lambda conn, now: filling.fill(conn, chosen, ids, now)) == 8
    places = [Place(B, "me", {A: 3}, 9), Place(C, "myself", {A: 9}, 2)]
    claimed = grid.do(lambda conn, now: claiming.claim(conn, places, now))
    grid.check()
    assert sorted(one.dst for one in claimed) == [B, B, B, C, C]
    names = grid.rows(select(transfer.c.dst_se_id, transfer.c.claimed_by).distinct())
    assert {(B, "me"), (C, "myself")} <= set(names)
    done = [replace(good(one), link_id=100 * A + one.dst) for one in claimed]
    policies = linkstates.policies(grid.settings)
    marks = {B: "me", C: "somebody"}
    settled = grid.do(lambda conn, now: tries.settle(conn, done, marks, now, policies))
    assert settled == Settled(done=3, stale=2, arrived=frozenset([(1, B)]))
    grid.check()
    assert grid.rows(select(link_state.c.files_ok).order_by(link_state.c.link_id)) == [(3,), (0,)]


def test_nothing_is_claimed_from_a_source_that_is_gone_or_a_hop_that_was_left(grid: DataGrid) -> None:
    fill(grid, 4)
    route(grid, None)
    assert claim(grid) == []
    route(grid, A)
    deleting = update(block_replica).where(block_replica.c.se_id == A).values(state=ReplicaState.DELETING)
    grid.do(lambda conn, _: conn.execute(deleting))
    assert claim(grid) == []
    back = update(block_replica).where(block_replica.c.se_id == A).values(state=ReplicaState.COMPLETE)
    grid.do(lambda conn, _: conn.execute(back))
    assert len(claim(grid)) == 4


def test_nothing_is_claimed_for_a_replica_that_is_not_to_be_completed(grid: DataGrid) -> None:
    fill(grid, 4)
    for state, n in ((ReplicaState.DELETING, 0), (ReplicaState.COMPLETE, 0), (ReplicaState.COPYING, 4)):
        here = update(block_replica).where(block_replica.c.se_id == B).values(state=state)
        grid.do(lambda conn, _, here=here: conn.execute(here))
        assert len(claim(grid)) == n


def test_the_last_file_completes_the_replica_and_folds_the_rows(grid: DataGrid) -> None:
    fill(grid, 4)
    claimed = claim(grid)
    arrived = frozenset([(1, B)])
    assert settle(grid, [good(one) for one in claimed[:3]]) == Settled(done=3, arrived=arrived)
    assert finish(grid) == []
    assert grid.replicas()[1, "B"] is ReplicaState.COPYING
    assert settle(grid, [good(claimed[3])]) == Settled(done=1, arrived=arrived)
    assert grid.do(lambda conn, _: finishing.unfinished(conn, B)) == [(1, B)]
    assert finish(grid) == [(1, B)]
    assert finish(grid) == []
    assert grid.replicas()[1, "B"] is ReplicaState.COMPLETE
    assert grid.count(transfer) == grid.count(block_dest) == 0
    assert grid.rows(select(block_replica.c.hops).where(block_replica.c.se_id == B)) == [(1,)]
    size = sum(one.bytes for one in claimed)
    totals = select(link_state.c.files_ok, link_state.c.files_bad, link_state.c.bytes_ok)
    assert grid.rows(totals) == [(4, 0, size)]
    sums = (func.sum(link_bin.c[name]) for name in ("files_ok", "files_bad", "bytes_ok", "busy_s"))
    assert grid.rows(select(*sums)) == [(4, 0, size, 8.0)]


def test_failures_wait_and_end(grid: DataGrid) -> None:
    fill(grid, 2)
    first, second = claim(grid)
    missing = ErrorClass.SOURCE_MISSING
    assert settle(grid, [bad(first), bad(second, missing)]) == Settled(retry=1, failed=1)
    assert states(grid) == [TransferState.RETRY_WAIT, TransferState.FAILED]
    assert claim(grid) == []
    assert grid.do(lambda conn, _: linkqueues.waiting_at(conn)) == {B}
    grid.clock.advance(1.1)
    (again,) = claim(grid)
    assert (again.id, again.attempts) == (first.id, 1)
    rows = grid.do(lambda conn, _: store.transfers(conn, state=TransferState.FAILED))
    assert [(row.lfn, row.src, row.dst, row.error_class) for row in rows] == [
        (grid.lfn(1), "T2_A", "T2_B", "SOURCE_MISSING")
    ]


def test_a_timeout_gives_the_next_try_more_time(grid: DataGrid) -> None:
    fill(grid, 1)
    factors = []
    for why in (ErrorClass.TIMEOUT, ErrorClass.TIMEOUT, ErrorClass.CONNECTION_LOST):
        (one,) = claim(grid)
        factors.append(deadline_factor(10**10, one.attempts, one.timed_out))
        settle(grid, [bad(one, why)])
        grid.clock.advance(timedelta(hours=1).total_seconds())
    assert factors == [1, 2, 4]
    (row,) = grid.do(lambda conn, _: store.transfers(conn))
    assert (row.attempts, row.deadline_factor) == (3, 1)


@pytest.mark.parametrize(
    ("size", "attempts", "timed_out", "factor"),
    [(1, 0, True, 1), (1, 1, True, 2), (1, 9, True, 2), (10**9, 9, True, 8), (10**9, 9, False, 1)],
)
def test_a_deadline_has_its_bounds(size: int, attempts: int, timed_out: bool, factor: int) -> None:
    assert deadline_factor(size, attempts, timed_out) == factor


def test_the_tries_on_a_hop_are_counted(grid: DataGrid) -> None:
    fill(grid, 1)
    for _ in range(5):
        settle(grid, [bad(claim(grid)[0])])
        grid.clock.advance(timedelta(hours=1).total_seconds())
    assert states(grid) == [TransferState.FAILED]
    assert grid.do(lambda conn, now: store.follow(conn, {(1, B)}, now)) == 1
    assert claim(grid)[0].attempts == 0


def test_what_waits_follows_its_block_to_another_source(grid: DataGrid) -> None:
    fill(grid, 3)
    done, failing, _ = claim(grid)
    settle(grid, [good(done), bad(failing)])
    grid.do(lambda conn, now: replicas.begin_all(conn, [Begin(1, C)], now))
    grid.do(lambda conn, now: replicas.complete_all(conn, {(1, C): 3}, now))
    route(grid, C)
    assert grid.do(lambda conn, now: store.follow(conn, {(1, B)}, now)) == 1
    assert grid.do(lambda conn, now: store.follow(conn, {(1, B)}, now)) == 0
    rows = grid.rows(select(transfer.c.src_se_id, transfer.c.state).order_by(transfer.c.id))
    assert rows == [(A, TransferState.DONE), (C, TransferState.QUEUED), (A, TransferState.ACTIVE)]


def test_hops_count_from_the_farthest_source(grid: DataGrid) -> None:
    fill(grid, 4)
    grid.do(lambda conn, _: conn.execute(update(block_replica).values(hops=2)))
    settle(grid, [good(one) for one in claim(grid)])
    finish(grid)
    assert grid.rows(select(block_replica.c.hops).where(block_replica.c.se_id == B)) == [(3,)]


def test_a_dead_agents_claims_are_queued_again_and_its_words_dropped(grid: DataGrid) -> None:
    fill(grid, 2)
    claimed = claim(grid, me="dead")
    assert grid.do(lambda conn, now: claiming.abandon(conn, B, [claimed[0].id], now)) == 1
    assert states(grid) == [TransferState.ACTIVE, TransferState.QUEUED]
    claim(grid, me="heir")
    assert settle(grid, [good(one) for one in claimed], me="dead") == Settled(
        done=1, stale=1, arrived=frozenset([(1, B)])
    )
    assert settle(grid, [good(one) for one in claimed], me="heir") == Settled(
        done=1, stale=1, arrived=frozenset([(1, B)])
    )
    assert grid.rows(select(link_state.c.files_ok)) == [(2,)]


def test_a_cancelled_copy_keeps_its_row_until_its_agent_lets_go(grid: DataGrid) -> None:
    fill(grid, 4)
    (copying,) = claim(grid, 1)
    grid.do(lambda conn, _: replicas.mark_deleting_all(conn, [(1, B)]))
    grid.do(lambda conn, now: store.cancel(conn, [(1, B), (2, B)], now))
    grid.check()
    assert states(grid) == [TransferState.CANCELLED]
    assert settle(grid, [good(copying)]) == Settled(stale=1)
    assert grid.count(transfer) == 0


def test_a_takeover_forgets_cancelled_copies(grid: DataGrid) -> None:
    fill(grid, 1)
    claim(grid)
    grid.do(lambda conn, _: replicas.mark_deleting_all(conn, [(1, B)]))
    grid.do(lambda conn, now: store.cancel(conn, [(1, B), (2, B)], now))
    assert grid.do(lambda conn, now: claiming.abandon(conn, B, [], now)) == 0
    assert grid.count(transfer) == 0


def test_a_failing_link_is_parked_and_others_faults_are_not_its_own(grid: DataGrid) -> None:
    fill(grid, 4)
    policies = linkstates.policies(grid.settings)
    claimed = claim(grid)
    settle(grid, [bad(one, ErrorClass.SOURCE_MISSING) for one in claimed[:1]])
    views = grid.do(lambda conn, _: linkstates.views(conn))
    assert claiming.open_room(views, grid.clock.now(), policies) == {B: {A: 2, C: 2}}
    settle(grid, [bad(one) for one in claimed[1:]])
    views = grid.do(lambda conn, _: linkstates.views(conn))
    assert claiming.open_room(views, grid.clock.now(), policies) == {B: {C: 2}}
    lines = grid.do(lambda conn, now: linkstates.overview(conn, now, policies.link))
    (line,) = (one for one in lines if one.src == "T2_A")
    assert (line.files_bad, line.window, line.last_error) == (4, 0, "it broke")
    shut = {key: replace(one, enabled=False) for key, one in views.items()}
    assert claiming.open_room(shut, grid.clock.now(), policies) == {}


def test_priority_reaches_what_is_queued(grid: DataGrid) -> None:
    fill(grid, 2)
    grid.do(lambda conn, now: store.set_priority(conn, {(1, B): 9}, now))
    assert grid.rows(select(transfer.c.priority)) == [(9,), (9,)]
