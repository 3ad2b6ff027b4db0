"""Charging: whose quota of space at a site a replica takes, from the wish for it until its row is gone.

A new wanted row takes its block's bytes; when its replica begins they pass to it; they come back when the
wish is dropped before, or the replica's row goes. A group that has no quota at a site has no limit there, and
only the rows say what it uses.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Select, String, func, literal, select, union_all

from catalogs import replicas
from catalogs.states import ReplicaState
from catalogs.tables import block, block_replica, se, site
from datamgmt.tables import block_dest
from datamgmt.wanted.allocation import ReplicaKey
from gridcore.db import bulk, lock_rows, quotas
from gridcore.db.bulk import Change, Same
from gridcore.db.idlists import within
from gridcore.db.invariants import Invariant
from gridcore.tables import quota

#: Owner of a group's quota at a site in the table of quotas: before the site's and the group's name.
SPACE_QUOTA = "space:"

_SAME = (block_dest.c.block_id == block_replica.c.block_id) & (block_dest.c.se_id == block_replica.c.se_id)
BEGUN = (
    select(block_dest.c.block_id, block_dest.c.se_id, block_dest.c.acct_group, block_dest.c.bytes)
    .join_from(block_dest, block_replica, _SAME)
    .where(within(block_dest.c.block_id), block_dest.c.acct_group.is_not(None))
    .where(block_replica.c.state != ReplicaState.DELETING)
    .order_by(block_dest.c.block_id, block_dest.c.se_id)
)
CHARGED = (
    select(
        block_replica.c.block_id,
        block_replica.c.se_id,
        site.c.name.label("site"),
        block_replica.c.acct_group,
        block_replica.c.charged.label("bytes"),
    )
    .join_from(block_replica, se, se.c.id == block_replica.c.se_id)
    .join(site, site.c.id == se.c.site_id)
    .where(within(block_replica.c.block_id), block_replica.c.acct_group.is_not(None))
    .order_by(block_replica.c.block_id, block_replica.c.se_id)
)
RESERVED = (
    select(
        block_dest.c.block_id,
        block_dest.c.se_id,
        site.c.name.label("site"),
        block_dest.c.acct_group,
        block_dest.c.bytes,
    )
    .join_from(block_dest, se, se.c.id == block_dest.c.se_id)
    .join(site, site.c.id == se.c.site_id)
    .where(within(block_dest.c.block_id), block_dest.c.acct_group.is_not(None))
    .order_by(block_dest.c.block_id, block_dest.c.se_id)
)


def _sums(table: Any, size: Any) -> Any:
    """By owner, the bytes that rows of the table hold."""
    named = literal(SPACE_QUOTA, String) + site.c.name + literal(":", String) + table.c.acct_group
    return (
        select(named.label("owner"), size.label("bytes"))
        .join_from(table, se, se.c.id == table.c.se_id)
        .join(site, site.c.id == se.c.site_id)
        .where(table.c.acct_group.is_not(None))
    )


_HELD = union_all(
    _sums(block_replica, block_replica.c.charged), _sums(block_dest, block_dest.c.bytes)
).subquery("held")
_OWNED = (
    select(_HELD.c.owner, func.sum(_HELD.c.bytes).label("bytes")).group_by(_HELD.c.owner).subquery("owned")
)
_TRUE = func.coalesce(_OWNED.c.bytes, 0)
MISCOUNTED = (
    select(quota.c.id, quota.c.owner, quota.c.used_value, (_TRUE - quota.c.used_value).label("short"))
    .outerjoin_from(quota, _OWNED, _OWNED.c.owner == quota.c.owner)
    .where(quota.c.owner.like(f"{SPACE_QUOTA}%"), quota.c.used_value != _TRUE)
    .order_by(quota.c.id)
)

USED_IS_HELD = Invariant(
    "space quotas",
    "what is used of a group's quota at a site is what its replicas are charged and its wishes reserve",
    MISCOUNTED,
)


def owner(site_name: str, group: str) -> str:
    """The owner of a group's quota at a site."""
    return f"{SPACE_QUOTA}{site_name}:{group}"


