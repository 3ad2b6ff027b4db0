"""Routes: what the router sees of the wanted replicas, and its word on them."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, select, update

from catalogs import exceptions, replicas
from catalogs.replicas import Begin, ReplicaRow
from catalogs.states import ReplicaState
from catalogs.tables import block, block_replica, se
from datamgmt import charging, deletion, destinations, linkstates, transfers
from datamgmt.allocation import ReplicaKey
from datamgmt.hops import Changes, Dest, NewTransit, View, Word
from datamgmt.routing import LinkKey
from datamgmt.subscription_states import SubscriptionState
from datamgmt.tables import block_dest, subscription
from gridcore.db import insert_rows, lock_rows
from gridcore.db.statements import run_many
from gridcore.tables import quota

#: Owner of an SE's transit limit in the table of quotas, before its name.
TRANSIT_QUOTA = "transit:"

SPEAK = (
    update(block_dest)
    .where(*destinations.THIS)
    .values(
        src_se_id=bindparam("new_src"),
        path=bindparam("new_path", type_=block_dest.c.path.type),
        cost=bindparam("new_cost"),
        valid_until=bindparam("until"),
        code=bindparam("why"),
        params=bindparam("facts", type_=block_dest.c.params.type),
        decided_at=bindparam("at"),
    )
)
DESTS = (
    select(block_dest, block.c.bytes.label("size"), subscription.c.state.label("asker"))
    .join_from(block_dest, block, block.c.id == block_dest.c.block_id)
    .outerjoin(subscription, subscription.c.id == block_dest.c.subscription_id)
    .order_by(block_dest.c.block_id, block_dest.c.se_id)
)
IN_TRANSIT = (
    select(block_replica.c.block_id, block.c.bytes)
    .join_from(block_replica, block, block.c.id == block_replica.c.block_id)
    .where(block_replica.c.transit == 1)
)
LIMITS = select(se.c.id, quota.c.limit_value).join_from(se, quota, quota.c.owner == TRANSIT_QUOTA + se.c.name)
HOPS = (
    select(block_dest.c.src_se_id, block_dest.c.se_id).where(block_dest.c.src_se_id.is_not(None)).distinct()
)


def view(conn: Connection) -> View:
    """All the router has to know; read-only."""
    dests = [_dest(row) for row in conn.execute(DESTS)]
    sizes = {row.block_id: row.bytes for row in conn.execute(IN_TRANSIT)}
    blocks = {one.block_id for one in dests} | sizes.keys()
    return View(
        dests=dests,
        replicas=replicas.replicas(conn, blocks),
        sizes=sizes,
        spoilt={(one.block_id, one.se_id) for one in exceptions.of_blocks(conn, blocks)},
        links=linkstates.views(conn),
        loads=linkstates.loads(conn),
        failed=transfers.failed_hops(conn, blocks),
        limits={row.id: row.limit_value for row in conn.execute(LIMITS)},
    )


def _dest(row: Any) -> Dest:
    word = Word(
        src=row.src_se_id,
        path=tuple(row.path or ()),
        cost=row.cost,
        code=row.code,
        params=row.params or {},
        valid_until=row.valid_until,
    )
    return Dest(
        block_id=row.block_id,
        se_id=row.se_id,
        size=row.size,
        transit_for=row.transit_for_id,
        custodial=bool(row.custodial),
        priority=row.priority,
        suspended=row.asker == SubscriptionState.SUSPENDED,
        word=word,
        decided_at=row.decided_at,
        created_at=row.created_at,
    )


def apply(conn: Connection, changes: Changes, now: datetime) -> int:
    """Make the changes that still make sense; how many. They concern few blocks, which are locked."""
    blocks = changes.blocks()
    lock_rows(conn, block, blocks)
    rows = {(row.block_id, row.se_id): row.transit_for_id for row in destinations.of_blocks(conn, blocks)}
    found = replicas.replicas(conn, blocks)
    copies = {(one.block_id, one.se_id): one for held in found.values() for one in held}
    complete = {key for key, one in copies.items() if one.state is ReplicaState.COMPLETE}
    settled = {key for key, one in copies.items() if one.state is not ReplicaState.COPYING}
    words = [
        (key, word)
        for key, word in sorted(changes.words.items())
        if key in rows and _has_source(key, word, complete)
    ]
    run_many(conn, SPEAK, [_speak(key, word, now) for key, word in words])
    add = [
        new
        for new in changes.add
        if new.key not in rows.keys() | settled and _has_source(new.key, new.word, complete)
    ]
    sizes = destinations.sizes(conn, [new.key[0] for new in add])
    insert_rows(conn, block_dest, [{**_transit_row(new, now), **sizes[new.key[0]]} for new in add])
    begun = _begin(conn, [one for one in changes.begin if one.key in rows], add, now)
    gone = [key for key in changes.drop if rows.get(key)] + [
        key for key in changes.complete if key in complete
    ]
    destinations.drop(conn, gone, now)
    unused = [
        key for key in changes.release if (key in gone or key not in rows) and _in_transit(copies.get(key))
    ]
    released = deletion.release(conn, unused, now)
    return len(words) + begun + len(gone) + released


def _has_source(key: ReplicaKey, word: Word, complete: Collection[ReplicaKey]) -> bool:
    return word.src is None or (key[0], word.src) in complete


def _in_transit(copy: ReplicaRow | None) -> bool:
    return copy is not None and copy.transit


def _begin(conn: Connection, dests: Collection[Dest], transit: Collection[NewTransit], now: datetime) -> int:
    wanted = [Begin(*one.key, one.transit_for is not None, one.custodial) for one in dests]
    replicas.begin_all(conn, [*wanted, *(Begin(*new.key, transit=True) for new in transit)], now)
    charging.charge(conn, {one.block_id for one in wanted})
    return len(dests) + len(transit)


def _speak(key: ReplicaKey, word: Word, now: datetime) -> dict[str, Any]:
    return {
        **destinations.at(key),
        "new_src": word.src,
        "new_path": list(word.path) or None,
        "new_cost": word.cost,
        "until": word.valid_until,
        "why": word.code,
        "facts": dict(word.params),
        "at": now,
    }


def _transit_row(new: NewTransit, now: datetime) -> dict[str, Any]:
    return {
        "block_id": new.key[0],
        "se_id": new.key[1],
        "transit_for_id": new.dest.se_id,
        "custodial": 0,
        "priority": new.dest.priority,
        "src_se_id": new.word.src,
        "path": list(new.word.path),
        "valid_until": new.word.valid_until,
        "code": new.word.code,
        "params": dict(new.word.params),
        "decided_at": now,
        "created_at": now,
    }


def stir(conn: Connection, block_ids: Iterable[int], se_id: int) -> int:
    """A replica of the blocks has come to or gone from the SE, or a hop to it was given up; how many rows.

    Those at the SE, and those of the same blocks that wait, pass there, or are copied from there, are due at
    once. The blocks are locked.
    """
    return destinations.stir(conn, block_ids, se_id)


def hops(conn: Connection) -> list[LinkKey]:
    """The hops under way, of all blocks together."""
    return sorted((row.src_se_id, row.se_id) for row in conn.execute(HOPS))
