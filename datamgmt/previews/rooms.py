"""Rooms: quotas of groups and space of storage elements, as they are and as a change would leave them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, select

from catalogs import space
from catalogs.tables import se, site
from datamgmt.previews.projection import Caution
from datamgmt.reasons import Reason
from datamgmt.wanted import charging
from gridcore.db.idlists import names_within
from gridcore.tables import quota

#: (SE, group), or (SE, None) for all that lies there.
Account = tuple[int, str | None]

SITES_OF = select(se.c.id, site.c.name).join_from(se, site, site.c.id == se.c.site_id)
QUOTAS = select(quota.c.owner, quota.c.limit_value, quota.c.used_value).where(names_within(quota.c.owner))


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """Bytes used of a limit before and after: of the quota of `group` at a storage element's site, or, with
    no group, of the space of the storage element itself."""

    se_id: int
    site: str
    group: str | None
    limit: int
    before: int
    after: int


def changed(conn: Connection, changes: Mapping[Account, int]) -> tuple[Room, ...]:
    """What a change by so many bytes would leave, of those accounts that have a limit."""
    names = {row.id: row.name for row in conn.execute(SITES_OF)}
    owners = {charging.owner(names[se_id], group) for se_id, group in changes if group}
    limits = {row.owner: row for row in conn.execute(QUOTAS, {"names": sorted(owners)})}
    spaces = space.read(conn)
    found = []
    for (se_id, group), n in sorted(changes.items(), key=lambda one: (one[0][0], one[0][1] or "")):
        if group is None:
            limit, free = spaces[se_id].limit, spaces[se_id].free
            used = None if limit is None or free is None else limit - free
        else:
            row = limits.get(charging.owner(names[se_id], group))
            limit, used = (row.limit_value, row.used_value) if row else (None, None)
        if limit is not None and used is not None:
            room = Room(se_id=se_id, site=names[se_id], group=group, limit=limit, before=used, after=used + n)
            found.append(room)
    return tuple(found)


def too_full(rooms: Iterable[Room]) -> list[Caution]:
    """Of those that would grow, the ones that would not suffice."""
    return [_too_full(one) for one in rooms if one.after > max(one.limit, one.before)]


def _too_full(one: Room) -> Caution:
    size = one.after - one.before
    params: dict[str, object] = {"site": one.site, "free": max(one.limit - one.before, 0), "size": size}
    if one.group is not None:
        return Caution(Reason.QUOTA_FULL, {**params, "group": one.group, "limit": one.limit}, 0, size)
    return Caution(Reason.SE_FULL, {**params, "se": one.se_id, "space": one.limit}, 0, size)
