"""Where data lie: a file, a dataset, and what lies nowhere else. Each is one statement.

A copy of a file is good in a COMPLETE replica of its block without an exception for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    Select,
    and_,
    bindparam,
    case,
    exists,
    func,
    literal,
    select,
    union_all,
)

from catalogs.exceptions import FileFault
from catalogs.states import InvalidCode, ReplicaState
from catalogs.tables import (
    block,
    block_replica,
    data_file,
    dataset,
    dir_,
    file_exception,
    holding,
    invalid_file,
    se,
    site,
)
from gridcore.db import reads
from gridcore.db.idlists import IdList, Within, within
from gridcore.db.reads import Read
from gridcore.errors import NotFound
from gridcore.ids import split_lfn


@dataclass(frozen=True, slots=True)
class Place:
    """What an SE has of a dataset: COMPLETE replicas, those of closed blocks, what is in them.

    `excepted` are single files that are missing or bad there.
    """

    se: str
    site: str
    blocks: int
    closed: int
    files: int
    bytes: int
    excepted: int


@dataclass(frozen=True, slots=True)
class Copy:
    """A file at an SE, as its block's replica is; `fault` is what is wrong with this one file there."""

    se: str
    site: str
    state: ReplicaState
    custodial: bool
    transit: bool
    fault: FileFault | None

    @property
    def good(self) -> bool:
        """Whether it can be read there."""
        return self.state == ReplicaState.COMPLETE and self.fault is None


@dataclass(frozen=True, slots=True, kw_only=True)
class FileAt:
    """A file and its copies by SE; `invalid` says why nobody shall read it."""

    id: int
    bytes: int
    adler32: int
    events: int | None
    created_at: datetime
    block_id: int
    block: str
    dataset_id: int
    invalid: InvalidCode | None
    copies: tuple[Copy, ...]


@dataclass(frozen=True, slots=True)
class Unique:
    """What is of a dataset at some SEs and nowhere else: whole blocks, and all files, theirs among them."""

    dataset_id: int
    dataset: str
    blocks: int
    files: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Amount:
    """COMPLETE replicas at some SEs, and what is in them; a block counts at each."""

    blocks: int
    files: int
    bytes: int


# --- statements ------------------------------------------------------------------------------------------

_FAULTY = (
    select(file_exception.c.se_id, func.count().label("n"))
    .join_from(file_exception, block, block.c.id == file_exception.c.block_id)
    .where(block.c.dataset_id == bindparam("of_dataset"))
    .group_by(file_exception.c.se_id)
    .subquery("faulty")
)
PLACES = (
    select(
        *(se.c.name.label("se"), site.c.name.label("site")),
        *(holding.c.blocks, holding.c.closed, holding.c.files, holding.c.bytes),
        func.coalesce(_FAULTY.c.n, 0).label("excepted"),
    )
    .join_from(holding, se, se.c.id == holding.c.se_id)
    .join(site, site.c.id == se.c.site_id)
    .outerjoin(_FAULTY, _FAULTY.c.se_id == holding.c.se_id)
    .where(holding.c.dataset_id == bindparam("of_dataset"), holding.c.blocks > 0)
    .order_by(se.c.name)
)
_OF_FILE = and_(
    file_exception.c.block_id == block_replica.c.block_id,
    file_exception.c.se_id == block_replica.c.se_id,
    file_exception.c.file_id == data_file.c.id,
)
#: The columns that are the same for all copies.
_OF_THE_FILE = (
    *("id", "bytes", "adler32", "events", "created_at"),
    *("block_id", "block", "dataset_id", "invalid"),
)
FILE = (
    select(
        *(data_file.c.id, data_file.c.bytes, data_file.c.adler32, data_file.c.events),
        *(data_file.c.created_at, data_file.c.block_id, block.c.name.label("block")),
        *(block.c.dataset_id, invalid_file.c.code.label("invalid")),
        *(se.c.name.label("se"), site.c.name.label("site"), block_replica.c.state),
        *(block_replica.c.custodial, block_replica.c.transit, file_exception.c.kind),
    )
    .join_from(dir_, data_file, data_file.c.dir_id == dir_.c.id)
    .join(block, block.c.id == data_file.c.block_id)
    .outerjoin(invalid_file, invalid_file.c.file_id == data_file.c.id)
    .outerjoin(block_replica, block_replica.c.block_id == block.c.id)
    .outerjoin(se, se.c.id == block_replica.c.se_id)
    .outerjoin(site, site.c.id == se.c.site_id)
    .outerjoin(file_exception, _OF_FILE)
    .where(dir_.c.path == bindparam("path"), data_file.c.name == bindparam("name"))
    .order_by(se.c.name)
)
HELD = select(
    func.coalesce(func.sum(holding.c.blocks), 0).label("blocks"),
    func.coalesce(func.sum(holding.c.files), 0).label("files"),
    func.coalesce(func.sum(holding.c.bytes), 0).label("bytes"),
).where(within(holding.c.se_id, "here"))


def _here(table: FromClause) -> ColumnElement[bool]:
    return Within(table.c.se_id, bindparam("here", type_=IdList()))


def _elsewhere(table: FromClause) -> ColumnElement[bool]:
    """Not here; said so that databases without booleans understand it too."""
    return case((_here(table), 1), else_=0) == 0


def _complete(table: FromClause) -> ColumnElement[bool]:
    return table.c.state == ReplicaState.COMPLETE


_OTHER = block_replica.alias("other")


