"""Deletion: which replicas may go and why others stay, and the rows of those being removed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, Integer, and_, bindparam, exists, or_, select

from catalogs import replicas
from catalogs.replicas import Kept
from catalogs.states import ReplicaState
from catalogs.tables import block, block_replica, data_file, dir_
from datamgmt import transfers
from datamgmt.allocation import ReplicaKey
from datamgmt.reasons import Reason
from datamgmt.subscription_states import WANTING
from datamgmt.tables import block_dest, subscription, transfer
from datamgmt.transfer_states import TransferState
from gridcore.db import lock_rows
from gridcore.errors import UsageError
from gridcore.ids import check_lfn, split_lfn

#: The guard's refusals in words people are given.
KEPT: Mapping[Kept, Reason] = {
    Kept.LAST: Reason.LAST_REPLICA,
    Kept.LAST_OF_FILES: Reason.LAST_OF_FILES,
    Kept.IN_USE: Reason.SOURCE_IN_USE,
    Kept.CUSTODIAL: Reason.LAST_CUSTODIAL,
    Kept.ABSENT: Reason.ABSENT,
}


@dataclass(frozen=True, slots=True)
class Doomed:
    """A DELETING replica whose files are to be removed from storage."""

    block_id: int
    se_id: int
    custodial: bool


_HERE = (block_dest.c.block_id == bindparam("on_block"), block_dest.c.src_se_id == bindparam("on_se"))
FED_FROM = select(block_dest.c.se_id).where(*_HERE).limit(1)
SUBSCRIBED = (
    select(subscription.c.id)
    .join_from(block, subscription, subscription.c.dataset_id == block.c.dataset_id)
    .where(block.c.id == bindparam("on_block"), subscription.c.se_id == bindparam("on_se"))
    .where(subscription.c.state.in_(WANTING))
)


def _being_written() -> ColumnElement[bool]:
    return exists().where(
        transfer.c.block_id == block_replica.c.block_id,
        transfer.c.dst_se_id == block_replica.c.se_id,
        transfer.c.state == TransferState.CANCELLED,
    )


DOOMED = (
    select(block_replica.c.block_id, block_replica.c.se_id, block_replica.c.custodial)
    .where(block_replica.c.state == ReplicaState.DELETING, ~_being_written())
    .where(
        or_(
            block_replica.c.block_id > bindparam("after_block"),
            and_(
                block_replica.c.block_id == bindparam("after_block"),
                block_replica.c.se_id > bindparam("after_se"),
            ),
        )
    )
    .order_by(block_replica.c.block_id, block_replica.c.se_id)
    .limit(bindparam("n", type_=Integer))
)
REGISTERED_AT = (
    select(data_file.c.id)
    .join_from(data_file, dir_, dir_.c.id == data_file.c.dir_id)
    .join(
        block_replica,
        and_(block_replica.c.block_id == data_file.c.block_id, block_replica.c.se_id == bindparam("on_se")),
    )
    .where(dir_.c.path == bindparam("path"), data_file.c.name == bindparam("name"))
    .where(block_replica.c.state != ReplicaState.DELETING)
)


def delete_replica(
    conn: Connection, block_id: int, se_id: int, now: datetime, *, custodial_too: bool = False
) -> Reason | None:
    """Let a replica go on somebody's order; None when it is DELETING, else why it stays.

    Racing orders for all copies of a block keep one: the block's lock makes them one after the other.
    """
    lock_rows(conn, block, [block_id])
    here = {"on_block": block_id, "on_se": se_id}
    if conn.execute(FED_FROM, here).first():
        return Reason.SOURCE_IN_USE
    if conn.execute(SUBSCRIBED, here).first():
        return Reason.SUBSCRIBED
    key = block_id, se_id
    return _release(conn, [key], now, custodial_too=custodial_too).get(key)


def release(
    conn: Connection, keys: Collection[ReplicaKey], now: datetime, *, custodial_too: bool = False
) -> int:
    """Let go of replicas that nobody asks for any more, finished or not; how many went.

    The caller has made sure, under the blocks' locks, that no hop starts there. A last good replica stays.
    """
    return len(keys) - len(_release(conn, keys, now, custodial_too=custodial_too))


def _release(
    conn: Connection, keys: Collection[ReplicaKey], now: datetime, *, custodial_too: bool = False
) -> dict[ReplicaKey, Reason]:
    """Those that stay, and why."""
    kept = replicas.mark_deleting_all(conn, sorted(keys), custodial_too=custodial_too)
    transfers.cancel(conn, [key for key in keys if key not in kept], now)
    return {key: KEPT[why] for key, why in kept.items()}


def doomed(conn: Connection, limit: int, after: ReplicaKey = (0, 0)) -> list[Doomed]:
    """Up to `limit` replicas to remove, in the order of their keys, of those above `after`; those a copy is
    still being written to wait for its end."""
    rows = conn.execute(DOOMED, {"n": limit, "after_block": after[0], "after_se": after[1]})
    return [Doomed(row.block_id, row.se_id, bool(row.custodial)) for row in rows]


def refused_wish(conn: Connection, subject_kind: str, subject: str, se_id: int) -> Reason | None:
    """Why a delete wish is not served, None where the file may be removed."""
    try:
        lfn = check_lfn(subject) if subject_kind == "lfn" else None
    except UsageError:
        lfn = None
    if lfn is None:
        return Reason.NOT_AN_LFN
    path, name = split_lfn(lfn)
    registered = conn.execute(REGISTERED_AT, {"path": path, "name": name, "on_se": se_id}).first()
    return Reason.REGISTERED if registered else None
