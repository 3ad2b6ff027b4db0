"""Wanted replicas: allocation against the database, and which hops the router chooses to make."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from grids.data_grid import DataGrid
from sqlalchemy import Connection, select, update

from catalogs import replicas, sites
from catalogs.states import ReplicaState, Switch
from catalogs.tables import block, block_replica, link
from datamgmt.links import linkends, linkerrors, linkstates, linkwords
from datamgmt.links.health import LinkState, Outcome, Phase
from datamgmt.links.linkends import Ended
from datamgmt.links.linkerrors import Failed
from datamgmt.reasons import Reason
from datamgmt.routing import hops, leftovers, rerouting, routes
from datamgmt.routing.words import Changes, View
from datamgmt.subscriptions import allocating, store
from datamgmt.tables import block_dest, link_state, route_history, route_via
from datamgmt.tools.base import ErrorClass
from datamgmt.wanted import destinations, transit
from gridcore.db import Database, insert_rows
from gridcore.tables import quota


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
        return routes.view(conn, routes.due(conn, grid.clock.now()), linkstates.views(conn))


def decide(grid: DataGrid, seen: View | None = None) -> Changes:
    policies = linkstates.policies(grid.settings)
    return hops.decide(seen or view(grid), grid.clock.now(), policies, lambda: 0.5)


def route(grid: DataGrid) -> int:
    changes = decide(grid)
    done = grid.do(lambda conn, now: rerouting.apply(conn, changes, now)["decided"])
    grid.do(lambda conn, now: leftovers.expire(conn, 100, now))
    grid.do(lambda conn, now: leftovers.release(conn, leftovers.idle(conn, 100), now))
    grid.check()
    return done  # type: ignore[no-any-return]


def stir(grid: DataGrid, name: str = "A") -> None:
    """All of block 1 that waits or has to do with the SE is due."""
    grid.do(lambda conn, _: destinations.stir(conn, [1], grid.ids[name]))


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
    grid.do(lambda conn, now: store.unsubscribe(conn, key, "anna", now))
    assert allocate(grid) == 1
    assert wanted(grid) == []


def test_a_suspended_subscription_keeps_its_row_and_gets_no_more(grid: DataGrid) -> None:
    key = grid.subscribe("D")
    allocate(grid)
    grid.do(lambda conn, now: store.suspend(conn, key, "anna", now))
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
    grid.do(lambda conn, now: store.unsubscribe(conn, key, "anna", now))
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
        replicas.complete_all(conn, {(1, grid.ids[name]): 1}, now)  # type: ignore[arg-type]
        destinations.drop(conn, [(1, grid.ids[name])], now)  # type: ignore[arg-type]
        destinations.stir(conn, [1], grid.ids[name])  # type: ignore[arg-type]

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


def test_a_route_that_comes_back_goes_on_with_what_it_left_half_there(database: Database) -> None:
    grid = DataGrid(database)
    grid.link("AB", "BD", "AC", "CD")
    grid.produce(2)
    grid.subscribe("D")
    allocate(grid)
    a, d = grid.ids["A"], grid.ids["D"]

    def first_stop(shut: int | None) -> int:
        """The route's first stop, with the link to `shut` out of use, and nothing taken away meanwhile."""

        def unit(conn: Connection, now: datetime) -> None:
            for end in (grid.ids["B"], grid.ids["C"]):
                state = Switch.DISABLED if end == shut else Switch.ENABLED
                sites.set_link_state(conn, a * 100 + end, state, None)
            destinations.stir(conn, [1], a)
            destinations.stir(conn, [1], d)

        grid.do(unit)
        changes = decide(grid)
        grid.do(lambda conn, now: rerouting.apply(conn, changes, now))
        ((path,),) = grid.rows(select(block_dest.c.path).where(block_dest.c.se_id == d))
        return int(path[1])

    first = first_stop(None)
    other = first_stop(first)
    assert other != first
    assert first_stop(other) == first
    assert [row[0] for row in wanted(grid)] == [first, d]
    grid.do(lambda conn, now: leftovers.release(conn, leftovers.idle(conn, 100), now))
    grid.check()
    assert {se for (_, se), state in grid.replicas().items() if state is ReplicaState.COPYING} == {
        next(name for name, key in grid.ids.items() if key == first)
    }


