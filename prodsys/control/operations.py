"""What people order by hand: jobs killed, held, released or tried again, and tasks ended or taken up anew.

The state table decides which jobs an order still fits; the others are left alone. Who ordered what is in the
audit log, once for each order; which jobs it changed is kept with the order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, select, update

from catalogs import bookkeeping
from gridcore import audit
from gridcore.db.idlists import within
from gridcore.db.statements import lock_rows
from prodsys.control import amendments
from prodsys.control.orders import Changed, Order, OrderVerb
from prodsys.job_states import JOB, JobEvent, JobKind, JobState
from prodsys.jobs import outputs, store
from prodsys.jobs.attempts import ERROR_MAX
from prodsys.jobs.store import Move, rank_of
from prodsys.requests import requests
from prodsys.settling.retries import ErrorClass
from prodsys.settling.settlement import Settler
from prodsys.states import REQUEST, OutputEvent, OutputState, RequestState, TaskEvent, TaskState
from prodsys.tables import attempt, job, queue, request
from prodsys.tasks import tasks
from prodsys.tasks.tasks import Task

#: What happens to a job, and where it leads.
MOVES: Mapping[OrderVerb, tuple[JobEvent, JobState]] = {
    OrderVerb.KILL: (JobEvent.KILL, JobState.KILLED),
    OrderVerb.HOLD: (JobEvent.HOLD, JobState.HELD),
    OrderVerb.RELEASE: (JobEvent.RELEASE, JobState.READY),
    OrderVerb.RETRY: (JobEvent.RETRY, JobState.RETRY_WAIT),
}
#: Jobs that stand in a line, or will again.
WAITING = frozenset([JobState.READY, JobState.RETRY_WAIT, JobState.HELD])

CLOSE = (
    update(attempt)
    .where(within(attempt.c.job_id), attempt.c.ended_at.is_(None))
    .values(
        ended_at=bindparam("at", type_=attempt.c.ended_at.type),
        error_class=bindparam("kind"),
        error=bindparam("text"),
        penalty=0,
    )
)
HOLDS = (
    select(job.c.id, job.c.task_id, job.c.state, job.c.attempt, job.c.hold_kind, job.c.params)
    .where(within(job.c.id))
    .order_by(job.c.id)
)
RANKS = select(job.c.id, job.c.idx, job.c.rank).where(within(job.c.id)).order_by(job.c.id)

#: Says which of the moves that release jobs lead into another class.
Into = Callable[[Connection, Sequence[Move]], Sequence[Move]]
#: Reads jobs again within the transaction: those of the rows that the order still means, as they are now.
Again = Callable[[Connection, Sequence[Any]], Sequence[Any]]


def sources(verb: OrderVerb) -> frozenset[JobState]:
    """The states a job may be in for this order. Pure."""
    if verb == OrderVerb.PRIORITY:
        return WAITING
    event, _ = MOVES[verb]
    return frozenset(state for rule in JOB.rules if rule.event == event for state in rule.sources)


def closed_to(verb: OrderVerb) -> frozenset[TaskState]:
    """The states of a task whose jobs this order may not touch: none of them would run. Pure."""
    if verb == OrderVerb.KILL:
        return frozenset()
    return frozenset([TaskState.KILLED, *([TaskState.COMPLETED] if verb == OrderVerb.RETRY else [])])


def refuses(verb: OrderVerb, state: TaskState, request_state: RequestState | None) -> bool:
    """Whether an order may touch no job of such a task: nothing is tried again for a closed request. Pure."""
    return state in closed_to(verb) or (verb == OrderVerb.RETRY and request_state in REQUEST.final)


# --- jobs: a chunk of an order, all of one task; its rows are (id, kind, state, attempt) --------------------


def unchanged(_conn: Connection, moves: Sequence[Move]) -> Sequence[Move]:
    """Every job stays in its class."""
    return moves


def carry_out(
    settler: Settler,
    order: Order,
    task_id: int,
    rows: Sequence[Any],
    again: Again,
    into: Into = unchanged,
) -> Changed:
    """Do to these jobs what was ordered, where it still fits; those changed."""
    if order.verb == OrderVerb.PRIORITY:
        return shift_jobs(settler.conn, order, task_id, rows, again)
    reopens = order.verb == OrderVerb.RETRY or any(row.kind == JobKind.MERGE for row in rows)
    task = _locked(settler.conn, task_id) if reopens else None
    if task is not None and refuses(order.verb, task.state, _request_state(settler.conn, task)):
        return {}
    moved = _move(settler, order, rows, again, into)
    if order.verb == OrderVerb.KILL:
        _end(settler, order, moved)
    if task is not None and moved and (order.verb == OrderVerb.RETRY or _release_inputs(settler, moved)):
        _reopen(settler.conn, task, order.actor, settler.now)
    return dict.fromkeys((row.id for row in moved), 0)


def _locked(conn: Connection, task_id: int) -> Task:
    task = tasks.by_id(conn, task_id)
    if task.request_id is not None:
        lock_rows(conn, request, [task.request_id])
    return tasks.lock(conn, task_id)


def _request_state(conn: Connection, task: Task) -> RequestState | None:
    return None if task.request_id is None else requests.row_of(conn, task.request_id).state


def _move(settler: Settler, order: Order, rows: Sequence[Any], again: Again, into: Into) -> list[Any]:
    """The rows moved. What another hand moved meanwhile is read again and moved if it is still meant."""
    conn = settler.conn
    if order.verb == OrderVerb.KILL and any(row.state != JobState.READY for row in rows):
        lock_rows(conn, job, [row.id for row in rows])
        rows = again(conn, rows)
    moved = _apply(settler, order, rows, into)
    left = {row.id for row in rows} - {row.id for row in moved}
    if left:
        moved += _apply(settler, order, again(conn, [row for row in rows if row.id in left]), into)
    return moved


def _apply(settler: Settler, order: Order, rows: Sequence[Any], into: Into) -> list[Any]:
    event, to = MOVES[order.verb]
    params = {"by": order.actor, "operation": order.id}
    due_at = settler.now if order.verb == OrderVerb.RETRY else None
    hold = "operator" if order.verb == OrderVerb.HOLD else None
    moves = [
        Move(
            job_id=row.id,
            attempt=row.attempt,
            event=event,
            to=to,
            code=event.name,
            params=params,
            due_at=due_at,
            hold_kind=hold,
        )
        for row in rows
    ]
    if order.verb == OrderVerb.RELEASE:
        moves = list(into(settler.conn, moves))
    by_id = {row.id: row for row in rows}
    made = store.apply(settler.conn, moves, settler.now)
    return [by_id[job_id] for job_id in dict.fromkeys(move.job_id for move in made)]


def _end(settler: Settler, order: Order, killed: Sequence[Any]) -> None:
    """Attempts of killed jobs end, and their outputs are wished away."""
    tried = [row.id for row in killed if row.attempt > 0]
    if tried:
        text = f"killed by {order.actor}"[:ERROR_MAX]
        binds = {"ids": tried, "at": settler.now, "kind": ErrorClass.KILLED.value, "text": text}
        settler.conn.execute(CLOSE, binds)
        settler.discard(outputs.of_jobs(settler.conn, tried))


def _release_inputs(settler: Settler, killed: Sequence[Any]) -> bool:
    """What killed merges would have merged waits anew; whether there is any."""
    merges = [row.id for row in killed if row.kind == JobKind.MERGE]
    inputs = [one for one in outputs.of_merges(settler.conn, merges) if one.state == OutputState.MERGING]
    outputs.move(settler.conn, inputs, OutputEvent.RELEASED, settler.now)
    return bool(inputs)


# --- priority --------------------------------------------------------------------------------------------


def shift_jobs(conn: Connection, order: Order, task_id: int, rows: Sequence[Any], again: Again) -> Changed:
    """Move waiting jobs of a task in their lines, by so many points or to a priority; those moved."""
    lock_rows(conn, queue, [store.QUEUE])
    lock_rows(conn, job, [row.id for row in rows])
    ids = [row.id for row in again(conn, rows)]
    if order.to is None:
        shifts = dict.fromkeys(ids, -(order.by or 0) * store.POINT)
    else:
        shifts = _shifts_to(conn, task_id, order.to, ids)
    store.rerank(conn, shifts)
    return shifts


def _shifts_to(conn: Connection, task_id: int, priority: int, ids: Sequence[int]) -> dict[int, int]:
    """How far each job is from where it would stand if made with that priority, where it is not there."""
    place = rank_of(tasks.by_id(conn, task_id).created_at, priority)
    shifts = {row.id: place + row.idx - row.rank for row in conn.execute(RANKS, {"ids": ids})}
    return {key: by for key, by in shifts.items() if by}


# --- taken back ------------------------------------------------------------------------------------------


def take_back(
    settler: Settler, undo: Order, order: Order, changed: Changed, into: Into = unchanged
) -> Changed:
    """Undo what an order did to these jobs; those put back.

    A hold is taken back where the job is held by that very order; priority where the job still waits: the
    opposite shift is exact, whatever else was shifted since.
    """
    conn = settler.conn
    lock_rows(conn, queue, [store.QUEUE])
    lock_rows(conn, job, changed)
    rows = conn.execute(HOLDS, {"ids": sorted(changed)}).all()
    if order.verb == OrderVerb.PRIORITY:
        shifts = {row.id: -changed[row.id] for row in rows if row.state in WAITING}
        store.rerank(conn, shifts)
        return shifts
    held = [row for row in rows if row.state == JobState.HELD and _held_by(row) == order.id]
    moves = [
        Move(
            job_id=row.id,
            attempt=row.attempt,
            event=JobEvent.RELEASE,
            to=JobState.READY,
            code=JobEvent.RELEASE.name,
            params={"by": undo.actor, "operation": undo.id},
        )
        for row in held
    ]
    made = store.apply(conn, into(conn, moves), settler.now)
    return dict.fromkeys((move.job_id for move in made), 0)


def _held_by(row: Any) -> int | None:
    return (row.params or {}).get("operation") if row.hold_kind == "operator" else None


# --- tasks and requests ----------------------------------------------------------------------------------


def kill_task(conn: Connection, task_id: int, actor: str, now: datetime) -> None:
    """No further job is made. Its jobs, and then `close_task`, are left to the caller."""
    task = tasks.lock(conn, task_id)
    if task.state != TaskState.KILLED:
        tasks.move(conn, task, TaskEvent.KILL, TaskState.KILLED, now, actor=actor)
        audit.record(conn, actor, "task kill", f"task {task.name}", now)


def close_task(conn: Connection, task_id: int, actor: str, now: datetime) -> None:
    """Once a killed task has no live job: its blocks become due to be closed."""
    bookkeeping.close_dataset(conn, tasks.by_id(conn, task_id).output_dataset_id, actor, now)


def retry_task(conn: Connection, task_id: int, actor: str, now: datetime) -> bool:
    """Take up a task whose input has grown since it ended; False where it had not ended so."""
    return _reopen(conn, _locked(conn, task_id), actor, now)


def abort_request(conn: Connection, request_id: int, actor: str, now: datetime) -> None:
    """End a request: none of its tasks makes a job any more. Their jobs are left to the caller.

    Raises InvalidTransition.
    """
    if requests.abort(conn, request_id, actor=actor, now=now):
        audit.record(conn, actor, "request abort", f"request {request_id}", now)
        for one in tasks.of_request(conn, request_id):
            if one.state != TaskState.COMPLETED:
                kill_task(conn, one.id, actor, now)


def _reopen(conn: Connection, task: Task, actor: str, now: datetime) -> bool:
    """Back to ACTIVE, its dataset open for new blocks, its request running, what reads it taken up too; not
    for a closed request."""
    if task.state not in (TaskState.CLOSING, TaskState.INCOMPLETE):
        return False
    if _request_state(conn, task) in REQUEST.final:
        return False
    tasks.move(conn, task, TaskEvent.RETRY, TaskState.ACTIVE, now, actor=actor)
    bookkeeping.reopen_dataset(conn, task.output_dataset_id, actor, now)
    tasks.expect_more(conn, task)
    if task.request_id is not None:
        requests.resume(conn, task.request_id, actor=actor, now=now)
    amendments.feed(conn, task, actor, now)
    audit.record(conn, actor, "task retry", f"task {task.name}", now)
    return True
