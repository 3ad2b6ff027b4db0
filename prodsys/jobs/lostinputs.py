"""Lost inputs: jobs that list a file nobody shall read are held until it is well again.

Those that stand in a line are found when the file is said to be invalid; whatever returns to the queue later,
or is made of a block begun before, is looked at then.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Integer, Select, and_, bindparam, exists, or_, select

from catalogs import validity
from catalogs.states import InvalidCode
from catalogs.tables import block, data_file, dir_, invalid_file
from gridcore.db.idlists import within
from prodsys.job_states import TROUBLE, JobEvent, JobState
from prodsys.jobs import store
from prodsys.jobs.store import Move
from prodsys.tables import in_state, job, job_class, job_file, task, task_input

INPUT_LOST, INPUT_INVALID = "INPUT_LOST", "INPUT_INVALID"
#: What a job says that is held for its input, and the file it lists.
CODES = (INPUT_LOST, INPUT_INVALID)
_CODE_OF = {InvalidCode.LOST: INPUT_LOST, InvalidCode.INVALID: INPUT_INVALID}

_JOB = select(job.c.id, job.c.attempt).distinct().order_by(job.c.id).limit(bindparam("n", type_=Integer))
#: By the ledger, where each file is one job's.
LISTED = (
    _JOB.join_from(data_file, block, block.c.id == data_file.c.block_id)
    .join(task, task.c.input_dataset_id == block.c.dataset_id)
    .join(task_input, and_(task_input.c.task_id == task.c.id, task_input.c.file_id == data_file.c.id))
    .join(job, job.c.id == task_input.c.job_id)
    .where(within(data_file.c.id), in_state(job, JobState.READY, JobState.RETRY_WAIT))
)
BLOCKS_OF = (
    select(data_file.c.block_id, block.c.dataset_id)
    .join_from(data_file, block, block.c.id == data_file.c.block_id)
    .where(within(data_file.c.id))
    .distinct()
)
#: Where several jobs read a file: those in a line, and those that wait to be tried again, each by its index.
SHARED_READY = (
    _JOB.join_from(job_class, job, job.c.class_id == job_class.c.id)
    .join(job_file, job_file.c.job_id == job.c.id)
    .where(within(job_class.c.input_block_id, "blocks"), in_state(job, JobState.READY))
    .where(within(job_file.c.file_id))
)
SHARED_WAITING = (
    _JOB.join_from(task, job, job.c.task_id == task.c.id)
    .join(job_file, job_file.c.job_id == job.c.id)
    .where(within(task.c.input_dataset_id, "datasets"), in_state(job, *TROUBLE))
    .where(in_state(job, JobState.RETRY_WAIT), within(job_file.c.file_id))
)


def _named(listing: Any) -> Select[Any]:
    """The invalid files that jobs list."""
    return (
        select(listing.c.job_id, invalid_file.c.code, dir_.c.path, data_file.c.name)
        .join_from(listing, invalid_file, invalid_file.c.file_id == listing.c.file_id)
        .join(data_file, data_file.c.id == invalid_file.c.file_id)
        .join(dir_, dir_.c.id == data_file.c.dir_id)
        .where(within(listing.c.job_id))
        .order_by(listing.c.job_id, invalid_file.c.file_id)
    )


OWN = _named(task_input)
SHARED = _named(job_file)


def lists_invalid() -> ColumnElement[bool]:
    """A condition on jobs: one of their inputs is invalid."""
    found = [
        exists(1).where(one.c.job_id == job.c.id, invalid_file.c.file_id == one.c.file_id).correlate(job)
        for one in (task_input, job_file)
    ]
    return or_(*found)


def hold(conn: Connection, file_ids: Sequence[int], limit: int, now: datetime) -> int:
    """Hold at most `limit` waiting jobs that list these invalid files; how many.

    Once there are no more of them the files' jobs have been told.
    """
    blocks, datasets = (set(ids) for ids in _parts(conn, file_ids))
    binds = {"ids": list(file_ids), "blocks": sorted(blocks), "datasets": sorted(datasets), "n": limit}
    found: dict[int, int] = {}
    for statement in (LISTED, SHARED_READY, SHARED_WAITING):
        found |= {row.id: row.attempt for row in conn.execute(statement, binds)}
    some = sorted(found)[:limit]
    reasons = of_jobs(conn, some)
    moves = [held(one, found[one], *reasons[one]) for one in some if one in reasons]
    store.apply(conn, moves, now)
    if len(found) < limit:
        validity.told(conn, file_ids, now)
    return len(moves)


def _parts(conn: Connection, file_ids: Sequence[int]) -> tuple[Iterable[int], Iterable[int]]:
    rows = conn.execute(BLOCKS_OF, {"ids": list(file_ids)}).all()
    return [row.block_id for row in rows], [row.dataset_id for row in rows]


def held(job_id: int, attempt: int, code: str, params: Mapping[str, Any]) -> Move:
    """The move that holds a waiting job for its input."""
    return Move(
        job_id=job_id,
        attempt=attempt,
        event=JobEvent.HOLD,
        to=JobState.HELD,
        code=code,
        params=params,
        hold_kind="input",
    )


def of_jobs(conn: Connection, job_ids: Collection[int]) -> dict[int, tuple[str, dict[str, Any]]]:
    """{job: (code, params)} of those that list an invalid file: what is lost comes before what is wrong."""
    named: dict[int, dict[str, list[str]]] = {}
    for statement in (OWN, SHARED):
        for row in conn.execute(statement, {"ids": sorted(job_ids)}):
            lfns = named.setdefault(row.job_id, {}).setdefault(_CODE_OF[row.code], [])
            lfns.append(f"{row.path}/{row.name}")
    return {one: _reason(by_code) for one, by_code in named.items()}


def _reason(by_code: Mapping[str, Sequence[str]]) -> tuple[str, dict[str, Any]]:
    code = INPUT_LOST if INPUT_LOST in by_code else INPUT_INVALID
    return code, {"lfn": by_code[code][0], "files": len(by_code[code])}


def kept_back(conn: Connection, moves: Sequence[Move]) -> list[Move]:
    """The moves, but those that would return a job to the queue whose input is invalid hold it for that."""
    reasons = of_jobs(conn, [move.job_id for move in moves if move.to == JobState.READY])
    result: list[Move] = []
    for move in moves:
        reason = reasons.get(move.job_id) if move.to == JobState.READY else None
        if reason is None or move.event == JobEvent.RELEASE:  # a hold of one kind does not become another
            result.append(move)
        if reason is not None:
            result.append(held(move.job_id, move.attempt, *reason))
    return result


def sentence(code: str, params: Mapping[str, Any]) -> str:
    """Why a job is held for its input. Pure."""
    more = f", and {params['files'] - 1} more of its inputs" if params["files"] > 1 else ""
    what = "is lost: no good copy is left" if code == INPUT_LOST else "is invalid: nobody shall read it"
    return f"its input {params['lfn']}{more} {what}"
