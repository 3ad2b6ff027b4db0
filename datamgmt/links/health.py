"""Links: measured rate, cost, window of files in flight, queue, parking after repeated failures. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, NamedTuple


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkPolicy:
    """Rates in bytes per second and stream; `hop_s` is the price in seconds of one hop of distance 1.

    A rate older than `rate_memory` is forgotten, so that a link once slow is tried again. The queue of a link
    holds `queue_ahead` of work, and `queue_max` files at most. All streams together take `rate_cap` at most.
    """

    nominal_rate: float = 5e6
    rate_weight: float = 0.2
    rate_memory: timedelta = timedelta(days=2)
    hop_s: float = 30.0
    park_after: int = 3
    cool_off: timedelta = timedelta(minutes=5)
    cool_off_max: timedelta = timedelta(hours=6)
    window_max: int = 20
    queue_ahead: timedelta = timedelta(minutes=15)
    queue_max: int = 1000
    rate_cap: float | None = None


DEFAULT_POLICY = LinkPolicy()
#: What a link within one place costs beside another: local copies come first.
LOCAL_SHARE = 1e-3


class Phase(StrEnum):
    """Whether a link may be used."""

    OPEN = "OPEN"
    PARKED = "PARKED"
    PROBING = "PROBING"


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkState:
    """What is known of one link: `failures` in a row, `parkings` since the last success, and why the
    window is what it is. `rate` is None until a copy has finished.

    opened_at: since when it has been open after a failure; None where nothing has failed yet, and its window
    still grows fast. forced: OPEN or PARKED by an operator's word, until a time or for good.
    """

    rate: float | None = None
    measured_at: datetime | None = None
    failures: int = 0
    parkings: int = 0
    parked_until: datetime | None = None
    window: float = 2.0
    rationale: str = "nothing measured yet"
    opened_at: datetime | None = None
    forced: Phase | None = None
    forced_until: datetime | None = None

    def to_json(self) -> dict[str, Any]:
        """What JSON has of it, moments in ISO form; older code reads that and takes no other fields."""
        fields = {key: value for key, value in asdict(self).items() if key not in _NOT_IN_JSON}
        return fields | {key: fields[key] and fields[key].isoformat() for key in _MOMENTS}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> LinkState:
        """The state, as one that has failed before: JSON does not say, and slow growth does no harm."""
        moments = {key: datetime.fromisoformat(fields[key]) for key in _MOMENTS if fields.get(key)}
        return cls(**{**fields, **moments}, opened_at=_ONCE if fields else None)


_MOMENTS = ("measured_at", "parked_until")
_NOT_IN_JSON = ("opened_at", "forced", "forced_until")
_ONCE = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How one copy over the link ended, after verification, or `files` good ones after each other.
    `blames_link` is False where the file or the catalogue was at fault: such an end says nothing about the
    link. `hopeless`: every other copy would fail in the same way, as without rights."""

    ok: bool
    files: int = 1
    bytes: int = 0
    seconds: float = 0.0
    blames_link: bool = True
    hopeless: bool = False


def is_forced(state: LinkState, now: datetime) -> bool:
    """Whether an operator's word holds."""
    return state.forced is not None and (state.forced_until is None or now < state.forced_until)


def phase(state: LinkState, now: datetime) -> Phase:
    """An operator's word; else PARKED until the cool-off is over, PROBING from then until a copy has ended,
    else OPEN."""
    if state.forced and is_forced(state, now):
        return state.forced
    if state.parked_until is None:
        return Phase.OPEN
    return Phase.PARKED if now < state.parked_until else Phase.PROBING


def window(state: LinkState, now: datetime, policy: LinkPolicy = DEFAULT_POLICY) -> int:
    """How many files may be in flight: none on a parked link, one as its probe."""
    match phase(state, now):
        case Phase.PARKED:
            return 0
        case Phase.PROBING:
            return 1
        case Phase.OPEN:
            most = min(int(state.window), policy.window_max)
            if policy.rate_cap and state.rate:
                return max(1, min(most, int(policy.rate_cap / state.rate)))
            return most


class Seen(NamedTuple):
    """What routes over a link were chosen by."""

    phase: Phase
    rate: float | None


def seen(state: LinkState, now: datetime, *, enabled: bool = True) -> Seen:
    """What there is to see of a link now; one that is disabled is as good as parked."""
    return Seen(phase(state, now) if enabled else Phase.PARKED, state.rate)


def stirs(before: Seen, after: Seen) -> bool:
    """Whether routes over the link are to be planned again: another phase, or rate by over 25 %."""
    if before.phase is not after.phase or (before.rate is None) is not (after.rate is None):
        return True
    return abs((after.rate or 0.0) - (before.rate or 0.0)) > 0.25 * (before.rate or 0.0)


