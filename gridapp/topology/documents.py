"""The tables of a topology's TOML files, each checked by itself; `reader` checks them together."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    model_validator,
)

from catalogs.states import Switch
from catalogs.tfc.rules import Dialect
from gridcore.errors import GridError, UsageError
from gridcore.identity import Role
from gridcore.ids import check_label, check_site
from prodsys.settling.retries import ErrorClass
from prodsys.shares.shares import LEAF_TARGET

_GLOB = re.compile(r"[A-Za-z0-9._*?\[\]!-]{1,100}")


def _follows(check: Callable[[str], str]) -> AfterValidator:
    def validate(text: str) -> str:
        try:
            return check(text)
        except GridError as error:
            raise ValueError(f"{error.message}; {error.hint}") from None

    return AfterValidator(validate)


def _check_path(text: str) -> str:
    for part in text.split("/"):
        check_label(part, "group")
    return text


def _check_glob(text: str) -> str:
    if not _GLOB.fullmatch(text):
        raise UsageError(f"{text!r} is no pattern of names", hint="a name in which * and ? stand for others")
    return text


Name = Annotated[str, _follows(check_label)]
SiteName = Annotated[str, _follows(check_site)]
EndpointName = Annotated[Name, StringConstraints(max_length=80)]
SeName = Annotated[Name, StringConstraints(max_length=60)]
Short = Annotated[Name, StringConstraints(max_length=60)]
GroupPath = Annotated[str, StringConstraints(max_length=60), _follows(_check_path)]
Glob = Annotated[str, StringConstraints(max_length=100), _follows(_check_glob)]
Text = Annotated[str, StringConstraints(min_length=1, max_length=400)]
Login = Annotated[str, StringConstraints(pattern=r"^[!-~]{1,60}$")]
Amount = Annotated[int, Field(gt=0, le=10**9)]
Bytes = Annotated[int, Field(ge=0, lt=2**63)]
Seconds = Annotated[float, Field(gt=0, le=10**8)]
Count = Annotated[int, Field(ge=0, le=10**9)]
Part = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0, le=10**6)]
Factor = Annotated[float, Field(gt=0, le=10**6)]
Rate = Annotated[float, Field(gt=0, le=10**15)]
Rank = Annotated[int, Field(ge=-(10**6), le=10**6)]
Priority = Annotated[int, Field(ge=-(10**9), le=10**9)]
Named = Annotated[list[Short], Field(min_length=1)]


class Document(BaseModel):
    """A table of the file: unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class SiteDocument(Document):
    name: SiteName
    state: Switch | None = None
    note: Text | None = None


class SiteSetDocument(Document):
    name: Short
    sites: Annotated[list[SiteName], Field(min_length=1)]


class StorageDocument(Document):
    """`storage` is a storage.xml or storage.json; `volume` chooses within the latter.

    `space_bytes` is what it may hold in all, `transit_bytes` what passing copies may take of it,
    `delete_rate` the files deleted there in an hour at most; left out, first and last have no limit.
    """

    name: SeName
    site: SiteName
    kind: Literal["disk", "tape"] = "disk"
    protocol: Annotated[Name, StringConstraints(max_length=30)] = "local"
    storage: str
    volume: Text | None = None
    dialect: Dialect = Dialect.PHEDEX
    root: str | None = None
    transit_bytes: Bytes = 0
    space_bytes: Bytes | None = None
    delete_rate: Amount | None = None
    state: Switch | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.space_bytes is not None and self.transit_bytes > self.space_bytes:
            most = f"transit_bytes {self.transit_bytes} is more than space_bytes {self.space_bytes}"
            raise ValueError(f"{most}; passing copies take of the same space")
        return self


class LinkDocument(Document):
    """`a` and `b` for both ways, `src` and `dst` for one.

    `window_max` files in flight and `rate_cap` bytes a second at most; one that is `local`, within a site,
    costs next to nothing and is taken first.
    """

    a: SeName | None = None
    b: SeName | None = None
    src: SeName | None = None
    dst: SeName | None = None
    distance: Annotated[float, Field(gt=0, le=10**6)] = 1.0
    tool: Literal["local", "fake"] = "local"
    window_max: Amount | None = None
    rate_cap: Rate | None = None
    local: bool = False
    state: Switch | None = None
    note: Text | None = None

    @model_validator(mode="after")
    def _two_ends(self) -> Self:
        given = {name for name in ("a", "b", "src", "dst") if getattr(self, name) is not None}
        if given not in ({"a", "b"}, {"src", "dst"}):
            raise ValueError("a link has two ends; give a and b for both ways, or src and dst for one")
        src, dst = self.ways()[0]
        if src == dst:
            raise ValueError(f"the link leads from {src} to itself; name another storage element")
        return self

    def ways(self) -> list[tuple[str, str]]:
        """(source, destination) of each direction."""
        if self.src is not None and self.dst is not None:
            return [(self.src, self.dst)]
        return [(str(self.a), str(self.b)), (str(self.b), str(self.a))]


