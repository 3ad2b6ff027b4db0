"""Recount: counters of what lies where, held against the replicas they count, and put right.

Whatever changes replicas keeps the counters in its own transaction; agents of an older release do not know
them. A drift is what one statement sees of counters and replicas at one moment, and it is corrected
relatively: what changes meanwhile changes neither.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, case, func, or_, select

from catalogs.bookkeeping import parts_of
from catalogs.states import BlockState, ReplicaState
from catalogs.tables import block, block_replica, block_run, data_file, dataset, file_run, holding, se, se_use
from gridcore.db import bulk, counters, lock_rows
from gridcore.db.bulk import Change, New

_HOLDING = ("blocks", "closed", "files", "bytes")
_USE = ("files", "complete_bytes", "arriving_bytes", "leaving_bytes", "transit_bytes")
_REPLICAS = block_replica.join(block, block.c.id == block_replica.c.block_id)


def _of(condition: ColumnElement[bool], column: Any) -> Any:
    return func.sum(case((condition, column), else_=0))


_COMPLETE = block_replica.c.state == ReplicaState.COMPLETE
_COPYING = block_replica.c.state == ReplicaState.COPYING
_DELETING = block_replica.c.state == ReplicaState.DELETING
_HELD = (
    select(
        block.c.dataset_id,
        block_replica.c.se_id,
        func.count().label("blocks"),
        _of(block.c.state == BlockState.CLOSED, 1).label("closed"),
        func.sum(block.c.files).label("files"),
        func.sum(block.c.bytes).label("bytes"),
    )
    .select_from(_REPLICAS)
    .where(_COMPLETE)
    .group_by(block.c.dataset_id, block_replica.c.se_id)
    .subquery("held")
)
_USED = (
    select(
        block_replica.c.se_id,
        _of(_COMPLETE, block.c.files).label("files"),
        _of(_COMPLETE, block.c.bytes).label("complete_bytes"),
        _of(_COPYING, block.c.bytes).label("arriving_bytes"),
        _of(_DELETING, block.c.bytes).label("leaving_bytes"),
        _of(and_(~_DELETING, block_replica.c.transit == 1), block.c.bytes).label("transit_bytes"),
    )
    .select_from(_REPLICAS)
    .group_by(block_replica.c.se_id)
    .subquery("used")
)
_CLOSED = (
    select(block.c.dataset_id, func.count().label("n"))
    .where(block.c.state == BlockState.CLOSED)
    .group_by(block.c.dataset_id)
    .subquery("closed_in")
)


def _short(counted: Any, counters: Any, names: tuple[str, ...]) -> list[Any]:
    """By how much each counter is short of the truth."""
    return [(func.coalesce(counted.c[name], 0) - counters.c[name]).label(name) for name in names]


def _differ(counted: Any, counters: Any, names: tuple[str, ...]) -> ColumnElement[bool]:
    return or_(*(func.coalesce(counted.c[name], 0) != counters.c[name] for name in names))


_SAME_HOLDING = and_(_HELD.c.dataset_id == holding.c.dataset_id, _HELD.c.se_id == holding.c.se_id)
HOLDINGS = (
    select(holding.c.dataset_id, holding.c.se_id, *_short(_HELD, holding, _HOLDING))
    .outerjoin_from(holding, _HELD, _SAME_HOLDING)
    .where(_differ(_HELD, holding, _HOLDING))
    .order_by(holding.c.dataset_id, holding.c.se_id)
)
NEW_HOLDINGS = (
    select(_HELD)
    .outerjoin_from(_HELD, holding, _SAME_HOLDING)
    .where(holding.c.se_id.is_(None))
    .order_by(_HELD.c.dataset_id, _HELD.c.se_id)
)
USES = (
    select(se_use.c.se_id, *_short(_USED, se_use, _USE))
    .outerjoin_from(se_use, _USED, _USED.c.se_id == se_use.c.se_id)
    .where(_differ(_USED, se_use, _USE))
    .order_by(se_use.c.se_id)
)
NEW_USES = (
    select(_USED)
    .outerjoin_from(_USED, se_use, _USED.c.se_id == se_use.c.se_id)
    .where(se_use.c.se_id.is_(None), or_(*(_USED.c[name] != 0 for name in _USE)))
    .order_by(_USED.c.se_id)
)
CLOSED = (
    select(dataset.c.id, (func.coalesce(_CLOSED.c.n, 0) - dataset.c.closed_blocks).label("short"))
    .outerjoin_from(dataset, _CLOSED, _CLOSED.c.dataset_id == dataset.c.id)
    .where(func.coalesce(_CLOSED.c.n, 0) != dataset.c.closed_blocks)
    .order_by(dataset.c.id)
)
#: Each counter's drift, by what it is called.
DRIFTS: dict[str, Select[Any]] = {
    "closed_blocks": CLOSED,
    "holdings": HOLDINGS,
    "new_holdings": NEW_HOLDINGS,
    "space": USES,
    "new_space": NEW_USES,
}


#: Older agents do not write the parts of names.
UNSPLIT = select(dataset.c.id, dataset.c.name).where(dataset.c.prim.is_(None)).order_by(dataset.c.id)
_SPANS = (
    select(
        data_file.c.block_id,
        file_run.c.run,
        func.min(file_run.c.first_lumi).label("first_lumi"),
        func.max(file_run.c.last_lumi).label("last_lumi"),
    )
    .join_from(file_run, data_file, data_file.c.id == file_run.c.file_id)
    .group_by(data_file.c.block_id, file_run.c.run)
    .subquery("span")
)
#: Where the files of a block reach beyond what it knows of a run.
SPANS = (
    select(*_SPANS.c, block_run.c.run.label("known"))
    .outerjoin_from(
        _SPANS, block_run, and_(block_run.c.block_id == _SPANS.c.block_id, block_run.c.run == _SPANS.c.run)
    )
    .where(
        or_(
            block_run.c.run.is_(None),
            block_run.c.first_lumi > _SPANS.c.first_lumi,
            block_run.c.last_lumi < _SPANS.c.last_lumi,
        )
    )
    .order_by(_SPANS.c.block_id, _SPANS.c.run)
)
MENDED = ((holding, HOLDINGS), (holding, NEW_HOLDINGS), (se_use, USES), (se_use, NEW_USES))
ALL_SE = select(se.c.id)


def drift(conn: Connection) -> dict[str, int]:
    """How many counters are wrong; empty where all are right."""
    found = {name: len(conn.execute(statement).all()) for name, statement in DRIFTS.items()}
    return {name: n for name, n in found.items() if n}


def mend(conn: Connection) -> dict[str, int]:
    """Put right what has drifted; how many counters of each kind there were.

    Only where something is wrong are storage elements locked: that keeps others from mending the same.
    """
    split = _split_names(conn)
    found = drift(conn)
    if not found:
        return split
    lock_rows(conn, se, conn.execute(ALL_SE).scalars())
    if rows := conn.execute(CLOSED).all():
        ids, short = zip(*rows, strict=True)
        # What older agents have closed, allocation has not been told of.
        added, put = {"closed_blocks": short}, {"unsettled": [1] * len(ids)}
        bulk.write(conn, [Change(dataset, {"id": ids}, added, put)])
    for table, statement in MENDED:
        keys = len(table.primary_key.columns)
        more = {tuple(row[:keys]): [int(n) for n in row[keys:]] for row in conn.execute(statement)}
        counters.grow(conn, table, more)
    return found | split


def span_runs(conn: Connection) -> dict[str, int]:
    """Put right between which lumis the files of blocks lie; how many runs of blocks there were.

    It looks through all files: for once, after an upgrade. Locks those blocks.
    """
    locked = {row.block_id for row in conn.execute(SPANS)}
    if not locked:
        return {}
    lock_rows(conn, block, locked)
    rows = [row for row in conn.execute(SPANS) if row.block_id in locked]
    new, grown = [row for row in rows if row.known is None], [row for row in rows if row.known is not None]
    keys, ends = ("block_id", "run"), ("first_lumi", "last_lumi")
    added = {name: [row._mapping[name] for row in new] for name in keys + ends}
    named = {name: [row._mapping[name] for row in grown] for name in keys}
    put = {name: [row._mapping[name] for row in grown] for name in ends}
    bulk.write(conn, [New(block_run, added), Change(block_run, named, put=put)])
    return {"block_runs": len(rows)}


def _split_names(conn: Connection) -> dict[str, int]:
    rows = conn.execute(UNSPLIT).all()
    if not rows:
        return {}
    parts = [parts_of(row.name) for row in rows]
    put = {name: [one[name] for one in parts] for name in parts[0]}
    bulk.write(conn, [Change(dataset, {"id": [row.id for row in rows]}, put=put)])
    return {"names": len(rows)}
