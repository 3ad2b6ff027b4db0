"""Sites, storage elements and links: the topology as the database holds it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, Protocol, TypeVar

from sqlalchemy import (
    Column,
    Connection,
    Select,
    Table,
    Text,
    Update,
    bindparam,
    delete,
    func,
    select,
    type_coerce,
    update,
)

from catalogs.states import Switch
from catalogs.tables import link, se, site
from catalogs.tfc.catalog import TrivialCatalog
from catalogs.tfc.rules import dialect_of
from gridcore.db import lock_rows
from gridcore.db.statements import insert_new
from gridcore.db.types import metadata
from gridcore.errors import Conflict, NotFound
from gridcore.ids import PFN, check_label, check_site


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A computing centre."""

    id: int
    name: str
    tier: int
    state: Switch = Switch.ENABLED
    note: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageElement:
    """Where replicas live: `kind` is disk or tape, `tfc` its rules as JSON, `root` a directory or None.

    `space_bytes` is what it may hold and `delete_rate` the files deleted there in an hour at most, None for
    no limit; `dialect` is how its rules are read, None for the first one.
    """

    id: int
    name: str
    site_id: int
    kind: str
    protocol: str
    tfc: str
    root: str | None = None
    state: Switch = Switch.ENABLED
    space_bytes: int | None = None
    delete_rate: int | None = None
    dialect: str | None = None

    @property
    def catalog(self) -> TrivialCatalog:
        """Its trivial file catalog. Raises UsageError for faulty rules."""
        return _catalog(self.name, self.tfc, self.dialect)


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """The way from one SE to another; `distance` weighs it until its rate is known.

    `window_max` files in flight and `rate_cap` bytes per second at most, None for what the rules find; one
    that is `local` costs next to nothing.
    """

    id: int
    src_se_id: int
    dst_se_id: int
    distance: float
    tool: str
    state: Switch = Switch.ENABLED
    note: str | None = None
    window_max: int | None = None
    rate_cap: float | None = None
    local: bool = False


class _Named(Protocol):
    @property
    def name(self) -> str: ...


N = TypeVar("N", bound=_Named)


def _change(table: Table, names: Iterable[str]) -> Update:
    values: dict[str, Any] = {name: bindparam(f"new_{name}") for name in names}
    return update(table).where(table.c.id == bindparam("row_id")).values(**values)


_SE_COLUMNS = [type_coerce(one, Text).label("tfc") if one.name == "tfc" else one for one in se.c]
SITES = select(site).order_by(site.c.name)
SITE_NAMED = select(site).where(site.c.name == bindparam("name"))
CHANGE_SITE = _change(site, ["tier", "state", "note"])
STORAGE_ELEMENTS = select(*_SE_COLUMNS).order_by(se.c.name)
SE_NAMED = select(*_SE_COLUMNS).where(se.c.name == bindparam("name"))
CHANGE_SE = _change(
    se, ["site_id", "kind", "protocol", "tfc", "root", "state", "space_bytes", "delete_rate", "dialect"]
)
LINKS = select(link).order_by(link.c.src_se_id, link.c.dst_se_id)
LINK_BETWEEN = select(link).where(link.c.src_se_id == bindparam("src"), link.c.dst_se_id == bindparam("dst"))
CHANGE_LINK = _change(link, ["distance", "tool", "state", "note", "window_max", "rate_cap", "local"])
SET_LINK_STATE = _change(link, ["state", "note"])
REMOVE_SITE = delete(site).where(site.c.id == bindparam("row_id"))
REMOVE_SE = delete(se).where(se.c.id == bindparam("row_id"))
REMOVE_LINK = delete(link).where(link.c.id == bindparam("row_id"))


# --- reading -----------------------------------------------------------------------------------------


def sites(conn: Connection) -> list[Site]:
    """All sites by name."""
    return [Site(**row._mapping) for row in conn.execute(SITES)]


def storage_elements(conn: Connection) -> list[StorageElement]:
    """All storage elements by name."""
    return [StorageElement(**row._mapping) for row in conn.execute(STORAGE_ELEMENTS)]


def links(conn: Connection) -> list[Link]:
    """All links by their SEs."""
    return [Link(**{**row._mapping, "local": bool(row.local)}) for row in conn.execute(LINKS)]


def by_name(rows: Iterable[N]) -> dict[str, N]:
    """{name: row}."""
    return {row.name: row for row in rows}


def pfn_of(element: StorageElement, lfn: str, *, custodial: bool = False) -> tuple[PFN, str]:
    """(PFN, protocol) of a file at the SE. Raises NotFound where its rules give none."""
    return element.catalog.pfn(lfn, element.protocol, custodial=custodial).pfn, element.protocol


def tfc_text(rules: Mapping[str, object]) -> str:
    """`TrivialCatalog.to_dict()` as a StorageElement holds it: JSON, keys sorted."""
    return json.dumps(rules, sort_keys=True, separators=(",", ":"))


