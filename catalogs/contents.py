"""What is in a dataset, file by file and page by page, and its family of parents and children."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import accumulate
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, Connection, Integer, and_, bindparam, or_, select

from catalogs.bookkeeping import DatasetRow, dataset_row, file_by_lfn
from catalogs.states import InvalidCode, ReplicaState
from catalogs.tables import (
    block,
    block_replica,
    data_file,
    dataset,
    dataset_parent,
    dir_,
    file_exception,
    invalid_file,
)
from gridcore.db.idlists import within
from gridcore.errors import NotFound, UsageError

#: Above all keys.
KEY_MAX = 2**63 - 1


class Place(NamedTuple):
    """A file's block and its own key: what pages go by."""

    block_id: int = 0
    file_id: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """A file of a dataset; `invalid` says why nobody shall read it."""

    id: int
    lfn: str
    block_id: int
    block: str
    bytes: int
    adler32: int
    events: int | None
    created_at: datetime
    invalid: InvalidCode | None

    @property
    def place(self) -> Place:
        return Place(self.block_id, self.id)


_OF_DATASET = and_(
    block.c.dataset_id == bindparam("of_dataset"), block.c.id >= bindparam("from_block", type_=BigInteger)
)
_ON = bindparam("on_se", type_=BigInteger)
OWNER = select(block.c.dataset_id).where(block.c.id == bindparam("on_block"))
#: The blocks a page may need, if each has but one file.
BLOCKS = (
    select(block.c.id, block.c.files)
    .where(_OF_DATASET)
    .order_by(block.c.id)
    .limit(bindparam("n", type_=Integer))
)
BLOCKS_AT = (
    select(block.c.id, block.c.files)
    .join_from(block, block_replica, block_replica.c.block_id == block.c.id)
    .where(_OF_DATASET, block_replica.c.se_id == _ON, block_replica.c.state == ReplicaState.COMPLETE)
    .order_by(block.c.id)
    .limit(bindparam("n", type_=Integer))
)
_AFTER = or_(
    data_file.c.block_id > bindparam("from_block", type_=BigInteger),
    data_file.c.id > bindparam("from_file", type_=BigInteger),
)
FILES = (
    select(data_file, dir_.c.path, block.c.name.label("block"), invalid_file.c.code.label("invalid"))
    .join_from(data_file, dir_, dir_.c.id == data_file.c.dir_id)
    .join(block, block.c.id == data_file.c.block_id)
    .outerjoin(invalid_file, invalid_file.c.file_id == data_file.c.id)
    .where(within(data_file.c.block_id), _AFTER)
    .order_by(data_file.c.block_id, data_file.c.id)
    .limit(bindparam("n", type_=Integer))
)
_FAULT = and_(
    file_exception.c.block_id == data_file.c.block_id,
    file_exception.c.se_id == _ON,
    file_exception.c.file_id == data_file.c.id,
)
NAMES_AT = (
    select(data_file.c.block_id, data_file.c.id, dir_.c.path, data_file.c.name)
    .join_from(data_file, dir_, dir_.c.id == data_file.c.dir_id)
    .outerjoin(file_exception, _FAULT)
    .where(within(data_file.c.block_id), _AFTER, file_exception.c.file_id.is_(None))
    .order_by(data_file.c.block_id, data_file.c.id)
    .limit(bindparam("n", type_=Integer))
)
PARENTS = (
    select(dataset)
    .join_from(dataset_parent, dataset, dataset.c.id == dataset_parent.c.parent_id)
    .where(within(dataset_parent.c.dataset_id))
    .distinct()
)
CHILDREN = (
    select(dataset)
    .join_from(dataset_parent, dataset, dataset.c.id == dataset_parent.c.dataset_id)
    .where(within(dataset_parent.c.parent_id))
    .distinct()
)


def place_of(conn: Connection, dataset_id: int, lfn: str) -> Place:
    """Where a page begins that follows this file. Raises NotFound, UsageError for one of another dataset."""
    found = file_by_lfn(conn, lfn)
    if found is None:
        raise NotFound(f"there is no file {lfn}", hint="the last LFN of the page before")
    if conn.execute(OWNER, {"on_block": found.block_id}).scalar_one() != dataset_id:
        raise UsageError(f"{lfn} is in another dataset", hint="the last LFN of the page before")
    return Place(found.block_id, found.id)


def files(conn: Connection, dataset_id: int, after: Place, limit: int) -> list[Content]:
    """Up to `limit` files of a dataset after a place, by block and key."""
    binds = {"of_dataset": dataset_id, "from_block": after.block_id, "n": limit + 1}
    ids = _enough(conn.execute(BLOCKS, binds).all(), limit)
    on = {"ids": ids, "from_block": after.block_id, "from_file": after.file_id, "n": limit}
    return [_content(row) for row in conn.execute(FILES, on)] if ids else []


def _enough(blocks: Sequence[Any], n: int) -> list[int]:
    """The first of the blocks that fill a page, though the first one be over already. Pure."""
    filled = accumulate((0, *(row.files for row in blocks[1:])), initial=0)
    return [row.id for row, before in zip(blocks, filled, strict=False) if before < n]


def _content(row: Any) -> Content:
    same = ("id", "block_id", "block", "bytes", "adler32", "events", "created_at", "invalid")
    return Content(lfn=f"{row.path}/{row.name}", **{name: row._mapping[name] for name in same})


def names_at(
    conn: Connection, dataset_id: int, se_id: int, after: Place, limit: int
) -> tuple[list[str], Place | None]:
    """Up to `limit` LFNs of a dataset's files that are good at an SE, and the place to go on after; None at
    the end."""
    binds = {"of_dataset": dataset_id, "on_se": se_id, "from_block": after.block_id, "n": limit + 1}
    blocks = conn.execute(BLOCKS_AT, binds).all()
    ids = _enough(blocks, limit)
    if not ids:
        return [], None
    on = {"ids": ids, "on_se": se_id, "n": limit}
    rows = conn.execute(NAMES_AT, {**on, "from_block": after.block_id, "from_file": after.file_id}).all()
    names = [f"{path}/{name}" for _, _, path, name in rows]
    if len(rows) == limit:
        return names, Place(rows[-1].block_id, rows[-1].id)
    return names, Place(ids[-1], KEY_MAX) if len(ids) < len(blocks) or len(blocks) > limit else None


def family(
    conn: Connection, dataset_id: int, *, children: bool, generations: int = 1
) -> list[tuple[int, DatasetRow]]:
    """(generation, dataset) of what a dataset was made from, or of what was made from it, nearest first; each
    once."""
    statement = CHILDREN if children else PARENTS
    seen, last, found = {dataset_id}, [dataset_id], []
    for generation in range(1, generations + 1):
        rows = [dataset_row(row) for row in conn.execute(statement, {"ids": last})]
        new = sorted((one for one in rows if one.id not in seen), key=lambda one: one.name)
        if not new:
            break
        found += [(generation, one) for one in new]
        last = sorted(one.id for one in new)
        seen.update(last)
    return found
