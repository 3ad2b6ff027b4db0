"""Backup of a whole database: one file with a manifest, taken while agents work.

The file is a tar of two members: `database`, as SQLite's or PostgreSQL's own programs write it, and
`manifest.json`.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import tarfile
import tempfile
from contextlib import closing
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

from sqlalchemy import Connection, create_engine, func, inspect, select
from sqlalchemy import table as named_table
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DatabaseError
from sqlalchemy.pool import NullPool

from gridapp import postgres_client, schema
from gridcore.clock import SystemClock
from gridcore.db import Database
from gridcore.errors import GridError, UsageError
from gridcore.tables import instance, lease

FORMAT = 1
MANIFEST, PAYLOAD = "manifest.json", "database"
#: Without these a database is not ours.
OURS = frozenset([schema.REVISION_TABLE, instance.name, lease.name])

EXPORT = select(func.pg_export_snapshot())
WHO = select(instance.c.uuid)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What a database holds: its schema, the oldest code for it, whose it is, rows by table."""

    schema: str
    oldest_code: str
    instance: str | None
    rows: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a backup says of itself."""

    format: int
    dialect: str
    program: str
    taken_at: str
    size: int
    sha256: str
    contents: Contents

    @classmethod
    def from_json(cls, text: bytes) -> Manifest:
        """Raises TypeError, ValueError, KeyError for what is none."""
        found = json.loads(text)
        return cls(**{**found, "contents": Contents(**found["contents"])})


# --- backup ----------------------------------------------------------------------------------------------


def backup(database: Database, target: Path) -> Manifest:
    """Write a backup of mode 0600; it appears under its name when it is whole. What it says of itself.

    Raises UsageError where it cannot be made, GridError where a program fails.
    """
    if target.exists():
        raise UsageError(f"{target} exists already", hint="give the backup a name of its own")
    try:
        with tempfile.TemporaryDirectory(prefix=".tierflow-", dir=target.parent) as place:
            payload = Path(place, PAYLOAD)
            contents = _copy(database, payload)
            manifest = _manifest(database.dialect, payload, contents)
            part = Path(place, "whole")
            _pack(part, payload, manifest)
            part.rename(target)
    except OSError as error:
        raise UsageError(
            f"{target}: {error.strerror}", hint="name a file in a directory that you may write to"
        ) from None
    return manifest


def _copy(database: Database, payload: Path) -> Contents:
    if database.dialect == "sqlite":
        return _copy_sqlite(Path(str(database.url.database)), payload)
    if database.dialect == "postgresql":
        return _dump_postgres(database, payload)
    raise UsageError(
        f"backups of {database.dialect} are its own business", hint="use the database's programs: expdp, RMAN"
    )


def _copy_sqlite(path: Path, payload: Path) -> Contents:
    payload.touch(mode=0o600)
    try:
        with closing(sqlite3.connect(path, timeout=30)) as source, closing(sqlite3.connect(payload)) as copy:
            source.execute("PRAGMA query_only = ON")
            source.backup(copy)  # in one step: one moment of the database, whoever writes
            copy.execute("PRAGMA journal_mode = DELETE")
    except sqlite3.Error as error:
        raise GridError(f"{path} cannot be copied: {error}", hint="see: tierflow doctor") from error
    return contents_of_file(payload)


def contents_of_file(payload: Path) -> Contents:
    """What a SQLite file holds, which is read whole. Raises GridError where it is damaged."""
    try:
        with engine(f"sqlite:///{payload}").connect() as conn:
            verdict = conn.exec_driver_sql("PRAGMA quick_check(1)").scalar_one()
            if verdict == "ok":
                return contents(conn)
    except DatabaseError as error:
        verdict = str(error.orig)
    raise GridError(f"the copy of the database is damaged: {verdict}", hint="check the disk")


def _dump_postgres(database: Database, payload: Path) -> Contents:
    postgres_client.program("pg_dump")
    with engine(database.url, isolation_level="REPEATABLE READ").connect() as conn:
        snapshot = conn.execute(EXPORT).scalar_one()
        found = contents(conn)
        postgres_client.dump(database.url, payload, snapshot)
    return found


def engine(url: Any, **options: Any) -> Engine:
    """A way to the database without our time limits and locks; nothing is kept open."""
    return create_engine(url, poolclass=NullPool, **options)


def contents(conn: Connection) -> Contents:
    """What the database holds now. Raises UsageError where it is not Tierflow's."""
    names = sorted(inspect(conn).get_table_names())
    found = conn.execute(schema.REVISION).scalar_one_or_none() if set(names) >= OURS else None
    if found is None:
        raise UsageError("there is no Tierflow in this database", hint="see: tierflow db current")
    oldest = conn.execute(schema.OLDEST, {"of_schema": found}).scalar_one_or_none()
    rows = {name: conn.execute(_rows(name)).scalar_one() for name in names}
    owner = conn.execute(WHO).scalar_one_or_none()
    return Contents(schema=found, oldest_code=oldest or found, instance=owner, rows=rows)


def _rows(name: str) -> Any:
    return select(func.count()).select_from(named_table(name))


def _manifest(dialect: str, payload: Path, found: Contents) -> Manifest:
    return Manifest(
        format=FORMAT,
        dialect=dialect,
        program=version("tierflow"),
        taken_at=SystemClock().now().isoformat(timespec="seconds"),
        size=payload.stat().st_size,
        sha256=digest(payload),
        contents=found,
    )


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _pack(part: Path, payload: Path, manifest: Manifest) -> None:
    """One file of both, on disk when this returns; the payload is gone."""
    told = payload.with_name(MANIFEST)
    told.write_text(json.dumps(asdict(manifest), indent=1) + "\n")
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
        with tarfile.open(fileobj=out, mode="w") as archive:
            archive.add(told, MANIFEST)
            archive.add(payload, PAYLOAD)
        out.flush()
        os.fsync(out.fileno())
    payload.unlink()


# --- what a backup says ---------------------------------------------------------------------------------


def manifest_of(file: Path) -> Manifest:
    """What a backup says of itself. Raises UsageError for a file that is none."""
    try:
        with tarfile.open(file, "r:") as archive:
            return Manifest.from_json(member(archive, MANIFEST).read())
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}", hint="name a backup") from None
    except (tarfile.TarError, KeyError, TypeError, ValueError):
        raise UsageError(
            f"{file} is no backup of Tierflow", hint="make one with: tierflow db backup"
        ) from None


def member(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    """A member to read from. Raises KeyError where there is none."""
    found = archive.extractfile(name)
    if found is None:
        raise KeyError(name)
    return found
