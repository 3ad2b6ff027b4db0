"""Drafts: requests that are not handed in yet. Written anew, handed in, taken back."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import Connection, bindparam, update

from gridcore.errors import Conflict
from prodsys.requests import requests
from prodsys.states import RequestEvent, RequestState
from prodsys.tables import request
from prodsys.tasks.workflow import Request

REWRITE = (
    update(request)
    .where(request.c.id == bindparam("request_id"))
    .values(
        digest=bindparam("new_digest"),
        name=bindparam("new_name"),
        spec=bindparam("new_spec", type_=request.c.spec.type),
        acct_group=bindparam("new_group"),
        priority=bindparam("new_priority"),
        updated_at=bindparam("at", type_=request.c.updated_at.type),
    )
)


def edit(
    conn: Connection, request_id: int, document: Request, boxes: Mapping[str, bytes], now: datetime
) -> None:
    """Let a draft say something else. Raises NotFound, UsageError, Conflict for one that is handed in."""
    row = requests.lock(conn, request_id)
    if row.state != RequestState.DRAFT:
        raise Conflict(
            f"request {request_id} is {row.state.lower()}: only a draft is edited",
            hint=f"take it back while it waits for approval: tierflow request withdraw {request_id}",
        )
    binds = {
        "request_id": request_id,
        "new_digest": requests.digest(document),
        "new_name": document.name,
        "new_spec": requests.spec(conn, document, boxes, row.requester, now),
        "new_group": document.group,
        "new_priority": document.priority,
        "at": now,
    }
    conn.execute(REWRITE, binds)


def hand_in(conn: Connection, request_id: int, *, actor: str, now: datetime) -> None:
    """Submit a draft. What it names is looked up again. Raises NotFound, InvalidTransition, UsageError."""
    row = requests.lock(conn, request_id)
    requests.move(conn, row, RequestEvent.SUBMIT, RequestState.SUBMITTED, now, actor)
    requests.check(conn, Request.model_validate(row.spec["document"]))


def withdraw(conn: Connection, request_id: int, *, actor: str, now: datetime) -> None:
    """Take a waiting request back: a draft again. Raises NotFound, InvalidTransition."""
    row = requests.lock(conn, request_id)
    requests.move(conn, row, RequestEvent.WITHDRAW, RequestState.DRAFT, now, actor)
