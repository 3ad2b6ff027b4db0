"""Reading selectors: recursive descent over a few tokens, with errors that name the place and a cure. Pure.

A parser generator would bring a dependency and its own words for errors; the grammar has four rules:

    any = all {"or" all}        all = one {["and"] one}        without "and" where the language has adjacency
    one = "not" one | "(" any ")" | walk "(" any ")" | field op value | field ["not"] "in" "(" values ")"
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, NoReturn

from gridcore.errors import UsageError
from gridcore.selector_values import Misread, near, read
from gridcore.selectors import (
    BARE,
    KEYWORDS,
    LENGTH_MAX,
    LISTED,
    NEGATED,
    ORDERED,
    UNORDERED,
    WALK,
    All,
    Compare,
    Either,
    Field,
    Glob,
    Language,
    Nested,
    Not,
    Op,
    Selector,
    Value,
)

COMPARISONS_MAX = 100
DEPTH_MAX = 20


class _Token(NamedTuple):
    kind: str
    text: str
    at: int


_TOKEN = re.compile(
    rf"""(?P<op><=|>=|!=|==|=|<|>)|(?P<mark>[(),])|"(?P<quoted>[^"]*)"|'(?P<single>[^']*)'|(?P<word>{BARE})"""
)


def parse(text: str, language: Language) -> Selector:
    """The selector a text says. Raises UsageError that names the place and what could stand there."""
    if len(text) > LENGTH_MAX:
        raise UsageError(
            f"{language.said} has {len(text)} characters",
            hint=f"at most {LENGTH_MAX}; match names with * and ?",
        )
    return _Parser(text, language).whole()


