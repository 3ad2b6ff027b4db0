"""Breakers: when they open, let canaries go and close, and how much they may take away at once."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prodsys.queue.breaker_states import (
    Breaker,
    BreakerCode,
    BreakerState,
    Ended,
    Facts,
    Key,
    Policy,
    close,
    decide,
    reason,
)

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
POLICY = Policy()
KEY = (1, "stage_out")
#: Site 1 is a tenth of the grid.
SLOTS = {1: 100, 2: 900}
BAD = Ended(30, 24, 6)
NOTHING = Facts()
CLOSED = Breaker(site_id=1, error_class="stage_out", changed_at=NOW - timedelta(days=1))
OPEN = replace(CLOSED, state=BreakerState.OPEN, trips=1, changed_at=NOW, until=NOW + 15 * MINUTE)


def step(one: Breaker | None, facts: Facts = NOTHING, now: datetime = NOW, **changes: Any) -> Breaker | None:
    """The breaker of KEY after one decision; as it was where nothing changes."""
    given_ = {"slots": SLOTS, "guarded": ["stage_out", "site"], "policy": POLICY, **changes}
    found = decide([one] if one else [], {KEY: facts}, now=now, **given_)
    return found[0] if found else one


def canary(sent: int = 0, **changes: Any) -> Breaker:
    made = step(OPEN, now=NOW + 15 * MINUTE)
    assert made is not None
    return replace(made, canaries=sent, **changes)


@pytest.mark.parametrize(
    ("window", "opens"),
    [
        (Ended(20, 11, 9), True),
        (Ended(20, 10, 10), False),  # exactly half
        (Ended(19, 19, 0), False),  # too few to judge
        (Ended(20, 20, 0), True),
        (Ended(), False),
    ],
)
def test_more_than_half_of_at_least_twenty_open_it(window: Ended, opens: bool) -> None:
    after = step(None, Facts(window=window))
    assert (after is not None and after.state == BreakerState.OPEN) == opens


def test_it_opens_for_a_quarter_of_an_hour_and_doubles_up_to_the_cap() -> None:
    waits = []
    for trips in range(7):
        after = step(replace(CLOSED, trips=trips, changed_at=NOW - MINUTE), Facts(window=BAD))
        assert after is not None
        assert after.until is not None
        waits.append((after.until - NOW) / MINUTE)
    assert waits == [15, 30, 60, 120, 240, 360, 360]


def test_an_open_one_gives_nothing_and_a_closed_one_sets_no_bound() -> None:
    assert OPEN.allowance == 0
    assert CLOSED.allowance is None
    assert step(OPEN, now=NOW + 14 * MINUTE) == OPEN


def test_canaries_go_when_the_wait_is_over_two_at_a_time() -> None:
    waiting = canary()
    assert (waiting.state, waiting.allowance) == (BreakerState.CANARY, 2)
    assert replace(waiting, canaries=1).allowance == 1
    assert replace(waiting, canaries=2).allowance == 0
    after = step(replace(waiting, canaries=2), Facts(since=Ended(1, 0, 1)), NOW + 20 * MINUTE)
    assert after is not None
    assert after.allowance == 1


def test_three_good_ends_close_it_and_a_failure_opens_it_for_longer() -> None:
    good = step(canary(3), Facts(since=Ended(4, 0, 3)), NOW + 20 * MINUTE)
    assert good is not None
    assert (good.state, good.trips, good.allowance) == (BreakerState.CLOSED, 1, None)
    bad = step(canary(1), Facts(since=Ended(3, 1, 2)), NOW + 20 * MINUTE)
    assert bad is not None
    assert (bad.state, bad.trips) == (BreakerState.OPEN, 2)
    assert bad.until == NOW + 50 * MINUTE


def test_what_ends_before_a_canary_was_sent_proves_nothing() -> None:
    waiting = canary()
    assert step(waiting, Facts(since=Ended(9, 3, 6)), NOW + 20 * MINUTE) == waiting


def test_canaries_that_take_long_are_followed_by_others_and_count_all_the_same() -> None:
    later = step(canary(2), Facts(since=Ended(2, 0, 2)), NOW + 31 * MINUTE)
    assert later is not None
    assert (later.state, later.allowance) == (BreakerState.CANARY, 2)
    shut = step(replace(later, canaries=1), Facts(since=Ended(1, 0, 1)), NOW + 40 * MINUTE)
    assert shut is not None
    assert shut.state == BreakerState.CLOSED


def test_trips_are_forgotten_after_long_quiet() -> None:
    quiet = replace(CLOSED, trips=3, changed_at=NOW - timedelta(hours=6))
    after = step(quiet)
    assert after is not None
    assert (after.trips, after.state) == (0, BreakerState.CLOSED)
    restless = replace(quiet, changed_at=NOW - timedelta(hours=5))
    assert step(restless) == restless


def test_a_class_that_is_no_longer_held_against_sites_closes() -> None:
    after = step(OPEN, guarded=["site"])
    assert after is not None
    assert (after.state, after.params["code"]) == (BreakerState.CLOSED, BreakerCode.NOT_GUARDED)


# --- the ceiling -----------------------------------------------------------------------------------------


def test_a_site_too_large_goes_on_and_says_why_once() -> None:
    after = step(None, Facts(window=BAD), slots={1: 300, 2: 700})
    assert after is not None
    assert after.state == BreakerState.CLOSED
    told = reason(after)
    assert "24 of 30" in told
    assert "300 slots" in told
    assert "200 in all" in told
    assert step(after, Facts(window=BAD), slots={1: 300, 2: 700}) == after
    better = step(after, Facts(window=Ended(40, 3, 37)), slots={1: 300, 2: 700})
    assert better is not None
    assert better.params["code"] is None


def test_room_that_appears_is_used() -> None:
    kept = step(None, Facts(window=BAD), slots={1: 300, 2: 700})
    assert kept is not None
    after = step(kept, Facts(window=BAD), slots={1: 300, 2: 7000})
    assert after is not None
    assert after.state == BreakerState.OPEN


def test_the_worst_goes_first_and_a_second_class_at_a_banned_site_costs_nothing() -> None:
    facts = {
        (1, "site"): Facts(window=Ended(40, 22, 18)),
        (2, "site"): Facts(window=Ended(40, 39, 1)),
        (2, "stage_out"): Facts(window=Ended(40, 21, 19)),
        (3, "site"): Facts(window=Ended(40, 30, 10)),
    }
    slots = {1: 100, 2: 100, 3: 100, 4: 700}
    found = {one.key: one for one in decide([], facts, slots, ["site", "stage_out"], NOW, POLICY)}
    opened = {key for key, one in found.items() if one.state == BreakerState.OPEN}
    assert opened == {(2, "site"), (2, "stage_out"), (3, "site")}
    assert found[1, "site"].params["code"] == BreakerCode.CEILING


def test_open_ones_close_where_the_grid_has_shrunk() -> None:
    after = step(OPEN, slots={1: 100, 2: 300})
    assert after is not None
    assert (after.state, after.params["code"]) == (BreakerState.CLOSED, BreakerCode.CEILING)


ends = st.builds(
    lambda failed, well, other: Ended(failed + well + other, failed, well),
    st.integers(0, 60),
    st.integers(0, 60),
    st.integers(0, 20),
)
facts_of = st.builds(Facts, ends, ends, ends)
keys = st.tuples(st.integers(1, 6), st.sampled_from(["site", "stage_out"]))
all_slots = st.dictionaries(st.integers(1, 6), st.integers(0, 1000), min_size=1)
steps = st.lists(st.tuples(st.dictionaries(keys, facts_of), st.floats(0, 400), st.integers(0, 3)), max_size=8)


@given(slots=all_slots, history=steps)
def test_never_more_than_the_ceiling_is_taken_away(slots: dict[int, int], history: list[Any]) -> None:
    known: dict[Key, Breaker] = {}
    now = NOW
    for found, minutes, sent in history:
        now += timedelta(minutes=minutes)
        facts = {key: Facts() for key in known} | found
        changed = decide(known.values(), facts, slots, ["site", "stage_out"], now, POLICY)
        for one in changed:
            assert one != known.get(one.key)
            stored = replace(one, params=json.loads(json.dumps(dict(one.params))))
            known[one.key] = stored
            assert reason(stored)
        banned = {one.site_id for one in known.values() if one.state != BreakerState.CLOSED}
        assert sum(slots.get(one, 0) for one in banned) <= 0.2 * sum(slots.values())
        known = {
            key: replace(one, canaries=one.canaries + min(sent, one.allowance or 0))
            for key, one in known.items()
        }


@given(facts=facts_of, trips=st.integers(0, 10), sent=st.integers(0, 5))
def test_an_open_breaker_is_left_only_by_way_of_canaries_or_by_hand(
    facts: Facts, trips: int, sent: int
) -> None:
    after = step(replace(OPEN, trips=trips), facts, NOW + timedelta(hours=7))
    assert after is not None
    assert after.state == BreakerState.CANARY
    assert 0 <= (replace(after, canaries=sent).allowance or 0) <= POLICY.canaries


def test_a_reset_forgets_trips_and_what_ended_before() -> None:
    shut = close(replace(OPEN, trips=4), BreakerCode.RESET, NOW, Facts(bin=Ended(9, 8, 1)))
    assert (shut.state, shut.trips, shut.before) == (BreakerState.CLOSED, 0, Ended(9, 8, 1))


def test_times_scale_for_small_installations() -> None:
    small = POLICY.scaled(0.5 / 60)
    assert small.wait(1) == timedelta(seconds=7.5)
    assert small.wait(60) == timedelta(minutes=3)
