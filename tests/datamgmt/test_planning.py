"""Planning: no herds, no windows beyond their limit, routes that are kept while they are good, and rests."""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamgmt.links.paths import LinkCost, RoutingPolicy, size_bin
from datamgmt.reasons import Reason, render
from datamgmt.routing.decisions import BlockDest, Decision
from datamgmt.routing.planning import plan

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
NODES = range(1, 6)
ROOM = dict.fromkeys(NODES, 10**15)
GB = 10**9
MOVING = (Reason.ROUTED, Reason.PROBE)


def want(block_id=1, dest=4, **fields):
    return BlockDest(block_id=block_id, dest=dest, **{"size": 10 * GB, **fields})


def link(src, dst, cost=10.0, rate=1e7, **fields):
    return LinkCost(src, dst, cost, rate=rate, **fields)


def planned(wanted, sources, links, room=ROOM, now=NOW, **options) -> list[Decision]:
    return plan(wanted, sources, links, room, now, lambda: 0.5, **options)


links = st.dictionaries(
    st.tuples(st.sampled_from(NODES), st.sampled_from(NODES)).filter(lambda pair: pair[0] != pair[1]),
    st.tuples(st.floats(1, 1000), st.floats(1e6, 1e9), st.sampled_from((None, -1, 1))),
    max_size=16,
).map(
    lambda found: [
        LinkCost(*ends, cost, parked and NOW + parked * HOUR, rate)
        for ends, (cost, rate, parked) in found.items()
    ]
)
wanted = st.lists(
    st.builds(
        BlockDest,
        block_id=st.integers(1, 6),
        dest=st.sampled_from(NODES),
        size=st.integers(0, 10**12),
        priority=st.integers(0, 2),
        path=st.lists(st.sampled_from(NODES), max_size=4, unique=True).map(tuple),
    ),
    max_size=12,
    unique_by=lambda row: (row.block_id, row.dest),
)
holders = st.dictionaries(st.integers(1, 6), st.sets(st.sampled_from(NODES), max_size=3))
LIMIT = 10**12


@given(wanted, holders, links, st.dictionaries(st.sampled_from(NODES), st.integers(0, 10**13)))
def test_whatever_is_asked_no_route_loops_and_no_limit_is_passed(rows, sources, given_links, room):
    policy = RoutingPolicy(window_bytes=LIMIT)
    decisions = planned(rows, sources, given_links, room, policy=policy)
    assert len(decisions) == len(rows)
    size = {(row.block_id, row.dest): row for row in rows}
    known = {one.key: one for one in given_links}
    windows, transit, probes = defaultdict(list), defaultdict(dict), []
    for one in decisions:
        row = size[one.block_id, one.dest]
        assert render(one.code, one.params)
        assert one.valid_until >= NOW
        if not one.path:
            continue
        assert len(set(one.path)) == len(one.path)
        held = sources.get(one.block_id, set())
        assert one.path[0] in held
        assert held.isdisjoint(one.path[1:])
        assert one.path[-1] == one.dest
        hops = list(zip(one.path, one.path[1:], strict=False))
        assert all(hop in known for hop in hops)
        assert all(not (known[hop].parked_until or NOW) > NOW for hop in hops)
        if one.code not in MOVING:
            assert (one.code, one.src) == (Reason.SLOW_PATH, None)
            continue
        assert (one.src, one.hop_dst) == one.path[:2]
        probes += [hop for hop in hops if known[hop].parked_until]
        windows[one.dest, row.priority].append(row)
        for se in one.path[1:-1]:
            if (one.block_id, se) not in size and not row.path:
                transit[se][one.block_id] = row.size
    assert len(set(probes)) == len(probes)
    for window in windows.values():
        fresh = [row for row in window if not row.path]
        assert not fresh or len(window) == 1 or sum(row.size for row in window) <= LIMIT
    # Blocks have one size; here each wanted row of a block may name its own, and the smallest counts.
    for se, blocks in transit.items():
        smallest = {b: min(r.size for r in rows if r.block_id == b) for b in blocks}
        assert se not in room or sum(smallest.values()) <= room[se]


def test_small_blocks_take_the_near_way_and_large_ones_the_fast():
    ways = [link(1, 4, 10, 1e6), link(1, 2, 100, 1e9), link(2, 4, 100, 1e9)]
    small, large = planned([want(1, size=10**6), want(2, size=10**12)], {1: {1}, 2: {1}}, ways)
    assert (small.path, large.path) == ((1, 4), (1, 2, 4))
    assert [size_bin(n) for n in (0, 1, 2, 3, 1025)] == [0, 1, 2, 4, 1024]


def test_blocks_spread_over_equal_sources():
    ways = [link(src, 4) for src in (1, 2, 3)]
    rows = [want(n) for n in range(300)]
    used = Counter(one.src for one in planned(rows, {key: {1, 2, 3} for key in range(300)}, ways))
    assert set(used.values()) == {100}


def test_a_link_twice_as_fast_takes_twice_as_many():
    ways = [link(1, 4, rate=2e7), link(2, 4, rate=1e7)]
    rows = [want(n) for n in range(300)]
    used = Counter(one.src for one in planned(rows, {key: {1, 2} for key in range(300)}, ways))
    assert used[1] == pytest.approx(200, abs=2)


