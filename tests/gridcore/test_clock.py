"""Clocks: aware UTC, monotonic, and a fake one that moves only when told."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from gridcore.clock import Clock, FakeClock, SystemClock


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