# --- rows -------------------------------------------------------------------------------------------


def reserve(conn: Connection, groups: Mapping[ReplicaKey, str | None]) -> None:
    """Let wanted rows that are there hold their bytes for groups, which have taken them of their quotas."""
    rows = sorted(groups.items())
    keys = {"block_id": [key[0] for key, _ in rows], "se_id": [key[1] for key, _ in rows]}
    bulk.write(conn, [Change(block_dest, keys, put={"acct_group": [group for _, group in rows]})])


def charge(conn: Connection, block_ids: Iterable[int]) -> int:
    """Let the replicas of these blocks that have begun bear what their wishes have reserved; how many.

    The blocks' locks are held. What is used stays the same.
    """
    rows = conn.execute(BEGUN, {"ids": sorted(set(block_ids))}).all()
    if rows:
        blocks, elements, groups, sizes = zip(*rows, strict=True)
        keys = {"block_id": blocks, "se_id": elements}
        borne = Change(block_replica, keys, put={"acct_group": groups, "charged": sizes})
        bulk.write(conn, [borne, Change(block_dest, keys, put={"acct_group": Same(None)})])
    return len(rows)


def bear(conn: Connection, groups: Mapping[ReplicaKey, tuple[str | None, int]]) -> None:
    """Let replicas that are there bear so many bytes for groups, which have taken them of their quotas."""
    rows = sorted(groups.items())
    keys = {"block_id": [key[0] for key, _ in rows], "se_id": [key[1] for key, _ in rows]}
    groups_of, sizes = [one[0] for _, one in rows], [one[1] for _, one in rows]
    bulk.write(conn, [Change(block_replica, keys, put={"acct_group": groups_of, "charged": sizes})])


def remove(conn: Connection, keys: Sequence[ReplicaKey]) -> list[ReplicaKey]:
    """Forget replicas whose files are gone, see `catalogs.replicas.remove_all`, and give back what they were
    charged; which of them were DELETING. Locks the blocks."""
    lock_rows(conn, block, {block_id for block_id, _ in keys})
    charged = _held(conn, CHARGED, keys)
    gone = replicas.remove_all(conn, keys)
    _give_back(conn, [row for row in charged if (row.block_id, row.se_id) in set(gone)])
    return gone


def cancel(conn: Connection, keys: Collection[ReplicaKey]) -> None:
    """Give back what wishes have reserved whose replicas never began; the blocks' locks are held."""
    rows = _held(conn, RESERVED, keys)
    _give_back(conn, rows)
    if rows:
        gone = {"block_id": [row.block_id for row in rows], "se_id": [row.se_id for row in rows]}
        bulk.write(conn, [Change(block_dest, gone, put={"acct_group": Same(None)})])


def _held(conn: Connection, statement: Select[Any], keys: Collection[ReplicaKey]) -> list[Any]:
    """The rows among these that hold something."""
    wanted = set(keys)
    rows = conn.execute(statement, {"ids": sorted({block_id for block_id, _ in wanted})})
    return [row for row in rows if (row.block_id, row.se_id) in wanted]


def _give_back(conn: Connection, rows: Iterable[Any]) -> None:
    sums: Counter[str] = Counter()
    for row in rows:
        sums[owner(row.site, row.acct_group)] += row.bytes
    for of, n in sorted(sums.items()):
        quotas.give_back(conn, of, n)


# --- sums -------------------------------------------------------------------------------------------


def mend(conn: Connection) -> int:
    """Put right what quotas of space say is used; how many were wrong.

    One statement sees what is used and what holds it at one moment, and the rest is relative: what changes
    meanwhile changes neither.
    """
    found = [row.id for row in conn.execute(MISCOUNTED)]
    lock_rows(conn, quota, found)
    rows = conn.execute(MISCOUNTED).all() if found else []
    if rows:
        ids, short = [row.id for row in rows], [int(row.short) for row in rows]
        bulk.write(conn, [Change(quota, {"id": ids}, {"used_value": short})])
    return len(rows)
