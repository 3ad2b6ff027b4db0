"""What people order by hand: jobs killed, held, released or tried again, and tasks ended or taken up anew.

The state table decides which jobs an order still fits; the others are left alone. Whoever repeats an order
does the rest. Each transaction leaves one row in the audit log.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, and_, bindparam, select

from catalogs import bookkeeping
from gridcore.db.statements import insert_rows, lock_rows, select_in
from gridcore.tables import audit_log
from prodsys import attempts, outputs, requests, tasks
from prodsys.attempts import Ending
from prodsys.jobs import store
from prodsys.jobs.machine import JOB, JobEvent, JobKind, JobState
from prodsys.jobs.store import Move
from prodsys.retries import ErrorClass
from prodsys.settlement import Settler
from prodsys.states import OutputEvent, OutputState, TaskEvent, TaskState
from prodsys.tables import attempt, job
from prodsys.tasks import Task

#: Where each order leads.
ORDERS: Mapping[JobEvent, JobState] = {
    JobEvent.KILL: JobState.KILLED,
    JobEvent.HOLD: JobState.HELD,
    JobEvent.RELEASE: JobState.READY,
    JobEvent.RETRY: JobState.RETRY_WAIT,
}

_LISTED = select(job.c.id, job.c.idx, job.c.state).where(job.c.task_id == bindparam("of_task"))
OF_TASK = _LISTED.where(job.c.state.in_(bindparam("states", expanding=True))).order_by(job.c.id)
NAMED = _LISTED.where(job.c.idx.in_(bindparam("ids", expanding=True)))
ROWS = (
    select(job.c.id, job.c.idx, job.c.kind, job.c.state, job.c.attempt, attempt.c.batch_key)
    .outerjoin_from(job, attempt, and_(attempt.c.job_id == job.c.id, attempt.c.attempt == job.c.attempt))
    .where(job.c.id.in_(bindparam("ids", expanding=True)))
    .order_by(job.c.id)
)


def sources(event: JobEvent) -> frozenset[JobState]:
    """The states a job may be in for this order. Pure."""
    return frozenset(state for rule in JOB.rules if rule.event == event for state in rule.sources)


def of_task(conn: Connection, task_id: int, states: Iterable[JobState]) -> list[Any]:
    """(id, idx, state) of a task's jobs in these states."""
    return list(conn.execute(OF_TASK, {"of_task": task_id, "states": list(states)}))


def named(conn: Connection, task_id: int, indices: Iterable[int]) -> list[Any]:
    """(id, idx, state) of a task's jobs with these indices."""
    return select_in(conn, NAMED, indices, {"of_task": task_id})


# --- jobs: of one task, by id; each answers how many it moved ---------------------------------------------


def kill_jobs(settler: Settler, task_id: int, job_ids: Sequence[int], actor: str) -> int:
    """End jobs for good. Their attempts end, their outputs are wished away, what they merged waits anew."""
    conn, now = settler.conn, settler.now
    lock_rows(conn, job, job_ids)
    killed = _order(conn, task_id, job_ids, JobEvent.KILL, actor, now)
    keys = [row.batch_key for row in killed if row.batch_key is not None]
    ending = Ending(error_class=ErrorClass.KILLED, error=f"killed by {actor}")
    for one in attempts.by_key(conn, keys).values():
        attempts.close(conn, one, ending, now)
    settler.discard(outputs.of_jobs(conn, [row.id for row in killed]))
    merges = [row.id for row in killed if row.kind == JobKind.MERGE]
    inputs = [one for one in outputs.of_merges(conn, merges) if one.state == OutputState.MERGING]
    if inputs:
        outputs.move(conn, inputs, OutputEvent.RELEASED, now)
        _reopen(conn, tasks.lock(conn, task_id), actor, now)
    return len(killed)


def hold_jobs(conn: Connection, task_id: int, job_ids: Sequence[int], actor: str, now: datetime) -> int:
    """Keep waiting jobs from running until they are released."""
    lock_rows(conn, job, job_ids)
    return len(_order(conn, task_id, job_ids, JobEvent.HOLD, actor, now))


