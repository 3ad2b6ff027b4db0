"""Signals: SIGTERM and SIGINT ask a process to stop; the second one ends it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)
#: Exit status after the second signal.
KILLED = 130


@contextmanager
def stop_on_signals(stop: Callable[[str], object]) -> Iterator[None]:
    """Within, the first signal calls `stop("SIGTERM")` in a thread of its own, the second exits at once.

    For the main thread only; the former handlers come back at the end.
    """
    # A handler interrupts the main thread anywhere, even inside a lock; only SimpleQueue.put is safe there.
    received: SimpleQueue[str | None] = SimpleQueue()
    seen: list[int] = []

    def handle(number: int, _: FrameType | None) -> None:
        if seen:
            os._exit(KILLED)
        seen.append(number)
        received.put(signal.Signals(number).name)

    def serve() -> None:
        if name := received.get():
            stop(name)

    server = threading.Thread(target=serve, name="signals", daemon=True)
    server.start()
    former = {one: signal.signal(one, handle) for one in SIGNALS}
    try:
        yield
    finally:
        for one, handler in former.items():
            signal.signal(one, handler)
        received.put(None)
