"""Allocating: makes the wanted replicas of a dataset what its subscriptions ask for."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, and_, bindparam, or_, select, update

from catalogs import bookkeeping, replicas
from catalogs.bookkeeping import closed_blocks
from catalogs.states import BlockState, ReplicaState
from catalogs.tables import block, block_replica, dataset
from datamgmt import deletion, destinations, subscriptions, transfers
from datamgmt.allocation import Allocation, ClosedBlock, Existing, ReplicaKey, Subscription, Wanted, allocate
from datamgmt.reasons import Reason
from datamgmt.subscription_states import WANTING, SubscriptionState
from datamgmt.tables import block_dest, subscription
from gridcore.db import lock_rows
from gridcore.db.statements import run_many

# --- statements --------------------------------------------------------------------------------------

_LIVE = (SubscriptionState.ACTIVE, SubscriptionState.COMPLETE)
_COMPLETE_HERE = and_(
    block_replica.c.block_id == block.c.id,
    block_replica.c.se_id == subscription.c.se_id,
    block_replica.c.state == ReplicaState.COMPLETE,
)
UNMET = (
    select(block.c.dataset_id)
    .join_from(subscription, block, block.c.dataset_id == subscription.c.dataset_id)
    .outerjoin(
        block_dest, and_(block_dest.c.block_id == block.c.id, block_dest.c.se_id == subscription.c.se_id)
    )
    .outerjoin(block_replica, _COMPLETE_HERE)
    .where(subscription.c.state.in_(_LIVE), block.c.state == BlockState.CLOSED)
    .where(
        or_(
            and_(block_replica.c.block_id.is_(None), block_dest.c.subscription_id.is_(None)),
            block_replica.c.transit == 1,
            block_replica.c.custodial < subscription.c.custodial,
        )
    )
    .distinct()
)
OUTDATED = (
    select(block.c.dataset_id)
    .join_from(block_dest, block, block.c.id == block_dest.c.block_id)
    .join(subscription, subscription.c.id == block_dest.c.subscription_id)
    .where(
        or_(
            subscription.c.state == SubscriptionState.REMOVED,
            and_(
                subscription.c.state.in_(_LIVE),
                or_(
                    block_dest.c.priority != subscription.c.priority,
                    block_dest.c.custodial != subscription.c.custodial,
                ),
            ),
        )
    )
    .distinct()
)
ASKERS = select(subscription).where(
    subscription.c.dataset_id == bindparam("on_dataset"), subscription.c.state.in_(WANTING)
)
WANTED = (
    select(block_dest)
    .join_from(block_dest, block, block.c.id == block_dest.c.block_id)
    .where(block.c.dataset_id == bindparam("on_dataset"))
)
COMPLETE_OF = (
    select(block_replica)
    .join_from(block_replica, block, block.c.id == block_replica.c.block_id)
    .where(block.c.dataset_id == bindparam("on_dataset"), block_replica.c.state == ReplicaState.COMPLETE)
)
_ASKED: dict[str, Any] = {
    "subscription_id": bindparam("for_subscription"),
    "transit_for_id": None,
    "custodial": bindparam("custody"),
    "priority": bindparam("new_priority"),
}
ASK = update(block_dest).where(*destinations.THIS).values(**_ASKED)


def unsettled_datasets(conn: Connection) -> list[int]:
    """Datasets whose wanted replicas are not what their subscriptions ask for, ascending."""
    return sorted({row.dataset_id for statement in (UNMET, OUTDATED) for row in conn.execute(statement)})


def allocate_dataset(conn: Connection, dataset_id: int, now: datetime) -> int:
    """Make the wanted replicas of a dataset what its subscriptions ask for; how many rows changed."""
    lock_rows(conn, dataset, [dataset_id])
    # Blocks are locked once it is known which; what was read before may have changed meanwhile.
    locked = {key[0] for key in _keys(_allocation(conn, dataset_id))}
    locked |= {key[0] for key, _ in _held_for_less(conn, dataset_id)}
    lock_rows(conn, block, locked)
    whole = _allocation(conn, dataset_id)
    found = Allocation(
        [one for one in whole.add if one.block_id in locked],
        [one for one in whole.change if one.block_id in locked],
        [one for one in whole.drop if one.key[0] in locked],
    )
    _add(conn, found.add, now)
    _change(conn, found.change, now)
    _drop(conn, [(one.key, one.code) for one in found.drop], now)
    kept = _keep(conn, [pair for pair in _held_for_less(conn, dataset_id) if pair[0][0] in locked])
    if found == whole:
        bookkeeping.settle(conn, dataset_id)
    return len(_keys(found)) + kept


def _keys(found: Allocation) -> list[ReplicaKey]:
    return (
        [one.key for one in found.add] + [one.key for one in found.change] + [one.key for one in found.drop]
    )


def _allocation(conn: Connection, dataset_id: int) -> Allocation:
    on = {"on_dataset": dataset_id}
    blocks = [ClosedBlock(one.id, one.dataset_id) for one in closed_blocks(conn, dataset_id)]
    wanted = [_wanted(row) for row in conn.execute(WANTED, on) if row.subscription_id is not None]
    complete = {(row.block_id, row.se_id) for row in conn.execute(COMPLETE_OF, on)}
    existing = Existing({one.key: one for one in wanted}, complete)
    return allocate(_askers(conn, dataset_id), blocks, existing)


def _askers(conn: Connection, dataset_id: int) -> list[Subscription]:
    return [
        Subscription(
            id=row.id,
            dataset_id=row.dataset_id,
            se_id=row.se_id,
            custodial=bool(row.custodial),
            priority=row.priority,
            suspended=row.state == SubscriptionState.SUSPENDED,
        )
        for row in conn.execute(ASKERS, {"on_dataset": dataset_id})
    ]


def _wanted(row: Any) -> Wanted:
    return Wanted(
        block_id=row.block_id,
        se_id=row.se_id,
        subscription_id=row.subscription_id,
        custodial=bool(row.custodial),
        priority=row.priority,
    )


def _held_for_less(conn: Connection, dataset_id: int) -> list[tuple[ReplicaKey, bool]]:
    """Complete replicas (block, SE) that are asked for but counted as in transit, or not as custodial as
    asked; and whether they shall be."""
    asked = {one.se_id: one.custodial for one in _askers(conn, dataset_id) if not one.suspended}
    return [
        ((row.block_id, row.se_id), asked[row.se_id])
        for row in conn.execute(COMPLETE_OF, {"on_dataset": dataset_id})
        if row.se_id in asked and (row.transit or row.custodial < asked[row.se_id])
    ]


def _keep(conn: Connection, pairs: Iterable[tuple[ReplicaKey, bool]]) -> int:
    wanted = dict(pairs)
    preserved = replicas.set_custodial_all(
        conn, {key: True for key, custodial in wanted.items() if custodial}
    )
    return replicas.keep_all(conn, list(wanted)) + preserved


def _add(conn: Connection, wanted: Collection[Wanted], now: datetime) -> None:
    """New rows; one in transit only becomes wanted for itself, and so does what has arrived of it."""
    transit = {
        (row.block_id, row.se_id) for row in destinations.of_blocks(conn, [one.block_id for one in wanted])
    }
    promoted = [one for one in wanted if one.key in transit]
    run_many(conn, ASK, [_ask(one) for one in promoted])
    _keep(conn, [(one.key, one.custodial) for one in promoted])
    transfers.set_priority(conn, {one.key: one.priority for one in promoted}, now)
    destinations.add(conn, [one for one in wanted if one.key not in transit], now)
    subscriptions.activate(conn, {one.subscription_id for one in wanted}, now)


def _ask(one: Wanted) -> dict[str, Any]:
    asked = {"for_subscription": one.subscription_id, "custody": int(one.custodial)}
    return {**destinations.at(one.key), **asked, "new_priority": one.priority}


def _change(conn: Connection, wanted: Collection[Wanted], now: datetime) -> None:
    run_many(conn, ASK, [_ask(one) for one in wanted])
    replicas.set_custodial_all(conn, {one.key: one.custodial for one in wanted})
    transfers.set_priority(conn, {one.key: one.priority for one in wanted}, now)


def _drop(conn: Connection, rows: Collection[tuple[ReplicaKey, Reason]], now: datetime) -> None:
    """Rows that go; what has arrived for those nobody asks for any more goes with them."""
    destinations.drop(conn, [key for key, _ in rows], now)
    partial = _in_state(conn, [key[0] for key, _ in rows], ReplicaState.COPYING)
    unwanted = [key for key, code in rows if code is Reason.UNSUBSCRIBED and key in partial]
    deletion.release(conn, unwanted, now, custodial_too=True)


def _in_state(conn: Connection, block_ids: Iterable[int], state: ReplicaState) -> set[ReplicaKey]:
    found = replicas.replicas(conn, block_ids)
    return {(one.block_id, one.se_id) for rows in found.values() for one in rows if one.state is state}
