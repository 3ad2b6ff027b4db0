"""The fixtures of the catalogues' tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from catalog_grid import Grid

from gridcore.db import Database


@pytest.fixture
def grid(database: Database) -> Iterator[Grid]:
    """A small grid on SQLite and on PostgreSQL."""
    grid = Grid(database).build()
    yield grid
    grid.drop_copies()


@pytest.fixture
def sqlite_grid(sqlite_db: Database) -> Iterator[Grid]:
    """A small grid on SQLite alone, for what does not depend on the database."""
    grid = Grid(sqlite_db).build()
    yield grid
    grid.drop_copies()
