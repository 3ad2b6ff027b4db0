"""Finishing: what has all its files is complete, and what is found spoilt at its source is noted.

Transactions of their own, under the locks of the blocks that look whole; a crash before leaves what any later
look finds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, and_, bindparam, delete, exists, func, select

from catalogs import exceptions, replicas
from catalogs.exceptions import FileFault
from catalogs.states import InvalidCode
from catalogs.tables import block, block_replica, data_file, file_exception, invalid_file
from datamgmt import destinations
from datamgmt.tables import block_dest, transfer
from datamgmt.transfer_states import TransferState
from datamgmt.tries import Try
from gridcore.db import lock_rows, reads
from gridcore.db.idlists import within
from gridcore.db.reads import Read

#: Said of what a new copy lacks from the start.
LOST = "no good copy was left"

_WANTED_HERE = (block_dest.c.se_id == bindparam("on_se"), within(block_dest.c.block_id))
REPAIRED = select(block_dest.c.block_id).where(*_WANTED_HERE, block_dest.c.repair == 1)
_DONE_HERE = (
    transfer.c.dst_se_id == bindparam("on_se"),
    within(transfer.c.block_id),
    transfer.c.state == TransferState.DONE,
)
ARRIVED = (
    select(transfer.c.block_id, block.c.files, transfer.c.src_se_id, func.count())
    .join_from(transfer, block, block.c.id == transfer.c.block_id)
    .where(*_DONE_HERE)
    .group_by(transfer.c.block_id, block.c.files, transfer.c.src_se_id)
)
#: Lost files of which nothing is on its way to the SE.
NEVER_TO_COME = (
    select(data_file.c.block_id, data_file.c.id)
    .join_from(invalid_file, data_file, data_file.c.id == invalid_file.c.file_id)
    .where(invalid_file.c.code == InvalidCode.LOST, within(data_file.c.block_id))
    .where(~exists().where(transfer.c.file_id == data_file.c.id, transfer.c.dst_se_id == bindparam("on_se")))
)
HOPS = select(block_replica.c.block_id, block_replica.c.se_id, block_replica.c.hops).where(
    within(block_replica.c.block_id), within(block_replica.c.se_id, "ses")
)
FOLD = delete(transfer).where(transfer.c.dst_se_id == bindparam("on_se"), within(transfer.c.block_id))
REPAIRS_DONE = select(transfer.c.block_id, transfer.c.file_id).where(*_DONE_HERE)
FOLD_REPAIRS = delete(transfer).where(*_DONE_HERE)
STILL_SPOILT = (
    select(file_exception.c.block_id)
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


def unfinished(conn: Connection, se_id: int) -> list[int]:
    """Blocks of which files may have arrived at the SE without anybody having finished them."""
    return [row.block_id for row in conn.execute(UNFINISHED, {"on_se": se_id})]


def whole(conn: Connection, se_id: int, block_ids: Collection[int]) -> list[int]:
    """Those of the blocks that look as if there is something to finish; without any lock."""
    binds = {"on_se": se_id, "ids": sorted(block_ids)}
    arrived, lost, repaired = reads.rows(
        conn, [Read(ARRIVED, binds), Read(NEVER_TO_COME, binds), Read(REPAIRED, binds)]
    )
    to_repair = {block_id for (block_id,) in repaired}
    return sorted(
        (_whole(arrived, _by_block(lost)).keys() - to_repair) | (to_repair & {row[0] for row in arrived})
    )


def finish(conn: Connection, se_id: int, block_ids: Collection[int], now: datetime) -> list[int]:
    """Make those of the blocks' replicas at the SE COMPLETE all files of which have arrived, but for lost
    ones, which are noted as missing; fold their transfers and want them no longer; which. Of those under
    repair, what has arrived is well again."""
    lock_rows(conn, block, block_ids)
    binds = {"on_se": se_id, "ids": sorted(block_ids)}
    (repaired,) = reads.rows(conn, [Read(REPAIRED, binds)])
    to_repair = {block_id for (block_id,) in repaired}
    done = _complete(conn, se_id, set(block_ids) - to_repair, now)
    return done + _mend(conn, se_id, to_repair, now)


def _by_block(found: Iterable[Any]) -> dict[int, list[int]]:
    files: dict[int, list[int]] = defaultdict(list)
    for block_id, file_id in found:
        files[block_id].append(file_id)
    return dict(files)


def _whole(arrived: Iterable[Any], lost: Mapping[int, Collection[int]]) -> dict[int, set[int]]:
    """{block: the SEs its files came from}, of the blocks all files of which are there or lost."""
    counts: dict[int, int] = defaultdict(int)
    sources: dict[int, set[int]] = defaultdict(set)
    sizes: dict[int, int] = {}
    for block_id, files, src, n in arrived:
        counts[block_id] += n
        sources[block_id].add(src)
        sizes[block_id] = files
    return {
        block_id: srcs
        for block_id, srcs in sources.items()
        if counts[block_id] + len(lost.get(block_id, ())) == sizes[block_id]
    }


def _complete(conn: Connection, se_id: int, block_ids: Collection[int], now: datetime) -> list[int]:
    if not block_ids:
        return []
    binds = {"on_se": se_id, "ids": sorted(block_ids)}
    arrived, never = reads.rows(conn, [Read(ARRIVED, binds), Read(NEVER_TO_COME, binds)])
    lost = _by_block(never)
    whole = _whole(arrived, lost)
    ses = sorted(set().union(*whole.values()))
    (rows,) = reads.rows(conn, [Read(HOPS, {"ids": sorted(whole), "ses": ses})])
    far = {(block_id, src): hops for block_id, src, hops in rows}
    hops = {key: max(far.get((key, src), 0) for src in srcs) + 1 for key, srcs in whole.items()}
    completed = replicas.complete_all(conn, se_id, hops, now)
    if completed:
        conn.execute(FOLD, {"on_se": se_id, "ids": completed})
        for block_id in sorted(lost.keys() & set(completed)):
            faults = dict.fromkeys(lost[block_id], FileFault.MISSING)
            exceptions.add(conn, block_id, se_id, faults, now, actor="transfer_agent", note=LOST)
        destinations.drop(conn, [(block_id, se_id) for block_id in completed], now)
        destinations.stir(conn, completed, se_id)
    return completed


def _mend(conn: Connection, se_id: int, block_ids: Collection[int], now: datetime) -> list[int]:
    if not block_ids:
        return []
    binds = {"on_se": se_id, "ids": sorted(block_ids)}
    well: dict[int, list[int]] = defaultdict(list)
    for block_id, file_id in conn.execute(REPAIRS_DONE, binds):
        well[block_id].append(file_id)
    for block_id, files in sorted(well.items()):
        exceptions.clear(conn, block_id, se_id, files)
    conn.execute(FOLD_REPAIRS, binds)
    spoilt = {row.block_id for row in conn.execute(STILL_SPOILT, binds)}
    mended = sorted(well.keys() - spoilt)
    destinations.drop(conn, [(block_id, se_id) for block_id in mended], now)
    # What has some files more may be a source for others, and may itself need another one.
    destinations.stir(conn, well, se_id)
    return mended


def spoil(conn: Connection, tries: Iterable[Try], now: datetime) -> int:
    """Note the files that were found missing or bad at their sources, so that others are asked for them and
    they are repaired; how many. After `settle`, in a transaction of its own: it locks the blocks."""
    noted = 0
    for one in sorted(tries, key=lambda one: (one.claimed.block_id, one.claimed.src, one.claimed.file_id)):
        if one.fault is not None:
            block_id, src = one.claimed.block_id, one.claimed.src
            faults = {one.claimed.file_id: one.fault}
            told = one.error[:200] if one.error else None
            noted += exceptions.add(conn, block_id, src, faults, now, actor="transfer_agent", note=told)
            destinations.stir(conn, [block_id], src)
    return noted
