"""Bookkeeping: datasets, blocks and files: making and closing them, and reading what they hold."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import BigInteger, Connection, bindparam, case, func, select, type_coerce, update

from catalogs import histories, holdings
from catalogs.states import Access, BlockState, DatasetState
from catalogs.tables import IS_OPEN, block, block_history, data_file, dataset, dir_, file_run
from gridcore.db import bulk, lock_rows, outbox
from gridcore.db.bulk import Change, New, Same
from gridcore.db.idlists import names_within, within
from gridcore.db.statements import insert_new, select_in
from gridcore.db.types import UtcTime
from gridcore.errors import NotFound, UsageError
from gridcore.ids import check_dataset, check_lfn, split_lfn

# --- values ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BlockPolicy:
    """A block is closed once it holds so many files or bytes, or so many seconds after it was opened."""

    files: int
    bytes: int
    age_s: float

    def __post_init__(self) -> None:
        if min(self.files, self.bytes, self.age_s) <= 0:
            raise UsageError(f"{self} would close empty blocks", hint="files, bytes and age_s are above zero")


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetRow:
    """A dataset, its counters and what its owner states; `events` is the sum where they are known."""

    id: int
    name: str
    state: DatasetState
    policy: BlockPolicy
    files: int
    bytes: int
    events: int
    created_at: datetime
    access: Access
    description: str | None
    group: str | None

    @property
    def tier(self) -> str:
        """The last part of its name."""
        return self.name.rpartition("/")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockRow:
    """A block and its counters; an open one is old enough to be closed at `close_by`."""

    id: int
    dataset_id: int
    name: str
    origin_se_id: int
    state: BlockState
    files: int
    bytes: int
    events: int
    created_at: datetime
    closed_at: datetime | None
    close_by: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRow:
    """A registered file."""

    id: int
    block_id: int
    lfn: str
    bytes: int
    adler32: int
    events: int | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Named:
    """A registered file, and its dataset."""

    id: int
    dataset_id: int


#: Columns of a dataset that are fields of its value.
_PLAIN = (*("id", "name", "state", "files", "bytes", "events", "created_at", "description"),)
#: Blocks grow old within a century.
_AGE_MAX_S = 100 * 365 * 86400.0

# --- statements --------------------------------------------------------------------------------------

DATASET = select(dataset).where(dataset.c.id == bindparam("dataset_id"))
DATASET_NAMED = select(dataset).where(dataset.c.name == bindparam("name"))
SWITCH_DATASET = (
    update(dataset)
    .where(dataset.c.id == bindparam("dataset_id"), dataset.c.state != bindparam("dst"))
    .values(state=bindparam("dst"))
)
BLOCK_COUNTS = (
    select(block.c.state, func.count().label("n"))
    .where(block.c.dataset_id == bindparam("dataset_id"))
    .group_by(block.c.state)
)
BLOCKS = select(block).where(block.c.id.in_(bindparam("ids", expanding=True))).order_by(block.c.id)
CLOSED_BLOCKS = (
    select(block)
    .where(block.c.dataset_id == bindparam("dataset_id"), block.c.state == BlockState.CLOSED)
    .where(block.c.id > bindparam("after"))
    .order_by(block.c.id)
)
_DUE_CODE = case(
    (block.c.files >= dataset.c.block_files, "files"),
    (block.c.bytes >= dataset.c.block_bytes, "bytes"),
    (dataset.c.state == DatasetState.CLOSED, "task end"),
    (
        func.coalesce(
            type_coerce(block.c.close_by, BigInteger),
            type_coerce(block.c.created_at, BigInteger) + dataset.c.block_age_s * 1_000_000,
        )
        <= bindparam("now", type_=UtcTime),
        "age",
    ),
)
DUE = (
    select(block.c.id, _DUE_CODE.label("code"))
    .join_from(block, dataset)
    .where(IS_OPEN, _DUE_CODE.is_not(None))
    .order_by(block.c.close_by, block.c.id)
)
OPEN_BLOCKS = (
    select(block.c.id, block.c.dataset_id, block.c.origin_se_id, block.c.name, block.c.files)
    .where(within(block.c.id), IS_OPEN)
    .order_by(block.c.id)
)
DATASETS_OF = select(block.c.dataset_id).where(within(block.c.id)).distinct()
UNSETTLE = update(dataset).where(within(dataset.c.id)).values(unsettled=1)
SETTLE = update(dataset).where(dataset.c.id == bindparam("dataset_id")).values(unsettled=0)
_FILES = select(data_file, dir_.c.path).join_from(data_file, dir_, dir_.c.id == data_file.c.dir_id)
FILES_OF_BLOCK = _FILES.where(data_file.c.block_id == bindparam("block_id")).order_by(data_file.c.id)
FILE_NAMED = _FILES.where(dir_.c.path == bindparam("path"), data_file.c.name == bindparam("name"))
FILES_NAMED = (
    select(data_file.c.id, data_file.c.name, block.c.dataset_id)
    .join_from(data_file, dir_, dir_.c.id == data_file.c.dir_id)
    .join(block, block.c.id == data_file.c.block_id)
    .where(dir_.c.path == bindparam("path"), names_within(data_file.c.name))
)
RUNS = (
    select(file_run)
    .where(file_run.c.file_id.in_(bindparam("ids", expanding=True)))
    .order_by(file_run.c.file_id, file_run.c.run, file_run.c.first_lumi)
)


# --- datasets ----------------------------------------------------------------------------------------


def create_dataset(conn: Connection, key: int, name: str, policy: BlockPolicy, now: datetime) -> int:
    """The id of the dataset of that name, made if there is none; an existing one keeps its policy."""
    row = {
        "id": key,
        "name": name,
        **parts_of(name),
        "state": DatasetState.OPEN,
        "block_files": policy.files,
        "block_bytes": policy.bytes,
        "block_age_s": policy.age_s,
        "created_at": now,
    }
    found = conn.execute(DATASET_NAMED, {"name": name}).one_or_none()
    if found is None and insert_new(conn, dataset, row):
        return key
    return int((found or conn.execute(DATASET_NAMED, {"name": name}).one()).id)


def parts_of(name: str) -> dict[str, str]:
    """The columns of what a dataset's name says. Raises UsageError."""
    return dict(zip(("prim", "proc", "data_tier"), check_dataset(name).split("/")[1:], strict=True))


