"""Which patterns of a Trivial File Catalog may run: what each costs the regex engine at worst. Pure."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterable
from re import _parser  # type: ignore[attr-defined]
from typing import Any, Literal, NamedTuple

NAME_MAX = 1000  # characters of a name that patterns are tried on

#: Where in a name a pattern must fit: anywhere, from its start, or all of it.
Fit = Literal["search", "match", "fullmatch"]
Search = Callable[[str], re.Match[str] | None]
_Item = tuple[str, Any]
_ONE_CHARACTER = ("ANY", "LITERAL", "NOT_LITERAL", "IN")
#: The lead of `/+(.*)`.
SLASHES = "//"
_FOREVER = int(_parser.MAXREPEAT)
_PRINTABLE = string.printable[:95]
_ANYTHING = frozenset(_PRINTABLE.lower())


class Fault(Exception):
    """What forbids to run a rule, and the cure; `where` is filled in by who knows which rule it is."""

    def __init__(self, what: str, cure: str, where: str = "") -> None:
        self.what, self.cure, self.where = what, cure, where
        super().__init__(what, cure, where)

    def __str__(self) -> str:
        return f"{self.where}: {self.what}; {self.cure}"


class Guarded(NamedTuple):
    """A pattern that may run: `find` finds it in a name, in `steps` of the engine at worst.

    `start` is `find` for names it fits from their start; `to_end`: wherever it begins, it takes all the rest.
    Of a name that begins with `lead`, where it has one, its only group is what comes after that; `SLASHES`
    stands for one slash or more.
    """

    find: Search
    start: Search
    groups: int
    steps: int
    to_end: bool
    lead: str | None


def guard(name: str, text: str, fit: Fit = "search") -> Guarded:
    """The pattern, ready to run; `name` is its attribute. Raises Fault for one that can run away."""
    if "[:" in text:
        raise Fault(f"{name} {text!r} uses a POSIX class", r"write \d, \w or a range")
    try:
        if text.count("(") > 99:
            raise ValueError("more than 99 groups")
        pattern = re.compile(text, re.ASCII)
        parsed = _parser.parse(text, re.ASCII)
        items = _flat(parsed)
    except (re.error, ValueError, OverflowError, RecursionError, Warning) as error:
        raise Fault(f"{name} {text!r} cannot be read: {error}", "correct the pattern") from None
    if len(items) > 1 and items[-1] == ("AT", _parser.AT_END) and _is_dot_star(items[-2]):
        items.pop()  # `.*$` always succeeds, like `.*`
    anchored = fit != "search" or _is_anchored(text, items)
    if fit == "fullmatch":
        items.append(("AT", _parser.AT_END))
    try:
        steps = _steps(items, 0) * (1 if anchored else _places(items)) + NAME_MAX
    except Fault as fault:
        raise Fault(f"{name} {text!r} {fault.what}", fault.cure) from None
    start = pattern.fullmatch if fit == "fullmatch" else pattern.match
    find = start if anchored else pattern.search
    lead = _lead(list(parsed)) if pattern.flags == re.ASCII else None
    return Guarded(find, start, pattern.groups, steps, _takes_the_rest(list(parsed)), lead)


def _lead(parsed: list[Any]) -> str | None:
    """The text in front of a pattern's last and only wildcard, `(.*)`; None where there is more to it."""
    if parsed and parsed[0] == (_parser.AT, _parser.AT_BEGINNING):
        parsed = parsed[1:]
    if parsed and parsed[-1] == (_parser.AT, _parser.AT_END):
        parsed = parsed[:-1]
    if not parsed or str(parsed[-1][0]) != "SUBPATTERN" or parsed[-1][1][0] != 1:
        return None
    inside = _flat(parsed[-1][1][3])
    if len(inside) != 1 or not _is_dot_star(inside[0]) or not _takes_the_rest(parsed):
        return None
    front = _flat(parsed[:-1])
    greedy = [str(code) for code, _ in parsed[:1]] == ["MAX_REPEAT"]
    slashes = greedy and front[0][1] == (1, _FOREVER, [("LITERAL", ord("/"))])
    letters = front[1:] if slashes else front
    if inside[0][1][0] or any(name != "LITERAL" for name, _ in letters):
        return None
    text = "".join(chr(value) for _, value in letters)
    if slashes:
        return None if text[:1] == "/" else f"/{text}" if text else SLASHES
    return None if text == SLASHES else text


def _takes_the_rest(parsed: list[Any]) -> bool:
    """Whether the pattern ends with a greedy `.*` or `.+`, perhaps in a group, so that it fits to the end."""
    if parsed and parsed[-1] == (_parser.AT, _parser.AT_END):
        parsed = parsed[:-1]
    while parsed and str(parsed[-1][0]) == "SUBPATTERN":
        parsed = list(parsed[-1][1][3])
    return bool(parsed) and str(parsed[-1][0]) == "MAX_REPEAT" and _is_dot_star(_flat(parsed[-1:])[0])


def _is_anchored(text: str, items: list[_Item]) -> bool:
    """Whether one try at the start of the name finds what a search would find."""
    if items[:1] == [("AT", _parser.AT_BEGINNING)]:
        return True
    # Behind a leading `.*` what matches anywhere also matches from the start, unless a group is repeated.
    return any(map(_is_dot_star, items[:1])) and not re.search(r"\\\d|\(\?P=|\(\?\(", text)


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
    return item[0] == "REPEAT" and item[1][0] <= 1 < NAME_MAX <= item[1][1] and item[1][2] == [("ANY", None)]


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
            raise Fault("has a condition", "write two rules")
        else:
            after += NAME_MAX if name == "GROUPREF" else 1
    return after


def _repeat_steps(repeat: tuple[int, int, list[_Item]], rest: list[_Item], after: int) -> int:
    low, high, body = repeat
    if high == 1:
        return _steps(body, after) + after
    if any(name in ("REPEAT", "BRANCH") for name, _ in body):
        raise Fault("repeats what itself repeats or branches", "write '[^/]*' or '.*' for the whole")
    if after == 0 and low <= 1 and len(body) == 1 and body[0][0] in _ONE_CHARACTER:
        return 1
    turns = max(low, min(high, NAME_MAX))
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
    return NAME_MAX // period + 1


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
