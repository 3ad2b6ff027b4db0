"""Changes of the topology: how each kind of item is put into the database and taken out of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, delete, func, select

from catalogs import sites
from catalogs.sites import Link, Site, StorageElement
from catalogs.states import Switch
from datamgmt.tables import group_weight, link_bin, link_state, link_use, transfer_error
from gridapp import quotas
from gridapp.topology.items import (
    AccountItem,
    AgentItem,
    EndpointItem,
    GroupWeightItem,
    LimitItem,
    LinkItem,
    PolicyItem,
    RetryItem,
    ShareItem,
    SiteItem,
    SiteSetItem,
    SpaceQuotaItem,
    StorageItem,
    group_of,
)
from gridapp.topology.rows import GROUPS
from gridcore import accounts
from gridcore.db import insert_rows, lock_rows
from gridcore.errors import Conflict
from gridcore.ids import tier_of
from prodsys.queue import endpoints, work_limits
from prodsys.queue.endpoints import Endpoint
from prodsys.queue.work_limits import WorkLimit
from prodsys.requests import assignments
from prodsys.requests.assignments import Agent, Policy, SiteSet
from prodsys.settling import retry_rules
from prodsys.settling.retries import ErrorClass
from prodsys.shares import shares
from prodsys.tables import (
    breaker,
    class_site,
    class_use,
    job_class,
    share_node,
    site_outcome,
    site_share,
    task,
)

#: The tables whose keys each kind of item takes.
KEY_TABLES: Mapping[str, tuple[str, ...]] = {
    "site": ("site",),
    "site_set": ("site_set",),
    "se": ("se", "quota"),
    "link": ("link",),
    "endpoint": ("endpoint", "lease"),
    "agent": ("prodagent",),
    "share": ("share_node",),
    "limit": ("work_limit",),
    "account": ("account",),
    "group_weight": (),
    "space_quota": ("quota",),
    "policy": ("policy",),
    "retry": (),
}

USERS_BELOW = (
    select(func.count()).select_from(share_node).where(share_node.c.parent_id == bindparam("node_id"))
)
TASKS_BELOW = select(func.count()).select_from(task).where(task.c.leaf_id == bindparam("node_id"))
CLASSES_BELOW = select(func.count()).select_from(job_class).where(job_class.c.leaf_id == bindparam("node_id"))
REMOVE_WEIGHTS = delete(site_share).where(site_share.c.node_id == bindparam("node_id"))
REMOVE_SHARE = delete(share_node).where(share_node.c.id == bindparam("node_id"))
# What was derived of a site or measured there or on a link goes with it; jobs that are there do not.
REMOVE_VERDICTS = delete(class_site).where(class_site.c.site_id == bindparam("row_id"))
REMOVE_USE = delete(class_use).where(class_use.c.site_id == bindparam("row_id"), class_use.c.jobs == 0)
REMOVE_OUTCOMES = delete(site_outcome).where(site_outcome.c.site_id == bindparam("row_id"))
REMOVE_BREAKERS = delete(breaker).where(breaker.c.site_id == bindparam("row_id"))
REMOVE_SITE_WEIGHTS = delete(site_share).where(site_share.c.site_id == bindparam("row_id"))
REMOVE_LINK_STATE = delete(link_state).where(link_state.c.link_id == bindparam("row_id"))
REMOVE_LINK_BINS = delete(link_bin).where(link_bin.c.link_id == bindparam("row_id"))
REMOVE_LINK_ERRORS = delete(transfer_error).where(transfer_error.c.link_id == bindparam("row_id"))
REMOVE_LINK_USE = delete(link_use).where(link_use.c.link_id == bindparam("row_id"))
MEASURED_ON_LINK = (REMOVE_LINK_STATE, REMOVE_LINK_BINS, REMOVE_LINK_ERRORS, REMOVE_LINK_USE)
REMOVE_GROUP_WEIGHT = delete(group_weight).where(group_weight.c.acct_group == bindparam("of_group"))
DERIVED_OF_SITE = (REMOVE_VERDICTS, REMOVE_USE, REMOVE_OUTCOMES, REMOVE_BREAKERS, REMOVE_SITE_WEIGHTS)


@dataclass(frozen=True, slots=True)
class Unit:
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

    def group_ids(self) -> dict[str, int]:
        return {row.path: row.id for row in self.conn.execute(GROUPS)}


# --- putting -----------------------------------------------------------------------------------------


def _state(item: SiteItem | StorageItem | LinkItem | EndpointItem) -> Switch:
    return item.state or Switch.ENABLED


def _put_sites(unit: Unit, items: Sequence[SiteItem]) -> None:
    for item in items:
        new = Site(
            id=unit.key("site"), name=item.name, tier=tier_of(item.name), state=_state(item), note=item.note
        )
        sites.put_site(unit.conn, new)


def _put_site_sets(unit: Unit, items: Sequence[SiteSetItem]) -> None:
    at = unit.site_ids()
    for item in items:
        members = frozenset(at[name] for name in item.sites)
        new = SiteSet(id=unit.key("site_set"), name=item.name, sites=members)
        assignments.put_site_set(unit.conn, new)


def _put_ses(unit: Unit, items: Sequence[StorageItem]) -> None:
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
            dialect=item.dialect,
            state=_state(item),
            space_bytes=item.space_bytes,
            delete_rate=item.delete_rate,
        )
        sites.put_se(unit.conn, new)
        quotas.put(unit.conn, unit.key("quota"), quotas.TRANSIT + item.name, item.transit_bytes)


def _put_links(unit: Unit, items: Sequence[LinkItem]) -> None:
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
            window_max=item.window_max,
            rate_cap=item.rate_cap,
            local=item.local,
        )
        sites.put_link(unit.conn, new)


def _put_endpoints(unit: Unit, items: Sequence[EndpointItem]) -> None:
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


def _put_agents(unit: Unit, items: Sequence[AgentItem]) -> None:
    ids = {one.name: one.id for one in endpoints.endpoints(unit.conn)}
    for item in items:
        served = frozenset(ids[name] for name in item.endpoints)
        assignments.put_agent(unit.conn, Agent(id=unit.key("prodagent"), name=item.name, endpoints=served))


def _put_shares(unit: Unit, items: Sequence[ShareItem]) -> None:
    # In the order of paths a parent comes before its children.
    for item in sorted(items, key=lambda one: one.name):
        shares.put(
            unit.conn,
            unit.key("share_node"),
            item.name,
            item.parent,
            item.target,
            unit.now,
            floor=item.floor,
            cap=item.cap,
            child_target=item.child_target,
            half_life_s=item.half_life_s,
        )
    _put_weights(unit, items)


def _put_weights(unit: Unit, items: Sequence[ShareItem]) -> None:
    """Give the groups these sites' own weights and no others."""
    at, ids = unit.site_ids(), unit.group_ids()
    for item in items:
        unit.conn.execute(REMOVE_WEIGHTS, {"node_id": ids[item.name]})
    weights = {(at[site], ids[item.name]): weight for item in items for site, weight in item.weights.items()}
    shares.set_weights(unit.conn, weights)


