"""Registration: entering files into their dataset's blocks, one idempotent operation: bookkeeping, location,
counters and events. By column: what it costs hangs on the bytes written, not on the number of files."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain, repeat
from typing import Any, NamedTuple

from sqlalchemy import Connection, bindparam, select
from sqlalchemy.exc import IntegrityError

from catalogs import bookkeeping, holdings, parentage, space
from catalogs.bookkeeping import DatasetRow, close_by
from catalogs.filebatch import FileBatch, NewFile, batch_of, check, merged, portions
from catalogs.space import Use
from catalogs.states import BlockState, DatasetState, ReplicaState
from catalogs.tables import (
    IS_OPEN,
    block,
    block_history,
    block_replica,
    block_run,
    data_file,
    dataset,
    dir_,
    file_parent,
    file_run,
    holding,
)
from gridcore.db import bulk, lock_rows, outbox
from gridcore.db.bulk import Change, New, Same, Values, Write
from gridcore.db.idlists import names_within
from gridcore.db.keys import Keys
from gridcore.db.statements import insert_new
from gridcore.errors import Busy, Conflict

#: What registration fills.
FILLED = (dataset, block, block_replica, block_run, data_file, dir_, file_parent, file_run, holding)
#: How often a call looks anew which of its files others have just registered.
LOOKS = 5


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


OPEN_BLOCK = select(block.c.id, block.c.name, block.c.files, block.c.bytes).where(
    block.c.dataset_id == bindparam("dataset_id"),
    IS_OPEN,
    block.c.origin_se_id == bindparam("se_id"),
)
DIRS = select(dir_.c.path, dir_.c.id).where(names_within(dir_.c.path))
IN_DIR = (
    select(
        data_file.c.id,
        data_file.c.name,
        data_file.c.bytes,
        data_file.c.adler32,
        dataset.c.name.label("owner"),
    )
    .join_from(data_file, block, block.c.id == data_file.c.block_id)
    .join(dataset, dataset.c.id == block.c.dataset_id)
    .where(data_file.c.dir_id == bindparam("in_dir"), names_within(data_file.c.name))
)
RUNS_OF = select(block_run.c.run, block_run.c.first_lumi, block_run.c.last_lumi).where(
    block_run.c.block_id == bindparam("of_block")
)


def reserve(keys: Keys, n_files: int) -> Reserved:
    """Keys enough to register `n_files` in one call, whatever blocks and directories that takes."""
    return Reserved(*(keys.take(name, n_files) for name in ("data_file", "block", "dir")))


def register(
    conn: Connection,
    reserved: Reserved,
    dataset_id: int,
    se_id: int,
    files: Sequence[NewFile] | FileBatch,
    now: datetime,
) -> list[int]:
    """Enter files that lie at their origin SE into the dataset's open block there; their ids, in order.

    A file registered before, with the same size and checksum, keeps its id and changes nothing. Full
    blocks are closed. One dataset in a transaction: the counters it locks come after every dataset.
    Raises NotFound, UsageError, and Conflict for an LFN that is taken by other content or another dataset,
    parents made from the dataset itself, or a closed dataset.
    """
    batch, places = (files, range(len(files))) if isinstance(files, FileBatch) else batch_of(files)
    check(batch)
    if len(reserved.files) < len(batch):
        raise ValueError(f"{len(reserved.files)} keys were reserved for {len(batch)} files")
    named = {parent for _, parent in batch.parents}
    parents = parentage.datasets_of(conn, named)
    parentage.lock(conn, dataset_id, parents)
    target = bookkeeping.dataset_by_id(conn, dataset_id)
    ids = _ids(conn, reserved, target, se_id, batch, now)
    told = {parent for place, parent in batch.parents if ids[place] in reserved.files}
    if told != named:  # a file registered before keeps the parents it has
        parents = parentage.datasets_of(conn, told)
    parentage.add(conn, dataset_id, parents)
    return [ids[place] for place in places]


def _ids(
    conn: Connection, reserved: Reserved, target: DatasetRow, se_id: int, batch: FileBatch, now: datetime
) -> Mapping[int, int]:
    """{place: id}. All are taken for new, as they nearly always are; where one is not, all are looked up."""
    closed = target.state is DatasetState.CLOSED
    found = known(conn, target.name, batch) if closed else {}
    for _ in range(LOOKS):
        places = [place for place in range(len(batch)) if place not in found]
        if not places:
            return found
        if closed:
            raise Conflict(
                f"dataset {target.name} is closed and gets no further file", hint="reopen it first"
            )
        try:
            with conn.begin_nested():
                ids = _enter(conn, reserved, target, se_id, batch.at(places) if found else batch, now)
            return found | dict(zip(places, ids, strict=True))
        except IntegrityError:  # some are there, or come just now by another hand
            before, found = found, known(conn, target.name, batch)
            if found.keys() == before.keys():
                raise
    raise Busy(f"others keep registering files that are given for {target.name}")


def known(conn: Connection, dataset_name: str, batch: FileBatch, *, by_size: bool = False) -> dict[int, int]:
    """{place: id} of those registered before; `by_size` where their checksums are not known yet.

    Raises Conflict for an LFN that is taken by other content or another dataset.
    """
    by_dir: dict[int, dict[str, int]] = defaultdict(dict)
    for place, (number, name) in enumerate(zip(batch.dir_of, batch.names, strict=True)):
        by_dir[number][name] = place
    dirs = dict(tuple(row) for row in conn.execute(DIRS, {"names": batch.dirs}))
    ids = {}
    for number, places in by_dir.items():
        if batch.dirs[number] not in dirs:
            continue
        for row in conn.execute(IN_DIR, {"in_dir": dirs[batch.dirs[number]], "names": list(places)}):
            _same(dataset_name, batch, places[row.name], row, by_size)
            ids[places[row.name]] = row.id
    return ids


def _same(dataset_name: str, batch: FileBatch, place: int, row: Any, by_size: bool) -> None:
    """Raises Conflict unless the file of that name is the one given."""
    if row.owner != dataset_name:
        raise Conflict(f"{batch.lfn(place)} is already a file of dataset {row.owner}, not of {dataset_name}")
    size, checksum = batch.bytes[place], row.adler32 if by_size else batch.adler32[place]
    if (row.bytes, row.adler32) != (size, checksum):
        raise Conflict(
            f"{batch.lfn(place)} is already registered with {row.bytes} bytes and adler32 {row.adler32:08x}, "
            f"not {size} and {checksum:08x}",
            hint="an LFN is never overwritten: write the new content under another name",
        )


# --- entering --------------------------------------------------------------------------------------------


class _Fill(NamedTuple):
    """What a block gets of a batch: `n` files from the `first` on. `code` is why it is closed with them."""

    block_id: int
    name: str
    fresh: bool
    first: int
    n: int
    code: str | None
    #: What it holds then.
    files: int

    def of(self, values: Sequence[Any]) -> Sequence[Any]:
        """Its part of a column."""
        return values[self.first : self.first + self.n]


def _enter(
    conn: Connection, reserved: Reserved, target: DatasetRow, se_id: int, batch: FileBatch, now: datetime
) -> Sequence[int]:
    """The ids of new files, entered under the dataset's lock. Raises IntegrityError where one is there."""
    fills = _fills(conn, reserved, target, se_id, batch)
    ids = reserved.files[: len(batch)]
    dirs = _dirs(conn, reserved.dirs, batch.dirs)
    sizes = {name: [sum(fill.of(values)) for fill in fills] for name, values in _counted(batch).items()}
    writes = [*_blocks(target, se_id, fills, sizes, now), *_files(ids, dirs, fills, batch, now)]
    full = [fill for fill in fills if fill.code]
    grown: dict[str, Values] = {name: [sum(values)] for name, values in sizes.items()}
    look = {"unsettled": Same(1)} if full else {}
    writes.append(Change(dataset, {"id": [target.id]}, {**grown, "closed_blocks": [len(full)]}, look))
    bulk.write(conn, [*writes, *_hulls(conn, fills, batch)])
    fresh, size = sum(fill.fresh for fill in fills), sum(batch.bytes)
    holdings.grow(conn, [(target.id, se_id, fresh, len(full), len(batch), size)])
    space.change(conn, {se_id: Use(files=len(batch), complete=size)})
    outbox.emit(conn, "files.registered", target.name, {"files": len(batch), "se_id": se_id})
    closed = [(fill.name, {"block_id": fill.block_id, "files": fill.files}) for fill in full]
    outbox.emit_all(conn, "block.closed", closed)
    return ids


