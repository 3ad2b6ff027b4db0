"""The schema and its one history: create, upgrade, compare.

Alembic is loaded only where the schema is changed or compared: every command asks for the revision.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Select, String, column, select, table
from sqlalchemy.exc import DBAPIError

import datamgmt.tables  # noqa: F401
import prodsys.tables  # noqa: F401
from gridcore.db import Database
from gridcore.db.types import metadata
from gridcore.errors import UsageError

if TYPE_CHECKING:
    from alembic.config import Config

MIGRATIONS = Path(__file__).parent / "migrations"
#: The newest revision this code knows; a test holds it against the history.
HEAD = "0002"

REVISION_TABLE = "alembic_version"
REVISION: Select[str] = select(column("version_num", String)).select_from(table(REVISION_TABLE))


def _config(conn: Connection | None = None) -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = conn
    return config


def newest() -> str | None:
    """The last revision of the history."""
    from alembic.script import ScriptDirectory

    return ScriptDirectory.from_config(_config()).get_current_head()


def current(conn: Connection) -> str | None:
    """The database's revision; None where it is empty. For a connection in autocommit."""
    try:
        return conn.execute(REVISION).scalar_one_or_none()
    except DBAPIError as error:
        if REVISION_TABLE in str(error.orig):
            return None  # there is no such table yet
        raise


def upgrade(database: Database) -> str:
    """Bring the database to the newest revision, whatever it holds; the revision."""
    with database.snapshot() as conn:
        if current(conn) == HEAD:
            return HEAD
    from alembic import command

    database.transaction(lambda conn: command.upgrade(_config(conn), "head"))
    return HEAD


def require_current(database: Database) -> None:
    """Raises UsageError where the schema is older or newer than this code."""
    with database.snapshot() as conn:
        found = current(conn)
    if found != HEAD:
        raise UsageError(
            f"the database's schema is {found or 'missing'}, this Tierflow needs {HEAD}",
            hint="run: tierflow db upgrade",
        )


def differences(conn: Connection) -> list[str]:
    """What the tables of this code and those of the database do not share; empty when all is well."""
    from alembic.autogenerate import compare_metadata
    from alembic.runtime.migration import MigrationContext

    context = MigrationContext.configure(conn, opts={"compare_type": False})
    return [str(one) for one in compare_metadata(context, metadata)]