def _put_limits(unit: Unit, items: Sequence[LimitItem]) -> None:
    at = unit.site_ids()
    for item in items:
        new = WorkLimit(
            id=unit.key("work_limit"),
            name=item.name,
            site_id=None if item.site is None else at[item.site],
            share_path=item.share,
            task_type=item.type,
            max_jobs=item.max_jobs,
            max_cores=item.max_cores,
        )
        work_limits.put(unit.conn, new)


def _put_policies(unit: Unit, items: Sequence[PolicyItem]) -> None:
    for item in items:
        new = Policy(id=unit.key("policy"), name=item.name, rank=item.rank, rule=item.rule())
        assignments.put_policy(unit.conn, new)


def _put_accounts(unit: Unit, items: Sequence[AccountItem]) -> None:
    for item in items:
        accounts.put(unit.conn, unit.key("account"), item.account())


def _put_group_weights(unit: Unit, items: Sequence[GroupWeightItem]) -> None:
    for item in items:
        _remove_group_weight(unit, item.name)
    rows = [{"acct_group": item.group, "weight": item.weight} for item in items]
    insert_rows(unit.conn, group_weight, rows)


def _put_space_quotas(unit: Unit, items: Sequence[SpaceQuotaItem]) -> None:
    for item in items:
        quotas.put(unit.conn, unit.key("quota"), quotas.SPACE + item.name, item.bytes)


def _put_retries(unit: Unit, items: Sequence[RetryItem]) -> None:
    for item in items:
        retry_rules.put(unit.conn, item.rule)


# --- removing ----------------------------------------------------------------------------------------


