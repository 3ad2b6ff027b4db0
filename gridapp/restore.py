"""Restore of a whole database from a backup, all or nothing.

A restored database forgets who was at work: its fences and the keys of its jobs go on from the moment of the
restore, so that whoever held a lease before can never write, and no batch job of a time that is no more is
taken for a new one.
"""

from __future__ import annotations

import shutil
import sqlite3
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import datetime
from pathlib import Path

from sqlalchemy import (
    Delete,
    Insert,
    Update,
    bindparam,
    case,
    delete,
    exists,
    insert,
    inspect,
    literal,
    select,
    update,
)

from gridapp import postgres_client, schema
from gridapp.backup import (
    FORMAT,
    OURS,
    PAYLOAD,
    Manifest,
    contents,
    contents_of_file,
    digest,
    engine,
    manifest_of,
    member,
)
from gridapp.invariants import INVARIANTS
from gridcore import audit
from gridcore.clock import SystemClock
from gridcore.db import Database, dbnow
from gridcore.db.flock import file_lock
from gridcore.db.invariants import violations
from gridcore.db.leases import Owner
from gridcore.db.types import to_micros
from gridcore.errors import Busy, GridError, UsageError
from gridcore.tables import audit_log, heartbeat, id_range, lease

#: Changed on purpose when a database is restored.
RENEWED = frozenset([heartbeat.name, id_range.name])

LIVE = select(lease).where(lease.c.expires_at > bindparam("at", type_=lease.c.expires_at.type))
ERA = bindparam("era", type_=lease.c.fence.type)
FREE_LEASES = update(lease).values(
    owner=None,
    host=None,
    boot_id=None,
    pid=None,
    started=None,
    expires_at=None,
    fence=case((lease.c.fence < ERA, ERA), else_=lease.c.fence + 1),
)
#: Batch keys are made of job keys, and they are known outside.
SKIP_KEYS = update(id_range).where(id_range.c.name == "job", id_range.c.next_id < ERA).values(next_id=ERA)
OPEN_KEYS = insert(id_range).from_select(
    ["name", "next_id"],
    select(literal("job"), ERA).where(~exists().where(id_range.c.name == "job")),
)
FORGET_AGENTS = delete(heartbeat)
RENEW: tuple[Update | Delete | Insert, ...] = (FREE_LEASES, SKIP_KEYS, OPEN_KEYS, FORGET_AGENTS)


def restore(database: Database, file: Path, *, force: bool, actor: str) -> Manifest:
    """Make the database what it was when the backup was taken, all or nothing.

    Raises UsageError for a backup that does not fit or a database that is not empty (without `force`), Busy
    where agents are at work, GridError where a program fails.
    """
    manifest = manifest_of(file)
    _check_fits(manifest, database, file)
    now = SystemClock().now()
    with _prepared(database) as tables:
        _check_free(database, tables, force)
        try:
            with tempfile.TemporaryDirectory(prefix="tierflow-", dir=_workplace(database)) as place:
                payload = _unpacked(file, manifest, Path(place, PAYLOAD))
                if database.dialect == "sqlite":
                    _replace_sqlite(database, payload, manifest, now)
                else:
                    _replace_postgres(database, payload, tables, now)
        except (OSError, sqlite3.Error) as error:
            raise GridError(f"{file} was not restored: {error}", hint="nothing was changed") from error
    detail = {"taken_at": manifest.taken_at, "schema": manifest.contents.schema, "file": str(file)}
    database.transaction(lambda conn: audit.record(conn, actor, "db.restore", "database", now, detail))
    return manifest


def _check_fits(manifest: Manifest, database: Database, file: Path) -> None:
    if manifest.format > FORMAT or min(manifest.contents.schema, manifest.contents.oldest_code) > schema.HEAD:
        raise UsageError(
            f"{file} was made by a newer Tierflow ({manifest.program}, schema {manifest.contents.schema}; "
            f"this one knows {schema.HEAD})",
            hint="restore it with that Tierflow or a newer one",
        )
    if manifest.dialect != database.dialect:
        raise UsageError(
            f"{file} is a backup of {manifest.dialect}, the database is {database.dialect}",
            hint=f"restore it into {manifest.dialect}: set database.url",
        )


