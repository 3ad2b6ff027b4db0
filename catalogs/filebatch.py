"""File batches: files to register, by column: split into names, checked, and divided into blocks. Pure."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, chain

from catalogs.bookkeeping import BlockPolicy
from gridcore.errors import Conflict, UsageError
from gridcore.ids import COMPONENT_MAX, LFN_MAX, check_lfn, split_lfn

ADLER32_MAX = 2**32 - 1
#: What every database and every JSON reader holds exactly.
COUNT_MAX = 2**53
_COMPONENT = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_NAMES = re.compile(rf"{_COMPONENT}(?:\n{_COMPONENT})*")

Runs = Mapping[int, Sequence[tuple[int, int]]]
"""Lumi ranges (first, last) by run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewFile:
    """A file to register, its parents by their file ids; `events` is None where nobody counted them."""

    lfn: str
    bytes: int
    adler32: int
    events: int | None = None
    runs: Runs = field(default_factory=dict)
    parents: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FileBatch:
    """Files by column, each LFN once. `dir_of` is the place of a file's directory in `dirs`; runs are by the
    file's place, parents pairs of a file's place and its parent's id."""

    dirs: Sequence[str]
    dir_of: Sequence[int]
    names: Sequence[str]
    bytes: Sequence[int]
    adler32: Sequence[int]
    events: Sequence[int | None]
    runs: Mapping[int, Runs] = field(default_factory=dict)
    parents: Sequence[tuple[int, int]] = ()

    def __len__(self) -> int:
        return len(self.names)

    def lfn(self, place: int) -> str:
        """The name of the file at that place."""
        return f"{self.dirs[self.dir_of[place]]}/{self.names[place]}"

    def lfns(self) -> Iterator[str]:
        """All names in order."""
        return map(self.lfn, range(len(self)))

    def at(self, places: Sequence[int]) -> FileBatch:
        """The files at these places alone."""
        new = {place: number for number, place in enumerate(places)}
        return FileBatch(
            dirs=self.dirs,
            dir_of=[self.dir_of[place] for place in places],
            names=[self.names[place] for place in places],
            bytes=[self.bytes[place] for place in places],
            adler32=[self.adler32[place] for place in places],
            events=[self.events[place] for place in places],
            runs={new[place]: runs for place, runs in self.runs.items() if place in new},
            parents=[(new[place], parent) for place, parent in self.parents if place in new],
        )


def batch_of(files: Iterable[NewFile]) -> tuple[FileBatch, list[int]]:
    """The batch, and for each file its place there: one given twice has one place.

    Raises Conflict for an LFN that is given twice with different content.
    """
    place_of: dict[str, int] = {}
    distinct: list[NewFile] = []
    places = []
    for one in files:
        place = place_of.setdefault(one.lfn, len(distinct))
        if place == len(distinct):
            distinct.append(one)
        elif (distinct[place].bytes, distinct[place].adler32) != (one.bytes, one.adler32):
            raise Conflict(f"{one.lfn} is given twice with different content")
        places.append(place)
    split = [split_lfn(one.lfn) for one in distinct]
    dirs = {path: number for number, path in enumerate(dict.fromkeys(path for path, _ in split))}
    batch = FileBatch(
        dirs=list(dirs),
        dir_of=[dirs[path] for path, _ in split],
        names=[name for _, name in split],
        bytes=[one.bytes for one in distinct],
        adler32=[one.adler32 for one in distinct],
        events=[one.events for one in distinct],
        runs={place: one.runs for place, one in enumerate(distinct) if one.runs},
        parents=[
            (place, parent) for place, one in enumerate(distinct) for parent in sorted(set(one.parents))
        ],
    )
    return batch, places


def check(batch: FileBatch) -> None:
    """Raises UsageError naming the first file whose name, size, checksum, event count or lumis cannot be, and
    Conflict for one that is there twice."""
    if not len(batch):
        return
    for path in batch.dirs:
        check_lfn(f"{path}/x")
    joined, longest = "\n".join(batch.names), max(map(len, batch.names))
    fits = longest <= COMPONENT_MAX and longest + 1 + max(map(len, batch.dirs)) <= LFN_MAX
    plain = ".." not in joined and joined.count("\n") == len(batch) - 1 and _NAMES.fullmatch(joined)
    if not (fits and plain):  # which of them it is, one look at each will tell
        for lfn in batch.lfns():
            check_lfn(lfn)
    if len(set(zip(batch.dir_of, batch.names, strict=True))) < len(batch):
        raise Conflict(f"{_twice(batch)} is given twice")
    _check_counts(batch, "size", batch.bytes, COUNT_MAX)
    _check_counts(batch, "adler32", batch.adler32, ADLER32_MAX)
    _check_counts(batch, "number of events", [0 if one is None else one for one in batch.events], COUNT_MAX)
    for place, runs in batch.runs.items():
        numbers = chain(runs, chain.from_iterable(chain.from_iterable(runs.values())))
        if wrong := next((one for one in numbers if not 0 <= one <= COUNT_MAX), None):
            raise UsageError(
                f"{batch.lfn(place)} has a run or lumi {wrong}", hint=f"it is between 0 and {COUNT_MAX}"
            )


def _check_counts(batch: FileBatch, what: str, values: Sequence[int], most: int) -> None:
    if set(map(type, values)) != {int}:
        place = next(place for place, value in enumerate(values) if type(value) is not int)
        raise UsageError(f"{batch.lfn(place)} has a {what} of {values[place]!r}", hint="it is a whole number")
    if min(values) < 0 or max(values) > most:
        place = next(place for place, value in enumerate(values) if not 0 <= value <= most)
        raise UsageError(
            f"{batch.lfn(place)} has a {what} of {values[place]}", hint=f"it is between 0 and {most}"
        )


def _twice(batch: FileBatch) -> str:
    seen: set[str] = set()
    return next(lfn for lfn in batch.lfns() if lfn in seen or seen.add(lfn))  # type: ignore[func-returns-value]


def portions(
    policy: BlockPolicy, held: tuple[int, int], sizes: Sequence[int]
) -> list[tuple[int, str | None]]:
    """How many of the next files go into the open block, the one after it, ...

    `held` is (files, bytes) of the open block, `sizes` are in bytes. With each number goes the code that
    closes the block, None for the last, which stays open. A file larger than a block has one of its own.
    """
    sums, (files, size) = list(accumulate(sizes, initial=0)), held
    shares: list[tuple[int, str | None]] = []
    at = 0
    while True:
        by_files = max(at, at + policy.files - files)
        by_bytes = bisect_right(sums, policy.bytes - size + sums[at]) - 1
        by_bytes = max(by_bytes, at if files else at + 1)
        end = min(by_files, by_bytes)
        if end >= len(sizes):
            return [*shares, (len(sizes) - at, None)]
        shares.append((end - at, "files" if by_files <= by_bytes else "bytes"))
        at, files, size = end, 0, 0


def merged(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Lumi ranges (first, last) in order, those that touch or overlap made one. Raises UsageError."""
    result: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if last < first:
            raise UsageError(f"the lumi range {first}-{last} ends before it begins")
        if result and first <= result[-1][1] + 1:
            result[-1] = (result[-1][0], max(last, result[-1][1]))
        else:
            result.append((first, last))
    return result
