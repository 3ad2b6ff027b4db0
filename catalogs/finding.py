"""The language that finds datasets, such as `tier=DST site=T1_* energy<8`, and what a query means. Pure.

A dataset's facts, for `gridcore.selectors.matches`, are by field: its runs, files and names of sites as sets,
lumis as a set of (run, first, last), what a walk leads to as a list of such facts.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

from catalogs.states import Access, DatasetState
from gridcore.errors import UsageError
from gridcore.ids import check_lfn, split_lfn
from gridcore.selector_values import near
from gridcore.selectors import (
    AMOUNT,
    DATE,
    FREE,
    NAME,
    NEGATED,
    ORDERED,
    RANGE,
    SPAN,
    WALK,
    WILDCARDS,
    WORD,
    All,
    Between,
    Compare,
    Field,
    Glob,
    Language,
    Nested,
    Not,
    Op,
    Selector,
    Value,
    edge,
    fields_of,
    only,
)

#: `access=*`: whatever it is.
ANY_ACCESS = "*"
#: No lumi has a higher number.
LUMI_MAX = 10**18

FIELDS: Mapping[str, Field] = {
    "dataset": Field(NAME, "its whole name, /primary/processed/TIER"),
    "primary": Field(NAME, "the first part of its name"),
    "processed": Field(NAME, "the second part of its name"),
    "tier": Field(NAME, "the last part of its name"),
    "access": Field(
        WORD,
        "what it is good for; VALID unless the query names it",
        (*(one.value for one in Access), ANY_ACCESS),
    ),
    "state": Field(WORD, "whether it still grows", tuple(one.value for one in DatasetState)),
    "group": Field(NAME, "the group it belongs to"),
    "files": Field(AMOUNT, "files registered in it: 200, 5k"),
    "bytes": Field(AMOUNT, "their size: 500G, 1.5T"),
    "events": Field(AMOUNT, "events in them"),
    "blocks": Field(AMOUNT, "its blocks"),
    "age": Field(SPAN, "time since it was made: 2h, 3d, 5w"),
    "created": Field(DATE, "when it was made: 2026-11-01, or 2026-11-01T12:30, in UTC"),
    "site": Field(NAME, "a site that has some of it"),
    "se": Field(NAME, "a storage element that has some of it"),
    "complete": Field(NAME, "a site that has all its closed blocks on one storage element"),
    "custodial": Field(NAME, "a site that keeps some of it for good"),
    "run": Field(RANGE, "a run with events in it: 7, or 7-9"),
    "lumi": Field(RANGE, "a luminosity section; only beside one run: run=7 lumi=3-5"),
    "parent": Field(WALK, "what it was made from: a name, or parent(tier=RAW)", through="dataset"),
    "child": Field(WALK, "what was made from it", through="dataset"),
    "ancestor": Field(WALK, "its parents, their parents, and so on", through="dataset"),
    "descendant": Field(WALK, "its children, their children, and so on", through="dataset"),
    "file": Field(NAME, "the LFN of a file in it; wildcards in the last part, or beside a dataset's name"),
}
DATASETS = Language(
    FIELDS,
    adjacency_is_and=True,
    free=Field(FREE, "metadata: a number or a text"),
    said="the query",
    example="collision=AuAu energy<8 tier=DST site=T1_*",
    path="dataset",
    pattern_max=200,
    wildcards_max=8,
    list_max=1000,
    walks_max=3,
)
_VALID = Compare("access", Op.EQ, (Access.VALID.value,))


@dataclass(frozen=True, slots=True)
class Lumis:
    """Luminosity sections of one run, both ends within; none where the last is before the first."""

    run: int
    first: int
    last: int

    def fits(self, has: tuple[int, int, int], /) -> bool:
        """Whether (run, first, last) has one of them."""
        run, first, last = has
        return run == self.run and max(first, self.first) <= min(last, self.last)


@dataclass(frozen=True, slots=True)
class InDir:
    """Files of one directory whose name matches a pattern, which does not reach into others."""

    path: str
    name: Glob

    def fits(self, has: str, /) -> bool:
        """Whether an LFN is one of them."""
        path, name = split_lfn(has)
        return path == self.path and self.name.fits(name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What a query asks of the database.

    `where` is the query with its default access, `access=*` written out, each lumi with its run as Lumis, and
    patterns of files with a directory as InDir; `asked` is the same without the default access.
    `fields` are those asked of the datasets found, not of what walks lead to; `metadata` are names of either.
    `start` is what every name found begins with; `only_valid` says that the query did not name the access.
    """

    where: Selector
    asked: Selector
    fields: frozenset[str]
    metadata: frozenset[str]
    start: str
    only_valid: bool


@dataclass(frozen=True, slots=True)
class _Around:
    """What stands beside a condition, joined by `and`: the ranges of runs, and whether datasets are named."""

    runs: tuple[Value, ...] = ()
    named: bool = False

    def and_(self, one: All) -> _Around:
        beside = [each for part in one.parts for each in _conjuncts(part)]
        runs = [value for each in beside for value in _values(each, "run")]
        return _Around((*self.runs, *runs), self.named or only(one, "dataset") is not None)

    def run(self) -> int:
        """The one run that is meant. Raises UsageError."""
        if len(set(self.runs)) == 1 and isinstance(one := self.runs[0], Between) and one.first == one.last:
            return int(one.first)
        raise UsageError("the query asks for a lumi without one run", hint="such as: run=7 lumi=3-5")


