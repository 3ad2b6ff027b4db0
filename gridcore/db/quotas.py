"""Quotas: (owner, limit, used), taken before they are used and never exceeded."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection, bindparam, select, update

from gridcore.db.idlists import names_within
from gridcore.db.statements import lock_rows
from gridcore.tables import quota

TAKE = (
    update(quota)
    .where(quota.c.owner == bindparam("of"), quota.c.used_value + bindparam("n") <= quota.c.limit_value)
    .values(used_value=quota.c.used_value + bindparam("n"))
)
GIVE_BACK = (
    update(quota)
    .where(quota.c.owner == bindparam("of"), quota.c.used_value >= bindparam("n"))
    .values(used_value=quota.c.used_value - bindparam("n"))
)
OWNED = select(quota.c.id).where(names_within(quota.c.owner))
ROOM = select(quota.c.owner, quota.c.limit_value - quota.c.used_value).where(names_within(quota.c.owner))
FREE = select(quota.c.owner, quota.c.limit_value - quota.c.used_value)


def take(conn: Connection, owner: str, n: int) -> bool:
    """Take `n` of the owner's quota; False, and nothing taken, where so much is not free.

    One guarded statement: a second writer waits for the row and sees the first one's sum.
    """
    return conn.execute(TAKE, {"of": owner, "n": n}).rowcount == 1


def give_back(conn: Connection, owner: str, n: int) -> bool:
    """Return `n`; False where so much was never taken."""
    return conn.execute(GIVE_BACK, {"of": owner, "n": n}).rowcount == 1


def free(conn: Connection) -> dict[str, int]:
    """What is left, by owner."""
    return dict(tuple(row) for row in conn.execute(FREE))


def room(conn: Connection, owners: Iterable[str]) -> dict[str, int]:
    """What is left by owner, locked until the transaction ends; below zero where a limit was lowered.

    Owners without a row have no limit and are left out. Quotas are the last rows a transaction locks.
    """
    names = {"names": sorted(set(owners))}
    lock_rows(conn, quota, [row.id for row in conn.execute(OWNED, names)])
    return dict(tuple(row) for row in conn.execute(ROOM, names))
