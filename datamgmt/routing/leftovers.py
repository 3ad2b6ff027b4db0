"""Leftovers: transit copies that no route passes any more, and room kept for routes left alone for long."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import Connection, Integer, Select, bindparam, exists, literal_column, select

from catalogs.states import ReplicaState
from catalogs.tables import block, block_replica
from datamgmt.deletions import deletion
from datamgmt.tables import block_dest, route_via
from datamgmt.wanted import destinations, transit
from datamgmt.wanted.allocation import ReplicaKey
from gridcore.db import lock_rows
from gridcore.db.idlists import within

_HERE = (block_dest.c.block_id == block_replica.c.block_id, block_dest.c.se_id == block_replica.c.se_id)
_PASSED = (route_via.c.block_id == block_replica.c.block_id, route_via.c.via_se_id == block_replica.c.se_id)
_FEEDS = (
    block_dest.c.block_id == block_replica.c.block_id,
    block_dest.c.src_se_id == block_replica.c.se_id,
)
#: By the index of transit copies alone, however many others there are.
_IDLE: Select[tuple[int, int]] = (
    select(block_replica.c.block_id, block_replica.c.se_id)
    .where(block_replica.c.transit == literal_column("1"), block_replica.c.state != ReplicaState.DELETING)
    .where(~exists().where(*_PASSED), ~exists().where(*_HERE), ~exists().where(*_FEEDS))
    .order_by(block_replica.c.block_id)
)
IDLE = _IDLE.limit(bindparam("n", type_=Integer))
STILL_IDLE = _IDLE.where(within(block_replica.c.block_id))


def idle(conn: Connection, n: int) -> list[ReplicaKey]:
    """Up to `n` transit copies that nobody keeps room for and nothing is copied to or from."""
    return [(row.block_id, row.se_id) for row in conn.execute(IDLE, {"n": n})]


def release(conn: Connection, keys: Collection[ReplicaKey], now: datetime) -> int:
    """Let those go that are still idle; how many went. Locks their blocks."""
    lock_rows(conn, block, {block_id for block_id, _ in keys})
    found = conn.execute(STILL_IDLE, {"ids": sorted({block_id for block_id, _ in keys})})
    still = [key for row in found if (key := (row.block_id, row.se_id)) in keys]
    return deletion.release(conn, still, now)


def expire(conn: Connection, n: int, now: datetime) -> int:
    """Give back up to `n` rooms whose time is over; the routes that had them are planned anew. How many."""
    blocks = {one.block_id for one in transit.over(conn, now, n)}
    if not blocks:
        return 0
    lock_rows(conn, block, blocks)
    kept = transit.of_blocks(conn, blocks)
    over = [one for one in kept if one.lease_until <= now]
    transit.change(conn, kept, [one for one in kept if one.lease_until > now])
    for one in over:
        destinations.stir(conn, [one.block_id], one.se_id)
    return len(over)
