"""The topology as the database holds it: its rows read as items."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import TypeVar

from sqlalchemy import Connection, exists, or_, select

from catalogs import sites
from catalogs.sites import Link, StorageElement
from datamgmt.tables import group_weight
from gridapp import quotas
from gridapp.topology.items import (
    AccountItem,
    AgentItem,
    EndpointItem,
    GroupWeightItem,
    Item,
    LimitItem,
    LinkItem,
    PolicyItem,
    RetryItem,
    ShareItem,
    SiteItem,
    SiteSetItem,
    SpaceQuotaItem,
    StorageItem,
    Topology,
)
from gridcore import accounts
from prodsys.queue import endpoints, work_limits
from prodsys.queue.endpoints import Endpoint
from prodsys.queue.work_limits import WorkLimit
from prodsys.requests import assignments
from prodsys.settling import retry_rules
from prodsys.shares.shares import LEAF_TARGET
from prodsys.tables import share_node, site_share

T = TypeVar("T", bound=Item)
_below = share_node.alias("below")
#: Shares of groups. A user's leaf, which made itself, has neither children nor a target for them.
GROUPS = (
    select(share_node)
    .where(
        or_(
            share_node.c.parent_id.is_(None),
            share_node.c.child_target.is_not(None),
            exists(select(_below.c.id).where(_below.c.parent_id == share_node.c.id)),
        )
    )
    .order_by(share_node.c.path)
)
SITE_WEIGHTS = select(site_share)
GROUP_WEIGHTS = select(group_weight)


def stored(conn: Connection) -> Topology:
    """The topology as the database holds it."""
    found = sites.sites(conn)
    elements = sites.storage_elements(conn)
    served = endpoints.endpoints(conn)
    site_names = {one.id: one.name for one in found}
    se_names = {one.id: one.name for one in elements}
    endpoint_names = {one.id: one.name for one in served}
    transit = {one.of: one.limit for one in quotas.of_transit(conn)}
    return Topology(
        site=_named(SiteItem(name=one.name, state=one.state, note=one.note) for one in found),
        site_set=_named(
            SiteSetItem(name=one.name, sites=frozenset(site_names[key] for key in one.sites))
            for one in assignments.site_sets(conn)
        ),
        se=_named(_storage_item(one, site_names[one.site_id], transit.get(one.name, 0)) for one in elements),
        link=_named(
            _link_item(one, se_names[one.src_se_id], se_names[one.dst_se_id]) for one in sites.links(conn)
        ),
        endpoint=_named(_endpoint_item(one, site_names[one.site_id]) for one in served),
        agent=_named(
            AgentItem(name=one.name, endpoints=frozenset(endpoint_names[key] for key in one.endpoints))
            for one in assignments.agents(conn)
        ),
        share=_named(_share_items(conn, site_names)),
        limit=_named(_limit_item(one, site_names) for one in work_limits.limits(conn)),
        account=_named(AccountItem.of(one) for one in accounts.accounts(conn)),
        group_weight=_named(
            GroupWeightItem(group=row.acct_group, weight=row.weight) for row in conn.execute(GROUP_WEIGHTS)
        ),
        space_quota=_named(
            SpaceQuotaItem(site=one.site, group=one.group, bytes=one.limit) for one in quotas.of_space(conn)
        ),
        policy=_named(PolicyItem.of(one.name, one.rank, one.rule) for one in assignments.policies(conn)),
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
        space_bytes=one.space_bytes,
        delete_rate=one.delete_rate,
        dialect=one.dialect,
        state=one.state,
    )


def _link_item(one: Link, src: str, dst: str) -> LinkItem:
    return LinkItem(
        src=src,
        dst=dst,
        distance=one.distance,
        tool=one.tool,
        window_max=one.window_max,
        rate_cap=one.rate_cap,
        local=one.local,
        state=one.state,
        note=one.note,
    )


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


def _share_items(conn: Connection, site_names: Mapping[int, str]) -> Iterable[ShareItem]:
    weights: dict[int, dict[str, float]] = defaultdict(dict)
    for row in conn.execute(SITE_WEIGHTS):
        weights[row.node_id][site_names[row.site_id]] = row.weight
    for row in conn.execute(GROUPS):
        yield ShareItem(
            name=row.path,
            target=row.target,
            floor=row.floor,
            cap=row.cap,
            child_target=LEAF_TARGET if row.child_target is None else row.child_target,
            half_life_s=row.half_life_s,
            weights=weights[row.id],
        )


def _limit_item(one: WorkLimit, site_names: Mapping[int, str]) -> LimitItem:
    return LimitItem(
        name=one.name,
        site=None if one.site_id is None else site_names[one.site_id],
        share=one.share_path,
        type=one.task_type,
        max_jobs=one.max_jobs,
        max_cores=one.max_cores,
    )
