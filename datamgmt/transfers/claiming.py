"""Claiming: queued files are taken in hand, those of many destinations at once.

The rows of a destination are its lease holder's: nobody else claims or ends them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, Integer, and_, bindparam, or_, select

from catalogs.states import ReplicaState
from catalogs.tables import block_replica, data_file, dir_
from datamgmt.links import linkqueues
from datamgmt.links.health import window
from datamgmt.links.linkqueues import WAITING, Queue
from datamgmt.links.linkstates import LinkView, Policies
from datamgmt.links.paths import LinkKey
from datamgmt.tables import block_dest, transfer
from datamgmt.tools.base import ErrorClass
from datamgmt.transfer_states import TransferState
from datamgmt.transfers import tries
from datamgmt.transfers.tries import Claimed
from gridcore.db import bulk, reads
from gridcore.db.bulk import Change, Same
from gridcore.db.idlists import within
from gridcore.db.reads import Read
from gridcore.db.statements import one_of


class Place(NamedTuple):
    """A destination with room: up to `n` files under the name `me`. `room`: by source SE, how many files its
    link may have in flight; sources without room are left alone."""

    se_id: int
    me: str
    room: Mapping[int, int]
    n: int


# --- statements --------------------------------------------------------------------------------------

_DUE = or_(
    transfer.c.not_before.is_(None),
    transfer.c.not_before <= bindparam("now", type_=transfer.c.not_before.type),
)
_WAITS = one_of(transfer.c.state, WAITING)
_ON_ITS_HOP = and_(
    block_dest.c.block_id == transfer.c.block_id,
    block_dest.c.se_id == transfer.c.dst_se_id,
    block_dest.c.src_se_id == transfer.c.src_se_id,
)
NEXT = (
    select(transfer.c.id, transfer.c.src_se_id)
    .join_from(transfer, block_dest, _ON_ITS_HOP)
    .where(transfer.c.dst_se_id == bindparam("on_se"), _WAITS, within(transfer.c.src_se_id, "sources"), _DUE)
    .order_by(transfer.c.priority.desc(), transfer.c.id)
    .limit(bindparam("n", type_=Integer))
)
#: What is claimed of those, and locked: others move or cancel what waits.
CLAIMABLE = (
    select(
        *(transfer.c[name] for name in ("id", "file_id", "block_id", "src_se_id", "dst_se_id", "bytes")),
        data_file.c.adler32,
        transfer.c.attempts,
        transfer.c.error_class,
        dir_.c.path,
        data_file.c.name,
    )
    .join_from(transfer, data_file, data_file.c.id == transfer.c.file_id)
    .join(dir_, dir_.c.id == data_file.c.dir_id)
    .where(within(transfer.c.id), _WAITS)
    .order_by(transfer.c.id)
    .with_for_update(key_share=True, of=transfer)
)
COPIES = select(
    block_replica.c.block_id, block_replica.c.se_id, block_replica.c.state, block_replica.c.custodial
).where(within(block_replica.c.block_id), within(block_replica.c.se_id, "ses"))
REPAIRED = select(block_dest.c.block_id, block_dest.c.se_id).where(
    within(block_dest.c.se_id, "ses"), within(block_dest.c.block_id), block_dest.c.repair == 1
)
HELD_AT = (
    select(transfer.c.id, transfer.c.state)
    .where(transfer.c.dst_se_id == bindparam("on_se"))
    .where(one_of(transfer.c.state, (TransferState.ACTIVE, TransferState.CANCELLED)))
    .order_by(transfer.c.id)
    .with_for_update(key_share=True)
)


# --- claiming ----------------------------------------------------------------------------------------


def claim(conn: Connection, places: Sequence[Place], now: datetime) -> list[Claimed]:
    """Tries towards these destinations, now ACTIVE under the names given, by destination and age."""
    ses = sorted(one.se_id for one in places)
    busy = linkqueues.active_to(conn, ses)
    queues = [_Choice.of(one, busy) for one in places]
    ids = _next(conn, queues, now)
    if not ids:
        return []
    (rows,) = reads.rows(conn, [Read(CLAIMABLE, {"ids": ids})])
    # One may have been sent over another link before it was locked.
    hops = {(src, one.place.se_id) for one in queues for src in one.free}
    mine = _with_both_ends(conn, [row for row in rows if (row[3], row[4]) in hops])
    _take(conn, mine, {one.se_id: one.me for one in places}, now)
    moved = (((one.src, one.dst), Queue(-1, -one.bytes, 1)) for one in mine)
    linkqueues.change(conn, linkqueues.sums(moved), now)
    return mine


@dataclass(slots=True)
class _Choice:
    """Files chosen for a place: {id: source}, and how many more its sources may send."""

    place: Place
    free: Mapping[int, int]
    left: dict[int, int]
    taken: dict[int, int]
    asked: int = 0

    @classmethod
    def of(cls, place: Place, busy: Mapping[LinkKey, int]) -> _Choice:
        free = {
            src: left
            for src, most in place.room.items()
            if (left := most - busy.get((src, place.se_id), 0)) > 0
        }
        return cls(place, free, dict(free), {})

    @property
    def open(self) -> bool:
        return bool(self.left) and len(self.taken) < self.place.n

    def read(self, now: datetime) -> Read:
        """The first in the queue; those that are taken already are among them."""
        again = sum(src in self.left for src in self.taken.values())
        self.asked = min(self.place.n - len(self.taken), sum(self.left.values())) + again
        binds = {"on_se": self.place.se_id, "now": now, "sources": sorted(self.left), "n": self.asked}
        return Read(NEXT, binds)

    def choose(self, rows: Collection[Sequence[int]]) -> None:
        """Take those for whom there is room; the next look leaves out the sources that are full."""
        for key, src in rows:
            if len(self.taken) < self.place.n and self.left[src] > 0 and key not in self.taken:
                self.taken[key] = src
                self.left[src] -= 1
        full = [src for src, places in self.left.items() if places == 0]
        if len(rows) < self.asked or not full:
            self.left.clear()
        for src in full:
            self.left.pop(src, None)


def _next(conn: Connection, queues: Sequence[_Choice], now: datetime) -> list[int]:
    """The first in each queue for whom there is room."""
    while looking := [one for one in queues if one.open]:
        found = reads.rows(conn, [one.read(now) for one in looking])
        for one, rows in zip(looking, found, strict=True):
            one.choose(rows)
    return sorted(key for one in queues for key in one.taken)


def _with_both_ends(conn: Connection, rows: Sequence[Any]) -> list[Claimed]:
    """Those whose source is complete, and whose replica here is one to be completed or repaired."""
    blocks, ses = {row[2] for row in rows}, {se_id for row in rows for se_id in row[3:5]}
    binds = {"ids": sorted(blocks), "ses": sorted(ses)}
    copies, repaired = reads.rows(conn, [Read(COPIES, binds), Read(REPAIRED, binds)])
    known = {(block_id, se_id): (state, bool(custodial)) for block_id, se_id, state, custodial in copies}
    to_repair = set(repaired)
    none = None, False
    mine = []
    for key, file_id, block_id, src, dst, size, adler32, attempts, why, path, name in rows:
        there, here = known.get((block_id, src), none), known.get((block_id, dst), none)
        due = ReplicaState.COMPLETE if (block_id, dst) in to_repair else ReplicaState.COPYING
        if there[0] is not ReplicaState.COMPLETE or here[0] is not due:
            continue
        mine.append(
            Claimed(
                id=key,
                file_id=file_id,
                block_id=block_id,
                src=src,
                dst=dst,
                lfn=f"{path}/{name}",
                bytes=size,
                adler32=adler32,
                attempts=attempts,
                src_custodial=there[1],
                dst_custodial=here[1],
                timed_out=why == ErrorClass.TIMEOUT,
            )
        )
    return mine


def _take(conn: Connection, mine: Iterable[Claimed], marks: Mapping[int, str], now: datetime) -> None:
    ids: dict[str, list[int]] = defaultdict(list)
    for one in mine:
        ids[marks[one.dst]].append(one.id)
    shared = {"state": Same(TransferState.ACTIVE), "claimed_at": Same(now), "updated_at": Same(now)}
    bulk.write(
        conn,
        [Change(transfer, {"id": keys}, put={**shared, "claimed_by": Same(me)}) for me, keys in ids.items()],
    )


def abandon(conn: Connection, se_id: int, in_hand: Collection[int], now: datetime) -> int:
    """Queue again what is ACTIVE towards the SE and in nobody's hand; how many. The lease is held, so that
    any other claim is a dead predecessor's, or one of ours whose transaction's answer was lost."""
    lost = [row for row in conn.execute(HELD_AT, {"on_se": se_id}) if row.id not in in_hand]
    tries.forget(conn, [row.id for row in lost])
    active = [row.id for row in lost if row.state is TransferState.ACTIVE]
    put = {"state": TransferState.QUEUED, "claimed_by": None, "claimed_at": None, "updated_at": now}
    bulk.write(conn, [Change(transfer, {"id": active}, put={k: Same(v) for k, v in put.items()})])
    linkqueues.recount_at(conn, se_id)
    return len(active)


def open_room(
    views: Mapping[LinkKey, LinkView], now: datetime, policy: Policies
) -> dict[int, dict[int, int]]:
    """{destination: {source: how many files may be in flight between them}}; shut links are left out."""
    room: dict[int, dict[int, int]] = defaultdict(dict)
    for (src, dst), view in views.items():
        if view.enabled and (n := window(view.state, now, view.bounded(policy.link))) > 0:
            room[dst][src] = n
    return dict(room)
