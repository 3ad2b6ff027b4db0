"""The topology as people write it: a directory of TOML and storage.xml files, read, checked and merged.

In the rules of a storage.xml and in `root`, `${TIERFLOW_DIR}` stands for the installation's directory. It is
filled in rule by rule once the XML is read, escaped as a pattern or a result needs it.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

from catalogs.sites import tfc_text
from catalogs.states import Switch
from catalogs.tfc import TrivialCatalog
from catalogs.tfc_xml import TEXT_MAX, parse_storage_xml
from gridapp.installation import SETTINGS_FILE
from gridapp.topology_documents import GridDocument, RetryDocument
from gridcore.documents import checked, read_toml
from gridcore.errors import NotFound, UsageError
from gridcore.identity import EVERYWHERE, Account, Principal, Role
from prodsys.fairshare import ShareNode, check_tree
from prodsys.retries import DEFAULT_RULES, RetryRule

#: The settings of an installation may lie beside its topology and are none of it.
GRID_FILE = "grid.toml"
ROOT_MAX = 500

# --- what a directory means --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteItem:
    """A site. Where `state` is None, state and note stay as they are in the database."""

    name: str
    state: Switch | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageItem:
    """A storage element: `tfc` are its rules as JSON, `transit_bytes` its space for passing copies."""

    name: str
    site: str
    kind: str
    protocol: str
    tfc: str
    root: str | None
    transit_bytes: int
    state: Switch | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkItem:
    """One direction of a link between storage elements."""

    src: str
    dst: str
    distance: float
    tool: str
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
class ShareItem:
    """A group's target in the tree of shares."""

    name: str
    target: float


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
class RetryItem:
    """An override of the retry table."""

    rule: RetryRule

    @property
    def name(self) -> str:
        return str(self.rule.error_class)


Item = SiteItem | StorageItem | LinkItem | EndpointItem | ShareItem | AccountItem | RetryItem


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """All of it by name; the fields stand in the order in which one kind needs the other."""

    site: Mapping[str, SiteItem]
    se: Mapping[str, StorageItem]
    link: Mapping[str, LinkItem]
    endpoint: Mapping[str, EndpointItem]
    share: Mapping[str, ShareItem]
    account: Mapping[str, AccountItem]
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


#: Different files that rules must keep apart.
_PROBES = ("/store/mc/a/1.root", "/store/mc/b/1.root", "/store/data/a/1.root", "/store/mc/a/2.root")

# --- reading -----------------------------------------------------------------------------------------

T = TypeVar("T", bound=Item)
Files = Sequence[tuple[Path, GridDocument]]
Placed = tuple[str, T]
"""An item and where it stands: `etc/embedded/grid.toml: site.2`."""

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def _as_pattern(value: str) -> str:
    """The value as a pattern; `[:` would be taken for a POSIX class."""
    return re.escape(value).replace("[:", r"[\:")


#: How a value is escaped in the attributes of a rule that may name variables.
_ESCAPES: dict[str, Callable[[str], str]] = {
    "path-match": _as_pattern,
    "destination-match": _as_pattern,
    "result": lambda value: re.sub(r"([\\$])", r"\\\1", value),
}


def read_topology(directory: Path, variables: Mapping[str, str]) -> Topology:
    """All *.toml files of a directory but tierflow.toml, merged and checked against each other.

    `variables` are filled in where rules and roots name them. Raises UsageError: one line with file, key and
    cure.
    """
    paths = topology_files(directory)
    if not paths:
        raise UsageError(f"{directory} holds no topology", hint=f"write a {GRID_FILE} as in etc/embedded")
    files = [(path, checked(GridDocument, read_toml(path), str(path))) for path in paths]
    sites = _unique((where, SiteItem(**one.model_dump())) for where, one in _each(files, "site"))
    stores = list(_storage(directory, variables, files, sites))
    ses = _unique(stores)
    _check_apart(stores)
    shares = _unique(
        (where, ShareItem(name=one.group, target=one.target)) for where, one in _each(files, "share")
    )
    _check_shares(shares, str(directory))
    return Topology(
        site=sites,
        se=ses,
        link=_unique(_links(files, ses)),
        endpoint=_unique(_endpoints(files, sites)),
        share=shares,
        account=_unique(_accounts(files, {*sites, *shares})),
        retry=_unique((where, RetryItem(rule=_rule(one))) for where, one in _each(files, "retry")),
    )


def topology_files(directory: Path) -> list[Path]:
    """The TOML files of a directory that are read."""
    return sorted(path for path in directory.glob("*.toml") if path.name != SETTINGS_FILE)


def _each(files: Files, kind: str) -> Iterator[tuple[str, Any]]:
    """The documents of a kind, each with where it stands."""
    for path, document in files:
        for number, one in enumerate(getattr(document, kind), 1):
            yield f"{path}: {kind}.{number}", one


def _unique(placed: Iterable[Placed[T]]) -> dict[str, T]:
    found: dict[str, T] = {}
    for where, item in placed:
        if item.name in found:
            raise UsageError(f"{where}: {item.name!r} is there already", hint="drop one of the two")
        found[item.name] = item
    return found


def _refer(where: str, what: str, name: str, known: Collection[str]) -> None:
    """Raises UsageError unless the name is known."""
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        cure = f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(known)) or 'none'}"
        raise UsageError(f"{where}: there is no {what} {name!r}", hint=cure)


