"""Asking: subscriptions made, decided and changed. The same order again changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select, update
from sqlalchemy import bindparam as bind

from catalogs import bookkeeping
from catalogs.tables import block
from datamgmt.reasons import Reason
from datamgmt.subscription_states import MACHINE, SubscriptionEvent, SubscriptionState
from datamgmt.subscriptions.store import SubscriptionRow, between, one
from datamgmt.subscriptions.transitions import Move, begin, move, remember
from datamgmt.tables import subscription
from datamgmt.wanted import destinations
from gridcore.db import bulk
from gridcore.db.bulk import Change
from gridcore.db.statements import insert_new, one_of
from gridcore.errors import Conflict, Denied


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What somebody asks for: a dataset at an SE, or with `block_id` one block of it.

    static: only what there is now, or when it is asked for again; fill_after: only blocks made after it;
    suspended_until: nothing is moved before; move: other copies are let go once all has arrived, with
    `move_from` the ones of that SE alone.
    `ask_id` is the client's.
    """

    dataset_id: int
    se_id: int
    requester: str
    group: str
    block_id: int = 0
    custodial: bool = False
    priority: int = 0
    move: bool = False
    move_from: int | None = None
    static: bool = False
    fill_after: datetime | None = None
    suspended_until: datetime | None = None
    comments: str | None = None
    ask_id: str | None = None


_ENDED = (SubscriptionState.REMOVED, SubscriptionState.DENIED)
_FRESH = (
    "state",
    "custodial",
    "priority",
    "requester",
    "acct_group",
    "code",
    "params",
    "created_at",
    "updated_at",
    "move",
    "move_from_se_id",
    "static",
    "fill_after",
    "suspended_until",
    "comments",
    "ask_id",
    "decided_by",
    "decided_at",
)
#: What begins with nothing in a new life.
_NOTHING: dict[str, Any] = {"files_done": 0, "bytes_done": 0, "eta_p50": None, "eta_p90": None}
REVIVE = (
    update(subscription)
    .where(subscription.c.id == bind("row_id"), one_of(subscription.c.state, _ENDED))
    .values({name: bind(f"new_{name}", type_=subscription.c[name].type) for name in _FRESH})
    .values(complete_at=None, **_NOTHING)
)
DECIDED = (
    update(subscription)
    .where(subscription.c.id == bind("row_id"))
    .values(decided_by=bind("by"), decided_at=bind("at"))
)
NEWER = (
    select(block.c.id)
    .where(
        block.c.dataset_id == bind("on_dataset"),
        block.c.created_at > bind("since", type_=block.c.created_at.type),
    )
    .limit(1)
)


def subscribe(conn: Connection, key: int, order: Order, now: datetime, decided_by: str | None) -> int:
    """Have a live subscription, or one that is ASKED where nobody has decided; its id, `key` where it is new.

    One that is there gets more as asked, never less: a static one the blocks made since, unless the client
    only repeats itself. An ended one begins anew. Raises Denied for more of what
    was decided without a decision, Conflict for a move from elsewhere than the one under way.
    """
    bookkeeping.unsettle(conn, [order.dataset_id])
    old = _old(conn, order)
    if old is None:
        where = {"id": key, "dataset_id": order.dataset_id, "se_id": order.se_id, "block_id": order.block_id}
        row = _fresh(key, order, now, decided_by)
        if insert_new(conn, subscription, {**where, **row}):
            begin(conn, key, row["state"], order.requester, now)
            return key
        old = _found(conn, order)
    if old.state in _ENDED:
        _revive(conn, old.id, order, now, decided_by)
        return old.id
    more = _more(old, order)
    if _reaches_newer(conn, old, order):
        more |= {"created_at": now, "ask_id": order.ask_id}
    if more and decided_by is None and old.state is not SubscriptionState.ASKED:
        raise Denied(
            f"subscription {old.id} was decided without {_named(more)}",
            hint=f"ask somebody who decides at {old.se}: tierflow subscription change {old.id}",
        )
    _put(conn, old, more, order.requester, now)
    if old.state is SubscriptionState.ASKED and decided_by is not None:
        decide(conn, old.id, decided_by, now, approved=True)
    return old.id


def _old(conn: Connection, order: Order) -> SubscriptionRow | None:
    return between(conn, order.dataset_id, order.se_id, order.block_id)


def _found(conn: Connection, order: Order) -> SubscriptionRow:
    found = _old(conn, order)
    if found is None:
        raise Conflict("a subscription with this key is there already", hint="give a fresh one")
    return found


def _fresh(key: int, order: Order, now: datetime, decided_by: str | None) -> dict[str, Any]:
    """The columns of a subscription that begins."""
    state, code, params = _first(key, order.se_id, order.suspended_until, now, decided_by)
    return {
        "state": state,
        "custodial": int(order.custodial),
        "priority": order.priority,
        "requester": order.requester,
        "acct_group": order.group,
        "code": code,
        "params": params,
        "created_at": now,
        "updated_at": now,
        "move": int(order.move),
        "move_from_se_id": order.move_from if order.move else None,
        "static": int(order.static),
        "fill_after": order.fill_after,
        "suspended_until": order.suspended_until,
        "comments": order.comments,
        "ask_id": order.ask_id,
        "decided_by": decided_by,
        "decided_at": None if decided_by is None else now,
    }


