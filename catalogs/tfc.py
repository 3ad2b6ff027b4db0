"""The Trivial File Catalog of a storage element: LFN <-> PFN by ordered rules, as PhEDEx reads them. Pure.

Of the rules of a protocol the first that applies wins. `path-match` is searched anywhere in the name and the
matched part is replaced by `result`; what stands before and after it is kept. A `chain` names the protocol
that rewrites the name first (lfn-to-pfn) or afterwards (pfn-to-lfn).
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from graphlib import CycleError, TopologicalSorter
from re import _parser  # type: ignore[attr-defined]
from typing import Any, Literal, NamedTuple
from xml.sax import SAXException
from xml.sax.handler import ContentHandler
from xml.sax.saxutils import quoteattr

from defusedxml.common import DefusedXmlException
from defusedxml.expatreader import create_parser

from gridcore.errors import GridError, NotFound, UsageError
from gridcore.ids import LFN_MAX, PFN

Kind = Literal["lfn-to-pfn", "pfn-to-lfn"]
KINDS: tuple[Kind, Kind] = ("lfn-to-pfn", "pfn-to-lfn")

TEXT_MAX = 1_000_000  # bytes of a storage.xml
RULES_MAX = 1000  # of one kind
ATTRIBUTE_MAX = 500  # characters of a pattern, a result or a name
PFN_MAX = 1000
CHAIN_MAX = 16  # protocols in a row
STEPS_MAX = 1_000_000_000  # of the regex engine, at worst, for one name and protocol: about a second

SAMPLE_LFNS = (
    "/store/data/Run2026A/MinBias/RAW/v1/000/file_1.root",
    "/store/mc/Spring26/TTbar/AODSIM/v1/0001/file_2.root",
    "/store/user/alice/test/out_3.root",
    "/store/unmerged/task/0/out_4.root",
)

_FAULT_HINT = "rules count from 1 within lfn-to-pfn and within pfn-to-lfn, in the order of the file"
_XML_HINT = "a storage.xml is one <storage-mapping> of <lfn-to-pfn .../> and <pfn-to-lfn .../> rules"
_CHILDREN = {"": ("storage-mapping", "phedex"), "phedex": ("storage-mapping",), "storage-mapping": KINDS}
_DOT_DOT = re.compile(r"(?:^|[/\\=?&:]|%2f)(?:\.|%2e){2}(?:$|[/\\?&#]|%2f)", re.IGNORECASE)
_RESULT_TOKEN = re.compile(
    r"\$(?P<group>[1-9]\d?)(?!\d)|\$\{(?P<group_braced>[1-9]\d?)\}|\\(?P<group_sed>[1-9])(?!\d)"
    r"|\\(?P<quoted>[^A-Za-z0-9])|(?P<text>[^\\$]+)|(?P<bad>.)",
    re.DOTALL,
)


class _Fault(Exception):
    """(what is wrong, cure) of a rule; the caller knows which."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule as it stands in storage.xml; `is_custodial` is "y", "n", or None for both."""

    protocol: str
    path_match: str
    result: str
    chain: str | None = None
    destination_match: str | None = None
    is_custodial: str | None = None
    space_token: str | None = None

    def attributes(self) -> dict[str, str]:
        """The rule under its XML names, without what is not set."""
        values = {name: getattr(self, name.replace("-", "_")) for name in _ATTRIBUTES}
        return {name: value for name, value in values.items() if value is not None}


_ATTRIBUTES = tuple(item.name.replace("_", "-") for item in fields(Rule))


@dataclass(frozen=True, slots=True)
class Resolved:
    """Where a file is written or read: its PFN, and the space token to name to the storage, if any."""

    pfn: PFN
    space_token: str | None


@dataclass(frozen=True, slots=True)
class Finding:
    """One remark of `lint`. An "error" is what loading refuses; a "warning" works, seldom as meant."""

    severity: Literal["error", "warning"]
    where: str
    what: str
    cure: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}; {self.cure}"