def _remove_site(unit: Unit, name: str) -> None:
    row_id = unit.site_ids()[name]
    assignments.check_unnamed(unit.conn, "sites", name)
    _check_unlimited(work_limits.of_site(unit.conn, row_id))
    for derived in DERIVED_OF_SITE:
        unit.conn.execute(derived, {"row_id": row_id})
    sites.remove_site(unit.conn, row_id)


def _check_unlimited(limits: Sequence[str]) -> None:
    """Raises Conflict where there are any."""
    if limits:
        word = "limit" if len(limits) == 1 else "limits"
        raise Conflict(f"it is named by the {word} {', '.join(limits)}", hint="change or remove that first")


def _remove_site_set(unit: Unit, name: str) -> None:
    assignments.remove_site_set(unit.conn, name)


def _remove_se(unit: Unit, name: str) -> None:
    sites.remove_se(unit.conn, unit.se_ids()[name])
    quotas.remove(unit.conn, quotas.TRANSIT + name)


def _remove_link(unit: Unit, name: str) -> None:
    ends = {row_id: se for se, row_id in unit.se_ids().items()}
    links = {f"{ends[one.src_se_id]} -> {ends[one.dst_se_id]}": one.id for one in sites.links(unit.conn)}
    for measured in MEASURED_ON_LINK:
        unit.conn.execute(measured, {"row_id": links[name]})
    sites.remove_link(unit.conn, links[name])


def _remove_endpoint(unit: Unit, name: str) -> None:
    assignments.leave_endpoint(unit.conn, endpoints.by_name(unit.conn, name).id)
    endpoints.remove(unit.conn, name)


def _remove_agent(unit: Unit, name: str) -> None:
    assignments.remove_agent(unit.conn, name)


def _remove_share(unit: Unit, name: str) -> None:
    node_id = unit.group_ids()[name]
    lock_rows(unit.conn, share_node, [node_id])
    assignments.check_unnamed(unit.conn, "groups", group_of(name))
    _check_unlimited(work_limits.of_share(unit.conn, name))
    counts = {"users": USERS_BELOW, "tasks": TASKS_BELOW, "job classes": CLASSES_BELOW}
    used = {what: unit.conn.execute(one, {"node_id": node_id}).scalar_one() for what, one in counts.items()}
    if any(used.values()):
        told = ", ".join(f"{n} {what}" for what, n in used.items() if n)
        raise Conflict(f"{told} below it", hint="give it the target 0 instead")
    unit.conn.execute(REMOVE_WEIGHTS, {"node_id": node_id})
    unit.conn.execute(REMOVE_SHARE, {"node_id": node_id})


def _remove_limit(unit: Unit, name: str) -> None:
    work_limits.remove(unit.conn, name)


def _remove_policy(unit: Unit, name: str) -> None:
    assignments.remove_policy(unit.conn, name)


def _remove_account(unit: Unit, name: str) -> None:
    accounts.remove(unit.conn, name)


def _remove_group_weight(unit: Unit, name: str) -> None:
    unit.conn.execute(REMOVE_GROUP_WEIGHT, {"of_group": name})


def _remove_space_quota(unit: Unit, name: str) -> None:
    quotas.remove(unit.conn, quotas.SPACE + name)


def _remove_retry(unit: Unit, name: str) -> None:
    retry_rules.remove(unit.conn, ErrorClass(name))


PUT: Mapping[str, Callable[[Unit, Sequence[Any]], None]] = {
    "site": _put_sites,
    "site_set": _put_site_sets,
    "se": _put_ses,
    "link": _put_links,
    "endpoint": _put_endpoints,
    "agent": _put_agents,
    "share": _put_shares,
    "limit": _put_limits,
    "account": _put_accounts,
    "group_weight": _put_group_weights,
    "space_quota": _put_space_quotas,
    "policy": _put_policies,
    "retry": _put_retries,
}
REMOVE: Mapping[str, Callable[[Unit, str], None]] = {
    "site": _remove_site,
    "site_set": _remove_site_set,
    "se": _remove_se,
    "link": _remove_link,
    "endpoint": _remove_endpoint,
    "agent": _remove_agent,
    "share": _remove_share,
    "limit": _remove_limit,
    "account": _remove_account,
    "group_weight": _remove_group_weight,
    "space_quota": _remove_space_quota,
    "policy": _remove_policy,
    "retry": _remove_retry,
}
