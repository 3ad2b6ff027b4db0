"""How PhEDEx, WMCore and CMSSW read a rule: what its pattern must fit, what its result becomes. Pure.

|                   | phedex                  | wmcore                        | cmssw                      |
|-------------------|-------------------------|-------------------------------|----------------------------|
| a pattern fits    | anywhere                | at the start; chained: anyhow | the whole name             |
| what is around it | kept                    | dropped                       | there is nothing           |
| groups            | $1-$99, empty: nothing  | text, empty: the others shift | text, empty: `$n` stays    |
| chain to a PFN    | first                   | first                         | once its own pattern fits  |
| chain to an LFN   | afterwards              | first                         | afterwards                 |
| chain has no name | the next rule           | the end                       | the end                    |
| destination-match | anywhere, if one given  | ignored                       | all of it; "any" if unsaid |
| is-custodial      | looked at               | ignored                       | ignored                    |
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from catalogs.tfc.patterns import NAME_MAX, SLASHES, Fault, Fit, Guarded, Search, guard
from catalogs.tfc.rules import ATTRIBUTE_MAX, Dialect, Kind, Rule, leads_upwards
from gridcore.errors import UsageError

PFN_MAX = NAME_MAX
#: What CMSSW takes for the destination where none is known.
ANY_DESTINATION = "any"

#: Makes a name of a name; None where its pattern does not fit.
Rewrite = Callable[[str], str | None]

_RESULT_TOKEN = re.compile(
    r"\$(?P<group>[1-9]\d?)(?!\d)|\$\{(?P<group_braced>[1-9]\d?)\}|\\(?P<group_sed>[1-9])(?!\d)"
    r"|\\(?P<quoted>[^A-Za-z0-9])|(?P<text>[^\\$]+)|(?P<bad>.)",
    re.DOTALL,
)


class Ready(NamedTuple):
    """A rule ready to run: `path` fits path-match, `aim` destination-match; `parts` only PhEDEx's result has.

    `number` counts from 1 within its kind, `where` names the rule in errors.
    """

    number: int
    where: str
    rule: Rule
    path: Guarded
    aim: Search | None
    parts: tuple[str | int, ...]


class DeadEnd(Exception):
    """The protocol has no name for that name, and its dialect tries no further rule."""

    def __init__(self, protocol: str, name: str) -> None:
        self.protocol, self.name = protocol, name
        super().__init__(protocol, name)


def prepare(number: int, where: str, rule: Rule, dialect: Dialect) -> tuple[Ready, int]:
    """The rule ready to run, and the steps one try of it may take. Raises Fault."""
    for name, text in rule.attributes().items():
        if len(text) > ATTRIBUTE_MAX or not (text.isascii() and text.isprintable()):
            raise Fault(f"{name} of {len(text)} characters", f"at most {ATTRIBUTE_MAX}, printable ASCII")
    if not rule.protocol or not rule.path_match:
        raise Fault("protocol or path-match is empty", "write both")
    if rule.is_custodial not in (None, "y", "n"):
        raise Fault(f"is-custodial={rule.is_custodial!r}", "write y or n, or leave it out for both")
    if leads_upwards(rule.result):
        raise Fault(f"result {rule.result!r} leads through '..'", "write the plain path")
    path, aim, steps = guard("path-match", rule.path_match, _fit(rule, dialect)), None, 0
    if rule.destination_match is not None:
        fit: Fit = "fullmatch" if dialect is Dialect.CMSSW else "search"
        guarded = guard("destination-match", rule.destination_match, fit)
        aim, steps = guarded.find, guarded.steps
    parts: tuple[str | int, ...] = ()
    if dialect is Dialect.PHEDEX:
        known = (part for part in template(rule.result) if isinstance(part, str) or part <= path.groups)
        parts = tuple(_joined(known))
    return Ready(number, where, rule, path, aim, parts), path.steps + steps


def _fit(rule: Rule, dialect: Dialect) -> Fit:
    if dialect is Dialect.CMSSW:
        return "fullmatch"
    return "match" if dialect is Dialect.WMCORE and rule.chain is None else "search"


def template(result: str) -> Iterator[str | int]:
    """The texts and group numbers of a Perl replacement. Raises Fault for a stray dollar or backslash."""
    for token in _RESULT_TOKEN.finditer(result):
        what = token.lastgroup or ""
        if what == "bad":
            raise Fault(f"stray {token[0]!r} in result {result!r}", r"groups are $1 to $99, a dollar \$")
        yield int(token[what]) if what.startswith("group") else token[what]


def highest_group(rule: Rule, dialect: Dialect) -> int:
    """The highest group its result asks for; 0 for none."""
    if dialect is Dialect.PHEDEX:
        return max((part for part in template(rule.result) if isinstance(part, int)), default=0)
    return max((int(digit) for digit in re.findall(r"\$([1-9])", rule.result)), default=0)


def _joined(parts: Iterator[str | int]) -> Iterator[str | int]:
    """The parts with texts in a row made one."""
    text = ""
    for part in parts:
        if isinstance(part, str):
            text += part
            continue
        if text:
            yield text
        text = ""
        yield part
    if text:
        yield text


def applies(ready: Ready, dialect: Dialect, destination: str | None, custodial: str) -> bool:
    """Whether the rule is for that destination and kind of copy."""
    if dialect is Dialect.WMCORE:
        return True
    if dialect is Dialect.CMSSW:
        return ready.aim is None or ready.aim(destination or ANY_DESTINATION) is not None
    if ready.rule.is_custodial not in (None, custodial):
        return False
    return ready.aim is None or destination is None or ready.aim(destination) is not None


# --- what the result becomes -------------------------------------------------------------------------


def rewriter(ready: Ready, dialect: Dialect, longest: int) -> tuple[Rewrite, int]:
    """What makes the rule's name of one of at most `longest` characters, and how long that is at most."""
    if dialect is Dialect.WMCORE:
        return _dropping(ready), PFN_MAX
    if dialect is Dialect.CMSSW:
        return _whole(ready), PFN_MAX
    texts = sum(len(part) for part in ready.parts if isinstance(part, str))
    groups = sum(1 for part in ready.parts if isinstance(part, int))
    most = texts + longest * (1 if groups <= 1 else groups + 1)
    rewrite = _in_place(ready)
    return (rewrite, most) if most <= PFN_MAX else (_bounded(rewrite, ready.where), PFN_MAX)


