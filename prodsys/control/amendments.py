"""Amendments: requests and tasks changed while they run. Paused and resumed, extended, topped up, declared
complete, closed, moved to other sites. Each leaves a row in the audit log."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from catalogs import bookkeeping
from gridcore import audit
from gridcore.errors import Conflict, NotFound, UsageError
from prodsys.job_states import JobKind
from prodsys.requests import completion, placements, policies, requests
from prodsys.requests.policies import Choice
from prodsys.states import RequestEvent, RequestState, TaskEvent, TaskState
from prodsys.tasks import tasks
from prodsys.tasks.tasks import FORCED, Task
from prodsys.tasks.workflow import Request
from prodsys.units import jobmaking, splitting

#: The codes of tasks that got more units or input, and of one that goes on after a pause.
EXTENDED, TOPPED_UP, FED, RESUMED = "EXTENDED", "TOPPED_UP", "FED", "RESUMED"

_OPEN = (RequestState.RUNNING, RequestState.PAUSED, RequestState.COMPLETED, RequestState.INCOMPLETE)


# --- pause -----------------------------------------------------------------------------------------------


def pause(conn: Connection, request_id: int, reason: str | None, actor: str, now: datetime) -> bool:
    """Make no job and start none; what runs goes on. False where it was paused before. Its waiting jobs are
    held by `holds.hold`, those to be tried again once they are due. Raises NotFound, InvalidTransition."""
    row = requests.lock(conn, request_id)
    if row.state == RequestState.PAUSED:
        return False
    requests.move(conn, row, RequestEvent.PAUSE, RequestState.PAUSED, now, actor)
    align(conn, request_id, actor, now)
    audit.record(conn, actor, "request pause", f"request {request_id}", now, {"reason": reason})
    return True


def resume(conn: Connection, request_id: int, actor: str, now: datetime) -> bool:
    """Go on; False where it was running. Raises NotFound, InvalidTransition."""
    row = requests.lock(conn, request_id)
    if row.state == RequestState.RUNNING:
        return False
    requests.move(conn, row, RequestEvent.UNPAUSE, RequestState.RUNNING, now, actor)
    align(conn, request_id, actor, now)
    audit.record(conn, actor, "request resume", f"request {request_id}", now)
    return True


def align(conn: Connection, request_id: int, actor: str, now: datetime) -> int:
    """Make the tasks of a request PAUSED as long as it is, and ACTIVE again after; how many changed."""
    paused = requests.lock(conn, request_id).state == RequestState.PAUSED
    frm, event, to = (
        (TaskState.ACTIVE, TaskEvent.PAUSE, TaskState.PAUSED)
        if paused
        else (TaskState.PAUSED, TaskEvent.RESUME, TaskState.ACTIVE)
    )
    changed = 0
    for seen in tasks.of_request(conn, request_id):
        one = tasks.lock(conn, seen.id) if seen.state == frm else seen
        if one.state == frm:
            code, params = (FORCED, one.params) if one.forced else (None if paused else RESUMED, None)
            changed += tasks.move(conn, one, event, to, now, actor=actor, code=code, params=params)
    return changed


# --- more units ------------------------------------------------------------------------------------------


def extend(
    conn: Connection, request_id: int, step: str, events: int, cap: int, actor: str, now: datetime
) -> Task:
    """Have a step generate so many events more; its task after. What has ended is taken up again, and so is
    what reads its output. Raises NotFound, UsageError for a step that reads or more jobs than `cap`,
    Conflict."""
    row = requests.lock(conn, request_id)
    requests.check_open(row)
    if row.state not in _OPEN:
        raise Conflict(
            f"request {request_id} is {row.state.lower()}: it has no task to extend",
            hint=f"see: tierflow request show {request_id}",
        )
    one = tasks.lock(conn, _task_of_step(conn, request_id, step).id)
    if not one.step.extensible:
        raise UsageError(
            f"step {step!r} does not generate events: it does what its input or matrix has",
            hint="extend a step that generates",
        )
    due = (completion.wanted(one.units_total, one.units_wanted) or 0) + events
    _add_units(conn, one, events, due, cap, EXTENDED, actor, now)
    detail = {"step": step, "events": events, "wanted": due}
    audit.record(conn, actor, "request extend", f"request {request_id}", now, detail)
    return tasks.by_id(conn, one.id)


def _task_of_step(conn: Connection, request_id: int, step: str) -> Task:
    mine = tasks.of_request(conn, request_id)
    for one in mine:
        if one.step.name == step:
            return one
    steps = ", ".join(one.step.name for one in mine)
    raise NotFound(f"request {request_id} has no step {step!r}", hint=f"its steps: {steps}")


def top_up(conn: Connection, task_id: int, cap: int, actor: str, now: datetime) -> int:
    """Have events that failed or were killed made anew, with ranges and seeds of their own; how many.

    Raises UsageError for a task that reads or more jobs than `cap`, Conflict for one that may not go on.
    """
    one = _locked(conn, task_id)
    if not one.step.extensible:
        raise UsageError(
            f"the task {one.name} does what its input or matrix has: nothing else can stand in for a part",
            hint=f"try what failed once more: tierflow task retry {one.name}",
        )
    total = one.units_total or 0
    more = completion.missing(total, one.units_wanted, tasks.job_counts(conn, one.id))
    if more:
        due = completion.wanted(total, one.units_wanted) or 0
        _add_units(conn, one, more, due, cap, TOPPED_UP, actor, now)
        audit.record(conn, actor, "task top-up", f"task {one.name}", now, {"units": more})
    return more


def _add_units(
    conn: Connection, one: Task, more: int, due: int, cap: int, code: str, actor: str, now: datetime
) -> None:
    if one.state == TaskState.KILLED:
        raise Conflict(f"the task {one.name} was killed: it makes no more jobs")
    to_make = (one.units_total or 0) - one.units_made + more  # those of earlier orders are not all made yet
    jobs = splitting.count_event_jobs(to_make, one.step.events_per_job or 1)
    splitting.check_job_count(jobs + _made(conn, one), cap)
    tasks.add_units(conn, one, more, due, now)
    _take_up(conn, one, code, {"units": more, "by": actor}, actor, now)


def _made(conn: Connection, one: Task) -> int:
    """Its jobs, without merges."""
    return tasks.jobs_in([row for row in tasks.job_counts(conn, one.id) if row.kind == JobKind.PROCESS])


def _take_up(
    conn: Connection, one: Task, code: str, params: Mapping[str, Any], actor: str, now: datetime
) -> None:
    """Back to ACTIVE with all of its request that reads what it will write; the request runs again."""
    if one.request_id is not None:
        _reopen_request(conn, one.request_id, actor, now)
    _reopen(conn, tasks.lock(conn, one.id), code, params, actor, now)
    for reader in _readers(conn, one):
        _reopen(conn, reader, code, params, actor, now)


def feed(conn: Connection, one: Task, actor: str, now: datetime) -> None:
    """Take up what has ended of a task's request and reads what the task will write once more; what was
    declared complete stays so. The request's row and the task's are locked."""
    for reader in _readers(conn, one):
        if not reader.forced:
            _reopen(conn, reader, FED, {"by": actor, "task": one.name}, actor, now)


def _readers(conn: Connection, one: Task) -> list[Task]:
    """Those of a task's request that read its output or what is made of that, locked; no killed ones."""
    grown, found = {one.output_dataset_id}, []
    for seen in [] if one.request_id is None else tasks.of_request(conn, one.request_id):
        if seen.id == one.id or seen.input_dataset_id not in grown:
            continue
        task = tasks.lock(conn, seen.id)
        if task.state != TaskState.KILLED:
            grown.add(task.output_dataset_id)
            found.append(task)
    return found


