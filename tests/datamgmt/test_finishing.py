"""Claiming, ending and finishing while others do the same: two real connections, and a crash in between."""

from __future__ import annotations

from collections import Counter

import pytest
from grids.data_grid import DataGrid, Worker
from grids.together import at_once
from sqlalchemy import func, select, update

from agents.transfer_agent import SHARD
from catalogs import exceptions, replicas
from catalogs.exceptions import FileFault
from catalogs.replicas import Begin
from catalogs.states import ReplicaState
from catalogs.tables import block_replica
from datamgmt.links import linkerrors, linkqueues, linkstates
from datamgmt.links.linkqueues import Queue
from datamgmt.subscriptions import allocating
from datamgmt.tables import block_dest, transfer
from datamgmt.tools.base import ErrorClass, Owner
from datamgmt.transfer_states import TransferState
from datamgmt.transfers import claiming, filling, finishing, store, tries
from datamgmt.transfers.claiming import Place
from datamgmt.transfers.tries import Claimed, Try
from datamgmt.wanted import destinations
from gridcore.db import Database

A, B, C = 1, 2, 3
FILES = 12


@pytest.fixture
def grid(database: Database) -> DataGrid:
    """A block queued from A to B; C has it too."""
    grid = DataGrid(database, "ABC")
    grid.link("AB", "CB")
    grid.produce(FILES)
    grid.subscribe("B")

    def unit(conn, now):
        allocating.allocate_dataset(conn, grid.dataset_id, now)
        replicas.begin_all(conn, [Begin(1, B), Begin(1, C)], now)
        replicas.complete_all(conn, {(1, C): 1}, now)
        conn.execute(update(block_dest).values(src_se_id=A))

    grid.do(unit)
    keys = grid.keys.take("transfer", FILES)
    grid.do(lambda conn, now: filling.fill(conn, filling.candidates(conn, {(A, B): FILES}, now), keys, now))
    return grid


def claim(grid: DataGrid, n: int = FILES) -> list[Claimed]:
    return grid.do(lambda conn, now: claiming.claim(conn, [Place(B, "me", {A: FILES, C: FILES}, n)], now))


def settle(
    grid: DataGrid, claimed: list[Claimed], kind: ErrorClass | None = None, error: str | None = None
) -> tries.Settled:
    done = [
        Try(claimed=one, link_id=100 * one.src + B, bytes=1, seconds=1.0, error_class=kind, error=error)
        for one in claimed
    ]
    policies = linkstates.policies(grid.settings)
    return grid.do(lambda conn, now: tries.settle(conn, done, {B: "me"}, now, policies))


def finish(grid: DataGrid) -> list[tuple[int, int]]:
    return grid.do(lambda conn, now: finishing.finish(conn, [(1, B)], now))


def cancel(grid: DataGrid) -> None:
    """The wish goes, and what there is of the replica."""

    def unit(conn, now):
        destinations.drop(conn, [(1, B)], now)
        replicas.mark_deleting_all(conn, [(1, B)])
        store.cancel(conn, [(1, B)], now)

    grid.do(unit)


def queues(grid: DataGrid) -> dict[tuple[int, int], Queue]:
    return grid.do(lambda conn, _: linkqueues.queues(conn))


def test_claims_and_moves_at_once_leave_each_file_on_one_link(grid: DataGrid) -> None:
    for src in (C, A, C, A):

        def move(src: int = src) -> int:
            def unit(conn, now):
                conn.execute(update(block_dest).values(src_se_id=src))
                return store.follow(conn, {(1, B)}, now)

            return grid.do(unit)

        claimed, moved = at_once(lambda: claim(grid, 5), move)
        assert len(claimed) <= 5
        assert moved <= FILES
        states = grid.rows(select(transfer.c.src_se_id, transfer.c.state, func.count()).group_by(*KINDS))
        assert sum(n for _, state, n in states if state is TransferState.ACTIVE) == len(claimed)
        grid.check()
        grid.do(lambda conn, now: claiming.abandon(conn, B, [], now))
        grid.check()


KINDS = (transfer.c.src_se_id, transfer.c.state)


def test_the_last_file_arrives_while_the_wish_goes(grid: DataGrid) -> None:
    settle(grid, claim(grid))
    completed, _ = at_once(lambda: finish(grid), lambda: cancel(grid))
    state = grid.replicas()[1, "B"]
    assert state is ReplicaState.DELETING
    assert completed in ([], [(1, B)])
    assert finish(grid) == []
    assert grid.count(transfer) == 0
    assert queues(grid) == {}
    grid.check()


