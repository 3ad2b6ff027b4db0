"""Repairs: faulty files are copied anew from good copies, and lost where there is none."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from datetime import timedelta

import pytest
from grids.data_grid import DataGrid, Worker, content
from sqlalchemy import select, update

from catalogs import exceptions, replicas
from catalogs.exceptions import FileFault
from catalogs.replicas import Begin
from catalogs.states import InvalidCode, ReplicaState
from catalogs.tables import block, block_replica, file_exception, invalid_file
from datamgmt.deletions import deletion, repairs
from datamgmt.deletions.deletion import Asker
from datamgmt.reasons import Reason
from datamgmt.tables import block_dest, transfer, transfer_error
from datamgmt.transfers import store
from datamgmt.transfers.filling import NOBODY, Chosen, fill
from gridcore.db import Database

HOUR = timedelta(hours=1)


@pytest.fixture
def grid(database: Database) -> DataGrid:
    """Block 1, of four files, complete at A, B and C."""
    grid = DataGrid(database, "ABC")
    grid.link("AB", "BA", "AC", "CA", "BC", "CB")
    grid.produce(4)
    for name in "BC":
        se_id = grid.ids[name]
        grid.do(lambda conn, now, se_id=se_id: replicas.begin_all(conn, [Begin(1, se_id)], now))
        grid.do(lambda conn, now, se_id=se_id: replicas.complete_all(conn, {(1, se_id): 1}, now))
        for number in range(4):
            grid.store(grid.pfn(name, grid.lfn(number)), content(number))
    return grid


@pytest.fixture
def worker(grid: DataGrid) -> Iterator[Worker]:
    made = grid.worker()
    yield made
    made.close()


def spoil(grid: DataGrid, name: str, *files: int, fault: FileFault = FileFault.MISSING) -> None:
    """The numbered files, by id from 1, are not there any more, or not what they were."""
    faults = dict.fromkeys(files, fault)
    grid.do(lambda conn, now: exceptions.add(conn, 1, grid.ids[name], faults, now))
    for file_id in files:
        pfn = grid.pfn(name, grid.lfn(file_id - 1))
        grid.tool.delete(pfn)
        if fault is FileFault.BAD:
            grid.store(pfn, b"nonsense")


def arrange(grid: DataGrid) -> int:
    return int(grid.do(repairs.arrange))


def give_up(grid: DataGrid) -> int:
    return int(grid.do(lambda conn, now: repairs.give_up(conn, now, HOUR)))


def well(grid: DataGrid, name: str, file_id: int) -> bool:
    data = content(file_id - 1)
    found = grid.tool.files.get(grid.pfn(name, grid.lfn(file_id - 1)))
    return found is not None and tuple(found)[:2] == (len(data), zlib.adler32(data))


@pytest.mark.parametrize("fault", list(FileFault))
def test_only_the_faulty_files_are_copied_anew(grid: DataGrid, worker: Worker, fault: FileFault) -> None:
    spoil(grid, "B", 2, 3, fault=fault)
    assert arrange(grid) == 1
    assert arrange(grid) == 0
    total = worker.run()
    assert total["done"] == 2
    assert well(grid, "B", 2)
    assert well(grid, "B", 3)
    assert grid.count(file_exception) == grid.count(block_dest) == grid.count(transfer) == 0
    assert set(grid.replicas().values()) == {ReplicaState.COMPLETE}
    assert arrange(grid) == 0


def test_the_block_manager_sees_to_it(grid: DataGrid, worker: Worker) -> None:
    spoil(grid, "B", 2)
    worker.take()
    duty = {one.name: one for one in worker.agents["block_manager"].duties()}["repair"]
    assert duty.act(worker.held["agent/block_manager"]) == {
        "repairs": 1,
        "lost": 0,
        "left_out": 0,
        "finished": 0,
    }
    worker.run()
    assert grid.count(file_exception) == 0


def test_faults_found_during_a_repair_are_mended_too(grid: DataGrid, worker: Worker) -> None:
    spoil(grid, "B", 3)
    arrange(grid)
    for kind in ("block_manager", "router"):
        worker.take()
        worker.cycle(kind)
    spoil(grid, "B", 1)
    for _ in range(3):
        worker.run()
        arrange(grid)
    assert grid.count(file_exception) == grid.count(block_dest) == 0
    assert well(grid, "B", 1)


def test_what_is_well_again_by_itself_is_wanted_no_more(grid: DataGrid) -> None:
    spoil(grid, "B", 2)
    arrange(grid)
    grid.do(lambda conn, _: exceptions.clear(conn, 1, grid.ids["B"], [2]))
    assert arrange(grid) == 1
    assert grid.count(block_dest) == 0


def test_a_replica_under_repair_may_go(grid: DataGrid, worker: Worker) -> None:
    spoil(grid, "B", 2)
    arrange(grid)
    grid.do(lambda conn, now: deletion.release(conn, [(1, grid.ids["B"])], now))
    assert grid.count(block_dest) == 0
    assert arrange(grid) == 0
    worker.run()
    assert {name for _, name in grid.replicas()} == {"A", "C"}


def test_what_is_to_go_is_not_repaired(grid: DataGrid) -> None:
    spoil(grid, "B", 2)
    by, going = Asker("admin", "physics", decides=True), [(1, grid.ids["B"])]
    grid.do(lambda conn, now: deletion.ask_all(conn, [1], going, by, now, undelete=timedelta(hours=1)))
    assert arrange(grid) == 0


def repair_all(grid: DataGrid, worker: Worker, rounds: int = 12) -> None:
    for _ in range(rounds):
        arrange(grid)
        worker.run(rounds=10)


def test_two_copies_with_other_bad_files_repair_each_other(grid: DataGrid, worker: Worker) -> None:
    grid.do(lambda conn, now: deletion.release(conn, [(1, grid.ids["C"])], now))
    worker.run()
    spoil(grid, "A", 1, 2)
    spoil(grid, "B", 3)
    repair_all(grid, worker)
    assert grid.count(file_exception) == grid.count(block_dest) == grid.count(transfer) == 0
    assert all(well(grid, name, one) for name in "AB" for one in (1, 2, 3, 4))


def test_each_missing_file_comes_from_where_it_is(grid: DataGrid, worker: Worker) -> None:
    spoil(grid, "A", 1, 2)
    spoil(grid, "B", 2, 3)
    spoil(grid, "C", 3, 1)
    repair_all(grid, worker)
    assert grid.count(file_exception) == grid.count(block_dest) == grid.count(transfer) == 0
    assert all(well(grid, name, one) for name in "ABC" for one in (1, 2, 3, 4))


def test_what_waits_follows_to_no_source_that_lacks_it_too(grid: DataGrid, worker: Worker) -> None:
    """The router has found another source, which has some of the files but not the one that waits."""
    spoil(grid, "A", 1, 2)
    spoil(grid, "B", 2)
    spoil(grid, "C", 1)
    arrange(grid)
    at_a = block_dest.c.se_id == grid.ids["A"]
    ends = {"src_se_id": grid.ids["B"], "cursor_id": 0}
    grid.do(lambda conn, _: conn.execute(update(block_dest).where(at_a).values(**ends)))
    hop = grid.ids["B"], grid.ids["A"]
    chosen = {hop: [Chosen(1, 4, 4, repairs.PRIORITY, NOBODY, True)]}
    keys = grid.keys.take("transfer", 4)
    assert grid.do(lambda conn, now: fill(conn, chosen, keys, now)) == 1
    grid.do(lambda conn, _: conn.execute(update(block_dest).where(at_a).values(src_se_id=grid.ids["C"])))
    assert grid.do(lambda conn, now: store.follow(conn, [(1, grid.ids["A"])], now)) == 1
    waits = select(transfer.c.file_id, transfer.c.src_se_id)
    assert grid.rows(waits) == [(1, grid.ids["C"])]
    assert grid.do(repairs.leave_out) == 1
    assert grid.rows(waits) == []
    repair_all(grid, worker)
    assert grid.count(transfer_error) == 0
    assert grid.count(file_exception) == grid.count(block_dest) == grid.count(transfer) == 0


def only_at_a(grid: DataGrid, worker: Worker) -> None:
    for name in "BC":
        key = [(1, grid.ids[name])]
        grid.do(lambda conn, now, key=key: deletion.release(conn, key, now))
    worker.run()
    assert grid.replicas() == {(1, "A"): ReplicaState.COMPLETE}


def lose(grid: DataGrid, *files: int) -> None:
    spoil(grid, "A", *files)
    grid.clock.advance(3601)
    assert give_up(grid) == len(files)


def test_a_block_with_lost_files_arrives_without_them(grid: DataGrid, worker: Worker) -> None:
    only_at_a(grid, worker)
    lose(grid, 2, 3)
    grid.subscribe("B")
    total = worker.run()
    assert total["done"] == 2
    assert grid.replicas()[1, "B"] is ReplicaState.COMPLETE
    assert grid.count(block_dest) == grid.count(transfer) == 0
    lacking = select(file_exception.c.file_id, file_exception.c.kind).where(
        file_exception.c.se_id == grid.ids["B"]
    )
    assert sorted(grid.rows(lacking)) == [(2, FileFault.MISSING), (3, FileFault.MISSING)]
    assert grid.rows(select(block.c.files)) == [(4,)]
    assert arrange(grid) == 0
    grid.check()


def test_files_lost_on_the_way_are_waited_for_no_longer(grid: DataGrid, worker: Worker) -> None:
    only_at_a(grid, worker)
    grid.subscribe("B")
    grid.tool.silent |= {grid.pfn("A", grid.lfn(2))}
    worker.take()
    for kind in ("block_manager", "router", "transfer_agent", "transfer_agent", "transfer_agent"):
        worker.cycle(kind)
    assert grid.replicas()[1, "B"] is ReplicaState.COPYING
    grid.tool.silent.clear()
    lose(grid, 3)
    duty = {one.name: one for one in worker.agents["block_manager"].duties()}["repair"]
    done = duty.act(worker.held["agent/block_manager"])
    assert (done["left_out"], done["finished"]) == (1, 1)
    assert grid.replicas()[1, "B"] is ReplicaState.COMPLETE
    assert grid.count(block_dest) == grid.count(transfer) == 0
    grid.check()


def test_of_a_block_all_files_of_which_are_lost_nothing_is_sent(grid: DataGrid, worker: Worker) -> None:
    only_at_a(grid, worker)
    lose(grid, 1, 2, 3, 4)
    grid.subscribe("B")
    worker.run(rounds=5)
    said = grid.rows(select(block_dest.c.code, block_dest.c.params))
    assert said == [(Reason.NO_SOURCE, {"dst": grid.ids["B"], "n": 4})]


def test_a_file_without_a_good_copy_is_lost_after_a_while(grid: DataGrid) -> None:
    for name in "AB":
        spoil(grid, name, 2, 3)
    grid.clock.advance(10**5)
    assert give_up(grid) == 0
    spoil(grid, "C", 2)
    assert arrange(grid) == 2
    grid.clock.advance(3599)
    assert give_up(grid) == 0
    grid.clock.advance(1)
    assert give_up(grid) == 1
    found = select(invalid_file.c.file_id, invalid_file.c.code)
    assert grid.rows(found) == [(2, InvalidCode.LOST)]
    assert give_up(grid) == 0


def test_the_last_good_copy_may_be_on_its_way(grid: DataGrid, worker: Worker) -> None:
    """A file that has arrived where its block is not complete yet is not lost."""
    for name in "BC":
        key = [(1, grid.ids[name])]
        grid.do(lambda conn, now, key=key: deletion.release(conn, key, now))
    worker.run()
    grid.subscribe("B")
    grid.tool.silent |= {grid.pfn("A", grid.lfn(number)) for number in (1, 2, 3)}
    worker.take()
    for kind in ("block_manager", "router", "transfer_agent", "transfer_agent"):
        worker.cycle(kind)
    assert grid.replicas()[1, "B"] is ReplicaState.COPYING
    spoil(grid, "A", 1)
    grid.clock.advance(3601)
    assert give_up(grid) == 0


def test_invalid_files_are_not_repaired(grid: DataGrid) -> None:
    for name in "ABC":
        spoil(grid, name, 2)
    grid.clock.advance(3600)
    assert give_up(grid) == 1
    assert arrange(grid) == 0
    assert grid.rows(select(block_replica.c.delete_at).distinct()) == [(None,)]