def _reopen(
    conn: Connection, task: Task, code: str, params: Mapping[str, Any], actor: str, now: datetime
) -> None:
    if task.state not in (TaskState.ACTIVE, TaskState.PAUSED):
        tasks.move(conn, task, TaskEvent.EXTEND, TaskState.ACTIVE, now, actor=actor, code=code, params=params)
        bookkeeping.reopen_dataset(conn, task.output_dataset_id, actor, now)
    elif task.forced:  # it was to end with what it has; with what a pause may still hold of that it goes on
        tasks.set_reason(conn, task.id, RESUMED, {"by": actor}, now)
    tasks.expect_more(conn, task)


def _reopen_request(conn: Connection, request_id: int, actor: str, now: datetime) -> None:
    row = requests.lock(conn, request_id)
    requests.check_open(row)
    if row.state in (RequestState.COMPLETED, RequestState.INCOMPLETE):
        requests.move(conn, row, RequestEvent.EXTEND, RequestState.RUNNING, now, actor)


# --- endings ---------------------------------------------------------------------------------------------


def force_complete(conn: Connection, task_id: int, reason: str, actor: str, now: datetime) -> TaskState:
    """Declare a task complete with what is done; its state after. What it has registered stays.

    A task that has not taken all of its input takes no more: what it has made ends first. One whose blocks
    still close is COMPLETED once they are. Raises Conflict while something of a task without such input may
    still be done, or where the task was killed.
    """
    one = _locked(conn, task_id)
    params = {"by": actor, "reason": reason}
    detail: dict[str, Any] = {"reason": reason}
    if one.state == TaskState.COMPLETED or one.forced:
        return one.state
    if one.state == TaskState.ACTIVE and _takes_more(one):
        detail |= _stop(conn, one, params, now)
    elif one.state == TaskState.ACTIVE:
        _check_nothing_left(conn, one)
        bookkeeping.close_dataset(conn, one.output_dataset_id, actor, now)
        tasks.move(
            conn, one, TaskEvent.FORCE, TaskState.CLOSING, now, actor=actor, code=FORCED, params=params
        )
    elif one.state == TaskState.CLOSING:
        tasks.set_reason(conn, one.id, FORCED, params, now)
    elif one.state == TaskState.INCOMPLETE:
        tasks.move(
            conn, one, TaskEvent.FORCE, TaskState.COMPLETED, now, actor=actor, code=FORCED, params=params
        )
        _complete_request(conn, one.request_id, actor, now)
    else:
        cure = f"tierflow request resume {one.request_id}" if one.state == TaskState.PAUSED else None
        raise Conflict(f"the task {one.name} is {one.state.lower()}", hint=cure)
    audit.record(conn, actor, "task force-complete", f"task {one.name}", now, detail)
    return tasks.by_id(conn, one.id).state


