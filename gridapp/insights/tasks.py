"""Tasks, with their jobs by state, what they wait for and when they will end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import BindParameter, Connection, Integer, bindparam, func, select

from catalogs.states import BlockState, DatasetState
from catalogs.tables import block, dataset
from gridapp.insights.forecasts import GOING, foretell
from gridapp.insights.values import LIMIT, not_found, record, some, state_of
from gridcore.db.statements import select_in
from prodsys.job_states import TERMINAL, JobKind, JobState
from prodsys.jobs.outputs import OutputKind
from prodsys.requests import completion
from prodsys.states import OutputState, TaskState
from prodsys.tables import (
    output,
    task_block,
    task_count,
    task_history,
)
from prodsys.tables import task as task_table
from prodsys.tasks.tasks import FORCED

_IDS: BindParameter[int] = bindparam("ids", expanding=True)
_IN, _OUT = dataset.alias("in_ds"), dataset.alias("out_ds")

#: Outputs that wait to be merged are counted up to here.
COUNTED = 10_000
#: Tasks whose outputs may yet be merged.
_MERGING = GOING | {TaskState.PAUSED, TaskState.INCOMPLETE}

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
_SOME_UNMERGED = (
    select(output.c.id)
    .where(output.c.task_id == bindparam("of_task"), output.c.kind == OutputKind.UNMERGED)
    .where(output.c.state == bindparam("in_state", type_=output.c.state.type))
    .limit(bindparam("n", type_=Integer))
    .subquery("some_unmerged")
)
UNMERGED = select(func.count()).select_from(_SOME_UNMERGED)
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
    wanted: int | None = None
    code: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
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
        case TaskState.PAUSED:
            return ["its request is paused: no job is made or started", *_active(facts)]
        case TaskState.CLOSING:
            blocks = some(facts.open_blocks, "output block")
            return [f"all jobs have ended; {blocks} still open, the block manager closes them"]
        case TaskState.COMPLETED:
            return [_completed(facts)]
        case TaskState.INCOMPLETE:
            merge = f"{some(facts.merging, 'output')} kept for a failed merge, to be retried or killed"
            return [_incomplete(facts), *([merge] if facts.merging else [])]
    return ["ended by an operator"]


def _completed(facts: TaskFacts) -> str:
    due = completion.wanted(facts.total, facts.wanted) or 0
    if facts.code != FORCED:
        return f"all {some(due, facts.unit)} done and registered"
    told = f"declared complete by {facts.params.get('by', 'an operator')}"
    done = f"{facts.units(JobState.DONE)} of {some(due, facts.unit)}"
    return f"{told} with {done} done: {facts.params.get('reason', 'no reason given')}"


def _active(facts: TaskFacts) -> list[str]:
    text = "{} held until the request is resumed; what an operator held, until it is released"
    if facts.state != TaskState.PAUSED:
        text = "{} held until somebody releases them"
    found = [
        _stopped(facts),
        _jobs_sentence(facts, JobState.FAILED, "{} out of retries"),
        _jobs_sentence(facts, JobState.HELD, text),
    ]
    live = {state: n for state, n in facts.by_state.items() if state not in TERMINAL}
    if live:
        found.append("jobs: " + ", ".join(f"{n} {_words(state)}" for state, n in live.items()))
    if facts.waiting_blocks and facts.code != FORCED:
        blocks = some(facts.waiting_blocks, "closed input block")
        found.append(f"{blocks} to be cut into jobs by the job maker")
    if facts.total is not None and facts.made < facts.total:
        found.append(f"jobs for {some(facts.total - facts.made, facts.unit)} are still to be made")
    if facts.input_grows and facts.code != FORCED:
        found.append(
            f"its input {facts.input_dataset} is still growing; new blocks become jobs as they close"
        )
    if facts.merging or facts.to_merge:
        found.append(f"outputs: {facts.to_merge} wait to be merged, {facts.merging} are being merged")
    return [one for one in found if one]


def _stopped(facts: TaskFacts) -> str:
    if facts.code != FORCED:
        return ""
    by, reason = facts.params.get("by", "an operator"), facts.params.get("reason", "no reason given")
    return f"declared complete by {by}, it takes no more input and ends with the jobs it has: {reason}"


def _jobs_sentence(facts: TaskFacts, state: JobState, text: str) -> str:
    n = facts.by_state.get(state, 0)
    return text.format(some(n, "job")) if n else ""


def _words(state: JobState) -> str:
    return "waiting to be tried again" if state == JobState.RETRY_WAIT else state.value.lower()


def _incomplete(facts: TaskFacts) -> str:
    failed, killed = facts.units(JobState.FAILED), facts.units(JobState.KILLED)
    done, due = facts.units(JobState.DONE), completion.wanted(facts.total, facts.wanted) or 0
    return f"{done} of {some(due, facts.unit)} done, {failed} failed, {killed} killed"


# --- reading -----------------------------------------------------------------------------------------


def move(row: Any) -> dict[str, Any]:
    return {"from": record(row, "frm")["frm"], "to": row.dst.value, **record(row, "at", "actor", "code")}


def tasks(
    conn: Connection, limit: int = LIMIT, state: str | None = None, foretold: bool = False
) -> list[dict[str, Any]]:
    """Tasks, newest first, all or those in one state, if asked with their forecasts.

    Raises UsageError for an unknown state.
    """
    binds = {"states": state_of(TaskState, state), "n": limit}
    return views(conn, conn.execute(TASKS, binds).all(), foretold=foretold)


def task(conn: Connection, name: str) -> dict[str, Any]:
    """One task with its `because` sentences, specification and history. Raises NotFound with near names."""
    row = conn.execute(TASK, {"name": name}).one_or_none()
    if row is None:
        raise not_found("task", name, conn.execute(TASK_NAMES).scalars(), "tierflow task list")
    (view,) = views(conn, [row], told=True)
    moves = conn.execute(TASK_MOVES, {"task_id": row.id})
    return {**view, "spec": row.spec, "history": [move(one) for one in moves]}


def views(
    conn: Connection, rows: Sequence[Any], told: bool = False, foretold: bool = False
) -> list[dict[str, Any]]:
    """Tasks as JSON has them; with `told` all their sentences, with that or `foretold` their forecast."""
    facts = _facts(conn, rows)
    found = []
    for row, one in zip(rows, facts, strict=True):
        because = sentences(one)
        view = {**_view(row, one), "reason": because[0]}
        found.append({**view, "because": because} if told else view)
    if told or foretold:
        _foretell(conn, rows, facts, found)
    return found


def _foretell(
    conn: Connection, rows: Sequence[Any], facts: Sequence[TaskFacts], found: Sequence[dict[str, Any]]
) -> None:
    forecasts = foretell(conn, rows, [one.units(JobState.DONE) for one in facts])
    for row, view, forecast in zip(rows, found, forecasts, strict=True):
        view["forecast"] = forecast
        if "because" in view and row.state in GOING:
            view["because"].insert(1, forecast["sentence"])


def _view(row: Any, facts: TaskFacts) -> dict[str, Any]:
    live = [state for state in JobState if state not in TERMINAL]
    units = {
        "kind": row.unit_kind,
        "total": row.units_total,
        "wanted": completion.wanted(row.units_total, row.units_wanted),
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
    blocks = {(one.dataset_id, one.state): one.n for one in select_in(conn, BLOCKS, datasets)}
    taken = {one.task_id: one.n for one in select_in(conn, BLOCKS_TAKEN, ids)}
    return [
        TaskFacts(
            state=row.state,
            unit=row.unit_kind.removesuffix("s"),
            total=row.units_total,
            made=row.units_made,
            counts=sorted(counts.get(row.id, [])),
            to_merge=_unmerged(conn, row, OutputState.REGISTERED),
            merging=_unmerged(conn, row, OutputState.MERGING),
            open_blocks=blocks.get((row.output_dataset_id, BlockState.OPEN), 0),
            input_dataset=row.input_dataset,
            input_grows=row.input_state == DatasetState.OPEN,
            waiting_blocks=_waiting(row, blocks, taken),
            output_dataset=row.output_dataset,
            wanted=row.units_wanted,
            code=row.code,
            params=row.params or {},
        )
        for row in rows
    ]


def _unmerged(conn: Connection, row: Any, state: OutputState) -> int:
    if row.spec.get("merge") is None or row.state not in _MERGING:
        return 0
    binds = {"of_task": row.id, "in_state": state, "n": COUNTED}
    return int(conn.execute(UNMERGED, binds).scalar_one())


def _waiting(row: Any, blocks: Mapping[Any, int], taken: Mapping[int, int]) -> int:
    if row.input_dataset_id is None:
        return 0
    return max(0, blocks.get((row.input_dataset_id, BlockState.CLOSED), 0) - taken.get(row.id, 0))
