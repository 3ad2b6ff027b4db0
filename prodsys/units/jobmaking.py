"""Making jobs: a slice of a task's units, and merges of its small outputs. Both are planned in a snapshot and
made in a transaction."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from catalogs import sites
from catalogs.bookkeeping import FileRow
from gridcore.db.statements import insert_rows
from prodsys.job_states import TERMINAL, JobEvent, JobKind, JobState
from prodsys.jobs import lostinputs, outputs, store
from prodsys.jobs.outputs import OutputRow
from prodsys.jobs.store import Move, NewJob, rank_of
from prodsys.queue import classes
from prodsys.queue.brokerage import Requirements
from prodsys.queue.classes import ClassSpec
from prodsys.states import OutputEvent, OutputState
from prodsys.tables import job_file, task_block, task_input, task_range
from prodsys.tasks import lumis, tasks
from prodsys.tasks.lumis import Lumis
from prodsys.tasks.tasks import JobCount, Task
from prodsys.units import merging, splitting
from prodsys.units.cutting import Piece
from prodsys.units.merging import MergeGroup, MergeInput, MergePolicy
from prodsys.units.slicing import Slice
from prodsys.units.splitting import InputFile

#: The run number of generated events; their lumi is the job's index.
GENERATED_RUN = 1
#: Merges go before the work that makes more to merge.
MERGE_BONUS = 100


@dataclass(frozen=True, slots=True)
class NewKeys:
    """Fresh keys for one slice."""

    jobs: Iterator[int]
    classes: Iterator[int]


def requirements(task: Task, kind: JobKind) -> Requirements:
    """What jobs of a task need, wherever their input is. A merge runs beside its inputs, wherever that is."""
    step = task.step
    return Requirements(
        cores=step.limits.cores,
        memory_mb=step.limits.memory_mb or 0,
        wall_s=int(step.limits.wall_s),
        platform=step.platform,
        sites=None if step.sites is None or kind == JobKind.MERGE else frozenset(step.sites),
        sites_excluded=frozenset(step.sites_excluded),
        disk_mb=step.limits.disk_mb or 0,
        tags=frozenset(step.tags),
        gpus=step.limits.gpus,
        outbound=step.outbound,
    )


def _class_of(conn: Connection, keys: NewKeys, task: Task, kind: JobKind, **where: Any) -> int:
    task_type = f"{task.task_type}-merge" if kind == JobKind.MERGE else task.task_type
    spec = ClassSpec(
        task_type=task_type, leaf_id=task.leaf_id, requirements=requirements(task, kind), **where
    )
    return classes.put(conn, next(keys.classes), spec)


# --- process jobs --------------------------------------------------------------------------------------


def make(conn: Connection, keys: NewKeys, task: Task, due: Slice, now: datetime) -> int:
    """The jobs of a slice, the task's row being locked; how many: none where the task has moved on since."""
    pieces = due.pieces
    if task.forced or task.units_made != due.units_made:
        return 0
    if not tasks.advance(conn, task, len(pieces), sum(piece.units for piece in pieces)):
        return 0
    jobs = _process_jobs(conn, keys, task, due) if pieces else []
    store.insert(conn, jobs, now)
    _enter(conn, task, pieces, jobs)
    _hold(conn, pieces, jobs, now)
    if due.block_id is not None:
        _hold_lost(conn, jobs, now)
    if due.block_id is not None and due.ends:
        insert_rows(conn, task_block, [{"task_id": task.id, "block_id": due.block_id}])
    return len(jobs)


def _process_jobs(conn: Connection, keys: NewKeys, task: Task, due: Slice) -> list[NewJob]:
    where = {} if due.block_id is None else {"input_block_id": due.block_id}
    class_id = _class_of(conn, keys, task, JobKind.PROCESS, **where)
    since = task.next_index if due.since is None else due.since
    jobs = []
    for number, piece in enumerate(due.pieces):
        index = task.next_index + number
        spec = {"seed": splitting.seed_for(task.name, index), **_range(piece, index)}
        if due.block_id is not None:
            spec["inputs"] = [_input(due.files[one.id], one, piece.lumis) for one in piece.files]
            spec["cut"] = {"block": due.block_id, "part": due.part + number, "since": since}
            spec["cut"] |= {"without": list(due.without)} if due.without else {}
        jobs.append(_job(keys, task, index, JobKind.PROCESS, class_id, piece.units, spec))
    return jobs


def _job(
    keys: NewKeys, task: Task, index: int, kind: JobKind, class_id: int, units: int, spec: Mapping[str, Any]
) -> NewJob:
    priority = task.priority + (MERGE_BONUS if kind == JobKind.MERGE else 0)
    return NewJob(
        id=next(keys.jobs),
        task_id=task.id,
        index=index,
        kind=kind,
        class_id=class_id,
        rank=rank_of(task.created_at, priority) + index,
        units=units,
        spec=spec,
    )


def _range(piece: Piece, index: int) -> dict[str, Any]:
    """What a job makes or takes, as its specification has it."""
    makes = not piece.files
    values = {
        "first_event": piece.first_event,
        "events": piece.events,
        "parameters": piece.parameters,
        "lumis": None if piece.lumis is None else lumis.to_json(piece.lumis),
    }
    said = {name: value for name, value in values.items() if value is not None}
    return {"run": GENERATED_RUN if makes else None, "lumi": index if makes else None, **said}


