"""Replicas: from COPYING to removal, and the guard that keeps the last good copy."""

from __future__ import annotations

import pytest
from catalog_grid import ALDER, BIRCH, CEDAR, NOW, Grid, at_once, new_file, plans
from hypothesis import given
from hypothesis import strategies as st

from catalogs import bookkeeping, exceptions, replicas
from catalogs.exceptions import FileFault
from catalogs.guard import Kept, refusal
from catalogs.replicas import Begin, ReplicaRow
from catalogs.states import ReplicaState
from gridcore.errors import Conflict, NotFound

COPYING, COMPLETE, DELETING = ReplicaState


def held(grid: Grid, block_id: int) -> dict[int, ReplicaRow]:
    return {one.se_id: one for one in grid.read(replicas.replicas, [block_id]).get(block_id, [])}


def begin(
    grid: Grid, block_id: int, se_id: int, *, transit: bool = False, custodial: bool = False
) -> ReplicaState:
    return grid.begin(block_id, se_id, transit=transit, custodial=custodial)


def test_a_copy_is_begun_once_and_completed_once(grid: Grid) -> None:
    block_id = grid.closed_block()
    assert begin(grid, block_id, BIRCH, transit=True) is COPYING
    assert begin(grid, block_id, BIRCH, transit=True) is COPYING
    assert list(grid.read(replicas.complete_replicas, [block_id])) == [block_id]
    assert len(grid.read(replicas.complete_replicas, [block_id])[block_id]) == 1
    assert grid.complete(block_id, BIRCH, 2)
    assert not grid.complete(block_id, BIRCH, 3)
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
    assert grid.do(replicas.keep_all, [(block_id, CEDAR)])
    assert grid.do(replicas.set_custodial_all, {(block_id, CEDAR): True})
    assert (held(grid, block_id)[CEDAR].transit, held(grid, block_id)[CEDAR].custodial) == (False, True)
    assert grid.do(replicas.set_custodial_all, {(block_id, CEDAR): False})
    assert not held(grid, block_id)[CEDAR].custodial
    assert not grid.do(replicas.keep_all, [(block_id, 99)])


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
    assert not grid.do(replicas.remove_all, [(block_id, BIRCH)])
    assert grid.let_go(block_id, BIRCH) is None
    assert grid.let_go(block_id, BIRCH) is None
    assert [kind for kind, _ in grid.told()].count("replica.deleting") == 1
    assert begin(grid, block_id, BIRCH, custodial=True) is DELETING
    assert not held(grid, block_id)[BIRCH].custodial
    assert not grid.do(replicas.set_custodial_all, {(block_id, BIRCH): True})
    assert not grid.complete(block_id, BIRCH)
    assert grid.do(replicas.remove_all, [(block_id, BIRCH)])
    assert list(held(grid, block_id)) == [ALDER]
    assert begin(grid, block_id, BIRCH) is COPYING
    assert grid.let_go(block_id, BIRCH) is None


def test_the_last_good_and_the_custodial_replica_stay(grid: Grid) -> None:
    block_id = grid.closed_block(new_file(1), new_file(2))
    (file_id, _) = (one.id for one in grid.read(bookkeeping.files_of_block, block_id))
    assert grid.let_go(block_id, CEDAR) is Kept.ABSENT
    assert grid.let_go(block_id, ALDER) is Kept.LAST
    begin(grid, block_id, BIRCH)
    assert grid.let_go(block_id, ALDER) is Kept.LAST
    grid.complete(block_id, BIRCH)
    grid.do(exceptions.add, block_id, BIRCH, {file_id: FileFault.BAD}, NOW)
    assert grid.let_go(block_id, ALDER) is Kept.LAST_OF_FILES
    grid.do(exceptions.clear, block_id, BIRCH, [file_id])
    grid.do(replicas.set_custodial_all, {(block_id, ALDER): True})
    assert grid.let_go(block_id, ALDER) is Kept.CUSTODIAL
    assert grid.let_go(block_id, ALDER, custodial_too=True) is None


def test_exceptions_are_noted_on_complete_replicas_and_go_with_them(grid: Grid) -> None:
    block_id = grid.closed_block(new_file(1), new_file(2))
    one, two = (row.id for row in grid.read(bookkeeping.files_of_block, block_id))
    (stranger,) = grid.register(new_file(9))
    begin(grid, block_id, BIRCH)
    faults = {one: FileFault.MISSING, stranger: FileFault.BAD}
    assert grid.do(exceptions.add, block_id, BIRCH, faults, NOW) == 0
    grid.complete(block_id, BIRCH)
    assert grid.do(exceptions.add, block_id, BIRCH, faults, NOW) == 1
    assert grid.do(exceptions.add, block_id, BIRCH, {**faults, two: FileFault.BAD}, NOW) == 1
    found = grid.read(exceptions.of_blocks, [block_id])
    assert [(row.se_id, row.file_id, row.kind) for row in found] == [
        (BIRCH, one, FileFault.MISSING),
        (BIRCH, two, FileFault.BAD),
    ]
    assert grid.do(exceptions.clear, block_id, BIRCH, [two, stranger]) == 1
    assert grid.let_go(block_id, BIRCH) is None
    assert grid.read(exceptions.of_blocks, [block_id]) == []


def replica(se_id: int, state: ReplicaState, custodial: bool, leaving: bool = False) -> ReplicaRow:
    return ReplicaRow(
        block_id=1,
        se_id=se_id,
        state=state,
        hops=1,
        transit=False,
        custodial=custodial,
        created_at=NOW,
        completed_at=None,
        delete_at=NOW if leaving else None,
    )


