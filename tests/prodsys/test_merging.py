"""Merging: no input lost or doubled, no limit broken, nobody waits too long, few and well-filled files."""

from __future__ import annotations

import random
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridcore.errors import UsageError
from prodsys.units.merging import MergeGroup, MergeInput, MergePolicy, plan

NOW = datetime(2026, 1, 1, tzinfo=UTC)
GB = 1_000_000_000
POLICY = MergePolicy(min_bytes=20, max_bytes=40, max_wait_s=3600)


def item(
    id: int, size: int, *, age: float = 0.0, events: int | None = None, group: object = "A"
) -> MergeInput:
    return MergeInput(
        id=id, size=size, events=events, created_at=NOW - timedelta(seconds=age), group=(group,)
    )


def sizes(*numbers: int, age: float = 0.0) -> list[MergeInput]:
    return [item(id, size, age=age) for id, size in enumerate(numbers)]


def whys(groups: list[MergeGroup]) -> list[tuple[tuple[int, ...], str]]:
    return [(group.inputs, group.why) for group in groups]


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[MergeInput], MergePolicy]:
    low, high = sorted((draw(st.integers(0, 100)), draw(st.integers(1, 100))))
    policy = MergePolicy(
        min_bytes=low,
        max_bytes=high,
        max_events=draw(st.none() | st.integers(1, 60)),
        max_inputs=draw(st.integers(1, 8)),
        max_wait_s=100,
    )
    inputs = draw(
        st.lists(
            st.builds(
                item,
                st.integers(0, 10**6),
                st.integers(0, 120),
                age=st.integers(0, 200),
                events=st.none() | st.integers(0, 70),
                group=st.sampled_from(["A", "B"]),
            ),
            max_size=40,
            unique_by=lambda item: item.id,
        )
    )
    return inputs, policy


@given(case=cases(), last=st.booleans())
def test_every_input_goes_once_or_waits_in_time(
    case: tuple[list[MergeInput], MergePolicy], last: bool
) -> None:
    inputs, policy = case
    merged = [id for group in plan(inputs, policy, NOW, last=last) for id in group.inputs]
    assert len(merged) == len(set(merged))
    waiting = {item.id for item in inputs} - set(merged)
    assert set(merged) <= {item.id for item in inputs}
    due = {item.id for item in inputs if last or item.created_at <= NOW - timedelta(seconds=100)}
    assert not waiting & due


@given(case=cases(), last=st.booleans())
def test_groups_keep_the_limits(case: tuple[list[MergeInput], MergePolicy], last: bool) -> None:
    inputs, policy = case
    by_id = {item.id: item for item in inputs}
    for group in plan(inputs, policy, NOW, last=last):
        items = [by_id[id] for id in group.inputs]
        assert len({item.group for item in items}) == 1
        assert len(items) <= policy.max_inputs
        assert group.bytes == sum(item.size for item in items)
        counted = [item.events for item in items if item.events is not None]
        assert group.events == (sum(counted) if len(counted) == len(items) else None)
        if len(items) > 1:
            assert group.bytes <= policy.max_bytes
            assert policy.max_events is None or sum(counted) <= policy.max_events
        if group.why == "full" and policy.max_events is None:
            assert group.bytes >= policy.min_bytes or len(items) == policy.max_inputs


@given(case=cases(), last=st.booleans(), order=st.randoms(use_true_random=False))
def test_order_of_input_does_not_matter(
    case: tuple[list[MergeInput], MergePolicy], last: bool, order: random.Random
) -> None:
    inputs, policy = case
    shuffled = order.sample(inputs, len(inputs))
    assert plan(shuffled, policy, NOW, last=last) == plan(inputs, policy, NOW, last=last)


@given(numbers=st.lists(st.integers(1, 60), max_size=40))
def test_at_most_one_file_stays_small_where_two_small_ones_fit(numbers: list[int]) -> None:
    groups = plan(sizes(*numbers), POLICY, NOW, last=True)
    assert sum(group.bytes < POLICY.min_bytes for group in groups) <= 1
    assert {group.why for group in groups if group.bytes < POLICY.min_bytes} <= {"last"}


