"""The agent loop: work under leases, waking, errors, duties, heartbeat rows."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Connection, update

from agents.runtime import heartbeats
from agents.runtime.agent import Agent, Context, Counts, each, own_lease
from agents.runtime.heartbeats import AgentState, Beat
from agents.runtime.leasing import LeaseKeeper
from agents.runtime.loop import BACKOFF_MAX_S, AgentLoop, backoff
from agents.runtime.schedule import Duty
from gridcore import settings
from gridcore.bus import Event, MemoryBus
from gridcore.clock import FakeClock, SystemClock
from gridcore.db import Database, dbnow, leases
from gridcore.db.keys import Keys
from gridcore.db.leases import Lease, Owner
from gridcore.errors import Busy, UsageError
from gridcore.tables import heartbeat, lease

NEVER_S = 1000.0


def context_of(database: Database, **overrides: object) -> Context:
    values = {"lease.seconds": 300, "lease.heartbeat_s": 60, "agent.cycle_s": 0.01, **overrides}
    return Context(
        database=database,
        keys=Keys(database),
        settings=settings.load(overrides=values, environ={}),
        bus=MemoryBus(),
        clock=SystemClock(),
        instance="00000000-0000-0000-0000-000000000001",
    )


class Clerk(Agent):
    """Does what the test told it and reports each cycle."""

    name = "clerk"
    wakes = frozenset(["job.ready"])

    def __init__(self, context: Context, script: Sequence[Counts | BaseException] = ()) -> None:
        super().__init__(context)
        self.script = list(script)
        self.cycles: queue.SimpleQueue[set[str]] = queue.SimpleQueue()
        self.closed = 0
        self.wanted: Sequence[str] = super().shards(None)  # type: ignore[arg-type]
        self.calendar: list[Duty] = []

    def shards(self, conn: Connection) -> Sequence[str]:
        return self.wanted

    def duties(self) -> Sequence[Duty]:
        return self.calendar

    def cycle(self, held: Mapping[str, Lease]) -> Counts:
        outcome = self.script.pop(0) if self.script else {}
        self.cycles.put(set(held))
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def close(self) -> None:
        self.closed += 1

    def seen(self, n: int = 1) -> list[set[str]]:
        """The leases of the next `n` cycles."""
        return [self.cycles.get(timeout=60) for _ in range(n)]


class Running:
    """A loop in a thread, with its beats at each change of state."""

    def __init__(self, agent: Agent, duty: str = "test") -> None:
        self.keeper = LeaseKeeper(agent.context.database, Owner.current(duty), 300)
        self.beats: queue.SimpleQueue[Beat] = queue.SimpleQueue()
        self.loop = AgentLoop(agent, self.keeper, lambda: self.beats.put(self.loop.beat))
        self.thread = threading.Thread(target=self.loop.run)
        self.keeper.start()
        self.thread.start()

    def until(self, state: AgentState) -> Beat:
        while (beat := self.beats.get(timeout=60)).state is not state:
            pass
        return beat

    def end(self) -> None:
        self.loop.stop()
        self.thread.join(60)
        assert not self.thread.is_alive()
        self.keeper.close()


@pytest.fixture
def run() -> Iterator[Callable[..., Running]]:
    with ExitStack() as stack:

        def start(agent: Agent, duty: str = "test") -> Running:
            running = Running(agent, duty)
            stack.callback(running.end)
            return running

        yield start


# --- work --------------------------------------------------------------------------------------------


def test_cycles_under_its_lease_until_stopped(database: Database, run: Callable[..., Running]) -> None:
    agent = Clerk(context_of(database), [{"made": 2, "refused": 0}, {}, {"made": 3}])
    running = run(agent)
    assert agent.seen(4) == [{"agent/clerk"}] * 4
    assert running.until(AgentState.RUNNING).note is None
    running.end()
    beat = running.loop.beat
    assert beat.state is AgentState.STOPPED
    assert beat.counts == {"made": 5}
    assert beat.cycles >= 4
    assert agent.closed == 1


def test_two_loops_with_one_lease_only_one_works(database: Database, run: Callable[..., Running]) -> None:
    first = Clerk(context_of(database))
    holder = run(first, "first")
    first.seen()
    second = Clerk(context_of(database), [{"made": 1}])
    heir = run(second, "second")
    first.seen(5)
    assert second.cycles.empty()
    assert heir.loop.beat.state is AgentState.STANDBY
    holder.end()
    heir.until(AgentState.RUNNING)
    assert second.seen() == [{"agent/clerk"}]


def test_stands_by_when_its_lease_is_lost_and_works_again_after_expiry(
    database: Database, run: Callable[..., Running]
) -> None:
    class Guarded(Clerk):
        def cycle(self, held: Mapping[str, Lease]) -> Counts:
            database.transaction(lambda conn: leases.hold(conn, held["agent/clerk"]))
            return super().cycle(held)

    agent = Guarded(context_of(database))
    running = run(agent)
    agent.seen(2)
    rival = Owner("rival@elsewhere:1", "elsewhere", "boot", 1, 1)
    with database.snapshot() as conn:
        row = leases.read(conn, ["agent/clerk"])
    (stolen,) = database.transaction(lambda conn: leases.take(conn, row, rival, 300, [row[0].id]))
    assert running.until(AgentState.STANDBY).counts == {"leases_lost": 1}

    def expire(conn: Connection) -> None:
        conn.execute(update(lease).where(lease.c.id == stolen.id), {"expires_at": dbnow(conn)})

    database.transaction(expire)
    running.until(AgentState.RUNNING)
    with database.snapshot() as conn:
        (after,) = leases.read(conn, ["agent/clerk"])
    assert (after.owner, after.fence) == (running.keeper.owner, stolen.fence + 1)


def test_lease_no_longer_wanted_is_given_back(database: Database, run: Callable[..., Running]) -> None:
    agent = Clerk(context_of(database))
    agent.wanted = ["endpoint/a", "endpoint/b"]
    run(agent)
    assert agent.seen() == [{"endpoint/a", "endpoint/b"}]
    agent.wanted = ["endpoint/b"]
    while agent.seen() != [{"endpoint/b"}]:
        pass
    with database.snapshot() as conn:
        (row,) = leases.read(conn, ["endpoint/a"])
    assert row.owner is None


def test_idle_cycles_are_called_without_a_lease(database: Database, run: Callable[..., Running]) -> None:
    class Idle(Clerk):
        idle_cycles = True

    agent = Idle(context_of(database))
    agent.wanted = []
    run(agent)
    assert agent.seen(2) == [set(), set()]


# --- waking and stopping -----------------------------------------------------------------------------


def test_an_event_wakes_it_early(database: Database, run: Callable[..., Running]) -> None:
    agent = Clerk(context_of(database, **{"agent.cycle_s": NEVER_S}))
    run(agent)
    agent.seen()
    agent.context.bus.publish(Event("job.ready", "task/1"))
    agent.seen()
    agent.context.bus.publish(Event("block.closed", "/a/b/RAW#1"))
    with pytest.raises(queue.Empty):
        agent.cycles.get(timeout=0.1)


@pytest.mark.parametrize("outcome", [{}, Busy("locked")])
def test_stops_within_half_a_second_while_waiting(
    database: Database, run: Callable[..., Running], outcome: Counts | Busy
) -> None:
    agent = Clerk(context_of(database, **{"agent.cycle_s": NEVER_S}), [outcome])
    running = run(agent)
    running.until(AgentState.FAILING if outcome else AgentState.RUNNING)
    running.loop.stop()
    running.thread.join(0.5)
    assert not running.thread.is_alive()


def test_an_event_does_not_cut_a_back_off_short(database: Database, run: Callable[..., Running]) -> None:
    agent = Clerk(context_of(database, **{"agent.cycle_s": NEVER_S}), [ValueError("poison")])
    running = run(agent)
    running.until(AgentState.FAILING)
    agent.seen()
    agent.context.bus.publish(Event("job.ready", "task/1"))
    with pytest.raises(queue.Empty):
        agent.cycles.get(timeout=0.1)


# --- errors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "note"),
    [
        (Busy("the lock is taken", hint="wait"), "Busy: the lock is taken (wait)"),
        (ValueError("bad\nrow"), "ValueError: bad row"),
    ],
)
def test_errors_do_not_end_it(
    database: Database, run: Callable[..., Running], error: Exception, note: str
) -> None:
    agent = Clerk(context_of(database), [error, error, {"made": 1}])
    running = run(agent)
    assert running.until(AgentState.FAILING).note == note
    well = running.until(AgentState.RUNNING)
    assert (well.note, well.counts, well.cycles) == (None, {"made": 1}, 1)


def test_a_failing_close_still_ends_as_stopped(sqlite_db: Database, run: Callable[..., Running]) -> None:
    class Sticky(Clerk):
        def close(self) -> None:
            raise OSError("stuck")

    agent = Sticky(context_of(sqlite_db))
    running = run(agent)
    agent.seen()
    running.end()
    assert running.loop.beat.state is AgentState.STOPPED
    assert running.loop.beat.note == "OSError: stuck"


@given(st.integers(1, 10_000), st.floats(0.01, 3600))
def test_back_off_grows_within_its_bounds(failures: int, interval: float) -> None:
    wait = backoff(failures, interval)
    assert 0 < wait <= min(BACKOFF_MAX_S, 10 * interval)
    assert wait <= backoff(failures + 1, interval)
    assert backoff(1, interval) == min(interval, BACKOFF_MAX_S)


# --- duties ------------------------------------------------------------------------------------------


def test_a_due_duty_wakes_its_agent_and_is_done_under_its_lease(
    database: Database, run: Callable[..., Running]
) -> None:
    agent = Clerk(context_of(database, **{"agent.cycle_s": NEVER_S}))
    running = run(agent)
    agent.seen()
    done: queue.SimpleQueue[str] = queue.SimpleQueue()

    def act(held: Lease) -> Counts:
        done.put(held.name)
        return {"pruned": 4}

    running.loop.mark_due(Duty(name="prune", every_s=1, act=act))
    assert done.get(timeout=60) == own_lease("clerk")
    agent.seen()
    running.end()
    assert running.loop.beat.counts == {"pruned": 4}


def test_without_the_lease_a_duty_is_somebody_elses(database: Database, run: Callable[..., Running]) -> None:
    holder, other = Clerk(context_of(database)), Clerk(context_of(database))
    first = run(holder, "first")
    holder.seen()
    second = run(other, "second")
    acted = threading.Event()

    def act(_: Lease) -> Counts:
        acted.set()
        return {}

    second.loop.mark_due(Duty(name="prune", every_s=1, act=act))
    while second.loop._due:
        holder.seen()
    first.end()
    other.seen(2)
    assert not acted.is_set()


def test_a_failing_duty_keeps_neither_another_nor_the_cycle_from_its_turn(
    database: Database, run: Callable[..., Running]
) -> None:
    agent = Clerk(context_of(database, **{"agent.cycle_s": NEVER_S}))
    done = threading.Event()

    def fails(_: Lease) -> Counts:
        raise ValueError("no")

    def works(_: Lease) -> Counts:
        done.set()
        return {}

    running = run(agent)
    agent.seen()
    running.loop.mark_due(Duty(name="a", every_s=1, act=fails))
    running.loop.mark_due(Duty(name="b", every_s=1, act=works))
    assert running.until(AgentState.FAILING).note == "ValueError: no"
    assert done.wait(60)
    agent.seen()


@pytest.mark.parametrize(
    "when", [{}, {"every_s": 1, "cron": "* * * * *"}, {"cron": "often"}, {"cron": "61 * * * *"}]
)
def test_a_duty_without_a_sensible_time_is_refused(when: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="duty prune"):
        Duty(name="prune", act=lambda _: {}, **when).trigger()


# --- heartbeat rows ----------------------------------------------------------------------------------

ME = Owner("agents@here:7.1", "here", "boot", 7, 1)


def rows(database: Database) -> list[heartbeats.AgentRow]:
    with database.snapshot() as conn:
        return heartbeats.agents(conn, heartbeat_s=1)


def write(database: Database, *beats: Beat, monotonic: float) -> None:
    database.transaction(lambda conn: heartbeats.write(conn, ME, beats, monotonic, heartbeat_s=1))


def age(database: Database, seconds: float) -> None:
    def unit(conn: Connection) -> None:
        conn.execute(update(heartbeat), {"beat_at": dbnow(conn) - timedelta(seconds=seconds)})

    database.transaction(unit)


def test_heartbeat_row_tells_life_and_progress_apart(database: Database) -> None:
    beat = Beat(
        agent="merger", started=100, state=AgentState.RUNNING, progress=160, cycles=9, counts={"n": 2}
    )
    idle = Beat(agent="router", started=100, note="none yet")
    write(database, beat, idle, monotonic=190)
    write(database, beat, idle, monotonic=200)
    merger, router = rows(database)
    assert (merger.agent, merger.owner, merger.pid, merger.cycles) == ("merger", ME.name, 7, 9)
    assert merger.counts == {"n": 2}
    assert merger.progress_age_s == pytest.approx(40, abs=2)
    assert (merger.started_at - merger.beat_at).total_seconds() == pytest.approx(-90, abs=2)
    assert merger.age_s == pytest.approx(0, abs=2)
    assert not merger.stale
    assert (router.state, router.progress_age_s, router.note) == (AgentState.STANDBY, None, "none yet")


def test_an_agent_that_should_beat_and_does_not_is_stale(database: Database) -> None:
    write(
        database,
        Beat(agent="a", started=0),
        Beat(agent="b", started=0, state=AgentState.STOPPED),
        monotonic=1,
    )
    assert [row.stale for row in rows(database)] == [False, False]
    age(database, 3.5)
    assert [row.stale for row in rows(database)] == [True, False]


def test_a_cycle_without_end_shows_in_the_note(database: Database) -> None:
    write(database, Beat(agent="a", started=0, busy=10), monotonic=12)
    assert rows(database)[0].note is None
    write(database, Beat(agent="a", started=0, busy=10), monotonic=55)
    assert rows(database)[0].note == "in one cycle for 45 s"


def test_rows_of_the_dead_are_pruned_after_an_hour(database: Database) -> None:
    write(database, Beat(agent="a", started=0), monotonic=1)
    age(database, 3500)
    assert database.transaction(lambda conn: heartbeats.prune(conn, 60)) == 0
    age(database, 3700)
    assert database.transaction(lambda conn: heartbeats.prune(conn, 3000)) == 0
    assert database.transaction(lambda conn: heartbeats.prune(conn, 60)) == 1
    assert rows(database) == []


@given(st.text())
def test_notes_are_one_short_printable_line(text: str) -> None:
    note = heartbeats.one_line(ValueError(text))
    assert len(note) <= heartbeats.NOTE_MAX
    assert note.isprintable()


def test_notes_hold_no_secrets() -> None:
    assert "hunter2" not in heartbeats.one_line(ValueError("postgresql://u:hunter2@host/db failed"))


def test_progress_is_measured_by_the_monotonic_clock(sqlite_db: Database) -> None:
    context = context_of(sqlite_db)
    clock = FakeClock()
    agent = Clerk(
        Context(**{name: getattr(context, name) for name in Context.__slots__} | {"clock": clock}),
        [{"n": 1}, {}],
    )
    loop = AgentLoop(agent, LeaseKeeper(sqlite_db, ME, 300))
    clock.advance(5)
    loop._attempt()
    clock.advance(5)
    loop._attempt()
    assert (loop.beat.started, loop.beat.progress, loop.beat.cycles) == (0, 5, 2)


def test_one_bad_item_does_not_keep_the_others_from_their_turn() -> None:
    seen = []

    def act(item: int) -> dict[str, int]:
        if item == 2:
            raise ValueError("bad item")
        seen.append(item)
        return {"done": 1}

    with pytest.raises(ValueError, match="bad item"):
        each([1, 2, 3], act)
    assert seen == [1, 3]
    assert each([1, 3], act) == {"done": 2}
