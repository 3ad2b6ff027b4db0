"""Claims and what follows them: the product's arm, the limit's and the bare one's, on one backlog."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TypeVar

from gridapp.bench.agent import Agent
from gridapp.bench.backlog import Backlog
from gridapp.bench.bare import Bare
from gridapp.bench.ground import TURN_S, Ground
from gridapp.bench.limits import Limit, Taken, Want, limit_for
from gridapp.bench.measure import Arm, per_second

BATCH = 100
T = TypeVar("T")


class Taking:
    """Three ways to take jobs off the same backlog. The limit spreads its batches as the product does."""

    def __init__(self, ground: Ground, backlog: Backlog, batch: int) -> None:
        self.backlog, self.batch = backlog, batch
        self.agent = Agent(backlog)
        self.limit: Limit = limit_for(backlog)
        ground.closing(self.limit.close)
        self._bare: Bare | None = None
        self._ground = ground
        self._next = 0
        self._shape = [1] if batch == 1 else self._spread()[: len(backlog.lines)]

    def _spread(self) -> list[int]:
        """How many jobs of how many classes a claim of the product takes: its first one tells."""
        held = self.agent.claim(self.batch)
        self.agent.finish(held)
        return sorted(Counter(one.class_id for one in held).values(), reverse=True)

    def ours(self, finish: bool = True) -> int:
        """A batch by the public functions; how many jobs."""
        held = self.agent.claim(self.batch)
        if held and finish:
            self.agent.finish(held)
        return len(held)

    def raw(self, finish: bool = True) -> int:
        """A batch by the limit; how many jobs."""
        taken = self.claim_raw()
        if taken and finish:
            self.limit.finish(taken, self.backlog.now())
        return len(taken)

    def claim_raw(self) -> list[Taken]:
        """A claim by the limit."""
        return self._from_next(lambda wants: self.limit.claim(wants, self.backlog.now()))

    def _from_next(self, claim: Callable[[list[Want]], list[T]]) -> list[T]:
        """What is claimed of the next classes that have any; nothing when all are empty."""
        lines = self.backlog.lines
        for _ in range(len(lines)):
            wants: list[Want] = []
            for n in self._shape:
                wants.append((lines[self._next % len(lines)], n))
                self._next += 1
            if taken := claim(wants):
                return taken
        return []

    def bare(self, finish: bool = True) -> int:
        """A batch by the barest statements; how many rows."""
        if self._bare is None:
            self._ground.say("copying the job table for the bare statements")
            self._bare = Bare(self.backlog)
            self._ground.closing(self._bare.close)
        ids = self._from_next(self._bare.claim)
        if ids and finish:
            self._bare.finish(ids)
        return len(ids)

    def arm(self, work: Callable[[bool], int], most: int, finish: bool = True) -> Arm:
        """A turn: so many jobs at most, in the time of a turn; jobs per second."""

        def turn() -> float:
            self.limit.rest()
            return per_second(lambda: work(finish), most, TURN_S)

        return turn

    def arms(self, most: int, finish: bool = True) -> dict[str, Arm]:
        """The three arms, each having worked once before: connections and plans are warm."""
        for work in (self.ours, self.raw, self.bare):
            work(finish)
        return {
            "ours": self.arm(self.ours, most, finish),
            "limit": self.arm(self.raw, most, finish),
            "bare": self.arm(self.bare, most, finish),
        }
