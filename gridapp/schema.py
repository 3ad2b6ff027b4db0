"""The schema and its one history: create, upgrade, compare."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

import datamgmt.tables  # noqa: F401
import prodsys.tables  # noqa: F401
from gridcore.db import Database
from gridcore.db.types import metadata
from gridcore.errors import UsageError

MIGRATIONS = Path(__file__).parent / "migrations"


def _config(conn: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = conn
    return config


def head() -> str:
    """The newest revision this code knows."""
    return ScriptDirectory.from_config(_config()).get_current_head() or ""


def current(conn: Connection) -> str | None:
    """The database's revision; None where it is empty."""
    return MigrationContext.configure(conn).get_current_revision()


def upgrade(database: Database) -> str:
    """Bring the database to the newest revision, whatever it holds; the revision."""
    with database.snapshot() as conn:
        if current(conn) == head():
            return head()
    database.transaction(lambda conn: command.upgrade(_config(conn), "head"))
    return head()


def require_current(database: Database) -> None:
    """Raises UsageError where the schema is older or newer than this code."""
    with database.snapshot() as conn:
        found = current(conn)
    if found != head():
        raise UsageError(
            f"the database's schema is {found or 'missing'}, this Tierflow needs {head()}",
            hint="run: tierflow db upgrade",
        )


def differences(conn: Connection) -> list[str]:
    """What the tables of this code and those of the database do not share; empty when all is well."""
    context = MigrationContext.configure(conn, opts={"compare_type": False})
    return [str(one) for one in compare_metadata(context, metadata)]
