"""The grid in the foreground: agents, API and page in one process, from the first start to Ctrl-C."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click

from agents.runtime.signals import stop_on_signals
from agents.runtime.supervisor import Supervisor
from gridapp import session, wiring
from gridapp.installation import Installation
from gridcore import identity, log, topnames
from gridcore.identity import Action
from gridcore.settings import Settings
from prodsys.executors.local import LocalExecutor
from prodsys.queue import endpoints

#: Seconds from the first signal until the process has ended.
STOP_S = 5.0
#: Of these, what the page and the interpreter may need at the end on a busy host. Wrappers give payloads
#: their whole grace whether we wait for them or not.
RESERVE_S = 2.0

Say = Callable[[str], None]


def run(directory: Path | None, config: Path | None, *, port: int | None, say: Say) -> None:
    """Run the grid until stopped; the page's URL is printed on stdout.

    A new directory gets the embedded grid. Raises GridError where it cannot start, or where an agent could
    not be kept alive.
    """
    topnames.check()
    started = session.start(directory, config)
    installation = started.installation
    try:
        home = installation.settings.dir
        if started.applied:
            say(f"{home} is new: applied the embedded grid, {started.applied} items")
        who = session.require(installation, Action.AGENT_CONTROL)
        _configure_log(installation.settings)
        say(f"the grid in {home} runs as {who.name}, payloads as {identity.unix_login()}")
        _run(installation, (), port, say)
    finally:
        installation.close()


def run_agent(directory: Path | None, config: Path | None, name: str, *, say: Say) -> None:
    """Run one agent alone until stopped; its payloads live on and are adopted by whoever comes next.

    Raises UsageError for an unknown name, GridError where it could not be kept alive.
    """
    topnames.check()
    installation = session.connect(directory, config)
    try:
        session.require(installation, Action.AGENT_CONTROL)
        _configure_log(installation.settings)
        _run(installation, [name], None, say)
    finally:
        installation.close()


def _configure_log(settings: Settings) -> None:
    log.configure(settings.log.level, settings.log.as_json)


def _run(installation: Installation, only: Collection[str], port: int | None, say: Say) -> None:
    """The agents until stopped: all of them with the page, payloads stopped at the end, or some without."""
    shared = wiring.context(installation)
    supervisor = Supervisor(wiring.agents(shared, only=only), shared, "agent" if only else "up")
    stopper = _Stopper(supervisor, {} if only else local_executors(installation))
    with ExitStack() as stack:
        stack.enter_context(stop_on_signals(stopper.stop))
        if not only:
            click.echo(stack.enter_context(_page(installation, port)))
        stack.callback(supervisor.stop)
        supervisor.start()
        say("stop it with Ctrl-C")
        say(f"stopping: {supervisor.wait()}")
        left = stop_payloads(stopper.ours, stopper.seconds_left(installation.settings.work.stop_grace_s))
        if left:
            say(f"{left} payloads are still ending; the next start collects them")


@contextmanager
def _page(installation: Installation, port: int | None) -> Iterator[str]:
    """API and page served within; the URL."""
    from gridapp.api.app import create_app
    from gridapp.api.guard import LOOPBACK
    from gridapp.api.server import serve

    api = installation.settings.api
    app = create_app(installation, {*LOOPBACK, api.host})
    server, url = serve(app, api.host, api.port if port is None else port)
    try:
        yield url
    finally:
        server.stop()


def local_executors(installation: Installation) -> dict[str, LocalExecutor]:
    """The local executors by the lease of their endpoint."""
    found = wiring.executors(installation).items()
    return {endpoints.lease_name(name): one for name, one in found if isinstance(one, LocalExecutor)}


class _Stopper:
    """Ends the agents when asked, and remembers when that was and which endpoints were ours."""

    def __init__(self, supervisor: Supervisor, local: Mapping[str, LocalExecutor]) -> None:
        self._supervisor = supervisor
        self._local = local
        self._asked: float | None = None
        #: Where this process ran payloads; another process may work the other endpoints.
        self.ours: list[LocalExecutor] = []

    def stop(self, reason: str) -> None:
        """Called once, in a thread of its own."""
        self._asked = time.monotonic()
        self.ours = [self._local[lease] for lease in self._supervisor.keeper.held(self._local)]
        self._supervisor.stop(reason)

    def seconds_left(self, grace_s: float) -> float:
        """What payloads may take to end: their grace, as far as STOP_S allows."""
        gone = 0.0 if self._asked is None else time.monotonic() - self._asked
        return max(0.0, min(grace_s, STOP_S - RESERVE_S - gone))


def stop_payloads(executors: Collection[LocalExecutor], grace_s: float) -> int:
    """Preempt all that runs there, everywhere at once; how many are still alive after the grace."""
    if not executors:
        return 0
    with ThreadPoolExecutor(len(executors)) as pool:
        return sum(len(alive) for alive in pool.map(lambda one: one.stop(grace_s), executors))
