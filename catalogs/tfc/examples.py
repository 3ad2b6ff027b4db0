"""What a pattern of a Trivial File Catalog is like: a name that fits it, a pattern that leads back. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from re import _parser  # type: ignore[attr-defined]
from typing import Any

from catalogs.tfc.rules import Rule
from gridcore.errors import UsageError
from gridcore.ids import check_lfn

#: What a wildcard stands for in an example.
_ANY = "example.root"
_Parsed = Sequence[tuple[Any, Any]]


def example(rule: Rule) -> str | None:
    """An LFN that the rule, one without a chain, may be meant for; None where its pattern tells of none."""
    try:
        text = _like(_parser.parse(rule.path_match, re.ASCII))
        for lead in ("", "/", "/store", "/store/"):
            if f"{lead}{text}".startswith("/store/"):
                return check_lfn(lead + text)
    except (UsageError, LookupError):
        pass
    return None


def _like(parsed: _Parsed) -> str:
    """A text the pattern fits. Raises LookupError for what is beyond literals, groups and repeats."""
    return "".join(_one_like(str(code), value) for code, value in parsed)


def _one_like(code: str, value: Any) -> str:
    match code:
        case "LITERAL":
            return chr(value)
        case "ANY" | "NOT_LITERAL":
            return "x"
        case "AT" | "ASSERT":
            return ""
        case "SUBPATTERN":
            return _like(value[3])
        case "BRANCH":
            return _like(value[1][0])
        case "MAX_REPEAT" | "MIN_REPEAT":
            low, high, body = value
            if str(body[0][0]) == "ANY" and high is _parser.MAXREPEAT:
                return _ANY
            return _like(body) * max(int(low), 1 if high else 0)
        case "IN":
            return _member(value)
    raise LookupError(code)


def _member(choices: _Parsed) -> str:
    """A character of a class."""
    code, value = choices[0]
    match str(code):
        case "LITERAL":
            return chr(value)
        case "RANGE":
            return chr(value[0])
        case "NEGATE":
            return "x"
        case "CATEGORY":
            return "1"
    raise LookupError(code)


# --- leading back ------------------------------------------------------------------------------------


def backward(path_match: str, parts: Sequence[str | int]) -> tuple[str, str] | None:
    """(pattern, result) that make a name again of what the pattern and the result's parts made of it.

    The result is Perl's, as `tfc_dialects.template` reads it. None where names cannot be made again for sure:
    what is outside the groups is not fixed, or a group is lost.
    """
    try:
        parsed = _parser.parse(path_match, re.ASCII)
        pieces = _pieces(parsed)
        wanted = [piece for piece in pieces if isinstance(piece, int)]
        bodies = {value[0]: _written(value[3]) for code, value in parsed if str(code) == "SUBPATTERN"}
    except (LookupError, re.error, OverflowError, RecursionError):
        return None
    order: dict[int, int] = {}
    pattern = "^"
    for part in parts:
        if isinstance(part, str):
            pattern += re.escape(part)
        elif part in order:
            pattern += rf"(?:\{order[part]})"
        else:
            order[part] = len(order) + 1
            pattern += f"({bodies.get(part, '')})"
    if set(wanted) - set(order):
        return None
    result = "".join(quoted(piece) if isinstance(piece, str) else f"${{{order[piece]}}}" for piece in pieces)
    return pattern + "$", result


def quoted(text: str) -> str:
    """The text as it stands in a Perl replacement."""
    return re.sub(r"([\\$])", r"\\\1", text)


def _pieces(parsed: _Parsed) -> list[str | int]:
    """The pattern as texts and group numbers; `/+` and `/?` stand for one slash. Raises LookupError."""
    pieces: list[str | int] = []
    for code, value in parsed:
        match str(code):
            case "LITERAL":
                pieces.append(chr(value))
            case "SUBPATTERN" if value[0] is not None:
                pieces.append(value[0])
            case "MAX_REPEAT" if list(value[2]) == [(_parser.LITERAL, ord("/"))] and value[0] <= 1:
                pieces.append("/")
            case "AT" | "ASSERT":
                pass
            case other:
                raise LookupError(other)
    return pieces


def _written(parsed: _Parsed) -> str:
    """The inside of a group as a pattern. Raises LookupError for what holds groups or branches."""
    return "".join(_one_written(str(code), value) for code, value in parsed)


def _one_written(code: str, value: Any) -> str:
    match code:
        case "LITERAL":
            return re.escape(chr(value))
        case "NOT_LITERAL":
            return f"[^{re.escape(chr(value))}]"
        case "ANY":
            return "."
        case "MAX_REPEAT" if value[:2] in ((0, _parser.MAXREPEAT), (1, _parser.MAXREPEAT)):
            if len(value[2]) == 1:
                return _written(value[2]) + "*+"[value[0]]
    raise LookupError(code)
