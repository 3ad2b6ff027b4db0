"""Attempt rows: opened by a claim, told of by the worker, closed once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, and_, bindparam, delete, func, select, update

from gridcore.db.statements import insert_rows, run_many, select_in
from prodsys.jobs.machine import JobState
from prodsys.tables import attempt, job

#: Longest error text kept.
ERROR_MAX = 1000


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
HELD = (
    select(*_COLUMNS)
    .join(job, and_(job.c.id == attempt.c.job_id, job.c.attempt == attempt.c.attempt))
    .where(job.c.endpoint_id == bindparam("at_endpoint"))
    .where(job.c.state.in_([JobState.LEASED, JobState.SUBMITTED, JobState.RUNNING]))
    .order_by(job.c.id)
)
BY_KEY = (
    select(*_COLUMNS)
    .join(job, job.c.id == attempt.c.job_id)
    .where(attempt.c.batch_key.in_(bindparam("ids", expanding=True)))
)
_THIS = and_(attempt.c.job_id == bindparam("of_job"), attempt.c.attempt == bindparam("number"))
INTEND = update(attempt).where(_THIS).values(intent_at=bindparam("at"))
RECORD = update(attempt).where(_THIS).values(batch_id=bindparam("batch"), submitted_at=bindparam("at"))
ADMIT = (
    update(attempt)
    .where(_THIS, attempt.c.admitted_at.is_(None))
    .values(
        nonce=bindparam("by_nonce"),
        host=bindparam("on_host"),
        admitted_at=bindparam("at"),
        batch_id=bindparam("batch"),
    )
)
CLOSE = (
    update(attempt)
    .where(_THIS, attempt.c.ended_at.is_(None))
    .values(
        ended_at=bindparam("at"),
        exit_code=bindparam("code"),
        error_class=bindparam("kind"),
        error=bindparam("text"),
        penalty=bindparam("counts"),
        wall_s=bindparam("wall"),
        cpu_s=bindparam("cpu"),
        report=bindparam("document", type_=attempt.c.report.type),
    )
)
REOPEN = update(attempt).where(_THIS).values(ended_at=None, error_class=None, error=None, penalty=0)
FORGET = delete(attempt).where(_THIS, attempt.c.intent_at.is_(None))
FAILURES = (
    select(attempt.c.job_id, func.count())
    .where(attempt.c.job_id.in_(bindparam("ids", expanding=True)), attempt.c.error_class == bindparam("kind"))
    .group_by(attempt.c.job_id)
)


def open_all(conn: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert attempt rows: job_id, attempt, batch_key, endpoint_id, agent, leased_at."""
    insert_rows(conn, attempt, rows)


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


def _this(one: Attempt) -> dict[str, Any]:
    return {"of_job": one.job_id, "number": one.attempt}


def intend(conn: Connection, attempts: Iterable[Attempt], now: datetime) -> None:
    """From now on the batch system may know them."""
    run_many(conn, INTEND, [{**_this(one), "at": now} for one in attempts])


def record(conn: Connection, pairs: Iterable[tuple[Attempt, str]], now: datetime) -> None:
    """Note the batch ids."""
    run_many(conn, RECORD, [{**_this(one), "batch": batch_id, "at": now} for one, batch_id in pairs])


def admit(
    conn: Connection, one: Attempt, nonce: str, host: str | None, batch_id: str | None, now: datetime
) -> bool:
    """The gate let a worker start; False where one was noted before."""
    binds = {**_this(one), "by_nonce": nonce, "on_host": host, "batch": batch_id, "at": now}
    return conn.execute(ADMIT, binds).rowcount == 1


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


def close(conn: Connection, one: Attempt, ending: Ending, now: datetime) -> bool:
    """Write the end of an attempt; False where it had ended before."""
    binds = {
        **_this(one),
        "at": now,
        "code": ending.exit_code,
        "kind": ending.error_class,
        "text": (ending.error or "")[:ERROR_MAX] or None,
        "counts": int(ending.penalty),
        "wall": ending.wall_s,
        "cpu": ending.cpu_s,
        "document": ending.report,
    }
    return conn.execute(CLOSE, binds).rowcount == 1


def reopen(conn: Connection, one: Attempt) -> None:
    """A lost attempt has been heard of after all."""
    conn.execute(REOPEN, _this(one))


def forget(conn: Connection, one: Attempt) -> None:
    """Remove an attempt that never reached a batch system."""
    conn.execute(FORGET, _this(one))


def failures(conn: Connection, job_ids: Iterable[int], error_class: str) -> dict[int, int]:
    """How many attempts of each job ended with this class."""
    return dict(tuple(row) for row in select_in(conn, FAILURES, job_ids, {"kind": error_class}))