def _counted(batch: FileBatch) -> dict[str, Sequence[int]]:
    """The columns whose sums blocks and datasets keep."""
    events = [0 if one is None else one for one in batch.events]
    return {"files": [1] * len(batch), "bytes": batch.bytes, "events": events}


def _fills(
    conn: Connection, reserved: Reserved, target: DatasetRow, se_id: int, batch: FileBatch
) -> list[_Fill]:
    current = _lock_open_block(conn, target.id, se_id)
    held = (current.files, current.bytes) if current else (0, 0)
    fresh = iter(reserved.blocks)
    fills: list[_Fill] = []
    first = 0
    for n, code in portions(target.policy, held, batch.bytes):
        old = current if not fills else None
        key = old.id if old else next(fresh)
        name = old.name if old else block_name(target.name, key)
        fills.append(_Fill(key, name, old is None, first, n, code, n + (old.files if old else 0)))
        first += n
    return fills


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


def _blocks(
    target: DatasetRow, se_id: int, fills: Sequence[_Fill], sizes: Mapping[str, Sequence[int]], now: datetime
) -> list[Write]:
    """The blocks with what they hold in the end; a full one is closed at once."""
    writes: list[Write] = []
    places = [place for place, fill in enumerate(fills) if fill.fresh]
    ids = [fills[place].block_id for place in places]
    closed = [fills[place].code is not None for place in places]
    new: dict[str, Values] = {
        "id": ids,
        "dataset_id": Same(target.id),
        "name": [fills[place].name for place in places],
        "origin_se_id": Same(se_id),
        "state": [BlockState.CLOSED if full else BlockState.OPEN for full in closed],
        "created_at": Same(now),
        "close_by": Same(close_by(now, target.policy)),
        "closed_at": [now if full else None for full in closed],
        **{name: [values[place] for place in places] for name, values in sizes.items()},
    }
    replica = {"state": Same(ReplicaState.COMPLETE), "created_at": Same(now), "completed_at": Same(now)}
    writes += [New(block, new), New(block_replica, {"block_id": ids, "se_id": Same(se_id), **replica})]
    writes.append(_told(ids, None, BlockState.OPEN, ["first file"] * len(ids), now))
    if not fills[0].fresh:
        add: dict[str, Values] = {name: [values[0]] for name, values in sizes.items()}
        full = {"state": Same(BlockState.CLOSED), "closed_at": Same(now)} if fills[0].code else {}
        writes.append(Change(block, {"id": [fills[0].block_id]}, add, full))
    codes = {fill.block_id: fill.code for fill in fills if fill.code}
    writes.append(_told(list(codes), BlockState.OPEN, BlockState.CLOSED, list(codes.values()), now))
    return writes