def _in_place(ready: Ready) -> Rewrite:
    """PhEDEx's: the part that fits is replaced, what is around it stays."""
    find, start, parts = ready.path.find, ready.path.start, ready.parts

    def rewrite(name: str) -> str | None:
        match = find(name)
        if match is None:
            return None
        middle = "".join([part if isinstance(part, str) else match[part] or "" for part in parts])
        return f"{name[: match.start()]}{middle}{name[match.end() :]}"

    if not ready.path.to_end or sum(isinstance(part, int) for part in parts) != 1:
        return rewrite
    at = next(index for index, part in enumerate(parts) if isinstance(part, int))
    group, before, after = parts[at], "".join(map(str, parts[:at])), "".join(map(str, parts[at + 1 :]))
    if ready.path.lead is not None:
        return _behind(ready.path.lead, before, after, rewrite)

    def whole(name: str) -> str | None:
        match = start(name)
        return rewrite(name) if match is None else before + (match[group] or "") + after

    def whole_in_front(name: str) -> str | None:
        match = start(name)
        return rewrite(name) if match is None else before + (match[group] or "")

    return whole if after else whole_in_front


def _behind(lead: str, before: str, after: str, rewrite: Rewrite) -> Rewrite:
    """What needs no engine: the name's beginning is replaced by another."""
    size = len(lead)

    def behind(name: str) -> str | None:
        return before + name[size:] + after if name.startswith(lead) else rewrite(name)

    def in_front(name: str) -> str | None:
        return before + name[size:] if name.startswith(lead) else rewrite(name)

    def all_of_it(name: str) -> str | None:
        return before + name + after

    def behind_slashes(name: str) -> str | None:
        rest = name.lstrip("/")
        return before + rest + after if name.startswith("/") else rewrite(name)

    if not lead:
        return all_of_it
    if lead == SLASHES:
        return behind_slashes
    return behind if after else in_front


