"""Requests and tasks handed in, approved and rejected: the shell around prodsys.requests, for every face."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from sqlalchemy import Connection

from agents.runtime.agent import Context
from catalogs.bookkeeping import BlockPolicy
from gridapp.installation import Installation
from gridcore import identity
from gridcore.errors import Denied, UsageError
from gridcore.identity import Action, Principal, Subject
from gridcore.settings import Settings
from prodsys import requests, tasks, workflow
from prodsys.splitting import check_job_count, count_event_jobs
from prodsys.states import RequestState
from prodsys.workflow import Request

PRODUCTION = "production"
ANALYSIS = "analysis"


def submit_request(
    installation: Installation, context: Context, path: Path, actor: Principal, client_id: str | None = None
) -> dict[str, Any]:
    """Hand in the request in a TOML file: {"request", "name", "state", "tasks"}.

    It is approved at once where the actor may approve it, else it waits as SUBMITTED. The same client id and
    document once more change nothing. Raises UsageError, Denied, Conflict; then nothing was made.
    """
    _check_client(client_id)
    document, boxes = workflow.read(path)
    subject = Subject(owner=actor.name, group=document.group)
    identity.require(actor, Action.REQUEST_SUBMIT, subject)
    approving = identity.may(actor, Action.REQUEST_DECIDE, subject)
    task_type = PRODUCTION if approving else None
    with _named(path):
        return _hand_in(installation, context, document, boxes, actor, client_id, task_type=task_type)


def submit_task(
    installation: Installation, context: Context, path: Path, actor: Principal, client_id: str | None = None
) -> dict[str, Any]:
    """Hand in a physicist's task, a request of one step: {"request", "name", "state", "tasks"}.

    It needs no approval and writes only where its owner may. Raises UsageError, Denied, Conflict.
    """
    _check_client(client_id)
    document, boxes = workflow.read(path)
    if len(document.step) != 1:
        raise UsageError(
            f"{path}: step: a task has one step, this document has {len(document.step)}",
            hint="hand it in with: tierflow request submit",
        )
    identity.require(actor, Action.TASK_SUBMIT, Subject(owner=actor.name, group=document.group))
    with _named(path):
        return _hand_in(installation, context, document, boxes, actor, client_id, task_type=ANALYSIS)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """What the document names wrongly is told with its file."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{path}: {error.message}", hint=error.hint) from error


def _hand_in(
    installation: Installation,
    context: Context,
    document: Request,
    boxes: Mapping[str, bytes],
    actor: Principal,
    client_id: str | None,
    *,
    task_type: str | None,
) -> dict[str, Any]:
    """In one transaction; approved where a task type is given."""
    _check_sizes(installation.settings, document)
    if task_type:
        _check_area(actor, document)
    keys = requests.reserve(context.keys, document)
    now = context.clock.now()
    policy = _policy(installation.settings)
    client = uuid4().hex if client_id is None else client_id

    def unit(conn: Connection) -> dict[str, Any]:
        made = requests.submit(conn, keys, document, boxes, client_id=client, requester=actor.name, now=now)
        if task_type and requests.row_of(conn, made).state == RequestState.SUBMITTED:
            requests.approve(conn, keys, made, actor=actor.name, task_type=task_type, policy=policy, now=now)
        return _answer(conn, made)

    return installation.database.transaction(unit)


def _check_client(client_id: str | None) -> None:
    if client_id is not None and not re.fullmatch(r"[!-~]{1,64}", client_id):
        raise UsageError(
            f"{client_id!r} is no client id",
            hint="1 to 64 printable characters without blanks, such as a UUID",
        )


def approve(
    installation: Installation,
    context: Context,
    request_id: int,
    actor: Principal,
    assigned: Collection[str] = (),
) -> dict[str, Any]:
    """Approve a waiting request: {"request", "name", "state", "tasks"}. Raises NotFound, Denied, UsageError.

    Its jobs run at the assigned sites only; at any its steps allow where none are given.
    """
    document = _deciding(installation, request_id, actor)
    _check_area(actor, document)
    keys = requests.reserve(context.keys, document)
    policy, now = _policy(installation.settings), context.clock.now()
    return _decided(
        installation,
        request_id,
        lambda conn: requests.approve(
            conn,
            keys,
            request_id,
            actor=actor.name,
            task_type=PRODUCTION,
            policy=policy,
            now=now,
            assigned=assigned,
        ),
    )


def reject(installation: Installation, context: Context, request_id: int, actor: Principal) -> dict[str, Any]:
    """Turn down a waiting request: {"request", "name", "state", "tasks"}. Raises NotFound, Denied."""
    _deciding(installation, request_id, actor)
    now = context.clock.now()
    return _decided(
        installation,
        request_id,
        lambda conn: requests.reject(conn, request_id, actor=actor.name, now=now),
    )


def _deciding(installation: Installation, request_id: int, actor: Principal) -> Request:
    """The request's document, if the actor may decide on it."""
    with installation.database.snapshot() as conn:
        row = requests.row_of(conn, request_id)
    identity.require(actor, Action.REQUEST_DECIDE, Subject(owner=row.requester, group=row.acct_group))
    return Request.model_validate(row.spec["document"])


def _decided(
    installation: Installation, request_id: int, decide: Callable[[Connection], object]
) -> dict[str, Any]:
    def unit(conn: Connection) -> dict[str, Any]:
        decide(conn)
        return _answer(conn, request_id)

    return installation.database.transaction(unit)


def _answer(conn: Connection, request_id: int) -> dict[str, Any]:
    row = requests.row_of(conn, request_id)
    names = [task.name for task in tasks.of_request(conn, request_id)]
    return {"request": request_id, "name": row.name, "state": row.state, "tasks": names}


def _policy(settings: Settings) -> BlockPolicy:
    return BlockPolicy(files=settings.block.files, bytes=settings.block.bytes, age_s=settings.block.age_s)


def _check_sizes(settings: Settings, document: Request) -> None:
    """The number of jobs is known, and within bounds, before one is made."""
    for step in document.step:
        if step.events is not None:
            jobs = count_event_jobs(step.events, step.events_per_job or 1)
            check_job_count(jobs, settings.work.max_jobs_per_task)


def _check_area(actor: Principal, document: Request) -> None:
    """Whoever lets a request run answers for the area it writes to."""
    if not identity.may_write(actor, f"{document.lfn_area}/x"):
        areas = ", ".join(identity.writable_areas(actor))
        raise Denied(f"{actor.name} may not write below {document.lfn_area}", hint=f"lfn_area may be {areas}")
