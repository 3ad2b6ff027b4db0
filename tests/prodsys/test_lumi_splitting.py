"""Lumi splitting: an exact partition of lumis, whatever lies in which file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridcore.errors import UsageError
from prodsys.tasks import lumis
from prodsys.tasks.lumis import Lumis
from prodsys.units.lumi_splitting import LumiFile, LumiUnit, event_units, lumi_units

Lumi = tuple[int, int]


def lumi_file(id: int, *spans: tuple[int, int, int], events: int | None = 100) -> LumiFile:
    holds = lumis.normal(spans)
    return LumiFile(id=id, lfn=f"/store/data/f{id}.root", events=events, holds=holds, chosen=holds)


def inside(ranges: Iterable[tuple[int, int, int]]) -> list[Lumi]:
    return [(run, lumi) for run, first, last in ranges for lumi in range(first, last + 1)]


def points(mask: Lumis) -> set[Lumi]:
    return {point for run, pairs in mask.items() for point in inside((run, *pair) for pair in pairs)}


def weight(files: list[LumiFile], lumi: Lumi) -> Fraction:
    """Its events, exactly."""
    return sum(
        (Fraction(one.events or 0, lumis.count(one.holds)) for one in files if lumi in points(one.chosen)),
        Fraction(0),
    )


@st.composite
def inputs(draw: st.DrawFn) -> list[LumiFile]:
    """Files whose lumis overlap, with any number of events, of which some are masked out."""
    span = st.tuples(st.integers(1, 3), st.integers(1, 25), st.integers(0, 8))
    files = []
    for id in range(draw(st.integers(0, 6))):
        drawn = draw(st.lists(span, min_size=1, max_size=4))
        holds = lumis.normal((run, first, first + more) for run, first, more in drawn)
        mask = lumis.normal(
            (run, first, first + more) for run, first, more in draw(st.lists(span, max_size=6))
        )
        chosen = lumis.common(holds, mask) if draw(st.booleans()) else holds
        events = draw(st.sampled_from([0, 1, 7, 100, 5000]) | st.integers(0, 300))
        files.append(LumiFile(id=id, lfn=f"/store/f{id}", events=events, holds=holds, chosen=chosen))
    return files


def check_partition(files: list[LumiFile], units: list[LumiUnit], split_on_run: bool) -> None:
    found = [lumi for unit in units for lumi in inside(unit.ranges)]
    assert found == sorted(found)
    assert len(found) == len(set(found))
    assert set(found) == set().union(*(points(one.chosen) for one in files))
    for unit in units:
        mine = set(inside(unit.ranges))
        assert unit.lumis == len(mine) > 0
        assert unit.files == tuple(one.id for one in files if mine & points(one.chosen))
        assert not split_on_run or len({run for run, _, _ in unit.ranges}) == 1
        assert list(unit.ranges) == [
            (run, *pair) for run, pairs in lumis.normal(unit.ranges).items() for pair in pairs
        ]


@given(files=inputs(), per_job=st.integers(1, 12), split_on_run=st.booleans())
def test_lumis_are_partitioned_exactly(files: list[LumiFile], per_job: int, split_on_run: bool) -> None:
    units = list(lumi_units(files, per_job, split_on_run=split_on_run))
    check_partition(files, units, split_on_run)
    assert units == list(lumi_units(files[::-1], per_job, split_on_run=split_on_run))
    assert all(unit.lumis <= per_job for unit in units)
    for left, right in pairwise(units):
        assert left.lumis == per_job or (split_on_run and left.ranges[-1][0] != right.ranges[0][0])


@given(files=inputs(), per_job=st.integers(1, 400), split_on_run=st.booleans(), max_lumis=st.integers(1, 60))
def test_event_aware_lumis_are_partitioned_and_bounded(
    files: list[LumiFile], per_job: int, split_on_run: bool, max_lumis: int
) -> None:
    units = list(event_units(files, per_job, split_on_run=split_on_run, max_lumis=max_lumis))
    check_partition(files, units, split_on_run)
    slack = Fraction(1, 10**6)
    for unit in units:
        events = sum((weight(files, lumi) for lumi in inside(unit.ranges)), Fraction(0))
        assert unit.lumis <= max_lumis
        assert unit.lumis == 1 or events <= per_job + slack
        assert abs(unit.events - events) <= 1
    for left, right in pairwise(units):  # the next lumi would not have fitted
        events = sum((weight(files, lumi) for lumi in inside(left.ranges)), Fraction(0))
        more = events + weight(files, inside(right.ranges)[0])
        new_run = split_on_run and left.ranges[-1][0] != right.ranges[0][0]
        assert more > per_job - slack or left.lumis == max_lumis or new_run


def test_an_over_long_lumi_goes_alone() -> None:
    files = [lumi_file(1, (1, 1, 2), events=20), lumi_file(2, (1, 3, 3), events=900)]
    files += [lumi_file(3, (1, 4, 5), events=0), lumi_file(4, (1, 6, 6), events=10)]
    units = list(event_units(files, 100))
    assert [(unit.ranges, unit.events) for unit in units] == [
        (((1, 1, 2),), 20),
        (((1, 3, 3),), 900),
        (((1, 4, 6),), 10),
    ]


def test_less_than_half_an_event_per_lumi_does_not_make_endless_jobs() -> None:
    units = list(event_units([lumi_file(1, (1, 1, 1000), events=400)], 100))
    assert [unit.lumis for unit in units] == [250, 250, 250, 250]


def test_lumis_without_events_are_not_lost_and_not_endless() -> None:
    units = list(event_units([lumi_file(1, (1, 1, 25_000), events=0)], 100))
    assert [unit.lumis for unit in units] == [10_000, 10_000, 5_000]
    assert sum(unit.events for unit in units) == 0


def test_a_third_of_an_event_adds_up() -> None:
    assert len(list(event_units([lumi_file(1, (1, 1, 3), events=100)], 100))) == 1


def test_a_lumi_in_several_files_is_one_job_with_all_its_events() -> None:
    files = [lumi_file(1, (1, 1, 2), events=100), lumi_file(2, (1, 2, 3), events=300)]
    units = list(event_units(files, 60))
    assert [(unit.ranges, unit.files, unit.events) for unit in units] == [
        (((1, 1, 1),), (1,), 50),
        (((1, 2, 2),), (1, 2), 200),
        (((1, 3, 3),), (2,), 150),
    ]


def test_a_masked_part_weighs_its_share_of_the_file() -> None:
    holds = lumis.normal([(1, 1, 100)])
    chosen = lumis.normal([(1, 1, 10), (1, 51, 60)])
    one = LumiFile(id=1, lfn="/store/f", events=1000, holds=holds, chosen=chosen)
    assert [unit.ranges for unit in event_units([one], 150)] == [((1, 1, 10), (1, 51, 55)), ((1, 56, 60),)]


def test_a_file_nobody_counted_weighs_as_the_others_do() -> None:
    files = [lumi_file(1, (1, 1, 10), events=100), lumi_file(2, (1, 11, 20), events=None)]
    assert [unit.lumis for unit in event_units(files, 50)] == [5, 5, 5, 5]


def test_where_nobody_counted_anything_the_cure_is_told() -> None:
    with pytest.raises(UsageError, match="nobody counted the events") as refused:
        event_units([lumi_file(1, (1, 1, 10), events=None)], 50)
    assert "lumis_per_job" in (refused.value.hint or "")


def test_nothing_makes_nothing() -> None:
    assert list(event_units([], 50)) == list(lumi_units([], 50)) == []


def test_a_run_of_millions_of_lumis_is_cut_by_its_ranges() -> None:
    units: Iterator[LumiUnit] = lumi_units([lumi_file(1, (1, 1, 10**9), events=1)], 10**8)
    assert [unit.lumis for unit in units] == [10**8] * 10
