"""Links: windows that adapt, parking with one probe, cost; and the retry rule of transfers."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamgmt import deletion_states, subscription_states, transfer_states
from datamgmt.deletion_states import DeletionState
from datamgmt.links.health import (
    LOCAL_SHARE,
    LinkPolicy,
    LinkState,
    Outcome,
    Phase,
    Seen,
    is_forced,
    observe,
    phase,
    price,
    queue_limit,
    seen,
    stirs,
    window,
)
from datamgmt.subscription_states import SubscriptionState
from datamgmt.transfer_states import RetryPolicy, TransferEvent, TransferState, after_failure

NOW = datetime(2026, 1, 1, tzinfo=UTC)
GOOD = Outcome(ok=True, bytes=10_000_000, seconds=1.0)
BAD = Outcome(ok=False)
POLICY = LinkPolicy(cool_off=timedelta(seconds=60), cool_off_max=timedelta(seconds=200), window_max=5)


def cost(state, distance, size, now, policy=POLICY):
    return price(state, distance, size, now, policy).seconds


def after(outcomes, state=LinkState(), now=NOW):  # noqa: B008
    for outcome in outcomes:
        state = observe(state, outcome, now, POLICY)
    return state


@given(st.integers(1, 300), st.floats(1, 40), st.booleans())
def test_good_ends_told_together_count_as_one_after_the_other(files, places, failed):
    state = LinkState(window=places, opened_at=NOW if failed else None, failures=int(failed))
    together = Outcome(ok=True, files=files, bytes=files * GOOD.bytes, seconds=files * GOOD.seconds)
    one, each = after([together], state), after([GOOD] * files, state)
    assert one.window == pytest.approx(each.window)
    assert one.rate == pytest.approx(each.rate)
    assert (one.failures, one.opened_at) == (each.failures, each.opened_at) == (0, state.opened_at and NOW)


def test_three_failures_in_a_row_park_the_link():
    assert phase(after([BAD, BAD, GOOD, BAD, BAD]), NOW) is Phase.OPEN
    state = after([BAD, BAD, BAD])
    assert state.parked_until == NOW + timedelta(seconds=60)
    assert window(state, NOW) == 0
    assert state.rationale == "parked until 2026-01-01 00:01:00 UTC after 3 failures in a row"


def test_cool_offs_double_up_to_the_ceiling_with_one_probe_between():
    state, now, waits = after([BAD, BAD, BAD]), NOW, []
    for _ in range(3):
        waits.append((state.parked_until - now).total_seconds())
        now = state.parked_until
        assert (phase(state, now), window(state, now)) == (Phase.PROBING, 1)
        state = observe(state, BAD, now, POLICY)
    assert waits == [60, 120, 200]


def test_a_good_probe_opens_the_link_and_forgets_the_parkings():
    state = after([BAD, BAD, BAD])
    state = after([GOOD], state, state.parked_until)
    assert (state.failures, state.parkings, state.parked_until) == (0, 0, None)
    assert "open again" in state.rationale


def test_late_failures_do_not_lengthen_the_cool_off():
    state = after([BAD, BAD, BAD])
    later = after([BAD, BAD], state, NOW + timedelta(seconds=30))
    assert (later.parked_until, later.parkings) == (state.parked_until, 1)


def test_a_fault_of_the_file_says_nothing_about_the_link():
    state = after([GOOD])
    assert after([Outcome(ok=False, blames_link=False)] * 9, state) == state


def test_without_rights_a_link_is_parked_at_once():
    denied = Outcome(ok=False, hopeless=True)
    state = after([GOOD, denied])
    assert state.failures == 1
    assert phase(state, NOW) is Phase.PARKED
    assert after([denied], state, NOW).parkings == 1


def test_the_window_grows_slowly_and_halves_at_once():
    state = LinkState(window=4.0, opened_at=NOW)
    assert int(after([GOOD] * 4, state).window) == 4
    assert int(after([GOOD] * 5, state).window) == 5
    assert int(after([BAD], state).window) == 2


def test_until_something_fails_the_window_doubles_with_each_windowful():
    policy, state, widths = LinkPolicy(window_max=50), LinkState(), []
    for _ in range(4):
        widths.append(int(state.window))
        for _ in range(widths[-1]):
            state = observe(state, GOOD, NOW, policy)
    assert widths == [2, 4, 8, 16]
    state = observe(observe(state, BAD, NOW, policy), GOOD, NOW, policy)
    assert (int(state.window), state.opened_at) == (16, NOW)


def test_a_state_read_from_json_grows_slowly():
    read = LinkState.from_json(after([GOOD]).to_json())
    assert after([GOOD], read).window == pytest.approx(read.window + 1 / read.window)
    assert LinkState.from_json({}) == LinkState()


@pytest.mark.parametrize("until", [None, NOW + timedelta(hours=1)])
def test_an_operators_word_stands_above_what_is_measured(until):
    parked = after([BAD, BAD, BAD])
    opened = replace(parked, forced=Phase.OPEN, forced_until=until)
    assert (phase(opened, NOW), window(opened, NOW)) == (Phase.OPEN, 1)
    shut = replace(LinkState(), forced=Phase.PARKED, forced_until=until)
    assert (phase(shut, NOW), window(shut, NOW), queue_limit(shut, 1e6, NOW)) == (Phase.PARKED, 0, 0)
    later = NOW + timedelta(hours=1)
    assert is_forced(shut, later) is (until is None)
    assert phase(shut, later) is (Phase.PARKED if until is None else Phase.OPEN)


def test_the_queue_holds_work_for_a_while_between_its_limits():
    state = LinkState(rate=1e6, measured_at=NOW, window=10.0)
    # 15 minutes of ten streams of 1 MB/s.
    assert queue_limit(state, 30e6, NOW) == 300
    assert queue_limit(state, 1e3, NOW) == 1000
    assert queue_limit(state, 1e12, NOW) == 20
    assert queue_limit(after([BAD, BAD, BAD]), 1e6, NOW + timedelta(seconds=60)) == 1


@given(st.floats(1, 1e12), st.floats(1e-3, 1e12), st.floats(1, 20))
def test_a_queue_feeds_its_window_and_stays_small(mean, rate, width):
    limit = queue_limit(LinkState(rate=rate, measured_at=NOW, window=width), mean, NOW)
    assert window(LinkState(window=width), NOW) <= limit <= 1000


@pytest.mark.parametrize(
    ("before", "after", "news"),
    [
        (Seen(Phase.OPEN, 4.0), Seen(Phase.OPEN, 5.0), False),
        (Seen(Phase.OPEN, 4.0), Seen(Phase.OPEN, 5.1), True),
        (Seen(Phase.OPEN, 4.0), Seen(Phase.OPEN, 2.9), True),
        (Seen(Phase.OPEN, 4.0), Seen(Phase.PARKED, 4.0), True),
        (Seen(Phase.OPEN, None), Seen(Phase.OPEN, 4.0), True),
        (Seen(Phase.OPEN, None), Seen(Phase.OPEN, None), False),
    ],
)
def test_routes_are_planned_again_when_a_link_is_another(before, after, news):
    assert stirs(before, after) is news


def test_what_is_seen_of_a_link_is_its_phase_and_rate():
    assert seen(after([GOOD]), NOW) == Seen(Phase.OPEN, 1e7)
    assert seen(after([BAD, BAD, BAD]), NOW) == Seen(Phase.PARKED, None)


def test_local_links_come_first():
    near, far = (price(LinkState(), 1, 10**9, NOW, local=one) for one in (True, False))
    assert near.seconds == pytest.approx(far.seconds * LOCAL_SHARE)
    assert near.rate == pytest.approx(far.rate / LOCAL_SHARE)


def test_a_lowered_limit_holds_at_once():
    assert window(LinkState(window=5.0), NOW, LinkPolicy(window_max=3)) == 3


outcomes = st.lists(
    st.builds(
        Outcome,
        ok=st.booleans(),
        bytes=st.integers(0, 10**12),
        seconds=st.floats(0, 1e5),
        blames_link=st.booleans(),
    ),
    max_size=60,
)


@given(outcomes, st.lists(st.integers(0, 500), min_size=60, max_size=60))
def test_limits_hold_whatever_happens(seen, gaps):
    state, now = LinkState(), NOW
    for outcome, gap in zip(seen, gaps, strict=False):
        now += timedelta(seconds=gap)
        state = observe(state, outcome, now, POLICY)
        assert 1 <= state.window <= POLICY.window_max
        assert 0 <= window(state, now, POLICY) <= POLICY.window_max
        assert (state.parked_until is None) == (state.failures < POLICY.park_after)
        assert state.parked_until is None or state.parked_until <= now + POLICY.cool_off_max
        assert 0 < cost(state, 1, 10**9, now, POLICY) < float("inf")
        assert state.rationale
        read = LinkState.from_json(json.loads(json.dumps(state.to_json())))
        assert replace(read, opened_at=state.opened_at) == state


def test_cost_prefers_the_measured_rate_and_forgets_old_ones():
    fresh = LinkState()
    fast = after([GOOD, GOOD])
    assert fast.rate == pytest.approx(1e7)
    assert cost(fast, 1, 10**9, NOW) < cost(fresh, 1, 10**9, NOW) < cost(fresh, 2, 10**9, NOW)
    assert cost(fast, 1, 10**9, NOW + timedelta(days=3)) == cost(fresh, 1, 10**9, NOW)


def test_the_rate_follows_slowly():
    state = after([GOOD, Outcome(ok=True, bytes=1_000_000, seconds=1.0)])
    assert state.rate == pytest.approx(0.8 * 1e7 + 0.2 * 1e6)
    assert after([Outcome(ok=True, bytes=0, seconds=1.0)], state).rate == state.rate


def test_retries_wait_longer_each_time_and_end():
    policy = RetryPolicy(max_attempts=3, delay=timedelta(seconds=10))
    assert after_failure(1, 5, NOW, policy) == (TransferState.RETRY_WAIT, NOW + timedelta(seconds=10))
    assert after_failure(2, 5, NOW, policy) == (TransferState.RETRY_WAIT, NOW + timedelta(seconds=20))
    assert after_failure(3, 5, NOW, policy) == (TransferState.FAILED, None)
    assert after_failure(1, 1, NOW, policy) == (TransferState.FAILED, None)


@pytest.mark.parametrize(
    ("module", "states"),
    [
        (transfer_states, TransferState),
        (subscription_states, SubscriptionState),
        (deletion_states, DeletionState),
    ],
)
def test_state_tables_reach_every_state_and_explain_it(module, states):
    machine = module.MACHINE
    assert set(module.MEANING) == set(states)
    assert {state for edge in machine.edges() for state in edge} == set(states)
    left = {source for source, _ in machine.edges()}
    assert set(states) - left == machine.final


def test_a_failed_try_waits_or_gives_up():
    machine = transfer_states.MACHINE
    failed = {target for target in TransferState if (TransferState.ACTIVE, target) in machine.edges()}
    assert failed == set(TransferState) - {TransferState.ACTIVE}
    assert machine.next(TransferState.ACTIVE, TransferEvent.ABANDONED) is TransferState.QUEUED
