"""Splitting is an exact partition, and a unit never changes."""

from __future__ import annotations

import hashlib
import random
from itertools import islice, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridcore.errors import UsageError
from prodsys.units.splitting import (
    EventUnit,
    InputFile,
    check_job_count,
    count_event_jobs,
    event_units,
    file_units,
    seed_for,
    size_units,
)


def input_file(id: int, block_id: int = 1, size: int = 100, runs: tuple[int, ...] = ()) -> InputFile:
    return InputFile(
        id=id,
        lfn=f"/store/data/f{id}.root",
        events=10,
        size=size,
        block_id=block_id,
        runs=tuple((run, 1, 5) for run in runs),
    )


def test_the_last_unit_takes_the_remainder() -> None:
    assert list(event_units(250, 100)) == [EventUnit(0, 100), EventUnit(100, 100), EventUnit(200, 50)]


@given(total=st.integers(1, 2000), per_job=st.integers(1, 300))
def test_events_are_partitioned_exactly(total: int, per_job: int) -> None:
    units = list(event_units(total, per_job))
    assert len(units) == count_event_jobs(total, per_job)
    assert units[0].first == 0
    assert all(left.first + left.count == right.first for left, right in pairwise(units))
    assert units[-1].first + units[-1].count == total
    assert all(1 <= unit.count <= per_job for unit in units)


@given(total=st.integers(1, 2000), per_job=st.integers(1, 300), slice_size=st.integers(1, 50))
def test_slices_add_up_to_the_whole(total: int, per_job: int, slice_size: int) -> None:
    sliced: list[EventUnit] = []
    made = 0
    while part := list(islice(event_units(total, per_job, first_event=made), slice_size)):
        sliced += part
        made += sum(unit.count for unit in part)
    assert sliced == list(event_units(total, per_job))


def test_an_extended_task_goes_on_where_its_last_unit_ended() -> None:
    made = list(event_units(100, 30))
    more = list(event_units(150, 30, first_event=100))
    assert made[-1] == EventUnit(90, 10)
    assert more == [EventUnit(100, 30), EventUnit(130, 20)]


@given(totals=st.lists(st.integers(1, 500), min_size=1, max_size=5), per_job=st.integers(1, 60))
def test_extensions_stay_one_partition(totals: list[int], per_job: int) -> None:
    events: list[int] = []
    for total in sorted(totals):
        for unit in event_units(total, per_job, first_event=len(events)):
            events += range(unit.first, unit.first + unit.count)
    assert events == list(range(max(totals)))


def test_a_late_unit_of_a_huge_task_is_cheap() -> None:
    assert next(event_units(10**15, 100, first_event=10**14)) == EventUnit(10**14, 100)


@pytest.mark.parametrize(
    ("total", "per_job", "first_event"), [(0, 1, 0), (-5, 1, 0), (5, 0, 0), (5, -1, 0), (5, 1, -1)]
)
def test_event_arguments_out_of_range_are_refused(total: int, per_job: int, first_event: int) -> None:
    with pytest.raises(UsageError) as refused:
        event_units(total, per_job, first_event=first_event)
    assert refused.value.hint


@given(
    blocks=st.lists(st.integers(1, 5), max_size=60),
    per_job=st.integers(1, 7),
    order=st.randoms(use_true_random=False),
)
def test_files_are_partitioned_within_blocks(blocks: list[int], per_job: int, order: random.Random) -> None:
    files = [input_file(id, block) for id, block in enumerate(blocks)]
    units = file_units(order.sample(files, len(files)), per_job)
    assert units == file_units(files, per_job)
    assert sorted(file.id for unit in units for file in unit) == list(range(len(files)))
    assert all(len({file.block_id for file in unit}) == 1 for unit in units)
    assert all(1 <= len(unit) <= per_job for unit in units)
    assert len(units) == sum(-(-blocks.count(block) // per_job) for block in set(blocks))


def test_files_keep_the_order_of_their_ids() -> None:
    units = file_units([input_file(3), input_file(1), input_file(2)], 2)
    assert [[file.id for file in unit] for unit in units] == [[1, 2], [3]]


def test_no_job_reads_files_of_two_runs_where_runs_are_kept_apart() -> None:
    files = [input_file(1, runs=(7,)), input_file(2, runs=(8,)), input_file(3, runs=(7,))]
    files += [input_file(4, runs=(8, 7)), input_file(5)]
    for cut in (file_units, size_units):
        units = cut(files, 1000, split_on_run=True)
        assert [[file.id for file in unit] for unit in units] == [[5], [1, 3], [4], [2]]


@given(
    sizes=st.lists(st.tuples(st.integers(0, 3000), st.integers(1, 3)), max_size=60),
    per_job=st.integers(1, 2500),
    order=st.randoms(use_true_random=False),
)
def test_sizes_are_partitioned_and_never_empty(
    sizes: list[tuple[int, int]], per_job: int, order: random.Random
) -> None:
    files = [input_file(id, block, size) for id, (size, block) in enumerate(sizes)]
    units = size_units(order.sample(files, len(files)), per_job)
    assert units == size_units(files, per_job)
    assert sorted(file.id for unit in units for file in unit) == list(range(len(files)))
    assert all(unit for unit in units)
    assert all(len({file.block_id for file in unit}) == 1 for unit in units)
    assert all(len(unit) == 1 or sum(file.size for file in unit) <= per_job for unit in units)
    for left, right in pairwise(units):  # and none could have taken the next file as well
        alike = left[0].block_id == right[0].block_id
        assert not alike or sum(file.size for file in left) + right[0].size > per_job


def test_a_large_file_between_small_ones_makes_no_empty_job() -> None:
    files = [input_file(1, size=100), input_file(2, size=1500), input_file(3, size=200)]
    assert [[file.id for file in unit] for unit in size_units(files, 1000)] == [[1], [2], [3]]


def test_a_file_given_twice_is_refused() -> None:
    for cut in (file_units, size_units):
        with pytest.raises(UsageError, match="is in the input twice"):
            cut([input_file(1), input_file(2), input_file(1)], 2)


def test_no_files_per_job_is_refused() -> None:
    with pytest.raises(UsageError, match="files per job is 0"):
        file_units([input_file(1)], 0)


def test_job_count_is_passed_or_refused_with_a_cure() -> None:
    assert check_job_count(10_000, 10_000) == 10_000
    with pytest.raises(UsageError, match=r"25,001 jobs.*at most 10,000") as refused:
        check_job_count(25_001, 10_000)
    assert refused.value.hint
    assert "3 times as big" in refused.value.hint
    with pytest.raises(UsageError, match="no job"):
        check_job_count(0, 10_000)


def test_seed_is_the_documented_hash() -> None:
    bits = bin(int(hashlib.sha256(b"t/17").hexdigest(), 16))[2:].zfill(256)[:31]
    assert seed_for("t", 17) == 1 + int(bits, 2) % 900_000_000


@given(task=st.text(min_size=1, max_size=40), index=st.integers(0, 10**6))
def test_seed_is_in_range(task: str, index: int) -> None:
    assert 1 <= seed_for(task, index) <= 900_000_000


def test_neighbouring_jobs_have_different_seeds() -> None:
    assert len({seed_for("240101_000000:ada_gen", index) for index in range(2000)}) == 2000
