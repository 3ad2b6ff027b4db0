"""Discovery: what datasets there are and where they lie, read for the faces."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Integer, Select, bindparam, func, literal_column, select

from catalogs import facts, location
from catalogs.bookkeeping import (
    BlockRow,
    DatasetRow,
    dataset_by_name,
    dataset_row,
    dataset_summary,
    runs_of,
)
from catalogs.finding import DATASETS as LANGUAGE
from catalogs.location import FileAt, Place
from catalogs.metadata import Value
from catalogs.replicas import ReplicaRow, replicas
from catalogs.states import BlockState, ReplicaState
from catalogs.tables import (
    block,
    block_replica,
    data_file,
    dataset,
    dataset_parent,
    dir_,
    file_parent,
    invalid_file,
    se,
    site,
)
from catalogs.tables import block_history as history
from gridcore.db import globs
from gridcore.db.statements import select_in
from gridcore.errors import NotFound, UsageError
from gridcore.selectors import WILDCARDS

#: Parents and children shown at most.
SHOWN = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Moving:
    """Replicas of a dataset that come to an SE, or go from it, and what is in them."""

    se: str
    site: str
    state: ReplicaState
    blocks: int
    files: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetView:
    """A dataset, its number of blocks by state, who has how much of it, and what comes and goes.

    Parents and children are names of datasets; `invalid` counts files nobody shall read.
    """

    dataset: DatasetRow
    blocks: dict[BlockState, int]
    metadata: dict[str, Value]
    parents: tuple[str, ...]
    children: tuple[str, ...]
    invalid: int
    holdings: tuple[Place, ...]
    moving: tuple[Moving, ...]


@dataclass(frozen=True, slots=True)
class BlockView:
    """A block and its replicas by SE name."""

    block: BlockRow
    replicas: dict[str, ReplicaRow]


@dataclass(frozen=True, slots=True)
class BlockEvent:
    """A block was opened or closed, and why."""

    at: datetime
    state: BlockState
    code: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FileView:
    """A file and where it lies, its lumi ranges by run, and the LFNs of its parents and children."""

    file: FileAt
    runs: dict[int, list[tuple[int, int]]]
    parents: tuple[str, ...]
    children: tuple[str, ...]


DATASETS = select(dataset).order_by(dataset.c.name)
NEWEST = select(dataset.c.name).order_by(dataset.c.id.desc()).limit(1000)
MOVING = (
    select(
        se.c.name.label("se"),
        site.c.name.label("site"),
        block_replica.c.state,
        func.count().label("blocks"),
        func.sum(block.c.files).label("files"),
        func.sum(block.c.bytes).label("bytes"),
    )
    .join_from(block_replica, block, block.c.id == block_replica.c.block_id)
    .join(se, se.c.id == block_replica.c.se_id)
    .join(site)
    .where(block.c.dataset_id == bindparam("dataset_id"))
    .where(block_replica.c.state != literal_column("'COMPLETE'"))
    .group_by(se.c.name, site.c.name, block_replica.c.state)
    .order_by(se.c.name, block_replica.c.state)
)
INVALID = (
    select(func.count())
    .select_from(invalid_file)
    .join(data_file, data_file.c.id == invalid_file.c.file_id)
    .join(block, block.c.id == data_file.c.block_id)
    .where(block.c.dataset_id == bindparam("dataset_id"))
)
PARENT_NAMES = (
    select(dataset.c.name)
    .join_from(dataset_parent, dataset, dataset.c.id == dataset_parent.c.parent_id)
    .where(dataset_parent.c.dataset_id == bindparam("dataset_id"))
    .order_by(dataset.c.name)
    .limit(SHOWN)
)
CHILD_NAMES = (
    select(dataset.c.name)
    .join_from(dataset_parent, dataset, dataset.c.id == dataset_parent.c.dataset_id)
    .where(dataset_parent.c.parent_id == bindparam("dataset_id"))
    .order_by(dataset.c.name)
    .limit(SHOWN)
)
BLOCKS_OF = (
    select(block)
    .where(block.c.dataset_id == bindparam("dataset_id"), block.c.id > bindparam("after"))
    .order_by(block.c.id)
    .limit(bindparam("n", type_=Integer))
)
BLOCK_NAMED = select(block).where(block.c.name == bindparam("name"))
BLOCK_HISTORY = (
    select(history.c.at, history.c.dst, history.c.code)
    .where(history.c.block_id == bindparam("block_id"))
    .order_by(history.c.seq)
)
SE_NAMES = select(se.c.id, se.c.name).where(se.c.id.in_(bindparam("ids", expanding=True)))
_NAMES = select(dir_.c.path, data_file.c.name)
PARENTS = (
    _NAMES.join_from(file_parent, data_file, data_file.c.id == file_parent.c.parent_id)
    .join(dir_, dir_.c.id == data_file.c.dir_id)
    .where(file_parent.c.file_id == bindparam("file_id"))
    .order_by(dir_.c.path, data_file.c.name)
    .limit(SHOWN)
)
CHILDREN = (
    _NAMES.join_from(file_parent, data_file, data_file.c.id == file_parent.c.file_id)
    .join(dir_, dir_.c.id == data_file.c.dir_id)
    .where(file_parent.c.parent_id == bindparam("file_id"))
    .order_by(dir_.c.path, data_file.c.name)
    .limit(SHOWN)
)


def datasets(conn: Connection, pattern: str = "*", limit: int = 100) -> list[DatasetRow]:
    """Up to `limit` datasets by name whose name fits the pattern, `*` for any text, `?` for one character.

    Raises UsageError for a pattern made to be slow.
    """
    named = DATASETS.where(globs.like(dataset.c.name, _checked(pattern))).limit(limit)
    return [dataset_row(row) for row in conn.execute(named)]


def _checked(pattern: str) -> str:
    """The pattern as queries take it, runs of `*` as one. Raises UsageError."""
    text = re.sub(r"\*+", "*", pattern)
    wildcards = sum(mark in WILDCARDS for mark in text)
    if len(text) > LANGUAGE.pattern_max or wildcards > LANGUAGE.wildcards_max or not text.isprintable():
        most = f"at most {LANGUAGE.pattern_max} characters, {LANGUAGE.wildcards_max} of them * or ?"
        raise UsageError(f"a pattern of {len(text)} characters, {wildcards} wildcards", hint=most)
    return text


def newest(conn: Connection) -> list[str]:
    """The names of the newest datasets, of which one may have been meant."""
    return list(conn.execute(NEWEST).scalars())


def dataset_show(conn: Connection, name: str) -> DatasetView:
    """The dataset and where it lies. Raises NotFound."""
    found, counts = dataset_summary(conn, dataset_named(conn, name).id)
    of_it = {"dataset_id": found.id}
    moving = (
        Moving(**{**row._mapping, "files": int(row.files), "bytes": int(row.bytes)})
        for row in conn.execute(MOVING, of_it)
    )
    return DatasetView(
        dataset=found,
        blocks=counts,
        metadata=facts.metadata_of(conn, found.id),
        parents=tuple(conn.execute(PARENT_NAMES, of_it).scalars()),
        children=tuple(conn.execute(CHILD_NAMES, of_it).scalars()),
        invalid=conn.execute(INVALID, of_it).scalar_one(),
        holdings=tuple(location.where(conn, found.id)),
        moving=tuple(moving),
    )


def blocks(conn: Connection, dataset_name: str, after: int = 0, limit: int = 1000) -> list[BlockView]:
    """A page of a dataset's blocks by id, of those ids above `after`. Raises NotFound."""
    binds = {"dataset_id": dataset_named(conn, dataset_name).id, "after": after, "n": limit}
    return _views(conn, [BlockRow(**row._mapping) for row in conn.execute(BLOCKS_OF, binds)])


