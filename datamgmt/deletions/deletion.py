"""Deletions: replicas somebody wants away, from the word to the deed; and which replicas may go at all.

All by the set. A block's lock owns its deletions as it owns its replicas: whoever judges holds it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import Connection, Integer, Select, bindparam, case, or_, select

from catalogs import bookkeeping, replicas
from catalogs.tables import block
from datamgmt.deletion_states import MACHINE, OPEN, DeletionEvent, DeletionState
from datamgmt.deletions.hindrances import PLAIN, Terms, Why, sources_in_use, staying, subscribed, told
from datamgmt.reasons import Reason
from datamgmt.tables import block_dest, deletion, transfer
from datamgmt.transfers import store
from datamgmt.wanted import destinations
from datamgmt.wanted.allocation import ReplicaKey
from gridcore.db import bulk, lock_rows, reads
from gridcore.db.bulk import Change, New, Same
from gridcore.db.idlists import within
from gridcore.db.reads import Read
from gridcore.db.statements import one_of
from gridcore.errors import NotFound

_S, _E = DeletionState, DeletionEvent


@dataclass(frozen=True, slots=True)
class Asker:
    """Who wants replicas away, for which group; whether it is theirs to decide there."""

    name: str
    group: str
    decides: bool = False


@dataclass(slots=True)
class Asked:
    """By replica: its deletion, new or there before, or why it must stay; those that are new or went on."""

    ids: dict[ReplicaKey, int] = field(default_factory=dict)
    refused: dict[ReplicaKey, Why] = field(default_factory=dict)
    changed: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Decided:
    """Deletions that went on, and why others did not."""

    done: list[int] = field(default_factory=list)
    refused: dict[int, Why] = field(default_factory=dict)


class Row(NamedTuple):
    """What of a deletion decides how it goes on."""

    id: int
    block_id: int
    se_id: int
    state: DeletionState
    custodial_too: int
    subscribed_too: int

    @property
    def place(self) -> ReplicaKey:
        return self.block_id, self.se_id

    @property
    def terms(self) -> Terms:
        return Terms(bool(self.custodial_too), bool(self.subscribed_too))


@dataclass(frozen=True, slots=True)
class Due:
    """How many deletions began, were refused after all, or wait for copies from there to end."""

    begun: int = 0
    refused: int = 0
    later: int = 0


# --- statements --------------------------------------------------------------------------------------

_IS_OPEN = one_of(deletion.c.state, OPEN)
_ROWS = select(*(deletion.c[name] for name in Row._fields))
BY_ID = _ROWS.where(within(deletion.c.id)).order_by(deletion.c.id)
#: What is open comes last: it counts for more than what has ended under the same ask id.
BY_BLOCK = _ROWS.where(
    within(deletion.c.block_id), or_(_IS_OPEN, deletion.c.ask_id == bindparam("asked"))
).order_by(case((_IS_OPEN, 1), else_=0))
_DUE = _ROWS.where(
    deletion.c.state == _S.APPROVED, deletion.c.due_at <= bindparam("now", type_=deletion.c.due_at.type)
)
DUE = _DUE.order_by(deletion.c.due_at, deletion.c.id).limit(bindparam("n", type_=Integer))
STILL_DUE = _DUE.where(within(deletion.c.id)).order_by(deletion.c.id)
DATASETS = select(block.c.dataset_id).where(within(block.c.id)).distinct()
COPIED_TO = select(transfer.c.block_id, transfer.c.dst_se_id).where(within(transfer.c.block_id)).distinct()
WANTED = select(block_dest.c.block_id, block_dest.c.se_id, block_dest.c.repair).where(
    within(block_dest.c.block_id)
)
# --- the word ----------------------------------------------------------------------------------------


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
    if not wanted:
        return Asked()
    lock_rows(conn, block, {block_id for block_id, _ in wanted})
    group = ask_id or f"deletion/{keys[0]}"
    ids = sorted({block_id for block_id, _ in wanted})
    rows = {row.place: row for row in _read(conn, BY_BLOCK, {"ids": ids, "asked": group})}
    asked_for = set(wanted)
    new = [key for key in sorted(asked_for) if key not in rows]
    refused = staying(conn, dict.fromkeys(new, terms))
    fresh = {place: key for place, key in zip(new, keys, strict=False) if place not in refused}
    word = _approval(by.name, now, now + undelete) if by.decides else {"state": _S.ASKED}
    if fresh:
        facts = {"ask_id": group, "comments": comments, "code": code, "params": dict(params or {})}
        bulk.write(conn, [_new(fresh, by, terms, {**facts, **word}, now)])
    known = {place: rows[place].id for place in asked_for if place in rows}
    asked = Asked(known | fresh, refused, list(fresh.values()))
    if by.decides:
        replicas.set_leaving_all(conn, fresh, now + undelete)
        waiting = [rows[place].id for place in known if rows[place].state is _S.ASKED]
        found = approve(conn, waiting, by.name, now, undelete=undelete) if waiting else Decided()
        asked.changed += found.done
        asked.refused |= {place: found.refused[key] for place, key in known.items() if key in found.refused}
    return asked


def _approval(by: str, now: datetime, due: datetime) -> dict[str, Any]:
    return {
        "state": MACHINE.next(_S.ASKED, _E.APPROVE),
        "decided_by": by,
        "decided_at": now,
        "due_at": due,
    }


def _new(
    fresh: Mapping[ReplicaKey, int], by: Asker, terms: Terms, facts: Mapping[str, Any], now: datetime
) -> New:
    same = {
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
    refused = staying(conn, {row.place: row.terms for row in rows})
    going = [row for row in rows if row.place not in refused]
    due = now + undelete
    _move(conn, going, _E.APPROVE, now, _approval(by, now, due))
    replicas.set_leaving_all(conn, [row.place for row in going], due)
    return Decided(
        [row.id for row in going], {row.id: refused[row.place] for row in rows if row.place in refused}
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
    replicas.set_leaving_all(conn, [row.place for row in rows], None)
    return [row.id for row in rows]


def _locked(conn: Connection, ids: Iterable[int], event: DeletionEvent) -> list[Row]:
    """Those of the deletions that know the event, under their blocks' locks. Raises NotFound."""
    wanted, sources = set(ids), MACHINE.sources(event)
    binds = {"ids": sorted(wanted)}
    seen = _read(conn, BY_ID, binds)
    if missing := wanted - {row.id for row in seen}:
        raise NotFound(f"there is no deletion {min(missing)}", hint="see: tierflow deletion list")
    lock_rows(conn, block, {row.block_id for row in seen})
    return [row for row in _read(conn, BY_ID, binds) if row.state in sources]


