"""A small language that says which jobs are meant, such as `task = 26* and (state = HELD or age > 2h)`. Pure.

What a row lacks (the site of a waiting job, the code of a fresh one) equals nothing and differs from all.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import translate
from functools import lru_cache
from typing import Any

from prodsys.jobs.machine import JobKind, JobState

#: What a name may hold that stands without quotes.
BARE = r"[A-Za-z0-9_.:/@#+*?-]+"
_KEYWORDS = frozenset(["and", "or", "not", "in"])


class FieldKind(StrEnum):
    """What a field's values are: names take `*` and `?`, words are one of a few, spans are times."""

    NAME = "name"
    WORD = "word"
    NUMBER = "number"
    SPAN = "span"


@dataclass(frozen=True, slots=True)
class Field:
    """What may be asked of a job."""

    kind: FieldKind
    help: str
    words: tuple[str, ...] = ()


NAME, WORD, NUMBER, SPAN = FieldKind
FIELDS: Mapping[str, Field] = {
    "task": Field(NAME, "its task's name"),
    "index": Field(NUMBER, "its number within the task"),
    "request": Field(NUMBER, "its request's number"),
    "request_name": Field(NAME, "its request's name"),
    "group": Field(NAME, "the group it is for"),
    "user": Field(NAME, "who asked for it"),
    "state": Field(WORD, "where it is", tuple(state.value for state in JobState)),
    "kind": Field(WORD, "process or merge", tuple(kind.value for kind in JobKind)),
    "type": Field(NAME, "its task type"),
    "site": Field(NAME, "where it runs, from its lease to its end"),
    "last_site": Field(NAME, "where its last attempt ran or runs"),
    "attempt": Field(NUMBER, "its last attempt, 0 before the first"),
    "priority": Field(NUMBER, "its points, those given by hand included"),
    "class": Field(NUMBER, "its job class"),
    "age": Field(SPAN, "time since its last move: 90s, 5min, 2h, 3d"),
    "code": Field(NAME, "why it waits or failed, such as INPUT_MISSING"),
    "error": Field(NAME, "error class of its last attempt, such as stage_out"),
    "held": Field(WORD, "what holds it", ("operator", "input", "policy")),
}


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


@dataclass(frozen=True, slots=True)
class Glob:
    """A name with `*` for anything and `?` for one character."""

    pattern: str

    def __post_init__(self) -> None:
        if not set(self.pattern) & set("*?"):
            raise ValueError(f"{self.pattern!r} is a plain name")


Value = str | int | Glob


@dataclass(frozen=True, slots=True)
class Compare:
    """One field against one value, or for `in` against several; spans are seconds."""

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


def render(one: Selector) -> str:
    """The text that reads as this selector."""
    if isinstance(one, Compare):
        values = [_written(one.field, value) for value in one.values]
        listed = one.op in (Op.IN, Op.NOT_IN)
        return f"{one.field} {one.op.value} " + (f"({', '.join(values)})" if listed else values[0])
    if isinstance(one, Not):
        return f"not {_inner(one.of)}"
    word = " and " if isinstance(one, All) else " or "
    return word.join(_inner(part) for part in one.parts)


def _inner(one: Selector) -> str:
    return f"({render(one)})" if isinstance(one, All | Either) else render(one)


def _written(name: str, value: Value) -> str:
    if isinstance(value, Glob):
        return value.pattern
    if isinstance(value, int):
        return f"{value}s" if FIELDS[name].kind == SPAN else str(value)
    plain = re.fullmatch(BARE, value) and not set(value) & set("*?") and value.lower() not in _KEYWORDS
    mark = "'" if '"' in value else '"'
    return value if plain else f"{mark}{value}{mark}"


# --- asking ----------------------------------------------------------------------------------------------


def fields_of(one: Selector | None) -> frozenset[str]:
    """The fields a selector asks for."""
    if one is None:
        return frozenset()
    if isinstance(one, Compare):
        return frozenset([one.field])
    parts = (one.of,) if isinstance(one, Not) else one.parts
    return frozenset().union(*map(fields_of, parts))


def only(one: Selector | None, name: str) -> frozenset[str] | None:
    """The plain names one field must have for a job to be meant; None where the selector does not bind it."""
    if isinstance(one, All):
        bound = [found for part in one.parts if (found := only(part, name)) is not None]
        return frozenset.intersection(*bound) if bound else None
    if isinstance(one, Compare) and one.field == name and one.op in (Op.EQ, Op.IN):
        names = [value for value in one.values if isinstance(value, str)]
        return frozenset(names) if len(names) == len(one.values) else None
    return None


def matches(one: Selector | None, row: Mapping[str, Any]) -> bool:
    """Whether a job is meant: `row` has its fields by name, None for what it lacks, `age` in seconds."""
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
    if one.op in ORDERED:
        return has is not None and _ORDERS[one.op](has, one.values[0])
    equal = has is not None and any(_equals(has, value) for value in one.values)
    return equal != (one.op in NEGATED)


_ORDERS = {
    Op.LT: lambda a, b: a < b,
    Op.LE: lambda a, b: a <= b,
    Op.GT: lambda a, b: a > b,
    Op.GE: lambda a, b: a >= b,
}


def _equals(has: Any, value: Value) -> bool:
    if isinstance(value, Glob):
        return _glob(value.pattern).fullmatch(has) is not None
    return bool(has == value)


@lru_cache(maxsize=1000)
def _glob(pattern: str) -> re.Pattern[str]:
    return re.compile(translate(pattern))
