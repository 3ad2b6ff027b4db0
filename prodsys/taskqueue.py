"""The task queue: match a class, then pop jobs. A claim is one short transaction under the queue's lock."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Integer, bindparam, func, select

from gridcore.db.idlists import within
from gridcore.db.statements import lock_rows
from prodsys import breakers, fairshare, outlook
from prodsys.fairshare import ShareNode
from prodsys.jobs import store
from prodsys.jobs.machine import JobState
from prodsys.jobs.store import Head
from prodsys.outlook import Kind, Line, Memory, Outlook, Rooms
from prodsys.tables import job, job_class, queue

#: How often more classes are asked before a leaf is content with what it has.
ROUNDS = 4
#: Above any rank.
_LAST = 2**62

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


def claim(
    conn: Connection,
    endpoint_id: int,
    site_id: int,
    n: int,
    now: datetime,
    memory: Memory | None = None,
) -> list[Head]:
    """Take up to `n` READY jobs for an endpoint, divided by the shares; the jobs, now LEASED.

    A head tells the attempt before: the one it is taken for is the next. With a memory the claim may begin
    with what was seen a moment ago; whatever that leaves open is sought anew.
    """
    lock_rows(conn, queue, [store.QUEUE])
    seen = memory.recall(site_id, endpoint_id) if memory else None
    taken = _take(conn, seen, endpoint_id, site_id, n, now) if seen else []
    if len(taken) < n:
        seen = outlook.look(conn, site_id, endpoint_id, now)
        taken += _take(conn, seen, endpoint_id, site_id, _within(n - len(taken), seen.allowed), now)
        if memory:
            memory.keep(site_id, endpoint_id, seen)
    if taken and seen and seen.allowed is not None:
        breakers.sent(conn, site_id, len(taken), now)
    return taken


def _take(
    conn: Connection, seen: Outlook, endpoint_id: int, site_id: int, n: int, now: datetime
) -> list[Head]:
    heads = _choose(conn, seen, n)
    seen.took(heads)
    return store.take(conn, heads, endpoint_id, site_id, now) if heads else []


def preview(
    conn: Connection, site_id: int, n: int, now: datetime, endpoint_id: int | None = None
) -> list[Head]:
    """What a claim would take now, in the order in which the shares pick; nothing is changed."""
    seen = outlook.look(conn, site_id, endpoint_id, now)
    return _choose(conn, seen, _within(n, seen.allowed))


def waiting(
    conn: Connection, endpoint_id: int, site_id: int, back: Iterable[Kind], now: datetime
) -> tuple[list[ShareNode], dict[int, fairshare.Waiting]]:
    """The shares, and by leaf the work that a claim for the endpoint could take, were jobs of the kinds
    `back` not there. A site that a breaker holds back has none."""
    seen = outlook.look(conn, site_id, endpoint_id, now)
    if seen.allowed is not None:
        return seen.nodes, {}
    rooms = seen.rooms(conn)
    if rooms:
        for kind in back:
            rooms.give(kind)
    return seen.nodes, _waiting(_open(seen.kinds, Counter(), rooms))


def _within(n: int, allowed: int | None) -> int:
    return n if allowed is None else min(n, allowed)


def _choose(conn: Connection, seen: Outlook, n: int) -> list[Head]:
    """The shares divide, the limits have the last word; what they refuse goes to others."""
    chosen: dict[int, Head] = {}
    gone: Counter[Kind] = Counter()
    rooms, nodes = seen.rooms(conn) if n > 0 else None, seen.nodes
    while len(chosen) < n:
        kinds = _open(seen.kinds, gone, rooms)
        picks = fairshare.divide(nodes, _waiting(kinds), n - len(chosen))
        asked = [line for line in seen.lines(conn, set(picks)) if line.kind in kinds and line.ready > 0]
        kind_of = {line.id: line.kind for line in asked}
        heads = _in_turn(picks, _pop(conn, asked, Counter(picks), chosen))
        accepted = [one for one in heads if rooms is None or rooms.take(kind_of[one.class_id])]
        chosen |= {one.id: one for one in accepted}
        if rooms is None or not accepted or len(accepted) == len(heads):
            break
        gone.update(kind_of[one.class_id] for one in accepted)
        nodes = _charged(nodes, accepted)
    return list(chosen.values())


def _open(kinds: Mapping[Kind, int], gone: Mapping[Kind, int], rooms: Rooms | None) -> Mapping[Kind, int]:
    """What may still be taken, by kind."""
    found = {}
    for kind, ready in kinds.items():
        most = rooms.most(kind) if rooms else None
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
