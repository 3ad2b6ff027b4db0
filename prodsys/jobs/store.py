"""Job rows: insert, move under guard, and everything a move entails, in one transaction.

Row locks are taken in the order queue < job < class < task < leaf, ascending within each. Whoever makes a
job READY holds the queue's lock: a claim may trust that nothing READY appears before the head it remembers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Integer, bindparam, case, select, update

from gridcore.db.statements import insert_rows, lock_rows, run_many, select_in
from gridcore.errors import InvalidTransition
from prodsys.jobs.machine import ACTIVE, JOB, JobEvent, JobKind, JobState
from prodsys.tables import job, job_class, job_history, job_spec, queue, share_node, task_count

#: Key of the queue's one row.
QUEUE = 1
#: A point of priority is worth this much waiting, in microseconds.
POINT = 60_000_000


def rank_of(created: datetime, priority: int) -> int:
    """Lower is sooner: age and priority in one number, stored once."""
    return int(created.timestamp() * 1_000_000) - priority * POINT


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJob:
    """A job to be queued."""

    id: int
    task_id: int
    index: int
    kind: JobKind
    class_id: int
    rank: int
    units: int
    spec: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """One event for one job. `attempt` guards it: a job that has gone on to another attempt is left alone."""

    job_id: int
    attempt: int
    event: JobEvent
    to: JobState
    code: str | None = None
    params: Mapping[str, Any] | None = None
    due_at: datetime | None = None
    endpoint_id: int | None = None
    hold_kind: str | None = None
    #: Core-seconds to charge to the job's share.
    used: float = 0.0


ROWS = select(
    job.c.id,
    job.c.task_id,
    job.c.idx,
    job.c.kind,
    job.c.class_id,
    job.c.state,
    job.c.attempt,
    job.c.rank,
    job.c.units,
    job.c.endpoint_id,
).where(job.c.id.in_(bindparam("ids", expanding=True)))
CLASSES = select(job_class.c.id, job_class.c.leaf_id, job_class.c.cores).where(
    job_class.c.id.in_(bindparam("ids", expanding=True))
)
MOVE = (
    update(job)
    .where(job.c.id == bindparam("job_id"), job.c.state == bindparam("frm", type_=job.c.state.type))
    .where(job.c.attempt == bindparam("seen"))
    .values(
        state=bindparam("dst", type_=job.c.state.type),
        attempt=bindparam("then"),
        endpoint_id=bindparam("at_endpoint"),
        due_at=bindparam("due"),
        hold_kind=bindparam("hold"),
        code=bindparam("why"),
        params=bindparam("facts", type_=job.c.params.type),
        updated_at=bindparam("at", type_=job.c.updated_at.type),
    )
)
COUNT_READY = (
    update(job_class)
    .where(job_class.c.id == bindparam("class_id"))
    .values(
        ready=job_class.c.ready + bindparam("n"),
        head_rank=case(
            (job_class.c.head_rank.is_(None), bindparam("head")),
            (bindparam("head") < job_class.c.head_rank, bindparam("head")),
            else_=job_class.c.head_rank,
        ),
    )
)
COUNT_TAKEN = (
    update(job_class)
    .where(job_class.c.id == bindparam("class_id"))
    .values(ready=job_class.c.ready + bindparam("n"))
)
COUNT_JOBS = (
    update(task_count)
    .where(
        task_count.c.task_id == bindparam("of_task"),
        task_count.c.kind == bindparam("of_kind", type_=job.c.kind.type),
    )
    .where(task_count.c.state == bindparam("in_state", type_=job.c.state.type))
    .values(jobs=task_count.c.jobs + bindparam("n"), units=task_count.c.units + bindparam("n_units"))
)
CHARGE = (
    update(share_node)
    .where(share_node.c.id == bindparam("leaf_id"))
    .values(running=share_node.c.running + bindparam("cores"), used=share_node.c.used + bindparam("core_s"))
)
DUE = (
    select(job.c.id, job.c.attempt)
    .where(job.c.state == JobState.RETRY_WAIT, job.c.due_at <= bindparam("now", type_=job.c.due_at.type))
    .order_by(job.c.due_at)
    .limit(bindparam("n", type_=Integer))
)


def due(conn: Connection, now: datetime, limit: int) -> list[Move]:
    """The moves that return waiting jobs to the queue, longest due first."""
    rows = conn.execute(DUE, {"now": now, "n": limit})
    return [Move(job_id=row.id, attempt=row.attempt, event=JobEvent.DUE, to=JobState.READY) for row in rows]


def insert(conn: Connection, jobs: Sequence[NewJob], now: datetime) -> None:
    """Queue new jobs, READY and without an attempt."""
    lock_rows(conn, queue, [QUEUE])
    rows = [
        {
            "id": one.id,
            "task_id": one.task_id,
            "idx": one.index,
            "kind": one.kind,
            "class_id": one.class_id,
            "state": JobState.READY,
            "attempt": 0,
            "rank": one.rank,
            "units": one.units,
            "updated_at": now,
        }
        for one in jobs
    ]
    insert_rows(conn, job, rows)
    insert_rows(conn, job_spec, [{"job_id": one.id, "spec": dict(one.spec)} for one in jobs])
    history = [_history(one.id, 0, None, JobState.READY, None, now) for one in jobs]
    insert_rows(conn, job_history, history)
    tally = _Tally()
    for one in jobs:
        tally.ready(one.class_id, 1, one.rank)
        tally.job(one.task_id, one.kind, JobState.READY, 1, one.units)
    tally.write(conn)


def apply(conn: Connection, moves: Sequence[Move], now: datetime) -> list[Move]:
    """Make the moves whose job is still in that attempt and knows the event; the moves made.

    The others are stale: the job has moved on by another hand. A claim opens the next attempt; until then
    the job keeps the number of its last one, and news of that one still counts.
    """
    if any(move.to == JobState.READY for move in moves):
        lock_rows(conn, queue, [QUEUE])
    lock_rows(conn, job, [move.job_id for move in moves])
    rows = {row.id: row for row in select_in(conn, ROWS, [move.job_id for move in moves])}
    made = [move for move in moves if _fits(rows.get(move.job_id), move)]
    _write(conn, [(rows[move.job_id], move) for move in made], now)
    return made


def _fits(row: Any, move: Move) -> bool:
    if row is None or row.attempt != move.attempt:
        return False
    try:
        JOB.check(row.state, move.event, move.to)
    except InvalidTransition:
        return False
    return True


def _write(conn: Connection, pairs: Sequence[tuple[Any, Move]], now: datetime) -> None:
    run_many(conn, MOVE, [_binds(row, move, now) for row, move in pairs])
    history = [
        _history(row.id, _number(row, move), row.state, move.to, move.code, now) for row, move in pairs
    ]
    insert_rows(conn, job_history, history)
    classes = {row.id: row for row in select_in(conn, CLASSES, [row.class_id for row, _ in pairs])}
    tally = _Tally()
    for row, move in pairs:
        tally.move(row, move, classes[row.class_id])
    tally.write(conn)


def _binds(row: Any, move: Move, now: datetime) -> dict[str, Any]:
    keeps_endpoint = move.to in ACTIVE or move.to in (JobState.STAGEOUT, JobState.LOST)
    return {
        "job_id": row.id,
        "frm": row.state,
        "dst": move.to,
        "seen": row.attempt,
        "then": _number(row, move),
        "at_endpoint": (move.endpoint_id or row.endpoint_id) if keeps_endpoint else None,
        "due": move.due_at,
        "hold": move.hold_kind,
        "why": move.code,
        "facts": move.params,
        "at": now,
    }


def _number(row: Any, move: Move) -> int:
    """The job's attempt after the move: a claim opens the next one."""
    return int(row.attempt) + (move.event == JobEvent.CLAIMED)


