"""`within(column, ids)`: the rows of many keys by one bind, so that one text and one plan serve any number.

An IN list with a bind per key is compiled and planned anew for each length; here PostgreSQL gets the text of
an array, SQLite and Oracle one of JSON.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Boolean, Column, Dialect, Text, bindparam
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator


class IdList(TypeDecorator[Iterable[int]]):
    """Keys as one value."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Iterable[int] | None, dialect: Dialect) -> str:
        """The keys as the dialect reads them."""
        keys = ",".join(map(str, value or ()))
        return f"{{{keys}}}" if dialect.name == "postgresql" else f"[{keys}]"


class Within(FunctionElement[bool]):
    """Whether the first element is among the keys of the second."""

    name = "within"
    type = Boolean()
    inherit_cache = True

    def self_group(self, against: Any = None) -> Within:
        """As it is: `= 1` after it, for databases without booleans, would hide the keys from the planner."""
        return self


def within(column: Column[Any], ids: str = "ids") -> Within:
    """A condition: the column is one of the keys in the bind named `ids`."""
    return Within(column, bindparam(ids, type_=IdList()))


def _parts(element: Within, compiler: Any, options: dict[str, Any]) -> tuple[str, str]:
    column, keys = (compiler.process(one, **options) for one in element.clauses)
    return column, keys


@compiles(Within, "postgresql")
def _postgresql(element: Within, compiler: Any, **options: Any) -> str:
    column, keys = _parts(element, compiler, options)
    return f"{column} = ANY (CAST({keys} AS BIGINT[]))"


@compiles(Within, "sqlite")
def _sqlite(element: Within, compiler: Any, **options: Any) -> str:
    column, keys = _parts(element, compiler, options)
    return f"{column} IN (SELECT value FROM json_each({keys}))"


@compiles(Within, "oracle")
def _oracle(element: Within, compiler: Any, **options: Any) -> str:
    column, keys = _parts(element, compiler, options)
    return f"{column} IN (SELECT k FROM JSON_TABLE({keys}, '$[*]' COLUMNS (k NUMBER(19) PATH '$')))"
