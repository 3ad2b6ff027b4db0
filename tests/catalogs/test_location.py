"""Where data lie: a file's copies, a dataset's places, and what some places alone have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
from catalog_grid import ALDER, BIRCH, CEDAR, DATASET, Grid, new_file
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from search_grid import scanned
from sqlalchemy import Connection

from catalogs import location, tables
from catalogs.exceptions import FileFault
from catalogs.location import Amount, Copy, Place, Unique
from catalogs.states import InvalidCode, ReplicaState
from gridcore.db import Database, insert_rows
from gridcore.errors import NotFound

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
COMPLETE, COPYING = ReplicaState.COMPLETE, ReplicaState.COPYING
BIG = frozenset(["block", "data_file", "block_replica", "dir"])


def bad(grid: Grid, block_id: int, se_id: int, file_id: int, kind: FileFault = FileFault.BAD) -> None:
    row = {"block_id": block_id, "se_id": se_id, "file_id": file_id, "kind": kind.value, "at": NOW}
    grid.do(insert_rows, tables.file_exception, [row])


# --- a file ----------------------------------------------------------------------------------------------


def test_a_file_is_where_its_block_is_but_for_exceptions(grid: Grid) -> None:
    block_id = grid.closed_block(new_file(1), new_file(2))
    grid.copy(block_id, BIRCH)
    (one, other) = grid.register(new_file(1), new_file(2))
    bad(grid, block_id, BIRCH, one)
    found = grid.read(location.where_file, new_file(1).lfn)
    assert (found.id, found.bytes, found.adler32, found.block_id) == (one, 10, 1, block_id)
    assert found.block.startswith(DATASET)
    alder = Copy("Alder_Disk", "T1_DE_Alder", COMPLETE, custodial=False, transit=False, fault=None)
    birch = Copy("Birch_Disk", "T1_DE_Birch", COMPLETE, custodial=False, transit=False, fault=FileFault.BAD)
    assert found.copies == (alder, birch)
    assert [copy.good for copy in found.copies] == [True, False]
    assert all(copy.good for copy in grid.read(location.where_file, new_file(2).lfn).copies)
    assert found.invalid is None
    row = {"file_id": other, "code": InvalidCode.LOST, "actor": "anna", "at": NOW}
    grid.do(insert_rows, tables.invalid_file, [row])
    assert grid.read(location.where_file, new_file(2).lfn).invalid is InvalidCode.LOST


def test_an_lfn_nobody_registered_is_nowhere(sqlite_grid: Grid) -> None:
    for lfn in ("/store/data/none.root", "nonsense", ""):
        with pytest.raises(NotFound, match="is registered"):
            sqlite_grid.read(location.where_file, lfn)


# --- a dataset -------------------------------------------------------------------------------------------


def test_a_dataset_is_where_its_complete_replicas_are(grid: Grid) -> None:
    block_id = grid.closed_block(new_file(1), new_file(2, size=5))
    grid.register(new_file(3))
    grid.copy(block_id, BIRCH)
    (one,) = grid.register(new_file(1))
    bad(grid, block_id, BIRCH, one, FileFault.MISSING)
    assert grid.read(location.where, grid.dataset_id) == [
        Place("Alder_Disk", "T1_DE_Alder", blocks=2, closed=1, files=3, bytes=25, excepted=0),
        Place("Birch_Disk", "T1_DE_Birch", blocks=1, closed=1, files=2, bytes=15, excepted=1),
    ]
    assert grid.read(location.where, 999) == []
    assert grid.read(location.held_at, [ALDER, BIRCH]) == Amount(3, 5, 40)
    assert grid.read(location.held_at, []) == Amount(0, 0, 0)


# --- what is only there ------------------------------------------------------------------------------------


def test_what_is_only_there_goes_by_files(grid: Grid) -> None:
    files = [new_file(n, size=10 ** (n - 1)) for n in (1, 2, 3)]
    dataset_id, name = grid.dataset_id, DATASET
    first = grid.closed_block(*files)
    grid.register(new_file(4))
    grid.copy(first, BIRCH)

    def unique(*se_ids: int) -> list[Unique]:
        return grid.read(location.unique_at, se_ids)

    assert unique(ALDER) == [Unique(dataset_id, name, 1, 1, 10)]
    assert unique(BIRCH) == unique(CEDAR) == unique() == []
    assert unique(ALDER, BIRCH) == [Unique(dataset_id, name, 2, 4, 121)]
    ids = grid.register(*files)
    bad(grid, first, BIRCH, ids[2])
    assert unique(ALDER) == [Unique(dataset_id, name, 1, 2, 110)]
    bad(grid, first, ALDER, ids[1])
    assert unique(BIRCH) == [Unique(dataset_id, name, 0, 1, 10)]
    bad(grid, first, ALDER, ids[2])
    assert unique(ALDER) == [Unique(dataset_id, name, 1, 1, 10)]
    assert unique(ALDER, BIRCH) == [Unique(dataset_id, name, 2, 3, 21)]


SES = (ALDER, BIRCH, CEDAR)
FILES = 3


@dataclass(frozen=True, slots=True)
class Made:
    """A block of FILES files: the state of its replica by SE, and the files that are bad there."""

    dataset_id: int
    at: Mapping[int, ReplicaState]
    bad: Mapping[int, frozenset[int]]

    def good(self, file: int) -> set[int]:
        """The SEs that have a good copy of it."""
        complete = {se for se, state in self.at.items() if state == COMPLETE}
        return {se for se in complete if file not in self.bad.get(se, frozenset())}


@st.composite
def made(draw: st.DrawFn) -> Made:
    at = draw(st.dictionaries(st.sampled_from(SES), st.sampled_from([COMPLETE, COMPLETE, COPYING])))
    faults = st.frozensets(st.integers(0, FILES - 1))
    complete = [se for se, state in at.items() if state == COMPLETE]
    return Made(draw(st.integers(1, 2)), at, {se: draw(faults) for se in complete})


@pytest.fixture
def bare(database: Database) -> Iterator[Database]:
    def start(conn: Connection) -> None:
        sites = [{"id": se, "name": f"T1_DE_{se}", "tier": 1, "state": "ENABLED"} for se in SES]
        insert_rows(conn, tables.site, sites)
        disk = {"kind": "disk", "protocol": "direct", "tfc": {}, "state": "ENABLED"}
        insert_rows(conn, tables.se, [{"id": se, "name": f"Disk_{se}", "site_id": se, **disk} for se in SES])
        policy = {"block_files": 10, "block_bytes": 10, "block_age_s": 1.0, "created_at": NOW}
        names = {1: "/A/b/RAW", 2: "/A/b/DST"}
        rows = [{"id": key, "name": name, "state": "OPEN", **policy} for key, name in names.items()]
        insert_rows(conn, tables.dataset, rows)

    database.transaction(start)
    yield database
    database.transaction(_emptied)


def _emptied(conn: Connection) -> None:
    for table in (tables.file_exception, tables.block_replica, tables.data_file, tables.block):
        conn.execute(table.delete())


def _filled(conn: Connection, blocks: list[Made]) -> None:
    _emptied(conn)
    for key, one in enumerate(blocks, 1):
        row = {"id": key, "dataset_id": one.dataset_id, "name": f"b{key}", "origin_se_id": ALDER}
        sizes = {"files": FILES, "bytes": sum(10**n for n in range(FILES))}
        insert_rows(conn, tables.block, [{**row, "state": "CLOSED", "created_at": NOW, **sizes}])
        for n in range(FILES):
            file = {"id": key * 10 + n, "block_id": key, "dir_id": key, "name": f"f{n}", "created_at": NOW}
            insert_rows(conn, tables.data_file, [{**file, "bytes": 10**n, "adler32": 1}])
        replicas = [{"block_id": key, "se_id": se, "state": state} for se, state in one.at.items()]
        insert_rows(conn, tables.block_replica, [{**replica, "created_at": NOW} for replica in replicas])
        faults = [
            {"block_id": key, "se_id": se, "file_id": key * 10 + n, "kind": "bad", "at": NOW}
            for se, files in one.bad.items()
            for n in files
        ]
        insert_rows(conn, tables.file_exception, faults)


@given(blocks=st.lists(made(), max_size=5), here=st.sets(st.sampled_from(SES)))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_unique_is_what_no_other_place_has_good(bare: Database, blocks: list[Made], here: set[int]) -> None:
    bare.transaction(lambda conn: _filled(conn, blocks))
    files: Counter[int] = Counter()
    sizes: Counter[int] = Counter()
    for one in blocks:
        for n in range(FILES):
            if one.good(n) and one.good(n) <= here:
                files[one.dataset_id] += 1
                sizes[one.dataset_id] += 10**n
    with bare.snapshot() as conn:
        found = location.unique_at(conn, here)
    assert {one.dataset_id: one.files for one in found} == files
    assert {one.dataset_id: one.bytes for one in found} == sizes


# --- by their indexes --------------------------------------------------------------------------------------


def test_nothing_goes_through_all_files_or_replicas(grid: Grid) -> None:
    block_id = grid.closed_block(new_file(1))
    grid.copy(block_id, BIRCH)
    (file_id,) = grid.register(new_file(1))
    bad(grid, block_id, BIRCH, file_id)
    with grid.database.snapshot() as conn:
        if conn.dialect.name == "postgresql":
            conn.exec_driver_sql("SET enable_seqscan = off")
        for statement, binds in (
            (location.FILE, {"path": "/store/a", "name": "x"}),
            (location.PLACES, {"of_dataset": grid.dataset_id}),
            (location.UNIQUE, {"here": [ALDER]}),
            (location.HELD, {"here": [ALDER]}),
        ):
            asked = lambda s=statement, b=binds: conn.execute(s, b).all()  # noqa: E731
            assert not scanned(conn, asked) & BIG
