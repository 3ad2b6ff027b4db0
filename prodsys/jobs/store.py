"""Job rows: insert, take, move under guard, and everything a move entails, in one transaction.

Row locks are taken in the order queue < job < class < task < leaf, ascending within each. Whoever makes a
job READY holds the queue's lock: a claim may trust that nothing READY appears before the head it remembers.
Jobs that move alike are moved by one statement, whatever their number.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain
from typing import Any, NamedTuple

from sqlalchemy import Connection, Integer, bindparam, select

from gridcore.db import bulk, reads
from gridcore.db.bulk import Change, New, Same, Values, Write
from gridcore.db.engine import Stale, is_sqlite
from gridcore.db.idlists import within
from gridcore.db.reads import Read
from gridcore.db.statements import chunks, lock_rows, locking
from prodsys.job_states import ACTIVE, JOB, JobEvent, JobKind, JobState
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


class Move(NamedTuple):
    """One event for one job. `attempt` guards it: a job that has gone on to another attempt is left alone."""

    job_id: int
    attempt: int
    event: JobEvent
    to: JobState
    code: str | None = None
    due_at: datetime | None = None
    endpoint_id: int | None = None
    hold_kind: str | None = None
    #: The class the job waits in from now on, where it is another.
    class_id: int | None = None
    params: Mapping[str, Any] | None = None
    #: Core-seconds to charge to the job's share.
    used: float = 0.0


class JobRow(NamedTuple):
    """A job as it stands, with its class and place."""

    id: int
    task_id: int
    idx: int
    kind: JobKind
    class_id: int
    state: JobState
    attempt: int
    rank: int
    units: int
    endpoint_id: int | None
    due_at: datetime | None
    hold_kind: str | None
    code: str | None
    leaf_id: int
    cores: int
    site_id: int | None


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
        job.c.due_at,
        job.c.hold_kind,
        job.c.code,
        job_class.c.leaf_id,
        job_class.c.cores,
        endpoint.c.site_id,
    )
    .join_from(job, job_class, job_class.c.id == job.c.class_id)
    .outerjoin(endpoint, endpoint.c.id == job.c.endpoint_id)
    .where(within(job.c.id))
    .order_by(job.c.id)
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
    if not jobs:
        return
    lock_rows(conn, queue, [QUEUE])
    ids = [one.id for one in jobs]
    columns: dict[str, Values] = {
        "id": ids,
        "task_id": [one.task_id for one in jobs],
        "idx": [one.index for one in jobs],
        "kind": [one.kind for one in jobs],
        "class_id": [one.class_id for one in jobs],
        "rank": [one.rank for one in jobs],
        "units": [one.units for one in jobs],
        "state": Same(JobState.READY),
        "attempt": Same(0),
        "updated_at": Same(now),
    }
    specs: dict[str, Values] = {"job_id": ids, "spec": [dict(one.spec) for one in jobs]}
    born = _remembered(ids, Same(0), Same(None), Same(JobState.READY), Same(None), now)
    tally = Tally()
    for one in jobs:
        tally.born(one.task_id, one.kind, one.class_id, one.rank, one.units)
    tally.write(conn, [New(job, columns), New(job_spec, specs), born])


def _remembered(
    ids: Sequence[int], numbers: Values, frm: Values, to: Values, code: Values, now: datetime
) -> New:
    """A step of each job for its history."""
    columns = {"job_id": ids, "attempt": numbers, "frm": frm, "dst": to, "at": Same(now), "code": code}
    return New(job_history, columns)


# --- the claim -------------------------------------------------------------------------------------------


class Head(NamedTuple):
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
    conn: Connection,
    heads: Sequence[Head],
    endpoint_id: int,
    site_id: int,
    now: datetime,
    also: Sequence[Write] = (),
) -> list[Head]:
    """READY -> LEASED under the queue's lock, each with its next attempt, and what else is to be written.

    Raises Stale where one is READY no more: killed or held meanwhile, which needs no lock of the queue.
    """
    ordered = sorted(heads, key=lambda one: one.id)
    ids = [one.id for one in ordered]
    to_lease: dict[str, Values] = {
        "state": Same(JobState.LEASED),
        "endpoint_id": Same(endpoint_id),
        "code": Same(None),
        "params": Same(None),
        "updated_at": Same(now),
    }
    leased = Change(job, {"id": ids}, {"attempt": Same(1)}, to_lease, only={"state": JobState.READY})
    numbers = [one.attempt + 1 for one in ordered]
    told = _remembered(ids, numbers, Same(JobState.READY), Same(JobState.LEASED), Same(None), now)
    tally = Tally()
    tally.taken(heads, site_id)
    if tally.write(conn, [leased, told, *also])[0] < len(heads):
        raise Stale
    return list(heads)


# --- moves -----------------------------------------------------------------------------------------------


def apply(conn: Connection, moves: Sequence[Move], now: datetime, tally: Tally | None = None) -> list[Move]:
    """Make the moves whose job is still in that attempt and knows the event; the moves made.

    A job may make several, in their order. The others are stale: the job has moved on by another hand. A
    claim opens the next attempt; until then the job keeps the number of its last one, and news of that one
    still counts. What they add up to is written at once, or left in the `tally` given to be written by the
    caller: counters are locked after the last job.
    """
    if any(move.to == JobState.READY for move in moves):
        lock_rows(conn, queue, [QUEUE])
    sums = Tally() if tally is None else tally
    made: set[int] = set()
    parties = _parties(_locked(conn, [move.job_id for move in moves]), moves)
    for party in parties:
        made |= party.go(sums)
    shifts = [change for party in parties for change in party.shifts(now)]
    bulk.write(conn, [*shifts, *_told(parties, now)])
    if tally is None:
        sums.write(conn)
    return [move for place, move in enumerate(moves) if place in made]


def _locked(conn: Connection, job_ids: Iterable[int]) -> list[JobRow]:
    """The rows of jobs, in the order of their keys, locked and then read."""
    rows: list[JobRow] = []
    for chunk in chunks(sorted(set(job_ids)), CHUNK):
        # Two statements: of a joined row one that has waited for a lock sees what was there before.
        locks = [] if is_sqlite(conn) else [locking(job, chunk)]
        rows += map(JobRow._make, reads.rows(conn, [*locks, Read(ROWS, {"ids": chunk})])[-1])
    return rows


@dataclass(slots=True)
class _Party:
    """Jobs in the same state that are to go the same way: what holds for the first of them holds for all."""

    rows: list[JobRow] = field(default_factory=list)
    #: The moves of each job with their places among all moves.
    moves: list[list[tuple[int, Move]]] = field(default_factory=list)
    #: The steps that fit: which move of each job, and the state before it.
    steps: list[tuple[int, JobState]] = field(default_factory=list)
    opens: int = 0

    def go(self, tally: Tally) -> set[int]:
        """Find the steps that fit and count what they change; the places of the moves made."""
        row, state = self.rows[0], self.rows[0].state
        for number, (_, move) in enumerate(self.moves[0]):
            if move.attempt == row.attempt + self.opens and JOB.knows(state, move.event, move.to):
                self.steps.append((number, state))
                state = move.to
                self.opens += move.event == JobEvent.CLAIMED  # a claim opens the next attempt
        if self.steps:
            used = [sum(mine[number][1].used for number, _ in self.steps) for mine in self.moves]
            tally.moved(self.rows, used, state, self._last.class_id)
        return {mine[number][0] for mine in self.moves for number, _ in self.steps}

    @property
    def _last(self) -> Move:
        return self.moves[0][self.steps[-1][0]][1]

    def shifts(self, now: datetime) -> list[Change]:
        """The update of the jobs, which are locked."""
        if not self.steps:
            return []
        row, last = self.rows[0], self._last
        keeps = last.to in _KEEPS_ENDPOINT
        put: dict[str, Values] = {
            "state": Same(last.to),
            "endpoint_id": Same((last.endpoint_id or row.endpoint_id) if keeps else None),
            "updated_at": Same(now),
        }
        if _tells(row) or last.code or last.due_at or last.hold_kind or last.params:
            waits = last.to != JobState.READY  # a claim relies on it that no delay or holder is noted
            put["due_at"] = Same(last.due_at if waits else None)
            put["hold_kind"] = Same(last.hold_kind if waits else None)
            put |= {"code": Same(last.code), "params": Same(last.params)}
        if last.class_id is not None:
            put["class_id"] = Same(last.class_id)
        add = {"attempt": Same(self.opens)} if self.opens else {}
        return [Change(job, {"id": [row.id for row in self.rows]}, add, put)]

    def told(self) -> tuple[list[int], list[int], list[JobState], list[JobState], list[str | None]]:
        """The steps for the history, each job's in their order: job, attempt, from, to, code."""
        times, steps = len(self.rows), [(frm, self.moves[0][number][1]) for number, frm in self.steps]
        return (
            [row.id for row in self.rows for _ in steps],
            [row.attempt + self.opens for row in self.rows for _ in steps],
            [frm for frm, _ in steps] * times,
            [move.to for _, move in steps] * times,
            [move.code for _, move in steps] * times,
        )


