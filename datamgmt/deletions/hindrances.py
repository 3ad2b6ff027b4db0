"""Hindrances: what keeps a replica from being deleted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from sqlalchemy import Connection, or_, select

from catalogs import guard
from catalogs.guard import Kept, ReplicaKey
from catalogs.tables import block
from datamgmt.reasons import Reason
from datamgmt.subscription_states import WANTING
from datamgmt.tables import block_dest, subscription, transfer
from datamgmt.transfer_states import TransferState
from gridcore.db import reads
from gridcore.db.idlists import within
from gridcore.db.reads import Read
from gridcore.db.statements import one_of

#: The guard's refusals in words people are given.
KEPT: Mapping[Kept, Reason] = {
    Kept.LAST: Reason.LAST_REPLICA,
    Kept.LAST_OF_FILES: Reason.LAST_OF_FILES,
    Kept.CUSTODIAL: Reason.LAST_CUSTODIAL,
    Kept.ABSENT: Reason.ABSENT,
}


class Terms(NamedTuple):
    """What a deletion may take: the last custodial replica, one that is subscribed and so copied anew."""

    custodial_too: bool = False
    subscribed_too: bool = False


#: What most deletions may take.
PLAIN = Terms()
#: A reason's code and parameters, as `reasons.render` takes them.
Why = tuple[Reason, dict[str, Any]]


FEEDING = select(block_dest.c.block_id, block_dest.c.src_se_id, block_dest.c.se_id).where(
    within(block_dest.c.block_id), block_dest.c.src_se_id.is_not(None)
)
BEING_READ = (
    select(transfer.c.block_id, transfer.c.src_se_id, transfer.c.dst_se_id)
    .where(within(transfer.c.block_id), transfer.c.state == TransferState.ACTIVE)
    .distinct()
)
SUBSCRIBED = (
    select(block.c.id, subscription.c.se_id, subscription.c.id.label("subscription_id"))
    .join_from(block, subscription, subscription.c.dataset_id == block.c.dataset_id)
    .where(within(block.c.id), one_of(subscription.c.state, WANTING))
    .where(or_(subscription.c.block_id == 0, subscription.c.block_id == block.c.id))
)


def sources_in_use(conn: Connection, block_ids: Iterable[int]) -> dict[ReplicaKey, int]:
    """Replicas of the blocks from which a hop begins, or a file is being copied, and an SE it goes to."""
    ids = {"ids": sorted(set(block_ids))}
    feeding, being_read = reads.rows(conn, [Read(FEEDING, ids), Read(BEING_READ, ids)])
    return {(block_id, src): dst for block_id, src, dst in (*feeding, *being_read)}


def subscribed(conn: Connection, wanted: Mapping[ReplicaKey, Terms]) -> dict[ReplicaKey, Why]:
    """Those that a subscription asks for, and stay for that."""
    ids = {"ids": sorted({block_id for block_id, _ in wanted})}
    (rows,) = reads.rows(conn, [Read(SUBSCRIBED, ids)])
    live = {(block_id, se_id): found for block_id, se_id, found in rows}
    return {
        key: (Reason.SUBSCRIBED, {"id": live[key]})
        for key, terms in wanted.items()
        if key in live and not terms.subscribed_too
    }


def told(found: Mapping[ReplicaKey, Kept]) -> dict[ReplicaKey, Why]:
    return {key: (KEPT[why], {"se": key[1]}) for key, why in found.items()}


def staying(conn: Connection, wanted: Mapping[ReplicaKey, Terms]) -> dict[ReplicaKey, Why]:
    """Those of the replicas that must stay were all asked away now, and why.

    That it is a source in use is no reason here: copies end. The answer holds while the blocks are locked.
    """
    kept = subscribed(conn, wanted)
    rest = [key for key in wanted if key not in kept]
    freed = {key for key in rest if wanted[key].custodial_too}
    return kept | told(guard.judge(conn, rest, custodial_too=freed, complete_only=True)[0])
