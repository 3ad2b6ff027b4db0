"""What is in a dataset: its files and their PFNs, page by page, its parents and children."""

from __future__ import annotations

from typing import Any, NamedTuple

from sqlalchemy import Connection

from catalogs import contents
from catalogs.contents import Place
from gridapp import naming
from gridapp.insights.values import LIMIT, record

START = Place()


class Page(NamedTuple):
    """PFNs, and the place the next page begins after; None at the end."""

    pfns: list[str]
    after: Place | None


def files(conn: Connection, name: str, after: str | None = None, limit: int = LIMIT) -> list[dict[str, Any]]:
    """Files of a dataset by block, of those after an LFN. Raises NotFound, UsageError."""
    found = naming.dataset(conn, name)
    begin = contents.place_of(conn, found.id, after) if after else START
    columns = ("id", "lfn", "block", "bytes", "events", "created_at", "invalid")
    return [
        {**record(one, *columns), "adler32": f"{one.adler32:08x}"}
        for one in contents.files(conn, found.id, begin, limit)
    ]


def pfns(conn: Connection, name: str, se: str, after: Place, limit: int) -> Page:
    """PFNs of a dataset's files that are good at a storage element, by block. Raises NotFound."""
    found, element = naming.dataset(conn, name), naming.element(conn, se)
    names, last = contents.names_at(conn, found.id, element.id, after, limit)
    return Page(element.catalog.pfns(names, element.protocol), last)


def family(conn: Connection, name: str, *, children: bool, generations: int = 1) -> list[dict[str, Any]]:
    """What a dataset was made from, or what was made from it, nearest first. Raises NotFound."""
    found = naming.dataset(conn, name)
    rows = contents.family(conn, found.id, children=children, generations=generations)
    shown = ("name", "state", "access", "files", "bytes", "events")
    return [{"generation": generation, **record(one, *shown)} for generation, one in rows]
