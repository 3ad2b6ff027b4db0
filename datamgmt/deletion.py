"""Deletions: replicas somebody wants away, from the word to the deed; and which replicas may go at all.

All by the set. A block's lock owns its deletions as it owns its replicas: whoever judges holds it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import Connection, Integer, bindparam, or_, select

from catalogs import bookkeeping, replicas
from catalogs.replicas import Kept
from catalogs.tables import block
from datamgmt import reasons, transfers
from datamgmt.allocation import ReplicaKey
from datamgmt.deletion_states import MACHINE, OPEN, DeletionEvent, DeletionState
from datamgmt.reasons import Reason
from datamgmt.subscription_states import WANTING
from datamgmt.tables import block_dest, deletion, subscription, transfer
from datamgmt.transfer_states import TransferState
from gridcore.db import bulk, lock_rows
from gridcore.db.bulk import Change, New, Same
from gridcore.db.idlists import within
from gridcore.db.statements import one_of
from gridcore.errors import Conflict, NotFound

#: The guard's refusals in words people are given.
KEPT: Mapping[Kept, Reason] = {
    Kept.LAST: Reason.LAST_REPLICA,
    Kept.LAST_OF_FILES: Reason.LAST_OF_FILES,
    Kept.IN_USE: Reason.SOURCE_IN_USE,
    Kept.CUSTODIAL: Reason.LAST_CUSTODIAL,
    Kept.ABSENT: Reason.ABSENT,
}
_S, _E = DeletionState, DeletionEvent


@dataclass(frozen=True, slots=True)
class Asker:
    """Who wants replicas away, for which group; whether it is theirs to decide there."""

    name: str
    group: str
    decides: bool = False


class Terms(NamedTuple):
    """What a deletion may take: the last custodial replica, one that is subscribed and so copied anew."""

    custodial_too: bool = False
    subscribed_too: bool = False


#: What most deletions may take.
PLAIN = Terms()


@dataclass(slots=True)
class Asked:
    """By replica: its deletion, new or there before, or why it must stay."""

    ids: dict[ReplicaKey, int] = field(default_factory=dict)
    refused: dict[ReplicaKey, Reason] = field(default_factory=dict)


@dataclass(slots=True)
class Decided:
    """Deletions that went on, and why others did not."""

    done: list[int] = field(default_factory=list)
    refused: dict[int, Reason] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Due:
    """How many deletions began, were refused after all, or wait for copies from there to end."""

    begun: int = 0
    refused: int = 0
    later: int = 0


# --- statements --------------------------------------------------------------------------------------

_IS_OPEN = one_of(deletion.c.state, OPEN)
BY_ID = select(deletion).where(within(deletion.c.id)).order_by(deletion.c.id)
BY_BLOCK = select(deletion).where(
    within(deletion.c.block_id), or_(_IS_OPEN, deletion.c.ask_id == bindparam("asked"))
)
DUE = (
    select(deletion.c.id)
    .where(
        deletion.c.state == _S.APPROVED, deletion.c.due_at <= bindparam("now", type_=deletion.c.due_at.type)
    )
    .order_by(deletion.c.due_at, deletion.c.id)
    .limit(bindparam("n", type_=Integer))
)
FEEDING = select(block_dest.c.block_id, block_dest.c.src_se_id).where(
    within(block_dest.c.block_id), block_dest.c.src_se_id.is_not(None)
)
BEING_READ = select(transfer.c.block_id, transfer.c.src_se_id).where(
    within(transfer.c.block_id), transfer.c.state == TransferState.ACTIVE
)
SUBSCRIBED = (
    select(block.c.id, subscription.c.se_id)
    .join_from(block, subscription, subscription.c.dataset_id == block.c.dataset_id)
    .where(within(block.c.id), subscription.c.state.in_(WANTING))
    .where(or_(subscription.c.block_id == 0, subscription.c.block_id == block.c.id))
)


# --- the guard ---------------------------------------------------------------------------------------


def sources_in_use(conn: Connection, block_ids: Iterable[int]) -> set[ReplicaKey]:
    """Replicas of the blocks from which a hop begins, or a file is being copied."""
    ids = {"ids": sorted(set(block_ids))}
    return {tuple(row) for statement in (FEEDING, BEING_READ) for row in conn.execute(statement, ids)}


def _subscribed(conn: Connection, wanted: Mapping[ReplicaKey, Terms]) -> dict[ReplicaKey, Reason]:
    """Those that a subscription asks for, and stay for that."""
    rows = conn.execute(SUBSCRIBED, {"ids": sorted({block_id for block_id, _ in wanted})})
    live = {tuple(row) for row in rows}
    return {
        key: Reason.SUBSCRIBED for key, terms in wanted.items() if key in live and not terms.subscribed_too
    }


def staying(conn: Connection, wanted: Mapping[ReplicaKey, Terms]) -> dict[ReplicaKey, Reason]:
    """Those of the replicas that must stay were all asked away now, and why.

    That it is a source in use is no reason here: copies end. The answer holds while the blocks are locked.
    """
    kept = _subscribed(conn, wanted)
    rest = [key for key in wanted if key not in kept]
    found = replicas.complete_replicas(conn, {block_id for block_id, _ in rest})
    complete = {one.key for rows in found.values() for one in rows}
    kept |= {key: Reason.ABSENT for key in rest if key not in complete}
    there = [key for key in rest if key in complete]
    freed = {key for key in there if wanted[key].custodial_too}
    return kept | {key: KEPT[why] for key, why in replicas.staying(conn, there, custodial_too=freed).items()}


# --- the word ----------------------------------------------------------------------------------------


def ask(
    conn: Connection,
    key: int,
    block_id: int,
    se_id: int,
    by: Asker,
    now: datetime,
    *,
    undelete: timedelta,
    custodial_too: bool = False,
    **options: Any,
) -> int:
    """Have one replica away, see `ask_all`; the id of its deletion. Raises Conflict where it must stay."""
    place = block_id, se_id
    terms = Terms(custodial_too=custodial_too)
    asked = ask_all(conn, [key], [place], by, now, undelete=undelete, terms=terms, **options)
    if place in asked.refused:
        why = asked.refused[place]
        raise Conflict(f"the replica stays: {reasons.render(why, {})}", hint=reasons.cure(why, {}))
    return asked.ids[place]


def ask_all(
    conn: Connection,
    keys: Sequence[int],
    wanted: Sequence[ReplicaKey],
    by: Asker,
    now: datetime,
    *,
    undelete: timedelta,
    terms: Terms = PLAIN,
    ask_id: str | None = None,
    comments: str | None = None,
    code: Reason | None = None,
    params: Mapping[str, Any] | None = None,
) -> Asked:
    """Have replicas away, `keys` a fresh one for each. What must stay is refused now, and not written down.

    Where `by` decides they are APPROVED at once and go after `undelete`; else they wait for `approve`. One
    that is asked for already, or was under the same `ask_id`, keeps its deletion. `code` with `params` says
    what for.
    """
    wanted = sorted(set(wanted))
    if not wanted:
        return Asked()
    lock_rows(conn, block, {block_id for block_id, _ in wanted})
    group = ask_id or f"deletion/{keys[0]}"
    ids = sorted({block_id for block_id, _ in wanted})
    rows = {(row.block_id, row.se_id): row for row in conn.execute(BY_BLOCK, {"ids": ids, "asked": group})}
    new = [key for key in wanted if key not in rows]
    refused = staying(conn, dict.fromkeys(new, terms))
    fresh = {place: key for place, key in zip(new, keys, strict=False) if place not in refused}
    if fresh:
        facts = {"ask_id": group, "comments": comments, "code": code, "params": dict(params or {})}
        bulk.write(conn, [_new(fresh, by, terms, facts, now)])
    asked = Asked({place: rows[place].id for place in wanted if place in rows} | fresh, refused)
    if by.decides:
        waiting = [key for place, key in asked.ids.items() if place in fresh or rows[place].state == _S.ASKED]
        denied = approve(conn, waiting, by.name, now, undelete=undelete).refused
        asked.refused |= {place: denied[key] for place, key in asked.ids.items() if key in denied}
    return asked


def _new(
    fresh: Mapping[ReplicaKey, int], by: Asker, terms: Terms, facts: Mapping[str, Any], now: datetime
) -> New:
    same = {
        "state": _S.ASKED,
        "custodial_too": int(terms.custodial_too),
        "subscribed_too": int(terms.subscribed_too),
        "requester": by.name,
        "acct_group": by.group,
        "created_at": now,
        "updated_at": now,
        **facts,
    }
    columns = {
        "id": list(fresh.values()),
        "block_id": [block_id for block_id, _ in fresh],
        "se_id": [se_id for _, se_id in fresh],
    }
    return New(deletion, columns | {name: Same(value) for name, value in same.items()})


def approve(conn: Connection, ids: Iterable[int], by: str, now: datetime, *, undelete: timedelta) -> Decided:
    """Let asked deletions be done after `undelete`; those that are decided already are left alone.

    The replicas are sources until then, but protect no other copy any more. Raises NotFound.
    """
    rows = _locked(conn, ids, _E.APPROVE)
    refused = staying(conn, {_place(row): _terms(row) for row in rows})
    going = [row for row in rows if _place(row) not in refused]
    due = now + undelete
    put = {"decided_by": by, "decided_at": now, "due_at": due}
    _move(conn, going, _E.APPROVE, now, put)
    replicas.set_leaving_all(conn, [_place(row) for row in going], due)
    return Decided(
        [row.id for row in going], {row.id: refused[_place(row)] for row in rows if _place(row) in refused}
    )


def deny(conn: Connection, ids: Iterable[int], by: str, now: datetime, note: str | None = None) -> list[int]:
    """Say no to asked deletions; which of them waited for a word. Raises NotFound."""
    rows = _locked(conn, ids, _E.DENY)
    why = {"code": Reason.DENIED, "params": {"actor": by, "note": note}}
    _move(conn, rows, _E.DENY, now, {"decided_by": by, "decided_at": now, **why})
    return [row.id for row in rows]


def undo(conn: Connection, ids: Iterable[int], by: str, now: datetime) -> list[int]:
    """Take back deletions that have not begun; which had not. The replicas are as before. Raises NotFound."""
    rows = _locked(conn, ids, _E.UNDO)
    _move(conn, rows, _E.UNDO, now, {"decided_by": by, "decided_at": now})
    replicas.set_leaving_all(conn, [_place(row) for row in rows], None)
    return [row.id for row in rows]


def _locked(conn: Connection, ids: Iterable[int], event: DeletionEvent) -> list[Any]:
    """Those of the deletions that know the event, under their blocks' locks. Raises NotFound."""
    wanted = {"ids": sorted(set(ids))}
    seen = conn.execute(BY_ID, wanted).all()
    if missing := set(wanted["ids"]) - {row.id for row in seen}:
        raise NotFound(f"there is no deletion {min(missing)}", hint="see: tierflow deletion list")
    lock_rows(conn, block, {row.block_id for row in seen})
    return [row for row in conn.execute(BY_ID, wanted) if row.state in MACHINE.sources(event)]


