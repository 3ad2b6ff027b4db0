"""Replicas: from COPYING to removal, and the guard that keeps the last good copy."""

from __future__ import annotations

import pytest
from catalog_grid import ALDER, BIRCH, CEDAR, NOW, Grid, at_once, new_file, plans
from hypothesis import given
from hypothesis import strategies as st

from catalogs import bookkeeping, replicas
from catalogs.replicas import FileFault, Kept, ReplicaRow, refusal
from catalogs.states import ReplicaState
from gridcore.errors import Conflict, NotFound

COPYING, COMPLETE, DELETING = ReplicaState


def held(grid: Grid, block_id: int) -> dict[int, ReplicaRow]:
    return {one.se_id: one for one in grid.read(replicas.replicas, [block_id]).get(block_id, [])}


def begin(
    grid: Grid, block_id: int, se_id: int, *, transit: bool = False, custodial: bool = False
) -> ReplicaState:
    return grid.do(replicas.begin, block_id, se_id, transit=transit, custodial=custodial, now=NOW)


def test_a_copy_is_begun_once_and_completed_once(grid: Grid) -> None:
    block_id = grid.closed_block()
    assert begin(grid, block_id, BIRCH, transit=True) is COPYING
    assert begin(grid, block_id, BIRCH, transit=True) is COPYING
    assert list(grid.read(replicas.complete_replicas, [block_id])) == [block_id]
    assert len(grid.read(replicas.complete_replicas, [block_id])[block_id]) == 1
    assert grid.do(replicas.complete, block_id, BIRCH, 2, NOW)
    assert not grid.do(replicas.complete, block_id, BIRCH, 3, NOW)
    assert begin(grid, block_id, BIRCH, transit=True) is COMPLETE
    copy = held(grid, block_id)[BIRCH]
    assert (copy.state, copy.hops, copy.transit, copy.completed_at) == (COMPLETE, 2, True, NOW)
    name = grid.read(bookkeeping.blocks_by_id, [block_id])[block_id].name
    assert grid.told().count(("replica.complete", name)) == 1


def test_a_transit_copy_becomes_wanted_and_custodial(grid: Grid) -> None:
    block_id = grid.closed_block()
    begin(grid, block_id, BIRCH, transit=True)
    begin(grid, block_id, BIRCH, custodial=True)
    assert (held(grid, block_id)[BIRCH].transit, held(grid, block_id)[BIRCH].custodial) == (False, True)
    begin(grid, block_id, CEDAR, transit=True)
    assert grid.do(replicas.keep, block_id, CEDAR)
    assert grid.do(replicas.set_custodial, block_id, CEDAR, True)
    assert (held(grid, block_id)[CEDAR].transit, held(grid, block_id)[CEDAR].custodial) == (False, True)
    assert grid.do(replicas.set_custodial, block_id, CEDAR, False)
    assert not held(grid, block_id)[CEDAR].custodial
    assert not grid.do(replicas.keep, block_id, 99)


def test_an_open_or_unknown_block_is_not_copied(sqlite_grid: Grid) -> None:
    sqlite_grid.register(new_file(1))
    (row,) = sqlite_grid.all_blocks()
    with pytest.raises(Conflict, match="is open"):
        begin(sqlite_grid, row.id, BIRCH)
    with pytest.raises(NotFound):
        begin(sqlite_grid, 999, BIRCH)


def test_a_replica_goes_and_may_come_again(grid: Grid) -> None:
    block_id = grid.closed_block()
    grid.copy(block_id, BIRCH)
    assert not grid.do(replicas.remove, block_id, BIRCH)
    assert grid.do(replicas.mark_deleting, block_id, BIRCH) is None
    assert grid.do(replicas.mark_deleting, block_id, BIRCH) is None
    assert [kind for kind, _ in grid.told()].count("replica.deleting") == 1
    assert begin(grid, block_id, BIRCH, custodial=True) is DELETING
    assert not held(grid, block_id)[BIRCH].custodial
    assert not grid.do(replicas.set_custodial, block_id, BIRCH, True)
    assert not grid.do(replicas.complete, block_id, BIRCH, 1, NOW)
    assert grid.do(replicas.remove, block_id, BIRCH)
    assert list(held(grid, block_id)) == [ALDER]
    assert begin(grid, block_id, BIRCH) is COPYING
    assert grid.do(replicas.mark_deleting, block_id, BIRCH) is None


