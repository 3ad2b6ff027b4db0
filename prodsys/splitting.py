"""Splitting: cut a task into units, one per job. Unit i is the same range whenever it is asked for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from itertools import groupby
from operator import attrgetter

from gridcore.errors import UsageError

SEED_RANGE = 900_000_000  # Pythia 8 refuses larger seeds


@dataclass(frozen=True, slots=True)
class EventUnit:
    """Events `first` to `first + count - 1` of a task, counted from 0; job `index` makes them."""

    index: int
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


def event_units(
    total: int, per_job: int, *, first_index: int = 0, limit: int | None = None
) -> list[EventUnit]:
    """Units `first_index` onwards, at most `limit`: slices of one exact partition of `total` events.

    Past the last unit the list is empty. Raises UsageError.
    """
    jobs = count_event_jobs(total, per_job)
    if first_index < 0:
        raise UsageError(f"first_index is {first_index}", hint="units are counted from 0")
    if limit is not None:
        _check_positive("limit", limit)
    stop = jobs if limit is None else min(jobs, first_index + limit)
    return [_event_unit(index, total, per_job) for index in range(first_index, stop)]


def _event_unit(index: int, total: int, per_job: int) -> EventUnit:
    first = index * per_job
    return EventUnit(index, first, min(per_job, total - first))


def count_event_jobs(total: int, per_job: int) -> int:
    """How many jobs `total` events make. Raises UsageError."""
    _check_positive("the number of events", total)
    _check_positive("events per job", per_job)
    return -(-total // per_job)


def file_units(files: Iterable[InputFile], per_job: int) -> list[tuple[InputFile, ...]]:
    """Units of at most `per_job` files of one block, in the order of block id and file id.

    Raises UsageError where a file is given twice: its events would be processed twice.
    """
    _check_positive("files per job", per_job)
    ordered = sorted(files, key=attrgetter("block_id", "id"))
    _check_distinct(ordered)
    blocks = (tuple(members) for _, members in groupby(ordered, key=attrgetter("block_id")))
    return [block[start : start + per_job] for block in blocks for start in range(0, len(block), per_job)]


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
