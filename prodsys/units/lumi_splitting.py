"""Lumi splitting: lumis of one block's files in, jobs of so many lumis or so many events out.

Lumis are taken in the order of run and number. A lumi is never cut: where several files hold parts of it, its
job reads them all. The catalogue counts events per file, not per lumi: they are spread evenly over a file's
lumis, exactly to a billionth of an event, so that a file of fewer events than lumis has light lumis, not
weightless ones.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter

from gridcore.errors import UsageError
from prodsys.tasks import lumis
from prodsys.tasks.lumis import Lumis

#: Weight of one event.
EVENT = 10**9
#: Most lumis of a job that is cut by events: those without any weigh nothing.
MAX_LUMIS = 10_000

Span = tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class LumiFile:
    """A file's lumis: all of them, and those chosen; events None where nobody counted them."""

    id: int
    lfn: str
    events: int | None
    holds: Lumis
    chosen: Lumis


@dataclass(frozen=True, slots=True)
class Segment:
    """Lumis `first` to `last` of a run, held by the same files; each weighs the same."""

    run: int
    first: int
    last: int
    files: tuple[int, ...]
    weight: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LumiUnit:
    """One job's part: ranges as (run, first, last), the keys of the files that hold them."""

    ranges: tuple[Span, ...]
    files: tuple[int, ...]
    lumis: int
    weight: int

    @property
    def events(self) -> int:
        """About how many events these are, where lumis are weighed by events."""
        return round(self.weight / EVENT)


def lumi_units(files: Iterable[LumiFile], per_job: int, *, split_on_run: bool = False) -> Iterator[LumiUnit]:
    """Units of `per_job` lumis; the last one, and with `split_on_run` the last of a run, may have fewer."""
    weights: dict[int, int] = defaultdict(int)
    return _cut(_segments(files, weights, least=1), per_job, split_on_run, per_job)


def event_units(
    files: Iterable[LumiFile], per_job: int, *, split_on_run: bool = False, max_lumis: int = MAX_LUMIS
) -> Iterator[LumiUnit]:
    """Units of at most `per_job` events and `max_lumis` lumis; a lumi with more events goes alone.

    Files whose events are not known count as the mean of the others. Raises UsageError where none is known.
    """
    known = list(files)
    return _cut(_segments(known, _densities(known)), per_job * EVENT, split_on_run, max_lumis)


def _densities(files: list[LumiFile]) -> dict[int, int]:
    """Events per lumi of each file, in billionths; above zero where it has any."""
    sizes = {one.id: lumis.count(one.holds) for one in files}
    counted = [one for one in files if one.events is not None]
    if files and not counted:
        raise UsageError(
            f"nobody counted the events of {files[0].lfn} and the other files of its block",
            hint="cut this input by lumis_per_job or files_per_job",
        )
    total = sum(one.events or 0 for one in counted)
    mean = total * EVENT // max(1, sum(sizes[one.id] for one in counted))
    return {one.id: mean if one.events is None else one.events * EVENT // sizes[one.id] for one in files}


# --- segments --------------------------------------------------------------------------------------------


def _segments(files: Iterable[LumiFile], weights: Mapping[int, int], *, least: int = 0) -> Iterator[Segment]:
    """The chosen lumis, each in one segment, by run and number."""
    spans: dict[int, list[Span]] = defaultdict(list)
    for one in files:
        for run, ranges in one.chosen.items():
            spans[run] += [(first, last, one.id) for first, last in ranges]
    for run in sorted(spans):
        for first, last, holders in _swept(spans.pop(run)):
            weight = max(least, sum(weights[file_id] for file_id in holders))
            yield Segment(run, first, last, holders, weight)


def _swept(spans: Iterable[Span]) -> Iterator[tuple[int, int, tuple[int, ...]]]:
    """(first, last, holders) of each stretch of lumis with the same holders."""
    edges = [(first, True, holder) for first, _, holder in spans]
    edges += [(last + 1, False, holder) for _, last, holder in spans]
    active: set[int] = set()
    start = 0
    for at, changes in groupby(sorted(edges), key=itemgetter(0)):
        if active:
            yield start, at - 1, tuple(sorted(active))
        for _, begins, holder in changes:
            if begins:
                active.add(holder)
            else:
                active.discard(holder)
        start = at


# --- cutting ---------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Box:
    target: int
    max_lumis: int
    ranges: list[Span] = field(default_factory=list)
    files: set[int] = field(default_factory=set)
    lumis: int = 0
    weight: int = 0

    def room(self, weight: int) -> int:
        """How many more lumis of that weight fit; the first one always does."""
        left = self.max_lumis - self.lumis
        if self.weight >= self.target:
            left = 0
        elif weight:
            left = min(left, (self.target - self.weight) // weight)
        return left or int(not self.ranges)

    def add(self, one: Segment, first: int, n: int) -> None:
        """Take `n` lumis of a segment, from `first` on."""
        last = first + n - 1
        if self.ranges and self.ranges[-1][0] == one.run and self.ranges[-1][2] + 1 == first:
            self.ranges[-1] = (one.run, self.ranges[-1][1], last)
        else:
            self.ranges.append((one.run, first, last))
        self.files.update(one.files)
        self.lumis += n
        self.weight += n * one.weight

    def unit(self) -> LumiUnit:
        return LumiUnit(
            ranges=tuple(self.ranges),
            files=tuple(sorted(self.files)),
            lumis=self.lumis,
            weight=self.weight,
        )


def _cut(segments: Iterable[Segment], target: int, split_on_run: bool, max_lumis: int) -> Iterator[LumiUnit]:
    box = _Box(target, max_lumis)
    for one in segments:
        if split_on_run and box.ranges and box.ranges[-1][0] != one.run:
            yield box.unit()
            box = _Box(target, max_lumis)
        first = one.first
        while first <= one.last:
            n = min(box.room(one.weight), one.last - first + 1)
            if n:
                box.add(one, first, n)
                first += n
            else:
                yield box.unit()
                box = _Box(target, max_lumis)
    if box.ranges:
        yield box.unit()
