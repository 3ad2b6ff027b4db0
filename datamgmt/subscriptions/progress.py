"""Progress: states and reasons of live subscriptions, brought up to date with what has been delivered.

For whole datasets counters of holdings say it; blocks are counted for those that ask for a part.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, bindparam, func, select

from catalogs.states import BlockState, ReplicaState
from catalogs.tables import block, block_replica, dataset, holding
from datamgmt.reasons import Reason
from datamgmt.subscription_states import SubscriptionState
from datamgmt.subscriptions import eta
from datamgmt.subscriptions.store import COVERS, PARTIAL
from datamgmt.subscriptions.transitions import AGENT, NO_ROOM, Move, move
from datamgmt.tables import subscription

_IN_DATASET_BLOCK = block.c.dataset_id == subscription.c.dataset_id
_SAID = [subscription.c[name] for name in ("id", "state", "code", "params", "created_at", "eta_p50")]
_OPEN = block.alias("open_block")
_ONE = [_OPEN.c.name.label("block"), _OPEN.c.files, _OPEN.c.close_by]
_SUBJECT = and_(_OPEN.c.id == subscription.c.block_id, _OPEN.c.state == BlockState.OPEN)
_ACTIVE = subscription.c.state == SubscriptionState.ACTIVE
_LIVE_HERE = and_(
    subscription.c.dataset_id == bindparam("on_dataset"),
    subscription.c.state.in_((SubscriptionState.ACTIVE, SubscriptionState.COMPLETE)),
)
_IN_DATASET = dataset.c.id == subscription.c.dataset_id


def _whole(these: ColumnElement[bool]) -> Select[Any]:
    """Of subscriptions of whole datasets: closed blocks, and those of them that are there."""
    held = and_(holding.c.dataset_id == subscription.c.dataset_id, holding.c.se_id == subscription.c.se_id)
    there = func.coalesce(holding.c.closed, 0).label("complete")
    return (
        select(*_SAID, *_ONE, dataset.c.closed_blocks.label("blocks"), there)
        .join_from(subscription, dataset, _IN_DATASET)
        .outerjoin(holding, held)
        .outerjoin(_OPEN, _SUBJECT)
        .where(~PARTIAL, these)
        .order_by(subscription.c.id)
    )


def _part(these: ColumnElement[bool]) -> Select[Any]:
    """The same of those that ask for some of the blocks. Counted apart and joined: documents cannot be
    grouped by on Oracle."""
    closed = and_(_IN_DATASET_BLOCK, block.c.state == BlockState.CLOSED, COVERS)
    here = and_(
        block_replica.c.block_id == block.c.id,
        block_replica.c.se_id == subscription.c.se_id,
        block_replica.c.state == ReplicaState.COMPLETE,
    )
    counted = (
        select(
            subscription.c.id,
            func.count(block.c.id).label("blocks"),
            func.count(block_replica.c.block_id).label("complete"),
        )
        .join_from(subscription, dataset, _IN_DATASET)
        .outerjoin(block, closed)
        .outerjoin(block_replica, here)
        .where(PARTIAL, these)
        .group_by(subscription.c.id)
        .subquery("counted")
    )
    return (
        select(*_SAID, *_ONE, counted.c.blocks, counted.c.complete)
        .join_from(subscription, counted, counted.c.id == subscription.c.id)
        .outerjoin(_OPEN, _SUBJECT)
        .order_by(subscription.c.id)
    )


WHOLE, PART = _whole(_ACTIVE), _part(_ACTIVE)
WHOLE_HERE, PART_HERE = _whole(_LIVE_HERE), _part(_LIVE_HERE)


def review(conn: Connection, now: datetime) -> int:
    """Bring states and reasons of ACTIVE subscriptions up to date with what is there; how many changed.

    One is COMPLETE when there are closed blocks it asks for and all of them are complete there.
    """
    return move(conn, outdated(conn, now), AGENT, now)


def outdated(conn: Connection, now: datetime) -> list[Move]:
    """What `review` would change."""
    return _moves([*conn.execute(WHOLE), *conn.execute(PART)], now)


def review_dataset(conn: Connection, dataset_id: int, now: datetime) -> int:
    """The same for the live subscriptions of one dataset, COMPLETE ones too, which end as ACTIVE where
    something new has closed or something was lost."""
    on = {"on_dataset": dataset_id}
    rows = [*conn.execute(WHOLE_HERE, on), *conn.execute(PART_HERE, on)]
    return move(conn, _moves(rows, now), AGENT, now)


def _moves(rows: Iterable[Any], now: datetime) -> list[Move]:
    moves = (_judged(row, now) for row in rows)
    return sorted((one for one in moves if one is not None), key=lambda one: one.id)


def _judged(row: Any, now: datetime) -> Move | None:
    """None where all is said."""
    state, code, facts = _standing(row)
    if row.state == SubscriptionState.ACTIVE and row.code in NO_ROOM and row.blocks:
        return None  # allocation says when there is room, also for what is there and only passing through
    if (state, code, facts) == (row.state, row.code, row.params):
        return None
    note = None
    if state is SubscriptionState.COMPLETE and row.eta_p50 is not None and row.eta_p50 > row.created_at:
        note = f"ETA {eta.error(row.created_at, row.eta_p50, now):+.0%}"
    return Move(row.id, row.state, state, code, facts, note)


def _standing(row: Any) -> tuple[SubscriptionState, Reason, dict[str, Any]]:
    if row.block is not None:
        closes = None if row.close_by is None else row.close_by.isoformat()
        facts = {"block": row.block, "files": row.files, "close_by": closes}
        return SubscriptionState.ACTIVE, Reason.BLOCK_OPEN, facts
    done = {"complete": row.complete, "blocks": row.blocks}
    if not row.blocks:
        return SubscriptionState.ACTIVE, Reason.NO_CLOSED_BLOCK, done
    if row.complete < row.blocks:
        return SubscriptionState.ACTIVE, Reason.DELIVERING, done
    return SubscriptionState.COMPLETE, Reason.DELIVERED, done
