"""Subscriptions: made, suspended, removed; ACTIVE or COMPLETE as blocks close and arrive."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, and_, bindparam, case, func, select, update

from catalogs import bookkeeping
from catalogs.states import BlockState, ReplicaState
from catalogs.tables import block, block_replica, dataset, se
from datamgmt.reasons import Reason
from datamgmt.subscription_states import MACHINE, SubscriptionEvent, SubscriptionState
from datamgmt.tables import block_dest, subscription, subscription_history, transfer
from datamgmt.transfer_states import TransferState
from gridcore.db import insert_rows
from gridcore.db.statements import insert_new, run_each, run_many
from gridcore.errors import NotFound

#: Written into the history where no person moved the subscription.
AGENT = "block_manager"
_LIVE = (SubscriptionState.ACTIVE, SubscriptionState.COMPLETE)


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionRow:
    """A subscription and the last word on it: `code` and `params` as `reasons.render` takes them."""

    id: int
    dataset_id: int
    dataset: str
    se_id: int
    se: str
    state: SubscriptionState
    custodial: bool
    priority: int
    requester: str
    group: str
    code: str | None
    params: Mapping[str, Any]
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockFacts:
    """Where one wanted block of a subscription stands: the router's word, and the files of the hop that ends
    here (`done` of `files`; `failed` were given up). `next_try`: the earliest of those that wait."""

    block: str
    code: str
    params: Mapping[str, Any]
    src: str | None
    decided_at: datetime
    valid_until: datetime | None
    files: int
    done: int
    active: int
    failed: int
    next_try: datetime | None
    error: str | None


_NAMED = (
    select(subscription, dataset.c.name.label("dataset_name"), se.c.name.label("se_name"))
    .join_from(subscription, dataset, dataset.c.id == subscription.c.dataset_id)
    .join(se, se.c.id == subscription.c.se_id)
    .order_by(dataset.c.name, se.c.name)
)
LISTED = _NAMED
ONE = _NAMED.where(subscription.c.id == bindparam("row_id"))
BETWEEN = select(subscription).where(
    subscription.c.dataset_id == bindparam("on_dataset"), subscription.c.se_id == bindparam("on_se")
)
_THIS = subscription.c.id == bindparam("row_id")
REVISE = (
    update(subscription)
    .where(_THIS)
    .values(custodial=bindparam("custody"), priority=bindparam("new_priority"), updated_at=bindparam("at"))
)
REVIVE = (
    update(subscription)
    .where(_THIS, subscription.c.state == SubscriptionState.REMOVED)
    .values(
        state=SubscriptionState.ACTIVE,
        custodial=bindparam("custody"),
        priority=bindparam("new_priority"),
        requester=bindparam("by"),
        acct_group=bindparam("by_group"),
        code=None,
        params=None,
        created_at=bindparam("at"),
        updated_at=bindparam("at"),
    )
)
MOVE = (
    update(subscription)
    .where(_THIS, subscription.c.state == bindparam("frm", type_=subscription.c.state.type))
    .values(
        state=bindparam("dst", type_=subscription.c.state.type),
        code=bindparam("why"),
        params=bindparam("facts", type_=subscription.c.params.type),
        updated_at=bindparam("at"),
    )
)
# Counted apart and joined: documents cannot be grouped by on Oracle.
_PROGRESS = (
    select(
        subscription.c.id,
        func.count(block.c.id).label("blocks"),
        func.count(block_replica.c.block_id).label("complete"),
    )
    .outerjoin_from(
        subscription,
        block,
        and_(block.c.dataset_id == subscription.c.dataset_id, block.c.state == BlockState.CLOSED),
    )
    .outerjoin(
        block_replica,
        and_(
            block_replica.c.block_id == block.c.id,
            block_replica.c.se_id == subscription.c.se_id,
            block_replica.c.state == ReplicaState.COMPLETE,
        ),
    )
    .where(subscription.c.state.in_(_LIVE))
    .group_by(subscription.c.id)
    .subquery("progress")
)
PROGRESS = (
    select(
        subscription.c.id,
        subscription.c.state,
        subscription.c.code,
        subscription.c.params,
        _PROGRESS.c.blocks,
        _PROGRESS.c.complete,
    )
    .join_from(subscription, _PROGRESS, _PROGRESS.c.id == subscription.c.id)
    .order_by(subscription.c.id)
)
_COUNTED: Mapping[str, TransferState] = {
    "done": TransferState.DONE,
    "active": TransferState.ACTIVE,
    "failed": TransferState.FAILED,
}
_FILES = (
    select(
        transfer.c.block_id,
        *(
            func.sum(case((transfer.c.state == state, 1), else_=0)).label(name)
            for name, state in _COUNTED.items()
        ),
        func.min(transfer.c.not_before).label("next_try"),
        func.max(transfer.c.error).label("error"),
    )
    .join_from(
        transfer,
        block_dest,
        and_(transfer.c.block_id == block_dest.c.block_id, transfer.c.dst_se_id == block_dest.c.se_id),
    )
    .where(block_dest.c.subscription_id == bindparam("row_id"))
    .group_by(transfer.c.block_id)
    .subquery("files")
)
_SRC = se.alias("src_se")
FACTS = (
    select(
        block.c.name.label("block"),
        *(block_dest.c[name] for name in ("code", "params", "decided_at", "valid_until")),
        _SRC.c.name.label("src"),
        block.c.files,
        *(func.coalesce(_FILES.c[name], 0).label(name) for name in _COUNTED),
        _FILES.c.next_try,
        _FILES.c.error,
    )
    .join_from(block_dest, block, block.c.id == block_dest.c.block_id)
    .outerjoin(_SRC, _SRC.c.id == block_dest.c.src_se_id)
    .outerjoin(_FILES, _FILES.c.block_id == block_dest.c.block_id)
    .where(block_dest.c.subscription_id == bindparam("row_id"))
    .order_by(block.c.id)
)


# --- asked for by people and wishes ------------------------------------------------------------------


def subscribe(
    conn: Connection,
    key: int,
    dataset_id: int,
    se_id: int,
    custodial: bool,
    priority: int,
    requester: str,
    group: str,
    now: datetime,
) -> int:
    """Have a live subscription; its id, `key` where it is new.

    One that is there becomes custodial or more urgent as asked, never less; a removed one begins anew.
    """
    bookkeeping.unsettle(conn, [dataset_id])
    where = {"on_dataset": dataset_id, "on_se": se_id}
    asked = {"custodial": int(custodial), "priority": priority, "requester": requester, "acct_group": group}
    old = conn.execute(BETWEEN, where).one_or_none()
    if old is None:
        stamps = {"state": SubscriptionState.ACTIVE, "created_at": now, "updated_at": now}
        row = {"id": key, "dataset_id": dataset_id, "se_id": se_id, **asked, **stamps}
        if insert_new(conn, subscription, row):
            _remember(conn, key, None, SubscriptionState.ACTIVE, requester, None, now)
            return key
        old = conn.execute(BETWEEN, where).one()
    if old.state == SubscriptionState.REMOVED:
        _revive(conn, old.id, asked, now)
    elif old.custodial < asked["custodial"] or old.priority < priority:
        custody = max(old.custodial, int(custodial))
        urgency = max(old.priority, priority)
        conn.execute(REVISE, {"row_id": old.id, "custody": custody, "new_priority": urgency, "at": now})
    return int(old.id)


def _revive(conn: Connection, row_id: int, asked: Mapping[str, Any], now: datetime) -> None:
    binds = {
        "row_id": row_id,
        "custody": asked["custodial"],
        "new_priority": asked["priority"],
        "by": asked["requester"],
        "by_group": asked["acct_group"],
        "at": now,
    }
    if conn.execute(REVIVE, binds).rowcount:
        _remember(conn, row_id, None, SubscriptionState.ACTIVE, asked["requester"], None, now)


def unsubscribe(conn: Connection, subscription_id: int, actor: str, now: datetime) -> bool:
    """End the subscription; what has arrived stays. False if it was ended before. Raises NotFound."""
    return _by_hand(conn, subscription_id, SubscriptionEvent.REMOVE, Reason.UNSUBSCRIBED, actor, now)


def suspend(conn: Connection, subscription_id: int, actor: str, now: datetime) -> bool:
    """Move nothing for it until it is resumed. False if it was not live. Raises NotFound."""
    return _by_hand(conn, subscription_id, SubscriptionEvent.SUSPEND, Reason.SUSPENDED, actor, now)


def resume(conn: Connection, subscription_id: int, actor: str, now: datetime) -> bool:
    """Go on. False if it was not suspended. Raises NotFound."""
    return _by_hand(conn, subscription_id, SubscriptionEvent.RESUME, None, actor, now)


def _by_hand(
    conn: Connection,
    subscription_id: int,
    event: SubscriptionEvent,
    code: Reason | None,
    actor: str,
    now: datetime,
) -> bool:
    bookkeeping.unsettle(conn, [one(conn, subscription_id).dataset_id])
    state = one(conn, subscription_id).state
    if state not in MACHINE.sources(event):
        return False
    dst = MACHINE.next(state, event)
    won = _move(conn, [_binds(subscription_id, state, dst, code, {}, now)], actor)
    return bool(won)


# --- moved by the block manager ----------------------------------------------------------------------


def review(conn: Connection, now: datetime) -> int:
    """Bring states and reasons of all live subscriptions up to date with their blocks; how many changed.

    One is COMPLETE when its dataset has closed blocks and all of them are complete there.
    """
    changes = [
        _binds(row.id, row.state, *found, now)
        for row in conn.execute(PROGRESS)
        if (found := _judged(row)) != (row.state, row.code, row.params)
    ]
    return _move(conn, changes, AGENT)


def outdated(conn: Connection) -> bool:
    """Whether `review` would change anything."""
    return any(_judged(row) != (row.state, row.code, row.params) for row in conn.execute(PROGRESS))


def _judged(row: Any) -> tuple[SubscriptionState, Reason, dict[str, int]]:
    facts = {"complete": row.complete, "blocks": row.blocks}
    if not row.blocks:
        return SubscriptionState.ACTIVE, Reason.NO_CLOSED_BLOCK, facts
    if row.complete < row.blocks:
        return SubscriptionState.ACTIVE, Reason.DELIVERING, facts
    return SubscriptionState.COMPLETE, Reason.DELIVERED, facts


def activate(conn: Connection, ids: Collection[int], now: datetime) -> None:
    """Those of them that were COMPLETE have a new block to deliver."""
    move = SubscriptionState.COMPLETE, SubscriptionState.ACTIVE
    _move(conn, [_binds(one_id, *move, Reason.DELIVERING, None, now) for one_id in sorted(ids)], AGENT)


def _binds(
    row_id: int,
    frm: SubscriptionState,
    dst: SubscriptionState,
    code: Reason | None,
    facts: Mapping[str, Any] | None,
    now: datetime,
) -> dict[str, Any]:
    return {"row_id": row_id, "frm": frm, "dst": dst, "why": code, "facts": facts, "at": now}


def _move(conn: Connection, changes: list[dict[str, Any]], actor: str) -> int:
    """Make those changes whose subscription is still in the state it was seen in; how many."""
    same = [change for change in changes if change["frm"] == change["dst"]]
    moves = [change for change in changes if change["frm"] != change["dst"]]
    made = run_each(conn, MOVE, moves)
    won = [change for change, mine in zip(moves, made, strict=True) if mine]
    for change in won:
        _remember(conn, change["row_id"], change["frm"], change["dst"], actor, change["why"], change["at"])
    return run_many(conn, MOVE, same) + len(won)


def _remember(
    conn: Connection,
    subscription_id: int,
    frm: SubscriptionState | None,
    dst: SubscriptionState,
    actor: str,
    code: str | None,
    now: datetime,
) -> None:
    row = {"subscription_id": subscription_id, "frm": frm, "dst": dst, "at": now, "actor": actor}
    insert_rows(conn, subscription_history, [{**row, "code": code}])


# --- faces -------------------------------------------------------------------------------------------


def subscriptions(conn: Connection) -> list[SubscriptionRow]:
    """All subscriptions, removed ones too, by dataset and SE."""
    return [_row(row) for row in conn.execute(LISTED)]


def one(conn: Connection, subscription_id: int) -> SubscriptionRow:
    """The subscription. Raises NotFound."""
    row = conn.execute(ONE, {"row_id": subscription_id}).one_or_none()
    if row is None:
        raise NotFound(f"there is no subscription {subscription_id}", hint="see: tierflow subscription list")
    return _row(row)


def explain(conn: Connection, subscription_id: int) -> tuple[SubscriptionRow, list[BlockFacts]]:
    """The subscription and the facts of each block still wanted. Raises NotFound."""
    rows = conn.execute(FACTS, {"row_id": subscription_id})
    facts = [BlockFacts(**{**row._mapping, "params": row.params or {}}) for row in rows]
    return one(conn, subscription_id), facts


def between(conn: Connection, dataset_id: int, se_id: int) -> SubscriptionRow | None:
    """The subscription of the dataset to the SE, live or not."""
    found = conn.execute(BETWEEN, {"on_dataset": dataset_id, "on_se": se_id}).one_or_none()
    return one(conn, found.id) if found else None


def _row(row: Any) -> SubscriptionRow:
    names = (
        "id",
        "dataset_id",
        "se_id",
        "state",
        "priority",
        "requester",
        "code",
        "created_at",
        "updated_at",
    )
    return SubscriptionRow(
        dataset=row.dataset_name,
        se=row.se_name,
        custodial=bool(row.custodial),
        group=row.acct_group,
        params=row.params or {},
        **{name: row._mapping[name] for name in names},
    )
