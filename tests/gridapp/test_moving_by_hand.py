"""Moves from one storage element to another: asked for, refused, carried out by the agents."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest
from grids.data_grid import DATASET, DataGrid, Worker
from sqlalchemy import select

from catalogs import bookkeeping, replicas, sites
from catalogs.states import ReplicaState
from datamgmt.deletion_states import DeletionState
from datamgmt.deletions import deletion
from datamgmt.subscriptions import store
from datamgmt.tables import deletion as deletions
from gridapp import moving, subscribing
from gridapp.subscribing import Terms
from gridcore.db import Database
from gridcore.errors import Conflict, Denied, GridError, NotFound, UsageError
from gridcore.identity import Principal, Role

GROUP = frozenset(["physics"])
OPERATOR = Principal("olga", GROUP, {"*": frozenset([Role.OPERATOR])})
GUEST = Principal("gus", frozenset(), {})
COMPLETE = ReplicaState.COMPLETE


@pytest.fixture
def grid(database: Database) -> DataGrid:
    """Three files in a closed dataset, at A where they were made and at C."""
    values = {"subscription.move_grace_s": 0, "deletion.undelete_s": 0}
    grid = DataGrid(database, "ABCD", **values)
    grid.link("AB", "AC", "AD", "CB", "CD")
    grid.produce(3)
    grid.do(lambda conn, now: bookkeeping.close_dataset(conn, grid.dataset_id, "anna", now))
    return grid


@pytest.fixture
def worker(grid: DataGrid) -> Iterator[Worker]:
    with ExitStack() as stack:
        made = grid.worker()
        stack.callback(made.close)
        key = grid.subscribe("C")
        made.run()
        grid.do(lambda conn, now: store.unsubscribe(conn, key, "anna", now))
        yield made


def order(grid: DataGrid, source: str, target: str, *, who: Principal = OPERATOR, **terms: Any) -> Any:
    dry_run = terms.pop("dry_run", False)
    ends = f"T2_{source}", f"T2_{target}"
    return moving.move(grid.context(), DATASET, *ends, who, Terms(**terms), dry_run=dry_run)


def gone(grid: DataGrid) -> list[tuple[Any, ...]]:
    """(SE, state) of all that was asked away."""
    return grid.rows(select(deletions.c.se_id, deletions.c.state))


def finish(grid: DataGrid, worker: Worker) -> None:
    """Approve what the agents ask away, and let them carry it out."""
    worker.run()
    keys = [
        row[0] for row in grid.rows(select(deletions.c.id).where(deletions.c.state == DeletionState.ASKED))
    ]
    undelete = grid.clock.now() - grid.clock.now()
    grid.do(lambda conn, now: deletion.approve(conn, keys, "olga", now, undelete=undelete))
    grid.clock.advance(3600)
    worker.run()


def test_only_the_copies_at_the_source_go(grid: DataGrid, worker: Worker) -> None:
    made = order(grid, "A", "B")
    assert (made["state"], made["from"], made["stays"]) == ("ACTIVE", "T2_A", [])
    finish(grid, worker)
    assert grid.replicas() == {(1, "B"): COMPLETE, (1, "C"): COMPLETE}
    assert gone(grid) == [(1, DeletionState.DELETED)]
    row = grid.do(lambda conn, _: store.one(conn, made["subscription"]))
    assert (row.move, row.move_from_se_id) == (False, None)


def test_the_same_order_again_changes_nothing(grid: DataGrid, worker: Worker) -> None:
    made = order(grid, "A", "B", comment="A closes", ask_id="once")
    again = order(grid, "A", "B", comment="A closes", ask_id="once")
    assert (again["subscription"], again["new"]) == (made["subscription"], False)
    finish(grid, worker)
    assert len(gone(grid)) == 1
    with pytest.raises(NotFound, match="no complete replica at T2_A"):
        order(grid, "A", "B")


def test_a_new_subscription_at_the_source_wins(grid: DataGrid, worker: Worker) -> None:
    order(grid, "A", "B")
    grid.subscribe("A")
    finish(grid, worker)
    assert grid.replicas() == {(1, name): COMPLETE for name in "ABC"}
    assert gone(grid) == []


def test_a_subscription_made_after_the_deletion_was_asked_wins_too(grid: DataGrid, worker: Worker) -> None:
    order(grid, "A", "B")
    worker.run()
    assert [row[0] for row in gone(grid)] == [1]
    grid.subscribe("A")
    finish(grid, worker)
    assert grid.replicas()[1, "A"] is COMPLETE
    assert [row[1] for row in gone(grid)] != [DeletionState.DELETED]


def test_two_moves_against_each_other_leave_a_copy(grid: DataGrid, worker: Worker) -> None:
    """A to B and C to D at once: everything stays somewhere, each source goes."""
    order(grid, "A", "B")
    order(grid, "C", "D")
    finish(grid, worker)
    assert grid.replicas() == {(1, "B"): COMPLETE, (1, "D"): COMPLETE}


def test_a_move_to_where_the_other_is_from(grid: DataGrid, worker: Worker) -> None:
    """A to C and C to A: each target is asked for, so nothing goes."""
    order(grid, "A", "C")
    with pytest.raises(Conflict, match="asks for it there"):
        order(grid, "C", "A")
    finish(grid, worker)
    assert grid.replicas() == {(1, "C"): COMPLETE}


def test_another_source_waits_for_the_first_move(grid: DataGrid, worker: Worker) -> None:
    made = order(grid, "A", "B")
    with pytest.raises(Conflict, match="from elsewhere"):
        order(grid, "C", "B")
    subscribing.subscribe(grid.context(), DATASET, "T2_B", OPERATOR, Terms(move=True))
    row = grid.do(lambda conn, _: store.one(conn, made["subscription"]))
    assert (row.move, row.move_from_se_id) == (True, None)
    finish(grid, worker)
    assert grid.replicas() == {(1, "B"): COMPLETE}


def test_a_dry_run_says_what_would_come_and_go(grid: DataGrid, worker: Worker) -> None:
    del worker
    said = order(grid, "A", "B", dry_run=True)
    assert said["subscription"] is None
    assert (said["preview"]["copied"]["files"], said["preview"]["removed"]["files"]) == (3, 3)
    everywhere = subscribing.subscribe(
        grid.context(), DATASET, "T2_B", OPERATOR, Terms(move=True), dry_run=True
    )
    assert everywhere["preview"]["removed"]["blocks"] == 2
    assert len(grid.rows(select(deletions.c.id))) == 0


def refusal(grid: DataGrid, source: str = "A", target: str = "B", **terms: Any) -> GridError:
    with pytest.raises(GridError) as refused:
        order(grid, source, target, **terms)
    return refused.value


def test_what_cannot_be_moved_is_refused_with_a_cure(grid: DataGrid) -> None:
    assert isinstance(refusal(grid, "D"), NotFound)
    assert isinstance(refusal(grid, "A", "A"), UsageError)
    assert isinstance(refusal(grid, "A", "nowhere"), NotFound)
    assert isinstance(refusal(grid, who=GUEST), Denied)
    grid.do(lambda conn, _: replicas.set_custodial_all(conn, {(1, 1): True}))
    assert "custodial" in refusal(grid).message
    key = grid.subscribe("A")
    assert refusal(grid).hint == f"tierflow subscription remove {key}"


@pytest.mark.parametrize(("kind", "tier"), [("tape", 2), ("disk", 0)])
def test_nothing_goes_from_tape_or_a_tier_0(grid: DataGrid, kind: str, tier: int) -> None:
    def unit(conn: Any, now: Any) -> None:
        del now
        element = next(one for one in sites.storage_elements(conn) if one.name == "T2_A")
        sites.put_se(conn, replace(element, kind=kind))
        site = next(one for one in sites.sites(conn) if one.id == element.site_id)
        sites.put_site(conn, replace(site, tier=tier))

    grid.do(unit)
    refused = refusal(grid)
    assert "lets nothing go at T2_A" in refused.message
    assert "tierflow delete" in str(refused.hint)


def test_what_may_grow_is_told(database: Database) -> None:
    grid = DataGrid(database, "AB")
    grid.link("AB")
    grid.produce(1)
    assert order(grid, "A", "B", dry_run=True)["stays"] == [
        "nothing goes from T2_A before the dataset is closed, as it may grow"
    ]
    assert order(grid, "A", "B", dry_run=True, static=True)["stays"] == []
