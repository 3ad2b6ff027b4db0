"""Words: what the router sees of wanted replicas, what it says of each, and what that changes. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple, TypeVar

from catalogs.replicas import ReplicaRow
from datamgmt.links.linkstates import LinkView, Load
from datamgmt.links.paths import LinkKey
from datamgmt.reasons import Reason
from datamgmt.routing.decisions import Window
from datamgmt.wanted.allocation import ReplicaKey

T = TypeVar("T")
#: Parameters that move all the time: a word that differs in them alone is no news.
_FIGURES = frozenset(("free", "bytes", "days", "n", "limit", "holders", "attempts", "links"))


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
    has been queued or has arrived since it was decided. repair: it is there, and some of its `files` are
    wanted anew."""

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
    files: int = 0
    repair: bool = False

    @property
    def key(self) -> ReplicaKey:
        return self.block_id, self.se_id


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What the router sees. `replicas` by block, transit copies too; `spoilt`: the files of a replica that
    are missing or bad and not lost; `lost`: by block, how many files are; `failed`: by block, when a hop was
    given up, in `errors` what of, and in `arrived` when a file last came where; `free` and `limits`: bytes
    for transit at SEs with a limit; `held`: by wanted replica, the SEs that keep room for it; `closed`: SEs
    that are disabled; `full`: by SE, when a copy last found no room there.

    due: the rows to look at. Of their blocks all rows are in view; `under_way` counts the bytes routed of
    other blocks.
    """

    dests: Sequence[Dest]
    replicas: Mapping[int, Sequence[ReplicaRow]]
    spoilt: Mapping[ReplicaKey, Set[int]]
    links: Mapping[LinkKey, LinkView]
    loads: Mapping[LinkKey, Load]
    failed: Mapping[int, Mapping[LinkKey, datetime]]
    free: Mapping[int, int]
    held: Mapping[ReplicaKey, Collection[int]]
    due: Collection[ReplicaKey]
    under_way: Mapping[Window, int] = field(default_factory=dict)
    errors: Mapping[tuple[int, LinkKey], str] = field(default_factory=dict)
    arrived: Mapping[ReplicaKey, datetime] = field(default_factory=dict)
    limits: Mapping[int, int] = field(default_factory=dict)
    lost: Mapping[int, int] = field(default_factory=dict)
    closed: Collection[int] = ()
    full: Mapping[int, datetime] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NewTransit:
    """A transit copy to be wanted, on the way to `dest`."""

    key: ReplicaKey
    word: Word
    dest: Dest


class Tries(NamedTuple):
    """Hops given up in a row, and since when."""

    attempts: int
    failing_since: datetime | None


class Room(NamedTuple):
    """The stops of a route that take transit space, by SE with their place on it, until when; None: for as
    long as they had it."""

    stops: Mapping[int, int]
    until: datetime | None


@dataclass(frozen=True, slots=True)
class Changes:
    """What the router changes: words on rows that exist, transit rows to add and to drop, rows of replicas
    found complete, hops chosen again, replicas to begin; until when words that stay hold from now on; the
    room that rows looked at need, and tries that changed; `seen`: when those were due that were looked at."""

    words: dict[ReplicaKey, Word] = field(default_factory=dict)
    add: list[NewTransit] = field(default_factory=list)
    drop: list[ReplicaKey] = field(default_factory=list)
    complete: list[ReplicaKey] = field(default_factory=list)
    again: set[ReplicaKey] = field(default_factory=set)
    begin: list[Dest] = field(default_factory=list)
    extend: dict[ReplicaKey, datetime] = field(default_factory=dict)
    rooms: dict[ReplicaKey, Room] = field(default_factory=dict)
    tries: dict[ReplicaKey, Tries] = field(default_factory=dict)
    seen: dict[ReplicaKey, datetime | None] = field(default_factory=dict)

    def of_blocks(self, blocks: Collection[int]) -> Changes:
        """Those that concern these blocks."""
        return Changes(
            _of(self.words, blocks),
            [one for one in self.add if one.key[0] in blocks],
            [key for key in self.drop if key[0] in blocks],
            [key for key in self.complete if key[0] in blocks],
            {key for key in self.again if key[0] in blocks},
            [one for one in self.begin if one.block_id in blocks],
            _of(self.extend, blocks),
            _of(self.rooms, blocks),
            _of(self.tries, blocks),
            _of(self.seen, blocks),
        )

    def blocks(self) -> list[int]:
        """The blocks they concern, ascending."""
        keys = {*self.words, *self.drop, *self.complete, *self.extend, *self.rooms}
        keys |= {one.key for one in self.add} | {one.key for one in self.begin}
        return sorted({key[0] for key in keys})


def _of(found: Mapping[ReplicaKey, T], blocks: Collection[int]) -> dict[ReplicaKey, T]:
    return {key: value for key, value in found.items() if key[0] in blocks}
