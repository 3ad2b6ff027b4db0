"""The deleter: due deletions, files by storage element at its pace, rests after errors, kills in between."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from grids.data_grid import DataGrid, Worker
from sqlalchemy import select, update

from agents import deleter
from catalogs import recount
from catalogs.states import ReplicaState
from catalogs.tables import block, block_replica, se
from datamgmt.deletion_states import DeletionState
from datamgmt.deletions import deletion
from datamgmt.deletions.deletion import Asker
from datamgmt.reasons import Reason
from datamgmt.tables import deletion as deletion_table
from gridcore.db import Database, insert_rows
from gridcore.errors import LeaseLost

ADMIN = Asker("admin", "site", decides=True)


class Shelves(DataGrid):
    """Blocks at A, with copies at B and C."""

    def fill(self, blocks: int, files: int = 2) -> None:
        self.link("AB", "AC")
        for number in range(blocks):
            self.produce(files, first=number * files)
        self.copy("B", blocks, files)
        self.copy("C", blocks, files)

    def blocks(self) -> list[int]:
        return [row[0] for row in self.rows(select(block.c.id).order_by(block.c.id))]

    def with_copy(self, name: str) -> list[int]:
        """Which of the blocks, by number, are there."""
        there = {key for key, at in self.replicas() if at == name}
        return [number for number, key in enumerate(self.blocks(), 1) if key in there]

    def copy(self, name: str, blocks: int, files: int) -> None:
        """As if the blocks had been copied there."""
        for number in range(blocks * files):
            self.store(self.pfn(name, self.lfn(number)), b"x")
        made = {"state": ReplicaState.COMPLETE, "created_at": self.clock.now(), "hops": 1}
        rows = [{"block_id": key, "se_id": self.ids[name], **made} for key in self.blocks()[:blocks]]
        self.do(lambda conn, _: (insert_rows(conn, block_replica, rows), recount.mend(conn)))

    def ask(self, name: str, blocks: int, undelete: timedelta = timedelta()) -> list[int]:
        keys = self.keys.take("deletion", blocks)
        places = [(key, self.ids[name]) for key in self.blocks()[:blocks]]
        asked = self.do(lambda conn, now: deletion.ask_all(conn, keys, places, ADMIN, now, undelete=undelete))
        assert not asked.refused
        return list(asked.ids.values())

    def at(self, name: str) -> list[str]:
        """The files on storage there."""
        return sorted(pfn for pfn in self.tool.files if pfn.startswith(f"{self.root}/{name}/"))

    def asked(self) -> list[tuple[Any, ...]]:
        table = deletion_table.c
        return self.rows(select(table.state, table.code, table.params).order_by(table.id))


@pytest.fixture
def grid(database: Database) -> Shelves:
    return Shelves(database, "ABC")


@pytest.fixture
def worker(grid: Shelves) -> Iterator[Worker]:
    made = grid.worker("one", ["deleter"])
    made.take()
    yield made
    made.close()


def rate(grid: Shelves, name: str, files: int) -> None:
    statement = update(se).where(se.c.id == grid.ids[name]).values(delete_rate=files)
    grid.do(lambda conn, _: conn.execute(statement))


def test_what_is_due_goes_with_its_files(grid: Shelves, worker: Worker) -> None:
    grid.fill(3)
    grid.ask("B", 3, timedelta(hours=1))
    assert not any(worker.cycle("deleter").values())
    assert len(grid.at("B")) == 6
    grid.clock.advance(3600)
    did = worker.cycle("deleter")
    assert (did["begun"], did["files"], did["replicas"]) == (3, 6, 3)
    assert grid.at("B") == []
    assert {name for _, name in grid.replicas()} == {"A", "C"}
    assert grid.asked() == [(DeletionState.DELETED, None, None)] * 3
    assert not any(worker.cycle("deleter").values())


def test_a_slow_storage_gets_so_many_files_an_hour(grid: Shelves, worker: Worker) -> None:
    grid.fill(4, files=5)
    rate(grid, "B", 12)
    for name in "BC":
        grid.ask(name, 3 if name == "B" else 2)
    worker.cycle("deleter")
    assert len(grid.at("C")) == 10
    left = [len(grid.at("B"))]
    for _ in range(12):
        grid.clock.advance(300)
        worker.cycle("deleter")
        left.append(len(grid.at("B")))
    assert left[0] == 19
    assert left[-1] == 7
    assert [state for state, *_ in grid.asked()][:3] == [DeletionState.DELETED] * 2 + [DeletionState.DELETING]
    for _ in range(3):
        grid.clock.advance(300)
        worker.cycle("deleter")
    assert len(grid.at("B")) == 5
    assert grid.with_copy("B") == [4]


def test_a_rate_of_nothing_deletes_nothing(grid: Shelves, worker: Worker) -> None:
    grid.fill(1)
    rate(grid, "B", 0)
    grid.ask("B", 1)
    for _ in range(3):
        grid.clock.advance(10**5)
        worker.cycle("deleter")
    assert len(grid.at("B")) == 2


def test_a_storage_that_does_not_obey_rests_longer_each_time(grid: Shelves, worker: Worker) -> None:
    grid.fill(7)
    grid.tool.silent.add(f"{grid.root}/B")
    grid.ask("B", 7)
    grid.ask("C", 2)
    rests = []
    for _ in range(40):
        errors = worker.cycle("deleter").get("errors", 0)
        rests.append(errors)
        grid.clock.advance(1)
    assert rests[0] == 5
    assert rests[1:] == [int(second in (2, 6, 14, 30)) for second in range(1, 40)]
    state, code, params = grid.asked()[0]
    assert (state, code, params["se"]) == (DeletionState.DELETING, Reason.STORAGE_ERROR, grid.ids["B"])
    assert params["until"].endswith("UTC")
    assert grid.with_copy("C") == [3, 4, 5, 6, 7]
    grid.tool.silent.clear()
    grid.clock.advance(60)
    for _ in range(4):
        worker.cycle("deleter")
    assert grid.at("B") == []
    assert {state for state, *_ in grid.asked()} == {DeletionState.DELETED}


def test_one_bad_file_keeps_no_other_replica(
    grid: Shelves, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deleter, "FILES", 2)
    grid.fill(4)
    bad = grid.pfn("B", grid.lfn(1))
    grid.tool.silent.add(bad)
    grid.ask("B", 4)
    for _ in range(8):
        worker.cycle("deleter")
    assert grid.at("B") == [bad]
    assert grid.with_copy("B") == [1]


def test_killed_between_files_and_rows_it_is_repeated(grid: Shelves, worker: Worker) -> None:
    grid.fill(2)
    grid.ask("B", 2)

    def killed(*_: Any) -> int:
        raise KeyboardInterrupt

    worker.agents["deleter"]._write = killed  # type: ignore[attr-defined]
    with pytest.raises(KeyboardInterrupt):
        worker.cycle("deleter")
    assert grid.at("B") == []
    assert grid.replicas()[grid.blocks()[0], "B"] is ReplicaState.DELETING
    other = grid.worker("two", ["deleter"])
    other.take(from_the_dead=True)
    assert other.cycle("deleter") == {"files": 0, "replicas": 2} | dict.fromkeys(
        ("served", "refused", "put_off"), 0
    )
    assert {name for _, name in grid.replicas()} == {"A", "C"}
    assert {state for state, *_ in grid.asked()} == {DeletionState.DELETED}


def test_a_deleter_that_was_asleep_touches_nothing(
    grid: Shelves, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it deletes, another takes over; what it has not looked at again stays."""
    monkeypatch.setattr(deleter, "SLICE", 2)
    grid.fill(3)
    grid.ask("B", 3)
    other = grid.worker("two", ["deleter"])
    delete, asked = grid.tool.delete, []

    def slow(pfn: str) -> bool:
        asked.append(pfn)
        if len(asked) == 2:
            other.take(from_the_dead=True)
        return bool(delete(pfn))

    grid.tool.delete = slow
    with pytest.raises(LeaseLost):
        worker.cycle("deleter")
    assert len(asked) == 2
    assert len(grid.at("B")) == 4
    other.cycle("deleter")
    assert grid.at("B") == []


def test_what_was_gone_under_another_lease_is_asked_again(grid: Shelves, worker: Worker) -> None:
    """A replica begun, finished by another, copied anew and deleted anew is deleted whole."""
    grid.fill(1, files=6)
    rate(grid, "B", 180)
    grid.ask("B", 1)
    worker.cycle("deleter")
    assert len(grid.at("B")) == 3
    other = grid.worker("two", ["deleter"])
    other.take(from_the_dead=True)
    for _ in range(3):
        other.cycle("deleter")
        grid.clock.advance(60)
    assert grid.at("B") == []
    grid.copy("B", 1, 6)
    grid.ask("B", 1)
    worker.held.clear()
    worker.take(from_the_dead=True)
    for _ in range(4):
        grid.clock.advance(60)
        worker.cycle("deleter")
    assert grid.at("B") == []
    assert {name for _, name in grid.replicas()} == {"A", "C"}
