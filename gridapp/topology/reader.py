"""The topology as people write it: a directory of TOML and storage.xml files, read, checked and merged."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from gridapp.topology.documents import RetryDocument
from gridapp.topology.files import GRID_FILE, Files, Placed, each, read_files, refer, unique
from gridapp.topology.items import (
    AccountItem,
    EndpointItem,
    GroupWeightItem,
    LinkItem,
    RetryItem,
    SiteItem,
    SpaceQuotaItem,
    Topology,
    group_of,
)
from gridapp.topology.storage import storage_elements
from gridapp.topology.work import agents, limits, policies, shares, site_sets
from gridcore.errors import UsageError
from gridcore.identity import EVERYWHERE
from prodsys.settling.retries import DEFAULT_RULES, RetryRule

__all__ = ["GRID_FILE", "Topology", "read_topology"]


def read_topology(directory: Path, variables: Mapping[str, str]) -> Topology:
    """All *.toml files of a directory but tierflow.toml, merged and checked against each other.

    `variables` are filled in where rules and roots name them. Raises UsageError: one line with file, key and
    cure.
    """
    files = read_files(directory)
    sites = unique((where, SiteItem(**one.model_dump())) for where, one in each(files, "site"))
    sets = site_sets(files, sites)
    ses = storage_elements(directory, variables, files, sites)
    endpoints = unique(_endpoints(files, sites))
    named = agents(files, endpoints)
    tree = shares(files, sites, str(directory))
    known = unique(_accounts(files, {*sites, *map(group_of, tree)}))
    groups = {*map(group_of, tree), *known, *(group for one in known.values() for group in one.groups)}
    return Topology(
        site=sites,
        site_set=sets,
        se=ses,
        link=unique(_links(files, ses)),
        endpoint=endpoints,
        agent=named,
        share=tree,
        limit=limits(files, sites, tree),
        account=known,
        group_weight=unique(_group_weights(files, groups)),
        space_quota=unique(_space_quotas(files, sites, groups)),
        policy=policies(files, groups=tree, agents=named, sites=sites, site_sets=sets),
        retry=unique((where, RetryItem(rule=_rule(one))) for where, one in each(files, "retry")),
    )


def _links(files: Files, ses: Collection[str]) -> Iterator[Placed[LinkItem]]:
    for where, one in each(files, "link"):
        for src, dst in one.ways():
            refer(where, "storage element", src, ses)
            refer(where, "storage element", dst, ses)
            values = one.model_dump(exclude={"a", "b", "src", "dst"})
            yield where, LinkItem(src=src, dst=dst, **values)


def _endpoints(files: Files, sites: Collection[str]) -> Iterator[Placed[EndpointItem]]:
    for where, one in each(files, "endpoint"):
        refer(f"{where}.site", "site", one.site, sites)
        values = one.model_dump(exclude={"offer"})
        yield where, EndpointItem(**values, offer=one.offer.model_dump(exclude_none=True))


def _accounts(files: Files, scopes: Collection[str]) -> Iterator[Placed[AccountItem]]:
    logins: set[str] = set()
    for where, one in each(files, "account"):
        if one.login in logins:
            cure = "give each login one account"
            raise UsageError(f"{where}.login: {one.login!r} has an account already", hint=cure)
        logins |= {one.login} - {""}
        for scope in one.roles:
            refer(f"{where}.roles", "group or site", scope, {EVERYWHERE, *scopes, *one.groups})
        roles = frozenset((scope, role) for scope, held in one.roles.items() for role in held)
        yield where, AccountItem(name=one.name, login=one.login, groups=frozenset(one.groups), roles=roles)


def _group_weights(files: Files, groups: Collection[str]) -> Iterator[Placed[GroupWeightItem]]:
    for where, one in each(files, "group_weight"):
        refer(f"{where}.group", "group", one.group, groups)
        yield where, GroupWeightItem(**one.model_dump())


def _space_quotas(
    files: Files, sites: Collection[str], groups: Collection[str]
) -> Iterator[Placed[SpaceQuotaItem]]:
    for where, one in each(files, "space_quota"):
        refer(f"{where}.site", "site", one.site, sites)
        refer(f"{where}.group", "group", one.group, groups)
        yield where, SpaceQuotaItem(**one.model_dump())


def _rule(one: RetryDocument) -> RetryRule:
    values = one.model_dump(exclude_none=True)
    if one.bigger == "none":
        values["bigger"] = None
    return replace(DEFAULT_RULES[one.error_class], **values)
