"""Pacing of deletions at a storage element: so many files an hour, and a rest after errors in a row. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

_HOUR = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class PacePolicy:
    """After `rest_after` errors in a row it rests, twice as long each time; what was not used of the rate
    is kept for `burst`."""

    rest_after: int = 5
    rest: timedelta = timedelta(minutes=2)
    rest_max: timedelta = timedelta(hours=1)
    burst: timedelta = timedelta(minutes=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """What a storage element was asked lately: files it may still be asked at `at`, errors in a row, rests
    since the last success."""

    left: float
    at: datetime
    errors: int = 0
    rests: int = 0
    rests_until: datetime | None = None


def begin(now: datetime) -> Pace:
    """Of a storage element nothing is known of."""
    return Pace(left=0.0, at=now - _HOUR)


def allowance(pace: Pace, rate: int | None, now: datetime, policy: PacePolicy) -> Pace:
    """The pace with what it has gained by `rate` files an hour; None is no limit, 0 is never any."""
    if rate is None:
        return replace(pace, left=math.inf, at=now)
    most = max(1.0, rate * (policy.burst / _HOUR))
    return replace(pace, left=min(most, pace.left + rate * ((now - pace.at) / _HOUR)), at=now)


def resting(pace: Pace, now: datetime) -> bool:
    """Whether nothing is to be asked now."""
    return pace.rests_until is not None and now < pace.rests_until


def spent(pace: Pace, files: int) -> Pace:
    """So many files were asked away."""
    return replace(pace, left=pace.left - files)


def worked(pace: Pace) -> Pace:
    """It did as it was told."""
    return replace(pace, errors=0, rests=0, rests_until=None)


def erred(pace: Pace, now: datetime, policy: PacePolicy) -> Pace:
    """It did not; the last error before a rest begins it, and so does the first one after a rest."""
    errors = pace.errors + 1
    if errors < policy.rest_after:
        return replace(pace, errors=errors)
    pause = min(policy.rest * 2 ** min(pace.rests, 20), policy.rest_max)
    return replace(pace, errors=errors, rests=pace.rests + 1, rests_until=now + pause)
