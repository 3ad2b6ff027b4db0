"""Replicas: which blocks lie at which storage elements, and the guards that keep the last good copy."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, bindparam, delete, select, update

from catalogs.states import BlockState, ReplicaState
from catalogs.tables import block, block_replica, data_file, file_exception
from gridcore.db import insert_rows, lock_rows, outbox
from gridcore.db.statements import run_many, select_in
from gridcore.errors import Conflict, NotFound


class FileFault(StrEnum):
    """What is wrong with one file of a COMPLETE replica."""

    MISSING = "missing"
    BAD = "bad"


class Kept(StrEnum):
    """Why a replica is not deleted."""

    LAST = "last good replica"
    CUSTODIAL = "custodial"
    ABSENT = "no such replica"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaRow:
    """A block at an SE; `hops` counts the WAN transfers it took from the block's origin."""

    block_id: int
    se_id: int
    state: ReplicaState
    hops: int
    transit: bool
    custodial: bool
    created_at: datetime
    completed_at: datetime | None


@dataclass(frozen=True, slots=True)
class FileException:
    """A file that is missing or bad at one SE, though its block is COMPLETE there."""

    block_id: int
    se_id: int
    file_id: int
    kind: FileFault
    at: datetime


_HERE = (block_replica.c.block_id == bindparam("on_block"), block_replica.c.se_id == bindparam("on_se"))
_ALIVE = block_replica.c.state != ReplicaState.DELETING
_IN_BLOCKS = block_replica.c.block_id.in_(bindparam("ids", expanding=True))

REPLICAS = select(block_replica).where(_IN_BLOCKS).order_by(block_replica.c.block_id, block_replica.c.se_id)
COMPLETE_REPLICAS = REPLICAS.where(block_replica.c.state == ReplicaState.COMPLETE)
REPLICA = select(block_replica).where(*_HERE)
BLOCK = select(block.c.name, block.c.state).where(block.c.id == bindparam("on_block"))
COMPLETE = (
    update(block_replica)
    .where(*_HERE, block_replica.c.state == ReplicaState.COPYING)
    .values(state=ReplicaState.COMPLETE, hops=bindparam("new_hops"), completed_at=bindparam("at"))
)
SET_CUSTODIAL = update(block_replica).where(*_HERE, _ALIVE).values(custodial=bindparam("new_custodial"))
KEEP = update(block_replica).where(*_HERE, _ALIVE).values(transit=0)
DELETING = update(block_replica).where(*_HERE, _ALIVE).values(state=ReplicaState.DELETING)
REMOVE = delete(block_replica).where(*_HERE, block_replica.c.state == ReplicaState.DELETING)
EXCEPTIONS = (
    select(file_exception)
    .where(file_exception.c.block_id.in_(bindparam("ids", expanding=True)))
    .order_by(file_exception.c.block_id, file_exception.c.se_id, file_exception.c.file_id)
)
FILES_IN_BLOCK = select(data_file.c.id).where(
    data_file.c.id.in_(bindparam("ids", expanding=True)), data_file.c.block_id == bindparam("on_block")
)
_EXCEPTED = (file_exception.c.block_id == bindparam("on_block"), file_exception.c.se_id == bindparam("on_se"))
CLEAR_EXCEPTION = delete(file_exception).where(*_EXCEPTED, file_exception.c.file_id == bindparam("on_file"))
CLEAR_EXCEPTIONS = delete(file_exception).where(*_EXCEPTED)


# --- reading -----------------------------------------------------------------------------------------


def _replica(row: Any) -> ReplicaRow:
    flags = {"transit": bool(row.transit), "custodial": bool(row.custodial)}
    return ReplicaRow(**{**row._mapping, **flags})


def _by_block(rows: Iterable[Any]) -> dict[int, list[ReplicaRow]]:
    found: dict[int, list[ReplicaRow]] = {}
    for row in rows:
        found.setdefault(row.block_id, []).append(_replica(row))
    return found


def complete_replicas(conn: Connection, block_ids: Iterable[int]) -> dict[int, list[ReplicaRow]]:
    """{block id: its COMPLETE replicas by SE} of the blocks that have any: what jobs may read."""
    return _by_block(select_in(conn, COMPLETE_REPLICAS, block_ids))


def replicas(conn: Connection, block_ids: Iterable[int]) -> dict[int, list[ReplicaRow]]:
    """{block id: its replicas in any state, by SE} of the blocks that have any."""
    return _by_block(select_in(conn, REPLICAS, block_ids))


def exceptions(conn: Connection, block_ids: Iterable[int]) -> list[FileException]:
    """The missing and bad files of these blocks, by (block, SE, file)."""
    rows = select_in(conn, EXCEPTIONS, block_ids)
    return [FileException(row.block_id, row.se_id, row.file_id, FileFault(row.kind), row.at) for row in rows]


# --- a replica's life --------------------------------------------------------------------------------


