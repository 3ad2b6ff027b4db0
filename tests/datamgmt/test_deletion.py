"""Deletion: what may go, what stays and why, and races for the last copy."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from grids.data_grid import DataGrid
from sqlalchemy import update

from catalogs import recount, replicas
from catalogs.replicas import Begin
from catalogs.states import ReplicaState
from catalogs.tables import block_replica
from datamgmt import allocating, deletion, subscriptions
from datamgmt.reasons import Reason
from datamgmt.tables import block_dest
from gridcore.db import Database


@pytest.fixture
def grid(database: Database) -> DataGrid:
    """Block 1 complete at A, B and C."""
    grid = DataGrid(database, "ABCD")
    grid.link("AB", "AD")
    grid.produce(2)
    for name in "BC":
        copy(grid, name)
    return grid


def copy(grid: DataGrid, name: str) -> None:
    se_id = grid.ids[name]
    grid.do(lambda conn, now: replicas.begin_all(conn, [Begin(1, se_id)], now))
    grid.do(lambda conn, now: replicas.complete_all(conn, se_id, {1: 1}, now))


def delete(grid: DataGrid, name: str, **options: bool) -> Reason | None:
    se_id = grid.ids[name]
    return grid.do(lambda conn, now: deletion.delete_replica(conn, 1, se_id, now, **options))  # type: ignore[no-any-return]


def test_all_but_the_last_replica_may_go(grid: DataGrid) -> None:
    assert delete(grid, "A") is None
    assert delete(grid, "B") is None
    assert delete(grid, "C") is Reason.LAST_REPLICA
    assert delete(grid, "D") is Reason.ABSENT
    assert [one.se_id for one in grid.do(lambda conn, _: deletion.doomed(conn, 10))] == [1, 2]
    assert [one.se_id for one in grid.do(lambda conn, _: deletion.doomed(conn, 10, (1, 1)))] == [2]
    assert grid.do(lambda conn, _: deletion.doomed(conn, 10, (1, 2))) == []
    grid.check()


def test_racing_deletes_keep_one_copy(grid: DataGrid) -> None:
    barrier = threading.Barrier(3)
    restored = update(block_replica).values(state=ReplicaState.COMPLETE)

    def order(name: str) -> Reason | None:
        barrier.wait(10)
        return delete(grid, name)

    for _ in range(5):
        with ThreadPoolExecutor(3) as pool:
            answers = list(pool.map(order, "ABC"))
        assert sorted(map(str, answers)) == ["LAST_REPLICA", "None", "None"]
        assert list(grid.replicas().values()).count(ReplicaState.COMPLETE) == 1
        grid.do(lambda conn, _: (conn.execute(restored), recount.mend(conn)))


def test_a_source_in_use_stays(grid: DataGrid) -> None:
    grid.subscribe("D")
    grid.do(lambda conn, now: allocating.allocate_dataset(conn, grid.dataset_id, now))
    grid.do(lambda conn, _: conn.execute(update(block_dest).values(src_se_id=1)))
    assert delete(grid, "A") is Reason.SOURCE_IN_USE
    assert delete(grid, "B") is None


def test_what_is_subscribed_or_custodial_stays(grid: DataGrid) -> None:
    key = grid.subscribe("B")
    grid.do(lambda conn, _: replicas.set_custodial_all(conn, {(1, grid.ids["C"]): True}))
    assert delete(grid, "B") is Reason.SUBSCRIBED
    assert delete(grid, "C") is Reason.LAST_CUSTODIAL
    assert delete(grid, "C", custodial_too=True) is None
    grid.do(lambda conn, now: subscriptions.unsubscribe(conn, key, "anna", now))
    assert delete(grid, "B") is None


def test_a_wish_may_name_a_file_nobody_counts_on(grid: DataGrid) -> None:
    def refused(kind: str, subject: str, name: str) -> Reason | None:
        return grid.do(lambda conn, _: deletion.refused_wish(conn, kind, subject, grid.ids[name]))  # type: ignore[no-any-return]

    assert refused("lfn", grid.lfn(0), "A") is Reason.REGISTERED
    assert refused("lfn", grid.lfn(0), "D") is None
    assert refused("lfn", "/store/unmerged/other.root", "A") is None
    assert refused("lfn", "/store/../etc/passwd", "A") is Reason.NOT_AN_LFN
    assert refused("dataset", "/a/b/C", "A") is Reason.NOT_AN_LFN
    delete(grid, "A")
    assert refused("lfn", grid.lfn(0), "A") is None
