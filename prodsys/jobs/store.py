"""Job rows: insert, take, move under guard, and everything a move entails, in one transaction.

Row locks are taken in the order queue < job < class < task < leaf, ascending within each. Whoever makes a
job READY holds the queue's lock: a claim may trust that nothing READY appears before the head it remembers.
Jobs that move alike are moved by one statement, whatever their number.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, Integer, bindparam, null, select, update
from sqlalchemy import insert as insert_into

from gridcore.db import bulk
from gridcore.db.engine import is_sqlite
from gridcore.db.idlists import within
from gridcore.db.statements import chunks, lock_rows, run_many
from prodsys.jobs.machine import ACTIVE, JOB, JobEvent, JobKind, JobState
from prodsys.jobs.tally import Tally
from prodsys.tables import endpoint, job, job_class, job_history, job_spec, queue

#: Key of the queue's one row.
QUEUE = 1
#: A point of priority is worth this much waiting, in microseconds.
POINT = 60_000_000
#: Jobs locked and read by one statement.
CHUNK = 5000
_KEEPS_ENDPOINT = ACTIVE | {JobState.STAGEOUT, JobState.LOST}


def rank_of(created: datetime, priority: int) -> int:
    """Lower is sooner: age and priority in one number, stored once. Add the index: ranks of a task differ."""
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
    #: The class the job waits in from now on, where it is another.
    class_id: int | None = None


ROWS = (
    select(
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
        job_class.c.leaf_id,
        job_class.c.cores,
        endpoint.c.site_id,
    )
    .join_from(job, job_class, job_class.c.id == job.c.class_id)
    .outerjoin(endpoint, endpoint.c.id == job.c.endpoint_id)
    .where(within(job.c.id))
    .order_by(job.c.id)
)
#: Nothing but the jobs: of a joined row a statement that has waited for a lock sees what was there before.
LOCK = select(job.c.id).where(within(job.c.id)).order_by(job.c.id).with_for_update(key_share=True)
SHIFT = (
    update(job)
    .where(within(job.c.id))
    .values(
        state=bindparam("dst", type_=job.c.state.type),
        attempt=job.c.attempt + bindparam("opens", type_=Integer),
        endpoint_id=bindparam("at_endpoint"),
        due_at=bindparam("due", type_=job.c.due_at.type),
        hold_kind=bindparam("hold"),
        code=bindparam("why"),
        params=bindparam("facts", type_=job.c.params.type),
        updated_at=bindparam("at", type_=job.c.updated_at.type),
    )
)
RECLASS = update(job).where(job.c.id == bindparam("job_id")).values(class_id=bindparam("to_class"))
_READY = job.c.state == bindparam("ready", JobState.READY, type_=job.c.state.type, literal_execute=True)
TAKE = (
    update(job)
    .where(within(job.c.id), _READY)
    .values(
        state=JobState.LEASED,
        attempt=job.c.attempt + 1,
        endpoint_id=bindparam("at_endpoint"),
        due_at=null(),
        hold_kind=null(),
        code=null(),
        params=null(),
        updated_at=bindparam("at", type_=job.c.updated_at.type),
    )
)
TAKEN = select(job.c.id).where(within(job.c.id), job.c.state == JobState.LEASED)
REMEMBER = insert_into(job_history).from_select(
    ["job_id", "attempt", "frm", "dst", "at", "code"],
    select(
        job.c.id,
        job.c.attempt,
        bindparam("frm", type_=job_history.c.frm.type),
        bindparam("dst", type_=job_history.c.dst.type),
        bindparam("at", type_=job_history.c.at.type),
        bindparam("why", type_=job_history.c.code.type),
    )
    .where(within(job.c.id))
    .order_by(job.c.id),
)
RERANK = update(job).where(within(job.c.id)).values(rank=job.c.rank + bindparam("by", type_=job.c.rank.type))
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
    if not jobs:
        return
    lock_rows(conn, queue, [QUEUE])
    ids = [one.id for one in jobs]
    columns: dict[str, Sequence[Any]] = {
        "id": ids,
        "task_id": [one.task_id for one in jobs],
        "idx": [one.index for one in jobs],
        "kind": [one.kind for one in jobs],
        "class_id": [one.class_id for one in jobs],
        "rank": [one.rank for one in jobs],
        "units": [one.units for one in jobs],
    }
    same = {"state": JobState.READY, "attempt": 0, "updated_at": now}
    bulk.insert_columns(conn, job, columns, same)
    bulk.insert_columns(conn, job_spec, {"job_id": ids, "spec": [dict(one.spec) for one in jobs]})
    born = {"attempt": 0, "frm": None, "dst": JobState.READY, "at": now, "code": None}
    bulk.insert_columns(conn, job_history, {"job_id": ids}, born)
    tally = Tally()
    for one in jobs:
        tally.born(one.task_id, one.kind, one.class_id, one.rank, one.units)
    tally.write(conn)


# --- the claim -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Head:
    """A READY job in front of its class, as the task queue finds it."""

    id: int
    attempt: int
    rank: int
    class_id: int
    task_id: int
    kind: JobKind
    units: int
    leaf_id: int
    cores: int


def take(
    conn: Connection, heads: Sequence[Head], endpoint_id: int, site_id: int, now: datetime
) -> list[Head]:
    """READY -> LEASED under the queue's lock, each with its next attempt; those that were READY still."""
    ids = [one.id for one in heads]
    binds = {"ids": ids, "at_endpoint": endpoint_id, "at": now}
    if conn.execute(TAKE, binds).rowcount < len(heads):  # killed or held meanwhile, without the queue's lock
        mine = set(conn.execute(TAKEN, {"ids": ids}).scalars())
        heads = [one for one in heads if one.id in mine]
        ids = [one.id for one in heads]
    _remember(conn, [(JobState.READY, JobState.LEASED, None, ids)], now)
    tally = Tally()
    for one in heads:
        tally.taken(one, site_id)
    tally.write(conn)
    return list(heads)


