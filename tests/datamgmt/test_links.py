"""Links: windows that adapt, parking with one probe, cost; and the retry rule of transfers."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamgmt import subscription_states, transfer_states
from datamgmt.links import LinkPolicy, LinkState, Outcome, Phase, cost, observe, phase, window
from datamgmt.subscription_states import SubscriptionState
from datamgmt.transfer_states import RetryPolicy, TransferEvent, TransferState, after_failure

NOW = datetime(2026, 1, 1, tzinfo=UTC)
GOOD = Outcome(ok=True, bytes=10_000_000, seconds=1.0)
BAD = Outcome(ok=False)
POLICY = LinkPolicy(cool_off=timedelta(seconds=60), cool_off_max=timedelta(seconds=200), window_max=5)


def after(outcomes, state=LinkState(), now=NOW):  # noqa: B008
    for outcome in outcomes:
        state = observe(state, outcome, now, POLICY)
    return state


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


def test_the_window_grows_slowly_and_halves_at_once():
    state = LinkState(window=4.0)
    assert int(after([GOOD] * 4, state).window) == 4
    assert int(after([GOOD] * 5, state).window) == 5
    assert int(after([BAD], state).window) == 2


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
        assert LinkState.from_json(json.loads(json.dumps(state.to_json()))) == state


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
    assert after_failure(1, False, NOW, policy) == (TransferState.RETRY_WAIT, NOW + timedelta(seconds=10))
    assert after_failure(2, False, NOW, policy) == (TransferState.RETRY_WAIT, NOW + timedelta(seconds=20))
    assert after_failure(3, False, NOW, policy) == (TransferState.FAILED, None)
    assert after_failure(1, True, NOW, policy) == (TransferState.FAILED, None)


@pytest.mark.parametrize(
    ("module", "states"), [(transfer_states, TransferState), (subscription_states, SubscriptionState)]
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
