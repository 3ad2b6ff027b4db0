"""What a topology is made of: one item for each table of its files, as values that can be compared."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from hashlib import sha256
from typing import Any

from catalogs.states import Switch
from gridcore.identity import Account, Principal, Role
from prodsys.settling.retries import RetryRule
from prodsys.shares.shares import LEAF_TARGET


def group_of(path: str) -> str:
    """The group of a share as requests and accounts name it: the end of its path."""
    return path.rpartition("/")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteItem:
    """A site. Where `state` is None, state and note stay as they are in the database."""

    name: str
    state: Switch | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteSetItem:
    """Sites under one name."""

    name: str
    sites: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageItem:
    """A storage element: `tfc` are its rules as JSON, `dialect` how they are read, None for the first way;
    `transit_bytes` is its space for passing copies, `space_bytes` all of it, `delete_rate` files an hour,
    None for no limit.
    """

    name: str
    site: str
    kind: str
    protocol: str
    tfc: str
    root: str | None
    transit_bytes: int
    space_bytes: int | None = None
    delete_rate: int | None = None
    dialect: str | None = None
    state: Switch | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkItem:
    """One direction of a link between storage elements; `window_max` files and `rate_cap` bytes a second at
    most, None for no limit."""

    src: str
    dst: str
    distance: float
    tool: str
    window_max: int | None = None
    rate_cap: float | None = None
    local: bool = False
    state: Switch | None = None
    note: str | None = None

    @property
    def name(self) -> str:
        return f"{self.src} -> {self.dst}"


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointItem:
    """An endpoint: `offer` is what brokerage compares, `config` what its executor wants to know."""

    name: str
    site: str
    kind: str
    slots: int
    offer: Mapping[str, Any]
    config: Mapping[str, Any]
    state: Switch | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentItem:
    """A named ProdAgent and the endpoints it serves."""

    name: str
    endpoints: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareItem:
    """A group in the tree of shares: `name` is its path.

    `floor` and `cap` are parts of its siblings' cores, 0 to 1; `half_life_s` stands only at a root; `weights`
    multiply the target, site by site, none of them 1.
    """

    name: str
    target: float
    floor: float | None = None
    cap: float | None = None
    child_target: float = LEAF_TARGET
    half_life_s: float | None = None
    weights: Mapping[str, float] = field(default_factory=dict)

    @property
    def parent(self) -> str | None:
        """The path of the group it belongs to; None for a root."""
        return self.name.rpartition("/")[0] or None


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitItem:
    """Most active jobs and cores of what it selects; a selector that is None selects everything."""

    name: str
    site: str | None = None
    share: str | None = None
    type: str | None = None
    max_jobs: int | None = None
    max_cores: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountItem:
    """An account; `roles` are (scope, role) pairs."""

    name: str
    login: str
    groups: frozenset[str]
    roles: frozenset[tuple[str, Role]]

    @classmethod
    def of(cls, account: Account) -> AccountItem:
        """From an account as gridcore knows it."""
        principal = account.principal
        roles = frozenset((scope, role) for scope, held in principal.roles.items() for role in held)
        return cls(name=principal.name, login=account.login, groups=principal.groups, roles=roles)

    def account(self) -> Account:
        """As gridcore knows it."""
        return Account(self.login, Principal(self.name, self.groups, self.roles_by_scope()))

    def roles_by_scope(self) -> dict[str, frozenset[Role]]:
        """{group, site or "*": roles}."""
        scopes = sorted({scope for scope, _ in self.roles})
        return {scope: frozenset(role for where, role in self.roles if where == scope) for scope in scopes}


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupWeightItem:
    """What a group's files are worth in the queue of a link."""

    group: str
    weight: float

    @property
    def name(self) -> str:
        return self.group


@dataclass(frozen=True, slots=True, kw_only=True)
class SpaceQuotaItem:
    """The most bytes that replicas of a group may take at a site."""

    site: str
    group: str
    bytes: int

    @property
    def name(self) -> str:
        return f"{self.site}:{self.group}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyItem:
    """Who gets which requests: what a request must be, None for any, then whom it is assigned to."""

    name: str
    rank: int
    groups: frozenset[str] | None = None
    requesters: frozenset[str] | None = None
    names: frozenset[str] | None = None
    min_priority: int | None = None
    max_priority: int | None = None
    agents: frozenset[str] = frozenset()
    sites: frozenset[str] = frozenset()
    site_sets: frozenset[str] = frozenset()

    @classmethod
    def of(cls, name: str, rank: int, rule: Mapping[str, Any]) -> PolicyItem:
        """From the rule as its row holds it."""
        values: dict[str, Any] = {
            key: frozenset(one) if isinstance(one, list) else one for key, one in rule.items()
        }
        return cls(name=name, rank=rank, **values)

    def rule(self) -> dict[str, Any]:
        """As the row of a policy holds it: names in order, every key there."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return {
            key: sorted(value) if isinstance(value, frozenset) else value
            for key, value in values.items()
            if key not in ("name", "rank")
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryItem:
    """An override of the retry table."""

    rule: RetryRule

    @property
    def name(self) -> str:
        return str(self.rule.error_class)


Item = (
    SiteItem
    | SiteSetItem
    | StorageItem
    | LinkItem
    | EndpointItem
    | AgentItem
    | ShareItem
    | LimitItem
    | AccountItem
    | GroupWeightItem
    | SpaceQuotaItem
    | PolicyItem
    | RetryItem
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """All of it by name; the fields stand in the order in which one kind needs the other."""

    site: Mapping[str, SiteItem]
    site_set: Mapping[str, SiteSetItem]
    se: Mapping[str, StorageItem]
    link: Mapping[str, LinkItem]
    endpoint: Mapping[str, EndpointItem]
    agent: Mapping[str, AgentItem]
    share: Mapping[str, ShareItem]
    limit: Mapping[str, LimitItem]
    account: Mapping[str, AccountItem]
    group_weight: Mapping[str, GroupWeightItem]
    space_quota: Mapping[str, SpaceQuotaItem]
    policy: Mapping[str, PolicyItem]
    retry: Mapping[str, RetryItem]

    def kinds(self) -> dict[str, Mapping[str, Item]]:
        """{kind: items by name}."""
        return {one.name: getattr(self, one.name) for one in fields(self)}

    def digest(self) -> str:
        """Tells one input from another."""
        plain = {
            kind: [asdict(items[name]) for name in sorted(items)] for kind, items in self.kinds().items()
        }
        return sha256(json.dumps(plain, sort_keys=True, default=sorted).encode()).hexdigest()
