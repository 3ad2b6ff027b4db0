"""Registration: entering files into their dataset's blocks, one idempotent operation: bookkeeping, location,
counters and event."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import Any

from sqlalchemy import Connection, Table, Update, bindparam, select, update
from sqlalchemy.exc import IntegrityError

from catalogs.bookkeeping import BlockPolicy, DatasetRow, close_blocks, dataset_by_id
from catalogs.states import BlockState, DatasetState, ReplicaState
from catalogs.tables import (
    block,
    block_history,
    block_replica,
    data_file,
    dataset,
    dir_,
    file_parent,
    file_run,
)
from gridcore.db import insert_rows, lock_rows, outbox
from gridcore.db.keys import Keys
from gridcore.db.statements import insert_new, run_many, select_in
from gridcore.errors import Conflict, NotFound, UsageError
from gridcore.ids import check_lfn, split_lfn

ADLER32_MAX = 2**32 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class NewFile:
    """A file to register: lumi ranges (first, last) by run, parents by their file ids.

    `events` is None where nobody counted them.
    """

    lfn: str
    bytes: int
    adler32: int
    events: int | None = None
    runs: Mapping[int, Sequence[tuple[int, int]]] = field(default_factory=dict)
    parents: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Reserved:
    """Keys for one call of `register`, taken before its transaction."""

    files: range
    blocks: range
    dirs: range

    def part(self, first: int, n: int) -> Reserved:
        """The keys for `n` of the files, from the `first` on."""
        here = slice(first, first + n)
        return Reserved(self.files[here], self.blocks[here], self.dirs[here])


def _grow_counters(table: Table) -> Update:
    more = {name: table.c[name] + bindparam(f"more_{name}") for name in ("files", "bytes", "events")}
    return update(table).where(table.c.id == bindparam("row_id")).values(**more)


OPEN_BLOCK = select(block.c.id, block.c.files, block.c.bytes).where(
    block.c.dataset_id == bindparam("dataset_id"),
    block.c.state == BlockState.OPEN,
    block.c.origin_se_id == bindparam("se_id"),
)
GROW_BLOCK = _grow_counters(block)
GROW_DATASET = _grow_counters(dataset)
DIRS = select(dir_.c.path, dir_.c.id).where(dir_.c.path.in_(bindparam("ids", expanding=True)))
IN_DIR = (
    select(data_file.c.id, data_file.c.name, data_file.c.bytes, data_file.c.adler32)
    .add_columns(dataset.c.name.label("owner"))
    .join_from(data_file, dir_)
    .join(block, block.c.id == data_file.c.block_id)
    .join(dataset, dataset.c.id == block.c.dataset_id)
    .where(dir_.c.path == bindparam("path"), data_file.c.name.in_(bindparam("ids", expanding=True)))
)
FILE_IDS = select(data_file.c.id).where(data_file.c.id.in_(bindparam("ids", expanding=True)))


def reserve(keys: Keys, n_files: int) -> Reserved:
    """Keys enough to register `n_files` in one call, whatever blocks and directories that takes."""
    return Reserved(*(keys.take(name, n_files) for name in ("data_file", "block", "dir")))


def register(
    conn: Connection,
    reserved: Reserved,
    dataset_id: int,
    se_id: int,
    files: Sequence[NewFile],
    now: datetime,
) -> list[int]:
    """Enter files that lie at their origin SE into the dataset's open block there; their ids, in order.

    A file registered before, with the same size and checksum, keeps its id and changes nothing. Full
    blocks are closed. Several datasets in one transaction: by ascending id. Raises NotFound, UsageError, and
    Conflict for an LFN that is taken by other content or another dataset, or a closed dataset.
    """
    wanted = _distinct(files)
    if len(reserved.files) < len(wanted):
        raise ValueError(f"{len(reserved.files)} keys were reserved for {len(wanted)} files")
    lock_rows(conn, dataset, [dataset_id])
    target = dataset_by_id(conn, dataset_id)
    ids = _known(conn, target, wanted)
    new = [one for lfn, one in wanted.items() if lfn not in ids]
    if new:
        _check_parents(conn, new)
        ids |= _enter(conn, reserved, target, se_id, new, now)
    return [ids[one.lfn] for one in files]


def _distinct(files: Sequence[NewFile]) -> dict[str, NewFile]:
    wanted: dict[str, NewFile] = {}
    for one in files:
        check_lfn(one.lfn)
        if one.bytes < 0 or not 0 <= one.adler32 <= ADLER32_MAX or (one.events or 0) < 0:
            raise UsageError(f"{one.lfn} has a size, checksum or event count that cannot be")
        first = wanted.setdefault(one.lfn, one)
        if (first.bytes, first.adler32) != (one.bytes, one.adler32):
            raise Conflict(f"{one.lfn} is given twice with different content")
    return wanted


def _known(conn: Connection, target: DatasetRow, wanted: Mapping[str, NewFile]) -> dict[str, int]:
    """{LFN: id} of those registered before. Raises Conflict."""
    by_dir: dict[str, list[str]] = defaultdict(list)
    for lfn in wanted:
        path, name = split_lfn(lfn)
        by_dir[path].append(name)
    ids = {}
    for path, names in by_dir.items():
        for row in select_in(conn, IN_DIR, names, {"path": path}):
            lfn = f"{path}/{row.name}"
            one = wanted[lfn]
            if row.owner != target.name:
                raise Conflict(f"{lfn} is already a file of dataset {row.owner}, not of {target.name}")
            if (row.bytes, row.adler32) != (one.bytes, one.adler32):
                raise Conflict(
                    f"{lfn} is already registered with {row.bytes} bytes and adler32 {row.adler32:08x}, "
                    f"not {one.bytes} and {one.adler32:08x}",
                    hint="an LFN is never overwritten: write the new content under another name",
                )
            ids[lfn] = row.id
    return ids


def _check_parents(conn: Connection, files: Sequence[NewFile]) -> None:
    parents = {parent for one in files for parent in one.parents}
    missing = parents - {row.id for row in select_in(conn, FILE_IDS, parents)}
    if missing:
        raise NotFound(f"no file with id {min(missing)} is registered, yet it is named as a parent")


def _enter(
    conn: Connection,
    reserved: Reserved,
    target: DatasetRow,
    se_id: int,
    files: Sequence[NewFile],
    now: datetime,
) -> dict[str, int]:
    """{LFN: id} of new files, entered under the dataset's lock."""
    if target.state is DatasetState.CLOSED:
        raise Conflict(f"dataset {target.name} is closed and gets no further file", hint="reopen it first")
    current = _lock_open_block(conn, target.id, se_id)
    held = (current.files, current.bytes) if current else (0, 0)
    shares = portions(target.policy, held, [one.bytes for one in files])
    block_ids = ([current.id] if current else []) + list(reserved.blocks)
    used = block_ids[: len(shares)]
    _open_blocks(conn, target, se_id, used[1:] if current else used, now)
    waiting = iter(files)
    placed = [
        (block_id, one) for block_id, (n, _) in zip(used, shares, strict=True) for one in islice(waiting, n)
    ]
    ids = _insert_files(conn, reserved, placed, now)
    _grow(conn, target.id, placed)
    for block_id, (_, code) in zip(used, shares, strict=True):
        if code:
            close_blocks(conn, [block_id], code, now)
    outbox.emit(conn, "files.registered", target.name, {"files": len(files), "se_id": se_id})
    return ids