@dataclass(frozen=True, slots=True)
class TrivialCatalog:
    """The rules of one storage element; `source` (file or SE) is what errors name.

    `parse_storage_xml` and `from_dict` refuse faulty rules; a catalogue made by hand is checked at the first
    lookup.
    """

    source: str
    lfn_to_pfn: tuple[Rule, ...] = ()
    pfn_to_lfn: tuple[Rule, ...] = ()
    _tables: dict[Kind, _Table] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def from_dict(cls, values: Mapping[str, object], *, source: str) -> TrivialCatalog:
        """The catalogue `to_dict` wrote. Raises UsageError naming the rule at fault."""
        catalog = cls(source, *(tuple(_listed_rules(values, kind, source)) for kind in KINDS))
        if unknown := sorted(set(values) - set(KINDS)):
            raise UsageError(f"{source}: unknown key {unknown[0]!r}; the keys are {' and '.join(KINDS)}")
        return catalog._checked()

    def to_dict(self) -> dict[str, list[dict[str, str]]]:
        """{"lfn-to-pfn": [{"protocol": .., "path-match": .., "result": ..}, ..], "pfn-to-lfn": [..]}."""
        return {kind: [rule.attributes() for rule in self.rules(kind)] for kind in KINDS}

    def to_xml(self) -> str:
        """The catalogue as a storage.xml."""
        lines = ["<storage-mapping>"]
        for kind in KINDS:
            for rule in self.rules(kind):
                pairs = " ".join(f"{name}={quoteattr(value)}" for name, value in rule.attributes().items())
                lines.append(f"  <{kind} {pairs}/>")
        return "\n".join([*lines, "</storage-mapping>\n"])

    def rules(self, kind: Kind) -> tuple[Rule, ...]:
        """The rules of one direction in the order of the file."""
        return self.lfn_to_pfn if kind == "lfn-to-pfn" else self.pfn_to_lfn

    def protocols(self) -> list[str]:
        """The protocols that have an lfn-to-pfn rule, in the order of the file."""
        return list(dict.fromkeys(rule.protocol for rule in self.lfn_to_pfn))

    def pfn(
        self, lfn: str, protocol: str, *, destination: str | None = None, custodial: bool = False
    ) -> Resolved:
        """The PFN and space token of an LFN; without `destination` no destination-match is looked at.

        Raises NotFound with the reason rule by rule, UsageError for a name that is too long, holds control
        characters or leads through `..`.
        """
        lookup = self._lookup("lfn-to-pfn", destination, custodial)
        self._check_name("LFN", lfn, LFN_MAX)
        found = lookup.forward(protocol, lfn)
        if found is None:
            why = lookup.reasons(protocol, lfn)
            raise NotFound(f"{self.source}: {lfn!r} has no PFN: {why}", hint=_FAULT_HINT)
        self._check_name("PFN", found.text, PFN_MAX)
        return Resolved(PFN(found.text), found.space_token)

    def lfn(self, pfn: str, protocol: str, *, destination: str | None = None, custodial: bool = False) -> str:
        """The name the rules make of a PFN; whether it is a well-formed LFN is `check_lfn`'s matter.

        Raises NotFound with the reason rule by rule, UsageError as `pfn` does.
        """
        lookup = self._lookup("pfn-to-lfn", destination, custodial)
        self._check_name("PFN", pfn, PFN_MAX)
        last, name, found = lookup.backward(protocol, pfn)
        if not found:
            why = lookup.reasons(last, name)
            raise NotFound(f"{self.source}: {pfn!r} has no LFN: {why}", hint=_FAULT_HINT)
        self._check_name("LFN", name, LFN_MAX)
        return name

    def _lookup(self, kind: Kind, destination: str | None, custodial: bool) -> _Lookup:
        if destination is not None:
            self._check_name("destination", destination, ATTRIBUTE_MAX)
        return _Lookup(self._table(kind), destination, "y" if custodial else "n")

    def _check_name(self, what: str, text: str, limit: int) -> None:
        if not 0 < len(text) <= limit:
            raise UsageError(f"{self.source}: {what} of {len(text)} characters; it has 1 to {limit}")
        if not (text.isascii() and text.isprintable()):
            raise UsageError(f"{self.source}: {what} {text!r} is not printable ASCII; rename it")
        if (".." in text or "%" in text) and _DOT_DOT.search(text):
            raise UsageError(f"{self.source}: {what} {text!r} leads through '..'; write the plain path")

    def _table(self, kind: Kind) -> _Table:
        if kind not in self._tables:
            table, findings = _compile(self, kind)
            if findings:
                raise UsageError(f"{self.source}: {findings[0]}", hint=_FAULT_HINT)
            self._tables[kind] = table
        return self._tables[kind]

    def _checked(self) -> TrivialCatalog:
        for kind in KINDS:
            self._table(kind)
        return self


