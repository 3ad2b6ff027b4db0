"""Outputs: what attempts write. Planned at the claim with an LFN of their own, committed with their job."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, bindparam, delete, func, select, update

from gridcore.db.statements import insert_rows, run_many, select_in
from prodsys.states import OUTPUT, OutputEvent, OutputState
from prodsys.tables import output


class OutputKind(StrEnum):
    """Unmerged files are input of a merge; final ones are registered."""

    UNMERGED = "unmerged"
    FINAL = "final"


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputRow:
    """An output as rules see it; sizes are known once it is STAGED."""

    id: int
    job_id: int
    attempt: int
    task_id: int
    name: str
    kind: OutputKind
    lfn: str
    se_id: int
    state: OutputState
    bytes: int
    adler32: int
    events: int | None
    runs: Mapping[str, Any]
    merge_job_id: int | None
    updated_at: datetime


_ALL = select(output)
OF_JOBS = _ALL.where(output.c.job_id.in_(bindparam("ids", expanding=True))).order_by(output.c.id)
OF_MERGES = _ALL.where(output.c.merge_job_id.in_(bindparam("ids", expanding=True))).order_by(output.c.id)
TO_MERGE = (
    _ALL.where(output.c.task_id == bindparam("of_task"), output.c.state == OutputState.REGISTERED)
    .where(output.c.kind == OutputKind.UNMERGED)
    .order_by(output.c.id)
)
COUNT = (
    select(output.c.state, func.count())
    .where(output.c.task_id == bindparam("of_task"), output.c.kind == OutputKind.UNMERGED)
    .where(output.c.state.in_([OutputState.REGISTERED, OutputState.MERGING]))
    .group_by(output.c.state)
)
_THIS = output.c.id == bindparam("output_id")
STAGE = (
    update(output)
    .where(_THIS, output.c.state == OutputState.PLANNED)
    .values(
        state=OutputState.STAGED,
        bytes=bindparam("size"),
        adler32=bindparam("checksum"),
        events=bindparam("n_events"),
        runs=bindparam("run_ranges", type_=output.c.runs.type),
        updated_at=bindparam("at"),
    )
)
MOVE = (
    update(output)
    .where(_THIS, output.c.state == bindparam("frm", type_=output.c.state.type))
    .values(
        state=bindparam("dst", type_=output.c.state.type),
        merge_job_id=bindparam("bundle"),
        file_id=bindparam("as_file"),
        updated_at=bindparam("at"),
    )
)
FORGET = delete(output).where(
    output.c.job_id == bindparam("of_job"),
    output.c.attempt == bindparam("number"),
    output.c.state == OutputState.PLANNED,
)


def plan(conn: Connection, rows: Sequence[Mapping[str, Any]], now: datetime) -> None:
    """Give away LFNs: rows of id, job_id, attempt, task_id, name, kind, lfn, se_id."""
    planned = [{**row, "state": OutputState.PLANNED, "created_at": now, "updated_at": now} for row in rows]
    insert_rows(conn, output, planned)


def forget_all(conn: Connection, attempts: Iterable[tuple[int, int]]) -> None:
    """Take back the LFNs of attempts (job, number) that were never sent: nothing can lie there."""
    run_many(conn, FORGET, [{"of_job": job_id, "number": number} for job_id, number in attempts])


def of_jobs(conn: Connection, job_ids: Iterable[int]) -> list[OutputRow]:
    """All outputs of all attempts of these jobs."""
    return [_of_row(row) for row in select_in(conn, OF_JOBS, job_ids)]


def of_merges(conn: Connection, job_ids: Iterable[int]) -> list[OutputRow]:
    """The inputs of these merge jobs."""
    return [_of_row(row) for row in select_in(conn, OF_MERGES, job_ids)]


def to_merge(conn: Connection, task_id: int) -> list[OutputRow]:
    """The task's outputs that wait for a merge."""
    return [_of_row(row) for row in conn.execute(TO_MERGE, {"of_task": task_id})]


def unmerged(conn: Connection, task_id: int) -> dict[OutputState, int]:
    """How many of the task's outputs still have to become part of a merged file, by state."""
    return dict(tuple(row) for row in conn.execute(COUNT, {"of_task": task_id}))


def _of_row(row: Any) -> OutputRow:
    return OutputRow(
        id=row.id,
        job_id=row.job_id,
        attempt=row.attempt,
        task_id=row.task_id,
        name=row.name,
        kind=OutputKind(row.kind),
        lfn=row.lfn,
        se_id=row.se_id,
        state=row.state,
        bytes=row.bytes or 0,
        adler32=row.adler32 or 0,
        events=row.events,
        runs=row.runs or {},
        merge_job_id=row.merge_job_id,
        updated_at=row.updated_at,
    )


def stage(conn: Connection, pairs: Iterable[tuple[OutputRow, Mapping[str, Any]]], now: datetime) -> None:
    """Note what the worker's report says of each output."""
    rows = [
        {
            "output_id": one.id,
            "size": said["size"],
            "checksum": said["adler32"],
            "n_events": said["events"],
            "run_ranges": said["runs"],
            "at": now,
        }
        for one, said in pairs
    ]
    run_many(conn, STAGE, rows)


def move(
    conn: Connection,
    rows: Iterable[OutputRow],
    event: OutputEvent,
    now: datetime,
    *,
    merge_job_id: int | None = None,
    files: Mapping[int, int] | None = None,
) -> int:
    """Move outputs on an event with one target; how many were still where they were read.

    `merge_job_id` is the merge that takes them, `files` the registered file by output.
    """
    binds = [
        {
            "output_id": one.id,
            "frm": one.state,
            "dst": OUTPUT.next(one.state, event),
            "bundle": None if event == OutputEvent.RELEASED else merge_job_id or one.merge_job_id,
            "as_file": (files or {}).get(one.id),
            "at": now,
        }
        for one in rows
    ]
    return run_many(conn, MOVE, binds)
