"""Supervisor: runs several agents as threads of one process, and ends them within seconds."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Sequence
from dataclasses import replace

from agents.runtime import heartbeats
from agents.runtime.agent import Agent, Context
from agents.runtime.heartbeats import AgentState, Beat, one_line
from agents.runtime.leasing import LeaseKeeper
from agents.runtime.loop import AgentLoop
from agents.runtime.schedule import Schedule
from gridcore import log
from gridcore.db.leases import Owner
from gridcore.errors import GridError, Unavailable, UsageError

#: Seconds from `stop` until agents that still run are left behind; then for the helpers, each.
AGENTS_STOP_S, HELPER_STOP_S = 4.0, 0.4
#: Seconds a signal may wait for its handler.
LOOK_UP_S = 0.25

_LOG = log.get(__name__)


class Supervisor:
    """The agents of one process. An agent whose thread dies is restarted once; the second time all stop."""

    def __init__(self, agents: Sequence[Agent], context: Context, duty: str = "agents") -> None:
        """`duty` begins the owner's name on leases and heartbeats. Raises UsageError."""
        names = [agent.name for agent in agents]
        if len(set(names)) < len(names):
            raise UsageError(f"an agent is named twice: {', '.join(names)}", hint="name each agent once")
        lease = context.settings.lease
        self._context = context
        self._heartbeat_s = lease.heartbeat_s
        self.keeper = LeaseKeeper(
            context.database,
            Owner.current(duty),
            lease.seconds,
            renew_s=lease.heartbeat_s,
            clock=context.clock,
        )
        self._poke = threading.Event()
        self._loops = [AgentLoop(agent, self.keeper, self._poke.set) for agent in agents]
        self._schedule = Schedule()
        for loop in self._loops:
            for duty_ in loop.agent.duties():
                self._schedule.add(duty_, loop.mark_due)
        self._threads: dict[str, threading.Thread] = {}
        self._deaths: dict[str, list[str]] = {name: [] for name in names}
        self._failure: GridError | None = None
        self._reason = ""
        self._lifecycle = threading.Lock()
        self._stopping = threading.Event()
        self._ending = threading.Event()  # the agents have stopped; the last heartbeats are to be written
        self._ended = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="supervisor", daemon=True)

    def start(self) -> None:
        """Run the agents; after a `stop` nothing happens."""
        with self._lifecycle:
            if self._stopping.is_set() or self._threads:
                return
            # Once for the life of a daemon: what starting has made stays for good, so that collections need
            # not walk it, which holds up all agents here. Garbage is collected first, or it would stay too.
            gc.collect()
            gc.freeze()
            self.keeper.start()
            for loop in self._loops:
                self._launch(loop)
            self._schedule.start()
            self._watcher.start()
            _LOG.info("started", agents=" ".join(self._threads), owner=self.keeper.owner.name)

    def stop(self, reason: str = "asked to stop") -> None:
        """End everything within 5 s; harmless when repeated, before `start`, and from any thread."""
        self._stopping.set()
        for loop in self._loops:
            loop.stop()
        with self._lifecycle:
            if self._ending.is_set():
                return
            self._reason = reason
            self._schedule.close()
            stuck = self._join_agents()
            self.keeper.close(keep=[name for loop in stuck for name in loop.names], timeout_s=HELPER_STOP_S)
            self._ending.set()
            self._poke.set()
            if threading.current_thread() is not self._watcher:
                if self._watcher.is_alive():
                    self._watcher.join(HELPER_STOP_S)
                self._ended.set()
            _LOG.info("stopped", reason=reason)

    def wait(self, timeout_s: float | None = None) -> str:
        """Wait until stopped; the reason, empty at the time-out. Raises GridError where it failed."""
        if timeout_s is None:
            # A signal that comes just before an endless wait is handled only after it: so look up often.
            while not self._ended.wait(LOOK_UP_S):
                pass
        elif not self._ended.wait(timeout_s):
            return ""
        if self._failure:
            raise self._failure
        return self._reason

    def _launch(self, loop: AgentLoop) -> None:
        name = loop.agent.name
        self._threads[name] = threading.Thread(target=self._run, args=(loop,), name=name, daemon=True)
        self._threads[name].start()

    def _run(self, loop: AgentLoop) -> None:
        try:
            loop.run()
        except BaseException as error:
            self._deaths[loop.agent.name].append(one_line(error))
            _LOG.exception("agent died", agent=loop.agent.name)
        finally:
            self._poke.set()

    def _join_agents(self) -> list[AgentLoop]:
        """Wait for the agents' ends; those that do not come."""
        deadline = time.monotonic() + AGENTS_STOP_S
        for thread in self._threads.values():
            if thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))
        stuck = [loop for loop in self._loops if self._alive(loop)]
        for loop in stuck:
            _LOG.warning("agent did not stop in time", agent=loop.agent.name)
        return stuck

    def _alive(self, loop: AgentLoop) -> bool:
        thread = self._threads.get(loop.agent.name)
        return thread is not None and thread.is_alive()

    def _watch(self) -> None:
        """Write heartbeats, restart what died, until the end; then say who has stopped."""
        while not self._ending.is_set():
            self._write_beats([loop.beat for loop in self._loops])
            self._poke.wait(self._heartbeat_s)
            self._poke.clear()
            self._look_after()
        self._write_beats([self._last_beat(loop) for loop in self._loops])
        self._ended.set()

    def _look_after(self) -> None:
        for loop in self._loops:
            if self._stopping.is_set():
                return
            if self._alive(loop):
                continue
            deaths = self._deaths[loop.agent.name]
            if len(deaths) > 1:
                self._fail(f"agent {loop.agent.name} died twice, the last time of {deaths[-1]}")
                return
            _LOG.warning("agent restarted", agent=loop.agent.name)
            self._launch(loop)
        if not self.keeper.alive() and not self._stopping.is_set():
            self._fail("the thread that renews the leases died")

    def _fail(self, reason: str) -> None:
        self._failure = GridError(reason, hint="the traceback is in the log; restart after a repair")
        _LOG.error("giving up", reason=reason)
        self.stop(reason)

    def _last_beat(self, loop: AgentLoop) -> Beat:
        if self._alive(loop):
            return replace(loop.beat, note="did not stop in time")
        deaths = self._deaths[loop.agent.name]
        note = deaths[-1] if deaths else loop.beat.note
        return replace(loop.beat, state=AgentState.STOPPED, busy=None, note=note)

    def _write_beats(self, beats: Sequence[Beat]) -> None:
        owner, now = self.keeper.owner, self._context.clock.monotonic()
        try:
            self._context.database.transaction(
                lambda conn: heartbeats.write(conn, owner, beats, now, self._heartbeat_s)
            )
        except Unavailable as error:
            _LOG.warning("heartbeats not written", error=error.message)
        except Exception:
            _LOG.exception("heartbeats not written")
