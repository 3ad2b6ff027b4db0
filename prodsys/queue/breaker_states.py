"""States of breakers, and when they change. Pure.

A breaker stands between a site and one class of failures. It opens when most of what ended at the site
failed so, lets a few canaries through after a while, and closes when jobs end well again. All open breakers
together never take away more than a set part of the slots: a fault of our own fails everywhere at once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any


class BreakerState(StrEnum):
    """What the site gets."""

    #: All the work there is for it.
    CLOSED = "CLOSED"
    #: None.
    OPEN = "OPEN"
    #: A few jobs, whose ends decide.
    CANARY = "CANARY"


class BreakerCode(StrEnum):
    """Why a breaker is as it is."""

    TRIPPED = "TRIPPED"
    CANARY_FAILED = "CANARY_FAILED"
    CANARIES_LET_GO = "CANARIES_LET_GO"
    CANARIES_DID_WELL = "CANARIES_DID_WELL"
    NOT_GUARDED = "NOT_GUARDED"
    CEILING = "CEILING"
    RESET = "RESET"


Key = tuple[int, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """When a breaker changes. `delay` doubles with each trip up to `cap`; after `cap` of quiet, trips are
    forgotten. `part` of at least `least` ended attempts within `window` opens it."""

    window: timedelta = timedelta(minutes=30)
    least: int = 20
    part: float = 0.5
    delay: timedelta = timedelta(minutes=15)
    cap: timedelta = timedelta(hours=6)
    canaries: int = 2
    successes: int = 3
    ceiling: float = 0.2

    def scaled(self, scale: float) -> Policy:
        """The same for small installations: shorter times."""
        return replace(self, window=self.window * scale, delay=self.delay * scale, cap=self.cap * scale)

    def wait(self, trips: int) -> timedelta:
        """How long it stays open after so many trips."""
        return min(self.cap, self.delay * 2.0 ** min(trips - 1, 40))


@dataclass(frozen=True, slots=True)
class Ended:
    """Attempts of a site that ended: all, with this class, and well."""

    all: int = 0
    failed: int = 0
    well: int = 0

    def __sub__(self, other: Ended) -> Ended:
        return Ended(self.all - other.all, self.failed - other.failed, self.well - other.well)


@dataclass(frozen=True, slots=True, kw_only=True)
class Breaker:
    """A breaker as it is stored. `until`: when canaries go, or go again; `canaries` were sent since the
    change; `params` tell why, and count what had ended in the bin of the change before it."""

    site_id: int
    error_class: str
    state: BreakerState = BreakerState.CLOSED
    trips: int = 0
    changed_at: datetime
    until: datetime | None = None
    canaries: int = 0
    params: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> Key:
        """Its site and class."""
        return self.site_id, self.error_class

    @property
    def before(self) -> Ended:
        """What ended in the bin of the last change, before it."""
        return Ended(*self.params.get("before", ()))

    @property
    def allowance(self) -> int | None:
        """How many jobs the site may be sent now; None for any number."""
        if self.state == BreakerState.CLOSED:
            return None
        if self.state == BreakerState.OPEN:
            return 0
        ended, at_once = int(self.params.get("ended", 0)), int(self.params.get("at_once", 0))
        return max(0, at_once - max(0, self.canaries - ended))


@dataclass(frozen=True, slots=True)
class Facts:
    """Of one breaker: what ended within the window, since its last change, and in the present bin so far.

    The first two leave out what ended before the change.
    """

    window: Ended = Ended()
    since: Ended = Ended()
    bin: Ended = Ended()


def decide(
    breakers: Iterable[Breaker],
    facts: Mapping[Key, Facts],
    slots: Mapping[int, int],
    guarded: Collection[str],
    now: datetime,
    policy: Policy,
) -> list[Breaker]:
    """The breakers that change, as they are from now on.

    `facts` has an entry for each breaker and for each (site, class) with recent failures; `slots` are the
    slots of the sites that are switched on; `guarded` are the classes that breakers are for.
    """
    stored = {one.key: one for one in breakers}
    blank = {
        key: Breaker(site_id=key[0], error_class=key[1], changed_at=now - policy.cap)
        for key in facts
        if key not in stored
    }
    old = {**blank, **stored}
    ahead = {key: _alone(one, facts.get(key, Facts()), guarded, now, policy) for key, one in old.items()}
    after = _below_ceiling(old, ahead, facts, slots, now, policy)
    return [one for key, one in sorted(after.items()) if one != old[key]]


def _alone(one: Breaker, facts: Facts, guarded: Collection[str], now: datetime, policy: Policy) -> Breaker:
    """What becomes of a breaker if there were no others."""
    if one.error_class not in guarded:
        closed = one.state == BreakerState.CLOSED
        return one if closed else close(one, BreakerCode.NOT_GUARDED, now, facts)
    match one.state:
        case BreakerState.CLOSED:
            return _closed(one, facts, now, policy)
        case BreakerState.OPEN:
            due = one.until is None or now >= one.until
            return _let_go(one, facts, now, policy) if due else one
        case BreakerState.CANARY:
            return _canary(one, facts, now, policy)


def _closed(one: Breaker, facts: Facts, now: datetime, policy: Policy) -> Breaker:
    seen = facts.window
    if seen.all >= policy.least and seen.failed > policy.part * seen.all:
        return _open(one, BreakerCode.TRIPPED, seen, facts, now, policy)
    if one.params.get("code") == BreakerCode.CEILING:  # it is no longer wanted open
        one = replace(one, params={**one.params, "code": None})
    return replace(one, trips=0) if one.trips and now - one.changed_at >= policy.cap else one


def _open(
    one: Breaker, code: BreakerCode, seen: Ended, facts: Facts, now: datetime, policy: Policy
) -> Breaker:
    trips = one.trips + 1
    return replace(
        one,
        state=BreakerState.OPEN,
        trips=trips,
        changed_at=now,
        until=now + policy.wait(trips),
        canaries=0,
        params=_told(code, seen, facts),
    )


def _let_go(one: Breaker, facts: Facts, now: datetime, policy: Policy, credit: int = 0) -> Breaker:
    """Canaries go; `credit` are those that did well before, where others follow them."""
    told = _told(BreakerCode.CANARIES_LET_GO, Ended(), facts)
    return replace(
        one,
        state=BreakerState.CANARY,
        changed_at=now,
        until=now + policy.wait(max(1, one.trips)),
        canaries=0,
        params={**told, "ended": 0, "at_once": policy.canaries, "credit": credit},
    )


def _canary(one: Breaker, facts: Facts, now: datetime, policy: Policy) -> Breaker:
    """Open again, closed, or on: where canaries take long to end, some more go after as long a wait again."""
    seen = facts.since if one.canaries else Ended()
    if seen.failed > 0:
        return _open(one, BreakerCode.CANARY_FAILED, seen, facts, now, policy)
    well = seen.well + one.params.get("credit", 0)
    if well >= policy.successes:
        return close(one, BreakerCode.CANARIES_DID_WELL, now, facts, seen)
    if one.until is not None and now >= one.until:
        return _let_go(one, facts, now, policy, credit=well)
    ended = min(one.canaries, seen.all)
    return one if ended <= one.params.get("ended", 0) else replace(one, params={**one.params, "ended": ended})


def close(one: Breaker, code: BreakerCode, now: datetime, facts: Facts, seen: Ended = Ended()) -> Breaker:
    """Closed, whatever it was; what has ended so far counts no more."""
    trips = 0 if code == BreakerCode.RESET else one.trips
    return replace(
        one,
        state=BreakerState.CLOSED,
        trips=trips,
        changed_at=now,
        until=None,
        canaries=0,
        params=_told(code, seen, facts),
    )


def _told(code: BreakerCode | None, seen: Ended, facts: Facts) -> dict[str, Any]:
    counts = {"all": seen.all, "failed": seen.failed, "well": seen.well}
    return {
        "code": None if code is None else code.value,
        **counts,
        "before": [facts.bin.all, facts.bin.failed, facts.bin.well],
    }


# --- the ceiling -----------------------------------------------------------------------------------------


def _below_ceiling(
    old: Mapping[Key, Breaker],
    ahead: Mapping[Key, Breaker],
    facts: Mapping[Key, Facts],
    slots: Mapping[int, int],
    now: datetime,
    policy: Policy,
) -> dict[Key, Breaker]:
    """Those that are open stay so before others open, the worst first, as long as there is room."""
    most = policy.ceiling * sum(slots.values())
    banned: set[int] = set()
    after = dict(ahead)
    for key in sorted(ahead, key=lambda key: _turn(key, old[key], ahead[key], facts)):
        if ahead[key].state == BreakerState.CLOSED:
            continue
        if sum(slots.get(one, 0) for one in {*banned, key[0]}) <= most:
            banned.add(key[0])
        else:
            sizes = {"slots": slots.get(key[0], 0), "room": int(most)}
            after[key] = _kept_closed(old[key], facts.get(key, Facts()), sizes, now)
    return after


def _turn(key: Key, old: Breaker, ahead: Breaker, facts: Mapping[Key, Facts]) -> tuple[Any, ...]:
    seen = facts.get(key, Facts()).window
    part = seen.failed / seen.all if seen.all else 0.0
    return old.state == BreakerState.CLOSED, -ahead.trips, -part, -seen.failed, key


def _kept_closed(old: Breaker, facts: Facts, sizes: Mapping[str, int], now: datetime) -> Breaker:
    """Closed for want of room; the numbers told are those of when it first would have opened."""
    if old.state != BreakerState.CLOSED:
        shut = close(old, BreakerCode.CEILING, now, facts, facts.since)
        return replace(shut, params={**shut.params, **sizes})
    if old.params.get("code") == BreakerCode.CEILING:
        return old
    told = _told(BreakerCode.CEILING, facts.window, facts)
    return replace(old, params={**told, **sizes, "before": list(old.params.get("before", (0, 0, 0)))})


# --- sentences -------------------------------------------------------------------------------------------


def reason(one: Breaker) -> str:
    """Why the breaker is as it is, as a sentence."""
    told = one.params
    kind = one.error_class
    match told.get("code"):
        case BreakerCode.TRIPPED:
            return f"{_share(one)}: no work until {_at(one.until)}"
        case BreakerCode.CANARY_FAILED:
            return f"a canary ended with {kind}: no work until {_at(one.until)}"
        case BreakerCode.CANARIES_LET_GO:
            sent = f"{one.canaries} sent, {min(one.canaries, told.get('ended', 0))} ended"
            return f"tries canaries, {told['at_once']} at a time, after {kind} failures: {sent}"
        case BreakerCode.CANARIES_DID_WELL:
            return f"closed: canaries ended well after {kind} failures"
        case BreakerCode.CEILING:
            return (
                f"{_share(one)}, but its {told['slots']} slots are more than may still be taken away "
                f"({told['room']} in all): it goes on getting work"
            )
        case BreakerCode.RESET:
            return f"reset by {told.get('by', 'an operator')}"
        case BreakerCode.NOT_GUARDED:
            return f"closed: {kind} is no longer blamed on sites"
    return f"quiet: nothing to hold against it for {kind}"


def _share(one: Breaker) -> str:
    return f"{one.params['failed']} of {one.params['all']} attempts ended with {one.error_class}"


def _at(moment: datetime | None) -> str:
    return "further notice" if moment is None else f"{moment:%Y-%m-%d %H:%M:%S} UTC"