@pytest.mark.parametrize("seed", range(6))
def test_files_come_out_few_and_filled(seed: int) -> None:
    """Next fit, as in WMCore, makes some 1,034 files of these, 85 of them under the minimum."""
    chance = random.Random(seed)
    inputs = [item(id, int(chance.uniform(0.05, 3) * GB)) for id in range(2000)]
    policy = MergePolicy(min_bytes=2 * GB, max_bytes=4 * GB, max_wait_s=43_200)
    groups = plan(inputs, policy, NOW, last=True)
    assert not [group for group in groups if group.bytes < policy.min_bytes]
    bound = -(-sum(item.size for item in inputs) // policy.max_bytes)
    assert len(groups) <= bound + 3
    assert len(groups) <= 810


@pytest.mark.parametrize(("batch", "most"), [(10, 900), (50, 810)])
def test_files_come_out_filled_as_they_arrive(batch: int, most: int) -> None:
    chance = random.Random(1)
    policy = MergePolicy(min_bytes=2 * GB, max_bytes=4 * GB, max_wait_s=43_200)
    pending: list[MergeInput] = []
    groups: list[MergeGroup] = []
    for start in range(0, 2000, batch):
        pending += [item(start + i, int(chance.uniform(0.05, 3) * GB)) for i in range(batch)]
        groups += plan(pending, policy, NOW, last=start + batch == 2000)
        gone = {id for group in groups for id in group.inputs}
        pending = [item for item in pending if item.id not in gone]
    assert not pending
    assert len(groups) <= most
    assert sum(group.bytes < policy.min_bytes for group in groups) <= 1


def test_small_files_come_out_alike() -> None:
    chance = random.Random(1)
    inputs = [item(id, chance.randint(1, 10) * GB // 1000) for id in range(20_000)]
    policy = MergePolicy(min_bytes=2 * GB, max_bytes=4 * GB, max_wait_s=43_200)
    groups = plan(inputs, policy, NOW, last=True)
    assert Counter(group.why for group in groups)["full"] == len(groups)
    assert min(group.bytes for group in groups) >= policy.min_bytes
    assert max(len(group.inputs) for group in groups) == 500


def test_a_big_enough_file_goes_alone() -> None:
    assert whys(plan(sizes(25), POLICY, NOW)) == [((0,), "full")]


def test_a_file_over_the_maximum_goes_alone() -> None:
    assert whys(plan(sizes(90, 5, 19), POLICY, NOW)) == [((0,), "full"), ((1, 2), "full")]


def test_a_leftover_waits_for_others() -> None:
    assert plan(sizes(5, 6, age=3599), POLICY, NOW) == []


def test_the_oldest_input_of_the_bin_ends_the_waiting() -> None:
    inputs = [item(0, 5, age=10), item(1, 6, age=3600)]
    assert whys(plan(inputs, POLICY, NOW)) == [((0, 1), "waited")]


def test_age_of_another_bin_does_not_end_the_waiting() -> None:
    """WMCore merges a young leftover alone because an input of a full bin was old."""
    inputs = [item(0, 38, age=50_000), item(1, 5, age=60)]
    assert whys(plan(inputs, POLICY, NOW)) == [((0,), "full")]


def test_the_last_plan_takes_the_leftovers() -> None:
    assert whys(plan(sizes(5, 6), POLICY, NOW, last=True)) == [((0, 1), "last")]


def test_a_leftover_is_topped_up_from_a_bin_that_can_spare() -> None:
    # best fit alone makes 25 + 15 and 12
    groups = plan(sizes(25, 15, 12), POLICY, NOW, last=True)
    assert whys(groups) == [((0,), "full"), ((1, 2), "full")]


def test_several_inputs_top_up_together() -> None:
    # best fit alone makes 24 + 8 + 8 and 7
    assert whys(plan(sizes(24, 8, 8, 7), POLICY, NOW, last=True)) == [((0,), "full"), ((1, 2, 3), "full")]


def test_nothing_moves_where_it_would_not_fill_the_bin() -> None:
    groups = plan(sizes(28, 4, 4, 4, 3), POLICY, NOW, last=True)
    assert whys(groups) == [((0, 1, 2, 3), "full"), ((4,), "last")]


def test_a_bin_gives_no_more_than_it_can_spare() -> None:
    groups = plan(sizes(14, 13, 13, 3), POLICY, NOW, last=True)
    assert whys(groups) == [((0, 1, 2), "full"), ((3,), "last")]


def test_the_bin_that_lacks_least_is_topped_up_first() -> None:
    policy = MergePolicy(min_bytes=30, max_bytes=40, max_wait_s=3600)
    # best fit alone makes 31 + 4 + 4, 24 and 22
    groups = plan(sizes(31, 4, 4, 22, 24), policy, NOW, last=True)
    assert whys(groups) == [((0,), "full"), ((1, 2, 4), "full"), ((3,), "last")]


def test_groups_are_kept_apart() -> None:
    inputs = [item(0, 15), item(1, 15, group="B"), item(2, 15), item(3, 15, group="B")]
    assert whys(plan(inputs, POLICY, NOW)) == [((0, 2), "full"), ((1, 3), "full")]


def test_max_inputs_makes_a_group_full() -> None:
    policy = MergePolicy(min_bytes=20, max_bytes=40, max_wait_s=3600, max_inputs=3)
    assert whys(plan(sizes(1, 1, 1, 1), policy, NOW)) == [((0, 1, 2), "full")]


def test_max_events_makes_a_group_full() -> None:
    policy = MergePolicy(min_bytes=20, max_bytes=40, max_wait_s=3600, max_events=100)
    inputs = [item(id, 1, events=40) for id in range(4)]
    groups = plan(inputs, policy, NOW)
    assert [(group.inputs, group.events) for group in groups] == [((0, 1), 80), ((2, 3), 80)]


def test_unknown_events_stay_unknown() -> None:
    (group,) = plan([item(0, 15, events=10), item(1, 15)], POLICY, NOW)
    assert group.events is None


def test_nothing_makes_nothing() -> None:
    assert plan([], POLICY, NOW, last=True) == []


@pytest.mark.parametrize(
    "limits",
    [
        {"min_bytes": 5, "max_bytes": 4},
        {"min_bytes": -1, "max_bytes": 4},
        {"min_bytes": 0, "max_bytes": 0},
        {"min_bytes": 1, "max_bytes": 4, "max_inputs": 0},
        {"min_bytes": 1, "max_bytes": 4, "max_events": 0},
        {"min_bytes": 1, "max_bytes": 4, "max_wait_s": -1},
    ],
)
def test_a_policy_out_of_range_is_refused(limits: dict[str, int]) -> None:
    with pytest.raises(UsageError) as refused:
        MergePolicy(**{"max_wait_s": 1, **limits})
    assert refused.value.hint
