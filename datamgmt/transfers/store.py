"""Transfer rows: they follow their block's route, are ranked again, cancelled, and listed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Integer, Select, and_, bindparam, delete, not_, or_, select, update

from catalogs.tables import data_file, dir_, se
from datamgmt.links import linkqueues
from datamgmt.links.linkqueues import WAITING, Queue
from datamgmt.links.paths import LinkKey
from datamgmt.tables import block_dest, transfer
from datamgmt.tools.base import ErrorClass
from datamgmt.transfer_states import TransferState, deadline_factor
from datamgmt.wanted.allocation import ReplicaKey
from gridcore.db import bulk
from gridcore.db.bulk import Change, Same
from gridcore.db.idlists import within
from gridcore.db.statements import chunks, one_of, run_many


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

    @property
    def deadline_factor(self) -> int:
        """How many times longer than usual its next try may take."""
        return deadline_factor(self.bytes, self.attempts, self.error_class == ErrorClass.TIMEOUT)


# --- statements --------------------------------------------------------------------------------------

_UNDECIDED = (*WAITING, TransferState.FAILED)
_OF_REPLICA = (transfer.c.block_id == bindparam("on_block"), transfer.c.dst_se_id == bindparam("on_se"))
_AT = (within(transfer.c.block_id), within(transfer.c.dst_se_id, "ses"))
#: What waits or has failed on a hop its block has left, and what has failed where its hop is chosen again.
ASTRAY = (
    select(
        *(transfer.c[name] for name in ("id", "block_id", "dst_se_id", "src_se_id", "state", "bytes")),
        block_dest.c.src_se_id.label("hop_src"),
    )
    .join_from(
        transfer,
        block_dest,
        and_(block_dest.c.block_id == transfer.c.block_id, block_dest.c.se_id == transfer.c.dst_se_id),
    )
    .where(*_AT, one_of(transfer.c.state, _UNDECIDED), block_dest.c.src_se_id.is_not(None))
    .where(or_(transfer.c.state == TransferState.FAILED, transfer.c.src_se_id != block_dest.c.src_se_id))
    .order_by(transfer.c.id)
    .with_for_update(key_share=True, of=transfer)
)
RANK_AGAIN = (
    update(transfer)
    .where(*_OF_REPLICA, one_of(transfer.c.state, _UNDECIDED))
    .values(priority=bindparam("new_priority"), updated_at=bindparam("at"))
)
COUNTED = (
    select(*(transfer.c[name] for name in ("id", "block_id", "src_se_id", "dst_se_id", "state", "bytes")))
    .where(*_AT, one_of(transfer.c.state, (*WAITING, TransferState.ACTIVE)))
    .order_by(transfer.c.id)
    .with_for_update(key_share=True)
)
DROP_IDLE = delete(transfer).where(
    *_OF_REPLICA, not_(one_of(transfer.c.state, (TransferState.ACTIVE, TransferState.CANCELLED)))
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
    .where(or_(bindparam("any_src", type_=Integer) == 1, _SRC.c.name == bindparam("src")))
    .where(or_(bindparam("any_dst", type_=Integer) == 1, _DST.c.name == bindparam("dst")))
    .where(
        or_(
            bindparam("any_end", type_=Integer) == 1,
            _SRC.c.name == bindparam("end"),
            _DST.c.name == bindparam("end"),
        )
    )
    .order_by(transfer.c.id)
    .limit(bindparam("n", type_=Integer))
)


# --- following the routes --------------------------------------------------------------------------------


def follow(conn: Connection, keys: Collection[ReplicaKey], now: datetime) -> int:
    """Queue anew, on the hops now written for these replicas, what waits or has failed on another, and what
    has failed on the same; how many files."""
    moved = [row for row in _of(conn, ASTRAY, keys) if (row.block_id, row.dst_se_id) in keys]
    if not moved:
        return 0
    put = {
        "src_se_id": [row.hop_src for row in moved],
        "state": Same(TransferState.QUEUED),
        "attempts": Same(0),
        "not_before": Same(None),
        "updated_at": Same(now),
    }
    bulk.write(conn, [Change(transfer, {"id": [row.id for row in moved]}, put=put)])
    left = [(_link(row), Queue(-1, -row.bytes)) for row in moved if row.state in WAITING]
    come = [((row.hop_src, row.dst_se_id), Queue(1, row.bytes)) for row in moved]
    linkqueues.change(conn, linkqueues.sums([*left, *come]), now)
    return len(moved)


def _of(conn: Connection, statement: Select[Any], keys: Collection[ReplicaKey]) -> list[Any]:
    """Rows by block and destination: more than the keys' own where these share blocks."""
    rows: list[Any] = []
    for part in chunks(sorted(keys)):
        blocks, ses = ({key[end] for key in part} for end in (0, 1))
        rows += conn.execute(statement, {"ids": sorted(blocks), "ses": sorted(ses)})
    return list({row.id: row for row in rows}.values())


def _link(row: Any) -> LinkKey:
    return row.src_se_id, row.dst_se_id


def set_priority(conn: Connection, priorities: Mapping[ReplicaKey, int], now: datetime) -> None:
    """Let what is queued for these replicas go sooner or later."""
    rows = [{**_at(key), "new_priority": n, "at": now} for key, n in sorted(priorities.items())]
    run_many(conn, RANK_AGAIN, rows)


def cancel(conn: Connection, keys: Collection[ReplicaKey], now: datetime) -> None:
    """Nobody wants these replicas any more. A copy under way stays as CANCELLED until its agent lets go of
    the file, so that nothing arrives behind the deleter's back. The blocks' locks are held."""
    ends = {"block_id": [key[0] for key in sorted(keys)], "se_id": [key[1] for key in sorted(keys)]}
    # Where the wish itself stays, all files are queued again once it is served anew.
    bulk.write(conn, [Change(block_dest, ends, put={"cursor_id": Same(0)})])
    rows = [row for row in _of(conn, COUNTED, keys) if (row.block_id, row.dst_se_id) in keys]
    run_many(conn, DROP_IDLE, [_at(key) for key in sorted(keys)])
    going = [row for row in rows if row.state is TransferState.ACTIVE]
    put = {"state": Same(TransferState.CANCELLED), "updated_at": Same(now)}
    bulk.write(conn, [Change(transfer, {"id": [row.id for row in going]}, put=put)])
    gone = ((_link(row), Queue(-1, -row.bytes)) for row in rows if row.state is not TransferState.ACTIVE)
    linkqueues.change(conn, linkqueues.sums([*gone, *((_link(row), Queue(active=-1)) for row in going)]), now)


# --- faces -------------------------------------------------------------------------------------------


def transfers(
    conn: Connection,
    *,
    state: TransferState | None = None,
    src: str | None = None,
    dst: str | None = None,
    end: str | None = None,
    limit: int = 100,
) -> list[TransferRow]:
    """Up to `limit` transfers by id: in one state or any, by the names of the storage elements they come
    from and go to, or of one that is at either `end`."""
    binds: dict[str, Any] = {"states": [state] if state else list(TransferState), "n": limit}
    for name, value in (("src", src), ("dst", dst), ("end", end)):
        binds |= {name: value or "-", f"any_{name}": int(value is None)}
    return [_listed(row) for row in conn.execute(LISTED, binds)]


def _listed(row: Any) -> TransferRow:
    values = {name: value for name, value in row._mapping.items() if name not in ("path", "name")}
    return TransferRow(lfn=f"{row.path}/{row.name}", **values)


def _at(key: ReplicaKey) -> dict[str, int]:
    return {"on_block": key[0], "on_se": key[1]}