def _tells(row: JobRow) -> bool:
    """Whether the row tells a reason, a delay or who holds it."""
    return row.code is not None or row.due_at is not None or row.hold_kind is not None


def _parties(rows: Sequence[JobRow], moves: Sequence[Move]) -> list[_Party]:
    asked: dict[int, list[tuple[int, Move]]] = defaultdict(list)
    for place, move in enumerate(moves):
        asked[move.job_id].append((place, move))
    texts: dict[int, str | None] = {id(None): None}  # of parameters, which jobs moved alike share
    for move in moves:
        if id(move.params) not in texts:
            texts[id(move.params)] = json.dumps(move.params, sort_keys=True)
    found: dict[Hashable, _Party] = defaultdict(_Party)
    for row in rows:
        mine = asked[row.id]
        way = [(move.attempt - row.attempt, move[2:9], texts[id(move.params)]) for _, move in mine]
        party = found[row.state, row.endpoint_id, _tells(row), tuple(way)]
        party.rows.append(row)
        party.moves.append(mine)
    return list(found.values())


def _told(parties: Iterable[_Party], now: datetime) -> list[New]:
    told = [party.told() for party in parties if party.steps]
    if not told:
        return []
    ids, numbers, frm, to, codes = (list(chain.from_iterable(lists)) for lists in zip(*told, strict=True))
    return [_remembered(ids, numbers, frm, to, codes, now)]


def reclass(conn: Connection, classes: Mapping[int, int]) -> None:
    """Let locked jobs that no counter counts by class wait in these classes, by job, from now on."""
    if classes:
        ids = sorted(classes)
        put = {"class_id": [classes[job_id] for job_id in ids]}
        bulk.write(conn, [Change(job, {"id": ids}, put=put)])


def rerank(conn: Connection, shifts: Mapping[int, int]) -> int:
    """Shift jobs, by key, in their lines by so many microseconds, down for sooner; how many."""
    lock_rows(conn, queue, [QUEUE])
    tally, changed = Tally(), 0
    for chunk in chunks(sorted(shifts), CHUNK):
        rows = _locked(conn, chunk)
        by = [shifts[row.id] for row in rows]
        changed += bulk.write(conn, [Change(job, {"id": [row.id for row in rows]}, {"rank": by})])[0]
        for row in rows:
            if row.state == JobState.READY:
                tally.ahead(row.class_id, row.rank + shifts[row.id])
    tally.write(conn)
    return changed
