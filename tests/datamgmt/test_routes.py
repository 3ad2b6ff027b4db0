"""Wanted replicas: allocation against the database, and which hops the router chooses to make."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from grids.data_grid import DataGrid
from sqlalchemy import select, update

from catalogs import replicas
from catalogs.states import ReplicaState
from catalogs.tables import block_replica
from datamgmt import allocating, destinations, hops, linkstates, routes, subscriptions
from datamgmt.hops import Changes, Dest, View
from datamgmt.reasons import Reason
from datamgmt.tables import block_dest
from gridcore.db import Database


@pytest.fixture
def grid(database: Database) -> DataGrid:
    grid = DataGrid(database)
    grid.link("AB", "BC", "CD")
    grid.produce(2)
    return grid


def allocate(grid: DataGrid) -> int:
    def unit(conn: object, now: datetime) -> int:
        todo = allocating.unsettled(conn, 10)  # type: ignore[arg-type]
        done = [allocating.allocate_dataset(conn, one, now) for one in todo]  # type: ignore[arg-type]
        return sum(one.changed for one in done)

    return grid.do(unit)  # type: ignore[no-any-return]


def view(grid: DataGrid) -> View:
    with grid.database.snapshot() as conn:
        return routes.view(conn)


def decide(grid: DataGrid, seen: View | None = None) -> Changes:
    policies = linkstates.policies(grid.settings)
    return hops.decide(seen or view(grid), grid.clock.now(), policies, lambda: 0.5)


def route(grid: DataGrid) -> int:
    changes = decide(grid)
    done = grid.do(lambda conn, now: routes.apply(conn, changes, now))
    grid.check()
    return done  # type: ignore[no-any-return]


def wanted(grid: DataGrid) -> list[tuple[object, ...]]:
    columns = (block_dest.c.se_id, block_dest.c.subscription_id, block_dest.c.src_se_id, block_dest.c.path)
    return grid.rows(select(*columns).order_by(block_dest.c.se_id))


def test_allocation_is_made_once(grid: DataGrid) -> None:
    key = grid.subscribe("D")
    assert allocate(grid) == 1
    assert allocate(grid) == 0
    assert wanted(grid) == [(4, key, None, None)]


def test_allocation_follows_changed_and_ended_subscriptions(grid: DataGrid) -> None:
    key = grid.subscribe("D")
    allocate(grid)
    grid.subscribe("D", custodial=True, priority=7)
    assert allocate(grid) == 1
    assert grid.rows(select(block_dest.c.custodial, block_dest.c.priority)) == [(1, 7)]
    grid.do(lambda conn, now: subscriptions.unsubscribe(conn, key, "anna", now))
    assert allocate(grid) == 1
    assert wanted(grid) == []


def test_a_suspended_subscription_keeps_its_row_and_gets_no_more(grid: DataGrid) -> None:
    key = grid.subscribe("D")
    allocate(grid)
    grid.do(lambda conn, now: subscriptions.suspend(conn, key, "anna", now))
    grid.produce(1, first=5)
    assert allocate(grid) == 0
    assert route(grid) == 1
    assert grid.rows(select(block_dest.c.code)) == [(Reason.SUSPENDED,)]
    assert route(grid) == 0


def test_what_has_partly_arrived_goes_with_its_subscription(grid: DataGrid) -> None:
    key = grid.subscribe("B", custodial=True)
    allocate(grid)
    route(grid)
    assert grid.replicas()[1, "B"] is ReplicaState.COPYING
    grid.do(lambda conn, now: subscriptions.unsubscribe(conn, key, "anna", now))
    allocate(grid)
    assert grid.replicas()[1, "B"] is ReplicaState.DELETING


def test_the_first_of_several_hops_is_a_transit_row(grid: DataGrid) -> None:
    key = grid.subscribe("D")
    allocate(grid)
    assert route(grid) == 2
    assert wanted(grid) == [(2, None, 1, [1, 2]), (4, key, None, [1, 2, 3, 4])]
    assert grid.replicas() == {(1, "A"): ReplicaState.COMPLETE, (1, "B"): ReplicaState.COPYING}
    assert route(grid) == 0


def test_a_transit_row_that_is_subscribed_becomes_a_real_one(grid: DataGrid) -> None:
    grid.subscribe("D")
    allocate(grid)
    route(grid)
    key = grid.subscribe("B")
    assert allocate(grid) == 1
    assert wanted(grid)[0] == (2, key, 1, [1, 2])
    assert grid.rows(select(block_replica.c.transit).where(block_replica.c.se_id == 2)) == [(0,)]
    assert route(grid) == 0


def arrive(grid: DataGrid, name: str) -> None:
    """As the transfer agent does when the last file is there."""

    def unit(conn: object, now: datetime) -> None:
        replicas.complete_all(conn, grid.ids[name], {1: 1}, now)  # type: ignore[arg-type]
        destinations.drop(conn, [(1, grid.ids[name])], now)  # type: ignore[arg-type]

    grid.do(unit)


def test_a_transit_copy_goes_when_no_route_passes_it_any_more(grid: DataGrid) -> None:
    grid.subscribe("D")
    allocate(grid)
    route(grid)
    arrive(grid, "B")
    route(grid)
    assert wanted(grid)[0] == (3, None, 2, [2, 3])
    arrive(grid, "C")
    route(grid)
    assert grid.replicas()[1, "B"] is ReplicaState.DELETING
    arrive(grid, "D")
    route(grid)
    assert grid.replicas()[1, "C"] is ReplicaState.DELETING
    assert grid.replicas()[1, "D"] is ReplicaState.COMPLETE


def test_a_transit_copy_waits_for_a_broken_link_but_not_for_ever(grid: DataGrid) -> None:
    grid.subscribe("D")
    allocate(grid)
    route(grid)
    arrive(grid, "B")
    seen = view(grid)
    broken = {key: one for key, one in seen.links.items() if key != (2, 3)}
    changes = decide(grid, replace(seen, links=broken))
    assert changes.release == []
    assert changes.words[1, 4].code == Reason.NO_PATH
    grid.clock.advance(linkstates.policies(grid.settings).transit_age / timedelta(seconds=1) + 1)
    assert decide(grid, replace(seen, links=broken)).release == [(1, 2)]


def test_a_spoilt_replica_is_no_source(grid: DataGrid) -> None:
    grid.subscribe("B")
    allocate(grid)
    changes = decide(grid, replace(view(grid), spoilt={(1, 1)}))
    assert changes.words[1, 2].code == Reason.NO_SOURCE


def test_a_hop_that_was_given_up_is_left_out_and_tried_again(grid: DataGrid) -> None:
    grid.subscribe("B")
    allocate(grid)
    route(grid)
    failed = {1: {(1, 2): grid.clock.now()}}
    changes = decide(grid, replace(view(grid), failed=failed))
    assert (changes.words[1, 2].code, changes.words[1, 2].src) == (Reason.HOP_EXCLUDED, None)
    exclusion = linkstates.policies(grid.settings).exclusion
    grid.clock.advance(2 * exclusion / timedelta(seconds=1) + 1)
    changes = decide(grid, replace(view(grid), failed=failed))
    assert (changes.words[1, 2].src, changes.again) == (1, {(1, 2)})


def test_kept_routes_count_in_the_transit_space(grid: DataGrid) -> None:
    grid.subscribe("D")
    allocate(grid)
    route(grid)
    seen = view(grid)
    size = seen.dests[0].size
    other = next(one for one in seen.dests if one.se_id == 4)
    second = replace(_fresh(other), block_id=9)
    sources = {**seen.replicas, 9: [replace(one, block_id=9) for one in seen.replicas[1] if one.se_id == 1]}
    both = replace(seen, dests=[*seen.dests, second], replicas=sources)
    assert decide(grid, replace(both, limits={3: 2 * size})).words[9, 4].code == Reason.ROUTED
    assert decide(grid, replace(both, limits={3: 2 * size - 1})).words[9, 4].code == Reason.NO_TRANSIT_SPACE
    assert decide(grid, replace(both, limits={2: 2 * size - 1})).words[9, 4].code == Reason.NO_TRANSIT_SPACE


def _fresh(one: Dest) -> Dest:
    return replace(one, word=hops.Word(code=Reason.ALLOCATED, params={}))


def test_a_suspended_replica_on_the_way_does_not_stop_the_others(grid: DataGrid) -> None:
    key = grid.subscribe("B")
    grid.subscribe("D")
    allocate(grid)
    grid.do(lambda conn, now: subscriptions.suspend(conn, key, "anna", now))
    route(grid)
    assert wanted(grid)[0][2:] == (1, [1, 2])
    assert route(grid) == 0


def test_a_change_that_came_too_late_is_not_made(grid: DataGrid) -> None:
    grid.subscribe("D")
    allocate(grid)
    changes = decide(grid)
    source = update(block_replica).where(block_replica.c.se_id == 1)
    grid.do(lambda conn, _: conn.execute(source.values(state=ReplicaState.COPYING)))
    assert grid.do(lambda conn, now: routes.apply(conn, changes, now)) == 1
    assert [row[2] for row in wanted(grid)] == [None]
    grid.do(lambda conn, _: conn.execute(source.values(state=ReplicaState.COMPLETE)))
