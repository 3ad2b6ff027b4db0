"""Transit space: room kept at storage elements for the routes that pass there, counted in their quotas.

A row of route_via says "the route of this wanted replica passes there, until then". A storage element keeps
room for the bytes of the different blocks named there; where it has a limit, its quota `transit:<SE>` counts
them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection, Integer, bindparam, delete, func, select

from catalogs.tables import se
from datamgmt.tables import route_via
from datamgmt.wanted.allocation import ReplicaKey
from gridcore.db import bulk, lock_rows, quotas
from gridcore.db.bulk import Change, New
from gridcore.db.idlists import within
from gridcore.db.reads import Read, rows
from gridcore.db.statements import chunks
from gridcore.tables import quota

#: Owner of an SE's transit limit in the table of quotas, before its name.
OWNER = "transit:"


class NoRoom(Exception):
    """A transit limit was lowered since it was seen: plan again."""


class Via(NamedTuple):
    """Room for the route of (block, destination): where, which stop of the route, bytes, until when."""

    block_id: int
    se_id: int
    via_se_id: int
    pos: int
    bytes: int
    lease_until: datetime

    @property
    def copy(self) -> ReplicaKey:
        """What the room is for: one copy, whoever's routes pass it."""
        return self.block_id, self.via_se_id


OF_BLOCKS = (
    select(*(route_via.c[name] for name in Via._fields))
    .where(within(route_via.c.block_id))
    .order_by(route_via.c.block_id, route_via.c.se_id, route_via.c.via_se_id)
)
DROP = delete(route_via).where(within(route_via.c.block_id), route_via.c.se_id == bindparam("on_se"))
FORGET = delete(route_via).where(
    route_via.c.block_id == bindparam("on_block"),
    route_via.c.se_id == bindparam("on_se"),
    route_via.c.via_se_id == bindparam("on_via"),
)
OVER = (
    select(*(route_via.c[name] for name in Via._fields))
    .where(route_via.c.lease_until <= bindparam("now", type_=route_via.c.lease_until.type))
    .order_by(route_via.c.lease_until)
    .limit(bindparam("n", type_=Integer))
)
LIMITS = select(
    se.c.id, quota.c.owner, quota.c.limit_value, quota.c.limit_value - quota.c.used_value
).join_from(se, quota, quota.c.owner == OWNER + se.c.name)
_COPIES = (
    select(route_via.c.block_id, route_via.c.via_se_id, func.max(route_via.c.bytes).label("bytes"))
    .group_by(route_via.c.block_id, route_via.c.via_se_id)
    .subquery("copies")
)
_KEPT = (
    select(se.c.name, func.sum(_COPIES.c.bytes).label("bytes"))
    .join_from(_COPIES, se, se.c.id == _COPIES.c.via_se_id)
    .group_by(se.c.name)
    .subquery("kept")
)
_TRUE = func.coalesce(_KEPT.c.bytes, 0)
#: Limits of which another part is said to be used than there is room kept, with the true one.
MISCOUNTED = (
    select(quota.c.id, _TRUE.label("used"))
    .outerjoin_from(quota, _KEPT, quota.c.owner == OWNER + _KEPT.c.name)
    .where(quota.c.owner.like(f"{OWNER}%"), quota.c.used_value != _TRUE)
    .order_by(quota.c.id)
)
ALL_LIMITS = select(quota.c.id).where(quota.c.owner.like(f"{OWNER}%"))
HOLDERS = (
    select(route_via.c.se_id, func.sum(route_via.c.bytes).label("n"))
    .where(route_via.c.via_se_id == bindparam("on_via"))
    .group_by(route_via.c.se_id)
    .order_by(func.sum(route_via.c.bytes).desc())
    .limit(3)
)


def of_blocks(conn: Connection, block_ids: Collection[int]) -> list[Via]:
    """The rooms kept for the routes of these blocks."""
    parts = rows(conn, [Read(OF_BLOCKS, {"ids": part}) for part in chunks(sorted(block_ids))])
    return [Via(*row) for part in parts for row in part]


