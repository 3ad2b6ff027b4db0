"""Previews: what a delivery, a deletion, a move or a change of a link would do, before it is done.

Only read: bytes by source and by link over the ways the router would choose now, hours at the rates the links
have shown, quotas and space before and after, and what would be refused.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, Connection, Integer, bindparam, func, or_, select

from catalogs import bookkeeping, exceptions, replicas
from catalogs.bookkeeping import BlockRow
from catalogs.replicas import ReplicaRow
from catalogs.states import BlockState, ReplicaState
from catalogs.tables import block
from datamgmt.deletions import leaving
from datamgmt.links import linkstates
from datamgmt.links.linkstates import BIN, LinkView, Load, Policies
from datamgmt.links.paths import LinkKey
from datamgmt.previews import rooms
from datamgmt.previews.projection import Caution, Flow, Net, flow
from datamgmt.previews.rooms import Room
from datamgmt.reasons import Reason
from datamgmt.routing import hops
from datamgmt.routing.decisions import BlockDest
from datamgmt.subscriptions import moving
from datamgmt.subscriptions.eta import LOOKS, Quantiles, measured
from datamgmt.tables import block_dest, link_bin
from datamgmt.wanted import destinations

#: Wanted replicas a change of a link is tried on, most urgent first.
MOST = 20_000


class Subject(NamedTuple):
    """A dataset, or one block of it; only blocks made after a moment, if one is given."""

    dataset_id: int
    block_id: int = 0
    after: datetime | None = None

    def covers(self, one: BlockRow) -> bool:
        """Whether the block is part of it."""
        return self.block_id in (0, one.id) and (self.after is None or one.created_at > self.after)


@dataclass(frozen=True, slots=True, kw_only=True)
class Amount:
    """So many closed blocks with their files and bytes."""

    blocks: int = 0
    files: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """What would be done: `copied` and `removed`; `there` already and `under_way` before; `still_open`:
    blocks that follow once they are closed.

    by_source, by_link: bytes of copies. hours, hours_most: until the last copy has arrived, as likely as not
    and nine times in ten; None where nothing is copied or nobody can tell.
    """

    copied: Amount = Amount()
    removed: Amount = Amount()
    there: int = 0
    under_way: int = 0
    still_open: int = 0
    by_source: Mapping[int, int] = field(default_factory=dict)
    by_link: Mapping[LinkKey, int] = field(default_factory=dict)
    hours: float | None = None
    hours_most: float | None = None
    rooms: tuple[Room, ...] = ()
    cautions: tuple[Caution, ...] = ()


@dataclass(frozen=True, slots=True)
class Comparison:
    """All that is wanted now, before and after a change."""

    before: Preview
    after: Preview


_ON_BLOCK = bindparam("on_block", type_=BigInteger)
OPEN_BLOCKS = (
    select(func.count())
    .select_from(block)
    .where(block.c.dataset_id == bindparam("on_dataset"), block.c.state == BlockState.OPEN)
    .where(or_(_ON_BLOCK == 0, block.c.id == _ON_BLOCK))
)
BINS = select(link_bin.c.link_id, link_bin.c.bin_start, link_bin.c.bytes_ok).where(
    link_bin.c.bin_start >= bindparam("since"), link_bin.c.bytes_ok > 0
)
WANTED = (
    select(block_dest.c.block_id, block_dest.c.se_id, block_dest.c.bytes, block_dest.c.priority)
    .where(block_dest.c.transit_for_id.is_(None), block_dest.c.repair == 0)
    .order_by(block_dest.c.priority.desc(), block_dest.c.block_id, block_dest.c.se_id)
    .limit(bindparam("n", type_=Integer))
)


# --- what can be asked -------------------------------------------------------------------------------


def delivery(
    conn: Connection,
    subject: Subject,
    se_ids: Collection[int],
    now: datetime,
    policies: Policies,
    *,
    group: str | None = None,
) -> Preview:
    """What it takes to have the subject at these storage elements, on the account of `group`.

    A COMPLETE copy that is there, and one that is wanted already, costs nothing.
    """
    blocks = _closed(conn, subject)
    held = replicas.replicas(conn, [one.id for one in blocks])
    wanted = {(row.block_id, row.se_id) for row in destinations.of_blocks(conn, [one.id for one in blocks])}
    asked = [(one, se_id) for one in blocks for se_id in sorted(set(se_ids))]
    there = {(one.block_id, one.se_id) for rows in held.values() for one in rows if _complete(one)}
    new = [(one, se_id) for one, se_id in asked if (one.id, se_id) not in there | wanted]
    found = _flow(
        conn, [_dest(one, se_id) for one, se_id in new], held, _net(conn, now, policies), now, policies
    )
    room = rooms.changed(conn, _taken(new, group, found.passing))
    return _preview(
        found,
        now,
        copied=_amount(one for one, _ in new),
        there=sum((one.id, se_id) in there for one, se_id in asked),
        under_way=sum((one.id, se_id) in wanted - there for one, se_id in asked),
        still_open=conn.execute(OPEN_BLOCKS, _binds(subject)).scalar_one(),
        rooms=room,
        cautions=(*found.waits, *rooms.too_full(room)),
    )


def removal(
    conn: Connection, subject: Subject, se_ids: Collection[int], *, custodial_too: bool = False
) -> Preview:
    """What would go if the subject's replicas at these storage elements were deleted, and what would stay."""
    blocks = _closed(conn, subject)
    held = replicas.replicas(conn, [one.id for one in blocks])
    mine = [one for rows in held.values() for one in rows if one.se_id in se_ids]
    return _removal(conn, blocks, held, mine, custodial_too=custodial_too)


