"""What people do in two days at twelve sites, and what fails, by the hour it begins."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable

from grids.two_day_grid import T1S, T2S, TAPE, Size, TwoDayGrid

Event = Callable[[TwoDayGrid], object]
#: Everybody wants everything there.
STORMED = "T2_H"


class Days:
    """The events of a seed; `keys` are subscriptions by dataset and SE, `asked` the deletions by dataset."""

    def __init__(self, size: Size, seed: int) -> None:
        self.size = size
        self.random = random.Random(seed)
        self.events: dict[float, list[Event]] = defaultdict(list)
        self.keys: dict[tuple[str, str], int] = {}
        self.asked: dict[str, list[int]] = {}
        for number in range(size.datasets):
            self._dataset(number)
        self._faults()
        self._storms()

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
        self._spoilt(number, hour, name, home)
        for se, priority in wanted:
            later = hour + 0.1 + (0 if priority else 4 * self.random.random())
            self._at(later, lambda grid, se=se, n=priority: self._subscribe(grid, name, se, n))

    def _wanted(self, number: int, detector: bool, home: str) -> list[tuple[str, int]]:
        """Where a dataset is to be, and how urgent that is."""
        wanted = [(TAPE, 10)] if detector else []
        wanted += [(T1S[number % 3], 5)]
        return wanted + [(se, 0) for se in self.random.sample([one for one in T2S if one != home], 2)]

    def _later(self, number: int, hour: float, name: str, wanted: list[tuple[str, int]]) -> None:
        """Some copies are thrown away, some of these kept after all, some held back, some moved on; some
        have to be asked for, and some of a block are wanted elsewhere."""
        last = wanted[-1][0]
        act = number % 5
        if act == 1:
            self._at(hour + 8, lambda grid: grid.unsubscribe(self.keys[name, last]))
            self._at(hour + 9, lambda grid: self.asked.update({name: grid.delete(name, last)}))
            if number % 2:
                self._at(hour + 9.5, lambda grid: grid.undelete(self.asked[name]))
        if act == 2:
            self._at(hour + 5, lambda grid: grid.suspend(self.keys[name, last], 5.0))
        if act == 3:
            self._at(hour + 6, lambda grid: self._move(grid, name, last, wanted))
        other = next(one for one in reversed(T2S) if one not in dict(wanted))
        if act == 4:
            self._at(hour + 1, lambda grid: self._ask(grid, name, other))
            yes = number % 2 == 0
            self._at(hour + 4, lambda grid: grid.decide(self.keys[name, other], approved=yes))
        if act == 0:
            self._at(hour + 2, lambda grid: grid.subscribe(name, other, block_id=grid.block_of(name)))

    def _move(self, grid: TwoDayGrid, name: str, se: str, wanted: list[tuple[str, int]]) -> None:
        """What lies at one T2 shall lie at another."""
        grid.unsubscribe(self.keys[name, se])
        target = next(one for one in T2S if one not in dict(wanted))
        self.keys[name, target] = grid.subscribe(name, target, move=True)

    def _ask(self, grid: TwoDayGrid, name: str, se: str) -> None:
        self.keys[name, se] = grid.subscribe(name, se, decided_by=None)

    def _subscribe(self, grid: TwoDayGrid, name: str, se: str, priority: int) -> None:
        key = grid.subscribe(name, se, custodial=se == TAPE, priority=priority)
        self.keys[name, se] = key

    def _spoilt(self, number: int, hour: float, name: str, home: str) -> None:
        """One file is gone before anybody has it. Of others a copy is bad: where it was made or at a T1, and
        told or not."""
        if number == round(self.size.datasets * 0.4):
            self._at(hour, lambda grid: grid.lose_file(name, 0, home))
        where = home if number % 2 else T1S[number % 3]
        which = self.random.randrange(self.size.blocks * self.size.files)
        if number % 3 == 0:
            self._at(hour + 7, lambda grid: grid.report_bad(name, which, where))
        elif number % 3 == 1:
            self._at(hour + 3, lambda grid: grid.spoil_file(name, which, where))

    def _faults(self) -> None:
        for src, dst in (("T0", "T1_A"), ("T1_A", "T2_B"), ("T1_C", "T2_G")):
            self._at(0.0, lambda grid, link=(src, dst): grid.tool.failing.update({link: 0.3}))
        room = self.size.blocks * self.size.files * self.size.file_bytes
        self._at(0.0, lambda grid: grid.limit("T2_C", 2 * room))
        for name in ("T1_C", "T2_B"):
            self._at(0.0, lambda grid, name=name: grid.limit_transit(name, room))
        dead = ("T0", "T1_C")
        self._at(6.0, lambda grid: grid.tool.failing.update({dead: 1.0}))
        self._at(18.0, lambda grid: grid.tool.failing.pop(dead))
        self._at(20.0, lambda grid: grid.tool.silent.add("/T1_B/"))
        self._at(10.0, lambda grid: (grid.fill_up("T2_F"), grid.tool.full.add("T2_F")))
        self._at(12.0, lambda grid: grid.set_tfc("T2_D", "/store/nowhere/(.*)"))
        self._at(16.0, lambda grid: grid.set_tfc("T2_D"))

    def _storms(self) -> None:
        """A storage does not answer for two hours; a group wants all there is at one place, and half of it
        no more soon after."""
        self._at(14.0, lambda grid: grid.tool.silent.add("/T2_A/"))
        self._at(16.0, lambda grid: grid.tool.silent.discard("/T2_A/"))
        wave: dict[str, int] = {}

        def rises(grid: TwoDayGrid) -> None:
            new = [name for name in grid.datasets if (name, STORMED) not in self.keys]
            wave.update({name: grid.subscribe(name, STORMED) for name in new})

        def ebbs(grid: TwoDayGrid) -> None:
            for name in sorted(wave)[::2]:
                grid.unsubscribe(wave[name])
                grid.delete(name, STORMED)

        self._at(26.0, rises)
        self._at(27.5, ebbs)


def _produce(grid: TwoDayGrid, name: str, at: str, first: int, blocks: int, last: bool) -> None:
    grid.produce(name, at, first=first, blocks=blocks, last=last)