def _takes_more(one: Task) -> bool:
    """Whether its input still becomes jobs: it grows, or is not all cut yet."""
    return one.input_dataset_id is not None and one.units_total is None


def _stop(conn: Connection, one: Task, params: Mapping[str, Any], now: datetime) -> dict[str, int]:
    """Take no more input: what has been made of it is all there will be, for the audit."""
    tasks.set_total(conn, one.id, one.units_made)
    tasks.set_reason(conn, one.id, FORCED, params, now)
    return {"units": one.units_made, "live_jobs": completion.live_jobs(tasks.job_counts(conn, one.id))}


def _check_nothing_left(conn: Connection, one: Task) -> None:
    counts = tasks.job_counts(conn, one.id)
    live = completion.live_jobs(counts)
    if live:
        raise Conflict(
            f"the task {one.name} has {live} live jobs",
            hint=f"wait for their end, or: tierflow job kill --task {one.name}",
        )
    if one.units_total is None or one.units_made < one.units_total:
        raise Conflict(
            f"the task {one.name} has still jobs to be made", hint=f"see: tierflow task show {one.name}"
        )
    if jobmaking.merges_left(conn, one, counts):
        raise Conflict(
            f"the task {one.name} has outputs that wait to be merged",
            hint="wait for the merger: what is not merged would not be in its dataset",
        )


def _complete_request(conn: Connection, request_id: int | None, actor: str, now: datetime) -> None:
    if request_id is None:
        return
    row = requests.lock(conn, request_id)
    states = [task.state for task in tasks.of_request(conn, request_id)]
    if row.state == RequestState.INCOMPLETE and completion.of_request(states) == RequestState.COMPLETED:
        requests.move(conn, row, RequestEvent.FORCE, RequestState.COMPLETED, now, actor)


