"""Routing: what links cost, and the cheapest loop-free way over them to each storage element. Pure."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from heapq import heappop, heappush
from itertools import pairwise
from typing import NamedTuple

from datamgmt.reasons import Reason

MAX_HOPS = 6
LinkKey = tuple[int, int]
"""(source SE id, destination SE id)."""
NONE: frozenset[LinkKey] = frozenset()


@dataclass(frozen=True, slots=True)
class LinkCost:
    """An enabled link and its price: `cost` in seconds for nothing at all, above zero, and what is sent at
    `rate` bytes per second.

    `parked_until` in the past asks for a probe; one that is `forced` is shut by an operator until then, or
    for good.
    """

    src: int
    dst: int
    cost: float
    parked_until: datetime | None = None
    rate: float = math.inf
    forced: bool = False

    def __post_init__(self) -> None:
        if not (0 < self.cost < math.inf and self.rate > 0):
            raise ValueError(
                f"link {self.src} -> {self.dst} costs {self.cost} s at {self.rate} B/s; a cost is finite and "
                "above 0, and so is a rate above 0"
            )

    @property
    def key(self) -> LinkKey:
        return self.src, self.dst


class Branch(NamedTuple):
    """The way on from one SE: remaining cost in seconds, remaining hops, and the SE to go to next."""

    cost: float
    hops: int
    next_se: int


@dataclass(frozen=True, slots=True)
class Route:
    """The SEs from source to destination, both included, and the cost in seconds."""

    path: tuple[int, ...]
    cost: float

    @property
    def links(self) -> list[LinkKey]:
        return list(pairwise(self.path))


@dataclass(frozen=True, slots=True)
class NoRoute:
    """Why there is no route: a code with the ids that explain it."""

    code: Reason
    params: Mapping[str, object]
    until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingPolicy:
    """`scale` multiplies every validity; a test grid lives faster than a collaboration.

    window_bytes: routed and not yet complete, for each destination and priority, at most. A route that takes
    `slow_after` even by `streams` copies side by side is taken by the share `probe_share` of those that
    would. One that makes progress is left for a new one that costs less than `leave_below` of it. What has
    failed for `patience` in more than `attempts_max` tries rests.
    """

    max_hops: int = MAX_HOPS
    scale: float = 1.0
    window_bytes: int = 10 * 10**12
    slow_after: timedelta = timedelta(days=3)
    streams: int = 1
    probe_share: float = 0.02
    leave_below: float = 0.75
    attempts_max: int = 50
    patience: timedelta = timedelta(days=30)


DEFAULT_POLICY = RoutingPolicy()


def size_bin(size: int) -> int:
    """Bytes rounded to a power of two: blocks of about one size share a tree."""
    return 1 << round(math.log2(size)) if size > 0 else 0


class Graph:
    """Links by the SE they lead to, priced for a size once, and the trees grown over them so far."""

    def __init__(self, links: Iterable[LinkCost]) -> None:
        # Sorted, so that the order they come in decides nothing, and by end, as they are walked.
        self.links = {link.key: link for link in sorted(links, key=lambda link: (link.dst, link.src))}
        self._incoming: dict[int, dict[int, list[tuple[int, float]]]] = {}
        self._trees: dict[tuple[int, int, frozenset[LinkKey]], dict[int, Branch]] = {}

    def price(self, link: LinkKey, size: int) -> float:
        """Seconds that `size` bytes take over a link."""
        found = self.links[link]
        return found.cost + size / found.rate

    def leads_to(self, dest: int) -> bool:
        """Whether any link ends there."""
        return bool(self._priced(0).get(dest))

    def tree(self, dest: int, size: int = 0, barred: frozenset[LinkKey] = NONE) -> dict[int, Branch]:
        """The cheapest way to `dest` from every SE that reaches it, for about `size` bytes, kept."""
        key = dest, size_bin(size), barred
        found = self._trees.get(key)
        if found is None:
            found = self._trees[key] = _grown(dest, self._incoming_for(key[1], barred))
        return found

    def _incoming_for(self, size: int, barred: frozenset[LinkKey]) -> Mapping[int, list[tuple[int, float]]]:
        priced = self._priced(size)
        if not barred:
            return priced
        ends = {dst: [one for one in priced.get(dst, ()) if (one[0], dst) not in barred] for _, dst in barred}
        return {**priced, **ends}

    def _priced(self, size: int) -> dict[int, list[tuple[int, float]]]:
        if size not in self._incoming:
            incoming: dict[int, list[tuple[int, float]]] = defaultdict(list)
            for (src, dst), link in self.links.items():
                incoming[dst].append((src, link.cost + size / link.rate))
            self._incoming[size] = dict(incoming)
        return self._incoming[size]


def _grown(dest: int, incoming: Mapping[int, list[tuple[int, float]]]) -> dict[int, Branch]:
    """Reverse Dijkstra. Of equal costs the one with fewer hops, then the smaller next SE."""
    found: dict[int, Branch] = {}
    cheapest = defaultdict(lambda: math.inf, {dest: 0.0})
    heap = [(0.0, 0, dest, dest)]
    while heap:
        cost, hops, onward, se = heappop(heap)
        if se in found:
            continue
        found[se] = Branch(cost, hops, onward)
        hops += 1
        for src, price in incoming.get(se, ()):
            total = cost + price
            # Equals are kept: hops and next SE choose among them.
            if total <= cheapest[src] and src not in found:
                cheapest[src] = total
                heappush(heap, (total, hops, se, src))
    return found


def no_delay(src: int, dst: int) -> float:
    """Nothing goes before it."""
    return 0.0


def smaller(se: int) -> int:
    """Of equal sources the smaller id."""
    return se


def route(
    sources: Collection[int],
    dest: int,
    branches: Mapping[int, Branch],
    max_hops: int = MAX_HOPS,
    *,
    delay: Callable[[int, int], float] = no_delay,
    tie: Callable[[int], int] = smaller,
) -> Route | NoRoute:
    """The cheapest route from any source, given the destination's tree.

    delay: seconds to wait before a first link, from its ends. tie: chooses among sources of equal cost and
    hops. A route starts at the last source on its way, whatever waits there, and so never leads to a copy
    that is there already.
    """
    if not sources:
        return NoRoute(Reason.NO_SOURCE, {"dst": dest})
    usable = []
    for se in sources:
        branch = branches.get(se)
        if branch is not None and branch.hops <= max_hops:
            usable.append((branch.cost + delay(se, branch.next_se), branch.hops, tie(se), se))
    if not usable:
        return NoRoute(Reason.NO_PATH, {"sources": sorted(sources), "dst": dest, "max_hops": max_hops})
    usable.sort()
    ways = (Route(_path(se, dest, branches), cost) for cost, _, _, se in usable)
    return next(way for way in ways if not any(se in sources for se in way.path[1:]))


def _path(se: int, dest: int, branches: Mapping[int, Branch]) -> tuple[int, ...]:
    path = [se]
    while se != dest:
        se = branches[se].next_se
        path.append(se)
    return tuple(path)
