"""The tables of a topology's TOML files, each checked by itself; gridapp.topology checks them together."""

from __future__ import annotations

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
from gridcore.errors import GridError
from gridcore.identity import Role
from gridcore.ids import check_label, check_site
from prodsys.retries import ErrorClass


def _follows(check: Callable[[str], str]) -> AfterValidator:
    def validate(text: str) -> str:
        try:
            return check(text)
        except GridError as error:
            raise ValueError(f"{error.message}; {error.hint}") from None

    return AfterValidator(validate)


Name = Annotated[str, _follows(check_label)]
SiteName = Annotated[str, _follows(check_site)]
SeName = Annotated[Name, StringConstraints(max_length=60)]
GroupName = Annotated[Name, StringConstraints(max_length=60)]
Text = Annotated[str, StringConstraints(min_length=1, max_length=400)]
Login = Annotated[str, StringConstraints(pattern=r"^[!-~]{1,60}$")]
Amount = Annotated[int, Field(gt=0, le=10**9)]
Bytes = Annotated[int, Field(ge=0, lt=2**63)]
Seconds = Annotated[float, Field(gt=0, le=10**8)]


class Document(BaseModel):
    """A table of the file: unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class SiteDocument(Document):
    name: SiteName
    state: Switch | None = None
    note: Text | None = None


class StorageDocument(Document):
    name: SeName
    site: SiteName
    kind: Literal["disk", "tape"] = "disk"
    protocol: Annotated[Name, StringConstraints(max_length=30)] = "local"
    storage: str
    root: str | None = None
    transit_bytes: Bytes = 0
    state: Switch | None = None


class LinkDocument(Document):
    """`a` and `b` for both ways, `src` and `dst` for one."""

    a: SeName | None = None
    b: SeName | None = None
    src: SeName | None = None
    dst: SeName | None = None
    distance: Annotated[float, Field(gt=0, le=10**6)] = 1.0
    tool: Literal["local", "fake"] = "local"
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
    """What brokerage compares; a limit left out is one the endpoint does not have."""

    cores_max: Amount | None = None
    memory_mb_per_core: Amount | None = None
    wall_s_max: Amount | None = None
    platforms: list[Text] | None = None


class EndpointDocument(Document):
    name: Annotated[Name, StringConstraints(max_length=80)]
    site: SiteName
    kind: Literal["local", "fake"] = "local"
    slots: Annotated[int, Field(ge=0, le=10**6)]
    offer: OfferDocument = OfferDocument()
    config: dict[str, JsonValue] = {}
    state: Switch | None = None


class ShareDocument(Document):
    group: GroupName
    target: float


class AccountDocument(Document):
    """`login` is a Unix login, "*" for anybody, left out for nobody; `roles` are by group, by site, or "*"
    for everywhere."""

    name: GroupName
    login: Login | Literal[""] = ""
    groups: list[GroupName] = []
    roles: dict[str, list[Role]] = {}


class RetryDocument(Document):
    """What is left out is the default of that class."""

    error_class: ErrorClass
    max_retries: Annotated[int, Field(ge=0, le=1000)] | None = None
    delay_s: Seconds | None = None
    cap_s: Seconds | None = None
    elsewhere: bool | None = None
    penalty: bool | None = None
    blame: Literal["user", "site", "storage", "system"] | None = None
    final: Literal["FAILED", "HELD"] | None = None


class GridDocument(Document):
    """One file of a topology."""

    site: list[SiteDocument] = []
    se: list[StorageDocument] = []
    link: list[LinkDocument] = []
    endpoint: list[EndpointDocument] = []
    share: list[ShareDocument] = []
    account: list[AccountDocument] = []
    retry: list[RetryDocument] = []
