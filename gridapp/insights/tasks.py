"""Requests and tasks, with their jobs by state and what they wait for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import BindParameter, Connection, Integer, bindparam, func, select

from catalogs.states import BlockState, DatasetState
from catalogs.tables import block, dataset
from gridapp.insights.values import LIMIT, not_found, record, some, state_of
from gridcore.db.statements import select_in
from gridcore.errors import NotFound
from prodsys.jobs.machine import TERMINAL, JobKind, JobState
from prodsys.outputs import OutputKind
from prodsys.states import OutputState, TaskState
from prodsys.tables import output, request_history, task_block, task_count, task_history
from prodsys.tables import request as request_table
from prodsys.tables import task as task_table

_IDS: BindParameter[int] = bindparam("ids", expanding=True)
_IN, _OUT = dataset.alias("in_ds"), dataset.alias("out_ds")

REQUESTS = select(request_table).order_by(request_table.c.id.desc()).limit(bindparam("n", type_=Integer))
REQUEST = select(request_table).where(request_table.c.id == bindparam("request_id"))
TASKS_OF_REQUESTS = (
    select(task_table.c.request_id, func.count().label("n"))
    .where(task_table.c.request_id.in_(_IDS))
    .group_by(task_table.c.request_id)
)
REQUEST_MOVES = (
    select(request_history)
    .where(request_history.c.request_id == bindparam("request_id"))
    .order_by(request_history.c.seq)
)
_TASKS = (
    select(
        task_table,
        _IN.c.name.label("input_dataset"),
        _IN.c.state.label("input_state"),
        _OUT.c.name.label("output_dataset"),
        _OUT.c.files.label("out_files"),
        _OUT.c.bytes.label("out_bytes"),
        _OUT.c.events.label("out_events"),
    )
    .select_from(task_table)
    .outerjoin(_IN, _IN.c.id == task_table.c.input_dataset_id)
    .outerjoin(_OUT, _OUT.c.id == task_table.c.output_dataset_id)
)
TASKS = (
    _TASKS.where(task_table.c.state.in_(bindparam("states", expanding=True)))
    .order_by(task_table.c.id.desc())
    .limit(bindparam("n", type_=Integer))
)
TASKS_OF = _TASKS.where(task_table.c.request_id == bindparam("request_id")).order_by(task_table.c.id)
TASK = _TASKS.where(task_table.c.name == bindparam("name"))
TASK_NAMES = select(task_table.c.name).order_by(task_table.c.id.desc()).limit(1000)
TASK_MOVES = (
    select(task_history).where(task_history.c.task_id == bindparam("task_id")).order_by(task_history.c.seq)
)
COUNTS = select(task_count).where(task_count.c.task_id.in_(_IDS), task_count.c.jobs != 0)
UNMERGED = (
    select(output.c.task_id, output.c.state, func.count().label("n"))
    .where(output.c.task_id.in_(_IDS), output.c.kind == OutputKind.UNMERGED)
    .where(output.c.state.in_([OutputState.REGISTERED, OutputState.MERGING]))
    .group_by(output.c.task_id, output.c.state)
)
BLOCKS = (
    select(block.c.dataset_id, block.c.state, func.count().label("n"))
    .where(block.c.dataset_id.in_(_IDS))
    .group_by(block.c.dataset_id, block.c.state)
)
BLOCKS_TAKEN = (
    select(task_block.c.task_id, func.count().label("n"))
    .where(task_block.c.task_id.in_(_IDS))
    .group_by(task_block.c.task_id)
)

Count = tuple[JobKind, JobState, int, int]  # kind, state, jobs, units


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFacts:
    """What a task's sentences are made of; `waiting_blocks` are closed input blocks not yet cut into jobs."""

    state: TaskState
    unit: str
    total: int | None
    made: int
    counts: Sequence[Count] = ()
    to_merge: int = 0
    merging: int = 0
    open_blocks: int = 0
    input_dataset: str | None = None
    input_grows: bool = False
    waiting_blocks: int = 0
    output_dataset: str | None = None
    by_state: Mapping[JobState, int] = field(init=False)

    def __post_init__(self) -> None:
        by_state = {one: self._jobs(one) for one in JobState}
        object.__setattr__(self, "by_state", {one: n for one, n in by_state.items() if n})

    def _jobs(self, state: JobState) -> int:
        return sum(jobs for _, found, jobs, _ in self.counts if found == state)

    def units(self, *states: JobState) -> int:
        """Units of the process jobs in these states."""
        return sum(n for kind, state, _, n in self.counts if kind == JobKind.PROCESS and state in states)


