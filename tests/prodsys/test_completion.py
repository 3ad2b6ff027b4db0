"""Completion: what counts as done, what a top-up makes up for, and when a task will end."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from prodsys.job_states import TERMINAL, JobKind, JobState
from prodsys.requests import completion
from prodsys.requests.completion import Progress, forecast, missing, next_state, wanted
from prodsys.states import REQUEST, REQUEST_ENDED, TASK, RequestState, TaskEvent, TaskState
from prodsys.tasks.tasks import JobCount

NOW = datetime(2026, 3, 1, tzinfo=UTC)
units = st.integers(0, 1000)


def counts(**by_state: int) -> list[JobCount]:
    return [JobCount(JobKind.PROCESS, JobState[state], 1, n) for state, n in by_state.items()]


def closing(found: list[JobCount], total: int, due: int | None = None, forced: bool = False) -> Progress:
    return Progress(
        state=TaskState.CLOSING,
        units_total=total,
        units_made=total,
        counts=found,
        merges_left=False,
        open_blocks=0,
        units_wanted=due,
        forced=forced,
    )


def test_done_units_count_against_those_wanted() -> None:
    topped_up = counts(DONE=100, FAILED=20)
    assert next_state(closing(topped_up, 120)) == (TaskEvent.BLOCKS_CLOSED, TaskState.INCOMPLETE)
    assert next_state(closing(topped_up, 120, 100)) == (TaskEvent.BLOCKS_CLOSED, TaskState.COMPLETED)
    assert next_state(closing(topped_up, 120, 101)) == (TaskEvent.BLOCKS_CLOSED, TaskState.INCOMPLETE)
    assert next_state(closing(counts(FAILED=20), 20, forced=True)) == (
        TaskEvent.BLOCKS_CLOSED,
        TaskState.COMPLETED,
    )


@given(done=units, live=units, failed=units, killed=units, unmade=units)
def test_a_top_up_makes_up_for_what_is_lost_and_only_once(
    done: int, live: int, failed: int, killed: int, unmade: int
) -> None:
    found = counts(DONE=done, RUNNING=live, FAILED=failed, KILLED=killed)
    total = done + live + failed + killed + unmade
    more = missing(total, None, found)
    assert more == failed + killed
    due = wanted(total, None)
    assert due == total
    assert missing(total + more, due, found) == 0
    # Whatever is asked for is then done, live, or still to be made.
    assert done + live + unmade + more == due
    assert completion.live_jobs(found) == sum(one.state not in TERMINAL for one in found)


@given(done=units, left=st.integers(1, 1000), recent=units, age=st.floats(1, 10**6))
def test_a_forecast_lies_ahead(done: int, left: int, recent: int, age: float) -> None:
    found = forecast(done, done + left, min(done, recent), 3600, age, NOW)
    if not done:
        assert found.pace is None
    if found.ends_at is not None:
        assert found.pace is not None
        assert found.ends_at > NOW
    assert forecast(done, None, recent, 3600, age, NOW).ends_at is None
    assert forecast(done, done, recent, 3600, age, NOW).ends_at is None


def test_the_pace_is_that_of_late_unless_nothing_was_done() -> None:
    lately = forecast(400, 1000, 360, 3600, 10**5, NOW)
    assert (lately.pace, lately.ends_at) == (0.1, datetime(2026, 3, 1, 1, 40, tzinfo=UTC))
    assert forecast(400, 1000, 0, 3600, 4000, NOW).pace == 0.1
    assert forecast(400, 10**15, 1, 3600, 4000, NOW).ends_at is None


def test_final_requests_and_tasks_know_no_event() -> None:
    assert REQUEST.final <= REQUEST_ENDED
    assert {RequestState.COMPLETED, RequestState.INCOMPLETE} == REQUEST_ENDED - REQUEST.final
    for event in TaskEvent:
        assert not TASK.sources(event) & TASK.final
    assert TASK.final == {TaskState.KILLED}