def test_two_finish_and_one_does(grid: DataGrid) -> None:
    settle(grid, claim(grid))
    answers = at_once(lambda: finish(grid), lambda: finish(grid))
    assert sorted(map(len, answers)) == [0, 1]
    assert grid.replicas()[1, "B"] is ReplicaState.COMPLETE
    grid.check()


def test_replicas_at_several_places_are_finished_together(database: Database) -> None:
    """Two that are whole, and one that lacks a file: it stays as it is."""
    grid = DataGrid(database, "ABCD")
    grid.link("AB", "AC", "AD")
    grid.produce(FILES)
    for name in "BCD":
        grid.subscribe(name)
    places = (B, C, 4)

    def unit(conn, now):
        allocating.allocate_dataset(conn, grid.dataset_id, now)
        replicas.begin_all(conn, [Begin(1, se_id) for se_id in places], now)
        conn.execute(update(block_dest).values(src_se_id=A))

    grid.do(unit)
    room = {(A, se_id): FILES for se_id in places}
    keys = grid.keys.take("transfer", len(places) * FILES)
    grid.do(lambda conn, now: filling.fill(conn, filling.candidates(conn, room, now), keys, now))
    asked = [Place(se_id, "me", {A: FILES}, FILES) for se_id in places]
    claimed = grid.do(lambda conn, now: claiming.claim(conn, asked, now))
    done = [Try(claimed=one, link_id=100 * A + one.dst, bytes=1, seconds=1.0) for one in claimed[:-1]]
    marks, policies = dict.fromkeys(places, "me"), linkstates.policies(grid.settings)
    arrived = grid.do(lambda conn, now: tries.settle(conn, done, marks, now, policies)).arrived
    assert sorted(arrived) == [(1, se_id) for se_id in places]
    looks = grid.do(lambda conn, _: finishing.whole(conn, arrived))
    assert looks == [(1, B), (1, C)]
    # A repair elsewhere is the matter of who serves that place.
    elsewhere = update(block_dest).where(block_dest.c.se_id == places[-1])
    grid.do(lambda conn, _: conn.execute(elsewhere.values(repair=1)))
    assert grid.do(lambda conn, now: finishing.finish(conn, looks, now)) == looks
    grid.do(lambda conn, _: conn.execute(elsewhere.values(repair=0)))
    assert grid.replicas()[1, "D"] is ReplicaState.COPYING
    assert grid.count(transfer) == FILES
    grid.check()


def test_what_arrived_before_a_crash_is_finished_by_the_heir(grid: DataGrid) -> None:
    """The agent dies after it has written down the last file, before it looks whether it was."""
    settle(grid, claim(grid))
    assert grid.replicas()[1, "B"] is ReplicaState.COPYING
    heir = grid.worker("heir", ["transfer_agent"])
    heir.take()
    assert heir.cycle("transfer_agent")["completed"] == 1
    assert grid.replicas()[1, "B"] is ReplicaState.COMPLETE
    assert f"{SHARD}T2_B" in heir.held
    heir.close()
    grid.check()


def workers(grid: DataGrid) -> tuple[Worker, Worker]:
    """One that has the leases, and its heir, who takes them."""
    old, heir = (grid.worker(name, ["transfer_agent"]) for name in ("old", "heir"))
    old.take()
    return old, heir


def test_who_has_lost_its_lease_claims_nothing(grid: DataGrid) -> None:
    old, heir = workers(grid)
    heir.take(from_the_dead=True)
    assert not any(old.cycle("transfer_agent").values())
    assert grid.rows(select(transfer.c.state).distinct()) == [(TransferState.QUEUED,)]
    old.close()
    heir.close()