class _Ready(NamedTuple):
    """A rule ready to run: `find` and `aim` are the bound searches of its two patterns."""

    number: int
    where: str
    rule: Rule
    find: Any
    aim: Any
    parts: tuple[str | int, ...]

    def applies(self, destination: str | None, custodial: str) -> bool:
        if self.rule.is_custodial is not None and self.rule.is_custodial != custodial:
            return False
        return self.aim is None or destination is None or self.aim(destination) is not None

    def rewrite(self, name: str) -> str | None:
        """The name with its matched part replaced, None where nothing matches."""
        match = self.find(name)
        if match is None:
            return None
        middle = "".join([part if isinstance(part, str) else match[part] or "" for part in self.parts])
        text = f"{name[: match.start()]}{middle}{name[match.end() :]}"
        if len(text) > PFN_MAX:
            raise UsageError(f"{self.where}: makes {len(text)} characters of {name!r}; at most {PFN_MAX}")
        return text


_Table = dict[str, list[_Ready]]


class _Found(NamedTuple):
    text: str
    space_token: str | None


class _Lookup:
    """One question to a table; what a chained protocol answers is kept, as several rules may chain to it."""

    __slots__ = ("_chained", "_custodial", "_destination", "_table")

    def __init__(self, table: _Table, destination: str | None, custodial: str) -> None:
        self._table = table
        self._destination = destination
        self._custodial = custodial
        self._chained: dict[str, _Found | None] = {}

    def forward(self, protocol: str, lfn: str) -> _Found | None:
        for ready in self._table.get(protocol, ()):
            if not ready.applies(self._destination, self._custodial):
                continue
            given = self._through(ready.rule.chain, lfn)
            text = None if given is None else ready.rewrite(given.text)
            if given is not None and text is not None:
                return _Found(text, ready.rule.space_token or given.space_token)
        return None

    def _through(self, chain: str | None, lfn: str) -> _Found | None:
        if chain is None:
            return _Found(lfn, None)
        if chain not in self._chained:
            self._chained[chain] = self.forward(chain, lfn)
        return self._chained[chain]

    def backward(self, protocol: str, name: str) -> tuple[str, str, bool]:
        """(protocol, name, whether it is the LFN); if not, that protocol has no rule for that name."""
        while True:
            for ready in self._table.get(protocol, ()):
                text = ready.rewrite(name) if ready.applies(self._destination, self._custodial) else None
                if text is not None:
                    break
            else:
                return protocol, name, False
            name = text
            if ready.rule.chain is None:
                return protocol, name, True
            protocol = ready.rule.chain

    def reasons(self, protocol: str, name: str) -> str:
        """Why no rule of the protocol served that name."""
        rules = self._table.get(protocol)
        if not rules:
            return f"no rule for protocol {protocol!r}, only for {', '.join(sorted(self._table)) or 'none'}"
        told = [f"rule {ready.number} {self._reason(ready)}" for ready in rules[:5]]
        more = [f"and {len(rules) - 5} more"] if len(rules) > 5 else []
        return f"protocol {protocol!r}, name {name!r}: {'; '.join(told + more)}"

    def _reason(self, ready: _Ready) -> str:
        rule = ready.rule
        if rule.is_custodial not in (None, self._custodial):
            return f"is for is-custodial={rule.is_custodial}"
        if not ready.applies(self._destination, self._custodial):
            return f"is for destinations like {rule.destination_match!r}"
        if rule.chain in self._chained and self._chained[rule.chain] is None:
            return f"chains to {rule.chain!r}, which has no name for it"
        return f"path-match {rule.path_match!r} does not match"


