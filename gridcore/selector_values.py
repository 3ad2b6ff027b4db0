"""The values of selectors: how each kind of field reads the text after its operator. Pure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime, timedelta

from gridcore.selectors import (
    AMOUNT,
    DATE,
    FREE,
    NAME,
    NUMBER,
    RANGE,
    REAL,
    SPAN,
    WALK,
    WILDCARDS,
    WORD,
    Between,
    Field,
    FieldKind,
    Glob,
    Value,
)

_NUMBER = re.compile(r"-?[0-9]{1,18}")
_AMOUNT = re.compile(r"([0-9]{1,18})(\.[0-9]{1,6})?([kMGTP]?)", re.IGNORECASE)
_RANGE = re.compile(r"([0-9]{1,18})(?:-([0-9]{1,18}))?")
_SPAN = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)(s|min|m|h|d|w)?")
_DATE = re.compile(r"[12][0-9]{3}-[0-9]{2}-[0-9]{2}(T[0-9]{2}:[0-9]{2})?")
_SECONDS = {None: 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
#: A hundred years.
SPAN_MAX = 100 * 366 * 86400
AMOUNT_MAX = 10**18 - 1


class Misread(Exception):
    """A text that is no value of its field: what is wrong with it, and what could stand there."""

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint


def near(word: str, known: Collection[str], what: str) -> str:
    """A hint: which of those known may have been meant, and all of them."""
    close = difflib.get_close_matches(word, list(known), n=2, cutoff=0.6)
    return (f"did you mean {' or '.join(close)}? " if close else "") + f"{what}: {', '.join(known)}"


def read(name: str, field: Field, text: str, *, quoted: bool) -> Value:
    """The value of a field that a text says; in quotes `*` and `?` are themselves. Raises Misread."""
    if field.kind == WORD:
        return _word(text, name, field.words)
    if field.kind in _NAMES:
        if field.kind == FREE and not quoted and REAL.fullmatch(text):
            return _real(text, name)
        return _name(text, quoted)
    return _READERS[field.kind](text, name)


def _name(text: str, quoted: bool) -> Value:
    if not quoted and set(text) & WILDCARDS:
        return Glob(text)
    if not text:
        raise Misread("a name cannot be empty")
    return text


def _word(text: str, name: str, words: tuple[str, ...]) -> Value:
    for word in words:
        if word.lower() == text.lower():
            return word
    raise Misread(f"there is no {name} {text!r}", near(text.upper(), words, f"{name} is one of"))


def _real(text: str, name: str) -> Value:
    value = float(text)
    if abs(value) == float("inf"):
        raise Misread(f"{name} is a number, and {text!r} is too large", f"such as: {name} = 8.5")
    return value


def _number(text: str, name: str) -> Value:
    if not _NUMBER.fullmatch(text):
        raise Misread(f"{name} is a number, not {text!r}", f"such as: {name} = 3")
    return int(text)


def _amount(text: str, name: str) -> Value:
    match = _AMOUNT.fullmatch(text)
    amount = _exact(match[1], match[2] or ".", match[3]) if match else AMOUNT_MAX + 1
    if amount > AMOUNT_MAX:
        raise Misread(f"{name} is an amount, not {text!r}", "such as 200, 5k, 1.5T")
    return amount


def _exact(whole: str, part: str, unit: str) -> int:
    """By integers: a float has no 18 digits."""
    millionths = int(whole) * 10**6 + int(part[1:].ljust(6, "0"))
    return int(millionths * 1000 ** " kmgtp".index(unit.lower() or " ") // 10**6)


def _range(text: str, name: str) -> Value:
    match = _RANGE.fullmatch(text)
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
    if first > last:
        raise Misread(f"{name} is a number or a range, not {text!r}", f"such as: {name} = 3 or {name} = 3-9")
    return Between(first, last)


def _span(text: str, name: str) -> Value:
    match = _SPAN.fullmatch(text)
    seconds = float(match[1]) * _SECONDS[match[2]] if match else 0
    if match is None or seconds > SPAN_MAX:
        raise Misread(f"{name} is a length of time, not {text!r}", "such as 90s, 5min, 2h, 3d")
    return int(seconds)


def _date(text: str, name: str) -> Value:
    """The whole day or minute, in UTC."""
    match = _DATE.fullmatch(text.upper())
    try:
        first = datetime.fromisoformat(text.upper()).replace(tzinfo=UTC) if match else None
    except ValueError:
        first = None
    if match is None or first is None:
        raise Misread(f"{name} is a day, not {text!r}", "such as 2026-11-01, or 2026-11-01T12:30, in UTC")
    long = timedelta(minutes=1) if match[1] else timedelta(days=1)
    return Between(first, first + long - timedelta(microseconds=1))


_NAMES = frozenset([NAME, FREE, WALK])
_READERS: Mapping[FieldKind, Callable[[str, str], Value]] = {
    NUMBER: _number,
    SPAN: _span,
    AMOUNT: _amount,
    RANGE: _range,
    DATE: _date,
}
