"""Orders on many jobs, as rows: what was asked, how far it has come, and which jobs each chunk changed.

A chunk writes its jobs and the cursor in one transaction: whoever goes on starts behind the last whole chunk,
and of two that go on at once one is turned away.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, Integer, bindparam, delete, func, select, update

from gridcore.db.idlists import within
from gridcore.db.statements import insert_rows
from gridcore.errors import Busy, NotFound
from prodsys.jobs.store import POINT
from prodsys.tables import operation, operation_part

#: Jobs by key, each with how far it was shifted in its line: microseconds, down for sooner; 0 where not.
Changed = Mapping[int, int]

#: How long an order can be undone.
UNDO_WINDOW = timedelta(hours=24)
#: How long an order is kept after its last chunk; who gave it stays in the audit log.
KEPT = timedelta(days=90)
#: Indices of one task within the cursor.
TASK_SPAN = 2**31


class OrderState(StrEnum):
    """Where an order is."""

    #: Under way, or cut off: it can be resumed.
    RUNNING = "RUNNING"
    #: Gone through all of its jobs.
    DONE = "DONE"
    #: Taken back by another order, as far as it had come.
    UNDONE = "UNDONE"


class OrderVerb(StrEnum):
    """What is done to the jobs."""

    KILL = "kill"
    HOLD = "hold"
    RELEASE = "release"
    RETRY = "retry"
    PRIORITY = "priority"
    UNDO = "undo"


#: What can be taken back: the rest has had effects outside of the queue.
UNDOABLE = frozenset([OrderVerb.HOLD, OrderVerb.PRIORITY])


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """An order. `selector` is {"where": text or None, "named": {task: [index]}}, `tasks` the only ones it
    touches. A priority order shifts `by` so many points, or puts each job at priority `to`.

    `cursor` is the last job gone through: the task's place in `tasks` times TASK_SPAN plus the job's index;
    of an undo, the part of the other order.
    """

    id: int
    verb: OrderVerb
    selector: Mapping[str, Any]
    tasks: Sequence[int]
    actor: str
    created_at: datetime
    total: int
    by: int | None = None
    to: int | None = None
    undoes: int | None = None
    undo_until: datetime | None = None
    updated_at: datetime | None = None
    state: OrderState = OrderState.RUNNING
    cursor: int = 0
    seen: int = 0
    changed: int = 0

    @property
    def points(self) -> dict[str, int]:
        """{"by": n} or {"to": n} of a priority order; of others nothing."""
        return {name: n for name, n in (("by", self.by), ("to", self.to)) if n is not None}


ORDERS = select(operation)
BY_ID = ORDERS.where(operation.c.id == bindparam("order_id"))
NEWEST = ORDERS.order_by(operation.c.id.desc()).limit(bindparam("n", type_=Integer))
RUNNING = ORDERS.where(operation.c.state == OrderState.RUNNING.value).order_by(operation.c.id)
UNDOING = ORDERS.where(operation.c.undoes == bindparam("order_id"))
ADVANCE = (
    update(operation)
    .where(operation.c.id == bindparam("order_id"), operation.c.state == OrderState.RUNNING.value)
    .where(operation.c.cursor_id == bindparam("seen_at"))
    .values(
        cursor_id=bindparam("gone_to"),
        seen=operation.c.seen + bindparam("n_seen"),
        changed=operation.c.changed + bindparam("n_changed"),
        updated_at=bindparam("at", type_=operation.c.updated_at.type),
    )
)
SET_STATE = (
    update(operation)
    .where(operation.c.id == bindparam("order_id"), operation.c.state == bindparam("frm"))
    .values(state=bindparam("dst"), updated_at=bindparam("at", type_=operation.c.updated_at.type))
)
LAST_PART = select(func.max(operation_part.c.part)).where(
    operation_part.c.operation_id == bindparam("order_id")
)
NEXT_PART = (
    select(operation_part.c.part, operation_part.c.jobs)
    .where(operation_part.c.operation_id == bindparam("order_id"), operation_part.c.part > bindparam("after"))
    .order_by(operation_part.c.part)
    .limit(1)
)
STALE = (
    select(operation.c.id)
    .where(operation.c.updated_at < bindparam("before", type_=operation.c.updated_at.type))
    .order_by(operation.c.id)
    .limit(bindparam("n", type_=Integer))
)
FORGET_PARTS = delete(operation_part).where(within(operation_part.c.operation_id))
FORGET = delete(operation).where(within(operation.c.id))


def start(conn: Connection, new: Order) -> None:
    """Write down an order that is to be carried out."""
    row = {
        "id": new.id,
        "verb": new.verb.value,
        "selector": dict(new.selector),
        "params": {"tasks": list(new.tasks), **new.points},
        "state": new.state.value,
        "actor": new.actor,
        "created_at": new.created_at,
        "updated_at": new.created_at,
        "undo_until": new.undo_until,
        "undoes": new.undoes,
        "cursor_id": new.cursor,
        "total": new.total,
    }
    insert_rows(conn, operation, [row])


def of_row(row: Any) -> Order:
    """An Order from a full row."""
    return Order(
        id=row.id,
        verb=OrderVerb(row.verb),
        selector=row.selector,
        tasks=row.params["tasks"],
        by=row.params.get("by"),
        to=row.params.get("to"),
        actor=row.actor,
        created_at=row.created_at,
        updated_at=row.updated_at,
        undo_until=row.undo_until,
        undoes=row.undoes,
        state=OrderState(row.state),
        cursor=row.cursor_id or 0,
        total=row.total,
        seen=row.seen,
        changed=row.changed,
    )


def by_id(conn: Connection, order_id: int) -> Order:
    """The order of this key. Raises NotFound."""
    row = conn.execute(BY_ID, {"order_id": order_id}).one_or_none()
    if row is None:
        raise NotFound(f"there is no operation {order_id}", hint="see: tierflow operation list")
    return of_row(row)


def newest(conn: Connection, n: int) -> list[Order]:
    """The last `n` orders, newest first."""
    return [of_row(row) for row in conn.execute(NEWEST, {"n": n})]


def running(conn: Connection) -> list[Order]:
    """Orders that are under way or were cut off, oldest first."""
    return [of_row(row) for row in conn.execute(RUNNING)]


def undoing(conn: Connection, order_id: int) -> Order | None:
    """The order that takes this one back."""
    row = conn.execute(UNDOING, {"order_id": order_id}).first()
    return None if row is None else of_row(row)


def advance(conn: Connection, one: Order, cursor: int, seen: int, changed: Changed, now: datetime) -> None:
    """Keep what a chunk changed and how far it came. Raises Busy where another hand has been there."""
    binds = {
        "order_id": one.id,
        "seen_at": one.cursor,
        "gone_to": cursor,
        "n_seen": seen,
        "n_changed": len(changed),
        "at": now,
    }
    if not conn.execute(ADVANCE, binds).rowcount:
        raise Busy(
            f"operation {one.id} was carried on or stopped by somebody else",
            hint=f"see how far it is: tierflow operation show {one.id}",
        )
    if changed:
        part = conn.execute(LAST_PART, {"order_id": one.id}).scalar_one() or 0
        insert_rows(
            conn, operation_part, [{"operation_id": one.id, "part": part + 1, "jobs": _kept(one, changed)}]
        )


def _kept(one: Order, changed: Changed) -> Any:
    """What a part remembers: keys; where each job is shifted by its own, {"jobs": keys, "by": shifts}."""
    ids = sorted(changed)
    return ids if one.to is None else {"jobs": ids, "by": [changed[key] for key in ids]}


def set_state(conn: Connection, one: Order, to: OrderState, now: datetime) -> bool:
    """Finish or stop an order; False where somebody else did."""
    binds = {"order_id": one.id, "frm": one.state.value, "dst": to.value, "at": now}
    return conn.execute(SET_STATE, binds).rowcount == 1


def next_part(conn: Connection, one: Order, after: int) -> tuple[int, Changed] | None:
    """(part, what it changed) behind that part of an order; None at the end."""
    row = conn.execute(NEXT_PART, {"order_id": one.id, "after": after}).one_or_none()
    if row is None:
        return None
    if one.to is None:
        return row.part, dict.fromkeys(row.jobs, -(one.by or 0) * POINT)
    return row.part, dict(zip(row.jobs["jobs"], row.jobs["by"], strict=True))


def prune(conn: Connection, before: datetime, limit: int) -> int:
    """Remove at most so many orders that nobody carried on since that moment, with their parts; how many."""
    stale = list(conn.execute(STALE, {"before": before, "n": limit}).scalars())
    if not stale:
        return 0
    conn.execute(FORGET_PARTS, {"ids": stale})
    return conn.execute(FORGET, {"ids": stale}).rowcount
