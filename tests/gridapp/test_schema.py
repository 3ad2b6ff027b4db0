"""The schema's one history makes the tables this code declares; newer databases are told apart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError

from gridapp import schema
from gridapp.migrations.versions import v0003_data_core
from gridcore.db import Database
from gridcore.errors import UsageError

NEXT = "0004"


def test_every_migration_names_the_oldest_code_that_works_after_it() -> None:
    steps = schema.history()
    assert steps == [("0001", "0001"), ("0002", "0001"), ("0003", "0001")]
    assert schema.oldest_code(steps) == "0001"
    assert steps[-1][0] == schema.HEAD


@pytest.mark.parametrize(
    ("steps", "oldest"),
    [
        ("1:1", "1"),
        ("1:1 2:1 3:1", "1"),
        ("1:1 2:1 3:2", "2"),
        ("1:1 2:2 3:1", "2"),
        ("1:1 2:1 3:3", "3"),
        ("1:1 2:1 3:3 4:2", "3"),
        ("1:1 2:1 3:1 4:3", "3"),
    ],
)
def test_code_must_suit_every_step_it_lacks(steps: str, oldest: str) -> None:
    assert schema.oldest_code([(one[0], one[2]) for one in steps.split()]) == oldest


def test_the_history_makes_the_declared_tables(database: Database) -> None:
    with database.snapshot() as conn:
        assert schema.current(conn) == schema.HEAD
        assert schema.differences(conn) == []


#: Rows of a database at 0002: an open block, a closed one with three replicas, and a copy under way.
T = 1_700_000_000_000_000
CENTURY = 100 * 365 * 86_400_000_000
SE = {"kind": "disk", "protocol": "direct", "tfc": "{}", "state": "ENABLED"}
COUNTS = {"files": 2, "bytes": 30, "events": 5}
DATASET = {"state": "OPEN", "block_files": 10, "block_bytes": 100, "block_age_s": 60.5, **COUNTS}
BLOCK = {"dataset_id": 1, "origin_se_id": 1, "files": 1, "events": 0, "created_at": T}
FILE = {"dir_id": 1, "adler32": 1, "created_at": T}
MOVING = {"src_se_id": 1, "state": "QUEUED", "bytes": 20, "priority": 1, "created_at": T, "updated_at": T}
FILLED: list[tuple[str, list[dict[str, object]]]] = [
    ("site", [{"id": 1, "name": "T1_DE_Alder", "tier": 1, "state": "ENABLED"}]),
    ("se", [{"id": n, "name": f"Alder_{n}", "site_id": 1, **SE} for n in (1, 2, 3)]),
    (
        "link",
        [{"id": 1, "src_se_id": 1, "dst_se_id": 2, "state": "ENABLED", "distance": 1.0, "tool": "fake"}],
    ),
    ("dataset", [{"id": 1, "name": "/MinBias/Toy-v1/GEN", "created_at": T, **DATASET}]),
    (
        "dataset",
        [
            {"id": 2, "name": "/MinBias/Toy-v0/RAW-1", "created_at": T, **DATASET}
            | {"files": 1, "block_age_s": 1e300}
        ],
    ),
    ("block", [{"id": 1, "name": "a#1", "state": "OPEN", "bytes": 10, **BLOCK}]),
    ("block", [{"id": 2, "name": "a#2", "state": "CLOSED", "bytes": 20, "closed_at": T, **BLOCK}]),
    ("block", [{"id": 3, "name": "b#3", "state": "OPEN", "bytes": 30, **BLOCK, "dataset_id": 2}]),
    ("dir", [{"id": 1, "path": "/store/data"}]),
    ("data_file", [{"id": n, "block_id": n, "name": f"f{n}", "bytes": 10 * n, **FILE} for n in (1, 2, 3)]),
    ("file_run", [{"file_id": 2, "run": 7, "first_lumi": n, "last_lumi": n + 2} for n in (1, 11)]),
    ("file_parent", [{"file_id": 2, "parent_id": 3}, {"file_id": 2, "parent_id": 1}]),
    ("block_replica", [{"block_id": n, "se_id": 1, "state": "COMPLETE", "created_at": T} for n in (1, 2, 3)]),
    ("block_replica", [{"block_id": 2, "se_id": 2, "state": "COPYING", "transit": 1, "created_at": T}]),
    ("block_replica", [{"block_id": 2, "se_id": 3, "state": "DELETING", "transit": 1, "created_at": T}]),
    (
        "subscription",
        [
            {"id": 4, "dataset_id": 1, "se_id": 2, "state": "ACTIVE", "priority": 3, "requester": "anna"}
            | {"acct_group": "heavy", "created_at": T, "updated_at": T}
        ],
    ),
    (
        "block_dest",
        [
            {"block_id": 2, "se_id": 2, "subscription_id": 4, "priority": 3, "src_se_id": 1, "code": "ROUTED"}
            | {"decided_at": T, "created_at": T}
        ],
    ),
    ("transfer", [{"id": 1, "file_id": 2, "block_id": 2, "dst_se_id": 2, **MOVING}]),
    ("link_state", [{"link_id": 1, "state": "{}", "updated_at": T}]),
]


def fill(conn: Connection) -> None:
    for table, rows in FILLED:
        names = list(rows[0])
        values = ", ".join(f":{name}" for name in names)
        conn.execute(text(f"INSERT INTO {table} ({', '.join(names)}) VALUES ({values})"), rows)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def before_data(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A filled database of the schema before the data core."""
    url = f"sqlite:///{tmp_path}/filled.db"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres").create_empty()
    database = Database(url)
    database.transaction(lambda conn: command.upgrade(schema._config(conn), "0002"))
    database.transaction(fill)
    yield database
    database.close()


