"""Two days of twelve sites in virtual time, with what goes wrong there: all is delivered, or explained, and
delivered once all is well again."""

from __future__ import annotations

import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from grids.two_day_grid import TAPE, Size, TwoDayGrid
from sqlalchemy import func, select
from two_days import Days

from catalogs.states import InvalidCode, ReplicaState
from catalogs.tables import block_replica, file_exception, invalid_file
from datamgmt.deletion_states import DeletionState
from datamgmt.subscription_states import SubscriptionState
from datamgmt.tables import block_dest, deletion, route_history, route_via, subscription, transfer
from gridapp.insights.why import why
from gridcore.db import Database
from gridcore.tables import quota

WHOLE = Size()
SMALL = Size(datasets=8, blocks=2, files=2, step_s=3600.0)
#: What nobody has to do anything about.
ENDED = {SubscriptionState.COMPLETE, SubscriptionState.REMOVED, SubscriptionState.DENIED}
#: Hours after which all that is well again must be delivered.
REST = 96


def live(grid: TwoDayGrid, days: Days) -> None:
    """All hours; nothing that must not be is, after any of them."""
    steps = round(3600 / grid.size.step_s)
    for hour in range(grid.size.hours):
        for step in range(steps):
            for event in days.due(hour + step / steps, hour + (step + 1) / steps):
                event(grid)
            grid.step()
        grid.tidy()
        assert grid.broken() == [], f"after hour {hour}"


def rest(grid: TwoDayGrid) -> None:
    """All is well, and nobody wants anything new."""
    grid.heal()
    for hour in range(REST):
        for _ in range(round(3600 / grid.size.step_s)):
            grid.step()
        grid.tidy()
        if not left(grid):
            break
        assert grid.broken() == [], f"{hour} hours after the end"
    assert grid.broken() == []
    assert left(grid) == []


def left(grid: TwoDayGrid) -> list[object]:
    """What is not as it should be in the end."""
    going = select(block_replica).where(block_replica.c.state != ReplicaState.COMPLETE)
    live = select(subscription).where(subscription.c.state.not_in(ENDED))
    faults = select(file_exception).where(file_exception.c.file_id.not_in(select(invalid_file.c.file_id)))
    passing = select(block_replica).where(block_replica.c.transit == 1)
    nothing = (going, live, faults, passing, select(block_dest), select(transfer), select(route_via))
    return [row for statement in nothing for row in grid.rows(statement)]


def ends(grid: TwoDayGrid) -> Counter[tuple[str, str]]:
    """How subscriptions ended: (state, whose turn it is)."""
    found: Counter[tuple[str, str]] = Counter()
    for row in grid.rows(select(subscription.c.id, subscription.c.state).order_by(subscription.c.id)):
        with grid.database.snapshot() as conn:
            answer = why(conn, f"sub:{row.id}", grid.clock.now())
        found[row.state.value, answer["turn"]] += 1
        if row.state not in ENDED:
            assert answer["turn"] != "nobody", answer
            assert answer["because"], answer
    return found


def happened(grid: TwoDayGrid) -> dict[str, int]:
    """How often what makes days hard came to pass."""

    def count(*conditions: Any) -> int:
        return int(grid.rows(select(func.count()).where(*conditions))[0][0])

    at_tape = block_replica.c.se_id == grid.ids[TAPE]
    return {
        "repairs": grid.did["repairs"],
        "lost": count(invalid_file.c.code == InvalidCode.LOST),
        "several hops": count(block_replica.c.hops > 1),
        "rerouted": len(_rerouted(grid)),
        "failures": grid.did["failed"],
        "deleted": count(deletion.c.state == DeletionState.DELETED),
        "undone": count(deletion.c.state == DeletionState.UNDONE),
        "denied": count(subscription.c.state == SubscriptionState.DENIED),
        "custodial": count(block_replica.c.custodial == 1, at_tape),
    }


def _rerouted(grid: TwoDayGrid) -> set[tuple[int, int]]:
    """The replicas for which the router has had several ways."""
    ways: dict[tuple[int, int], set[tuple[int, ...]]] = defaultdict(set)
    for row in grid.rows(select(route_history.c.block_id, route_history.c.se_id, route_history.c.path)):
        ways[row.block_id, row.se_id].add(tuple(row.path or ()))
    return {key for key, paths in ways.items() if len(paths - {()}) > 1}


@contextmanager
def two_days(database: Database, size: Size, seed: int) -> Iterator[TwoDayGrid]:
    """The grid as it is after them."""
    grid = TwoDayGrid(database, size, seed)
    try:
        live(grid, Days(size, seed))
        yield grid
    finally:
        grid.close()


def check(grid: TwoDayGrid) -> None:
    found = ends(grid)
    print(dict(found), f"{grid.tool.copied.total()} copies", happened(grid))
    complete = sum(n for (state, _), n in found.items() if state == SubscriptionState.COMPLETE)
    assert complete > found.total() / 2
    used = select(quota.c.owner).where(quota.c.used_value > quota.c.limit_value)
    assert grid.rows(used) == []
    replicas = select(block_replica.c.state).where(block_replica.c.state == ReplicaState.COMPLETE)
    assert len(grid.rows(replicas)) > grid.size.datasets * grid.size.blocks


@pytest.mark.slow
def test_two_days_end_complete_or_explained(sqlite_db: Database) -> None:
    with two_days(sqlite_db, WHOLE, seed=1) as grid:
        check(grid)
        assert all(happened(grid).values())


@pytest.mark.slow
def test_what_is_well_again_is_delivered(database: Database) -> None:
    with two_days(database, SMALL, seed=2) as grid:
        check(grid)
        rest(grid)


@pytest.mark.slow
def test_the_same_seed_ends_the_same(sqlite_url: str, tmp_path: Path) -> None:
    copies = [tmp_path / f"{number}.db" for number in range(2)]
    for copy in copies:
        shutil.copy(sqlite_url.removeprefix("sqlite:///"), copy)
    ends = []
    for copy in copies:
        database = Database(f"sqlite:///{copy}")
        with two_days(database, SMALL, seed=3) as grid:
            ends.append(grid.digest())
        database.close()
    assert ends[0] == ends[1]
