"""Files nobody shall read: said, taken back, told once, and remembered."""

from __future__ import annotations

import pytest
from catalog_grid import NOW, Grid, at_once, new_file, plans

from catalogs import bookkeeping, histories, location, validity
from catalogs.bookkeeping import Named
from catalogs.states import InvalidCode
from gridcore.errors import NotFound, UsageError

INVALID, LOST = InvalidCode.INVALID, InvalidCode.LOST


def test_files_are_invalid_until_they_are_well_again(grid: Grid) -> None:
    ids = grid.register(*(new_file(n) for n in range(3)))
    assert grid.do(validity.invalidate, ids[:2], INVALID, "ann", NOW, "bad magnet") == 2
    assert grid.do(validity.invalidate, ids[:2], INVALID, "bob", NOW) == 0
    assert grid.do(validity.invalidate, ids[:1], LOST, "bob", NOW) == 1
    block_id = grid.block_of(ids[0])
    assert grid.read(validity.invalid_in, block_id) == set(ids[:2])
    codes = [grid.read(location.where_file, new_file(n).lfn).invalid for n in range(3)]
    assert codes == [LOST, INVALID, None]
    assert grid.do(validity.revalidate, ids, "eve", NOW) == 2
    assert grid.read(validity.invalid_in, block_id) == set()
    told = grid.read(histories.of_file, ids[0], 10)
    assert [(one.actor, one.change, one.detail) for one in told] == [
        ("eve", "revalidated", None),
        ("bob", "invalidated", {"code": "LOST"}),
        ("ann", "invalidated", {"code": "INVALID", "reason": "bad magnet"}),
    ]
    assert grid.read(histories.of_file, ids[2], 10) == []


def test_what_does_not_exist_changes_nothing(grid: Grid) -> None:
    ids = grid.register(new_file(0))
    with pytest.raises(NotFound, match="no file with id 4711"):
        grid.do(validity.invalidate, [*ids, 4711], INVALID, "ann", NOW)
    for name in ("/store/../x", "/store//x", "/store/x\n", "/store/" + "x" * 10_000):
        with pytest.raises(UsageError):
            grid.read(bookkeeping.files_named, [name])
    names = [new_file(0).lfn, "/store/data/x"]
    assert grid.read(bookkeeping.files_named, names) == {new_file(0).lfn: Named(ids[0], grid.dataset_id)}
    assert grid.read(validity.untold, 10) == []


def test_jobs_are_told_once(grid: Grid) -> None:
    ids = grid.register(*(new_file(n) for n in range(3)))
    grid.do(validity.invalidate, ids, INVALID, "ann", NOW)
    assert grid.read(validity.untold, 2) == ids[:2]
    assert grid.do(validity.told, ids[:2], NOW) == 2
    assert grid.do(validity.told, ids[:2], NOW) == 0
    assert grid.read(validity.untold, 10) == ids[2:]
    grid.do(validity.invalidate, ids[:1], LOST, "ann", NOW)
    assert grid.read(validity.untold, 10) == [ids[0], ids[2]]


def test_two_who_say_the_same_at_once_agree(grid: Grid) -> None:
    ids = grid.register(*(new_file(n) for n in range(3)))

    def say(number: int) -> int:
        return grid.do(validity.invalidate, ids, (INVALID, LOST)[number % 2], "ann", NOW)

    assert sum(at_once(4, say)) >= 3
    assert len(grid.read(validity.untold, 10)) == 3


def test_untold_files_are_found_by_an_index(sqlite_grid: Grid) -> None:
    assert "SCAN" not in plans(sqlite_grid, validity.untold, 10)
