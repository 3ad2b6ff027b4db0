"""What is always true of data in motion."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, and_, exists, or_, select

from catalogs.states import ReplicaState
from catalogs.tables import block_replica
from datamgmt.subscription_states import SubscriptionState
from datamgmt.tables import block_dest, subscription, transfer
from datamgmt.transfer_states import TransferState
from gridcore.db.invariants import Invariant


def _replica_at(state: ReplicaState, block_id: Any, se_id: Any) -> ColumnElement[bool]:
    return exists().where(
        block_replica.c.block_id == block_id, block_replica.c.se_id == se_id, block_replica.c.state == state
    )


_WANTED = exists().where(
    block_dest.c.block_id == transfer.c.block_id, block_dest.c.se_id == transfer.c.dst_se_id
)
_COPYING = _replica_at(ReplicaState.COPYING, transfer.c.block_id, transfer.c.dst_se_id)
_DELETING = _replica_at(ReplicaState.DELETING, transfer.c.block_id, transfer.c.dst_se_id)
_OTHER = block_replica.alias("other")

INVARIANTS: tuple[Invariant, ...] = (
    Invariant(
        "transfer_has_replica",
        "a transfer belongs to a wanted replica or one being copied; a cancelled one to one being deleted",
        select(transfer.c.id, transfer.c.state).where(
            or_(
                and_(transfer.c.state != TransferState.CANCELLED, ~_WANTED, ~_COPYING),
                and_(transfer.c.state == TransferState.CANCELLED, ~_DELETING),
            )
        ),
    ),
    Invariant(
        "done_while_copying",
        "a transfer that is DONE is folded when its replica is complete",
        select(transfer.c.id).where(transfer.c.state == TransferState.DONE, ~_COPYING),
    ),
    Invariant(
        "active_is_claimed",
        "a transfer is claimed by somebody while it is ACTIVE, and only then or when cancelled",
        select(transfer.c.id, transfer.c.state).where(
            or_(
                and_(transfer.c.state == TransferState.ACTIVE, transfer.c.claimed_by.is_(None)),
                and_(
                    transfer.c.state.not_in((TransferState.ACTIVE, TransferState.CANCELLED)),
                    transfer.c.claimed_by.is_not(None),
                ),
            )
        ),
    ),
    Invariant(
        "complete_is_not_wanted",
        "a replica that is complete is wanted no more",
        select(block_dest.c.block_id, block_dest.c.se_id).where(
            _replica_at(ReplicaState.COMPLETE, block_dest.c.block_id, block_dest.c.se_id)
        ),
    ),
    Invariant(
        "complete_subscription",
        "a complete subscription has no wanted replica left",
        select(subscription.c.id, block_dest.c.block_id)
        .join_from(subscription, block_dest, block_dest.c.subscription_id == subscription.c.id)
        .where(subscription.c.state == SubscriptionState.COMPLETE),
    ),
    Invariant(
        "wanted_by_one_side",
        "a wanted replica is either a subscription's or in transit",
        select(block_dest.c.block_id, block_dest.c.se_id).where(
            or_(
                and_(block_dest.c.subscription_id.is_(None), block_dest.c.transit_for_id.is_(None)),
                and_(block_dest.c.subscription_id.is_not(None), block_dest.c.transit_for_id.is_not(None)),
            )
        ),
    ),
    Invariant(
        "deleting_is_not_last",
        "a replica is deleted only while another one is complete",
        select(block_replica.c.block_id, block_replica.c.se_id).where(
            block_replica.c.state == ReplicaState.DELETING,
            ~exists().where(
                _OTHER.c.block_id == block_replica.c.block_id, _OTHER.c.state == ReplicaState.COMPLETE
            ),
        ),
    ),
)
