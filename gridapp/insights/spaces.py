"""What lies where in bytes: each storage element's space, and what groups may keep at sites."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection

from catalogs import sites, space
from gridapp import quotas
from gridapp.insights import topology
from gridapp.insights.values import not_found, record


def spaces(conn: Connection, site: str | None = None) -> list[dict[str, Any]]:
    """Space by storage element, of all sites or of one, in the order of sites and names.

    `complete`, `arriving` and `leaving` bytes are whole blocks; `transit` is the part of the first two that
    only passes; `space_bytes`, `free` and `percent` used are None without a limit, `free` below zero where
    more is there than may be. `transit_bytes` is the limit of what passes. Raises NotFound.
    """
    homes = _homes(conn, site)
    rooms = space.read(conn)
    passing = {one.of: one.limit for one in quotas.of_transit(conn)}
    found = [one for one in sites.storage_elements(conn) if one.site_id in homes]
    found.sort(key=lambda one: (homes[one.site_id], one.name))
    return [
        {
            "se": one.name,
            "site": homes[one.site_id],
            **record(one, "kind", "state"),
            **_space(rooms[one.id]),
            "transit_bytes": passing.get(one.name, 0),
            "delete_rate": one.delete_rate,
        }
        for one in found
    ]


def _space(room: space.Space) -> dict[str, Any]:
    use = room.use
    used = use.complete + use.arriving + use.leaving
    return {
        "space_bytes": room.limit,
        "used": used,
        **{name: int(getattr(use, name)) for name in ("complete", "arriving", "leaving", "transit", "files")},
        "free": room.free,
        "percent": round(100 * used / room.limit, 1) if room.limit else None,
    }


def group_quotas(conn: Connection, site: str | None = None) -> list[dict[str, Any]]:
    """Quotas of space by site and group, of all sites or of one: limit, used, free and percent used.

    Raises NotFound.
    """
    named = set(_homes(conn, site).values())
    return [
        {
            **record(one, "site", "group", "limit", "used"),
            "free": one.limit - one.used,
            "percent": round(100 * one.used / one.limit, 1) if one.limit else None,
        }
        for one in quotas.of_space(conn)
        if one.site in named
    ]


def site(conn: Connection, name: str) -> dict[str, Any]:
    """One site with the space of its storage, its endpoints, and quotas of groups. Raises NotFound."""
    _homes(conn, name)
    (found,) = [one for one in topology.sites(conn) if one["name"] == name]
    rooms = {one.pop("se"): one for one in spaces(conn, name)}
    drop = ("site", "kind", "state")
    storage = [
        {**one, **{key: value for key, value in rooms[one["name"]].items() if key not in drop}}
        for one in found["storage"]
    ]
    return {**found, "storage": storage, "quotas": group_quotas(conn, name)}


def _homes(conn: Connection, name: str | None) -> dict[int, str]:
    """{id: name} of the sites, or of the one. Raises NotFound."""
    known = {one.id: one.name for one in sites.sites(conn)}
    found = {key: one for key, one in known.items() if name in (None, one)}
    if name is not None and not found:
        raise not_found("site", name, known.values(), "tierflow site list")
    return found
