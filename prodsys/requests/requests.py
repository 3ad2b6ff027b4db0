"""Requests: what a group asks for. Handed in, approved into tasks, and ended when these have."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, select, update

from catalogs import bookkeeping, sites, wishes
from catalogs.bookkeeping import BlockPolicy
from catalogs.states import WishKind
from gridcore.db.keys import Keys
from gridcore.db.statements import insert_new, insert_rows, lock_rows
from gridcore.errors import Conflict, InvalidTransition, NotFound, UsageError
from gridcore.ids import output_lfn, task_name
from prodsys import sandbox as sandboxes
from prodsys.jobs.jobdocument import UNMERGED
from prodsys.requests import placements
from prodsys.shares import shares
from prodsys.states import REQUEST, RequestEvent, RequestState
from prodsys.tables import request, request_history, sandbox
from prodsys.tasks import tasks
from prodsys.tasks.tasks import NewTask
from prodsys.tasks.workflow import Request, Step

BY_ID = select(request).where(request.c.id == bindparam("request_id"))
BY_CLIENT = select(request.c.id, request.c.digest).where(request.c.client_id == bindparam("client"))
IN_STATE = (
    select(request.c.id)
    .where(request.c.state == bindparam("of_state", type_=request.c.state.type))
    .order_by(request.c.id)
)
SET_PRIORITY = (
    update(request)
    .where(request.c.id == bindparam("request_id"))
    .values(priority=bindparam("new_priority"), updated_at=bindparam("at", type_=request.c.updated_at.type))
)
SET_GROUP = (
    update(request)
    .where(request.c.id == bindparam("request_id"))
    .values(acct_group=bindparam("new_group"), updated_at=bindparam("at", type_=request.c.updated_at.type))
)
SET_STATE = (
    update(request)
    .where(request.c.id == bindparam("request_id"))
    .where(request.c.state == bindparam("frm", type_=request.c.state.type))
    .values(
        state=bindparam("dst", type_=request.c.state.type),
        decided_by=bindparam("by"),
        updated_at=bindparam("at", type_=request.c.updated_at.type),
    )
)
KNOWN_SANDBOX = select(sandbox.c.digest).where(sandbox.c.digest == bindparam("of_digest"))


@dataclass(frozen=True, slots=True)
class RequestKeys:
    """Fresh keys for one request, taken before its transaction."""

    request: int
    tasks: range
    datasets: range
    leaf: int
    wishes: range


def reserve(keys: Keys, document: Request) -> RequestKeys:
    """Keys enough to hand in and approve the request."""
    deliveries = sum(len(step.deliver) for step in document.step)
    return RequestKeys(
        request=keys.one("request"),
        tasks=keys.take("task", len(document.step)),
        datasets=keys.take("dataset", len(document.step)),
        leaf=keys.one("share_node"),
        wishes=keys.take("wish", deliveries),
    )


def digest(document: Request) -> str:
    """Of the document's content: the same request id with another content is refused."""
    text = json.dumps(document.model_dump(mode="json"), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def check(conn: Connection, document: Request) -> None:
    """Whether all the request names exist. Raises UsageError naming the step and the cure."""
    known_sites = {site.name for site in sites.sites(conn)}
    known_ses = {se.name for se in sites.storage_elements(conn)}
    if shares.unknown_groups(conn, [document.group]):
        raise UsageError(
            f"group: {document.group!r} has no share of the grid", hint="see: tierflow share show"
        )
    made = {step.output.dataset for step in document.step}
    for step in document.step:
        where = f"step {step.name!r}"
        _known(f"{where}: sites", "site", [*(step.sites or []), *step.sites_excluded], known_sites)
        _known(f"{where}: deliver", "storage element", [one.se for one in step.deliver], known_ses)
        if bookkeeping.dataset_by_name(conn, step.output.dataset):
            raise UsageError(
                f"{where}: output: the dataset {step.output.dataset} exists",
                hint="give the output another name",
            )
        source = document.input_of(step)
        if source and source not in made and not bookkeeping.dataset_by_name(conn, source):
            raise UsageError(
                f"{where}: input: there is no dataset {source}", hint="see: tierflow dataset list"
            )


def _check_names(document: Request, requester: str, now: datetime) -> None:
    """Whether every LFN its jobs will ever write is short enough: found later, it would stop the queue."""
    area = UNMERGED + document.lfn_area.removeprefix("/store")
    for step in document.step:
        task = task_name(now, requester, f"{document.name}-{step.name}", repeat=999)
        stem, _, extension = step.output.name.rpartition(".")
        try:
            output_lfn(area + step.output.dataset, task, 10**9, 999, stem, extension)
        except UsageError as error:
            raise UsageError(
                f"step {step.name!r}: its output would get an {error.message}",
                hint=f"{error.hint}: shorten lfn_area or the name of the request, step, dataset or output",
            ) from None


def _known(where: str, what: str, names: Iterable[str], known: set[str]) -> None:
    for name in names:
        if name not in known:
            raise UsageError(
                f"{where}: there is no {what} {name!r}",
                hint=f"there are: {', '.join(sorted(known)) or 'none'}",
            )


def submit(
    conn: Connection,
    keys: RequestKeys,
    document: Request,
    boxes: Mapping[str, bytes],
    *,
    client_id: str,
    requester: str,
    now: datetime,
    draft: bool = False,
) -> int:
    """Hand in a request, or keep it as a draft; its key. A repeat with the same client id and document gives
    the same key.

    Raises Conflict for the same client id with another document, UsageError for names that do not exist.
    """
    content = digest(document)
    known = conn.execute(BY_CLIENT, {"client": client_id}).one_or_none()
    if known is not None:
        if known.digest != content:
            raise Conflict(f"the request id {client_id} was used for another request", hint="take a new id")
        return int(known.id)
    state = RequestState.DRAFT if draft else RequestState.SUBMITTED
    row = {
        "id": keys.request,
        "client_id": client_id,
        "digest": content,
        "name": document.name,
        "spec": spec(conn, document, boxes, requester, now),
        "state": state,
        "requester": requester,
        "acct_group": document.group,
        "priority": document.priority,
        "created_at": now,
        "updated_at": now,
    }
    insert_rows(conn, request, [row])
    _remember(conn, keys.request, None, state, now, requester)
    return keys.request


def spec(
    conn: Connection, document: Request, boxes: Mapping[str, bytes], requester: str, now: datetime
) -> dict[str, Any]:
    """What a request remembers of its document, whose names exist and whose sandboxes are stored now."""
    check(conn, document)
    _check_names(document, requester, now)
    stored = {name: _store(conn, box, now) for name, box in sorted(boxes.items())}
    return {"document": document.model_dump(mode="json"), "sandboxes": stored}


def _store(conn: Connection, box: bytes, now: datetime) -> str:
    name = sandboxes.digest(box)
    if conn.execute(KNOWN_SANDBOX, {"of_digest": name}).scalar_one_or_none() is None:
        insert_new(conn, sandbox, {"digest": name, "content": box, "created_at": now})
    return name


def approve(
    conn: Connection,
    keys: RequestKeys,
    request_id: int,
    *,
    actor: str,
    task_type: str,
    policy: BlockPolicy,
    now: datetime,
    assigned: Collection[str] = (),
    seen: str | None = None,
) -> list[str]:
    """Turn a request into tasks, datasets and deliveries, and start it; the tasks' names.

    `policy` fills what steps leave out of their blocks. The policies of the installation decide where its
    jobs run; `assigned` sites override them. Approving once more changes nothing. Raises UsageError where a
    step could run nowhere, Conflict where the document is not the one of digest `seen` any more.
    """
    row = lock(conn, request_id)
    if seen is not None and row.digest != seen:
        raise Conflict(
            f"request {request_id} was changed just now: it is not what was looked at",
            hint=f"look again: tierflow request show {request_id}",
        )
    if row.state in (RequestState.RUNNING, RequestState.PAUSED):
        return [task.name for task in tasks.of_request(conn, request_id)]
    row = move(conn, row, RequestEvent.APPROVE, RequestState.APPROVED, now, actor)
    choice = placements.choose(conn, row, assigned, actor)
    document = placements.kept(Request.model_validate(row.spec["document"]), choice)
    placements.store(conn, request_id, choice)
    row = move(conn, row, RequestEvent.ASSIGN, RequestState.ASSIGNED, now, actor, choice.code)
    leaf_id = shares.leaf(conn, keys.leaf, row.acct_group, row.requester, now)
    wish_ids = iter(keys.wishes)
    names = []
    for step, task_id, dataset_id in zip(document.step, keys.tasks, keys.datasets, strict=True):
        name = tasks.fresh_name(conn, now, row.requester, f"{document.name}-{step.name}")
        target = _policy(step, policy)
        output_id = bookkeeping.create_dataset(conn, dataset_id, step.output.dataset, target, now)
        new = _task_of(conn, row, document, step, task_id, name, task_type, leaf_id, output_id)
        tasks.create(conn, new, now)
        _deliver(conn, step, name, wish_ids, now)
        names.append(name)
    move(conn, row, RequestEvent.START, RequestState.RUNNING, now, actor)
    return names


def reject(conn: Connection, request_id: int, *, actor: str, now: datetime) -> None:
    """Turn a waiting request down. Raises NotFound, InvalidTransition."""
    move(conn, lock(conn, request_id), RequestEvent.REJECT, RequestState.REJECTED, now, actor)


def _task_of(
    conn: Connection,
    row: Any,
    document: Request,
    step: Step,
    task_id: int,
    name: str,
    task_type: str,
    leaf_id: int,
    output_id: int,
) -> NewTask:
    source = document.input_of(step)
    found = bookkeeping.dataset_by_name(conn, source) if source else None
    return NewTask(
        id=task_id,
        client_id=f"{row.client_id}/{step.name}",
        request_id=row.id,
        name=name,
        task_type=task_type,
        step=step,
        sandbox=row.spec["sandboxes"].get(step.name),
        leaf_id=leaf_id,
        requester=row.requester,
        group=row.acct_group,
        priority=row.priority,
        lfn_area=document.lfn_area,
        input_dataset_id=found.id if found else None,
        output_dataset_id=output_id,
    )


def _policy(step: Step, default: BlockPolicy) -> BlockPolicy:
    return BlockPolicy(
        files=step.block.files or default.files,
        bytes=step.block.bytes or default.bytes,
        age_s=step.block.age_s or default.age_s,
    )


def _deliver(conn: Connection, step: Step, task: str, wish_ids: Any, now: datetime) -> None:
    ses = sites.by_name(sites.storage_elements(conn))
    new = [
        wishes.NewWish(
            id=next(wish_ids),
            kind=WishKind.PLACE,
            subject_kind="dataset",
            subject=step.output.dataset,
            se_id=ses[one.se].id,
            owner=f"task/{task}",
            custodial=one.custodial,
        )
        for one in step.deliver
    ]
    wishes.make(conn, new, now)


def move(
    conn: Connection,
    row: Any,
    event: RequestEvent,
    to: RequestState,
    now: datetime,
    actor: str,
    code: str | None = None,
) -> Any:
    """Move a request whose row is locked; its row after. Raises InvalidTransition."""
    _check_move(row, event, to)
    binds = {"request_id": row.id, "frm": row.state, "dst": to, "by": actor, "at": now}
    if conn.execute(SET_STATE, binds).rowcount:
        _remember(conn, row.id, row.state, to, now, actor, code)
    return row_of(conn, row.id)


def _check_move(row: Any, event: RequestEvent, to: RequestState) -> None:
    if not REQUEST.knows(row.state, event, to):
        hint = f"see: tierflow request show {row.id}"
        raise InvalidTransition(f"request {row.id} is {row.state}: it knows no {event}", hint=hint)


def _remember(
    conn: Connection,
    request_id: int,
    frm: RequestState | None,
    to: RequestState,
    now: datetime,
    actor: str,
    code: str | None = None,
) -> None:
    row = {"request_id": request_id, "frm": frm, "dst": to, "at": now, "actor": actor, "code": code}
    insert_rows(conn, request_history, [row])


def finish(conn: Connection, request_id: int, to: RequestState, now: datetime, actor: str) -> None:
    """All tasks of a running request have ended."""
    move(conn, row_of(conn, request_id), RequestEvent.TASKS_ENDED, to, now, actor)


def resume(conn: Connection, request_id: int, *, actor: str, now: datetime) -> None:
    """A task of the request was taken up again. Raises Conflict where the request is closed."""
    row = lock(conn, request_id)
    check_open(row)
    if row.state == RequestState.INCOMPLETE:
        move(conn, row, RequestEvent.RESUME, RequestState.RUNNING, now, actor)


def check_open(row: Any) -> None:
    """Raises Conflict where nothing more may be asked of the request."""
    if row.state in REQUEST.final:
        raise Conflict(
            f"request {row.id} is {row.state.lower()}: nothing more can be asked of it",
            hint="hand in a new request: tierflow request submit FILE",
        )


def abort(conn: Connection, request_id: int, *, actor: str, now: datetime) -> bool:
    """End a request; False where it was aborted before. Raises NotFound, InvalidTransition."""
    row = lock(conn, request_id)
    if row.state == RequestState.ABORTED:
        return False
    move(conn, row, RequestEvent.ABORT, RequestState.ABORTED, now, actor)
    return True


def lock(conn: Connection, request_id: int) -> Any:
    """The request's row, locked until the transaction ends. Raises NotFound."""
    lock_rows(conn, request, [request_id])
    return row_of(conn, request_id)


def running(conn: Connection) -> list[int]:
    """Keys of the requests whose tasks run."""
    return in_state(conn, RequestState.RUNNING)


def in_state(conn: Connection, state: RequestState) -> list[int]:
    """Keys of the requests in a state."""
    return list(conn.execute(IN_STATE, {"of_state": state}).scalars())


def set_priority(conn: Connection, request_id: int, priority: int, now: datetime) -> None:
    """For tasks made from now on."""
    conn.execute(SET_PRIORITY, {"request_id": request_id, "new_priority": priority, "at": now})


def set_group(conn: Connection, request_id: int, group: str, now: datetime) -> None:
    """Whose share it uses from now on."""
    conn.execute(SET_GROUP, {"request_id": request_id, "new_group": group, "at": now})


def row_of(conn: Connection, request_id: int) -> Any:
    """One request's row. Raises NotFound."""
    row = conn.execute(BY_ID, {"request_id": request_id}).one_or_none()
    if row is None:
        raise NotFound(f"there is no request {request_id}", hint="see: tierflow request list")
    return row
