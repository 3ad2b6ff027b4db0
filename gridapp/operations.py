"""The operator's verbs for every face: who may order what, which jobs are meant, and the work in batches.

An order may be cut off at any point: the same order again does the rest.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from agents.runtime.agent import Context
from gridapp.insights import jobs as job_rows
from gridapp.insights import tasks as task_rows
from gridapp.insights.values import state_of
from gridcore import identity
from gridcore.db.statements import CHUNK, chunks
from gridcore.errors import Conflict, NotFound, UsageError
from gridcore.identity import Action, Principal, Subject
from gridcore.ids import job_name, parse_job_name
from prodsys import jobmaking, operations, requests, retry_rules, tasks
from prodsys.jobs.machine import TERMINAL, JobEvent, JobState
from prodsys.settlement import Settler
from prodsys.sqlport import WISHES_PER_ATTEMPT
from prodsys.states import REQUEST, TASK, RequestEvent, RequestState, TaskEvent, TaskState
from prodsys.tasks import Task

#: Told after each batch, where there are several: (jobs gone through, jobs in all).
Tell = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Jobs by name, or those of a task, in any state or in one."""

    names: Sequence[str] = ()
    task: str | None = None
    state: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Meant:
    """Jobs of one task that an order may fit, and all that were meant by state."""

    task: Task
    due: list[int]
    states: Counter[JobState]


def _silent(_done: int, _of: int) -> None:
    return


def order_jobs(
    context: Context,
    event: JobEvent,
    wanted: Selection,
    actor: Principal,
    *,
    dry_run: bool = False,
    tell: Tell = _silent,
) -> dict[str, Any]:
    """KILL, HOLD, RELEASE or RETRY jobs: {"verb", "due": {state: jobs}, "left": {state: jobs}, "changed"}.

    `due` are the jobs that the order fits, `left` the others meant; with `dry_run` nothing is written.
    Raises UsageError, NotFound, Denied, Conflict for a killed task; then nothing was changed.
    """
    with context.database.snapshot() as conn:
        meant = _select(conn, event, wanted)
    for one in meant:
        _require(actor, one.task)
        if one.task.state == TaskState.KILLED and event != JobEvent.KILL:
            raise Conflict(f"the task {one.task.name} was killed: none of its jobs may run any more")
    states = sum((one.states for one in meant), Counter[JobState]())
    changed = 0 if dry_run else _carry_out(context, event, meant, actor.name, tell)
    fits = operations.sources(event)
    return {
        "verb": event.name.lower(),
        "due": {state.value: n for state, n in sorted(states.items()) if state in fits},
        "left": {state.value: n for state, n in sorted(states.items()) if state not in fits},
        "changed": changed,
    }


def _select(conn: Connection, event: JobEvent, wanted: Selection) -> list[_Meant]:
    if bool(wanted.names) == (wanted.task is not None):
        raise UsageError("which jobs?", hint="give their names, such as TASK/17, or --task TASK")
    states = state_of(JobState, wanted.state)
    if wanted.task is not None:
        task = _task(conn, wanted.task)
        return [_meant(task, event, operations.of_task(conn, task.id, states))]
    by_task: dict[str, set[int]] = defaultdict(set)
    for name in wanted.names:
        task_name, index, _ = parse_job_name(name)
        by_task[task_name].add(index)
    found = [_named(conn, name, indices) for name, indices in sorted(by_task.items())]
    return [_meant(task, event, [row for row in rows if row.state in states]) for task, rows in found]


def _named(conn: Connection, name: str, indices: set[int]) -> tuple[Task, list[Any]]:
    task = _task(conn, name)
    rows = operations.named(conn, task.id, [index for index in indices if index < task.next_index])
    missing = indices - {row.idx for row in rows}
    if missing:
        job_rows.job_row(conn, job_name(name, min(missing)))  # raises, naming the jobs there are
    return task, rows


def _meant(task: Task, event: JobEvent, rows: Iterable[Any]) -> _Meant:
    fits = operations.sources(event)
    found = list(rows)
    due = sorted(row.id for row in found if row.state in fits)
    return _Meant(task=task, due=due, states=Counter(row.state for row in found))


def _task(conn: Connection, name: str) -> Task:
    task = tasks.by_name(conn, name)
    if task is None:
        task_rows.task(conn, name)  # raises, naming the nearest
        raise NotFound(f"there is no task {name}", hint="see: tierflow task list")
    return task


def _require(actor: Principal, task: Task) -> None:
    identity.require(actor, Action.TASK_CONTROL, Subject(owner=task.requester, group=task.group))


def _carry_out(
    context: Context, event: JobEvent, meant: Sequence[_Meant], actor: str, tell: Tell = _silent
) -> int:
    total = sum(len(one.due) for one in meant)
    changed = seen = 0
    for one in meant:
        for ids in chunks(one.due, CHUNK):
            changed += _batch(context, event, one.task.id, ids, actor)
            seen += len(ids)
            if total > CHUNK:
                tell(seen, total)
    return changed


