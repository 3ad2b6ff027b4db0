"""Requests and tasks changed while they run, for every face: who may, what is meant, the work in chunks.

A change may be cut off at any point: the same change again does the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import datetime
from functools import partial
from typing import Any

from sqlalchemy import Connection

from agents.runtime.agent import Context
from gridapp.insights import nowhere
from gridapp.insights import tasks as task_rows
from gridapp.insights.values import plain
from gridcore import identity
from gridcore.db.statements import CHUNK, chunks
from gridcore.errors import NotFound, UsageError
from gridcore.identity import Action, Principal, Subject
from prodsys.control import amendments, holds
from prodsys.requests import impossible, placements, policies, requests
from prodsys.requests.policies import Choice
from prodsys.shares import shares
from prodsys.states import RequestState, TaskState
from prodsys.tasks import tasks
from prodsys.tasks.tasks import Task
from prodsys.tasks.workflow import Request

#: As a document may say.
PRIORITIES = range(-1000, 1001)
EVENTS_MAX = 10**12
#: Tasks that make jobs, or will again.
_MAKING = (TaskState.ACTIVE, TaskState.PAUSED)


def pause(
    context: Context, request_id: int, actor: Principal, *, reason: str | None = None
) -> dict[str, Any]:
    """Make no job of a request and start none: {"request", "state", "changed"}; what runs goes on.

    Its waiting jobs are held by the job maker. Raises NotFound, Denied, InvalidTransition.
    """
    return _switch(
        context,
        request_id,
        actor,
        lambda conn, now: amendments.pause(conn, request_id, reason, actor.name, now),
    )


def resume(context: Context, request_id: int, actor: Principal) -> dict[str, Any]:
    """Go on with a paused request: {"request", "state", "changed"}.

    The job maker returns what the pause held. Raises NotFound, Denied, InvalidTransition.
    """
    return _switch(
        context, request_id, actor, lambda conn, now: amendments.resume(conn, request_id, actor.name, now)
    )


def close(context: Context, request_id: int, actor: Principal) -> dict[str, Any]:
    """Ask nothing more of a request that has ended: {"request", "state", "changed"}.

    Raises NotFound, Denied, Conflict while it runs.
    """
    return _switch(
        context, request_id, actor, lambda conn, now: amendments.close(conn, request_id, actor.name, now)
    )


def _switch(
    context: Context, request_id: int, actor: Principal, change: Callable[[Connection, datetime], bool]
) -> dict[str, Any]:
    _require(context, request_id, actor, Action.TASK_CONTROL)
    now = context.clock.now()
    changed = context.database.transaction(lambda conn: change(conn, now))
    return {"request": request_id, "state": _state(context, request_id), "changed": changed}


# --- more, or no more ------------------------------------------------------------------------------------


def extend(
    context: Context, request_id: int, step: str, events: int, actor: Principal, *, dry_run: bool = False
) -> dict[str, Any]:
    """Have a step make more events: {"request", "state", "task", "wanted", "made", "more"}.

    What has ended is taken up again, with the steps that read it. Raises NotFound, Denied, UsageError,
    Conflict for a closed request; then nothing was changed.
    """
    if not 0 < events <= EVENTS_MAX:
        raise UsageError(
            f"{events} events are no extension", hint=f"give how many more to make, up to {EVENTS_MAX:,}"
        )
    _require(context, request_id, actor, Action.REQUEST_DECIDE)
    cap, now = context.settings.work.max_jobs_per_task, context.clock.now()
    one = _tried(
        context,
        lambda conn: amendments.extend(conn, request_id, step, events, cap, actor.name, now),
        dry_run=dry_run,
    )
    return {
        "request": request_id,
        "state": _state(context, request_id),
        "task": one.name,
        "wanted": one.units_wanted,
        "made": one.units_made,
        "more": events,
    }


def top_up(context: Context, name: str, actor: Principal, *, dry_run: bool = False) -> dict[str, Any]:
    """Have events that failed or were killed made anew: {"task", "state", "more", "changed"}.

    The new jobs have ranges and seeds of their own. Raises NotFound, Denied, UsageError, Conflict.
    """
    task = _task(context, name)
    _require_task(actor, task, Action.TASK_CONTROL)
    cap, now = context.settings.work.max_jobs_per_task, context.clock.now()
    more = _tried(
        context, lambda conn: amendments.top_up(conn, task.id, cap, actor.name, now), dry_run=dry_run
    )
    return {
        "task": name,
        "state": _task(context, name).state.value,
        "more": more,
        "changed": bool(more) and not dry_run,
    }


def force_complete(
    context: Context, name: str, reason: str, actor: Principal, *, dry_run: bool = False
) -> dict[str, Any]:
    """Declare a task complete with what is done: {"task", "state", "units", "jobs": {state: n}, "changed"}.

    What it has registered stays. One that has not taken all of its input takes no more, and ends with what is
    made of it. Raises NotFound, Denied, UsageError without reason, Conflict while something of another may
    still be done.
    """
    if not reason.strip():
        raise UsageError("the reason is empty", hint="say why what is done is enough")
    task = _task(context, name)
    _require_task(actor, task, Action.REQUEST_DECIDE)
    now = context.clock.now()
    _tried(
        context,
        lambda conn: amendments.force_complete(conn, task.id, reason.strip(), actor.name, now),
        dry_run=dry_run,
    )
    with context.database.snapshot() as conn:
        view = task_rows.task(conn, name)
    done = task.forced or task.state == TaskState.COMPLETED
    told = {key: view[key] for key in ("state", "units", "jobs")}
    return {"task": name, **told, "changed": not (dry_run or done)}


class _Tried(Exception):
    """Carries the outcome of a change out of a transaction that is not to be kept."""

    def __init__(self, outcome: Any) -> None:
        self.outcome = outcome


def _tried(context: Context, change: Callable[[Connection], Any], *, dry_run: bool) -> Any:
    """The outcome of a change; with `dry_run` of one that is made and taken back."""

    def unit(conn: Connection) -> Any:
        outcome = change(conn)
        if dry_run:
            raise _Tried(outcome)
        return outcome

    try:
        return context.database.transaction(unit)
    except _Tried as tried:
        return tried.outcome


# --- where, for whom, how soon ---------------------------------------------------------------------------


def assign(
    context: Context,
    request_id: int,
    actor: Principal,
    *,
    agents: Collection[str] = (),
    sites: Collection[str] = (),
    site_sets: Collection[str] = (),
    dry_run: bool = False,
) -> dict[str, Any]:
    """Keep a request to the sites of ProdAgents, to sites and site sets; to what the policies say now where
    nothing is named: {"request", "state", "reason", "steps": {step: sites}, "warnings", "changed"}.

    `changed` are the waiting jobs moved; those under way end where they are. `warnings` say who can run only
    a part of it. Raises NotFound, Denied, Conflict, and UsageError for an unknown name, a step left without
    any site, and whoever was named and could run none of the steps that still make jobs.
    """
    _require(context, request_id, actor, Action.REQUEST_DECIDE)

    def chosen(conn: Connection) -> tuple[Choice, Request, list[str]]:
        row = requests.row_of(conn, request_id)
        asked = Request.model_validate(row.spec["document"])
        choice = placements.choose(conn, row, sites, actor.name, agents=agents, site_sets=site_sets)
        return choice, placements.kept(asked, choice), _unfit(conn, request_id, asked, choice)

    def unit(conn: Connection) -> tuple[Choice, Request, list[str]]:
        requests.lock(conn, request_id)
        choice, document, warnings = chosen(conn)
        amendments.assign(conn, request_id, choice, actor.name, context.clock.now())
        return choice, document, warnings

    changed = 0
    if dry_run:
        with context.database.snapshot() as conn:
            choice, document, warnings = chosen(conn)
    else:
        choice, document, warnings = context.database.transaction(unit)
        changed = _reclass(context, request_id)
    return {
        "request": request_id,
        "state": _state(context, request_id),
        "reason": policies.sentence(choice.code, choice.params),
        "steps": {step.name: step.sites or "everywhere" for step in document.step},
        "warnings": warnings,
        "changed": changed,
    }


def _unfit(conn: Connection, request_id: int, asked: Request, choice: Choice) -> list[str]:
    """Who of those a request is assigned to can run only a part of it. Raises UsageError for one that can run
    nothing and was named by hand."""
    making = {one.step.name for one in tasks.of_request(conn, request_id) if one.state in _MAKING}
    found = impossible.unfit(conn, [step for step in asked.step if step.name in making], choice)
    if choice.code == policies.BY_HAND:
        nowhere.check_assigned(found)
    return [nowhere.partly(one) for one in found]


def share(context: Context, request_id: int, group: str, actor: Principal) -> dict[str, Any]:
    """Have a request use another group's share: {"request", "state", "group", "share", "changed"}.

    `changed` are the waiting jobs moved; those under way end on the share they started on. Raises NotFound,
    Denied, UsageError for a group without share, Conflict.
    """
    row = _require(context, request_id, actor, Action.REQUEST_DECIDE)
    identity.require(actor, Action.REQUEST_DECIDE, Subject(owner=row.requester, group=group))
    new_leaf, now = context.keys.one("share_node"), context.clock.now()

    def unit(conn: Connection) -> None:
        locked = requests.lock(conn, request_id)
        leaf_id = shares.leaf(conn, new_leaf, group, locked.requester, now)
        amendments.share(conn, request_id, group, leaf_id, actor.name, now)

    context.database.transaction(unit)
    changed = _reclass(context, request_id)
    return {
        "request": request_id,
        "state": _state(context, request_id),
        "group": group,
        "share": f"{group}/{row.requester}",
        "changed": changed,
    }


def _reclass(context: Context, request_id: int) -> int:
    with context.database.snapshot() as conn:
        found = [(one, holds.unfinished(conn, one.id)) for one in tasks.of_request(conn, request_id)]
    changed = 0
    for one, rows in found:
        for chunk in chunks(rows, CHUNK):
            changed += _reclass_some(context, one, chunk)
    return changed


def _reclass_some(context: Context, one: Task, rows: list[Any]) -> int:
    class_ids = context.keys.take("job_class", len({row.class_id for row in rows}))
    now = context.clock.now()

    def unit(conn: Connection) -> int:
        task = tasks.lock(conn, one.id)
        return holds.reclass(conn, class_ids, task, [row.id for row in rows], now)

    return context.database.transaction(unit)


def prioritise_request(context: Context, request_id: int, priority: int, actor: Principal) -> dict[str, Any]:
    """The priority of a request and of its tasks: {"request", "priority", "tasks": [as of prioritise]}.

    Raises NotFound, Denied, UsageError, Conflict for a closed request.
    """
    _check_priority(priority)
    _require(context, request_id, actor, Action.REQUEST_DECIDE)
    now = context.clock.now()
    context.database.transaction(  # first: tasks that an approval makes meanwhile have it
        lambda conn: amendments.prioritise_request(conn, request_id, priority, actor.name, now)
    )
    with context.database.snapshot() as conn:
        mine = tasks.of_request(conn, request_id)
    told = [_prioritise(context, one, priority, actor) for one in mine if one.state != TaskState.KILLED]
    return {"request": request_id, "priority": priority, "tasks": told}


def prioritise(context: Context, name: str, priority: int, actor: Principal) -> dict[str, Any]:
    """The priority of a task and of its waiting jobs: {"task", "from", "priority", "changed"}.

    Jobs that were given a rank of their own keep it. Raises NotFound, Denied, UsageError.
    """
    _check_priority(priority)
    task = _task(context, name)
    _require_task(actor, task, Action.REQUEST_DECIDE)
    return _prioritise(context, task, priority, actor)


def _check_priority(priority: int) -> None:
    if priority not in PRIORITIES:
        raise UsageError(
            f"{priority} is no priority", hint=f"give {PRIORITIES[0]} to {PRIORITIES[-1]}; more is sooner"
        )


def _prioritise(context: Context, task: Task, priority: int, actor: Principal) -> dict[str, Any]:
    """Until nobody else has changed it on the way: of two at once the later one's holds for all jobs."""
    changed, moved = 0, None
    while moved is None:
        done, moved = _prioritise_once(context, task.id, priority, actor)
        changed += done
    return {"task": task.name, "from": task.priority, "priority": priority, "changed": changed + moved}