def space(conn: Connection) -> dict[int, tuple[int, int]]:
    """(bytes left, limit) of each SE that has a limit."""
    return {row[0]: (int(row[3]), int(row[2])) for row in conn.execute(LIMITS)}


def over(conn: Connection, now: datetime, n: int) -> list[Via]:
    """Rooms whose time is over: nobody has planned a route there since."""
    return [Via(*row) for row in conn.execute(OVER, {"now": now, "n": n})]


def change(conn: Connection, old: Iterable[Via], new: Iterable[Via]) -> None:
    """Keep the rooms `new` in place of `old`, which are all that are kept for the routes of their blocks;
    those in both stay. The blocks are locked. Raises NoRoom where so much is not free."""
    before = {one[:3]: one for one in old}
    after = {one[:3]: one for one in new}
    gone = [one for key, one in before.items() if key not in after]
    added = [one for key, one in sorted(after.items()) if key not in before]
    moved = [one for key, one in sorted(after.items()) if key in before and before[key] != one]
    if gone:
        conn.execute(FORGET, [dict(zip(("on_block", "on_se", "on_via"), one, strict=False)) for one in gone])
    writes: list[bulk.Write] = []
    if added:
        columns = dict(zip(Via._fields, map(list, zip(*added, strict=True)), strict=True))
        writes.append(New(route_via, columns))
    if moved:
        columns = dict(zip(Via._fields, map(list, zip(*moved, strict=True)), strict=True))
        keys = {name: columns[name] for name in Via._fields[:3]}
        writes.append(Change(route_via, keys, put={name: columns[name] for name in ("pos", "lease_until")}))
    bulk.write(conn, writes)
    _settle(conn, _sums(before.values()), _sums(after.values()))


def drop(conn: Connection, keys: Iterable[ReplicaKey]) -> None:
    """The wanted replicas `keys` keep no room any more."""
    wanted = set(keys)
    kept = of_blocks(conn, {block_id for block_id, _ in wanted})
    gone = [one for one in kept if one[:2] in wanted]
    if not gone:
        return
    by_se: dict[int, set[int]] = {}
    for one in gone:
        by_se.setdefault(one.se_id, set()).add(one.block_id)
    for se_id, block_ids in sorted(by_se.items()):
        conn.execute(DROP, {"on_se": se_id, "ids": sorted(block_ids)})
    _settle(conn, _sums(kept), _sums(one for one in kept if one[:2] not in wanted))


def _sums(kept: Iterable[Via]) -> Counter[int]:
    """By SE, the bytes of the blocks it keeps room for: of each once."""
    found: Counter[int] = Counter()
    for (_, se_id), size in {one.copy: one.bytes for one in kept}.items():
        found[se_id] += size
    return found


def _settle(conn: Connection, before: Mapping[int, int], after: Mapping[int, int]) -> None:
    """Take of the quotas what is more, give back what is less; SEs without a limit have none."""
    more = {one: n for one in {*before, *after} if (n := after.get(one, 0) - before.get(one, 0))}
    if not more:
        return
    owners = {row[0]: row[1] for row in conn.execute(LIMITS) if row[0] in more}
    for se_id, owner in sorted(owners.items(), key=lambda one: one[1]):
        if more[se_id] < 0:
            quotas.give_back(conn, owner, -more[se_id])
        elif not quotas.take(conn, owner, more[se_id]):
            raise NoRoom(f"{owner} has less room than was seen")


def holders(conn: Connection, via_se_id: int) -> list[int]:
    """The destinations that most of the room at an SE is kept for, at most three."""
    return [row.se_id for row in conn.execute(HOLDERS, {"on_via": via_se_id})]


def mend(conn: Connection) -> int:
    """Count anew what is used of the limits; how many were wrong. Whoever keeps more room waits meanwhile."""
    lock_rows(conn, quota, conn.execute(ALL_LIMITS).scalars())
    wrong = conn.execute(MISCOUNTED).all()
    if wrong:
        put = {"used_value": [int(row.used) for row in wrong]}
        bulk.write(conn, [Change(quota, {"id": [row.id for row in wrong]}, put=put)])
    return len(wrong)
