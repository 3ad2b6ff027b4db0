"""Database: the one way to transactions and snapshots, alike on SQLite, PostgreSQL and Oracle."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, Select, create_engine, event, func, make_url, select
from sqlalchemy.exc import DBAPIError, DisconnectionError, SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry

from gridcore import metrics
from gridcore.clock import Clock, SystemClock
from gridcore.db.flock import file_lock, refuse_network_disk
from gridcore.errors import Busy, Unavailable, UsageError

T = TypeVar("T")

ATTEMPTS = 8
#: A connection unused for longer is tried before it is used, in seconds.
IDLE_S = 5.0
#: Serialization failure, deadlock, lock not available.
RETRYABLE_SQLSTATES = frozenset(["40001", "40P01", "55P03"])

CLOCK_TIMESTAMP: Select[datetime] = select(func.clock_timestamp())
SYSTIMESTAMP: Select[datetime] = select(func.sys_extract_utc(func.systimestamp()))


class Stale(Exception):
    """What a transaction has read was changed by another: it must begin again."""


class Database:
    """One database. Threads may share it; a process that forks may not."""

    def __init__(
        self,
        url: str,
        *,
        statement_timeout_s: float = 5.0,
        lock_wait_s: float = 60.0,
        clock: Clock | None = None,
    ) -> None:
        """`clock` replaces the database's clock, for tests within one process."""
        self.url = make_url(url)
        self.dialect = self.url.get_backend_name()
        self.statement_timeout_s = statement_timeout_s
        self.lock_wait_s = lock_wait_s
        self._clock = clock
        self._last = datetime.min.replace(tzinfo=UTC)
        self._inside = threading.local()
        if self.dialect not in ("sqlite", "postgresql", "oracle"):
            raise UsageError(
                f"database.url names {self.dialect!r}", hint="Tierflow knows sqlite, postgresql and oracle"
            )
        if self.dialect == "sqlite":
            if not self.url.database or self.url.database == ":memory:":
                raise UsageError("database.url names no file", hint="use sqlite:///path/tierflow.db")
            refuse_network_disk(self.url.database)
        self._writer = self._engine(read_only=False)
        self._reader = self._engine(read_only=True)

    def transaction(self, unit: Callable[[Connection], T]) -> T:
        """Run the unit in one transaction; the whole unit again on deadlock, serialization failure or Stale.

        The unit must do nothing but database work: it may run more than once. Raises Unavailable when
        the database does not answer, Busy when its lock is not to be had or others always come first.
        """
        if getattr(self._inside, "transaction", False):
            raise RuntimeError("a transaction within a transaction")
        self._inside.transaction = True
        try:
            attempt = 0
            while True:
                attempt += 1
                try:
                    return self._once(unit)
                except (Stale, DBAPIError) as error:
                    if isinstance(error, DBAPIError) and not _retryable(error):
                        raise self._translated(error) from error
                    if attempt == ATTEMPTS:
                        hint = "try again in a moment"
                        raise Busy("others keep changing the same rows", hint=hint) from error
                metrics.count("transaction_repeats")
                time.sleep(random.uniform(0, 0.01 * 2**attempt))
        finally:
            self._inside.transaction = False

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """A read-only connection in autocommit: each statement sees its own moment, none may last long."""
        try:
            with self._reader.connect() as conn:
                if self.dialect == "sqlite":
                    _limit_sqlite(conn, time.monotonic() + self.statement_timeout_s)
                yield conn
        except DBAPIError as error:
            raise self._translated(error) from error

    def now(self, conn: Connection) -> datetime:
        """The time all owners of leases agree on, aware UTC; call it as `dbnow(conn)`."""
        if self._clock is not None:
            return self._clock.now()
        if self.dialect == "sqlite":
            moment = SystemClock().now()
            self._last = max(moment, self._last)
            return self._last
        statement = CLOCK_TIMESTAMP if self.dialect == "postgresql" else SYSTIMESTAMP
        value = conn.execute(statement).scalar_one()
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)

    def close(self) -> None:
        """Close all connections."""
        self._writer.dispose()
        self._reader.dispose()

    def _once(self, unit: Callable[[Connection], T]) -> T:
        guard = nullcontext()
        if self.dialect == "sqlite":
            guard = file_lock(f"{self.url.database}.lock", self.lock_wait_s)  # type: ignore[assignment]
        with guard:
            began = time.monotonic()
            with self._writer.begin() as conn:
                result = unit(conn)
            metrics.observe("transaction_seconds", time.monotonic() - began)
        return result

    def _translated(self, error: DBAPIError) -> Exception:
        reason = str(error.orig).strip().split("\n")[0]
        if error.connection_invalidated or "unable to open" in reason or "connection" in reason.lower():
            return Unavailable(
                f"the database does not answer: {reason}",
                hint=f"is {self.url.render_as_string(hide_password=True)} up and reachable?",
            )
        if "interrupted" in reason or "statement timeout" in reason:
            return Unavailable(
                f"a report took longer than {self.statement_timeout_s:g} s and was stopped",
                hint="narrow the question",
            )
        if "disk is full" in reason or "No space left" in reason:
            return Unavailable(
                f"the database's disk is full: {reason}",
                hint="free some space: nothing is lost",
            )
        return error

    def _engine(self, *, read_only: bool) -> Engine:
        options: dict[str, Any] = {}
        if self.dialect == "postgresql":
            limit = int(self.statement_timeout_s * 1000)
            reading = f"-c default_transaction_read_only=on -c statement_timeout={limit}"
            # Writers name their rows: a plan made while a table was small must not walk it once it is big.
            writing = "-c enable_seqscan=off"
            # Compiling a statement of many walks takes seconds, for an answer of milliseconds.
            chosen = f"{reading if read_only else writing} -c jit=off"
            options["connect_args"] = {"connect_timeout": 10, "options": chosen}
        if read_only and self.dialect != "sqlite":
            options["isolation_level"] = "AUTOCOMMIT"
        engine = create_engine(
            self.url,
            pool_size=10,
            max_overflow=40,
            pool_timeout=30,
            execution_options={"database": self},
            **options,
        )
        if self.dialect == "sqlite":
            _prepare_sqlite(engine, read_only=read_only)
        else:
            _ping_idle(engine)
        return engine


