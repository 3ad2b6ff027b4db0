"""Routes: what the router sees of the wanted replicas that are due, and its word on them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from datetime import datetime
from itertools import pairwise
from typing import Any

from sqlalchemy import Connection, Integer, bindparam, func, literal_column, or_, select, update

from catalogs import exceptions, replicas, validity
from catalogs.states import Switch
from catalogs.tables import se
from datamgmt.links import linkerrors, linkstates
from datamgmt.links.linkstates import LinkView
from datamgmt.links.paths import LinkKey
from datamgmt.routing.decisions import Window
from datamgmt.routing.words import Dest, View, Word
from datamgmt.subscription_states import SubscriptionState
from datamgmt.tables import block_dest, subscription, transfer
from datamgmt.transfer_states import TransferState
from datamgmt.wanted import destinations, transit
from datamgmt.wanted.allocation import ReplicaKey
from gridcore.db.idlists import within
from gridcore.db.reads import Read, rows
from gridcore.db.statements import chunks, one_of
from gridcore.db.types import UtcTime

#: Wanted replicas looked at in one pass.
MOST = 20_000

_N = bindparam("n", type_=Integer)
DUE = (
    select(block_dest.c.block_id, block_dest.c.se_id)
    .where(block_dest.c.valid_until <= bindparam("now", type_=UtcTime()))
    .order_by(block_dest.c.valid_until)
    .limit(_N)
)
#: Older routers write no time on what waits.
NEVER_SAID = (
    select(block_dest.c.block_id, block_dest.c.se_id).where(block_dest.c.valid_until.is_(None)).limit(_N)
)
_COLUMNS = (
    *("block_id", "se_id", "bytes", "transit_for_id", "custodial", "priority"),
    *("src_se_id", "path", "cost", "code", "params", "valid_until"),
    *("decided_at", "created_at", "cursor_id", "attempts", "failing_since", "files", "repair"),
)
DESTS = (
    select(*(block_dest.c[name] for name in _COLUMNS), subscription.c.state.label("asker"))
    .outerjoin_from(block_dest, subscription, subscription.c.id == block_dest.c.subscription_id)
    .where(within(block_dest.c.block_id))
    .order_by(block_dest.c.block_id, block_dest.c.se_id)
)
#: Routed to these SEs and not there yet.
UNDER_WAY = (
    select(block_dest.c.se_id, block_dest.c.priority, func.sum(block_dest.c.bytes))
    .where(within(block_dest.c.se_id), block_dest.c.transit_for_id.is_(None))
    .where(or_(block_dest.c.src_se_id.is_not(None), block_dest.c.via_se_id.is_not(None)))
    .group_by(block_dest.c.se_id, block_dest.c.priority)
)
FAILED = (
    select(
        transfer.c.block_id,
        transfer.c.src_se_id,
        transfer.c.dst_se_id,
        func.max(transfer.c.ended_at).label("ended_at"),
        func.max(transfer.c.error_class).label("error_class"),
    )
    .where(within(transfer.c.block_id), transfer.c.state == TransferState.FAILED)
    .group_by(transfer.c.block_id, transfer.c.src_se_id, transfer.c.dst_se_id)
)
ARRIVED = (
    select(transfer.c.block_id, transfer.c.dst_se_id, func.max(transfer.c.ended_at).label("ended_at"))
    .where(within(transfer.c.block_id), transfer.c.state == TransferState.DONE)
    .group_by(transfer.c.block_id, transfer.c.dst_se_id)
)
HOPS = (
    select(
        block_dest.c.src_se_id,
        block_dest.c.se_id,
        func.sum(block_dest.c.bytes).label("n_bytes"),
        func.sum(block_dest.c.files).label("n_files"),
    )
    .where(block_dest.c.src_se_id.is_not(None))
    .group_by(block_dest.c.src_se_id, block_dest.c.se_id)
)
OVER = (
    select(block_dest.c.block_id, block_dest.c.se_id)
    .where(within(block_dest.c.src_se_id, "srcs"), within(block_dest.c.se_id, "dsts"))
    .add_columns(block_dest.c.src_se_id)
)
PASSING = select(block_dest.c.block_id, block_dest.c.se_id, block_dest.c.via_se_id).where(
    within(block_dest.c.block_id), block_dest.c.via_se_id.is_not(None)
)
#: What waits because its way was too slow, and over which links that was.
SLOW = (
    select(block_dest.c.block_id, block_dest.c.se_id, block_dest.c.path)
    .where(block_dest.c.code == literal_column("'SLOW_PATH'"), block_dest.c.src_se_id.is_(None))
    .where(block_dest.c.valid_until >= bindparam("second", type_=UtcTime()))
)
DISABLED = select(se.c.id).where(se.c.state == Switch.DISABLED)
STIR = (
    update(block_dest)
    .where(within(block_dest.c.block_id), block_dest.c.se_id == bindparam("on_se"))
    .values(valid_until=destinations.AGAIN)
)
#: What waits for a way. What has rested, is suspended or finds a window full waits for something else.
_WAITS_FOR_LINKS = (
    *("NO_PATH", "NO_LIVE_LINK", "LINK_PARKED", "LINK_FORCED", "PROBE_UNDER_WAY", "SLOW_PATH"),
    *("SE_DISABLED", "SOURCE_EXCEPTED"),
)
STIR_WAITING = (
    update(block_dest)
    .where(one_of(block_dest.c.code, _WAITS_FOR_LINKS), block_dest.c.src_se_id.is_(None))
    .where(block_dest.c.valid_until >= bindparam("second", type_=UtcTime()))
    .values(valid_until=destinations.AGAIN)
)
STIR_FULL = (
    update(block_dest)
    .where(within(block_dest.c.se_id), one_of(block_dest.c.code, ("SE_FULL",)))
    .values(valid_until=destinations.AGAIN)
)
#: Routes of several hops by a router of an older release, which kept no room for them in rows.
STIR_OLDER = (
    update(block_dest)
    .where(block_dest.c.path.is_not(None), block_dest.c.src_se_id.is_(None))
    .where(block_dest.c.via_se_id.is_(None), block_dest.c.code != literal_column("'SLOW_PATH'"))
    .values(valid_until=destinations.AGAIN)
)


# --- what is due -------------------------------------------------------------------------------------


def due(conn: Connection, now: datetime, n: int = MOST) -> set[ReplicaKey]:
    """Up to `n` wanted replicas, transit ones too, whose time has come: those that waited longest first."""
    found, new = rows(conn, [Read(DUE, {"now": now, "n": n}), Read(NEVER_SAID, {"n": n})])
    return {(row[0], row[1]) for row in (*new, *found)[:n]}


def stir_links(conn: Connection, links: Collection[LinkKey], *, opened: bool) -> int:
    """These links have changed: what goes or begins its way over them, or found them too slow, is due at
    once; how many. Where one has `opened`, so is all that waits for a way."""
    waiting = conn.execute(STIR_WAITING, {"second": destinations.ONE_SECOND}).rowcount if opened else 0
    wanted = set(links)
    if not wanted:
        return waiting
    ends = {"srcs": sorted({src for src, _ in wanted}), "dsts": sorted({dst for _, dst in wanted})}
    hops, slow = rows(conn, [Read(OVER, ends), Read(SLOW, {"second": destinations.ONE_SECOND})])
    over = {(row[0], row[1]) for row in hops if (row[2], row[1]) in wanted}
    over |= {(row[0], row[1]) for row in slow if wanted.intersection(pairwise(row[2] or ()))}
    (passing,) = rows(conn, [Read(PASSING, {"ids": sorted({block for block, _ in over})})])
    over |= {(row[0], row[1]) for row in passing if (row[0], row[2]) in over}
    by_se: dict[int, list[int]] = {}
    for block_id, se_id in sorted(over):
        by_se.setdefault(se_id, []).append(block_id)
    stirred = (conn.execute(STIR, {"ids": ids, "on_se": se}).rowcount for se, ids in sorted(by_se.items()))
    return waiting + sum(stirred)


def stir_full(conn: Connection, ses: Collection[int]) -> int:
    """What waits for these storage elements, which were full, is due at once; how many."""
    return conn.execute(STIR_FULL, {"ids": sorted(ses)}).rowcount


def stir_older(conn: Connection) -> int:
    """Routes of several hops that an older router made are due at once; how many."""
    return conn.execute(STIR_OLDER).rowcount


# --- what the router sees ----------------------------------------------------------------------------


def view(conn: Connection, looked_at: Collection[ReplicaKey], links: Mapping[LinkKey, LinkView]) -> View:
    """All the router has to know of these rows; read-only."""
    blocks = sorted({block_id for block_id, _ in looked_at})
    dests = [_dest(row) for row in of_blocks(conn, blocks)]
    held: dict[ReplicaKey, set[int]] = {}
    for one in transit.of_blocks(conn, blocks):
        held.setdefault(one[:2], set()).add(one.via_se_id)
    there = {one.key for one in dests}
    lost = validity.lost_in(conn, blocks)
    failed, errors = _failed(conn, blocks)
    space = transit.space(conn)
    return View(
        dests=dests,
        replicas=replicas.replicas(conn, blocks),
        spoilt=_spoilt(conn, blocks, lost),
        lost={block_id: len(files) for block_id, files in lost.items()},
        links=links,
        loads=linkstates.loads(conn),
        failed=failed,
        errors=errors,
        arrived=_arrived(conn, dests),
        free={se_id: left for se_id, (left, _) in space.items()},
        limits={se_id: limit for se_id, (_, limit) in space.items()},
        held=held,
        due=[key for key in looked_at if key in there],
        under_way=_under_way(conn, dests),
        closed=set(conn.execute(DISABLED).scalars()),
        full=linkerrors.full(conn),
    )


def _spoilt(
    conn: Connection, blocks: Collection[int], lost: Mapping[int, set[int]]
) -> dict[ReplicaKey, set[int]]:
    """The files that others may have better: what is lost is so everywhere."""
    found = {
        (block_id, se_id): files - lost.get(block_id, set())
        for block_id, by_se in exceptions.faults_by_se(conn, blocks).items()
        for se_id, files in by_se.items()
    }
    return {key: files for key, files in found.items() if files}


def of_blocks(conn: Connection, blocks: Collection[int]) -> list[tuple[Any, ...]]:
    """The rows of these blocks, in the order of DESTS."""
    # Longer lists tempt PostgreSQL to compare each row of the table with each key.
    parts = rows(conn, [Read(DESTS, {"ids": part}) for part in chunks(blocks)])
    return [row for part in parts for row in part]


def _dest(row: tuple[Any, ...]) -> Dest:
    block_id, se_id, size, transit_for, custodial, priority = row[:6]
    src, path, cost, code, params, valid_until, decided_at, created_at = row[6:14]
    cursor, attempts, since, files, repair, asker = row[14:]
    word = Word(
        src=src,
        path=tuple(path or ()),
        cost=cost,
        code=code,
        params=params or {},
        valid_until=valid_until,
    )
    return Dest(
        block_id=block_id,
        se_id=se_id,
        size=size,
        transit_for=transit_for,
        custodial=bool(custodial),
        priority=priority,
        suspended=asker is SubscriptionState.SUSPENDED,
        word=word,
        decided_at=decided_at,
        created_at=created_at,
        progressed=cursor > 0,
        attempts=attempts,
        failing_since=since,
        files=files,
        repair=bool(repair),
    )


def _under_way(conn: Connection, dests: Collection[Dest]) -> dict[Window, int]:
    """Bytes routed of other blocks than these, by destination and priority."""
    ends = sorted({one.se_id for one in dests})
    (found,) = rows(conn, [Read(UNDER_WAY, {"ids": ends})])
    routed: Counter[Window] = Counter({(row[0], row[1]): int(row[2]) for row in found})
    for one in dests:
        if one.transit_for is None and one.word.moving:
            routed[one.se_id, one.priority] -= one.size
    return dict(routed)


def _failed(
    conn: Connection, blocks: Collection[int]
) -> tuple[dict[int, dict[LinkKey, datetime]], dict[tuple[int, LinkKey], str]]:
    """By block and hop, when its last file was given up, and what went wrong."""
    failed: dict[int, dict[LinkKey, datetime]] = {}
    errors: dict[tuple[int, LinkKey], str] = {}
    (found,) = rows(conn, [Read(FAILED, {"ids": blocks})])
    for block_id, src, dst, ended_at, error_class in found:
        failed.setdefault(block_id, {})[src, dst] = ended_at
        if error_class:
            errors[block_id, (src, dst)] = error_class
    return failed, errors


def _arrived(conn: Connection, dests: Collection[Dest]) -> dict[ReplicaKey, datetime]:
    """When a file last came, of blocks whose tries are counted."""
    tried = sorted({one.block_id for one in dests if one.attempts})
    (found,) = rows(conn, [Read(ARRIVED, {"ids": tried})]) if tried else ((),)
    return {(row[0], row[1]): row[2] for row in found}


def hops(conn: Connection) -> dict[LinkKey, float]:
    """The hops under way, of all blocks together, with the mean size of their files."""
    found = conn.execute(HOPS)
    return {(row.src_se_id, row.se_id): float(row.n_bytes) / max(float(row.n_files), 1.0) for row in found}