def test_destinations_behind_one_link_share_its_copy():
    ways = [link(1, 3), link(3, 4), link(3, 5), link(2, 4, 1100), link(2, 5, 1100)]
    decisions = planned([want(1, 4), want(1, 5)], {1: {1, 2}}, ways)
    assert [one.path for one in decisions] == [(1, 3, 4), (1, 3, 5)]
    # For another block the link is taken.
    decisions = planned([want(1, 4), want(2, 5)], {1: {1, 2}, 2: {1, 2}}, ways)
    assert [one.path for one in decisions] == [(1, 3, 4), (2, 5)]


def test_a_route_with_progress_is_left_only_for_a_much_better_one():
    def ways(other):
        return [link(1, 4, 1000, 1e12), link(2, 4, other, 1e12)]

    row, sources = want(path=(1, 4)), {1: {1, 2}}
    assert planned([row], sources, ways(760))[0].path == (1, 4)
    assert planned([row], sources, ways(740))[0].path == (2, 4)
    assert planned([want()], sources, ways(760))[0].path == (2, 4)


def test_a_route_with_progress_goes_on_from_its_last_source():
    ways = [link(1, 2), link(2, 3), link(3, 4), link(1, 4, 1e-3, 1e6)]
    (decision,) = planned([want(path=(1, 2, 3, 4))], {1: {1, 2}}, ways)
    assert decision.path == (2, 3, 4)


@pytest.mark.parametrize(
    "shut", [{"parked_until": NOW + HOUR}, {"parked_until": NOW - HOUR}, {"forced": True}]
)
def test_a_broken_route_is_not_kept(shut):
    ways = [link(1, 4, **shut), link(2, 4, 10_000)]
    (decision,) = planned([want(path=(1, 4))], {1: {1, 2}}, ways)
    assert decision.code is Reason.PROBE if shut.get("parked_until") == NOW - HOUR else decision.src == 2
    (decision,) = planned([want(path=(1, 4))], {1: {2}}, ways)
    assert decision.path == (2, 4)


def test_a_window_takes_the_urgent_first_and_keeps_the_order_of_the_others():
    policy = RoutingPolicy(window_bytes=100)
    rows = [want(1, size=60), want(2, size=60), want(3, size=10), want(4, size=60, priority=1)]
    decisions = planned(rows, {key: {1} for key in range(1, 5)}, [link(1, 4)], policy=policy)
    assert [(one.block_id, one.code) for one in decisions] == [
        (4, Reason.ROUTED),
        (1, Reason.ROUTED),
        (2, Reason.WINDOW_FULL),
        (3, Reason.WINDOW_FULL),
    ]
    assert decisions[2].params == {"bytes": 60, "priority": 0, "dst": 4, "limit": 100}
    assert timedelta(minutes=10) <= decisions[2].valid_until - NOW <= timedelta(minutes=40)


def test_what_is_under_way_fills_the_window_and_comes_first():
    policy = RoutingPolicy(window_bytes=100)
    rows = [want(1, size=60), want(2, size=60, path=(1, 4))]
    decisions = planned(rows, {1: {1}, 2: {1}}, [link(1, 4)], policy=policy)
    assert [(one.block_id, one.code) for one in decisions] == [(2, Reason.ROUTED), (1, Reason.WINDOW_FULL)]
    (decision,) = planned(rows[:1], {1: {1}}, [link(1, 4)], policy=policy, under_way={(4, 0): 50})
    assert decision.code is Reason.WINDOW_FULL
    (decision,) = planned([want(size=900)], {1: {1}}, [link(1, 4)], policy=policy, under_way={(4, 1): 50})
    assert decision.code is Reason.ROUTED


def test_a_path_of_days_is_told_and_taken_by_few():
    rows = [want(n) for n in range(3000)]
    ways = [link(1, 4, 4 * 86400, 1e12)]
    decisions = planned(rows, {key: {1} for key in range(3000)}, ways)
    slow = [one for one in decisions if one.code is Reason.SLOW_PATH]
    assert 2900 < len(slow) < 2980
    assert (slow[0].path, slow[0].src, slow[0].params["days"]) == ((1, 4), None, 4.0)
    # Others are drawn at the next look, the same at the same.
    assert planned(rows, {key: {1} for key in range(3000)}, ways) == decisions
    later = planned(rows, {key: {1} for key in range(3000)}, ways, now=NOW + HOUR)
    assert {one.block_id for one in later if one.src} != {one.block_id for one in decisions if one.src}


def test_days_are_those_of_a_full_window_of_copies():
    ways, policy = [link(1, 4, 4 * 86400, 1e12)], RoutingPolicy(streams=2)
    (decision,) = planned([want()], {1: {1}}, ways, policy=policy)
    assert decision.code is Reason.ROUTED
    (decision,) = planned([want()], {1: {1}}, [link(1, 4, 1e7, 1e12)], policy=policy)
    assert (decision.code, decision.params["days"]) == (Reason.SLOW_PATH, 57.9)