def test_the_last_good_and_the_custodial_replica_stay(grid: Grid) -> None:
    block_id = grid.closed_block(new_file(1), new_file(2))
    (file_id, _) = (one.id for one in grid.read(bookkeeping.files_of_block, block_id))
    assert grid.do(replicas.mark_deleting, block_id, CEDAR) is Kept.ABSENT
    assert grid.do(replicas.mark_deleting, block_id, ALDER) is Kept.LAST
    begin(grid, block_id, BIRCH)
    assert grid.do(replicas.mark_deleting, block_id, ALDER) is Kept.LAST
    grid.do(replicas.complete, block_id, BIRCH, 1, NOW)
    grid.do(replicas.add_exceptions, block_id, BIRCH, {file_id: FileFault.BAD}, NOW)
    assert grid.do(replicas.mark_deleting, block_id, ALDER) is Kept.LAST
    grid.do(replicas.clear_exceptions, block_id, BIRCH, [file_id])
    grid.do(replicas.set_custodial, block_id, ALDER, True)
    assert grid.do(replicas.mark_deleting, block_id, ALDER) is Kept.CUSTODIAL
    assert grid.do(replicas.mark_deleting, block_id, ALDER, custodial_too=True) is None


def test_exceptions_are_noted_on_complete_replicas_and_go_with_them(grid: Grid) -> None:
    block_id = grid.closed_block(new_file(1), new_file(2))
    one, two = (row.id for row in grid.read(bookkeeping.files_of_block, block_id))
    (stranger,) = grid.register(new_file(9))
    begin(grid, block_id, BIRCH)
    faults = {one: FileFault.MISSING, stranger: FileFault.BAD}
    assert grid.do(replicas.add_exceptions, block_id, BIRCH, faults, NOW) == 0
    grid.do(replicas.complete, block_id, BIRCH, 1, NOW)
    assert grid.do(replicas.add_exceptions, block_id, BIRCH, faults, NOW) == 1
    assert grid.do(replicas.add_exceptions, block_id, BIRCH, {**faults, two: FileFault.BAD}, NOW) == 1
    found = grid.read(replicas.exceptions, [block_id])
    assert [(row.se_id, row.file_id, row.kind) for row in found] == [
        (BIRCH, one, FileFault.MISSING),
        (BIRCH, two, FileFault.BAD),
    ]
    assert grid.do(replicas.clear_exceptions, block_id, BIRCH, [two, stranger]) == 1
    assert grid.do(replicas.mark_deleting, block_id, BIRCH) is None
    assert grid.read(replicas.exceptions, [block_id]) == []


def replica(se_id: int, state: ReplicaState, custodial: bool) -> ReplicaRow:
    return ReplicaRow(
        block_id=1,
        se_id=se_id,
        state=state,
        hops=1,
        transit=False,
        custodial=custodial,
        created_at=NOW,
        completed_at=None,
    )


@given(
    states=st.dictionaries(st.integers(1, 5), st.tuples(st.sampled_from(ReplicaState), st.booleans())),
    spoilt=st.sets(st.integers(1, 5)),
    order=st.permutations(range(1, 6)),
    too=st.booleans(),
)
def test_no_order_of_deletions_takes_the_last_good_replica(
    states: dict[int, tuple[ReplicaState, bool]], spoilt: set[int], order: list[int], too: bool
) -> None:
    rows = {se_id: replica(se_id, *values) for se_id, values in states.items()}

    def good() -> set[int]:
        return {se_id for se_id, row in rows.items() if row.state is COMPLETE} - spoilt

    before = good()
    for se_id in order:
        if se_id in rows and refusal(rows, spoilt, se_id, custodial_too=too) is None:
            assert too or not rows[se_id].custodial or rows[se_id].state is DELETING
            rows[se_id] = replica(se_id, DELETING, rows[se_id].custodial)
    assert bool(good()) == bool(before)


# --- races -------------------------------------------------------------------------------------------


def test_two_deletions_at_once_leave_one_replica(grid: Grid) -> None:
    for number in range(8):
        block_id = grid.closed_block(new_file(number))
        grid.copy(block_id, BIRCH)
        answers = at_once(2, lambda n, key=block_id: grid.do(replicas.mark_deleting, key, (ALDER, BIRCH)[n]))  # type: ignore[misc]
        assert sorted(answers, key=str) == [None, Kept.LAST]
        assert len(grid.read(replicas.complete_replicas, [block_id])[block_id]) == 1


def test_a_copy_begun_by_many_at_once_is_one(grid: Grid) -> None:
    block_id = grid.closed_block()
    assert at_once(4, lambda _: begin(grid, block_id, BIRCH)) == [COPYING] * 4
    assert len(held(grid, block_id)) == 2


def test_a_replica_completed_by_two_at_once_is_told_once(grid: Grid) -> None:
    block_id = grid.closed_block()
    begin(grid, block_id, BIRCH)
    done = at_once(3, lambda n: grid.do(replicas.complete, block_id, BIRCH, 1, NOW))
    assert sorted(done) == [False, False, True]
    assert [kind for kind, _ in grid.told()].count("replica.complete") == 1


def test_hot_reads_use_an_index(sqlite_grid: Grid) -> None:
    for read in (replicas.complete_replicas, replicas.replicas, replicas.exceptions):
        plan = plans(sqlite_grid, read, [1, 2, 3])
        assert "SEARCH" in plan
        assert "SCAN" not in plan
