"""Deletion: which replicas may go and why others stay, and the rows of those being removed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy import ColumnElement, Connection, Integer, and_, bindparam, exists, or_, select

from catalogs import replicas
from catalogs.replicas import Kept
from catalogs.states import ReplicaState
from catalogs.tables import block, block_replica, data_file, dir_
from datamgmt import transfers
from datamgmt.allocation import ReplicaKey
from datamgmt.subscription_states import SubscriptionState
from datamgmt.tables import block_dest, subscription, transfer
from datamgmt.transfer_states import TransferState
from gridcore.db import lock_rows
from gridcore.errors import UsageError
from gridcore.ids import check_lfn, split_lfn


class Refusal(StrEnum):
    """Why something is not deleted; each has its sentence in MEANING."""

    LAST_REPLICA = "LAST_REPLICA"
    CUSTODIAL = "CUSTODIAL"
    ABSENT = "ABSENT"
    SOURCE_IN_USE = "SOURCE_IN_USE"
    SUBSCRIBED = "SUBSCRIBED"
    REGISTERED = "REGISTERED"
    NOT_AN_LFN = "NOT_AN_LFN"
    STORAGE_ERROR = "STORAGE_ERROR"


MEANING: Mapping[Refusal, str] = {
    Refusal.LAST_REPLICA: "It is the last good replica of its block.",
    Refusal.CUSTODIAL: "It is the custodial replica: the one kept to preserve the data.",
    Refusal.ABSENT: "There is no such replica.",
    Refusal.SOURCE_IN_USE: "Files are being copied from it to another storage element.",
    Refusal.SUBSCRIBED: "A subscription asks for it; it would be copied there again.",
    Refusal.REGISTERED: "The file belongs to a replica there; delete the replica instead.",
    Refusal.NOT_AN_LFN: "Only single files, named by their LFN, are deleted on a wish.",
    Refusal.STORAGE_ERROR: "The storage did not delete it; it is tried again.",
}
_KEPT: Mapping[Kept, Refusal] = {
    Kept.LAST: Refusal.LAST_REPLICA,
    Kept.CUSTODIAL: Refusal.CUSTODIAL,
    Kept.ABSENT: Refusal.ABSENT,
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
    .where(subscription.c.state != SubscriptionState.REMOVED)
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
) -> Refusal | None:
    """Let a replica go on somebody's order; None when it is DELETING, else why it stays.

    Racing orders for all copies of a block keep one: the block's lock makes them one after the other.
    """
    lock_rows(conn, block, [block_id])
    here = {"on_block": block_id, "on_se": se_id}
    if conn.execute(FED_FROM, here).first():
        return Refusal.SOURCE_IN_USE
    if conn.execute(SUBSCRIBED, here).first():
        return Refusal.SUBSCRIBED
    return _release(conn, (block_id, se_id), now, custodial_too=custodial_too)


def release(
    conn: Connection, keys: Collection[ReplicaKey], now: datetime, *, custodial_too: bool = False
) -> int:
    """Let go of replicas that nobody asks for any more, finished or not; how many went.

    The caller has made sure, under the blocks' locks, that no hop starts there. A last good replica stays.
    """
    lock_rows(conn, block, [key[0] for key in keys])
    return sum(_release(conn, key, now, custodial_too=custodial_too) is None for key in sorted(keys))


def _release(
    conn: Connection, key: ReplicaKey, now: datetime, *, custodial_too: bool = False
) -> Refusal | None:
    kept = replicas.mark_deleting(conn, *key, custodial_too=custodial_too)
    if kept is not None:
        return _KEPT[kept]
    transfers.cancel(conn, [key], now)
    return None


def doomed(conn: Connection, limit: int, after: ReplicaKey = (0, 0)) -> list[Doomed]:
    """Up to `limit` replicas to remove, in the order of their keys, of those above `after`; those a copy is
    still being written to wait for its end."""
    rows = conn.execute(DOOMED, {"n": limit, "after_block": after[0], "after_se": after[1]})
    return [Doomed(row.block_id, row.se_id, bool(row.custodial)) for row in rows]


def refused_wish(conn: Connection, subject_kind: str, subject: str, se_id: int) -> Refusal | None:
    """Why a delete wish is not served, None where the file may be removed."""
    try:
        lfn = check_lfn(subject) if subject_kind == "lfn" else None
    except UsageError:
        lfn = None
    if lfn is None:
        return Refusal.NOT_AN_LFN
    path, name = split_lfn(lfn)
    registered = conn.execute(REGISTERED_AT, {"path": path, "name": name, "on_se": se_id}).first()
    return Refusal.REGISTERED if registered else None
