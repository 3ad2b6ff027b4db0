"""The operator's verbs for every face: who may order what, which jobs are meant, and what an order came to.

An order is counted before it is given, and written down before it is carried out: cut off at any point, the
same order again, or `resume`, does the rest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from sqlalchemy import Connection

from agents.runtime.agent import Context
from gridapp import carrying
from gridapp.carrying import Tell, silent
from gridapp.insights.values import plain, record
from gridapp.selections import Chosen, Selection, choose, count, of_task, task_of
from gridcore import audit, identity, selectors
from gridcore.errors import Conflict, Denied, UsageError
from gridcore.identity import Action, Principal, Subject
from gridcore.selectors import All, Compare, Not, Op
from prodsys.control import holds, operations, orders, selection
from prodsys.control.orders import UNDO_WINDOW, UNDOABLE, Order, OrderState, OrderVerb
from prodsys.job_states import TERMINAL, JobState
from prodsys.requests import requests
from prodsys.states import REQUEST, TASK, RequestEvent, RequestState, TaskEvent, TaskState
from prodsys.tasks import tasks
from prodsys.tasks.tasks import Task
from prodsys.units import slicing

#: Tasks that an answer names.
TASKS_SHOWN = 20
#: What a pause holds is released when its request is resumed, and would be held again before.
NOT_PAUSED = Not(All((Compare("held", Op.EQ, ("policy",)), Compare("code", Op.EQ, (holds.PAUSED,)))))
#: Of orders that do not change any priority.
NO_POINTS: Mapping[str, int] = MappingProxyType({})
#: Most points a priority order shifts by, and the highest priority it gives.
POINTS_MAX = 1_000_000


@dataclass(slots=True)
class _Found:
    """The jobs meant, counted: those that the order fits, and the others."""

    due: Counter[JobState] = field(default_factory=Counter)
    left: Counter[JobState] = field(default_factory=Counter)
    tasks: Counter[int] = field(default_factory=Counter)
    sites: Counter[str] = field(default_factory=Counter)

    @property
    def total(self) -> int:
        return self.due.total()


#: Asked before an order is given: (the answer of a dry run) -> whether to go on.
Confirm = Callable[[Mapping[str, Any]], bool]


def order_jobs(
    context: Context,
    verb: OrderVerb,
    wanted: Selection,
    actor: Principal,
    *,
    by: int | None = None,
    to: int | None = None,
    dry_run: bool = False,
    tell: Tell = silent,
    confirm: Confirm | None = None,
) -> dict[str, Any]:
    """Order something for jobs: {"verb", "due", "left", "tasks", "sites", "operation", "changed"}.

    `due` are the jobs that the order fits by state, `left` the others meant; `tasks` (the largest) and
    `sites` tell the due ones apart. A PRIORITY order shifts `by` so many points, or puts the jobs at priority
    `to`, and then leaves out those that are there. A `dry_run` writes nothing.

    Raises UsageError, NotFound, Denied, Conflict for a killed task; then nothing was changed.
    """
    points = _points(by, to) if verb == OrderVerb.PRIORITY else {}
    with context.database.snapshot() as conn:
        chosen = choose(conn, wanted)
    if verb == OrderVerb.RELEASE:
        chosen = replace(chosen, where=selectors.both(chosen.where, NOT_PAUSED))
    if "to" in points:
        elsewhere = Compare("priority", Op.NE, (points["to"],))
        chosen = replace(chosen, where=selectors.both(chosen.where, elsewhere))
    return _order(context, verb, chosen, actor, points, dry_run, tell, confirm)


def _points(by: int | None, to: int | None) -> dict[str, int]:
    """What a priority order does, as an order keeps it. Raises UsageError."""
    if by is not None and to is not None:
        raise UsageError("by how many points, or to which priority?", hint="give --by N or --to N, not both")
    if to is not None:
        if abs(to) > POINTS_MAX:
            raise UsageError(f"{to:,} is no priority", hint=f"--to N, -{POINTS_MAX:,} to {POINTS_MAX:,}")
        return {"to": to}
    if by is None or not 0 < abs(by) <= POINTS_MAX:
        cure = f"--by N, up to {POINTS_MAX:,}; --by -N puts jobs back; --to N gives a priority"
        raise UsageError("by how many points?", hint=cure)
    return {"by": by}


def _order(
    context: Context,
    verb: OrderVerb,
    chosen: Chosen,
    actor: Principal,
    points: Mapping[str, int] = NO_POINTS,
    dry_run: bool = False,
    tell: Tell = silent,
    confirm: Confirm | None = None,
) -> dict[str, Any]:
    _require(actor, chosen.tasks)
    _refuse_ended(verb, chosen.tasks)
    earlier = None if dry_run else _taken_up(context, verb, chosen, actor, points, tell)
    if earlier is not None and "by" in points:  # once more would shift twice
        return {**_told(context, verb, _Found()), "operation": earlier.id, "changed": earlier.changed}
    found = _found(context, verb, chosen, actor, tell)
    told = _told(context, verb, found)
    if earlier is not None:
        told |= {"operation": earlier.id, "changed": earlier.changed}
    if dry_run or not found.total or (confirm is not None and not confirm(told)):
        return told
    order = _start(context, verb, chosen, found, actor, points)
    done = carrying.carry_out(context, order, tell)
    return {**told, "operation": done.id, "changed": told["changed"] + done.changed}


def _refuse_ended(verb: OrderVerb, met: Iterable[Any]) -> None:
    for task in met:
        if task.state == TaskState.KILLED and verb != OrderVerb.KILL:
            raise Conflict(f"the task {task.name} was killed: none of its jobs may run any more")
        if verb == OrderVerb.RETRY and task.request_state == RequestState.CLOSED:
            raise Conflict(
                f"request {task.request_id} of the task {task.name} is closed: nothing of it is tried again",
                hint="hand in a new request: tierflow request submit FILE",
            )


# --- which jobs ------------------------------------------------------------------------------------------


def _found(context: Context, verb: OrderVerb, chosen: Chosen, actor: Principal, tell: Tell) -> _Found:
    """The jobs meant, counted; refused where some of them are not the actor's to order about."""
    found, fits = _Found(), operations.sources(verb)
    counts = list(count(context, chosen, tell))
    with context.database.snapshot() as conn:
        met = {row.id: row for row in selection.tasks_of(conn, {one.task_id for one in counts})}
    ended = {row.id for row in met.values() if operations.refuses(verb, row.state, row.request_state)}
    for one in counts:
        if one.state not in fits or one.task_id in ended:
            found.left[one.state] += one.jobs
            continue
        found.due[one.state] += one.jobs
        found.tasks[one.task_id] += one.jobs
        if one.site is not None:
            found.sites[one.site] += one.jobs
    _require(actor, [met[task_id] for task_id in sorted(found.tasks)])
    return found