def _move(
    conn: Connection, rows: Sequence[Any], event: DeletionEvent, now: datetime, put: Mapping[str, Any]
) -> None:
    """Change rows in one state, read under their blocks' locks."""
    if rows:
        frm = rows[0].state
        values = {"state": MACHINE.next(frm, event), "updated_at": now, **put}
        same = {name: Same(value) for name, value in values.items()}
        bulk.write(conn, [Change(deletion, {"id": [row.id for row in rows]}, put=same, only={"state": frm})])


def _place(row: Any) -> ReplicaKey:
    return row.block_id, row.se_id


def _terms(row: Any) -> Terms:
    return Terms(bool(row.custodial_too), bool(row.subscribed_too))


# --- the deed ----------------------------------------------------------------------------------------


def is_due(conn: Connection, now: datetime) -> bool:
    """Whether the time of any deletion has come."""
    return conn.execute(DUE, {"now": now, "n": 1}).first() is not None


def carry_out(conn: Connection, now: datetime, n: int, later: timedelta) -> Due:
    """Begin up to `n` deletions whose time has come, judged anew: their replicas are DELETING.

    One whose replica must stay is REFUSED; one that copies are made from waits `later`.
    """
    ids = {"ids": conn.execute(DUE, {"now": now, "n": n}).scalars().all()}
    if not ids["ids"]:
        return Due()
    seen = conn.execute(BY_ID, ids).all()
    _unsettle(conn, [row.block_id for row in seen if row.subscribed_too])
    lock_rows(conn, block, {row.block_id for row in seen})
    rows = [row for row in conn.execute(BY_ID, ids) if row.state == _S.APPROVED and row.due_at <= now]
    busy = sources_in_use(conn, [row.block_id for row in rows])
    waiting = [row for row in rows if _place(row) in busy]
    _put_off(conn, waiting, now, now + later)
    judged = {_place(row): row for row in rows if _place(row) not in busy}
    kept = _subscribed(conn, {place: _terms(row) for place, row in judged.items()})
    going = [place for place in judged if place not in kept]
    kept |= _release(conn, going, now, custodial_too={key for key in going if judged[key].custodial_too})
    _refuse(conn, [(judged[place], kept[place]) for place in sorted(kept)], now)
    begun = [row for place, row in judged.items() if place not in kept]
    _move(conn, begun, _E.BEGIN, now, {"code": None, "params": None})
    return Due(len(begun), len(kept), len(waiting))


