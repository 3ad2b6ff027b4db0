"""Invariants of the work half: what never holds, as SQL that returns the keys that break it."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Select, and_, exists, func, or_, select

from catalogs.tables import data_file
from gridcore.db.invariants import Invariant
from prodsys import recount
from prodsys.job_states import JobKind, JobState
from prodsys.jobs.outputs import OutputKind
from prodsys.states import OutputState
from prodsys.tables import (
    attempt,
    job,
    job_file,
    job_history,
    job_spec,
    output,
    task,
    task_input,
    task_range,
)

_PROCESS_UNITS = (
    select(job.c.task_id.label("task_id"), func.sum(job.c.units).label("units"))
    .where(job.c.kind == JobKind.PROCESS)
    .group_by(job.c.task_id)
    .subquery("process_units")
)
_OWNED = (
    select(
        task_range.c.job_id.label("job_id"),
        func.sum(task_range.c.last_lumi - task_range.c.first_lumi + 1).label("lumis"),
    )
    .group_by(task_range.c.job_id)
    .subquery("owned_lumis")
)
_NEXT = select(
    task_range.c.job_id.label("job_id"),
    task_range.c.last_lumi.label("last_lumi"),
    func.lead(task_range.c.first_lumi)
    .over(partition_by=[task_range.c.task_id, task_range.c.run], order_by=task_range.c.first_lumi)
    .label("next_first"),
).subquery("ranges_in_order")
_COMMITTED = (OutputState.REGISTERED, OutputState.MERGING, OutputState.MERGED)


def _merge_sums() -> Select[Any]:
    """Done merges whose file has not the sum of its inputs' events, where these are all known."""
    inputs = (
        select(
            output.c.merge_job_id.label("job_id"),
            func.sum(output.c.events).label("events"),
            (func.count() - func.count(output.c.events)).label("unknown"),
        )
        .where(output.c.state == OutputState.MERGED)
        .group_by(output.c.merge_job_id)
        .subquery("merged_inputs")
    )
    return (
        select(output.c.job_id)
        .join(inputs, inputs.c.job_id == output.c.job_id)
        .where(output.c.state == OutputState.REGISTERED, inputs.c.unknown == 0)
        .where(output.c.events != inputs.c.events)
    )


def _history_lags() -> Select[Any]:
    """Jobs whose last history row does not name their state."""
    last = (
        select(job_history.c.job_id, func.max(job_history.c.seq).label("seq"))
        .group_by(job_history.c.job_id)
        .subquery("last_row")
    )
    return (
        select(job.c.id)
        .outerjoin_from(job, last, last.c.job_id == job.c.id)
        .outerjoin(job_history, job_history.c.seq == last.c.seq)
        .where(or_(job_history.c.dst.is_(None), job_history.c.dst != job.c.state))
    )