Copies = dict[int, tuple[ReplicaState, bool, set[int]]]
COPIES = st.dictionaries(
    st.integers(1, 5),
    st.tuples(st.sampled_from(ReplicaState), st.booleans(), st.sets(st.integers(1, 4))),
)


def good_files(rows: dict[int, ReplicaRow], faults: dict[int, set[int]]) -> set[int]:
    """Of a block of four files, those that are good somewhere."""
    complete = (se_id for se_id, row in rows.items() if row.state is COMPLETE)
    return {file for se_id in complete for file in set(range(1, 5)) - faults[se_id]}


@given(
    copies=COPIES, order=st.permutations(range(1, 6)), leaving=st.sets(st.integers(1, 5)), too=st.booleans()
)
def test_no_order_of_deletions_takes_a_last_good_file(
    copies: Copies, order: list[int], leaving: set[int], too: bool
) -> None:
    rows = {
        se_id: replica(se_id, state, custodial, se_id in leaving)
        for se_id, (state, custodial, _) in copies.items()
    }
    faults = {se_id: bad for se_id, (_, _, bad) in copies.items()}
    before, custodial = good_files(rows, faults), {one.state for one in rows.values() if one.custodial}
    for se_id in order:
        if refusal(rows, faults, se_id, custodial_too=too) is None:
            rows[se_id] = replica(se_id, DELETING, rows[se_id].custodial)
    assert good_files(rows, faults) == before
    assert any(row.state is COMPLETE for row in rows.values()) == any(
        state is COMPLETE for state, _, _ in copies.values()
    )
    if not too and COMPLETE in custodial:
        assert COMPLETE in {one.state for one in rows.values() if one.custodial}


def test_two_copies_with_different_bad_files_may_not_be_each_others_reason(sqlite_grid: Grid) -> None:
    block_id = sqlite_grid.closed_block(new_file(1), new_file(2))
    one, two = (row.id for row in sqlite_grid.read(bookkeeping.files_of_block, block_id))
    sqlite_grid.copy(block_id, BIRCH, CEDAR)
    sqlite_grid.do(exceptions.add, block_id, ALDER, {one: FileFault.BAD}, NOW, actor="anna", note="by hand")
    sqlite_grid.do(exceptions.add, block_id, BIRCH, {two: FileFault.MISSING}, NOW)
    assert sqlite_grid.let_go(block_id, CEDAR) is None
    assert sqlite_grid.let_go(block_id, ALDER) is Kept.LAST_OF_FILES
    assert sqlite_grid.let_go(block_id, BIRCH) is Kept.LAST_OF_FILES
    noted = sqlite_grid.read(exceptions.of_blocks, [block_id])
    assert [(row.se_id, row.actor, row.note) for row in noted] == [
        (ALDER, "anna", "by hand"),
        (BIRCH, None, None),
    ]


def test_replicas_are_let_go_by_the_set(grid: Grid) -> None:
    blocks = [grid.closed_block(new_file(number)) for number in (1, 2, 3)]
    for block_id in blocks:
        grid.copy(block_id, BIRCH)
    first, second, third = blocks
    keys = [(third, BIRCH), (second, CEDAR), (first, ALDER), (first, BIRCH), (second, BIRCH)]
    kept = grid.do(replicas.mark_deleting_all, keys)
    assert kept == {(first, BIRCH): Kept.LAST, (second, CEDAR): Kept.ABSENT}
    gone = [(first, ALDER), (second, BIRCH), (third, BIRCH)]
    assert grid.do(replicas.remove_all, [*keys, (third, ALDER)]) == gone
    assert [kind for kind, _ in grid.told()].count("replica.deleting") == 3


def test_one_asked_for_twice_at_once_is_in_transit_only_if_both_say_so(sqlite_grid: Grid) -> None:
    block_id = sqlite_grid.closed_block()
    twice = [Begin(block_id, BIRCH, transit=True), Begin(block_id, BIRCH, custodial=True, group="heavy")]
    assert sqlite_grid.do(replicas.begin_all, twice, NOW) == {(block_id, BIRCH): COPYING}
    row = held(sqlite_grid, block_id)[BIRCH]
    assert (row.transit, row.custodial, row.acct_group) == (False, True, "heavy")


# --- races -------------------------------------------------------------------------------------------


def test_two_deletions_at_once_leave_one_replica(grid: Grid) -> None:
    for number in range(8):
        block_id = grid.closed_block(new_file(number))
        grid.copy(block_id, BIRCH)
        answers = at_once(2, lambda n, key=block_id: grid.let_go(key, (ALDER, BIRCH)[n]))  # type: ignore[misc]
        assert sorted(answers, key=str) == [None, Kept.LAST]
        assert len(grid.read(replicas.complete_replicas, [block_id])[block_id]) == 1


def test_a_copy_begun_by_many_at_once_is_one(grid: Grid) -> None:
    block_id = grid.closed_block()
    assert at_once(4, lambda _: begin(grid, block_id, BIRCH)) == [COPYING] * 4
    assert len(held(grid, block_id)) == 2


def test_a_replica_completed_by_two_at_once_is_told_once(grid: Grid) -> None:
    block_id = grid.closed_block()
    begin(grid, block_id, BIRCH)
    done = at_once(3, lambda n: grid.complete(block_id, BIRCH))
    assert sorted(done) == [False, False, True]
    assert [kind for kind, _ in grid.told()].count("replica.complete") == 1


def test_hot_reads_use_an_index(sqlite_grid: Grid) -> None:
    for read in (replicas.complete_replicas, replicas.replicas, exceptions.of_blocks):
        plan = plans(sqlite_grid, read, [1, 2, 3])
        assert "SEARCH" in plan
        assert "SCAN" not in plan