def close_dataset(
    conn: Connection, dataset_id: int, actor: str, now: datetime, reason: str | None = None
) -> bool:
    """Accept no further file; its open blocks become due. False if it was closed."""
    return _switch(conn, dataset_id, DatasetState.CLOSED, "closed", actor, now, reason)


def reopen_dataset(
    conn: Connection, dataset_id: int, actor: str, now: datetime, reason: str | None = None
) -> bool:
    """Accept files again, into new blocks. False if it was open."""
    return _switch(conn, dataset_id, DatasetState.OPEN, "reopened", actor, now, reason)


def _switch(
    conn: Connection,
    dataset_id: int,
    state: DatasetState,
    change: str,
    actor: str,
    now: datetime,
    reason: str | None,
) -> bool:
    if conn.execute(SWITCH_DATASET, {"dataset_id": dataset_id, "dst": state}).rowcount != 1:
        return False
    detail = {"reason": reason} if reason else None
    histories.tell_dataset(conn, dataset_id, change, actor, now, detail)
    return True


def unsettle(conn: Connection, dataset_ids: Iterable[int]) -> None:
    """Have allocation look at these datasets. Takes their locks, which come before those of subscriptions."""
    lock_rows(conn, dataset, ids := sorted(set(dataset_ids)))
    conn.execute(UNSETTLE, {"ids": ids})


def settle(conn: Connection, dataset_id: int) -> None:
    """Allocation has looked at the dataset, under its lock."""
    conn.execute(SETTLE, {"dataset_id": dataset_id})


# --- closing -----------------------------------------------------------------------------------------


def due_blocks(conn: Connection, now: datetime) -> list[tuple[int, str]]:
    """(id, code) of the open blocks to close, the oldest first: files | bytes | task end (dataset closed) |
    age."""
    return [(row.id, row.code) for row in conn.execute(DUE, {"now": now})]


def close_blocks(conn: Connection, ids: Iterable[int], code: str, now: datetime) -> list[int]:
    """Close those that are open; which they were. Closed blocks are immutable and may be copied.

    Locks their datasets, then the blocks; allocation has to look at the datasets.
    """
    wanted = {"ids": sorted(set(ids))}
    lock_rows(conn, dataset, conn.execute(DATASETS_OF, wanted).scalars())
    lock_rows(conn, block, wanted["ids"])
    rows = conn.execute(OPEN_BLOCKS, wanted).all()
    if not rows:
        return []
    closed, datasets, origins, *_ = zip(*rows, strict=True)
    put = {"state": Same(BlockState.CLOSED), "closed_at": Same(now)}
    change = {
        "frm": Same(BlockState.OPEN),
        "dst": Same(BlockState.CLOSED),
        "at": Same(now),
        "code": Same(code),
    }
    n = Counter(datasets)
    counted = {"closed_blocks": [n[key] for key in sorted(n)]}
    writes: list[New | Change] = [
        Change(dataset, {"id": sorted(n)}, counted, {"unsettled": Same(1)}),
        Change(block, {"id": closed}, put=put),
        New(block_history, {"block_id": closed, **change}),
    ]
    bulk.write(conn, writes)
    growth = Counter(zip(datasets, origins, strict=True))
    holdings.grow(conn, [(*key, 0, more, 0, 0) for key, more in growth.items()])
    events = [(row.name, {"block_id": row.id, "files": row.files}) for row in rows]
    outbox.emit_all(conn, "block.closed", events)
    return list(closed)