@lru_cache(maxsize=1024)
def _catalog(name: str, tfc: str, dialect: str | None) -> TrivialCatalog:
    read = dialect_of(dialect, name)
    return TrivialCatalog.from_dict(json.loads(tfc), source=name, dialect=read)


# --- changing ----------------------------------------------------------------------------------------


def put_site(conn: Connection, new: Site) -> bool:
    """Insert the site, or change the one of that name, whose id stays; whether anything changed."""
    check_site(new.name)
    values = {"tier": new.tier, "state": new.state, "note": new.note or None}
    row = {"id": new.id, "name": new.name, **values}
    return _put(conn, site, (SITE_NAMED, {"name": new.name}), CHANGE_SITE, row, values)


def put_se(conn: Connection, new: StorageElement) -> bool:
    """Insert the SE, or change the one of that name, whose id stays; whether anything changed.

    Raises UsageError for a faulty name or faulty rules.
    """
    check_label(new.name, "name of a storage element")
    values = {
        "site_id": new.site_id,
        "kind": new.kind,
        "protocol": new.protocol,
        "tfc": tfc_text(new.catalog.to_dict()),
        "root": new.root or None,
        "state": new.state,
        "space_bytes": new.space_bytes,
        "delete_rate": new.delete_rate,
        "dialect": new.dialect or None,
    }
    row = {"id": new.id, "name": new.name, **values}
    return _put(conn, se, (SE_NAMED, {"name": new.name}), CHANGE_SE, row, values)


def put_link(conn: Connection, new: Link) -> bool:
    """Insert the link, or change the one between these SEs, whose id stays; whether anything changed."""
    ends = {"src_se_id": new.src_se_id, "dst_se_id": new.dst_se_id}
    values = {
        "distance": new.distance,
        "tool": new.tool,
        "state": new.state,
        "note": new.note or None,
        "window_max": new.window_max,
        "rate_cap": new.rate_cap,
        "local": int(new.local),
    }
    between = (LINK_BETWEEN, {"src": new.src_se_id, "dst": new.dst_se_id})
    return _put(conn, link, between, CHANGE_LINK, {"id": new.id, **ends, **values}, values)


def _put(
    conn: Connection,
    table: Table,
    lookup: tuple[Select[Any], dict[str, Any]],
    change: Update,
    row: dict[str, Any],
    values: dict[str, Any],
) -> bool:
    old = conn.execute(*lookup).one_or_none()
    if old is None and insert_new(conn, table, _stored(row)):
        return True
    old = old or conn.execute(*lookup).one()
    if {name: old._mapping[name] for name in values} == values:
        return False
    binds = {f"new_{name}": value for name, value in _stored(values).items()}
    conn.execute(change, {"row_id": old.id, **binds})
    return True


def _stored(values: dict[str, Any]) -> dict[str, Any]:
    """The values as the columns take them: rules as a document, not its text."""
    return {**values, "tfc": json.loads(values["tfc"])} if "tfc" in values else values


def set_link_state(conn: Connection, link_id: int, state: Switch, note: str | None) -> bool:
    """Let a link be used or not, and say why. False if there is no such link."""
    binds = {"row_id": link_id, "new_state": state, "new_note": note or None}
    return conn.execute(SET_LINK_STATE, binds).rowcount == 1


def remove_site(conn: Connection, site_id: int) -> None:
    """Remove a site nothing refers to. Raises NotFound, Conflict naming who does."""
    _remove(conn, site, site_id, REMOVE_SITE)


def remove_se(conn: Connection, se_id: int) -> None:
    """Remove a storage element nothing refers to. Raises NotFound, Conflict naming who does."""
    _remove(conn, se, se_id, REMOVE_SE)


def remove_link(conn: Connection, link_id: int) -> None:
    """Remove a link nothing refers to. Raises NotFound, Conflict naming who does."""
    _remove(conn, link, link_id, REMOVE_LINK)


def _remove(conn: Connection, table: Table, row_id: int, statement: Any) -> None:
    lock_rows(conn, table, [row_id])
    users = _users(conn, table, row_id)
    if users:
        told = ", ".join(f"{n} {name}" for name, n in sorted(users.items()))
        raise Conflict(f"{table.name} {row_id} is in use by {told}", hint="remove those first, or disable it")
    if not conn.execute(statement, {"row_id": row_id}).rowcount:
        raise NotFound(f"there is no {table.name} with id {row_id}")


def _users(conn: Connection, table: Table, row_id: int) -> dict[str, int]:
    """{table: rows} that refer to the row, in this layer and above."""
    counts: dict[str, int] = {}
    for column in _referring(table):
        n = conn.execute(_count(column), {"row_id": row_id}).scalar_one()
        if n:
            counts[column.table.name] = counts.get(column.table.name, 0) + n
    return counts


def _referring(table: Table) -> list[Column[Any]]:
    keys = (key for one in metadata.sorted_tables for key in one.foreign_keys)
    return [key.parent for key in keys if key.column is table.c.id]


@cache
def _count(column: Column[Any]) -> Select[Any]:
    return select(func.count()).select_from(column.table).where(column == bindparam("row_id"))