def _require(actor: Principal, met: Iterable[Any]) -> None:
    for task in met:
        subject = Subject(owner=task.requester, group=task.acct_group)
        try:
            identity.require(actor, Action.TASK_CONTROL, subject)
        except Denied as error:
            raise Denied(f"{error.message}: {task.name}", hint=error.hint) from None


def _told(context: Context, verb: OrderVerb, found: _Found) -> dict[str, Any]:
    largest = found.tasks.most_common(TASKS_SHOWN)
    with context.database.snapshot() as conn:
        names = {row.id: row.name for row in selection.tasks_of(conn, [task_id for task_id, _ in largest])}
    shown = {names[task_id]: n for task_id, n in largest}
    others = len(found.tasks) - len(largest)
    return {
        "verb": verb.value,
        "due": {state.value: n for state, n in sorted(found.due.items())},
        "left": {state.value: n for state, n in sorted(found.left.items())},
        "tasks": {**shown, **({f"{others} more": found.total - sum(shown.values())} if others else {})},
        "sites": dict(sorted(found.sites.items())),
        "operation": None,
        "changed": 0,
    }


# --- orders ----------------------------------------------------------------------------------------------


def _start(
    context: Context,
    verb: OrderVerb,
    chosen: Chosen,
    found: _Found,
    actor: Principal,
    points: Mapping[str, int],
) -> Order:
    key, now = context.keys.one("operation"), context.clock.now()
    order = Order(
        id=key,
        verb=verb,
        selector=chosen.selector,
        tasks=sorted(found.tasks),
        by=points.get("by"),
        to=points.get("to"),
        actor=actor.name,
        created_at=now,
        undo_until=now + UNDO_WINDOW if verb in UNDOABLE else None,
        total=found.total,
    )

    def unit(conn: Connection) -> None:
        orders.start(conn, order)
        names = [row.name for row in selection.tasks_of(conn, order.tasks[:TASKS_SHOWN])]
        subject = f"task {names[0]}" if len(order.tasks) == 1 else f"operation {key}"
        detail = {
            "operation": key,
            "jobs": order.total,
            "where": order.selector["where"],
            "tasks": names,
            **({"named": order.selector["named"]} if "named" in order.selector else {}),
            **points,
        }
        audit.record(conn, actor.name, f"job {verb.value}", subject, now, detail)

    context.database.transaction(unit)
    return order


