"""The topology in the database, the truth: files are its input by `apply` and its output by `export`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, bindparam, delete, func, select, update
from sqlalchemy.exc import IntegrityError

from catalogs import sites
from catalogs.sites import Link, Site, StorageElement
from catalogs.states import Switch
from datamgmt.tables import link_bin, link_state
from gridapp.topology import (
    AccountItem,
    EndpointItem,
    Item,
    LinkItem,
    RetryItem,
    ShareItem,
    SiteItem,
    StorageItem,
    Topology,
)
from gridapp.topology_diff import Change, difference, settled, summary
from gridapp.topology_writer import write_topology
from gridcore import accounts
from gridcore.db import Database, insert_rows, lock_rows
from gridcore.db.keys import Keys
from gridcore.errors import Conflict
from gridcore.ids import tier_of
from gridcore.tables import audit_log, quota, revision
from prodsys import endpoints, retry_rules, shares
from prodsys.endpoints import Endpoint
from prodsys.jobs.store import QUEUE
from prodsys.retries import ErrorClass
from prodsys.tables import class_site, job_class, queue, share_node, task

__all__ = ["Change", "apply", "export", "plan", "stored", "summary"]

T = TypeVar("T", bound=Item)
TRANSIT = "transit:"
#: The tables whose keys each kind of item takes.
KEY_TABLES: Mapping[str, tuple[str, ...]] = {
    "site": ("site",),
    "se": ("se", "quota"),
    "link": ("link",),
    "endpoint": ("endpoint", "lease"),
    "share": ("share_node",),
    "account": ("account",),
    "retry": (),
}

TRANSIT_LIMITS = select(quota.c.owner, quota.c.limit_value).where(quota.c.owner.startswith(TRANSIT))
SET_LIMIT = (
    update(quota).where(quota.c.owner == bindparam("of_owner")).values(limit_value=bindparam("new_limit"))
)
REMOVE_QUOTA = delete(quota).where(quota.c.owner == bindparam("of_owner"))
GROUPS = select(share_node.c.id, share_node.c.path, share_node.c.target).where(
    share_node.c.parent_id.is_(None)
)
USERS_BELOW = (
    select(func.count()).select_from(share_node).where(share_node.c.parent_id == bindparam("node_id"))
)
TASKS_BELOW = select(func.count()).select_from(task).where(task.c.leaf_id == bindparam("node_id"))
CLASSES_BELOW = select(func.count()).select_from(job_class).where(job_class.c.leaf_id == bindparam("node_id"))
REMOVE_SHARE = delete(share_node).where(share_node.c.id == bindparam("node_id"))
# What was derived of a site or measured of a link goes with it.
REMOVE_VERDICTS = delete(class_site).where(class_site.c.site_id == bindparam("row_id"))
REMOVE_LINK_STATE = delete(link_state).where(link_state.c.link_id == bindparam("row_id"))
REMOVE_LINK_BINS = delete(link_bin).where(link_bin.c.link_id == bindparam("row_id"))


# --- reading -----------------------------------------------------------------------------------------


def stored(conn: Connection) -> Topology:
    """The topology as the database holds it."""
    found = sites.sites(conn)
    elements = sites.storage_elements(conn)
    site_names = {one.id: one.name for one in found}
    se_names = {one.id: one.name for one in elements}
    limits = {row.owner: row.limit_value for row in conn.execute(TRANSIT_LIMITS)}
    return Topology(
        site=_named(SiteItem(name=one.name, state=one.state, note=one.note) for one in found),
        se=_named(
            _storage_item(one, site_names[one.site_id], limits.get(TRANSIT + one.name, 0)) for one in elements
        ),
        link=_named(
            _link_item(one, se_names[one.src_se_id], se_names[one.dst_se_id]) for one in sites.links(conn)
        ),
        endpoint=_named(_endpoint_item(one, site_names[one.site_id]) for one in endpoints.endpoints(conn)),
        share=_named(ShareItem(name=row.path, target=row.target) for row in conn.execute(GROUPS)),
        account=_named(AccountItem.of(one) for one in accounts.accounts(conn)),
        retry=_named(RetryItem(rule=rule) for rule in retry_rules.overrides(conn).values()),
    )


def _named(items: Iterable[T]) -> dict[str, T]:
    return {item.name: item for item in items}


def _storage_item(one: StorageElement, site: str, transit_bytes: int) -> StorageItem:
    return StorageItem(
        name=one.name,
        site=site,
        kind=one.kind,
        protocol=one.protocol,
        tfc=one.tfc,
        root=one.root,
        transit_bytes=transit_bytes,
        state=one.state,
    )


def _link_item(one: Link, src: str, dst: str) -> LinkItem:
    return LinkItem(src=src, dst=dst, distance=one.distance, tool=one.tool, state=one.state, note=one.note)


def _endpoint_item(one: Endpoint, site: str) -> EndpointItem:
    return EndpointItem(
        name=one.name,
        site=site,
        kind=one.kind,
        slots=one.slots,
        offer=one.offer,
        config=one.config,
        state=one.state,
    )


def export(conn: Connection, directory: Path) -> list[Path]:
    """Write the stored topology as a directory that `apply` reads; the paths. Raises UsageError."""
    return write_topology(stored(conn), directory)


def plan(conn: Connection, topology: Topology, prune: bool) -> list[Change]:
    """What `apply` would do now, in its order; with `prune`, what the files do not name is removed."""
    old = stored(conn)
    return difference(old, settled(topology, old), prune)


# --- applying ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Unit:
    """The transaction of one apply: fresh keys by table."""

    conn: Connection
    keys: Mapping[str, Iterator[int]]
    now: datetime

    def key(self, table: str) -> int:
        return next(self.keys[table])

    def site_ids(self) -> dict[str, int]:
        return {one.name: one.id for one in sites.sites(self.conn)}

    def se_ids(self) -> dict[str, int]:
        return {one.name: one.id for one in sites.storage_elements(self.conn)}


def apply(
    database: Database, keys: Keys, topology: Topology, actor: str, prune: bool, now: datetime
) -> list[Change]:
    """Make the database say what the topology says, all of it or nothing; what was changed.

    Each change is audited, and the input's digest is recorded as a revision. Raises Conflict where something
    to be removed is in use, or somebody else applied at the same moment.
    """
    with database.snapshot() as conn:
        if not plan(conn, topology, prune):
            return []
    ranges = {
        table: keys.take(table, len(items))
        for kind, items in topology.kinds().items()
        for table in KEY_TABLES[kind]
    }

    def write(conn: Connection) -> list[Change]:
        # Claims wait, so that none sees half of it; two who apply take turns.
        lock_rows(conn, queue, [QUEUE])
        unit = _Unit(conn, {table: iter(taken) for table, taken in ranges.items()}, now)
        old = stored(conn)
        new = settled(topology, old)
        changes = difference(old, new, prune)
        _carry_out(unit, new, changes)
        _record(conn, topology, changes, actor, now)
        return changes

    try:
        return database.transaction(write)
    except IntegrityError:
        raise Conflict(
            "the topology changed while it was applied; nothing was written", hint="apply it again"
        ) from None


def _carry_out(unit: _Unit, new: Topology, changes: Sequence[Change]) -> None:
    for kind, items in new.kinds().items():
        todo = [items[one.name] for one in changes if one.kind == kind and one.action != "remove"]
        if todo:
            PUT[kind](unit, todo)
    for one in changes:
        if one.action == "remove":
            try:
                REMOVE[one.kind](unit, one.name)
            except Conflict as error:
                raise Conflict(
                    f"{one.kind} {one.name} cannot be removed: {error.message}", hint=error.hint
                ) from None


def _record(
    conn: Connection, topology: Topology, changes: Sequence[Change], actor: str, now: datetime
) -> None:
    rows = [
        {
            "at": now,
            "actor": actor,
            "verb": f"apply: {one.action}",
            "subject": f"{one.kind} {one.name}",
            "detail": {"change": one.detail},
        }
        for one in changes
    ]
    insert_rows(conn, audit_log, rows)
    row = {"at": now, "actor": actor, "digest": topology.digest(), "summary": summary(changes)}
    if changes:
        insert_rows(conn, revision, [row])


def _state(item: SiteItem | StorageItem | LinkItem | EndpointItem) -> Switch:
    return item.state or Switch.ENABLED


def _put_sites(unit: _Unit, items: Sequence[SiteItem]) -> None:
    for item in items:
        new = Site(
            id=unit.key("site"), name=item.name, tier=tier_of(item.name), state=_state(item), note=item.note
        )
        sites.put_site(unit.conn, new)


def _put_ses(unit: _Unit, items: Sequence[StorageItem]) -> None:
    at = unit.site_ids()
    for item in items:
        new = StorageElement(
            id=unit.key("se"),
            name=item.name,
            site_id=at[item.site],
            kind=item.kind,
            protocol=item.protocol,
            tfc=item.tfc,
            root=item.root,
            state=_state(item),
        )
        sites.put_se(unit.conn, new)
        _put_transit(unit, TRANSIT + item.name, item.transit_bytes)


def _put_transit(unit: _Unit, owner: str, limit: int) -> None:
    if not unit.conn.execute(SET_LIMIT, {"of_owner": owner, "new_limit": limit}).rowcount:
        row = {"id": unit.key("quota"), "owner": owner, "limit_value": limit, "used_value": 0}
        insert_rows(unit.conn, quota, [row])


def _put_links(unit: _Unit, items: Sequence[LinkItem]) -> None:
    at = unit.se_ids()
    for item in items:
        new = Link(
            id=unit.key("link"),
            src_se_id=at[item.src],
            dst_se_id=at[item.dst],
            distance=item.distance,
            tool=item.tool,
            note=item.note,
            state=_state(item),
        )
        sites.put_link(unit.conn, new)


def _put_endpoints(unit: _Unit, items: Sequence[EndpointItem]) -> None:
    at = unit.site_ids()
    for item in items:
        new = Endpoint(
            id=unit.key("endpoint"),
            name=item.name,
            site_id=at[item.site],
            lease_id=unit.key("lease"),
            kind=item.kind,
            slots=item.slots,
            offer=item.offer,
            config=item.config,
            state=_state(item),
        )
        endpoints.put(unit.conn, new)


def _put_shares(unit: _Unit, items: Sequence[ShareItem]) -> None:
    for item in items:
        shares.put(unit.conn, unit.key("share_node"), item.name, None, item.target, unit.now)


def _put_accounts(unit: _Unit, items: Sequence[AccountItem]) -> None:
    for item in items:
        accounts.put(unit.conn, unit.key("account"), item.account())


def _put_retries(unit: _Unit, items: Sequence[RetryItem]) -> None:
    for item in items:
        retry_rules.put(unit.conn, item.rule)


def _remove_site(unit: _Unit, name: str) -> None:
    row_id = unit.site_ids()[name]
    unit.conn.execute(REMOVE_VERDICTS, {"row_id": row_id})
    sites.remove_site(unit.conn, row_id)


def _remove_se(unit: _Unit, name: str) -> None:
    sites.remove_se(unit.conn, unit.se_ids()[name])
    unit.conn.execute(REMOVE_QUOTA, {"of_owner": TRANSIT + name})


def _remove_link(unit: _Unit, name: str) -> None:
    ends = {row_id: se for se, row_id in unit.se_ids().items()}
    links = {f"{ends[one.src_se_id]} -> {ends[one.dst_se_id]}": one.id for one in sites.links(unit.conn)}
    unit.conn.execute(REMOVE_LINK_STATE, {"row_id": links[name]})
    unit.conn.execute(REMOVE_LINK_BINS, {"row_id": links[name]})
    sites.remove_link(unit.conn, links[name])


def _remove_share(unit: _Unit, name: str) -> None:
    (node_id,) = (row.id for row in unit.conn.execute(GROUPS) if row.path == name)
    lock_rows(unit.conn, share_node, [node_id])
    counts = {"users": USERS_BELOW, "tasks": TASKS_BELOW, "job classes": CLASSES_BELOW}
    used = {what: unit.conn.execute(one, {"node_id": node_id}).scalar_one() for what, one in counts.items()}
    if any(used.values()):
        told = ", ".join(f"{n} {what}" for what, n in used.items() if n)
        raise Conflict(f"{told} below it", hint="give it the target 0 instead")
    unit.conn.execute(REMOVE_SHARE, {"node_id": node_id})


def _remove_endpoint(unit: _Unit, name: str) -> None:
    endpoints.remove(unit.conn, name)


def _remove_account(unit: _Unit, name: str) -> None:
    accounts.remove(unit.conn, name)


def _remove_retry(unit: _Unit, name: str) -> None:
    retry_rules.remove(unit.conn, ErrorClass(name))


PUT: Mapping[str, Callable[[_Unit, Sequence[Any]], None]] = {
    "site": _put_sites,
    "se": _put_ses,
    "link": _put_links,
    "endpoint": _put_endpoints,
    "share": _put_shares,
    "account": _put_accounts,
    "retry": _put_retries,
}
REMOVE: Mapping[str, Callable[[_Unit, str], None]] = {
    "site": _remove_site,
    "se": _remove_se,
    "link": _remove_link,
    "endpoint": _remove_endpoint,
    "share": _remove_share,
    "account": _remove_account,
    "retry": _remove_retry,
}
