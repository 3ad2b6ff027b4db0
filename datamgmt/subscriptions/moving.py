"""Moving: once all that was to be moved is at its target, the other copies are asked to go.

A move is over when its subscription is COMPLETE, nothing new can come, and the time of grace has passed. What
anybody asks for stays where it is, and so do custodial copies and those on tape or at a Tier-0; the guard of
deletions keeps the last good copy whatever is asked. A move from one SE lets go of the copies there alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import BigInteger, Connection, and_, bindparam, exists, func, or_, select, update

from catalogs import bookkeeping, replicas
from catalogs.replicas import ReplicaRow
from catalogs.states import BlockState, DatasetState, ReplicaState
from catalogs.tables import block, block_replica, dataset, se, site
from datamgmt.deletions import deletion
from datamgmt.deletions.deletion import Asker
from datamgmt.reasons import Reason
from datamgmt.subscription_states import WANTING, SubscriptionState
from datamgmt.subscriptions import store
from datamgmt.subscriptions.transitions import AGENT, Move, remember
from datamgmt.tables import subscription
from datamgmt.wanted.allocation import ClosedBlock, ReplicaKey, Subscription, movable
from gridcore.db import lock_rows

#: Copies asked to go in one transaction.
SLICE = 500
TAPE = "tape"
#: Whether somebody, by name, decides what goes from a site, by its name, for a group.
Decides = Callable[[str, str, str], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """Blocks of which an SE has a complete copy, how many of these copies are custodial, and the subscription
    that asks for all of them there."""

    blocks: int = 0
    custodial: int = 0
    subscription_id: int | None = None


@dataclass(frozen=True, slots=True)
class Moved:
    """How many copies were asked to go, and the one to go on after; None once the move is done."""

    asked: int
    after: ReplicaKey | None = None


_OPEN = exists().where(block.c.dataset_id == dataset.c.id, block.c.state == BlockState.OPEN)
_ENDED = or_(
    subscription.c.block_id != 0,
    subscription.c.static == 1,
    and_(dataset.c.state == DatasetState.CLOSED, ~_OPEN),
)
OVER = (
    select(subscription.c.id)
    .join_from(subscription, dataset, dataset.c.id == subscription.c.dataset_id)
    .where(subscription.c.move == 1, subscription.c.state == SubscriptionState.COMPLETE, _ENDED)
    .where(
        func.coalesce(subscription.c.complete_at, subscription.c.updated_at)
        <= bindparam("before", type_=subscription.c.complete_at.type)
    )
    .order_by(subscription.c.id)
)
ASKERS = select(subscription).where(
    subscription.c.dataset_id == bindparam("on_dataset"), subscription.c.state.in_(WANTING)
)
PLACES = select(se.c.id, se.c.kind, site.c.name, site.c.tier).join_from(se, site, site.c.id == se.c.site_id)
END = (
    update(subscription).where(subscription.c.id == bindparam("row_id")).values(move=0, move_from_se_id=None)
)
_ON_BLOCK = bindparam("on_block", type_=BigInteger)
HELD = (
    select(
        func.count().label("blocks"), func.coalesce(func.sum(block_replica.c.custodial), 0).label("custodial")
    )
    .join_from(block_replica, block, block.c.id == block_replica.c.block_id)
    .where(block.c.dataset_id == bindparam("on_dataset"), or_(_ON_BLOCK == 0, block.c.id == _ON_BLOCK))
    .where(block_replica.c.se_id == bindparam("on_se"), block_replica.c.state == ReplicaState.COMPLETE)
    .where(block_replica.c.transit == 0)
)


def staying(conn: Connection) -> dict[int, str]:
    """{SE: why a move lets nothing go there}."""
    return {
        one.id: "it is tape" if one.kind == TAPE else f"it is at {one.name}, a Tier-0"
        for one in conn.execute(PLACES)
        if one.kind == TAPE or one.tier == 0
    }


def held_at(conn: Connection, dataset_id: int, block_id: int, se_id: int) -> Held:
    """What a move of the dataset, or of one block of it (0: all), finds at an SE."""
    on = {"on_dataset": dataset_id, "on_block": block_id, "on_se": se_id}
    row = conn.execute(HELD, on).one()
    wanting = (one for one in conn.execute(ASKERS, {"on_dataset": dataset_id}) if one.se_id == se_id)
    whole = (one.id for one in wanting if one.block_id in (0, block_id) and _all_of_it(one))
    return Held(blocks=row.blocks, custodial=int(row.custodial), subscription_id=min(whole, default=None))


def _all_of_it(row: Any) -> bool:
    return not row.static and row.fill_after is None


def over(conn: Connection, now: datetime, grace: timedelta) -> list[int]:
    """The moves whose sources may go now."""
    return list(conn.execute(OVER, {"before": now - grace}).scalars())


def sources(conn: Connection, subscription_id: int, after: ReplicaKey = (0, 0)) -> list[ReplicaKey]:
    """The copies elsewhere that the move lets go and nobody has asked away yet, at most a slice of those
    after `after`."""
    row = store.one(conn, subscription_id)
    askers = [_asker(one) for one in conn.execute(ASKERS, {"on_dataset": row.dataset_id})]
    mine = next((one for one in askers if one.id == subscription_id), None)
    if mine is None or row.state is not SubscriptionState.COMPLETE:
        return []
    blocks = [
        ClosedBlock(one.id, one.dataset_id, one.bytes, one.created_at)
        for one in bookkeeping.closed_blocks(conn, row.dataset_id)
    ]
    held = replicas.replicas(conn, [one.id for one in blocks if mine.covers(one)])
    copies = [one for rows in held.values() for one in rows if one.state is ReplicaState.COMPLETE]
    places = staying(conn)
    kept = {one.key for one in copies if stays(one, places)}
    found = movable(mine, blocks, askers, {one.key for one in copies}, kept)
    return [key for key in found if key > after and row.move_from_se_id in (None, key[1])][:SLICE]


def stays(one: ReplicaRow, places: Collection[int]) -> bool:
    """Whether a move leaves a copy alone: custodial ones, those on their way through or away already, and all
    at these places. Pure."""
    return one.custodial or one.transit or one.delete_at is not None or one.se_id in places


def _asker(row: Any) -> Subscription:
    return Subscription(
        id=row.id,
        dataset_id=row.dataset_id,
        se_id=row.se_id,
        suspended=row.state == SubscriptionState.SUSPENDED,
        block_id=row.block_id,
        after=row.fill_after,
        until=row.created_at if row.static else None,
        move=bool(row.move),
    )


def let_go(
    conn: Connection,
    subscription_id: int,
    keys: Sequence[int],
    decides: Decides,
    now: datetime,
    undelete: timedelta,
    after: ReplicaKey = (0, 0),
) -> Moved:
    """Ask the next of the move's sources away, in the name of whoever wanted it moved; when there are none
    left the move is done, and its subscription an ordinary one. `keys`: a fresh one for each deletion.

    Locks the dataset, so that a new subscription at a source comes before or after, and then the blocks.
    """
    lock_rows(conn, dataset, [store.one(conn, subscription_id).dataset_id])
    row = store.one(conn, subscription_id)
    if row.state is not SubscriptionState.COMPLETE:
        return Moved(0)
    seen = sources(conn, subscription_id, after)
    found = seen[: len(keys)]
    if not seen:
        _end(conn, row, now)
        return Moved(0)
    sites = {one.id: one.name for one in conn.execute(PLACES)}
    mine = [key for key in found if decides(row.requester, sites[key[1]], row.group)]
    others = [key for key in found if key not in set(mine)]
    fresh, asked = iter(keys), 0
    for part, decided in ((mine, True), (others, False)):
        asked += _ask(conn, row, part, [next(fresh) for _ in part], decided, now, undelete)
    return Moved(asked, found[-1] if found else after)


def _ask(
    conn: Connection,
    row: store.SubscriptionRow,
    places: Collection[ReplicaKey],
    keys: Sequence[int],
    decided: bool,
    now: datetime,
    undelete: timedelta,
) -> int:
    if not places:
        return 0
    by = Asker(row.requester, row.group, decides=decided)
    made = deletion.ask_all(
        conn,
        keys,
        sorted(places),
        by,
        now,
        undelete=undelete,
        ask_id=f"move/{row.id}",
        code=Reason.MOVED,
        params={"dst": row.se_id},
    )
    return len(made.ids.keys() - made.refused.keys())


def _end(conn: Connection, row: store.SubscriptionRow, now: datetime) -> None:
    if row.move:
        conn.execute(END, {"row_id": row.id})
        remember(conn, [Move(row.id, row.state, row.state, Reason.MOVED)], AGENT, now)
