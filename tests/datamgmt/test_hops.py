"""Hops: a grid in memory whose links come and go. Nothing is copied in circles, all arrives in the end."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from catalogs.replicas import ReplicaRow
from catalogs.states import ReplicaState
from datamgmt.links.health import LinkPolicy, LinkState, Phase
from datamgmt.links.linkstates import LinkView, Policies
from datamgmt.links.paths import RoutingPolicy
from datamgmt.reasons import Reason
from datamgmt.routing import hops
from datamgmt.routing.words import Changes, Dest, View, Word
from datamgmt.transfer_states import RetryPolicy
from datamgmt.wanted.allocation import ReplicaKey

NOW = datetime(2026, 1, 1, tzinfo=UTC)
STEP = timedelta(minutes=30)
SIZE = 10**9
POLICIES = Policies(
    link=LinkPolicy(),
    retry=RetryPolicy(),
    routing=RoutingPolicy(),
    exclusion=timedelta(minutes=45),
    transit_age=timedelta(days=7),
)


@dataclass
class Grid:
    """The rows the router reads and writes, and what copying makes of them."""

    links: dict[tuple[int, int], LinkView]
    now: datetime = NOW
    dests: dict[ReplicaKey, Dest] = field(default_factory=dict)
    copies: dict[ReplicaKey, ReplicaRow] = field(default_factory=dict)
    limits: dict[int, int] = field(default_factory=dict)
    copied: Counter[ReplicaKey] = field(default_factory=Counter)
    failed: dict[int, dict[tuple[int, int], datetime]] = field(default_factory=dict)
    arrived: dict[ReplicaKey, datetime] = field(default_factory=dict)
    rooms: dict[ReplicaKey, dict[int, tuple[int, datetime]]] = field(default_factory=dict)
    #: Rows that are due; None for all at each look.
    due: set[ReplicaKey] | None = None

    def hold(self, block: int, se: int) -> None:
        self.copies[block, se] = _copy((block, se), self.now, ReplicaState.COMPLETE)

    def want(self, block: int, se: int, **fields: object) -> None:
        word = Word(code=Reason.ALLOCATED, params={})
        self.dests[block, se] = _dest((block, se), word, self.now, **fields)

    def view(self) -> View:
        due = set(self.dests) if self.due is None else self.due & self.dests.keys()
        blocks = {key[0] for key in due}
        return View(
            dests=[one for one in self.dests.values() if one.block_id in blocks],
            replicas={b: [one for key, one in self.copies.items() if key[0] == b] for b in blocks},
            spoilt={},
            links=self.links,
            loads={},
            failed=self.failed,
            arrived=self.arrived,
            free={se: limit - self.kept()[se] for se, limit in self.limits.items()},
            held={key: set(stops) for key, stops in self.rooms.items() if key[0] in blocks},
            due=due,
        )

    def kept(self) -> Counter[int]:
        """Bytes each element keeps room for."""
        copies = {(key[0], via) for key, stops in self.rooms.items() for via in stops}
        return Counter({se: SIZE * sum(1 for _, via in copies if via == se) for _, se in copies})

    def route(self) -> Changes:
        seen = self.view()
        changes = hops.decide(seen, self.now, POLICIES, Random(1).random)
        said = {*changes.words, *changes.extend, *changes.drop, *changes.complete}
        assert set(seen.due) <= said
        for key, word in changes.words.items():
            self.dests[key] = replace(self.dests[key], word=word, decided_at=self.now)
        for key, until in changes.extend.items():
            self.dests[key] = replace(self.dests[key], word=replace(self.dests[key].word, valid_until=until))
        for key, tries in changes.tries.items():
            counted = {"attempts": tries.attempts, "failing_since": tries.failing_since}
            self.dests[key] = replace(self.dests[key], **counted)
        for new in changes.add:
            self.dests[new.key] = _dest(new.key, new.word, self.now, transit_for=new.dest.se_id)
            self.copies.setdefault(new.key, _copy(new.key, self.now, transit=True))
        for one in changes.begin:
            self.copies[one.key] = _copy(one.key, self.now, transit=one.transit_for is not None)
        for key, room in changes.rooms.items():
            old = self.rooms.get(key, {})
            self.rooms[key] = {via: (pos, room.until or old[via][1]) for via, pos in room.stops.items()}
        for key in (*changes.drop, *changes.complete):
            self._forget(key)
        self._let_go()
        assert all(self.kept()[se] <= limit for se, limit in self.limits.items())
        if self.due is not None:
            self.due = {key for key in self.due - seen.due if key in self.dests}
        return changes

    def _forget(self, key: ReplicaKey) -> None:
        del self.dests[key]
        self.rooms.pop(key, None)

    def _let_go(self) -> None:
        """Rooms whose time is over, and transit copies nobody keeps room for."""
        for key, stops in self.rooms.items():
            for via in [via for via, (_, until) in stops.items() if until <= self.now]:
                del stops[via]
                self.stir(key[0], via)
        passed = {(key[0], via) for key, stops in self.rooms.items() for via in stops}
        for key, one in list(self.copies.items()):
            if one.transit and key not in passed and key not in self.dests:
                del self.copies[key]
                del self.copied[key]

    def stir(self, block: int, se: int) -> None:
        """As a replica that comes or goes does."""
        if self.due is not None:
            self.due |= {
                key
                for key, one in self.dests.items()
                if key[0] == block and (one.word.src in (None, se) or se in (key[1], *one.word.path[1:2]))
            }

    def relink(self, links: dict[tuple[int, int], LinkView]) -> None:
        """As the router does that sees links change."""
        changed = {key for key in links if self.links.get(key) != links[key]}
        self.links = links
        if self.due is not None:
            hops = {key for key, one in self.dests.items() if (one.word.src, key[1]) in changed}
            self.due |= hops
            for key, one in self.dests.items():
                if not one.word.moving or (key[0], one.word.path[1]) in hops:
                    self.due.add(key)

    def step(self, arrives: list[bool]) -> None:
        """One round of the router and of copying."""
        self.expire()
        self.route()
        self.copy(arrives)
        self.now += STEP

    def expire(self) -> None:
        """What has held long enough is due."""
        if self.due is not None:
            until = {key: one.word.valid_until for key, one in self.dests.items()}
            self.due |= {key for key, at in until.items() if at is None or at <= self.now}

    def copy(self, arrives: list[bool]) -> None:
        """Some of the hops under way arrive; the others have made progress."""
        under_way = [one for one in self.dests.values() if one.word.src is not None]
        for place, one in enumerate(sorted(under_way, key=lambda one: one.key)):
            source = self.copies.get((one.block_id, one.word.src or 0))
            if not source or source.state is not ReplicaState.COMPLETE or one.key not in self.copies:
                continue
            if arrives[place % len(arrives)]:
                assert self.copies[one.key].state is ReplicaState.COPYING
                self.copied[one.key] += 1
                self.copies[one.key] = replace(
                    self.copies[one.key], state=ReplicaState.COMPLETE, completed_at=self.now
                )
                self._forget(one.key)
                self.stir(*one.key)
                # Those it lies on the way of have come nearer.
                for key, other in self.dests.items():
                    if key[0] == one.block_id and one.se_id in other.word.path:
                        self.dests[key] = replace(other, progressed=True)


def _complete(copies: list[ReplicaRow]) -> list[ReplicaRow]:
    return [one for one in copies if one.state is ReplicaState.COMPLETE]


def _copy(
    key: ReplicaKey, now: datetime, state: ReplicaState = ReplicaState.COPYING, transit: bool = False
) -> ReplicaRow:
    done = now if state is ReplicaState.COMPLETE else None
    return ReplicaRow(
        block_id=key[0],
        se_id=key[1],
        state=state,
        hops=0,
        transit=transit,
        custodial=False,
        created_at=now,
        completed_at=done,
    )


def _dest(key: ReplicaKey, word: Word, now: datetime, **fields: object) -> Dest:
    given = {"transit_for": None, "custodial": False, "priority": 0, "suspended": False, "size": SIZE}
    return Dest(
        block_id=key[0],
        se_id=key[1],
        word=word,
        decided_at=now,
        created_at=now,
        **given | fields,  # type: ignore[arg-type]
    )


def view_of(src: int, dst: int, **fields: object) -> LinkView:
    given = {"enabled": True, "distance": 1.0, "tool": "fake", "state": LinkState()}
    return LinkView(id=src * 10 + dst, src=src, dst=dst, **given | fields)  # type: ignore[arg-type]


def chain(*names: int) -> dict[tuple[int, int], LinkView]:
    return {(a, b): view_of(a, b) for a, b in itertools.pairwise(names)}


NODES = range(1, 6)
#: A ring both ways, so that all can be reached when all is well, and some short cuts.
PAIRS = [(a, b) for a in NODES for b in NODES if a != b and ((a - b) % 5 in (1, 4) or a + b == 5)]
flaps = st.lists(
    st.tuples(
        st.lists(st.sampled_from(("open", "slow", "fast", "parked", "probe", "off", "forced")), min_size=3),
        st.lists(st.booleans(), min_size=1, max_size=4),
    ),
    max_size=12,
)


def flapped(kinds: list[str], now: datetime) -> dict[tuple[int, int], LinkView]:
    states = {
        "open": LinkState(),
        "slow": LinkState(rate=1e5, measured_at=now),
        "fast": LinkState(rate=1e9, measured_at=now),
        "parked": LinkState(parked_until=now + STEP, failures=3),
        "probe": LinkState(parked_until=now, failures=3),
        "off": LinkState(),
        "forced": LinkState(forced=Phase.PARKED),
    }
    found = {}
    for place, pair in enumerate(PAIRS):
        kind = kinds[(place * 7) % len(kinds)]
        found[pair] = view_of(*pair, state=states[kind], enabled=kind != "off")
    return found


@given(
    flaps,
    st.dictionaries(st.integers(1, 3), st.sets(st.sampled_from(NODES), min_size=1, max_size=2), min_size=1),
    st.dictionaries(st.sampled_from(NODES), st.integers(1, 3).map(lambda n: n * SIZE)),
)
@settings(max_examples=60, deadline=None)
def test_whatever_the_links_do_nothing_is_copied_twice_and_all_arrives(rounds, holders, limits):
    grid = Grid(links={}, limits=limits)
    for block, sources in holders.items():
        for se in sources:
            grid.hold(block, se)
        for se in set(NODES) - sources:
            grid.want(block, se)
    wished = list(grid.dests)
    for kinds, arrives in rounds:
        grid.links = flapped(kinds, grid.now)
        grid.route()
        grid.copy(arrives)
        grid.now += STEP
        assert all(n == 1 for n in grid.copied.values())
    grid.links = {pair: view_of(*pair) for pair in PAIRS}
    left = len(grid.dests) * len(NODES)
    while grid.dests:
        grid.route()
        grid.copy([True])
        grid.now += STEP
        left -= 1
        assert left >= 0
    assert all(n == 1 for n in grid.copied.values())
    assert all(grid.copies[key].state is ReplicaState.COMPLETE for key in wished)


@given(flaps, st.integers(1, 3), st.sampled_from(NODES), st.integers(0, 2).map(lambda n: n * SIZE))
@settings(max_examples=60, deadline=None)
def test_a_run_that_looks_at_what_is_due_ends_as_one_that_looks_at_all(rounds, blocks, source, limit):
    ends = []
    for due in (None, set()):
        grid = Grid(links={}, limits={NODES[1]: limit, NODES[3]: limit}, due=due)
        for block in range(1, blocks + 1):
            grid.hold(block, source)
            for se in set(NODES) - {source}:
                grid.want(block, se)
        if grid.due is not None:
            grid.due |= grid.dests.keys()
        for kinds, arrives in rounds:
            grid.relink(flapped(kinds, grid.now))
            grid.step(arrives)
        grid.relink({pair: view_of(*pair) for pair in PAIRS})
        left = 100
        while grid.dests and left:
            grid.step([True])
            left -= 1
        grid.route()
        assert not grid.dests
        assert all(n == 1 for n in grid.copied.values())
        ends.append({key: one.state for key, one in grid.copies.items()})
    assert ends[0] == ends[1]


@given(flaps, st.sampled_from(NODES), st.sampled_from(NODES))
@settings(max_examples=60, deadline=None)
def test_a_copy_for_one_passes_each_element_once_and_leaves_nothing_behind(rounds, source, dest):
    grid = Grid(links={})
    grid.hold(1, source)
    if source != dest:
        grid.want(1, dest)
    for kinds, arrives in rounds:
        grid.links = flapped(kinds, grid.now)
        grid.route()
        grid.copy(arrives)
        assert all(n == 1 for n in grid.copied.values())
        grid.now += STEP
    grid.links = {pair: view_of(*pair) for pair in PAIRS}
    for _ in NODES:
        grid.route()
        grid.copy([True])
    grid.route()
    assert grid.copies.keys() == {(1, source), (1, dest)}
    assert not grid.dests


def test_only_what_is_due_is_planned_and_a_word_that_stays_is_extended():
    grid = Grid(links=chain(1, 2))
    for block in (1, 2):
        grid.hold(block, 1)
        grid.want(block, 2)
        grid.want(block, 3)
    grid.due = {(1, 2), (1, 3)}
    changes = grid.route()
    assert (changes.words.keys(), changes.extend) == ({(1, 2), (1, 3)}, {})
    assert changes.words[1, 3].code is Reason.NO_LIVE_LINK
    grid.now += STEP
    assert grid.route() == Changes()
    grid.due = {(1, 2), (1, 3)}
    changes = grid.route()
    assert (changes.words, changes.extend.keys()) == ({}, {(1, 2), (1, 3)})
    assert all(until > grid.now for until in changes.extend.values())
    assert changes.of_blocks({2}).blocks() == []
    assert changes.blocks() == [1]


def test_figures_that_move_are_no_news_but_facts_are():
    word = Word(code=Reason.WINDOW_FULL, params={"bytes": 1, "dst": 2})
    assert word.says_as(replace(word, params={"bytes": 9, "dst": 2}))
    assert not word.says_as(replace(word, params={"bytes": 1, "dst": 3}))
    assert not word.says_as(replace(word, code=Reason.NO_PATH))


def test_a_slow_path_is_told_and_nothing_is_begun():
    slow = LinkState(rate=1e3, measured_at=NOW)
    grid = Grid(links={key: replace(one, state=slow) for key, one in chain(1, 2, 3).items()})
    grid.hold(7, 1)
    grid.want(7, 3)
    changes = grid.route()
    word = changes.words[7, 3]
    assert (word.code, word.path, word.src, word.moving) == (Reason.SLOW_PATH, (1, 2, 3), None, False)
    assert (changes.add, changes.begin) == ([], [])
    assert not grid.route().words


def test_a_window_counts_what_is_routed_already():
    fast = LinkState(rate=1e9, measured_at=NOW)
    grid = Grid(links={(1, 2): view_of(1, 2, state=fast)})
    for block in (1, 2):
        grid.hold(block, 1)
    grid.want(1, 2, size=9 * 10**12)
    grid.route()
    grid.want(2, 2, size=2 * 10**12)
    assert grid.route().words[2, 2].code is Reason.WINDOW_FULL


def test_hops_excluded_together_come_back_apart():
    grid = Grid(links=chain(1, 2))
    for block in range(1, 30):
        grid.hold(block, 1)
        grid.want(block, 2)
        grid.failed[block] = {(1, 2): NOW}
    words = grid.route().words.values()
    waits = {(word.valid_until - NOW) / POLICIES.exclusion for word in words}
    assert {word.code for word in words} == {Reason.HOP_EXCLUDED}
    assert len(waits) == 29
    assert all(1 <= wait <= 2 for wait in waits)


def tries_until_it_rests(grid: Grid, most: int) -> int | None:
    """The hop to SE 2 is given up an hour after each try, when all files had been queued; how many tries."""
    for number in range(most + 1):
        word = grid.route().words[1, 2]
        if word.code is Reason.ROUTER_SUSPENDED:
            return number
        assert word.code is Reason.ROUTED
        grid.dests[1, 2] = replace(grid.dests[1, 2], progressed=True)
        grid.now += timedelta(hours=1)
        grid.failed[1] = {(1, 2): grid.now}
        assert grid.route().words[1, 2].code is Reason.HOP_EXCLUDED
        grid.now += timedelta(hours=15)
    return None


def failing() -> Grid:
    grid = Grid(links=chain(1, 2))
    grid.hold(1, 1)
    grid.want(1, 2)
    return grid


def test_what_fails_for_long_and_often_rests_and_is_tried_again():
    grid = failing()
    assert tries_until_it_rests(grid, 60) == 51
    assert (grid.dests[1, 2].attempts, grid.dests[1, 2].failing_since) == (51, NOW + timedelta(hours=1))
    assert grid.dests[1, 2].word.valid_until == grid.now + timedelta(days=15)
    grid.now += timedelta(days=15)
    assert grid.route().words[1, 2].code is Reason.ROUTED


def test_what_fails_often_in_short_time_does_not_rest():
    grid = failing()
    grid.dests[1, 2] = replace(grid.dests[1, 2], attempts=100, failing_since=NOW)
    assert tries_until_it_rests(grid, 40) is None


def test_a_file_that_has_come_lets_the_tries_be_counted_anew():
    grid = failing()
    assert tries_until_it_rests(grid, 48) is None
    grid.route()
    grid.arrived[1, 2] = grid.now + timedelta(minutes=30)
    grid.now += timedelta(hours=1)
    grid.failed[1] = {(1, 2): grid.now}
    assert grid.route().words[1, 2].code is Reason.HOP_EXCLUDED
    assert (grid.dests[1, 2].attempts, grid.dests[1, 2].failing_since) == (1, grid.now)


def test_operators_words_on_links_are_obeyed():
    grid = Grid(links=chain(1, 2))
    grid.hold(1, 1)
    grid.want(1, 2)
    parked = LinkState(parked_until=NOW + STEP, failures=3)
    grid.links[1, 2] = view_of(1, 2, state=replace(parked, forced=Phase.PARKED))
    assert grid.route().words[1, 2].code is Reason.LINK_FORCED
    grid.links[1, 2] = view_of(1, 2, state=replace(parked, forced=Phase.OPEN))
    assert grid.route().words[1, 2].code is Reason.ROUTED


def test_a_local_copy_comes_first():
    ways = chain(1, 2) | chain(3, 2)
    fast = LinkState(rate=1e8, measured_at=NOW)
    grid = Grid(links={(1, 2): view_of(1, 2, local=True), (3, 2): replace(ways[3, 2], state=fast)})
    grid.hold(1, 1)
    grid.hold(1, 3)
    grid.want(1, 2)
    assert grid.route().words[1, 2].src == 1
