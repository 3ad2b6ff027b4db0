"""The rules of a Trivial File Catalog as they stand in a file, and the ways of reading them. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Literal

from gridcore.errors import UsageError

Kind = Literal["lfn-to-pfn", "pfn-to-lfn"]
KINDS: tuple[Kind, Kind] = ("lfn-to-pfn", "pfn-to-lfn")

RULES_MAX = 1000  # of one kind
ATTRIBUTE_MAX = 500  # characters of a pattern, a result or a name

FAULT_HINT = "rules count from 1 within lfn-to-pfn and within pfn-to-lfn, in the order of the file"
_DOT_DOT = re.compile(r"(?:^|[/\\=?&:]|%2f)(?:\.|%2e){2}(?:$|[/\\?&#]|%2f)", re.IGNORECASE)


class Dialect(StrEnum):
    """Whose reading of the rules counts; they differ in what a pattern must fit, in chains and in groups."""

    PHEDEX = "phedex"
    WMCORE = "wmcore"
    CMSSW = "cmssw"


def dialect_of(text: str | None, source: str) -> Dialect:
    """The dialect of that name; None is the first. Raises UsageError."""
    try:
        return Dialect.PHEDEX if text is None else Dialect(text)
    except ValueError:
        raise UsageError(
            f"{source}: there is no dialect {text!r}", hint=f"dialects: {', '.join(Dialect)}"
        ) from None


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


def listed_rules(values: Mapping[str, object], kind: Kind, source: str) -> Iterator[Rule]:
    """The rules of one direction under their XML names. Raises UsageError naming the rule at fault."""
    listed = values.get(kind, [])
    if not isinstance(listed, list):
        raise UsageError(f"{source}: {kind} is no list", hint="write a list of rules")
    for number, item in enumerate(listed, 1):
        yield _rule(item, f"{source}: {kind} rule {number}")


def _rule(values: object, where: str) -> Rule:
    """The rule under its XML names; an optional attribute left blank counts as left out."""
    if not isinstance(values, Mapping) or not all(isinstance(value, str) for value in values.values()):
        raise UsageError(f"{where} is no table of texts; write its attributes as texts", hint=FAULT_HINT)
    where += f" (protocol {str(values.get('protocol'))[:40]!r})"
    if unknown := [name for name in values if name not in _ATTRIBUTES]:
        what = f"unknown attribute {str(unknown[0])[:40]!r}; known are {', '.join(_ATTRIBUTES)}"
        raise UsageError(f"{where}: {what}", hint=FAULT_HINT)
    if missing := [name for name in _ATTRIBUTES[:3] if name not in values]:
        raise UsageError(f'{where}: no {missing[0]}; add {missing[0]}="..."', hint=FAULT_HINT)
    required = [values[name] for name in _ATTRIBUTES[:3]]
    return Rule(*required, *(values.get(name) or None for name in _ATTRIBUTES[3:]))


def place(kind: Kind, number: int, rule: Rule) -> str:
    """How remarks name a rule; `number` counts from 1."""
    return f"{kind} rule {number} (protocol {rule.protocol[:40]!r})"


def leads_upwards(text: str) -> bool:
    """Whether a name leads through `..`, written out or as %2e."""
    return (".." in text or "%" in text) and _DOT_DOT.search(text) is not None
