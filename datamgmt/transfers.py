"""Transfer rows: fill the links' windows, claim, end; the last file makes its replica COMPLETE."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    and_,
    bindparam,
    delete,
    exists,
    func,
    not_,
    select,
    update,
)

from catalogs.states import ReplicaState
from catalogs.tables import block, block_replica, data_file, dir_, se
from datamgmt.allocation import ReplicaKey
from datamgmt.routing import LinkKey
from datamgmt.tables import block_dest, transfer
from datamgmt.transfer_states import TransferState
from gridcore.db import insert_rows, lock_rows
from gridcore.db.statements import one_of, run_many, select_in

_ERROR_MAX = 1000


@dataclass(frozen=True, slots=True)
class Missing:
    """A file that may be queued on a hop."""

    file_id: int
    block_id: int
    bytes: int
    priority: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferRow:
    """One line of a face's list of transfers."""

    id: int
    lfn: str
    src: str
    dst: str
    state: TransferState
    attempts: int
    bytes: int
    priority: int
    not_before: datetime | None
    claimed_by: str | None
    claimed_at: datetime | None
    error_class: str | None
    error: str | None
    created_at: datetime


# --- statements --------------------------------------------------------------------------------------

_WAITING = (TransferState.QUEUED, TransferState.RETRY_WAIT)
_UNDECIDED = (*_WAITING, TransferState.FAILED)


def _same_block_at(other: Any, column: Any) -> ColumnElement[bool]:
    return and_(other.c.block_id == transfer.c.block_id, other.c.se_id == column)


_HOP = (block_dest.c.src_se_id == bindparam("src"), block_dest.c.se_id == bindparam("dst"))
_COPYING = and_(
    block_replica.c.block_id == block_dest.c.block_id,
    block_replica.c.se_id == block_dest.c.se_id,
    block_replica.c.state == ReplicaState.COPYING,
)
MISSING = (
    select(data_file.c.id, data_file.c.block_id, data_file.c.bytes, block_dest.c.priority)
    .join_from(block_dest, block_replica, _COPYING)
    .join(data_file, data_file.c.block_id == block_dest.c.block_id)
    .where(*_HOP)
    .where(~exists().where(transfer.c.file_id == data_file.c.id, transfer.c.dst_se_id == block_dest.c.se_id))
    .order_by(block_dest.c.priority.desc(), block_dest.c.block_id, data_file.c.id)
    .limit(bindparam("n", type_=Integer))
)
STILL_HOP = (
    select(block_dest.c.block_id)
    .join_from(block_dest, block_replica, _COPYING)
    .where(*_HOP, block_dest.c.block_id.in_(bindparam("ids", expanding=True)))
)
_ROUTE_SRC = (
    select(block_dest.c.src_se_id).where(_same_block_at(block_dest, transfer.c.dst_se_id)).scalar_subquery()
)
_ASTRAY = and_(
    one_of(transfer.c.state, _UNDECIDED),
    exists().where(
        _same_block_at(block_dest, transfer.c.dst_se_id), block_dest.c.src_se_id != transfer.c.src_se_id
    ),
)
ASTRAY = select(transfer.c.id).where(_ASTRAY).limit(1)
_FRESH: dict[str, Any] = {"state": TransferState.QUEUED, "attempts": 0, "not_before": None}
MOVE_TO_ROUTE = (
    update(transfer).where(_ASTRAY).values(src_se_id=_ROUTE_SRC, updated_at=bindparam("at"), **_FRESH)
)
_OF_REPLICA = (transfer.c.block_id == bindparam("on_block"), transfer.c.dst_se_id == bindparam("on_se"))
TRY_AGAIN = (
    update(transfer)
    .where(*_OF_REPLICA, transfer.c.state == TransferState.FAILED)
    .values(updated_at=bindparam("at"), **_FRESH)
)
RANK_AGAIN = (
    update(transfer)
    .where(*_OF_REPLICA, one_of(transfer.c.state, _UNDECIDED))
    .values(priority=bindparam("new_priority"), updated_at=bindparam("at"))
)
FAILED_HOPS = (
    select(
        transfer.c.block_id,
        transfer.c.src_se_id,
        transfer.c.dst_se_id,
        func.max(transfer.c.ended_at).label("ended_at"),
    )
    .where(transfer.c.state == TransferState.FAILED)
    .group_by(transfer.c.block_id, transfer.c.src_se_id, transfer.c.dst_se_id)
)