def close_due(conn: Connection, now: datetime, n: int) -> int:
    """Close up to `n` blocks that are due; how many. All their datasets are locked before the first
    block, all blocks before the first counter."""
    by_code: dict[str, list[int]] = defaultdict(list)
    for block_id, code in due_blocks(conn, now)[:n]:
        by_code[code].append(block_id)
    ids = sorted(key for found in by_code.values() for key in found)
    lock_rows(conn, dataset, conn.execute(DATASETS_OF, {"ids": ids}).scalars())
    lock_rows(conn, block, ids)
    return sum(len(close_blocks(conn, found, code, now)) for code, found in by_code.items())


def close_by(opened: datetime, policy: BlockPolicy) -> datetime:
    """When a block opened then is old enough to be closed."""
    return opened + timedelta(seconds=min(policy.age_s, _AGE_MAX_S))


# --- reading -----------------------------------------------------------------------------------------


def dataset_row(row: Any) -> DatasetRow:
    """A row of the table as a value."""
    policy = BlockPolicy(row.block_files, row.block_bytes, row.block_age_s)
    return DatasetRow(
        policy=policy,
        access=row.access_type,
        group=row.acct_group,
        **{name: row._mapping[name] for name in _PLAIN},
    )


def dataset_by_id(conn: Connection, dataset_id: int) -> DatasetRow:
    """The dataset. Raises NotFound."""
    row = conn.execute(DATASET, {"dataset_id": dataset_id}).one_or_none()
    if row is None:
        raise NotFound(f"there is no dataset with id {dataset_id}")
    return dataset_row(row)


def dataset_by_name(conn: Connection, name: str) -> DatasetRow | None:
    """The dataset, None where there is none."""
    row = conn.execute(DATASET_NAMED, {"name": name}).one_or_none()
    return dataset_row(row) if row else None


def dataset_summary(conn: Connection, dataset_id: int) -> tuple[DatasetRow, dict[BlockState, int]]:
    """The dataset and its number of blocks by state. Raises NotFound."""
    counts = {row.state: row.n for row in conn.execute(BLOCK_COUNTS, {"dataset_id": dataset_id})}
    return dataset_by_id(conn, dataset_id), {state: counts.get(state, 0) for state in BlockState}


def closed_blocks(conn: Connection, dataset_id: int, after: int = 0) -> list[BlockRow]:
    """Closed blocks by id, of those ids above `after`; blocks do not close in the order of their ids."""
    rows = conn.execute(CLOSED_BLOCKS, {"dataset_id": dataset_id, "after": after})
    return [BlockRow(**row._mapping) for row in rows]


def blocks_by_id(conn: Connection, ids: Iterable[int]) -> dict[int, BlockRow]:
    """{id: block} of those that exist, by id."""
    return {row.id: BlockRow(**row._mapping) for row in select_in(conn, BLOCKS, ids)}


def _file_row(row: Any) -> FileRow:
    values = {k: v for k, v in row._mapping.items() if k not in ("dir_id", "name", "path")}
    return FileRow(lfn=f"{row.path}/{row.name}", **values)


def files_of_block(conn: Connection, block_id: int) -> list[FileRow]:
    """Its files by id."""
    return [_file_row(row) for row in conn.execute(FILES_OF_BLOCK, {"block_id": block_id})]


def file_by_lfn(conn: Connection, lfn: str) -> FileRow | None:
    """The file, None where no such LFN is registered."""
    path, name = split_lfn(lfn)
    row = conn.execute(FILE_NAMED, {"path": path, "name": name}).one_or_none()
    return _file_row(row) if row else None


def files_named(conn: Connection, lfns: Iterable[str]) -> dict[str, Named]:
    """{LFN: file} of those that are registered. Raises UsageError for what is no LFN."""
    by_dir: dict[str, set[str]] = defaultdict(set)
    for lfn in lfns:
        path, name = split_lfn(check_lfn(lfn))
        by_dir[path].add(name)
    found: dict[str, Named] = {}
    for path, names in sorted(by_dir.items()):
        rows = conn.execute(FILES_NAMED, {"path": path, "names": sorted(names)})
        found |= {f"{path}/{row.name}": Named(row.id, row.dataset_id) for row in rows}
    return found


def runs_of(conn: Connection, file_ids: Iterable[int]) -> dict[int, dict[int, list[tuple[int, int]]]]:
    """{file id: {run: [(first lumi, last lumi)]}} of the files that have any."""
    result: dict[int, dict[int, list[tuple[int, int]]]] = {}
    for row in select_in(conn, RUNS, file_ids):
        result.setdefault(row.file_id, {}).setdefault(row.run, []).append((row.first_lumi, row.last_lumi))
    return result
