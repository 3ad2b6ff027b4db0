"""Routing: the cheapest way of each wanted block over the links and its next hop, or why there is none.

Pure. A plan looks only at COMPLETE replicas. Each executed hop adds a source whose remaining cost is strictly
smaller, so planning again and again ends at the destination.
"""

from __future__ import annotations

import heapq
import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import NamedTuple

from datamgmt.allocation import ReplicaKey
from datamgmt.reasons import Reason

MAX_HOPS = 6
LinkKey = tuple[int, int]
"""(source SE id, destination SE id)."""


@dataclass(frozen=True, slots=True)
class LinkCost:
    """An enabled link and its price in seconds, above zero. `parked_until` in the past asks for a probe."""

    src: int
    dst: int
    cost: float
    parked_until: datetime | None = None

    def __post_init__(self) -> None:
        if not 0 < self.cost < math.inf:
            raise ValueError(f"link {self.src} -> {self.dst} costs {self.cost}; a cost is finite and above 0")

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
class BlockDest:
    """A wanted replica to be routed; `size` in bytes, higher priority goes first."""

    block_id: int
    dest: int
    size: int
    priority: int = 0
    suspended: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What is to be done next for one wanted replica: copy from `src` to `hop_dst`, or nothing, and why.

    Good until `valid_until`; a change of the block's replicas or of a link is reason to plan earlier.
    """

    block_id: int
    dest: int
    code: Reason
    params: Mapping[str, object]
    valid_until: datetime
    src: int | None = None
    hop_dst: int | None = None
    path: tuple[int, ...] = ()
    cost: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingPolicy:
    """`scale` multiplies every validity; a test grid lives faster than a collaboration."""

    max_hops: int = MAX_HOPS
    scale: float = 1.0


DEFAULT_POLICY = RoutingPolicy()
# Hours a decision holds and hours of random spread, so that not everything is planned again at once.
_VALIDITY: Mapping[Reason, tuple[float, float]] = {
    Reason.ROUTED: (7.0, 3.0),
    Reason.PROBE: (0.7, 3.0),
    Reason.NO_PATH: (2.0, 3.0),
    Reason.NO_SOURCE: (0.0, 3.0),
    Reason.NO_TRANSIT_SPACE: (0.0, 0.7),
    Reason.PROBE_UNDER_WAY: (0.0, 0.7),
    Reason.SUSPENDED: (7.0, 3.0),
    Reason.COMPLETE: (7.0, 3.0),
}


def tree(dest: int, links: Iterable[LinkCost]) -> dict[int, Branch]:
    """The cheapest way to `dest` from every SE that reaches it (reverse Dijkstra).

    Of equal costs the one with fewer hops, then the smaller next SE; the order of `links` does not matter.
    """
    incoming: dict[int, list[LinkCost]] = defaultdict(list)
    for link in links:
        incoming[link.dst].append(link)
    found: dict[int, Branch] = {}
    heap = [(Branch(0.0, 0, dest), dest)]
    while heap:
        branch, se = heapq.heappop(heap)
        if se in found:
            continue
        found[se] = branch
        for link in incoming[se]:
            if link.src not in found:
                heapq.heappush(heap, (Branch(branch.cost + link.cost, branch.hops + 1, se), link.src))
    return found


def route(
    sources: Collection[int], dest: int, branches: Mapping[int, Branch], max_hops: int = MAX_HOPS
) -> Route | NoRoute:
    """The cheapest route from any source, given the destination's tree."""
    if not sources:
        return NoRoute(Reason.NO_SOURCE, {"dst": dest})
    usable = [
        (branches[se].cost, branches[se].hops, se)
        for se in sources
        if se in branches and branches[se].hops <= max_hops
    ]
    if not usable:
        return NoRoute(Reason.NO_PATH, {"sources": sorted(sources), "dst": dest, "max_hops": max_hops})
    cost, _, se = min(usable)
    path = [se]
    while se != dest:
        se = branches[se].next_se
        path.append(se)
    return Route(tuple(path), cost)


def plan(
    wanted: Iterable[BlockDest],
    sources_by_block: Mapping[int, Collection[int]],
    links: Iterable[LinkCost],
    transit_free: Mapping[int, int],
    now: datetime,
    jitter: Callable[[], float],
    *,
    arriving: Collection[ReplicaKey] = (),
    excluded: Mapping[int, Mapping[LinkKey, datetime]] | None = None,
    policy: RoutingPolicy = DEFAULT_POLICY,
) -> list[Decision]:
    """One decision for each wanted replica, highest priority first.

    transit_free: bytes an SE may still hold for others, beyond what it holds or expects now; an SE that is
    not named takes none. arriving: replicas being copied, whose space is counted already. excluded: by
    block, the hops left out and until when. jitter: a number in [0, 1) at each call.
    """
    rows = sorted(wanted, key=lambda row: (-row.priority, row.block_id, row.dest))
    planner = _Planner(links, transit_free, now, jitter, policy)
    planner.counted.update(arriving)
    planner.counted.update((row.block_id, row.dest) for row in rows if not row.suspended)
    return [
        planner.decide(row, sources_by_block.get(row.block_id, ()), (excluded or {}).get(row.block_id, {}))
        for row in rows
    ]


