"""Hot reads: statements compiled once, run by the driver itself, on PostgreSQL several in one round trip."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

from sqlalchemy import Connection, Dialect, Float, Select
from sqlalchemy.types import TypeEngine

from gridcore.db import driver
from gridcore.db.driver import Call
from gridcore.db.types import Json

Process = Callable[[Any], Any]
Column = Callable[[Sequence[Any]], list[Any]]


class Read(NamedTuple):
    """A statement with its binds. It is a module's constant, without lists of binds: these have `within`."""

    statement: Select[Any]
    binds: Mapping[str, Any]


class _Plan(NamedTuple):
    """A statement as the driver takes it: its binds in order, or by name, and what makes its values ours."""

    sql: str
    names: tuple[str, ...]
    fixed: Mapping[str, Any]
    binds: Mapping[str, Process | None]
    columns: tuple[Column | None, ...]


def rows(conn: Connection, reads: Sequence[Read]) -> list[list[tuple[Any, ...]]]:
    """The rows of each, as tuples; one after the other, each sees what was committed before it."""
    if conn.dialect.name == "oracle":
        return [[tuple(row) for row in conn.execute(*one)] for one in reads]
    plans = [_plan(one.statement, conn.dialect) for one in reads]
    cursors = driver.run(
        conn, [Call(plan.sql, _values(plan, one.binds)) for plan, one in zip(plans, reads, strict=True)]
    )
    return [_ours(plan, cursor.fetchall()) for plan, cursor in zip(plans, cursors, strict=True)]


@lru_cache(maxsize=200)
def _plan(statement: Select[Any], dialect: Dialect) -> _Plan:
    compiled: Any = statement.compile(dialect=dialect)
    binds = {name: compiled.binds[name].type.dialect_impl(dialect) for name in compiled.params}
    return _Plan(
        sql=str(compiled),
        names=tuple(compiled.positiontup) if compiled.positional else (),
        fixed=compiled.params,
        binds={name: kind.bind_processor(dialect) for name, kind in binds.items()},
        columns=tuple(_column(column.type, dialect) for column in statement.selected_columns),
    )


def _column(kind: TypeEngine[Any], dialect: Dialect) -> Column | None:
    """What makes a column's values ours, None where they are as the driver gives them."""
    # Floats are; asked without the driver's own type, the dialects know no better.
    if isinstance(kind, Float):
        return None
    process = kind.dialect_impl(dialect).result_processor(dialect, None)
    if process is None:
        return None
    return partial(_each if isinstance(kind, Json) else _each_once, process)


def _each(process: Process, values: Sequence[Any]) -> list[Any]:
    return [None if value is None else process(value) for value in values]


def _each_once(process: Process, values: Sequence[Any]) -> list[Any]:
    """Equal values become the same one: there are few states, and many rows of one moment."""
    known = {value: None if value is None else process(value) for value in set(values)}
    return [known[value] for value in values]


def _values(plan: _Plan, given: Mapping[str, Any]) -> Any:
    values = {**plan.fixed, **given}
    for name, process in plan.binds.items():
        if process is not None:
            values[name] = process(values[name])
    return [values[name] for name in plan.names] if plan.names else values


def _ours(plan: _Plan, found: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    if not found or not any(plan.columns):
        return found
    lists = [
        values if ours is None else ours(values)
        for ours, values in zip(plan.columns, zip(*found, strict=True), strict=True)
    ]
    return list(zip(*lists, strict=True))