@contextmanager
def _prepared(database: Database) -> Iterator[list[str]]:
    """The names of the database's tables; a file made for this is removed again where the restore fails."""
    path = Path(str(database.url.database)) if database.dialect == "sqlite" else None
    made = path is not None and not path.exists()
    if path is not None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.touch(mode=0o600)
    try:
        with database.snapshot() as conn:
            tables = inspect(conn).get_table_names()
        yield tables
    except BaseException:
        if path is not None and made:
            database.close()
            for name in (path.name, f"{path.name}-wal", f"{path.name}-shm", f"{path.name}.lock"):
                path.with_name(name).unlink(missing_ok=True)
        raise


def _check_free(database: Database, tables: Sequence[str], force: bool) -> None:
    if not tables:
        return
    where = database.url.render_as_string(hide_password=True)
    if not set(tables) >= OURS:
        raise UsageError(f"{where} holds the tables of something else", hint="name a database of its own")
    if not force:
        raise UsageError(
            f"{where} is not empty: the restore would replace all it holds",
            hint="back it up first, then add --force",
        )
    with database.snapshot() as conn:
        found = conn.execute(LIVE, {"at": dbnow(conn)}).all()
    owners = {Owner(row.owner, row.host, row.boot_id, row.pid, row.started) for row in found}
    working = sorted(one.name for one in owners if not one.provably_dead())
    if working:
        raise Busy(
            f"agents are at work on {where}: {', '.join(working[:3])}",
            hint="stop them; after a crash, wait until their leases have passed",
        )


def _workplace(database: Database) -> Path | None:
    return Path(str(database.url.database)).absolute().parent if database.dialect == "sqlite" else None


def _unpacked(file: Path, manifest: Manifest, payload: Path) -> Path:
    payload.touch(mode=0o600)
    # What is missing is found below.
    with tarfile.open(file, "r:") as archive, payload.open("wb") as out, suppress(tarfile.TarError, KeyError):
        shutil.copyfileobj(member(archive, PAYLOAD), out, 1 << 20)
    if payload.stat().st_size != manifest.size or digest(payload) != manifest.sha256:
        raise UsageError(f"{file} is damaged", hint="use another backup")
    return payload


def _replace_sqlite(database: Database, payload: Path, manifest: Manifest, now: datetime) -> None:
    """All in one transaction of the database that is there, whoever has it open."""
    path = str(database.url.database)
    if contents_of_file(payload) != manifest.contents:
        raise UsageError("the backup does not hold what its manifest says", hint="use another backup")
    with engine(f"sqlite:///{payload}").begin() as conn:
        for statement in RENEW:
            conn.execute(statement, {"era": to_micros(now)})
    with (
        closing(sqlite3.connect(payload)) as copy,
        closing(sqlite3.connect(path, timeout=30)) as live,
        file_lock(f"{path}.lock", database.lock_wait_s),
    ):
        live.execute("PRAGMA synchronous = FULL")
        copy.backup(live)


def _replace_postgres(database: Database, payload: Path, tables: Sequence[str], now: datetime) -> None:
    with engine(database.url).connect() as conn:
        quoted = ", ".join(conn.dialect.identifier_preparer.quote(name) for name in tables)
        after = [postgres_client.literally(conn, one, {"era": to_micros(now)}) for one in RENEW]
    before = [f"DROP TABLE {quoted} CASCADE"] if quoted else []
    postgres_client.restore(database.url, payload, before, after)


def faults(database: Database, manifest: Manifest) -> list[str]:
    """What is wrong with a database just restored; an older schema is to be upgraded before it is judged."""
    with database.snapshot() as conn:
        rows = contents(conn).rows
        wanted = manifest.contents.rows | {audit_log.name: manifest.contents.rows[audit_log.name] + 1}
        found = [
            f"{name} has {rows.get(name)} rows instead of {n}"
            for name, n in wanted.items()
            if name not in RENEWED and rows.get(name) != n
        ]
        if manifest.contents.schema == schema.HEAD:
            found += [f"differs from the code: {one}" for one in schema.differences(conn)]
            found += [f"not true that {one.says}: {one.rows[:5]}" for one in violations(conn, INVARIANTS)]
    return found