def _input(row: FileRow, one: InputFile, taken: Lumis | None) -> dict[str, Any]:
    """A file as a job reads it: its runs are those the job takes, its events all it holds."""
    holds = lumis.normal(one.runs)
    return {
        "lfn": row.lfn,
        "bytes": row.bytes,
        "adler32": row.adler32,
        "events": row.events,
        "runs": lumis.to_json(holds if taken is None else lumis.common(holds, taken)),
    }


def _enter(conn: Connection, task: Task, pieces: Sequence[Piece], jobs: Sequence[NewJob]) -> None:
    """The ledger: of lumis where a task is cut by them, else of files."""
    pairs = [(made.id, one.id) for made, piece in zip(jobs, pieces, strict=True) for one in piece.files]
    if task.unit_kind != "lumis":
        rows = [{"task_id": task.id, "file_id": file_id, "job_id": job_id} for job_id, file_id in pairs]
        insert_rows(conn, task_input, rows)
        return
    ranges = [
        {"task_id": task.id, "run": run, "first_lumi": first, "last_lumi": last, "job_id": made.id}
        for made, piece in zip(jobs, pieces, strict=True)
        for run, first, last in piece.ranges
    ]
    insert_rows(conn, task_range, ranges)
    insert_rows(conn, job_file, [{"job_id": job_id, "file_id": file_id} for job_id, file_id in pairs])


def _hold_lost(conn: Connection, jobs: Sequence[NewJob], now: datetime) -> None:
    """Keep back what lists a file that has become invalid since its block was begun."""
    reasons = lostinputs.of_jobs(conn, [made.id for made in jobs])
    store.apply(conn, [lostinputs.held(one, 0, *reason) for one, reason in reasons.items()], now)


def _hold(conn: Connection, pieces: Sequence[Piece], jobs: Sequence[NewJob], now: datetime) -> None:
    """Keep back what an operator has to decide on."""
    moves = [
        Move(
            job_id=made.id,
            attempt=0,
            event=JobEvent.HOLD,
            to=JobState.HELD,
            code=piece.held[0],
            params=piece.held[1],
            hold_kind="policy",
        )
        for made, piece in zip(jobs, pieces, strict=True)
        if piece.held is not None
    ]
    if moves:
        store.apply(conn, moves, now)


# --- merges --------------------------------------------------------------------------------------------


def plan_merges(conn: Connection, task: Task, now: datetime) -> list[tuple[MergeGroup, list[OutputRow]]]:
    """Which outputs merge together now; leftovers only once nothing more will come."""
    merge = task.step.merge
    if merge is None:
        return []
    rows = outputs.to_merge(conn, task.id)
    policy = MergePolicy(
        min_bytes=merge.min_bytes,
        max_bytes=merge.max_bytes,
        max_events=merge.max_events,
        max_inputs=merge.max_inputs,
        max_wait_s=merge.max_wait_s,
    )
    inputs = [
        MergeInput(
            id=row.id,
            size=row.bytes,
            events=row.events,
            created_at=row.updated_at,
            group=(row.se_id, None if merge.across_runs else tuple(sorted(row.runs))),
        )
        for row in rows
    ]
    by_id = {row.id: row for row in rows}
    last = worked_off(task, tasks.job_counts(conn, task.id))
    groups = merging.plan(inputs, policy, now, last=last)
    return [(group, [by_id[one] for one in group.inputs]) for group in groups]


def worked_off(task: Task, counts: Sequence[JobCount]) -> bool:
    """Whether every unit has a job and every process job is terminal."""
    if task.units_total is None or task.units_made < task.units_total:
        return False
    return all(count.state in TERMINAL for count in counts if count.kind == JobKind.PROCESS)


def make_merge_jobs(
    conn: Connection,
    keys: NewKeys,
    task: Task,
    groups: Sequence[tuple[MergeGroup, list[OutputRow]]],
    now: datetime,
) -> int:
    """One merge job per group; how many."""
    names = {se.id: se.name for se in sites.storage_elements(conn)}
    jobs = []
    for index, (group, rows) in enumerate(groups, start=task.next_index):
        class_id = _class_of(conn, keys, task, JobKind.MERGE, input_se=names[rows[0].se_id])
        spec = {
            "seed": splitting.seed_for(task.name, index),
            "events": group.events,
            "inputs": [_merge_input(row) for row in rows],
        }
        jobs.append(_job(keys, task, index, JobKind.MERGE, class_id, 0, spec))
    if not jobs or not tasks.advance(conn, task, len(jobs), 0):
        return 0
    store.insert(conn, jobs, now)
    for job, (_, rows) in zip(jobs, groups, strict=True):
        outputs.move(conn, rows, OutputEvent.BUNDLED, now, merge_job_id=job.id)
    return len(jobs)


def _merge_input(row: OutputRow) -> dict[str, Any]:
    return {
        "lfn": row.lfn,
        "bytes": row.bytes,
        "adler32": row.adler32,
        "events": row.events,
        "runs": dict(row.runs),
    }


def merges_left(conn: Connection, task: Task, counts: Sequence[JobCount]) -> bool:
    """Whether outputs still wait for a merge that may yet come or succeed."""
    if task.step.merge is None:
        return False
    waiting = outputs.unmerged(conn, task.id)
    failed = tasks.jobs_in([count for count in counts if count.kind == JobKind.MERGE], JobState.FAILED)
    return bool(waiting.get(OutputState.REGISTERED)) or (
        bool(waiting.get(OutputState.MERGING)) and not failed
    )
