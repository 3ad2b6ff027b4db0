"""Lumi masks: which lumis of which runs, as ranges. Pure; its work grows with ranges, not with lumis."""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from operator import itemgetter
from typing import Any

from gridcore.errors import UsageError

#: Both ends belong to it.
Range = tuple[int, int]
#: By ascending run, ascending ranges that neither overlap nor touch; no run without one.
Lumis = Mapping[int, Sequence[Range]]

MAX_RANGES = 100_000
MAX_RUNS = 10_000
MAX_NUMBER = 2**32 - 1
_FORM = 'a mask is {"run": [[first, last], ...], ...}, as in {"194050": [[1, 49], [52, 90]]}'
_NUMBER = re.compile(r"[0-9]{1,10}")
_RUNS = re.compile(r"([0-9]{1,10})(?:-([0-9]{1,10}))?")


def parse(raw: Any) -> Lumis:
    """The mask in a document. Raises UsageError; one that is too long is refused unread."""
    if not isinstance(raw, Mapping):
        raise UsageError(f"a lumi mask is no {type(raw).__name__}", hint=_FORM)
    if len(raw) > MAX_RANGES or sum(map(_length, raw.values())) > MAX_RANGES:
        raise UsageError(
            f"the lumi mask holds more than {MAX_RANGES:,} ranges",
            hint="write neighbouring lumis as one range, or cut the request into several tasks",
        )
    mask: dict[int, tuple[Range, ...]] = {}
    for name, ranges in raw.items():
        run = _run(name)
        if run in mask:
            raise UsageError(f"run {run} is in the lumi mask twice", hint="write all its ranges in one list")
        mask[run] = _ranges(run, ranges)
    mask = {run: mask[run] for run in sorted(mask) if mask[run]}
    if not mask:
        raise UsageError("the lumi mask is empty", hint="leave it out to take every lumi")
    return mask


def read(text: str) -> Any:
    """The content of a JSON mask, not checked yet. Raises UsageError."""
    try:
        return json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the lumi mask is no JSON: {' '.join(str(error).split())}", hint=_FORM) from None


def parse_runs(text: str) -> tuple[Range, ...]:
    """Ranges of runs from a list such as `1,5-9`. Raises UsageError."""
    if text.count(",") >= MAX_RUNS:
        raise UsageError(f"runs lists more than {MAX_RUNS:,} ranges", hint="use a lumi mask")
    ranges = []
    for part in text.split(","):
        found = _RUNS.fullmatch(part.strip())
        if found is None:
            raise UsageError(f"runs: {part[:40]!r} is no run", hint="write runs like 194050,194070-194080")
        first, last = int(found[1]), int(found[2] or found[1])
        if first > last or last > MAX_NUMBER:
            raise UsageError(
                f"runs: {part.strip()} is reversed or too large",
                hint=f"write {last}-{first}, from low to high",
            )
        ranges.append((first, last))
    return merged(ranges)


def to_json(lumis: Lumis) -> dict[str, list[list[int]]]:
    """As documents and payloads have it."""
    return {str(run): [list(pair) for pair in ranges] for run, ranges in lumis.items()}


def from_json(content: Mapping[str, Sequence[Sequence[int]]]) -> Lumis:
    """The way back, of what has been checked."""
    return {int(run): [(pair[0], pair[1]) for pair in ranges] for run, ranges in content.items()}


# --- ranges ----------------------------------------------------------------------------------------------


def normal(rows: Iterable[tuple[int, int, int]]) -> Lumis:
    """Lumis from rows of (run, first, last) in any order."""
    by_run: dict[int, list[Range]] = {}
    for run, first, last in rows:
        by_run.setdefault(run, []).append((first, last))
    return {run: merged(by_run[run]) for run in sorted(by_run)}


def merged(ranges: Iterable[Range]) -> tuple[Range, ...]:
    """The same numbers in ascending ranges that neither overlap nor touch."""
    result: list[Range] = []
    for first, last in sorted(ranges):
        if result and first <= result[-1][1] + 1:
            result[-1] = (result[-1][0], max(result[-1][1], last))
        else:
            result.append((first, last))
    return tuple(result)


