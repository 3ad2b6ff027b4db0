"""Tasks: one step of an approved request or one physicist's submission, its rows and its moves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, and_, bindparam, or_, select, update

from gridcore.db.statements import insert_rows, lock_rows, one_of, select_in
from gridcore.ids import task_name
from prodsys.job_states import JobKind, JobState
from prodsys.states import TASK, TaskEvent, TaskState
from prodsys.tables import task, task_count, task_history
from prodsys.tasks.workflow import Step

#: The code of a task that was declared complete: no job is made of its units any more.
FORCED = "FORCED"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTask:
    """A task to be made. `client_id` makes a repeat harmless."""

    id: int
    client_id: str
    request_id: int | None
    name: str
    task_type: str
    step: Step
    sandbox: str | None
    leaf_id: int
    requester: str
    group: str
    priority: int
    lfn_area: str
    input_dataset_id: int | None
    output_dataset_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A task as rules see it. Units are events where it generates, else what its input is split into.

    `units_wanted` is what was asked for where top-ups made the total more; None where it is the total.
    """

    id: int
    request_id: int | None
    name: str
    task_type: str
    state: TaskState
    step: Step
    lfn_area: str
    sandbox: str | None
    leaf_id: int
    requester: str
    group: str
    priority: int
    input_dataset_id: int | None
    output_dataset_id: int
    unit_kind: str
    units_total: int | None
    units_made: int
    next_index: int
    created_at: datetime
    units_wanted: int | None = None
    #: What an operator has decided about it, such as FORCED.
    code: str | None = None
    params: Mapping[str, Any] | None = None

    @property
    def forced(self) -> bool:
        """Whether it was declared complete with what it has."""
        return self.code == FORCED


TASKS = select(task)
BY_STATE = TASKS.where(task.c.state == bindparam("of_state", type_=task.c.state.type)).order_by(task.c.id)
BY_ID = TASKS.where(task.c.id == bindparam("task_id"))
BY_IDS = TASKS.where(task.c.id.in_(bindparam("ids", expanding=True)))
BY_NAME = TASKS.where(task.c.name == bindparam("task_name"))
OF_REQUEST = TASKS.where(task.c.request_id == bindparam("of_request")).order_by(task.c.id)
NAMES = select(task.c.name).where(task.c.name.like(bindparam("prefix"), escape="\\"))
COUNTS = select(task_count).where(task_count.c.task_id == bindparam("of_task"), task_count.c.jobs != 0)
SET_STATE = (
    update(task)
    .where(task.c.id == bindparam("task_id"), task.c.state == bindparam("frm", type_=task.c.state.type))
    .values(
        state=bindparam("dst", type_=task.c.state.type),
        code=bindparam("why"),
        params=bindparam("facts", type_=task.c.params.type),
        updated_at=bindparam("at", type_=task.c.updated_at.type),
        ended_at=bindparam("ended", type_=task.c.ended_at.type),
    )
)
ADVANCE = (
    update(task)
    .where(task.c.id == bindparam("task_id"), task.c.next_index == bindparam("seen"))
    .where(task.c.state == TaskState.ACTIVE)
    .values(next_index=bindparam("then"), units_made=task.c.units_made + bindparam("units"))
)
SET_TOTAL = update(task).where(task.c.id == bindparam("task_id")).values(units_total=bindparam("total"))
_GOES_ON = one_of(task.c.state, (TaskState.ACTIVE, TaskState.PAUSED))
_READS_IT = and_(task.c.input_dataset_id == bindparam("of_dataset"), _GOES_ON)
EXPECT_MORE = (
    update(task)
    .where(task.c.input_dataset_id.is_not(None), or_(task.c.id == bindparam("task_id"), _READS_IT))
    .values(units_total=None)
)
ADD_UNITS = (
    update(task)
    .where(task.c.id == bindparam("task_id"))
    .values(
        units_total=task.c.units_total + bindparam("more"),
        units_wanted=bindparam("due"),
        updated_at=bindparam("at", type_=task.c.updated_at.type),
    )
)
SET_PRIORITY = (
    update(task).where(task.c.id == bindparam("task_id")).values(priority=bindparam("new_priority"))
)
SET_SPEC = (
    update(task)
    .where(task.c.id == bindparam("task_id"))
    .values(spec=bindparam("new_spec", type_=task.c.spec.type))
)
SET_SHARE = (
    update(task)
    .where(task.c.id == bindparam("task_id"))
    .values(acct_group=bindparam("new_group"), leaf_id=bindparam("new_leaf"))
)
SET_REASON = (
    update(task)
    .where(task.c.id == bindparam("task_id"))
    .values(
        code=bindparam("why"),
        params=bindparam("facts", type_=task.c.params.type),
        updated_at=bindparam("at", type_=task.c.updated_at.type),
    )
)


