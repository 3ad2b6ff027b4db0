"""Recount: what wanted replicas carry of their blocks, where agents of an older release have made them."""

from __future__ import annotations

from sqlalchemy import Connection, or_, select

from catalogs.tables import block
from datamgmt import linkqueues
from datamgmt.tables import block_dest
from gridcore.db import bulk
from gridcore.db.bulk import Change

SIZES = (
    select(block_dest.c.block_id, block_dest.c.se_id, block.c.files, block.c.bytes)
    .join_from(block_dest, block, block.c.id == block_dest.c.block_id)
    .where(or_(block_dest.c.files != block.c.files, block_dest.c.bytes != block.c.bytes))
    .order_by(block_dest.c.block_id, block_dest.c.se_id)
)


def mend(conn: Connection) -> dict[str, int]:
    """Put right what wanted replicas say of their closed blocks, and links of their queues; how many."""
    found = {"wanted_sizes": _mend_sizes(conn), "link_queues": linkqueues.recount(conn)}
    return {name: n for name, n in found.items() if n}


def _mend_sizes(conn: Connection) -> int:
    rows = conn.execute(SIZES).all()
    if rows:
        blocks, ses, files, sizes = zip(*rows, strict=True)
        keys = {"block_id": blocks, "se_id": ses}
        bulk.write(conn, [Change(block_dest, keys, put={"files": files, "bytes": sizes})])
    return len(rows)
