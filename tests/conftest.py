"""Fixtures: a migrated database on SQLite and PostgreSQL, its invariants checked after every test."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from servers.postgres import Postgres
from sqlalchemy import Engine, create_engine

from gridapp import schema
from gridcore.db import Database
from gridcore.db.invariants import violations

_FIRST: dict[tuple[str, str | None], Engine] = {}
_COMPILED: dict[tuple[str, str | None], dict[Any, Any]] = {}

# A busy machine is slow, not wrong: no test judges by the clock.
PATIENCE_S = 60.0
settings.register_profile("patient", settings(), deadline=None)
settings.register_profile("brief", settings(), deadline=None, max_examples=30)
settings.register_profile("settled", settings(), deadline=None, derandomize=True)
settings.load_profile("patient")


def _sharing(url: Any, **options: Any) -> Engine:
    """An engine that speaks the dialect of the first of its kind and knows what was compiled for that.

    SQLAlchemy compiles every statement anew for every engine, and each test makes several.
    """
    engine = create_engine(url, **options)
    kind = (engine.dialect.name, options.get("isolation_level"))
    first = _FIRST.setdefault(kind, engine)
    if first.dialect.server_version_info is None:  # it has never been connected
        first = _FIRST[kind] = engine
    engine.dialect = first.dialect
    engine.update_execution_options(compiled_cache=_COMPILED.setdefault(kind, {}))
    return engine


def _migrate(url: str) -> None:
    database = Database(url)
    schema.upgrade(database)
    database.close()


@pytest.fixture(scope="session", autouse=True)
def compiled_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gridcore.db.engine.create_engine", _sharing)
        yield


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
    yield from _checked(Database(sqlite_url, statement_timeout_s=PATIENCE_S))


@pytest.fixture
def postgres_db(postgres: Postgres) -> Iterator[Database]:
    """A fresh migrated PostgreSQL database."""
    url = postgres.create(_migrate)
    try:
        yield from _checked(Database(url, statement_timeout_s=PATIENCE_S))
    finally:
        postgres.drop(url)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def database(request: pytest.FixtureRequest) -> Database:
    """The same test on both databases."""
    fixture = "sqlite_db" if request.param == "sqlite" else "postgres_db"
    return request.getfixturevalue(fixture)  # type: ignore[no-any-return]
