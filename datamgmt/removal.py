"""Removal: the replicas and files that are to be removed from storage, and what is written once they are."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, Integer, and_, bindparam, exists, or_, select

from catalogs.states import ReplicaState
from catalogs.tables import block_replica, data_file, dir_
from datamgmt.allocation import ReplicaKey
from datamgmt.reasons import Reason
from datamgmt.tables import transfer
from datamgmt.transfer_states import TransferState
from gridcore.errors import UsageError
from gridcore.ids import check_lfn, split_lfn


@dataclass(frozen=True, slots=True)
class Doomed:
    """A DELETING replica whose files are to be removed from storage."""

    block_id: int
    se_id: int
    custodial: bool


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
