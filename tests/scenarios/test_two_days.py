"""Two days of twelve sites in virtual time, with what goes wrong there: all is delivered, or explained."""

from __future__ import annotations

import random
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest
from grids.two_day_grid import T1S, T2S, TAPE, Size, TwoDayGrid
from sqlalchemy import select

from catalogs.states import ReplicaState
from catalogs.tables import block_replica
from datamgmt.subscription_states import SubscriptionState
from datamgmt.tables import subscription
from gridapp.insights.why import why
from gridcore.db import Database
from gridcore.tables import quota

WHOLE = Size()
SMALL = Size(datasets=8, blocks=2, files=2, step_s=1800.0)
Event = Callable[[TwoDayGrid], object]


class Days:
    """What people do and what fails, by the hour it begins."""

    def __init__(self, size: Size, seed: int) -> None:
        self.size = size
        self.random = random.Random(seed)
        self.events: dict[float, list[Event]] = defaultdict(list)
        self.keys: dict[tuple[str, str], int] = {}
        for number in range(size.datasets):
            self._dataset(number)
        self._faults()

    def due(self, begin: float, end: float) -> list[Event]:
        """What begins in these hours, in order."""
        hours = sorted(hour for hour in self.events if begin <= hour < end)
        return [event for hour in hours for event in self.events[hour]]

    def _at(self, hour: float, event: Event) -> None:
        self.events[hour].append(event)

    def _dataset(self, number: int) -> None:
        """Data of the detector go to tape and to a T1; simulation is made at T2s; users want both."""
        hour = 0.5 + 36.0 * number / self.size.datasets
        detector = number % 4 != 3
        name = f"/{'Data' if detector else 'Sim'}/d{number}/RECO"
        home = "T0" if detector else T2S[number % len(T2S)]
        half = max(self.size.blocks // 2, 1)
        parts = [(hour, 0, half), (hour + 1.5, half, self.size.blocks - half)]
        for at, first, blocks in parts:
            last = first + blocks == self.size.blocks
            made = (name, home, first * self.size.files, blocks, last)
            self._at(at, lambda grid, made=made: _produce(grid, *made))
        wanted = self._wanted(number, detector, home)
        self._later(number, hour, name, wanted)
        if number == round(self.size.datasets * 0.4):
            self._at(hour, lambda grid: grid.lose_file(name, 0, home))
        for se, priority in wanted:
            later = hour + 0.1 + (0 if priority else 4 * self.random.random())
            self._at(later, lambda grid, se=se, n=priority: self._subscribe(grid, name, se, n))

    def _wanted(self, number: int, detector: bool, home: str) -> list[tuple[str, int]]:
        """Where a dataset is to be, and how urgent that is."""
        wanted = [(TAPE, 10)] if detector else []
        wanted += [(T1S[number % 3], 5)]
        return wanted + [(se, 0) for se in self.random.sample([one for one in T2S if one != home], 2)]

    def _later(self, number: int, hour: float, name: str, wanted: list[tuple[str, int]]) -> None:
        """Some copies are thrown away, some held back, some moved on."""
        last = wanted[-1][0]
        if number % 5 == 1:
            self._at(hour + 8, lambda grid: grid.unsubscribe(self.keys[name, last]))
            self._at(hour + 9, lambda grid: grid.delete(name, last))
        if number % 5 == 2:
            self._at(hour + 5, lambda grid: grid.suspend(self.keys[name, last], 5.0))
        if number % 5 == 3:
            self._at(hour + 6, lambda grid: self._move(grid, name, last, wanted))

    def _move(self, grid: TwoDayGrid, name: str, se: str, wanted: list[tuple[str, int]]) -> None:
        """What lies at one T2 shall lie at another."""
        grid.unsubscribe(self.keys[name, se])
        target = next(one for one in T2S if one not in dict(wanted))
        self.keys[name, target] = grid.subscribe(name, target, move=True)

    def _subscribe(self, grid: TwoDayGrid, name: str, se: str, priority: int) -> None:
        key = grid.subscribe(name, se, custodial=se == TAPE, priority=priority)
        self.keys[name, se] = key

    def _faults(self) -> None:
        for src, dst in (("T0", "T1_A"), ("T1_A", "T2_B"), ("T1_C", "T2_G")):
            self._at(0.0, lambda grid, link=(src, dst): grid.tool.failing.update({link: 0.3}))
        room = self.size.blocks * self.size.files * self.size.file_bytes
        self._at(0.0, lambda grid: grid.limit("T2_C", 2 * room))
        dead = ("T0", "T1_C")
        self._at(6.0, lambda grid: grid.tool.failing.update({dead: 1.0}))
        self._at(18.0, lambda grid: grid.tool.failing.pop(dead))
        self._at(20.0, lambda grid: grid.tool.silent.add("/T1_B/"))
        self._at(10.0, lambda grid: (grid.fill_up("T2_F"), grid.tool.full.add("T2_F")))
        self._at(12.0, lambda grid: grid.set_tfc("T2_D", "/store/nowhere/(.*)"))
        self._at(16.0, lambda grid: grid.set_tfc("T2_D"))


def _produce(grid: TwoDayGrid, name: str, at: str, first: int, blocks: int, last: bool) -> None:
    grid.produce(name, at, first=first, blocks=blocks, last=last)


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


def ends(grid: TwoDayGrid) -> Counter[tuple[str, str]]:
    """How subscriptions ended: (state, whose turn it is)."""
    found: Counter[tuple[str, str]] = Counter()
    for row in grid.rows(select(subscription.c.id, subscription.c.state).order_by(subscription.c.id)):
        with grid.database.snapshot() as conn:
            answer = why(conn, f"sub:{row.id}", grid.clock.now())
        found[row.state.value, answer["turn"]] += 1
        if row.state is SubscriptionState.ACTIVE:
            assert answer["turn"] != "nobody", answer
            assert answer["because"], answer
    return found


def lived(database: Database, size: Size, seed: int) -> TwoDayGrid:
    grid = TwoDayGrid(database, size, seed)
    days = Days(size, seed)
    try:
        live(grid, days)
    finally:
        grid.close()
    return grid


def check(grid: TwoDayGrid) -> None:
    found = ends(grid)
    print(dict(found))
    print(sorted(grid.tool.copied.items(), key=lambda one: -one[1])[:10], sum(grid.tool.copied.values()))
    complete = sum(n for (state, _), n in found.items() if state == SubscriptionState.COMPLETE)
    assert complete > found.total() / 2
    used = select(quota.c.owner).where(quota.c.used_value > quota.c.limit_value)
    assert grid.rows(used) == []
    replicas = select(block_replica.c.state).where(block_replica.c.state == ReplicaState.COMPLETE)
    assert len(grid.rows(replicas)) > grid.size.datasets * grid.size.blocks


@pytest.mark.slow
def test_two_days_end_complete_or_explained(sqlite_db: Database) -> None:
    check(lived(sqlite_db, WHOLE, seed=1))


@pytest.mark.slow
def test_two_days_end_alike_on_postgresql(postgres_db: Database) -> None:
    check(lived(postgres_db, SMALL, seed=2))


@pytest.mark.slow
def test_the_same_seed_ends_the_same(sqlite_url: str, tmp_path: Path) -> None:
    copies = [tmp_path / f"{number}.db" for number in range(2)]
    for copy in copies:
        shutil.copy(sqlite_url.removeprefix("sqlite:///"), copy)
    ends = []
    for copy in copies:
        database = Database(f"sqlite:///{copy}")
        ends.append(lived(database, SMALL, seed=3).digest())
        database.close()
    assert ends[0] == ends[1]
