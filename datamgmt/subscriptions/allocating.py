"""Allocating: makes the wanted replicas of a dataset what its subscriptions ask for."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import (
    Connection,
    Integer,
    and_,
    bindparam,
    literal_column,
    not_,
    or_,
    select,
)

from catalogs import bookkeeping, replicas
from catalogs.replicas import ReplicaRow
from catalogs.states import BlockState, ReplicaState
from catalogs.tables import block, block_replica, dataset, se, site
from datamgmt.deletions import deletion
from datamgmt.reasons import Reason
from datamgmt.subscription_states import WANTING, SubscriptionState
from datamgmt.subscriptions import line, progress
from datamgmt.subscriptions.store import COVERS
from datamgmt.subscriptions.transitions import NO_ROOM, activate, say
from datamgmt.tables import block_dest, subscription
from datamgmt.transfers import store
from datamgmt.wanted import charging, destinations
from datamgmt.wanted.allocation import (
    ClosedBlock,
    Drop,
    Existing,
    ReplicaKey,
    Subscription,
    Waiting,
    Wanted,
    allocate,
)
from gridcore.db import bulk, lock_rows
from gridcore.db.bulk import Change, Same
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
_STANDS = not_(within(subscription.c.id, "waits"))
#: Blocks that are asked for where they neither are nor are wanted, unless by subscriptions that wait, or not
#: in the way they are asked for.
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
                    and_(block_dest.c.subscription_id.is_(None), _STANDS),
                    block_dest.c.subscription_id != subscription.c.id,
                    block_dest.c.priority != subscription.c.priority,
                    block_dest.c.custodial != subscription.c.custodial,
                ),
            ),
            and_(block_replica.c.transit == 1, _STANDS),
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

# --- a dataset ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Allocated:
    """How many rows changed, and after which block to go on, 0 where all have been looked at; without the
    subscriptions of which some block waits for room."""

    changed: int
    after: int = 0
    waits: frozenset[int] = frozenset()


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
        """What is wanted and what is complete, in transit left out."""
        rows = (row for row in self.wanted.values() if row.subscription_id is not None)
        wanted = {(row.block_id, row.se_id): _wanted(row) for row in rows}
        return Existing(wanted, {key for key, one in self.replicas.items() if _is_complete(one)})


def unsettled(conn: Connection, n: int) -> list[int]:
    """Up to `n` datasets that something has happened to since allocation looked at them, ascending."""
    return list(conn.execute(UNSETTLED, {"n": n}).scalars())


def allocate_dataset(
    conn: Connection,
    dataset_id: int,
    now: datetime,
    after: int = 0,
    waits: Collection[int] = frozenset(),
    n: int = SLICE,
) -> Allocated:
    """Make the wanted replicas of the dataset's next `n` blocks what its subscriptions ask for.

    Locks the dataset, which is settled once all of it was looked at in one go; then those blocks; quotas
    last. Of a subscription that waits for room no later block is looked at: it is told so, and looked at anew
    when `line.ready` finds that it has come.
    """
    lock_rows(conn, dataset, [dataset_id])
    scene, last = _scene(conn, dataset_id, after, waits, n)
    found = allocate(scene.subscriptions(), scene.blocks, scene.existing())
    kept = _preserve(conn, scene)
    _change(conn, found.change, now)
    _drop(conn, found.drop, scene, now)
    added, waiting = _add(conn, found.add, scene, waits, now)
    said = _say(conn, waiting, scene, now)
    now_waits = frozenset((*waits, *said))
    whole = not after and not (last and _looks(conn, dataset_id, last, now_waits, 1))
    told = {one.subscription_id for one in added} if not whole else scene.askers.keys()
    full = [key for key in told - now_waits if scene.askers[key].code in NO_ROOM]
    say(conn, {key: (Reason.DELIVERING, {}) for key in full}, now)
    progress.review_dataset(conn, dataset_id, now)
    if whole:
        bookkeeping.settle(conn, dataset_id)
    changed = len(added) + len(found.change) + len(found.drop) + kept
    return Allocated(changed, 0 if whole else last, now_waits)


def _looks(
    conn: Connection, dataset_id: int, after: int, waits: Collection[int], n: int
) -> list[Sequence[Any]]:
    """Up to `n` blocks each that something is to be done about: what is asked for, what is not any more."""
    on = {"on_dataset": dataset_id, "after": after, "n": n}
    rows = [conn.execute(MISSING, {**on, "waits": sorted(waits)}).all(), conn.execute(UNASKED, on).all()]
    return rows if any(rows) else []


def _scene(
    conn: Connection, dataset_id: int, after: int, waits: Collection[int], n: int
) -> tuple[_Scene, int]:
    """With the block to go on after, 0 where there are no more."""
    found = _looks(conn, dataset_id, after, waits, n)
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
    return one.state is ReplicaState.COMPLETE and not one.transit


# --- what changes ------------------------------------------------------------------------------------


def _preserve(conn: Connection, scene: _Scene) -> int:
    """Complete replicas that are asked for are custodial if anybody says so."""
    asked = {
        (one.id, asker.se_id)
        for asker in scene.subscriptions()
        if asker.custodial and not asker.suspended
        for one in scene.blocks
        if asker.covers(one)
    }
    there = [scene.replicas[key] for key in asked & scene.replicas.keys()]
    return replicas.set_custodial_all(conn, {one.key: True for one in there if _is_complete(one)})


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
    store.set_priority(conn, {one.key: one.priority for one in rows}, now)


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


def _add(
    conn: Connection, new: Collection[Wanted], scene: _Scene, waits: Collection[int], now: datetime
) -> tuple[list[Wanted], list[Waiting]]:
    """New rows as far as there is room, and those that wait. One in transit only becomes wanted for itself,
    and so does what has arrived of it."""
    if not new:
        return [], []
    asked = [replace(one, here=one.key in scene.replicas) for one in new]
    add, waiting = line.admitted(conn, asked, scene.blocks[0].dataset_id, waits)
    passing = [one for one in add if one.key in scene.wanted]
    stays = [one for one in add if one.key not in scene.wanted and _is_here(one, scene)]
    fresh = {one.key for one in add} - {one.key for one in (*passing, *stays)}
    _change(conn, passing, now)
    replicas.keep_all(conn, [one.key for one in (*passing, *stays)])
    replicas.set_custodial_all(conn, {one.key: True for one in stays if one.custodial})
    charging.reserve(conn, {one.key: one.group for one in passing})
    charging.bear(conn, {one.key: (one.group, one.size) for one in stays})
    destinations.add(conn, [one for one in add if one.key in fresh], now)
    charging.charge(conn, [one.block_id for one in passing])
    activate(conn, {one.subscription_id for one in new}, now)
    return add, waiting


def _is_here(one: Wanted, scene: _Scene) -> bool:
    return one.key in scene.replicas and scene.replicas[one.key].state is ReplicaState.COMPLETE


def _say(conn: Connection, waiting: Sequence[Waiting], scene: _Scene, now: datetime) -> Collection[int]:
    """Say of each subscription what its first block waits for; which they are."""
    said: dict[int, tuple[Reason, dict[str, Any]]] = {}
    for one in waiting:
        asker = scene.askers[one.wanted.subscription_id]
        said.setdefault(asker.id, (one.code, line.facts(one, asker.site)))
    say(conn, said, now)
    return said.keys()
