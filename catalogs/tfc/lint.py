"""What is wrong or doubtful in a Trivial File Catalog: shadowed rules, dangling chains, names without a PFN,
names that do not lead back. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from catalogs.tfc.catalog import TrivialCatalog
from catalogs.tfc.dialects import DeadEnd, highest_group
from catalogs.tfc.examples import example
from catalogs.tfc.rules import KINDS, Dialect, Kind, Rule, place
from gridcore.errors import GridError

SAMPLE_LFNS = (
    "/store/data/Run2026A/MinBias/RAW/v1/000/file_1.root",
    "/store/mc/Spring26/TTbar/AODSIM/v1/0001/file_2.root",
    "/store/user/alice/test/out_3.root",
    "/store/unmerged/task/0/out_4.root",
)
#: Of one kind of trouble so many names are told; the others are counted.
TOLD = 1


@dataclass(frozen=True, slots=True)
class Finding:
    """One remark of `lint`. An "error" is what loading refuses; a "warning" works, seldom as meant."""

    severity: Literal["error", "warning"]
    where: str
    what: str
    cure: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}; {self.cure}"


def lint(
    catalog: TrivialCatalog, lfns: Iterable[str] = SAMPLE_LFNS, protocols: Sequence[str] | None = None
) -> list[Finding]:
    """What loading would refuse; else what hardly works as meant.

    Tried out with these LFNs, and with one made for each rule, for these protocols, or for all.
    """
    if faults := catalog.faults():
        return [Finding("error", fault.where, fault.what, fault.cure) for fault in faults]
    doubts = [finding for kind in KINDS for finding in _doubts(kind, catalog.rules(kind), catalog.dialect)]
    lfns = list(dict.fromkeys(lfns))
    for name in catalog.protocols() if protocols is None else protocols:
        doubts += _trials(catalog, name, lfns)
    return doubts


# --- rule by rule ------------------------------------------------------------------------------------


def _doubts(kind: Kind, rules: tuple[Rule, ...], dialect: Dialect) -> Iterator[Finding]:
    protocols = {rule.protocol for rule in rules}
    read = [_as_read(rule, dialect) for rule in rules]
    for number, rule in enumerate(rules, 1):
        where = place(kind, number, rule)
        groups = re.compile(rule.path_match).groups
        highest = highest_group(rule, dialect)
        if highest > groups:
            what = f"result uses ${highest}, path-match has {groups} groups"
            cure = "it is replaced by nothing" if dialect is Dialect.PHEDEX else "it stays as it is"
            yield Finding("warning", where, what, f"add the group; {cure}")
        if rule.chain is not None and rule.chain not in protocols:
            what = f"chains to {rule.chain!r}, which has no {kind} rule"
            yield Finding("warning", where, what, "add one; until then this rule gives no name")
        for name in _ignored(rule, dialect):
            what = f"{name} means nothing in the dialect {dialect}"
            yield Finding("warning", where, what, "drop it, or use the dialect phedex")
        earlier = enumerate(read[: number - 1], 1)
        shadow = next((n for n, first in earlier if _shadows(first, read[number - 1])), None)
        if shadow is not None:
            yield Finding("warning", where, f"never reached after rule {shadow}", "move it up, or drop it")


def _as_read(rule: Rule, dialect: Dialect) -> Rule:
    """The rule without what its dialect does not look at."""
    if dialect is Dialect.PHEDEX:
        return rule
    aim = rule.destination_match if dialect is Dialect.CMSSW else None
    return replace(rule, is_custodial=None, space_token=None, destination_match=aim)


def _ignored(rule: Rule, dialect: Dialect) -> Iterator[str]:
    """The attributes it has in vain."""
    read = _as_read(rule, dialect).attributes()
    yield from (name for name in rule.attributes() if name not in read)


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


# --- name by name ------------------------------------------------------------------------------------


def _trials(catalog: TrivialCatalog, protocol: str, lfns: Sequence[str]) -> Iterator[Finding]:
    """What comes of the LFNs, and of an LFN made for each rule that no other has tried."""
    where = f"protocol {protocol!r}"
    pfns, nameless = _pfns(catalog, protocol, lfns)
    if nameless:
        cure = "add a rule, or lint with LFNs that belong here"
        yield Finding("warning", where, _told([why for _, why in nameless], "LFNs"), cure)
    yield from _collisions(where, pfns)
    if all(rule.protocol != protocol for rule in catalog.pfn_to_lfn):
        yield Finding("warning", where, "no pfn-to-lfn rule", "add one, or its PFNs cannot be told apart")
        return
    broken = [what for lfn, pfn in pfns if (what := _broken(catalog, protocol, lfn, pfn))]
    if broken:
        yield Finding("warning", where, _told(broken, "LFNs"), "correct pfn-to-lfn")
    yield from _broken_rules(catalog, protocol, [lfn for lfn, _ in pfns])


def _told(troubles: Sequence[str], noun: str) -> str:
    more = len(troubles) - TOLD
    rest = [f"and {more} more {noun}"] if more > 0 else []
    return "; ".join([*troubles[:TOLD], *rest])


def _pfns(
    catalog: TrivialCatalog, protocol: str, lfns: Sequence[str]
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """(LFN, PFN) of each that has one, and (LFN, why not) of the others."""
    resolve = catalog.resolver(protocol)
    found, nameless = [], []
    for lfn in lfns:
        try:
            found.append((lfn, resolve(lfn)))
        except GridError as error:
            nameless.append((lfn, error.message))
    return found, nameless


def _collisions(where: str, pfns: Sequence[tuple[str, str]]) -> Iterator[Finding]:
    """LFNs that share a PFN: deleting the one would delete the other."""
    taken: dict[str, str] = {}
    shared = [f"{lfn} becomes {pfn}, as does {taken[pfn]}" for lfn, pfn in pfns if _taken(taken, lfn, pfn)]
    if shared:
        cure = "keep in the result what tells LFNs apart"
        yield Finding("warning", where, _told(shared, "LFNs"), cure)


def _taken(taken: dict[str, str], lfn: str, pfn: str) -> bool:
    return taken.setdefault(pfn, lfn) != lfn


def _broken(catalog: TrivialCatalog, protocol: str, lfn: str, pfn: str) -> str | None:
    """How the way back fails; None where it leads to the LFN."""
    try:
        back = catalog.lfn(pfn, protocol)
    except GridError as error:
        return error.message
    return None if back == lfn else f"{lfn} becomes {pfn} becomes {back}"


def _broken_rules(catalog: TrivialCatalog, protocol: str, tried: Sequence[str]) -> Iterator[Finding]:
    """Rules that no LFN so far has tried and whose names do not lead back."""
    way = catalog.way("lfn-to-pfn", protocol)
    seen = {number for lfn in tried if (number := _answering(catalog, protocol, lfn)) is not None}
    for arm in way.arms:
        number, rule = arm.ready.number, arm.ready.rule
        lfn = None if number in seen or rule.chain is not None else example(rule)
        if lfn is None or _answering(catalog, protocol, lfn) != number:
            continue
        try:
            what = _broken(catalog, protocol, lfn, catalog.pfn(lfn, protocol).pfn)
        except GridError as error:
            what = error.message
        if what is not None:
            where = place("lfn-to-pfn", number, rule)
            yield Finding("warning", where, what, "correct the rule or pfn-to-lfn")


def _answering(catalog: TrivialCatalog, protocol: str, lfn: str) -> int | None:
    """The number of the rule that answers for the LFN."""
    try:
        arm = catalog.way("lfn-to-pfn", protocol).arm(lfn)
    except DeadEnd:
        return None
    return None if arm is None else arm.ready.number
