"""Statements: row locks, bulk writes, and the list of every statement the product runs."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import islice
from typing import Any, TypeVar

from sqlalchemy import (
    ColumnElement,
    CompoundSelect,
    Connection,
    Delete,
    Executable,
    Insert,
    Select,
    Table,
    Update,
    insert,
    literal_column,
    select,
)
from sqlalchemy.exc import IntegrityError

from gridcore.db import reads
from gridcore.db.engine import is_sqlite
from gridcore.db.idlists import within
from gridcore.db.reads import Read
from gridcore.db.types import metadata

#: Rows one statement takes at once; Oracle allows 1000 elements in a list.
CHUNK = 500
PACKAGES = ("gridcore", "catalogs", "prodsys", "datamgmt", "agents", "gridapp")
T = TypeVar("T")


def chunks(items: Iterable[T], size: int = CHUNK) -> Iterator[list[T]]:
    """The items in lists of at most `size`."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


@cache
def _lock(table: Table) -> Select[Any]:
    # NO KEY: rows that refer to this one by foreign key may still be inserted by others.
    return select(table.c.id).where(within(table.c.id)).order_by(table.c.id).with_for_update(key_share=True)


def lock_rows(conn: Connection, table: Table, ids: Iterable[int]) -> None:
    """Lock the rows that own a rule, in ascending order, until the transaction ends. No-op on SQLite."""
    if is_sqlite(conn):
        return
    reads.rows(conn, [locking(table, chunk) for chunk in chunks(sorted(set(ids)))])


def locking(table: Table, ids: Sequence[int]) -> Read:
    """The same as a read, to be run together with others; not for SQLite."""
    return Read(_lock(table), {"ids": ids})


def one_of(column: ColumnElement[Any], values: Iterable[str]) -> ColumnElement[bool]:
    """The column holds one of these words, written out: partial indexes match nothing else, and a list of
    binds cannot be run for many rows at once."""
    written: list[ColumnElement[str]] = [literal_column(f"'{value}'") for value in values]
    return column == written[0] if len(written) == 1 else column.in_(written)


@cache
def _insert(table: Table) -> Insert:
    return insert(table)


def insert_rows(conn: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows, all with the same keys."""
    if rows:
        conn.execute(_insert(table), list(rows))


def insert_new(conn: Connection, table: Table, row: Mapping[str, Any]) -> bool:
    """Insert a row unless its unique name is taken; whether it was. Of two writers at once one wins.

    A savepoint keeps the transaction alive; the loser reads the winner's row afterwards.
    """
    try:
        with conn.begin_nested():
            insert_rows(conn, table, [row])
    except IntegrityError:
        return False
    return True


def run_many(conn: Connection, statement: Update | Delete | Insert, rows: Sequence[Mapping[str, Any]]) -> int:
    """Run one statement for each row of binds; how many rows it changed in all."""
    if not rows:
        return 0
    return conn.execute(statement, list(rows)).rowcount


def run_each(conn: Connection, statement: Update | Delete, rows: Sequence[Mapping[str, Any]]) -> list[bool]:
    """Run a guarded statement for each row of binds; which of them found their row.

    Drivers report one sum for a batch, so a short sum is resolved row by row by the caller's own read;
    this is for small batches whose losers must be known.
    """
    return [conn.execute(statement, dict(row)).rowcount == 1 for row in rows]


def select_in(
    conn: Connection, statement: Executable, ids: Iterable[Any], binds: Mapping[str, Any] | None = None
) -> list[Any]:
    """All rows of a statement with an expanding bind `ids`, in chunks."""
    rows: list[Any] = []
    for chunk in chunks(sorted(set(ids))):
        rows += conn.execute(statement, {**(binds or {}), "ids": chunk}).all()
    return rows


def statements() -> dict[str, Executable]:
    """Every statement held as a module-level constant of the product's loaded modules, by its full name."""
    found: dict[str, Executable] = {}
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] in PACKAGES:
            for constant, value in list(vars(module).items()):
                if isinstance(value, Select | CompoundSelect | Insert | Update | Delete):
                    found[f"{name}.{constant}"] = value
    for table in metadata.sorted_tables:
        found[f"insert {table.name}"] = _insert(table)
        if "id" in table.c:
            found[f"lock {table.name}"] = _lock(table)
    return found
