"""Hops: which wanted replicas are routed anew, which transit copies that takes, and which may go. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from zlib import crc32

from catalogs.replicas import ReplicaRow
from catalogs.states import ReplicaState
from datamgmt.allocation import ReplicaKey
from datamgmt.links import LinkPolicy, Phase, is_forced, phase, price
from datamgmt.linkstates import LinkView, Load, Policies
from datamgmt.planning import BlockDest, Decision, Window, plan
from datamgmt.reasons import Reason
from datamgmt.routing import LinkCost, LinkKey

#: Space of a storage element that declares no limit for transit copies.
UNLIMITED = 1 << 62
#: Parameters that move all the time: a word that differs in them alone is no news.
_FIGURES = frozenset(("free", "bytes", "days"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """The router's word on a wanted replica: `src` is set while a hop that ends there is under way, `path`
    while there is a route."""

    src: int | None = None
    path: tuple[int, ...] = ()
    cost: float | None = None
    code: str
    params: Mapping[str, object]
    valid_until: datetime | None = None

    @property
    def moving(self) -> bool:
        """Whether hops of its route are made; a slow path is known and not taken."""
        return bool(self.path) and self.code != Reason.SLOW_PATH

    def says_as(self, other: Word) -> bool:
        """Whether both say the same, for whatever time and with whatever figures."""
        if (self.src, self.path, self.code) != (other.src, other.path, other.code):
            return False
        return self.params == other.params or _facts(self.params) == _facts(other.params)


def _facts(params: Mapping[str, object]) -> dict[str, object]:
    return {key: value for key, value in params.items() if key not in _FIGURES}


@dataclass(frozen=True, slots=True, kw_only=True)
class Dest:
    """A wanted replica; `transit_for` is set for one that only passes through. progressed: something of it
    has been queued or has arrived since it was decided."""

    block_id: int
    se_id: int
    size: int
    transit_for: int | None
    custodial: bool
    priority: int
    suspended: bool
    word: Word
    decided_at: datetime
    created_at: datetime
    progressed: bool = False
    attempts: int = 0
    failing_since: datetime | None = None

    @property
    def key(self) -> ReplicaKey:
        return self.block_id, self.se_id


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What the router sees. `replicas` by block, with those of transit copies nobody asks for; `sizes` in
    bytes of their blocks; `spoilt`: replicas with missing or bad files; `failed`: by block, when a hop was
    given up; `limits`: bytes an SE holds in transit at most.

    due: the wanted replicas to plan; None for all that wait, whose route has expired or is broken. Of the
    blocks of those that are due, all rows are in view; `under_way` counts the bytes routed of other blocks.
    """

    dests: Sequence[Dest]
    replicas: Mapping[int, Sequence[ReplicaRow]]
    sizes: Mapping[int, int]
    spoilt: Collection[ReplicaKey]
    links: Mapping[LinkKey, LinkView]
    loads: Mapping[LinkKey, Load]
    failed: Mapping[int, Mapping[LinkKey, datetime]]
    limits: Mapping[int, int]
    due: Collection[ReplicaKey] | None = None
    under_way: Mapping[Window, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NewTransit:
    """A transit copy to be wanted, on the way to `dest`."""

    key: ReplicaKey
    word: Word
    dest: Dest


@dataclass(frozen=True, slots=True)
class Changes:
    """What the router changes: words on rows that exist, transit rows to add and to drop, rows of replicas
    found complete, hops chosen again, replicas to begin and transit replicas to let go; and until when words
    that stay hold from now on, of rows that were said to be due."""

    words: dict[ReplicaKey, Word] = field(default_factory=dict)
    add: list[NewTransit] = field(default_factory=list)
    drop: list[ReplicaKey] = field(default_factory=list)
    complete: list[ReplicaKey] = field(default_factory=list)
    again: set[ReplicaKey] = field(default_factory=set)
    begin: list[Dest] = field(default_factory=list)
    release: list[ReplicaKey] = field(default_factory=list)
    extend: dict[ReplicaKey, datetime] = field(default_factory=dict)

    def of_blocks(self, blocks: Collection[int]) -> Changes:
        """Those that concern these blocks."""
        return Changes(
            {key: word for key, word in self.words.items() if key[0] in blocks},
            [one for one in self.add if one.key[0] in blocks],
            [key for key in self.drop if key[0] in blocks],
            [key for key in self.complete if key[0] in blocks],
            {key for key in self.again if key[0] in blocks},
            [one for one in self.begin if one.block_id in blocks],
            [key for key in self.release if key[0] in blocks],
            {key: until for key, until in self.extend.items() if key[0] in blocks},
        )

    def blocks(self) -> list[int]:
        """The blocks they concern, ascending."""
        keys = {*self.words, *self.drop, *self.complete, *self.again, *self.release, *self.extend}
        keys |= {one.key for one in self.add} | {one.key for one in self.begin}
        return sorted({key[0] for key in keys})


def decide(view: View, now: datetime, policies: Policies, jitter: Callable[[], float]) -> Changes:
    """The changes to make now. A route is kept until it expires or breaks; what waits is planned anew."""
    return _Router(view, now, policies).decide(jitter)


def link_cost(link: LinkView, queued: int, now: datetime, policy: LinkPolicy) -> LinkCost:
    """The price of a link behind what is queued there, in bytes."""
    asked = price(link.state, link.distance, queued, now, policy, local=link.local)
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
        self.copies = {(one.block_id, one.se_id): one for rows in view.replicas.values() for one in rows}
        self.sources = {block: self._sources(rows) for block, rows in view.replicas.items()}
        self.changes = Changes()
        self.words = {key: one.word for key, one in self.finals.items()}

    def decide(self, jitter: Callable[[], float]) -> Changes:
        due = [one for one in self.finals.values() if self._due(one)]
        for decision in self._plan(due, jitter):
            self._apply(decision)
        self._pass_through()
        self._clear()
        self._begin()
        return self.changes

    def _sources(self, rows: Sequence[ReplicaRow]) -> dict[int, datetime | None]:
        return {
            one.se_id: one.completed_at
            for one in rows
            if one.state is ReplicaState.COMPLETE and (one.block_id, one.se_id) not in self.view.spoilt
        }

    def _due(self, one: Dest) -> bool:
        """Whether it waits, or its route has expired, broken, or been overtaken by a new replica."""
        if self.view.due is not None:
            return one.key in self.view.due
        word = one.word
        if not word.path or word.valid_until is None or word.valid_until <= self.now:
            return True
        sources = self.sources.get(one.block_id, {})
        if one.suspended or word.path[0] not in sources or not sources.keys().isdisjoint(word.path[1:]):
            return True
        links = list(zip(word.path, word.path[1:], strict=False))
        given_up = self.view.failed.get(one.block_id, {})
        if any(key in given_up or not self._usable(key) for key in links):
            return True
        return any(at is not None and at > one.decided_at for at in sources.values())

    def _usable(self, key: LinkKey) -> bool:
        link = self.view.links.get(key)
        return link is not None and link.enabled and phase(link.state, self.now) is not Phase.PARKED

    def _plan(self, due: Sequence[Dest], jitter: Callable[[], float]) -> list[Decision]:
        keys = {one.key for one in due}
        free, counted = self._space(keys)
        return plan(
            [_wanted(one) for one in due],
            self.sources,
            [self._cost(link) for link in self.view.links.values() if link.enabled],
            free,
            self.now,
            jitter,
            arriving=counted,
            excluded={
                block: {link: self._excluded_until(block, link, at) for link, at in hops.items()}
                for block, hops in self.view.failed.items()
            },
            under_way=self._under_way(keys),
            disabled=[key for key, link in self.view.links.items() if not link.enabled],
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

    def _space(self, due: Collection[ReplicaKey]) -> tuple[dict[int, int], set[ReplicaKey]]:
        """(bytes left by SE, replicas already counted): transit copies held or wanted take their place, and
        so do those that kept routes will pass."""
        free = {se: self.view.limits.get(se, UNLIMITED) for key in self.view.links for se in key}
        sizes = {**self.view.sizes, **{one.block_id: one.size for one in self.view.dests}}
        held = self.transits.keys() | {key for key, one in self.copies.items() if one.transit}
        for block, se in held:
            free[se] = free.get(se, UNLIMITED) - sizes[block]
        counted = held | self.finals.keys()
        for key, one in self.finals.items():
            if key in due or not one.word.moving:
                continue
            for se in one.word.path[1:-1]:
                if (one.block_id, se) not in counted:
                    counted.add((one.block_id, se))
                    free[se] = free.get(se, UNLIMITED) - one.size
        return free, counted

    def _apply(self, decision: Decision) -> None:
        key = decision.block_id, decision.dest
        old = self.words[key]
        if decision.code is Reason.COMPLETE:
            self.changes.complete.append(key)
            del self.words[key]
            return
        word = Word(
            src=decision.src if decision.hop_dst == decision.dest else None,
            path=decision.path,
            cost=decision.cost,
            code=decision.code,
            params=decision.params,
            valid_until=decision.valid_until,
        )
        self.words[key] = word
        if word.moving:
            self.changes.again.update({(key[0], decision.path[1])} & self._given_up(key[0]))
        same = word.says_as(old)
        if same and self.view.due is not None:
            self.changes.extend[key] = decision.valid_until
        # A route planned anew counts from now, even where it is the old one; waiting for the same does not.
        elif word.path or not same:
            self.changes.words[key] = word

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
                    if not word.says_as(self.finals[key].word):
                        self.changes.words[key] = word
                    elif self.view.due is not None and word.valid_until:
                        self.changes.extend[key] = word.valid_until
                    self.words[key] = word
            elif mine is None:
                self.changes.add.append(NewTransit(key, word, taker))
            elif not word.says_as(mine.word):
                self.changes.words[key] = word

    def _first_hops(self) -> dict[ReplicaKey, list[Dest]]:
        """By the replica a first hop would make, the wanted ones it is for, most urgent first."""
        found: dict[ReplicaKey, list[Dest]] = defaultdict(list)
        for one in sorted(self.finals.values(), key=lambda one: (-one.priority, one.key)):
            word = self.words.get(one.key)
            if word and word.moving and len(word.path) > 2:
                found[one.block_id, word.path[1]].append(one)
        return found

    def _clear(self) -> None:
        """Transit copies no route passes go; those of blocks that wait stay until they are too old."""
        passed: dict[int, set[int]] = defaultdict(set)
        waiting: set[int] = set()
        for (block, _), word in self.words.items():
            if word.moving:
                passed[block].update(word.path)
            else:
                waiting.add(block)
        since = self.now - self.policies.transit_age
        self.changes.drop.extend(
            key
            for key, one in self.transits.items()
            if key[1] not in passed[key[0]] and not (key[0] in waiting and one.created_at > since)
        )
        dropped = set(self.changes.drop)
        for key, copy in self.copies.items():
            if not copy.transit or copy.state is ReplicaState.DELETING or key in self.finals:
                continue
            if key in self.transits and key not in dropped:
                continue
            needed = key[1] in passed[key[0]] or (key[0] in waiting and copy.created_at > since)
            if not needed:
                self.changes.release.append(key)

    def _begin(self) -> None:
        """Hops under way whose end has no replica yet."""
        dropped = set(self.changes.drop)
        for key, one in (self.finals | self.transits).items():
            word = self.changes.words.get(key) or self.words.get(key) or one.word
            if word.src is not None and key not in self.copies and key not in dropped:
                self.changes.begin.append(one)


def _wanted(one: Dest) -> BlockDest:
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
    )


def _first_hop(word: Word) -> Word:
    path = word.path[:2]
    params = {**word.params, "src": path[0], "hop_dst": path[1], "path": list(path)}
    return Word(
        src=path[0], path=path, cost=None, code=word.code, params=params, valid_until=word.valid_until
    )
