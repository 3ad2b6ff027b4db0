"""Data found and placed: datasets by a query, where a name's data are, and what one site alone has."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection

from catalogs import location, search
from catalogs.finding import DATASETS, plan
from gridapp import naming
from gridapp.insights.values import LIMIT, not_found, record
from gridcore.errors import UsageError
from gridcore.ids import check_dataset
from gridcore.selector_parser import parse

AMOUNTS = ("blocks", "files", "bytes")


def find(conn: Connection, query: str, after: str = "", limit: int = LIMIT) -> dict[str, Any]:
    """Datasets that the query means, by name, of those after a name.

    `after` of the answer is the last name where there are more; `left_out` counts those that are not VALID,
    where the query does not name the access. Raises UsageError for a query that means nothing.
    """
    asked = plan(parse(query, DATASETS))
    found = search.find(conn, asked, after, limit + 1)
    names = ("id", "name", "state", "files", "bytes", "events", "created_at")
    return {
        "datasets": [record(one, *names) for one in found[:limit]],
        "after": found[limit - 1].name if len(found) > limit else None,
        "left_out": search.left_out(conn, asked),
    }


def where(conn: Connection, name: str) -> dict[str, Any]:
    """Where a dataset is, or a file by its LFN. Raises NotFound."""
    return _where_dataset(conn, name) if _is_dataset(name) else _where_file(conn, name)


def _is_dataset(name: str) -> bool:
    try:
        return bool(check_dataset(name))
    except UsageError:
        return not name.startswith("/store/")


def _where_dataset(conn: Connection, name: str) -> dict[str, Any]:
    found = naming.dataset(conn, name)
    places = location.where(conn, found.id)
    return {
        **record(found, "name", "state", "files", "bytes"),
        "at": [record(one, "se", "site", "blocks", "closed", "files", "bytes", "excepted") for one in places],
    }


def _where_file(conn: Connection, lfn: str) -> dict[str, Any]:
    found = location.where_file(conn, lfn)
    copies = [record(one, "se", "site", "state", "custodial", "transit", "fault") for one in found.copies]
    return {"name": lfn, **record(found, "bytes", "block", "invalid"), "at": copies}


def unique(conn: Connection, name: str) -> list[dict[str, Any]]:
    """By dataset, what is good at a site, or one storage element, and nowhere else. Raises NotFound."""
    found = location.unique_at(conn, _ses(conn, name))
    return [record(one, "dataset", *AMOUNTS) for one in found]


def lose(conn: Connection, name: str) -> dict[str, Any]:
    """What is lost if a site dies, or one storage element, and what is elsewhere too. Raises NotFound."""
    ses = _ses(conn, name)
    found = location.unique_at(conn, ses)
    held = location.held_at(conn, ses)
    return {
        "name": name,
        "storage": sorted(ses.values()),
        "datasets": len(found),
        **{key: sum(getattr(one, key) for one in found) for key in AMOUNTS},
        "held": record(held, *AMOUNTS),
        "lost": [record(one, "dataset", *AMOUNTS) for one in found],
    }


def _ses(conn: Connection, name: str) -> dict[int, str]:
    """{id: name} of a site's storage elements, or of the one of that name."""
    rows = conn.execute(search.SES).all()
    found = {row.id: row.se for row in rows if name in (row.site, row.se)}
    if not found:
        known = {one for row in rows for one in (row.site, row.se)}
        raise not_found("site with storage, nor storage element,", name, sorted(known), "tierflow site list")
    return found