def test_a_transit_copy_that_a_hop_begins_at_is_not_idle(grid: DataGrid) -> None:
    grid.subscribe("D")
    allocate(grid)
    route(grid)
    arrive(grid, "B")
    route(grid)
    assert wanted(grid)[0] == (3, None, 2, [2, 3])
    grid.do(lambda conn, _: transit.change(conn, transit.of_blocks(conn, [1]), []))
    assert grid.do(lambda conn, _: leftovers.idle(conn, 10)) == []


def test_a_transit_copy_waits_for_a_broken_link_but_not_for_ever(grid: DataGrid) -> None:
    grid.subscribe("D")
    allocate(grid)
    route(grid)
    arrive(grid, "B")
    grid.do(lambda conn, _: sites.set_link_state(conn, 203, Switch.DISABLED, "fibre cut"))
    route(grid)
    assert grid.rows(select(block_dest.c.code)) == [(Reason.NO_PATH,)]
    assert grid.rows(select(route_via.c.via_se_id)) == [(2,)]
    assert grid.replicas()[1, "B"] is ReplicaState.COMPLETE
    grid.clock.advance(2 * linkstates.policies(grid.settings).transit_age / timedelta(seconds=1))
    route(grid)
    assert grid.replicas()[1, "B"] is ReplicaState.DELETING
    assert grid.count(route_via) == 0


def test_a_spoilt_replica_is_no_source(grid: DataGrid) -> None:
    grid.subscribe("B")
    allocate(grid)
    word = decide(grid, replace(view(grid), spoilt={(1, 1): {1, 2}})).words[1, 2]
    assert (word.code, word.params["n"]) == (Reason.SOURCE_EXCEPTED, 2)


def test_a_hop_that_was_given_up_is_left_out_counted_and_tried_again(grid: DataGrid) -> None:
    grid.subscribe("B")
    allocate(grid)
    route(grid)
    grid.clock.advance(1)
    at = grid.clock.now()
    failed = {"failed": {1: {(1, 2): at}}, "errors": {(1, (1, 2)): "TIMEOUT"}}
    stir(grid)
    changes = decide(grid, replace(view(grid), **failed))  # type: ignore[arg-type]
    word = changes.words[1, 2]
    assert (word.code, word.src, word.params["error_class"]) == (Reason.HOP_EXCLUDED, None, "TIMEOUT")
    assert changes.tries == {(1, 2): (1, at)}
    grid.do(lambda conn, now: rerouting.apply(conn, changes, now))
    assert grid.rows(select(block_dest.c.attempts, block_dest.c.failing_since)) == [(1, at)]
    assert not view(grid).dests
    exclusion = linkstates.policies(grid.settings).exclusion
    grid.clock.advance(2 * exclusion / timedelta(seconds=1) + 1)
    changes = decide(grid, replace(view(grid), **failed))  # type: ignore[arg-type]
    assert (changes.words[1, 2].src, changes.again) == (1, {(1, 2)})
    assert changes.tries == {}


