"""The supervisor: start, stop, restart, signals, schedule; with real processes where they matter."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import ClassVar

import pytest

from agents.runtime import heartbeats
from agents.runtime.agent import Agent, Context, Counts
from agents.runtime.heartbeats import AgentRow, AgentState
from agents.runtime.schedule import Duty
from agents.runtime.signals import stop_on_signals
from agents.runtime.supervisor import Supervisor
from gridcore import settings
from gridcore.bus import MemoryBus
from gridcore.clock import SystemClock
from gridcore.db import Database, leases
from gridcore.db.keys import Keys
from gridcore.db.leases import Lease
from gridcore.errors import GridError, UsageError

REPOSITORY = Path(__file__).parents[2]
STOP_S = 5.0

#: A whole daemon; prints "working" with its first cycle and why it ended.
DAEMON = """
import sys
from agents.runtime.agent import Agent, Context
from agents.runtime.signals import stop_on_signals
from agents.runtime.supervisor import Supervisor
from gridcore import log, settings
from gridcore.bus import NullBus
from gridcore.clock import SystemClock
from gridcore.db import Database
from gridcore.db.keys import Keys

url, mode = sys.argv[1:]
log.configure("warning")

class Steady(Agent):
    name = "steady"

    def cycle(self, held):
        if not self.told:
            self.told = True
            print("working", flush=True)
        while mode == "hang":
            pass
        return {"made": 1}

    def close(self):
        print("closed", flush=True)

    told = False

database = Database(url)
given = {"lease.seconds": 300, "lease.heartbeat_s": 60, "agent.cycle_s": 0.05}
context = Context(
    database=database, keys=Keys(database), settings=settings.load(overrides=given, environ={}),
    bus=NullBus(), clock=SystemClock(), instance="i",
)
supervisor = Supervisor([Steady(context)], context, "child")
with stop_on_signals(supervisor.stop):
    supervisor.start()
    print(supervisor.wait(), flush=True)
"""


def context_of(database: Database, **overrides: object) -> Context:
    values = {"lease.seconds": 300, "lease.heartbeat_s": 60, "agent.cycle_s": 0.02, **overrides}
    return Context(
        database=database,
        keys=Keys(database),
        settings=settings.load(overrides=values, environ={}),
        bus=MemoryBus(),
        clock=SystemClock(),
        instance="00000000-0000-0000-0000-000000000001",
    )


class Steady(Agent):
    """Does one thing each cycle and says so."""

    name: ClassVar[str] = "steady"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.worked = threading.Event()

    def cycle(self, held: Mapping[str, Lease]) -> Counts:
        self.worked.set()
        return {"made": 1}


class Mortal(Steady):
    """Its thread dies in the first `deaths` cycles."""

    name = "mortal"
    deaths = 1

    def cycle(self, held: Mapping[str, Lease]) -> Counts:
        if self.deaths:
            self.deaths -= 1
            raise SystemExit("gone")
        return super().cycle(held)


class Stuck(Steady):
    """Does not return from its cycle until the test lets it."""

    name = "stuck"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.released = threading.Event()

    def cycle(self, held: Mapping[str, Lease]) -> Counts:
        super().cycle(held)
        self.released.wait(60)
        return {}


@pytest.fixture
def supervise() -> Iterator[Callable[..., Supervisor]]:
    with ExitStack() as stack:

        def start(*agents: Agent) -> Supervisor:
            supervisor = Supervisor(agents, agents[0].context, "test")
            stack.callback(supervisor.stop)
            supervisor.start()
            return supervisor

        yield start


@pytest.fixture
def daemon() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts daemons as processes and waits until they work."""
    with ExitStack() as stack:

        def start(database: Database, mode: str = "work") -> subprocess.Popen[str]:
            url = database.url.render_as_string(hide_password=False)
            child = subprocess.Popen(
                [sys.executable, "-c", DAEMON, url, mode], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
            )
            stack.enter_context(child)
            stack.callback(child.kill)
            assert child.stdout is not None
            assert child.stdout.readline() == "working\n"
            return child

        yield start


def rows(database: Database) -> list[AgentRow]:
    with database.snapshot() as conn:
        return heartbeats.agents(conn, heartbeat_s=60)


def lease_owner(database: Database, name: str) -> leases.Owner | None:
    with database.snapshot() as conn:
        return leases.read(conn, [name])[0].owner


# --- life --------------------------------------------------------------------------------------------


def test_runs_its_agents_and_says_so(database: Database, supervise: Callable[..., Supervisor]) -> None:
    agents = [Steady(context_of(database)), Mortal(context_of(database))]
    agents[1].deaths = 0  # type: ignore[attr-defined]
    supervisor = supervise(*agents)
    assert all(agent.worked.wait(60) for agent in agents)
    supervisor.stop("night falls")
    assert supervisor.wait(0) == "night falls"
    assert [(row.agent, row.state) for row in rows(database)] == [
        ("mortal", AgentState.STOPPED),
        ("steady", AgentState.STOPPED),
    ]
    assert all(row.counts["made"] >= 1 and row.progress_at for row in rows(database))
    assert lease_owner(database, "agent/steady") is None


