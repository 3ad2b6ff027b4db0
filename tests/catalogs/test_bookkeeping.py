"""Bookkeeping and registration: idempotence, rolling over, closing, and the races between them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from catalog_grid import ALDER, BIRCH, DATASET, NOW, Grid, at_once, new_file, plans
from sqlalchemy import Connection, func, select, update

from catalogs import bookkeeping, parentage, registration, replicas
from catalogs.bookkeeping import BlockPolicy
from catalogs.filebatch import NewFile
from catalogs.invariants import INVARIANTS
from catalogs.states import BlockState, DatasetState
from catalogs.tables import block, block_history, block_run, data_file, dataset, dir_
from gridcore.db import outbox
from gridcore.db.invariants import violations
from gridcore.errors import Conflict, NotFound, UsageError


def count(grid: Grid, table: object) -> int:
    return grid.read(lambda conn: conn.execute(select(func.count()).select_from(table)).scalar_one())


def history(grid: Grid, block_id: int) -> list[str]:
    codes = select(block_history.c.code).where(block_history.c.block_id == block_id)
    return list(grid.read(lambda conn: conn.execute(codes.order_by(block_history.c.seq)).scalars().all()))


# --- datasets ----------------------------------------------------------------------------------------


def test_a_dataset_is_made_once_and_keeps_its_policy(grid: Grid) -> None:
    assert grid.make_dataset(DATASET, files=77) == grid.dataset_id
    row = grid.read(bookkeeping.dataset_by_name, DATASET)
    assert row is not None
    assert (row.id, row.state, row.policy) == (grid.dataset_id, DatasetState.OPEN, BlockPolicy(3, 1000, 60))
    assert grid.read(bookkeeping.dataset_by_name, "/Min/Bias/RAW") is None


def test_two_makers_of_one_dataset_get_the_same(grid: Grid) -> None:
    for number in range(5):
        ids = at_once(4, lambda _, number=number: grid.make_dataset(f"/Race/v{number}/RAW"))  # type: ignore[misc]
        assert len(set(ids)) == 1
    assert count(grid, dataset) == 6


def test_names_and_policies_that_cannot_be_are_refused(sqlite_grid: Grid) -> None:
    with pytest.raises(UsageError, match="no dataset name"):
        sqlite_grid.make_dataset("MinBias")
    with pytest.raises(UsageError, match="empty blocks"):
        sqlite_grid.make_dataset("/A/B/RAW", files=0)


def test_a_closed_dataset_takes_no_new_file_but_repeats(grid: Grid) -> None:
    ids = grid.register(new_file(1))
    assert grid.do(bookkeeping.close_dataset, grid.dataset_id, "ann", NOW)
    assert not grid.do(bookkeeping.close_dataset, grid.dataset_id, "ann", NOW)
    assert grid.register(new_file(1)) == ids
    with pytest.raises(Conflict, match="is closed"):
        grid.register(new_file(2))
    assert grid.do(bookkeeping.reopen_dataset, grid.dataset_id, "ann", NOW)
    assert len(grid.register(new_file(2))) == 1


# --- registration ------------------------------------------------------------------------------------


def test_registration_enters_everything_at_once(grid: Grid) -> None:
    (parent,) = grid.register(new_file(1))
    runs = {7: [(11, 20), (1, 10)], 8: [(5, 5)]}
    child = new_file(2, events=None, runs=runs, parents=(parent, parent))
    (child_id,) = grid.register(child)
    found = grid.read(bookkeeping.file_by_lfn, child.lfn)
    assert found is not None
    assert (found.id, found.lfn, found.bytes, found.adler32) == (child_id, child.lfn, 10, 2)
    assert found.events is None
    assert grid.read(bookkeeping.runs_of, [parent, child_id]) == {child_id: {7: [(1, 20)], 8: [(5, 5)]}}
    summary, blocks = grid.read(bookkeeping.dataset_summary, grid.dataset_id)
    assert (summary.files, summary.bytes, summary.events) == (2, 20, 100)
    assert blocks == {BlockState.OPEN: 1, BlockState.CLOSED: 0}
    (only,) = grid.all_blocks()
    assert (only.files, only.bytes, only.events, only.origin_se_id) == (2, 20, 100, ALDER)
    assert only.name.startswith(f"{DATASET}#")
    (replica,) = grid.read(replicas.complete_replicas, [only.id])[only.id]
    assert (replica.se_id, replica.hops, replica.transit, replica.custodial) == (ALDER, 0, False, False)
    assert grid.told() == [("files.registered", DATASET)] * 2


def test_a_repeat_changes_nothing(grid: Grid) -> None:
    files = [new_file(n) for n in range(4)]
    ids = grid.register(*files)
    told = grid.told()
    assert grid.register(*reversed(files), now=NOW + timedelta(days=1)) == ids[::-1]
    assert grid.register(files[0], files[0]) == [ids[0]] * 2
    assert grid.told() == told
    assert count(grid, data_file) == 4


def test_the_ids_follow_the_order_of_the_files(grid: Grid) -> None:
    (known,) = grid.register(new_file(7))
    ids = grid.register(new_file(9), new_file(7), new_file(1))
    lfns = {
        one.id: one.lfn for row in grid.all_blocks() for one in grid.read(bookkeeping.files_of_block, row.id)
    }
    assert ids[1] == known
    assert [lfns[key] for key in ids] == [new_file(n).lfn for n in (9, 7, 1)]


@pytest.mark.parametrize(
    "other",
    [new_file(1, size=11), NewFile(lfn=new_file(1).lfn, bytes=10, adler32=99)],
    ids=["other size", "other checksum"],
)
def test_an_lfn_is_never_registered_with_other_content(grid: Grid, other: NewFile) -> None:
    grid.register(new_file(1))
    with pytest.raises(Conflict, match="already registered with 10 bytes"):
        grid.register(new_file(2), other)
    assert count(grid, data_file) == 1
    with pytest.raises(Conflict, match="given twice"):
        grid.register(new_file(3), NewFile(lfn=new_file(3).lfn, bytes=10, adler32=99))


def test_an_lfn_belongs_to_one_dataset(grid: Grid) -> None:
    grid.register(new_file(1))
    other = grid.make_dataset("/Other/v1/RAW")
    with pytest.raises(Conflict, match=f"file of dataset {DATASET}"):
        grid.register(new_file(1), dataset_id=other)


BASE: dict[str, Any] = {"lfn": "/store/x.root", "bytes": 1, "adler32": 1}


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        ({"lfn": "/data/x.root"}, "is no LFN"),
        ({"lfn": "/store/a/../x.root"}, "is no LFN"),
        ({"lfn": "/store//x.root"}, "is no LFN"),
        ({"lfn": "/store/x.root\n"}, "is no LFN"),
        ({"lfn": "/store/a\nb/x.root"}, "is no LFN"),
        ({"lfn": "/store/x\0.root"}, "is no LFN"),
        ({"lfn": "/store/x\x1b[2J"}, "is no LFN"),
        ({"lfn": "/store/ x"}, "is no LFN"),
        ({"lfn": "/store/" + "x" * 10_000}, "too long"),
        ({"lfn": "/store" + "/x" * 5_000}, "too long"),
        ({"bytes": -1}, "size of -1"),
        ({"bytes": 2**63}, "size of"),
        ({"bytes": 1.5}, "size of 1.5"),
        ({"adler32": 2**32}, "adler32 of"),
        ({"adler32": -1}, "adler32 of -1"),
        ({"adler32": None}, "adler32 of None"),
        ({"adler32": "md5:00"}, "adler32 of 'md5:00'"),
        ({"events": -1}, "number of events of -1"),
        ({"runs": {1: [(5, 4)]}}, "ends before it begins"),
        ({"runs": {2**70: [(1, 2)]}}, "has a run or lumi"),
        ({"runs": {1: [(-1, 2)]}}, "has a run or lumi"),
        ({"runs": {1: [(1, 2**63)]}}, "has a run or lumi"),
    ],
)
def test_a_file_that_cannot_be_leaves_no_trace(grid: Grid, bad: dict[str, Any], error: str) -> None:
    with pytest.raises(UsageError, match=error) as caught:
        grid.register(new_file(1), NewFile(**{**BASE, **bad}))
    assert len(str(caught.value)) < 11_000
    assert [count(grid, table) for table in (data_file, block, dir_)] == [0, 0, 0]
    assert grid.told() == []


def test_a_parent_that_is_none_leaves_no_trace(grid: Grid) -> None:
    with pytest.raises(NotFound, match="no file with id 999 is registered"):
        grid.register(new_file(1), NewFile(**BASE, parents=(999,)))
    assert [count(grid, table) for table in (data_file, block, dir_)] == [0, 0, 0]


def test_an_unknown_dataset_is_named(sqlite_grid: Grid) -> None:
    with pytest.raises(NotFound, match="no dataset with id 99"):
        sqlite_grid.register(new_file(1), dataset_id=99)


def test_a_batch_rolls_over_and_closes_the_full_blocks(grid: Grid) -> None:
    grid.register(*(new_file(n) for n in range(2)))
    grid.register(*(new_file(n) for n in range(2, 8)), new_file(8, size=2000), new_file(9))
    rows = grid.all_blocks()
    assert [(row.files, row.bytes) for row in rows] == [(3, 30), (3, 30), (2, 20), (1, 2000), (1, 10)]
    assert [row.state for row in rows] == [BlockState.CLOSED] * (len(rows) - 1) + [BlockState.OPEN]
    assert [history(grid, row.id) for row in rows] == [
        ["first file", "files"],
        ["first file", "files"],
        ["first file", "bytes"],
        ["first file", "bytes"],
        ["first file"],
    ]
    closed = [subject for kind, subject in grid.told() if kind == "block.closed"]
    assert closed == [row.name for row in rows[:-1]]
    found = grid.read(bookkeeping.closed_blocks, grid.dataset_id)
    assert [row.name for row in found] == closed
    assert grid.read(bookkeeping.closed_blocks, grid.dataset_id, found[1].id) == found[2:]


def test_each_origin_has_its_own_open_block(grid: Grid) -> None:
    grid.register(new_file(1), se_id=ALDER)
    grid.register(new_file(2), se_id=BIRCH)
    grid.register(new_file(3), se_id=ALDER)
    assert sorted((row.origin_se_id, row.files) for row in grid.all_blocks()) == [(ALDER, 2), (BIRCH, 1)]


# --- closing -----------------------------------------------------------------------------------------


def test_blocks_are_due_by_files_bytes_age_and_end_of_their_dataset(grid: Grid) -> None:
    grid.register(*(new_file(n) for n in range(3)), se_id=ALDER)
    grid.register(new_file(3, size=1000), se_id=BIRCH)
    late = NOW + timedelta(seconds=60)
    old, ended = grid.make_dataset("/Old/v1/RAW"), grid.make_dataset("/Ended/v1/RAW", age_s=3600)
    grid.register(new_file(4), dataset_id=old)
    grid.register(new_file(5), dataset_id=ended)
    names = {row.id: row.name.split("#")[0] for row in grid.all_blocks()}

    def due(now: object) -> list[tuple[str, str]]:
        return [(names[key], code) for key, code in grid.read(bookkeeping.due_blocks, now)]

    full = [(DATASET, "files"), (DATASET, "bytes")]
    assert due(late - timedelta(microseconds=1)) == full
    assert due(late) == [*full, ("/Old/v1/RAW", "age")]
    grid.do(bookkeeping.close_dataset, ended, "ann", NOW)
    assert due(NOW) == [*full, ("/Ended/v1/RAW", "task end")]


def test_closing_is_done_once_and_told_once(grid: Grid) -> None:
    grid.register(new_file(1))
    (row,) = grid.all_blocks()
    assert grid.do(bookkeeping.close_blocks, [row.id, row.id, 999], "age", NOW) == [row.id]
    assert grid.do(bookkeeping.close_blocks, [row.id], "age", NOW) == []
    (closed,) = grid.all_blocks()
    assert (closed.state, closed.closed_at) == (BlockState.CLOSED, NOW)
    assert history(grid, row.id) == ["first file", "age"]
    assert grid.told().count(("block.closed", row.name)) == 1
    grid.register(new_file(2))
    assert [one.state for one in grid.all_blocks()] == [BlockState.CLOSED, BlockState.OPEN]


# --- races -------------------------------------------------------------------------------------------


def test_two_registrations_into_one_dataset_share_its_open_block(grid: Grid) -> None:
    big = grid.make_dataset("/Big/v1/RAW", files=1000, size=10**9)
    at_once(4, lambda n: [grid.register(new_file(100 * k + n), dataset_id=big) for k in range(5)])
    (only,) = grid.all_blocks()
    assert only.files == 20


def test_registering_a_file_twice_at_once_registers_it_once(grid: Grid) -> None:
    for number in range(5):
        files = [new_file(10 * number + k) for k in range(4)]
        first, second = at_once(2, lambda n, files=files: grid.register(*files[:: 1 - 2 * n]))  # type: ignore[misc]
        assert first == second[::-1]
    assert count(grid, data_file) == 20


def test_two_datasets_that_want_one_lfn_at_once_are_told(grid: Grid) -> None:
    ids = [grid.dataset_id, grid.make_dataset("/Other/v1/RAW")]

    def register(n: int) -> str:
        try:
            return f"{len(grid.register(new_file(1), dataset_id=ids[n]))} file"
        except Conflict:
            return "conflict"

    assert sorted(at_once(2, register)) == ["1 file", "conflict"]


def test_writers_of_many_datasets_may_make_the_same_directories_at_once(grid: Grid) -> None:
    ids = [grid.make_dataset(f"/Writer/v{n}/RAW", files=100) for n in range(4)]

    def register(n: int) -> list[int]:
        files = [NewFile(lfn=f"/store/shared/{k}/of_{n}.root", bytes=1, adler32=1) for k in range(6)]
        return grid.register(*files[:: (-1) ** n], dataset_id=ids[n])

    assert len({key for keys in at_once(4, register) for key in keys}) == 24
    assert count(grid, dir_) == 6


def test_no_file_enters_a_block_that_is_just_being_closed(grid: Grid) -> None:
    big = grid.make_dataset("/Big/v1/RAW", files=1000, size=10**9)
    for number in range(10):
        grid.register(new_file(10 * number), dataset_id=big)
        opened = next(row for row in grid.all_blocks() if row.state is BlockState.OPEN)

        def act(n: int, number: int = number, block_id: int = opened.id) -> object:
            if n:
                return grid.do(bookkeeping.close_blocks, [block_id], "age", NOW)
            return grid.register(new_file(10 * number + 1), dataset_id=big)

        at_once(2, act)
        closed = grid.read(bookkeeping.blocks_by_id, [opened.id])[opened.id]
        told = [body.body["files"] for body in grid.read(_closed_messages) if body.subject == opened.name]
        assert told == [closed.files]


def _closed_messages(conn: Connection) -> list[outbox.Message]:
    return [one for one in outbox.waiting(conn, 1000) if one.kind == "block.closed"]


# --- plans and invariants ----------------------------------------------------------------------------


def test_hot_reads_use_an_index(sqlite_grid: Grid) -> None:
    assert "SCAN" not in plans(sqlite_grid, bookkeeping.files_of_block, 1)
    assert "SCAN" not in plans(sqlite_grid, bookkeeping.file_by_lfn, "/store/a/b")
    assert "SCAN" not in plans(sqlite_grid, bookkeeping.closed_blocks, 1)
    assert "SCAN" not in plans(sqlite_grid, bookkeeping.runs_of, [1, 2])
    due = plans(sqlite_grid, bookkeeping.due_blocks, NOW)
    assert "SCAN block USING INDEX ix_block_close_by" in due


def test_the_invariants_can_fail(sqlite_grid: Grid) -> None:
    sqlite_grid.register(new_file(1))
    broken = {"files": 2, "closed_at": NOW, "origin_se_id": BIRCH}

    def breaks(conn: Connection) -> set[str]:
        conn.execute(update(block).values(**broken))
        found = {one.name for one in violations(conn, INVARIANTS)}
        conn.execute(update(block).values(files=1, closed_at=None, origin_se_id=ALDER))
        return found

    assert sqlite_grid.do(breaks) == {
        "block counters",
        "dataset counters",
        "holdings",
        "space in use",
        "open block at its origin",
        "open block elsewhere",
        "closing time",
        "hops",
    }


def test_reserved_keys_are_enough_and_fresh(sqlite_grid: Grid) -> None:
    first, second = (registration.reserve(sqlite_grid.keys, 3) for _ in range(2))
    assert len(first.files) == len(first.blocks) == len(first.dirs) == 3
    assert not set(first.files) & set(second.files)
    files = [new_file(n) for n in range(4)]
    with pytest.raises(ValueError, match="3 keys were reserved for 4"):
        sqlite_grid.do(registration.register, first, sqlite_grid.dataset_id, ALDER, files, NOW)


# --- runs and parents --------------------------------------------------------------------------------


def test_a_block_knows_between_which_lumis_of_a_run_its_files_lie(grid: Grid) -> None:
    def hulls() -> list[tuple[int, ...]]:
        return grid.read(
            lambda conn: [tuple(row)[1:] for row in conn.execute(select(block_run).order_by(block_run.c.run))]
        )

    grid.register(new_file(1, runs={7: [(5, 9), (1, 2)], 8: [(3, 3)]}), new_file(2))
    assert hulls() == [(7, 1, 9), (8, 3, 3)]
    grid.register(new_file(3, runs={7: [(20, 30)], 6: [(1, 1)]}))
    assert hulls() == [(6, 1, 1), (7, 1, 30), (8, 3, 3)]


def test_datasets_descend_from_those_of_their_files_parents(grid: Grid) -> None:
    (raw,) = grid.register(new_file(1))
    other = grid.make_dataset("/Toy/v2/DST")
    (child,) = grid.register(new_file(2, parents=(raw,)), dataset_id=other)
    grid.register(new_file(3, parents=(raw, child)), dataset_id=other)
    assert grid.read(parentage.ancestors, [other]) == {grid.dataset_id}
    assert grid.read(parentage.parents_named, ["/Toy/v2/DST"]) == {DATASET}
    with pytest.raises(Conflict, match="cannot be made from /Toy/v2/DST: that is made from it"):
        grid.register(new_file(4, parents=(child,)))
    assert grid.read(parentage.ancestors, [grid.dataset_id]) == set()


def test_a_repeat_with_other_parents_leaves_the_family_as_it_was(grid: Grid) -> None:
    (raw,) = grid.register(new_file(1))
    other = grid.make_dataset("/Toy/v2/DST")
    grid.register(new_file(2), dataset_id=other)
    grid.register(new_file(2, parents=(raw,)), dataset_id=other)
    assert grid.read(parentage.ancestors, [other]) == set()
    grid.register(new_file(2, parents=(raw,)), new_file(3, parents=(raw,)), dataset_id=other)
    assert grid.read(parentage.ancestors, [other]) == {grid.dataset_id}


def test_writers_that_register_the_same_files_at_once_agree(grid: Grid) -> None:
    def register(number: int) -> list[int]:
        return grid.register(*(new_file((number * 3 + n) % 12) for n in range(8)))

    answers = at_once(4, register)
    ids = {(number * 3 + n) % 12: key for number in range(4) for n, key in enumerate(answers[number])}
    assert len(set(ids.values())) == 12
    for number, found in enumerate(answers):
        assert found == [ids[(number * 3 + n) % 12] for n in range(8)]
    assert sum(row.files for row in grid.all_blocks()) == 12
