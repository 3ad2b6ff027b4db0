"""The Trivial File Catalog of a storage element: LFN <-> PFN by ordered rules. Pure.

Of the rules of a protocol the first that applies wins. In the dialect of PhEDEx, the default, `path-match` is
searched anywhere in the name and the matched part is replaced by `result`; what stands before and after it is
kept. A `chain` names the protocol that rewrites the name first (lfn-to-pfn) or afterwards (pfn-to-lfn).
How WMCore and CMSSW differ: catalogs.tfc.dialects.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from catalogs.tfc.dialects import PFN_MAX, DeadEnd
from catalogs.tfc.patterns import Fault
from catalogs.tfc.resolve import Table, Way, Ways, compiled
from catalogs.tfc.rules import (
    ATTRIBUTE_MAX,
    FAULT_HINT,
    KINDS,
    Dialect,
    Kind,
    Rule,
    leads_upwards,
    listed_rules,
)
from gridcore.errors import NotFound, UsageError
from gridcore.ids import LFN_MAX, PFN

#: Ways a catalogue keeps: one for each direction, destination and kind of copy asked for.
WAYS_MAX = 1000


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
    dialect: Dialect = Dialect.PHEDEX
    _tables: dict[Kind, Table] = field(default_factory=dict, init=False, repr=False, compare=False)
    _ways: dict[tuple[Kind, str | None, bool], Ways] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @classmethod
    def from_dict(
        cls,
        values: Mapping[str, object],
        *,
        source: str,
        dialect: Dialect = Dialect.PHEDEX,
        strict: bool = True,
    ) -> TrivialCatalog:
        """The catalogue `to_dict` wrote. Raises UsageError naming the rule at fault.

        With `strict=False` a rule that cannot be run is left for `faults` to name.
        """
        to_pfn, to_lfn = (tuple(listed_rules(values, kind, source)) for kind in KINDS)
        catalog = cls(source, to_pfn, to_lfn, dialect)
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
        return [
            fault
            for kind in KINDS
            for fault in compiled(kind, self.rules(kind), self.dialect, self.source)[1]
        ]

    def pfn(
        self, lfn: str, protocol: str, *, destination: str | None = None, custodial: bool = False
    ) -> Resolved:
        """The PFN and space token of an LFN; without `destination` no destination-match is looked at.

        Raises NotFound with the reason rule by rule, UsageError for a name that is too long, holds control
        characters or leads through `..`.
        """
        ways = self._made("lfn-to-pfn", destination, custodial)
        text = self._answer(ways, protocol, lfn, "PFN")
        return Resolved(PFN(text), ways.to(protocol).token(lfn))

    def lfn(self, pfn: str, protocol: str, *, destination: str | None = None, custodial: bool = False) -> str:
        """The name the rules make of a PFN; whether it is a well-formed LFN is `check_lfn`'s matter.

        Raises NotFound with the reason rule by rule, UsageError as `pfn` does.
        """
        return self._answer(self._made("pfn-to-lfn", destination, custodial), protocol, pfn, "LFN")

    def resolver(
        self, protocol: str, *, destination: str | None = None, custodial: bool = False
    ) -> Callable[[str], str]:
        """What makes PFNs of LFNs, as `pfn` does without space tokens; to be kept by who has many of them."""
        ways = self._made("lfn-to-pfn", destination, custodial)
        run = ways.to(protocol).run

        def resolve(lfn: str) -> str:
            plain = lfn.isascii() and lfn.isprintable() and ".." not in lfn and "%" not in lfn
            if plain and 0 < len(lfn) <= LFN_MAX:
                try:
                    text = run(lfn)
                except DeadEnd:
                    text = None
                if text and ".." not in text and "%" not in text:
                    return text
            return self._answer(ways, protocol, lfn, "PFN")

        return resolve

    def pfns(
        self,
        lfns: Sequence[str],
        protocol: str,
        *,
        destination: str | None = None,
        custodial: bool = False,
    ) -> list[str]:
        """The PFNs of many LFNs, in their order; the first that has none raises as it does in `pfn`."""
        ways = self._made("lfn-to-pfn", destination, custodial)
        text = " ".join(lfns)
        plain = text.isascii() and text.isprintable() and _straight(text)
        if plain and all(0 < len(lfn) <= LFN_MAX for lfn in lfns):
            with suppress(DeadEnd):
                found = [pfn for pfn in map(ways.to(protocol).run, lfns) if pfn]
                if len(found) == len(lfns) and _straight(" ".join(found)):
                    return found
        return [self._answer(ways, protocol, lfn, "PFN") for lfn in lfns]

    def way(self, kind: Kind, protocol: str) -> Way:
        """How a protocol makes its names, rule by rule, where the destination is not known."""
        return self._made(kind, None, False).to(protocol)

    def _answer(self, ways: Ways, protocol: str, name: str, wanted: str) -> str:
        given, limits = ("LFN", LFN_MAX), ("PFN", PFN_MAX)
        if wanted == "LFN":
            given, limits = limits, given
        self._check_name(given[0], name, given[1])
        try:
            text = ways.to(protocol).run(name)
        except DeadEnd as end:
            raise self._nameless(ways, name, wanted, end.protocol, end.name) from None
        if text is None:
            raise self._nameless(ways, name, wanted, protocol, name)
        self._check_name(limits[0], text, limits[1])
        return text

    def _nameless(self, ways: Ways, name: str, wanted: str, protocol: str, last: str) -> NotFound:
        why = ways.reasons(protocol, last)
        return NotFound(f"{self.source}: {name!r} has no {wanted}: {why}", hint=FAULT_HINT)

    def _made(self, kind: Kind, destination: str | None, custodial: bool) -> Ways:
        key = (kind, destination, custodial)
        found = self._ways.get(key)
        if found is None:
            if destination is not None:
                self._check_name("destination", destination, ATTRIBUTE_MAX)
            if len(self._ways) >= WAYS_MAX:
                self._ways.clear()
            found = self._ways[key] = Ways(kind, self._table(kind), self.dialect, destination, custodial)
        return found

    def _check_name(self, what: str, text: str, limit: int) -> None:
        if not 0 < len(text) <= limit:
            size = f"{len(text)} characters; it has 1 to {limit}"
            raise UsageError(f"{self.source}: {what} of {size}", hint="correct the name or the rule's result")
        if not (text.isascii() and text.isprintable()):
            raise UsageError(f"{self.source}: {what} {text!r} is not printable ASCII", hint="rename it")
        if leads_upwards(text):
            raise UsageError(
                f"{self.source}: {what} {text!r} leads through '..'", hint="write the plain path"
            )

    def _table(self, kind: Kind) -> Table:
        if kind not in self._tables:
            table, faults = compiled(kind, self.rules(kind), self.dialect, self.source)
            if faults:
                raise UsageError(f"{self.source}: {faults[0]}", hint=FAULT_HINT)
            self._tables[kind] = table
        return self._tables[kind]


def _straight(text: str) -> bool:
    """Whether a name, or names joined, can lead nowhere but down. Rules are printable ASCII and bounded: of
    names that are plain too they make plain ones, unless these come in."""
    return ".." not in text and "%" not in text