def close(conn: Connection, request_id: int, actor: str, now: datetime) -> bool:
    """Ask nothing more of a request that has ended; False where it was closed. Raises NotFound, Conflict."""
    row = requests.lock(conn, request_id)
    if row.state == RequestState.CLOSED:
        return False
    if row.state not in (RequestState.COMPLETED, RequestState.INCOMPLETE):
        raise Conflict(
            f"request {request_id} is {row.state.lower()}: only what has ended is closed",
            hint=f"wait for its end, or: tierflow request abort {request_id}",
        )
    requests.move(conn, row, RequestEvent.CLOSE, RequestState.CLOSED, now, actor)
    audit.record(conn, actor, "request close", f"request {request_id}", now)
    return True


# --- where and for whom ----------------------------------------------------------------------------------


def assign(conn: Connection, request_id: int, choice: Choice, actor: str, now: datetime) -> None:
    """Keep a request to the chosen sites. Jobs made before are left to `holds.reclass`.

    Raises NotFound, Conflict for one that makes no jobs, UsageError for a step without any site.
    """
    row = _making(conn, request_id)
    document = placements.kept(Request.model_validate(row.spec["document"]), choice)
    sites = {step.name: step.sites for step in document.step}
    placements.store(conn, request_id, choice)
    for seen in tasks.of_request(conn, request_id):
        one = tasks.lock(conn, seen.id)
        tasks.set_step(conn, one, one.step.model_copy(update={"sites": sites[one.step.name]}))
    detail = {"reason": policies.sentence(choice.code, choice.params)}
    audit.record(conn, actor, "request assign", f"request {request_id}", now, detail)


def share(conn: Connection, request_id: int, group: str, leaf_id: int, actor: str, now: datetime) -> None:
    """Have a request use the share of another group. Jobs made before are left to `holds.reclass`.

    Raises NotFound, Conflict for one that makes no jobs.
    """
    row = _making(conn, request_id)
    if row.acct_group == group:
        return
    requests.set_group(conn, request_id, group, now)
    for seen in tasks.of_request(conn, request_id):
        tasks.set_share(conn, tasks.lock(conn, seen.id).id, group, leaf_id)
    detail = {"from": row.acct_group, "to": group}
    audit.record(conn, actor, "request share", f"request {request_id}", now, detail)


def _making(conn: Connection, request_id: int) -> Any:
    row = requests.lock(conn, request_id)
    if row.state not in (RequestState.RUNNING, RequestState.PAUSED):
        raise Conflict(
            f"request {request_id} is {row.state.lower()}: it makes no jobs",
            hint=f"see: tierflow request show {request_id}",
        )
    return row


def prioritise(conn: Connection, task_id: int, priority: int, actor: str, now: datetime) -> None:
    """The priority of the jobs made from now on; those made before are left to `holds.rerank`."""
    one = tasks.lock(conn, task_id)
    if one.priority != priority:
        tasks.set_priority(conn, task_id, priority)
        detail = {"from": one.priority, "to": priority}
        audit.record(conn, actor, "task priority", f"task {one.name}", now, detail)


def prioritise_request(conn: Connection, request_id: int, priority: int, actor: str, now: datetime) -> None:
    """The priority of tasks that an approval makes. Raises NotFound, Conflict for one closed."""
    row = requests.lock(conn, request_id)
    requests.check_open(row)
    if row.priority != priority:
        requests.set_priority(conn, request_id, priority, now)
        detail = {"from": row.priority, "to": priority}
        audit.record(conn, actor, "request priority", f"request {request_id}", now, detail)


def _locked(conn: Connection, task_id: int) -> Task:
    """The task, its request's row locked before its own."""
    seen = tasks.by_id(conn, task_id)
    if seen.request_id is not None:
        requests.check_open(requests.lock(conn, seen.request_id))
    return tasks.lock(conn, task_id)