def test_the_data_core_is_filled_from_what_was_there(before_data: Database) -> None:
    assert schema.upgrade(before_data) == schema.HEAD

    def rows(statement: str) -> list[tuple[object, ...]]:
        return [tuple(row) for row in conn.execute(text(statement))]

    with before_data.snapshot() as conn:
        assert schema.differences(conn) == []
        if before_data.dialect == "sqlite":
            assert rows("PRAGMA integrity_check") == [("ok",)]
            assert rows("PRAGMA foreign_key_check") == []
        assert rows("SELECT prim, proc, data_tier, closed_blocks, unsettled, access_type FROM dataset") == [
            ("MinBias", "Toy-v1", "GEN", 1, 1, "VALID"),
            ("MinBias", "Toy-v0", "RAW-1", 0, 1, "VALID"),
        ]
        assert rows("SELECT close_by FROM block ORDER BY id") == [
            (T + 60_500_000,),
            (None,),
            (T + CENTURY,),
        ]
        assert rows("SELECT * FROM holding ORDER BY dataset_id") == [(1, 1, 2, 1, 2, 30), (2, 1, 1, 0, 1, 30)]
        assert rows("SELECT * FROM se_use ORDER BY se_id") == [
            (1, 3, 60, 0, 0, 0),
            (2, 0, 0, 20, 0, 20),
            (3, 0, 0, 0, 20, 0),
        ]
        assert rows("SELECT * FROM block_run") == [(2, 7, 1, 13)]
        assert rows("SELECT * FROM dataset_parent") == [(1, 2)]
        assert rows("SELECT files, bytes, cursor_id, repair, subscription_id FROM block_dest") == [
            (1, 20, 0, 0, 4)
        ]
        assert rows("SELECT id, requester, acct_group, block_id, move FROM subscription") == [
            (4, "anna", "heavy", 0, 0)
        ]
    statement = "INSERT INTO subscription (id, {0}) SELECT id + 1, {0} FROM subscription"
    twice = text(
        statement.format("dataset_id, se_id, state, priority, requester, acct_group, created_at, updated_at")
    )
    with pytest.raises(IntegrityError):
        before_data.transaction(lambda conn: conn.execute(twice))


def test_a_foreign_key_written_otherwise_is_not_dropped_in_silence() -> None:
    made = "CREATE TABLE t (\n\ta INTEGER, \n\tCONSTRAINT fk_t_a FOREIGN KEY(a) REFERENCES s (id)\n)"
    assert v0003_data_core.without_key(made, "t", "a", "s") == "CREATE TABLE t (\n\ta INTEGER\n)"
    with pytest.raises(RuntimeError, match="0 times"):
        v0003_data_core.without_key(made, "t", "a", "other")


def test_upgrading_once_more_changes_nothing(database: Database) -> None:
    assert schema.upgrade(database) == schema.HEAD
    schema.require_current(database)


def test_an_upgraded_database_says_which_code_works_on_it(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/old.db")
    database.transaction(lambda conn: command.upgrade(schema._config(conn), "0001"))
    assert schema.upgrade(database) == schema.HEAD
    with database.snapshot() as conn:
        assert conn.execute(schema.OLDEST, {"of_schema": schema.HEAD}).scalar_one() == "0001"
    database.close()


def migrate_further(database: Database, oldest: str | None) -> None:
    """What newer code would do."""

    def unit(conn: Connection) -> None:
        conn.execute(text(f"UPDATE alembic_version SET version_num = '{NEXT}'"))
        if oldest is not None:
            schema.note(conn, NEXT, oldest)

    database.transaction(unit)


@pytest.mark.parametrize("oldest", ["0001", schema.HEAD])
def test_a_newer_schema_that_only_expands_is_worked_on(database: Database, oldest: str) -> None:
    migrate_further(database, oldest)
    schema.require_current(database)
    assert schema.upgrade(database) == NEXT


@pytest.mark.parametrize("oldest", [NEXT, None])
def test_a_newer_schema_not_made_for_this_code_is_refused(database: Database, oldest: str | None) -> None:
    migrate_further(database, oldest)
    for act in (schema.require_current, schema.upgrade):
        with pytest.raises(UsageError, match="newer than this Tierflow") as caught:
            act(database)
        assert "use the Tierflow that made it" in str(caught.value.hint)


def test_an_older_schema_is_upgraded_not_worked_on(database: Database) -> None:
    database.transaction(lambda conn: conn.execute(text("UPDATE alembic_version SET version_num = '0001'")))
    with pytest.raises(UsageError, match="0001, this Tierflow needs"):
        schema.require_current(database)


def test_an_empty_database_is_told_from_a_current_one(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/empty.db")
    with database.snapshot() as conn:
        assert schema.current(conn) is None
    with pytest.raises(UsageError, match="missing"):
        schema.require_current(database)
    database.close()
