"""Attempt rows: opened by a claim, told of by the worker, closed once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, String, and_, bindparam, cast, delete, func, insert, select, update

from gridcore.db import bulk
from gridcore.db.bulk import Change
from gridcore.db.idlists import within
from gridcore.db.statements import run_many, select_in
from gridcore.ids import BatchKey
from prodsys.jobs.machine import JobState
from prodsys.tables import attempt, job

if TYPE_CHECKING:
    from prodsys.queueport import Admission

#: Longest error text kept, name of a host or batch job, nonce.
ERROR_MAX, HOST_MAX, NONCE_MAX = 1000, 200, 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """An attempt beside its job: `current` while the job has not gone on to another attempt."""

    job_id: int
    attempt: int
    key: str
    endpoint_id: int
    state: JobState
    current: bool
    intent_at: datetime | None
    batch_id: str | None
    nonce: str | None
    admitted_at: datetime | None
    ended_at: datetime | None
    error_class: str | None


_COLUMNS = (
    attempt.c.job_id,
    attempt.c.attempt,
    attempt.c.batch_key,
    attempt.c.endpoint_id,
    attempt.c.intent_at,
    attempt.c.batch_id,
    attempt.c.nonce,
    attempt.c.admitted_at,
    attempt.c.ended_at,
    attempt.c.error_class,
    job.c.state,
    job.c.attempt.label("current_attempt"),
)
#: The condition of the index of jobs by endpoint, word for word.
_LIVE = job.c.state.in_(
    bindparam(
        "live",
        [JobState.LEASED, JobState.SUBMITTED, JobState.RUNNING],
        type_=job.c.state.type,
        expanding=True,
        literal_execute=True,
    )
)
HELD = (
    select(*_COLUMNS)
    .join(job, and_(job.c.id == attempt.c.job_id, job.c.attempt == attempt.c.attempt))
    .where(job.c.endpoint_id == bindparam("at_endpoint"), _LIVE)
    .order_by(job.c.id)
)
BY_KEY = (
    select(*_COLUMNS)
    .join(job, job.c.id == attempt.c.job_id)
    .where(attempt.c.batch_key.in_(bindparam("ids", expanding=True)))
)
_THIS = and_(attempt.c.job_id == bindparam("of_job"), attempt.c.attempt == bindparam("number"))
#: The key is `gridcore.ids.BatchKey`, written out in SQL: no row goes through Python.
OPEN = insert(attempt).from_select(
    ["job_id", "attempt", "batch_key", "endpoint_id", "agent", "leased_at"],
    select(
        job.c.id,
        job.c.attempt,
        bindparam("prefix", type_=String)
        .concat(cast(job.c.id, String(20)))
        .concat(".")
        .concat(cast(job.c.attempt, String(20))),
        bindparam("at_endpoint", type_=job.c.endpoint_id.type),
        bindparam("by_agent", type_=attempt.c.agent.type),
        bindparam("at", type_=attempt.c.leased_at.type),
    )
    .where(within(job.c.id))
    .order_by(job.c.id),
)
REOPEN = update(attempt).where(_THIS).values(ended_at=None, error_class=None, error=None, penalty=0)
FORGET = delete(attempt).where(_THIS, attempt.c.intent_at.is_(None))
FAILURES = (
    select(attempt.c.job_id, func.count())
    .where(attempt.c.job_id.in_(bindparam("ids", expanding=True)), attempt.c.error_class == bindparam("kind"))
    .group_by(attempt.c.job_id)
)


def open_all(
    conn: Connection, job_ids: Sequence[int], instance: str, endpoint_id: int, agent: str, now: datetime
) -> None:
    """Open the current attempts of jobs that were just claimed, each with its batch key."""
    binds = {
        "ids": job_ids,
        "prefix": str(BatchKey(instance, 0, 0)).removesuffix("0.0"),
        "at_endpoint": endpoint_id,
        "by_agent": agent,
        "at": now,
    }
    if job_ids:
        conn.execute(OPEN, binds)


def held(conn: Connection, endpoint_id: int) -> list[Attempt]:
    """The live attempts of an endpoint."""
    return [_of_row(row) for row in conn.execute(HELD, {"at_endpoint": endpoint_id})]


def by_key(conn: Connection, keys: Iterable[str]) -> dict[str, Attempt]:
    """The attempts with these batch keys."""
    return {row.batch_key: _of_row(row) for row in select_in(conn, BY_KEY, keys)}


def _of_row(row: Any) -> Attempt:
    return Attempt(
        job_id=row.job_id,
        attempt=row.attempt,
        key=row.batch_key,
        endpoint_id=row.endpoint_id,
        state=row.state,
        current=row.attempt == row.current_attempt,
        intent_at=row.intent_at,
        batch_id=row.batch_id,
        nonce=row.nonce,
        admitted_at=row.admitted_at,
        ended_at=row.ended_at,
        error_class=row.error_class,
    )


def _plain(text: str | None, most: int) -> str | None:
    """A worker's words as every database takes them: without NUL and halves of characters, not too long."""
    if not text:
        return None
    return text.replace("\0", " ").encode("utf-8", "replace").decode("utf-8")[:most]


