"""Counters of what lies where: kept by whatever changes replicas, and put right where older code did not."""

from __future__ import annotations

from datetime import timedelta

import pytest
from catalog_grid import ALDER, BIRCH, CEDAR, NOW, Grid, at_once, new_file
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, delete, update

from catalogs import bookkeeping, holdings, recount, replicas, space
from catalogs.bookkeeping import BlockPolicy
from catalogs.holdings import Held
from catalogs.space import Space, Use
from catalogs.tables import block, block_run, dataset, holding, se, se_use
from gridcore.db.invariants import violations


def use(grid: Grid, se_id: int) -> Use:
    return grid.read(space.read)[se_id].use


def held(grid: Grid) -> dict[int, tuple[int, ...]]:
    rows = grid.read(holdings.of_dataset, grid.dataset_id)
    return {one.se_id: (one.blocks, one.closed, one.files, one.bytes) for one in rows}


def test_a_replica_counts_by_its_state_from_begin_to_end(grid: Grid) -> None:
    grid.register(new_file(1, 10), new_file(2, 20))
    (row,) = grid.all_blocks()
    assert held(grid) == {ALDER: (1, 0, 2, 30)}
    assert row.close_by == NOW + timedelta(seconds=60)
    grid.do(bookkeeping.close_blocks, [row.id], "age", NOW)
    assert held(grid) == {ALDER: (1, 1, 2, 30)}
    grid.begin(row.id, BIRCH, transit=True)
    assert (use(grid, ALDER), use(grid, BIRCH)) == (Use(2, 30), Use(arriving=30, transit=30))
    grid.complete(row.id, BIRCH)
    assert held(grid) == {ALDER: (1, 1, 2, 30), BIRCH: (1, 1, 2, 30)}
    assert use(grid, BIRCH) == Use(2, 30, transit=30)
    grid.do(replicas.keep_all, [(row.id, BIRCH)])
    assert use(grid, BIRCH) == Use(2, 30)
    assert grid.let_go(row.id, BIRCH) is None
    assert (held(grid), use(grid, BIRCH)) == ({ALDER: (1, 1, 2, 30)}, Use(leaving=30))
    grid.do(replicas.remove_all, [(row.id, BIRCH)])
    assert use(grid, BIRCH) == Use()
    assert grid.read(holdings.at, ALDER) == [Held(grid.dataset_id, ALDER, 1, 1, 2, 30)]
    assert grid.read(holdings.at, BIRCH) == []


def test_free_space_is_what_nothing_holds_or_is_on_its_way_to(sqlite_grid: Grid) -> None:
    assert sqlite_grid.read(space.read)[ALDER].free is None
    sqlite_grid.do(lambda conn: conn.execute(update(se).values(space_bytes=100)))
    block_id = sqlite_grid.closed_block(new_file(1, 30))
    sqlite_grid.begin(block_id, BIRCH)
    free = {se_id: one.free for se_id, one in sqlite_grid.read(space.read).items()}
    assert free == {ALDER: 70, BIRCH: 70, CEDAR: 100}
    assert Space(10, Use(1, 5, 6, 7)).free == -8


def test_closing_counts_and_has_allocation_look(grid: Grid) -> None:
    def flags(conn: Connection) -> tuple[int, int]:
        row = conn.execute(dataset.select().where(dataset.c.id == grid.dataset_id)).one()
        return row.closed_blocks, row.unsettled

    assert grid.read(flags) == (0, 1)
    grid.do(bookkeeping.settle, grid.dataset_id)
    grid.register(*(new_file(number) for number in range(7)))  # three to a block
    assert grid.read(flags) == (2, 1)
    grid.do(bookkeeping.settle, grid.dataset_id)
    grid.do(bookkeeping.close_blocks, [one.id for one in grid.all_blocks()], "age", NOW)
    assert grid.read(flags) == (3, 1)
    grid.do(bookkeeping.settle, grid.dataset_id)
    grid.do(bookkeeping.unsettle, [grid.dataset_id])
    assert grid.read(flags) == (3, 1)


def test_due_blocks_are_closed_together_with_their_reasons(grid: Grid) -> None:
    grid.register(*(new_file(number) for number in range(3)))
    grid.register(new_file(9), se_id=BIRCH)
    assert grid.do(bookkeeping.close_due, NOW, 5) == 1
    assert grid.do(bookkeeping.close_due, NOW + timedelta(seconds=60), 5) == 1
    assert grid.do(bookkeeping.close_due, NOW + timedelta(seconds=60), 5) == 0
    assert [n for n, _ in [(one.state, one) for one in grid.all_blocks()]] == ["CLOSED", "CLOSED"]


@pytest.mark.parametrize("age_s", [0.5, 60, 1e300])
def test_any_age_is_a_time(age_s: float) -> None:
    assert bookkeeping.close_by(NOW, BlockPolicy(1, 1, age_s)) > NOW


