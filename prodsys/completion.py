"""Completion: when a task is worked off, and what it ends as. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prodsys.jobs.machine import TERMINAL, JobKind, JobState
from prodsys.states import RequestState, TaskEvent, TaskState
from prodsys.tasks import JobCount, jobs_in, units_in


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """A task's facts: `merges_left` while outputs wait for a merge, `open_blocks` of its output."""

    state: TaskState
    units_total: int | None
    units_made: int
    counts: Sequence[JobCount]
    merges_left: bool
    open_blocks: int


def next_state(progress: Progress) -> tuple[TaskEvent, TaskState] | None:
    """The move a task is due for, None where it has to wait."""
    if progress.state == TaskState.ACTIVE and _worked_off(progress):
        return TaskEvent.WORKED_OFF, TaskState.CLOSING
    if progress.state == TaskState.CLOSING and not progress.open_blocks:
        whole = units_in(progress.counts, JobState.DONE) == progress.units_total
        ended = whole and not _failed_merges(progress)
        return TaskEvent.BLOCKS_CLOSED, TaskState.COMPLETED if ended else TaskState.INCOMPLETE
    return None


def _worked_off(progress: Progress) -> bool:
    if progress.units_total is None or progress.units_made < progress.units_total or progress.merges_left:
        return False
    return all(count.state in TERMINAL for count in progress.counts)


def _failed_merges(progress: Progress) -> int:
    merges = [count for count in progress.counts if count.kind == JobKind.MERGE]
    return jobs_in(merges, JobState.FAILED)  # the inputs of a killed one are merged anew


def of_request(states: Sequence[TaskState]) -> RequestState | None:
    """What a running request ends as, None while a task goes on."""
    if all(state == TaskState.COMPLETED for state in states):
        return RequestState.COMPLETED
    ended = (TaskState.COMPLETED, TaskState.INCOMPLETE, TaskState.KILLED)
    return RequestState.INCOMPLETE if all(state in ended for state in states) else None