def _unsettle(conn: Connection, block_ids: Collection[int]) -> None:
    """Have allocation look at the blocks' datasets, whose locks come before the blocks'."""
    if block_ids:
        found = bookkeeping.blocks_by_id(conn, block_ids)
        bookkeeping.unsettle(conn, {one.dataset_id for one in found.values()})


def _put_off(conn: Connection, rows: Sequence[Any], now: datetime, until: datetime) -> None:
    if rows:
        put = {"due_at": until, "code": Reason.SOURCE_IN_USE, "params": {}, "updated_at": now}
        same = {name: Same(value) for name, value in put.items()}
        bulk.write(conn, [Change(deletion, {"id": [row.id for row in rows]}, put=same)])
        replicas.set_leaving_all(conn, [_place(row) for row in rows], until)


def _refuse(conn: Connection, judged: Sequence[tuple[Any, Reason]], now: datetime) -> None:
    for reason in sorted({why for _, why in judged}):
        rows = [row for row, why in judged if why is reason]
        _move(conn, rows, _E.REFUSE, now, {"code": reason, "params": {}})
    replicas.set_leaving_all(conn, [_place(row) for row, _ in judged], None)


def release(
    conn: Connection, keys: Collection[ReplicaKey], now: datetime, *, custodial_too: bool = False
) -> int:
    """Let go of replicas that nobody asks for any more, finished or not; how many went.

    The caller has made sure, under the blocks' locks, that no hop starts there. A last good replica stays.
    """
    return len(keys) - len(_release(conn, keys, now, custodial_too=custodial_too))


def _release(
    conn: Connection,
    keys: Collection[ReplicaKey],
    now: datetime,
    *,
    custodial_too: bool | Collection[ReplicaKey],
) -> dict[ReplicaKey, Reason]:
    """Those that stay, and why."""
    kept = replicas.mark_deleting_all(conn, sorted(keys), custodial_too=custodial_too)
    transfers.cancel(conn, [key for key in keys if key not in kept], now)
    return {key: KEPT[why] for key, why in kept.items()}