INVARIANTS: tuple[Invariant, ...] = (
    Invariant("job counters", "a task's counters equal the counts of its jobs", recount.TASKS),
    Invariant(
        "units conserved",
        "the units of a task's process jobs are those it has made",
        select(task.c.id)
        .outerjoin_from(task, _PROCESS_UNITS, _PROCESS_UNITS.c.task_id == task.c.id)
        .where(task.c.units_made != func.coalesce(_PROCESS_UNITS.c.units, 0)),
    ),
    Invariant(
        "units within total",
        "no task makes more units than it has",
        select(task.c.id).where(task.c.units_made > task.c.units_total),
    ),
    Invariant("ready counters", "a class counts its ready jobs", recount.CLASSES),
    Invariant("heads", "no ready job stands before the head its class remembers", recount.HEADS),
    Invariant("running cores", "a share leaf counts the cores of its active jobs", recount.LEAVES),
    Invariant(
        "one admitted start",
        "no attempt runs that has ended, and no running job lacks an admitted attempt",
        select(job.c.id)
        .outerjoin_from(job, attempt, and_(attempt.c.job_id == job.c.id, attempt.c.attempt == job.c.attempt))
        .where(job.c.state == JobState.RUNNING)
        .where(or_(attempt.c.admitted_at.is_(None), attempt.c.ended_at.is_not(None))),
    ),
    Invariant(
        "one committed effect",
        "no job has outputs of two attempts committed",
        select(output.c.job_id)
        .where(output.c.state.in_(_COMMITTED))
        .group_by(output.c.job_id, output.c.name)
        .having(func.count() > 1),
    ),
    Invariant(
        "done has output",
        "a DONE job's output is committed, and only a DONE job's",
        select(job.c.id)
        .outerjoin_from(job, output, and_(output.c.job_id == job.c.id, output.c.state.in_(_COMMITTED)))
        .where(
            or_(
                and_(job.c.state == JobState.DONE, output.c.id.is_(None)),
                and_(job.c.state != JobState.DONE, output.c.id.is_not(None)),
            )
        ),
    ),
    Invariant(
        "final outputs are files",
        "a committed final output is a registered file, and nothing else is",
        select(output.c.id).where(
            or_(
                and_(
                    output.c.kind == OutputKind.FINAL,
                    output.c.state == OutputState.REGISTERED,
                    output.c.file_id.is_(None),
                ),
                and_(
                    output.c.file_id.is_not(None),
                    or_(output.c.kind != OutputKind.FINAL, output.c.state != OutputState.REGISTERED),
                ),
            )
        ),
    ),
    Invariant(
        "output like its file",
        "a registered output has its file's size and checksum",
        select(output.c.id)
        .join(data_file, data_file.c.id == output.c.file_id)
        .where(or_(data_file.c.bytes != output.c.bytes, data_file.c.adler32 != output.c.adler32)),
    ),
    Invariant(
        "no file twice",
        "no file is the output of two jobs",
        select(output.c.file_id)
        .where(output.c.file_id.is_not(None))
        .group_by(output.c.file_id)
        .having(func.count() > 1),
    ),
    Invariant(
        "merged by a merge",
        "an output being merged names its merge",
        select(output.c.id).where(
            output.c.state.in_([OutputState.MERGING, OutputState.MERGED]), output.c.merge_job_id.is_(None)
        ),
    ),
    Invariant(
        "merge keeps events",
        "a merged file holds the events of its inputs",
        _merge_sums(),
    ),
    Invariant(
        "ledger of inputs",
        "a task's units of files are the rows of its ledger",
        select(task.c.id)
        .where(task.c.unit_kind == "files")
        .where(
            task.c.units_made
            != select(func.count())
            .select_from(task_input)
            .where(task_input.c.task_id == task.c.id)
            .scalar_subquery()
        ),
    ),
    Invariant(
        "job has a spec",
        "every job has its specification",
        select(job.c.id).where(~exists(1).where(job_spec.c.job_id == job.c.id).correlate(job)),
    ),
    Invariant(
        "ledger of lumis",
        "a job's units are the lumis it answers for, if it answers for any",
        select(job.c.id).join(_OWNED, _OWNED.c.job_id == job.c.id).where(job.c.units != _OWNED.c.lumis),
    ),
    Invariant(
        "lumis once",
        "no lumi belongs to two jobs of a task",
        select(_NEXT.c.job_id).where(_NEXT.c.last_lumi >= _NEXT.c.next_first),
    ),
    Invariant(
        "lumis lie in files",
        "a job of lumis reads at least one file",
        select(job.c.id)
        .join(task, task.c.id == job.c.task_id)
        .where(task.c.unit_kind == "lumis", job.c.kind == JobKind.PROCESS)
        .where(~exists(1).where(job_file.c.job_id == job.c.id).correlate(job)),
    ),
    Invariant(
        "wanted within total",
        "no task wants more units than it has",
        select(task.c.id).where(task.c.units_wanted > task.c.units_total),
    ),
    Invariant(
        "active by site",
        "a class counts its active jobs and their cores at each site",
        recount.USES,
    ),
    Invariant("history ends here", "a job's last history row names its state", _history_lags()),
)
