"""Tries: files are claimed, and how copying them ended is noted; the last one completes its replica."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Integer, and_, bindparam, delete, func, or_, select, update

from catalogs import replicas
from catalogs.states import ReplicaState
from catalogs.tables import block, block_replica, data_file, dir_
from datamgmt import destinations, linkstates, routes
from datamgmt.allocation import ReplicaKey
from datamgmt.links import Outcome, window
from datamgmt.linkstates import Ended, LinkView, Policies
from datamgmt.routing import LinkKey
from datamgmt.tables import block_dest, transfer
from datamgmt.tools.base import ErrorClass
from datamgmt.transfer_states import TransferState, after_failure
from gridcore.db import lock_rows
from gridcore.db.statements import one_of, run_each, run_many, select_in

_ERROR_MAX = 1000
_WAITING = (TransferState.QUEUED, TransferState.RETRY_WAIT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """One try: all that is needed to name both ends. `attempts` counts the tries before it."""

    id: int
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
    """How a claimed try ended: `bytes` moved in `seconds`; `error_class` is None for a verified file."""

    claimed: Claimed
    link_id: int
    bytes: int = 0
    seconds: float = 0.0
    error_class: ErrorClass | None = None
    error: str | None = None

    @property
    def ok(self) -> bool:
        return self.error_class is None


@dataclass(frozen=True, slots=True)
class Settled:
    """How many tries ended how; stale ones found their row taken away or taken over."""

    done: int = 0
    retry: int = 0
    failed: int = 0
    stale: int = 0
    completed: int = 0


# --- statements --------------------------------------------------------------------------------------


def _same_block_at(other: Any, column: Any) -> ColumnElement[bool]:
    return and_(other.c.block_id == transfer.c.block_id, other.c.se_id == column)


_OF_REPLICA = (transfer.c.block_id == bindparam("on_block"), transfer.c.dst_se_id == bindparam("on_se"))
_HERE, _THERE = block_replica.alias("here"), block_replica.alias("there")
CLAIMABLE = (
    select(
        transfer.c.id,
        transfer.c.block_id,
        transfer.c.src_se_id.label("src"),
        transfer.c.dst_se_id.label("dst"),
        transfer.c.bytes,
        transfer.c.attempts,
        dir_.c.path,
        data_file.c.name,
        data_file.c.adler32,
        _THERE.c.custodial.label("src_custodial"),
        _HERE.c.custodial.label("dst_custodial"),
    )
    .join_from(transfer, data_file, data_file.c.id == transfer.c.file_id)
    .join(dir_, dir_.c.id == data_file.c.dir_id)
    .join(
        block_dest,
        and_(
            _same_block_at(block_dest, transfer.c.dst_se_id), block_dest.c.src_se_id == transfer.c.src_se_id
        ),
    )
    .join(_HERE, and_(_same_block_at(_HERE, transfer.c.dst_se_id), _HERE.c.state == ReplicaState.COPYING))
    .join(_THERE, and_(_same_block_at(_THERE, transfer.c.src_se_id), _THERE.c.state == ReplicaState.COMPLETE))
    .where(transfer.c.dst_se_id == bindparam("on_se"), transfer.c.state.in_(_WAITING))
    .where(transfer.c.src_se_id.in_(bindparam("sources", expanding=True)))
    .where(or_(transfer.c.not_before.is_(None), transfer.c.not_before <= bindparam("now")))
    .order_by(transfer.c.priority.desc(), transfer.c.id)
    .limit(bindparam("n", type_=Integer))
)
WAITING_AT = (
    select(transfer.c.dst_se_id)
    .where(transfer.c.state.in_(_WAITING))
    .where(or_(transfer.c.not_before.is_(None), transfer.c.not_before <= bindparam("now")))
    .distinct()
)
ACTIVE_BY_SOURCE = (
    select(transfer.c.src_se_id, func.count())
    .where(transfer.c.dst_se_id == bindparam("on_se"), transfer.c.state == TransferState.ACTIVE)
    .group_by(transfer.c.src_se_id)
)
_THIS = transfer.c.id == bindparam("row_id")
_MINE = (_THIS, transfer.c.state == TransferState.ACTIVE, transfer.c.claimed_by == bindparam("me"))
CLAIM = (
    update(transfer)
    .where(_THIS, one_of(transfer.c.state, _WAITING), transfer.c.src_se_id == bindparam("src"))
    .values(
        state=TransferState.ACTIVE,
        claimed_by=bindparam("me"),
        claimed_at=bindparam("at"),
        updated_at=bindparam("at"),
    )
)
END = (
    update(transfer)
    .where(*_MINE)
    .values(
        state=bindparam("dst", type_=transfer.c.state.type),
        attempts=transfer.c.attempts + 1,
        not_before=bindparam("due"),
        claimed_by=None,
        claimed_at=None,
        ended_at=bindparam("at"),
        error_class=bindparam("why"),
        error=bindparam("told"),
        updated_at=bindparam("at"),
    )
)
HELD_AT = select(transfer.c.id).where(
    transfer.c.dst_se_id == bindparam("on_se"),
    transfer.c.state.in_((TransferState.ACTIVE, TransferState.CANCELLED)),
)
ABANDON = (
    update(transfer)
    .where(_THIS, transfer.c.state == TransferState.ACTIVE)
    .values(state=TransferState.QUEUED, claimed_by=None, claimed_at=None, updated_at=bindparam("at"))
)
FORGET_CANCELLED = delete(transfer).where(_THIS, transfer.c.state == TransferState.CANCELLED)
ARRIVED = (
    select(block.c.id)
    .add_columns((func.coalesce(func.max(_THERE.c.hops), 0) + 1).label("hops"))
    .join_from(transfer, block, block.c.id == transfer.c.block_id)
    .outerjoin(_THERE, _same_block_at(_THERE, transfer.c.src_se_id))
    .where(block.c.id.in_(bindparam("ids", expanding=True)), transfer.c.dst_se_id == bindparam("on_se"))
    .where(transfer.c.state == TransferState.DONE)
    .group_by(block.c.id, block.c.files)
    .having(func.count() == block.c.files)
    .order_by(block.c.id)
)
FOLD = delete(transfer).where(*_OF_REPLICA)


# --- a try's life ------------------------------------------------------------------------------------


def waiting_at(conn: Connection, now: datetime) -> set[int]:
    """The destinations where files wait whose time has come."""
    return {row.dst_se_id for row in conn.execute(WAITING_AT, {"now": now})}


def claim(
    conn: Connection, se_id: int, me: str, room: Mapping[int, int], n: int, now: datetime
) -> list[Claimed]:
    """Up to `n` tries towards the SE, now ACTIVE under the name `me`.

    `room`: by source SE, how many files its link may have in flight; sources without room are left alone.
    """
    busy = {row[0]: row[1] for row in conn.execute(ACTIVE_BY_SOURCE, {"on_se": se_id})}
    free = {src: left for src, most in room.items() if (left := most - busy.get(src, 0)) > 0}
    if not free or n <= 0:
        return []
    binds = {"on_se": se_id, "sources": sorted(free), "now": now, "n": 4 * n}
    mine: list[Claimed] = []
    for row in conn.execute(CLAIMABLE, binds).all():
        if len(mine) < n and free[row.src] > 0 and _claim(conn, row, me, now):
            free[row.src] -= 1
            mine.append(_claimed(row))
    return mine


def _claim(conn: Connection, row: Any, me: str, now: datetime) -> bool:
    binds = {"row_id": row.id, "src": row.src, "me": me, "at": now}
    return conn.execute(CLAIM, binds).rowcount == 1


def _claimed(row: Any) -> Claimed:
    values = {name: row._mapping[name] for name in ("id", "block_id", "src", "dst", "bytes", "adler32")}
    return Claimed(
        lfn=f"{row.path}/{row.name}",
        attempts=row.attempts,
        src_custodial=bool(row.src_custodial),
        dst_custodial=bool(row.dst_custodial),
        **values,
    )


def abandon(conn: Connection, se_id: int, in_hand: Collection[int], now: datetime) -> int:
    """Queue again what is ACTIVE towards the SE and in nobody's hand; how many. The lease is held, so that
    any other claim is a dead predecessor's, or one of ours whose transaction's answer was lost."""
    lost = [row.id for row in conn.execute(HELD_AT, {"on_se": se_id}) if row.id not in in_hand]
    run_many(conn, FORGET_CANCELLED, [{"row_id": one} for one in lost])
    return run_many(conn, ABANDON, [{"row_id": one, "at": now} for one in lost])


def settle(
    conn: Connection, se_id: int, me: str, tries: Sequence[Try], now: datetime, policy: Policies
) -> Settled:
    """Write down how tries towards the SE ended; replicas whose last file arrived become COMPLETE."""
    tries = sorted(tries, key=lambda one: one.claimed.id)
    lock_rows(conn, block, [one.claimed.block_id for one in tries])
    rows = [_end(one, me, now, policy) for one in tries]
    won = run_each(conn, END, rows)
    stale = [one for one, mine in zip(tries, won, strict=True) if not mine]
    run_many(conn, FORGET_CANCELLED, [{"row_id": one.claimed.id} for one in stale])
    ended = [one for one, mine in zip(tries, won, strict=True) if mine]
    linkstates.record(conn, [_ended(one) for one in ended], now, policy.link)
    states = [row["dst"] for row, mine in zip(rows, won, strict=True) if mine]
    given_up = {
        one.claimed.block_id
        for one, state in zip(ended, states, strict=True)
        if state is TransferState.FAILED
    }
    routes.stir(conn, given_up, se_id)
    return Settled(
        done=states.count(TransferState.DONE),
        retry=states.count(TransferState.RETRY_WAIT),
        failed=states.count(TransferState.FAILED),
        stale=len(stale),
        completed=_complete(conn, se_id, {one.claimed.block_id for one in ended if one.ok}, now),
    )


def _end(one: Try, me: str, now: datetime, policy: Policies) -> dict[str, Any]:
    state: TransferState = TransferState.DONE
    due: datetime | None = None
    if one.error_class is not None:
        attempt = one.claimed.attempts + 1
        state, due = after_failure(attempt, one.error_class.permanent, now, policy.retry)
    return {
        "row_id": one.claimed.id,
        "me": me,
        "dst": state,
        "due": due,
        "at": now,
        "why": one.error_class,
        "told": one.error[:_ERROR_MAX] if one.error else None,
    }


def _ended(one: Try) -> Ended:
    blames = one.error_class is None or one.error_class.blames_link
    outcome = Outcome(ok=one.ok, bytes=one.bytes, seconds=one.seconds, blames_link=blames)
    return Ended(one.link_id, outcome, one.error)


def _complete(conn: Connection, se_id: int, block_ids: Collection[int], now: datetime) -> int:
    hops = {row.id: row.hops for row in select_in(conn, ARRIVED, block_ids, {"on_se": se_id})}
    completed = replicas.complete_all(conn, se_id, hops, now)
    run_many(conn, FOLD, [_at((one, se_id)) for one in completed])
    destinations.drop(conn, [(one, se_id) for one in completed], now)
    routes.stir(conn, completed, se_id)
    return len(completed)


def open_room(
    views: Mapping[LinkKey, LinkView], se_id: int, now: datetime, policy: Policies
) -> dict[int, int]:
    """By source SE, how many files may be in flight over its link to the SE; shut links are left out."""
    incoming = [view for view in views.values() if view.dst == se_id and view.enabled]
    room = {view.src: window(view.state, now, policy.link) for view in incoming}
    return {src: n for src, n in room.items() if n > 0}


def _at(key: ReplicaKey) -> dict[str, int]:
    return {"on_block": key[0], "on_se": key[1]}
