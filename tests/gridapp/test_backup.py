"""Backups: taken while others write, whole or not at all, restored with fences beyond reach."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from click.testing import CliRunner, Result
from servers.postgres import Postgres, programs
from servers.work_desk import Desk
from servers.work_grid import STEP
from sqlalchemy import select, text, update

from gridapp import backup, postgres_client, restore, schema
from gridapp.backup import MANIFEST, PAYLOAD, Manifest
from gridapp.cli.main import main
from gridapp.invariants import INVARIANTS
from gridcore.db import Database, insert_rows
from gridcore.db import leases as lease_rows
from gridcore.db.invariants import violations
from gridcore.db.keys import Keys
from gridcore.db.leases import Lease, Owner
from gridcore.db.types import metadata, to_micros
from gridcore.errors import Busy, GridError, LeaseLost, UsageError
from gridcore.tables import audit_log, heartbeat, id_range, lease
from prodsys.tables import job

LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)
#: Changed on purpose by a restore.
CHANGED = {heartbeat.name, lease.name, audit_log.name, id_range.name}


@pytest.fixture(autouse=True, scope="module")
def postgres_programs() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PATH", f"{os.environ['PATH']}:{programs()}")
        yield


@pytest.fixture
def fresh(request: pytest.FixtureRequest, database: Database, tmp_path: Path) -> Iterator[Database]:
    """An empty place of the same kind."""
    if database.dialect == "sqlite":
        found = Database(f"sqlite:///{tmp_path}/fresh/tierflow.db", statement_timeout_s=60)
    else:
        server: Postgres = request.getfixturevalue("postgres")
        found = Database(server.create_empty(), statement_timeout_s=60)
    yield found
    found.close()


@pytest.fixture
def worked(database: Database, tmp_path: Path) -> Database:
    """A database with a request, its jobs, and agents that have died."""
    desk = Desk(database, tmp_path / "grid", STEP.format(events=40))
    desk.make_jobs()

    def unit(conn: Any) -> None:
        row = {"agent": "router", "owner": "x", "host": "h", "pid": 1, "state": "RUNNING"}
        insert_rows(conn, heartbeat, [row | {"started_at": LONG_AGO, "beat_at": LONG_AGO}])
        lease_rows.create(conn, [(700, "shard")])
        conn.execute(update(lease).where(lease.c.id == 700).values(fence=41))
        conn.execute(update(lease).values(expires_at=LONG_AGO))

    database.transaction(unit)
    take(database, "shard", seconds=0.0)
    return database


def take(database: Database, name: str, seconds: float, host: str = "elsewhere") -> Lease:
    owner = Owner(f"agent@{host}:7.7", host, "boot", 7, 7)

    def unit(conn: Any) -> list[Lease]:
        return lease_rows.take(conn, lease_rows.read(conn, [name]), owner, seconds, dead=())

    (held,) = database.transaction(unit)
    return held


def rows(database: Database) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of all tables."""
    with database.snapshot() as conn:
        return {
            one.name: sorted((tuple(row) for row in conn.execute(select(one))), key=repr)
            for one in metadata.sorted_tables
        }


