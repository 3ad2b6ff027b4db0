"""Diagnosis: from what an attempt left behind, a report or a log, to the class of its failure.

Pure, and the text may be anything: lines are cut, patterns are linear, numbers are short.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from signal import Signals
from typing import Any

from prodsys.settling.retries import EXIT_CODES, ErrorClass, classify

#: Characters of a line that are looked at.
LINE_MAX = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """A class, the sentence why, and what else in the log hints at other classes."""

    error_class: ErrorClass
    because: str
    also: Sequence[str] = ()


_CLASS = re.compile(r"""error_class["']?\s?[:=]\s?["']?([a-z_]{3,20})\b""")
_CODE = re.compile(
    r"""(?:exit|return)(?:ed)?(?: with)?[ _-]?(?:code|status)"""
    r"""(?: (?:is|was|of))?["']?\s?[:=]?\s?["']?(-?\d{1,6})\b""",
    re.IGNORECASE,
)
_EXITED = re.compile(r"\bexited? (\d{1,6})\b", re.IGNORECASE)
_SIGNAL = re.compile(r"\bsignal\s?[:=#(]?\s?(\d{1,2})\b", re.IGNORECASE)
_SIGNAL_NAME = re.compile(r"\bSIG[A-Z]{2,6}\b")
_NAMES = {one.name: one.value for one in Signals}

#: What logs say in words, the most telling first.
_PHRASES: tuple[tuple[re.Pattern[str], ErrorClass], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), kind)
    for pattern, kind in (
        (
            r"out of memory|oom[- ]?kill|cannot allocate memory|std::bad_alloc|memory limit",
            ErrorClass.MEMORY,
        ),
        (r"due to time limit|wall ?(?:clock )?time limit|time limit exceeded", ErrorClass.TIMEOUT),
        (r"\bpreempted\b", ErrorClass.PREEMPTED),
        (r"no space left on device|read-only file system|stale file handle", ErrorClass.SITE),
        (r"\bcommand not found\b|exec format error", ErrorClass.EXECUTABLE),
        (r"\bFileOpenError\b|\bFileReadError\b|\bFallbackFileOpenError\b", ErrorClass.STAGE_IN),
        (r"stage-?out (?:has )?failed|failed to stage out", ErrorClass.STAGE_OUT),
        (r"segmentation (?:fault|violation)", ErrorClass.PAYLOAD),
        (r"\bfatal exception\b|traceback \(most recent call last\)", ErrorClass.PAYLOAD),
        (r"\bkilled\b", ErrorClass.KILLED),
    )
)


def of_report(document: Mapping[str, Any]) -> Diagnosis | None:
    """The class as settlement would have it, of a worker's or CRAB's job report; None where it tells of no
    failure."""
    code = _whole(document, "exit_code", "exitCode", "jobExitCode")
    signal = _whole(document, "signal")
    named = document.get("error_class")
    named = named if isinstance(named, str) else None
    if document.get("outcome") == "done" or not (code or signal or named):
        return None
    kind = classify(code, signal, named)
    facts = {"error_class": named, "exit_code": code, "signal": signal}
    told = ", ".join(f"{name} {str(value)[:60]}" for name, value in facts.items() if value is not None)
    return Diagnosis(error_class=kind, because=f"the report says {told}")


def _whole(document: Mapping[str, Any], *names: str) -> int | None:
    found = (document.get(name) for name in names)
    return next((one for one in found if type(one) is int), None)


def of_text(text: str) -> Diagnosis | None:
    """The class of a log's text; None where nothing in it tells of a failure.

    A class by name counts before an exit code, that before a signal, that before words.
    """
    lines = [line[:LINE_MAX] for line in text.splitlines()]
    found = _by_class(lines) or _by_code(lines) or _by_signal(lines)
    words = _by_words(lines)
    if found is None:
        return Diagnosis(error_class=words[0][0], because=words[0][1]) if words else None
    also = tuple(f"{told}: {kind.value}" for kind, told in words if kind != found.error_class)
    return Diagnosis(error_class=found.error_class, because=found.because, also=also)


def _by_class(lines: Sequence[str]) -> Diagnosis | None:
    named = [name for name in _found(_CLASS, lines) if name in tuple(ErrorClass)]
    if not named:
        return None
    return Diagnosis(error_class=ErrorClass(named[-1]), because=f"it names the class {named[-1]}")


def _by_code(lines: Sequence[str]) -> Diagnosis | None:
    """By the last exit code the table knows, else the last one that is not 0."""
    codes = [int(code) for code in [*_found(_EXITED, lines), *_found(_CODE, lines)]]
    codes = [code for code in codes if code]
    if not codes:
        return None
    code = next((one for one in reversed(codes) if one in EXIT_CODES), codes[-1])
    if -64 <= code < 0:
        return Diagnosis(error_class=classify(None, -code), because=f"exit code {code} is signal {-code}")
    return Diagnosis(error_class=classify(code), because=f"exit code {code}{_meaning(code)}")


def _meaning(code: int) -> str:
    if code in EXIT_CODES:
        return " is in the table"
    return f" is signal {code - 128}" if 128 < code <= 192 else " is the program's own"


def _by_signal(lines: Sequence[str]) -> Diagnosis | None:
    numbers = [int(number) for number in _found(_SIGNAL, lines)]
    numbers += [_NAMES[name] for name in _found(_SIGNAL_NAME, lines) if name in _NAMES]
    numbers = [number for number in numbers if number]
    if not numbers:
        return None
    return Diagnosis(error_class=classify(None, numbers[-1]), because=f"ended by signal {numbers[-1]}")


def _by_words(lines: Sequence[str]) -> list[tuple[ErrorClass, str]]:
    """The classes that its words speak for, each with the last such word."""
    told: dict[ErrorClass, str] = {}
    for pattern, kind in _PHRASES:
        last = next((match for line in reversed(lines) if (match := pattern.search(line))), None)
        if last is not None and kind not in told:
            told[kind] = f"it says {last.group(0)!r}"
    return list(told.items())


def _found(pattern: re.Pattern[str], lines: Iterable[str]) -> list[str]:
    return [match.group(match.lastindex or 0) for line in lines for match in pattern.finditer(line)]