def test_stop_is_harmless_before_start_and_twice(sqlite_db: Database) -> None:
    agent = Steady(context_of(sqlite_db))
    supervisor = Supervisor([agent], agent.context)
    supervisor.stop("never mind")
    supervisor.start()
    supervisor.stop("again")
    assert supervisor.wait(0) == "never mind"
    assert not agent.worked.is_set()


def test_stop_from_many_threads_at_once(sqlite_db: Database, supervise: Callable[..., Supervisor]) -> None:
    agent = Steady(context_of(sqlite_db))
    supervisor = supervise(agent)
    agent.worked.wait(60)
    threads = [threading.Thread(target=supervisor.stop, args=(f"reason {n}",)) for n in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(STOP_S)
    assert supervisor.wait(0).startswith("reason")
    assert rows(sqlite_db)[0].state is AgentState.STOPPED


def test_agents_named_alike_are_refused(sqlite_db: Database) -> None:
    context = context_of(sqlite_db)
    with pytest.raises(UsageError, match="named twice"):
        Supervisor([Steady(context), Steady(context)], context)


@pytest.mark.slow
def test_stuck_agent_is_left_behind_with_its_lease(
    sqlite_db: Database, supervise: Callable[..., Supervisor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agents.runtime.supervisor.AGENTS_STOP_S", 3.0)
    stuck, steady = Stuck(context_of(sqlite_db)), Steady(context_of(sqlite_db))
    supervisor = supervise(stuck, steady)
    assert stuck.worked.wait(60)
    assert steady.worked.wait(60)
    supervisor.stop()
    try:
        assert lease_owner(sqlite_db, "agent/stuck") == supervisor.keeper.owner
        assert lease_owner(sqlite_db, "agent/steady") is None
        states = {row.agent: (row.state, row.note) for row in rows(sqlite_db)}
        assert states == {
            "steady": (AgentState.STOPPED, None),
            "stuck": (AgentState.RUNNING, "did not stop in time"),
        }
    finally:
        stuck.released.set()


def test_dead_agent_is_restarted_once(database: Database, supervise: Callable[..., Supervisor]) -> None:
    agent = Mortal(context_of(database))
    supervisor = supervise(agent)
    assert agent.worked.wait(60)
    assert supervisor.wait(0) == ""


def test_agent_that_dies_twice_ends_the_whole(
    database: Database, supervise: Callable[..., Supervisor]
) -> None:
    mortal, steady = Mortal(context_of(database)), Steady(context_of(database))
    mortal.deaths = 2
    supervisor = supervise(mortal, steady)
    with pytest.raises(GridError, match="agent mortal died twice, the last time of SystemExit: gone"):
        supervisor.wait(STOP_S)
    states = {row.agent: (row.state, row.note) for row in rows(database)}
    assert states["mortal"] == (AgentState.STOPPED, "SystemExit: gone")
    assert states["steady"] == (AgentState.STOPPED, None)
    assert lease_owner(database, "agent/steady") is None


def test_duties_are_done_by_the_calendar(sqlite_db: Database, supervise: Callable[..., Supervisor]) -> None:
    held: list[str] = []
    done = threading.Event()

    def act(lease: Lease) -> Counts:
        held.append(lease.name)
        done.set()
        return {}

    class Keeper(Steady):
        def duties(self) -> Sequence[Duty]:
            return [Duty(name="prune", every_s=0.05, act=act)]

    supervisor = supervise(Keeper(context_of(sqlite_db, **{"agent.cycle_s": 1000})))
    assert done.wait(60)
    supervisor.stop()
    assert set(held) == {"agent/steady"}
    assert not any(thread.name == "APScheduler" for thread in threading.enumerate())


# --- processes ---------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_a_daemon_in_order(
    sqlite_db: Database, daemon: Callable[..., subprocess.Popen[str]], number: signal.Signals
) -> None:
    child = daemon(sqlite_db)
    assert lease_owner(sqlite_db, "agent/steady") is not None
    child.send_signal(number)
    out, _ = child.communicate(timeout=STOP_S)
    assert out.split() == ["closed", number.name]
    assert child.returncode == 0
    assert lease_owner(sqlite_db, "agent/steady") is None
    assert rows(sqlite_db)[0].state is AgentState.STOPPED


@pytest.mark.slow
def test_the_second_signal_ends_a_hanging_daemon(
    sqlite_db: Database, daemon: Callable[..., subprocess.Popen[str]]
) -> None:
    child = daemon(sqlite_db, "hang")
    child.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(0.3)
    while child.poll() is None:  # two signals that come close together may count as one
        child.send_signal(signal.SIGINT)
        time.sleep(0.1)
    assert child.returncode == 130


@pytest.mark.slow
def test_a_killed_daemon_is_replaced_at_once(
    database: Database, daemon: Callable[..., subprocess.Popen[str]], supervise: Callable[..., Supervisor]
) -> None:
    child = daemon(database)
    heir = Steady(context_of(database))
    supervise(heir)
    assert not heir.worked.wait(0.3)
    child.kill()
    child.wait()
    assert heir.worked.wait(60)  # the lease would last 300 s


def test_handlers_come_back() -> None:
    before = [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)]
    heard: list[str] = []
    told = threading.Event()

    def stop(name: str) -> None:
        heard.append(name)
        told.set()

    with stop_on_signals(stop):
        signal.raise_signal(signal.SIGTERM)
        assert told.wait(60)
    assert heard == ["SIGTERM"]
    assert [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)] == before