def move(
    conn: Connection,
    subject: Subject,
    from_ses: Collection[int],
    to_se: int,
    now: datetime,
    policies: Policies,
    *,
    group: str | None = None,
) -> Preview:
    """What it takes to have the subject at `to_se`, and what would then go from `from_ses`, or where none is
    named from everywhere."""
    brought = delivery(conn, subject, [to_se], now, policies, group=group)
    blocks = _closed(conn, subject)
    held = replicas.replicas(conn, [one.id for one in blocks])
    arrived = {key: [*_without(rows, to_se), _arrived(key, to_se, now)] for key, rows in held.items()}
    left = set(from_ses) or {one.se_id for rows in held.values() for one in rows}
    others = [one for rows in held.values() for one in rows if one.se_id in left - {to_se}]
    places = moving.staying(conn)
    mine = [one for one in others if not moving.stays(one, places)]
    gone = _removal(conn, blocks, arrived, mine, custodial_too=False)
    return replace(
        brought,
        removed=gone.removed,
        rooms=(*brought.rooms, *gone.rooms),
        cautions=(*brought.cautions, *gone.cautions),
    )


def link_change(
    conn: Connection, changed: Mapping[LinkKey, LinkView | None], now: datetime, policies: Policies
) -> Comparison:
    """All that is wanted, over the links as they are and as they would be: {ends: the link after the change,
    None for one that is to go}. Up to `MOST` wanted replicas, most urgent first."""
    wanted = [
        BlockDest(block_id=row.block_id, dest=row.se_id, size=row.bytes, priority=row.priority)
        for row in conn.execute(WANTED, {"n": MOST})
    ]
    held = replicas.replicas(conn, {one.block_id for one in wanted})
    views, loads = linkstates.views(conn), linkstates.loads(conn)
    after = {key: view for key, view in {**views, **changed}.items() if view is not None}
    copied = Amount(blocks=len(wanted), bytes=sum(one.size for one in wanted))
    rates = _rates(conn, {**views, **after}, now, policies)
    found = [
        _flow(conn, wanted, held, _priced(links, loads, rates, now, policies), now, policies)
        for links in (views, after)
    ]
    before, then = (_preview(one, now, copied=copied, cautions=one.waits) for one in found)
    return Comparison(before, then)


# --- copies ------------------------------------------------------------------------------------------


def _closed(conn: Connection, subject: Subject) -> list[BlockRow]:
    return [one for one in bookkeeping.closed_blocks(conn, subject.dataset_id) if subject.covers(one)]


def _binds(subject: Subject) -> dict[str, int]:
    return {"on_dataset": subject.dataset_id, "on_block": subject.block_id}


def _dest(one: BlockRow, se_id: int) -> BlockDest:
    return BlockDest(block_id=one.id, dest=se_id, size=one.bytes)


def _complete(one: ReplicaRow) -> bool:
    return one.state is ReplicaState.COMPLETE


def _amount(blocks: Iterable[BlockRow]) -> Amount:
    rows = list(blocks)
    return Amount(
        blocks=len(rows), files=sum(one.files for one in rows), bytes=sum(one.bytes for one in rows)
    )


def _taken(
    new: Iterable[tuple[BlockRow, int]], group: str | None, passing: Mapping[int, int]
) -> dict[rooms.Account, int]:
    found: Counter[rooms.Account] = Counter()
    for one, se_id in new:
        found[se_id, None] += one.bytes
        if group:
            found[se_id, group] += one.bytes
    found.update({(se_id, None): n for se_id, n in passing.items()})
    return dict(found)


