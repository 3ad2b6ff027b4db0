"""The audit log: who changed what by hand, a row in the transaction of the change."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from gridcore.db.statements import insert_rows
from gridcore.tables import audit_log


def record(
    conn: Connection,
    actor: str,
    verb: str,
    subject: str,
    now: datetime,
    detail: Mapping[str, Any] | None = None,
) -> None:
    """Remember who did what to what."""
    row = {"at": now, "actor": actor, "verb": verb, "subject": subject, "detail": detail}
    insert_rows(conn, audit_log, [row])