def parse_storage_xml(text: str | bytes, *, source: str, strict: bool = True) -> TrivialCatalog:
    """The catalogue in a storage.xml, its top element <storage-mapping>, alone or inside a <phedex> answer.

    Raises UsageError naming the source, the line or rule, and the cure; with `strict=False` faulty rules are
    left for `lint` to list.
    """
    if len(text) > TEXT_MAX:
        raise UsageError(f"{source}: {len(text)} bytes; at most {TEXT_MAX}", hint=_XML_HINT)
    parser = create_parser(forbid_dtd=True)
    reader = _Reader(source, parser.getLineNumber)
    parser.setContentHandler(reader)
    try:
        parser.feed(text)
        parser.close()
    except (SAXException, ValueError, LookupError) as error:  # defusedxml's refusals are ValueErrors
        line = parser.getLineNumber()
        raise UsageError(f"{source}: line {line}: {_xml_trouble(error)}", hint=_XML_HINT) from error
    catalog = TrivialCatalog(source, *(tuple(reader.rules[kind]) for kind in KINDS))
    return catalog._checked() if strict else catalog


def _xml_trouble(error: Exception) -> str:
    if isinstance(error, DefusedXmlException):
        return "a DTD or entity; remove it"
    what = error.getMessage() if isinstance(error, SAXException) else error
    return f"no well-formed XML ({what}); correct it"


class _Reader(ContentHandler):
    """Collects the rules; the elements it knows bound the depth of nesting."""

    def __init__(self, source: str, line: Callable[[], int]) -> None:
        super().__init__()
        self._source = source
        self._line = line
        self._path: list[str] = [""]
        self.rules: dict[str, list[Rule]] = {kind: [] for kind in KINDS}

    def startElement(self, name: str, attrs: Any) -> None:
        known = _CHILDREN.get(self._path[-1], ())
        if name not in known:
            cure = f"use {' or '.join(known)}" if known else "a rule is an empty element"
            what = f"line {self._line()}: <{name[:40]}> is not known here"
            raise UsageError(f"{self._source}: {what}; {cure}", hint=_XML_HINT)
        self._path.append(name)
        if name in self.rules:
            rules = self.rules[name]
            rules.append(_rule(dict(attrs.items()), f"{self._source}: {name} rule {len(rules) + 1}"))

    def endElement(self, name: str) -> None:
        self._path.pop()


def _listed_rules(values: Mapping[str, object], kind: Kind, source: str) -> Iterator[Rule]:
    listed = values.get(kind, [])
    if not isinstance(listed, list):
        raise UsageError(f"{source}: {kind} is no list; write a list of rules")
    for number, item in enumerate(listed, 1):
        yield _rule(item, f"{source}: {kind} rule {number}")


def _rule(values: object, where: str) -> Rule:
    """The rule under its XML names; an optional attribute left blank counts as left out."""
    if not isinstance(values, Mapping) or not all(isinstance(value, str) for value in values.values()):
        raise UsageError(f"{where} is no table of texts; write its attributes as texts", hint=_FAULT_HINT)
    where += f" (protocol {str(values.get('protocol'))[:40]!r})"
    if unknown := [name for name in values if name not in _ATTRIBUTES]:
        what = f"unknown attribute {str(unknown[0])[:40]!r}; known are {', '.join(_ATTRIBUTES)}"
        raise UsageError(f"{where}: {what}", hint=_FAULT_HINT)
    if missing := [name for name in _ATTRIBUTES[:3] if name not in values]:
        raise UsageError(f'{where}: no {missing[0]}; add {missing[0]}="..."', hint=_FAULT_HINT)
    required = [values[name] for name in _ATTRIBUTES[:3]]
    return Rule(*required, *(values.get(name) or None for name in _ATTRIBUTES[3:]))


