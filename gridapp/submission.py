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
from catalogs import bookkeeping
from catalogs.bookkeeping import BlockPolicy
from gridapp.insights import nowhere
from gridapp.installation import Installation
from gridcore import identity
from gridcore.errors import Denied, UsageError
from gridcore.identity import Action, Principal, Subject
from gridcore.settings import Settings
from prodsys.requests import drafts, requests
from prodsys.states import RequestState
from prodsys.tasks import tasks, workflow_files
from prodsys.tasks.workflow import Request, Step
from prodsys.units import cutting, slicing
from prodsys.units.splitting import check_job_count

PRODUCTION = "production"
ANALYSIS = "analysis"


def submit_request(
    installation: Installation,
    context: Context,
    path: Path,
    actor: Principal,
    client_id: str | None = None,
    *,
    draft: bool = False,
) -> dict[str, Any]:
    """Hand in the request in a TOML file: {"request", "name", "state", "tasks"}; also {"held": {step: jobs}}
    where lumis have more events than a job may have: their jobs will wait for an operator.

    It is approved at once where the actor may approve it, else it waits as SUBMITTED; a draft waits for its
    owner. The same client id and document once more change nothing. Raises UsageError, Denied, Conflict; then
    nothing was made.
    """
    _check_client(client_id)
    document, boxes = workflow_files.read(path)
    subject = Subject(owner=actor.name, group=document.group)
    identity.require(actor, Action.REQUEST_SUBMIT, subject)
    approving = identity.may(actor, Action.REQUEST_DECIDE, subject)
    task_type = PRODUCTION if approving and not draft else None
    with _named(path):
        return _hand_in(
            installation, context, document, boxes, actor, client_id, task_type=task_type, draft=draft
        )


