"""Invariants: SQL that returns what must not be. Run after every test and by `tierflow doctor`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select

#: Offenders shown per invariant.
SHOWN = 20


@dataclass(frozen=True, slots=True)
class Invariant:
    """A sentence that is always true, and the statement that finds its exceptions."""

    name: str
    says: str
    offenders: Select[Any]


@dataclass(frozen=True, slots=True)
class Violation:
    """An invariant that does not hold, and the first rows that break it."""

    name: str
    says: str
    rows: tuple[tuple[Any, ...], ...]


def violations(conn: Connection, invariants: Iterable[Invariant]) -> list[Violation]:
    """Those that do not hold."""
    found = []
    for one in invariants:
        rows = conn.execute(one.offenders).fetchmany(SHOWN)
        if rows:
            found.append(Violation(one.name, one.says, tuple(tuple(row) for row in rows)))
    return found
