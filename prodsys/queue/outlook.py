"""Outlook: what a claim sees of the queue from a site: which classes wait, under which shares and limits.

To read it costs more than to take one job. A claimer that comes back often keeps it for a moment and counts
what it takes itself; where that leaves it short it looks again before it goes away with less.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, func, select

from gridcore.db.idlists import within
from prodsys.jobs.store import Head
from prodsys.queue import breakers, classes, limits
from prodsys.queue.limits import Room, Use
from prodsys.shares import shares
from prodsys.shares.fairshare import ShareNode
from prodsys.tables import class_site, endpoint, job_class

#: How long an outlook is kept, in seconds.
KEPT_S = 1.0

_OF_SITE = (
    class_site.c.site_id == bindparam("at_site"),
    class_site.c.eligible == 1,
    job_class.c.ready > 0,
)
#: The classes that wait and may run at the site.
LINES = (
    select(
        job_class.c.id,
        job_class.c.leaf_id,
        job_class.c.cores,
        job_class.c.ready,
        job_class.c.head_rank,
        job_class.c.task_type,
    )
    .join(class_site, class_site.c.class_id == job_class.c.id)
    .where(*_OF_SITE)
)
LINES_OF = LINES.where(within(job_class.c.leaf_id, "leaves"))
#: How much waits of each kind, and how many endpoints the site has.
KINDS = (
    select(
        job_class.c.leaf_id,
        job_class.c.task_type,
        job_class.c.cores,
        func.sum(job_class.c.ready).label("ready"),
        select(func.count())
        .select_from(endpoint)
        .where(endpoint.c.site_id == bindparam("at_site"))
        .scalar_subquery()
        .label("endpoints"),
    )
    .join(class_site, class_site.c.class_id == job_class.c.id)
    .where(*_OF_SITE)
    .group_by(job_class.c.leaf_id, job_class.c.task_type, job_class.c.cores)
)

Kind = tuple[int, str, int]
"""What shares and limits tell apart: leaf, task type, cores of one job."""


@dataclass(slots=True)
class Line:
    """A class that waits: none of its jobs is READY before `head_rank`."""

    id: int
    leaf_id: int
    cores: int
    ready: int
    head_rank: int
    task_type: str
    #: What shares and limits see of it.
    kind: Kind = field(init=False)

    def __post_init__(self) -> None:
        self.kind = self.leaf_id, self.task_type, self.cores


@dataclass(slots=True)
class Outlook:
    """What may be taken for a site or one endpoint of it. `allowed`: by its breakers, None for any number."""

    allowed: int | None
    kinds: dict[Kind, int]
    nodes: list[ShareNode]
    limits: list[Room]
    read: Callable[[Connection, Collection[int]], Sequence[Any]]
    _lines: dict[int, list[Line]] = field(default_factory=dict)
    _by_id: dict[int, Line] = field(default_factory=dict)
    _covering: dict[Kind, list[int]] = field(default_factory=dict)
    _counting: dict[Use, list[int]] = field(default_factory=dict)

    def lines(self, conn: Connection, leaves: Collection[int]) -> list[Line]:
        """The classes behind the kinds of these leaves."""
        missing = [leaf_id for leaf_id in leaves if leaf_id not in self._lines]
        if missing:
            self._lines |= {leaf_id: [] for leaf_id in missing}
            for row in self.read(conn, missing):
                line = self._by_id[row[0]] = Line(*row)
                self._lines[line.leaf_id].append(line)
        return [line for leaf_id in leaves for line in self._lines[leaf_id]]

    def rooms(self, running: Iterable[Use], n: int | None = None) -> Rooms | None:
        """What the limits still allow while that runs; None where they allow any `n` jobs."""
        if not self.limits:
            return None
        left = limits.filled(self.limits, running, self._counting)
        cores = max((kind[2] for kind in self.kinds), default=1)
        if n is not None and all(room.holds(n, n * cores) for room in left):
            return None
        return Rooms(left, {node.id: node.path for node in self.nodes}, self._covering)

    def took(self, heads: Iterable[Head]) -> None:
        """These were taken: what is left of it."""
        cores: dict[int, int] = defaultdict(int)
        count: Counter[int] = Counter()
        last: dict[int, int] = {}
        for head in heads:
            cores[head.leaf_id] += head.cores
            count[head.class_id] += 1
            last[head.class_id] = max(head.rank, last.get(head.class_id, head.rank))
        for node in self.nodes:
            node.running += cores.get(node.id, 0)
        for class_id, n in count.items():
            line = self._by_id[class_id]
            line.ready -= n
            line.head_rank = last[class_id]
            self.kinds[line.kind] -= n


def look(conn: Connection, site_id: int, endpoint_id: int | None, now: datetime) -> Outlook:
    """The queue as it is now."""
    rows = conn.execute(KINDS, {"at_site": site_id}).all()
    kinds = {(row[0], row[1], row[2]): int(row[3]) for row in rows}
    nodes = shares.tree(conn, now, site_id) if rows else []
    found = Outlook(
        allowed=breakers.allowance(conn, site_id, now),
        kinds=kinds,
        nodes=nodes,
        limits=limits.at(conn, site_id) if rows else [],
        read=lambda conn, leaves: conn.execute(LINES_OF, {"at_site": site_id, "leaves": leaves}).all(),
    )
    if rows and endpoint_id is not None and rows[0].endpoints > 1:  # the site's others may offer more
        _narrow(conn, found, site_id, endpoint_id)
    return found


def _narrow(conn: Connection, found: Outlook, site_id: int, endpoint_id: int) -> None:
    """Leave what this endpoint of the site can run."""
    lines = conn.execute(LINES, {"at_site": site_id}).all()
    refused = classes.refused_at(conn, site_id, endpoint_id, [line.id for line in lines])
    left = [line for line in lines if line.id not in refused]
    kinds: Counter[Kind] = Counter()
    for line in left:
        kinds[line.leaf_id, line.task_type, line.cores] += line.ready
    found.kinds = dict(kinds)
    found.read = lambda _, leaves: [line for line in left if line.leaf_id in leaves]


class Memory:
    """The outlooks of one claimer, each kept for a moment. Used under the queue's lock alone."""

    def __init__(self, kept_s: float = KEPT_S, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._kept_s = kept_s
        self._monotonic = monotonic
        self._seen: dict[tuple[int, int], tuple[float, Outlook]] = {}

    def recall(self, site_id: int, endpoint_id: int) -> Outlook | None:
        """What was seen a moment ago; None where that is too long ago."""
        since, found = self._seen.get((site_id, endpoint_id), (0.0, None))
        return found if self._monotonic() - since <= self._kept_s else None

    def clear(self) -> None:
        """Something has changed that the next claim must see."""
        self._seen.clear()

    def keep(self, site_id: int, endpoint_id: int, found: Outlook) -> None:
        """Remember it, unless a breaker counts what is sent."""
        if found.allowed is None:
            self._seen[site_id, endpoint_id] = (self._monotonic(), found)


class Rooms:
    """The limits, asked by kind of line; nothing is reckoned where there are none."""

    def __init__(
        self, rooms: Sequence[Room], paths: Mapping[int, str], covering: dict[Kind, list[int]]
    ) -> None:
        """`covering` remembers which of the limits cover a kind, from one count of them to the next."""
        self._rooms = rooms
        self._paths = paths
        self._covering = covering

    def most(self, kind: Kind) -> int | None:
        """How many more jobs of the kind may start; None for any number."""
        bounds = [self._rooms[place].most(kind[2]) for place in self._of(kind)]
        return min((bound for bound in bounds if bound is not None), default=None)

    def take_all(self, wanted: Mapping[Kind, int]) -> bool:
        """So many more of each kind, if there is room for all of them under every limit."""
        jobs: Counter[int] = Counter()
        cores: Counter[int] = Counter()
        for kind, n in wanted.items():
            for place in self._of(kind):
                jobs[place] += n
                cores[place] += n * kind[2]
        if not all(self._rooms[place].holds(jobs[place], cores[place]) for place in jobs):
            return False
        for place in jobs:
            self._rooms[place].take(jobs[place], cores[place])
        return True

    def take(self, kind: Kind) -> bool:
        """One more, if there is room under every limit."""
        return self.take_all({kind: 1})

    def give(self, kind: Kind) -> None:
        """One less."""
        for place in self._of(kind):
            self._rooms[place].take(-1, -kind[2])

    def _of(self, kind: Kind) -> list[int]:
        """The places of the limits that cover the kind."""
        if kind not in self._covering:
            leaf_id, task_type, _ = kind
            path = self._paths.get(leaf_id, "")
            found = [place for place, room in enumerate(self._rooms) if room.covers(path, task_type)]
            self._covering[kind] = found
        return self._covering[kind]
