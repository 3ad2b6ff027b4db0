"""Requests with their tasks: what they wait for, whose turn it is, and where they run."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Integer, bindparam, func, select

from catalogs.tables import site
from gridapp.insights.tasks import TASKS_OF, move, views
from gridapp.insights.values import LIMIT, record, state_of
from gridcore.db.statements import select_in
from gridcore.errors import NotFound
from gridcore.tables import audit_log
from prodsys.requests import policies
from prodsys.states import RequestState
from prodsys.tables import prodagent, request_agent, request_history, request_site
from prodsys.tables import request as request_table
from prodsys.tables import task as task_table

REQUESTS = (
    select(request_table)
    .where(request_table.c.state.in_(bindparam("states", expanding=True)))
    .order_by(request_table.c.id.desc())
    .limit(bindparam("n", type_=Integer))
)
REQUEST_SITES = (
    select(site.c.name)
    .join(request_site, request_site.c.site_id == site.c.id)
    .where(request_site.c.request_id == bindparam("request_id"))
    .order_by(site.c.name)
)
REQUEST_AGENTS = (
    select(prodagent.c.name)
    .join(request_agent, request_agent.c.agent_id == prodagent.c.id)
    .where(request_agent.c.request_id == bindparam("request_id"))
    .order_by(prodagent.c.name)
)
REQUEST = select(request_table).where(request_table.c.id == bindparam("request_id"))
TASKS_OF_REQUESTS = (
    select(task_table.c.request_id, func.count().label("n"))
    .where(task_table.c.request_id.in_(bindparam("ids", expanding=True)))
    .group_by(task_table.c.request_id)
)
REQUEST_MOVES = (
    select(request_history)
    .where(request_history.c.request_id == bindparam("request_id"))
    .order_by(request_history.c.seq)
)
PAUSES = (
    select(audit_log.c.detail)
    .where(audit_log.c.subject == bindparam("subject"), audit_log.c.verb == "request pause")
    .order_by(audit_log.c.seq.desc())
    .limit(1)
)

#: The states in which a request stands still until somebody decides.
AWAITING = (RequestState.SUBMITTED, RequestState.APPROVED, RequestState.ASSIGNED, RequestState.PAUSED)
#: What a request in each state waits for or has come to, and whose turn it is.
REQUEST_SENTENCES = {
    RequestState.DRAFT: ("a draft, not handed in yet", "{requester}"),
    RequestState.SUBMITTED: ("waits for the approval of group {group}'s production role", "an approver"),
    RequestState.APPROVED: ("approved; where it runs is not decided", "an approver"),
    RequestState.ASSIGNED: ("assigned; its tasks are not made yet", "an approver"),
    RequestState.RUNNING: ("approved; its tasks run", "its tasks"),
    RequestState.PAUSED: (
        "paused by {decided_by}: no job is made or started, what runs goes on",
        "an operator",
    ),
    RequestState.REJECTED: ("turned down by {decided_by}", "nobody"),
    RequestState.COMPLETED: ("every task is completed", "nobody"),
    RequestState.INCOMPLETE: ("every task has ended, some without all of their units", "{requester}"),
    RequestState.CLOSED: ("closed by {decided_by}: nothing more can be asked of it", "nobody"),
    RequestState.ABORTED: ("ended by {decided_by}", "nobody"),
}


def requests(conn: Connection, limit: int = LIMIT, state: str | None = None) -> list[dict[str, Any]]:
    """Requests, newest first, all or those in one state, with the number of tasks. Raises UsageError."""
    rows = conn.execute(REQUESTS, {"n": limit, "states": state_of(RequestState, state)}).all()
    found = select_in(conn, TASKS_OF_REQUESTS, [row.id for row in rows])
    n_tasks = {row.request_id: row.n for row in found}
    return [_request(row, n_tasks.get(row.id, 0)) for row in rows]


def awaiting(conn: Connection, limit: int = LIMIT) -> list[dict[str, Any]]:
    """The newest requests that somebody has to do something about before they go on."""
    rows = conn.execute(REQUESTS, {"n": limit, "states": list(AWAITING)}).all()
    return [_request(row, 0) for row in rows]


def _request(row: Any, n_tasks: int) -> dict[str, Any]:
    view = {
        **record(
            row, "id", "name", "state", "requester", "priority", "decided_by", "created_at", "updated_at"
        ),
        "group": row.acct_group,
        "task_count": n_tasks,
    }
    reason, turn = REQUEST_SENTENCES[row.state]
    return {**view, "reason": reason.format(**view), "turn": turn.format(**view)}


def request(conn: Connection, request_id: int) -> dict[str, Any]:
    """One request with its document, history, `tasks` and where it runs. Raises NotFound.

    `assigned` is {"agents", "sites", "why"}, no site being every site.
    """
    row = conn.execute(REQUEST, {"request_id": request_id}).one_or_none()
    if row is None:
        raise NotFound(f"there is no request {request_id}", hint="see: tierflow request list")
    mine = views(conn, conn.execute(TASKS_OF, {"request_id": request_id}).all(), foretold=True)
    moves = conn.execute(REQUEST_MOVES, {"request_id": request_id})
    view = _request(row, len(mine))
    if row.state == RequestState.PAUSED and (said := _said(conn, request_id)):
        view["reason"] += f"; the reason given: {said}"
    return {
        **view,
        "assigned": _assigned(conn, row),
        "tasks": mine,
        "history": [move(one) for one in moves],
        "document": row.spec.get("document"),
    }


def _said(conn: Connection, request_id: int) -> str | None:
    """Why it was paused, in the words of who did."""
    detail = conn.execute(PAUSES, {"subject": f"request {request_id}"}).scalar()
    return (detail or {}).get("reason")


def _assigned(conn: Connection, row: Any) -> dict[str, Any]:
    of_request = {"request_id": row.id}
    return {
        "agents": list(conn.execute(REQUEST_AGENTS, of_request).scalars()),
        "sites": list(conn.execute(REQUEST_SITES, of_request).scalars()),
        "why": policies.sentence(row.code, row.params) if row.code else None,
    }
