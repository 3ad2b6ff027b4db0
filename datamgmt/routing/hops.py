"""Hops: which wanted replicas are routed anew, which transit copies that takes, and which may go. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise
from zlib import crc32

from catalogs.replicas import ReplicaRow
from catalogs.space import Space
from catalogs.states import ReplicaState
from datamgmt.links.health import LinkPolicy, Phase, is_forced, price
from datamgmt.links.linkstates import LinkView, Load, Policies
from datamgmt.links.paths import LinkCost, LinkKey
from datamgmt.reasons import Reason
from datamgmt.routing.decisions import BlockDest, Decision, Window
from datamgmt.routing.planning import plan
from datamgmt.routing.words import Changes, Dest, NewTransit, Room, Tries, View, Word
from datamgmt.wanted.allocation import ReplicaKey

#: How long nothing is sent where a copy found no room.
FULL_FOR = timedelta(minutes=30)


def decide(view: View, now: datetime, policies: Policies, jitter: Callable[[], float]) -> Changes:
    """The changes to make to what is due: each of these rows gets a word, or longer for the one it has."""
    return _Router(view, now, policies).decide(jitter)


def roomier(before: Space, after: Space) -> bool:
    """Whether a storage element has got room since: files are gone, or it may hold more."""
    raised = before.limit is not None and (after.limit is None or after.limit > before.limit)
    return raised or after.use.leaving < before.use.leaving


def link_cost(link: LinkView, queued: int, now: datetime, policy: LinkPolicy) -> LinkCost:
    """The price of a link behind what is queued there, in bytes."""
    asked = price(link.state, link.distance, queued, now, link.bounded(policy), local=link.local)
    forced = is_forced(link.state, now)
    shut = forced and link.state.forced is Phase.PARKED
    return LinkCost(
        link.src,
        link.dst,
        asked.seconds,
        link.state.forced_until if shut else None if forced else link.state.parked_until,
        asked.rate,
        shut,
    )


class _Router:
    """One pass over the wanted replicas in view."""

    def __init__(self, view: View, now: datetime, policies: Policies) -> None:
        self.view = view
        self.now = now
        self.policies = policies
        self.finals = {one.key: one for one in view.dests if one.transit_for is None}
        self.transits = {one.key: one for one in view.dests if one.transit_for is not None}
        self.copies = {one.key: one for rows in view.replicas.values() for one in rows}
        sizes = {one.block_id: one.files for one in view.dests}
        self.void = {block for block, n in view.lost.items() if n >= sizes.get(block, 0) > 0}
        self.sources = {block: self._sources(rows) for block, rows in view.replicas.items()}
        self.changes = Changes()
        self.words = {key: one.word for key, one in self.finals.items()}

    def decide(self, jitter: Callable[[], float]) -> Changes:
        due = [one for one in map(self.finals.get, self.view.due) if one is not None]
        for key in self.view.due:
            found = self.finals.get(key) or self.transits[key]
            self.changes.seen[key] = found.word.valid_until
        for decision in self._plan([self._tried(one) for one in due], jitter):
            self._apply(decision)
        self._pass_through()
        self._keep_rooms()
        self._clear()
        self._begin()
        return self.changes

    def _sources(self, rows: Sequence[ReplicaRow]) -> list[int]:
        spoilt, void = self.view.spoilt, self.void
        return [
            one.se_id
            for one in rows
            if one.state is ReplicaState.COMPLETE and one.key not in spoilt and one.block_id not in void
        ]

    def _partial(self, one: Dest) -> frozenset[int]:
        """Where some of the files are that a replica under repair lacks, beside others that are not."""
        spoilt = self.view.spoilt
        lacking = spoilt.get(one.key) if one.repair else None
        if not lacking:
            return frozenset()
        rows = self.view.replicas.get(one.block_id, ())
        return frozenset(
            row.se_id
            for row in rows
            if row.state is ReplicaState.COMPLETE and row.key in spoilt and lacking - spoilt[row.key]
        )

    def _leaving(self) -> dict[int, frozenset[int]]:
        found: dict[int, set[int]] = defaultdict(set)
        for (block, se), copy in self.copies.items():
            if copy.delete_at is not None:
                found[block].add(se)
        return {block: frozenset(ses) for block, ses in found.items()}

    def _tried(self, one: Dest) -> Dest:
        """The same, with the hop that was given up since the last word counted, anew where something has
        arrived meanwhile."""
        failed = self.view.failed.get(one.block_id)
        since = [
            at
            for link, at in (failed or {}).items()
            if at > one.decided_at and link in pairwise(one.word.path)
        ]
        old = Tries(one.attempts, one.failing_since)
        tries = Tries(0, None) if old.attempts and self._arrived(one) else old
        if since:
            tries = Tries(tries.attempts + 1, tries.failing_since or min(since))
        if tries == old:
            return one
        self.changes.tries[one.key] = tries
        return replace(one, attempts=tries.attempts, failing_since=tries.failing_since)

    def _arrived(self, one: Dest) -> bool:
        """Whether anything has come to where it goes or passes since the last word."""
        stops = [(one.block_id, se) for se in {*one.word.path[1:], one.se_id}]
        whole = (self.copies[key].completed_at for key in stops if key in self.copies)
        moments = (*whole, *map(self.view.arrived.get, stops))
        return any(at is not None and at > one.decided_at for at in moments)

    def _plan(self, due: Sequence[Dest], jitter: Callable[[], float]) -> list[Decision]:
        keys = {one.key for one in due}
        rest = FULL_FOR * self.policies.routing.scale
        kept = {(block, via) for (block, _), vias in self.view.held.items() for via in vias}
        passing = {key for key, one in self.copies.items() if one.transit} - kept - self.finals.keys()
        return plan(
            [_wanted(one, self._partial(one)) for one in due],
            self.sources,
            [self._cost(link) for link in self.view.links.values() if link.enabled],
            self.view.free,
            self.now,
            jitter,
            arriving=kept | self.finals.keys(),
            passing=passing,
            excluded={
                block: {link: self._excluded_until(block, link, at) for link, at in hops.items()}
                for block, hops in self.view.failed.items()
            },
            under_way=self._under_way(keys),
            disabled=[key for key, link in self.view.links.items() if not link.enabled],
            closed=self.view.closed,
            full={se: until for se, at in self.view.full.items() if (until := at + rest) > self.now},
            leaving=self._leaving(),
            policy=self.policies.routing,
        )

    def _cost(self, link: LinkView) -> LinkCost:
        queued = self.view.loads.get((link.src, link.dst), Load()).bytes
        return link_cost(link, queued, self.now, self.policies.link)

    def _excluded_until(self, block: int, link: LinkKey, at: datetime) -> datetime:
        """Once to twice the time, and the same at each look: blocks given up together come back apart."""
        spread = crc32(f"{block} {link} {at.timestamp()}".encode()) / 2**32
        return at + self.policies.exclusion * (1 + spread)

    def _under_way(self, due: Collection[ReplicaKey]) -> dict[Window, int]:
        """Bytes routed by destination and priority, without those to be routed now."""
        found = defaultdict(int, self.view.under_way)
        for key, one in self.finals.items():
            if key not in due and one.word.moving:
                found[one.se_id, one.priority] += one.size
        return found

    def _apply(self, decision: Decision) -> None:
        key = decision.block_id, decision.dest
        old = self.words[key]
        if decision.code is Reason.COMPLETE:
            self.changes.complete.append(key)
            del self.words[key]
            return
        code, facts = self._explained(decision)
        word = Word(
            src=decision.src if decision.hop_dst == decision.dest else None,
            path=decision.path,
            cost=decision.cost,
            code=code,
            params={**decision.params, **facts},
            valid_until=self._valid_until(decision),
        )
        self.words[key] = word
        if word.moving:
            self.changes.again.update({(key[0], decision.path[1])} & self._given_up(key[0]))
        self._say(key, word, old)

    def _explained(self, decision: Decision) -> tuple[Reason, dict[str, object]]:
        """Its reason with what the plan does not know."""
        block, code, params = decision.block_id, decision.code, decision.params
        if code is Reason.NO_SOURCE:
            spoilt, rows = self.view.spoilt, self.view.replicas.get(block, ())
            lacking = [len(spoilt[one.key]) for one in rows if one.key in spoilt]
            if lacking and block not in self.void:
                return Reason.SOURCE_EXCEPTED, {"n": min(lacking)}
            return code, {"n": self.view.lost.get(block)}
        if code is Reason.NO_TRANSIT_SPACE:
            return code, {"limit": self.view.limits.get(int(str(params["se"])))}
        if code is Reason.ROUTER_SUSPENDED:
            return code, self._last_error(block)
        link: LinkKey | None = None
        if "link_src" in params:
            link = params["link_src"], params["link_dst"]  # type: ignore[assignment]
        seen = self.view.links.get(link) if link else None
        if code is Reason.LINK_PARKED and seen:
            return code, {"n": seen.state.failures}
        if code is Reason.LINK_FORCED and seen:
            return code, {"actor": seen.forced_by, "note": seen.note}
        if code is Reason.HOP_EXCLUDED and link:
            return code, {"error_class": self.view.errors.get((block, link))}
        return code, {}

    def _last_error(self, block: int) -> dict[str, object]:
        failed = self.view.failed.get(block)
        if not failed:
            return {}
        link = max(failed, key=lambda one: (failed[one], one))
        return {"link_src": link[0], "link_dst": link[1], "error": self.view.errors.get((block, link))}

    def _valid_until(self, decision: Decision) -> datetime:
        """Soon, where the copy the hop would make is still being deleted."""
        end = self.copies.get((decision.block_id, decision.hop_dst or 0))
        if end is None or end.state is not ReplicaState.DELETING:
            return decision.valid_until
        return min(decision.valid_until, self.now + timedelta(minutes=1) * self.policies.routing.scale)

    def _say(self, key: ReplicaKey, word: Word, old: Word) -> None:
        """A word that stays counts from when it was first said, and holds for longer."""
        if not word.says_as(old):
            self.changes.words[key] = word
        elif word.valid_until:
            self.changes.extend[key] = word.valid_until

    def _given_up(self, block: int) -> set[ReplicaKey]:
        return {(block, dst) for _, dst in self.view.failed.get(block, {})}

    def _pass_through(self) -> None:
        """First hops that end short of the destination become hops of their own."""
        for key, takers in self._first_hops().items():
            mine = self.transits.get(key)
            src = mine.word.src if mine else None
            taker = next((one for one in takers if self.words[one.key].path[0] == src), takers[0])
            word = _first_hop(self.words[taker.key])
            if key in self.finals:
                # Wanted for itself but held up there, by suspension for one: the hop is made all the same.
                if key in self.words and not self.words[key].moving:
                    self.changes.words.pop(key, None)
                    self.changes.extend.pop(key, None)
                    self._say(key, word, self.finals[key].word)
                    self.words[key] = word
            elif mine is not None:
                self._say(key, word, mine.word)
            elif key not in self.copies or self.copies[key].state is ReplicaState.COPYING:
                # What a route that changed has left half there, and nobody has taken away yet, goes on.
                self.changes.add.append(NewTransit(key, word, taker))

    def _first_hops(self) -> dict[ReplicaKey, list[Dest]]:
        """By the replica a first hop would make, the wanted ones it is for, most urgent first."""
        found: dict[ReplicaKey, list[Dest]] = defaultdict(list)
        for one in sorted(self.finals.values(), key=lambda one: (-one.priority, one.key)):
            word = self.words.get(one.key)
            if word and word.moving and len(word.path) > 2:
                found[one.block_id, word.path[1]].append(one)
        return found

    def _keep_rooms(self) -> None:
        """The stops of the routes of what is due that hold the block only for others. What waits keeps the
        room of copies that are there already, until its time is over."""
        for key in self.view.due:
            word = self.words.get(key)
            if word is None:
                continue
            block = key[0]
            if word.moving:
                stops = {via: pos for pos, via in enumerate(word.path[:-1]) if self._passes(block, via)}
                until = (word.valid_until or self.now) + self.policies.transit_age
                room = Room(stops, until)
            else:
                held = self.view.held.get(key, ())
                room = Room({via: 0 for via in held if self._in_transit(block, via)}, None)
            if room.stops or self.view.held.get(key):
                self.changes.rooms[key] = room

    def _passes(self, block: int, via: int) -> bool:
        copy = self.copies.get((block, via))
        return (block, via) not in self.finals and (copy is None or copy.transit)

    def _in_transit(self, block: int, via: int) -> bool:
        copy = self.copies.get((block, via))
        return copy is not None and copy.transit and copy.state is not ReplicaState.DELETING

    def _clear(self) -> None:
        """Transit rows that neither a route passes nor room is kept for go; the others hold on."""
        passed: dict[int, set[int]] = defaultdict(set)
        longest: dict[int, datetime] = {}
        for (block, se), word in self.words.items():
            if word.moving:
                passed[block].update(word.path)
            else:
                room = self.changes.rooms.get((block, se))
                passed[block].update(room.stops if room else self.view.held.get((block, se), ()))
            longest[block] = max(longest.get(block, self.now), word.valid_until or self.now)
        for key in self.transits:
            if key[1] not in passed[key[0]]:
                self.changes.words.pop(key, None)
                self.changes.extend.pop(key, None)
                self.changes.drop.append(key)
            elif key in self.view.due and key not in self.changes.words:
                self.changes.extend.setdefault(key, longest[key[0]])

    def _begin(self) -> None:
        """Hops under way whose end has no replica yet."""
        dropped = set(self.changes.drop)
        for key, one in (self.finals | self.transits).items():
            word = self.changes.words.get(key) or self.words.get(key) or one.word
            if word.src is not None and key not in self.copies and key not in dropped:
                self.changes.begin.append(one)


def _wanted(one: Dest, partial: frozenset[int]) -> BlockDest:
    return BlockDest(
        block_id=one.block_id,
        dest=one.se_id,
        size=one.size,
        priority=one.priority,
        suspended=one.suspended,
        path=one.word.path if one.progressed and one.word.moving else (),
        attempts=one.attempts,
        failing_since=one.failing_since,
        rested=one.word.code == Reason.ROUTER_SUSPENDED,
        partial=partial,
    )


def _first_hop(word: Word) -> Word:
    path = word.path[:2]
    params = {**word.params, "src": path[0], "hop_dst": path[1], "path": list(path)}
    return Word(
        src=path[0], path=path, cost=None, code=word.code, params=params, valid_until=word.valid_until
    )
