"""Data agents that die before or after any transaction: their successors finish what they left."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from random import Random
from typing import Any

import pytest
from grids.data_grid import KINDS, DataGrid
from sqlalchemy import insert, select

from catalogs import exceptions, recount
from catalogs.exceptions import FileFault
from catalogs.states import ReplicaState
from catalogs.tables import block_replica, data_file
from datamgmt.deletions import deletion
from datamgmt.deletions.deletion import Asker
from datamgmt.subscription_states import SubscriptionState
from datamgmt.subscriptions import store
from datamgmt.tables import deletion as deletion_table
from datamgmt.tables import subscription, transfer
from gridcore.db import Database
from gridcore.tables import quota

#: Rounds in which agents may die, and those in which they live.
DYING, LIVING = 40, 40
ADMIN = Asker("admin", "physics", decides=True)


class _Death(Exception):
    """An agent ends here."""


class _Fate:
    """Lets an agent die at one of its next transactions, before it or after it."""

    def __init__(self, database: Database, random: Random, patch: pytest.MonkeyPatch) -> None:
        self._random = random
        self._left = 0
        self._transaction = database.transaction
        patch.setattr(database, "transaction", self._run)

    def draw(self) -> None:
        """Whether the next agent dies."""
        self._left = self._random.randrange(1, 6) if self._random.random() < 0.3 else 0

    def spare(self) -> None:
        """Nobody dies."""
        self._left = 0

    def _run(self, unit: Callable[[Any], Any]) -> Any:
        self._left -= 1
        if self._left:
            return self._transaction(unit)
        if self._random.random() < 0.5:
            self._transaction(unit)
        raise _Death


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_successors_finish_what_agents_that_died_have_left(
    database: Database, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = Random(seed)
    grid = DataGrid(database, "ABC", **{"deletion.undelete_s": 1, "transfer.workers": 0})
    grid.link("AB", "BC", "BA", "CB")
    limits = [
        {"id": 1, "owner": "space:T2_XX_B:physics", "limit_value": 10_000, "used_value": 0},
        {"id": 2, "owner": "transit:T2_B", "limit_value": 10_000, "used_value": 0},
    ]
    grid.do(lambda conn, _: conn.execute(insert(quota), limits))
    for number in range(3):
        grid.produce(3, first=3 * number)
    grid.subscribe("B")
    last = grid.subscribe("C")
    events = {10: lambda: _spoil(grid), 15: lambda: _delete(grid, random), 25: lambda: _end(grid, last)}
    events |= {30: lambda: grid.subscribe("C")}
    fate = _Fate(database, random, monkeypatch)
    deaths, worker = 0, grid.worker("0")
    for number in range(DYING + LIVING):
        fate.spare()
        worker.take(from_the_dead=True)
        events.get(number, lambda: None)()
        try:
            for kind in KINDS:
                (fate.draw if number < DYING else fate.spare)()
                worker.cycle(kind)
                fate.spare()
                if kind == "block_manager":
                    lease = next(
                        one for name, one in worker.held.items() if not name.startswith("transfers/")
                    )
                    worker.agents[kind].repair(lease)  # type: ignore[attr-defined]
        except _Death:
            deaths, worker = deaths + 1, grid.worker(str(number))
        fate.spare()
        if not number % 4:
            grid.check()
        grid.clock.advance(1 if number < DYING else 60)
    assert deaths
    assert {*grid.rows(select(subscription.c.state))} == {(SubscriptionState.COMPLETE,)}
    assert set(grid.replicas().values()) == {ReplicaState.COMPLETE}
    assert (grid.count(transfer), grid.do(lambda conn, _: recount.drift(conn))) == (0, {})
    assert (
        grid.rows(select(deletion_table.c.id).where(deletion_table.c.state.in_(["ASKED", "APPROVED"]))) == []
    )


def _spoil(grid: DataGrid) -> None:
    """A file is bad at its origin, of a block that is at B too by now."""
    complete = [key for key, state in grid.replicas().items() if state is ReplicaState.COMPLETE]
    block_id = next((block_id for block_id, name in sorted(complete) if name == "B"), None)
    if block_id is None:
        return
    (file_id,) = grid.rows(select(data_file.c.id).where(data_file.c.block_id == block_id))[0]
    fault = {file_id: FileFault.BAD}
    grid.do(lambda conn, now: exceptions.add(conn, block_id, grid.ids["A"], fault, now))


def _delete(grid: DataGrid, random: Random) -> None:
    """Copies at the origin are asked away."""
    rows = grid.rows(select(block_replica.c.block_id).where(block_replica.c.se_id == grid.ids["A"]))
    places = [(block_id, grid.ids["A"]) for (block_id,) in random.sample(sorted(rows), 2)]
    keys = grid.keys.take("deletion", len(places))
    second = timedelta(seconds=1)
    grid.do(lambda conn, now: deletion.ask_all(conn, keys, places, ADMIN, now, undelete=second))


def _end(grid: DataGrid, key: int) -> None:
    grid.do(lambda conn, now: store.unsubscribe(conn, key, "anna", now))
