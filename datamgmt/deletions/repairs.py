"""Repairs: files that are missing or bad in a complete replica are copied anew from a good one; those of
which no good copy is left are lost."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    Select,
    and_,
    bindparam,
    delete,
    exists,
    func,
    select,
    update,
)

from catalogs import validity
from catalogs.bookkeeping import blocks_by_id
from catalogs.states import InvalidCode, ReplicaState
from catalogs.tables import block, block_replica, data_file, file_exception, invalid_file
from datamgmt.links import linkqueues
from datamgmt.links.linkqueues import WAITING, Queue
from datamgmt.reasons import Reason
from datamgmt.tables import ALL_QUEUED, block_dest, transfer
from datamgmt.transfer_states import TransferState
from datamgmt.transfers import finishing, store
from datamgmt.wanted import destinations
from gridcore.db import bulk, lock_rows
from gridcore.db.bulk import New, Same
from gridcore.db.idlists import within
from gridcore.db.statements import one_of

#: Who gives files up.
AGENT = "block_manager"
#: Of subscriptions this is an urgent one: jobs may wait for what others hold complete.
PRIORITY = 100
#: Replicas, and files given up, in one transaction.
SLICE = 500

_OTHER, _FAULT = block_replica.alias("other"), file_exception.alias("fault")
_HERE = and_(
    block_replica.c.block_id == file_exception.c.block_id,
    block_replica.c.se_id == file_exception.c.se_id,
    block_replica.c.state == ReplicaState.COMPLETE,
)
_WANTED = exists().where(
    block_dest.c.block_id == file_exception.c.block_id, block_dest.c.se_id == file_exception.c.se_id
)
_INVALID = exists().where(invalid_file.c.file_id == file_exception.c.file_id)
_EXCEPTED = exists().where(
    file_exception.c.block_id == block_dest.c.block_id,
    file_exception.c.se_id == block_dest.c.se_id,
    ~_INVALID,
)


def _good_elsewhere() -> ColumnElement[bool]:
    """Another complete copy of the block has the file, and has it well."""
    spoilt = (
        exists()
        .where(
            _FAULT.c.block_id == _OTHER.c.block_id,
            _FAULT.c.se_id == _OTHER.c.se_id,
            _FAULT.c.file_id == file_exception.c.file_id,
        )
        .correlate(_OTHER, file_exception)
    )
    return exists().where(
        _OTHER.c.block_id == file_exception.c.block_id,
        _OTHER.c.se_id != file_exception.c.se_id,
        _OTHER.c.state == ReplicaState.COMPLETE,
        ~spoilt,
    )


def _repairable(*conditions: ColumnElement[bool]) -> Select[Any]:
    """Replicas with faults that a copy from elsewhere would mend, and that are not being copied to."""
    return (
        select(file_exception.c.block_id, file_exception.c.se_id)
        .join_from(file_exception, block_replica, _HERE)
        .where(block_replica.c.delete_at.is_(None), ~_WANTED, ~_INVALID, _good_elsewhere(), *conditions)
        .distinct()
        .order_by(file_exception.c.block_id, file_exception.c.se_id)
    )


REPAIRABLE = _repairable().limit(bindparam("n", type_=Integer))
REPAIRABLE_OF = _repairable(within(file_exception.c.block_id))
_IDLE = ~exists().where(
    transfer.c.block_id == block_dest.c.block_id, transfer.c.dst_se_id == block_dest.c.se_id
)
#: Under repair, and either well by now or with faults found behind what was queued.
STALE = (
    select(block_dest.c.block_id, block_dest.c.se_id, _EXCEPTED.label("excepted"))
    .where(block_dest.c.repair == 1)
    .where(~_EXCEPTED | ((block_dest.c.cursor_id == ALL_QUEUED) & _IDLE))
    .order_by(block_dest.c.block_id, block_dest.c.se_id)
)
REPEAT = (
    update(block_dest)
    .where(
        within(block_dest.c.block_id),
        block_dest.c.se_id == bindparam("on_se"),
        block_dest.c.repair == 1,
        block_dest.c.cursor_id == ALL_QUEUED,
        _IDLE,
    )
    .values(cursor_id=0, valid_until=destinations.AGAIN)
)
#: What waits or was given up.
_UNDECIDED = select(
    *(transfer.c[name] for name in ("id", "block_id", "src_se_id", "dst_se_id", "state", "bytes"))
).where(one_of(transfer.c.state, (*WAITING, TransferState.FAILED)))
#: Of files that never come.
_LOST_FILE = and_(invalid_file.c.file_id == transfer.c.file_id, invalid_file.c.code == InvalidCode.LOST)
_IN_VAIN = _UNDECIDED.join_from(invalid_file, transfer, _LOST_FILE)
#: Repairs that have followed their block to a source that lacks the file too.
_LACKED_TOO = _UNDECIDED.join_from(
    file_exception,
    transfer,
    and_(transfer.c.file_id == file_exception.c.file_id, transfer.c.src_se_id == file_exception.c.se_id),
).join(
    block_dest,
    and_(
        block_dest.c.block_id == transfer.c.block_id,
        block_dest.c.se_id == transfer.c.dst_se_id,
        block_dest.c.repair == 1,
    ),
)


def _some(found: Select[Any]) -> Select[Any]:
    return found.order_by(transfer.c.id).limit(bindparam("n", type_=Integer))


def _locked(found: Select[Any]) -> Select[Any]:
    return (
        found.where(within(transfer.c.id))
        .order_by(transfer.c.id)
        .with_for_update(key_share=True, of=transfer)
    )


IN_VAIN, IN_VAIN_HELD = _some(_IN_VAIN), _locked(_IN_VAIN)
LACKED_TOO, LACKED_TOO_HELD = _some(_LACKED_TOO), _locked(_LACKED_TOO)
LEAVE_OUT = delete(transfer).where(within(transfer.c.id))
#: Copies to which all has come but lost files.
_TRANSFERS = (transfer.c.block_id == block_dest.c.block_id, transfer.c.dst_se_id == block_dest.c.se_id)
BUT_FOR_LOST = (
    select(block_dest.c.se_id, block_dest.c.block_id)
    .join_from(invalid_file, data_file, data_file.c.id == invalid_file.c.file_id)
    .join(block_dest, block_dest.c.block_id == data_file.c.block_id)
    .where(invalid_file.c.code == InvalidCode.LOST, block_dest.c.repair == 0)
    .where(block_dest.c.cursor_id == ALL_QUEUED)
    .where(
        exists().where(*_TRANSFERS, transfer.c.state == TransferState.DONE),
        ~exists().where(*_TRANSFERS, transfer.c.state != TransferState.DONE),
    )
    .distinct()
    .order_by(block_dest.c.se_id, block_dest.c.block_id)
    .limit(bindparam("n", type_=Integer))
)
_ARRIVED = exists().where(
    transfer.c.file_id == file_exception.c.file_id,
    transfer.c.state.in_((TransferState.DONE, TransferState.ACTIVE)),
)


_GIVEN_UP = exists().where(
    invalid_file.c.file_id == file_exception.c.file_id, invalid_file.c.code == InvalidCode.LOST
)


def _lost(*conditions: ColumnElement[bool]) -> Select[Any]:
    """Files with a fault wherever their block is complete, none of it found lately.

    Those nobody shall read too: else copies of their blocks would wait for them forever.
    """
    return (
        select(file_exception.c.file_id, file_exception.c.block_id)
        .where(~_GIVEN_UP, ~_good_elsewhere(), ~_ARRIVED, *conditions)
        .group_by(file_exception.c.file_id, file_exception.c.block_id)
        .having(func.max(file_exception.c.at) <= bindparam("before", type_=file_exception.c.at.type))
        .order_by(file_exception.c.file_id)
    )


LOST = _lost().limit(bindparam("n", type_=Integer))
LOST_OF = _lost(within(file_exception.c.file_id))


def arrange(conn: Connection, now: datetime) -> int:
    """Want the faulty files of complete replicas anew where another copy has them well; how many replicas.

    Also looks again at replicas under repair: well by now, or with faults found since.
    """
    return _look_again(conn, now) + _want(conn, now)


def _want(conn: Connection, now: datetime) -> int:
    found = conn.execute(REPAIRABLE, {"n": SLICE}).all()
    if not found:
        return 0
    ids = sorted({row.block_id for row in found})
    lock_rows(conn, block, ids)
    keys = [(row.block_id, row.se_id) for row in conn.execute(REPAIRABLE_OF, {"ids": ids})]
    blocks = blocks_by_id(conn, ids)
    columns: dict[str, Any] = {
        "block_id": [block_id for block_id, _ in keys],
        "se_id": [se_id for _, se_id in keys],
        "bytes": [blocks[block_id].bytes for block_id, _ in keys],
        "files": [blocks[block_id].files for block_id, _ in keys],
        "repair": Same(1),
        "custodial": Same(0),
        "priority": Same(PRIORITY),
        "code": Same(Reason.ALLOCATED),
        "params": Same({}),
        "valid_until": Same(destinations.AT_ONCE),
        "decided_at": Same(now),
        "created_at": Same(now),
    }
    if keys:
        bulk.write(conn, [New(block_dest, columns)])
    return len(keys)


def _look_again(conn: Connection, now: datetime) -> int:
    ids = {row.block_id for row in conn.execute(STALE)}
    if not ids:
        return 0
    lock_rows(conn, block, ids)
    rows = [row for row in conn.execute(STALE) if row.block_id in ids]
    well = [(row.block_id, row.se_id) for row in rows if not row.excepted]
    store.cancel(conn, well, now)
    destinations.drop(conn, well, now)
    for block_id, se_id in sorted({(row.block_id, row.se_id) for row in rows} - set(well)):
        conn.execute(REPEAT, {"ids": [block_id], "on_se": se_id})
    return len(rows)


def leave_out(conn: Connection, now: datetime) -> int:
    """Copy lost files to nowhere, and mend none from where it is faulty too; how many copies are not made.

    What a repair has left out is queued again once it has another source.
    """
    lost = _leave_out(conn, IN_VAIN, IN_VAIN_HELD, now)
    return lost + _leave_out(conn, LACKED_TOO, LACKED_TOO_HELD, now)


def _leave_out(conn: Connection, some: Select[Any], locked: Select[Any], now: datetime) -> int:
    found = conn.execute(some, {"n": SLICE}).all()
    if not found:
        return 0
    lock_rows(conn, block, {row.block_id for row in found})
    held = conn.execute(locked, {"ids": [row.id for row in found]}).all()
    conn.execute(LEAVE_OUT, {"ids": [row.id for row in held]})
    waited = [row for row in held if row.state in WAITING]
    gone = (((row.src_se_id, row.dst_se_id), Queue(-1, -row.bytes)) for row in waited)
    linkqueues.change(conn, linkqueues.sums(gone), now)
    return len(held)


def finish(conn: Connection, now: datetime) -> int:
    """Finish the replicas that miss nothing but lost files; how many."""
    found = conn.execute(BUT_FOR_LOST, {"n": SLICE}).all()
    return len(finishing.finish(conn, [(row.block_id, row.se_id) for row in found], now))


def give_up(conn: Connection, now: datetime, after: timedelta) -> int:
    """Files without a good copy anywhere, the last fault of which was found so long ago, are LOST; how many.

    Whoever has one after all says so, and it is valid again.
    """
    found = conn.execute(LOST, {"before": now - after, "n": SLICE}).all()
    if not found:
        return 0
    lock_rows(conn, block, {row.block_id for row in found})
    ids = {"ids": [row.file_id for row in found], "before": now - after}
    lost = [row.file_id for row in conn.execute(LOST_OF, ids)]
    return validity.invalidate(conn, lost, InvalidCode.LOST, AGENT, now, "no good copy is left")
