"""AgentLoop: runs one agent for ever: leases, duties, cycle, back-off, what its heartbeat says."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from agents.runtime.agent import Agent, Counts, own_lease
from agents.runtime.heartbeats import AgentState, Beat, one_line
from agents.runtime.leasing import LeaseKeeper
from agents.runtime.schedule import Duty
from gridcore import log, metrics
from gridcore.db.leases import Lease
from gridcore.errors import LeaseLost, Unavailable

#: Longest back-off: this many cycles, but never more seconds than the second number.
BACKOFF_CYCLES, BACKOFF_MAX_S = 10, 30.0
#: Least time between two cycles, however many events come in: part of a cycle's length, seconds at most.
REST_PART, REST_MAX_S = 0.1, 0.05

_LOG = log.get(__name__)


class AgentLoop:
    """One agent's thread of work. `run` returns after `stop`; no error of the agent ends it."""

    def __init__(self, agent: Agent, keeper: LeaseKeeper, changed: Callable[[], None] = lambda: None) -> None:
        """`changed` is called after each change of state."""
        self.agent = agent
        self._keeper = keeper
        self._changed = changed
        self._context = agent.context
        self._clock = agent.context.clock
        self._beat = Beat(agent=agent.name, started=self._clock.monotonic())
        self._names: frozenset[str] = frozenset()
        self._failures = 0
        self._due: dict[str, Duty] = {}
        self._guard = threading.Lock()
        self._stop = threading.Event()
        self._wake = threading.Event()

    @property
    def beat(self) -> Beat:
        """What the next heartbeat says."""
        return self._beat

    @property
    def names(self) -> frozenset[str]:
        """The leases it wants."""
        return self._names

    def stop(self) -> None:
        """Ask `run` to return after the cycle it is in; harmless at any time, from any thread."""
        self._stop.set()
        self._wake.set()

    def mark_due(self, duty: Duty) -> None:
        """Have the duty done before the next cycle, which begins now; marked twice, it is done once."""
        with self._guard:
            self._due[duty.name] = duty
        self._wake.set()

    def run(self) -> None:
        """Work until asked to stop, then close the agent."""
        subscription = self._context.bus.subscribe(self.agent.wakes, self._wake.set)
        try:
            with log.context(agent=self.agent.name):
                while not self._stop.is_set():
                    self._wake.clear()
                    self._attempt()
                    self._pause()
                self._close()
        finally:
            subscription.close()

    def _attempt(self) -> None:
        """One pass. Whatever happens, the loop goes on, and no act keeps the next one from its turn."""
        try:
            held = self._leases()
        except Exception as error:
            self._failed("leases", error)
            return
        well = AgentState.STANDBY if self._names and not held else AgentState.RUNNING
        if not self._failures:
            self._say(state=well)
        results = [self._tried(what, act) for what, act in self._acts(held) if not self._stop.is_set()]
        if all(results):
            self._failures = 0
            self._say(state=well, note=None)

    def _leases(self) -> dict[str, Lease]:
        with self._context.database.snapshot() as conn:
            names = frozenset(self.agent.shards(conn))
        gone, self._names = self._names - names, names
        self._keeper.release(gone)
        self._keeper.take(names)
        return self._keeper.held(names)

    def _acts(self, held: Mapping[str, Lease]) -> list[tuple[str, Callable[[], Counts]]]:
        """The duties marked as due, then the cycle."""
        with self._guard:
            due, self._due = self._due, {}
        acts: list[tuple[str, Callable[[], Counts]]] = []
        # Without the lease a duty is the holder's, whose own calendar knows.
        if lease := held.get(own_lease(self.agent.name)):
            acts += [(duty.name, partial(duty.act, lease)) for duty in due.values()]
        if held or self.agent.idle_cycles:
            acts.append(("cycle", partial(self._cycle, held)))
        return acts

    def _tried(self, what: str, act: Callable[[], Counts]) -> bool:
        """Whether it ended without an error; to have lost the lease is none."""
        self._say(busy=self._clock.monotonic())
        try:
            self._did(what, act())
        except LeaseLost as error:
            self._lost(what, error)
        except Exception as error:
            self._failed(what, error)
            return False
        finally:
            self._say(busy=None)
        return True

    def _cycle(self, held: Mapping[str, Lease]) -> Counts:
        began = self._clock.monotonic()
        counts = self.agent.cycle(held)
        metrics.count("cycles", agent=self.agent.name)
        metrics.observe("cycle_seconds", self._clock.monotonic() - began, agent=self.agent.name)
        self._say(cycles=self._beat.cycles + 1)
        return counts

    def _did(self, what: str, counts: Counts) -> None:
        """Remember what was done; nothing done, nothing logged."""
        done = {name: n for name, n in counts.items() if n}
        if stale := done.get("stale"):
            metrics.count("stale_reports", stale, agent=self.agent.name)
        if done:
            self._say(progress=self._clock.monotonic())
            self._add(done)
            _LOG.info(what, **done)

    def _add(self, done: Counts) -> None:
        sums = self._beat.counts
        self._say(counts={**sums, **{name: sums.get(name, 0) + n for name, n in done.items()}})

    def _lost(self, what: str, error: LeaseLost) -> None:
        metrics.count("cycle_errors", agent=self.agent.name, error="LeaseLost")
        _LOG.info("lease lost", during=what, error=error.message)
        self._add({"leases_lost": 1})
        self._keeper.doubt(self._names)

    def _failed(self, what: str, error: Exception) -> None:
        self._failures += 1
        metrics.count("cycle_errors", agent=self.agent.name, error=type(error).__name__)
        if isinstance(error, Unavailable):
            _LOG.warning(f"{what} failed", failures=self._failures, error=one_line(error))
        else:
            _LOG.exception(f"{what} failed", failures=self._failures)
        self._say(state=AgentState.FAILING, note=one_line(error))

    def _pause(self) -> None:
        """Wait for the next cycle; an event cuts short the interval, but neither the rest nor a back-off."""
        interval = self.agent.interval_s
        if self._failures:
            self._stop.wait(backoff(self._failures, interval) * random.uniform(0.5, 1))
        elif not self._stop.wait(min(REST_PART * interval, REST_MAX_S)):
            self._wake.wait(interval)

    def _close(self) -> None:
        try:
            self.agent.close()
        except Exception as error:
            _LOG.exception("close failed")
            self._say(note=one_line(error))
        self._say(state=AgentState.STOPPED)

    def _say(self, **fields: object) -> None:
        before, self._beat = self._beat, replace(self._beat, **fields)  # type: ignore[arg-type]
        if before.state is not self._beat.state:
            self._changed()


def backoff(failures: int, interval_s: float) -> float:
    """Seconds to wait after so many failures in a row, before jitter: doubles from one cycle's length."""
    longest = min(BACKOFF_CYCLES * interval_s, BACKOFF_MAX_S)
    return float(min(interval_s * 2 ** min(failures - 1, 20), longest))
