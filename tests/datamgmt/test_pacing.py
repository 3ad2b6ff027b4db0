"""Pacing: never more files in an hour than the rate and a burst, and rests that grow."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from datamgmt.deletions import pacing
from datamgmt.deletions.pacing import PacePolicy

START = datetime(2026, 3, 1, tzinfo=UTC)
POLICY = PacePolicy()


@given(
    rate=st.integers(0, 5000),
    steps=st.lists(st.tuples(st.floats(0, 4000), st.integers(0, 300)), max_size=60),
)
def test_no_hour_sees_more_than_the_rate_and_a_burst(rate: int, steps: list[tuple[float, int]]) -> None:
    pace, now, asked = pacing.begin(START), START, []
    for wait_s, wanted in steps:
        now += timedelta(seconds=wait_s)
        pace = pacing.allowance(pace, rate, now, POLICY)
        n = min(wanted, int(pace.left))
        pace = pacing.spent(pace, n)
        asked.append((now, n))
    burst = max(1.0, rate / 60)
    for end, _ in asked:
        hour = sum(n for at, n in asked if end - timedelta(hours=1) < at <= end)
        assert hour <= rate + burst + 1e-6
    if rate == 0:
        assert not any(n for _, n in asked)


@given(st.integers(1, 5000), st.integers(1, 100))
def test_the_rate_is_reached(rate: int, minutes: int) -> None:
    pace, now, asked = pacing.begin(START), START, 0
    for _ in range(60 * minutes):
        pace = pacing.allowance(pace, rate, now, POLICY)
        n = int(pace.left)
        pace, asked = pacing.spent(pace, n), asked + n
        now += timedelta(seconds=1)
    assert asked >= rate * minutes / 60 - 1


def test_rests_grow_to_their_longest_and_end_with_a_success() -> None:
    pace, now, rests = pacing.begin(START), START, []
    for _ in range(POLICY.rest_after - 1):
        pace = pacing.erred(pace, now, POLICY)
        assert not pacing.resting(pace, now)
    for _ in range(8):
        pace = pacing.erred(pace, now, POLICY)
        assert pacing.resting(pace, now)
        assert pace.rests_until is not None
        rests.append((pace.rests_until - now) / timedelta(minutes=1))
        now = pace.rests_until
        assert not pacing.resting(pace, now)
    assert rests == [2, 4, 8, 16, 32, 60, 60, 60]
    assert pacing.worked(pace).errors == 0
    assert not pacing.resting(pacing.erred(pacing.worked(pace), now, POLICY), now)