def sentences(facts: TaskFacts) -> list[str]:
    """What a task waits for or has come to, most important first. Pure."""
    match facts.state:
        case TaskState.ACTIVE:
            return _active(facts) or ["all its jobs have ended; the job maker will close it"]
        case TaskState.CLOSING:
            blocks = some(facts.open_blocks, "output block")
            return [f"all jobs have ended; {blocks} still open, the block manager closes them"]
        case TaskState.COMPLETED:
            return [f"all {some(facts.total or 0, facts.unit)} done and registered"]
        case TaskState.INCOMPLETE:
            merge = f"{some(facts.merging, 'output')} kept for a failed merge, to be retried or killed"
            return [_incomplete(facts), *([merge] if facts.merging else [])]
    return ["ended by an operator"]


def _active(facts: TaskFacts) -> list[str]:
    found = [_jobs_sentence(facts, JobState.HELD, "{} held until somebody releases them")]
    live = {state: n for state, n in facts.by_state.items() if state not in TERMINAL}
    if live:
        found.append("jobs: " + ", ".join(f"{n} {_words(state)}" for state, n in live.items()))
    if facts.waiting_blocks:
        blocks = some(facts.waiting_blocks, "closed input block")
        found.append(f"{blocks} to be cut into jobs by the job maker")
    if facts.total is not None and facts.made < facts.total:
        found.append(f"jobs for {some(facts.total - facts.made, facts.unit)} are still to be made")
    if facts.input_grows:
        found.append(
            f"its input {facts.input_dataset} is still growing; new blocks become jobs as they close"
        )
    if facts.merging or facts.to_merge:
        found.append(f"outputs: {facts.to_merge} wait to be merged, {facts.merging} are being merged")
    found.append(_jobs_sentence(facts, JobState.FAILED, "{} out of retries"))
    return [one for one in found if one]


def _jobs_sentence(facts: TaskFacts, state: JobState, text: str) -> str:
    n = facts.by_state.get(state, 0)
    return text.format(some(n, "job")) if n else ""


def _words(state: JobState) -> str:
    return "waiting to be tried again" if state == JobState.RETRY_WAIT else state.value.lower()


def _incomplete(facts: TaskFacts) -> str:
    failed, killed = facts.units(JobState.FAILED), facts.units(JobState.KILLED)
    done = facts.units(JobState.DONE)
    return f"{done} of {some(facts.total or 0, facts.unit)} done, {failed} failed, {killed} killed"


# --- reading -----------------------------------------------------------------------------------------


def requests(conn: Connection, limit: int = LIMIT) -> list[dict[str, Any]]:
    """Requests, newest first, with the number of their tasks."""
    rows = conn.execute(REQUESTS, {"n": limit}).all()
    found = select_in(conn, TASKS_OF_REQUESTS, [row.id for row in rows])
    n_tasks = {row.request_id: row.n for row in found}
    return [_request(row, n_tasks.get(row.id, 0)) for row in rows]


def _request(row: Any, n_tasks: int) -> dict[str, Any]:
    return {
        **record(
            row, "id", "name", "state", "requester", "priority", "decided_by", "created_at", "updated_at"
        ),
        "group": row.acct_group,
        "task_count": n_tasks,
    }


def request(conn: Connection, request_id: int) -> dict[str, Any]:
    """One request with its document, history and `tasks`. Raises NotFound."""
    row = conn.execute(REQUEST, {"request_id": request_id}).one_or_none()
    if row is None:
        raise NotFound(f"there is no request {request_id}", hint="see: tierflow request list")
    mine = _views(conn, conn.execute(TASKS_OF, {"request_id": request_id}).all())
    moves = conn.execute(REQUEST_MOVES, {"request_id": request_id})
    return {
        **_request(row, len(mine)),
        "document": row.spec.get("document"),
        "tasks": mine,
        "history": [_move(one) for one in moves],
    }


def _move(row: Any) -> dict[str, Any]:
    return {"from": record(row, "frm")["frm"], "to": row.dst.value, **record(row, "at", "actor", "code")}


