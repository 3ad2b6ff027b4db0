"""Rows of block_dest: the replicas that are wanted, by subscriptions or in transit, and when each is due."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Connection,
    bindparam,
    case,
    delete,
    or_,
    select,
    type_coerce,
    update,
)

from catalogs.bookkeeping import blocks_by_id
from datamgmt.reasons import Reason
from datamgmt.tables import block_dest
from datamgmt.wanted import transit
from datamgmt.wanted.allocation import ReplicaKey, Wanted
from gridcore.db import bulk
from gridcore.db.bulk import New, Same
from gridcore.db.idlists import within
from gridcore.db.statements import run_many, select_in

#: A row is due at once.
AT_ONCE = datetime(1970, 1, 1, tzinfo=UTC)
#: What is below is due at once, and has been told so several times.
ONE_SECOND = datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)
THIS = (block_dest.c.block_id == bindparam("on_block"), block_dest.c.se_id == bindparam("on_se"))
DROP = delete(block_dest).where(*THIS)
OF_BLOCKS = select(block_dest).where(block_dest.c.block_id.in_(bindparam("ids", expanding=True)))
_SECOND = 10**6
_micros = type_coerce(block_dest.c.valid_until, BigInteger)
#: At once, and each time another number, so that whoever has planned meanwhile sees that it is due again.
AGAIN = type_coerce(case((_micros < _SECOND, _micros + 1), else_=0), block_dest.c.valid_until.type)
STIR = (
    update(block_dest)
    .where(
        within(block_dest.c.block_id),
        or_(
            block_dest.c.src_se_id.is_(None),
            block_dest.c.src_se_id == bindparam("on_se"),
            block_dest.c.via_se_id == bindparam("on_se"),
            block_dest.c.se_id == bindparam("on_se"),
        ),
    )
    .values(valid_until=AGAIN)
)
STIR_TRANSIT = (
    update(block_dest)
    .where(within(block_dest.c.block_id), block_dest.c.transit_for_id.is_not(None))
    .values(valid_until=AGAIN)
)
STIR_ASKED = update(block_dest).where(within(block_dest.c.subscription_id)).values(valid_until=AGAIN)


def of_blocks(conn: Connection, block_ids: Iterable[int]) -> list[Any]:
    """The rows of these blocks."""
    return list(select_in(conn, OF_BLOCKS, block_ids))


def add(conn: Connection, rows: Sequence[Wanted], now: datetime) -> None:
    """Want these, which are not wanted yet; the router looks at them at once. The blocks are locked."""
    found = blocks_by_id(conn, {one.block_id for one in rows})
    mine = sorted(rows, key=lambda one: one.key)
    columns: dict[str, Any] = {
        "block_id": [one.block_id for one in mine],
        "se_id": [one.se_id for one in mine],
        "subscription_id": [one.subscription_id for one in mine],
        "custodial": [int(one.custodial) for one in mine],
        "priority": [one.priority for one in mine],
        "bytes": [found[one.block_id].bytes for one in mine],
        "files": [found[one.block_id].files for one in mine],
        "acct_group": [one.group for one in mine],
        "code": Same(Reason.ALLOCATED),
        "params": Same({}),
        "valid_until": Same(AT_ONCE),
        "decided_at": Same(now),
        "created_at": Same(now),
    }
    if mine:
        bulk.write(conn, [New(block_dest, columns)])


def drop(conn: Connection, keys: Iterable[ReplicaKey], now: datetime) -> None:
    """Want these no longer: the rows go, with the room their routes keep in transit, and the router looks at
    what passes elsewhere for them. The blocks are locked; what has arrived is the caller's to release."""
    gone = sorted(set(keys))
    forget(conn, gone)
    transit.drop(conn, gone)


def forget(conn: Connection, keys: Sequence[ReplicaKey]) -> None:
    """The same, but for the room."""
    if keys:
        run_many(conn, DROP, [at(key) for key in keys])
        conn.execute(STIR_TRANSIT, {"ids": sorted({block_id for block_id, _ in keys})})


def stir_asked(conn: Connection, subscription_ids: Iterable[int]) -> int:
    """What these subscriptions want is due at once: they were suspended, resumed or changed; how many."""
    return conn.execute(STIR_ASKED, {"ids": sorted(set(subscription_ids))}).rowcount


def stir(conn: Connection, block_ids: Iterable[int], se_id: int) -> int:
    """A replica of the blocks has come to or gone from the SE, or a hop to it was given up; how many rows.

    Those at the SE, and those of the same blocks that wait, pass there, or are copied from there, are due at
    once. The blocks are locked.
    """
    return stir_all(conn, [(block_id, se_id) for block_id in block_ids])


def stir_all(conn: Connection, keys: Iterable[ReplicaKey]) -> int:
    """The same for replicas at several SEs."""
    by_se: dict[int, list[int]] = {}
    for block_id, se_id in sorted(set(keys)):
        by_se.setdefault(se_id, []).append(block_id)
    return run_many(conn, STIR, [{"ids": ids, "on_se": se_id} for se_id, ids in sorted(by_se.items())])


def sizes(conn: Connection, block_ids: Iterable[int]) -> dict[int, dict[str, int]]:
    """By closed block, what a wanted replica of it carries."""
    found = blocks_by_id(conn, block_ids)
    return {key: {"bytes": one.bytes, "files": one.files} for key, one in found.items()}


def at(key: ReplicaKey) -> dict[str, int]:
    """The binds of `THIS`."""
    return {"on_block": key[0], "on_se": key[1]}
