"""Links: measured rate, cost, the window of files in flight, and parking after repeated failures. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkPolicy:
    """Rates in bytes per second and stream; `hop_s` is the price in seconds of one hop of distance 1.

    A rate older than `rate_memory` is forgotten, so that a link once slow is tried again.
    """

    nominal_rate: float = 5e6
    rate_weight: float = 0.2
    rate_memory: timedelta = timedelta(days=2)
    hop_s: float = 30.0
    park_after: int = 3
    cool_off: timedelta = timedelta(minutes=5)
    cool_off_max: timedelta = timedelta(hours=6)
    window_max: int = 20


DEFAULT_POLICY = LinkPolicy()


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkState:
    """What is known of one link: `failures` in a row, `parkings` since the last success, and why the
    window is what it is. `rate` is None until a copy has finished."""

    rate: float | None = None
    measured_at: datetime | None = None
    failures: int = 0
    parkings: int = 0
    parked_until: datetime | None = None
    window: float = 2.0
    rationale: str = "nothing measured yet"

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON has them, moments in ISO form."""
        fields = asdict(self)
        return fields | {key: fields[key] and fields[key].isoformat() for key in _MOMENTS}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> LinkState:
        moments = {key: datetime.fromisoformat(fields[key]) for key in _MOMENTS if fields.get(key)}
        return cls(**{**fields, **moments})


_MOMENTS = ("measured_at", "parked_until")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How one copy over the link ended, after verification. `blames_link` is False where the file or the
    catalogue was at fault: such an end says nothing about the link."""

    ok: bool
    bytes: int = 0
    seconds: float = 0.0
    blames_link: bool = True


class Phase(StrEnum):
    """Whether a link may be used."""

    OPEN = "OPEN"
    PARKED = "PARKED"
    PROBING = "PROBING"


def phase(state: LinkState, now: datetime) -> Phase:
    """PARKED until the cool-off is over, PROBING from then until a copy has ended, else OPEN."""
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
            return min(int(state.window), policy.window_max)


def cost(
    state: LinkState, distance: float, size: int, now: datetime, policy: LinkPolicy = DEFAULT_POLICY
) -> float:
    """Seconds until `size` bytes (what is queued on the link and what would join) have passed it.

    Always above zero. Failures do not enter: parking answers them, and a dear link would never be probed.
    """
    rate = policy.nominal_rate / max(distance, 1.0)
    if state.rate and state.measured_at and now - state.measured_at <= policy.rate_memory:
        rate = state.rate
    return policy.hop_s * max(distance, 0.1) + size / rate


def observe(
    state: LinkState, outcome: Outcome, now: datetime, policy: LinkPolicy = DEFAULT_POLICY
) -> LinkState:
    """The state after one ended copy."""
    if outcome.ok:
        return _succeeded(state, outcome, now, policy)
    return _failed(state, now, policy) if outcome.blames_link else state


def _succeeded(state: LinkState, outcome: Outcome, now: datetime, policy: LinkPolicy) -> LinkState:
    rate = _averaged(state.rate, outcome.bytes / max(outcome.seconds, 1e-3), policy.rate_weight)
    # One place more per windowful of successes, as in TCP's congestion avoidance.
    wider = min(state.window + 1 / state.window, float(policy.window_max))
    reopened = "open again after its probe; " if state.parked_until else ""
    return LinkState(
        rate=rate,
        measured_at=now if outcome.bytes else state.measured_at,
        window=wider,
        rationale=f"{reopened}{int(wider)} in flight: last copy good, {(rate or 0) / 1e6:.3g} MB/s a stream",
    )


def _averaged(old: float | None, sample: float, weight: float) -> float | None:
    # An empty file measures nothing, and a rate of zero would price the link at infinity.
    if sample <= 0:
        return old
    return sample if old is None else (1 - weight) * old + weight * sample


def _failed(state: LinkState, now: datetime, policy: LinkPolicy) -> LinkState:
    narrower = max(state.window / 2, 1.0)
    failed = replace(
        state,
        failures=state.failures + 1,
        window=narrower,
        rationale=f"{int(narrower)} in flight: halved at failure {state.failures + 1} in a row",
    )
    # Copies that were in flight when the link was parked end late; they do not lengthen the cool-off.
    if phase(state, now) is Phase.PARKED:
        return replace(failed, rationale=state.rationale)
    return _parked(failed, now, policy) if failed.failures >= policy.park_after else failed


def _parked(state: LinkState, now: datetime, policy: LinkPolicy) -> LinkState:
    # The exponent is bounded because a timedelta overflows long before an int does.
    until = now + min(policy.cool_off * 2 ** min(state.parkings, 20), policy.cool_off_max)
    return replace(
        state,
        parkings=state.parkings + 1,
        parked_until=until,
        rationale=f"parked until {until:%Y-%m-%d %H:%M:%S} UTC after {state.failures} failures in a row",
    )
