"""Routing: cheapest loop-free paths, hop by hop to the destination, and honest refusals."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise, permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamgmt.links.paths import Graph, LinkCost, NoRoute, Route, RoutingPolicy, route
from datamgmt.reasons import Reason, render
from datamgmt.routing.decisions import BlockDest, Decision
from datamgmt.routing.planning import plan

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
EARLIER = NOW - timedelta(seconds=1)
T0, T1_A, T1_B, T2_A1, T2_A2, T2_B1 = range(1, 7)
DEMO = [(T0, T1_A), (T0, T1_B), (T1_A, T1_B), (T1_A, T2_A1), (T1_A, T2_A2), (T1_B, T2_B1)]
ROOM = dict.fromkeys(range(1, 7), 10**12)


def both_ways(pairs, cost=10.0):
    return [LinkCost(a, b, cost) for x, y in pairs for a, b in ((x, y), (y, x))]


def parked(links, src, dst, until):
    return [LinkCost(k.src, k.dst, k.cost, until if k.key == (src, dst) else k.parked_until) for k in links]


def want(block_id=1, dest=T2_B1, **fields):
    return BlockDest(block_id=block_id, dest=dest, **{"size": 100, **fields})


def planned(wanted, sources, links, room=ROOM, jitter=0.0, **options) -> list[Decision]:
    return plan(wanted, sources, links, room, NOW, lambda: jitter, **options)


def cheapest(links, sources, dest, nodes):
    """The least cost over all simple paths, by trying all of them; None without any."""
    cost = {link.key: link.cost for link in sorted(links, key=lambda link: -link.cost)}
    best = None
    for source in sources:
        middle = [node for node in nodes if node not in (source, dest)]
        for length in range(len(middle) + 1):
            for inner in permutations(middle, length):
                hops = list(pairwise((source, *inner, dest)))
                if all(hop in cost for hop in hops):
                    total = sum(cost[hop] for hop in hops)
                    best = total if best is None else min(best, total)
    return best


NODES = range(5)
UNREACHED = (Reason.NO_PATH, Reason.NO_LIVE_LINK)
link_sets = st.dictionaries(
    st.tuples(st.sampled_from(NODES), st.sampled_from(NODES)).filter(lambda pair: pair[0] != pair[1]),
    st.integers(1, 20),
    max_size=14,
).map(lambda costs: [LinkCost(a, b, float(cost)) for (a, b), cost in costs.items()])
source_sets = st.sets(st.integers(1, 4), min_size=1, max_size=3)


@given(link_sets, source_sets)
@settings(max_examples=150)
def test_a_route_is_the_cheapest_without_loops_over_given_links(links, sources):
    found = route(sources, 0, Graph(links).tree(0), max_hops=5)
    best = cheapest(links, sources, 0, NODES)
    if best is None:
        assert isinstance(found, NoRoute)
        assert found.code is Reason.NO_PATH
    else:
        assert isinstance(found, Route)
        costs = {link.key: link.cost for link in links}
        assert found.cost == best == sum(costs[hop] for hop in found.links)
        assert len(set(found.path)) == len(found.path)
        assert found.path[0] in sources
        assert found.path[-1] == 0
        # No other source lies on the way: it would have been the cheaper start.
        assert not sources.intersection(found.path[1:])


@given(link_sets, st.randoms())
def test_the_order_of_the_links_does_not_matter(links, random):
    shuffled = list(links)
    random.shuffle(shuffled)
    assert Graph(links).tree(0) == Graph(shuffled).tree(0)


@given(link_sets, source_sets)
def test_planning_again_and_again_arrives(links, sources):
    held, remaining = set(sources), None
    for _ in NODES:
        (decision,) = planned([want(dest=0)], {1: held}, links, dict.fromkeys(NODES, 100))
        if decision.code is not Reason.ROUTED:
            break
        assert decision.hop_dst not in held
        assert decision.cost is not None
        assert remaining is None or decision.cost < remaining
        remaining = decision.cost
        held.add(decision.hop_dst)
    reachable = cheapest(links, sources, 0, NODES) is not None
    assert decision.code is Reason.COMPLETE if reachable else decision.code in UNREACHED


@pytest.mark.parametrize(
    ("links", "path"),
    [
        (DEMO, (T2_A1, T1_A, T1_B, T2_B1)),
        ([pair for pair in DEMO if pair != (T1_A, T1_B)], (T2_A1, T1_A, T0, T1_B, T2_B1)),
    ],
)
def test_the_demo_grid_takes_three_hops_and_four_over_t0(links, path):
    held, hops = {T2_A1}, []
    while (decision := planned([want()], {1: held}, both_ways(links))[0]).code is Reason.ROUTED:
        hops.append((decision.src, decision.hop_dst))
        held.add(decision.hop_dst)
    assert decision.code is Reason.COMPLETE
    assert hops == list(pairwise(path))


def test_equal_costs_take_fewer_hops_then_the_smaller_element():
    links = [LinkCost(1, 4, 2.0), LinkCost(1, 3, 1.0), LinkCost(3, 4, 1.0)]
    assert Graph(links).tree(4)[1] == (2.0, 1, 4)
    diamond = [LinkCost(1, 3, 1.0), LinkCost(1, 2, 1.0), LinkCost(2, 4, 1.0), LinkCost(3, 4, 1.0)]
    assert Graph(diamond).tree(4)[1].next_se == 2


def test_a_path_of_too_many_hops_is_no_path():
    chain = [LinkCost(n, n + 1, 1.0) for n in range(1, 6)]
    options = {"policy": RoutingPolicy(max_hops=4)}
    (decision,) = planned([want(dest=6)], {1: {1}}, chain, **options)
    assert (decision.code, decision.params["max_hops"]) == (Reason.NO_PATH, 4)
    (decision,) = planned([want(dest=6)], {1: {1, 2}}, chain, **options)
    assert decision.path == (2, 3, 4, 5, 6)


@pytest.mark.parametrize("cost", [0.0, -1.0, float("inf"), float("nan")])
def test_a_cost_must_be_finite_and_positive(cost):
    with pytest.raises(ValueError, match="costs"):
        LinkCost(1, 2, cost)


def test_refusals_carry_their_reason():
    wanted = [want(1), want(2, dest=T2_A1), want(3, suspended=True), want(4, dest=99)]
    decisions = planned(wanted, {2: {T2_A1}, 3: {T0}, 4: {T0}}, both_ways(DEMO))
    assert [item.code for item in decisions] == [
        Reason.NO_SOURCE,
        Reason.COMPLETE,
        Reason.SUSPENDED,
        Reason.NO_LIVE_LINK,
    ]
    assert all(item.src is None and item.path == () for item in decisions)


def test_a_parked_link_is_gone_round():
    links = parked(both_ways(DEMO), T1_A, T1_B, LATER)
    (decision,) = planned([want()], {1: {T1_A}}, links)
    assert (decision.code, decision.path) == (Reason.ROUTED, (T1_A, T0, T1_B, T2_B1))


def test_without_a_way_round_the_parked_link_is_named_until_its_cool_off():
    links = parked(both_ways(DEMO), T1_B, T2_B1, LATER)
    (decision,) = planned([want()], {1: {T1_A}}, links)
    assert decision.code is Reason.LINK_PARKED
    assert (decision.params["link_src"], decision.params["link_dst"]) == (T1_B, T2_B1)
    assert decision.valid_until == LATER


def test_after_its_cool_off_a_link_gets_one_probe_and_the_others_go_round():
    links = parked(both_ways(DEMO), T1_A, T1_B, EARLIER)
    sources = {n: {T1_A} for n in range(1, 4)}
    decisions = planned([want(n) for n in sources], sources, links)
    assert [item.code for item in decisions] == [Reason.PROBE, Reason.ROUTED, Reason.ROUTED]
    assert [item.hop_dst for item in decisions] == [T1_B, T0, T0]


def test_a_probed_link_further_on_is_reached_and_the_others_wait():
    links = parked(both_ways(DEMO), T1_B, T2_B1, EARLIER)
    decisions = planned([want(1), want(2)], {1: {T2_A1}, 2: {T2_A1}}, links)
    assert [item.code for item in decisions] == [Reason.PROBE, Reason.PROBE_UNDER_WAY]


def test_an_excluded_hop_is_left_out_for_its_block_only_and_for_a_while():
    excluded = {1: {(T1_A, T1_B): LATER}, 2: {(T1_B, T2_B1): LATER}, 3: {(T1_B, T2_B1): EARLIER}}
    sources = {n: {T1_A} for n in range(1, 5)}
    decisions = planned([want(n) for n in sources], sources, both_ways(DEMO), excluded=excluded)
    assert [item.code for item in decisions] == [
        Reason.ROUTED,
        Reason.HOP_EXCLUDED,
        Reason.ROUTED,
        Reason.ROUTED,
    ]
    assert [item.hop_dst for item in decisions] == [T0, None, T1_B, T1_B]
    assert decisions[1].valid_until == LATER


def test_transit_space_is_given_by_priority_and_never_overdrawn():
    room = {T1_A: 250, T1_B: 10**6}
    wanted = [want(n, priority=n) for n in range(1, 5)]
    decisions = planned(wanted, {n: {T2_A1} for n in range(1, 5)}, both_ways(DEMO), room)
    assert [(item.block_id, item.code) for item in decisions] == [
        (4, Reason.ROUTED),
        (3, Reason.ROUTED),
        (2, Reason.NO_TRANSIT_SPACE),
        (1, Reason.NO_TRANSIT_SPACE),
    ]
    assert decisions[2].params == {"se": T1_A, "free": 50, "size": 100}


def test_no_block_starts_that_has_no_room_further_on():
    (decision,) = planned([want()], {1: {T2_A1}}, both_ways(DEMO), {T1_A: 10**6, T1_B: 0})
    assert (decision.code, decision.params["se"]) == (Reason.NO_TRANSIT_SPACE, T1_B)


def test_replicas_wanted_or_arriving_on_the_way_need_no_transit_space():
    wanted = [want(1), want(1, dest=T1_A)]
    decisions = planned(wanted, {1: {T2_A1}}, both_ways(DEMO), {T1_A: 0, T1_B: 0}, arriving={(1, T1_B)})
    assert [item.code for item in decisions] == [Reason.ROUTED, Reason.ROUTED]
    held_back = [want(1), want(1, dest=T1_A, suspended=True)]
    decisions = planned(held_back, {1: {T2_A1}}, both_ways(DEMO), {T1_A: 0}, arriving={(1, T1_B)})
    assert decisions[1].code is Reason.NO_TRANSIT_SPACE


def test_two_destinations_share_one_transit_copy():
    wanted = [want(1), want(1, dest=T2_A2)]
    decisions = planned(wanted, {1: {T2_A1}}, both_ways(DEMO), {T1_A: 100, T1_B: 100})
    assert [item.code for item in decisions] == [Reason.ROUTED, Reason.ROUTED]


def test_validity_is_jittered_and_scaled():
    (first,) = planned([want()], {1: {T1_B}}, both_ways(DEMO), jitter=0.0)
    (last,) = planned([want()], {1: {T1_B}}, both_ways(DEMO), jitter=1.0)
    assert (first.valid_until - NOW, last.valid_until - NOW) == (timedelta(hours=7), timedelta(hours=10))
    (quick,) = planned([want()], {1: {T1_B}}, both_ways(DEMO), policy=RoutingPolicy(scale=1 / 3600))
    assert quick.valid_until - NOW == timedelta(seconds=7)


def test_every_decision_renders():
    (decision,) = planned([want()], {1: {T2_A1}}, both_ways(DEMO))
    assert "SE 4 -> SE 2 -> SE 3 -> SE 6" in render(decision.code, decision.params)
