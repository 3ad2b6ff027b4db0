"""Allocating: makes the wanted replicas of a dataset what its subscriptions ask for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    Connection,
    Integer,
    and_,
    bindparam,
    func,
    literal_column,
    not_,
    or_,
    select,
)

from catalogs import bookkeeping, replicas, space
from catalogs.replicas import ReplicaRow
from catalogs.states import BlockState, ReplicaState
from catalogs.tables import block, block_replica, dataset, se, site
from datamgmt import charging, deletion, destinations, progress, transfers
from datamgmt.allocation import (
    ClosedBlock,
    Drop,
    Existing,
    ReplicaKey,
    Subscription,
    Waiting,
    Wanted,
    admitted,
    allocate,
)
from datamgmt.reasons import Reason
from datamgmt.subscription_moves import NO_ROOM, activate, say
from datamgmt.subscription_states import WANTING, SubscriptionState
from datamgmt.subscriptions import COVERS
from datamgmt.tables import block_dest, subscription
from gridcore.db import bulk, lock_rows, quotas
from gridcore.db.bulk import Change, Same
from gridcore.db.engine import Stale
from gridcore.db.idlists import within

#: Blocks of a dataset that are looked at in one transaction.
SLICE = 1000

# --- statements --------------------------------------------------------------------------------------

_LIVE = (SubscriptionState.ACTIVE, SubscriptionState.COMPLETE)
_COMPLETE_HERE = and_(
    block_replica.c.block_id == block.c.id,
    block_replica.c.se_id == subscription.c.se_id,
    block_replica.c.state == ReplicaState.COMPLETE,
)
UNSETTLED = (
    select(dataset.c.id)
    .where(dataset.c.unsettled == literal_column("1"))
    .order_by(dataset.c.id)
    .limit(bindparam("n", type_=Integer))
)
_BLOCKS = select(*(block.c[name] for name in ("id", "bytes", "files", "created_at"))).distinct()
_THESE = (
    block.c.dataset_id == bindparam("on_dataset"),
    block.c.state == BlockState.CLOSED,
    block.c.id > bindparam("after"),
)
#: Blocks that are asked for where they neither are nor are wanted, or not in the way they are asked for.
MISSING = (
    _BLOCKS.join_from(subscription, block, and_(block.c.dataset_id == subscription.c.dataset_id, COVERS))
    .outerjoin(
        block_dest, and_(block_dest.c.block_id == block.c.id, block_dest.c.se_id == subscription.c.se_id)
    )
    .outerjoin(block_replica, _COMPLETE_HERE)
    .where(*_THESE, subscription.c.state.in_(_LIVE))
    .where(
        or_(
            and_(
                block_replica.c.block_id.is_(None),
                or_(
                    block_dest.c.subscription_id.is_(None),
                    block_dest.c.subscription_id != subscription.c.id,
                    block_dest.c.priority != subscription.c.priority,
                    block_dest.c.custodial != subscription.c.custodial,
                ),
            ),
            block_replica.c.transit == 1,
            block_replica.c.custodial < subscription.c.custodial,
        )
    )
    .order_by(block.c.id)
    .limit(bindparam("n", type_=Integer))
)
#: Blocks that are wanted somewhere for a subscription that does not ask for them any more.
UNASKED = (
    _BLOCKS.join_from(block_dest, block, block.c.id == block_dest.c.block_id)
    .join(subscription, subscription.c.id == block_dest.c.subscription_id)
    .where(*_THESE, block_dest.c.repair == 0)
    .where(or_(subscription.c.state.not_in(WANTING), not_(COVERS)))
    .order_by(block.c.id)
    .limit(bindparam("n", type_=Integer))
)
ASKERS = (
    select(subscription, site.c.name.label("site"))
    .join_from(subscription, se, se.c.id == subscription.c.se_id)
    .join(site, site.c.id == se.c.site_id)
    .where(subscription.c.dataset_id == bindparam("on_dataset"), subscription.c.state.in_(WANTING))
)
#: Datasets of subscriptions that wait for room.
WAITING = select(subscription.c.dataset_id).where(
    subscription.c.state == SubscriptionState.ACTIVE, subscription.c.code.in_(NO_ROOM)
)
#: What is wanted at SEs and has not begun to arrive.
PENDING = (
    select(block_dest.c.se_id, func.sum(block_dest.c.bytes).label("bytes"))
    .outerjoin_from(
        block_dest,
        block_replica,
        and_(block_replica.c.block_id == block_dest.c.block_id, block_replica.c.se_id == block_dest.c.se_id),
    )
    .where(within(block_dest.c.se_id), block_replica.c.block_id.is_(None))
    .group_by(block_dest.c.se_id)
)


# --- a dataset ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Allocated:
    """How many rows changed, and after which block to go on; 0 where all have been looked at."""

    changed: int
    after: int = 0


@dataclass(frozen=True, slots=True)
class _Scene:
    """What there is of some locked blocks of a dataset; `askers` and `wanted` are rows of their tables."""

    askers: Mapping[int, Any]
    blocks: Sequence[ClosedBlock]
    wanted: Mapping[ReplicaKey, Any]
    replicas: Mapping[ReplicaKey, ReplicaRow]

    def subscriptions(self) -> list[Subscription]:
        """Who asks."""
        return [_asker(row) for row in self.askers.values()]

    def existing(self) -> Existing:
        """What is wanted, in transit left out, and what is complete."""
        rows = (row for row in self.wanted.values() if row.subscription_id is not None)
        wanted = {(row.block_id, row.se_id): _wanted(row) for row in rows}
        return Existing(wanted, {key for key, one in self.replicas.items() if _is_complete(one)})


def unsettled(conn: Connection, n: int) -> list[int]:
    """Up to `n` datasets that something has happened to since allocation looked at them, ascending."""
    return list(conn.execute(UNSETTLED, {"n": n}).scalars())


def allocate_dataset(
    conn: Connection, dataset_id: int, now: datetime, after: int = 0, n: int = SLICE
) -> Allocated:
    """Make the wanted replicas of the dataset's next `n` blocks what its subscriptions ask for.

    Locks the dataset, which is settled once all of it was looked at in one go; then those blocks; quotas
    last. Subscriptions whose blocks wait for room are told so, and looked at anew after `stir`.
    """
    lock_rows(conn, dataset, [dataset_id])
    scene, last = _scene(conn, dataset_id, after, n)
    found = allocate(scene.subscriptions(), scene.blocks, scene.existing())
    kept = _keep(conn, scene)
    _change(conn, found.change, now)
    _drop(conn, found.drop, scene, now)
    waiting = _add(conn, found.add, scene, now)
    whole = not after and not last
    _tell(conn, waiting, scene, now, whole=whole)
    progress.review_dataset(conn, dataset_id, now)
    if whole:
        bookkeeping.settle(conn, dataset_id)
    changed = len(found.add) - len(waiting) + len(found.change) + len(found.drop) + kept
    return Allocated(changed, last)


def stir(conn: Connection) -> int:
    """Have the datasets looked at anew whose subscriptions wait for room; how many."""
    found = sorted(set(conn.execute(WAITING).scalars()))
    if found:
        bookkeeping.unsettle(conn, found)
    return len(found)


def _scene(conn: Connection, dataset_id: int, after: int, n: int) -> tuple[_Scene, int]:
    """With the block to go on after, 0 where there are no more."""
    on = {"on_dataset": dataset_id, "after": after, "n": n}
    found = [conn.execute(statement, on).all() for statement in (MISSING, UNASKED)]
    # Behind the end of a full list the other one may say only half of what there is.
    last = min((rows[-1].id for rows in found if len(rows) == n), default=0)
    by_id = {row.id: row for rows in found for row in rows if not last or row.id <= last}
    ids = sorted(by_id)
    lock_rows(conn, block, ids)
    held = replicas.replicas(conn, ids) if ids else {}
    rows = destinations.of_blocks(conn, ids) if ids else []
    scene = _Scene(
        askers={row.id: row for row in conn.execute(ASKERS, {"on_dataset": dataset_id})},
        blocks=[
            ClosedBlock(one.id, dataset_id, one.bytes, one.created_at, one.files)
            for one in (by_id[key] for key in ids)
        ],
        wanted={(row.block_id, row.se_id): row for row in rows if not row.repair},
        replicas={one.key: one for copies in held.values() for one in copies},
    )
    return scene, last


def _asker(row: Any) -> Subscription:
    return Subscription(
        id=row.id,
        dataset_id=row.dataset_id,
        se_id=row.se_id,
        custodial=bool(row.custodial),
        priority=row.priority,
        suspended=row.state == SubscriptionState.SUSPENDED,
        block_id=row.block_id,
        after=row.fill_after,
        until=row.created_at if row.static else None,
        move=bool(row.move),
        account=charging.owner(row.site, row.acct_group),
        group=row.acct_group,
    )


def _wanted(row: Any) -> Wanted:
    return Wanted(
        block_id=row.block_id,
        se_id=row.se_id,
        subscription_id=row.subscription_id,
        custodial=bool(row.custodial),
        priority=row.priority,
    )


def _is_complete(one: ReplicaRow) -> bool:
    return one.state is ReplicaState.COMPLETE


# --- what changes ------------------------------------------------------------------------------------


def _keep(conn: Connection, scene: _Scene) -> int:
    """Complete replicas that are asked for are no more in transit, and custodial if anybody says so."""
    active = [one for one in scene.subscriptions() if not one.suspended]
    asked: dict[ReplicaKey, bool] = {}
    for asker in active:
        for one in scene.blocks:
            key = one.id, asker.se_id
            if key in scene.replicas and asker.covers(one):
                asked[key] = asked.get(key, False) or asker.custodial
    complete = {key: scene.replicas[key] for key in asked if _is_complete(scene.replicas[key])}
    custodial = {key: True for key, one in complete.items() if asked[key] and not one.custodial}
    passing = [key for key, one in complete.items() if one.transit]
    return replicas.set_custodial_all(conn, custodial) + replicas.keep_all(conn, passing)


def _change(conn: Connection, wanted: Collection[Wanted], now: datetime) -> None:
    """Rows that are there are asked for in another way."""
    if not wanted:
        return
    rows = sorted(wanted, key=lambda one: one.key)
    keys = {"block_id": [one.block_id for one in rows], "se_id": [one.se_id for one in rows]}
    asked = {
        "subscription_id": [one.subscription_id for one in rows],
        "custodial": [int(one.custodial) for one in rows],
        "priority": [one.priority for one in rows],
    }
    bulk.write(conn, [Change(block_dest, keys, put={**asked, "transit_for_id": Same(None)})])
    replicas.set_custodial_all(conn, {one.key: one.custodial for one in rows})
    transfers.set_priority(conn, {one.key: one.priority for one in rows}, now)


def _drop(conn: Connection, drops: Collection[Drop], scene: _Scene, now: datetime) -> None:
    """Rows that go; what has begun to arrive for those nobody asks for any more goes with them."""
    keys = [one.key for one in drops]
    if not keys:
        return
    unwanted = [
        one.key
        for one in drops
        if one.code is Reason.UNSUBSCRIBED
        and one.key in scene.replicas
        and scene.replicas[one.key].state is ReplicaState.COPYING
    ]
    deletion.release(conn, unwanted, now, custodial_too=True)
    charging.cancel(conn, keys)
    destinations.drop(conn, keys, now)


def _add(conn: Connection, new: Collection[Wanted], scene: _Scene, now: datetime) -> list[Waiting]:
    """New rows as far as there is room; those that wait. One in transit only becomes wanted for itself, and
    so does what has arrived of it."""
    if not new:
        return []
    spaces = _spaces(conn, {one.se_id for one in new})
    room = quotas.room(conn, {one.account for one in new if one.account is not None})
    add, waiting = admitted(new, room, spaces)
    _take(conn, [one for one in add if one.account in room])
    passing = [one for one in add if one.key in scene.wanted]
    _change(conn, passing, now)
    replicas.keep_all(conn, [one.key for one in passing])
    charging.reserve(conn, {one.key: one.group for one in passing})
    destinations.add(conn, [one for one in add if one.key not in scene.wanted], now)
    charging.charge(conn, [one.block_id for one in passing])
    activate(conn, {one.subscription_id for one in new}, now)
    return waiting


def _spaces(conn: Connection, se_ids: Collection[int]) -> dict[int, int]:
    """Bytes that are free at those of the SEs that have a limit, and not yet promised."""
    limited = {key: one for key, one in space.read(conn).items() if key in se_ids and one.free is not None}
    if not limited:
        return {}
    promised = {row.se_id: int(row.bytes) for row in conn.execute(PENDING, {"ids": sorted(limited)})}
    return {key: (one.free or 0) - promised.get(key, 0) for key, one in limited.items()}


def _take(conn: Connection, rows: Sequence[Wanted]) -> None:
    """Take of the quotas, which are locked, what these rows need."""
    sums: Counter[str] = Counter()
    for one in rows:
        sums[one.account or ""] += one.size
    for of, n in sorted(sums.items()):
        if not quotas.take(conn, of, n):
            raise Stale(f"less is left of {of} than was read under its lock")


def _tell(conn: Connection, waiting: Sequence[Waiting], scene: _Scene, now: datetime, *, whole: bool) -> None:
    """Say of each subscription what its first block waits for, or that none waits any more: that is known
    once the `whole` dataset was looked at."""
    said: dict[int, tuple[Reason, dict[str, Any]]] = {}
    limits = charging.limits(conn, (one.wanted.account for one in waiting if one.wanted.account))
    spaces = space.read(conn) if waiting else {}
    for one in waiting:
        asker = scene.askers[one.wanted.subscription_id]
        facts = {"site": asker.site, "free": one.free, "size": one.wanted.size}
        if one.code is Reason.QUOTA_FULL:
            facts |= {"group": asker.acct_group, "limit": limits[one.wanted.account or ""]}
        else:
            there = spaces[asker.se_id]
            facts |= {"se": asker.se_id, "space": there.limit, "arriving": there.use.arriving}
        said.setdefault(asker.id, (one.code, facts))
    told = [row.id for row in scene.askers.values() if whole and row.code in NO_ROOM]
    served: dict[int, tuple[Reason, dict[str, Any]]] = {key: (Reason.DELIVERING, {}) for key in told}
    say(conn, {**served, **said}, now)
