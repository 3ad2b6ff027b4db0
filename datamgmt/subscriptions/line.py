"""The line of subscriptions that wait for room in a quota or at a storage element.

What each waits for stands on its row. The urgent come first, then the older ones, and nobody takes what one
before him waits for, whatever the dataset.

Of storage elements room is read without a lock: who admits holds the lease of the block manager until the end
of the transaction, and nobody else promises any. Quotas are locked, as replicas give back at any time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, and_, func, select

from catalogs import space
from catalogs.tables import block_replica, se, site
from datamgmt.reasons import Reason
from datamgmt.subscription_states import SubscriptionState
from datamgmt.subscriptions.transitions import NO_ROOM
from datamgmt.tables import block_dest, subscription
from datamgmt.wanted import charging
from datamgmt.wanted.allocation import Limit, Room, Waiting, Wanted
from datamgmt.wanted.allocation import admitted as fitting
from gridcore.db import quotas
from gridcore.db.engine import Stale
from gridcore.db.idlists import within

_READ = ("id", "dataset_id", "se_id", "priority", "acct_group", "params")
LINE = (
    select(*(subscription.c[name] for name in _READ))
    .add_columns(site.c.name.label("site"))
    .join_from(subscription, se, se.c.id == subscription.c.se_id)
    .join(site, site.c.id == se.c.site_id)
    .where(subscription.c.state == SubscriptionState.ACTIVE, subscription.c.code.in_(NO_ROOM))
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


def admitted(
    conn: Connection, new: Sequence[Wanted], dataset_id: int, waits: Collection[int]
) -> tuple[list[Wanted], list[Waiting]]:
    """Those of a dataset's new rows that there is room for, which is taken of quotas, and those that wait.

    `waits`: subscriptions of the dataset of which an earlier block waits already. Locks the quotas.
    """
    quotas.lock(conn, _accounts(new))
    rooms = _rooms(conn, new)
    line = _line(conn) if rooms else ()
    others = (one for of, one in line if of != dataset_id or one.subscription_id in waits)
    add, waiting = fitting(new, rooms, others)
    _take(conn, [one for one in add if one.account in rooms])
    return add, waiting


def ready(conn: Connection) -> list[int]:
    """The datasets of those for whose first block room has come, ascending."""
    waiting = _line(conn)
    add, _ = fitting((one for _, one in waiting), _rooms(conn, [one for _, one in waiting]))
    come = {one.subscription_id for one in add}
    return sorted({of for of, one in waiting if one.subscription_id in come})


def facts(one: Waiting, site_name: str) -> dict[str, Any]:
    """What its reason says, and what its place in the line is by."""
    found: dict[str, Any] = {"site": site_name, "free": one.room.left, "size": one.wanted.size}
    found |= {} if one.behind is None else {"behind": one.behind}
    found |= {"here": 1} if one.wanted.here else {}
    if one.code is Reason.QUOTA_FULL:
        return {**found, "group": one.wanted.group, "limit": one.room.limit}
    return {**found, "se": one.wanted.se_id, "space": one.room.limit}


def _line(conn: Connection) -> list[tuple[int, Wanted]]:
    """(dataset, the first row that waits) of each subscription that waits."""
    return [(row.dataset_id, _first(row)) for row in conn.execute(LINE)]


def _first(row: Any) -> Wanted:
    return Wanted(
        block_id=0,
        se_id=row.se_id,
        subscription_id=row.id,
        custodial=False,
        priority=row.priority,
        account=charging.owner(row.site, row.acct_group),
        group=row.acct_group,
        size=row.params.get("size", 0),
        here=bool(row.params.get("here")),
    )


def _accounts(rows: Iterable[Wanted]) -> set[str]:
    return {one.account for one in rows if one.account is not None}


def _rooms(conn: Connection, rows: Collection[Wanted]) -> dict[Limit, Room]:
    """What is left of the limits that these rows take of."""
    rooms = _spaces(conn, {one.se_id for one in rows})
    rooms.update({of: Room(*one) for of, one in quotas.room(conn, _accounts(rows)).items()})
    return rooms


def _spaces(conn: Connection, se_ids: Collection[int]) -> dict[Limit, Room]:
    """Of those of the SEs that have a limit, bytes that are free and not yet promised."""
    limited: dict[Limit, Room] = {
        key: Room(one.free, one.limit)
        for key, one in space.read(conn).items()
        if key in se_ids and one.free is not None and one.limit is not None
    }
    if not limited:
        return {}
    promised = {row.se_id: int(row.bytes) for row in conn.execute(PENDING, {"ids": sorted(se_ids)})}
    return {key: one._replace(left=one.left - promised.get(key, 0)) for key, one in limited.items()}


def _take(conn: Connection, rows: Iterable[Wanted]) -> None:
    """Take of the quotas, which are locked, what these rows need."""
    sums: Counter[str] = Counter()
    for one in rows:
        sums[one.account or ""] += one.size
    for of, n in sorted(sums.items()):
        if not quotas.take(conn, of, n):
            raise Stale(f"less is left of {of} than was read under its lock")
