"""Lumi masks: what they hold, how they meet, and what is no mask."""

from __future__ import annotations

import re
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridcore.errors import UsageError
from prodsys.tasks import lumis
from prodsys.tasks.lumis import Lumis

spans = st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(0, 6)).map(
    lambda one: (one[0], one[1], one[1] + one[2])
)
masks = st.lists(spans, max_size=15).map(lumis.normal)


def points(mask: Lumis) -> set[tuple[int, int]]:
    return {
        (run, lumi)
        for run, ranges in mask.items()
        for first, last in ranges
        for lumi in range(first, last + 1)
    }


def is_normal(mask: Lumis) -> bool:
    edges = [[edge for pair in ranges for edge in pair] for ranges in mask.values()]
    apart = all(b > a + 1 for ranges in edges for a, b in zip(ranges[1::2], ranges[2::2], strict=False))
    return apart and list(mask) == sorted(mask) and all(mask.values())


@given(some=masks, others=masks)
def test_masks_meet_as_sets_do(some: Lumis, others: Lumis) -> None:
    for act, expected in (
        (lumis.common, points(some) & points(others)),
        (lumis.without, points(some) - points(others)),
        (lumis.united, points(some) | points(others)),
    ):
        found = act(some, others)
        assert points(found) == expected
        assert is_normal(found)
        assert lumis.count(found) == len(expected)


@given(mask=masks)
def test_a_mask_survives_its_document(mask: Lumis) -> None:
    content = lumis.to_json(mask)
    assert points(lumis.from_json(content)) == points(mask)
    if mask:
        assert lumis.to_json(lumis.parse(content)) == content


@given(mask=masks, first=st.integers(1, 3), last=st.integers(1, 3))
def test_runs_are_taken_whole(mask: Lumis, first: int, last: int) -> None:
    found = lumis.of_runs(mask, [(first, last)])
    assert points(found) == {(run, lumi) for run, lumi in points(mask) if first <= run <= last}


def test_touching_ranges_are_joined_and_gaps_kept() -> None:
    assert lumis.parse({"8": [[5, 9], [1, 4], [11, 12]], "7": [[3, 3]]}) == {
        7: ((3, 3),),
        8: ((1, 9), (11, 12)),
    }


def test_a_run_without_lumis_is_no_run() -> None:
    assert lumis.parse({"8": [], "7": [[1, 2]]}) == {7: ((1, 2),)}


@pytest.mark.parametrize(
    ("raw", "message", "cure"),
    [
        ({"1": [[9, 4]]}, r"run 1 .*\[9, 4\] is reversed", r"\[4, 9\]"),
        ({"1": [[1, 5], [4, 9]]}, r"\[1, 5\] and \[4, 9\] overlap", r"\[1, 9\]"),
        ({"1": [[1, 9], [3, 4]]}, r"overlap", r"\[1, 9\]"),
        ({"1": [[1, 2]], 1: [[4, 5]]}, "run 1 is in the lumi mask twice", "one list"),
        ({}, "mask is empty", "leave it out"),
        ({"1": []}, "mask is empty", "leave it out"),
        ([[1, 2]], "no list", "a mask is"),
        ({"1": [1, 2]}, "1 is no range", "a mask is"),
        ({"1": [[1, 2, 3]]}, "no range", "a mask is"),
        ({"1": [[True, 2]]}, "no range", "a mask is"),
        ({"1": [["1", "2"]]}, "no range", "a mask is"),
        ({"1": [[-1, 2]]}, "no range", "a mask is"),
        ({"1": [[1, 2**32]]}, "no range", "a mask is"),
        ({"1": 5}, "no list of ranges", "a mask is"),
        ({"run1": [[1, 2]]}, "names the run 'run1'", "a mask is"),
        ({"-1": [[1, 2]]}, "names the run", "a mask is"),
        ({True: [[1, 2]]}, "names the run", "a mask is"),
    ],
)
def test_what_is_no_mask_is_told_with_its_cure(raw: Any, message: str, cure: str) -> None:
    with pytest.raises(UsageError, match=message) as refused:
        lumis.parse(raw)
    assert refused.value.hint is not None
    assert re.search(cure, refused.value.hint)


def test_a_mask_of_ten_million_ranges_is_refused_unread() -> None:
    endless: Any = {"1": [[1, 2]] * 10_000_000}
    tracemalloc.start()
    with pytest.raises(UsageError, match="more than 100,000 ranges"):
        lumis.parse(endless)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000


def test_a_wide_range_costs_no_more_than_a_narrow_one() -> None:
    wide = lumis.parse({"1": [[1, 2**32 - 1]]})
    assert lumis.count(lumis.without(wide, {1: ((10, 20),)})) == 2**32 - 1 - 11


@pytest.mark.parametrize("text", ["{", "[1, 2", '{"1": [[1, 2]], "1": [[3, 4]]}', "[" * 100_000])
def test_what_is_no_json_is_told(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        lumis.read(text)
    assert refused.value.hint


def test_runs_are_listed_as_physicists_do() -> None:
    assert lumis.parse_runs("194050, 194070-194080,194081") == ((194050, 194050), (194070, 194081))


@pytest.mark.parametrize("text", ["", "a", "5-", "9-5", "1,,2", "-3", "99999999999", "4294967296"])
def test_what_lists_no_runs_is_told(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        lumis.parse_runs(text)
    assert refused.value.hint


def test_a_list_of_too_many_runs_is_refused() -> None:
    with pytest.raises(UsageError, match="more than 10,000"):
        lumis.parse_runs(",".join(["7"] * 10_001))


@pytest.mark.slow
def test_a_run_given_twice_among_very_many_is_told_at_once() -> None:
    """Counting each name in the list of all took hours for a mask of half a million runs."""
    runs = [f'"{run}": [[1, 2]]' for run in [*range(200_000), 199_999]]
    with pytest.raises(UsageError, match="run 199999 is in the lumi mask twice"):
        lumis.read("{" + ", ".join(runs) + "}")
