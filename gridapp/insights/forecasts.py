"""When tasks will end: from their counters and the newest rows of history, whatever their size."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Integer, bindparam, func, select

from gridapp.insights.values import iso, some, span
from gridcore.db import dbnow
from prodsys.job_states import JobKind, JobState
from prodsys.requests import completion
from prodsys.requests.completion import Forecast
from prodsys.states import TaskState
from prodsys.tables import job, job_history

#: Of recent history: rows looked at, and how far back.
RECENT_ROWS, RECENT = 4000, timedelta(hours=1)
#: Tasks whose end can be told.
GOING = frozenset([TaskState.ACTIVE, TaskState.CLOSING])

_LATELY = (
    select(job_history.c.job_id, job_history.c.dst, job_history.c.at)
    .order_by(job_history.c.seq.desc())
    .limit(bindparam("n", type_=Integer))
    .subquery("lately")
)
#: Since when the newest rows of history tell what happened.
LATELY_FROM = select(func.min(_LATELY.c.at))
DONE_LATELY = (
    select(job.c.task_id, func.sum(job.c.units).label("units"))
    .join_from(_LATELY, job, job.c.id == _LATELY.c.job_id)
    .where(_LATELY.c.dst == JobState.DONE, job.c.kind == JobKind.PROCESS)
    .where(_LATELY.c.at >= bindparam("since", type_=job_history.c.at.type))
    .group_by(job.c.task_id)
)


def told(found: Forecast, files: int, unit: str, now: datetime, going: bool = True) -> str:
    """Where a task stands and, if it is going on, when it will end, in one sentence. Pure."""
    of = f"of {some(found.wanted, unit)}" if found.wanted is not None else f"{unit}s of a growing input"
    share = f" ({100 * found.done // found.wanted} %)" if found.wanted else ""
    text = f"{found.done} {of} done{share}, {some(files, 'file')} registered"
    if not going or (found.wanted is not None and found.done >= found.wanted):
        return text
    if found.pace is None:
        return f"{text}; nothing is done yet that would tell its pace"
    text += f"; {pace(found.pace, unit)}"
    if found.ends_at is None:
        return text
    return f"{text}: it ends in {span((found.ends_at - now).total_seconds())} if it goes on like this"


def pace(per_s: float, unit: str) -> str:
    """Units over the time in which at least one is done: `12 events/s`, `3.4 files/h`. Pure."""
    for seconds, name in ((1, "s"), (60, "min"), (3600, "h")):
        if per_s * seconds >= 1:
            return f"{per_s * seconds:.3g} {unit}s/{name}"
    return f"{per_s * 86_400:.3g} {unit}s/day"


def foretell(conn: Connection, rows: Sequence[Any], done: Sequence[int]) -> list[dict[str, Any]]:
    """Where tasks of these rows stand, with so many units done, and when they will end.

    {"done", "wanted", "files", "per_s", "ends_at", "left_s", "sentence"} each; `left_s` are the seconds until
    `ends_at`.
    """
    if not rows:
        return []
    now = dbnow(conn)
    since, lately = now - RECENT, {"n": RECENT_ROWS}
    since = max(since, conn.execute(LATELY_FROM, lately).scalar_one() or since)
    recent = {row.task_id: int(row.units) for row in conn.execute(DONE_LATELY, {**lately, "since": since})}
    return [
        _one(row, units, recent.get(row.id, 0), since, now) for row, units in zip(rows, done, strict=False)
    ]


def _one(row: Any, done: int, recent: int, since: datetime, now: datetime) -> dict[str, Any]:
    going = row.state in GOING
    found = completion.forecast(
        done,
        completion.wanted(row.units_total, row.units_wanted),
        recent if going else 0,
        (now - max(since, row.created_at)).total_seconds(),
        ((now if going else row.updated_at) - row.created_at).total_seconds(),
        now,
    )
    files = row.out_files or 0
    ends_at = found.ends_at if going else None
    return {
        "done": found.done,
        "wanted": found.wanted,
        "files": files,
        "per_s": found.pace,
        "ends_at": iso(ends_at),
        "left_s": None if ends_at is None else round((ends_at - now).total_seconds(), 1),
        "sentence": told(found, files, row.unit_kind.removesuffix("s"), now, going),
    }