def _taken_up(
    context: Context,
    verb: OrderVerb,
    chosen: Chosen,
    actor: Principal,
    points: Mapping[str, int],
    tell: Tell,
) -> Order | None:
    """The same order that was cut off before, now carried out."""
    with context.database.snapshot() as conn:
        same = [
            one
            for one in orders.running(conn)
            if (one.verb, one.selector, one.points, one.actor) == (verb, chosen.selector, points, actor.name)
        ]
    if not same:
        return None
    return resume(context, same[0].id, actor, tell=tell)


def resume(context: Context, order_id: int, actor: Principal, *, tell: Tell = silent) -> Order:
    """Go on with an order that was cut off; one that is done stays so. Raises NotFound, Denied, Conflict."""
    with context.database.snapshot() as conn:
        order = orders.by_id(conn, order_id)
        _require(actor, selection.tasks_of(conn, order.tasks))
    if order.state == OrderState.UNDONE:
        raise Conflict(f"operation {order_id} was undone", hint="give the order anew if it is wanted")
    return order if order.state == OrderState.DONE else carrying.carry_out(context, order, tell)


_WHY_NOT = {
    OrderVerb.KILL: "killed jobs have given up their attempts and outputs",
    OrderVerb.RELEASE: "released jobs may have run since; hold those that still wait",
    OrderVerb.RETRY: "jobs tried again may have run since; hold or kill those that still wait",
    OrderVerb.UNDO: "give the order itself once more",
}


def undo(context: Context, order_id: int, actor: Principal, *, tell: Tell = silent) -> Order:
    """Take an order back as far as it came; the order that does so. One cut off is resumed by the same call.

    Raises NotFound, Denied, Conflict for what cannot be undone, or not any more.
    """
    with context.database.snapshot() as conn:
        order, earlier = orders.by_id(conn, order_id), orders.undoing(conn, order_id)
        _require(actor, selection.tasks_of(conn, order.tasks))
    if order.verb not in UNDOABLE:
        raise Conflict(f"a {order.verb.value} cannot be undone", hint=_WHY_NOT[order.verb])
    if earlier is not None and earlier.state == OrderState.RUNNING:
        return carrying.carry_out(context, earlier, tell)
    if earlier is not None:
        raise Conflict(f"operation {order_id} was undone by operation {earlier.id}")
    now = context.clock.now()
    if order.undo_until is None or now > order.undo_until:
        hint = "release held jobs" if order.verb == OrderVerb.HOLD else "shift them the other way"
        raise Conflict(f"operation {order_id} is too old to be undone", hint=f"{hint} by a new order")
    return carrying.carry_out(context, _start_undo(context, order, actor), tell)


