"""What people name: datasets, storage elements and their sites, found or refused with near names; and their
words."""

from __future__ import annotations

from sqlalchemy import Connection

from catalogs import bookkeeping, discovery, sites
from catalogs.bookkeeping import DatasetRow
from catalogs.metadata import check_text
from catalogs.sites import StorageElement
from gridapp.insights.values import not_found


def element(conn: Connection, name: str) -> StorageElement:
    """The storage element of a name. Raises NotFound with near names."""
    known = sites.by_name(sites.storage_elements(conn))
    if name not in known:
        raise not_found("storage element", name, known, "tierflow site list")
    return known[name]


def dataset(conn: Connection, name: str) -> DatasetRow:
    """The dataset of a name. Raises NotFound with near names."""
    found = bookkeeping.dataset_by_name(conn, name)
    if found is None:
        raise not_found("dataset", name, discovery.newest(conn), "tierflow dataset list")
    return found


def site_of(conn: Connection, element: StorageElement) -> str:
    """The name of its site."""
    return next(one.name for one in sites.sites(conn) if one.id == element.site_id)


def words(text: str | None, what: str, most: int) -> str | None:
    """What somebody adds in words, if it can be kept; None for nothing. Raises UsageError."""
    return check_text(text, what, most) if text else None
