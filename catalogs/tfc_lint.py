"""What is wrong or doubtful in a Trivial File Catalog: shadowed rules, dangling chains, round trips. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from catalogs.tfc import KINDS, Kind, Rule, TrivialCatalog, place, template
from gridcore.errors import GridError

SAMPLE_LFNS = (
    "/store/data/Run2026A/MinBias/RAW/v1/000/file_1.root",
    "/store/mc/Spring26/TTbar/AODSIM/v1/0001/file_2.root",
    "/store/user/alice/test/out_3.root",
    "/store/unmerged/task/0/out_4.root",
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One remark of `lint`. An "error" is what loading refuses; a "warning" works, seldom as meant."""

    severity: Literal["error", "warning"]
    where: str
    what: str
    cure: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}; {self.cure}"


def lint(catalog: TrivialCatalog, lfns: Iterable[str] = SAMPLE_LFNS) -> list[Finding]:
    """What loading would refuse; else what hardly works as meant, tried out with the sample LFNs."""
    if faults := catalog.faults():
        return [Finding("error", fault.where, fault.what, fault.cure) for fault in faults]
    doubts = [finding for kind in KINDS for finding in _doubts(kind, catalog.rules(kind))]
    lfns = list(lfns)
    return doubts + [remark for name in catalog.protocols() for remark in _round_trips(catalog, name, lfns)]


def _doubts(kind: Kind, rules: tuple[Rule, ...]) -> Iterator[Finding]:
    protocols = {rule.protocol for rule in rules}
    for number, rule in enumerate(rules, 1):
        where = place(kind, number, rule)
        groups = re.compile(rule.path_match).groups
        highest = max((part for part in template(rule.result) if isinstance(part, int)), default=0)
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