def count(lumis: Lumis) -> int:
    """How many lumis these are."""
    return sum(last - first + 1 for ranges in lumis.values() for first, last in ranges)


def common(some: Lumis, others: Lumis) -> Lumis:
    """The lumis in both."""
    shared = {run: _common(some[run], others[run]) for run in some if run in others}
    return {run: ranges for run, ranges in shared.items() if ranges}


def without(some: Lumis, others: Lumis) -> Lumis:
    """The lumis of the first that are not in the second."""
    left = {run: _without(some[run], others.get(run, ())) for run in some}
    return {run: ranges for run, ranges in left.items() if ranges}


def united(some: Lumis, others: Lumis) -> Lumis:
    """The lumis in either."""
    runs = sorted({*some, *others})
    return {run: merged([*some.get(run, ()), *others.get(run, ())]) for run in runs}


def of_runs(lumis: Lumis, runs: Sequence[Range]) -> Lumis:
    """The lumis of these runs."""
    return {run: ranges for run, ranges in lumis.items() if any(first <= run <= last for first, last in runs)}


def _common(some: Sequence[Range], others: Sequence[Range]) -> tuple[Range, ...]:
    few, many = (some, others) if len(some) <= len(others) else (others, some)
    return tuple(
        (max(first, start), min(last, end)) for first, last in few for start, end in _met(many, first, last)
    )


def _without(some: Sequence[Range], others: Sequence[Range]) -> tuple[Range, ...]:
    left = []
    for begin, last in some:
        first = begin
        for start, end in _met(others, first, last):
            if first < start:
                left.append((first, start - 1))
            first = end + 1
        if first <= last:
            left.append((first, last))
    return tuple(left)


def _met(ranges: Sequence[Range], first: int, last: int) -> Iterator[Range]:
    """Those of the ranges that meet first to last."""
    place = bisect_left(ranges, first, key=itemgetter(1))
    while place < len(ranges) and ranges[place][0] <= last:
        yield ranges[place]
        place += 1


# --- reading ---------------------------------------------------------------------------------------------


def _length(ranges: Any) -> int:
    return len(ranges) if isinstance(ranges, list | tuple) else 0


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise UsageError(
                f"run {name[:20]} is in the lumi mask twice", hint="write all its ranges in one list"
            )
        found[name] = value
    return found


def _run(name: Any) -> int:
    if isinstance(name, int) and not isinstance(name, bool):
        name = str(name)
    if not isinstance(name, str) or not _NUMBER.fullmatch(name) or int(name) > MAX_NUMBER:
        raise UsageError(f"the lumi mask names the run {str(name)[:40]!r}", hint=_FORM)
    return int(name)


def _ranges(run: int, raw: Any) -> tuple[Range, ...]:
    if not isinstance(raw, list | tuple):
        raise UsageError(f"the lumi mask of run {run} is no list of ranges", hint=_FORM)
    pairs = sorted(_pair(run, one) for one in raw)
    for (first, last), (start, end) in pairwise(pairs):
        if start <= last:
            raise UsageError(
                f"run {run} of the lumi mask: [{first}, {last}] and [{start}, {end}] overlap",
                hint=f"write [{first}, {max(last, end)}]",
            )
    return merged(pairs)


def _pair(run: int, raw: Any) -> Range:
    numbers = raw if isinstance(raw, list | tuple) and len(raw) == 2 else ()
    if not numbers or not all(type(one) is int and 0 <= one <= MAX_NUMBER for one in numbers):
        raise UsageError(f"run {run} of the lumi mask: {str(raw)[:40]} is no range", hint=_FORM)
    first, last = numbers
    if first > last:
        raise UsageError(
            f"run {run} of the lumi mask: [{first}, {last}] is reversed", hint=f"write [{last}, {first}]"
        )
    return first, last