# --- moves -----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Course:
    """A job on its way: its row as it was, the moves it makes, where they have led so far."""

    row: Any
    state: JobState
    attempt: int
    steps: list[tuple[JobState, Move]] = field(default_factory=list)

    def takes(self, move: Move) -> bool:
        """Go on by one move, if it fits."""
        if self.attempt != move.attempt or not JOB.knows(self.state, move.event, move.to):
            return False
        self.steps.append((self.state, move))
        self.state = move.to
        self.attempt += move.event == JobEvent.CLAIMED  # a claim opens the next attempt
        return True

    @property
    def last(self) -> Move:
        return self.steps[-1][1]


def apply(conn: Connection, moves: Sequence[Move], now: datetime, tally: Tally | None = None) -> list[Move]:
    """Make the moves whose job is still in that attempt and knows the event; the moves made.

    A job may make several, in their order. The others are stale: the job has moved on by another hand. A
    claim opens the next attempt; until then the job keeps the number of its last one, and news of that one
    still counts. What they add up to is written at once, or left in the `tally` given to be written by the
    caller: counters are locked after the last job.
    """
    if any(move.to == JobState.READY for move in moves):
        lock_rows(conn, queue, [QUEUE])
    rows = _locked(conn, [move.job_id for move in moves])
    courses = {row.id: _Course(row, row.state, row.attempt) for row in rows}
    made = [move for move in moves if move.job_id in courses and courses[move.job_id].takes(move)]
    sums = Tally() if tally is None else tally
    _write(conn, [course for course in courses.values() if course.steps], now, sums)
    if tally is None:
        sums.write(conn)
    return made


def _locked(conn: Connection, job_ids: Iterable[int]) -> list[Any]:
    """The rows of jobs, in the order of their keys, locked and then read."""
    rows: list[Any] = []
    for chunk in chunks(sorted(set(job_ids)), CHUNK):
        if not is_sqlite(conn):
            conn.execute(LOCK, {"ids": chunk})
        rows += conn.execute(ROWS, {"ids": chunk}).all()
    return rows


def _write(conn: Connection, courses: Sequence[_Course], now: datetime, tally: Tally) -> None:
    together: dict[_Target, list[int]] = defaultdict(list)
    texts: dict[int, str] = {}  # of parameters, which jobs moved alike share
    for course in courses:
        together[_target(course, texts)].append(course.row.id)
    run_many(conn, SHIFT, [target.binds(ids, now) for target, ids in together.items()])
    moved = [
        {"job_id": course.row.id, "to_class": course.last.class_id}
        for course in courses
        if course.last.class_id is not None
    ]
    run_many(conn, RECLASS, moved)
    for number in range(max((len(course.steps) for course in courses), default=0)):
        _remember(conn, _steps(courses, number), now)
    for course in courses:
        used = sum(move.used for _, move in course.steps)
        tally.moved(course.row, course.state, used, course.last.class_id)


class _Target(NamedTuple):
    """What jobs that move alike become."""

    to: JobState
    opens: int
    endpoint_id: int | None
    due_at: datetime | None
    hold_kind: str | None
    code: str | None
    params: str | None

    def binds(self, ids: Sequence[int], now: datetime) -> dict[str, Any]:
        return {
            "ids": ids,
            "dst": self.to,
            "opens": self.opens,
            "at_endpoint": self.endpoint_id,
            "due": self.due_at,
            "hold": self.hold_kind,
            "why": self.code,
            "facts": None if self.params is None else json.loads(self.params),
            "at": now,
        }


def _target(course: _Course, texts: dict[int, str]) -> _Target:
    row, last = course.row, course.last
    at = last.endpoint_id or row.endpoint_id if last.to in _KEEPS_ENDPOINT else None
    if last.params is not None and id(last.params) not in texts:
        texts[id(last.params)] = json.dumps(last.params, sort_keys=True)
    facts = None if last.params is None else texts[id(last.params)]
    opens = course.attempt - row.attempt
    return _Target(last.to, opens, at, last.due_at, last.hold_kind, last.code, facts)


def _steps(
    courses: Sequence[_Course], number: int
) -> list[tuple[JobState | None, JobState, str | None, list[int]]]:
    """The jobs' moves of that number, alike ones together."""
    alike: dict[tuple[JobState, JobState, str | None], list[int]] = defaultdict(list)
    for course in courses:
        if number < len(course.steps):
            frm, move = course.steps[number]
            alike[frm, move.to, move.code].append(course.row.id)
    return [(*key, ids) for key, ids in alike.items()]


def _remember(
    conn: Connection,
    steps: Iterable[tuple[JobState | None, JobState, str | None, Sequence[int]]],
    now: datetime,
) -> None:
    binds = [
        {"frm": frm, "dst": to, "why": code, "ids": ids, "at": now} for frm, to, code, ids in steps if ids
    ]
    run_many(conn, REMEMBER, binds)


def rerank(conn: Connection, job_ids: Iterable[int], by: int) -> int:
    """Shift jobs in their lines by so many microseconds, down for sooner; how many."""
    lock_rows(conn, queue, [QUEUE])
    tally, changed = Tally(), 0
    for chunk in chunks(sorted(set(job_ids)), CHUNK):
        rows = _locked(conn, chunk)
        changed += conn.execute(RERANK, {"ids": [row.id for row in rows], "by": by}).rowcount
        for row in rows:
            if row.state == JobState.READY:
                tally.ahead(row.class_id, row.rank + by)
    tally.write(conn)
    return changed
