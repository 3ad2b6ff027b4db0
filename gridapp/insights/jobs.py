"""Jobs with their attempts, history and outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from typing import Any

from sqlalchemy import Connection, Integer, bindparam, select

from catalogs.tables import se, site
from gridapp.insights.tasks import TASK_NAMES
from gridapp.insights.values import LIMIT, not_found, plain, record, some, state_of
from gridcore.errors import NotFound
from gridcore.ids import job_name, parse_job_name
from gridcore.selectors import Selector, fields_of
from prodsys.control.selection import condition, source
from prodsys.job_states import JobState
from prodsys.jobs import lostinputs
from prodsys.settling import retries
from prodsys.tables import attempt, endpoint, job_class, job_history, job_spec, output, share_node, task
from prodsys.tables import job as job_table

_JOBS = (
    select(
        job_table,
        task.c.name.label("task_name"),
        task.c.state.label("task_state"),
        task.c.request_id,
        endpoint.c.name.label("endpoint"),
        site.c.name.label("site"),
    )
    .join_from(job_table, task, task.c.id == job_table.c.task_id)
    .outerjoin(endpoint, endpoint.c.id == job_table.c.endpoint_id)
    .outerjoin(site, site.c.id == endpoint.c.site_id)
)
_LISTED = _JOBS.where(job_table.c.state.in_(bindparam("states", expanding=True))).limit(
    bindparam("n", type_=Integer)
)
JOBS = _LISTED.order_by(job_table.c.id.desc())
JOBS_OF_TASK = _LISTED.where(job_table.c.task_id == bindparam("task_id")).order_by(job_table.c.idx)
JOB = (
    _JOBS.add_columns(job_spec.c.spec, share_node.c.path.label("share_path"), job_class.c.requirements)
    .join(job_class, job_class.c.id == job_table.c.class_id)
    .join(share_node, share_node.c.id == job_class.c.leaf_id)
    .outerjoin(job_spec, job_spec.c.job_id == job_table.c.id)
    .where(task.c.name == bindparam("task_name"), job_table.c.idx == bindparam("idx"))
)
TASK_ID = select(task.c.id, task.c.next_index).where(task.c.name == bindparam("name"))
ATTEMPTS = (
    select(attempt, endpoint.c.name.label("endpoint"), site.c.name.label("site"))
    .join_from(attempt, endpoint, endpoint.c.id == attempt.c.endpoint_id)
    .join(site, site.c.id == endpoint.c.site_id)
    .where(attempt.c.job_id == bindparam("job_id"))
    .order_by(attempt.c.attempt)
)
MOVES = select(job_history).where(job_history.c.job_id == bindparam("job_id")).order_by(job_history.c.seq)
OUTPUTS = (
    select(output, se.c.name.label("se"))
    .join_from(output, se, se.c.id == output.c.se_id)
    .where(output.c.job_id == bindparam("job_id"))
    .order_by(output.c.id)
)


#: Codes of what people order, as sentences.
_ORDERED = {"KILL": "killed", "HOLD": "held", "RELEASE": "released", "RETRY": "tried again as ordered"}


_TOLD: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    **{code: partial(lostinputs.sentence, code) for code in lostinputs.CODES},
    "LUMI_TOO_LONG": lambda p: (
        f"lumi {p['lumi']} of run {p['run']} holds about {p['events']} events, "
        f"more than max_events_per_job = {p['most']}"
    ),
    "MERGE_DIFFERS": lambda p: f"{p['error']}; its inputs were released {some(p['releases'], 'time')}",
}


def reason(code: str | None, params: Mapping[str, Any] | None) -> str | None:
    """A job's stored reason as a sentence with the error itself; None where nothing is stored. Pure."""
    if code is None:
        return None
    facts = params or {}
    if code in _ORDERED:
        order = f" (operation {facts['operation']})" if "operation" in facts else ""
        return f"{_ORDERED[code]} by {facts.get('by', 'an operator')}{order}"
    error = facts.get("error")
    if code in _TOLD:
        return _TOLD[code](facts)
    try:
        told = retries.reason(code, facts)
    except KeyError:  # a code with parameters of its own, such as LOST
        told = code.lower().replace("_", " ")
    return f"{error}; {told}" if error else told


