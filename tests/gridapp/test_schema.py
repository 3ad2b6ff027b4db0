"""The schema's one history makes the tables this code declares; newer databases are told apart."""

from __future__ import annotations

from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import Connection, text

from gridapp import schema
from gridcore.db import Database
from gridcore.errors import UsageError

NEXT = "0003"


def test_every_migration_names_the_oldest_code_that_works_after_it() -> None:
    steps = schema.history()
    assert steps == [("0001", "0001"), ("0002", "0001")]
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