@dataclass(slots=True)
class _Parser:
    """Recursive descent; each method reads one rule of the grammar and leaves what follows it."""

    text: str
    language: Language
    tokens: list[_Token] = field(default_factory=list)
    next: int = 0
    comparisons: int = 0
    walks: int = 0

    def whole(self) -> Selector:
        self.tokens = list(self._read())
        if not self.tokens:
            self._fail(0, "it is empty", self._example())
        found = self._any(0)
        if self._ahead() is not None:
            self._unexpected("`and`, `or` or the end")
        return found

    def _read(self) -> Iterator[_Token]:
        at, text = 0, self.text
        while at < len(text):
            if text[at] in " \t\n":
                at += 1
                continue
            match = _TOKEN.match(text, at)
            if match is None:
                if text[at] in "\"'":
                    self._fail(at, "this quote is not closed", 'close it with another: "name"')
                hint = 'put names with odd characters in quotes: "a name"'
                self._fail(at, f"{text[at]!r} means nothing here", hint)
            kind = str(match.lastgroup)
            if not match[kind].isprintable():
                self._fail(at, "there are characters that cannot be printed", "write plain text")
            yield _Token("text" if kind in ("quoted", "single") else kind, match[kind], at)
            at = match.end()

    def _any(self, depth: int) -> Selector:
        parts = [self._all(depth)]
        while self._keyword("or"):
            parts.append(self._all(depth))
        return Either(tuple(parts)) if len(parts) > 1 else parts[0]

    def _all(self, depth: int) -> Selector:
        parts = [self._one(depth)]
        while self._keyword("and") or self._adjacent():
            parts.append(self._one(depth))
        return All(tuple(parts)) if len(parts) > 1 else parts[0]

    def _adjacent(self) -> bool:
        """Whether another condition follows that needs no `and`."""
        token = self._ahead()
        if token is None or not self.language.adjacency_is_and:
            return False
        if token.kind == "mark":
            return token.text == "("
        return token.kind == "word" and token.text.lower() not in KEYWORDS - {"not"}

    def _one(self, depth: int) -> Selector:
        if depth > DEPTH_MAX:
            self._fail(self._place(), "it is nested too deeply", f"at most {DEPTH_MAX} parentheses or `not`")
        if self._keyword("not"):
            return Not(self._one(depth + 1))
        if self._mark("("):
            return self._rest(depth)
        return self._comparison(depth)

    def _rest(self, depth: int) -> Selector:
        """What follows an opening parenthesis."""
        found = self._any(depth + 1)
        if not self._mark(")"):
            self._unexpected("`)`")
        return found

    def _comparison(self, depth: int) -> Selector:
        self.comparisons += 1
        if self.comparisons > COMPARISONS_MAX:
            hint = f"at most {COMPARISONS_MAX}; use `in (...)`"
            self._fail(self._place(), "there are too many comparisons", hint)
        name, found = self._field()
        if found.kind == WALK and self._mark("("):
            return self._walked(name, self._rest(depth))
        compared = self._compared(name, found)
        return self._reached(name, found, compared) if found.kind == WALK else compared

    def _compared(self, name: str, found: Field) -> Compare:
        if self._keyword("in"):
            return Compare(name, Op.IN, self._list(name, found))
        if self._keyword("not"):
            if not self._keyword("in"):
                self._unexpected("`in`")
            return Compare(name, Op.NOT_IN, self._list(name, found))
        op = self._op(name, found)
        at = self._place()
        value = self._value(name, found)
        if op in ORDERED and isinstance(value, str | Glob):
            self._fail(at, f"only numbers have an order, not {self._said_at(at)!r}", f"such as: {name} > 3")
        return Compare(name, op, (value,))

    def _reached(self, name: str, found: Field, said: Compare) -> Selector:
        """A walk to names written out: what it reaches has one of them."""
        op = Op.IN if said.op in LISTED else Op.EQ
        reached = self._walked(name, Compare(found.through, op, said.values))
        return Not(reached) if said.op in NEGATED else reached

    def _walked(self, name: str, of: Selector) -> Compare:
        self.walks += 1
        if self.walks > self.language.walks_max:
            self._fail(
                self._place(), "it leads to too many other things", f"at most {self.language.walks_max} times"
            )
        return Compare(name, Op.EQ, (Nested(of),))

    def _field(self) -> tuple[str, Field]:
        token = self._take()
        if token is None or token.kind != "word":
            self._unexpected("a field", token)
        name = token.text.lower()
        found = self.language.field(name)
        if found is None:
            hint = near(name, self.language.fields, "fields")
            if self.language.path and "/" in token.text:
                hint = f"of a name say which it is: {self.language.path}={token.text}"
            self._fail(token.at, f"there is no field {token.text!r}", hint)
        return name, found

    def _op(self, name: str, found: Field) -> Op:
        token = self._take()
        if token is None or token.kind != "op":
            self._unexpected("one of = != < <= > >= in", token)
        op = Op.EQ if token.text == "==" else Op(token.text)
        if op in ORDERED and found.kind in UNORDERED:
            self._fail(token.at, f"{name} has no order", f"compare it by = or != or {name} in (...)")
        return op

    def _list(self, name: str, found: Field) -> tuple[Value, ...]:
        if not self._mark("("):
            self._unexpected("`(`")
        values = [self._value(name, found)]
        while self._mark(","):
            values.append(self._value(name, found))
            if len(values) > self.language.list_max:
                self._fail(self._place(), "the list is too long", f"at most {self.language.list_max} values")
        if not self._mark(")"):
            self._unexpected("`,` or `)`")
        return tuple(values)

    def _value(self, name: str, found: Field) -> Value:
        token = self._take()
        if token is None or token.kind not in ("word", "text"):
            self._unexpected(f"a value for {name}", token)
        try:
            value = read(name, found, token.text, quoted=token.kind == "text")
        except Misread as error:
            self._fail(token.at, error.what, error.hint or self._example())
        if isinstance(value, Glob):
            self._bound(token.at, value)
        return value

    def _bound(self, at: int, glob: Glob) -> None:
        if len(glob.pattern) > self.language.pattern_max:
            hint = f"at most {self.language.pattern_max} characters"
            self._fail(at, f"the pattern has {len(glob.pattern)} characters", hint)
        if glob.wildcards > self.language.wildcards_max:
            hint = f"at most {self.language.wildcards_max}"
            self._fail(at, f"the pattern has {glob.wildcards} wildcards", hint)

    # --- tokens

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

    def _said_at(self, at: int) -> str:
        return next(token.text for token in self.tokens if token.at == at)

    # --- errors

    def _example(self) -> str:
        return f"such as: {self.language.example}"

    def _unexpected(self, wanted: str, token: _Token | None = None) -> NoReturn:
        token = token or self._ahead()
        if token is None:
            self._fail(len(self.text), f"{wanted} is missing", self._example())
        self._fail(token.at, f"{wanted} should stand before {token.text!r}", self._example())

    def _fail(self, at: int, what: str, hint: str) -> NoReturn:
        raise UsageError(f"{self.language.said}, character {at + 1}: {what}", hint=hint)
