"""Acts that begin at the same moment, and transactions that meet."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

from sqlalchemy import Connection, text

from gridcore.db import Database

WAITERS = text(
    "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
)


def at_once(*acts: Callable[[], Any]) -> list[Any]:
    """All of them in threads that start together; what they return."""
    barrier = threading.Barrier(len(acts))

    def run(act: Callable[[], Any]) -> Any:
        barrier.wait(60)
        return act()

    with ThreadPoolExecutor(len(acts)) as pool:
        return list(pool.map(run, acts))


def in_between(database: Database, first: Callable[[Connection], Any], second: Callable[[], Any]) -> Any:
    """`first` in a transaction that does not end before `second`, begun meanwhile, has ended or waits for a
    lock; what both return. On SQLite, which has one writer, `second` comes after."""
    begun: list[Future[Any]] = []

    def unit(conn: Connection) -> Any:
        found = first(conn)
        begun[:] = begun or [pool.submit(second)]
        while database.dialect != "sqlite" and not begun[0].done() and not _waits(database):
            wait(begun, 0.01)
        return found

    with ThreadPoolExecutor(1) as pool:
        return database.transaction(unit), begun[0].result()


def _waits(database: Database) -> bool:
    """Whether somebody waits for a lock."""
    with database.snapshot() as conn:
        return bool(conn.execute(WAITERS).scalar_one())