class _Planner:
    """The books of one plan: trees made so far, transit space left, probes not yet given away."""

    def __init__(
        self,
        links: Iterable[LinkCost],
        transit_free: Mapping[int, int],
        now: datetime,
        jitter: Callable[[], float],
        policy: RoutingPolicy,
    ) -> None:
        self.links = tuple(links)
        self.free = dict(transit_free)
        self.now = now
        self.jitter = jitter
        self.policy = policy
        self.counted: set[ReplicaKey] = set()
        parked = {link.key: link.parked_until for link in self.links if link.parked_until}
        self.parked = {key: until for key, until in parked.items() if until > now}
        self.probing = parked.keys() - self.parked.keys()
        self.probes_left = set(self.probing)
        self.trees: dict[tuple[int, frozenset[LinkKey]], dict[int, Branch]] = {}

    def decide(
        self, row: BlockDest, sources: Collection[int], excluded: Mapping[LinkKey, datetime]
    ) -> Decision:
        if row.dest in sources:
            return self._refused(row, NoRoute(Reason.COMPLETE, {"dst": row.dest}))
        if row.suspended:
            return self._refused(row, NoRoute(Reason.SUSPENDED, {}))
        barred = {key: until for key, until in excluded.items() if until > self.now}
        found = self._find(row, sources, barred)
        if isinstance(found, Route):
            found = self._no_room(row, found) or found
        return self._routed(row, found) if isinstance(found, Route) else self._refused(row, found)

    def _find(
        self, row: BlockDest, sources: Collection[int], barred: Mapping[LinkKey, datetime]
    ) -> Route | NoRoute:
        shut = self.parked.keys() | barred.keys()
        best = self._route(row, sources, shut)
        if isinstance(best, NoRoute):
            return self._why_not(row, sources, barred, best)
        # A link under probation carries one block a plan; the others go round it or wait.
        if self.probing.intersection(best.links) <= self.probes_left:
            return best
        detour = self._route(row, sources, shut | self.probing)
        return detour if isinstance(detour, Route) else self._why_not(row, sources, barred, detour)

    def _why_not(
        self, row: BlockDest, sources: Collection[int], barred: Mapping[LinkKey, datetime], refusal: NoRoute
    ) -> NoRoute:
        """The refusal itself, or the parked, probed or excluded hop without which there would be a route."""
        for shut in (barred.keys(), frozenset[LinkKey]()):
            blocked = self._route(row, sources, shut)
            if isinstance(blocked, Route):
                return self._blocked(blocked, barred)
        return refusal

    def _blocked(self, wished: Route, barred: Mapping[LinkKey, datetime]) -> NoRoute:
        def refusal(code: Reason, link: LinkKey, until: datetime | None = None) -> NoRoute:
            params: dict[str, object] = {"link_src": link[0], "link_dst": link[1]}
            if until:
                params["until"] = until.isoformat(timespec="seconds")
            return NoRoute(code, params, until)

        for link in wished.links:
            if link in barred:
                return refusal(Reason.HOP_EXCLUDED, link, barred[link])
            if link in self.parked:
                return refusal(Reason.LINK_PARKED, link, self.parked[link])
        probed = next(link for link in wished.links if link in self.probing)
        return refusal(Reason.PROBE_UNDER_WAY, probed)

    def _route(self, row: BlockDest, sources: Collection[int], shut: Collection[LinkKey]) -> Route | NoRoute:
        key = row.dest, frozenset(shut)
        if key not in self.trees:
            self.trees[key] = tree(row.dest, (link for link in self.links if link.key not in key[1]))
        return route(sources, row.dest, self.trees[key], self.policy.max_hops)

    def _no_room(self, row: BlockDest, found: Route) -> NoRoute | None:
        for se in self._transit(row, found):
            free = self.free.get(se, 0)
            if free < row.size:
                return NoRoute(Reason.NO_TRANSIT_SPACE, {"se": se, "free": free, "size": row.size})
        return None

    def _transit(self, row: BlockDest, found: Route) -> list[int]:
        """The SEs in between that would hold the block only for others and do not count it yet.

        All of them and not the next alone: a block that starts should be able to arrive.
        """
        return [se for se in found.path[1:-1] if (row.block_id, se) not in self.counted]

    def _routed(self, row: BlockDest, found: Route) -> Decision:
        for se in self._transit(row, found):
            self.free[se] = self.free.get(se, 0) - row.size
            self.counted.add((row.block_id, se))
        probed = [link for link in found.links if link in self.probing]
        self.probes_left.difference_update(probed)
        src, hop_dst = found.links[0]
        code = Reason.PROBE if probed else Reason.ROUTED
        params: dict[str, object] = {"src": src, "hop_dst": hop_dst, "path": list(found.path)}
        if probed:
            params |= {"link_src": probed[0][0], "link_dst": probed[0][1]}
        return Decision(
            block_id=row.block_id,
            dest=row.dest,
            code=code,
            params=params,
            valid_until=self._valid_until(code),
            src=src,
            hop_dst=hop_dst,
            path=found.path,
            cost=found.cost,
        )

    def _refused(self, row: BlockDest, refusal: NoRoute) -> Decision:
        return Decision(
            block_id=row.block_id,
            dest=row.dest,
            code=refusal.code,
            params=refusal.params,
            valid_until=refusal.until or self._valid_until(refusal.code),
        )

    def _valid_until(self, code: Reason) -> datetime:
        hours, spread = _VALIDITY[code]
        return self.now + timedelta(hours=(hours + spread * self.jitter()) * self.policy.scale)
