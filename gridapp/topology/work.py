"""Who works for whom, as a directory describes it: site sets, agents, shares, limits and policies, each
checked against what it names."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

from gridapp.topology.files import Files, Placed, each, refer, refer_all, unique
from gridapp.topology.items import AgentItem, LimitItem, PolicyItem, ShareItem, SiteSetItem, group_of
from gridcore.errors import UsageError
from prodsys.shares.fairshare import ShareNode, check_tree

Names = Collection[str]


def site_sets(files: Files, sites: Names) -> dict[str, SiteSetItem]:
    """The site sets by name. Raises UsageError."""
    return unique(
        (where, SiteSetItem(name=one.name, sites=refer_all(f"{where}.sites", "site", one.sites, sites)))
        for where, one in each(files, "site_set")
    )


# --- agents ------------------------------------------------------------------------------------------


def agents(files: Files, endpoints: Names) -> dict[str, AgentItem]:
    """The agents by name. Raises UsageError, also where two serve one endpoint."""
    placed = list(_agents(files, endpoints))
    found = unique(placed)
    check_agents((f"{where}.endpoints", one) for where, one in placed)
    return found


def _agents(files: Files, endpoints: Names) -> Iterator[Placed[AgentItem]]:
    for where, one in each(files, "agent"):
        named = refer_all(f"{where}.endpoints", "endpoint", one.endpoints, endpoints)
        yield where, AgentItem(name=one.name, endpoints=named)


def check_agents(placed: Iterable[Placed[AgentItem]]) -> None:
    """Raises UsageError where two agents serve one endpoint."""
    taken: dict[str, str] = {}
    for where, one in placed:
        for name in sorted(one.endpoints):
            if name in taken:
                raise UsageError(
                    f"{where}: {name} is the agent {taken[name]}'s already, {one.name} cannot have it too",
                    hint="give each endpoint to one agent",
                )
            taken[name] = one.name


# --- shares ------------------------------------------------------------------------------------------


def shares(files: Files, sites: Names, where: str) -> dict[str, ShareItem]:
    """The groups of the tree by path. Raises UsageError."""
    placed = list(_shares(files, sites))
    found = unique(placed)
    for place, one in placed:
        if one.parent is not None and one.parent not in found:
            raise UsageError(
                f"{place}.group: {one.name} is below {one.parent}, which is no share",
                hint=f'define {one.parent} as well: [[share]] group = "{one.parent}"',
            )
    check_shares(found, where)
    return found


def _shares(files: Files, sites: Names) -> Iterator[Placed[ShareItem]]:
    for where, one in each(files, "share"):
        refer_all(f"{where}.weights", "site", one.weights, sites)
        weights = {site: weight for site, weight in sorted(one.weights.items()) if weight != 1}
        values = one.model_dump(exclude={"group", "weights"})
        yield where, ShareItem(name=one.group, weights=weights, **values)


def check_shares(shares: Mapping[str, ShareItem], where: str) -> None:
    """Raises UsageError where the groups are no tree that can be shared out."""
    ids = {path: number for number, path in enumerate(shares)}
    nodes = [
        ShareNode(
            id=ids[path],
            # An unknown parent is told as such.
            parent=None if one.parent is None else ids.get(one.parent, -1),
            path=path,
            target=one.target,
            floor=one.floor,
            cap=one.cap,
            child_target=one.child_target,
            half_life_s=one.half_life_s,
        )
        for path, one in shares.items()
    ]
    try:
        check_tree(nodes)
    except UsageError as error:
        raise UsageError(f"{where}: {error.message}", hint=error.hint) from None


# --- limits and policies -----------------------------------------------------------------------------


def limits(files: Files, sites: Names, groups: Names) -> dict[str, LimitItem]:
    """The limits by name. Raises UsageError."""
    return unique(_limits(files, sites, groups))


def _limits(files: Files, sites: Names, groups: Names) -> Iterator[Placed[LimitItem]]:
    for where, one in each(files, "limit"):
        if one.site is not None:
            refer(f"{where}.site", "site", one.site, sites)
        # A user of a group may come later than the limit, the group may not.
        if one.share is not None and one.share.rpartition("/")[0] not in groups:
            refer(f"{where}.share", "group", one.share, groups)
        yield where, LimitItem(**one.model_dump())


def policies(
    files: Files, *, groups: Names, agents: Names, sites: Names, site_sets: Names
) -> dict[str, PolicyItem]:
    """The policies by name. Raises UsageError."""
    known: dict[str, tuple[str, Names]] = {
        "groups": ("group", {*groups, *map(group_of, groups)}),
        "agents": ("agent", agents),
        "sites": ("site", sites),
        "site_sets": ("site set", site_sets),
    }
    return unique(_policies(files, known))


def _policies(files: Files, known: Mapping[str, tuple[str, Names]]) -> Iterator[Placed[PolicyItem]]:
    for where, one in each(files, "policy"):
        for key, (what, names) in known.items():
            refer_all(f"{where}.{key}", what, getattr(one, key) or (), names)
        rule = one.model_dump(exclude={"name", "rank"})
        if one.groups is not None:
            rule["groups"] = [group_of(path) for path in one.groups]
        yield where, PolicyItem.of(one.name, one.rank, rule)
