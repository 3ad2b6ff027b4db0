"""Discovery: datasets by pattern, and where a dataset, a block and a file lie."""

from __future__ import annotations

import pytest
from catalog_grid import BIRCH, CEDAR, DATASET, Grid, new_file, plans

from catalogs import discovery, location
from catalogs.discovery import Moving
from catalogs.location import Place
from catalogs.states import BlockState, ReplicaState
from gridcore.errors import NotFound, UsageError

NAMES = [DATASET, "/Min-Bias/Spring26_v1/RAW", "/Min-Bias/Spring26-v1/AODSIM", "/TTbar/Spring26/AODSIM"]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*", NAMES),
        ("/Min*", NAMES[:3]),
        ("/Min-Bias/*", NAMES[1:3]),
        ("/min-bias/*", []),
        ("/Min?Bias/Spring26?v1/*", NAMES[1:3]),
        ("*_v1*", NAMES[1:2]),
        ("*/AODSIM", NAMES[2:]),
        (DATASET, NAMES[:1]),
        ("TTbar", []),
        ("/%", []),
        ("/TTba_/*", []),
        ("!*", []),
    ],
)
def test_datasets_are_found_by_pattern(grid: Grid, pattern: str, found: list[str]) -> None:
    for name in NAMES:
        grid.make_dataset(name)
    assert {one.name for one in grid.read(discovery.datasets, pattern)} == set(found)


def test_no_more_datasets_than_asked_for(sqlite_grid: Grid) -> None:
    for name in NAMES:
        sqlite_grid.make_dataset(name)
    names = [one.name for one in sqlite_grid.read(discovery.datasets, "*", 2)]
    assert names == sorted(NAMES)[:2]


@pytest.mark.parametrize("pattern", ["*a" * 9, "x" * 201, "/Min\n*"])
def test_a_pattern_made_to_be_slow_is_refused(sqlite_grid: Grid, pattern: str) -> None:
    with pytest.raises(UsageError, match="a pattern of"):
        sqlite_grid.read(discovery.datasets, pattern)


def test_a_dataset_shows_who_holds_how_much(grid: Grid) -> None:
    first = grid.closed_block(new_file(1), new_file(2))
    grid.register(new_file(3, size=50))
    grid.copy(first, BIRCH)
    grid.begin(first, CEDAR)
    view = grid.read(discovery.dataset_show, DATASET)
    assert (view.dataset.files, view.dataset.bytes) == (3, 70)
    assert view.blocks == {BlockState.OPEN: 1, BlockState.CLOSED: 1}
    assert view.holdings == (
        Place(se="Alder_Disk", site="T1_DE_Alder", blocks=2, closed=1, files=3, bytes=70, excepted=0),
        Place(se="Birch_Disk", site="T1_DE_Birch", blocks=1, closed=1, files=2, bytes=20, excepted=0),
    )
    copying = ReplicaState.COPYING
    assert view.moving == (
        Moving(se="Cedar_Disk", site="T1_DE_Cedar", state=copying, blocks=1, files=2, bytes=20),
    )
    with pytest.raises(NotFound, match="no dataset /No/Such/RAW"):
        grid.read(discovery.dataset_show, "/No/Such/RAW")


def test_blocks_come_in_pages_with_their_replicas(grid: Grid) -> None:
    ids = [grid.closed_block(new_file(n)) for n in range(3)]
    grid.copy(ids[1], BIRCH)
    pages = [grid.read(discovery.blocks, DATASET, after, 2) for after in (0, ids[1], ids[2])]
    assert [[view.block.id for view in page] for page in pages] == [ids[:2], ids[2:], []]
    assert [sorted(view.replicas) for view in pages[0]] == [["Alder_Disk"], ["Alder_Disk", "Birch_Disk"]]
    assert pages[0][1].replicas["Birch_Disk"].hops == 1


def test_a_block_shows_its_replicas_and_how_it_was_closed(grid: Grid) -> None:
    block_id = grid.closed_block(new_file(1))
    grid.copy(block_id, BIRCH)
    (seen,) = grid.read(discovery.blocks, DATASET)
    assert grid.read(discovery.block_show, seen.block.name) == seen
    told = grid.read(discovery.block_history, block_id)
    assert [(one.state, one.code) for one in told] == [
        (BlockState.OPEN, "first file"),
        (BlockState.CLOSED, "age"),
    ]
    with pytest.raises(NotFound, match="no block /No"):
        grid.read(discovery.block_show, "/No/Such/RAW#1")


def test_a_file_shows_its_origin_and_its_copies(grid: Grid) -> None:
    parents = grid.register(new_file(2), new_file(1))
    child = new_file(3, runs={7: [(1, 9)]}, parents=tuple(parents))
    grid.register(child)
    view = grid.read(discovery.file_show, child.lfn)
    assert view.file == grid.read(location.where_file, child.lfn)
    assert (view.file.events, view.file.dataset_id) == (100, grid.dataset_id)
    assert view.runs == {7: [(1, 9)]}
    assert view.parents == (new_file(1).lfn, new_file(2).lfn)
    assert view.children == ()
    assert [copy.se for copy in view.file.copies] == ["Alder_Disk"]
    assert grid.read(discovery.file_show, new_file(1).lfn).children == (child.lfn,)
    with pytest.raises(NotFound, match="no file /store/x"):
        grid.read(discovery.file_show, "/store/x")


def test_reads_of_one_dataset_use_an_index(sqlite_grid: Grid) -> None:
    assert "SCAN" not in plans(sqlite_grid, discovery.dataset_show, DATASET)
    assert "SCAN" not in plans(sqlite_grid, discovery.blocks, DATASET)