def test_a_datasets_name_is_kept_in_parts(sqlite_grid: Grid) -> None:
    key = sqlite_grid.make_dataset("/Min/Spring-v2/RAW-RECO")
    row = sqlite_grid.read(lambda conn: conn.execute(dataset.select().where(dataset.c.id == key)).one())
    assert (row.prim, row.proc, row.data_tier, row.access_type) == ("Min", "Spring-v2", "RAW-RECO", "VALID")


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["register", "close", "begin", "pass", "complete", "keep", "go", "remove"]),
        st.integers(0, 7),
        st.sampled_from([ALDER, BIRCH, CEDAR]),
    ),
    max_size=25,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(steps=STEPS)
def test_counters_follow_whatever_happens(sqlite_grid: Grid, steps: list[tuple[str, int, int]]) -> None:
    from catalogs.invariants import INVARIANTS

    for act, number, se_id in steps:
        blocks = sqlite_grid.all_blocks()
        closed = [one.id for one in blocks if one.state == "CLOSED"]
        if act == "register":
            sqlite_grid.register(*(new_file(n, 1 + n) for n in range(number)), se_id=ALDER)
        elif act == "close":
            sqlite_grid.do(bookkeeping.close_blocks, [one.id for one in blocks], "age", NOW)
        elif closed:
            key = closed[number % len(closed)], se_id
            if act in ("begin", "pass"):
                sqlite_grid.begin(*key, transit=act == "pass")
            elif act == "complete":
                sqlite_grid.complete(*key)
            elif act == "keep":
                sqlite_grid.do(replicas.keep_all, [key])
            elif act == "go":
                sqlite_grid.let_go(*key)
            else:
                sqlite_grid.do(replicas.remove_all, [key])
        assert sqlite_grid.read(recount.drift) == {}
    assert sqlite_grid.read(violations, INVARIANTS) == []


def test_what_older_code_did_not_count_is_put_right(grid: Grid) -> None:
    block_id = grid.closed_block(new_file(1, 30))
    grid.copy(block_id, BIRCH)

    def forget(conn: Connection) -> None:
        conn.execute(update(dataset).values(closed_blocks=0, unsettled=0))
        conn.execute(delete(holding).where(holding.c.se_id == BIRCH))
        conn.execute(update(holding).values(blocks=7, bytes=1))
        conn.execute(delete(se_use).where(se_use.c.se_id == ALDER))
        conn.execute(update(se_use).values(leaving_bytes=4))
        conn.execute(update(block).values(close_by=None))

    grid.do(forget)
    wrong = dict.fromkeys(("closed_blocks", "holdings", "new_holdings", "space", "new_space"), 1)
    assert grid.read(recount.drift) == wrong
    assert grid.do(recount.mend) == wrong
    assert grid.read(recount.drift) == grid.do(recount.mend) == {}
    assert held(grid) == {ALDER: (1, 1, 1, 30), BIRCH: (1, 1, 1, 30)}


def test_names_that_older_code_wrote_whole_are_split(grid: Grid) -> None:
    key = grid.make_dataset("/Min/Spring-v2/RAW-RECO")

    def forget(conn: Connection) -> None:
        conn.execute(update(dataset).where(dataset.c.id == key).values(prim=None, proc=None, data_tier=None))

    grid.do(forget)
    assert [grid.do(recount.mend), grid.do(recount.mend)] == [{"names": 1}, {}]
    row = grid.read(lambda conn: conn.execute(dataset.select().where(dataset.c.id == key)).one())
    assert (row.prim, row.proc, row.data_tier) == ("Min", "Spring-v2", "RAW-RECO")


def test_lumis_that_older_code_registered_are_found_again(grid: Grid) -> None:
    def known() -> list[tuple[int, ...]]:
        rows = block_run.select().order_by(block_run.c.run)
        return grid.read(lambda conn: [tuple(row)[1:] for row in conn.execute(rows)])

    grid.register(new_file(1, runs={7: [(5, 9), (20, 22)], 8: [(3, 3)], 9: [(1, 4)]}))
    wanted = known()

    def forget(conn: Connection) -> None:
        conn.execute(delete(block_run).where(block_run.c.run == 8))
        conn.execute(update(block_run).where(block_run.c.run == 7).values(last_lumi=9))

    grid.do(forget)
    assert [grid.do(recount.span_runs), grid.do(recount.span_runs)] == [{"block_runs": 2}, {}]
    assert known() == wanted


# --- races -------------------------------------------------------------------------------------------


def test_counters_are_made_and_grown_by_many_at_once(grid: Grid) -> None:
    blocks = [grid.closed_block(new_file(number, 10)) for number in range(6)]
    for block_id in blocks:
        grid.begin(block_id, BIRCH)
    assert at_once(6, lambda n: grid.complete(blocks[n], BIRCH)) == [True] * 6
    assert held(grid)[BIRCH] == (6, 6, 6, 60)
    assert use(grid, BIRCH) == Use(6, 60)


def test_mending_at_once_and_beside_work_counts_nothing_twice(grid: Grid) -> None:
    blocks = [grid.closed_block(new_file(number, 10)) for number in range(4)]
    grid.do(lambda conn: conn.execute(delete(holding)))
    grid.do(lambda conn: conn.execute(update(se_use).values(files=90)))

    def act(n: int) -> object:
        if n % 2:
            return grid.do(recount.mend)
        return grid.copy(blocks[n], BIRCH)

    at_once(4, act)
    grid.do(recount.mend)
    assert grid.read(recount.drift) == {}
