"""File batches: what is refused, how they are divided into blocks, and that columns say what files said."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalogs.bookkeeping import BlockPolicy
from catalogs.filebatch import COUNT_MAX, FileBatch, NewFile, batch_of, check, merged, portions
from gridcore.errors import Conflict, GridError, UsageError
from gridcore.ids import check_lfn

POLICIES = st.builds(BlockPolicy, files=st.integers(1, 6), bytes=st.integers(1, 40), age_s=st.just(1.0))
NAMES = st.text("ab0._-/\n \0é", max_size=6)


def file(number: int, **values: object) -> NewFile:
    return NewFile(**{"lfn": f"/store/d{number % 3}/f{number}.root", "bytes": 10, "adler32": 1, **values})  # type: ignore[arg-type]


def one_by_one(policy: BlockPolicy, held: tuple[int, int], sizes: list[int]) -> list[tuple[int, str | None]]:
    """The rule as it is said: look at each file in turn."""
    files, size = held
    shares: list[tuple[int, str | None]] = []
    taken = 0
    for more in sizes:
        code = "files" if files >= policy.files else "bytes" if files and size + more > policy.bytes else None
        if code:
            shares.append((taken, code))
            files = size = taken = 0
        files, size, taken = files + 1, size + more, taken + 1
    return [*shares, (taken, None)]


@given(POLICIES, st.tuples(st.integers(0, 7), st.integers(0, 50)), st.lists(st.integers(0, 50), max_size=30))
def test_portions_are_those_of_the_rule(policy: BlockPolicy, held: tuple[int, int], sizes: list[int]) -> None:
    held = held if held[0] else (0, 0)
    assert portions(policy, held, sizes) == one_by_one(policy, held, sizes)


@given(st.lists(st.tuples(st.integers(1, 20), st.integers(0, 9)).map(lambda pair: (pair[0], sum(pair)))))
def test_merged_ranges_cover_the_same_lumis_without_touching(ranges: list[tuple[int, int]]) -> None:
    result = merged(ranges)
    assert {n for first, last in ranges for n in range(first, last + 1)} == {
        n for first, last in result for n in range(first, last + 1)
    }
    assert all(last + 1 < first for (_, last), (first, _) in pairwise(result))


def test_a_reversed_lumi_range_is_refused() -> None:
    with pytest.raises(UsageError, match="9-3"):
        merged([(1, 2), (9, 3)])


@given(st.lists(NAMES, min_size=1, max_size=4, unique=True))
def test_names_are_refused_as_one_by_one(names: list[str]) -> None:
    batch, _ = batch_of([NewFile(lfn=f"/store/{name}", bytes=1, adler32=1) for name in names])

    def faulty(name: str) -> bool:
        try:
            check_lfn(f"/store/{name}")
        except UsageError:
            return True
        return False

    if any(map(faulty, names)):
        with pytest.raises(UsageError):
            check(batch)
    else:
        check(batch)


@given(st.lists(st.integers(0, 20), max_size=12))
def test_columns_say_what_the_files_said(numbers: list[int]) -> None:
    files = [file(n, events=n or None, runs={1: [(n, n)]}, parents=(n + 1, n)) for n in numbers]
    batch, places = batch_of(files)
    check(batch)
    assert [batch.lfn(place) for place in places] == [one.lfn for one in files]
    assert len(batch) == len(set(numbers))
    assert {place: batch.runs[place] for place in places} == dict(
        zip(places, (one.runs for one in files), strict=True)
    )
    half = batch.at([place for place in range(len(batch)) if place % 2])
    assert list(half.lfns()) == list(batch.lfns())[1::2]
    assert len(half.parents) == 2 * len(half)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"bytes": -1}, "size of -1"),
        ({"bytes": COUNT_MAX + 1}, "size"),
        ({"adler32": 2**32}, "adler32"),
        ({"events": -5}, "events of -5"),
        ({"lfn": "/store/a/../b"}, "is no LFN"),
        ({"lfn": "/store//b"}, "is no LFN"),
        ({"lfn": "/etc/passwd"}, "is no LFN"),
        ({"lfn": "/store/" + "a" * 201}, "too long"),
        ({"lfn": "/store/" + "a/" * 250 + "b"}, "too long"),
        ({"lfn": "/store/a\nb"}, "is no LFN"),
        ({"lfn": "name"}, "is no LFN"),
        ({"lfn": ""}, "is no LFN"),
    ],
)
def test_the_file_at_fault_is_named(values: dict[str, object], told: str) -> None:
    batch, _ = batch_of([file(1), file(2, **values), file(3)])
    with pytest.raises(GridError, match=told):
        check(batch)


def test_the_same_name_twice_is_one_file_or_a_conflict() -> None:
    batch, places = batch_of([file(1), file(2), file(1)])
    assert (len(batch), places) == (2, [0, 1, 0])
    with pytest.raises(Conflict, match="twice with different content"):
        batch_of([file(1), file(1, adler32=2)])
    same = FileBatch(
        dirs=["/store/d"], dir_of=[0, 0], names=["x", "x"], bytes=[1, 1], adler32=[1, 1], events=[1, 1]
    )
    with pytest.raises(Conflict, match="/store/d/x is given twice"):
        check(same)
    check(batch_of([])[0])
