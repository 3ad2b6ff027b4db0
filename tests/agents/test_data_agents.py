"""The data agents together: blocks on their way over one hop and several, through faults and takeovers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from grids.data_grid import DataGrid, Worker, content
from sqlalchemy import select, update

from catalogs import bookkeeping, sites
from catalogs.states import ReplicaState, Switch, WishState
from catalogs.tables import block, block_replica, se
from datamgmt.links import linkstates
from datamgmt.reasons import Reason
from datamgmt.subscription_states import SubscriptionState
from datamgmt.subscriptions import store
from datamgmt.tables import block_dest, link_state, subscription_history, transfer
from datamgmt.tools.fake import FaultyTool
from datamgmt.tools.local import LocalTool
from datamgmt.transfer_states import TransferState
from gridcore.db import Database, insert_rows
from gridcore.faults import FaultJournal, FaultPlan
from gridcore.tables import quota

MakeWorker = Callable[..., Worker]


@pytest.fixture
def start() -> Iterator[MakeWorker]:
    """Starts workers; all are closed in the end."""
    with ExitStack() as stack:

        def make(grid: DataGrid, *args: object, **options: object) -> Worker:
            worker = grid.worker(*args, **options)  # type: ignore[arg-type]
            stack.callback(worker.close)
            return worker

        yield make


def test_a_block_travels_one_hop(database: Database, start: MakeWorker) -> None:
    grid = DataGrid(database)
    grid.link("AB")
    grid.produce(5)
    grid.subscribe("B")
    total = start(grid).run()
    assert set(grid.replicas().values()) == {ReplicaState.COMPLETE}
    assert total["done"] == 5
    assert grid.count(transfer) == grid.count(block_dest) == 0
    assert {grid.pfn("B", grid.lfn(n)) for n in range(5)} <= grid.tool.files.keys()


def test_a_block_travels_three_hops_and_leaves_nothing_behind(database: Database, start: MakeWorker) -> None:
    grid = DataGrid(database)
    grid.link("AB", "BC", "CD")
    grid.produce(3)
    grid.subscribe("D")
    total = start(grid).run()
    assert {name for _, name in grid.replicas()} == {"A", "D"}
    assert total["done"] == 9
    assert grid.count(transfer) == grid.count(block_dest) == 0
    assert not [pfn for pfn in grid.tool.files if "/B/" in pfn or "/C/" in pfn]


def test_a_complete_replica_counts_its_hops(database: Database, start: MakeWorker) -> None:
    grid = DataGrid(database)
    grid.link("AB", "BC")
    grid.produce(2)
    grid.subscribe("C")
    start(grid).run()
    found = grid.rows(select(block_replica.c.se_id, block_replica.c.hops).order_by(block_replica.c.se_id))
    assert found == [(grid.ids["A"], 0), (grid.ids["C"], 2)]


def test_a_corrupted_copy_is_caught_and_repeated(
    database: Database, start: MakeWorker, tmp_path: Path
) -> None:
    grid = DataGrid(database, root=tmp_path / "grid")
    plan = FaultPlan(7, FaultJournal(tmp_path / "faults.jsonl"))
    grid.tool = FaultyTool(LocalTool(lambda: [tmp_path / "grid"]), plan, share=0.5)
    grid.tools = {"fake": grid.tool}
    grid.link("AB", "BC")
    grid.produce(6)
    grid.subscribe("C")
    total = start(grid).run()
    assert total["retry"] > 0
    assert {name for _, name in grid.replicas()} == {"A", "C"}
    for number in range(6):
        assert Path(grid.pfn("C", grid.lfn(number))).read_bytes() == content(number)
        assert not Path(grid.pfn("B", grid.lfn(number))).exists()
    with database.snapshot() as conn:
        lines = linkstates.overview(conn, grid.clock.now(), linkstates.policies(grid.settings).link)
    assert sum(one.files_bad for one in lines) == total["retry"]
    assert sum(one.files_ok for one in lines) == 12
    assert any(one.last_error for one in lines)


def test_a_link_that_goes_is_gone_round(database: Database, start: MakeWorker) -> None:
    grid = DataGrid(database)
    grid.link("AB", "BD", "AC")
    grid.link("CD", distance=50)
    grid.produce(8)
    grid.subscribe("D")
    worker = start(grid)
    worker.take()
    worker.cycle("block_manager")
    worker.cycle("router")
    _, params = grid.word("D")
    assert params["path"] == [grid.ids[name] for name in "ABD"]
    grid.do(lambda conn, _: sites.set_link_state(conn, 100 * 2 + 4, Switch.DISABLED, "fibre cut"))
    worker.run()
    assert {name for _, name in grid.replicas()} == {"A", "D"}
    assert grid.rows(select(link_state.c.files_ok).where(link_state.c.link_id == 100 * 3 + 4)) == [(8,)]


def test_a_failing_link_is_parked_and_probed_until_it_is_well(database: Database, start: MakeWorker) -> None:
    grid = DataGrid(database, "AB")
    grid.link("AB")
    grid.produce(6)
    grid.subscribe("B")
    grid.tool.silent.add(f"{grid.root}/B")
    worker = start(grid)
    worker.run(rounds=15)
    code, _ = grid.word("B")
    assert code in (Reason.LINK_PARKED, Reason.PROBE, Reason.HOP_EXCLUDED)
    assert grid.rows(select(transfer.c.id).where(transfer.c.state == TransferState.DONE)) == []
    grid.tool.silent.clear()
    worker.run(rounds=400, step_s=5)
    assert grid.replicas()[1, "B"] is ReplicaState.COMPLETE


def test_a_file_copied_but_not_recorded_is_only_verified(database: Database, start: MakeWorker) -> None:
    """The agent dies between copy and finish: its successor finds the files there."""
    grid = DataGrid(database, "AB")
    grid.link("AB")
    grid.produce(2)
    grid.subscribe("B")
    first = start(grid, "first")
    first.take()
    first.cycle("block_manager")
    first.cycle("router")
    agent = first.agents["transfer_agent"]
    agent._write = lambda *_: None  # type: ignore[attr-defined]
    first.cycle("transfer_agent")
    assert grid.rows(select(transfer.c.state)) == [(TransferState.ACTIVE,)] * 2
    copies = grid.tool._tries.total()
    second = start(grid, "second")
    second.take(from_the_dead=True)
    total = second.run()
    assert total["abandoned"] == 2
    assert grid.replicas()[1, "B"] is ReplicaState.COMPLETE
    assert grid.tool._tries.total() == copies == 2


def test_a_dead_agents_late_word_is_dropped(database: Database, start: MakeWorker) -> None:
    grid = DataGrid(database, "AB")
    grid.link("AB")
    grid.produce(2)
    grid.subscribe("B")
    first, second = start(grid, "first"), start(grid, "second")
    first.take()
    first.cycle("block_manager")
    first.cycle("router")
    agent = first.agents["transfer_agent"]
    write = agent._write  # type: ignore[attr-defined]

    def late(*args: object) -> None:
        second.take(from_the_dead=True)
        second.run()
        write(*args)

    agent._write = late  # type: ignore[attr-defined]
    stale = [first.cycle("transfer_agent").get("stale", 0) for _ in range(2)]
    assert sum(stale) == 2
    assert grid.rows(select(link_state.c.files_ok)) == [(2,)]


def test_two_transfer_agents_copy_each_file_once(database: Database, start: MakeWorker) -> None:
    grid = DataGrid(database)
    grid.link("AB", "AC", "AD")
    grid.produce(8)
    for name in "BCD":
        grid.subscribe(name)
    planner = start(grid, "planner", ["block_manager", "router"])
    pair = [start(grid, name, ["transfer_agent"]) for name in ("one", "two")]
    planner.take()
    for _ in range(20):
        planner.round()
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda worker: (worker.take(), worker.cycle("transfer_agent")), pair))
        grid.check()
        grid.clock.advance(1)
    assert sum(grid.tool._tries.values()) == 24
    assert sum(row[0] for row in grid.rows(select(link_state.c.files_ok))) == 24
    assert {name for _, name in grid.replicas()} == set("ABCD")


def test_what_nobody_wants_any_more_is_stopped_and_removed(database: Database, start: MakeWorker) -> None:
    grid = DataGrid(database, "ABC", **{"transfer.queue_max": 4})
    grid.link("AB", "BC")
    grid.produce(12)
    key = grid.subscribe("C")
    worker = start(grid)
    for _ in range(2):
        worker.round()
    assert len(grid.replicas()) > 1
    grid.do(lambda conn, now: store.unsubscribe(conn, key, "anna", now))
    worker.run()
    assert grid.replicas() == {(1, "A"): ReplicaState.COMPLETE}
    assert grid.count(transfer) == grid.count(block_dest) == 0
    assert not [pfn for pfn in grid.tool.files if "/A/" not in pfn]


def test_transit_space_is_waited_for(database: Database, start: MakeWorker) -> None:
    grid = DataGrid(database, "ABC")
    grid.link("AB", "BC")
    grid.produce(3)
    size = grid.rows(select(block.c.bytes))[0][0]
    limit = {"id": 1, "owner": "transit:T2_B", "limit_value": size - 1, "used_value": 0}
    grid.do(lambda conn, _: insert_rows(conn, quota, [limit]))
    grid.subscribe("C")
    worker = start(grid)
    worker.run()
    code, params = grid.word("C")
    assert (code, params["free"]) == (Reason.NO_TRANSIT_SPACE, size - 1)
    grid.do(lambda conn, _: conn.execute(update(quota).values(limit_value=size)))
    grid.clock.advance(60)
    worker.run()
    assert {name for _, name in grid.replicas()} == {"A", "C"}


def test_a_transit_copy_that_is_subscribed_stays(database: Database, start: MakeWorker) -> None:
    grid = DataGrid(database, "ABC")
    grid.link("AB", "BC")
    grid.produce(6)
    grid.subscribe("C")
    worker = start(grid)
    for _ in range(2):
        worker.round()
    grid.subscribe("B", custodial=True)
    worker.run()
    assert {name for _, name in grid.replicas()} == set("ABC")
    found = select(block_replica.c.transit, block_replica.c.custodial).where(block_replica.c.se_id == 2)
    assert grid.rows(found) == [(0, 1)]


def test_a_place_wish_is_served_once_all_is_there(database: Database, start: MakeWorker) -> None:
    grid = DataGrid(database, "AB")
    grid.link("AB")
    wish_id = grid.place("B", custodial=True)
    worker = start(grid)
    worker.round()
    assert grid.wish(wish_id) == (WishState.OPEN, Reason.NO_CLOSED_BLOCK)
    grid.produce(2)
    worker.run()
    assert grid.wish(wish_id) == (WishState.OPEN, Reason.DELIVERED)
    grid.produce(2, first=2, close=False)
    grid.do(lambda conn, now: bookkeeping.close_dataset(conn, grid.dataset_id, "test", now))
    worker.run()
    assert grid.wish(wish_id)[0] is WishState.SERVED
    assert list(grid.replicas().values()) == [ReplicaState.COMPLETE] * 4
    (row,) = grid.do(lambda conn, _: store.subscriptions(conn))
    assert (row.state, row.code, row.custodial) == (SubscriptionState.COMPLETE, Reason.DELIVERED, True)
    history = select(subscription_history.c.dst).order_by(subscription_history.c.seq)
    active, complete = SubscriptionState.ACTIVE, SubscriptionState.COMPLETE
    assert [state for (state,) in grid.rows(history)] == [active, complete, active, complete]


def test_a_delete_wish_removes_leftovers_but_nothing_registered(
    database: Database, start: MakeWorker
) -> None:
    grid = DataGrid(database, "AB")
    grid.link("AB")
    grid.produce(1)
    grid.store(grid.pfn("A", "/store/unmerged/left.root"), b"left")
    left, absent, mine = (
        grid.wish_away("A", lfn) for lfn in ("/store/unmerged/left.root", "/store/no/where", grid.lfn(0))
    )
    start(grid).run()
    assert grid.wish(left)[0] is grid.wish(absent)[0] is WishState.SERVED
    assert grid.wish(mine) == (WishState.REFUSED, Reason.REGISTERED)
    assert set(grid.tool.files) == {grid.pfn("A", grid.lfn(0))}
    silent = grid.wish_away("B", "/store/unmerged/late.root")
    grid.tool.silent.add(f"{grid.root}/B")
    start(grid, "other", ["deleter"]).take(from_the_dead=True)
    worker = start(grid, "third", ["deleter"])
    worker.take(from_the_dead=True)
    worker.round()
    assert grid.wish(silent) == (WishState.OPEN, Reason.STORAGE_ERROR)
    grid.tool.silent.clear()
    worker.run()
    assert grid.wish(silent)[0] is WishState.SERVED


def test_parts_of_dead_copies_are_swept(database: Database, start: MakeWorker, tmp_path: Path) -> None:
    grid = DataGrid(database, root=tmp_path)
    grid.tools = {"fake": LocalTool(lambda: [tmp_path])}
    grid.link("AB")
    old, fresh = (tmp_path / "A" / f"{name}.part-0123456789abcdef" for name in ("old", "fresh"))
    old.parent.mkdir()
    for part in (old, fresh):
        part.write_bytes(b"half")
    os.utime(old, (0, 0))
    root = update(se).where(se.c.id == grid.ids["A"]).values(root=str(old.parent))
    grid.do(lambda conn, _: conn.execute(root))
    worker = start(grid, kinds=["deleter"])
    worker.take()
    (duty,) = worker.agents["deleter"].duties()
    assert duty.act(worker.held["agent/deleter"]) == {"parts": 1}
    assert not old.exists()
    assert fresh.exists()
