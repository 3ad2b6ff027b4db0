"""Removal: the replicas and files that are to be removed from storage, and what is written once they are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Integer, bindparam, exists, literal_column, select, update

from catalogs.states import ReplicaState
from catalogs.tables import block, block_replica, data_file, dir_
from datamgmt.deletion_states import MACHINE, DeletionEvent, DeletionState
from datamgmt.reasons import Reason
from datamgmt.tables import deletion, transfer
from datamgmt.transfer_states import TransferState
from datamgmt.wanted import charging
from datamgmt.wanted.allocation import ReplicaKey
from gridcore.db.idlists import within
from gridcore.errors import UsageError
from gridcore.ids import check_lfn, split_lfn


@dataclass(frozen=True, slots=True)
class Doomed:
    """A DELETING replica whose files are to be removed from storage."""

    block_id: int
    se_id: int
    custodial: bool
    files: int

    @property
    def key(self) -> ReplicaKey:
        return self.block_id, self.se_id


def _being_written() -> ColumnElement[bool]:
    return exists().where(
        transfer.c.block_id == block_replica.c.block_id,
        transfer.c.dst_se_id == block_replica.c.se_id,
        transfer.c.state == TransferState.CANCELLED,
    )


#: In words of the index of busy replicas, which a bind would keep from being used.
_DELETING = (
    block_replica.c.state != literal_column("'COMPLETE'"),
    block_replica.c.state == literal_column("'DELETING'"),
)
LEAVING = select(block_replica.c.se_id).where(*_DELETING).distinct().order_by(block_replica.c.se_id)
DOOMED = (
    select(block_replica.c.block_id, block_replica.c.se_id, block_replica.c.custodial, block.c.files)
    .join_from(block_replica, block, block.c.id == block_replica.c.block_id)
    .where(block_replica.c.se_id == bindparam("on_se"), *_DELETING, ~_being_written())
    .where(block_replica.c.block_id > bindparam("after"))
    .order_by(block_replica.c.block_id)
    .limit(bindparam("n", type_=Integer))
)
FILES = (
    select(data_file.c.block_id, data_file.c.id, dir_.c.path, data_file.c.name)
    .join_from(data_file, dir_, dir_.c.id == data_file.c.dir_id)
    .where(within(data_file.c.block_id))
    .order_by(data_file.c.block_id, data_file.c.id)
)
_UNDER_WAY = (
    within(deletion.c.block_id),
    deletion.c.se_id == bindparam("on_se"),
    deletion.c.state == DeletionState.DELETING,
)
REMOVED = (
    update(deletion)
    .where(*_UNDER_WAY)
    .values(
        state=MACHINE.next(DeletionState.DELETING, DeletionEvent.REMOVED),
        code=None,
        params=None,
        updated_at=bindparam("at"),
    )
)
STUCK = (
    update(deletion)
    .where(*_UNDER_WAY)
    .values(
        code=Reason.STORAGE_ERROR,
        params=bindparam("facts", type_=deletion.c.params.type),
        updated_at=bindparam("at"),
    )
)
REGISTERED_AT = (
    select(data_file.c.id)
    .join_from(data_file, dir_, dir_.c.id == data_file.c.dir_id)
    .join(block_replica, block_replica.c.block_id == data_file.c.block_id)
    .where(dir_.c.path == bindparam("path"), data_file.c.name == bindparam("name"))
    .where(block_replica.c.se_id == bindparam("on_se"), block_replica.c.state != ReplicaState.DELETING)
)


def leaving(conn: Connection) -> list[int]:
    """The storage elements with anything to remove, ascending."""
    return list(conn.execute(LEAVING).scalars())


def doomed(conn: Connection, se_id: int, n: int, after: int = 0) -> list[Doomed]:
    """Up to `n` replicas to remove at the SE, of blocks above `after`, ascending; those a copy is still being
    written to wait for its end."""
    return [Doomed(*row) for row in conn.execute(DOOMED, {"on_se": se_id, "n": n, "after": after})]


def files_of(conn: Connection, block_ids: Iterable[int]) -> dict[int, list[tuple[int, str]]]:
    """{block: [(file, LFN)]}, by file."""
    found: dict[int, list[tuple[int, str]]] = defaultdict(list)
    for block_id, file_id, path, name in conn.execute(FILES, {"ids": sorted(set(block_ids))}):
        found[block_id].append((file_id, f"{path}/{name}"))
    return found


def remove(conn: Connection, keys: Collection[ReplicaKey], now: datetime) -> int:
    """Forget replicas whose files are gone, their deletions are done; how many. Locks the blocks."""
    gone = charging.remove(conn, sorted(keys))
    for se_id, block_ids in _by_se(gone).items():
        conn.execute(REMOVED, {"on_se": se_id, "ids": block_ids, "at": now})
    return len(gone)


def stuck(conn: Connection, keys: Collection[ReplicaKey], facts: Mapping[str, Any], now: datetime) -> None:
    """Say of the replicas' deletions that the storage did not do as it was told."""
    for se_id, block_ids in _by_se(keys).items():
        conn.execute(STUCK, {"on_se": se_id, "ids": block_ids, "facts": facts, "at": now})


def _by_se(keys: Iterable[ReplicaKey]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = defaultdict(list)
    for block_id, se_id in sorted(keys):
        found[se_id].append(block_id)
    return found


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
