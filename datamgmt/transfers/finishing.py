"""Finishing: what has all its files is complete, and what is found spoilt at its source is noted.

Transactions of their own, under the locks of the blocks that look whole; a crash before leaves what any later
look finds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from itertools import chain
from typing import Any, NamedTuple

from sqlalchemy import Connection, and_, bindparam, delete, exists, func, select

from catalogs import exceptions, replicas
from catalogs.exceptions import FileFault
from catalogs.states import InvalidCode
from catalogs.tables import block, block_replica, data_file, file_exception, invalid_file
from datamgmt.tables import block_dest, transfer
from datamgmt.transfer_states import TransferState
from datamgmt.transfers.tries import Try
from datamgmt.wanted import destinations
from datamgmt.wanted.allocation import ReplicaKey
from gridcore.db import lock_rows, reads
from gridcore.db.idlists import within
from gridcore.db.labels import plain
from gridcore.db.reads import Read
from gridcore.db.statements import run_many

#: Said of what a new copy lacks from the start.
LOST = "no good copy was left"

REPAIRED = select(block_dest.c.block_id, block_dest.c.se_id).where(
    within(block_dest.c.block_id), block_dest.c.repair == 1
)
_DONE_HERE = (
    transfer.c.dst_se_id == bindparam("on_se"),
    within(transfer.c.block_id),
    transfer.c.state == TransferState.DONE,
)
ARRIVED = (
    select(transfer.c.block_id, transfer.c.dst_se_id, block.c.files, transfer.c.src_se_id, func.count())
    .join_from(transfer, block, block.c.id == transfer.c.block_id)
    .where(*_DONE_HERE)
    .group_by(transfer.c.block_id, transfer.c.dst_se_id, block.c.files, transfer.c.src_se_id)
)
#: Lost files, with the SEs that something of them is on its way to.
LOST_FILES = (
    select(data_file.c.block_id, data_file.c.id, transfer.c.dst_se_id)
    .join_from(invalid_file, data_file, data_file.c.id == invalid_file.c.file_id)
    .outerjoin(transfer, transfer.c.file_id == data_file.c.id)
    .where(invalid_file.c.code == InvalidCode.LOST, within(data_file.c.block_id))
)
HOPS = select(block_replica.c.block_id, block_replica.c.se_id, block_replica.c.hops).where(
    within(block_replica.c.block_id), within(block_replica.c.se_id, "ses")
)
FOLD = delete(transfer).where(transfer.c.dst_se_id == bindparam("on_se"), within(transfer.c.block_id))
REPAIRS_DONE = select(transfer.c.block_id, transfer.c.dst_se_id, transfer.c.file_id).where(*_DONE_HERE)
FOLD_REPAIRS = delete(transfer).where(*_DONE_HERE)
STILL_SPOILT = (
    select(file_exception.c.block_id, file_exception.c.se_id)
    .where(file_exception.c.se_id == bindparam("on_se"), within(file_exception.c.block_id))
    .where(~exists().where(invalid_file.c.file_id == file_exception.c.file_id))
    .distinct()
)
UNFINISHED = (
    select(block_dest.c.block_id)
    .join_from(
        block_dest,
        block_replica,
        and_(block_replica.c.block_id == block_dest.c.block_id, block_replica.c.se_id == block_dest.c.se_id),
    )
    .where(block_dest.c.se_id == bindparam("on_se"), block_dest.c.cursor_id > 0)
    .order_by(block_dest.c.block_id)
)


def unfinished(conn: Connection, se_id: int) -> list[ReplicaKey]:
    """Replicas at the SE of which files may have arrived without anybody having finished them."""
    return [(row.block_id, se_id) for row in conn.execute(UNFINISHED, {"on_se": se_id})]


def whole(conn: Connection, keys: Collection[ReplicaKey]) -> list[ReplicaKey]:
    """Those of the replicas that look as if there is something to finish; without any lock."""
    arrived, lost, to_repair = _found(conn, keys)
    mended = to_repair & {row[:2] for row in arrived}
    return sorted((_whole(arrived, lost).keys() - to_repair) | mended)


def finish(conn: Connection, keys: Collection[ReplicaKey], now: datetime) -> list[ReplicaKey]:
    """Make those of the replicas COMPLETE all files of which have arrived, but for lost ones, which are noted
    as missing; fold their transfers and want them no longer; which. Of those under repair, what has arrived
    is well again."""
    lock_rows(conn, block, {block_id for block_id, _ in keys})
    arrived, lost, to_repair = _found(conn, keys)
    done = _complete(conn, [row for row in arrived if row[:2] not in to_repair], lost, now)
    return done + _mend(conn, to_repair, now)


class _Lost(NamedTuple):
    """Lost files by block, and (file, SE) of those that may still come."""

    files: Mapping[int, Collection[int]]
    coming: Collection[tuple[int, int]]

    def never_to_come(self, key: ReplicaKey) -> list[int]:
        """Those of the block that the SE will not have."""
        return [one for one in self.files.get(key[0], ()) if (one, key[1]) not in self.coming]


def _found(
    conn: Connection, keys: Collection[ReplicaKey]
) -> tuple[list[tuple[Any, ...]], _Lost, set[ReplicaKey]]:
    """(block, SE, its files, their source, how many came from there), what is lost, what is under repair."""
    blocks = {"ids": sorted({block_id for block_id, _ in keys})}
    asked = [Read(ARRIVED, one) for one in _by_se(keys)]
    lost, repaired, *arrived = reads.rows(conn, [Read(LOST_FILES, blocks), Read(REPAIRED, blocks), *asked])
    files: dict[int, set[int]] = defaultdict(set)
    for block_id, file_id, _ in lost:
        files[block_id].add(file_id)
    coming = {(file_id, se_id) for _, file_id, se_id in lost if se_id is not None}
    return list(chain.from_iterable(arrived)), _Lost(files, coming), set(repaired) & set(keys)


def _by_se(keys: Iterable[ReplicaKey]) -> list[dict[str, Any]]:
    """The binds of statements that take blocks of one SE each."""
    found: dict[int, list[int]] = defaultdict(list)
    for block_id, se_id in sorted(keys):
        found[se_id].append(block_id)
    return [{"on_se": se_id, "ids": ids} for se_id, ids in sorted(found.items())]


def _whole(arrived: Iterable[Sequence[Any]], lost: _Lost) -> dict[ReplicaKey, set[int]]:
    """{replica: the SEs its files came from}, of those all files of which are there or lost."""
    counts: dict[ReplicaKey, int] = defaultdict(int)
    sources: dict[ReplicaKey, set[int]] = defaultdict(set)
    sizes: dict[ReplicaKey, int] = {}
    for block_id, se_id, files, src, n in arrived:
        key = block_id, se_id
        counts[key] += n
        sources[key].add(src)
        sizes[key] = files
    return {
        key: srcs for key, srcs in sources.items() if counts[key] + len(lost.never_to_come(key)) == sizes[key]
    }


def _complete(
    conn: Connection, arrived: Sequence[Sequence[Any]], lost: _Lost, now: datetime
) -> list[ReplicaKey]:
    whole = _whole(arrived, lost)
    if not whole:
        return []
    ends = {
        "ids": sorted({block_id for block_id, _ in whole}),
        "ses": sorted(set().union(*whole.values())),
    }
    (rows,) = reads.rows(conn, [Read(HOPS, ends)])
    far = {(block_id, src): hops for block_id, src, hops in rows}
    hops = {key: max(far.get((key[0], src), 0) for src in srcs) + 1 for key, srcs in whole.items()}
    completed = replicas.complete_all(conn, hops, now)
    if completed:
        run_many(conn, FOLD, _by_se(completed))
        for key in completed:
            faults = dict.fromkeys(lost.never_to_come(key), FileFault.MISSING)
            if faults:
                exceptions.add(conn, *key, faults, now, actor="transfer_agent", note=LOST)
        destinations.drop(conn, completed, now)
        destinations.stir_all(conn, completed)
    return completed


def _mend(conn: Connection, keys: Collection[ReplicaKey], now: datetime) -> list[ReplicaKey]:
    if not keys:
        return []
    asked = _by_se(keys)
    well: dict[ReplicaKey, list[int]] = defaultdict(list)
    for block_id, se_id, file_id in chain.from_iterable(conn.execute(REPAIRS_DONE, one) for one in asked):
        well[block_id, se_id].append(file_id)
    for key, files in sorted(well.items()):
        exceptions.clear(conn, *key, files)
    run_many(conn, FOLD_REPAIRS, asked)
    spoilt = {(*row,) for one in asked for row in conn.execute(STILL_SPOILT, one)}
    mended = sorted(well.keys() - spoilt)
    destinations.drop(conn, mended, now)
    # What has some files more may be a source for others, and may itself need another one.
    destinations.stir_all(conn, well)
    return mended


def spoil(conn: Connection, tries: Iterable[Try], now: datetime) -> int:
    """Note the files that were found missing or bad at their sources, so that others are asked for them and
    they are repaired; how many. After `settle`, in a transaction of its own: it locks the blocks."""
    noted = 0
    for one in sorted(tries, key=lambda one: (one.claimed.block_id, one.claimed.src, one.claimed.file_id)):
        if one.fault is not None:
            block_id, src = one.claimed.block_id, one.claimed.src
            faults = {one.claimed.file_id: one.fault}
            told = plain(one.error, 200) if one.error else None
            noted += exceptions.add(conn, block_id, src, faults, now, actor="transfer_agent", note=told)
            destinations.stir(conn, [block_id], src)
    return noted