def lint(catalog: TrivialCatalog, lfns: Iterable[str] = SAMPLE_LFNS) -> list[Finding]:
    """What loading would refuse; else what hardly works as meant, tried out with the sample LFNs."""
    errors = [finding for kind in KINDS for finding in _compile(catalog, kind)[1]]
    if errors:
        return errors
    doubts = [finding for kind in KINDS for finding in _doubts(kind, catalog.rules(kind))]
    lfns = list(lfns)
    return doubts + [remark for name in catalog.protocols() for remark in _round_trips(catalog, name, lfns)]


def _doubts(kind: Kind, rules: tuple[Rule, ...]) -> Iterator[Finding]:
    protocols = {rule.protocol for rule in rules}
    for number, rule in enumerate(rules, 1):
        where = _where(kind, number, rule)
        groups = re.compile(rule.path_match).groups
        highest = max((part for part in _template(rule.result) if isinstance(part, int)), default=0)
        if highest > groups:
            what = f"result uses ${highest}, path-match has {groups} groups"
            yield Finding("warning", where, what, "add the group; it is replaced by nothing")
        if rule.chain is not None and rule.chain not in protocols:
            what = f"chains to {rule.chain!r}, which has no {kind} rule"
            yield Finding("warning", where, what, "add one; until then this rule gives no name")
        shadow = next((n for n, first in enumerate(rules[: number - 1], 1) if _shadows(first, rule)), None)
        if shadow is not None:
            yield Finding("warning", where, f"never reached after rule {shadow}", "move it up, or drop it")


def _shadows(first: Rule, second: Rule) -> bool:
    """Whether the first surely takes all the second could: same pattern, or an open one it begins with."""
    if (
        first.protocol != second.protocol
        or first.destination_match not in (None, second.destination_match)
        or first.is_custodial not in (None, second.is_custodial)
    ):
        return False
    whole = first.path_match.removesuffix("$")
    start = whole.removesuffix("(.*)").removesuffix(".*")
    if start in ("", "^") and start != whole:
        return first.chain in (None, second.chain)
    if first.chain != second.chain:
        return False
    if first.path_match == second.path_match:
        return True
    rest = second.path_match.removeprefix(start)
    if start == whole or rest == second.path_match or start.endswith("\\") or "|" in second.path_match:
        return False
    return rest[:1] not in ("*", "?", "{")


def _round_trips(catalog: TrivialCatalog, protocol: str, lfns: list[str]) -> Iterator[Finding]:
    where = f"protocol {protocol!r}"
    if all(rule.protocol != protocol for rule in catalog.pfn_to_lfn):
        yield Finding("warning", where, "no pfn-to-lfn rule", "add one, or its PFNs cannot be told apart")
        return
    for lfn in lfns:
        try:
            pfn = catalog.pfn(lfn, protocol).pfn
            back = catalog.lfn(pfn, protocol)
        except GridError as error:
            yield Finding("warning", where, error.message, "add a rule, or lint with LFNs that belong here")
            continue
        if back != lfn:
            yield Finding("warning", where, f"{lfn} becomes {pfn} becomes {back}", "correct pfn-to-lfn")


def _compile(catalog: TrivialCatalog, kind: Kind) -> tuple[_Table, list[Finding]]:
    """The rules ready to run, by protocol, and every fault that forbids to run them."""
    table: _Table = {}
    faults: list[Finding] = []
    spent: dict[str, int] = {}
    rules = catalog.rules(kind)
    if len(rules) > RULES_MAX:
        return table, [Finding("error", kind, f"{len(rules)} rules", f"at most {RULES_MAX}")]
    for number, rule in enumerate(rules, 1):
        where = _where(kind, number, rule)
        try:
            ready, steps = _prepare(number, f"{catalog.source}: {where}", rule)
            spent[rule.protocol] = spent.get(rule.protocol, 0) + steps
            if spent[rule.protocol] > STEPS_MAX:
                raise _Fault("may take too long to match", "fewer wildcards, '[^/]+' for '.*', '^' in front")
            table.setdefault(rule.protocol, []).append(ready)
        except _Fault as fault:
            faults.append(Finding("error", where, *fault.args))
    return table, faults + list(_chain_faults(kind, rules))


