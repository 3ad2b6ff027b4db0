"""Quotas: limits of space for a group at a site and for copies passing through a storage element."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import Connection, bindparam, delete, select, update

from gridcore.db import insert_rows
from gridcore.tables import quota

#: What owners of quotas begin with: `transit:<SE>`, `space:<site>:<group>`.
TRANSIT, SPACE = "transit:", "space:"

OWNED = select(quota).where(quota.c.owner.startswith(bindparam("prefix"))).order_by(quota.c.owner)
SET_LIMIT = (
    update(quota).where(quota.c.owner == bindparam("of_owner")).values(limit_value=bindparam("new_limit"))
)
REMOVE = delete(quota).where(quota.c.owner == bindparam("of_owner"))


@dataclass(frozen=True, slots=True)
class Quota:
    """A limit and what is used of it, in bytes; `of` is what follows the kind in the owner."""

    of: str
    limit: int
    used: int

    @property
    def site(self) -> str:
        """Of a quota of space: where it holds."""
        return self.of.partition(":")[0]

    @property
    def group(self) -> str:
        """Of a quota of space: whose it is."""
        return self.of.partition(":")[2]


def of_transit(conn: Connection) -> list[Quota]:
    """For passing copies, by storage element."""
    return list(_owned(conn, TRANSIT))


def of_space(conn: Connection) -> list[Quota]:
    """For groups at sites, by site and group."""
    return list(_owned(conn, SPACE))


def _owned(conn: Connection, prefix: str) -> Iterator[Quota]:
    for row in conn.execute(OWNED, {"prefix": prefix}):
        yield Quota(row.owner.removeprefix(prefix), row.limit_value, row.used_value)


def put(conn: Connection, key: int, owner: str, limit: int) -> None:
    """Limit the owner, or give another limit; a new row takes the key."""
    if not conn.execute(SET_LIMIT, {"of_owner": owner, "new_limit": limit}).rowcount:
        insert_rows(conn, quota, [{"id": key, "owner": owner, "limit_value": limit, "used_value": 0}])


def remove(conn: Connection, owner: str) -> bool:
    """Let the owner use what it likes; False where nothing limited it."""
    return conn.execute(REMOVE, {"of_owner": owner}).rowcount == 1
