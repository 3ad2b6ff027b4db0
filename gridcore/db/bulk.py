"""Bulk writes as fast as the driver can: arrays and COPY on PostgreSQL, in one round trip; else executemany.

Columns in, not rows; the values pass the columns' own types.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from itertools import groupby, repeat
from types import MappingProxyType, NoneType
from typing import Any, NamedTuple

from sqlalchemy import Connection, Dialect, Table

from gridcore.db import bulk_texts, driver
from gridcore.db.bulk_texts import ADD, KEY, LOW, NEW, ONLY, PUT, Part, Shape
from gridcore.db.driver import Call
from gridcore.db.idlists import array_text

#: New rows from which on COPY is quicker than arrays, though it shares no round trip.
COPY_FROM = 1000


class Same(NamedTuple):
    """A value that all rows share."""

    value: Any


Values = Sequence[Any] | Same
Columns = Mapping[str, Values]
Bind = Callable[[Any], Any]
#: What the objects of one call have become, by what made them so.
Known = dict[Bind, dict[int, Any]]
_NO_COLUMNS: Columns = MappingProxyType({})
_NO_VALUES: Mapping[str, Any] = MappingProxyType({})


class New(NamedTuple):
    """Rows to insert, by column, all equally long."""

    table: Table
    columns: Columns

    def lists(self) -> list[Values]:
        """The values of its parts."""
        return list(self.columns.values())

    def look(self) -> Hashable:
        """What tells one shape from another, had at little cost."""
        return (self.table, *self.columns, *map(type, self.columns.values()))

    def shape(self) -> Shape:
        """What it does, whatever its values."""
        return Shape(self.table, _parts(NEW, self.columns))


class Change(NamedTuple):
    """An update of rows named by their keys, in ascending order.

    `add` is added to what a column holds, `put` replaces it, `low` replaces what is higher or NULL. `only` is
    what columns must hold, None for NULL: other rows are left alone.
    """

    table: Table
    keys: Columns
    add: Columns = _NO_COLUMNS
    put: Columns = _NO_COLUMNS
    low: Columns = _NO_COLUMNS
    only: Mapping[str, Any] = _NO_VALUES

    def lists(self) -> list[Values]:
        """The values of its parts."""
        only = [Same(value) for value in self.only.values() if value is not None]
        return [*self.add.values(), *self.put.values(), *self.low.values(), *self.keys.values(), *only]

    def look(self) -> Hashable:
        """What tells one shape from another, had at little cost."""
        parts = (self.keys, self.add, self.put, self.low)
        names = (name for part in parts for name in (len(part), *part))
        return (self.table, *names, *self.only, *map(type, self.lists()), *map(type, self.only.values()))

    def shape(self) -> Shape:
        """What it does, whatever its values."""
        only = {name: Same(value) for name, value in self.only.items() if value is not None}
        parts = [(ADD, self.add), (PUT, self.put), (LOW, self.low), (KEY, self.keys), (ONLY, only)]
        null = tuple(name for name, value in self.only.items() if value is None)
        return Shape(self.table, sum((_parts(*one) for one in parts), ()), null)


Write = New | Change


def _parts(role: str, columns: Mapping[str, Any]) -> tuple[Part, ...]:
    return tuple(Part(role, name, isinstance(values, Same)) for name, values in columns.items())


def write(conn: Connection, writes: Sequence[Write]) -> list[int]:
    """Do the writes one after the other, on PostgreSQL in one round trip; how many rows each touched.

    Rows are found by their keys in the order given, or in that of the index, which is the same: two that
    change the same rows do not wait for each other in a circle. Raises what SQLAlchemy would.
    """
    if conn.dialect.name not in ("sqlite", "postgresql"):
        return portably(conn, writes)
    known: Known = {}
    bound = [_bind(conn.dialect, one, known) for one in writes]
    if conn.dialect.name == "sqlite":
        return _run(conn, bound, _row_by_row)
    found: list[int] = []
    for copied, run in groupby(bound, key=_by_copy):
        mine = list(run)
        found += [_copy(conn, one) for one in mine] if copied else _run(conn, mine, _at_once)
    return found


def analyze(conn: Connection, tables: Iterable[Table]) -> None:
    """Have PostgreSQL count anew what is in tables that were filled in bulk: until it does so by itself, its
    plans are those of the tables before. No other database needs it."""
    if conn.dialect.name == "postgresql":
        conn.exec_driver_sql(f"ANALYZE {', '.join(one.name for one in tables)}")


def portably(conn: Connection, writes: Sequence[Write]) -> list[int]:
    """The same by SQLAlchemy alone, for any database."""
    return [_execute(conn, _Bound(one.shape(), one.lists())) for one in writes]


def _by_copy(one: _Bound) -> bool:
    return one.rows >= COPY_FROM and one.shape.parts[0].role == NEW


def _run(conn: Connection, writes: Sequence[_Bound], call: Callable[[_Bound, Dialect], Call]) -> list[int]:
    cursors = iter(driver.run(conn, [call(one, conn.dialect) for one in writes if one.rows]))
    return [int(next(cursors).rowcount) if one.rows else 0 for one in writes]


#: Shapes seen, with what makes their values the driver's. As many as there are writes in the code.
_PLANS: dict[tuple[Hashable, Dialect], tuple[Shape, list[Bind | None]]] = {}


class _Bound(NamedTuple):
    """A write with its values."""

    shape: Shape
    values: list[Values]

    @property
    def rows(self) -> int:
        """How many rows it names."""
        return next((len(v) for v in self.values if not isinstance(v, Same)), 1)


def _bind(dialect: Dialect, one: Write, known: Known) -> _Bound:
    """The values as the driver takes them."""
    look = one.look(), dialect
    if look not in _PLANS:
        shape = one.shape()
        _PLANS[look] = shape, [_processor(dialect, shape.table, part.name) for part in shape.parts]
    (shape, processes), values = _PLANS[look], list[Values]()
    for process, found in zip(processes, one.lists(), strict=True):
        if process is None:
            values.append(found)
        elif isinstance(found, Same):
            values.append(Same(process(found.value)))
        else:
            values.append(_processed(found, process, known))
    return _Bound(shape, values)


def _processed(values: Sequence[Any], process: Bind, known: Known) -> list[Any]:
    """Each value as the driver takes it; those that are the same object, as many are, once."""
    mine = known.setdefault(process, {})
    new = {me: value for value in values if (me := id(value)) not in mine}
    mine.update((me, process(value)) for me, value in new.items())
    return [mine[id(value)] for value in values]


#: Columns of one type share what makes their values the driver's.
_PROCESSES: dict[tuple[Hashable, Dialect], Bind | None] = {}


def _processor(dialect: Dialect, table: Table, name: str) -> Bind | None:
    kind = table.c[name].type
    me = kind._static_cache_key, dialect
    if me not in _PROCESSES:
        _PROCESSES[me] = kind.dialect_impl(dialect).bind_processor(dialect)
    return _PROCESSES[me]


# --- row by row ---------------------------------------------------------------------------------------------


def _execute(conn: Connection, one: _Bound) -> int:
    if not one.rows:
        return 0
    lists = _lists(one, list)
    names = [f"v{place}" for place in range(len(lists))]
    binds = [dict(zip(names, row, strict=True)) for row in zip(*lists, strict=True)]
    found = conn.execute(bulk_texts.statement(one.shape), binds)
    return one.rows if one.shape.parts[0].role == NEW else found.rowcount


def _row_by_row(one: _Bound, dialect: Dialect) -> Call:
    text = bulk_texts.positional(one.shape, dialect)
    lists = _lists(one, lambda keys: str(list(keys)))  # keys are read as JSON
    return Call(text.sql, zip(*(lists[place] for place in text.places), strict=True), many=True)


def _lists(one: _Bound, keys_of: Callable[[Sequence[Any]], Any]) -> list[Iterable[Any]]:
    """The values of each part, row by row; all keys in one where the rows change alike."""
    rows = 1 if one.shape.alike else one.rows
    return [
        [v.value] * rows if isinstance(v, Same) else [keys_of(v)] if one.shape.alike else v
        for v in one.values
    ]


# --- PostgreSQL ---------------------------------------------------------------------------------------------


def _at_once(one: _Bound, dialect: Dialect) -> Call:
    if one.rows == 1:
        text = bulk_texts.for_row(one.shape, dialect)
        values = [_scalar(v.value if isinstance(v, Same) else v[0]) for v in one.values]
    else:
        text = bulk_texts.for_arrays(one.shape, dialect)
        values = [_scalar(v.value) if isinstance(v, Same) else _array(v) for v in one.values]
    return Call(text.sql, [values[place] for place in text.places])


def _scalar(value: Any) -> Any:
    """Numbers as text, which is of one type for all: the text of the statement tells the server which."""
    return str(value) if type(value) in (int, float) else value


def _array(values: Sequence[Any]) -> Any:
    """An array as text, likewise, and because the driver would look at each value."""
    kinds = set(map(type, values))
    if kinds <= {int, float}:
        return f"{{{','.join(map(str, values))}}}"
    if kinds <= {int, float, NoneType}:
        return f"{{{','.join('NULL' if value is None else str(value) for value in values)}}}"
    if kinds <= {str, int, float, NoneType}:
        return array_text([None if value is None else str(value) for value in values])
    return list(values)


def _copy(conn: Connection, one: _Bound) -> int:
    columns = [part.name for part in one.shape.parts]
    lists = [repeat(v.value, one.rows) if isinstance(v, Same) else v for v in one.values]
    return driver.copy(conn, one.shape.table.name, columns, zip(*lists, strict=True))