def _prioritise_once(
    context: Context, task_id: int, priority: int, actor: Principal
) -> tuple[int, int | None]:
    """The jobs there are first; the task last, with the jobs made meanwhile: cut off, it is begun anew.

    How many jobs moved first and last; None where somebody else has changed the task since.
    """
    with context.database.snapshot() as conn:
        seen = tasks.by_id(conn, task_id)
        rows = holds.unfinished(conn, task_id)
    changed = 0
    for chunk in chunks(rows, CHUNK):
        shift = partial(_rerank, task_id=task_id, priority=priority, rows=chunk)
        changed += context.database.transaction(shift)
    now = context.clock.now()

    def last(conn: Connection) -> int | None:
        one = tasks.lock(conn, task_id)
        if one.priority != seen.priority:
            return None
        moved = holds.rerank(conn, one, priority, holds.unfinished(conn, task_id, seen.next_index))
        amendments.prioritise(conn, task_id, priority, actor.name, now)
        return moved

    return changed, context.database.transaction(last)


def _rerank(conn: Connection, task_id: int, priority: int, rows: list[Any]) -> int:
    return holds.rerank(conn, tasks.lock(conn, task_id), priority, holds.again(conn, rows))


# --- who and which ---------------------------------------------------------------------------------------


def _require(context: Context, request_id: int, actor: Principal, action: Action) -> Any:
    """The request's row, if the actor may. Raises NotFound, Denied."""
    with context.database.snapshot() as conn:
        row = requests.row_of(conn, request_id)
    identity.require(actor, action, Subject(owner=row.requester, group=row.acct_group))
    return row


def _require_task(actor: Principal, task: Task, action: Action) -> None:
    identity.require(actor, action, Subject(owner=task.requester, group=task.group))


def _state(context: Context, request_id: int) -> str:
    with context.database.snapshot() as conn:
        return str(plain(RequestState(requests.row_of(conn, request_id).state)))


def _task(context: Context, name: str) -> Task:
    with context.database.snapshot() as conn:
        task = tasks.by_name(conn, name)
        if task is None:
            task_rows.task(conn, name)  # raises, naming the nearest
            raise NotFound(f"there is no task {name}", hint="see: tierflow task list")
        return task