def _flow(
    conn: Connection,
    wanted: Sequence[BlockDest],
    held: Mapping[int, Sequence[ReplicaRow]],
    net: Net,
    now: datetime,
    policies: Policies,
) -> Flow:
    spoilt = exceptions.faults_by_se(conn, held)
    sources = {
        key: {one.se_id for one in rows if _complete(one) and one.se_id not in spoilt.get(key, {})}
        for key, rows in held.items()
    }
    return flow(wanted, sources, net, now, policies.routing)


def _net(conn: Connection, now: datetime, policies: Policies) -> Net:
    views = linkstates.views(conn)
    return _priced(views, linkstates.loads(conn), _rates(conn, views, now, policies), now, policies)


def _priced(
    views: Mapping[LinkKey, LinkView],
    loads: Mapping[LinkKey, Load],
    rates: Mapping[LinkKey, Quantiles],
    now: datetime,
    policies: Policies,
) -> Net:
    queued = {key: loads[key].bytes if key in loads else 0 for key in views}
    usable = [one for one in views.values() if one.enabled]
    return Net(
        costs=[hops.link_cost(one, queued[one.src, one.dst], now, policies.link) for one in usable],
        disabled=[key for key, one in views.items() if not one.enabled],
        queued=queued,
        rates=rates,
    )


def _rates(
    conn: Connection, views: Mapping[LinkKey, LinkView], now: datetime, policies: Policies
) -> dict[LinkKey, Quantiles]:
    """What links have carried lately; where that is nothing, as many streams as may run, at the rate one has
    shown or is given credit for."""
    bins: dict[int, list[tuple[datetime, int]]] = defaultdict(list)
    for row in conn.execute(BINS, {"since": now - LOOKS[-1]}):
        bins[row.link_id].append((row.bin_start, row.bytes_ok))
    streams, nominal = policies.routing.streams, policies.link.nominal_rate
    return {
        key: measured(
            bins.get(one.id, ()), BIN, now, streams * (one.state.rate or nominal / max(one.distance, 1.0))
        )
        for key, one in views.items()
    }


def _preview(found: Flow, now: datetime, **values: Any) -> Preview:
    times = [_hours(found.eta.p50 - now), _hours(found.eta.p90 - now)] if found.eta else [None, None]
    return Preview(
        by_source=found.by_source, by_link=found.by_link, hours=times[0], hours_most=times[1], **values
    )


def _hours(span: timedelta) -> float:
    return span / timedelta(hours=1)


# --- removals ----------------------------------------------------------------------------------------


def _without(rows: Iterable[ReplicaRow], se_id: int) -> list[ReplicaRow]:
    return [one for one in rows if one.se_id != se_id]


def _arrived(block_id: int, se_id: int, now: datetime) -> ReplicaRow:
    return ReplicaRow(
        block_id=block_id,
        se_id=se_id,
        state=ReplicaState.COMPLETE,
        hops=1,
        transit=False,
        custodial=False,
        created_at=now,
        completed_at=now,
    )


def _removal(
    conn: Connection,
    blocks: Sequence[BlockRow],
    held: Mapping[int, Sequence[ReplicaRow]],
    mine: Sequence[ReplicaRow],
    *,
    custodial_too: bool,
) -> Preview:
    by_id = {one.id: one for one in blocks}
    refused = leaving.verdicts(conn, by_id, held, mine, custodial_too=custodial_too)
    going = [one for one in mine if one.key not in refused]
    back: Counter[rooms.Account] = Counter()
    for one in going:
        back[one.se_id, None] += by_id[one.block_id].bytes
        if one.acct_group:
            back[one.se_id, one.acct_group] += one.charged
    room = rooms.changed(conn, {key: -n for key, n in back.items()})
    stays = [(code, params, by_id[key[0]]) for key, (code, params) in refused.items()]
    return Preview(
        removed=_amount(by_id[one.block_id] for one in going), rooms=room, cautions=_counted(stays)
    )


def _counted(stays: Iterable[tuple[Reason, dict[str, object], BlockRow]]) -> tuple[Caution, ...]:
    found: dict[tuple[Reason, str], Caution] = {}
    for code, params, one in stays:
        key = code, repr(params)
        old = found.get(key, Caution(code, {**params, "block": one.name}, 0, 0))
        found[key] = replace(old, blocks=old.blocks + 1, bytes=old.bytes + one.bytes)
    return tuple(found.values())
