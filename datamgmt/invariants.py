"""What is always true of data in motion."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, exists, func, literal, or_, select

from catalogs.states import ReplicaState
from catalogs.tables import block_replica, data_file, link
from datamgmt import recount
from datamgmt.deletion_states import DeletionState
from datamgmt.links import linkqueues
from datamgmt.subscription_states import SubscriptionState
from datamgmt.tables import ALL_QUEUED, block_dest, deletion, route_via, subscription, transfer
from datamgmt.transfer_states import TransferState
from datamgmt.wanted import charging, transit
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
_COMPLETE = _replica_at(ReplicaState.COMPLETE, transfer.c.block_id, transfer.c.dst_se_id)
_OTHER = block_replica.alias("other")
_SAME_ROW = and_(block_dest.c.block_id == transfer.c.block_id, block_dest.c.se_id == transfer.c.dst_se_id)
_REPAIRED = exists().where(_SAME_ROW, block_dest.c.repair == 1)
_LINKED = exists().where(link.c.src_se_id == block_dest.c.src_se_id, link.c.dst_se_id == block_dest.c.se_id)
_NEVER = literal(datetime.fromtimestamp(0, UTC), block_replica.c.delete_at.type)
_APPROVED = and_(
    deletion.c.block_id == block_replica.c.block_id,
    deletion.c.se_id == block_replica.c.se_id,
    deletion.c.state == DeletionState.APPROVED,
)
_PASSING = block_dest.alias("passing")
#: What a route has left half there is let go by the router's next look, or goes on as a stop of another.
_FIRST_STOP = exists().where(
    _PASSING.c.block_id == block_replica.c.block_id, _PASSING.c.via_se_id == block_replica.c.se_id
)
_COPYING_HERE = block_replica.c.state == ReplicaState.COPYING

INVARIANTS: tuple[Invariant, ...] = (
    charging.USED_IS_HELD,
    Invariant(
        "unwanted transfer",
        "a transfer belongs to a wanted replica or one being copied; a cancelled one to one being deleted",
        select(transfer.c.id, transfer.c.state).where(
            or_(
                and_(transfer.c.state != TransferState.CANCELLED, ~_WANTED, ~_COPYING),
                and_(transfer.c.state == TransferState.CANCELLED, ~_DELETING),
            )
        ),
    ),
    Invariant(
        "unfolded transfer",
        "a transfer that is DONE is folded when its replica is complete",
        select(transfer.c.id).where(transfer.c.state == TransferState.DONE, ~_COPYING, ~_REPAIRED),
    ),
    Invariant(
        "done but missing",
        "nothing is being copied to a replica that is complete, unless to repair it",
        select(transfer.c.id).where(_COMPLETE, ~_REPAIRED),
    ),
    Invariant(
        "transfer of no file",
        "a transfer is of a registered file of its block",
        select(transfer.c.id)
        .outerjoin_from(transfer, data_file, data_file.c.id == transfer.c.file_id)
        .where(or_(data_file.c.id.is_(None), data_file.c.block_id != transfer.c.block_id)),
    ),
    Invariant(
        "broken route",
        "a hop under way begins at a complete replica and follows a link",
        select(block_dest.c.block_id, block_dest.c.se_id).where(
            block_dest.c.src_se_id.is_not(None),
            or_(
                ~_replica_at(ReplicaState.COMPLETE, block_dest.c.block_id, block_dest.c.src_se_id),
                ~_LINKED,
            ),
        ),
    ),
    Invariant(
        "unwanted copy",
        "a replica is copied only while it is wanted; no route begins with a transit copy left by another",
        select(block_replica.c.block_id, block_replica.c.se_id)
        .outerjoin_from(
            block_replica,
            block_dest,
            and_(
                block_dest.c.block_id == block_replica.c.block_id, block_dest.c.se_id == block_replica.c.se_id
            ),
        )
        .where(_COPYING_HERE, block_dest.c.block_id.is_(None))
        .where(or_(block_replica.c.transit == 0, _FIRST_STOP)),
    ),
    Invariant(
        "nothing to copy",
        "of a wanted replica all files of which are queued, some are on their way",
        select(block_dest.c.block_id, block_dest.c.se_id).where(
            block_dest.c.cursor_id == ALL_QUEUED, block_dest.c.repair == 0, ~exists().where(_SAME_ROW)
        ),
    ),
    Invariant(
        "wanted sizes",
        "a wanted replica has the files and bytes of its block",
        recount.SIZES,
    ),
    Invariant(
        "link queues",
        "a link counts the transfers that wait or are under way on it",
        linkqueues.WRONG,
    ),
    Invariant(
        "wanted by nobody",
        "the subscription a replica is wanted for exists",
        select(block_dest.c.block_id, block_dest.c.se_id)
        .outerjoin_from(block_dest, subscription, subscription.c.id == block_dest.c.subscription_id)
        .where(block_dest.c.subscription_id.is_not(None), subscription.c.id.is_(None)),
    ),
    Invariant(
        "route of nothing",
        "transit space is kept only for the routes of wanted replicas",
        select(route_via.c.block_id, route_via.c.se_id, route_via.c.via_se_id)
        .outerjoin_from(
            route_via,
            block_dest,
            and_(block_dest.c.block_id == route_via.c.block_id, block_dest.c.se_id == route_via.c.se_id),
        )
        .where(block_dest.c.block_id.is_(None)),
    ),
    Invariant(
        "transit space",
        "a transit limit counts the blocks that room is kept for, each once",
        transit.MISCOUNTED,
    ),
    Invariant(
        "claims",
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
        "complete and wanted",
        "a replica that is complete is wanted no more, unless to repair it",
        select(block_dest.c.block_id, block_dest.c.se_id).where(
            block_dest.c.repair == 0,
            _replica_at(ReplicaState.COMPLETE, block_dest.c.block_id, block_dest.c.se_id),
        ),
    ),
    Invariant(
        "complete subscription",
        "a complete subscription has no wanted replica left",
        select(subscription.c.id, block_dest.c.block_id)
        .join_from(subscription, block_dest, block_dest.c.subscription_id == subscription.c.id)
        .where(subscription.c.state == SubscriptionState.COMPLETE, block_dest.c.repair == 0),
    ),
    Invariant(
        "wanted by both sides",
        "a wanted replica is either a subscription's, in transit, or to be repaired",
        select(block_dest.c.block_id, block_dest.c.se_id).where(
            or_(
                and_(
                    block_dest.c.subscription_id.is_(None),
                    block_dest.c.transit_for_id.is_(None),
                    block_dest.c.repair == 0,
                ),
                and_(block_dest.c.subscription_id.is_not(None), block_dest.c.transit_for_id.is_not(None)),
            )
        ),
    ),
    Invariant(
        "repair of nothing",
        "only a replica that is complete is repaired",
        select(block_dest.c.block_id, block_dest.c.se_id).where(
            block_dest.c.repair == 1,
            ~_replica_at(ReplicaState.COMPLETE, block_dest.c.block_id, block_dest.c.se_id),
        ),
    ),
    Invariant(
        "deletion of nothing",
        "a deletion is under way only while its replica is being deleted",
        select(deletion.c.id).where(
            deletion.c.state == DeletionState.DELETING,
            ~_replica_at(ReplicaState.DELETING, deletion.c.block_id, deletion.c.se_id),
        ),
    ),
    Invariant(
        "replica to go",
        "a complete replica is to go exactly while its deletion is approved, and when that says",
        select(block_replica.c.block_id, block_replica.c.se_id)
        .outerjoin_from(block_replica, deletion, _APPROVED)
        .where(
            block_replica.c.state == ReplicaState.COMPLETE,
            func.coalesce(block_replica.c.delete_at, _NEVER) != func.coalesce(deletion.c.due_at, _NEVER),
        ),
    ),
    Invariant(
        "last copy",
        "a replica is deleted only while another one is complete",
        select(block_replica.c.block_id, block_replica.c.se_id).where(
            block_replica.c.state == ReplicaState.DELETING,
            ~exists().where(
                _OTHER.c.block_id == block_replica.c.block_id, _OTHER.c.state == ReplicaState.COMPLETE
            ),
        ),
    ),
)
