"""Making jobs: the next slice of a task's units, as input appears, and merges of its small outputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, func, select

from catalogs import bookkeeping, sites
from catalogs.states import BlockState, DatasetState
from catalogs.tables import block
from gridcore.db.statements import insert_rows
from prodsys import classes, merging, outputs, splitting, tasks
from prodsys.brokerage import Requirements
from prodsys.classes import ClassSpec
from prodsys.jobs import store
from prodsys.jobs.machine import TERMINAL, JobKind, JobState
from prodsys.jobs.store import NewJob, rank_of
from prodsys.merging import MergeGroup, MergeInput, MergePolicy
from prodsys.outputs import OutputRow
from prodsys.splitting import InputFile
from prodsys.states import OutputEvent, OutputState
from prodsys.tables import task_block, task_input
from prodsys.tasks import JobCount, Task

#: The run number of generated events; their lumi is the job's index.
GENERATED_RUN = 1
#: Merges go before the work that makes more to merge.
MERGE_BONUS = 100

TAKEN = select(task_block.c.block_id).where(task_block.c.task_id == bindparam("of_task"))
UNTAKEN = (
    select(block.c.id)
    .where(block.c.dataset_id == bindparam("of_dataset"), block.c.state == BlockState.CLOSED)
    .where(block.c.id.not_in(TAKEN.scalar_subquery()))
    .order_by(block.c.id)
)
OPEN_BLOCKS = select(func.count()).where(
    block.c.dataset_id == bindparam("of_dataset"), block.c.state == BlockState.OPEN
)


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
    )


def _class_of(conn: Connection, keys: NewKeys, task: Task, kind: JobKind, **where: Any) -> int:
    task_type = f"{task.task_type}-merge" if kind == JobKind.MERGE else task.task_type
    spec = ClassSpec(
        task_type=task_type, leaf_id=task.leaf_id, requirements=requirements(task, kind), **where
    )
    return classes.put(conn, next(keys.classes), spec)


# --- events --------------------------------------------------------------------------------------------


def make_event_jobs(conn: Connection, keys: NewKeys, task: Task, room: int, now: datetime) -> int:
    """The next jobs of a task that generates, at most `room`; how many."""
    step = task.step
    total, per_job = task.units_total or 0, step.events_per_job or 1
    # Merges share the index sequence, so the unit is known by what was made, not by the index.
    units = splitting.event_units(total, per_job, first_index=task.units_made // per_job, limit=room)
    if not units:
        return 0
    class_id = _class_of(conn, keys, task, JobKind.PROCESS)
    jobs = []
    for index, unit in enumerate(units, start=task.next_index):
        spec = {
            "seed": splitting.seed_for(task.name, index),
            "first_event": unit.first,
            "events": unit.count,
            "run": GENERATED_RUN,
            "lumi": index,
        }
        jobs.append(_job(keys, task, index, JobKind.PROCESS, class_id, unit.count, spec))
    if not tasks.advance(conn, task, len(jobs), sum(unit.count for unit in units)):
        return 0
    store.insert(conn, jobs, now)
    return len(jobs)


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
        rank=rank_of(task.created_at, priority),
        units=units,
        spec=spec,
    )


# --- files ---------------------------------------------------------------------------------------------


def waiting_blocks(conn: Connection, task: Task) -> list[int]:
    """Closed blocks of the input that are not cut into jobs yet, oldest first."""
    binds = {"of_task": task.id, "of_dataset": task.input_dataset_id}
    return [row.id for row in conn.execute(UNTAKEN, binds)]


def make_file_jobs(conn: Connection, keys: NewKeys, task: Task, block_id: int, now: datetime) -> int:
    """The jobs of one input block; how many. A block is taken once."""
    files = bookkeeping.files_of_block(conn, block_id)
    runs = bookkeeping.runs_of(conn, [file.id for file in files])
    inputs = [InputFile(id=f.id, lfn=f.lfn, events=f.events, size=f.bytes, block_id=block_id) for f in files]
    by_id = {file.id: file for file in files}
    groups = splitting.file_units(inputs, task.step.files_per_job)
    class_id = _class_of(conn, keys, task, JobKind.PROCESS, input_block_id=block_id)
    jobs, ledger = [], []
    for index, group in enumerate(groups, start=task.next_index):
        spec = {
            "seed": splitting.seed_for(task.name, index),
            "run": None,
            "lumi": None,
            "inputs": [_input(by_id[one.id], runs.get(one.id, {})) for one in group],
        }
        job = _job(keys, task, index, JobKind.PROCESS, class_id, len(group), spec)
        jobs.append(job)
        ledger += [{"task_id": task.id, "file_id": one.id, "job_id": job.id} for one in group]
    if not tasks.advance(conn, task, len(jobs), len(files)):
        return 0
    store.insert(conn, jobs, now)
    insert_rows(conn, task_block, [{"task_id": task.id, "block_id": block_id}])
    insert_rows(conn, task_input, ledger)
    return len(jobs)


def _input(file: bookkeeping.FileRow, runs: Mapping[int, Sequence[tuple[int, int]]]) -> dict[str, Any]:
    return {
        "lfn": file.lfn,
        "bytes": file.bytes,
        "adler32": file.adler32,
        "events": file.events,
        "runs": {str(run): [list(pair) for pair in pairs] for run, pairs in runs.items()},
    }


def input_complete(conn: Connection, task: Task) -> bool:
    """Whether no file will come any more: the dataset is closed, and so are all of its blocks, all taken."""
    if task.input_dataset_id is None:
        return True
    source = bookkeeping.dataset_by_id(conn, task.input_dataset_id)
    if source.state != DatasetState.CLOSED:
        return False
    return not open_blocks(conn, task.input_dataset_id) and not waiting_blocks(conn, task)


def open_blocks(conn: Connection, dataset_id: int) -> int:
    """How many blocks of the dataset still grow."""
    return int(conn.execute(OPEN_BLOCKS, {"of_dataset": dataset_id}).scalar_one())


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
        MergeInput(id=row.id, size=row.bytes, events=row.events, created_at=row.updated_at, group=row.se_id)
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