def test_what_makes_progress_goes_on_however_slow():
    (decision,) = planned([want(path=(1, 4))], {1: {1}}, [link(1, 4, 4 * 86400, 1e12)])
    assert decision.code is Reason.ROUTED


@pytest.mark.parametrize("until", [None, NOW + HOUR])
def test_a_link_parked_by_an_operator_is_gone_round_or_named(until):
    shut = link(1, 4, forced=True, parked_until=until)
    (decision,) = planned([want()], {1: {1}}, [shut, link(1, 2), link(2, 4)])
    assert decision.path == (1, 2, 4)
    (decision,) = planned([want()], {1: {1}}, [shut])
    assert decision.code is Reason.LINK_FORCED
    assert decision.valid_until == (until or NOW + 3.5 * HOUR)


def test_where_no_enabled_link_leads_the_disabled_ones_are_named():
    (decision,) = planned([want()], {1: {1}}, [link(1, 2)], disabled=[(3, 4), (2, 4), (1, 2)])
    assert decision.code is Reason.NO_LIVE_LINK
    ends = {"link_src": 2, "link_dst": 4}
    assert decision.params == {"dst": 4, "n": 2, "links": [[2, 4], [3, 4]], **ends}
    told = render(decision.code, decision.params, {2: "B", 3: "C", 4: "D"})
    assert told == "no enabled link leads to D; 2 are disabled: B -> D, C -> D"
    (decision,) = planned([want()], {1: {1}}, [link(2, 4)], disabled=[(3, 4)])
    assert decision.code is Reason.NO_PATH


def test_after_a_month_of_failures_a_block_rests_and_is_then_tried_again():
    failing = {"attempts": 51, "failing_since": NOW - timedelta(days=31)}
    (decision,) = planned([want(**failing)], {1: {1}}, [link(1, 4)])
    assert decision.code is Reason.ROUTER_SUSPENDED
    assert decision.valid_until == NOW + timedelta(days=15)
    assert decision.params["attempts"] == 51
    for better in ({"rested": True}, {"path": (1, 4)}):
        (decision,) = planned([want(**failing | better)], {1: {1}}, [link(1, 4)])
        assert decision.code is Reason.ROUTED
    (decision,) = planned([want(**failing | {"attempts": 50})], {1: {1}}, [link(1, 4)])
    assert decision.code is Reason.ROUTED


@given(
    st.sets(st.sampled_from(NODES), min_size=1),
    st.sets(st.sampled_from(NODES), min_size=1),
    links,
    st.sampled_from(NODES),
)
def test_what_is_to_be_deleted_is_a_source_where_there_is_no_other(sources, leaving, given_links, dest):
    """Where any other source can be copied from without passing them, none of them is."""
    sources -= {dest}
    options = {"leaving": {1: frozenset(leaving)}}
    (one,) = planned([want(dest=dest)], {1: sources}, given_links, **options)
    others = [link for link in given_links if link.src not in leaving]
    (without,) = planned([want(dest=dest)], {1: sources - leaving}, others)
    (anyhow,) = planned([want(dest=dest)], {1: sources}, given_links)
    assert (one.code in MOVING) is (anyhow.code in MOVING or without.code in MOVING)
    if without.code in MOVING:
        assert one.path == without.path
    if one.path and one.path[0] in leaving:
        assert not without.path


def test_a_route_from_what_is_to_be_deleted_is_left_for_another():
    ways = [link(1, 4, cost=10), link(2, 4, cost=1000)]
    row = want(path=(1, 4))
    (kept,) = planned([row], {1: {1, 2}}, ways)
    assert kept.path == (1, 4)
    (left,) = planned([row], {1: {1, 2}}, ways, leaving={1: frozenset({1})})
    assert left.path == (2, 4)
    (only,) = planned([row], {1: {1}}, ways, leaving={1: frozenset({1})})
    assert only.path == (1, 4)


def test_some_of_the_files_come_straight_or_not_at_all():
    row = want(partial=frozenset({1}))
    (none,) = planned([row], {}, [link(1, 2), link(2, 4)])
    assert none.code is Reason.NO_SOURCE
    (straight,) = planned([row], {}, [link(1, 2), link(2, 4), link(1, 4, cost=10**4)])
    assert straight.path == (1, 4)
    (cheaper,) = planned([row], {1: {3}}, [link(3, 2), link(2, 4), link(1, 4, cost=10**4)])
    assert cheaper.path == (3, 2, 4)


def test_a_disabled_element_is_named():
    (one,) = planned([want()], {1: {1}}, [], closed={4})
    assert (one.code, one.params) == (Reason.SE_DISABLED, {"se": 4})


def test_a_full_element_is_left_alone_for_a_while():
    until = NOW + HOUR
    (one,) = planned([want()], {1: {1}}, [link(1, 4)], full={4: until})
    assert (one.code, one.src, one.valid_until) == (Reason.SE_FULL, None, until)
    said = render(one.code, one.params, {4: "D"})
    assert said == f"D had no room for a copy; the next is sent at {until:%Y-%m-%d %H:%M} UTC"
