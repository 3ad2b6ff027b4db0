"""Forecasts: when live subscriptions will be complete, and how much of each is there."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from typing import Any

from sqlalchemy import Connection, and_, bindparam, func, select

from catalogs.states import BlockState, ReplicaState
from catalogs.tables import block, block_replica, holding, link
from datamgmt.links import linkqueues
from datamgmt.links.linkstates import BIN
from datamgmt.links.paths import LinkKey
from datamgmt.reasons import Reason
from datamgmt.subscription_states import SubscriptionState
from datamgmt.subscriptions import eta
from datamgmt.subscriptions.eta import Onward, Quantiles
from datamgmt.subscriptions.store import COVERS, PARTIAL
from datamgmt.subscriptions.transitions import NO_ROOM
from datamgmt.tables import block_dest, link_bin, subscription, transfer
from datamgmt.transfer_states import TransferState
from gridcore.db import bulk
from gridcore.db.bulk import Change

_ACTIVE = subscription.c.state == SubscriptionState.ACTIVE
LIVE = (
    select(subscription.c.id, *(subscription.c[name] for name in ("files_done", "bytes_done")))
    .add_columns(subscription.c.eta_p50, subscription.c.eta_p90, subscription.c.code)
    .where(_ACTIVE)
    .order_by(subscription.c.id)
)
#: Files and bytes that are there: as counted for whole datasets, block by block for parts.
HELD = (
    select(subscription.c.id, holding.c.files, holding.c.bytes)
    .join_from(
        subscription,
        holding,
        and_(holding.c.dataset_id == subscription.c.dataset_id, holding.c.se_id == subscription.c.se_id),
    )
    .where(_ACTIVE, ~PARTIAL)
)
THERE = (
    select(subscription.c.id, func.sum(block.c.files).label("files"), func.sum(block.c.bytes).label("bytes"))
    .join_from(
        subscription,
        block,
        and_(block.c.dataset_id == subscription.c.dataset_id, block.c.state == BlockState.CLOSED, COVERS),
    )
    .join(
        block_replica,
        and_(
            block_replica.c.block_id == block.c.id,
            block_replica.c.se_id == subscription.c.se_id,
            block_replica.c.state == ReplicaState.COMPLETE,
        ),
    )
    .where(_ACTIVE, PARTIAL)
    .group_by(subscription.c.id)
)
WANTED = (
    select(block_dest.c.subscription_id, block_dest.c.path, block_dest.c.bytes)
    .join_from(block_dest, subscription, subscription.c.id == block_dest.c.subscription_id)
    .where(_ACTIVE, block_dest.c.repair == 0)
)
#: Files on the last hop of what is wanted, by link and state.
FILES = (
    select(
        block_dest.c.subscription_id,
        transfer.c.src_se_id,
        transfer.c.dst_se_id,
        transfer.c.state,
        func.count().label("files"),
        func.sum(transfer.c.bytes).label("bytes"),
    )
    .join_from(
        block_dest,
        transfer,
        and_(transfer.c.block_id == block_dest.c.block_id, transfer.c.dst_se_id == block_dest.c.se_id),
    )
    .where(block_dest.c.subscription_id.is_not(None))
    .group_by(block_dest.c.subscription_id, transfer.c.src_se_id, transfer.c.dst_se_id, transfer.c.state)
)
BINS = (
    select(link.c.src_se_id, link.c.dst_se_id, link_bin.c.bin_start, link_bin.c.bytes_ok)
    .join_from(link_bin, link, link.c.id == link_bin.c.link_id)
    .where(link_bin.c.bin_start >= bindparam("since", type_=link_bin.c.bin_start.type))
)


@dataclass(slots=True)
class _Load:
    """What a subscription has got, has left by first link, has queued; `routed`: all of it has a route."""

    files: int = 0
    bytes: int = 0
    routed: bool = True
    left: Counter[LinkKey] = field(default_factory=Counter)
    queued: Counter[LinkKey] = field(default_factory=Counter)
    onward: dict[LinkKey, list[Onward]] = field(default_factory=dict)


def outdated(conn: Connection, now: datetime, nominal: float) -> list[tuple[Any, ...]]:
    """What has changed of ACTIVE subscriptions: (id, files and bytes done, ETA as likely as not, and nine
    times in ten), the ETAs None where something has no route or no room, or there is no telling."""
    loads = _loads(conn)
    queues = {hop: one.bytes for hop, one in linkqueues.queues(conn).items()}
    rates = _rates(conn, now, nominal, loads.values())
    found = []
    for row in conn.execute(LIVE):
        one = loads.get(row.id, _Load())
        ahead = {hop: max(n - one.queued[hop], 0) for hop, n in queues.items()}
        known = one.routed and one.left and row.code not in NO_ROOM
        when = eta.eta(one.left, ahead, rates, now, one.onward) if known else None
        said = (row.id, one.files, one.bytes, when and when.p50, when and when.p90)
        if said != tuple(row)[:-1]:
            found.append(said)
    return found


def write(conn: Connection, rows: Iterable[tuple[Any, ...]]) -> int:
    """Store what `outdated` has found; how many subscriptions that are still ACTIVE."""
    columns = list(zip(*rows, strict=True))
    if not columns:
        return 0
    ids, *values = columns
    names = ("files_done", "bytes_done", "eta_p50", "eta_p90")
    put = dict(zip(names, values, strict=True))
    change = Change(subscription, {"id": ids}, put=put, only={"state": SubscriptionState.ACTIVE})
    return sum(bulk.write(conn, [change]))


_NONE = {
    SubscriptionState.ASKED: "no forecast before somebody has decided",
    SubscriptionState.SUSPENDED: "no forecast while it is suspended",
}
_NOT_YET: Mapping[str | None, str] = {
    Reason.NO_CLOSED_BLOCK: "no block is closed",
    Reason.BLOCK_OPEN: "the block is open",
    **dict.fromkeys(NO_ROOM, "some of it waits for room"),
}


def missing(state: SubscriptionState, code: str | None) -> str | None:
    """Why a subscription without a forecast has none, in words; None where nothing is to come. Pure."""
    if state is SubscriptionState.ACTIVE:
        return f"no forecast yet, because {_NOT_YET.get(code, 'not all of it has a route')}"
    return _NONE.get(state)


def _loads(conn: Connection) -> Mapping[int, _Load]:
    loads: defaultdict[int, _Load] = defaultdict(_Load)
    for row in (*conn.execute(HELD), *conn.execute(THERE)):
        loads[row.id].files, loads[row.id].bytes = int(row.files), int(row.bytes)
    for row in conn.execute(WANTED):
        _add_wanted(loads[row.subscription_id], row.path, row.bytes)
    for row in conn.execute(FILES):
        one, hop = loads[row.subscription_id], (row.src_se_id, row.dst_se_id)
        if row.state == TransferState.DONE:
            one.files += row.files
            one.bytes += int(row.bytes)
            one.left[hop] -= min(int(row.bytes), one.left[hop])
        elif row.state in linkqueues.WAITING:
            one.queued[hop] += int(row.bytes)
    return loads


def _add_wanted(one: _Load, path: list[int] | None, size: int) -> None:
    """A block of so many bytes that goes along the path."""
    if not path or len(path) < 2:
        one.routed = False
        return
    first, *behind = pairwise(path)
    one.left[first] += size
    legs = one.onward.setdefault(first, [])
    if behind and not legs:
        legs += [Onward(hop, size) for hop in behind]


def _rates(
    conn: Connection, now: datetime, nominal: float, loads: Iterable[_Load]
) -> dict[LinkKey, Quantiles]:
    """The rates of all links that these loads take."""
    bins: defaultdict[LinkKey, list[tuple[datetime, int]]] = defaultdict(list)
    for row in conn.execute(BINS, {"since": now - max(eta.LOOKS)}):
        bins[row.src_se_id, row.dst_se_id].append((row.bin_start, int(row.bytes_ok)))
    taken = {hop for one in loads for hop in one.left}
    taken |= {leg.link for one in loads for legs in one.onward.values() for leg in legs}
    return {hop: eta.measured(bins[hop], BIN, now, nominal) for hop in taken}