def tasks(conn: Connection, limit: int = LIMIT, state: str | None = None) -> list[dict[str, Any]]:
    """Tasks, newest first, all or those in one state. Raises UsageError for an unknown state."""
    binds = {"states": state_of(TaskState, state), "n": limit}
    return _views(conn, conn.execute(TASKS, binds).all())


def task(conn: Connection, name: str) -> dict[str, Any]:
    """One task with its `because` sentences, specification and history. Raises NotFound with near names."""
    row = conn.execute(TASK, {"name": name}).one_or_none()
    if row is None:
        raise not_found("task", name, conn.execute(TASK_NAMES).scalars(), "tierflow task list")
    (view,) = _views(conn, [row], told=True)
    moves = conn.execute(TASK_MOVES, {"task_id": row.id})
    return {**view, "spec": row.spec, "history": [_move(one) for one in moves]}


def _views(conn: Connection, rows: Sequence[Any], told: bool = False) -> list[dict[str, Any]]:
    found = []
    for row, facts in zip(rows, _facts(conn, rows), strict=True):
        because = sentences(facts)
        view = {**_view(row, facts), "reason": because[0]}
        found.append({**view, "because": because} if told else view)
    return found


def _view(row: Any, facts: TaskFacts) -> dict[str, Any]:
    live = [state for state in JobState if state not in TERMINAL]
    units = {
        "kind": row.unit_kind,
        "total": row.units_total,
        "made": row.units_made,
        "done": facts.units(JobState.DONE),
        "live": facts.units(*live),
        "failed": facts.units(JobState.FAILED),
        "killed": facts.units(JobState.KILLED),
    }
    names = ("id", "name", "request_id", "task_type", "state", "requester", "priority")
    return {
        **record(row, *names, "input_dataset", "output_dataset", "created_at", "updated_at", "ended_at"),
        "group": row.acct_group,
        "units": units,
        "jobs": {state.value: n for state, n in facts.by_state.items()},
        "jobs_by_kind": _by_kind(facts.counts),
        "output": {"files": row.out_files or 0, "bytes": row.out_bytes or 0, "events": row.out_events or 0},
        "merges": {"waiting": facts.to_merge, "under_way": facts.merging},
        "open_blocks": facts.open_blocks,
    }


def _by_kind(counts: Sequence[Count]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {kind.value: {} for kind in JobKind}
    for kind, state, jobs, _ in counts:
        found[kind.value][state.value] = jobs
    return found


def _facts(conn: Connection, rows: Sequence[Any]) -> list[TaskFacts]:
    ids = [row.id for row in rows]
    datasets = {key for row in rows for key in (row.input_dataset_id, row.output_dataset_id)} - {None}
    counts: dict[int, list[Count]] = {}
    for one in select_in(conn, COUNTS, ids):
        counts.setdefault(one.task_id, []).append((one.kind, one.state, one.jobs, one.units))
    unmerged = {(one.task_id, one.state): one.n for one in select_in(conn, UNMERGED, ids)}
    blocks = {(one.dataset_id, one.state): one.n for one in select_in(conn, BLOCKS, datasets)}
    taken = {one.task_id: one.n for one in select_in(conn, BLOCKS_TAKEN, ids)}
    return [
        TaskFacts(
            state=row.state,
            unit=row.unit_kind.removesuffix("s"),
            total=row.units_total,
            made=row.units_made,
            counts=sorted(counts.get(row.id, [])),
            to_merge=unmerged.get((row.id, OutputState.REGISTERED), 0),
            merging=unmerged.get((row.id, OutputState.MERGING), 0),
            open_blocks=blocks.get((row.output_dataset_id, BlockState.OPEN), 0),
            input_dataset=row.input_dataset,
            input_grows=row.input_state == DatasetState.OPEN,
            waiting_blocks=_waiting(row, blocks, taken),
            output_dataset=row.output_dataset,
        )
        for row in rows
    ]


def _waiting(row: Any, blocks: Mapping[Any, int], taken: Mapping[int, int]) -> int:
    if row.input_dataset_id is None:
        return 0
    return max(0, blocks.get((row.input_dataset_id, BlockState.CLOSED), 0) - taken.get(row.id, 0))
