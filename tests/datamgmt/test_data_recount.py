"""What wanted replicas carry, what allocation has to look at, and the invariants that would find it wrong."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from grids.data_grid import DataGrid
from sqlalchemy import Connection, delete, insert, update

from catalogs import recount as catalogue_recount
from catalogs import replicas
from catalogs.replicas import Begin
from catalogs.states import ReplicaState
from catalogs.tables import block_replica, data_file, dataset
from datamgmt import recount
from datamgmt.invariants import INVARIANTS
from datamgmt.subscription_states import SubscriptionState
from datamgmt.subscriptions import allocating, store
from datamgmt.tables import ALL_QUEUED, block_dest, route_via, subscription, transfer
from gridcore.db import Database
from gridcore.db.invariants import violations
from gridcore.tables import quota

A, B, C = 1, 2, 3


@pytest.fixture
def grid(database: Database) -> DataGrid:
    """A block of two files at A, on its way to B."""
    grid = DataGrid(database, "ABC")
    grid.link("AB", "BC")
    grid.produce(2)
    grid.subscribe("B")
    grid.do(lambda conn, now: allocating.allocate_dataset(conn, grid.dataset_id, now))
    grid.do(lambda conn, now: replicas.begin_all(conn, [Begin(1, B)], now))
    return grid


def unsettled(grid: DataGrid) -> list[int]:
    return [key for (key,) in grid.rows(dataset.select().with_only_columns(dataset.c.unsettled))]


def test_allocation_settles_a_dataset_until_its_subscriptions_change(grid: DataGrid) -> None:
    def allocate() -> list[int]:
        grid.do(lambda conn, now: allocating.allocate_dataset(conn, grid.dataset_id, now))
        return unsettled(grid)

    assert unsettled(grid) == [0]
    key = grid.subscribe("C")
    assert unsettled(grid) == [1]
    assert allocate() == [0]
    for act in (store.suspend, store.resume, store.unsubscribe):
        assert grid.do(lambda conn, now, act=act: act(conn, key, "anna", now))
        assert unsettled(grid) == [1]
        assert allocate() == [0]


def test_wanted_replicas_carry_their_blocks_sizes(grid: DataGrid) -> None:
    sizes = block_dest.select().with_only_columns(block_dest.c.files, block_dest.c.bytes)
    (known,) = grid.rows(sizes)
    assert known[0] == 2
    grid.do(lambda conn, _: conn.execute(update(block_dest).values(files=0, bytes=0)))
    assert grid.do(lambda conn, _: recount.mend(conn)) == {"wanted_sizes": 1}
    assert grid.do(lambda conn, _: recount.mend(conn)) == {}
    assert grid.rows(sizes) == [known]


def test_what_an_older_release_has_ended_is_wanted_no_longer(grid: DataGrid) -> None:
    ended = update(subscription).values(state=SubscriptionState.REMOVED)
    grid.do(lambda conn, _: conn.execute(ended))
    assert unsettled(grid) == [0]
    assert grid.do(lambda conn, _: recount.mend(conn)) == {"unseen_datasets": 1}
    grid.do(lambda conn, now: allocating.allocate_dataset(conn, grid.dataset_id, now))
    assert grid.count(block_dest) == 0
    assert grid.replicas()[1, "B"] is ReplicaState.DELETING
    assert grid.do(lambda conn, _: recount.mend(conn)) == {}


def test_limits_count_the_room_that_is_kept(grid: DataGrid) -> None:
    limit = {"id": 1, "owner": "transit:T2_B", "limit_value": 10, "used_value": 0}
    via = {"block_id": 1, "via_se_id": B, "pos": 1, "bytes": 7, "lease_until": grid.clock.now()}
    grid.do(lambda conn, _: conn.execute(insert(quota), limit))
    rooms = [{**via, "se_id": B}, {**via, "se_id": C}]
    grid.do(lambda conn, _: conn.execute(insert(route_via), rooms))
    assert grid.do(lambda conn, _: recount.mend(conn)) == {"transit": 1}
    assert grid.rows(quota.select().with_only_columns(quota.c.used_value)) == [(7,)]
    grid.do(lambda conn, _: conn.execute(delete(route_via)))
    assert grid.do(lambda conn, _: recount.mend(conn)) == {"transit": 1}


Break = Callable[[Connection], object]
COPY = {"block_id": 1, "dst_se_id": B, "src_se_id": A, "bytes": 1, "priority": 0, "state": "QUEUED"}


def transfer_of(file_id: int) -> Break:
    def act(conn: Connection) -> None:
        moments = {"created_at": conn_time(conn), "updated_at": conn_time(conn)}
        conn.execute(insert(transfer), {"id": 1, "file_id": file_id, **COPY, **moments})

    return act


def conn_time(conn: Connection) -> object:
    return conn.execute(block_dest.select()).first().created_at  # type: ignore[union-attr]


def completed(conn: Connection) -> None:
    """B becomes complete behind everybody's back, a file still on its way."""
    transfer_of(1)(conn)
    conn.execute(update(block_replica).values(state=ReplicaState.COMPLETE, hops=1))


def passing(conn: Connection) -> None:
    lease = conn_time(conn)
    conn.execute(
        insert(route_via), {"block_id": 1, "se_id": C, "via_se_id": B, "pos": 1, "lease_until": lease}
    )


def in_transit(conn: Connection) -> None:
    conn.execute(update(block_replica).where(block_replica.c.se_id == B).values(transit=1))


BREAKS: dict[str, tuple[Break, set[str]]] = {
    "complete": (completed, {"complete and wanted", "done but missing"}),
    "repair": (lambda conn: (completed(conn), conn.execute(update(block_dest).values(repair=1))), set()),
    "stranger": (transfer_of(99), {"transfer of no file"}),
    "source": (lambda conn: conn.execute(update(block_dest).values(src_se_id=C)), {"broken route"}),
    "no link": (
        lambda conn: conn.execute(update(block_dest).values(src_se_id=A, se_id=C)),
        {"broken route", "unwanted copy"},
    ),
    "unwanted": (lambda conn: conn.execute(delete(block_dest)), {"unwanted copy"}),
    "left in transit": (lambda conn: (in_transit(conn), conn.execute(delete(block_dest))), set()),
    "first stop": (
        lambda conn: (in_transit(conn), conn.execute(update(block_dest).values(se_id=C, via_se_id=B))),
        {"unwanted copy"},
    ),
    "queued": (
        lambda conn: conn.execute(update(block_dest).values(cursor_id=ALL_QUEUED)),
        {"nothing to copy"},
    ),
    "size": (lambda conn: conn.execute(update(block_dest).values(bytes=1)), {"wanted sizes"}),
    "nobody": (lambda conn: conn.execute(delete(subscription)), {"wanted by nobody"}),
    "passing": (passing, {"route of nothing"}),
    "file": (
        lambda conn: (transfer_of(1)(conn), conn.execute(update(data_file).values(block_id=7))),
        {"transfer of no file"},
    ),
}


class _Undone(Exception):
    """So that nothing of a broken state stays."""


@pytest.mark.parametrize("name", BREAKS)
def test_what_must_not_be_is_found(grid: DataGrid, name: str) -> None:
    breaks, expected = BREAKS[name]
    found: set[str] = set()

    def unit(conn: Connection, _: object) -> None:
        breaks(conn)
        found.update(one.name for one in violations(conn, INVARIANTS))
        raise _Undone

    with pytest.raises(_Undone):
        grid.do(unit)
    assert found == expected
    assert grid.do(lambda conn, _: catalogue_recount.drift(conn)) == {}
