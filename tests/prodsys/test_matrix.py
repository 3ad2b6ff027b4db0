"""A parameter matrix: every combination once, counted before it is written out."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridcore.errors import UsageError
from prodsys.tasks import matrix

values = st.lists(st.integers(0, 50), min_size=1, max_size=5, unique=True)


@given(st.dictionaries(st.sampled_from("abcd"), values, min_size=1))
def test_points_are_the_product_in_order(one: dict[str, list[int]]) -> None:
    points = [matrix.point(one, number) for number in range(matrix.count(one))]
    assert points == [dict(zip(one, chosen, strict=True)) for chosen in product(*one.values())]


def test_a_point_of_a_huge_matrix_is_cheap() -> None:
    huge = {f"p{number}": range(10) for number in range(15)}
    assert set(matrix.point(huge, 10**15 - 1).values()) == {9}


@pytest.mark.parametrize(
    ("one", "message"),
    [
        ({}, "no parameter"),
        ({"a": []}, "a has no value"),
        ({"a": [1, 2, 1]}, "a has a value twice"),
        ({f"p{number}": list(range(10)) for number in range(7)}, "make 10,000,000 points, at most 1,000,000"),
    ],
)
def test_a_matrix_without_sense_is_refused(one: dict[str, list[int]], message: str) -> None:
    with pytest.raises(UsageError, match=message) as refused:
        matrix.check(one, 1_000_000)
    assert refused.value.hint


def test_true_and_one_are_two_values() -> None:
    matrix.check({"a": [1, True, 1.0, "1"]}, 10)


@pytest.mark.parametrize("number", [-1, 4])
def test_there_are_no_other_points(number: int) -> None:
    with pytest.raises(UsageError, match="has no point"):
        matrix.point({"a": [1, 2], "b": [1, 2]}, number)
