"""Slices: the next jobs of a task, read from its input and the ledger; nothing is changed.

Where the last job of an input block stopped is written in that job's specification: after a crash the block
is cut on from there. A task has at most one block begun and not ended.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, func, select

from catalogs import bookkeeping, validity
from catalogs.bookkeeping import FileRow
from catalogs.states import BlockState, DatasetState
from catalogs.tables import block
from gridcore.errors import UsageError
from prodsys.job_states import JobKind
from prodsys.tables import job, job_spec, task_block, task_range
from prodsys.tasks import lumis, tasks
from prodsys.tasks.lumis import Lumis
from prodsys.tasks.tasks import Task
from prodsys.tasks.workflow import Splitting, Step
from prodsys.units import cutting, splitting
from prodsys.units.cutting import Piece
from prodsys.units.splitting import InputFile

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
LAST_MADE = (
    select(job_spec.c.spec)
    .join(job, job.c.id == job_spec.c.job_id)
    .where(job.c.task_id == bindparam("of_task"), job.c.kind == JobKind.PROCESS)
    .order_by(job.c.idx.desc())
    .limit(1)
)
OWNED = (
    select(task_range.c.first_lumi, task_range.c.last_lumi)
    .join(job, job.c.id == task_range.c.job_id)
    .where(task_range.c.task_id == bindparam("of_task"), task_range.c.run == bindparam("of_run"))
    .where(task_range.c.first_lumi <= bindparam("high"), task_range.c.last_lumi >= bindparam("low"))
    .where(job.c.idx < bindparam("before"))
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """The next pieces of a task that had made `units_made` units; of a block, those from number `part` on.

    `since` is the index of the block's first job, None where that is still to be made; `ends` says that
    nothing of the block is left after these. `without` are files that were invalid when it was begun: left
    out until it ends, so that the pieces keep their numbers.
    """

    units_made: int
    pieces: Sequence[Piece]
    files: Mapping[int, FileRow]
    block_id: int | None = None
    part: int = 0
    since: int | None = None
    ends: bool = True
    without: Sequence[int] = ()


def next_slice(conn: Connection, task: Task, room: int, most_jobs: int) -> Slice | None:
    """The next jobs of a task, at most `room`; None where there is nothing to make now.

    A slice without pieces ends a block that holds nothing for the task. Raises UsageError where the input
    cannot be cut, or would make more than `most_jobs` jobs of the task: then it waits for an operator.
    """
    if task.forced:
        return None
    if task.input_dataset_id is None:
        pieces = cutting.rest(cutting.generated(task.step, task.units_total or 0, task.units_made), 0, room)
        return Slice(units_made=task.units_made, pieces=pieces, files={}) if pieces else None
    waiting = waiting_blocks(conn, task)
    if not waiting:
        return None
    mark = _mark(conn, task)
    if mark is not None and mark["block"] in waiting:
        left_out = mark.get("without", ())
        return _block_slice(conn, task, mark["block"], mark["part"] + 1, mark["since"], room, left_out)
    left_out = sorted(validity.invalid_in(conn, waiting[0]))
    begun = _block_slice(conn, task, waiting[0], 0, None, most_jobs + 1, left_out)
    made = tasks.jobs_in([one for one in tasks.job_counts(conn, task.id) if one.kind == JobKind.PROCESS])
    if made + len(begun.pieces) > most_jobs:
        raise UsageError(
            f"{task.name} would have more than {most_jobs:,} jobs: {made:,} are made, and its next input"
            f" block makes at least {len(begun.pieces):,}",
            hint="kill it and hand it in with bigger jobs, or raise work.max_jobs_per_task",
        )
    first = begun.pieces[:room]
    return Slice(
        units_made=task.units_made,
        pieces=first,
        files=begun.files,
        block_id=waiting[0],
        ends=len(first) == len(begun.pieces),
        without=left_out,
    )


def _mark(conn: Connection, task: Task) -> Mapping[str, Any] | None:
    """Where the last job was cut from: {"block", "part", "since", "without" where files were left out}; None
    of a job by the first release."""
    spec = conn.execute(LAST_MADE, {"of_task": task.id}).scalar_one_or_none()
    return spec.get("cut") if spec else None


def _block_slice(
    conn: Connection,
    task: Task,
    block_id: int,
    part: int,
    since: int | None,
    room: int,
    without: Sequence[int],
) -> Slice:
    rows, files = _files(conn, block_id, without)
    before = task.next_index if since is None else since
    owned = _owned(conn, task, files, before) if task.unit_kind == "lumis" else None
    pieces = cutting.rest(cutting.of_block(task.step, files, owned), part, room + 1)
    return Slice(
        units_made=task.units_made,
        pieces=pieces[:room],
        files=rows,
        block_id=block_id,
        part=part,
        since=since,
        ends=len(pieces) <= room,
        without=without,
    )


def _files(
    conn: Connection, block_id: int, without: Collection[int]
) -> tuple[dict[int, FileRow], list[InputFile]]:
    rows = {row.id: row for row in bookkeeping.files_of_block(conn, block_id) if row.id not in without}
    runs = bookkeeping.runs_of(conn, rows)
    return rows, [_input_file(row, runs.get(row.id, {})) for row in rows.values()]


def _input_file(row: FileRow, runs: Mapping[int, Sequence[tuple[int, int]]]) -> InputFile:
    spans = tuple((run, first, last) for run, pairs in runs.items() for first, last in pairs)
    return InputFile(
        id=row.id, lfn=row.lfn, events=row.events, size=row.bytes, block_id=row.block_id, runs=spans
    )


def _owned(conn: Connection, task: Task, files: Sequence[InputFile], before: int) -> Lumis:
    """Those lumis of the files that jobs with an index below `before` answer for."""
    rows = []
    for run, ranges in lumis.normal(span for one in files for span in one.runs).items():
        binds = {
            "of_task": task.id,
            "of_run": run,
            "low": ranges[0][0],
            "high": ranges[-1][1],
            "before": before,
        }
        rows += [(run, first, last) for first, last in conn.execute(OWNED, binds)]
    return lumis.normal(rows)


# --- forecasts -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What the closed blocks of an input make: jobs, units, and jobs that would be held for an operator."""

    jobs: int = 0
    units: int = 0
    held: int = 0


