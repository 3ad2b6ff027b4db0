"""Planning: how each wanted block travels next, or why it waits; what one takes is not there for the others.

Pure. A plan looks only at COMPLETE replicas. Each executed hop adds a source, and no route leads to a source,
so planning again and again ends at the destination.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import datetime, timedelta
from itertools import pairwise
from zlib import crc32

from datamgmt.links.paths import (
    DEFAULT_POLICY,
    NONE,
    Graph,
    LinkCost,
    LinkKey,
    NoRoute,
    Route,
    RoutingPolicy,
    route,
)
from datamgmt.reasons import Reason
from datamgmt.routing.decisions import VALIDITY, BlockDest, Decision, Window, moment, shut_by
from datamgmt.wanted.allocation import ReplicaKey

#: Links told by name where there may be many.
_NAMED = 3


def plan(
    wanted: Iterable[BlockDest],
    sources_by_block: Mapping[int, Collection[int]],
    links: Iterable[LinkCost],
    transit_free: Mapping[int, int],
    now: datetime,
    jitter: Callable[[], float],
    *,
    arriving: Collection[ReplicaKey] = (),
    passing: Collection[ReplicaKey] = (),
    excluded: Mapping[int, Mapping[LinkKey, datetime]] | None = None,
    under_way: Mapping[Window, int] | None = None,
    disabled: Collection[LinkKey] = (),
    closed: Collection[int] = (),
    full: Mapping[int, datetime] | None = None,
    leaving: Mapping[int, frozenset[int]] | None = None,
    policy: RoutingPolicy = DEFAULT_POLICY,
) -> list[Decision]:
    """One decision for each wanted replica, highest priority first, of those what is under way first.

    transit_free: bytes an SE may still hold for others, beyond what it keeps room for; one that is not named
    has no limit. arriving: replicas whose space is counted already. passing: copies held for others that
    nothing counts. excluded: by block, the hops left out and until when. under_way: bytes routed, and not
    wanted here, by destination and priority. disabled: links that are there, switched off; closed: SEs that
    are; full: SEs without room, until when they are left alone. leaving: by block, sources that are to be
    deleted, taken where there are no others. jitter: a number in [0, 1) at each call.
    """
    rows = sorted(wanted, key=lambda row: (-row.priority, not row.path, row.block_id, row.dest))
    planner = _Planner(links, transit_free, under_way or {}, disabled, now, jitter, policy)
    planner.closed = closed
    planner.no_room = full or {}
    planner.leaving = leaving or {}
    planner.counted.update(arriving)
    planner.passing = passing
    planner.counted.update((row.block_id, row.dest) for row in rows if not row.suspended)
    shut = excluded or {}
    return [
        planner.decide(row, sources_by_block.get(row.block_id, ()), shut.get(row.block_id, {}))
        for row in rows
    ]


class _Planner:
    """The books of one plan: trees made so far, what it has put on the links and into the windows, transit
    space left, probes not yet given away."""

    def __init__(
        self,
        links: Iterable[LinkCost],
        transit_free: Mapping[int, int],
        under_way: Mapping[Window, int],
        disabled: Collection[LinkKey],
        now: datetime,
        jitter: Callable[[], float],
        policy: RoutingPolicy,
    ) -> None:
        self.free = dict(transit_free)
        self.under_way = defaultdict(int, under_way)
        self.disabled = disabled
        self.now = now
        self.jitter = jitter
        self.policy = policy
        self.counted: set[ReplicaKey] = set()
        self.passing: Collection[ReplicaKey] = ()
        self.closed: Collection[int] = ()
        self.no_room: Mapping[int, datetime] = {}
        self.leaving: Mapping[int, frozenset[int]] = {}
        self._out: dict[frozenset[int], frozenset[LinkKey]] = {}
        self.full: set[Window] = set()
        self.all = Graph(links)
        every = self.all.links.values()
        self.forced = {one.key: one.parked_until for one in every if one.forced}
        parked = {one.key: one.parked_until for one in every if one.parked_until and not one.forced}
        self.parked = {key: until for key, until in parked.items() if until > now}
        self.probing = parked.keys() - self.parked.keys()
        self.probes_left = set(self.probing)
        shut = self.parked.keys() | self.forced.keys()
        self.open = Graph(one for one in every if one.key not in shut) if shut else self.all
        # Seconds this plan has put on first links so far, and the copies it has put there.
        self.pending: dict[LinkKey, float] = defaultdict(float)
        self.sent: set[tuple[int, LinkKey]] = set()

    def decide(
        self, row: BlockDest, sources: Collection[int], excluded: Mapping[LinkKey, datetime]
    ) -> Decision:
        if row.dest in sources:
            return self._refused(row, NoRoute(Reason.COMPLETE, {"dst": row.dest}))
        if row.suspended:
            return self._refused(row, NoRoute(Reason.SUSPENDED, {}))
        if row.dest in self.closed:
            return self._refused(row, NoRoute(Reason.SE_DISABLED, {"se": row.dest}))
        if until := self.no_room.get(row.dest):
            params = {"se": row.dest, "until": moment(until)}
            return self._refused(row, NoRoute(Reason.SE_FULL, params, until))
        if self._given_up(row):
            return self._rests(row)
        barred = {key: until for key, until in excluded.items() if until > self.now} if excluded else {}
        found = self._find(row, sources, barred)
        kept = self._kept(row, sources, barred) if row.path else None
        if kept and self._stays(row, kept, found):
            full = self._no_room(row, kept)
            return self._refused(row, full) if full else self._routed(row, kept)
        if isinstance(found, NoRoute):
            return self._refused(row, found)
        if self._takes(found) >= self.policy.slow_after and not self._tried(row):
            return self._slow(row, found)
        refusal = self._no_window(row) or self._no_room(row, found)
        return self._refused(row, refusal) if refusal else self._routed(row, found)

    def _stays(self, row: BlockDest, kept: Route, found: Route | NoRoute) -> bool:
        if isinstance(found, NoRoute):
            return True
        leaving = self.leaving.get(row.block_id, ())
        if kept.path[0] in leaving and found.path[0] not in leaving:
            return False
        return found.cost >= self.policy.leave_below * kept.cost

    # --- finding ---------------------------------------------------------------------------------

    def _find(
        self, row: BlockDest, sources: Collection[int], barred: Mapping[LinkKey, datetime]
    ) -> Route | NoRoute:
        best = self._route(row, sources, self.open)
        shut = frozenset(barred)
        # Only a way over a barred link asks for a tree of its own.
        if shut and isinstance(best, Route) and not shut.isdisjoint(best.links):
            best = self._route(row, sources, self.open, shut)
        if isinstance(best, NoRoute):
            return self._why_not(row, sources, barred, best)
        # A link under probation carries one block a plan; the others go round it or wait.
        if not self.probing or self.probing.intersection(best.links) <= self.probes_left:
            return best
        detour = self._route(row, sources, self.open, shut | self.probing)
        return detour if isinstance(detour, Route) else self._why_not(row, sources, barred, detour)

    def _route(
        self, row: BlockDest, sources: Collection[int], graph: Graph, barred: frozenset[LinkKey] = NONE
    ) -> Route | NoRoute:
        if leaving := self.leaving.get(row.block_id):
            found = self._cheapest(row, sources, graph, barred | self._links_from(leaving))
            if isinstance(found, Route):
                return found
        return self._cheapest(row, sources, graph, barred)

    def _links_from(self, ses: frozenset[int]) -> frozenset[LinkKey]:
        found = self._out.get(ses)
        if found is None:
            found = self._out[ses] = frozenset(link for link in self.all.links if link[0] in ses)
        return found

    def _cheapest(
        self, row: BlockDest, sources: Collection[int], graph: Graph, barred: frozenset[LinkKey]
    ) -> Route | NoRoute:
        def tie(se: int) -> int:
            return crc32(b"%d %d %d" % (row.block_id, row.dest, se))

        def delay(src: int, dst: int) -> float:
            return self._delay(row, (src, dst))

        branches = graph.tree(row.dest, row.size, barred)
        found = route(sources, row.dest, branches, self.policy.max_hops, delay=delay, tie=tie)
        best = found if isinstance(found, NoRoute) else self._priced(row, found.path)
        if not row.partial:
            return best
        # What passes through elsewhere is a whole copy, and these have none to give.
        straight = [(se, row.dest) for se in sorted(row.partial)]
        ways = [self._priced(row, link) for link in straight if link in graph.links and link not in barred]
        ways += [best] if isinstance(best, Route) else []
        return min(ways, key=lambda way: way.cost) if ways else best

    def _priced(self, row: BlockDest, path: tuple[int, ...]) -> Route:
        """The price of a path for this very block; a tree's is for blocks of about its size."""
        price, links = self.all.price, list(pairwise(path))
        return Route(path, sum(price(one, row.size) for one in links) + self._delay(row, links[0]))

    def _delay(self, row: BlockDest, link: LinkKey) -> float:
        """Seconds that other blocks of this plan take on a link first."""
        seconds = self.pending.get(link, 0.0)
        # One copy serves all destinations that lie behind the link.
        if seconds and (row.block_id, link) in self.sent:
            seconds -= row.size / self.all.links[link].rate
        return seconds

    def _kept(self, row: BlockDest, sources: Collection[int], barred: Collection[LinkKey]) -> Route | None:
        """What is left of the route it is on, from the last source on it, at today's prices; None where it
        is broken."""
        held = [place for place, se in enumerate(row.path) if se in sources or se in row.partial]
        path = row.path[held[-1] :] if held else ()
        links = list(pairwise(path))
        usable = self.open.links.keys()
        if (
            not links
            or path[-1] != row.dest
            or any(one not in usable or one in barred or one in self.probing for one in links)
        ):
            return None
        return self._priced(row, path)

    def _why_not(
        self, row: BlockDest, sources: Collection[int], barred: Mapping[LinkKey, datetime], refusal: NoRoute
    ) -> NoRoute:
        """The refusal itself, or the parked, probed or excluded hop without which there would be a route."""
        for shut in (frozenset(barred), NONE):
            blocked = self._route(row, sources, self.all, shut)
            if isinstance(blocked, Route):
                return self._blocked(blocked, barred)
        if refusal.code is Reason.NO_PATH and not self.all.leads_to(row.dest):
            return self._no_link(row)
        return refusal

    def _blocked(self, wished: Route, barred: Mapping[LinkKey, datetime]) -> NoRoute:
        for link in wished.links:
            if link in barred:
                return shut_by(Reason.HOP_EXCLUDED, link, barred[link])
            if link in self.forced:
                return shut_by(Reason.LINK_FORCED, link, self.forced[link])
            if link in self.parked:
                return shut_by(Reason.LINK_PARKED, link, self.parked[link])
        return shut_by(Reason.PROBE_UNDER_WAY, next(link for link in wished.links if link in self.probing))

    def _no_link(self, row: BlockDest) -> NoRoute:
        off = sorted(link for link in self.disabled if link[1] == row.dest)
        params: dict[str, object] = {"dst": row.dest}
        if off:
            ends = {"link_src": off[0][0], "link_dst": off[0][1]}
            params |= {"n": len(off), "links": [list(link) for link in off[:_NAMED]], **ends}
        return NoRoute(Reason.NO_LIVE_LINK, params)

    # --- limits ----------------------------------------------------------------------------------

    def _given_up(self, row: BlockDest) -> bool:
        if row.path or row.rested or not row.failing_since or row.attempts <= self.policy.attempts_max:
            return False
        return self.now - row.failing_since > self.policy.patience * self.policy.scale

    def _rests(self, row: BlockDest) -> Decision:
        until, since = self._valid_until(Reason.ROUTER_SUSPENDED), row.failing_since
        params = {"attempts": row.attempts, "since": since and moment(since), "until": moment(until)}
        return self._refused(row, NoRoute(Reason.ROUTER_SUSPENDED, params, until))

    def _takes(self, found: Route) -> timedelta:
        """How long it takes at best: links are priced by the stream, and carry several."""
        return timedelta(seconds=min(found.cost / self.policy.streams, 1e12))

    def _tried(self, row: BlockDest) -> bool:
        """Whether this row is one of the few that try a slow route: another draw at every plan."""
        drawn = crc32(f"{row.block_id} {row.dest} {self.now.timestamp()}".encode())
        return drawn < self.policy.probe_share * 2**32

    def _slow(self, row: BlockDest, found: Route) -> Decision:
        src, dst = max(found.links, key=lambda link: self.open.price(link, row.size))
        params = {
            "path": list(found.path),
            "days": round(self._takes(found) / timedelta(days=1), 1),
            "link_src": src,
            "link_dst": dst,
        }
        return Decision(
            block_id=row.block_id,
            dest=row.dest,
            code=Reason.SLOW_PATH,
            params=params,
            valid_until=self._valid_until(Reason.SLOW_PATH),
            path=found.path,
            cost=found.cost,
        )

    def _no_window(self, row: BlockDest) -> NoRoute | None:
        """Where one does not fit, those after it wait too: small blocks do not keep a large one out. One
        larger than the window goes alone."""
        window, limit = (row.dest, row.priority), self.policy.window_bytes
        taken = self.under_way[window]
        if window not in self.full and (not taken or taken + row.size <= limit):
            return None
        self.full.add(window)
        params = {"bytes": taken, "priority": row.priority, "dst": row.dest, "limit": limit}
        return NoRoute(Reason.WINDOW_FULL, params)

    def _no_room(self, row: BlockDest, found: Route) -> NoRoute | None:
        for se in self._transit(row, found):
            free = self.free.get(se)
            if free is not None and free < row.size:
                return NoRoute(Reason.NO_TRANSIT_SPACE, {"se": se, "free": free, "size": row.size})
        return None

    def _transit(self, row: BlockDest, found: Route) -> list[int]:
        """The SEs on the way that would hold the block only for others and do not count it yet.

        All of them and not the next alone: a block that starts should be able to arrive.
        """
        block, counted = row.block_id, self.counted
        first = found.path[:1] if (block, found.path[0]) in self.passing else ()
        return [se for se in (*first, *found.path[1:-1]) if (block, se) not in counted]

    # --- deciding --------------------------------------------------------------------------------

    def _routed(self, row: BlockDest, found: Route) -> Decision:
        for se in self._transit(row, found):
            if se in self.free:
                self.free[se] -= row.size
            self.counted.add((row.block_id, se))
        self.under_way[row.dest, row.priority] += row.size
        link = src, hop_dst = found.path[0], found.path[1]
        if (row.block_id, link) not in self.sent:
            self.sent.add((row.block_id, link))
            self.pending[link] += row.size / self.all.links[link].rate
        code = Reason.ROUTED
        params: dict[str, object] = {"src": src, "hop_dst": hop_dst, "path": list(found.path)}
        if self.probing and (probed := [one for one in found.links if one in self.probing]):
            self.probes_left.difference_update(probed)
            code = Reason.PROBE
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
        hours, spread = VALIDITY[code]
        return self.now + timedelta(hours=(hours + spread * self.jitter()) * self.policy.scale)
