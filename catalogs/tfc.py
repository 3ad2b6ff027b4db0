"""The Trivial File Catalog of a storage element: LFN <-> PFN by ordered rules, as PhEDEx reads them. Pure.

Of the rules of a protocol the first that applies wins. `path-match` is searched anywhere in the name and the
matched part is replaced by `result`; what stands before and after it is kept. A `chain` names the protocol
that rewrites the name first (lfn-to-pfn) or afterwards (pfn-to-lfn).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from graphlib import CycleError, TopologicalSorter
from typing import Literal, NamedTuple

from catalogs.tfc_patterns import NAME_MAX, Fault, Search, guard
from gridcore.errors import NotFound, UsageError
from gridcore.ids import LFN_MAX, PFN

Kind = Literal["lfn-to-pfn", "pfn-to-lfn"]
KINDS: tuple[Kind, Kind] = ("lfn-to-pfn", "pfn-to-lfn")

RULES_MAX = 1000  # of one kind
ATTRIBUTE_MAX = 500  # characters of a pattern, a result or a name
PFN_MAX = NAME_MAX
CHAIN_MAX = 16  # protocols in a row
STEPS_MAX = 1_000_000_000  # of the regex engine, at worst, for one name and protocol: about a second

_FAULT_HINT = "rules count from 1 within lfn-to-pfn and within pfn-to-lfn, in the order of the file"
_DOT_DOT = re.compile(r"(?:^|[/\\=?&:]|%2f)(?:\.|%2e){2}(?:$|[/\\?&#]|%2f)", re.IGNORECASE)
_RESULT_TOKEN = re.compile(
    r"\$(?P<group>[1-9]\d?)(?!\d)|\$\{(?P<group_braced>[1-9]\d?)\}|\\(?P<group_sed>[1-9])(?!\d)"
    r"|\\(?P<quoted>[^A-Za-z0-9])|(?P<text>[^\\$]+)|(?P<bad>.)",
    re.DOTALL,
)


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
class TrivialCatalog:
    """The rules of one storage element; `source` (file or SE) is what errors name.

    `from_dict` refuses faulty rules; a catalogue made by hand is checked at the first lookup.
    """

    source: str
    lfn_to_pfn: tuple[Rule, ...] = ()
    pfn_to_lfn: tuple[Rule, ...] = ()
    _tables: dict[Kind, _Table] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def from_dict(cls, values: Mapping[str, object], *, source: str, strict: bool = True) -> TrivialCatalog:
        """The catalogue `to_dict` wrote. Raises UsageError naming the rule at fault.

        With `strict=False` a rule that cannot be run is left for `faults` to name.
        """
        catalog = cls(source, *(tuple(_listed_rules(values, kind, source)) for kind in KINDS))
        if unknown := sorted(set(values) - set(KINDS)):
            raise UsageError(
                f"{source}: unknown key {unknown[0]!r}", hint=f"the keys are {' and '.join(KINDS)}"
            )
        if strict:
            for kind in KINDS:
                catalog._table(kind)
        return catalog

    def to_dict(self) -> dict[str, list[dict[str, str]]]:
        """{"lfn-to-pfn": [{"protocol": .., "path-match": .., "result": ..}, ..], "pfn-to-lfn": [..]}."""
        return {kind: [rule.attributes() for rule in self.rules(kind)] for kind in KINDS}

    def rules(self, kind: Kind) -> tuple[Rule, ...]:
        """The rules of one direction in the order of the file."""
        return self.lfn_to_pfn if kind == "lfn-to-pfn" else self.pfn_to_lfn

    def protocols(self) -> list[str]:
        """The protocols that have an lfn-to-pfn rule, in the order of the file."""
        return list(dict.fromkeys(rule.protocol for rule in self.lfn_to_pfn))

    def faults(self) -> list[Fault]:
        """Every fault for which loading refuses the rules."""
        return [fault for kind in KINDS for fault in _compile(self, kind)[1]]

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
            size = f"{len(text)} characters; it has 1 to {limit}"
            raise UsageError(f"{self.source}: {what} of {size}", hint="correct the name or the rule's result")
        if not (text.isascii() and text.isprintable()):
            raise UsageError(f"{self.source}: {what} {text!r} is not printable ASCII", hint="rename it")
        if (".." in text or "%" in text) and _DOT_DOT.search(text):
            raise UsageError(
                f"{self.source}: {what} {text!r} leads through '..'", hint="write the plain path"
            )

    def _table(self, kind: Kind) -> _Table:
        if kind not in self._tables:
            table, faults = _compile(self, kind)
            if faults:
                raise UsageError(f"{self.source}: {faults[0]}", hint=_FAULT_HINT)
            self._tables[kind] = table
        return self._tables[kind]


class _Ready(NamedTuple):
    """A rule ready to run: `find` searches path-match, `aim` destination-match."""

    number: int
    where: str
    rule: Rule
    find: Search
    aim: Search | None
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
            what = f"makes {len(text)} characters of {name!r}; at most {PFN_MAX}"
            raise UsageError(f"{self.where}: {what}", hint="shorten the rule's result")
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


def _listed_rules(values: Mapping[str, object], kind: Kind, source: str) -> Iterator[Rule]:
    listed = values.get(kind, [])
    if not isinstance(listed, list):
        raise UsageError(f"{source}: {kind} is no list", hint="write a list of rules")
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


def _compile(catalog: TrivialCatalog, kind: Kind) -> tuple[_Table, list[Fault]]:
    """The rules ready to run, by protocol, and every fault that forbids to run them."""
    table: _Table = {}
    faults: list[Fault] = []
    spent: dict[str, int] = {}
    rules = catalog.rules(kind)
    if len(rules) > RULES_MAX:
        return table, [Fault(f"{len(rules)} rules", f"at most {RULES_MAX}", kind)]
    for number, rule in enumerate(rules, 1):
        where = place(kind, number, rule)
        try:
            ready, steps = _prepare(number, f"{catalog.source}: {where}", rule)
            spent[rule.protocol] = spent.get(rule.protocol, 0) + steps
            if spent[rule.protocol] > STEPS_MAX:
                raise Fault("may take too long to match", "fewer wildcards, '[^/]+' for '.*', '^' in front")
            table.setdefault(rule.protocol, []).append(ready)
        except Fault as fault:
            faults.append(Fault(fault.what, fault.cure, where))
    return table, faults + list(_chain_faults(kind, rules))


def place(kind: Kind, number: int, rule: Rule) -> str:
    """How remarks name a rule; `number` counts from 1."""
    return f"{kind} rule {number} (protocol {rule.protocol[:40]!r})"


def _prepare(number: int, where: str, rule: Rule) -> tuple[_Ready, int]:
    for name, text in rule.attributes().items():
        if len(text) > ATTRIBUTE_MAX or not (text.isascii() and text.isprintable()):
            raise Fault(f"{name} of {len(text)} characters", f"at most {ATTRIBUTE_MAX}, printable ASCII")
    if not rule.protocol or not rule.path_match:
        raise Fault("protocol or path-match is empty", "write both")
    if rule.is_custodial not in (None, "y", "n"):
        raise Fault(f"is-custodial={rule.is_custodial!r}", "write y or n, or leave it out for both")
    if _DOT_DOT.search(rule.result):
        raise Fault(f"result {rule.result!r} leads through '..'", "write the plain path")
    path, aim, steps = guard("path-match", rule.path_match), None, 0
    if rule.destination_match is not None:
        aim, _, steps = guard("destination-match", rule.destination_match)
    parts = tuple(part for part in template(rule.result) if isinstance(part, str) or part <= path.groups)
    return _Ready(number, where, rule, path.search, aim, parts), path.steps + steps


def template(result: str) -> Iterator[str | int]:
    """The texts and group numbers of a Perl replacement. Raises Fault for a stray dollar or backslash."""
    for token in _RESULT_TOKEN.finditer(result):
        what = token.lastgroup or ""
        if what == "bad":
            raise Fault(f"stray {token[0]!r} in result {result!r}", r"groups are $1 to $99, a dollar \$")
        yield int(token[what]) if what.startswith("group") else token[what]


def _chain_faults(kind: Kind, rules: tuple[Rule, ...]) -> Iterator[Fault]:
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
    yield Fault(what, cure, place(kind, number, rule))