DROP_IDLE = delete(transfer).where(
    *_OF_REPLICA, not_(one_of(transfer.c.state, (TransferState.ACTIVE, TransferState.CANCELLED)))
)
CANCEL_ACTIVE = (
    update(transfer)
    .where(*_OF_REPLICA, transfer.c.state == TransferState.ACTIVE)
    .values(state=TransferState.CANCELLED, updated_at=bindparam("at"))
)
_SRC, _DST = se.alias("src_se"), se.alias("dst_se")
LISTED = (
    select(
        transfer.c.id,
        dir_.c.path,
        data_file.c.name,
        _SRC.c.name.label("src"),
        _DST.c.name.label("dst"),
        *(
            transfer.c[name]
            for name in ("state", "attempts", "bytes", "priority", "not_before", "claimed_by", "claimed_at")
        ),
        transfer.c.error_class,
        transfer.c.error,
        transfer.c.created_at,
    )
    .join_from(transfer, data_file, data_file.c.id == transfer.c.file_id)
    .join(dir_, dir_.c.id == data_file.c.dir_id)
    .join(_SRC, _SRC.c.id == transfer.c.src_se_id)
    .join(_DST, _DST.c.id == transfer.c.dst_se_id)
    .where(transfer.c.state.in_(bindparam("states", expanding=True)))
    .order_by(transfer.c.id)
    .limit(bindparam("n", type_=Integer))
)


# --- queueing ----------------------------------------------------------------------------------------


def missing(conn: Connection, hop: LinkKey, n: int) -> list[Missing]:
    """Up to `n` files to queue on a hop, highest priority first, then block by block."""
    return [Missing(*row) for row in conn.execute(MISSING, {"src": hop[0], "dst": hop[1], "n": n})]


def fill(conn: Connection, hop: LinkKey, files: Sequence[Missing], ids: Iterable[int], now: datetime) -> int:
    """Queue those of the files whose block still takes this hop; how many. `ids`: a fresh key for each.

    Only the router queues files, under its lease; the blocks' locks keep the wish from going meanwhile.
    """
    block_ids = {one.block_id for one in files}
    lock_rows(conn, block, block_ids)
    binds = {"src": hop[0], "dst": hop[1]}
    still = {row.block_id for row in select_in(conn, STILL_HOP, block_ids, binds)}
    rows = [
        {
            "id": key,
            "file_id": one.file_id,
            "block_id": one.block_id,
            "src_se_id": hop[0],
            "dst_se_id": hop[1],
            "state": TransferState.QUEUED,
            "bytes": one.bytes,
            "priority": one.priority,
            "created_at": now,
            "updated_at": now,
        }
        for key, one in zip(ids, files, strict=False)
        if one.block_id in still
    ]
    insert_rows(conn, transfer, rows)
    return len(rows)


def astray(conn: Connection) -> bool:
    """Whether anything waits or has failed on a hop its block has left."""
    return conn.execute(ASTRAY).first() is not None


def follow_routes(conn: Connection, routed_again: Iterable[ReplicaKey], now: datetime) -> int:
    """Queue anew what waits or has failed on a hop its block has left, and the failed files of those
    replicas whose hop was chosen again; how many."""
    moved = conn.execute(MOVE_TO_ROUTE, {"at": now}).rowcount
    return moved + run_many(conn, TRY_AGAIN, [{**_at(key), "at": now} for key in sorted(routed_again)])


def failed_hops(conn: Connection) -> dict[int, dict[LinkKey, datetime]]:
    """{block id: {hop: when its last file was given up}}."""
    found: dict[int, dict[LinkKey, datetime]] = {}
    for row in conn.execute(FAILED_HOPS):
        found.setdefault(row.block_id, {})[row.src_se_id, row.dst_se_id] = row.ended_at
    return found


def set_priority(conn: Connection, priorities: Mapping[ReplicaKey, int], now: datetime) -> None:
    """Let what is queued for these replicas go sooner or later."""
    rows = [{**_at(key), "new_priority": n, "at": now} for key, n in sorted(priorities.items())]
    run_many(conn, RANK_AGAIN, rows)


def cancel(conn: Connection, keys: Collection[ReplicaKey], now: datetime) -> None:
    """Nobody wants these replicas any more. A copy under way stays as CANCELLED until its agent lets go of
    the file, so that nothing arrives behind the deleter's back. The blocks' locks are held."""
    run_many(conn, DROP_IDLE, [_at(key) for key in sorted(keys)])
    run_many(conn, CANCEL_ACTIVE, [{**_at(key), "at": now} for key in sorted(keys)])


# --- faces -------------------------------------------------------------------------------------------


def transfers(conn: Connection, *, state: TransferState | None = None, limit: int = 100) -> list[TransferRow]:
    """Up to `limit` transfers by id, in one state or any."""
    states = [state] if state else list(TransferState)
    rows = conn.execute(LISTED, {"states": states, "n": limit})
    return [_listed(row) for row in rows]


def _listed(row: Any) -> TransferRow:
    values = {name: value for name, value in row._mapping.items() if name not in ("path", "name")}
    return TransferRow(lfn=f"{row.path}/{row.name}", **values)


def _at(key: ReplicaKey) -> dict[str, int]:
    return {"on_block": key[0], "on_se": key[1]}