def _where(kind: Kind, number: int, rule: Rule) -> str:
    return f"{kind} rule {number} (protocol {rule.protocol[:40]!r})"


def _prepare(number: int, where: str, rule: Rule) -> tuple[_Ready, int]:
    for name, text in rule.attributes().items():
        if len(text) > ATTRIBUTE_MAX or not (text.isascii() and text.isprintable()):
            raise _Fault(f"{name} of {len(text)} characters", f"at most {ATTRIBUTE_MAX}, printable ASCII")
    if not rule.protocol or not rule.path_match:
        raise _Fault("protocol or path-match is empty", "write both")
    if rule.is_custodial not in (None, "y", "n"):
        raise _Fault(f"is-custodial={rule.is_custodial!r}", "write y or n, or leave it out for both")
    if _DOT_DOT.search(rule.result):
        raise _Fault(f"result {rule.result!r} leads through '..'", "write the plain path")
    pattern, anchored, steps = _pattern("path-match", rule.path_match)
    find, aim = pattern.match if anchored else pattern.search, None
    if rule.destination_match is not None:
        destination, _, more = _pattern("destination-match", rule.destination_match)
        aim, steps = destination.search, steps + more
    parts = tuple(part for part in _template(rule.result) if isinstance(part, str) or part <= pattern.groups)
    return _Ready(number, where, rule, find, aim, parts), steps


def _template(result: str) -> Iterator[str | int]:
    """The texts and group numbers of a Perl replacement."""
    for token in _RESULT_TOKEN.finditer(result):
        what = token.lastgroup or ""
        if what == "bad":
            raise _Fault(f"stray {token[0]!r} in result {result!r}", r"groups are $1 to $99, a dollar \$")
        yield int(token[what]) if what.startswith("group") else token[what]


def _chain_faults(kind: Kind, rules: tuple[Rule, ...]) -> Iterator[Finding]:
    chains: dict[str, list[str]] = {}
    for rule in rules:
        if rule.chain is not None:
            chains.setdefault(rule.protocol, []).append(rule.chain)
    depth: dict[str, int] = {}
    try:
        for protocol in TopologicalSorter(chains).static_order():
            depth[protocol] = 1 + max((depth[chain] for chain in chains.get(protocol, ())), default=0)
    except CycleError as loop:
        path = loop.args[1][::-1]
        more = " -> ..." if len(path) > 6 else ""
        what, link = f"chain loop {' -> '.join(path[:6])}{more}", tuple(path[:2])
    else:
        deepest = max(depth, key=lambda protocol: depth[protocol], default="")
        if depth.get(deepest, 0) <= CHAIN_MAX:
            return
        what, link = f"chain of {depth[deepest]} protocols", (deepest, chains[deepest][0])
    number, rule = next((n, r) for n, r in enumerate(rules, 1) if (r.protocol, r.chain) == link)
    cure = f"drop a chain: at most {CHAIN_MAX} in a row and no loop"
    yield Finding("error", _where(kind, number, rule), what, cure)


_Item = tuple[str, Any]
_ONE_CHARACTER = ("ANY", "LITERAL", "NOT_LITERAL", "IN")
_PRINTABLE = string.printable[:95]
_ANYTHING = frozenset(_PRINTABLE.lower())


