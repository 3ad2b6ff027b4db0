"""What other rules would change: name by name, and summed over what a storage element holds."""

from __future__ import annotations

from catalog_grid import ALDER, BIRCH, Grid, new_file, plans

from catalogs.tfc import samples
from catalogs.tfc.catalog import TrivialCatalog
from catalogs.tfc.diff import SAMPLES, Amount, Change, Held, Side, changes, preview
from catalogs.tfc.rules import Rule

OLD = Side(TrivialCatalog("old", (Rule("p", "/+store/(.*)", "/d/$1"),)), "p")
NEW = Side(
    TrivialCatalog(
        "new", (Rule("q", "^/store/mc/(.*)", "/mc/$1"), Rule("q", "^/store/data/(.*)", "/d/data/$1"))
    ),
    "q",
)
LFNS = ["/store/mc/a", "/store/data/a", "/store/user/a", "/other/a"]


def test_changes_are_names_that_become_others_or_none() -> None:
    assert list(changes(OLD, NEW, LFNS)) == [
        Change("/store/mc/a", "/d/mc/a", "/mc/a"),
        Change("/store/user/a", "/d/user/a", None),
    ]
    assert list(changes(NEW, NEW, LFNS)) == []


def test_a_preview_sums_what_would_be_moved_and_lost() -> None:
    held = [Held(lfn, files, files * 10) for files, lfn in enumerate(LFNS, 1)]
    found = preview(OLD, NEW, held)
    assert found.held == Amount(4, 10, 100)
    assert found.moved == Amount(1, 1, 10)
    assert found.lost == Amount(1, 3, 30)
    assert [one.lfn for one in found.samples] == ["/store/mc/a", "/store/user/a"]
    assert preview(OLD, OLD, held).moved == Amount()


def test_a_preview_shows_some_samples_only() -> None:
    held = [Held(f"/store/mc/{number}", 1, 1) for number in range(100)]
    found = preview(OLD, NEW, held)
    assert found.moved == Amount(100, 100, 100)
    assert len(found.samples) == SAMPLES


def test_samples_are_of_each_directory(grid: Grid) -> None:
    grid.register(*(new_file(number) for number in range(7)))
    found = grid.read(samples.of_directories)
    assert found == ["/store/data/MinBias/0/file_0.root", "/store/data/MinBias/1/file_5.root"]
    assert grid.read(samples.of_directories, 1) == found[:1]


def test_samples_are_of_each_block_that_is_there(grid: Grid) -> None:
    block = grid.closed_block(new_file(0), new_file(1))
    grid.register(new_file(5, size=7))
    grid.copy(block, BIRCH)
    (there,) = grid.read(samples.held, BIRCH)
    assert (there.files, there.bytes) == (2, 20)
    assert there.lfn in {new_file(0).lfn, new_file(1).lfn}
    assert grid.read(samples.held, ALDER) == [there, Held(new_file(5).lfn, 1, 7)]
    assert grid.read(samples.held, ALDER, 1) == [there]


def test_the_names_of_a_dataset(grid: Grid) -> None:
    other = grid.make_dataset("/MinBias/Other-v1/RAW")
    grid.register(*(new_file(number) for number in range(4)))
    grid.register(new_file(9), dataset_id=other)
    lfns = {new_file(number).lfn for number in range(4)}
    assert set(grid.read(samples.of_dataset, grid.dataset_id)) == lfns


def test_samples_are_found_by_indexes(sqlite_grid: Grid) -> None:
    sqlite_grid.register(*(new_file(number) for number in range(7)))
    for act, args in ((samples.of_directories, ()), (samples.held, (ALDER,))):
        steps = plans(sqlite_grid, act, *args)
        assert "data_file" in steps
        assert "SCAN data_file" not in steps
        assert "SCAN block\n" not in steps
