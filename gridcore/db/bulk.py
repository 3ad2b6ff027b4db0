"""Bulk writes in the drivers' fastest form: COPY and arrays on PostgreSQL, executemany elsewhere.

Columns in, not rows. The one place that speaks to a driver without SQLAlchemy between; the values pass the
columns' own types.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import lru_cache
from itertools import repeat
from types import MappingProxyType
from typing import Any, NamedTuple

from sqlalchemy import Connection, Dialect, Table, Update, bindparam, insert, update

Columns = Mapping[str, Sequence[Any]]
Bind = Callable[[Any], Any]

#: Rows below which COPY costs more than it saves.
COPY_FROM = 8


def insert_columns(
    conn: Connection, table: Table, columns: Columns, same: Mapping[str, Any] | None = None
) -> None:
    """Insert rows given by column, all equally long; `same` are the values alike in every row."""
    same = same or {}
    count = len(next(iter(columns.values())))
    if not count:
        return
    names = (*columns, *same)
    if conn.dialect.name == "oracle" or (conn.dialect.name == "postgresql" and count < COPY_FROM):
        lists = (*columns.values(), *(repeat(value, count) for value in same.values()))
        rows = [dict(zip(names, row, strict=True)) for row in zip(*lists, strict=True)]
        conn.execute(insert(table), rows)
        return
    values = [_bound(conn.dialect, table, name, column) for name, column in columns.items()]
    constant = [_bound(conn.dialect, table, name, [value])[0] for name, value in same.items()]
    rows_of = zip(*values, *(repeat(value, count) for value in constant), strict=True)
    driver: Any = conn.connection.driver_connection
    if conn.dialect.name == "sqlite":
        driver.executemany(_insert_text(table, names), rows_of)
        return
    with driver.cursor() as cursor, cursor.copy(_copy_text(table, names)) as copy:
        for row in rows_of:
            copy.write_row(row)


class Change(NamedTuple):
    """An update of rows named by their keys, given by column in ascending order.

    `add` is added to what a column holds, `put` replaces it; `only` names a column that must be NULL.
    """

    table: Table
    keys: Columns
    add: Columns = MappingProxyType({})
    put: Columns = MappingProxyType({})
    only: str = ""

    @property
    def shape(self) -> _Shape:
        """What it does, whatever its values."""
        return _Shape(self.table, tuple(self.keys), tuple(self.add), tuple(self.put), self.only)

    def columns(self) -> dict[str, Sequence[Any]]:
        """All its values, in the order in which the statement takes them."""
        return {**self.add, **self.put, **self.keys}

    def bound(self, dialect: Dialect) -> list[Sequence[Any]]:
        """The same as the driver takes them."""
        return [_bound(dialect, self.table, name, column) for name, column in self.columns().items()]


def change(conn: Connection, changes: Sequence[Change]) -> list[int]:
    """Make the changes one after the other, in one round trip where the driver can; how many rows each found.

    Within each, rows are locked in the order given.
    """
    if conn.dialect.name == "oracle":
        return [_change_each(conn, one) for one in changes]
    driver: Any = conn.connection.driver_connection
    if conn.dialect.name == "sqlite":
        cursors = [
            driver.executemany(_change_text(one.shape), zip(*one.bound(conn.dialect), strict=True))
            for one in changes
        ]
    else:
        calls = [
            (_arrays_text(one.shape, conn.dialect), [_array(values) for values in one.bound(conn.dialect)])
            for one in changes
        ]
        with driver.pipeline() if len(calls) > 1 else nullcontext():
            cursors = [driver.execute(text, values) for text, values in calls]
    return [int(cursor.rowcount) for cursor in cursors]


def _change_each(conn: Connection, one: Change) -> int:
    names = [f"b_{name}"[:30] for name in one.columns()]
    rows = [dict(zip(names, row, strict=True)) for row in zip(*one.columns().values(), strict=True)]
    return conn.execute(_change(one.shape), rows).rowcount


def _array(values: Sequence[Any]) -> Any:
    """Numbers as the text of an array: the driver would look at each of them."""
    if all(value is None or type(value) in (int, float) for value in values):
        return f"{{{','.join('NULL' if value is None else str(value) for value in values)}}}"
    return list(values)


class _Shape(NamedTuple):
    """What a bulk update does, whatever its values."""

    table: Table
    keys: tuple[str, ...]
    add: tuple[str, ...]
    put: tuple[str, ...]
    only: str


@lru_cache(maxsize=200)
def _change(shape: _Shape) -> Update:
    """The update for one row at a time."""
    table = shape.table
    binds = {
        name: bindparam(f"b_{name}"[:30], type_=table.c[name].type)
        for name in (*shape.add, *shape.put, *shape.keys)
    }
    statement = update(table).where(*(table.c[name] == binds[name] for name in shape.keys))
    if shape.only:
        statement = statement.where(table.c[shape.only].is_(None))
    sums = {name: table.c[name] + binds[name] for name in shape.add}
    return statement.values(sums | {name: binds[name] for name in shape.put})


@lru_cache(maxsize=200)
def _change_text(shape: _Shape) -> str:
    sets = [f"{name} = {name} + ?" for name in shape.add] + [f"{name} = ?" for name in shape.put]
    where = [f"{name} = ?" for name in shape.keys] + ([f"{shape.only} IS NULL"] if shape.only else [])
    return f"UPDATE {shape.table.name} SET {', '.join(sets)} WHERE {' AND '.join(where)}"


@lru_cache(maxsize=200)
def _arrays_text(shape: _Shape, dialect: Dialect) -> str:
    """One statement for all rows: lock them in the order of their keys, then change them."""
    table, names = shape.table, (*shape.add, *shape.put, *shape.keys)
    arrays = ", ".join(f"%s::{table.c[name].type.compile(dialect)}[]" for name in names)
    keys = ", ".join(f"t.{name}" for name in shape.keys)
    same = " AND ".join(f"t.{name} = v.{name}" for name in shape.keys)
    held = " AND ".join(f"held.{name} = v.{name}" for name in shape.keys)
    only = f" AND t.{shape.only} IS NULL" if shape.only else ""
    sets = [f"{name} = t.{name} + v.{name}" for name in shape.add]
    sets += [f"{name} = v.{name}" for name in shape.put]
    return (
        f"WITH v AS MATERIALIZED (SELECT * FROM unnest({arrays}) AS v ({', '.join(names)})), "
        f"held AS MATERIALIZED (SELECT {keys} FROM {table.name} t JOIN v ON {same}{only} "
        f"ORDER BY {keys} FOR NO KEY UPDATE OF t) "
        f"UPDATE {table.name} t SET {', '.join(sets)} FROM v JOIN held ON {held} WHERE {same}"
    )


def _bound(dialect: Dialect, table: Table, name: str, values: Sequence[Any]) -> Sequence[Any]:
    process = _processor(dialect, table, name)
    return values if process is None else [process(value) for value in values]


@lru_cache(maxsize=1000)
def _processor(dialect: Dialect, table: Table, name: str) -> Bind | None:
    found: Bind | None = table.c[name].type.dialect_impl(dialect).bind_processor(dialect)
    return found


@lru_cache(maxsize=200)
def _insert_text(table: Table, names: tuple[str, ...]) -> str:
    return f"INSERT INTO {table.name} ({', '.join(names)}) VALUES ({', '.join('?' for _ in names)})"


@lru_cache(maxsize=200)
def _copy_text(table: Table, names: tuple[str, ...]) -> str:
    return f"COPY {table.name} ({', '.join(names)}) FROM STDIN"
