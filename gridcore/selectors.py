"""Small languages that say which things are meant: `state = HELD and (site = T2_* or age > 2h)`. Pure.

A Language names the fields; `gridcore.selector_parser` reads its texts. What a thing lacks (the site of
a waiting job) equals nothing and differs from all; of what it has several (sites of a dataset) one must fit.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from fnmatch import translate
from functools import lru_cache
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

T = TypeVar("T", int, datetime)

#: Characters of a text, at most.
LENGTH_MAX = 4000
#: What a name may hold that stands without quotes.
BARE = r"[A-Za-z0-9_.:/@#+*?-]+"
#: A number of a free field.
REAL = re.compile(r"[+-]?[0-9]{1,18}(?:\.[0-9]{1,30})?(?:[eE][+-]?[0-9]{1,3})?")
#: The name of a free field.
FREE_NAME = re.compile(r"[a-z][a-z0-9_.-]{0,39}")
KEYWORDS = frozenset(["and", "or", "not", "in"])
WILDCARDS = frozenset("*?")


class FieldKind(StrEnum):
    """What a field's values are: names take `*` and `?`, words are one of a few, spans are lengths of time.

    Amounts may end in k M G T P, ranges are numbers or `2-9`, dates are days or minutes, free ones numbers
    or names; a walk leads to other things, of which one must fit.
    """

    NAME = "name"
    WORD = "word"
    NUMBER = "number"
    SPAN = "span"
    AMOUNT = "amount"
    RANGE = "range"
    DATE = "date"
    FREE = "free"
    WALK = "walk"


NAME, WORD, NUMBER, SPAN, AMOUNT, RANGE, DATE, FREE, WALK = FieldKind
#: Kinds that can be compared for equality alone.
UNORDERED = frozenset([NAME, WORD, WALK])


@dataclass(frozen=True, slots=True)
class Field:
    """What may be asked; `through` is the field that a walk compares with a bare name."""

    kind: FieldKind
    help: str
    words: tuple[str, ...] = ()
    through: str = ""


@dataclass(frozen=True, slots=True)
class Language:
    """Which fields there are, and what a text may do.

    `free` is what any other name is, where there may be others; `said`, `example` and `path`, the field that
    takes names with slashes, are for errors.
    """

    fields: Mapping[str, Field]
    adjacency_is_and: bool = False
    free: Field | None = None
    said: str = "--where"
    example: str = "name = a*"
    path: str = ""
    pattern_max: int = LENGTH_MAX
    wildcards_max: int = LENGTH_MAX
    list_max: int = LENGTH_MAX
    walks_max: int = 3

    def field(self, name: str) -> Field | None:
        """The field of a name, or None where there is none."""
        free = self.free if FREE_NAME.fullmatch(name) and name not in KEYWORDS else None
        return self.fields.get(name, free)


class Op(StrEnum):
    """How a field is compared; names and words only for equality."""

    EQ = "="
    NE = "!="
    LT = "<"
    LE = "<="
    GT = ">"
    GE = ">="
    IN = "in"
    NOT_IN = "not in"


ORDERED = frozenset([Op.LT, Op.LE, Op.GT, Op.GE])
NEGATED = frozenset([Op.NE, Op.NOT_IN])
LISTED = frozenset([Op.IN, Op.NOT_IN])


# --- values ----------------------------------------------------------------------------------------------


class Fitting(Protocol):
    """A value that more than one thing equals."""

    def fits(self, has: Any, /) -> bool:
        """Whether what a thing has is meant."""


@dataclass(frozen=True, slots=True)
class Glob:
    """A name with `*` for anything and `?` for one character; `**` is `*`."""

    pattern: str

    def __post_init__(self) -> None:
        if not set(self.pattern) & WILDCARDS:
            raise ValueError(f"{self.pattern!r} is a plain name")
        object.__setattr__(self, "pattern", re.sub(r"\*+", "*", self.pattern))

    @property
    def start(self) -> str:
        """What every name that fits begins with."""
        return re.split(r"[*?]", self.pattern, maxsplit=1)[0]

    @property
    def wildcards(self) -> int:
        """How many `*` and `?` it has."""
        return sum(mark in WILDCARDS for mark in self.pattern)

    def fits(self, has: str, /) -> bool:
        """Whether a name matches the whole pattern."""
        return _glob(self.pattern).fullmatch(has) is not None


@dataclass(frozen=True, slots=True)
class Between(Generic[T]):
    """From `first` to `last`, both within: a range of numbers, or a day or a minute."""

    first: T
    last: T

    def fits(self, has: T, /) -> bool:
        """Whether a number or moment is within."""
        return self.first <= has <= self.last


@dataclass(frozen=True, slots=True)
class Nested:
    """What a walk has to reach."""

    of: Selector

    def fits(self, has: Mapping[str, Any], /) -> bool:
        """Whether a thing that is reached is meant."""
        return matches(self.of, has)


class Fact(NamedTuple):
    """What a thing has in a free field: its text, and the number it reads as."""

    num: float | None
    txt: str


Value = str | int | float | Fitting


@dataclass(frozen=True, slots=True)
class Compare:
    """One field against one value, or for `in` against several; spans are seconds, free numbers floats.

    A walk is compared by EQ with one Nested.
    """

    field: str
    op: Op
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """What the other is not."""

    of: Selector


@dataclass(frozen=True, slots=True)
class All:
    """Two or more at once."""

    parts: tuple[Selector, ...]


@dataclass(frozen=True, slots=True)
class Either:
    """At least one of two or more."""

    parts: tuple[Selector, ...]


Selector = Compare | Not | All | Either


def both(*parts: Selector | None) -> Selector | None:
    """All of those that are given; None where none is."""
    given = tuple(part for part in parts if part is not None)
    return All(given) if len(given) > 1 else next(iter(given), None)


# --- writing ---------------------------------------------------------------------------------------------


def render(one: Selector, language: Language) -> str:
    """The text that reads as this selector."""
    if isinstance(one, Compare):
        return _rendered(one, language)
    if isinstance(one, Not):
        return f"not {_inner(one.of, language)}"
    word = " and " if isinstance(one, All) else " or "
    return word.join(_inner(part, language) for part in one.parts)


def _inner(one: Selector, language: Language) -> str:
    text = render(one, language)
    return f"({text})" if isinstance(one, All | Either) else text


def _rendered(one: Compare, language: Language) -> str:
    (first, *_) = one.values
    if isinstance(first, Nested):
        return f"{one.field}({render(first.of, language)})"
    field = language.field(one.field)
    kind = NAME if field is None else field.kind
    values = [_written(kind, value) for value in one.values]
    return f"{one.field} {one.op.value} " + (f"({', '.join(values)})" if one.op in LISTED else values[0])


def _written(kind: FieldKind, value: Value) -> str:
    if isinstance(value, Glob):
        return value.pattern
    if isinstance(value, Between):
        return _day(value) if kind == DATE else _range(value)
    if not isinstance(value, str):
        return f"{value}s" if kind == SPAN else str(value)
    plain = re.fullmatch(BARE, value) and not set(value) & WILDCARDS and value.lower() not in KEYWORDS
    if kind == FREE and REAL.fullmatch(value):
        plain = None
    mark = "'" if '"' in value else '"'
    return value if plain else f"{mark}{value}{mark}"


def _range(value: Between[Any]) -> str:
    return str(value.first) if value.first == value.last else f"{value.first}-{value.last}"


def _day(value: Between[Any]) -> str:
    whole = value.last - value.first > timedelta(hours=1)
    return f"{value.first.astimezone(UTC):{'%Y-%m-%d' if whole else '%Y-%m-%dT%H:%M'}}"


# --- asking ----------------------------------------------------------------------------------------------


def fields_of(one: Selector | None) -> frozenset[str]:
    """The fields a selector asks for; not those of things that its walks reach."""
    if one is None:
        return frozenset()
    if isinstance(one, Compare):
        return frozenset([one.field])
    parts = (one.of,) if isinstance(one, Not) else one.parts
    return frozenset().union(*map(fields_of, parts))


def only(one: Selector | None, name: str) -> frozenset[str] | None:
    """The plain names one field must have for a thing to be meant; None where the selector does not bind it.

    For fields of which a thing has one value.
    """
    if isinstance(one, All):
        bound = [found for part in one.parts if (found := only(part, name)) is not None]
        return frozenset.intersection(*bound) if bound else None
    if isinstance(one, Compare) and one.field == name and one.op in (Op.EQ, Op.IN):
        names = [value for value in one.values if isinstance(value, str)]
        return frozenset(names) if len(names) == len(one.values) else None
    return None


def edge(op: Op, value: Value) -> Any:
    """The plain value an ordered comparison is with: behind a range, before it, or from one of its ends."""
    if isinstance(value, Between):
        return value.last if op in (Op.GT, Op.LE) else value.first
    return value


def fits(values: Iterable[Value], has: Any) -> bool:
    """Whether what a thing has equals one of the values; nothing equals None."""
    return has is not None and any(_equals(has, value) for value in values)


def matches(one: Selector | None, row: Mapping[str, Any]) -> bool:
    """Whether a thing is meant: `row` has the fields asked by name, None for what it lacks.

    Spans are in seconds, dates aware moments, free fields Facts; sets and lists hold several, those of a walk
    the rows of what it reaches.
    """
    if one is None:
        return True
    if isinstance(one, Compare):
        return _compared(one, row[one.field])
    if isinstance(one, Not):
        return not matches(one.of, row)
    if isinstance(one, All):
        return all(matches(part, row) for part in one.parts)
    return any(matches(part, row) for part in one.parts)


def _compared(one: Compare, has: Any) -> bool:
    each = has if isinstance(has, Set | list) else [has]
    if one.op in ORDERED:
        return any(_ordered(one.op, had, one.values[0]) for had in each)
    return any(fits(one.values, had) for had in each) != (one.op in NEGATED)


def _ordered(op: Op, has: Any, value: Value) -> bool:
    number = has.num if isinstance(has, Fact) else has
    return number is not None and bool(_ORDERS[op](number, edge(op, value)))


_ORDERS = {
    Op.LT: lambda a, b: a < b,
    Op.LE: lambda a, b: a <= b,
    Op.GT: lambda a, b: a > b,
    Op.GE: lambda a, b: a >= b,
}


def _equals(has: Any, value: Value) -> bool:
    if isinstance(has, Fact):
        has = has.num if isinstance(value, float) else has.txt
    if isinstance(value, str | int | float):
        return bool(has == value)
    return value.fits(has)


@lru_cache(maxsize=1000)
def _glob(pattern: str) -> re.Pattern[str]:
    return re.compile(translate(pattern))