def _told(
    ids: Sequence[int], frm: BlockState | None, to: BlockState, codes: Sequence[Any], now: datetime
) -> New:
    columns = {"block_id": ids, "frm": Same(frm), "dst": Same(to), "at": Same(now), "code": codes}
    return New(block_history, columns)


def _files(
    ids: Sequence[int], dirs: Sequence[int], fills: Sequence[_Fill], batch: FileBatch, now: datetime
) -> list[Write]:
    files: dict[str, Values] = {
        "id": ids,
        "block_id": list(chain.from_iterable(repeat(fill.block_id, fill.n) for fill in fills)),
        "dir_id": [dirs[number] for number in batch.dir_of],
        "name": batch.names,
        "bytes": batch.bytes,
        "adler32": batch.adler32,
        "events": batch.events,
        "created_at": Same(now),
    }
    runs = [
        (ids[place], run, first, last)
        for place, of_file in batch.runs.items()
        for run, ranges in of_file.items()
        for first, last in merged(ranges)
    ]
    parents = [(ids[place], parent) for place, parent in batch.parents]
    return [
        New(data_file, files),
        New(file_run, _columns(("file_id", "run", "first_lumi", "last_lumi"), runs)),
        New(file_parent, _columns(("file_id", "parent_id"), parents)),
    ]


def _columns(names: Sequence[str], rows: Sequence[Sequence[int]]) -> dict[str, Values]:
    lists = list(zip(*rows, strict=True)) if rows else [()] * len(names)
    return dict(zip(names, lists, strict=True))


def _hulls(conn: Connection, fills: Sequence[_Fill], batch: FileBatch) -> list[Write]:
    """The lumis of each run between which the files of a block lie: what a search by run looks at first."""
    found: dict[tuple[int, int], tuple[int, int]] = {}
    block_of = (
        list(chain.from_iterable(repeat(fill.block_id, fill.n) for fill in fills)) if batch.runs else []
    )
    for place, of_file in batch.runs.items():
        for run, ranges in of_file.items():
            if ranges:
                edges = [edge for pair in ranges for edge in pair]
                found[block_of[place], run] = _hull(found.get((block_of[place], run)), min(edges), max(edges))
    old = _old_hulls(conn, fills[0].block_id) if found and not fills[0].fresh else {}
    rows = [(*key, *_hull(old.get(key), *hull)) for key, hull in sorted(found.items())]
    names = ("block_id", "run", "first_lumi", "last_lumi")
    new = _columns(names, [row for row in rows if row[:2] not in old])
    grown = _columns(names, [row for row in rows if row[:2] in old])
    put = {name: grown[name] for name in names[2:]}
    return [New(block_run, new), Change(block_run, {name: grown[name] for name in names[:2]}, put=put)]


def _hull(old: tuple[int, int] | None, first: int, last: int) -> tuple[int, int]:
    return (first, last) if old is None else (min(first, old[0]), max(last, old[1]))


def _old_hulls(conn: Connection, block_id: int) -> dict[tuple[int, int], tuple[int, int]]:
    rows = conn.execute(RUNS_OF, {"of_block": block_id})
    return {(block_id, row.run): (row.first_lumi, row.last_lumi) for row in rows}


def _dirs(conn: Connection, keys: range, paths: Sequence[str]) -> list[int]:
    """The ids of directories, those missing made in the order of their names."""
    found = dict(tuple(row) for row in conn.execute(DIRS, {"names": paths}))
    missing = sorted(set(paths) - set(found))
    if missing:
        for key, path in zip(keys, missing, strict=False):
            insert_new(conn, dir_, {"id": key, "path": path})
        found |= dict(tuple(row) for row in conn.execute(DIRS, {"names": missing}))
    return [found[path] for path in paths]