def same(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    for name in set(wanted) - CHANGED:
        assert found[name] == wanted[name], name


# --- the round trip --------------------------------------------------------------------------------------


def test_a_backup_restored_elsewhere_has_the_same_rows(
    worked: Database, fresh: Database, tmp_path: Path
) -> None:
    wanted = rows(worked)
    assert wanted["job"]
    file = tmp_path / "one.backup"
    manifest = backup.backup(worked, file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert manifest == backup.manifest_of(file)
    assert manifest.contents.rows == {name: len(found) for name, found in wanted.items()} | {
        schema.REVISION_TABLE: 1
    }
    assert restore.restore(fresh, file, force=False, actor="anna") == manifest
    assert restore.faults(fresh, manifest) == []
    same(rows(fresh), wanted)
    with fresh.snapshot() as conn:
        assert schema.current(conn) == schema.HEAD
        assert schema.differences(conn) == []
        assert violations(conn, INVARIANTS) == []
        told = conn.execute(select(audit_log).order_by(audit_log.c.seq.desc()).limit(1)).one()
    assert (told.actor, told.verb, told.detail["schema"]) == ("anna", "db.restore", schema.HEAD)
    if fresh.dialect == "sqlite":
        assert stat.S_IMODE(Path(str(fresh.url.database)).stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.glob(".tierflow-*")) == []


def test_a_backup_is_one_moment_whoever_writes(
    worked: Database, fresh: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer commits pairs of rows all the time: the backup has both rows of a pair or none."""
    written, stopped = threading.Event(), threading.Event()

    def write() -> None:
        number = 0
        while not stopped.is_set():
            number += 1
            pair = [
                {"at": LONG_AGO, "actor": "writer", "verb": side, "subject": f"pair {number}"}
                for side in ("left", "right")
            ]
            worked.transaction(lambda conn, pair=pair: insert_rows(conn, audit_log, pair))  # type: ignore[misc]
            written.set()

    counted = backup.contents

    def while_writing(conn: Any) -> Any:
        """At least one more pair is committed before the copy is looked into, or dumped."""
        found = counted(conn)
        written.clear()
        assert written.wait(60)
        return found

    monkeypatch.setattr(backup, "contents", while_writing)
    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert written.wait(60)
        manifest = backup.backup(worked, tmp_path / "one.backup")
    finally:
        stopped.set()
        writer.join(60)
        monkeypatch.undo()
    restore.restore(fresh, tmp_path / "one.backup", force=False, actor="anna")
    assert restore.faults(fresh, manifest) == []
    found = [row for row in rows(fresh)["audit_log"] if row[2] == "writer"]
    pairs = [row[4] for row in found]
    assert pairs
    assert all(pairs.count(name) == 2 for name in set(pairs))
    assert len(pairs) < len([row for row in rows(worked)["audit_log"] if row[2] == "writer"])


def test_a_restored_database_goes_on(worked: Database, fresh: Database, tmp_path: Path) -> None:
    """Keys and sequences continue: new rows find their numbers free."""
    backup.backup(worked, tmp_path / "one.backup")
    restore.restore(fresh, tmp_path / "one.backup", force=False, actor="anna")
    row = {"at": LONG_AGO, "actor": "anna", "verb": "look", "subject": "it"}
    fresh.transaction(lambda conn: insert_rows(conn, audit_log, [row]))
    with fresh.snapshot() as conn:
        last = conn.execute(select(job.c.id).order_by(job.c.id.desc()).limit(1)).scalar_one()
    assert Keys(fresh).one("task") > 0
    assert Keys(fresh).one("job") > last


# --- fences ----------------------------------------------------------------------------------------------


def test_no_holder_of_any_time_before_can_write_again(worked: Database, tmp_path: Path) -> None:
    """Holders from before the backup, and from after it, whose fences the backup does not know."""
    before = take(worked, "shard", seconds=0.0, host="before")
    file = tmp_path / "one.backup"
    backup.backup(worked, file)
    after = [take(worked, "shard", seconds=0.0, host=f"after{n}") for n in range(3)]
    restore.restore(worked, file, force=True, actor="anna")
    restore.restore(worked, file, force=True, actor="anna")
    new = take(worked, "shard", seconds=60)
    for old in (before, *after):
        assert old.fence < new.fence
        with pytest.raises(LeaseLost):
            worked.transaction(lambda conn, old=old: lease_rows.hold(conn, old))  # type: ignore[misc]
        assert worked.transaction(lambda conn, old=old: lease_rows.renew(conn, [old], 60)) == []  # type: ignore[misc]
    worked.transaction(lambda conn: lease_rows.hold(conn, new))


def test_a_second_restore_of_the_same_backup_outruns_the_first(worked: Database, tmp_path: Path) -> None:
    file = tmp_path / "one.backup"
    backup.backup(worked, file)
    restore.restore(worked, file, force=True, actor="anna")
    first = take(worked, "shard", seconds=0.0)
    key = Keys(worked).one("job")
    restore.restore(worked, file, force=True, actor="anna")
    assert take(worked, "shard", seconds=0.0).fence > first.fence
    assert Keys(worked).one("job") > key


def test_jobs_of_a_lost_time_are_not_numbered_again(database: Database, tmp_path: Path) -> None:
    """The backup knows of no job at all."""
    backup.backup(database, tmp_path / "one.backup")
    lost = Keys(database).one("job")
    restore.restore(database, tmp_path / "one.backup", force=True, actor="anna")
    assert Keys(database).one("job") > lost


def test_a_backup_of_an_older_schema_is_restored_and_then_upgraded(
    database: Database, fresh: Database, tmp_path: Path
) -> None:
    """Over a newer one too: nothing of the newer schema is left."""
    if fresh.dialect == "sqlite":
        Path(str(fresh.url.database)).parent.mkdir()
    fresh.transaction(lambda conn: command.upgrade(schema._config(conn), "0001"))
    manifest = backup.backup(fresh, tmp_path / "old.backup")
    assert manifest.contents.schema == "0001"
    restore.restore(database, tmp_path / "old.backup", force=True, actor="anna")
    assert restore.faults(database, manifest) == []
    with pytest.raises(UsageError, match="0001, this Tierflow needs"):
        schema.require_current(database)
    assert schema.upgrade(database) == schema.HEAD
    with database.snapshot() as conn:
        assert schema.differences(conn) == []


def test_agents_at_work_are_not_robbed(worked: Database, tmp_path: Path) -> None:
    file = tmp_path / "one.backup"
    backup.backup(worked, file)
    take(worked, "shard", seconds=60)
    wanted = rows(worked)
    with pytest.raises(Busy, match="agents are at work"):
        restore.restore(worked, file, force=True, actor="anna")
    assert rows(worked) == wanted


def test_the_dead_hold_nothing_up(worked: Database, tmp_path: Path) -> None:
    file = tmp_path / "one.backup"
    backup.backup(worked, file)
    mine = Owner.current("test")
    take_as = replace(mine, started=mine.started + 1)
    worked.transaction(
        lambda conn: lease_rows.take(conn, lease_rows.read(conn, ["shard"]), take_as, 60, dead=())
    )
    restore.restore(worked, file, force=True, actor="anna")
    assert rows(worked)["heartbeat"] == []


# --- what is refused -------------------------------------------------------------------------------------


def test_what_is_there_is_replaced_by_force_only(worked: Database, tmp_path: Path) -> None:
    file = tmp_path / "one.backup"
    backup.backup(worked, file)
    wanted = rows(worked)
    worked.transaction(lambda conn: insert_rows(conn, audit_log, [audit("later")]))
    changed = rows(worked)
    with pytest.raises(UsageError, match="not empty") as caught:
        restore.restore(worked, file, force=False, actor="anna")
    assert "--force" in str(caught.value.hint)
    assert rows(worked) == changed
    restore.restore(worked, file, force=True, actor="anna")
    same(rows(worked), wanted)
    assert [row[3] for row in rows(worked)["audit_log"]][-1] == "db.restore"
    assert "later" not in [row[4] for row in rows(worked)["audit_log"]]


def audit(subject: str) -> dict[str, Any]:
    return {"at": LONG_AGO, "actor": "anna", "verb": "look", "subject": subject}


def test_another_programs_database_is_never_replaced(
    worked: Database, fresh: Database, tmp_path: Path
) -> None:
    backup.backup(worked, tmp_path / "one.backup")
    if fresh.dialect == "sqlite":
        Path(str(fresh.url.database)).parent.mkdir()
    fresh.transaction(lambda conn: conn.execute(text("CREATE TABLE theirs (n INTEGER)")))
    with pytest.raises(UsageError, match="something else"):
        restore.restore(fresh, tmp_path / "one.backup", force=True, actor="anna")
    with pytest.raises(UsageError, match="no Tierflow"):
        backup.backup(fresh, tmp_path / "two.backup")
    assert not (tmp_path / "two.backup").exists()


def test_a_backup_is_never_overwritten(worked: Database, tmp_path: Path) -> None:
    file = tmp_path / "one.backup"
    file.write_text("precious")
    with pytest.raises(UsageError, match="exists"):
        backup.backup(worked, file)
    assert file.read_text() == "precious"


def rewritten(file: Path, manifest: Manifest | None = None, payload: bytes | None = None) -> Path:
    """A copy of the backup with other contents."""
    told, held = (file.parent / name for name in ("manifest", "payload"))
    with tarfile.open(file) as archive:
        told.write_bytes(backup.member(archive, MANIFEST).read())
        held.write_bytes(backup.member(archive, PAYLOAD).read())
    if manifest is not None:
        document = json.loads(told.read_text())
        contents = {"schema": manifest.contents.schema, "oldest_code": manifest.contents.oldest_code}
        document = {**document, "dialect": manifest.dialect, "sha256": manifest.sha256, "size": manifest.size}
        told.write_text(json.dumps(document | {"contents": document["contents"] | contents}))
    if payload is not None:
        held.write_bytes(payload)
    other = file.with_name("other.backup")
    with tarfile.open(other, "w") as archive:
        archive.add(told, MANIFEST)
        archive.add(held, PAYLOAD)
    return other


def test_a_newer_programs_backup_is_refused_unless_this_one_suits(
    worked: Database, fresh: Database, tmp_path: Path
) -> None:
    manifest = backup.backup(worked, tmp_path / "one.backup")
    newer = replace(manifest, contents=replace(manifest.contents, schema="0099", oldest_code="0099"))
    other = rewritten(tmp_path / "one.backup", newer)
    with pytest.raises(UsageError, match="newer Tierflow"):
        restore.restore(fresh, other, force=False, actor="anna")
    if fresh.dialect == "sqlite":
        assert not Path(str(fresh.url.database)).exists()


def test_a_damaged_backup_changes_nothing(worked: Database, tmp_path: Path) -> None:
    backup.backup(worked, tmp_path / "one.backup")
    with tarfile.open(tmp_path / "one.backup") as archive:
        held = archive.extractfile(PAYLOAD)
        assert held is not None
        content = held.read()
    wanted = rows(worked)
    middle = len(content) // 2
    for broken in (content[:middle], content[:middle] + b"XX" + content[middle + 2 :]):
        other = rewritten(tmp_path / "one.backup", payload=broken)
        with pytest.raises(UsageError, match="damaged"):
            restore.restore(worked, other, force=True, actor="anna")
    assert rows(worked) == wanted


def test_a_restore_that_fails_midway_leaves_what_was_there(worked: Database, tmp_path: Path) -> None:
    """A payload cut short whose manifest agrees with it: only the database's own program can tell."""
    manifest = backup.backup(worked, tmp_path / "one.backup")
    with tarfile.open(tmp_path / "one.backup") as archive:
        held = archive.extractfile(PAYLOAD)
        assert held is not None
        content = held.read()
    cut = content[: len(content) * 2 // 3]
    agreeing = replace(manifest, size=len(cut), sha256=hashlib.sha256(cut).hexdigest())
    other = rewritten(tmp_path / "one.backup", agreeing, cut)
    wanted = rows(worked)
    with pytest.raises(GridError, match=r"damaged|pg_restore failed"):
        restore.restore(worked, other, force=True, actor="anna")
    assert rows(worked) == wanted


@pytest.mark.parametrize("content", [b"", b"no tar at all", b"x" * 20_000])
def test_a_file_that_is_no_backup_is_told(sqlite_db: Database, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "some.file"
    file.write_bytes(content)
    with pytest.raises(UsageError, match="no backup"):
        restore.restore(sqlite_db, file, force=True, actor="anna")
    with pytest.raises(UsageError, match="No such file"):
        restore.restore(sqlite_db, tmp_path / "missing", force=True, actor="anna")


def test_a_backup_of_the_other_database_is_told(sqlite_db: Database, tmp_path: Path) -> None:
    manifest = backup.backup(sqlite_db, tmp_path / "one.backup")
    other = rewritten(tmp_path / "one.backup", replace(manifest, dialect="postgresql"))
    with pytest.raises(UsageError, match="a backup of postgresql, the database is sqlite"):
        restore.restore(sqlite_db, other, force=True, actor="anna")


# --- programs and commands -------------------------------------------------------------------------------


def test_a_missing_program_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(postgres_client, "DEBIAN", tmp_path)
    with pytest.raises(UsageError, match="pg_dump is not installed") as caught:
        postgres_client.program("pg_dump")
    assert "postgresql-client" in str(caught.value.hint)


def test_no_password_is_in_the_arguments() -> None:
    url = Database("postgresql+psycopg://ann:s3cret@db.example:5433/grid?sslmode=require").url
    where, environment = postgres_client.connection(url)
    assert "s3cret" not in where
    assert {"host=db.example", "port=5433", "user=ann", "dbname=grid", "sslmode=require"} <= set(
        where.split()
    )
    assert environment["PGPASSWORD"] == "s3cret"
    assert "PGPASSWORD" not in os.environ


def run(*args: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


@pytest.mark.slow
def test_the_commands_take_a_grid_from_one_directory_to_another(tmp_path: Path) -> None:
    one, two, file = tmp_path / "one", tmp_path / "two", tmp_path / "grid.backup"
    assert run("--dir", one, "db", "upgrade").exit_code == 0
    made = run("--dir", one, "db", "backup", file)
    assert made.exit_code == 0, made.stderr
    assert json.loads(made.stdout)["schema"] == schema.HEAD
    restored = run("--dir", two, "db", "restore", file)
    assert restored.exit_code == 0, restored.stderr
    assert json.loads(restored.stdout)["faults"] == []
    assert json.loads(restored.stdout)["instance"] == json.loads(made.stdout)["instance"]
    assert run("--dir", two, "db", "check").exit_code == 0
    again = run("--dir", two, "db", "restore", file)
    assert again.exit_code == 2
    assert "--force" in again.stderr
    assert run("--dir", two, "db", "restore", file, "--force").exit_code == 0


def test_the_time_of_a_restore_is_beyond_all_fences() -> None:
    now = datetime.now(UTC)
    assert to_micros(now - timedelta(days=1)) > 10**15
    assert to_micros(now + timedelta(days=36_500)) < 2**53  # as a number of JSON too
