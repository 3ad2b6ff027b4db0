"""Commands for the database: its schema, backups of it, and their return."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gridapp.cli import output
from gridapp.cli.verbs import FILE, Noun, Place, Record, json_option, shown

if TYPE_CHECKING:
    from gridapp.backup import Manifest
    from gridcore.db import Database

#: Longest read of a backup or a restore.
PATIENCE_S = 6 * 3600.0


@click.group(cls=Noun)
def db() -> None:
    """The database: its schema, backups of it, and their return."""


@db.command("upgrade")
@shown()
@click.pass_obj
def db_upgrade(place: Place) -> Record:
    """Make the database or bring it to this release's schema; the data stays.

    Agents of the last release may go on working meanwhile. What they do not count is counted by running this
    once more after they have stopped.
    """
    from gridapp import installation, recounting, session

    made = installation.create(session.settings(place.dir, place.config))
    try:
        counted = recounting.mend(made.database)
    finally:
        made.close()
    if counted:
        output.say(f"{sum(counted.values())} counters were wrong and are right now: {', '.join(counted)}")
    return _revisions(place)


@db.command("current")
@shown()
@click.pass_obj
def db_current(place: Place) -> Record:
    """The database's schema and this release's."""
    return _revisions(place)


def _revisions(place: Place) -> Record:
    from gridapp import schema, session

    with session.database(session.settings(place.dir, place.config)) as database, database.snapshot() as conn:
        return {"current": schema.current(conn), "needed": schema.HEAD}


@db.command("check")
@json_option
@click.pass_context
def db_check(ctx: click.Context, json: bool) -> None:
    """How the database differs from this release's tables; exit status 1 where it does."""
    from gridapp import doctor as checks
    from gridapp import session

    place = ctx.find_object(Place) or Place()
    with session.database(session.settings(place.dir, place.config)) as database:
        found = [{"difference": what, "cure": cure} for what, cure in checks.tables(database)]
    output.show(found, ("difference", "cure"), json)
    if found:
        ctx.exit(1)


@db.command("backup")
@click.argument("file", type=FILE)
@shown()
@click.pass_obj
def db_backup(place: Place, file: Path) -> Record:
    """Write the whole database into FILE while agents work, as it is at one moment.

    FILE is new, and only its owner can read it: it holds what users have handed in. Settings and the files on
    storage are not in it. PostgreSQL needs pg_dump.
    """
    from gridapp import backup, session

    with session.database(session.settings(place.dir, place.config)) as database:
        manifest = backup.backup(database, file)
    return {"file": str(file), **_told(manifest), "bytes": file.stat().st_size}


@db.command("restore")
@click.argument("file", type=FILE)
@click.option("--force", is_flag=True, help="Replace what the database holds.")
@json_option
@click.pass_context
def db_restore(ctx: click.Context, file: Path, force: bool, json: bool) -> None:
    """Make the database what it was when FILE was written, all or nothing, and look for faults.

    The agents must have stopped. Leases of that time hold no more. Exit status 1 where something is wrong.
    """
    from gridapp import restore, schema
    from gridcore.identity import unix_login

    place = ctx.find_object(Place) or Place()
    with _any_database(place) as database:
        manifest = restore.restore(database, file, force=force, actor=unix_login())
        found = restore.faults(database, manifest)
    output.show({"file": str(file), **_told(manifest), "faults": found}, as_json=json)
    if manifest.contents.schema < schema.HEAD:
        output.say(f"the schema is {manifest.contents.schema}: run tierflow db upgrade")
    if found:
        ctx.exit(1)


@contextmanager
def _any_database(place: Place) -> Iterator[Database]:
    """The database of the settings, which may not exist yet."""
    from gridapp import session
    from gridcore.db import Database

    database = Database(
        session.settings(place.dir, place.config).database_url(), statement_timeout_s=PATIENCE_S
    )
    try:
        yield database
    finally:
        database.close()


def _told(manifest: Manifest) -> Record:
    return {
        "schema": manifest.contents.schema,
        "instance": manifest.contents.instance,
        "taken_at": manifest.taken_at,
        "tables": len(manifest.contents.rows),
        "rows": sum(manifest.contents.rows.values()),
    }