def of_row(row: Any) -> Task:
    """A Task from a full row."""
    spec = dict(row.spec)
    return Task(
        id=row.id,
        request_id=row.request_id,
        name=row.name,
        task_type=row.task_type,
        state=row.state,
        lfn_area=spec.pop("lfn_area"),
        step=Step.model_validate(spec),
        sandbox=row.sandbox,
        leaf_id=row.leaf_id,
        requester=row.requester,
        group=row.acct_group,
        priority=row.priority,
        input_dataset_id=row.input_dataset_id,
        output_dataset_id=row.output_dataset_id,
        unit_kind=row.unit_kind,
        units_total=row.units_total,
        units_made=row.units_made,
        next_index=row.next_index,
        created_at=row.created_at,
        units_wanted=row.units_wanted,
        code=row.code,
        params=row.params,
    )


def create(conn: Connection, new: NewTask, now: datetime) -> None:
    """Insert a task, ACTIVE from the start: the job maker picks it up."""
    row = {
        "id": new.id,
        "client_id": new.client_id,
        "request_id": new.request_id,
        "name": new.name,
        "task_type": new.task_type,
        "state": TaskState.ACTIVE,
        "spec": {**new.step.model_dump(mode="json"), "lfn_area": new.lfn_area},
        "sandbox": new.sandbox,
        "leaf_id": new.leaf_id,
        "requester": new.requester,
        "acct_group": new.group,
        "priority": new.priority,
        "input_dataset_id": new.input_dataset_id,
        "output_dataset_id": new.output_dataset_id,
        "unit_kind": new.step.unit_kind,
        "units_total": new.step.units_total,
        "created_at": now,
        "updated_at": now,
    }
    insert_rows(conn, task, [row])
    cells = [{"task_id": new.id, "kind": kind, "state": state} for kind in JobKind for state in JobState]
    insert_rows(conn, task_count, cells)
    insert_rows(conn, task_history, [_history(new.id, None, TaskState.ACTIVE, now, new.requester, None)])


def move(
    conn: Connection,
    one: Task,
    event: TaskEvent,
    to: TaskState,
    now: datetime,
    *,
    actor: str,
    code: str | None = None,
    params: Mapping[str, Any] | None = None,
) -> bool:
    """Move a task if it is still in the state it was read in."""
    TASK.check(one.state, event, to)
    ended = now if to in (TaskState.COMPLETED, TaskState.INCOMPLETE, TaskState.KILLED) else None
    binds = {
        "task_id": one.id,
        "frm": one.state,
        "dst": to,
        "why": code,
        "facts": params,
        "at": now,
        "ended": ended,
    }
    if not conn.execute(SET_STATE, binds).rowcount:
        return False
    insert_rows(conn, task_history, [_history(one.id, one.state, to, now, actor, code)])
    return True


def _history(
    task_id: int, frm: TaskState | None, to: TaskState, now: datetime, actor: str, code: str | None
) -> dict[str, Any]:
    return {"task_id": task_id, "frm": frm, "dst": to, "at": now, "actor": actor, "code": code}


def in_state(conn: Connection, state: TaskState) -> list[Task]:
    """All tasks in a state, oldest first."""
    return [of_row(row) for row in conn.execute(BY_STATE, {"of_state": state})]


def by_id(conn: Connection, task_id: int) -> Task:
    """The task of this key."""
    return of_row(conn.execute(BY_ID, {"task_id": task_id}).one())


