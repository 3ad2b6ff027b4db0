"""Forecasts: what is there, and when the rest will be, from routes, queues and what links have shown."""

from __future__ import annotations

from datetime import timedelta

import pytest
from grids.data_grid import DataGrid
from sqlalchemy import select

from catalogs import bookkeeping
from datamgmt.links.linkstates import BIN, bin_of
from datamgmt.subscription_states import SubscriptionState
from datamgmt.subscriptions import forecasts, progress, store
from datamgmt.tables import link_bin, subscription, subscription_history
from gridapp import quotas as limits
from gridcore.db import Database, insert_rows

NOMINAL = 2.0


@pytest.fixture
def grid(database: Database) -> DataGrid:
    grid = DataGrid(database, "AB")
    grid.link("AB")
    grid.produce(4)
    return grid


def look(grid: DataGrid) -> tuple[object, ...]:
    def unit(conn: object, now: object) -> None:
        forecasts.write(conn, forecasts.outdated(conn, now, NOMINAL))  # type: ignore[arg-type]

    grid.do(unit)
    names = ("files_done", "bytes_done", "eta_p50", "eta_p90")
    (row,) = grid.rows(select(*(subscription.c[name] for name in names)))
    return row


def routed(grid: DataGrid) -> int:
    """The bytes of the block that is on its way."""
    worker = grid.worker(kinds=["block_manager", "router"])
    worker.take()
    worker.cycle("block_manager")
    worker.cycle("router")
    with grid.database.snapshot() as conn:
        return int(sum(row.bytes for row in conn.execute(forecasts.WANTED)))


def test_what_has_no_route_has_no_forecast(grid: DataGrid) -> None:
    grid.subscribe("B")
    assert look(grid) == (0, 0, None, None)


def test_what_waits_for_room_has_no_forecast_and_says_so(grid: DataGrid) -> None:
    """Though part of it is on its way."""
    grid.produce(5, first=4)
    with grid.database.snapshot() as conn:
        first, _ = (one.bytes for one in bookkeeping.closed_blocks(conn, grid.dataset_id))
    key = grid.keys.one("quota")
    grid.do(lambda conn, _: limits.put(conn, key, "space:T2_XX_B:physics", first))
    grid.subscribe("B")
    assert routed(grid) == first
    assert look(grid)[2:] == (None, None)
    ((state, code),) = grid.rows(select(subscription.c.state, subscription.c.code))
    assert forecasts.missing(state, code) == "no forecast yet, because some of it waits for room"
    assert "route" in str(forecasts.missing(state, None))
    assert forecasts.missing(SubscriptionState.COMPLETE, None) is None


def test_a_forecast_ends_with_what_it_was_for(grid: DataGrid) -> None:
    key = grid.subscribe("B")
    routed(grid)
    assert look(grid)[2] is not None
    grid.do(lambda conn, now: store.suspend(conn, key, "anna", now))
    assert grid.rows(select(subscription.c.eta_p50, subscription.c.eta_p90)) == [(None, None)]


@pytest.mark.parametrize("rate", [1e-9, 1e-3, 1.0, 1e15])
def test_whatever_the_rates_a_forecast_is_a_moment_to_come_or_none(grid: DataGrid, rate: float) -> None:
    grid.subscribe("B")
    routed(grid)
    found = grid.do(lambda conn, now: forecasts.outdated(conn, now, rate))
    for *_, p50, p90 in found:
        assert p50 is None or grid.clock.now() <= p50 <= p90
    assert (found[0][3] is None if found else True) == (rate < 1e-6)


def test_an_idle_link_counts_at_its_nominal_rate(grid: DataGrid) -> None:
    grid.subscribe("B")
    size = routed(grid)
    when = grid.clock.now() + timedelta(seconds=size / NOMINAL)
    assert look(grid) == (0, 0, when, when)


def test_what_a_link_has_shown_counts_more(grid: DataGrid) -> None:
    grid.subscribe("B")
    size = routed(grid)
    start = bin_of(grid.clock.now()) - 2 * BIN
    seconds = int(BIN.total_seconds())
    rows = [{"link_id": 102, "bin_start": start - n * BIN, "bytes_ok": seconds * (n + 1)} for n in range(2)]
    grid.do(lambda conn, _: insert_rows(conn, link_bin, rows))
    _, _, p50, p90 = look(grid)
    assert p50 == grid.clock.now() + timedelta(seconds=size / 1.5)
    assert p90 is not None
    assert p90 > p50  # type: ignore[operator]


def test_how_wrong_it_was_is_written_down_at_completion(grid: DataGrid) -> None:
    grid.subscribe("B")
    size = routed(grid)
    look(grid)
    worker = grid.worker()
    worker.take(from_the_dead=True)
    grid.clock.advance(1.5 * size / NOMINAL)
    worker.run()
    worker.close()
    grid.do(progress.review)
    columns = subscription_history.c
    codes = [
        row[0] for row in grid.rows(select(columns.code).where(columns.dst == SubscriptionState.COMPLETE))
    ]
    assert len(codes) == 1
    assert codes[0].startswith("ETA +")
    assert 50 <= int(codes[0][5:-1]) < 500
