"""The fixture of the catalogues' tests; their invariants are checked after each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from catalog_grid import Grid

from catalogs.invariants import INVARIANTS
from gridcore.db import Database
from gridcore.db.invariants import violations


def _checked(database: Database) -> Iterator[Grid]:
    grid = Grid(database).build()
    yield grid
    assert grid.read(violations, INVARIANTS) == []


@pytest.fixture
def grid(database: Database) -> Iterator[Grid]:
    """A small grid on SQLite and on PostgreSQL."""
    yield from _checked(database)


@pytest.fixture
def sqlite_grid(sqlite_db: Database) -> Iterator[Grid]:
    """A small grid on SQLite alone, for what does not depend on the database."""
    yield from _checked(sqlite_db)
