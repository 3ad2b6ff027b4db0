"""The jobs that a selector means, as rows: counted, and gone through task by task in bounded pieces.

A job's priority is read from its rank, so what was shifted by hand counts; `age` is as of a fixed moment.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, cast

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    FromClause,
    Integer,
    Select,
    and_,
    bindparam,
    func,
    not_,
    or_,
    select,
    type_coerce,
)
from sqlalchemy import true as always

from catalogs.tables import site
from gridcore.db import globs
from gridcore.db.idlists import within
from gridcore.selectors import (
    NEGATED,
    ORDERED,
    All,
    Compare,
    Glob,
    Not,
    Op,
    Selector,
    fields_of,
    matches,
)
from prodsys.job_states import ACTIVE, JobState
from prodsys.jobs.store import POINT
from prodsys.tables import attempt, endpoint, job, job_class, request, task, task_count

#: Jobs one statement goes through, at most: their rows lie together.
SPAN = 20_000
#: More points than any job has.
POINTS_MAX = 10**9
#: Fields whose jobs the tasks' counters count.
COUNTED = frozenset(["task", "request", "request_name", "group", "user", "state", "kind"])
_OF_TASK = frozenset(["task", "request", "request_name", "group", "user", "priority"])

_LAST_ENDPOINT, _LAST_SITE = endpoint.alias("last_endpoint"), site.alias("last_site")

#: Points as microseconds of rank, rounded at half a point: ranks differ by the index within a task.
_POINTS = type_coerce(task.c.created_at, BigInteger) + job.c.idx - job.c.rank
_COLUMNS: dict[str, ColumnElement[Any]] = {
    "task": task.c.name,
    "index": type_coerce(job.c.idx, BigInteger),
    "request": task.c.request_id,
    "request_name": request.c.name,
    "group": task.c.acct_group,
    "user": task.c.requester,
    "state": job.c.state,
    "kind": job.c.kind,
    "type": job_class.c.task_type,
    "site": site.c.name,
    "last_site": _LAST_SITE.c.name,
    "attempt": type_coerce(job.c.attempt, BigInteger),
    "class": job.c.class_id,
    "code": job.c.code,
    "error": attempt.c.error_class,
    "held": job.c.hold_kind,
}
_MAY_LACK = frozenset(["request", "request_name", "site", "last_site", "code", "error", "held"])

COUNTERS = (
    select(
        task.c.id.label("task_id"),
        task.c.name.label("task"),
        task.c.request_id.label("request"),
        request.c.name.label("request_name"),
        task.c.acct_group.label("group_name"),
        task.c.requester.label("requester"),
        task_count.c.kind,
        task_count.c.state,
        task_count.c.jobs,
    )
    .join_from(task_count, task, task.c.id == task_count.c.task_id)
    .outerjoin(request, request.c.id == task.c.request_id)
    .where(task_count.c.jobs != 0)
    .order_by(task.c.id)
)
COUNTERS_OF = COUNTERS.where(task.c.name.in_(bindparam("names", expanding=True)))
BUSY = (
    select(job.c.task_id, job.c.state, job.c.kind, site.c.name.label("site"), func.count().label("jobs"))
    .join_from(job, endpoint, endpoint.c.id == job.c.endpoint_id)
    .join(site, site.c.id == endpoint.c.site_id)
    .where(job.c.state.in_(sorted(ACTIVE)))
    .group_by(job.c.task_id, job.c.state, job.c.kind, site.c.name)
)
LAST_ID = select(func.max(job.c.id))
TASKS = (
    select(
        *(task.c.id, task.c.name, task.c.requester, task.c.acct_group, task.c.state, task.c.next_index),
        task.c.request_id,
        request.c.state.label("request_state"),
    )
    .outerjoin_from(task, request, request.c.id == task.c.request_id)
    .where(within(task.c.id))
    .order_by(task.c.id)
)


@dataclass(frozen=True, slots=True)
class Count:
    """So many jobs of a task in a state, at a site where they are at one."""

    task_id: int
    state: JobState
    site: str | None
    jobs: int


# --- conditions ------------------------------------------------------------------------------------------


def condition(one: Selector | None, now: datetime) -> ColumnElement[bool]:
    """The selector in SQL, over the tables of `source`; never NULL, so that `not` means what it says."""
    if one is None:
        return always()
    if isinstance(one, Compare):
        return _compared(one, now)
    if isinstance(one, Not):
        return not_(condition(one.of, now))
    parts = [condition(part, now) for part in one.parts]
    return and_(*parts) if isinstance(one, All) else or_(*parts)


def _compared(one: Compare, now: datetime) -> ColumnElement[bool]:
    if one.field == "priority":
        return _either(one, [_points(one.op, value) for value in one.values])
    if one.field == "age":
        return _either(one, [_age(one.op, value, now) for value in one.values])
    column = _COLUMNS[one.field]
    if one.op in ORDERED:
        said = _OPERATORS[one.op](column, one.values[0])
    else:
        said = or_(*(_equal(column, value) for value in one.values))
    if one.field in _MAY_LACK:
        said = and_(column.is_not(None), said)
    return not_(said) if one.op in NEGATED else said


def _either(one: Compare, parts: Sequence[ColumnElement[bool]]) -> ColumnElement[bool]:
    return not_(or_(*parts)) if one.op in NEGATED else or_(*parts)


def _equal(column: ColumnElement[Any], value: Any) -> ColumnElement[bool]:
    if isinstance(value, Glob):
        return globs.like(column, value.pattern)
    return column.__eq__(value)


_OPERATORS: Mapping[Op, Callable[[ColumnElement[Any], Any], ColumnElement[bool]]] = {
    Op.LT: operator.lt,
    Op.LE: operator.le,
    Op.GT: operator.gt,
    Op.GE: operator.ge,
}


def _points(op: Op, value: Any) -> ColumnElement[bool]:
    points = max(-POINTS_MAX, min(value, POINTS_MAX))
    low, high = points * POINT - POINT // 2, points * POINT + POINT // 2
    if op not in ORDERED:
        return and_(operator.ge(_POINTS, low), operator.lt(_POINTS, high))
    edge = low if op in (Op.LT, Op.GE) else high
    side = operator.lt if op in (Op.LT, Op.LE) else operator.ge
    return cast(ColumnElement[bool], side(_POINTS, edge))


_MIRRORED = {Op.LT: Op.GT, Op.LE: Op.GE, Op.GT: Op.LT, Op.GE: Op.LE}


def _age(op: Op, seconds: Any, now: datetime) -> ColumnElement[bool]:
    """Older is moved earlier."""
    moment = now - timedelta(seconds=seconds)
    if op in ORDERED:
        return _OPERATORS[_MIRRORED[op]](job.c.updated_at, moment)
    return job.c.updated_at == moment


def source(fields: Iterable[str], *, with_site: bool = False) -> FromClause:
    """The job table with what these fields need."""
    asked = frozenset(fields) | (frozenset(["site"]) if with_site else frozenset())
    found: FromClause = job
    if asked & _OF_TASK:
        found = found.join(task, task.c.id == job.c.task_id)
    if "request_name" in asked:
        found = found.outerjoin(request, request.c.id == task.c.request_id)
    if "type" in asked:
        found = found.join(job_class, job_class.c.id == job.c.class_id)
    if "site" in asked:
        found = found.outerjoin(endpoint, endpoint.c.id == job.c.endpoint_id)
        found = found.outerjoin(site, site.c.id == endpoint.c.site_id)
    if asked & {"error", "last_site"}:
        of_last = and_(attempt.c.job_id == job.c.id, attempt.c.attempt == job.c.attempt)
        found = found.outerjoin(attempt, of_last)
    if "last_site" in asked:
        found = found.outerjoin(_LAST_ENDPOINT, _LAST_ENDPOINT.c.id == attempt.c.endpoint_id)
        found = found.outerjoin(_LAST_SITE, _LAST_SITE.c.id == _LAST_ENDPOINT.c.site_id)
    return found


# --- rows ------------------------------------------------------------------------------------------------


def counted(conn: Connection, where: Selector | None, names: Iterable[str] | None = None) -> list[Count]:
    """The jobs meant, by the tasks' counters and no job's row; `names` are the only tasks that count.

    For selectors of COUNTED fields; jobs that are leased or run are told apart by site.
    """
    statement, binds = (COUNTERS, {}) if names is None else (COUNTERS_OF, {"names": sorted(names)})
    rows = [row for row in conn.execute(statement, binds) if matches(where, _of_counter(row))]
    here = {(row.task_id, row.state, row.kind): row.jobs for row in rows}
    found = []
    if any(row.state in ACTIVE for row in rows):
        for busy in conn.execute(BUSY):
            key = (busy.task_id, busy.state, busy.kind)
            if key in here:
                here[key] -= busy.jobs
                found.append(Count(busy.task_id, busy.state, busy.site, busy.jobs))
    rest = [Count(task_id, state, None, n) for (task_id, state, _), n in here.items() if n > 0]
    return found + rest


def _of_counter(row: Any) -> dict[str, Any]:
    asked = ("task", "request", "request_name", "state", "kind")
    return {**{name: getattr(row, name) for name in asked}, "group": row.group_name, "user": row.requester}


class Walk:
    """A selector's statements, built once: jobs in these states, as of a moment."""

    def __init__(self, where: Selector | None, now: datetime, states: Iterable[JobState] = JobState) -> None:
        self._where = where
        self._now = now
        self._states = sorted(states)

    def count(self, conn: Connection, after: int, upto: int) -> list[Count]:
        """Those with keys in (after, upto]."""
        return _counts(conn, self._count_ids, {"after": after, "upto": upto})

    def count_of(self, conn: Connection, task_id: int, after: int, upto: int) -> list[Count]:
        """Those of a task with indices in (after, upto]."""
        return _counts(conn, self._count_task, {"of_task": task_id, "after": after, "upto": upto})

    def count_named(self, conn: Connection, task_id: int, indices: Sequence[int]) -> list[Count]:
        """Those of a task with these indices."""
        return _counts(conn, self._count_named, {"of_task": task_id, "indices": indices})

    def next(self, conn: Connection, task_id: int, after: int, upto: int, n: int) -> list[Any]:
        """(id, task_id, idx, kind, state, attempt) of the first `n` of a task in (after, upto]."""
        binds = {"of_task": task_id, "after": after, "upto": upto, "n": n}
        return list(conn.execute(self._next, binds))

    def named(self, conn: Connection, task_id: int, indices: Sequence[int]) -> list[Any]:
        """The same of those with these indices."""
        return list(conn.execute(self._named, {"of_task": task_id, "indices": indices}))

    def again(self, conn: Connection, rows: Iterable[Any]) -> list[Any]:
        """Those of these rows that are meant now, as they are now."""
        return list(conn.execute(self._again, {"ids": sorted(row.id for row in rows)}))

    @property
    def _meant(self) -> ColumnElement[bool]:
        return and_(job.c.state.in_(self._states), condition(self._where, self._now))

    @property
    def _rows(self) -> Select[Any]:
        columns = (job.c.id, job.c.task_id, job.c.idx, job.c.kind, job.c.state, job.c.attempt)
        return select(*columns).select_from(source(fields_of(self._where))).where(self._meant)

    @property
    def _tally(self) -> Select[Any]:
        groups = (job.c.task_id, job.c.state, site.c.name)
        tables = source(fields_of(self._where), with_site=True)
        return (
            select(*groups, func.count().label("jobs"))
            .select_from(tables)
            .where(self._meant)
            .group_by(*groups)
        )

    @cached_property
    def _next(self) -> Select[Any]:
        n = bindparam("n", type_=Integer)
        return self._rows.where(_THIS_TASK, _between(job.c.idx)).order_by(job.c.idx).limit(n)

    @cached_property
    def _named(self) -> Select[Any]:
        return self._rows.where(_THIS_TASK, within(job.c.idx, "indices")).order_by(job.c.idx)

    @cached_property
    def _again(self) -> Select[Any]:
        return self._rows.where(within(job.c.id)).order_by(job.c.id)

    @cached_property
    def _count_ids(self) -> Select[Any]:
        return self._tally.where(_between(job.c.id))

    @cached_property
    def _count_task(self) -> Select[Any]:
        return self._tally.where(_THIS_TASK, _between(job.c.idx))

    @cached_property
    def _count_named(self) -> Select[Any]:
        return self._tally.where(_THIS_TASK, within(job.c.idx, "indices"))


_THIS_TASK = job.c.task_id == bindparam("of_task")


def _between(column: ColumnElement[int]) -> ColumnElement[bool]:
    return and_(column > bindparam("after"), column <= bindparam("upto"))


def _counts(conn: Connection, statement: Select[Any], binds: dict[str, Any]) -> list[Count]:
    return [Count(*row) for row in conn.execute(statement, binds)]


def last_id(conn: Connection) -> int:
    """The largest key of a job; 0 without any."""
    return int(conn.execute(LAST_ID).scalar_one() or 0)


def tasks_of(conn: Connection, task_ids: Iterable[int]) -> list[Any]:
    """(id, name, requester, acct_group, state, next_index, request_id, request_state) of tasks, by key."""
    return list(conn.execute(TASKS, {"ids": sorted(set(task_ids))}))


def spans(end: int, after: int = 0) -> Iterator[tuple[int, int]]:
    """(after, upto] over all keys to the end, none wider than SPAN."""
    while after < end:
        upto = min(after + SPAN, end)
        yield after, upto
        after = upto