def begin(
    conn: Connection, block_id: int, se_id: int, *, transit: bool, custodial: bool, now: datetime
) -> ReplicaState:
    """Have a COPYING replica, made if there is none; the state of the one that is there.

    One that was in transit only or not custodial becomes wanted or custodial as asked. DELETING is a refusal:
    ask again when it is gone. Raises NotFound, Conflict for an open block.
    """
    lock_rows(conn, block, [block_id])
    name, state = _block(conn, block_id)
    if state is BlockState.OPEN:
        raise Conflict(f"block {name} is open: it grows at its origin and is copied once it is closed")
    row = conn.execute(REPLICA, _at(block_id, se_id)).one_or_none()
    if row is None:
        flags = {"transit": int(transit), "custodial": int(custodial)}
        key = {"block_id": block_id, "se_id": se_id}
        insert_rows(conn, block_replica, [{**key, **flags, "state": ReplicaState.COPYING, "created_at": now}])
        return ReplicaState.COPYING
    if not transit:
        conn.execute(KEEP, _at(block_id, se_id))
    if custodial:
        conn.execute(SET_CUSTODIAL, {**_at(block_id, se_id), "new_custodial": 1})
    return ReplicaState(row.state)


def complete(conn: Connection, block_id: int, se_id: int, hops: int, now: datetime) -> bool:
    """The last file has arrived, by so many WAN transfers from the origin. False if it was not COPYING."""
    binds = {**_at(block_id, se_id), "new_hops": hops, "at": now}
    if not conn.execute(COMPLETE, binds).rowcount:
        return False
    _tell(conn, "replica.complete", block_id, se_id)
    return True


def set_custodial(conn: Connection, block_id: int, se_id: int, custodial: bool) -> bool:
    """Mark the replica as the one to preserve, or not. False if there is none or it is being removed."""
    lock_rows(conn, block, [block_id])
    binds = {**_at(block_id, se_id), "new_custodial": int(custodial)}
    return conn.execute(SET_CUSTODIAL, binds).rowcount == 1


def keep(conn: Connection, block_id: int, se_id: int) -> bool:
    """A transit copy is wanted for itself now. False if there is none or it is being removed."""
    lock_rows(conn, block, [block_id])
    return conn.execute(KEEP, _at(block_id, se_id)).rowcount == 1


def mark_deleting(conn: Connection, block_id: int, se_id: int, *, custodial_too: bool = False) -> Kept | None:
    """Let the replica go, under the block's lock; why not, or None when it is DELETING."""
    lock_rows(conn, block, [block_id])
    held = {one.se_id: one for one in replicas(conn, [block_id]).get(block_id, [])}
    spoilt = {one.se_id for one in exceptions(conn, [block_id])}
    kept = refusal(held, spoilt, se_id, custodial_too=custodial_too)
    if kept is None and conn.execute(DELETING, _at(block_id, se_id)).rowcount:
        conn.execute(CLEAR_EXCEPTIONS, _at(block_id, se_id))
        _tell(conn, "replica.deleting", block_id, se_id)
    return kept


def refusal(
    held: Mapping[int, ReplicaRow], spoilt: Collection[int], se_id: int, *, custodial_too: bool
) -> Kept | None:
    """Why the replica at `se_id` must stay, given a block's replicas by SE; pure.

    A COMPLETE one goes only while another COMPLETE one without a missing or bad file (not in `spoilt`) stays.
    """
    mine = held.get(se_id)
    if mine is None:
        return Kept.ABSENT
    if mine.state is ReplicaState.DELETING:
        return None
    if mine.custodial and not custodial_too:
        return Kept.CUSTODIAL
    good = {key for key, one in held.items() if one.state is ReplicaState.COMPLETE} - set(spoilt) - {se_id}
    return Kept.LAST if mine.state is ReplicaState.COMPLETE and not good else None


def remove(conn: Connection, block_id: int, se_id: int) -> bool:
    """Forget a replica whose files are gone. False if it was not DELETING."""
    lock_rows(conn, block, [block_id])
    return conn.execute(REMOVE, _at(block_id, se_id)).rowcount == 1


# --- file exceptions ---------------------------------------------------------------------------------


def add_exceptions(
    conn: Connection, block_id: int, se_id: int, faults: Mapping[int, FileFault], now: datetime
) -> int:
    """Note files ({file id: fault}) of a COMPLETE replica as missing or bad; how many were not noted before.

    Nothing is noted on a replica that is not COMPLETE, nor for files of other blocks.
    """
    lock_rows(conn, block, [block_id])
    row = conn.execute(REPLICA, _at(block_id, se_id)).one_or_none()
    if row is None or row.state is not ReplicaState.COMPLETE:
        return 0
    noted = {one.file_id for one in exceptions(conn, [block_id]) if one.se_id == se_id}
    files = {row.id for row in select_in(conn, FILES_IN_BLOCK, faults, {"on_block": block_id})} - noted
    key = {"block_id": block_id, "se_id": se_id, "at": now}
    insert_rows(conn, file_exception, [{**key, "file_id": one, "kind": faults[one]} for one in sorted(files)])
    return len(files)


def clear_exceptions(conn: Connection, block_id: int, se_id: int, file_ids: Iterable[int]) -> int:
    """Files that are well again; how many had been noted."""
    here = _at(block_id, se_id)
    return run_many(conn, CLEAR_EXCEPTION, [{**here, "on_file": one} for one in sorted(set(file_ids))])


def _at(block_id: int, se_id: int) -> dict[str, int]:
    return {"on_block": block_id, "on_se": se_id}


def _block(conn: Connection, block_id: int) -> tuple[str, BlockState]:
    row = conn.execute(BLOCK, {"on_block": block_id}).one_or_none()
    if row is None:
        raise NotFound(f"there is no block with id {block_id}")
    return row.name, row.state


def _tell(conn: Connection, kind: str, block_id: int, se_id: int) -> None:
    outbox.emit(conn, kind, _block(conn, block_id)[0], {"block_id": block_id, "se_id": se_id})