def queue_limit(
    state: LinkState, mean_bytes: float, now: datetime, policy: LinkPolicy = DEFAULT_POLICY
) -> int:
    """How many files of about `mean_bytes` may be queued or in flight: work for a while, and never less than
    two windows, so that a link does not run dry between two looks. None on a parked link, one as a probe."""
    places = window(state, now, policy)
    if phase(state, now) is not Phase.OPEN:
        return places
    rate = min((state.rate or policy.nominal_rate) * places, policy.rate_cap or math.inf)
    ahead = rate * policy.queue_ahead.total_seconds() / max(mean_bytes, 1.0)
    return int(min(max(ahead, 2 * places), max(policy.queue_max, places)))


@dataclass(frozen=True, slots=True)
class Price:
    """What a link costs: seconds for nothing at all, above zero, and bytes per second for what is sent."""

    seconds: float
    rate: float


def price(
    state: LinkState,
    distance: float,
    queued: int,
    now: datetime,
    policy: LinkPolicy = DEFAULT_POLICY,
    *,
    local: bool = False,
) -> Price:
    """The price behind `queued` bytes (of what is on the link already); next to nothing for a local link.

    Failures do not enter: parking answers them, and a dear link would never be probed.
    """
    rate = policy.nominal_rate / max(distance, 1.0)
    if state.rate and state.measured_at and now - state.measured_at <= policy.rate_memory:
        rate = state.rate
    rate = min(rate, policy.rate_cap or math.inf)
    seconds = policy.hop_s * max(distance, 0.1) + queued / rate
    return Price(seconds * LOCAL_SHARE, rate / LOCAL_SHARE) if local else Price(seconds, rate)


def observe(
    state: LinkState, outcome: Outcome, now: datetime, policy: LinkPolicy = DEFAULT_POLICY
) -> LinkState:
    """The state after such an end. What is forced still learns."""
    if outcome.ok:
        return _succeeded(state, outcome, now, policy)
    return _failed(state, outcome, now, policy) if outcome.blames_link else state


def _succeeded(state: LinkState, outcome: Outcome, now: datetime, policy: LinkPolicy) -> LinkState:
    weight = 1 - (1 - policy.rate_weight) ** outcome.files
    rate = _averaged(state.rate, outcome.bytes / max(outcome.seconds, 1e-3), weight)
    # As TCP does: twice the places per windowful of successes until something fails, then one place more.
    wider = state.window + outcome.files if state.opened_at is None else _widened(state.window, outcome.files)
    wider = min(wider, float(policy.window_max))
    reopened = "open again after its probe; " if state.parked_until else ""
    return replace(
        state,
        rate=rate,
        measured_at=now if outcome.bytes else state.measured_at,
        failures=0,
        parkings=0,
        parked_until=None,
        window=wider,
        rationale=f"{reopened}{int(wider)} in flight: last copy good, {(rate or 0) / 1e6:.3g} MB/s a stream",
        opened_at=now if state.failures else state.opened_at,
    )


def _widened(window: float, files: int) -> float:
    for _ in range(files):
        window += 1 / window
    return window


def _averaged(old: float | None, sample: float, weight: float) -> float | None:
    # An empty file measures nothing, and a rate of zero would price the link at infinity.
    if sample <= 0:
        return old
    return sample if old is None else (1 - weight) * old + weight * sample


def _failed(state: LinkState, outcome: Outcome, now: datetime, policy: LinkPolicy) -> LinkState:
    narrower = max(state.window / 2, 1.0)
    failed = replace(
        state,
        failures=state.failures + 1,
        window=narrower,
        rationale=f"{int(narrower)} in flight: halved at failure {state.failures + 1} in a row",
        opened_at=state.opened_at or now,
    )
    # Copies that were in flight when the link was parked end late; they do not lengthen the cool-off.
    if state.parked_until and now < state.parked_until:
        return replace(failed, rationale=state.rationale)
    enough = outcome.hopeless or failed.failures >= policy.park_after
    return _parked(failed, now, policy) if enough else failed


def _parked(state: LinkState, now: datetime, policy: LinkPolicy) -> LinkState:
    # The exponent is bounded because a timedelta overflows long before an int does.
    until = now + min(policy.cool_off * 2 ** min(state.parkings, 20), policy.cool_off_max)
    return replace(
        state,
        parkings=state.parkings + 1,
        parked_until=until,
        rationale=f"parked until {until:%Y-%m-%d %H:%M:%S} UTC after {state.failures} failures in a row",
    )