def test_room_is_kept_for_all_stops_and_never_more_than_there_is(grid: DataGrid) -> None:
    size = grid.rows(select(block.c.bytes))[0][0]
    limits = [
        {"id": n, "owner": f"transit:T2_{name}", "limit_value": size} for n, name in ((1, "B"), (2, "C"))
    ]
    grid.do(lambda conn, _: insert_rows(conn, quota, [{**one, "used_value": 0} for one in limits]))
    grid.subscribe("D")
    allocate(grid)
    route(grid)
    used = select(quota.c.used_value).order_by(quota.c.id)
    assert grid.rows(used) == [(size,), (size,)]
    grid.produce(2, first=2)
    allocate(grid)
    route(grid)
    told = select(block_dest.c.code, block_dest.c.params).where(block_dest.c.block_id != 1)
    ((code, params),) = grid.rows(told)
    assert (code, params["se"], params["free"], params["limit"]) == (Reason.NO_TRANSIT_SPACE, 2, 0, size)
    assert params["holders"] == [4]
    arrive(grid, "B")
    route(grid)
    assert grid.rows(used) == [(size,), (size,)]
    arrive(grid, "C")
    route(grid)
    assert grid.rows(used) == [(0,), (size,)]
    arrive(grid, "D")
    route(grid)
    assert grid.rows(used) == [(0,), (0,)]


def test_a_plan_without_the_room_it_saw_is_not_carried_out(grid: DataGrid) -> None:
    size = grid.rows(select(block.c.bytes))[0][0]
    row = {"id": 1, "owner": "transit:T2_C", "limit_value": size, "used_value": 0}
    grid.do(lambda conn, _: insert_rows(conn, quota, [row]))
    grid.subscribe("D")
    allocate(grid)
    changes = decide(grid)
    grid.do(lambda conn, _: conn.execute(update(quota).values(limit_value=size - 1)))
    with pytest.raises(transit.NoRoom):
        grid.do(lambda conn, now: rerouting.apply(conn, changes, now))
    route(grid)
    assert grid.rows(select(block_dest.c.code)) == [(Reason.NO_TRANSIT_SPACE,)]
    assert grid.count(route_via) == 0


def test_what_is_dropped_gives_its_room_back(grid: DataGrid) -> None:
    row = {"id": 1, "owner": "transit:T2_B", "limit_value": 10**6, "used_value": 0}
    grid.do(lambda conn, _: insert_rows(conn, quota, [row]))
    key = grid.subscribe("D")
    allocate(grid)
    route(grid)
    assert grid.count(route_via) == 2
    grid.do(lambda conn, now: store.unsubscribe(conn, key, "anna", now))
    allocate(grid)
    assert grid.count(route_via) == 0
    assert grid.rows(select(quota.c.used_value)) == [(0,)]
    route(grid)
    assert grid.count(block_dest) == 0
    assert grid.replicas()[1, "B"] is ReplicaState.DELETING


def test_only_what_is_due_is_seen_and_a_stir_in_between_is_not_lost(grid: DataGrid) -> None:
    grid.subscribe("D")
    allocate(grid)
    changes = decide(grid)
    stir(grid)
    assert grid.do(lambda conn, now: rerouting.apply(conn, changes, now))["decided"] == 0
    assert route(grid) == 2
    assert view(grid).due == []
    stir(grid)
    assert set(view(grid).due) == {(1, 2), (1, 4)}
    assert route(grid) == 2
    assert route(grid) == 0


def test_links_that_change_make_what_goes_over_them_due(grid: DataGrid) -> None:
    grid.subscribe("D")
    allocate(grid)
    route(grid)
    for links, due in (([(2, 3)], 0), ([(1, 2)], 2)):
        assert grid.do(lambda conn, _, links=links: routes.stir_links(conn, links, opened=False)) == due
        route(grid)
    grid.do(lambda conn, _: sites.set_link_state(conn, 102, Switch.DISABLED, None))
    grid.do(lambda conn, _: routes.stir_links(conn, [(1, 2)], opened=False))
    route(grid)
    assert grid.do(lambda conn, _: routes.stir_links(conn, [], opened=True)) == 1


