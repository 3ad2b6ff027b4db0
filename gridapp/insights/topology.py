"""What the topology looks like: sites with their storage and endpoints, links and what they have shown."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, func, select

from catalogs import sites as topology
from catalogs.tables import holding, se
from datamgmt.links import linkstates
from datamgmt.links.health import LinkPolicy
from gridapp.insights.values import record
from gridcore.db import dbnow
from gridcore.errors import NotFound
from prodsys.queue import endpoints

#: The stored windows are within the installation's bound already.
_AS_STORED = LinkPolicy(window_max=10**6)

SE_NAMES = select(se.c.id, se.c.name)
#: COMPLETE replicas by the counters of datasets: there are far fewer of them.
HELD_AT = select(
    holding.c.se_id, func.sum(holding.c.blocks).label("n"), func.sum(holding.c.bytes).label("n_bytes")
).group_by(holding.c.se_id)


def se_names(conn: Connection) -> dict[int, str]:
    """{id: name} of all storage elements."""
    return {row.id: row.name for row in conn.execute(SE_NAMES)}


def links(conn: Connection) -> list[dict[str, Any]]:
    """All links by their ends with what they have shown; the rate is of one stream."""
    return [_link(one) for one in linkstates.overview(conn, dbnow(conn), _AS_STORED)]


def link(conn: Connection, src: str, dst: str) -> dict[str, Any]:
    """The link between two storage elements. Raises NotFound."""
    for one in linkstates.overview(conn, dbnow(conn), _AS_STORED):
        if (one.src, one.dst) == (src, dst):
            more = record(one, "distance", "tool", "local", "window_max", "rate_cap")
            return {**_link(one), **more}
    raise NotFound(f"there is no link {src} -> {dst}", hint="see: tierflow link list")


def _link(one: linkstates.LinkOverview) -> dict[str, Any]:
    return {
        **record(one, "id", "src", "dst", "window", "queued", "queued_bytes", "active"),
        **record(one, "files_ok", "files_bad", "bytes_ok"),
        "state": one.phase.value if one.enabled else "DISABLED",
        "rate_mb_s": None if one.rate is None else round(one.rate / 1e6, 3),
        **record(one, "failures", "parked_until", "rationale", "last_error", "note"),
        **record(one, "forced", "forced_by", "forced_until"),
    }


def sites(conn: Connection) -> list[dict[str, Any]]:
    """All sites by name with their storage elements and endpoints."""
    held = {row.se_id: row for row in conn.execute(HELD_AT)}
    stores: dict[int, list[dict[str, Any]]] = {}
    for one in topology.storage_elements(conn):
        inside = held.get(one.id)
        amounts = {"blocks": int(inside.n) if inside else 0, "bytes": int(inside.n_bytes) if inside else 0}
        stores.setdefault(one.site_id, []).append({**record(one, "name", "kind", "state"), **amounts})
    works: dict[str, list[dict[str, Any]]] = {}
    for each in endpoints.occupancy(conn):
        works.setdefault(each.site, []).append(
            record(each, "name", "kind", "state", "slots", "open", "owner")
        )
    return [
        {
            **record(site, "name", "tier", "state", "note"),
            "storage": stores.get(site.id, []),
            "endpoints": works.get(site.name, []),
        }
        for site in topology.sites(conn)
    ]
