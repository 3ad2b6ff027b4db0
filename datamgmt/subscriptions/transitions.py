"""Moves of subscriptions: from state to state with a reason and a line of history, by compare-and-set."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, and_, bindparam, case, null, select, update

from datamgmt.reasons import Reason
from datamgmt.subscription_states import SubscriptionState
from datamgmt.tables import subscription, subscription_history
from gridcore.db import bulk
from gridcore.db.bulk import Change, New, Same
from gridcore.db.idlists import within
from gridcore.db.statements import run_each

#: Written into the history where no person moved the subscription.
AGENT = "block_manager"
#: Reasons that stay until allocation has found room, or the subscription is moved.
NO_ROOM = (Reason.QUOTA_FULL, Reason.SE_FULL)


@dataclass(frozen=True, slots=True)
class Move:
    """From one state to another, or to the same with another reason; `note` stands in the history where the
    reason does not say it all."""

    id: int
    frm: SubscriptionState
    dst: SubscriptionState
    code: Reason | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    note: str | None = None


_DST = bindparam("dst", type_=subscription.c.state.type)
_GOES_ON = and_(_DST == SubscriptionState.ACTIVE, subscription.c.state == SubscriptionState.ACTIVE)
MOVE = (
    update(subscription)
    .where(
        subscription.c.id == bindparam("row_id"),
        subscription.c.state == bindparam("frm", type_=subscription.c.state.type),
    )
    .values(
        state=_DST,
        code=bindparam("why"),
        params=bindparam("facts", type_=subscription.c.params.type),
        updated_at=bindparam("at", type_=subscription.c.updated_at.type),
        complete_at=case(
            (_DST == SubscriptionState.COMPLETE, bindparam("at", type_=subscription.c.updated_at.type)),
            else_=null(),
        ),
        # What was forecast before it ended, or was held, says nothing of what comes then.
        **{name: case((_GOES_ON, subscription.c[name]), else_=null()) for name in ("eta_p50", "eta_p90")},
    )
)
COMPLETE_AMONG = select(subscription.c.id).where(
    within(subscription.c.id), subscription.c.state == SubscriptionState.COMPLETE
)


def move(conn: Connection, moves: Sequence[Move], actor: str, now: datetime) -> int:
    """Make those whose subscription is still in the state it was seen in; how many."""
    made = run_each(conn, MOVE, [_binds(one, now) for one in moves])
    won = [one for one, mine in zip(moves, made, strict=True) if mine]
    changed = [one for one in won if one.frm is not one.dst]
    remember(conn, changed, actor, now)
    return len(won)


def _binds(one: Move, now: datetime) -> dict[str, Any]:
    return {
        "row_id": one.id,
        "frm": one.frm,
        "dst": one.dst,
        "why": one.code,
        "facts": dict(one.params),
        "at": now,
    }


def remember(conn: Connection, moves: Sequence[Move], actor: str, now: datetime) -> None:
    """Lines of history."""
    columns: dict[str, list[Any]] = {
        "subscription_id": [one.id for one in moves],
        "frm": [one.frm for one in moves],
        "dst": [one.dst for one in moves],
        "code": [one.note or one.code for one in moves],
    }
    _write(conn, columns, actor, now)


def begin(
    conn: Connection, subscription_id: int, state: SubscriptionState, actor: str, now: datetime
) -> None:
    """The first line of history, or the first of a new life."""
    columns: dict[str, list[Any]] = {
        "subscription_id": [subscription_id],
        "frm": [None],
        "dst": [state],
        "code": [None],
    }
    _write(conn, columns, actor, now)


def _write(conn: Connection, columns: Mapping[str, list[Any]], actor: str, now: datetime) -> None:
    by = {"at": Same(now), "actor": Same(actor)}
    bulk.write(conn, [New(subscription_history, {**columns, **by})])


def activate(conn: Connection, ids: Collection[int], now: datetime) -> None:
    """Those of them that were COMPLETE have a new block to deliver."""
    states = SubscriptionState.COMPLETE, SubscriptionState.ACTIVE
    found = sorted(conn.execute(COMPLETE_AMONG, {"ids": sorted(ids)}).scalars())
    move(conn, [Move(one, *states, Reason.DELIVERING) for one in found], AGENT, now)


def say(conn: Connection, said: Mapping[int, tuple[Reason, Mapping[str, Any]]], now: datetime) -> None:
    """Why ACTIVE subscriptions are where they are."""
    ids = sorted(said)
    put: dict[str, Any] = {
        "code": [said[one][0] for one in ids],
        "params": [dict(said[one][1]) for one in ids],
        "updated_at": Same(now),
    }
    bulk.write(conn, [Change(subscription, {"id": ids}, put=put, only={"state": SubscriptionState.ACTIVE})])