def _copies_elsewhere(block_id: ColumnElement[int]) -> ColumnElement[int]:
    """How many COMPLETE replicas the block has that are not here.

    Counted, which is done block by block: of NOT EXISTS PostgreSQL makes a join with all replicas there are.
    """
    there = _OTHER.c.block_id == block_id, _complete(_OTHER), _elsewhere(_OTHER)
    copies = select(func.count()).select_from(_OTHER).where(*there)
    return copies.correlate_except(_OTHER).scalar_subquery()


def _good(block_id: ColumnElement[int], file_id: ColumnElement[int], *, here: bool) -> ColumnElement[bool]:
    """The file has a good copy here, or elsewhere."""
    copy, fault = block_replica.alias("copy"), file_exception.alias("fault")
    faulty = select(fault.c.file_id).where(
        fault.c.block_id == copy.c.block_id, fault.c.se_id == copy.c.se_id, fault.c.file_id == file_id
    )
    where = _here(copy) if here else _elsewhere(copy)
    copies = select(copy.c.se_id).where(
        copy.c.block_id == block_id, _complete(copy), where, ~exists(faulty.correlate_except(fault))
    )
    return exists(copies.correlate_except(copy))


def _unique() -> Any:
    """By dataset, summed over three parts, of which the last two are driven by the exceptions, which are few.

    Whole blocks that are here only; from these, files that are good at none of the places here; and of
    blocks that are elsewhere too, files that are good here only.
    """
    held = select(block_replica.c.block_id).where(_here(block_replica), _complete(block_replica)).distinct()
    held_here = held.subquery("held")
    whole = (
        select(block.c.dataset_id, literal(1).label("blocks"), block.c.files, block.c.bytes)
        .join_from(held_here, block, block.c.id == held_here.c.block_id)
        .where(_copies_elsewhere(held_here.c.block_id) == 0)
    )
    here = _faults().where(_here(file_exception)).distinct().subquery("bad_here")
    lost = _files(here, -1).where(
        ~_good(here.c.block_id, here.c.file_id, here=True), _copies_elsewhere(here.c.block_id) == 0
    )
    there = _faults().where(_elsewhere(file_exception)).distinct().subquery("bad_there")
    single = _files(there, 1).where(
        _good(there.c.block_id, there.c.file_id, here=True),
        ~_good(there.c.block_id, there.c.file_id, here=False),
        _copies_elsewhere(there.c.block_id) > 0,
    )
    parts = union_all(whole, lost, single).subquery("part")
    sums = [func.sum(parts.c[name]).label(name) for name in ("blocks", "files", "bytes")]
    return (
        select(parts.c.dataset_id, dataset.c.name, *sums)
        .join_from(parts, dataset, dataset.c.id == parts.c.dataset_id)
        .group_by(parts.c.dataset_id, dataset.c.name)
        .order_by(dataset.c.name)
    )


def _faults() -> Select[tuple[int, int]]:
    """Files that are missing or bad somewhere, of blocks with a COMPLETE replica here."""
    mine = block_replica.alias("mine")
    return (
        select(file_exception.c.block_id, file_exception.c.file_id)
        .join_from(file_exception, mine, mine.c.block_id == file_exception.c.block_id)
        .where(_here(mine), _complete(mine))
    )


def _files(of: FromClause, sign: int) -> Any:
    return (
        select(
            block.c.dataset_id,
            literal(0).label("blocks"),
            literal(sign).label("files"),
            data_file.c.bytes * sign,
        )
        .join_from(of, data_file, data_file.c.id == of.c.file_id)
        .join(block, block.c.id == of.c.block_id)
    )


UNIQUE = _unique()


# --- questions -------------------------------------------------------------------------------------------


def where(conn: Connection, dataset_id: int) -> list[Place]:
    """Who has something of the dataset, by SE."""
    (rows,) = reads.rows(conn, [Read(PLACES, {"of_dataset": dataset_id})])
    return [Place(*row) for row in rows]


def where_file(conn: Connection, lfn: str) -> FileAt:
    """The file and its copies. Raises NotFound."""
    path, name = split_lfn(lfn)
    (rows,) = reads.rows(conn, [Read(FILE, {"path": path, "name": name})])
    if not rows:
        raise NotFound(
            f"no file {lfn} is registered", hint="outputs not yet merged are not: ask for their job"
        )
    copies = tuple(_copy(*row[len(_OF_THE_FILE) :]) for row in rows if row[len(_OF_THE_FILE)] is not None)
    return FileAt(**dict(zip(_OF_THE_FILE, rows[0], strict=False)), copies=copies)


def _copy(se_name: str, site_name: str, state: Any, custodial: int, transit: int, kind: str | None) -> Copy:
    fault = FileFault(kind) if kind else None
    return Copy(se_name, site_name, state, bool(custodial), bool(transit), fault)


def unique_at(conn: Connection, se_ids: Iterable[int]) -> list[Unique]:
    """By dataset, what has a good copy at these SEs and at no other: what is lost if all of them die."""
    (rows,) = reads.rows(conn, [Read(UNIQUE, {"here": list(se_ids)})])
    return [Unique(dataset_id, name, *map(int, amounts)) for dataset_id, name, *amounts in rows if amounts[1]]


def held_at(conn: Connection, se_ids: Iterable[int]) -> Amount:
    """All that is at these SEs."""
    ((row,),) = reads.rows(conn, [Read(HELD, {"here": list(se_ids)})])
    return Amount(*map(int, row))
