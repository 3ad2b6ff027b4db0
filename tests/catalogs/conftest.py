"""The fixtures of the catalogues' tests."""

from __future__ import annotations

import pytest
from catalog_grid import Grid

from gridcore.db import Database


@pytest.fixture
def grid(database: Database) -> Grid:
    """A small grid on SQLite and on PostgreSQL."""
    return Grid(database).build()


@pytest.fixture
def sqlite_grid(sqlite_db: Database) -> Grid:
    """A small grid on SQLite alone, for what does not depend on the database."""
    return Grid(sqlite_db).build()
