"""Discovery: what datasets there are and where they lie, read for the faces."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, Integer, bindparam, func, select

from catalogs.bookkeeping import (
    BlockRow,
    DatasetRow,
    FileRow,
    blocks_by_id,
    dataset_by_name,
    dataset_row,
    dataset_summary,
    file_by_lfn,
    runs_of,
)
from catalogs.replicas import ReplicaRow, replicas
from catalogs.states import BlockState, ReplicaState
from catalogs.tables import block, block_replica, data_file, dataset, dir_, file_parent, se, site
from gridcore.db.statements import select_in
from gridcore.errors import NotFound


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """What one SE holds of a dataset: its replicas in one state, and what is in them."""

    se: str
    site: str
    state: ReplicaState
    blocks: int
    files: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetView:
    """A dataset, its number of blocks by state, and who holds how much of it."""

    dataset: DatasetRow
    blocks: dict[BlockState, int]
    holdings: tuple[Holding, ...]


@dataclass(frozen=True, slots=True)
class BlockView:
    """A block and its replicas by SE name."""

    block: BlockRow
    replicas: dict[str, ReplicaRow]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileView:
    """A file, its lumi ranges by run, its parents' LFNs, its block and that block's replicas by SE name."""

    file: FileRow
    runs: dict[int, list[tuple[int, int]]]
    parents: tuple[str, ...]
    block: BlockView


DATASETS = (
    select(dataset)
    .where(func.lower(dataset.c.name).like(bindparam("pattern"), escape="!"))
    .order_by(dataset.c.name)
    .limit(bindparam("n", type_=Integer))
)
HOLDINGS = (
    select(
        se.c.name.label("se"),
        site.c.name.label("site"),
        block_replica.c.state,
        func.count().label("blocks"),
        func.sum(block.c.files).label("files"),
        func.sum(block.c.bytes).label("bytes"),
    )
    .join_from(block, block_replica, block_replica.c.block_id == block.c.id)
    .join(se, se.c.id == block_replica.c.se_id)
    .join(site)
    .where(block.c.dataset_id == bindparam("dataset_id"))
    .group_by(se.c.name, site.c.name, block_replica.c.state)
    .order_by(se.c.name, block_replica.c.state)
)
BLOCKS_OF = (
    select(block)
    .where(block.c.dataset_id == bindparam("dataset_id"), block.c.id > bindparam("after"))
    .order_by(block.c.id)
    .limit(bindparam("n", type_=Integer))
)
SE_NAMES = select(se.c.id, se.c.name).where(se.c.id.in_(bindparam("ids", expanding=True)))
PARENTS = (
    select(dir_.c.path, data_file.c.name)
    .join_from(file_parent, data_file, data_file.c.id == file_parent.c.parent_id)
    .join(dir_, dir_.c.id == data_file.c.dir_id)
    .where(file_parent.c.file_id == bindparam("file_id"))
    .order_by(dir_.c.path, data_file.c.name)
)


def like(pattern: str) -> str:
    """A pattern with `*` for any text as SQL LIKE takes it, with `!` to escape; lower case.

    Case is ignored on every database, as SQLite always does. Pure.
    """
    quoted = "".join(f"!{one}" if one in "!%_" else one for one in pattern.lower())
    return quoted.replace("*", "%")


def datasets(conn: Connection, pattern: str = "*", limit: int = 100) -> list[DatasetRow]:
    """Up to `limit` datasets by name whose name fits the pattern, `*` standing for any text."""
    return [dataset_row(row) for row in conn.execute(DATASETS, {"pattern": like(pattern), "n": limit})]


def dataset_show(conn: Connection, name: str) -> DatasetView:
    """The dataset and where it lies. Raises NotFound."""
    found, counts = dataset_summary(conn, _dataset(conn, name).id)
    rows = conn.execute(HOLDINGS, {"dataset_id": found.id})
    holdings = (
        Holding(
            se=row.se,
            site=row.site,
            state=row.state,
            blocks=row.blocks,
            files=int(row.files),
            bytes=int(row.bytes),
        )
        for row in rows
    )
    return DatasetView(dataset=found, blocks=counts, holdings=tuple(holdings))


def blocks(conn: Connection, dataset_name: str, after: int = 0, limit: int = 1000) -> list[BlockView]:
    """A page of a dataset's blocks by id, of those ids above `after`. Raises NotFound."""
    binds = {"dataset_id": _dataset(conn, dataset_name).id, "after": after, "n": limit}
    return _views(conn, [BlockRow(**row._mapping) for row in conn.execute(BLOCKS_OF, binds)])


def file_show(conn: Connection, lfn: str) -> FileView:
    """The file, where it comes from and where it lies. Raises NotFound."""
    found = file_by_lfn(conn, lfn)
    if found is None:
        raise NotFound(
            f"no file {lfn} is registered", hint="outputs not yet merged are not: ask for their job"
        )
    parents = (f"{row.path}/{row.name}" for row in conn.execute(PARENTS, {"file_id": found.id}))
    (view,) = _views(conn, list(blocks_by_id(conn, [found.block_id]).values()))
    runs = runs_of(conn, [found.id]).get(found.id, {})
    return FileView(file=found, runs=runs, parents=tuple(parents), block=view)


def _dataset(conn: Connection, name: str) -> DatasetRow:
    found = dataset_by_name(conn, name)
    if found is None:
        raise NotFound(f"there is no dataset {name}", hint="list the names with a pattern such as '/Min*'")
    return found


def _views(conn: Connection, rows: list[BlockRow]) -> list[BlockView]:
    held = replicas(conn, [row.id for row in rows])
    se_ids = {one.se_id for group in held.values() for one in group}
    names = {row.id: row.name for row in select_in(conn, SE_NAMES, se_ids)}
    return [BlockView(row, {names[one.se_id]: one for one in held.get(row.id, [])}) for row in rows]
