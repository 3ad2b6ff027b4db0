"""Outbox: an event is a row of the transaction it tells of. Rows are claimed and marked, never read by
`seq > last`, which skips late commits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Integer, bindparam, delete, select, update

from gridcore.db import bulk
from gridcore.db.bulk import New, Same
from gridcore.db.engine import dbnow
from gridcore.tables import outbox

WAITING = (
    select(outbox.c.seq, outbox.c.kind, outbox.c.subject, outbox.c.body)
    .where(outbox.c.sent_at.is_(None))
    .order_by(outbox.c.seq)
    .limit(bindparam("n", type_=Integer))
)
MARK = (
    update(outbox)
    .where(outbox.c.seq == bindparam("row_seq"), outbox.c.sent_at.is_(None))
    .values(claimed_by=bindparam("by"), claimed_at=bindparam("at"), sent_at=bindparam("at"))
)
FORGET = delete(outbox).where(outbox.c.created_at < bindparam("before", type_=outbox.c.created_at.type))


@dataclass(frozen=True, slots=True)
class Message:
    """An event that waits to be told."""

    seq: int
    kind: str
    subject: str
    body: dict[str, Any]


def emit(conn: Connection, kind: str, subject: str, body: dict[str, Any] | None = None) -> None:
    """Add an event to the transaction."""
    emit_all(conn, kind, [(subject, body or {})])


def emit_all(conn: Connection, kind: str, events: Sequence[tuple[str, dict[str, Any]]]) -> None:
    """Add events (subject, body) of one kind and one moment, by one statement."""
    if not events:
        return
    subjects, bodies = zip(*events, strict=True)
    columns = {"kind": Same(kind), "subject": subjects, "body": bodies, "created_at": Same(dbnow(conn))}
    bulk.write(conn, [New(outbox, columns)])


def waiting(conn: Connection, n: int) -> list[Message]:
    """Up to `n` events nobody has told yet."""
    return [Message(*row) for row in conn.execute(WAITING, {"n": n})]


def mark(conn: Connection, messages: Sequence[Message], by: str, at: datetime) -> int:
    """Mark them as told; how many were still waiting."""
    return sum(conn.execute(MARK, {"row_seq": one.seq, "by": by, "at": at}).rowcount for one in messages)


def forget(conn: Connection, before: datetime) -> int:
    """Remove events older than `before`; how many."""
    return conn.execute(FORGET, {"before": before}).rowcount