def jobs(
    conn: Connection, task: str | None = None, state: str | None = None, limit: int = LIMIT
) -> list[dict[str, Any]]:
    """Jobs of one task by index, or of all, newest first. Raises NotFound, UsageError for a state."""
    binds: dict[str, Any] = {"states": state_of(JobState, state), "n": limit}
    if task is None:
        return [_job(row) for row in conn.execute(JOBS, binds)]
    binds["task_id"] = _task(conn, task).id
    return [_job(row) for row in conn.execute(JOBS_OF_TASK, binds)]


def jobs_where(
    conn: Connection, where: Selector | None, now: datetime, limit: int = LIMIT
) -> list[dict[str, Any]]:
    """The newest jobs that a selector means."""
    meant = select(job_table.c.id).select_from(source(fields_of(where))).where(condition(where, now))
    newest = meant.order_by(job_table.c.id.desc()).limit(limit).subquery()
    found = _JOBS.join(newest, newest.c.id == job_table.c.id).order_by(job_table.c.id.desc())
    return [_job(row) for row in conn.execute(found)]


def _task(conn: Connection, name: str) -> Any:
    found = conn.execute(TASK_ID, {"name": name}).one_or_none()
    if found is None:
        raise not_found("task", name, conn.execute(TASK_NAMES).scalars(), "tierflow task list")
    return found


def _job(row: Any) -> dict[str, Any]:
    return {
        "name": job_name(row.task_name, row.idx),
        "task": row.task_name,
        "index": row.idx,
        **record(row, "id", "kind", "state", "attempt", "units", "site", "endpoint", "due_at", "hold_kind"),
        "updated_at": plain(row.updated_at),
        "reason": reason(row.code, row.params),
    }


def job_row(conn: Connection, name: str) -> Any:
    """The row of a job or attempt by its name. Raises UsageError, NotFound."""
    task_name, index, _ = parse_job_name(name)
    row = None
    if index < 2**31:
        row = conn.execute(JOB, {"task_name": task_name, "idx": index}).one_or_none()
    if row is None:
        last = _task(conn, task_name).next_index - 1
        known = f"its jobs are {task_name}/1 to {task_name}/{last}" if last else "it has no job yet"
        raise NotFound(f"there is no job {name}", hint=known)
    return row


def job(conn: Connection, name: str) -> dict[str, Any]:
    """One job with its attempts, history and outputs. Raises UsageError, NotFound."""
    row = job_row(conn, name)
    binds = {"job_id": row.id}
    return {
        **_job(row),
        "share": row.share_path,
        "requirements": row.requirements,
        "spec": row.spec,
        "attempts": [attempt_view(one) for one in conn.execute(ATTEMPTS, binds)],
        "history": [_move(one) for one in conn.execute(MOVES, binds)],
        "outputs": [_output(one) for one in conn.execute(OUTPUTS, binds)],
    }


def attempts_of(conn: Connection, job_id: int) -> list[dict[str, Any]]:
    """The attempts of a job, first to last."""
    return [attempt_view(one) for one in conn.execute(ATTEMPTS, {"job_id": job_id})]


def attempt_view(row: Any) -> dict[str, Any]:
    """An attempt as the faces show it."""
    when = ("leased_at", "intent_at", "submitted_at", "admitted_at", "ended_at")
    return {
        **record(row, "attempt", "site", "endpoint", "host", "agent", "batch_key", "batch_id", *when),
        **record(row, "exit_code", "error_class", "error", "wall_s", "cpu_s"),
        "penalty": bool(row.penalty),
    }


def _move(row: Any) -> dict[str, Any]:
    return {
        "at": plain(row.at),
        "attempt": row.attempt,
        "from": plain(row.frm),
        "to": row.dst.value,
        "code": row.code,
    }


def _output(row: Any) -> dict[str, Any]:
    return {
        **record(row, "name", "kind", "lfn", "se", "state", "attempt", "bytes", "events"),
        "adler32": None if row.adler32 is None else f"{row.adler32:08x}",
    }