def submit_task(
    installation: Installation, context: Context, path: Path, actor: Principal, client_id: str | None = None
) -> dict[str, Any]:
    """Hand in a physicist's task, a request of one step: {"request", "name", "state", "tasks"}.

    It needs no approval and writes only where its owner may. Raises UsageError, Denied, Conflict.
    """
    _check_client(client_id)
    document, boxes = workflow_files.read(path)
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
    draft: bool = False,
) -> dict[str, Any]:
    """In one transaction; approved where a task type is given. `held` are the jobs by step, if any, that an
    operator will have to release."""
    held = _check_sizes(installation, document)
    with installation.database.snapshot() as conn:
        nowhere.check(conn, document.step)
    if task_type:
        _check_area(actor, document)
    keys = requests.reserve(context.keys, document)
    now = context.clock.now()
    policy = _policy(installation.settings)
    client = uuid4().hex if client_id is None else client_id

    def unit(conn: Connection) -> dict[str, Any]:
        made = requests.submit(
            conn, keys, document, boxes, client_id=client, requester=actor.name, now=now, draft=draft
        )
        if task_type and requests.row_of(conn, made).state == RequestState.SUBMITTED:
            requests.approve(conn, keys, made, actor=actor.name, task_type=task_type, policy=policy, now=now)
            _check_places(conn, made)
        return _answer(conn, made)

    answer = installation.database.transaction(unit)
    return {**answer, "held": held} if held else answer


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

    Its jobs run where the policies say, at the assigned sites only where some are given.
    """
    row = _deciding(installation, request_id, actor)
    document = Request.model_validate(row.spec["document"])
    _check_area(actor, document)
    keys = requests.reserve(context.keys, document)
    policy, now = _policy(installation.settings), context.clock.now()

    def decide(conn: Connection) -> None:
        requests.approve(
            conn,
            keys,
            request_id,
            actor=actor.name,
            task_type=PRODUCTION,
            policy=policy,
            now=now,
            assigned=assigned,
            seen=row.digest,
        )
        if row.state == RequestState.SUBMITTED:
            _check_places(conn, request_id)

    return _decided(installation, request_id, decide)


def _check_places(conn: Connection, request_id: int) -> None:
    """Some site that was chosen can run each step: what a policy or an operator left it may be too little.

    Raises UsageError, in the transaction that chose.
    """
    nowhere.check(conn, [task.step for task in tasks.of_request(conn, request_id)])


def edit(
    installation: Installation, context: Context, request_id: int, path: Path, actor: Principal
) -> dict[str, Any]:
    """Let a draft say what a TOML file says: {"request", "name", "state", "tasks"}.

    Raises NotFound, Denied, UsageError, Conflict for one that is handed in; then nothing was changed.
    """
    row = _controlled(installation, request_id, actor)
    document, boxes = workflow_files.read(path)
    identity.require(actor, Action.REQUEST_SUBMIT, Subject(owner=row.requester, group=document.group))
    now = context.clock.now()
    with _named(path):
        _check_sizes(installation, document)
        return _decided(
            installation, request_id, lambda conn: drafts.edit(conn, request_id, document, boxes, now)
        )


def hand_in(
    installation: Installation, context: Context, request_id: int, actor: Principal
) -> dict[str, Any]:
    """Submit a draft: {"request", "name", "state", "tasks"}; approved at once where the actor may approve it.

    Raises NotFound, Denied, InvalidTransition, UsageError for names that are gone.
    """
    row = _controlled(installation, request_id, actor)
    now = context.clock.now()
    told = _decided(
        installation,
        request_id,
        lambda conn: drafts.hand_in(conn, request_id, actor=actor.name, now=now),
    )
    subject = Subject(owner=row.requester, group=row.acct_group)
    if identity.may(actor, Action.REQUEST_DECIDE, subject):
        return approve(installation, context, request_id, actor)
    return told


def withdraw(
    installation: Installation, context: Context, request_id: int, actor: Principal
) -> dict[str, Any]:
    """Take a waiting request back: {"request", "name", "state", "tasks"}, a draft again.

    Raises NotFound, Denied, InvalidTransition.
    """
    _controlled(installation, request_id, actor)
    now = context.clock.now()
    return _decided(
        installation,
        request_id,
        lambda conn: drafts.withdraw(conn, request_id, actor=actor.name, now=now),
    )


def _controlled(installation: Installation, request_id: int, actor: Principal) -> Any:
    """The request's row, if it is the actor's to hand in."""
    with installation.database.snapshot() as conn:
        row = requests.row_of(conn, request_id)
    identity.require(actor, Action.TASK_CONTROL, Subject(owner=row.requester, group=row.acct_group))
    return row


def reject(installation: Installation, context: Context, request_id: int, actor: Principal) -> dict[str, Any]:
    """Turn down a waiting request: {"request", "name", "state", "tasks"}. Raises NotFound, Denied."""
    _deciding(installation, request_id, actor)
    now = context.clock.now()
    return _decided(
        installation,
        request_id,
        lambda conn: requests.reject(conn, request_id, actor=actor.name, now=now),
    )


def _deciding(installation: Installation, request_id: int, actor: Principal) -> Any:
    """The request's row, if the actor may decide on it."""
    with installation.database.snapshot() as conn:
        row = requests.row_of(conn, request_id)
    identity.require(actor, Action.REQUEST_DECIDE, Subject(owner=row.requester, group=row.acct_group))
    return row


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


def _check_sizes(installation: Installation, document: Request) -> dict[str, int]:
    """The number of jobs is known, and within bounds, before one is made; by step how many of them have more
    events than a job may have. Raises UsageError with the step."""
    cap = installation.settings.work.max_jobs_per_task
    held = {}
    with installation.database.snapshot() as conn:
        for step in document.step:
            try:
                held[step.name] = _check_size(conn, document, step, cap)
            except UsageError as error:
                raise UsageError(f"step {step.name!r}: {error.message}", hint=error.hint) from None
    return {name: jobs for name, jobs in held.items() if jobs}


def _check_size(conn: Connection, document: Request, step: Step, cap: int) -> int:
    source = document.input_of(step)
    if source is None:
        check_job_count(cutting.count_generated(step), cap)
        return 0
    found = bookkeeping.dataset_by_name(conn, source)
    if found is None:  # it is made by an earlier step, or missed when names are looked up
        return 0
    return slicing.forecast(conn, step, found.id, cap).held


def _check_area(actor: Principal, document: Request) -> None:
    """Whoever lets a request run answers for the area it writes to."""
    if not identity.may_write(actor, f"{document.lfn_area}/x"):
        areas = ", ".join(identity.writable_areas(actor))
        raise Denied(f"{actor.name} may not write below {document.lfn_area}", hint=f"lfn_area may be {areas}")