def portions(
    policy: BlockPolicy, held: tuple[int, int], sizes: Iterable[int]
) -> list[tuple[int, str | None]]:
    """How many of the next files go into the open block, the one after it, ...; pure.

    `held` is (files, bytes) of the open block, `sizes` are in bytes. With each number goes the code that
    closes the block, None for the last, which stays open. A file larger than a block has one of its own.
    """
    files, size = held
    shares: list[tuple[int, str | None]] = []
    taken = 0
    for more in sizes:
        code = "files" if files >= policy.files else "bytes" if files and size + more > policy.bytes else None
        if code:
            shares.append((taken, code))
            files = size = taken = 0
        files, size, taken = files + 1, size + more, taken + 1
    return [*shares, (taken, None)]


def _lock_open_block(conn: Connection, dataset_id: int, se_id: int) -> Any:
    binds = {"dataset_id": dataset_id, "se_id": se_id}
    seen = conn.execute(OPEN_BLOCK, binds).one_or_none()
    if seen is None:
        return None
    lock_rows(conn, block, [seen.id])
    return conn.execute(OPEN_BLOCK, binds).one_or_none()  # it may have been closed while we waited


def block_name(dataset_name: str, key: int) -> str:
    """`dataset#name`, unique by the block's key."""
    return f"{dataset_name}#{key:08x}"


