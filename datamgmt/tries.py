"""Tries: files are claimed, and how copying them ended is noted; what has all its files is finished.

The rows of a destination are its lease holder's: nobody else ends them. Finishing is a transaction of its
own, under the locks of the blocks that look whole; a crash before it leaves what any later look finds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Integer, and_, bindparam, delete, exists, func, or_, select

from catalogs import exceptions, replicas
from catalogs.exceptions import FileFault
from catalogs.states import InvalidCode, ReplicaState
from catalogs.tables import block, block_replica, data_file, dir_, file_exception, invalid_file
from datamgmt import destinations, linkerrors, linkqueues, linkstates
from datamgmt.linkerrors import Failed
from datamgmt.linkqueues import WAITING, Queue
from datamgmt.links import Outcome, window
from datamgmt.linkstates import Ended, LinkView, Policies
from datamgmt.routing import LinkKey
from datamgmt.tables import block_dest, transfer
from datamgmt.tools.base import ErrorClass
from datamgmt.transfer_states import TransferState, after_failure
from gridcore.db import bulk, lock_rows, reads
from gridcore.db.bulk import Change, Same, Values
from gridcore.db.idlists import within
from gridcore.db.reads import Read
from gridcore.db.statements import one_of

_ERROR_MAX = 1000
#: Said of what a new copy lacks from the start.
LOST = "no good copy was left"


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """One try: all that is needed to name both ends. `attempts` counts the tries before it."""

    id: int
    file_id: int
    block_id: int
    src: int
    dst: int
    lfn: str
    bytes: int
    adler32: int
    attempts: int
    src_custodial: bool
    dst_custodial: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Try:
    """How a claimed try ended: `bytes` moved in `seconds`; `error_class` is None for a verified file.

    `fault` is what a second look has found wrong with the file at its source.
    """

    claimed: Claimed
    link_id: int
    bytes: int = 0
    seconds: float = 0.0
    error_class: ErrorClass | None = None
    error: str | None = None
    fault: FileFault | None = None

    @property
    def ok(self) -> bool:
        return self.error_class is None


@dataclass(frozen=True, slots=True)
class Settled:
    """How many tries ended how; stale ones found their row taken away or taken over. `blocks` are those of
    which files arrived: to be finished, if these were their last."""

    done: int = 0
    retry: int = 0
    failed: int = 0
    stale: int = 0
    blocks: frozenset[int] = frozenset()


# --- statements --------------------------------------------------------------------------------------

_DUE = or_(
    transfer.c.not_before.is_(None),
    transfer.c.not_before <= bindparam("now", type_=transfer.c.not_before.type),
)
_WAITS = (one_of(transfer.c.state, WAITING), within(transfer.c.src_se_id, "sources"))
_ON_ITS_HOP = and_(
    block_dest.c.block_id == transfer.c.block_id,
    block_dest.c.se_id == transfer.c.dst_se_id,
    block_dest.c.src_se_id == transfer.c.src_se_id,
)
NEXT = (
    select(transfer.c.id, transfer.c.src_se_id)
    .join_from(transfer, block_dest, _ON_ITS_HOP)
    .where(transfer.c.dst_se_id == bindparam("on_se"), *_WAITS, _DUE)
    .order_by(transfer.c.priority.desc(), transfer.c.id)
    .limit(bindparam("n", type_=Integer))
)
#: What is claimed of those, and locked: others move or cancel what waits.
CLAIMABLE = (
    select(
        *(transfer.c[name] for name in ("id", "file_id", "block_id", "src_se_id", "bytes")),
        data_file.c.adler32,
        transfer.c.attempts,
        dir_.c.path,
        data_file.c.name,
        transfer.c.state,
    )
    .join_from(transfer, data_file, data_file.c.id == transfer.c.file_id)
    .join(dir_, dir_.c.id == data_file.c.dir_id)
    .where(within(transfer.c.id), *_WAITS)
    .order_by(transfer.c.id)
    .with_for_update(key_share=True, of=transfer)
)
COPIES = select(
    block_replica.c.block_id, block_replica.c.se_id, block_replica.c.state, block_replica.c.custodial
).where(within(block_replica.c.block_id), within(block_replica.c.se_id, "ses"))
_WANTED_HERE = (block_dest.c.se_id == bindparam("on_se"), within(block_dest.c.block_id))
REPAIRED = select(block_dest.c.block_id).where(*_WANTED_HERE, block_dest.c.repair == 1)
MINE = (
    select(transfer.c.id)
    .where(within(transfer.c.id), transfer.c.state == TransferState.ACTIVE)
    .where(transfer.c.claimed_by == bindparam("me"))
    .order_by(transfer.c.id)
    .with_for_update(key_share=True)
)
HELD_AT = (
    select(transfer.c.id, transfer.c.state)
    .where(transfer.c.dst_se_id == bindparam("on_se"))
    .where(one_of(transfer.c.state, (TransferState.ACTIVE, TransferState.CANCELLED)))
    .order_by(transfer.c.id)
    .with_for_update(key_share=True)
)
FORGET_CANCELLED = delete(transfer).where(within(transfer.c.id), transfer.c.state == TransferState.CANCELLED)
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


# --- claiming ----------------------------------------------------------------------------------------


def claim(
    conn: Connection, se_id: int, me: str, room: Mapping[int, int], n: int, now: datetime
) -> list[Claimed]:
    """Up to `n` tries towards the SE, now ACTIVE under the name `me`.

    `room`: by source SE, how many files its link may have in flight; sources without room are left alone.
    """
    busy = linkqueues.active_to(conn, se_id)
    free = {src: left for src, most in room.items() if (left := most - busy.get(src, 0)) > 0}
    ids = _next(conn, se_id, free, n, now)
    if not ids:
        return []
    (rows,) = reads.rows(conn, [Read(CLAIMABLE, {"ids": ids, "sources": sorted(free)})])
    mine = _with_both_ends(conn, se_id, rows)
    put = {"state": TransferState.ACTIVE, "claimed_by": me, "claimed_at": now, "updated_at": now}
    claims = Change(transfer, {"id": [one.id for one in mine]}, put={k: Same(v) for k, v in put.items()})
    bulk.write(conn, [claims])
    moved = (((one.src, se_id), Queue(-1, -one.bytes, 1)) for one in mine)
    linkqueues.change(conn, linkqueues.sums(moved), now)
    return mine


def _next(conn: Connection, se_id: int, free: Mapping[int, int], n: int, now: datetime) -> list[int]:
    """The first in the queue for whom there is room; each look leaves out the sources that are full."""
    left, taken = dict(free), dict[int, int]()
    while left and len(taken) < n:
        again = sum(src in left for src in taken.values())
        most = n - len(taken) + again
        binds = {"on_se": se_id, "now": now, "sources": sorted(left), "n": most}
        (rows,) = reads.rows(conn, [Read(NEXT, binds)])
        for key, src in rows:
            if len(taken) < n and left[src] > 0 and key not in taken:
                taken[key] = src
                left[src] -= 1
        full = [src for src, places in left.items() if places == 0]
        if len(rows) < most or not full:
            break
        for src in full:
            del left[src]
    return sorted(taken)


def _with_both_ends(conn: Connection, se_id: int, rows: Sequence[Any]) -> list[Claimed]:
    """Those whose source is complete, and whose replica here is one to be completed or repaired."""
    block_ids = sorted({row[2] for row in rows})
    ses = sorted({se_id, *(row[3] for row in rows)})
    copies, repaired = reads.rows(
        conn,
        [
            Read(COPIES, {"ids": block_ids, "ses": ses}),
            Read(REPAIRED, {"ids": block_ids, "on_se": se_id}),
        ],
    )
    known = {(block_id, se): (state, bool(custodial)) for block_id, se, state, custodial in copies}
    to_repair = {block_id for (block_id,) in repaired}
    none = None, False
    mine = []
    for key, file_id, block_id, src, size, adler32, attempts, path, name, _ in rows:
        there, here = known.get((block_id, src), none), known.get((block_id, se_id), none)
        due = ReplicaState.COMPLETE if block_id in to_repair else ReplicaState.COPYING
        if there[0] is not ReplicaState.COMPLETE or here[0] is not due:
            continue
        mine.append(
            Claimed(
                id=key,
                file_id=file_id,
                block_id=block_id,
                src=src,
                dst=se_id,
                lfn=f"{path}/{name}",
                bytes=size,
                adler32=adler32,
                attempts=attempts,
                src_custodial=there[1],
                dst_custodial=here[1],
            )
        )
    return mine


def abandon(conn: Connection, se_id: int, in_hand: Collection[int], now: datetime) -> int:
    """Queue again what is ACTIVE towards the SE and in nobody's hand; how many. The lease is held, so that
    any other claim is a dead predecessor's, or one of ours whose transaction's answer was lost."""
    lost = [row for row in conn.execute(HELD_AT, {"on_se": se_id}) if row.id not in in_hand]
    _forget(conn, [row.id for row in lost])
    active = [row.id for row in lost if row.state is TransferState.ACTIVE]
    put = {"state": TransferState.QUEUED, "claimed_by": None, "claimed_at": None, "updated_at": now}
    bulk.write(conn, [Change(transfer, {"id": active}, put={k: Same(v) for k, v in put.items()})])
    linkqueues.recount_at(conn, se_id)
    return len(active)


def _forget(conn: Connection, ids: Sequence[int]) -> None:
    if ids:
        conn.execute(FORGET_CANCELLED, {"ids": ids})


# --- ending ------------------------------------------------------------------------------------------


def settle(
    conn: Connection, se_id: int, me: str, tries: Sequence[Try], now: datetime, policy: Policies
) -> Settled:
    """Write down how tries towards the SE ended. No block is locked: what may be whole now is finished by
    `finish`, in a transaction that follows."""
    tries = sorted(tries, key=lambda one: one.claimed.id)
    # Whose tries are used up: the router is to look at them, and wanted rows come before transfers.
    destinations.stir(conn, {one.claimed.block_id for one in tries if _given_up(one, now, policy)}, se_id)
    (held,) = reads.rows(conn, [Read(MINE, {"ids": [one.claimed.id for one in tries], "me": me})])
    mine = {key for (key,) in held}
    ended = [one for one in tries if one.claimed.id in mine]
    stale = [one.claimed.id for one in tries if one.claimed.id not in mine]
    _forget(conn, stale)
    groups = _grouped(ended, now, policy)
    bulk.write(conn, [_end(key, group, now) for key, group in groups.items()])
    _count(conn, groups, now)
    linkerrors.record(conn, _failed(ended), now)
    linkstates.record(conn, [_ended(one) for one in ended], now, policy.link)
    sizes: dict[TransferState, int] = defaultdict(int)
    for (state, _, _), group in groups.items():
        sizes[state] += len(group)
    return Settled(
        done=sizes[TransferState.DONE],
        retry=sizes[TransferState.RETRY_WAIT],
        failed=sizes[TransferState.FAILED],
        stale=len(stale),
        blocks=frozenset(one.claimed.block_id for one in ended if one.ok),
    )


#: What tries have in common that end alike: state, error class, when the next is due.
_Fate = tuple[TransferState, ErrorClass | None, datetime | None]


def _given_up(one: Try, now: datetime, policy: Policies) -> bool:
    return _fate(one, now, policy)[0] is TransferState.FAILED


def _fate(one: Try, now: datetime, policy: Policies) -> _Fate:
    if one.error_class is None:
        return TransferState.DONE, None, None
    kind = one.error_class
    state, due = after_failure(one.claimed.attempts + 1, kind.tries, now, policy.retry, kind.delay_factor)
    return state, kind, due


def _grouped(ended: Iterable[Try], now: datetime, policy: Policies) -> dict[_Fate, list[Try]]:
    groups: dict[_Fate, list[Try]] = defaultdict(list)
    for one in ended:
        groups[_fate(one, now, policy)].append(one)
    return groups


def _end(fate: _Fate, group: Sequence[Try], now: datetime) -> Change:
    state, why, due = fate
    put: dict[str, Values] = {
        "state": Same(state),
        "not_before": Same(due),
        "claimed_by": Same(None),
        "claimed_at": Same(None),
        "ended_at": Same(now),
        "error_class": Same(why and str(why)),
        "error": [one.error[:_ERROR_MAX] if one.error else None for one in group] if why else Same(None),
        "updated_at": Same(now),
    }
    keys = {"id": [one.claimed.id for one in group]}
    return Change(transfer, keys, add={"attempts": Same(1)}, put=put)


def _count(conn: Connection, groups: Mapping[_Fate, Sequence[Try]], now: datetime) -> None:
    changes = []
    for (state, _, _), group in groups.items():
        waits = state is TransferState.RETRY_WAIT
        for one in group:
            queue = Queue(1, one.claimed.bytes, -1) if waits else Queue(active=-1)
            changes.append(((one.claimed.src, one.claimed.dst), queue))
    linkqueues.change(conn, linkqueues.sums(changes), now)


def _failed(ended: Iterable[Try]) -> Iterator[Failed]:
    for one in ended:
        if one.error_class is not None:
            yield Failed(
                link_id=one.link_id,
                error_class=one.error_class,
                error=one.error or "",
                file_id=one.claimed.file_id,
            )


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


def _ended(one: Try) -> Ended:
    blames = one.error_class is None or one.error_class.blames_link
    outcome = Outcome(ok=one.ok, bytes=one.bytes, seconds=one.seconds, blames_link=blames)
    return Ended(one.link_id, outcome, one.error)


# --- finishing ---------------------------------------------------------------------------------------


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


def open_room(
    views: Mapping[LinkKey, LinkView], se_id: int, now: datetime, policy: Policies
) -> dict[int, int]:
    """By source SE, how many files may be in flight over its link to the SE; shut links are left out."""
    incoming = [view for view in views.values() if view.dst == se_id and view.enabled]
    room = {view.src: window(view.state, now, view.bounded(policy.link)) for view in incoming}
    return {src: n for src, n in room.items() if n > 0}
