"""Reading selectors: recursive descent over a few tokens, with errors that name the place and a cure. Pure.

A parser generator would bring a dependency and its own words for errors; the grammar has four rules.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, NoReturn

from gridcore.errors import UsageError
from prodsys.selectors import (
    BARE,
    FIELDS,
    NAME,
    NUMBER,
    ORDERED,
    SPAN,
    WORD,
    All,
    Compare,
    Either,
    Glob,
    Not,
    Op,
    Selector,
    Value,
)

LENGTH_MAX = 4000
COMPARISONS_MAX = 100
DEPTH_MAX = 20


class _Token(NamedTuple):
    kind: str
    text: str
    at: int


_TOKEN = re.compile(
    rf"""(?P<op><=|>=|!=|==|=|<|>)|(?P<mark>[(),])|"(?P<quoted>[^"]*)"|'(?P<single>[^']*)'|(?P<word>{BARE})"""
)
_NUMBER = re.compile(r"-?[0-9]{1,18}")
_SPAN = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)(s|min|m|h|d|w)?")
_SECONDS = {None: 1, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
#: A hundred years.
SPAN_MAX = 100 * 366 * 86400


def parse(text: str) -> Selector:
    """The selector a text says. Raises UsageError that names the place and what could stand there."""
    if len(text) > LENGTH_MAX:
        raise UsageError(
            f"--where has {len(text)} characters", hint=f"at most {LENGTH_MAX}; match names with * and ?"
        )
    return _Parser(text).whole()


def _tokens(text: str) -> Iterator[_Token]:
    at = 0
    while at < len(text):
        if text[at] in " \t\n":
            at += 1
            continue
        match = _TOKEN.match(text, at)
        if match is None:
            if text[at] in "\"'":
                _fail(at, "this quote is not closed", 'close it with another: "name"')
            _fail(at, f"{text[at]!r} means nothing here", 'put names with odd characters in quotes: "a name"')
        kind = str(match.lastgroup)
        if not match[kind].isprintable():
            _fail(at, "there are characters that cannot be printed", "write plain text")
        yield _Token("text" if kind in ("quoted", "single") else kind, match[kind], at)
        at = match.end()


def _fail(at: int, what: str, hint: str) -> NoReturn:
    raise UsageError(f"--where, character {at + 1}: {what}", hint=hint)


@dataclass(slots=True)
class _Parser:
    """Recursive descent; each method reads one rule of the grammar and leaves what follows it."""

    text: str
    tokens: list[_Token] = field(default_factory=list)
    next: int = 0
    comparisons: int = 0

    def whole(self) -> Selector:
        self.tokens = list(_tokens(self.text))
        if not self.tokens:
            _fail(0, "it is empty", "such as: --where 'state = HELD and age > 2h'")
        found = self._any(0)
        if self._ahead() is not None:
            self._unexpected("`and`, `or` or the end")
        return found

    def _any(self, depth: int) -> Selector:
        parts = [self._all(depth)]
        while self._keyword("or"):
            parts.append(self._all(depth))
        return Either(tuple(parts)) if len(parts) > 1 else parts[0]

    def _all(self, depth: int) -> Selector:
        parts = [self._one(depth)]
        while self._keyword("and"):
            parts.append(self._one(depth))
        return All(tuple(parts)) if len(parts) > 1 else parts[0]

    def _one(self, depth: int) -> Selector:
        if depth > DEPTH_MAX:
            _fail(self._place(), "it is nested too deeply", f"at most {DEPTH_MAX} parentheses or `not`")
        if self._keyword("not"):
            return Not(self._one(depth + 1))
        if self._mark("("):
            found = self._any(depth + 1)
            if not self._mark(")"):
                self._unexpected("`)`")
            return found
        return self._comparison()

    def _comparison(self) -> Compare:
        self.comparisons += 1
        if self.comparisons > COMPARISONS_MAX:
            _fail(
                self._place(), "there are too many comparisons", f"at most {COMPARISONS_MAX}; use `in (...)`"
            )
        name = self._field()
        if self._keyword("in"):
            return Compare(name, Op.IN, self._list(name))
        if self._keyword("not"):
            if not self._keyword("in"):
                self._unexpected("`in`")
            return Compare(name, Op.NOT_IN, self._list(name))
        return Compare(name, self._op(name), (self._value(name),))

    def _field(self) -> str:
        token = self._take()
        if token is None or token.kind != "word":
            self._unexpected("a field", token)
        name = token.text.lower()
        if name not in FIELDS:
            _fail(token.at, f"there is no field {token.text!r}", _near(name, FIELDS, "fields"))
        return name

    def _op(self, name: str) -> Op:
        token = self._take()
        if token is None or token.kind != "op":
            self._unexpected("one of = != < <= > >= in", token)
        op = Op.EQ if token.text == "==" else Op(token.text)
        if op in ORDERED and FIELDS[name].kind in (NAME, WORD):
            _fail(token.at, f"{name} has no order", f"compare it by = or != or {name} in (...)")
        return op

    def _list(self, name: str) -> tuple[Value, ...]:
        if not self._mark("("):
            self._unexpected("`(`")
        values = [self._value(name)]
        while self._mark(","):
            values.append(self._value(name))
        if not self._mark(")"):
            self._unexpected("`,` or `)`")
        return tuple(values)

    def _value(self, name: str) -> Value:
        token = self._take()
        if token is None or token.kind not in ("word", "text"):
            self._unexpected(f"a value for {name}", token)
        return _VALUES[FIELDS[name].kind](token, name)

    def _ahead(self) -> _Token | None:
        return self.tokens[self.next] if self.next < len(self.tokens) else None

    def _take(self) -> _Token | None:
        token = self._ahead()
        self.next += token is not None
        return token

    def _keyword(self, word: str) -> bool:
        return self._skip("word", word)

    def _mark(self, mark: str) -> bool:
        return self._skip("mark", mark)

    def _skip(self, kind: str, text: str) -> bool:
        token = self._ahead()
        found = token is not None and token.kind == kind and token.text.lower() == text
        self.next += found
        return found

    def _place(self) -> int:
        token = self._ahead()
        return len(self.text) if token is None else token.at

    def _unexpected(self, wanted: str, token: _Token | None = None) -> NoReturn:
        token = token or self._ahead()
        if token is None:
            _fail(len(self.text), f"{wanted} is missing", _EXAMPLE)
        _fail(token.at, f"{wanted} should stand before {token.text!r}", _EXAMPLE)


_EXAMPLE = "such as: state in (HELD, FAILED) and site = T2_* and not age < 2h"


def _near(word: str, known: Mapping[str, Any] | tuple[str, ...], what: str) -> str:
    near = difflib.get_close_matches(word, list(known), n=2, cutoff=0.5)
    return (f"did you mean {' or '.join(near)}? " if near else "") + f"{what}: {', '.join(known)}"


def _name_value(token: _Token, _name: str) -> Value:
    if token.kind == "word" and set(token.text) & set("*?"):
        return Glob(token.text)
    if not token.text:
        _fail(token.at, "a name cannot be empty", _EXAMPLE)
    return token.text


def _word_value(token: _Token, name: str) -> Value:
    words = FIELDS[name].words
    for word in words:
        if word.lower() == token.text.lower():
            return word
    _fail(
        token.at, f"there is no {name} {token.text!r}", _near(token.text.upper(), words, f"{name} is one of")
    )


def _number_value(token: _Token, name: str) -> Value:
    if not _NUMBER.fullmatch(token.text):
        _fail(token.at, f"{name} is a number, not {token.text!r}", f"such as: {name} = 3")
    return int(token.text)


def _span_value(token: _Token, name: str) -> Value:
    match = _SPAN.fullmatch(token.text)
    seconds = float(match[1]) * _SECONDS[match[2]] if match else 0
    if match is None or seconds > SPAN_MAX:
        _fail(token.at, f"{name} is a length of time, not {token.text!r}", "such as 90s, 5min, 2h, 3d")
    return int(seconds)


_VALUES = {NAME: _name_value, WORD: _word_value, NUMBER: _number_value, SPAN: _span_value}
