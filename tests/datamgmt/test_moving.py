"""Moves: the other copies go once all is at the target, and never the last one, whatever comes in between."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta

import pytest
from grids.data_grid import DataGrid, Worker
from sqlalchemy import select

from catalogs import bookkeeping, replicas
from catalogs.states import ReplicaState
from catalogs.tables import block
from datamgmt.deletion_states import DeletionState
from datamgmt.reasons import Reason
from datamgmt.subscriptions import moving, store
from datamgmt.tables import deletion
from gridcore.db import Database

HOUR = timedelta(hours=1)


@pytest.fixture
def grid(database: Database) -> DataGrid:
    grid = DataGrid(database, "ABC", **{"subscription.move_grace_s": 0, "deletion.undelete_s": 0})
    grid.link("AB", "AC", "BC")
    grid.produce(3)
    return grid


@pytest.fixture
def worker(grid: DataGrid) -> Iterator[Worker]:
    with ExitStack() as stack:
        made = grid.worker()
        stack.callback(made.close)
        yield made


def close(grid: DataGrid) -> None:
    grid.do(lambda conn, now: bookkeeping.close_dataset(conn, grid.dataset_id, "anna", now))


def let_go(grid: DataGrid, key: int, *, decides: bool = True) -> moving.Moved:
    keys = grid.keys.take("deletion", 5)

    def unit(conn: object, now: object) -> moving.Moved:
        return moving.let_go(conn, key, keys, lambda *_: decides, now, HOUR)  # type: ignore[arg-type]

    return grid.do(unit)  # type: ignore[no-any-return]


def asked(grid: DataGrid) -> list[tuple[object, ...]]:
    columns = deletion.c
    rows = select(columns.block_id, columns.se_id, columns.state, columns.code).order_by(columns.block_id)
    return grid.rows(rows)


def over(grid: DataGrid) -> list[int]:
    return grid.do(lambda conn, now: moving.over(conn, now, HOUR))  # type: ignore[no-any-return]


def test_a_move_is_over_when_nothing_can_come_and_its_time_of_grace_is(
    grid: DataGrid, worker: Worker
) -> None:
    key = grid.subscribe("B", move=True)
    worker.run()
    grid.clock.advance(7200)
    assert over(grid) == [], "the dataset may grow"
    close(grid)
    assert over(grid) == [key]
    assert grid.replicas() == {(1, "A"): ReplicaState.COMPLETE, (1, "B"): ReplicaState.COMPLETE}


def test_the_sources_are_asked_away_and_the_move_is_an_ordinary_subscription(
    grid: DataGrid, worker: Worker
) -> None:
    key = grid.subscribe("B", move=True)
    worker.run()
    close(grid)
    assert let_go(grid, key) == moving.Moved(1, (1, 1))
    assert asked(grid) == [(1, 1, DeletionState.APPROVED, Reason.MOVED)]
    assert let_go(grid, key) == moving.Moved(0)
    assert not grid.do(lambda conn, _: store.one(conn, key)).move


def test_where_others_decide_they_are_only_asked(grid: DataGrid, worker: Worker) -> None:
    key = grid.subscribe("B", move=True)
    worker.run()
    close(grid)
    let_go(grid, key, decides=False)
    assert [row[2] for row in asked(grid)] == [DeletionState.ASKED]


def test_a_new_subscription_at_a_source_wins(grid: DataGrid, worker: Worker) -> None:
    key = grid.subscribe("B", move=True)
    worker.run()
    close(grid)
    grid.subscribe("A")
    assert let_go(grid, key) == moving.Moved(0)
    assert asked(grid) == []


def test_a_custodial_copy_stays(grid: DataGrid, worker: Worker) -> None:
    key = grid.subscribe("B", move=True)
    worker.run()
    close(grid)
    grid.do(lambda conn, _: replicas.set_custodial_all(conn, {(1, 1): True}))
    assert let_go(grid, key) == moving.Moved(0)


def test_a_move_that_has_something_new_to_bring_lets_nothing_go(grid: DataGrid, worker: Worker) -> None:
    key = grid.subscribe("B", move=True)
    worker.run()
    grid.produce(1, first=3)
    worker.cycle("block_manager")
    assert let_go(grid, key) == moving.Moved(0)
    assert grid.do(lambda conn, _: store.one(conn, key)).move


def test_two_moves_at_once_leave_a_copy_of_everything(grid: DataGrid, worker: Worker) -> None:
    """One to B and one to C: neither target's copy goes, and the source does."""
    keys = [grid.subscribe(name, move=True) for name in "BC"]
    worker.run()
    grid.produce(2, first=3)
    worker.run()
    close(grid)
    for key in keys:
        let_go(grid, key)
    blocks = {row[0] for row in grid.rows(select(block.c.id))}
    held = {(number, name) for number, name in grid.replicas() if name in "BC"}
    assert held == {(number, name) for number in blocks for name in "BC"}
    assert {row[1] for row in asked(grid)} == {grid.ids["A"]}


def test_the_agents_finish_a_move(grid: DataGrid, worker: Worker) -> None:
    grid.subscribe("B", move=True)
    close(grid)
    worker.run(rounds=20)
    assert grid.replicas()[1, "B"] is ReplicaState.COMPLETE
    assert [row[:2] for row in asked(grid)] == [(1, 1)]
