"""The schema and its one history: create, upgrade, compare.

Alembic is loaded only where the schema is changed or compared: every command asks for the revision.

A migration names in `compatible_from` the oldest code that goes on working after it: one that only expands
names the revision before it or an older one, one that contracts names itself. The upgrade leaves the answer
for its own revision in the database, so that older code, which has never seen the migration, can read it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Select, String, bindparam, column, select, table
from sqlalchemy.exc import DBAPIError

import datamgmt.tables  # noqa: F401
import prodsys.tables  # noqa: F401
from gridcore.clock import SystemClock
from gridcore.db import Database, insert_rows
from gridcore.db.types import metadata
from gridcore.errors import UsageError
from gridcore.tables import revision

if TYPE_CHECKING:
    from alembic.config import Config

MIGRATIONS = Path(__file__).parent / "migrations"
#: The newest revision this code knows; a test holds it against the history.
HEAD = "0003"

REVISION_TABLE = "alembic_version"
REVISION: Select[str] = select(column("version_num", String)).select_from(table(REVISION_TABLE))
#: Indexes that only some databases have.
PARTICULAR = frozenset(["ix_dataset_name_like"])
#: Who has written the rows of `revision` that speak of the schema.
SCHEMA = "schema"
OLDEST: Select[str | None] = (
    select(revision.c.summary)
    .where(revision.c.actor == SCHEMA, revision.c.digest == bindparam("of_schema"))
    .order_by(revision.c.seq.desc())
    .limit(1)
)


def _config(conn: Connection | None = None) -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = conn
    return config


def history() -> list[tuple[str, str]]:
    """(revision, oldest code that works after it), the first one first."""
    from alembic.script import ScriptDirectory

    scripts = list(ScriptDirectory.from_config(_config()).walk_revisions())
    return [(one.revision, getattr(one.module, "compatible_from", one.revision)) for one in reversed(scripts)]


def oldest_code(steps: Sequence[tuple[str, str]]) -> str:
    """The oldest revision of code that works on a database which all these steps have made.

    Steps are (revision, oldest code that works after it), in order; code must suit all steps it lacks.
    """
    oldest, needed = steps[-1]
    for name, compatible in reversed(steps[:-1]):
        if name < needed:
            break
        oldest, needed = name, max(needed, compatible)
    return oldest


def current(conn: Connection) -> str | None:
    """The database's revision; None where it is empty. For a connection in autocommit."""
    try:
        return conn.execute(REVISION).scalar_one_or_none()
    except DBAPIError as error:
        if REVISION_TABLE in str(error.orig):
            return None  # there is no such table yet
        raise


def compatible(conn: Connection, found: str) -> bool:
    """Whether this code works on a database of that revision: its own, or a newer one that says so."""
    if found <= HEAD:
        return found == HEAD
    oldest = conn.execute(OLDEST, {"of_schema": found}).scalar_one_or_none()
    return oldest is not None and oldest <= HEAD


def upgrade(database: Database) -> str:
    """Bring the database to the newest revision, whatever it holds; its revision then.

    A newer one that this code works on stays as it is. Raises UsageError for any other newer one.
    """
    with database.snapshot() as conn:
        found = current(conn)
        if found is not None and found >= HEAD:
            _require(conn, found)
            return found
    database.transaction(lambda conn: _upgrade(conn, found))
    return HEAD


def _upgrade(conn: Connection, found: str | None) -> None:
    from alembic import command

    command.upgrade(_config(conn), "head")
    if found is not None:  # older code may be at work only where there was a schema before
        note(conn, HEAD, oldest_code(history()))


def note(conn: Connection, schema: str, oldest: str) -> None:
    """Leave in the database which code works on it from this revision on."""
    row = {"at": SystemClock().now(), "actor": SCHEMA, "digest": schema, "summary": oldest}
    insert_rows(conn, revision, [row])


def require_current(database: Database) -> None:
    """Raises UsageError where the schema is older than this code, or newer and not for it."""
    with database.snapshot() as conn:
        _require(conn, current(conn))


def _require(conn: Connection, found: str | None) -> None:
    if found is not None and compatible(conn, found):
        return
    if found is not None and found > HEAD:
        raise UsageError(
            f"the database's schema is {found}, newer than this Tierflow's {HEAD} and not made for it",
            hint="use the Tierflow that made it, or a newer one",
        )
    raise UsageError(
        f"the database's schema is {found or 'missing'}, this Tierflow needs {HEAD}",
        hint="run: tierflow db upgrade",
    )


def differences(conn: Connection) -> list[str]:
    """What the tables of this code and those of the database do not share; empty when all is well."""
    from alembic.autogenerate import compare_metadata
    from alembic.runtime.migration import MigrationContext

    def shared(thing: Any, name: str | None, *_: Any) -> bool:
        return name not in PARTICULAR

    context = MigrationContext.configure(conn, opts={"compare_type": False, "include_object": shared})
    return [str(one) for one in compare_metadata(context, metadata)]