def forecast(conn: Connection, step: Step, dataset_id: int, most_jobs: int) -> Forecast:
    """What a step would make of a dataset as it is now, before anything is made.

    Raises UsageError where its files cannot be cut so, where it makes more than `most_jobs` jobs, and where
    it makes none of a dataset that will not grow.
    """
    blocks = bookkeeping.closed_blocks(conn, dataset_id)
    if _counts_files(step):
        jobs = sum(-(-one.files // step.files_per_job) for one in blocks)
        told = Forecast(jobs=jobs, units=sum(one.files for one in blocks))
    else:
        told = _cut_all(conn, step, [one.id for one in blocks], most_jobs)
    grows = bookkeeping.dataset_by_id(conn, dataset_id).state == DatasetState.OPEN
    splitting.check_job_count(max(told.jobs, 1) if grows else told.jobs, most_jobs)
    return told


def _counts_files(step: Step) -> bool:
    """Whether the number of files in a block says how many jobs it makes."""
    selects = step.mask or step.runs or step.files or step.split_on_run
    return step.splitting == Splitting.FILES and not selects


def _cut_all(conn: Connection, step: Step, block_ids: Sequence[int], most_jobs: int) -> Forecast:
    told = Forecast()
    owned: Lumis = {}
    for block_id in block_ids:
        _, files = _files(conn, block_id, validity.invalid_in(conn, block_id))
        pieces = cutting.rest(cutting.of_block(step, files, owned), 0, most_jobs + 1)
        owned = lumis.united(owned, lumis.normal(span for one in pieces for span in one.ranges))
        told = Forecast(
            jobs=told.jobs + len(pieces),
            units=told.units + sum(one.units for one in pieces),
            held=told.held + sum(one.held is not None for one in pieces),
        )
        if told.jobs > most_jobs:
            raise UsageError(
                f"splitting gives more than {most_jobs:,} jobs, the most a task may have",
                hint="make each job bigger, or cut the request into several tasks",
            )
    return told


def obstacle(conn: Connection, task: Task, most_jobs: int) -> UsageError | None:
    """Why the task's next jobs cannot be made, with the cure; None where nothing is in the way."""
    try:
        next_slice(conn, task, 1, most_jobs)
    except UsageError as error:
        return error
    return None


# --- blocks --------------------------------------------------------------------------------------------


def waiting_blocks(conn: Connection, task: Task) -> list[int]:
    """Closed blocks of the input that are not wholly cut into jobs yet, oldest first."""
    binds = {"of_task": task.id, "of_dataset": task.input_dataset_id}
    return [row.id for row in conn.execute(UNTAKEN, binds)]


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
