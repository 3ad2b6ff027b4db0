"""Clocks: aware UTC, monotonic, and a fake one that moves only when told."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridcore.clock import Clock, FakeClock, SystemClock, check_aware


def test_the_system_clock_is_aware_and_goes_on():
    clock: Clock = SystemClock()
    assert clock.now().utcoffset() == timedelta(0)
    assert abs(clock.now() - datetime.now(UTC)) < timedelta(seconds=5)
    assert clock.monotonic() <= clock.monotonic()


def test_the_fake_clock_moves_only_when_told():
    clock: Clock = FakeClock(datetime(2026, 3, 1, tzinfo=UTC))
    assert clock.now() == clock.now()
    clock.advance(90)
    assert clock.now() == datetime(2026, 3, 1, 0, 1, 30, tzinfo=UTC)
    assert clock.monotonic() == 90


def test_a_naive_moment_is_refused():
    with pytest.raises(ValueError, match="time zone"):
        check_aware(datetime(2026, 1, 1))  # noqa: DTZ001


@given(st.integers(0, 2**34), st.integers(-14, 14))
def test_an_aware_moment_stays_the_same_moment_in_utc(seconds, hours):
    local = datetime.fromtimestamp(seconds, timezone(timedelta(hours=hours)))
    assert check_aware(local).timestamp() == seconds
    assert check_aware(local).tzinfo is UTC
