"""Waiting jobs of one task brought in line with it: held while it is paused and released after, put into the
class of its share and sites, ranked by its priority. Each call goes through one chunk and may be repeated."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Integer, bindparam, select

from gridcore.db.statements import lock_rows, select_in
from prodsys.job_states import TROUBLE, JobEvent, JobKind, JobState
from prodsys.jobs import store
from prodsys.jobs.store import POINT, Move, rank_of
from prodsys.queue import classes
from prodsys.queue.classes import ClassSpec
from prodsys.tables import in_state, job, job_class, queue
from prodsys.tasks.tasks import Task
from prodsys.units import jobmaking

#: What a job held by its request's pause says, and what its history says where it changed its class.
PAUSED, RECLASSED = "PAUSED", "RECLASSED"
#: Microseconds below which ranks of one priority differ: their indices.
BAND = POINT

_OF_TASK = job.c.task_id == bindparam("of_task")


_SHORT = select(job.c.id, job.c.attempt, job.c.class_id, job.c.kind, job.c.state, job.c.rank)
#: The newest first: that is where the waiting ones are.
READY = (
    _SHORT.where(_OF_TASK, in_state(job, JobState.READY))
    .order_by(job.c.idx.desc())
    .limit(bindparam("n", type_=Integer))
)
#: As the partial index says it, word for word: SQLite uses it for nothing less.
_TROUBLE = in_state(job, *TROUBLE)
#: Without an order, which would have the planner walk the primary key.
HELD_BY_PAUSE = (
    _SHORT.where(_OF_TASK, _TROUBLE, in_state(job, JobState.HELD))
    .where(job.c.hold_kind == "policy", job.c.code == PAUSED)
    .limit(bindparam("n", type_=Integer))
)
STILL_HELD = _SHORT.where(job.c.id.in_(bindparam("ids", expanding=True))).where(
    job.c.state == JobState.HELD, job.c.hold_kind == "policy", job.c.code == PAUSED
)
UNFINISHED = (
    _SHORT.where(_OF_TASK, job.c.idx >= bindparam("from_index"))
    .where(job.c.state.in_(sorted(set(JobState) - {JobState.DONE, JobState.KILLED})))
    .order_by(job.c.id)
)
ROWS = _SHORT.where(job.c.id.in_(bindparam("ids", expanding=True))).order_by(job.c.id)
CLASSES = select(job_class).where(job_class.c.id.in_(bindparam("ids", expanding=True)))


# --- paused and resumed ----------------------------------------------------------------------------------


def hold(conn: Connection, task: Task, limit: int, now: datetime) -> int:
    """Hold at most so many jobs of a paused task that stand in a line; how many. Those that wait to be tried
    again wait on: they are held when they are due."""
    rows = conn.execute(READY, {"of_task": task.id, "n": limit})
    moves = [paused(row.id, row.attempt, task) for row in rows]
    return len(store.apply(conn, moves, now))


def paused(job_id: int, attempt: int, task: Task) -> Move:
    """The move that holds a waiting job for the pause of its task."""
    return Move(
        job_id=job_id,
        attempt=attempt,
        event=JobEvent.HOLD,
        to=JobState.HELD,
        code=PAUSED,
        params={"request": task.request_id},
        hold_kind="policy",
    )


def release(
    conn: Connection, job_ids: Iterable[int], now: datetime, into: Callable[[list[Move]], list[Move]]
) -> int:
    """Return those of these jobs that a pause holds, and no others, to the queue; how many. `into` says which
    of the moves lead into another class."""
    moves = [
        Move(job_id=row.id, attempt=row.attempt, event=JobEvent.RELEASE, to=JobState.READY)
        for row in select_in(conn, STILL_HELD, job_ids)
    ]
    return len(store.apply(conn, into(moves), now))


def waiting(conn: Connection, task_id: int, limit: int) -> list[int]:
    """Keys of at most so many jobs held by a pause."""
    return [row.id for row in conn.execute(HELD_BY_PAUSE, {"of_task": task_id, "n": limit})]


def held(conn: Connection, task_id: int) -> bool:
    """Whether a pause still holds a job of the task."""
    return conn.execute(HELD_BY_PAUSE, {"of_task": task_id, "n": 1}).first() is not None


# --- share, sites, priority ------------------------------------------------------------------------------


def unfinished(conn: Connection, task_id: int, from_index: int = 1) -> list[Any]:
    """(id, attempt, class_id, kind, state, rank) of the jobs that may run yet, from an index on."""
    return list(conn.execute(UNFINISHED, {"of_task": task_id, "from_index": from_index}))


def again(conn: Connection, rows: Iterable[Any]) -> list[Any]:
    """The same jobs as they are now."""
    return select_in(conn, ROWS, [row.id for row in rows])


def reclass(
    conn: Connection, class_ids: Iterable[int], task: Task, job_ids: Sequence[int], now: datetime
) -> int:
    """Put waiting, held and failed jobs into the class of their task's share and sites; how many moved.

    `class_ids` are fresh keys, one for each of the jobs' classes. Jobs under way stay where they were
    counted. The task's row is locked.
    """
    rows = select_in(conn, ROWS, job_ids)
    wanted = _wanted(conn, iter(class_ids), task, rows)
    lock_rows(conn, queue, [store.QUEUE])
    lock_rows(conn, job, job_ids)
    rows = [row for row in select_in(conn, ROWS, job_ids) if wanted.get((row.class_id, row.kind))]
    moves: list[Move] = []
    quiet: dict[int, int] = {}
    for row in rows:
        to = wanted[row.class_id, row.kind]
        if row.state == JobState.READY:
            moves += _around(row, to)
        elif row.state in (JobState.HELD, JobState.RETRY_WAIT, JobState.FAILED):
            quiet[row.id] = to  # no counter knows their class
    store.apply(conn, moves, now)
    store.reclass(conn, quiet)
    return len(moves) // 2 + len(quiet)


def _around(row: Any, class_id: int) -> list[Move]:
    """Out of one line and into another."""
    out = Move(job_id=row.id, attempt=row.attempt, event=JobEvent.HOLD, to=JobState.HELD, code=RECLASSED)
    back = Move(
        job_id=row.id, attempt=row.attempt, event=JobEvent.RELEASE, to=JobState.READY, class_id=class_id
    )
    return [out, back]


def _wanted(
    conn: Connection, class_ids: Any, task: Task, rows: Sequence[Any]
) -> dict[tuple[int, JobKind], int]:
    """By class and kind the class their jobs should be in, where it is another."""
    known = {row.id: row for row in select_in(conn, CLASSES, {row.class_id for row in rows})}
    found = {}
    for class_id, kind in sorted({(row.class_id, row.kind) for row in rows}):
        spec = spec_of(task, kind, known[class_id])
        if spec.fingerprint != known[class_id].fingerprint:
            found[class_id, kind] = classes.put(conn, next(class_ids), spec)
    return found


def spec_of(task: Task, kind: JobKind, row: Any) -> ClassSpec:
    """A class as it is, but with the task's share and sites. Sites that its jobs stay away from count again
    where there would be no other."""
    needs = classes.requirements_of([row], {})[row.id]
    now = jobmaking.requirements(task, kind)
    nowhere = now.sites is not None and now.sites <= needs.sites_excluded
    excluded = now.sites_excluded if nowhere else needs.sites_excluded
    return ClassSpec(
        task_type=row.task_type,
        leaf_id=task.leaf_id,
        requirements=replace(needs, input_ses=None, sites=now.sites, sites_excluded=excluded),
        input_block_id=row.input_block_id,
        input_se=row.requirements.get("input_se"),
    )


def rerank(conn: Connection, task: Task, priority: int, rows: Iterable[Any]) -> int:
    """Shift jobs ranked by the task's priority to another one's place; how many. Those that somebody ranked
    by themselves, or that were shifted before, stay."""
    by = (task.priority - priority) * POINT
    due = [row.id for row in rows if _ranked_by(task, row)]
    return store.rerank(conn, dict.fromkeys(due, by)) if due and by else 0


def _ranked_by(task: Task, row: Any) -> bool:
    bonus = jobmaking.MERGE_BONUS if row.kind == JobKind.MERGE else 0
    return row.rank - rank_of(task.created_at, task.priority + bonus) in range(BAND)
