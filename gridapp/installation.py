"""An installation: its settings and its database, opened or made. What every command needs, and no agent."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from sqlalchemy import Connection, select

from gridapp import schema
from gridcore.clock import SystemClock
from gridcore.db import Database, insert_rows
from gridcore.errors import UsageError
from gridcore.settings import Settings
from gridcore.tables import instance
from prodsys.jobs.store import QUEUE
from prodsys.tables import queue

#: Settings beside the database of an installation.
SETTINGS_FILE = "tierflow.toml"

INSTANCE = select(instance.c.uuid)
QUEUES = select(queue.c.id)


@dataclass(frozen=True, slots=True)
class Installation:
    """One Tierflow: its settings and its database."""

    settings: Settings
    database: Database

    def close(self) -> None:
        """Close the connections."""
        self.database.close()


def connect(settings: Settings) -> Installation:
    """An existing installation. Raises UsageError where there is none or its schema is another."""
    database = _database(settings)
    if database.dialect == "sqlite" and not Path(database.url.database or "").exists():
        raise UsageError(
            f"there is no Tierflow in {settings.dir}",
            hint="name its directory with --dir, or make one: tierflow up --dir DIR",
        )
    schema.require_current(database)
    return Installation(settings, database)


def create(settings: Settings) -> Installation:
    """The installation of these settings, made or upgraded as needed."""
    settings.dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    database = _database(settings)
    if database.dialect == "sqlite":
        # SQLite would make it by the umask, and it holds the users' sandboxes. Its log takes the same mode.
        with suppress(OSError):  # SQLite tells it better
            Path(database.url.database or "").touch(mode=0o600)
    schema.upgrade(database)
    database.transaction(_first_rows)
    return Installation(settings, database)


def _database(settings: Settings) -> Database:
    return Database(settings.database_url(), statement_timeout_s=settings.database.statement_timeout_s)


def _first_rows(conn: Connection) -> None:
    if conn.execute(INSTANCE).first() is None:
        now = SystemClock().now()
        insert_rows(conn, instance, [{"id": 1, "uuid": uuid4().hex, "created_at": now}])
    if conn.execute(QUEUES).first() is None:
        insert_rows(conn, queue, [{"id": QUEUE, "name": "central"}])
