"""Splitting: cut a task into units, one per job. The same input always gives the same units."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from itertools import groupby

from gridcore.errors import UsageError

SEED_RANGE = 900_000_000  # Pythia 8 refuses larger seeds


@dataclass(frozen=True, slots=True)
class EventUnit:
    """Events `first` to `first + count - 1` of a task, counted from 0."""

    first: int
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class InputFile:
    """One file of a closed input block; size in bytes, runs as (run, first lumi, last lumi)."""

    id: int
    lfn: str
    events: int | None
    size: int
    block_id: int
    runs: tuple[tuple[int, int, int], ...] = ()

    @property
    def run_numbers(self) -> tuple[int, ...]:
        """The runs it holds, ascending."""
        return tuple(sorted({run for run, _, _ in self.runs}))


def event_units(total: int, per_job: int, *, first_event: int = 0) -> Iterator[EventUnit]:
    """Units of the events from `first_event` to the end of `total`.

    A task whose total has grown is cut on from where its last unit ended. Raises UsageError.
    """
    _check_positive("the number of events", total)
    _check_positive("events per job", per_job)
    if first_event < 0:
        raise UsageError(f"first_event is {first_event}", hint="events are counted from 0")
    starts = range(first_event, total, per_job)
    return (EventUnit(first, min(per_job, total - first)) for first in starts)


def count_event_jobs(total: int, per_job: int) -> int:
    """How many jobs `total` events make. Raises UsageError."""
    _check_positive("the number of events", total)
    _check_positive("events per job", per_job)
    return -(-total // per_job)


def file_units(
    files: Iterable[InputFile], per_job: int, *, split_on_run: bool = False
) -> list[tuple[InputFile, ...]]:
    """Units of at most `per_job` files of one block, in the order of block id and file id.

    With `split_on_run` all files of a unit hold the same runs. Raises UsageError where a file is given twice:
    its events would be processed twice.
    """
    _check_positive("files per job", per_job)
    return [
        group[start : start + per_job]
        for group in _groups(files, split_on_run)
        for start in range(0, len(group), per_job)
    ]


def size_units(
    files: Iterable[InputFile], per_job: int, *, split_on_run: bool = False
) -> list[tuple[InputFile, ...]]:
    """Units of at most `per_job` bytes, otherwise as `file_units`; a larger file goes alone."""
    _check_positive("bytes per job", per_job)
    return [unit for group in _groups(files, split_on_run) for unit in _by_size(group, per_job)]


def _groups(files: Iterable[InputFile], split_on_run: bool) -> list[tuple[InputFile, ...]]:
    """The files that may go together, each group in the order of file id."""

    def place(file: InputFile) -> tuple[int, tuple[int, ...]]:
        return file.block_id, file.run_numbers if split_on_run else ()

    ordered = sorted(files, key=lambda file: (place(file), file.id))
    _check_distinct(ordered)
    return [tuple(members) for _, members in groupby(ordered, key=place)]


def _by_size(files: tuple[InputFile, ...], per_job: int) -> Iterator[tuple[InputFile, ...]]:
    unit: list[InputFile] = []
    size = 0
    for file in files:
        if unit and size + file.size > per_job:
            yield tuple(unit)
            unit, size = [], 0
        unit.append(file)
        size += file.size
    if unit:
        yield tuple(unit)


def check_job_count(jobs: int, cap: int) -> int:
    """The number itself, if a task may have that many jobs. Raises UsageError with the cure."""
    if jobs < 1:
        raise UsageError(
            "the task has nothing to do: splitting gives no job",
            hint="check that the input dataset has closed blocks and that the run range meets it",
        )
    if jobs > cap:
        raise UsageError(
            f"splitting gives {jobs:,} jobs; a task has at most {cap:,}",
            hint=f"make each job {-(-jobs // cap)} times as big, or cut the request into several tasks",
        )
    return jobs


def seed_for(task: str, index: int) -> int:
    """The random seed of job `index`, 1 to 900,000,000: the same for every attempt."""
    first_31_bits = int.from_bytes(sha256(f"{task}/{index}".encode()).digest()[:4]) >> 1
    return 1 + first_31_bits % SEED_RANGE


def _check_positive(what: str, number: int) -> None:
    if number < 1:
        raise UsageError(f"{what} is {number}", hint="give a number of at least 1")


def _check_distinct(files: list[InputFile]) -> None:
    seen: set[int] = set()
    for file in files:
        if file.id in seen:
            raise UsageError(f"{file.lfn} is in the input twice", hint="name each file and block once")
        seen.add(file.id)