def _batch(context: Context, event: JobEvent, task_id: int, ids: Sequence[int], actor: str) -> int:
    now = context.clock.now()
    if event == JobEvent.KILL:
        wish_ids = context.keys.take("wish", len(ids) * WISHES_PER_ATTEMPT)

        def kill(conn: Connection) -> int:
            settler = Settler(conn, now, retry_rules.rules(conn), 1.0, wish_ids)
            return operations.kill_jobs(settler, task_id, ids, actor)

        return context.database.transaction(kill)
    move = _MOVES[event]
    return context.database.transaction(lambda conn: move(conn, task_id, ids, actor, now))


_MOVES = {
    JobEvent.HOLD: operations.hold_jobs,
    JobEvent.RELEASE: operations.release_jobs,
    JobEvent.RETRY: operations.retry_jobs,
}


# --- tasks and requests ----------------------------------------------------------------------------------


def kill_task(
    context: Context, name: str, actor: Principal, *, dry_run: bool = False, tell: Tell = _silent
) -> dict[str, Any]:
    """End a task and its live jobs: {"task", "state", "due": {state: jobs}, "changed"}.

    What it registered stays. Raises NotFound, Denied, InvalidTransition for one that is COMPLETED.
    """
    with context.database.snapshot() as conn:
        task = _task(conn, name)
    _require(actor, task)
    if task.state != TaskState.KILLED:
        TASK.check(task.state, TaskEvent.KILL, TaskState.KILLED)
    return _kill_task(context, task, actor.name, dry_run, tell)


def _kill_task(context: Context, task: Task, actor: str, dry_run: bool, tell: Tell) -> dict[str, Any]:
    """The task first, so that no job is added; its dataset last, so that what is committed meanwhile fits."""
    if not dry_run:
        now = context.clock.now()
        context.database.transaction(lambda conn: operations.kill_task(conn, task.id, actor, now))
    with context.database.snapshot() as conn:
        live = [state for state in JobState if state not in TERMINAL]
        meant = _meant(task, JobEvent.KILL, operations.of_task(conn, task.id, live))
    changed = 0
    if not dry_run:
        changed = _carry_out(context, JobEvent.KILL, [meant], actor, tell)
        context.database.transaction(lambda conn: operations.close_task(conn, task.id))
    return {
        "task": task.name,
        "state": str(task.state if dry_run else TaskState.KILLED),
        "due": {state.value: n for state, n in sorted(meant.states.items())},
        "changed": changed,
    }


def retry_task(
    context: Context, name: str, actor: Principal, *, dry_run: bool = False, tell: Tell = _silent
) -> dict[str, Any]:
    """Try a task's failed jobs again, and take up what its input has got since it ended.

    {"task", "state", "due": {state: jobs}, "changed"}. Raises NotFound, Denied, Conflict for a killed task.
    """
    wanted = Selection(task=name, state=JobState.FAILED)
    told = order_jobs(context, JobEvent.RETRY, wanted, actor, dry_run=dry_run, tell=tell)
    with context.database.snapshot() as conn:
        task = _task(conn, name)
        grown = task.unit_kind == "files" and bool(jobmaking.waiting_blocks(conn, task))
    if grown and not dry_run:
        now = context.clock.now()
        context.database.transaction(lambda conn: operations.retry_task(conn, task.id, actor.name, now))
    with context.database.snapshot() as conn:
        state = tasks.by_id(conn, task.id).state
    return {"task": name, "state": state.value, "due": told["due"], "changed": told["changed"]}


def abort_request(
    context: Context, request_id: int, actor: Principal, *, dry_run: bool = False, tell: Tell = _silent
) -> dict[str, Any]:
    """End a request and the tasks it still has: {"request", "state", "tasks": [as of kill_task]}.

    Raises NotFound, Denied, InvalidTransition for one that has ended otherwise.
    """
    with context.database.snapshot() as conn:
        row = requests.row_of(conn, request_id)
    identity.require(actor, Action.TASK_CONTROL, Subject(owner=row.requester, group=row.acct_group))
    if row.state != RequestState.ABORTED:
        REQUEST.check(row.state, RequestEvent.ABORT, RequestState.ABORTED)
    if not dry_run:
        now = context.clock.now()
        context.database.transaction(lambda conn: operations.abort_request(conn, request_id, actor.name, now))
    with context.database.snapshot() as conn:
        mine = [one for one in tasks.of_request(conn, request_id) if one.state != TaskState.COMPLETED]
    killed = [_kill_task(context, task, actor.name, dry_run, tell) for task in mine]
    state = row.state if dry_run else RequestState.ABORTED
    return {"request": request_id, "state": str(state), "tasks": killed}
