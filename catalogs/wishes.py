"""Wishes: where prodsys and datamgmt meet. One writes what it wants, the other serves it or says why not."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Connection, Integer, bindparam, select, update
from sqlalchemy.exc import IntegrityError

from catalogs.states import WishKind, WishState
from catalogs.tables import wish
from gridcore.db import insert_rows
from gridcore.db.statements import insert_new, run_many, select_in
from gridcore.errors import NotFound

SubjectKind = Literal["dataset", "block", "lfn"]
#: (id of the wish, code, parameters of the code's sentence).
Reason = tuple[int, str, dict[str, Any]]
#: What makes a wish the same: (kind, subject, SE, owner).
Same = tuple[WishKind, str, int, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class NewWish:
    """Something to ask for; `owner` names who asked, such as a task or job; `not_before` None is at once."""

    id: int
    kind: WishKind
    subject_kind: SubjectKind
    subject: str
    se_id: int
    owner: str
    custodial: bool = False
    not_before: datetime | None = None

    @property
    def same(self) -> Same:
        """What it is recognised by."""
        return self.kind, self.subject, self.se_id, self.owner


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """A wish and the last word on it: `code` and `params` say why it waits or was refused."""

    id: int
    kind: WishKind
    subject_kind: str
    subject: str
    se_id: int
    owner: str
    custodial: int
    not_before: datetime
    state: WishState
    code: str | None
    params: dict[str, Any] | None
    created_at: datetime
    updated_at: datetime


SAME = select(wish.c.id, wish.c.kind, wish.c.subject, wish.c.se_id, wish.c.owner).where(
    wish.c.kind == bindparam("on_kind"), wish.c.subject.in_(bindparam("ids", expanding=True))
)
OPEN = (
    select(wish)
    .where(wish.c.state == WishState.OPEN, wish.c.kind == bindparam("on_kind"))
    .where(wish.c.not_before <= bindparam("now", type_=wish.c.not_before.type))
    .order_by(wish.c.not_before, wish.c.id)
    .limit(bindparam("n", type_=Integer))
)
OF_OWNER = select(wish).where(wish.c.owner == bindparam("on_owner")).order_by(wish.c.id)
_STILL_OPEN = (wish.c.id == bindparam("wish_id"), wish.c.state == WishState.OPEN)
SERVE = update(wish).where(*_STILL_OPEN).values(state=WishState.SERVED, code=None, updated_at=bindparam("at"))
_SAID: dict[str, Any] = {
    "code": bindparam("why"),
    "params": bindparam("why_params"),
    "updated_at": bindparam("at"),
}
REFUSE = update(wish).where(*_STILL_OPEN).values(state=WishState.REFUSED, **_SAID)
EXPLAIN = update(wish).where(*_STILL_OPEN).values(not_before=bindparam("again"), **_SAID)


def make(conn: Connection, rows: Sequence[NewWish], now: datetime) -> list[int]:
    """Write the wishes; their ids, in order. One made before keeps its id, state and reason.

    Raises NotFound for an unknown storage element.
    """
    found = _same(conn, rows)
    missing = {row.same: row for row in rows if row.same not in found}
    if missing:
        _insert(conn, [_row(missing[same], now) for same in sorted(missing)])
        found |= _same(conn, missing.values())
        for same in missing.keys() - found.keys():
            raise NotFound(f"there is no storage element with id {same[2]} to {same[0]} {same[1]} at")
    return [found[row.same] for row in rows]


def _same(conn: Connection, rows: Iterable[NewWish]) -> dict[Same, int]:
    subjects: dict[WishKind, set[str]] = defaultdict(set)
    for row in rows:
        subjects[row.kind].add(row.subject)
    return {
        (one.kind, one.subject, one.se_id, one.owner): one.id
        for kind, names in subjects.items()
        for one in select_in(conn, SAME, names, {"on_kind": kind})
    }


def _insert(conn: Connection, rows: list[dict[str, Any]]) -> None:
    """All at once; one by one where another writer has just made some of them."""
    try:
        with conn.begin_nested():
            insert_rows(conn, wish, rows)
    except IntegrityError:
        for row in rows:
            insert_new(conn, wish, row)


def _row(new: NewWish, now: datetime) -> dict[str, Any]:
    return {
        "id": new.id,
        "kind": new.kind,
        "subject_kind": new.subject_kind,
        "subject": new.subject,
        "se_id": new.se_id,
        "custodial": int(new.custodial),
        "owner": new.owner,
        "not_before": new.not_before or now,
        "state": WishState.OPEN,
        "created_at": now,
        "updated_at": now,
    }


def open_wishes(conn: Connection, kind: WishKind, now: datetime, limit: int) -> list[Wish]:
    """Up to `limit` open wishes whose time has come, longest due first."""
    return _wishes(conn.execute(OPEN, {"on_kind": kind, "now": now, "n": limit}))


def of_owner(conn: Connection, owner: str) -> list[Wish]:
    """All wishes of an owner, in any state."""
    return _wishes(conn.execute(OF_OWNER, {"on_owner": owner}))


def serve(conn: Connection, ids: Iterable[int], now: datetime) -> int:
    """They are done; how many were still open."""
    return run_many(conn, SERVE, [{"wish_id": one, "at": now} for one in sorted(set(ids))])


def refuse(conn: Connection, reasons: Iterable[Reason], now: datetime) -> int:
    """They will not be served, and why; how many were still open."""
    return run_many(conn, REFUSE, _binds(reasons, now))


def explain(conn: Connection, reasons: Iterable[Reason], now: datetime, again: datetime) -> int:
    """Why they wait; looked at anew from `again` on, so that others get their turn. How many were open."""
    return run_many(conn, EXPLAIN, [{**row, "again": again} for row in _binds(reasons, now)])


def _binds(reasons: Iterable[Reason], now: datetime) -> list[dict[str, Any]]:
    return [
        {"wish_id": one, "why": code, "why_params": params, "at": now}
        for one, code, params in sorted(reasons, key=lambda reason: reason[0])
    ]


def _wishes(rows: Iterable[Any]) -> list[Wish]:
    return [Wish(**row._mapping) for row in rows]