def test_what_found_a_link_too_slow_is_due_once_that_changes(grid: DataGrid) -> None:
    grid.subscribe("D")
    allocate(grid)
    route(grid)
    later = grid.clock.now() + timedelta(hours=2)
    slow = {"code": Reason.SLOW_PATH, "src_se_id": None, "valid_until": later}
    grid.do(lambda conn, _: conn.execute(update(block_dest).where(block_dest.c.se_id == 4).values(slow)))
    for links, due in (([(4, 3)], 0), ([(3, 4)], 1)):
        assert grid.do(lambda conn, _, links=links: routes.stir_links(conn, links, opened=False)) == due
    assert (1, 4) in view(grid).due


def test_what_the_router_said_is_kept(grid: DataGrid) -> None:
    grid.subscribe("D")
    allocate(grid)
    route(grid)
    said = select(route_history.c.se_id, route_history.c.code, route_history.c.path).order_by(
        route_history.c.se_id
    )
    assert grid.rows(said) == [(2, Reason.ROUTED, [1, 2]), (4, Reason.ROUTED, [1, 2, 3, 4])]


def test_a_suspended_replica_on_the_way_does_not_stop_the_others(grid: DataGrid) -> None:
    key = grid.subscribe("B")
    grid.subscribe("D")
    allocate(grid)
    grid.do(lambda conn, now: store.suspend(conn, key, "anna", now))
    route(grid)
    assert wanted(grid)[0][2:] == (1, [1, 2])
    assert route(grid) == 0


def test_a_change_that_came_too_late_is_not_made(grid: DataGrid) -> None:
    grid.subscribe("D")
    allocate(grid)
    changes = decide(grid)
    source = update(block_replica).where(block_replica.c.se_id == 1)
    grid.do(lambda conn, _: conn.execute(source.values(state=ReplicaState.COPYING)))
    assert grid.do(lambda conn, now: rerouting.apply(conn, changes, now))["decided"] == 0
    assert [row[2] for row in wanted(grid)] == [None]
    grid.do(lambda conn, _: conn.execute(source.values(state=ReplicaState.COMPLETE)))


def test_words_of_operators_hold_a_link_and_probes_end_its_rest(grid: DataGrid) -> None:
    grid.subscribe("B")
    allocate(grid)
    now = grid.clock.now()
    grid.do(lambda conn, now: linkwords.force(conn, 102, Phase.PARKED, "anna", None, now))
    word = decide(grid).words[1, 2]
    assert (word.code, word.params["actor"]) == (Reason.LINK_FORCED, "anna")
    grid.do(lambda conn, now: linkwords.force(conn, 102, None, "anna", None, now))
    assert decide(grid).words[1, 2].code == Reason.ROUTED
    assert not grid.do(lambda conn, now: linkwords.probe(conn, 102, now))
    bad = [Ended(102, Outcome(ok=False), "it broke")] * 3
    policy = linkstates.policies(grid.settings).link
    grid.do(lambda conn, now: linkends.record(conn, bad, now, policy))
    word = decide(grid).words[1, 2]
    assert (word.code, word.params["n"]) == (Reason.LINK_PARKED, 3)
    assert grid.do(lambda conn, now: linkwords.probe(conn, 102, now))
    assert decide(grid).words[1, 2].code == Reason.PROBE
    state = grid.rows(select(link_state.c.state, link_state.c.parked_until))[0]
    assert (LinkState.from_json(state[0]).parked_until, state[1]) == (now, now)


def test_nothing_is_sent_for_a_while_where_a_copy_found_no_room(grid: DataGrid) -> None:
    grid.subscribe("B")
    allocate(grid)
    ((link_id,),) = grid.rows(select(link.c.id).where(link.c.src_se_id == 1, link.c.dst_se_id == 2))
    failed = Failed(link_id=link_id, error_class=ErrorClass.DEST_FULL, error="disk full", file_id=1)
    grid.do(lambda conn, now: linkerrors.record(conn, [failed], now))
    assert decide(grid).words[1, 2].code == Reason.SE_FULL
    scale = linkstates.policies(grid.settings).routing.scale
    grid.clock.advance(1801 * scale)
    assert decide(grid).words[1, 2].src == 1
