"""The task queue: match a class, then pop jobs. A claim is one short transaction under the queue's lock."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Integer, bindparam, func, select

from gridcore.db.idlists import within
from gridcore.db.statements import lock_rows
from prodsys import breakers, classes, fairshare, limits, shares
from prodsys.fairshare import ShareNode
from prodsys.jobs import store
from prodsys.jobs.machine import JobState
from prodsys.jobs.store import Head
from prodsys.limits import Room
from prodsys.tables import class_site, endpoint, job, job_class, queue

#: How often more classes are asked before a leaf is content with what it has.
ROUNDS = 4
#: Above any rank.
_LAST = 2**62

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
_JOB = job.alias("one")
_LINE = job_class.alias("line")


def _ready(table: Any, name: str) -> Any:
    """The state is written out: the index of waiting jobs is partial."""
    state = bindparam(name, JobState.READY, type_=job.c.state.type, literal_execute=True)
    return table.c.state == state


#: The k-th job of the line, counted from its head.
_KTH = (
    select(_JOB.c.rank)
    .where(_JOB.c.class_id == _LINE.c.id, _ready(_JOB, "ready_one"), _JOB.c.rank >= _LINE.c.head_rank)
    .order_by(_JOB.c.rank, _JOB.c.id)
    .limit(1)
    .offset(bindparam("k_less_1", type_=Integer))
    .scalar_subquery()
)
#: The first k jobs of each of the lines, more where ranks are equal.
HEADS = (
    select(job.c.id, job.c.attempt, job.c.rank, job.c.class_id, job.c.task_id, job.c.kind, job.c.units)
    .join_from(_LINE, job, job.c.class_id == _LINE.c.id)
    .where(within(_LINE.c.id), _ready(job, "ready_job"), job.c.rank >= _LINE.c.head_rank)
    .where(job.c.rank <= func.coalesce(_KTH, _LAST))
)


#: A row of LINES.
Line = Any
Kind = tuple[int, str, int]
"""What shares and limits tell apart: leaf, task type, cores of one job."""


def claim(conn: Connection, endpoint_id: int, site_id: int, n: int, now: datetime) -> list[Head]:
    """Take up to `n` READY jobs for an endpoint, divided by the shares; the jobs, now LEASED.

    A head tells the attempt before: the one it is taken for is the next.
    """
    lock_rows(conn, queue, [store.QUEUE])
    allowed = breakers.allowance(conn, site_id, now)
    heads = _front(conn, site_id, endpoint_id, _within(n, allowed), now)
    taken = store.take(conn, heads, endpoint_id, site_id, now) if heads else []
    if taken and allowed is not None:
        breakers.sent(conn, site_id, len(taken), now)
    return taken


def preview(
    conn: Connection, site_id: int, n: int, now: datetime, endpoint_id: int | None = None
) -> list[Head]:
    """What a claim would take now, in the order in which the shares pick; nothing is changed."""
    return _front(conn, site_id, endpoint_id, _within(n, breakers.allowance(conn, site_id, now)), now)


def waiting(conn: Connection, site_id: int) -> dict[int, fairshare.Waiting]:
    """The work in the queue that may run at a site, by leaf."""
    kinds = {(row[0], row[1], row[2]): int(row[3]) for row in conn.execute(KINDS, {"at_site": site_id})}
    return _waiting(kinds)


def _within(n: int, allowed: int | None) -> int:
    return n if allowed is None else min(n, allowed)


def _front(conn: Connection, site_id: int, endpoint_id: int | None, n: int, now: datetime) -> list[Head]:
    if n < 1:
        return []
    lines = _lines(conn, site_id, endpoint_id)
    if not lines.kinds:
        return []
    nodes = shares.tree(conn, now, site_id)
    found = limits.rooms(conn, site_id)
    rooms = _Rooms(found, {node.id: node.path for node in nodes}) if found else None
    return _choose(conn, lines, nodes, rooms, n)


@dataclass(frozen=True, slots=True)
class _Lines:
    """What waits for a site: sums by kind, and the lines behind them, read when they are wanted."""

    kinds: Mapping[Kind, int]
    of: Callable[[Collection[int]], Sequence[Line]]


def _lines(conn: Connection, site_id: int, endpoint_id: int | None) -> _Lines:
    rows = conn.execute(KINDS, {"at_site": site_id}).all()
    if rows and endpoint_id is not None and rows[0].endpoints > 1:  # the site's others may offer more
        return _lines_at(conn, site_id, endpoint_id)
    return _Lines(
        {(row[0], row[1], row[2]): int(row[3]) for row in rows},
        lambda leaves: conn.execute(LINES_OF, {"at_site": site_id, "leaves": leaves}).all(),
    )


def _lines_at(conn: Connection, site_id: int, endpoint_id: int) -> _Lines:
    """Those that one endpoint of the site can run."""
    lines: Sequence[Line] = conn.execute(LINES, {"at_site": site_id}).all()
    refused = classes.refused_at(conn, site_id, endpoint_id, [line.id for line in lines])
    lines = [line for line in lines if line.id not in refused]
    kinds: Counter[Kind] = Counter()
    for line in lines:
        kinds[_kind(line)] += line.ready
    return _Lines(kinds, lambda leaves: [line for line in lines if line.leaf_id in leaves])


def _kind(line: Line) -> Kind:
    return line[1], line[5], line[2]


class _Rooms:
    """The limits, asked by kind of line; nothing is reckoned where there are none."""

    def __init__(self, rooms: Sequence[Room], paths: Mapping[int, str]) -> None:
        self._rooms = rooms
        self._paths = paths
        self._covering: dict[Kind, list[Room]] = {}

    def most(self, kind: Kind) -> int | None:
        """How many more jobs of the kind may start; None for any number."""
        bounds = [room.most(kind[2]) for room in self._of(kind)]
        return min((bound for bound in bounds if bound is not None), default=None)

    def take(self, kind: Kind) -> bool:
        """One more, if there is room under every limit."""
        if self.most(kind) == 0:
            return False
        for room in self._of(kind):
            room.take(kind[2])
        return True

    def _of(self, kind: Kind) -> list[Room]:
        if kind not in self._covering:
            leaf_id, task_type, _ = kind
            path = self._paths.get(leaf_id, "")
            self._covering[kind] = [room for room in self._rooms if room.covers(path, task_type)]
        return self._covering[kind]


def _choose(
    conn: Connection, lines: _Lines, nodes: Sequence[ShareNode], rooms: _Rooms | None, n: int
) -> list[Head]:
    """The shares divide, the limits have the last word; what they refuse goes to others."""
    chosen: dict[int, Head] = {}
    gone: Counter[Kind] = Counter()
    while len(chosen) < n:
        kinds = _open(lines.kinds, gone, rooms)
        picks = fairshare.divide(nodes, _waiting(kinds), n - len(chosen))
        asked = [line for line in lines.of(set(picks)) if _kind(line) in kinds]
        kind_of = {line.id: _kind(line) for line in asked}
        heads = _in_turn(picks, _pop(conn, asked, Counter(picks), chosen))
        accepted = [one for one in heads if rooms is None or rooms.take(kind_of[one.class_id])]
        chosen |= {one.id: one for one in accepted}
        if rooms is None or not accepted or len(accepted) == len(heads):
            break
        gone.update(kind_of[one.class_id] for one in accepted)
        nodes = _charged(nodes, accepted)
    return list(chosen.values())


def _open(kinds: Mapping[Kind, int], gone: Mapping[Kind, int], rooms: _Rooms | None) -> Mapping[Kind, int]:
    """What may still be taken, by kind."""
    if rooms is None:
        return kinds
    found = {}
    for kind, ready in kinds.items():
        most = rooms.most(kind)
        left = ready - gone[kind]
        left = left if most is None else min(left, most)
        if left > 0:
            found[kind] = left
    return found


def _waiting(kinds: Mapping[Kind, int]) -> dict[int, fairshare.Waiting]:
    jobs: dict[int, int] = defaultdict(int)
    most: dict[int, int] = defaultdict(int)
    for (leaf_id, _, cores), ready in kinds.items():
        jobs[leaf_id] += ready
        most[leaf_id] = max(most[leaf_id], cores)
    return {leaf_id: fairshare.Waiting(jobs[leaf_id], most[leaf_id]) for leaf_id in jobs}


def _charged(nodes: Iterable[ShareNode], taken: Iterable[Head]) -> list[ShareNode]:
    cores: Counter[int] = Counter()
    for head in taken:
        cores[head.leaf_id] += head.cores
    return [
        replace(node, running=node.running + cores[node.id]) if node.id in cores else node for node in nodes
    ]


def _in_turn(picks: Iterable[int], found: Mapping[int, Sequence[Head]]) -> list[Head]:
    """The jobs in the order in which their leaves were picked."""
    left = {leaf_id: iter(heads) for leaf_id, heads in found.items()}
    turns = (next(left[leaf_id], None) for leaf_id in picks)
    return [head for head in turns if head is not None]


# --- the jobs in front -----------------------------------------------------------------------------------


def _pop(
    conn: Connection, lines: Iterable[Line], wanted: Mapping[int, int], chosen: Mapping[int, Head]
) -> dict[int, list[Head]]:
    """For each leaf the `wanted` jobs of lowest rank over its classes, without those chosen before.

    A class is asked only where its head may come before what the leaf has found so far.
    """
    left = _by_leaf(lines, wanted)
    gone = Counter(one.class_id for one in chosen.values())
    found: dict[int, list[Head]] = {leaf_id: [] for leaf_id in wanted}
    for _ in range(ROUNDS):
        asked = [
            (line, wanted[leaf_id] + gone[line.id])
            for leaf_id in wanted
            for line in _next_lines(left[leaf_id], found[leaf_id], wanted[leaf_id])
        ]
        if not asked:
            break
        for head in _heads(conn, asked):
            if head.id not in chosen:
                found[head.leaf_id].append(head)
        for leaf_id, heads in found.items():
            heads.sort(key=_order)
            del heads[wanted[leaf_id] :]
    return found


def _order(head: Head) -> tuple[int, int]:
    return head.rank, head.id


def _by_leaf(lines: Iterable[Line], wanted: Mapping[int, int]) -> dict[int, list[Line]]:
    """The lines of the leaves that are wanted, the first one last."""
    left: dict[int, list[Line]] = {leaf_id: [] for leaf_id in wanted}
    for line in lines:
        if line.leaf_id in left:
            left[line.leaf_id].append(line)
    for mine in left.values():
        mine.sort(key=lambda line: (line.head_rank, line.id), reverse=True)
    return left


def _next_lines(left: list[Line], found: Sequence[Head], wanted: int) -> list[Line]:
    """The next lines to ask, taken off the end of `left`: enough for what is missing, then all that may come
    before."""
    lines, missing = [], wanted - len(found)
    while left and (missing > 0 or (len(found) == wanted and left[-1].head_rank < found[-1].rank)):
        missing -= left[-1].ready
        lines.append(left.pop())
    return lines


def _heads(conn: Connection, asked: Iterable[tuple[Line, int]]) -> list[Head]:
    """The jobs in front of these lines, at least so many of each as there are; like numbers go together."""
    lines, alike = {}, defaultdict(list)
    for line, n in asked:
        lines[line.id] = line
        alike[1 << (n - 1).bit_length()].append(line.id)
    heads = []
    for n, ids in alike.items():
        rows: Any = conn.execute(HEADS, {"ids": ids, "k_less_1": n - 1}).all()
        for id, attempt, rank, class_id, task_id, kind, units in rows:
            line = lines[class_id]
            heads.append(Head(id, attempt, rank, class_id, task_id, kind, units, line.leaf_id, line.cores))
    return heads