def release_jobs(conn: Connection, task_id: int, job_ids: Sequence[int], actor: str, now: datetime) -> int:
    """Return held jobs to the queue, whatever they were held for."""
    return len(_order(conn, task_id, job_ids, JobEvent.RELEASE, actor, now))


def retry_jobs(conn: Connection, task_id: int, job_ids: Sequence[int], actor: str, now: datetime) -> int:
    """Give failed jobs another try, at once; a task that had ended is taken up again, unless by a kill."""
    lock_rows(conn, job, job_ids)
    task = tasks.lock(conn, task_id)
    if task.state == TaskState.KILLED:
        return 0
    retried = _order(conn, task_id, job_ids, JobEvent.RETRY, actor, now)
    if retried:
        _reopen(conn, task, actor, now)
    return len(retried)


def _order(
    conn: Connection, task_id: int, job_ids: Sequence[int], event: JobEvent, actor: str, now: datetime
) -> list[Any]:
    """Make the moves that fit, audited; the rows of the jobs moved, as they were."""
    rows = {row.id: row for row in select_in(conn, ROWS, job_ids)}
    moves = [
        Move(
            job_id=row.id,
            attempt=row.attempt,
            event=event,
            to=ORDERS[event],
            code=event.name,
            params={"by": actor},
            due_at=now if event == JobEvent.RETRY else None,
            hold_kind="operator" if event == JobEvent.HOLD else None,
        )
        for row in rows.values()
    ]
    moved = [rows[move.job_id] for move in store.apply(conn, moves, now)]
    if moved:
        detail = {"count": len(moved), "jobs": sorted(row.idx for row in moved)}
        subject = f"task {tasks.by_id(conn, task_id).name}"
        _audit(conn, actor, f"job {event.name.lower()}", subject, now, detail)
    return moved


# --- tasks and requests ----------------------------------------------------------------------------------


def kill_task(conn: Connection, task_id: int, actor: str, now: datetime) -> None:
    """No further job is made. Its jobs, and then `close_task`, are left to the caller."""
    task = tasks.lock(conn, task_id)
    if task.state != TaskState.KILLED:
        tasks.move(conn, task, TaskEvent.KILL, TaskState.KILLED, now, actor=actor)
        _audit(conn, actor, "task kill", f"task {task.name}", now)


def close_task(conn: Connection, task_id: int) -> None:
    """Once a killed task has no live job: its blocks become due to be closed."""
    bookkeeping.close_dataset(conn, tasks.by_id(conn, task_id).output_dataset_id)


def retry_task(conn: Connection, task_id: int, actor: str, now: datetime) -> bool:
    """Take up a task whose input has grown since it ended; False where it had not ended so."""
    return _reopen(conn, tasks.lock(conn, task_id), actor, now)


def abort_request(conn: Connection, request_id: int, actor: str, now: datetime) -> None:
    """End a request. Its tasks are left to the caller. Raises InvalidTransition."""
    if requests.abort(conn, request_id, actor=actor, now=now):
        _audit(conn, actor, "request abort", f"request {request_id}", now)


def _reopen(conn: Connection, task: Task, actor: str, now: datetime) -> bool:
    """Back to ACTIVE, its dataset open for new blocks, its request running."""
    if task.state not in (TaskState.CLOSING, TaskState.INCOMPLETE):
        return False
    tasks.move(conn, task, TaskEvent.RETRY, TaskState.ACTIVE, now, actor=actor)
    bookkeeping.reopen_dataset(conn, task.output_dataset_id)
    tasks.expect_more(conn, task)
    if task.request_id is not None:
        requests.resume(conn, task.request_id, actor=actor, now=now)
    _audit(conn, actor, "task retry", f"task {task.name}", now)
    return True


def _audit(
    conn: Connection,
    actor: str,
    verb: str,
    subject: str,
    now: datetime,
    detail: Mapping[str, Any] | None = None,
) -> None:
    row = {"at": now, "actor": actor, "verb": verb, "subject": subject, "detail": detail}
    insert_rows(conn, audit_log, [row])
