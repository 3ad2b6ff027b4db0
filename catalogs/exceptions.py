"""File exceptions: single files that are missing or bad at an SE though their block is COMPLETE there."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy import Connection, bindparam, delete, select

from catalogs.states import ReplicaState
from catalogs.tables import block, block_replica, data_file, file_exception
from gridcore.db import bulk, lock_rows, reads
from gridcore.db.bulk import New, Same
from gridcore.db.idlists import within
from gridcore.db.reads import Read


class FileFault(StrEnum):
    """What is wrong with one file of a COMPLETE replica."""

    MISSING = "missing"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class FileException:
    """A file that is missing or bad at one SE, though its block is COMPLETE there; who said so, and how."""

    block_id: int
    se_id: int
    file_id: int
    kind: FileFault
    at: datetime
    note: str | None = None
    actor: str | None = None


EXCEPTIONS = (
    select(file_exception)
    .where(within(file_exception.c.block_id))
    .order_by(file_exception.c.block_id, file_exception.c.se_id, file_exception.c.file_id)
)
FAULTS = select(file_exception.c.block_id, file_exception.c.se_id, file_exception.c.file_id).where(
    within(file_exception.c.block_id)
)
COMPLETE_THERE = select(block_replica.c.block_id).where(
    block_replica.c.block_id == bindparam("on_block"),
    block_replica.c.se_id == bindparam("on_se"),
    block_replica.c.state == ReplicaState.COMPLETE,
)
FILES_IN_BLOCK = select(data_file.c.id).where(
    within(data_file.c.id), data_file.c.block_id == bindparam("on_block")
)
CLEAR = delete(file_exception).where(
    file_exception.c.block_id == bindparam("on_block"),
    file_exception.c.se_id == bindparam("on_se"),
    within(file_exception.c.file_id),
)
CLEAR_REPLICAS = delete(file_exception).where(
    within(file_exception.c.block_id), file_exception.c.se_id == bindparam("on_se")
)


def of_blocks(conn: Connection, block_ids: Iterable[int]) -> list[FileException]:
    """The missing and bad files of these blocks, by (block, SE, file)."""
    rows = conn.execute(EXCEPTIONS, {"ids": sorted(set(block_ids))})
    return [FileException(**{**row._mapping, "kind": FileFault(row.kind)}) for row in rows]


def faults_by_se(conn: Connection, block_ids: Iterable[int]) -> dict[int, dict[int, set[int]]]:
    """{block: {SE: the files that are missing or bad there}}, where there are any."""
    (rows,) = reads.rows(conn, [Read(FAULTS, {"ids": sorted(set(block_ids))})])
    return by_se(rows)


def by_se(rows: Iterable[tuple[int, ...]]) -> dict[int, dict[int, set[int]]]:
    """The same of rows of FAULTS."""
    found: dict[int, dict[int, set[int]]] = {}
    for block_id, se_id, file_id in rows:
        found.setdefault(block_id, {}).setdefault(se_id, set()).add(file_id)
    return found


def add(
    conn: Connection,
    block_id: int,
    se_id: int,
    faults: Mapping[int, FileFault],
    now: datetime,
    *,
    actor: str | None = None,
    note: str | None = None,
) -> int:
    """Note files ({file id: fault}) of a COMPLETE replica as missing or bad; how many were not noted before.

    Nothing is noted on a replica that is not COMPLETE, nor for files of other blocks. Locks the block.
    """
    lock_rows(conn, block, [block_id])
    if conn.execute(COMPLETE_THERE, {"on_block": block_id, "on_se": se_id}).first() is None:
        return 0
    noted = faults_by_se(conn, [block_id]).get(block_id, {}).get(se_id, set())
    rows = conn.execute(FILES_IN_BLOCK, {"ids": sorted(faults), "on_block": block_id})
    files = sorted({row.id for row in rows} - noted)
    if files:
        key = {"block_id": Same(block_id), "se_id": Same(se_id), "at": Same(now)}
        told = {"note": Same(note), "actor": Same(actor)}
        kinds = [faults[one].value for one in files]
        bulk.write(conn, [New(file_exception, {**key, "file_id": files, "kind": kinds, **told})])
    return len(files)


def clear(conn: Connection, block_id: int, se_id: int, file_ids: Iterable[int]) -> int:
    """Files that are well again; how many had been noted."""
    binds = {"on_block": block_id, "on_se": se_id, "ids": sorted(set(file_ids))}
    return conn.execute(CLEAR, binds).rowcount


def clear_replicas(conn: Connection, se_id: int, block_ids: Collection[int]) -> None:
    """Forget what was wrong with these blocks' replicas at the SE, which are going."""
    conn.execute(CLEAR_REPLICAS, {"on_se": se_id, "ids": sorted(block_ids)})
