"""Files of a dataset page by page, what of them is good at a storage element, and families."""

from __future__ import annotations

import pytest
from catalog_grid import BIRCH, NOW, Grid, new_file, plans

from catalogs import contents, exceptions
from catalogs.contents import Place
from catalogs.exceptions import FileFault
from gridcore.errors import NotFound, UsageError

START = Place()


@pytest.fixture
def filled(grid: Grid) -> Grid:
    """Eight files in blocks of three; the first two closed ones at Birch too."""
    ids = grid.register(*(new_file(number) for number in range(8)))
    for file_id in (ids[0], ids[3]):
        grid.copy(grid.block_of(file_id), BIRCH)
    return grid


def lfns(*numbers: int) -> list[str]:
    return [new_file(number).lfn for number in numbers]


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 100])
def test_pages_follow_each_other(filled: Grid, limit: int) -> None:
    found, after = [], START
    while page := filled.read(contents.files, filled.dataset_id, after, limit):
        assert len(page) <= limit
        found += [one.lfn for one in page]
        after = filled.read(contents.place_of, filled.dataset_id, page[-1].lfn)
        assert after == page[-1].place
    assert found == lfns(*range(8))


def test_a_page_begins_after_a_file_of_the_dataset(filled: Grid) -> None:
    other = filled.make_dataset("/MinBias/Spring26-v2/RAW")
    with pytest.raises(NotFound):
        filled.read(contents.place_of, filled.dataset_id, "/store/no/where")
    with pytest.raises(UsageError, match="another dataset"):
        filled.read(contents.place_of, other, new_file(0).lfn)
    assert filled.read(contents.files, other, START, 10) == []


@pytest.mark.parametrize("limit", [1, 2, 4, 100])
def test_only_what_is_good_there_is_named(filled: Grid, limit: int) -> None:
    block_id = filled.block_of(1)
    bad = {one.id: FileFault.MISSING for one in filled.read(contents.files, filled.dataset_id, START, 2)[1:]}
    filled.do(exceptions.add, block_id, BIRCH, bad, NOW)
    found, after = list[str](), START
    while after is not None:
        page, after = filled.read(contents.names_at, filled.dataset_id, BIRCH, after, limit)
        found += page
    assert found == lfns(0, 2, 3, 4, 5)


def test_a_family_by_generations(grid: Grid) -> None:
    names = [f"/MinBias/Spring26-v{number}/RAW" for number in (2, 3)]
    child, grandchild = (grid.make_dataset(name) for name in names)
    (first,) = grid.register(new_file(0))
    (second,) = grid.register(new_file(1, parents=(first,)), dataset_id=child)
    grid.register(new_file(2, parents=(second, first)), dataset_id=grandchild)

    def family(of: int, **options: object) -> list[tuple[int, int]]:
        return [(n, one.id) for n, one in grid.read(contents.family, of, **options)]

    assert family(grid.dataset_id, children=True) == [(1, child), (1, grandchild)]
    assert family(grandchild, children=False) == [(1, grid.dataset_id), (1, child)]
    assert family(child, children=True, generations=20) == [(1, grandchild)]
    assert family(child, children=False, generations=20) == [(1, grid.dataset_id)]
    assert family(grid.dataset_id, children=False) == []


def test_pages_use_an_index(sqlite_grid: Grid) -> None:
    for act, args in (
        (contents.files, (sqlite_grid.dataset_id, START, 10)),
        (contents.names_at, (sqlite_grid.dataset_id, BIRCH, START, 10)),
    ):
        sqlite_grid.register(new_file(0))
        steps = plans(sqlite_grid, act, *args)
        assert "SCAN" not in steps, steps
