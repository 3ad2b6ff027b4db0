"""What the pages of the data half show: deliveries by group, the quality of links.

Each question is bounded: a page of rows by key, counters instead of what they count, and of many wanted
replicas the first ones.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import BigInteger, Connection, Integer, and_, bindparam, func, select

from catalogs.states import ReplicaState
from catalogs.tables import block, block_replica, dataset, holding, link, se
from datamgmt.subscription_states import SubscriptionState
from datamgmt.tables import block_dest, link_bin, subscription
from gridapp.insights.deliveries import sentence
from gridapp.insights.topology import se_names
from gridapp.insights.values import KEY_MAX, iso, plain, record
from gridcore.db import dbnow
from gridcore.db.idlists import within

#: Rows of a page, and wanted replicas looked at for what they wait for.
PAGE, WAITING = 40, 20_000
#: Over which the quality of links is told.
LOOK_BACK = timedelta(hours=24)

_N = bindparam("n", type_=Integer)
_BEFORE = bindparam("before", type_=BigInteger)

# --- deliveries --------------------------------------------------------------------------------------

_SUBJECT = and_(
    block_replica.c.block_id == subscription.c.block_id, block_replica.c.se_id == subscription.c.se_id
)
_SUBSCRIBED = (
    select(
        subscription,
        dataset.c.name.label("dataset"),
        se.c.name.label("se"),
        dataset.c.files.label("n_files"),
        dataset.c.bytes.label("n_bytes"),
        dataset.c.closed_blocks,
        holding.c.closed,
        holding.c.files.label("held_files"),
        holding.c.bytes.label("held_bytes"),
        block.c.name.label("block"),
        block.c.files.label("block_files"),
        block.c.bytes.label("block_bytes"),
        block_replica.c.state.label("replica"),
    )
    .join_from(subscription, dataset, dataset.c.id == subscription.c.dataset_id)
    .join(se, se.c.id == subscription.c.se_id)
    .outerjoin(
        holding,
        and_(holding.c.dataset_id == subscription.c.dataset_id, holding.c.se_id == subscription.c.se_id),
    )
    .outerjoin(block, block.c.id == subscription.c.block_id)
    .outerjoin(block_replica, _SUBJECT)
)
SUBSCRIBED = _SUBSCRIBED.where(subscription.c.id < _BEFORE).order_by(subscription.c.id.desc()).limit(_N)
SUBSCRIBED_FOR = (
    _SUBSCRIBED.where(subscription.c.id < _BEFORE, subscription.c.acct_group == bindparam("of_group"))
    .order_by(subscription.c.id.desc())
    .limit(_N)
)
SUBSCRIBED_OF = (
    _SUBSCRIBED.where(subscription.c.dataset_id == bindparam("of_dataset")).order_by(se.c.name).limit(_N)
)
STATES = select(subscription.c.acct_group, subscription.c.state, func.count().label("n")).group_by(
    subscription.c.acct_group, subscription.c.state
)
_LOOKED_AT = (
    select(block_dest.c.subscription_id, block_dest.c.code, block_dest.c.block_id, block_dest.c.se_id)
    .where(within(block_dest.c.subscription_id))
    .limit(_N)
    .subquery("looked_at")
)
WAITS = (
    select(
        _LOOKED_AT.c.subscription_id,
        _LOOKED_AT.c.code,
        func.count().label("n"),
        func.min(_LOOKED_AT.c.block_id).label("block_id"),
        func.min(_LOOKED_AT.c.se_id).label("se_id"),
    )
    .group_by(_LOOKED_AT.c.subscription_id, _LOOKED_AT.c.code)
    .order_by(_LOOKED_AT.c.subscription_id, func.count().desc())
)
SAID = select(block_dest.c.block_id, block_dest.c.se_id, block_dest.c.code, block_dest.c.params).where(
    within(block_dest.c.block_id)
)


def deliveries(
    conn: Connection, before: int = KEY_MAX, group: str | None = None, limit: int = PAGE
) -> dict[str, Any]:
    """Subscriptions by group, newest first: {at, states, groups: [{group, states, list}], known, before}.

    Each has what is there of what there is (`percent` None where that is not known), `eta_p50`, `eta_p90`,
    and `waits`: what its blocks wait for, `n` of them each. `before` is the key the next page begins below.
    """
    statement = SUBSCRIBED if group is None else SUBSCRIBED_FOR
    binds = {"before": before, "n": limit + 1} | ({} if group is None else {"of_group": group})
    rows = conn.execute(statement, binds).all()
    told = _told(conn, rows[:limit])
    counts = _states(conn)
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for one in told:
        groups[one["group"]].append(one)
    return {
        "at": iso(dbnow(conn)),
        "states": plain(sum(counts.values(), Counter())),
        "groups": [
            {"group": name, "states": plain(counts[name]), "list": groups[name]} for name in sorted(groups)
        ],
        "known": sorted(counts),
        "before": rows[limit - 1].id if len(rows) > limit else None,
    }


def deliveries_of(conn: Connection, dataset_id: int, limit: int = PAGE) -> list[dict[str, Any]]:
    """The same of one dataset, by storage element."""
    return _told(conn, conn.execute(SUBSCRIBED_OF, {"of_dataset": dataset_id, "n": limit}).all())


def _states(conn: Connection) -> dict[str, Counter[SubscriptionState]]:
    found: dict[str, Counter[SubscriptionState]] = defaultdict(Counter)
    for row in conn.execute(STATES):
        found[row.acct_group][row.state] += row.n
    return found


def _told(conn: Connection, rows: Sequence[Any]) -> list[dict[str, Any]]:
    names = se_names(conn)
    live = [row.id for row in rows if row.state is SubscriptionState.ACTIVE]
    waits = _waits(conn, live, names)
    return [_delivery(row, waits.get(row.id, []), names) for row in rows]


def _waits(conn: Connection, ids: Sequence[int], names: Mapping[int, str]) -> dict[int, list[dict[str, Any]]]:
    """{subscription: what its blocks wait for, most of them first, with the sentence of one}."""
    if not ids:
        return {}
    rows = conn.execute(WAITS, {"ids": ids, "n": WAITING}).all()
    said = {
        (one.block_id, one.se_id): one
        for one in conn.execute(SAID, {"ids": sorted({row.block_id for row in rows})})
    }
    found: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        one = said.get((row.block_id, row.se_id))
        params = one.params if one is not None and one.code == row.code else None
        told = sentence(row.code, params, names) if params is not None else None
        found[row.subscription_id].append({"code": row.code, "n": row.n, "sentence": told})
    return found


def _delivery(row: Any, waits: list[dict[str, Any]], names: Mapping[int, str]) -> dict[str, Any]:
    done, whole = _amounts(row)
    if row.state is SubscriptionState.COMPLETE:
        whole = done  # what there is more of is in open blocks
    return {
        **record(row, "id", "dataset", "se", "state", "priority", "requester", "created_at", "eta_p50"),
        **record(row, "eta_p90", "block", "suspended_until", "comments"),
        "group": row.acct_group,
        "custodial": bool(row.custodial),
        "move": bool(row.move),
        "files_done": done[0],
        "bytes_done": done[1],
        "files": whole[0] if whole else None,
        "bytes": whole[1] if whole else None,
        "percent": _percent(row.state, done, whole),
        "reason": sentence(row.code, row.params, names),
        "waits": waits,
    }


def _amounts(row: Any) -> tuple[tuple[int, int], tuple[int, int] | None]:
    """(files, bytes) there and in all; None where only some of a dataset's blocks are asked for. Pure."""
    noted = (row.files_done, row.bytes_done)
    if row.block_id:
        whole = (row.block_files or 0, row.block_bytes or 0)
        return (whole if row.replica is ReplicaState.COMPLETE else noted), whole
    if row.static or row.fill_after is not None:
        return noted, None
    held = (row.held_files or 0, row.held_bytes or 0)
    return max(held, noted, key=lambda one: one[1]), (row.n_files, row.n_bytes)