def _history(
    job_id: int, attempt: int, frm: JobState | None, to: JobState, code: str | None, now: datetime
) -> dict[str, Any]:
    return {"job_id": job_id, "attempt": attempt, "frm": frm, "dst": to, "at": now, "code": code}


class _Tally:
    """What moves add up to, written as relative updates in key order."""

    def __init__(self) -> None:
        self._ready: dict[int, int] = defaultdict(int)
        self._head: dict[int, int] = {}
        self._jobs: dict[tuple[int, JobKind, JobState], int] = defaultdict(int)
        self._units: dict[tuple[int, JobKind, JobState], int] = defaultdict(int)
        self._cores: dict[int, int] = defaultdict(int)
        self._used: dict[int, float] = defaultdict(float)

    def ready(self, class_id: int, n: int, rank: int) -> None:
        self._ready[class_id] += n
        if n > 0:
            self._head[class_id] = min(rank, self._head.get(class_id, rank))

    def job(self, task_id: int, kind: JobKind, state: JobState, n: int, units: int) -> None:
        self._jobs[task_id, kind, state] += n
        self._units[task_id, kind, state] += n * units

    def move(self, row: Any, move: Move, of_class: Any) -> None:
        if row.state == JobState.READY:
            self.ready(row.class_id, -1, row.rank)
        if move.to == JobState.READY:
            self.ready(row.class_id, 1, row.rank)
        if (row.state in ACTIVE) != (move.to in ACTIVE):
            self._cores[of_class.leaf_id] += of_class.cores if move.to in ACTIVE else -of_class.cores
        self._used[of_class.leaf_id] += move.used
        self.job(row.task_id, row.kind, row.state, -1, row.units)
        self.job(row.task_id, row.kind, move.to, 1, row.units)

    def write(self, conn: Connection) -> None:
        for class_id, n in sorted(self._ready.items()):
            if class_id in self._head:
                conn.execute(COUNT_READY, {"class_id": class_id, "n": n, "head": self._head[class_id]})
            elif n:
                conn.execute(COUNT_TAKEN, {"class_id": class_id, "n": n})
        cells = [
            {"of_task": key[0], "of_kind": key[1], "in_state": key[2], "n": n, "n_units": self._units[key]}
            for key, n in sorted(self._jobs.items())
            if n or self._units[key]
        ]
        run_many(conn, COUNT_JOBS, cells)
        for leaf_id in sorted({*self._cores, *self._used}):
            cores, used = self._cores[leaf_id], self._used[leaf_id]
            if cores or used:
                conn.execute(CHARGE, {"leaf_id": leaf_id, "cores": cores, "core_s": used})