def _this(one: Attempt) -> dict[str, Any]:
    return {"of_job": one.job_id, "number": one.attempt}


def intend(conn: Connection, found: Iterable[Attempt], now: datetime) -> None:
    """From now on the batch system may know them."""
    rows = sorted(found, key=_key)
    _put(conn, rows, {"intent_at": [now] * len(rows)})


def record(conn: Connection, pairs: Iterable[tuple[Attempt, str]], now: datetime) -> None:
    """Note the batch ids."""
    rows = sorted(pairs, key=lambda pair: _key(pair[0]))
    put: dict[str, Sequence[Any]] = {
        "batch_id": [batch_id for _, batch_id in rows],
        "submitted_at": [now] * len(rows),
    }
    _put(conn, [one for one, _ in rows], put)


def _key(one: Attempt) -> tuple[int, int]:
    return one.job_id, one.attempt


def _put(conn: Connection, rows: Sequence[Attempt], put: Mapping[str, Sequence[Any]], only: str = "") -> None:
    """Write columns of attempts given in the order of their keys; `only` where that column is NULL."""
    keys = {"job_id": [one.job_id for one in rows], "attempt": [one.attempt for one in rows]}
    if rows:
        bulk.change(conn, [Change(attempt, keys, put=put, only=only)])


def admit_all(conn: Connection, told: Iterable[tuple[Attempt, Admission]], now: datetime) -> None:
    """The gate let workers start; those noted before stay as they are."""
    rows = sorted(told, key=lambda pair: _key(pair[0]))
    put: dict[str, Sequence[Any]] = {
        "nonce": [_plain(said.nonce, NONCE_MAX) for _, said in rows],
        "host": [_plain(said.host, HOST_MAX) for _, said in rows],
        "batch_id": [_plain(said.batch_id, HOST_MAX) or one.batch_id for one, said in rows],
        "admitted_at": [now] * len(rows),
    }
    _put(conn, [one for one, _ in rows], put, only="admitted_at")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How an attempt ended; no error class means well."""

    exit_code: int | None = None
    error_class: str | None = None
    error: str | None = None
    penalty: bool = False
    wall_s: float | None = None
    cpu_s: float | None = None
    report: Mapping[str, Any] | None = None


def close_all(conn: Connection, ended: Iterable[tuple[Attempt, Ending]], now: datetime) -> None:
    """Write the ends of attempts that have not ended."""
    rows = sorted(ended, key=lambda pair: _key(pair[0]))
    put: dict[str, Sequence[Any]] = {
        "ended_at": [now] * len(rows),
        "exit_code": [ending.exit_code for _, ending in rows],
        "error_class": [ending.error_class for _, ending in rows],
        "error": [_plain(ending.error, ERROR_MAX) for _, ending in rows],
        "penalty": [int(ending.penalty) for _, ending in rows],
        "wall_s": [ending.wall_s for _, ending in rows],
        "cpu_s": [ending.cpu_s for _, ending in rows],
        "report": [ending.report for _, ending in rows],
    }
    _put(conn, [one for one, _ in rows], put, only="ended_at")


def reopen_all(conn: Connection, lost: Iterable[Attempt]) -> None:
    """Lost attempts have been heard of after all, or good ones have failed after all."""
    run_many(conn, REOPEN, [_this(one) for one in lost])


def forget_all(conn: Connection, unsent: Iterable[Attempt]) -> None:
    """Remove attempts that never reached a batch system."""
    run_many(conn, FORGET, [_this(one) for one in unsent])


def failures(conn: Connection, job_ids: Iterable[int], error_class: str) -> dict[int, int]:
    """How many attempts of each job ended with this class."""
    return dict(tuple(row) for row in select_in(conn, FAILURES, job_ids, {"kind": error_class}))
