"""Subscriptions: standing wishes for a dataset, or one block of it, at a storage element.

Here they are read, and suspended, resumed and ended; `asking` makes and changes them, `progress` follows what
is delivered.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, bindparam, or_, select, update

from catalogs import bookkeeping
from catalogs.tables import block, dataset, se
from datamgmt.reasons import Reason
from datamgmt.subscription_states import MACHINE, SubscriptionEvent, SubscriptionState
from datamgmt.subscriptions.transitions import AGENT, Move, move
from datamgmt.tables import subscription
from datamgmt.wanted import destinations
from gridcore.errors import NotFound


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionRow:
    """A subscription and the last word on it: `code` and `params` as `reasons.render` takes them.

    `block` is the name of the one block it is for, None for the whole dataset; of that only what there was
    when it was made, if `static`, and only what was made after `fill_after`. `move_from_se_id`: where alone a
    move lets copies go, None for everywhere.
    """

    id: int
    dataset_id: int
    dataset: str
    se_id: int
    se: str
    block_id: int
    block: str | None
    state: SubscriptionState
    custodial: bool
    priority: int
    move: bool
    move_from_se_id: int | None
    static: bool
    fill_after: datetime | None
    suspended_until: datetime | None
    requester: str
    group: str
    comments: str | None
    ask_id: str | None
    decided_by: str | None
    code: str | None
    params: Mapping[str, Any]
    created_at: datetime
    updated_at: datetime


_NAMED = (
    select(
        subscription,
        dataset.c.name.label("dataset"),
        se.c.name.label("se"),
        block.c.name.label("block"),
    )
    .join_from(subscription, dataset, dataset.c.id == subscription.c.dataset_id)
    .join(se, se.c.id == subscription.c.se_id)
    .outerjoin(block, block.c.id == subscription.c.block_id)
    .order_by(dataset.c.name, se.c.name, subscription.c.block_id)
)
#: Whether a subscription asks for a block of its dataset; the same as `Subscription.covers`.
COVERS: ColumnElement[bool] = and_(
    or_(subscription.c.block_id == 0, subscription.c.block_id == block.c.id),
    or_(subscription.c.static == 0, block.c.created_at <= subscription.c.created_at),
    or_(subscription.c.fill_after.is_(None), block.c.created_at > subscription.c.fill_after),
)
#: Of subscriptions that may ask for less than all closed blocks of their dataset.
PARTIAL: ColumnElement[bool] = or_(
    subscription.c.block_id != 0, subscription.c.static == 1, subscription.c.fill_after.is_not(None)
)
LISTED = _NAMED
ONE = _NAMED.where(subscription.c.id == bindparam("row_id"))
OF_ASK = _NAMED.where(subscription.c.ask_id == bindparam("of_ask"))
BETWEEN = _NAMED.where(
    subscription.c.dataset_id == bindparam("on_dataset"),
    subscription.c.se_id == bindparam("on_se"),
    subscription.c.block_id == bindparam("on_block"),
)
RESUMABLE = select(subscription.c.id, subscription.c.dataset_id).where(
    subscription.c.state == SubscriptionState.SUSPENDED,
    subscription.c.suspended_until <= bindparam("now", type_=subscription.c.suspended_until.type),
)
SUSPEND_UNTIL = (
    update(subscription)
    .where(subscription.c.id == bindparam("row_id"))
    .values(suspended_until=bindparam("until"))
)


# --- by hand -----------------------------------------------------------------------------------------


def unsubscribe(conn: Connection, subscription_id: int, actor: str, now: datetime) -> bool:
    """End the subscription; what has arrived stays. False if it was ended before. Raises NotFound."""
    return _by_hand(conn, subscription_id, SubscriptionEvent.REMOVE, Reason.UNSUBSCRIBED, {}, actor, now)


def suspend(
    conn: Connection, subscription_id: int, actor: str, now: datetime, until: datetime | None = None
) -> bool:
    """Move nothing for it until it is resumed, or until then. False if it was not live. Raises NotFound."""
    facts = {"id": subscription_id, "actor": actor, "until": until and until.isoformat()}
    code = Reason.SUSPENDED
    if not _by_hand(conn, subscription_id, SubscriptionEvent.SUSPEND, code, facts, actor, now):
        return False
    conn.execute(SUSPEND_UNTIL, {"row_id": subscription_id, "until": until})
    return True


def resume(conn: Connection, subscription_id: int, actor: str, now: datetime) -> bool:
    """Go on. False if it was not suspended. Raises NotFound."""
    if not _by_hand(conn, subscription_id, SubscriptionEvent.RESUME, None, {}, actor, now):
        return False
    conn.execute(SUSPEND_UNTIL, {"row_id": subscription_id, "until": None})
    return True


def resume_due(conn: Connection, now: datetime) -> int:
    """Resume those that were suspended until a moment that has come; how many."""
    found = conn.execute(RESUMABLE, {"now": now}).all()
    bookkeeping.unsettle(conn, {row.dataset_id for row in found})
    return sum(resume(conn, row.id, AGENT, now) for row in sorted(found))


def resumable(conn: Connection, now: datetime) -> bool:
    """Whether `resume_due` would resume any."""
    return conn.execute(RESUMABLE, {"now": now}).first() is not None


def _by_hand(
    conn: Connection,
    subscription_id: int,
    event: SubscriptionEvent,
    code: Reason | None,
    facts: Mapping[str, Any],
    actor: str,
    now: datetime,
) -> bool:
    bookkeeping.unsettle(conn, [one(conn, subscription_id).dataset_id])
    state = one(conn, subscription_id).state
    if state not in MACHINE.sources(event):
        return False
    won = move(conn, [Move(subscription_id, state, MACHINE.next(state, event), code, facts)], actor, now)
    destinations.stir_asked(conn, [subscription_id])
    return bool(won)


# --- reading -----------------------------------------------------------------------------------------


def subscriptions(conn: Connection) -> list[SubscriptionRow]:
    """All subscriptions, removed ones too, by dataset and SE."""
    return [_row(row) for row in conn.execute(LISTED)]


def one(conn: Connection, subscription_id: int) -> SubscriptionRow:
    """The subscription. Raises NotFound."""
    row = conn.execute(ONE, {"row_id": subscription_id}).one_or_none()
    if row is None:
        raise NotFound(f"there is no subscription {subscription_id}", hint="see: tierflow subscription list")
    return _row(row)


def of_ask(conn: Connection, ask_id: str) -> list[SubscriptionRow]:
    """Those that were asked for at once."""
    return [_row(row) for row in conn.execute(OF_ASK, {"of_ask": ask_id})]


def between(conn: Connection, dataset_id: int, se_id: int, block_id: int = 0) -> SubscriptionRow | None:
    """The subscription of the dataset, or of the block, to the SE, live or not."""
    on = {"on_dataset": dataset_id, "on_se": se_id, "on_block": block_id}
    found = conn.execute(BETWEEN, on).one_or_none()
    return _row(found) if found else None


_PLAIN = (
    "id",
    "dataset_id",
    "dataset",
    "se_id",
    "se",
    "block_id",
    "block",
    "state",
    "priority",
    "move_from_se_id",
    "fill_after",
    "suspended_until",
    "requester",
    "comments",
    "ask_id",
    "decided_by",
    "code",
    "created_at",
    "updated_at",
)


def _row(row: Any) -> SubscriptionRow:
    return SubscriptionRow(
        custodial=bool(row.custodial),
        move=bool(row.move),
        static=bool(row.static),
        group=row.acct_group,
        params=row.params or {},
        **{name: row._mapping[name] for name in _PLAIN},
    )
