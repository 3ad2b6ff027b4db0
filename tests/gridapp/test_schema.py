"""The schema's one history makes the tables this code declares, on both databases."""

from __future__ import annotations

from pathlib import Path

import pytest

from gridapp import schema
from gridcore.db import Database
from gridcore.errors import UsageError


def test_the_newest_revision_is_the_one_named() -> None:
    assert schema.newest() == schema.HEAD


def test_the_history_makes_the_declared_tables(database: Database) -> None:
    with database.snapshot() as conn:
        assert schema.current(conn) == schema.HEAD
        assert schema.differences(conn) == []


def test_upgrading_once_more_changes_nothing(database: Database) -> None:
    assert schema.upgrade(database) == schema.HEAD
    schema.require_current(database)


def test_an_empty_database_is_told_from_a_current_one(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/empty.db")
    with database.snapshot() as conn:
        assert schema.current(conn) is None
    with pytest.raises(UsageError, match="missing"):
        schema.require_current(database)
    database.close()
