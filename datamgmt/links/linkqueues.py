"""Queues of links: what waits and is under way on each, counted beside the transfers, with them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Select, and_, case, func, or_, select

from catalogs.tables import link
from datamgmt.links.paths import LinkKey
from datamgmt.tables import link_state, transfer
from datamgmt.transfer_states import TransferState
from gridcore.db import bulk, reads
from gridcore.db.bulk import Change
from gridcore.db.idlists import within
from gridcore.db.reads import Read
from gridcore.db.statements import insert_new, one_of

#: States of a transfer that waits for a place in its link's window.
WAITING = (TransferState.QUEUED, TransferState.RETRY_WAIT)


class Queue(NamedTuple):
    """What a link has: files and bytes that wait, and files under way. Also what is added to it."""

    files: int = 0
    bytes: int = 0
    active: int = 0


_COLUMNS = ("queued_files", "queued_bytes", "active_files")
LINK_IDS = select(link.c.id, link.c.src_se_id, link.c.dst_se_id).where(
    within(link.c.src_se_id, "srcs"), within(link.c.dst_se_id, "dsts")
)
KNOWN = select(link_state.c.link_id).where(within(link_state.c.link_id))
LOCK = KNOWN.order_by(link_state.c.link_id).with_for_update(key_share=True)
LEADING_TO = select(link.c.id).where(within(link.c.dst_se_id))
BUSY_TO = (
    select(link.c.dst_se_id)
    .join_from(link, link_state, link_state.c.link_id == link.c.id)
    .where(link_state.c.queued_files > 0)
    .distinct()
)
QUEUES = (
    select(link.c.src_se_id, link.c.dst_se_id, *(link_state.c[name] for name in _COLUMNS))
    .join_from(link, link_state, link_state.c.link_id == link.c.id)
    .where(or_(link_state.c.queued_files != 0, link_state.c.active_files != 0))
)
ACTIVE_TO = (
    select(link.c.src_se_id, link.c.dst_se_id, link_state.c.active_files)
    .join_from(link, link_state, link_state.c.link_id == link.c.id)
    .where(within(link.c.dst_se_id), link_state.c.active_files > 0)
)
_WAITS = one_of(transfer.c.state, WAITING)
_GOES = transfer.c.state == TransferState.ACTIVE


def _counted(*conditions: ColumnElement[bool]) -> Select[Any]:
    """What the transfers themselves say of each link, and what is written there."""
    waits = (func.sum(case((_WAITS, value), else_=0)) for value in (1, transfer.c.bytes))
    found = (
        select(
            transfer.c.src_se_id,
            transfer.c.dst_se_id,
            *(column.label(name) for column, name in zip(waits, _COLUMNS, strict=False)),
            func.sum(case((_GOES, 1), else_=0)).label("active_files"),
        )
        .where(or_(_WAITS, _GOES))
        .group_by(transfer.c.src_se_id, transfer.c.dst_se_id)
        .subquery("found")
    )
    ends = and_(found.c.src_se_id == link.c.src_se_id, found.c.dst_se_id == link.c.dst_se_id)
    counts = [func.coalesce(found.c[name], 0) for name in _COLUMNS]
    return (
        select(link_state.c.link_id, *(one.label(name) for one, name in zip(counts, _COLUMNS, strict=True)))
        .join_from(link_state, link, link.c.id == link_state.c.link_id)
        .outerjoin(found, ends)
        .where(*conditions)
        .where(or_(*(link_state.c[name] != one for one, name in zip(counts, _COLUMNS, strict=True))))
        .order_by(link_state.c.link_id)
    )


#: Links whose counts are not those of their transfers, with the true ones.
WRONG = _counted()
WRONG_OF = _counted(within(link_state.c.link_id))
ALL = select(link_state.c.link_id)


def queues(conn: Connection) -> dict[LinkKey, Queue]:
    """The links on which anything waits or is under way."""
    return {(row[0], row[1]): Queue(*row[2:]) for row in conn.execute(QUEUES)}


def active_to(conn: Connection, ses: Sequence[int]) -> dict[LinkKey, int]:
    """By link, how many files are under way to these SEs."""
    (rows,) = reads.rows(conn, [Read(ACTIVE_TO, {"ids": ses})])
    return {(src, dst): n for src, dst, n in rows}


def waiting_at(conn: Connection) -> set[int]:
    """The destinations where files wait, some perhaps for their next try."""
    return {row.dst_se_id for row in conn.execute(BUSY_TO)}


def sums(changes: Iterable[tuple[LinkKey, Queue]]) -> dict[LinkKey, Queue]:
    """What comes to each link in all."""
    found: dict[LinkKey, list[int]] = defaultdict(lambda: [0, 0, 0])
    for hop, (files, size, active) in changes:
        sums = found[hop]
        sums[0] += files
        sums[1] += size
        sums[2] += active
    return {hop: Queue(*one) for hop, one in found.items()}


def ids(conn: Connection, hops: Iterable[LinkKey]) -> dict[LinkKey, int]:
    """The links between these ends, of those that there are."""
    wanted = set(hops)
    srcs, dsts = ({hop[end] for hop in wanted} for end in (0, 1))
    (rows,) = reads.rows(conn, [Read(LINK_IDS, {"srcs": sorted(srcs), "dsts": sorted(dsts)})])
    return {(src, dst): key for key, src, dst in rows if (src, dst) in wanted}


def change(conn: Connection, more: Mapping[LinkKey, Queue], now: datetime) -> None:
    """Add to what links have, in the transaction that changes their transfers, as its last locks."""
    more = {hop: one for hop, one in more.items() if any(one)}
    if not more:
        return
    rows = sorted((key, more[hop]) for hop, key in ids(conn, more).items())
    if _add(conn, rows) < len(rows):
        keys = [key for key, _ in rows]
        known = {row.link_id for row in conn.execute(KNOWN, {"ids": keys})}
        fresh = [one for one in rows if one[0] not in known]
        for key, _ in fresh:
            insert_new(conn, link_state, {"link_id": key, "state": {}, "updated_at": now})
        _add(conn, fresh)


def _add(conn: Connection, rows: list[tuple[int, Queue]]) -> int:
    columns = zip(*(one for _, one in rows), strict=True)
    add = {name: list(values) for name, values in zip(_COLUMNS, columns, strict=True)}
    (n,) = bulk.write(conn, [Change(link_state, {"link_id": [key for key, _ in rows]}, add=add)])
    return n


def recount_at(conn: Connection, se_id: int) -> int:
    """Put right the counts of links to the SE, where agents of an older release have queued; how many."""
    keys = [row.id for row in conn.execute(LEADING_TO, {"ids": [se_id]})]
    return _mend(conn, keys) if keys else 0


def recount(conn: Connection) -> int:
    """The same for all links."""
    return _mend(conn, [row.link_id for row in conn.execute(ALL)])


def _mend(conn: Connection, keys: list[int]) -> int:
    # Whoever queues meanwhile adds to the counts once we have let go of them, for rows not counted here.
    conn.execute(LOCK, {"ids": sorted(keys)}).all()
    rows = conn.execute(WRONG_OF, {"ids": sorted(keys)}).all()
    if rows:
        link_ids, *columns = zip(*rows, strict=True)
        put = {name: [int(one) for one in values] for name, values in zip(_COLUMNS, columns, strict=True)}
        bulk.write(conn, [Change(link_state, {"link_id": list(link_ids)}, put=put)])
    return len(rows)
