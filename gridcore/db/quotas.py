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
ROOM = select(quota.c.owner, quota.c.limit_value - quota.c.used_value, quota.c.limit_value).where(
    names_within(quota.c.owner)
)


def take(conn: Connection, owner: str, n: int) -> bool:
    """Take `n` of the owner's quota; False, and nothing taken, where so much is not free.

    One guarded statement: a second writer waits for the row and sees the first one's sum.
    """
    return conn.execute(TAKE, {"of": owner, "n": n}).rowcount == 1


def give_back(conn: Connection, owner: str, n: int) -> bool:
    """Return `n`; False where so much was never taken."""
    return conn.execute(GIVE_BACK, {"of": owner, "n": n}).rowcount == 1


def lock(conn: Connection, owners: Iterable[str]) -> None:
    """Lock the owners' quotas until the transaction ends. They are the last rows it locks."""
    lock_rows(conn, quota, conn.execute(OWNED, {"names": sorted(set(owners))}).scalars())


def room(conn: Connection, owners: Iterable[str]) -> dict[str, tuple[int, int]]:
    """{owner: (what is left, the limit)}; the first is below zero where the limit was lowered. Owners without
    a row have no limit and are left out."""
    found = conn.execute(ROOM, {"names": sorted(set(owners))})
    return {owner: (int(left), int(limit)) for owner, left, limit in found}