def _pattern(name: str, text: str) -> tuple[re.Pattern[str], bool, int]:
    """(pattern, whether one try at the start of the name suffices, steps it may take at worst)."""
    if "[:" in text:
        raise _Fault(f"{name} {text!r} uses a POSIX class", r"write \d, \w or a range")
    try:
        if text.count("(") > 99:
            raise ValueError("more than 99 groups")
        pattern = re.compile(text, re.ASCII)
        items = _flat(_parser.parse(text, re.ASCII))
    except (re.error, ValueError, OverflowError, RecursionError, Warning) as error:
        raise _Fault(f"{name} {text!r} cannot be read: {error}", "correct the pattern") from None
    if len(items) > 1 and items[-1] == ("AT", _parser.AT_END) and _is_dot_star(items[-2]):
        items.pop()  # `.*$` always succeeds, like `.*`
    # Behind a leading `.*` what matches anywhere also matches from the start, unless a group is repeated.
    anchored = items[:1] == [("AT", _parser.AT_BEGINNING)] or (
        any(map(_is_dot_star, items[:1])) and not re.search(r"\\\d|\(\?P=|\(\?\(", text)
    )
    try:
        return pattern, anchored, _steps(items, 0) * (1 if anchored else _places(items)) + PFN_MAX
    except _Fault as fault:
        raise _Fault(f"{name} {text!r} {fault.args[0]}", fault.args[1]) from None


def _flat(parsed: Iterable[Any]) -> list[_Item]:
    """The parsed pattern without its groups; every kind of repetition is ("REPEAT", (low, high, items))."""
    items: list[_Item] = []
    for code, value in parsed:
        name = str(code)
        if name in ("SUBPATTERN", "ATOMIC_GROUP"):
            items += _flat(value[3] if name == "SUBPATTERN" else value)
        elif name.endswith("_REPEAT"):
            items.append(("REPEAT", (int(value[0]), int(value[1]), _flat(value[2]))))
        else:
            items.append((name, value))
    return items


def _is_dot_star(item: _Item) -> bool:
    return item[0] == "REPEAT" and item[1][0] <= 1 < PFN_MAX <= item[1][1] and item[1][2] == [("ANY", None)]


def _steps(items: list[_Item], after: int) -> int:
    """Steps the engine may take over the items if each success costs `after` more; 0: nothing follows."""
    for index in range(len(items) - 1, -1, -1):
        name, value = items[index]
        if name == "REPEAT":
            after = _repeat_steps(value, items[index + 1 :], after)
        elif name == "BRANCH":
            after = sum(_steps(_flat(arm), after) for arm in value[1])
        elif name in ("ASSERT", "ASSERT_NOT"):
            after += _steps(_flat(value[1]), 1)
        elif name == "GROUPREF_EXISTS":
            raise _Fault("has a condition", "write two rules")
        else:
            after += PFN_MAX if name == "GROUPREF" else 1
    return after


def _repeat_steps(repeat: tuple[int, int, list[_Item]], rest: list[_Item], after: int) -> int:
    low, high, body = repeat
    if high == 1:
        return _steps(body, after) + after
    if any(name in ("REPEAT", "BRANCH") for name, _ in body):
        raise _Fault("repeats what itself repeats or branches", "write '[^/]*' or '.*' for the whole")
    if after == 0 and low <= 1 and len(body) == 1 and body[0][0] in _ONE_CHARACTER:
        return 1
    turns = max(low, min(high, PFN_MAX))
    definite = low == high or (len(body) == 1 and _chars(body[0]).isdisjoint(_first(rest)))
    ends = 1 if definite else min(turns, _places(rest))
    return turns * _steps(body, 1) + ends * after


def _places(items: list[_Item]) -> int:
    """At how many characters of a name the literal text in front of the items can begin."""
    run = ""
    for name, value in items:
        if name != "LITERAL":
            break
        run += chr(value).lower()
    period = next((n for n in range(1, len(run) + 1) if run[n:] == run[: len(run) - n]), 1)
    return PFN_MAX // period + 1


def _first(items: list[_Item]) -> frozenset[str]:
    """The characters the items can begin with, in lower case; rather too many than too few."""
    if not items:
        return _ANYTHING
    name, value = items[0]
    if name == "AT" and value == _parser.AT_END:
        return frozenset()
    if name == "REPEAT" and value[0] > 0:
        return _first(value[2])
    return _chars(items[0])


def _chars(item: _Item) -> frozenset[str]:
    name, value = item
    if name == "LITERAL":
        return frozenset(chr(value).lower())
    if name == "NOT_LITERAL":
        return frozenset(char.lower() for char in _PRINTABLE if char != chr(value))
    return _ANYTHING
