"""Completion: when a task is worked off, what it ends as, and when that will be. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from prodsys.job_states import TERMINAL, JobKind, JobState
from prodsys.states import RequestState, TaskEvent, TaskState
from prodsys.tasks.tasks import JobCount, jobs_in, units_in

#: Below this part of all that is done, what was done lately says nothing about the pace.
LEAST = 0.001
#: No end is told beyond ten years.
HORIZON_S = 10 * 365 * 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """A task's facts: `merges_left` while outputs wait for a merge, `open_blocks` of its output.

    `units_wanted` are those asked for where top-ups made the total more; `forced` once an operator has
    declared it complete with what is done.
    """

    state: TaskState
    units_total: int | None
    units_made: int
    counts: Sequence[JobCount]
    merges_left: bool
    open_blocks: int
    units_wanted: int | None = None
    forced: bool = False


def next_state(progress: Progress) -> tuple[TaskEvent, TaskState] | None:
    """The move a task is due for, None where it has to wait."""
    if progress.state == TaskState.ACTIVE and _worked_off(progress):
        return TaskEvent.WORKED_OFF, TaskState.CLOSING
    if progress.state == TaskState.CLOSING and not progress.open_blocks:
        whole = progress.forced or (_whole(progress) and not _failed_merges(progress))
        return TaskEvent.BLOCKS_CLOSED, TaskState.COMPLETED if whole else TaskState.INCOMPLETE
    return None


def wanted(units_total: int | None, units_wanted: int | None) -> int | None:
    """Units to be done; None while the input still grows."""
    return units_total if units_wanted is None else units_wanted


def missing(units_total: int, units_wanted: int | None, counts: Sequence[JobCount]) -> int:
    """Units that nothing will do any more: asked for, but failed or killed and not made up for."""
    lost = units_in(counts, JobState.FAILED, JobState.KILLED)
    spare = units_total - (wanted(units_total, units_wanted) or 0)
    return max(0, lost - spare)


def live_jobs(counts: Sequence[JobCount]) -> int:
    """Jobs that may still change something."""
    return sum(count.jobs for count in counts if count.state not in TERMINAL)


def _whole(progress: Progress) -> bool:
    due = wanted(progress.units_total, progress.units_wanted)
    return due is not None and units_in(progress.counts, JobState.DONE) >= due


def _worked_off(progress: Progress) -> bool:
    if progress.units_total is None or progress.units_made < progress.units_total or progress.merges_left:
        return False
    return not live_jobs(progress.counts)


def _failed_merges(progress: Progress) -> int:
    merges = [count for count in progress.counts if count.kind == JobKind.MERGE]
    return jobs_in(merges, JobState.FAILED)  # the inputs of a killed one are merged anew


def of_request(states: Sequence[TaskState]) -> RequestState | None:
    """What a running request ends as, None while a task goes on."""
    if all(state == TaskState.COMPLETED for state in states):
        return RequestState.COMPLETED
    ended = (TaskState.COMPLETED, TaskState.INCOMPLETE, TaskState.KILLED)
    return RequestState.INCOMPLETE if all(state in ended for state in states) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """Where a task stands: units done of those wanted, its pace in units/s, and when it will end.

    `pace` and `ends_at` are None where nothing has been done or what is wanted is not known.
    """

    done: int
    wanted: int | None
    pace: float | None
    ends_at: datetime | None


def forecast(
    done: int, due: int | None, recent: int, window_s: float, age_s: float, now: datetime
) -> Forecast:
    """The end if all goes on as in the last `window_s`, in which `recent` units were done.

    Where that was next to nothing (below `LEAST` of all done), the pace is that of the task's whole life.
    """
    pace = None
    if recent > done * LEAST and window_s > 0:
        pace = recent / window_s
    elif done and age_s > 0:
        pace = done / age_s
    left = None if due is None else max(0, due - done)
    ends_at = None
    if pace and left:
        seconds = left / pace
        ends_at = now + timedelta(seconds=seconds) if seconds < HORIZON_S else None
    return Forecast(done=done, wanted=due, pace=pace, ends_at=ends_at)