def _open_blocks(conn: Connection, target: DatasetRow, se_id: int, ids: Sequence[int], now: datetime) -> None:
    insert_rows(
        conn,
        block,
        [
            {
                "id": key,
                "dataset_id": target.id,
                "name": block_name(target.name, key),
                "origin_se_id": se_id,
                "state": BlockState.OPEN,
                "created_at": now,
            }
            for key in ids
        ],
    )
    replica = {"se_id": se_id, "state": ReplicaState.COMPLETE, "created_at": now, "completed_at": now}
    insert_rows(conn, block_replica, [{"block_id": key, **replica} for key in ids])
    opened = {"frm": None, "dst": BlockState.OPEN, "at": now, "code": "first file"}
    insert_rows(conn, block_history, [{"block_id": key, **opened} for key in ids])


def _insert_files(
    conn: Connection, reserved: Reserved, placed: Sequence[tuple[int, NewFile]], now: datetime
) -> dict[str, int]:
    dirs = _dirs(conn, reserved.dirs, {split_lfn(one.lfn)[0] for _, one in placed})
    rows, runs, parents = [], [], []
    for key, (block_id, one) in zip(reserved.files, placed, strict=False):
        path, name = split_lfn(one.lfn)
        row = {"id": key, "block_id": block_id, "dir_id": dirs[path], "name": name, "created_at": now}
        rows.append({**row, "bytes": one.bytes, "adler32": one.adler32, "events": one.events})
        runs += [
            {"file_id": key, "run": run, "first_lumi": first, "last_lumi": last}
            for run, ranges in one.runs.items()
            for first, last in merged(ranges)
        ]
        parents += [{"file_id": key, "parent_id": parent} for parent in sorted(set(one.parents))]
    try:
        insert_rows(conn, data_file, rows)
    except IntegrityError as error:
        raise Conflict("one of these LFNs is just being registered in another dataset") from error
    insert_rows(conn, file_run, runs)
    insert_rows(conn, file_parent, parents)
    return {one.lfn: key for key, (_, one) in zip(reserved.files, placed, strict=False)}


def _dirs(conn: Connection, keys: range, paths: Iterable[str]) -> dict[str, int]:
    """{path: id}, those missing made in the order of their names."""
    wanted = set(paths)
    found = {row.path: row.id for row in select_in(conn, DIRS, wanted)}
    missing = sorted(wanted - set(found))
    for key, path in zip(keys, missing, strict=False):
        insert_new(conn, dir_, {"id": key, "path": path})
    return found | {row.path: row.id for row in select_in(conn, DIRS, missing)}


def merged(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Lumi ranges (first, last) in order, those that touch or overlap made one. Raises UsageError."""
    result: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if last < first:
            raise UsageError(f"the lumi range {first}-{last} ends before it begins")
        if result and first <= result[-1][1] + 1:
            result[-1] = (result[-1][0], max(last, result[-1][1]))
        else:
            result.append((first, last))
    return result


def _grow(conn: Connection, dataset_id: int, placed: Sequence[tuple[int, NewFile]]) -> None:
    by_block: dict[int, list[NewFile]] = defaultdict(list)
    for block_id, one in placed:
        by_block[block_id].append(one)
    run_many(conn, GROW_BLOCK, [_more(key, by_block[key]) for key in sorted(by_block)])
    conn.execute(GROW_DATASET, _more(dataset_id, [one for _, one in placed]))


def _more(row_id: int, files: Sequence[NewFile]) -> dict[str, int]:
    return {
        "row_id": row_id,
        "more_files": len(files),
        "more_bytes": sum(one.bytes for one in files),
        "more_events": sum(one.events or 0 for one in files),
    }
