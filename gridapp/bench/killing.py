"""A bulk kill under way in a process of its own, cut off and taken up again as an operator might."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from agents.runtime.agent import Context
from gridapp import operations
from gridapp.bench.agent import INSTANCE
from gridapp.selections import Selection
from gridcore.bus import NullBus
from gridcore.clock import SystemClock
from gridcore.db import Database
from gridcore.db.keys import Keys
from gridcore.errors import GridError
from gridcore.identity import EVERYWHERE, Principal, Role
from gridcore.settings import load
from prodsys.control.orders import OrderVerb

START_S = 120.0


@contextmanager
def under_way(url: str, task: str) -> Iterator[None]:
    """While the body runs, another process kills the jobs of the task; it is stopped where it then is."""
    context = multiprocessing.get_context("spawn")
    started, fault = context.Event(), context.SimpleQueue()
    killer = context.Process(target=_kill, args=(url, task, started, fault), daemon=True)
    killer.start()
    try:
        end = time.monotonic() + START_S
        while killer.is_alive() and time.monotonic() < end and not started.wait(0.5):
            pass
        if not started.is_set() or not fault.empty():
            ended = "time is up" if killer.is_alive() else "its process has died"
            raise GridError(f"the kill did not start: {ended if fault.empty() else fault.get()}")
        yield
    finally:
        killer.terminate()
        killer.join()


def _kill(url: str, task: str, started: Any, fault: Any) -> None:
    """Order it as the command does, with the whole authority of an operator."""
    try:
        _order(url, f"task = {task} and state = READY", started)
    except Exception as error:
        fault.put(f"{type(error).__name__}: {error}")
    started.set()


def _order(url: str, where: str, started: Any) -> None:
    database = Database(url, statement_timeout_s=600)
    context = Context(
        database=database,
        keys=Keys(database),
        settings=load(None, {"dir": "."}),
        bus=NullBus(),
        clock=SystemClock(),
        instance=INSTANCE,
    )
    actor = Principal("bench", roles={EVERYWHERE: frozenset([Role.OPERATOR])})
    wanted = Selection(where=where)
    operations.order_jobs(context, OrderVerb.KILL, wanted, actor, tell=lambda done, of: started.set())
    database.close()