def _first(
    key: int, se_id: int, until: datetime | None, now: datetime, decided_by: str | None
) -> tuple[SubscriptionState, Reason | None, dict[str, Any] | None]:
    """The state a subscription begins with, or has once it is approved."""
    if decided_by is None:
        facts = {"noun": "subscription", "id": key, "dst": se_id, "since": now.isoformat()}
        return SubscriptionState.ASKED, Reason.ASKED, facts
    if until is not None and until > now:
        facts = {"id": key, "until": until.isoformat()}
        return SubscriptionState.SUSPENDED, Reason.SUSPENDED, facts
    return SubscriptionState.ACTIVE, None, None


def _revive(conn: Connection, row_id: int, order: Order, now: datetime, decided_by: str | None) -> None:
    row = _fresh(row_id, order, now, decided_by)
    binds = {f"new_{name}": row[name] for name in _FRESH}
    if conn.execute(REVIVE, {"row_id": row_id, **binds}).rowcount:
        begin(conn, row_id, row["state"], order.requester, now)
        destinations.stir_asked(conn, [row_id])


def _more(old: SubscriptionRow, order: Order) -> dict[str, Any]:
    """The columns in which the order asks for more than there is."""
    more: dict[str, Any] = {}
    if order.custodial and not old.custodial:
        more["custodial"] = 1
    if order.priority > old.priority:
        more["priority"] = order.priority
    more |= _more_moved(old, order)
    if old.static and not order.static:
        more["static"] = 0
    if old.fill_after is not None and (order.fill_after is None or order.fill_after < old.fill_after):
        more["fill_after"] = order.fill_after
    return more


def _reaches_newer(conn: Connection, old: SubscriptionRow, order: Order) -> bool:
    """Whether a static subscription is asked for again, and there are blocks it does not reach."""
    if not (old.static and order.static) or (order.ask_id is not None and order.ask_id == old.ask_id):
        return False
    on = {"on_dataset": old.dataset_id, "since": old.created_at}
    return old.block_id == 0 and conn.execute(NEWER, on).first() is not None


def _more_moved(old: SubscriptionRow, order: Order) -> dict[str, Any]:
    """From nowhere to one SE to everywhere; to another SE it is another move."""
    if not order.move:
        return {}
    if not old.move:
        return {"move": 1, "move_from_se_id": order.move_from}
    if old.move_from_se_id in (None, order.move_from):
        return {}
    if order.move_from is not None:
        raise Conflict(
            f"subscription {old.id} moves it from elsewhere, and that is not over",
            hint=f"tierflow subscription show {old.id}",
        )
    return {"move_from_se_id": None}


# --- decided and changed -----------------------------------------------------------------------------


def decide(
    conn: Connection, subscription_id: int, by: str, now: datetime, *, approved: bool, note: str | None = None
) -> bool:
    """Say yes or no to what is ASKED; False where it was decided before. Raises NotFound."""
    bookkeeping.unsettle(conn, [one(conn, subscription_id).dataset_id])
    row = one(conn, subscription_id)
    if row.state is not SubscriptionState.ASKED:
        return False
    if approved:
        state, code, facts = _first(row.id, row.se_id, row.suspended_until, now, by)
        MACHINE.check(row.state, SubscriptionEvent.APPROVE, state)
    else:
        state, code, facts = SubscriptionState.DENIED, Reason.DENIED, {"actor": by, "note": note}
        MACHINE.check(row.state, SubscriptionEvent.DENY, state)
    won = move(conn, [Move(row.id, row.state, state, code, facts or {})], by, now)
    if won:
        conn.execute(DECIDED, {"row_id": row.id, "by": by, "at": now})
    return bool(won)


def change(
    conn: Connection, subscription_id: int, values: Mapping[str, Any], actor: str, now: datetime
) -> list[str]:
    """Give columns of a subscription other values: custodial, priority, move, static, fill_after, acct_group,
    comments; which of them changed. A move is from everywhere then. Raises NotFound, Conflict for one that
    has ended."""
    bookkeeping.unsettle(conn, [one(conn, subscription_id).dataset_id])
    row = one(conn, subscription_id)
    if row.state in _ENDED:
        raise Conflict(f"subscription {row.id} has ended", hint="subscribe again")
    held = {"acct_group": row.group, **{name: getattr(row, name) for name in _CHANGEABLE}}
    put = {**values, "move_from_se_id": None} if "move" in values else dict(values)
    if values.get("static") and not row.static:
        put["created_at"] = now  # what there is now, not what there was once
    return _put(conn, row, {name: v for name, v in put.items() if held[name] != v}, actor, now)


_CHANGEABLE = (
    *("custodial", "priority", "move", "move_from_se_id", "static", "fill_after", "comments", "created_at"),
)
#: Columns people know by another word, or not at all.
_WORDS = {
    "fill_after": "since",
    "move_from_se_id": "where it is moved from",
    "acct_group": "group",
    "created_at": "newer blocks",
    "ask_id": "",
}


def _named(columns: Mapping[str, Any]) -> str:
    """As people read them."""
    return ", ".join(sorted(filter(None, (_WORDS.get(name, name) for name in columns))))


def _put(
    conn: Connection, row: SubscriptionRow, values: Mapping[str, Any], actor: str, now: datetime
) -> list[str]:
    """Change columns, under the dataset's lock, with a line of history that names them."""
    if not values:
        return []
    columns = {name: [value] for name, value in values.items()}
    bulk.write(conn, [Change(subscription, {"id": [row.id]}, put={**columns, "updated_at": [now]})])
    names = sorted(values)
    note = f"changed {_named(values)}"[:40]
    remember(conn, [Move(row.id, row.state, row.state, note=note)], actor, now)
    return names