def _ping_idle(engine: Engine) -> None:
    """Look after connections that lay idle: a ping before every transaction would be a round trip of each."""

    @event.listens_for(engine, "checkin")
    def checkin(_: Any, record: ConnectionPoolEntry) -> None:
        record.info["used"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def checkout(raw: Any, record: ConnectionPoolEntry, _: Any) -> None:
        if time.monotonic() - record.info.get("used", time.monotonic()) < IDLE_S:
            return
        try:
            engine.dialect.do_ping(raw)
        except Exception as error:
            raise DisconnectionError from error


def dbnow(conn: Connection) -> datetime:
    """The database's time, aware UTC. On SQLite the host's, read now and never going back."""
    database: Database = conn.get_execution_options()["database"]
    return database.now(conn)


def is_sqlite(conn: Connection) -> bool:
    """Whether row locks are needless: SQLite has one writer."""
    return conn.dialect.name == "sqlite"


def _prepare_sqlite(engine: Engine, *, read_only: bool) -> None:
    @event.listens_for(engine, "connect")
    def connect(raw: Any, _: ConnectionPoolEntry) -> None:
        raw.isolation_level = None  # transactions are begun by us, below
        cursor = raw.cursor()
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.execute("PRAGMA busy_timeout = 30000")
        if read_only:
            cursor.execute("PRAGMA query_only = ON")
        else:  # a claim touches some hundred pages: keep them, and check-point by the dozen of claims
            cursor.execute("PRAGMA cache_size = -65536")
            cursor.execute("PRAGMA wal_autocheckpoint = 10000")
        cursor.close()

    if not read_only:

        @event.listens_for(engine, "begin")
        def begin(conn: Connection) -> None:
            conn.exec_driver_sql("BEGIN IMMEDIATE")


def _limit_sqlite(conn: Connection, deadline: float) -> None:
    raw: Any = conn.connection.driver_connection
    raw.set_progress_handler(lambda: int(time.monotonic() > deadline), 20_000)


def _retryable(error: SQLAlchemyError) -> bool:
    origin = getattr(error, "orig", None)
    state = getattr(origin, "sqlstate", None)
    return state in RETRYABLE_SQLSTATES or "database is locked" in str(origin)
