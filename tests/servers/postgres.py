"""An ephemeral PostgreSQL for the tests: careless and quick, gone with the session."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable

from gridapp.bench.postgres import LocalPostgres, programs

__all__ = ["Postgres", "programs"]

#: Bytes free from which on a file system in memory is used.
ROOM = 4_000_000_000
CARELESS = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "max_connections=100")


class Postgres:
    """Databases on a server of our own, on a Unix socket and a free loopback port."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.own = LocalPostgres("tfpg", CARELESS, port=port, listen="127.0.0.1", parent=_parent())
        self._databases = 0
        self._empty = 0

    def start(self) -> Postgres:
        """Initialise and start; up when this returns."""
        self.own.start(synced=False)
        return self

    def stop(self) -> None:
        """Stop at once and remove everything."""
        self.own.stop()

    def url(self, database: str) -> str:
        """SQLAlchemy's address of one database."""
        return f"postgresql+psycopg://tierflow@/{database}?host={self.own.home}&port={self.own.port}"

    def create(self, prepare: Callable[[str], None]) -> str:
        """The URL of a new database, copied from a template that `prepare(url)` filled once."""
        import psycopg

        self._databases += 1
        name = f"t{self._databases}"
        with psycopg.connect(self._dsn(), autocommit=True) as conn:
            if self._databases == 1:
                conn.execute("CREATE DATABASE template_tierflow")
                prepare(self.url("template_tierflow"))
            way = "STRATEGY file_copy" if conn.info.server_version >= 150_000 else ""
            conn.execute(f"CREATE DATABASE {name} TEMPLATE template_tierflow {way}")
        return self.url(name)

    def drop(self, url: str) -> None:
        """Remove a database, whoever is still connected."""
        import psycopg

        name = url.partition("?")[0].rpartition("/")[2]
        with psycopg.connect(self._dsn(), autocommit=True) as conn:
            conn.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def _dsn(self) -> str:
        return f"host={self.own.home} port={self.own.port} user=tierflow dbname=postgres"

    def create_empty(self) -> str:
        """The URL of a new database without any table."""
        import psycopg

        self._empty += 1
        name = f"empty{self._empty}"
        with psycopg.connect(self._dsn(), autocommit=True) as conn:
            conn.execute(f"CREATE DATABASE {name}")
        return self.url(name)


def _parent() -> str:
    """In memory where there is room, else in /tmp: readable for the server's user, whatever TMPDIR the tests
    use."""
    memory = "/dev/shm"
    if os.path.isdir(memory) and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > ROOM:
        return "/tmp" if os.statvfs(memory).f_flag & os.ST_NOEXEC else memory
    return "/tmp"