def _move(
    conn: Connection, rows: Sequence[Row], event: DeletionEvent, now: datetime, put: Mapping[str, Any]
) -> None:
    """Change rows in one state, read under their blocks' locks."""
    if rows:
        frm = rows[0].state
        values = {"state": MACHINE.next(frm, event), "updated_at": now, **put}
        same = {name: Same(value) for name, value in values.items()}
        bulk.write(conn, [Change(deletion, {"id": [row.id for row in rows]}, put=same, only={"state": frm})])


def _read(conn: Connection, statement: Select[Any], binds: Mapping[str, Any]) -> list[Row]:
    (found,) = reads.rows(conn, [Read(statement, binds)])
    return list(map(Row._make, found))


# --- the deed ----------------------------------------------------------------------------------------


def is_due(conn: Connection, now: datetime) -> bool:
    """Whether the time of any deletion has come."""
    return conn.execute(DUE, {"now": now, "n": 1}).first() is not None


def carry_out(conn: Connection, now: datetime, n: int, later: timedelta) -> Due:
    """Begin up to `n` deletions whose time has come, judged anew: their replicas are DELETING.

    One whose replica must stay is REFUSED; one that copies are made from waits `later`.
    """
    seen = _read(conn, DUE, {"now": now, "n": n})
    if not seen:
        return Due()
    blocks = sorted({row.block_id for row in seen})
    # Who subscribes there meanwhile comes before, and is seen, or after, and allocation looks again.
    (found,) = reads.rows(conn, [Read(DATASETS, {"ids": blocks})])
    bookkeeping.unsettle(conn, [dataset_id for (dataset_id,) in found])
    lock_rows(conn, block, blocks)
    rows = _read(conn, STILL_DUE, {"now": now, "ids": [row.id for row in seen]})
    busy = sources_in_use(conn, [row.block_id for row in rows])
    waiting = [row for row in rows if row.place in busy]
    _put_off(conn, [(row, busy[row.place]) for row in waiting], now, now + later)
    judged = {row.place: row for row in rows if row.place not in busy}
    kept = subscribed(conn, {place: row.terms for place, row in judged.items()})
    going = [place for place in judged if place not in kept]
    kept |= _release(conn, going, now, custodial_too={key for key in going if judged[key].custodial_too})
    _refuse(conn, [(row, kept[place]) for place, row in judged.items() if place in kept], now)
    begun = [row for place, row in judged.items() if place not in kept]
    _move(conn, begun, _E.BEGIN, now, {"code": None, "params": None})
    return Due(len(begun), len(kept), len(waiting))


