"""The task queue: match a class, then pop jobs. A claim is one short transaction under the queue's lock."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from operator import attrgetter

from sqlalchemy import Connection, Integer, bindparam, func, select

from gridcore.db import reads
from gridcore.db.engine import is_sqlite
from gridcore.db.idlists import within
from gridcore.db.reads import Read
from gridcore.db.statements import locking
from prodsys.job_states import JobState
from prodsys.jobs import attempts, store
from prodsys.jobs.attempts import Claimant
from prodsys.jobs.store import Head
from prodsys.queue import breakers, limits, outlook
from prodsys.queue.limits import Use
from prodsys.queue.outlook import Kind, Line, Memory, Outlook, Rooms
from prodsys.shares import fairshare
from prodsys.shares.fairshare import ShareNode
from prodsys.tables import in_state, job, job_class, queue

#: How often more classes are asked before a leaf is content with what it has.
ROUNDS = 4
#: Rows that may be read in vain to save a statement.
VAIN = 200
_FRONT = attrgetter("head_rank", "id")
_ORDER = attrgetter("rank", "id")
#: Above any rank.
_LAST = 2**62

_JOB = job.alias("one")
_LINE = job_class.alias("line")


#: The k-th job of the line, counted from its head.
_KTH = (
    select(_JOB.c.rank)
    .where(_JOB.c.class_id == _LINE.c.id, in_state(_JOB, JobState.READY), _JOB.c.rank >= _LINE.c.head_rank)
    .order_by(_JOB.c.rank, _JOB.c.id)
    .limit(1)
    .offset(bindparam("k_less_1", type_=Integer))
    .scalar_subquery()
)
#: The first k jobs of each of the lines, more where ranks are equal.
HEADS = (
    select(job.c.id, job.c.attempt, job.c.rank, job.c.class_id, job.c.task_id, job.c.kind, job.c.units)
    .join_from(_LINE, job, job.c.class_id == _LINE.c.id)
    .where(within(_LINE.c.id), in_state(job, JobState.READY), job.c.rank >= _LINE.c.head_rank)
    .where(job.c.rank <= func.coalesce(_KTH, _LAST))
)


def claim(conn: Connection, by: Claimant, n: int, now: datetime, memory: Memory | None = None) -> list[Head]:
    """Take up to `n` READY jobs, divided by the shares; the jobs, now LEASED with an open attempt each.

    A head tells the attempt before: the one it is taken for is the next. With a memory the claim may begin
    with what was seen a moment ago; whatever that leaves open is sought anew.
    """
    try:
        return _claimed(conn, by, n, now, memory)
    except Exception:
        if memory:  # it counts what is not taken after all
            memory.clear()
        raise


def _claimed(conn: Connection, by: Claimant, n: int, now: datetime, memory: Memory | None) -> list[Head]:
    seen = memory.recall(by.site_id, by.endpoint_id) if memory else None
    running = _lock(conn, seen)
    taken = _take(conn, seen, by, n, now, running) if seen else []
    if len(taken) < n:
        seen = outlook.look(conn, by.site_id, by.endpoint_id, now)
        missing = _within(n - len(taken), seen.allowed)
        taken += _take(conn, seen, by, missing, now, _running(conn, seen))
        if memory:
            memory.keep(by.site_id, by.endpoint_id, seen)
    if taken and seen and seen.allowed is not None:
        breakers.sent(conn, by.site_id, len(taken), now)
    return taken


def _lock(conn: Connection, seen: Outlook | None) -> list[Use]:
    """Hold the queue; what runs then, where limits ask for it."""
    counts = [limits.RUNNING] if seen and seen.limits else []
    locks = [] if is_sqlite(conn) else [locking(queue, [store.QUEUE])]
    found = reads.rows(conn, [*locks, *counts])
    return found[-1] if counts else []


def _running(conn: Connection, seen: Outlook) -> list[Use]:
    return limits.uses(conn) if seen.limits else []


def _take(
    conn: Connection, seen: Outlook, by: Claimant, n: int, now: datetime, running: Iterable[Use]
) -> list[Head]:
    heads = _choose(conn, seen, n, running) if n > 0 else []
    if heads:
        opened = attempts.opened({one.id: one.attempt + 1 for one in heads}, by, now)
        heads = store.take(conn, heads, by.endpoint_id, by.site_id, now, [opened])
        seen.took(heads)
    return heads


def preview(
    conn: Connection, site_id: int, n: int, now: datetime, endpoint_id: int | None = None
) -> list[Head]:
    """What a claim would take now, in the order in which the shares pick; nothing is changed."""
    seen = outlook.look(conn, site_id, endpoint_id, now)
    return _choose(conn, seen, _within(n, seen.allowed), _running(conn, seen))


def waiting(
    conn: Connection, endpoint_id: int, site_id: int, back: Iterable[Kind], now: datetime
) -> tuple[list[ShareNode], dict[int, fairshare.Waiting]]:
    """The shares, and by leaf the work that a claim for the endpoint could take, were jobs of the kinds
    `back` not there. A site that a breaker holds back has none."""
    seen = outlook.look(conn, site_id, endpoint_id, now)
    if seen.allowed is not None:
        return seen.nodes, {}
    rooms = seen.rooms(_running(conn, seen))
    if rooms:
        for kind in back:
            rooms.give(kind)
    return seen.nodes, _waiting(_open(seen.kinds, Counter(), rooms))


def _within(n: int, allowed: int | None) -> int:
    return n if allowed is None else min(n, allowed)


def _choose(conn: Connection, seen: Outlook, n: int, running: Iterable[Use]) -> list[Head]:
    """The shares divide, the limits have the last word; what they refuse goes to others."""
    chosen: dict[int, Head] = {}
    gone: Counter[Kind] = Counter()
    rooms, nodes = seen.rooms(running, n), seen.nodes
    while len(chosen) < n:
        kinds = _open(seen.kinds, gone, rooms)
        picks = fairshare.divide(nodes, _waiting(kinds), n - len(chosen))
        asked = [line for line in seen.lines(conn, set(picks)) if line.kind in kinds and line.ready > 0]
        kind_of = {line.id: line.kind for line in asked}
        heads = _in_turn(picks, _pop(conn, asked, Counter(picks), chosen))
        accepted = heads
        if rooms and not rooms.take_all(Counter(kind_of[one.class_id] for one in heads)):
            accepted = [one for one in heads if rooms.take(kind_of[one.class_id])]
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
            heads.sort(key=_ORDER)
            del heads[wanted[leaf_id] :]
    return found


def _by_leaf(lines: Iterable[Line], wanted: Mapping[int, int]) -> dict[int, list[Line]]:
    """The lines of the leaves that are wanted, the first one last."""
    left: dict[int, list[Line]] = {leaf_id: [] for leaf_id in wanted}
    for line in lines:
        if line.leaf_id in left:
            left[line.leaf_id].append(line)
    for mine in left.values():
        mine.sort(key=_FRONT, reverse=True)
    return left


def _next_lines(left: list[Line], found: Sequence[Head], wanted: int) -> list[Line]:
    """The next lines to ask, taken off the end of `left`: enough for what is missing, then all that may come
    before."""
    lines, missing = [], wanted - len(found)
    while left and (missing > 0 or (len(found) == wanted and left[-1].head_rank < found[-1].rank)):
        missing -= left[-1].ready
        lines.append(left.pop())
    return lines


def _heads(conn: Connection, asked: Sequence[tuple[Line, int]]) -> list[Head]:
    """The jobs in front of these lines, at least so many of each as there are."""
    lines = {line.id: line for line, _ in asked}
    together = [Read(HEADS, {"ids": ids, "k_less_1": n - 1}) for n, ids in _together(asked)]
    return [
        Head._make((*row, lines[row[3]].leaf_id, lines[row[3]].cores))
        for found in reads.rows(conn, together)
        for row in found
    ]


def _together(asked: Iterable[tuple[Line, int]]) -> list[tuple[int, list[int]]]:
    """Lines to be asked by one statement for the same number of jobs, which is no less than each needs."""
    found: list[tuple[int, list[int]]] = []
    vain = 0
    for line, n in sorted(asked, key=lambda pair: -pair[1]):
        if found and vain + found[-1][0] - n <= VAIN:
            vain += found[-1][0] - n
            found[-1][1].append(line.id)
        else:
            found.append((n, [line.id]))
            vain = 0
    return found
