"""Forecasts: more to send is never done earlier, faster links never later, the careful one never first."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datamgmt.subscriptions.eta import Onward, Quantiles, error, eta, measured

NOW = datetime(2026, 1, 1, tzinfo=UTC)
BIN = timedelta(minutes=5)
LINKS = [(1, 2), (2, 3), (4, 3)]

sizes = st.dictionaries(st.sampled_from(LINKS), st.integers(0, 10**12))
speeds = st.builds(lambda slow, more: Quantiles(slow * more, slow), st.floats(1e5, 1e9), st.floats(1, 100))
all_speeds = st.fixed_dictionaries(dict.fromkeys(LINKS, speeds))
behind = st.dictionaries(
    st.sampled_from(LINKS),
    st.lists(st.builds(Onward, st.sampled_from(LINKS), st.integers(0, 10**12)), max_size=3),
)


@given(sizes, sizes, all_speeds, behind, st.sampled_from(LINKS), st.integers(0, 10**12))
def test_more_to_send_is_never_done_earlier(remaining, queued, rates, onward, link, more):
    before = eta(remaining, queued, rates, NOW, onward)
    assert before is not None
    assert NOW <= before.p50 <= before.p90
    after = eta({**remaining, link: remaining.get(link, 0) + more}, queued, rates, NOW, onward)
    longer = eta(remaining, {**queued, link: queued.get(link, 0) + more}, rates, NOW, onward)
    for other in (after, longer):
        assert other is not None
        assert other.p50 >= before.p50
        assert other.p90 >= before.p90


@given(sizes, sizes, all_speeds, behind, st.sampled_from(LINKS), st.floats(1, 100))
def test_a_faster_link_is_never_later(remaining, queued, rates, onward, link, times):
    before = eta(remaining, queued, rates, NOW, onward)
    faster = Quantiles(rates[link].p50 * times, rates[link].p10 * times)
    after = eta(remaining, queued, {**rates, link: faster}, NOW, onward)
    assert before is not None
    assert after is not None
    assert after.p50 <= before.p50
    assert after.p90 <= before.p90


def test_the_slowest_link_decides_and_a_second_hop_adds_one_block():
    rates = {link: Quantiles(100.0, 10.0) for link in LINKS}
    found = eta({(1, 2): 1000, (4, 3): 500}, {(1, 2): 200}, rates, NOW, {(1, 2): [Onward((2, 3), 300)]})
    assert found is not None
    assert (found.p50, found.p90) == (NOW + timedelta(seconds=15), NOW + timedelta(seconds=150))


def test_nothing_left_is_done_now_and_what_would_take_ages_has_no_forecast():
    done = eta({(1, 2): 0}, {(1, 2): 10**15}, {}, NOW)
    assert done is not None
    assert done.p90 == NOW
    assert eta({(1, 2): 10**15}, {}, {(1, 2): Quantiles(1.0, 1.0)}, NOW) is None


def test_a_link_is_judged_by_its_latest_bins_that_sent_anything():
    lately = [(NOW - BIN * n, 300 * n) for n in range(1, 12)]
    old = [(NOW - timedelta(hours=5), 30_000)]
    assert measured([*lately, *old], BIN, NOW, 1.0) == Quantiles(6.0, 2.0)
    assert measured([(NOW - BIN, 0), *old], BIN, NOW, 1.0) == Quantiles(100.0, 100.0)
    # A bin that is not over yet says nothing, nor does one of the week before.
    assert measured([(NOW, 300), (NOW - timedelta(days=7), 300)], BIN, NOW, 1.0) == Quantiles(1.0, 1.0)


@given(
    st.lists(st.tuples(st.timedeltas(timedelta(), timedelta(days=3)), st.integers(0, 10**12)), max_size=30)
)
def test_the_careful_rate_is_not_above_the_usual_one(seen):
    found = measured([(NOW - ago, n) for ago, n in seen], BIN, NOW, 5e6)
    assert 0 < found.p10 <= found.p50


@pytest.mark.parametrize(("slow", "usual"), [(0.0, 1.0), (2.0, 1.0), (float("nan"), 1.0)])
def test_rates_are_above_zero_and_in_order(slow, usual):
    with pytest.raises(ValueError, match="rates"):
        Quantiles(usual, slow)


def test_the_error_of_a_forecast_is_a_share_of_its_time():
    hour = timedelta(hours=1)
    assert error(NOW, NOW + hour, NOW + 1.12 * hour) == pytest.approx(0.12)
    assert error(NOW, NOW + hour, NOW + hour / 2) == pytest.approx(-0.5)