def block_show(conn: Connection, name: str) -> BlockView:
    """The block and its replicas. Raises NotFound."""
    row = conn.execute(BLOCK_NAMED, {"name": name}).one_or_none()
    if row is None:
        raise NotFound(f"there is no block {name}", hint="see: tierflow block list DATASET")
    (view,) = _views(conn, [BlockRow(**row._mapping)])
    return view


def block_history(conn: Connection, block_id: int) -> list[BlockEvent]:
    """How it was opened and closed, and why."""
    return [BlockEvent(*row) for row in conn.execute(BLOCK_HISTORY, {"block_id": block_id})]


def file_show(conn: Connection, lfn: str) -> FileView:
    """The file, where it comes from and where it lies. Raises NotFound."""
    found = location.where_file(conn, lfn)
    parents, children = (_lfns(conn, of, found.id) for of in (PARENTS, CHILDREN))
    runs = runs_of(conn, [found.id]).get(found.id, {})
    return FileView(file=found, runs=runs, parents=parents, children=children)


def _lfns(conn: Connection, of: Select[Any], file_id: int) -> tuple[str, ...]:
    return tuple(f"{row.path}/{row.name}" for row in conn.execute(of, {"file_id": file_id}))


def dataset_named(conn: Connection, name: str) -> DatasetRow:
    """The dataset. Raises NotFound."""
    found = dataset_by_name(conn, name)
    if found is None:
        raise NotFound(f"there is no dataset {name}", hint="list the names with a pattern such as '/Min*'")
    return found


def _views(conn: Connection, rows: list[BlockRow]) -> list[BlockView]:
    held = replicas(conn, [row.id for row in rows])
    se_ids = {one.se_id for group in held.values() for one in group}
    names = {row.id: row.name for row in select_in(conn, SE_NAMES, se_ids)}
    return [BlockView(row, {names[one.se_id]: one for one in held.get(row.id, [])}) for row in rows]
