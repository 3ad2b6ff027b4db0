"""Fixtures: a migrated database on SQLite and PostgreSQL, its invariants checked after every test."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from servers.postgres import Postgres

from gridapp import schema
from gridcore.db import Database
from gridcore.db.invariants import violations

# A busy machine is slow, not wrong: no test judges by the clock.
settings.register_profile("patient", settings(), deadline=None)
settings.load_profile("patient")


def _migrate(url: str) -> None:
    database = Database(url)
    schema.upgrade(database)
    database.close()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    server = Postgres().start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "tierflow.db"
    _migrate(f"sqlite:///{path}")
    return path


def _checked(database: Database) -> Iterator[Database]:
    from gridapp.invariants import INVARIANTS

    yield database
    with database.snapshot() as conn:
        found = violations(conn, INVARIANTS)
    database.close()
    assert found == []


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    shutil.copy(sqlite_template, tmp_path / "tierflow.db")
    return f"sqlite:///{tmp_path}/tierflow.db"


@pytest.fixture
def sqlite_db(sqlite_url: str) -> Iterator[Database]:
    """A fresh migrated SQLite database."""
    yield from _checked(Database(sqlite_url))


@pytest.fixture
def postgres_db(postgres: Postgres) -> Iterator[Database]:
    """A fresh migrated PostgreSQL database."""
    yield from _checked(Database(postgres.create(_migrate)))


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def database(request: pytest.FixtureRequest) -> Database:
    """The same test on both databases."""
    fixture = "sqlite_db" if request.param == "sqlite" else "postgres_db"
    return request.getfixturevalue(fixture)  # type: ignore[no-any-return]
