"""Attempt rows: opened by a claim, told of by the worker, closed once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import Connection, and_, bindparam, delete, func, select, update

from gridcore.db import bulk
from gridcore.db.bulk import Change, New, Same, Values
from gridcore.db.labels import plain
from gridcore.db.statements import run_many, select_in
from gridcore.ids import BatchKey
from prodsys.job_states import LIVE, JobState
from prodsys.tables import attempt, in_state, job

if TYPE_CHECKING:
    from prodsys.jobs.queueport import Admission

#: Longest error text kept, name of a host or batch job, nonce.
ERROR_MAX, HOST_MAX, NONCE_MAX = 1000, 200, 64


class Attempt(NamedTuple):
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
    .where(job.c.endpoint_id == bindparam("at_endpoint"), in_state(job, *LIVE))
    .order_by(job.c.id)
)
BY_KEY = (
    select(*_COLUMNS)
    .join(job, job.c.id == attempt.c.job_id)
    .where(attempt.c.batch_key.in_(bindparam("ids", expanding=True)))
)
_THIS = and_(attempt.c.job_id == bindparam("of_job"), attempt.c.attempt == bindparam("number"))
REOPEN = update(attempt).where(_THIS).values(ended_at=None, error_class=None, error=None, penalty=0)
FORGET = delete(attempt).where(_THIS, attempt.c.intent_at.is_(None))
FAILURES = (
    select(attempt.c.job_id, func.count())
    .where(attempt.c.job_id.in_(bindparam("ids", expanding=True)), attempt.c.error_class == bindparam("kind"))
    .group_by(attempt.c.job_id)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimant:
    """Who claims: for an endpoint of a site, in the name of an agent of an instance."""

    endpoint_id: int
    site_id: int
    agent: str
    instance: str


def opened(numbers: Mapping[int, int], by: Claimant, now: datetime) -> New:
    """The rows of attempts that a claim opens, by job, each with its batch key."""
    columns: dict[str, Values] = {
        "job_id": list(numbers),
        "attempt": list(numbers.values()),
        "batch_key": [str(BatchKey(by.instance, *one)) for one in numbers.items()],
        "endpoint_id": Same(by.endpoint_id),
        "agent": Same(by.agent),
        "leased_at": Same(now),
    }
    return New(attempt, columns)


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
    """A worker's words as every database takes them, not too long."""
    return plain(text, most) if text else None


def _this(one: Attempt) -> dict[str, Any]:
    return {"of_job": one.job_id, "number": one.attempt}


def intend(conn: Connection, found: Iterable[Attempt], now: datetime) -> None:
    """From now on the batch system may know them."""
    bulk.write(conn, _put(sorted(found, key=_key), {"intent_at": Same(now)}))


def record(conn: Connection, pairs: Iterable[tuple[Attempt, str]], now: datetime) -> None:
    """Note the batch ids."""
    rows = sorted(pairs, key=lambda pair: _key(pair[0]))
    put: dict[str, Values] = {
        "batch_id": [batch_id for _, batch_id in rows],
        "submitted_at": Same(now),
    }
    bulk.write(conn, _put([one for one, _ in rows], put))


_key = attrgetter("job_id", "attempt")


def _put(rows: Sequence[Attempt], put: Mapping[str, Values], only: str = "") -> list[Change]:
    """Columns of attempts in the order of their keys, their jobs being locked; `only` where that is NULL."""
    keys = {"job_id": [one.job_id for one in rows], "attempt": [one.attempt for one in rows]}
    return [Change(attempt, keys, put=put, only={only: None} if only else {})] if rows else []


def admit_all(conn: Connection, told: Iterable[tuple[Attempt, Admission]], now: datetime) -> None:
    """The gate let workers start; those noted before stay as they are."""
    rows = sorted(told, key=lambda pair: _key(pair[0]))
    put: dict[str, Values] = {
        "nonce": [_plain(said.nonce, NONCE_MAX) for _, said in rows],
        "host": [_plain(said.host, HOST_MAX) for _, said in rows],
        "batch_id": [_plain(said.batch_id, HOST_MAX) or one.batch_id for one, said in rows],
        "admitted_at": Same(now),
    }
    bulk.write(conn, _put([one for one, _ in rows], put, only="admitted_at"))


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
    bulk.write(conn, closed(ended, now))


def closed(ended: Iterable[tuple[Attempt, Ending]], now: datetime) -> list[Change]:
    """The same, to be written together with others."""
    rows = sorted(ended, key=lambda pair: _key(pair[0]))
    put: dict[str, Values] = {
        "ended_at": Same(now),
        "exit_code": [ending.exit_code for _, ending in rows],
        "error_class": [ending.error_class for _, ending in rows],
        "error": [_plain(ending.error, ERROR_MAX) for _, ending in rows],
        "penalty": [int(ending.penalty) for _, ending in rows],
        "wall_s": [ending.wall_s for _, ending in rows],
        "cpu_s": [ending.cpu_s for _, ending in rows],
        "report": [ending.report for _, ending in rows],
    }
    return _put([one for one, _ in rows], put, only="ended_at")


def reopen_all(conn: Connection, lost: Iterable[Attempt]) -> None:
    """Lost attempts have been heard of after all, or good ones have failed after all."""
    run_many(conn, REOPEN, [_this(one) for one in lost])


def forget_all(conn: Connection, unsent: Iterable[Attempt]) -> None:
    """Remove attempts that never reached a batch system."""
    run_many(conn, FORGET, [_this(one) for one in unsent])


def failures(conn: Connection, job_ids: Iterable[int], error_class: str) -> dict[int, int]:
    """How many attempts of each job ended with this class."""
    return dict(tuple(row) for row in select_in(conn, FAILURES, job_ids, {"kind": error_class}))
