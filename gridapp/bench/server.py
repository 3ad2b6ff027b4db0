"""The PostgreSQL a bench runs on: its own with packaged durability, or another, refused if it is careless."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Any, Self

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from gridapp.bench.postgres import EXTRA_HINT, USER, LocalPostgres
from gridcore.errors import Unavailable, UsageError

#: What may be lost without these is what other figures gain.
DURABLE = ("fsync", "synchronous_commit", "full_page_writes")


def driver() -> Any:
    """The module psycopg. Raises UsageError where it is not installed."""
    try:
        import psycopg
    except ImportError:
        raise UsageError("the driver psycopg is not installed", hint=EXTRA_HINT) from None
    return psycopg


def refuse_careless(settings: dict[str, str]) -> None:
    """Raises UsageError for a server that may forget what it has committed."""
    off = [f"{name}={settings[name]}" for name in DURABLE if settings[name] == "off"]
    if off:
        raise UsageError(
            f"the server runs with {', '.join(off)}: its figures would say nothing",
            hint="switch these on, or leave --dsn away: bench then starts a server of its own",
        )


def address(dsn: str) -> URL:
    """The SQLAlchemy address of a URL or of libpq's `host=... dbname=...`. Raises UsageError."""
    psycopg = driver()
    try:
        if "://" not in dsn:
            parts = psycopg.conninfo.conninfo_to_dict(dsn)
            names = {"user": "username", "password": "password", "dbname": "database"}
            known = {names[key]: value for key, value in parts.items() if key in names}
            query = {key: str(value) for key, value in parts.items() if key not in names}
            return URL.create("postgresql+psycopg", **known, query=query)
        return make_url(dsn).set(drivername="postgresql+psycopg")
    except (ArgumentError, psycopg.Error) as error:
        raise UsageError(f"--dsn is no address: {error}", hint="postgresql://user@host/database") from None


def conninfo(url: URL) -> str:
    """The address as libpq takes it."""
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


class Server:
    """Databases on a PostgreSQL server, dropped at the end; a server of one's own is stopped and removed."""

    def __init__(self, dsn: str | None = None) -> None:
        self._own: LocalPostgres | None = None
        self._made: list[str] = []
        if dsn is None:
            self._own = LocalPostgres("tfbench").start()
            query = {"host": str(self._own.home), "port": str(self._own.port)}
            self.url = URL.create("postgresql+psycopg", USER, database="postgres", query=query)
        else:
            self.url = address(dsn)

    def __enter__(self) -> Self:
        try:
            with self._connected() as conn:
                refuse_careless({name: conn.execute(f"SHOW {name}").fetchone()[0] for name in DURABLE})
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def create(self) -> URL:
        """The address of a new empty database."""
        name = f"tierflow_bench_{os.getpid()}_{len(self._made)}"
        with self._connected() as conn:
            conn.execute(f"CREATE DATABASE {name}")
        self._made.append(name)
        return self.url.set(database=name)

    def close(self) -> None:
        """Drop what was created; a server of our own is stopped and removed."""
        if self._own is not None:
            self._own.stop()
            self._own = None
            return
        if self._made:
            with self._connected() as conn:
                for name in self._made:
                    conn.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            self._made.clear()

    def _connected(self) -> Any:
        psycopg = driver()
        try:
            return psycopg.connect(conninfo(self.url), autocommit=True, connect_timeout=10)
        except psycopg.Error as error:
            reason = str(error).strip().splitlines()[0]
            where = self.url.render_as_string(hide_password=True)
            raise Unavailable(f"no answer from {where}: {reason}", hint="is it up and reachable?") from None