def _put_off(conn: Connection, waiting: Sequence[tuple[Row, int]], now: datetime, until: datetime) -> None:
    """Look again then at those that are sources, of copies to these SEs; others may take their place."""
    if waiting:
        put = {
            "due_at": Same(until),
            "code": Same(Reason.SOURCE_IN_USE),
            "params": [{"dst": dst} for _, dst in waiting],
            "updated_at": Same(now),
        }
        bulk.write(conn, [Change(deletion, {"id": [row.id for row, _ in waiting]}, put=put)])
        replicas.set_leaving_all(conn, [row.place for row, _ in waiting], until)
        # The router is to find other sources for what has not got all its files yet.
        destinations.stir_all(conn, [row.place for row, _ in waiting])


def _refuse(conn: Connection, judged: Sequence[tuple[Row, Why]], now: datetime) -> None:
    if judged:
        put = {
            "state": Same(MACHINE.next(_S.APPROVED, _E.REFUSE)),
            "code": [code for _, (code, _) in judged],
            "params": [params for _, (_, params) in judged],
            "updated_at": Same(now),
        }
        keys = {"id": [row.id for row, _ in judged]}
        bulk.write(conn, [Change(deletion, keys, put=put, only={"state": _S.APPROVED})])
        replicas.set_leaving_all(conn, [row.place for row, _ in judged], None)


def release(
    conn: Connection, keys: Collection[ReplicaKey], now: datetime, *, custodial_too: bool = False
) -> int:
    """Let go of replicas that nobody asks for any more, finished or not; how many went.

    A last good replica stays, and so does one that copies are made from. The caller holds the blocks' locks.
    """
    if not keys:
        return 0
    busy = sources_in_use(conn, [block_id for block_id, _ in keys])
    free = [key for key in keys if key not in busy]
    return len(free) - len(_release(conn, free, now, custodial_too=custodial_too))


def _release(
    conn: Connection,
    keys: Collection[ReplicaKey],
    now: datetime,
    *,
    custodial_too: bool | Collection[ReplicaKey],
) -> dict[ReplicaKey, Why]:
    """Those that stay, and why."""
    kept = replicas.mark_deleting_all(conn, keys, custodial_too=custodial_too)
    gone = [key for key in keys if key not in kept]
    if not gone:
        return told(kept)
    ids = {"ids": sorted({block_id for block_id, _ in gone})}
    copied, wanted = reads.rows(conn, [Read(COPIED_TO, ids), Read(WANTED, ids)])
    repaired = {(block_id, se_id) for block_id, se_id, repair in wanted if repair}
    busy = {*copied, *((block_id, se_id) for block_id, se_id, _ in wanted)}
    store.cancel(conn, [key for key in gone if key in busy], now)
    destinations.drop(conn, repaired.intersection(gone), now)
    return told(kept)
