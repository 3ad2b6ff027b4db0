"""Quotas: limits of space for a group at a site and for copies passing through a storage element."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, delete, select, update

from agents.runtime.agent import Context
from catalogs import sites
from datamgmt.wanted import charging, transit
from gridapp.insights.values import not_found
from gridcore import accounts, audit, identity
from gridcore.db import quotas as counted
from gridcore.db.statements import insert_new
from gridcore.identity import Action, Principal, Subject
from gridcore.tables import quota
from prodsys.tables import share_node

#: What owners of quotas begin with: `transit:<SE>`, `space:<site>:<group>`.
TRANSIT, SPACE = transit.OWNER, charging.SPACE_QUOTA

OWNED = select(quota).where(quota.c.owner.startswith(bindparam("prefix"))).order_by(quota.c.owner)
SET_LIMIT = (
    update(quota).where(quota.c.owner == bindparam("of_owner")).values(limit_value=bindparam("new_limit"))
)
SHARES = select(share_node.c.path)
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
    new = insert_new(conn, quota, {"id": key, "owner": owner, "limit_value": limit, "used_value": 0})
    conn.execute(SET_LIMIT, {"of_owner": owner, "new_limit": limit})
    if new and owner.startswith(SPACE):
        charging.mend(conn)  # what the group has there already


def remove(conn: Connection, owner: str) -> bool:
    """Let the owner use what it likes; False where nothing limited it."""
    return conn.execute(REMOVE, {"of_owner": owner}).rowcount == 1


# --- by hand -----------------------------------------------------------------------------------------


def set_quota(
    context: Context, at: str, group: str, limit: int | None, actor: Principal, *, dry_run: bool = False
) -> dict[str, Any]:
    """Limit what a group keeps at a site in bytes, None for no limit any more, audited.

    {"site", "group", "was", "limit", "used", "changed"}; with `dry_run` nothing is written. Raises NotFound,
    Denied.
    """
    identity.require(actor, Action.SITE_CONFIGURE, Subject(site=at, group=group))
    with context.database.snapshot() as conn:
        known = {one.name: one.id for one in sites.sites(conn)}
        known_groups = groups(conn)
        was = new = _space_of(conn, at, group)
    if at not in known:
        raise not_found("site", at, known, "tierflow site list")
    if group not in known_groups and was is None:
        raise not_found("group", group, known_groups, "tierflow share show")
    if not dry_run:
        key, now = context.keys.one("quota"), context.clock.now()

        def unit(conn: Connection) -> tuple[Quota | None, Quota | None]:
            counted.lock(conn, [charging.owner(at, group)])
            old = _space_of(conn, at, group)
            _limit(conn, key, at, group, limit)
            detail = {"was": None if old is None else old.limit, "limit": limit}
            audit.record(conn, actor.name, "site quota set", f"{at} {group}", now, detail)
            return old, _space_of(conn, at, group)

        was, new = context.database.transaction(unit)
    before = None if was is None else was.limit
    last = new or was
    told = {"site": at, "group": group, "was": before, "limit": limit}
    return {**told, "used": 0 if last is None else last.used, "changed": before != limit}


def groups(conn: Connection) -> set[str]:
    """Whom data can belong to: groups of accounts and shares, and accounts without any."""
    known = [one.principal for one in accounts.accounts(conn)]
    paths = conn.execute(SHARES).scalars()
    return {
        *(path.rpartition("/")[2] for path in paths),
        *(group for one in known for group in one.groups),
        *(one.name for one in known),
    }


def _space_of(conn: Connection, at: str, group: str) -> Quota | None:
    return next((one for one in of_space(conn) if (one.site, one.group) == (at, group)), None)


def _limit(conn: Connection, key: int, at: str, group: str, limit: int | None) -> None:
    owner = charging.owner(at, group)
    if limit is None:
        remove(conn, owner)
    else:
        put(conn, key, owner, limit)