def _start_undo(context: Context, order: Order, actor: Principal) -> Order:
    key, now = context.keys.one("operation"), context.clock.now()

    def unit(conn: Connection) -> Order:
        if not orders.set_state(conn, order, OrderState.UNDONE, now):
            raise Conflict(f"operation {order.id} was just finished or undone", hint="look again and repeat")
        new = Order(
            id=key,
            verb=OrderVerb.UNDO,
            selector={"where": None},
            tasks=order.tasks,
            actor=actor.name,
            created_at=now,
            undoes=order.id,
            total=orders.by_id(conn, order.id).changed,
        )
        orders.start(conn, new)
        detail = {"operation": key, "jobs": new.total, "undone": order.verb.value}
        audit.record(conn, actor.name, "operation undo", f"operation {order.id}", now, detail)
        return new

    return context.database.transaction(unit)


def view(order: Order) -> dict[str, Any]:
    """An order as the faces show it."""
    named = order.selector.get("named")
    by_name = None if named is None else sum(len(indices) for indices in named.values())
    return {
        **record(order, "id", "verb", "by", "to", "state", "actor", "total", "seen", "changed"),
        "where": order.selector["where"],
        "named": by_name,
        "tasks": len(order.tasks),
        "undoes": order.undoes,
        **{name: plain(getattr(order, name)) for name in ("created_at", "updated_at", "undo_until")},
    }


# --- tasks and requests ----------------------------------------------------------------------------------


def kill_task(
    context: Context, name: str, actor: Principal, *, dry_run: bool = False, tell: Tell = silent
) -> dict[str, Any]:
    """End a task and its live jobs: {"task", "state", "due": {state: jobs}, "changed"}.

    What it registered stays. Raises NotFound, Denied, InvalidTransition for one that is COMPLETED.
    """
    with context.database.snapshot() as conn:
        task = task_of(conn, name)
        _require(actor, selection.tasks_of(conn, [task.id]))
    if task.state != TaskState.KILLED:
        TASK.check(task.state, TaskEvent.KILL, TaskState.KILLED)
    return _kill_task(context, task, actor, dry_run, tell)


def _kill_task(context: Context, task: Task, actor: Principal, dry_run: bool, tell: Tell) -> dict[str, Any]:
    """The task first, so that no job is added; its dataset last, so that what is committed meanwhile fits."""
    if not dry_run:
        now = context.clock.now()
        context.database.transaction(lambda conn: operations.kill_task(conn, task.id, actor.name, now))
    over = Compare("state", Op.NOT_IN, tuple(sorted(state.value for state in TERMINAL)))
    chosen = Chosen(where=selectors.both(of_task(task.name), over))
    told = _order(context, OrderVerb.KILL, chosen, actor, dry_run=dry_run, tell=tell)
    if not dry_run:
        at = context.clock.now()
        context.database.transaction(lambda conn: operations.close_task(conn, task.id, actor.name, at))
    return {
        "task": task.name,
        "state": str(task.state if dry_run else TaskState.KILLED),
        "due": told["due"],
        "changed": told["changed"],
    }


def retry_task(
    context: Context, name: str, actor: Principal, *, dry_run: bool = False, tell: Tell = silent
) -> dict[str, Any]:
    """Try a task's failed jobs again, and take up what its input has got since it ended.

    {"task", "state", "due": {state: jobs}, "changed"}. Raises NotFound, Denied, Conflict for a killed task.
    """
    wanted = Selection(task=name, state=JobState.FAILED)
    told = order_jobs(context, OrderVerb.RETRY, wanted, actor, dry_run=dry_run, tell=tell)
    with context.database.snapshot() as conn:
        task = task_of(conn, name)
        grown = task.input_dataset_id is not None and bool(slicing.waiting_blocks(conn, task))
    if grown and not dry_run:
        now = context.clock.now()
        context.database.transaction(lambda conn: operations.retry_task(conn, task.id, actor.name, now))
    with context.database.snapshot() as conn:
        state = tasks.by_id(conn, task.id).state
    return {"task": name, "state": state.value, "due": told["due"], "changed": told["changed"]}


def abort_request(
    context: Context, request_id: int, actor: Principal, *, dry_run: bool = False, tell: Tell = silent
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
    killed = [_kill_task(context, task, actor, dry_run, tell) for task in mine]
    state = row.state if dry_run else RequestState.ABORTED
    return {"request": request_id, "state": str(state), "tasks": killed}