def test_who_loses_its_lease_while_it_copies_writes_nothing_down(
    grid: DataGrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, heir = workers(grid)
    copy = grid.tool.copy

    def slow(*args, **options):
        heir.take(from_the_dead=True)
        return copy(*args, **options)

    counts = Counter[str]()
    with monkeypatch.context() as patch:
        patch.setattr(grid.tool, "copy", slow)
        # A cycle does not wait for its copies for good.
        while not counts["claimed"] or counts["stale"] + counts["done"] < counts["claimed"]:
            counts.update(old.cycle("transfer_agent"))
    assert counts["done"] == counts["completed"] == 0
    heir.run()
    assert grid.replicas()[1, "B"] is ReplicaState.COMPLETE
    old.close()
    heir.close()
    grid.check()


def test_who_loses_its_lease_before_it_finishes_leaves_that_to_its_heir(
    grid: DataGrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle(grid, claim(grid))
    old, heir = workers(grid)
    looked, look, transaction = list[int](), finishing.whole, grid.database.transaction

    def seen(conn, keys):
        looked.append(1)
        return look(conn, keys)

    def late(unit):
        if looked:
            looked.clear()
            heir.take(from_the_dead=True)
        return transaction(unit)

    with monkeypatch.context() as patch:
        patch.setattr(finishing, "whole", seen)
        patch.setattr(grid.database, "transaction", late)
        assert old.cycle("transfer_agent")["completed"] == 0
    assert grid.replicas()[1, "B"] is ReplicaState.COPYING
    assert heir.cycle("transfer_agent")["completed"] == 1
    old.close()
    heir.close()
    grid.check()


def test_counts_of_an_older_release_are_put_right_at_takeover(grid: DataGrid) -> None:
    claim(grid, 3)
    grid.do(lambda conn, now: linkqueues.change(conn, {(A, B): Queue(-5, -1, -2)}, now))
    grid.do(lambda conn, now: claiming.abandon(conn, B, [], now))
    assert queues(grid)[A, B].files == FILES
    assert queues(grid)[A, B].active == 0
    grid.check()


def test_a_file_found_bad_at_its_source_is_noted_there(grid: DataGrid) -> None:
    (one, other) = claim(grid, 2)
    done = [
        Try(
            claimed=each,
            link_id=102,
            error_class=ErrorClass.SOURCE_MISSING,
            error="gone",
            fault=fault,
        )
        for each, fault in ((one, FileFault.MISSING), (other, None))
    ]
    assert grid.do(lambda conn, now: finishing.spoil(conn, done, now)) == 1
    (found,) = grid.do(lambda conn, _: exceptions.of_blocks(conn, [1]))
    assert (found.se_id, found.file_id, found.kind, found.note) == (A, one.file_id, FileFault.MISSING, "gone")


def test_whatever_a_tool_says_is_written_down(grid: DataGrid) -> None:
    """NUL and halves of characters, as names of files may hold, are no text to a database."""
    (one,) = claim(grid, 1)
    odd = "no such file: /data/\0\udcff.root"
    assert settle(grid, [one], ErrorClass.CONNECTION_LOST, odd).retry == 1
    (error,) = grid.do(lambda conn, _: linkerrors.errors(conn))
    (row,) = grid.do(lambda conn, _: store.transfers(conn, state=TransferState.RETRY_WAIT))
    assert error.sample == row.error == "no such file: /data/ ?.root"
    spoilt = Try(
        claimed=one, link_id=102, error_class=ErrorClass.SOURCE_MISSING, error=odd, fault=FileFault.BAD
    )
    assert grid.do(lambda conn, now: finishing.spoil(conn, [spoilt], now)) == 1


def test_errors_are_counted_by_link_and_class(grid: DataGrid) -> None:
    claimed = claim(grid)
    settle(grid, claimed[:3], ErrorClass.PERMISSION_DENIED, error="no")
    settle(grid, claimed[3:4], ErrorClass.DEST_FULL, error="full")
    settle(grid, claimed[4:5], ErrorClass.PERMISSION_DENIED, error="still no")
    first, second = sorted(grid.do(lambda conn, _: linkerrors.errors(conn)), key=lambda one: one.n)
    assert (first.error_class, first.n, first.owner) == ("DEST_FULL", 1, Owner.DESTINATION)
    assert (second.n, second.owner, second.sample) == (4, Owner.CREDENTIALS, "still no")
    assert (second.src, second.dst, second.file_id) == ("T2_A", "T2_B", claimed[4].file_id)
    states = dict(grid.rows(select(transfer.c.id, transfer.c.state)))
    assert states[claimed[3].id] is TransferState.FAILED
    assert states[claimed[0].id] is TransferState.RETRY_WAIT
    assert grid.rows(select(block_replica.c.state).where(block_replica.c.se_id == B)) == [("COPYING",)]
    grid.check()