def _bounded(rewrite: Rewrite, where: str) -> Rewrite:
    def bounded(name: str) -> str | None:
        text = rewrite(name)
        if text is not None and len(text) > PFN_MAX:
            raise _too_long(where, text, name)
        return text

    return bounded


def _dropping(ready: Ready) -> Rewrite:
    """WMCore's: of what is in front, the groups and the rest, what is not empty is $1, $2 and so on."""
    find, result, where = ready.path.find, ready.rule.result, ready.where
    signs = [f"${number}" for number in range(1, ready.path.groups + 3)]

    def rewrite(name: str) -> str | None:
        match = find(name)
        if match is None:
            return None
        found = (name[: match.start()], *match.groups(), name[match.end() :])
        return _replaced(result, signs, [part for part in found if part], where, name)

    return rewrite


def _whole(ready: Ready) -> Rewrite:
    """CMSSW's: each group that is not empty takes the places of its sign."""
    find, result, where = ready.path.find, ready.rule.result, ready.where
    signs = [f"${number}" for number in range(1, ready.path.groups + 1)]

    def rewrite(name: str) -> str | None:
        match = find(name)
        return None if match is None else _replaced(result, signs, match.groups(), where, name)

    return rewrite


def _replaced(result: str, signs: Sequence[str], found: Sequence[str | None], where: str, name: str) -> str:
    text = result
    for sign, part in zip(signs, found, strict=False):
        if part:
            text = text.replace(sign, part)
            if len(text) > PFN_MAX:  # what was put in may hold signs itself
                raise _too_long(where, text, name)
    return text


def _too_long(where: str, text: str, name: str) -> UsageError:
    what = f"makes {len(text)} characters of {name!r}; at most {PFN_MAX}"
    return UsageError(f"{where}: {what}", hint="shorten the rule's result")


# --- how a chain goes --------------------------------------------------------------------------------


def chained(kind: Kind, ready: Ready, dialect: Dialect, rewrite: Rewrite, inner: Rewrite) -> Rewrite:
    """The rule behind, or in front of, the protocol it chains to."""
    first = kind == "lfn-to-pfn" or dialect is Dialect.WMCORE
    if not first:
        return _before_chain(ready, rewrite, inner)
    if dialect is Dialect.CMSSW:
        return _around_chain(ready, rewrite, inner)
    return _behind_chain(ready, rewrite, inner, ends=dialect is Dialect.WMCORE)


def _chain(ready: Ready) -> str:
    return str(ready.rule.chain)


def _behind_chain(ready: Ready, rewrite: Rewrite, inner: Rewrite, *, ends: bool) -> Rewrite:
    chain = _chain(ready)

    def step(name: str) -> str | None:
        given = inner(name)
        return None if given is None else rewrite(given)

    def ending(name: str) -> str | None:
        given = inner(name)
        if not given:
            raise DeadEnd(chain, name)
        return rewrite(given)

    return ending if ends else step


def _around_chain(ready: Ready, rewrite: Rewrite, inner: Rewrite) -> Rewrite:
    chain, find, result = _chain(ready), ready.path.find, ready.rule.result

    def step(name: str) -> str | None:
        if find(name) is None:
            return None
        given = inner(name)
        if not given:
            raise DeadEnd(chain, name)
        text = rewrite(given)
        return result if text is None else text

    return step


def _before_chain(ready: Ready, rewrite: Rewrite, inner: Rewrite) -> Rewrite:
    chain = _chain(ready)

    def step(name: str) -> str | None:
        text = rewrite(name)
        if text is None:
            return None
        answer = inner(text)
        if answer is None:
            raise DeadEnd(chain, text)
        return answer

    return step