def _storage(
    directory: Path, variables: Mapping[str, str], files: Files, sites: Collection[str]
) -> Iterator[Placed[StorageItem]]:
    for where, one in _each(files, "se"):
        _refer(f"{where}.site", "site", one.site, sites)
        catalog = _catalog(_inside(directory, one.storage, f"{where}.storage"), variables)
        _refer(
            f"{where}.protocol", f"lfn-to-pfn rule in {one.storage} for", one.protocol, catalog.protocols()
        )
        values = one.model_dump(exclude={"storage", "root"})
        root = None if one.root is None else _root(one.root, variables, f"{where}.root")
        yield where, StorageItem(**values, root=root, tfc=tfc_text(catalog.to_dict()))


def _check_apart(placed: Iterable[Placed[StorageItem]]) -> None:
    """Raises UsageError where two files, at one storage element or at two, have one PFN: deleting the one
    would delete the other."""
    taken: dict[str, str] = {}
    for where, one in placed:
        catalog = TrivialCatalog.from_dict(json.loads(one.tfc), source=one.name)
        for lfn in _PROBES:
            with suppress(NotFound):
                pfn = catalog.pfn(lfn, one.protocol).pfn
                if pfn in taken:
                    raise UsageError(
                        f"{where}.storage: {lfn} becomes {pfn}, as does {taken[pfn]}",
                        hint="give each storage element its own directory, and keep what tells LFNs apart",
                    )
                taken[pfn] = f"{lfn} at {one.name}"


def _inside(directory: Path, name: str, where: str) -> Path:
    path = Path(name)
    if path.is_absolute() or ".." in path.parts:
        raise UsageError(f"{where} = {name!r} leads out of the directory", hint=f"put it below {directory}")
    return directory / path


def _catalog(path: Path, variables: Mapping[str, str]) -> TrivialCatalog:
    """The catalogue in a storage.xml with its variables filled in."""
    try:
        if not path.is_file():
            raise UsageError(f"{path}: there is no such file", hint="write it, or correct the key storage")
        if path.stat().st_size > TEXT_MAX:
            raise UsageError(f"{path} is larger than {TEXT_MAX} bytes", hint="use fewer rules")
        text = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}", hint="check its permissions") from None
    raw = parse_storage_xml(text, source=str(path), strict=False).to_dict()
    rules = {
        kind: [
            _rule_filled(rule, variables, f"{path}: {kind} rule {number}")
            for number, rule in enumerate(listed, 1)
        ]
        for kind, listed in raw.items()
    }
    return TrivialCatalog.from_dict(rules, source=str(path))


def _rule_filled(rule: Mapping[str, str], variables: Mapping[str, str], where: str) -> dict[str, str]:
    filled = {
        name: _filled(rule[name], variables, f"{where}: {name}", escape)
        for name, escape in _ESCAPES.items()
        if name in rule
    }
    return {**rule, **filled}


def _root(text: str, variables: Mapping[str, str], where: str) -> str:
    root = _filled(text, variables, where, str)
    if not os.path.isabs(root) or len(root) > ROOT_MAX:
        raise UsageError(
            f"{where} = {root!r} is no absolute path of at most {ROOT_MAX} characters",
            hint="begin with / or ${TIERFLOW_DIR}",
        )
    return os.path.normpath(root)


def _filled(text: str, variables: Mapping[str, str], where: str, escape: Callable[[str], str]) -> str:
    def value(match: re.Match[str]) -> str:
        _refer(where, "variable", match[1], variables)
        return escape(variables[match[1]])

    return _VARIABLE.sub(value, text)


def _links(files: Files, ses: Collection[str]) -> Iterator[Placed[LinkItem]]:
    for where, one in _each(files, "link"):
        for src, dst in one.ways():
            _refer(where, "storage element", src, ses)
            _refer(where, "storage element", dst, ses)
            values = one.model_dump(exclude={"a", "b", "src", "dst"})
            yield where, LinkItem(src=src, dst=dst, **values)


def _endpoints(files: Files, sites: Collection[str]) -> Iterator[Placed[EndpointItem]]:
    for where, one in _each(files, "endpoint"):
        _refer(f"{where}.site", "site", one.site, sites)
        values = one.model_dump(exclude={"offer"})
        yield where, EndpointItem(**values, offer=one.offer.model_dump(exclude_none=True))


def _check_shares(shares: Mapping[str, ShareItem], where: str) -> None:
    nodes = [
        ShareNode(id=number, parent=None, path=one.name, target=one.target)
        for number, one in enumerate(shares.values())
    ]
    try:
        check_tree(nodes)
    except UsageError as error:
        raise UsageError(f"{where}: {error.message}", hint=error.hint) from None


def _accounts(files: Files, scopes: Collection[str]) -> Iterator[Placed[AccountItem]]:
    logins: set[str] = set()
    for where, one in _each(files, "account"):
        if one.login in logins:
            cure = "give each login one account"
            raise UsageError(f"{where}.login: {one.login!r} has an account already", hint=cure)
        logins |= {one.login} - {""}
        for scope in one.roles:
            _refer(f"{where}.roles", "group or site", scope, {EVERYWHERE, *scopes, *one.groups})
        roles = frozenset((scope, role) for scope, held in one.roles.items() for role in held)
        yield where, AccountItem(name=one.name, login=one.login, groups=frozenset(one.groups), roles=roles)


def _rule(one: RetryDocument) -> RetryRule:
    return replace(DEFAULT_RULES[one.error_class], **one.model_dump(exclude_none=True))