def plan(query: Selector) -> Search:
    """What a query in the language DATASETS asks. Raises UsageError for what would take too long to find."""
    settled = _settled(query, _Around())
    unnamed = "access" not in fields_of(query)
    return Search(
        where=All((settled, _VALID)) if unnamed else settled,
        asked=settled,
        fields=fields_of(settled) | {"access"} if unnamed else fields_of(settled),
        metadata=frozenset(one.field for one in _compares(settled)) - FIELDS.keys(),
        start=_start(settled),
        only_valid=unnamed,
    )


def others(search: Search) -> Search:
    """What the default access leaves out of a search with `only_valid`."""
    invalid = Compare("access", Op.NE, _VALID.values)
    return replace(search, where=All((search.asked, invalid)), only_valid=False)


def check_metadata(search: Search, known: Collection[str]) -> None:
    """Raise UsageError for metadata that no dataset has; `known` are the names that there are."""
    for name in sorted(search.metadata - set(known)):
        raise UsageError(
            f"there is no field {name!r}, and no dataset has metadata of that name",
            hint=near(name, [*FIELDS, *sorted(known)], "there are"),
        )


# --- settling -------------------------------------------------------------------------------------------


def _settled(one: Selector, around: _Around) -> Selector:
    if isinstance(one, Compare):
        return _compared(one, around)
    if isinstance(one, Not):
        return Not(_settled(one.of, around))
    inside = around.and_(one) if isinstance(one, All) else around
    return replace(one, parts=tuple(_settled(part, inside) for part in one.parts))


def _compared(one: Compare, around: _Around) -> Compare:
    if one.field == "access" and ANY_ACCESS in one.values:
        op = Op.NOT_IN if one.op in NEGATED else Op.IN
        return Compare("access", op, tuple(access.value for access in Access))
    if one.field == "lumi":
        run = around.run()
        op = Op.EQ if one.op in ORDERED else one.op
        return Compare("lumi", op, tuple(_lumis(run, one.op, value) for value in one.values))
    if one.field == "file":
        return replace(one, values=tuple(_file(value, around) for value in one.values))
    of = one.values[0]
    return replace(one, values=(Nested(_settled(of.of, _Around())),)) if isinstance(of, Nested) else one


def _lumis(run: int, op: Op, value: Value) -> Lumis:
    """An order is a range to the end."""
    at = edge(op, value)
    if op in (Op.GT, Op.GE):
        return Lumis(run, at + (op == Op.GT), LUMI_MAX)
    if op in (Op.LT, Op.LE):
        return Lumis(run, 0, at - (op == Op.LT))
    return Lumis(run, value.first, value.last) if isinstance(value, Between) else Lumis(run, at, at)


def _file(value: Value, around: _Around) -> Value:
    if isinstance(value, str):
        return check_lfn(value)
    if not isinstance(value, Glob):
        return value
    path, slash, name = value.pattern.rpartition("/")
    if slash and set(name) & WILDCARDS and not set(path) & WILDCARDS:
        return InDir(path, Glob(name))
    if not around.named:
        raise UsageError(
            f"file={value.pattern} would look through all files",
            hint="name the directory, file=/store/mc/a/*.root, or the dataset beside it",
        )
    return value


# --- looking --------------------------------------------------------------------------------------------


def _values(one: Selector, field: str) -> tuple[Value, ...]:
    """The values of which this field must have one; none where that is not what is said."""
    if isinstance(one, Compare) and one.field == field and one.op in (Op.EQ, Op.IN):
        return one.values
    return ()


def _conjuncts(one: Selector) -> Iterator[Selector]:
    """What must all be so."""
    if isinstance(one, All):
        for part in one.parts:
            yield from _conjuncts(part)
    else:
        yield one


def _compares(one: Selector) -> Iterator[Compare]:
    """All comparisons, those within walks too."""
    if isinstance(one, Compare):
        yield one
        for value in one.values:
            if isinstance(value, Nested):
                yield from _compares(value.of)
    elif isinstance(one, Not):
        yield from _compares(one.of)
    else:
        for part in one.parts:
            yield from _compares(part)


def _start(one: Selector) -> str:
    if isinstance(one, Compare):
        return _common([_head(value) for value in _values(one, "dataset")] or [""])
    if isinstance(one, Not):
        return ""
    starts = [_start(part) for part in one.parts]
    return max(starts, key=len) if isinstance(one, All) else _common(starts)


def _common(texts: list[str]) -> str:
    """What all begin with: what the first and the last of them in order do."""
    low, high = min(texts), max(texts)
    same = (n for n, (one, other) in enumerate(zip(low, high, strict=False)) if one != other)
    return low[: next(same, len(low))]


def _head(value: Value) -> str:
    # In quotes `*` and `?` are themselves: behind them it would be a pattern that nothing bounds.
    return value.start if isinstance(value, Glob) else re.split(r"[*?]", str(value), maxsplit=1)[0]