def by_ids(conn: Connection, task_ids: Iterable[int]) -> dict[int, Task]:
    """The tasks of these keys, by key."""
    return {row.id: of_row(row) for row in select_in(conn, BY_IDS, task_ids)}


def by_name(conn: Connection, name: str) -> Task | None:
    """The task of this name."""
    row = conn.execute(BY_NAME, {"task_name": name}).one_or_none()
    return of_row(row) if row else None


def of_request(conn: Connection, request_id: int) -> list[Task]:
    """The tasks of a request, in the order of its steps."""
    return [of_row(row) for row in conn.execute(OF_REQUEST, {"of_request": request_id})]


def fresh_name(conn: Connection, now: datetime, user: str, label: str) -> str:
    """A task name nobody has yet."""
    first = task_name(now, user, label)
    escaped = first.replace("\\", "\\\\").replace("_", r"\_").replace("%", r"\%")
    taken = set(conn.execute(NAMES, {"prefix": escaped + "%"}).scalars())
    repeat = 1
    while task_name(now, user, label, repeat) in taken:
        repeat += 1
    return task_name(now, user, label, repeat)


def lock(conn: Connection, task_id: int) -> Task:
    """The task, its row locked until the transaction ends."""
    lock_rows(conn, task, [task_id])
    return by_id(conn, task_id)


def advance(conn: Connection, one: Task, jobs: int, units: int) -> bool:
    """Use up `jobs` indices for jobs of `units` units; False where another hand was faster, or killed it."""
    binds = {"task_id": one.id, "seen": one.next_index, "then": one.next_index + jobs, "units": units}
    return conn.execute(ADVANCE, binds).rowcount == 1


def set_total(conn: Connection, task_id: int, units: int) -> None:
    """The input is complete: so many units in all."""
    conn.execute(SET_TOTAL, {"task_id": task_id, "total": units})


def add_units(conn: Connection, one: Task, more: int, due: int, now: datetime) -> None:
    """Make `more` units beyond its total; `due` are those that complete it."""
    conn.execute(ADD_UNITS, {"task_id": one.id, "more": more, "due": due, "at": now})


def set_priority(conn: Connection, task_id: int, priority: int) -> None:
    """For the jobs made from now on."""
    conn.execute(SET_PRIORITY, {"task_id": task_id, "new_priority": priority})


def set_step(conn: Connection, one: Task, step: Step) -> None:
    """For the jobs made from now on."""
    spec = {**step.model_dump(mode="json"), "lfn_area": one.lfn_area}
    conn.execute(SET_SPEC, {"task_id": one.id, "new_spec": spec})


def set_share(conn: Connection, task_id: int, group: str, leaf_id: int) -> None:
    """For the jobs made from now on."""
    conn.execute(SET_SHARE, {"task_id": task_id, "new_group": group, "new_leaf": leaf_id})


def set_reason(conn: Connection, task_id: int, code: str, params: Mapping[str, Any], now: datetime) -> None:
    """Remember on the task what an operator decided about it."""
    conn.execute(SET_REASON, {"task_id": task_id, "why": code, "facts": params, "at": now})


def expect_more(conn: Connection, one: Task) -> None:
    """A task is taken up again: no total of input is known, of its own or of those that read its output."""
    conn.execute(EXPECT_MORE, {"task_id": one.id, "of_dataset": one.output_dataset_id})


@dataclass(frozen=True, slots=True)
class JobCount:
    """How many jobs of one kind are in one state, and their units."""

    kind: JobKind
    state: JobState
    jobs: int
    units: int


def job_counts(conn: Connection, task_id: int) -> list[JobCount]:
    """Jobs by kind and state, from the counters; states without jobs are left out."""
    rows = conn.execute(COUNTS, {"of_task": task_id})
    return [JobCount(row.kind, row.state, row.jobs, row.units) for row in rows]


def jobs_in(counts: Sequence[JobCount], *states: JobState) -> int:
    """How many jobs are in these states; in any state without."""
    return sum(count.jobs for count in counts if not states or count.state in states)


def units_in(counts: Sequence[JobCount], *states: JobState) -> int:
    """How many units belong to jobs in these states."""
    return sum(count.units for count in counts if count.state in states and count.kind == JobKind.PROCESS)
