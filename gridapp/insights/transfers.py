"""What transfers look like: one by one, and summed by link."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, func, select

from catalogs.tables import se
from datamgmt import transfers as transfer_rows
from datamgmt.tables import transfer
from datamgmt.transfer_states import TransferState
from gridapp.insights.values import LIMIT, record, state_of

_SRC, _DST = se.alias("src_se"), se.alias("dst_se")
BY_LINK = (
    select(
        _SRC.c.name.label("src"),
        _DST.c.name.label("dst"),
        transfer.c.state,
        func.count().label("n"),
        func.sum(transfer.c.bytes).label("n_bytes"),
    )
    .join_from(transfer, _SRC, _SRC.c.id == transfer.c.src_se_id)
    .join(_DST, _DST.c.id == transfer.c.dst_se_id)
    .group_by(_SRC.c.name, _DST.c.name, transfer.c.state)
    .order_by(_SRC.c.name, _DST.c.name)
)


def transfers(conn: Connection, state: str | None = None, limit: int = LIMIT) -> list[dict[str, Any]]:
    """Transfers of replicas that are not complete, oldest first. Raises UsageError for an unknown state."""
    only = state_of(TransferState, state)[0] if state else None
    names = ("id", "lfn", "src", "dst", "state", "attempts", "bytes", "priority", "not_before")
    more = ("claimed_by", "claimed_at", "error_class", "error", "created_at")
    return [record(one, *names, *more) for one in transfer_rows.transfers(conn, state=only, limit=limit)]


def transfers_by_link(conn: Connection) -> list[dict[str, Any]]:
    """Files and bytes of transfers by link and state; links without any are left out."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for row in conn.execute(BY_LINK):
        one = found.setdefault((row.src, row.dst), {"src": row.src, "dst": row.dst, "files": {}, "bytes": 0})
        one["files"][row.state.value] = row.n
        one["bytes"] += int(row.n_bytes)
    return list(found.values())