class OfferDocument(Document):
    """What brokerage compares; a limit left out does not bind, anything else left out is not there.

    `disk_mb` and `gpus` are the most that one job may use, `tags` the software installed, `outbound` whether
    jobs may connect to the outside.
    """

    cores_max: Amount | None = None
    memory_mb_per_core: Amount | None = None
    wall_s_max: Amount | None = None
    platforms: list[Text] | None = None
    disk_mb: Amount | None = None
    tags: list[Text] | None = None
    gpus: Count | None = None
    outbound: bool | None = None


class EndpointDocument(Document):
    name: EndpointName
    site: SiteName
    kind: Literal["local", "fake"] = "local"
    slots: Annotated[int, Field(ge=0, le=10**6)]
    offer: OfferDocument = OfferDocument()
    config: dict[str, JsonValue] = {}
    state: Switch | None = None


class AgentDocument(Document):
    name: Short
    endpoints: Annotated[list[EndpointName], Field(min_length=1)]


class ShareDocument(Document):
    """`group` is a path such as `cms/higgs`; `child_target` is for users, who get a share by themselves."""

    group: GroupPath
    target: float
    floor: Part | None = None
    cap: Part | None = None
    child_target: Weight = LEAF_TARGET
    half_life_s: Seconds | None = None
    weights: dict[SiteName, Weight] = {}

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.half_life_s is not None and "/" in self.group:
            root = self.group.partition("/")[0]
            raise ValueError(f"half_life_s holds for a whole tree; give it to {root}")
        if self.floor is not None and self.cap is not None and self.floor > self.cap:
            raise ValueError(f"the floor {self.floor:g} is above the cap {self.cap:g}; lower it")
        return self


class LimitDocument(Document):
    """At most so many active jobs or cores of the site, the share and the task type that it names."""

    name: Annotated[Name, StringConstraints(max_length=99)]
    site: SiteName | None = None
    share: Annotated[str, StringConstraints(max_length=200), _follows(_check_path)] | None = None
    type: Annotated[Name, StringConstraints(max_length=30)] | None = None
    max_jobs: Count | None = None
    max_cores: Count | None = None

    @model_validator(mode="after")
    def _says_what(self) -> Self:
        if (self.site, self.share, self.type) == (None, None, None):
            raise ValueError("the limit is of nothing; give one of site, share and type")
        if (self.max_jobs, self.max_cores) == (None, None):
            raise ValueError("the limit limits nothing; give max_jobs or max_cores")
        return self


class PolicyDocument(Document):
    """What a request must be, anything where left out, and the agents, sites and site sets it is assigned to,
    everywhere without any.

    The lowest rank is asked first; `groups` are what requests name, `names` patterns of their names.
    """

    name: Short
    rank: Rank
    groups: Annotated[list[GroupPath], Field(min_length=1)] | None = None
    requesters: Named | None = None
    names: Annotated[list[Glob], Field(min_length=1)] | None = None
    min_priority: Priority | None = None
    max_priority: Priority | None = None
    agents: list[Short] = []
    sites: list[SiteName] = []
    site_sets: list[Short] = []

    @model_validator(mode="after")
    def _fits(self) -> Self:
        low, high = self.min_priority, self.max_priority
        if low is not None and high is not None and low > high:
            raise ValueError(f"no priority is at least {low} and at most {high}; lower min_priority")
        return self


class AccountDocument(Document):
    """`login` is a Unix login, "*" for anybody, left out for nobody; `roles` are by group, by site, or "*"
    for everywhere."""

    name: Short
    login: Login | Literal[""] = ""
    groups: list[Short] = []
    roles: dict[str, list[Role]] = {}


class GroupWeightDocument(Document):
    """What a group's files are worth where several groups wait for one link; 1 where it is left out."""

    group: Short
    weight: Factor


class SpaceQuotaDocument(Document):
    """The most that replicas of a group may take at a site; no limit where it is left out."""

    site: SiteName
    group: Short
    bytes: Bytes


class RetryDocument(Document):
    """What is left out is the default of that class; `bigger` "none" stands for none."""

    error_class: ErrorClass
    max_retries: Annotated[int, Field(ge=0, le=1000)] | None = None
    delay_s: Seconds | None = None
    cap_s: Seconds | None = None
    elsewhere: bool | None = None
    penalty: bool | None = None
    blame: Literal["user", "site", "storage", "system"] | None = None
    final: Literal["FAILED", "HELD"] | None = None
    bigger: Literal["memory", "wall", "none"] | None = None
    factor: Annotated[float, Field(gt=1, le=10)] | None = None


class GridDocument(Document):
    """One file of a topology."""

    site: list[SiteDocument] = []
    site_set: list[SiteSetDocument] = []
    se: list[StorageDocument] = []
    link: list[LinkDocument] = []
    endpoint: list[EndpointDocument] = []
    agent: list[AgentDocument] = []
    share: list[ShareDocument] = []
    limit: list[LimitDocument] = []
    account: list[AccountDocument] = []
    group_weight: list[GroupWeightDocument] = []
    space_quota: list[SpaceQuotaDocument] = []
    policy: list[PolicyDocument] = []
    retry: list[RetryDocument] = []
