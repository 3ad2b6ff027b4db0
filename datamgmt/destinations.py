"""Rows of block_dest: the replicas that are wanted, by subscriptions or in transit, and the router's word."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, and_, bindparam, delete, or_, select, update

from catalogs import bookkeeping, exceptions, replicas
from catalogs.bookkeeping import blocks_by_id, closed_blocks
from catalogs.replicas import Begin, ReplicaRow
from catalogs.states import BlockState, ReplicaState
from catalogs.tables import block, block_replica, dataset, se
from datamgmt import deletion, linkstates, subscriptions, transfers
from datamgmt.allocation import Allocation, ClosedBlock, Existing, ReplicaKey, Subscription, Wanted, allocate
from datamgmt.hops import Changes, Dest, NewTransit, View, Word
from datamgmt.reasons import Reason
from datamgmt.routing import LinkKey
from datamgmt.subscription_states import WANTING, SubscriptionState
from datamgmt.tables import block_dest, subscription
from gridcore.db import insert_rows, lock_rows
from gridcore.db.statements import run_many, select_in
from gridcore.tables import quota

#: Owner of an SE's transit limit in the table of quotas, before its name.
TRANSIT_QUOTA = "transit:"

# --- statements --------------------------------------------------------------------------------------

_LIVE = (SubscriptionState.ACTIVE, SubscriptionState.COMPLETE)
_COMPLETE_HERE = and_(
    block_replica.c.block_id == block.c.id,
    block_replica.c.se_id == subscription.c.se_id,
    block_replica.c.state == ReplicaState.COMPLETE,
)
UNMET = (
    select(block.c.dataset_id)
    .join_from(subscription, block, block.c.dataset_id == subscription.c.dataset_id)
    .outerjoin(
        block_dest, and_(block_dest.c.block_id == block.c.id, block_dest.c.se_id == subscription.c.se_id)
    )
    .outerjoin(block_replica, _COMPLETE_HERE)
    .where(subscription.c.state.in_(_LIVE), block.c.state == BlockState.CLOSED)
    .where(
        or_(
            and_(block_replica.c.block_id.is_(None), block_dest.c.subscription_id.is_(None)),
            block_replica.c.transit == 1,
            block_replica.c.custodial < subscription.c.custodial,
        )
    )
    .distinct()
)
OUTDATED = (
    select(block.c.dataset_id)
    .join_from(block_dest, block, block.c.id == block_dest.c.block_id)
    .join(subscription, subscription.c.id == block_dest.c.subscription_id)
    .where(
        or_(
            subscription.c.state == SubscriptionState.REMOVED,
            and_(
                subscription.c.state.in_(_LIVE),
                or_(
                    block_dest.c.priority != subscription.c.priority,
                    block_dest.c.custodial != subscription.c.custodial,
                ),
            ),
        )
    )
    .distinct()
)
ASKERS = select(subscription).where(
    subscription.c.dataset_id == bindparam("on_dataset"), subscription.c.state.in_(WANTING)
)
WANTED = (
    select(block_dest)
    .join_from(block_dest, block, block.c.id == block_dest.c.block_id)
    .where(block.c.dataset_id == bindparam("on_dataset"))
)
COMPLETE_OF = (
    select(block_replica)
    .join_from(block_replica, block, block.c.id == block_replica.c.block_id)
    .where(block.c.dataset_id == bindparam("on_dataset"), block_replica.c.state == ReplicaState.COMPLETE)
)
_KEY = (block_dest.c.block_id == bindparam("on_block"), block_dest.c.se_id == bindparam("on_se"))
_ASKED: dict[str, Any] = {
    "subscription_id": bindparam("for_subscription"),
    "transit_for_id": None,
    "custodial": bindparam("custody"),
    "priority": bindparam("new_priority"),
}
ASK = update(block_dest).where(*_KEY).values(**_ASKED)
DROP = delete(block_dest).where(*_KEY)
SPEAK = (
    update(block_dest)
    .where(*_KEY)
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
OF_BLOCKS = select(block_dest).where(block_dest.c.block_id.in_(bindparam("ids", expanding=True)))
LIMITS = select(se.c.id, quota.c.limit_value).join_from(se, quota, quota.c.owner == TRANSIT_QUOTA + se.c.name)
HOPS = (
    select(block_dest.c.src_se_id, block_dest.c.se_id).where(block_dest.c.src_se_id.is_not(None)).distinct()
)


# --- allocation --------------------------------------------------------------------------------------


def unsettled_datasets(conn: Connection) -> list[int]:
    """Datasets whose wanted replicas are not what their subscriptions ask for, ascending."""
    return sorted({row.dataset_id for statement in (UNMET, OUTDATED) for row in conn.execute(statement)})


def allocate_dataset(conn: Connection, dataset_id: int, now: datetime) -> int:
    """Make the wanted replicas of a dataset what its subscriptions ask for; how many rows changed."""
    lock_rows(conn, dataset, [dataset_id])
    # Blocks are locked once it is known which; what was read before may have changed meanwhile.
    locked = {key[0] for key in _keys(_allocation(conn, dataset_id))}
    locked |= {key[0] for key, _ in _held_for_less(conn, dataset_id)}
    lock_rows(conn, block, locked)
    whole = _allocation(conn, dataset_id)
    found = Allocation(
        [one for one in whole.add if one.block_id in locked],
        [one for one in whole.change if one.block_id in locked],
        [one for one in whole.drop if one.key[0] in locked],
    )
    _add(conn, found.add, now)
    _change(conn, found.change, now)
    _drop(conn, [(one.key, one.code) for one in found.drop], now)
    kept = _keep(conn, [pair for pair in _held_for_less(conn, dataset_id) if pair[0][0] in locked])
    if found == whole:
        bookkeeping.settle(conn, dataset_id)
    return len(_keys(found)) + kept


def _keys(found: Allocation) -> list[ReplicaKey]:
    return (
        [one.key for one in found.add] + [one.key for one in found.change] + [one.key for one in found.drop]
    )


def _allocation(conn: Connection, dataset_id: int) -> Allocation:
    on = {"on_dataset": dataset_id}
    blocks = [ClosedBlock(one.id, one.dataset_id) for one in closed_blocks(conn, dataset_id)]
    wanted = [_wanted(row) for row in conn.execute(WANTED, on) if row.subscription_id is not None]
    complete = {(row.block_id, row.se_id) for row in conn.execute(COMPLETE_OF, on)}
    existing = Existing({one.key: one for one in wanted}, complete)
    return allocate(_askers(conn, dataset_id), blocks, existing)


def _askers(conn: Connection, dataset_id: int) -> list[Subscription]:
    return [
        Subscription(
            id=row.id,
            dataset_id=row.dataset_id,
            se_id=row.se_id,
            custodial=bool(row.custodial),
            priority=row.priority,
            suspended=row.state == SubscriptionState.SUSPENDED,
        )
        for row in conn.execute(ASKERS, {"on_dataset": dataset_id})
    ]


def _wanted(row: Any) -> Wanted:
    return Wanted(
        block_id=row.block_id,
        se_id=row.se_id,
        subscription_id=row.subscription_id,
        custodial=bool(row.custodial),
        priority=row.priority,
    )


def _held_for_less(conn: Connection, dataset_id: int) -> list[tuple[ReplicaKey, bool]]:
    """Complete replicas (block, SE) that are asked for but counted as in transit, or not as custodial as
    asked; and whether they shall be."""
    asked = {one.se_id: one.custodial for one in _askers(conn, dataset_id) if not one.suspended}
    return [
        ((row.block_id, row.se_id), asked[row.se_id])
        for row in conn.execute(COMPLETE_OF, {"on_dataset": dataset_id})
        if row.se_id in asked and (row.transit or row.custodial < asked[row.se_id])
    ]


def _keep(conn: Connection, pairs: Iterable[tuple[ReplicaKey, bool]]) -> int:
    wanted = dict(pairs)
    preserved = replicas.set_custodial_all(
        conn, {key: True for key, custodial in wanted.items() if custodial}
    )
    return replicas.keep_all(conn, list(wanted)) + preserved


def _add(conn: Connection, wanted: Collection[Wanted], now: datetime) -> None:
    """New rows; one in transit only becomes wanted for itself, and so does what has arrived of it."""
    transit = {
        (row.block_id, row.se_id) for row in select_in(conn, OF_BLOCKS, [one.block_id for one in wanted])
    }
    promoted = [one for one in wanted if one.key in transit]
    run_many(conn, ASK, [_ask(one) for one in promoted])
    _keep(conn, [(one.key, one.custodial) for one in promoted])
    transfers.set_priority(conn, {one.key: one.priority for one in promoted}, now)
    stamps = {"code": Reason.ALLOCATED, "params": {}, "decided_at": now, "created_at": now}
    new = [one for one in wanted if one.key not in transit]
    sizes = _sizes(conn, [one.block_id for one in new])
    insert_rows(conn, block_dest, [{**_row(one), **sizes[one.block_id], **stamps} for one in new])
    subscriptions.activate(conn, {one.subscription_id for one in wanted}, now)


def _sizes(conn: Connection, block_ids: Iterable[int]) -> dict[int, dict[str, int]]:
    """By closed block, what a wanted replica of it carries."""
    found = blocks_by_id(conn, block_ids)
    return {key: {"bytes": one.bytes, "files": one.files} for key, one in found.items()}


def _row(one: Wanted) -> dict[str, Any]:
    return {
        "block_id": one.block_id,
        "se_id": one.se_id,
        "subscription_id": one.subscription_id,
        "custodial": int(one.custodial),
        "priority": one.priority,
    }


def _ask(one: Wanted) -> dict[str, Any]:
    asked = {"for_subscription": one.subscription_id, "custody": int(one.custodial)}
    return {**_at(one.key), **asked, "new_priority": one.priority}


def _change(conn: Connection, wanted: Collection[Wanted], now: datetime) -> None:
    run_many(conn, ASK, [_ask(one) for one in wanted])
    replicas.set_custodial_all(conn, {one.key: one.custodial for one in wanted})
    transfers.set_priority(conn, {one.key: one.priority for one in wanted}, now)


def _drop(conn: Connection, rows: Collection[tuple[ReplicaKey, Reason]], now: datetime) -> None:
    """Rows that go; what has arrived for those nobody asks for any more goes with them."""
    run_many(conn, DROP, [_at(key) for key, _ in rows])
    partial = _in_state(conn, [key[0] for key, _ in rows], ReplicaState.COPYING)
    unwanted = [key for key, code in rows if code is Reason.UNSUBSCRIBED and key in partial]
    deletion.release(conn, unwanted, now, custodial_too=True)


def _in_state(conn: Connection, block_ids: Iterable[int], state: ReplicaState) -> set[ReplicaKey]:
    found = replicas.replicas(conn, block_ids)
    return {(one.block_id, one.se_id) for rows in found.values() for one in rows if one.state is state}


# --- routing -----------------------------------------------------------------------------------------


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
        failed=transfers.failed_hops(conn),
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
    rows = {(row.block_id, row.se_id): row.transit_for_id for row in select_in(conn, OF_BLOCKS, blocks)}
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
    sizes = _sizes(conn, [new.key[0] for new in add])
    insert_rows(conn, block_dest, [{**_transit_row(new, now), **sizes[new.key[0]]} for new in add])
    begun = _begin(conn, [one for one in changes.begin if one.key in rows], add, now)
    gone = [key for key in changes.drop if rows.get(key)] + [
        key for key in changes.complete if key in complete
    ]
    run_many(conn, DROP, [_at(key) for key in gone])
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
    return len(dests) + len(transit)


def _speak(key: ReplicaKey, word: Word, now: datetime) -> dict[str, Any]:
    return {
        **_at(key),
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


def hops(conn: Connection) -> list[LinkKey]:
    """The hops under way, of all blocks together."""
    return sorted((row.src_se_id, row.se_id) for row in conn.execute(HOPS))


def _at(key: ReplicaKey) -> dict[str, int]:
    return {"on_block": key[0], "on_se": key[1]}