def _percent(state: SubscriptionState, done: tuple[int, int], whole: tuple[int, int] | None) -> float | None:
    """By bytes, by files where all are empty; below 100 until it is complete. Pure."""
    if state is SubscriptionState.COMPLETE:
        return 100.0
    if whole is None:
        return None
    part, total = (done[1], whole[1]) if whole[1] else (done[0], whole[0])
    return min(round(100 * part / total, 1), 99.9) if total else 0.0


# --- links -------------------------------------------------------------------------------------------

QUALITY = (
    select(
        link.c.src_se_id,
        link.c.dst_se_id,
        func.sum(link_bin.c.files_ok).label("files_ok"),
        func.sum(link_bin.c.files_bad).label("files_bad"),
        func.sum(link_bin.c.bytes_ok).label("bytes_ok"),
        func.sum(link_bin.c.busy_s).label("busy_s"),
    )
    .join_from(
        link, link_bin, and_(link_bin.c.link_id == link.c.id, link_bin.c.bin_start >= bindparam("since"))
    )
    .group_by(link.c.src_se_id, link.c.dst_se_id)
)


def quality(conn: Connection, now: datetime, look_back: timedelta = LOOK_BACK) -> dict[str, Any]:
    """What links did of late: {hours, sources, destinations, cells: {source: {destination: cell}}}.

    A cell has files good and bad, bytes and `percent` good; links that did nothing have none.
    """
    names = se_names(conn)
    cells: dict[str, dict[str, Any]] = defaultdict(dict)
    for row in conn.execute(QUALITY, {"since": now - look_back}):
        good, bad = int(row.files_ok), int(row.files_bad)
        if good or bad:
            cells[names[row.src_se_id]][names[row.dst_se_id]] = {
                "files_ok": good,
                "files_bad": bad,
                "bytes_ok": int(row.bytes_ok),
                "percent": _good(good, bad),
            }
    return {
        "hours": look_back / timedelta(hours=1),
        "sources": sorted(cells),
        "destinations": sorted({dst for row in cells.values() for dst in row}),
        "cells": cells,
    }


def _good(good: int, bad: int) -> float:
    """Percent that were good; 100 only where all were, 0 where none was. Pure."""
    if not good or not bad:
        return 100.0 if good else 0.0
    return min(max(round(100 * good / (good + bad), 1), 0.1), 99.9)
