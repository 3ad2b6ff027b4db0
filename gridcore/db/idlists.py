"""`within(column, ids)` and `names_within`: the rows of many keys, or names, by one bind: one text, one plan.

An IN list with a bind per key is compiled and planned anew for each length; here PostgreSQL gets an array,
SQLite and Oracle a text of JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Boolean, Column, Dialect, Text, bindparam
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator, TypeEngine, UserDefinedType


class _Array(UserDefinedType[Any]):
    """An array of PostgreSQL, bound as its text. It is the parameter that is of this type: a text cast in the
    statement would be read anew for each row that is compared with it."""

    cache_ok = True
    render_bind_cast = True

    def __init__(self, of: str) -> None:
        self.of = of

    def get_col_spec(self, **_: Any) -> str:
        """The type's name."""
        return f"{self.of}[]"


class IdList(TypeDecorator[Iterable[int]]):
    """Keys as one value."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """An array where the dialect has them."""
        return _Array("BIGINT") if dialect.name == "postgresql" else Text()

    def process_bind_param(self, value: Iterable[int] | None, dialect: Dialect) -> str:
        """The keys as the dialect reads them."""
        keys = ",".join(map(str, value or ()))
        return f"{{{keys}}}" if dialect.name == "postgresql" else f"[{keys}]"


class NameList(TypeDecorator[Iterable[str]]):
    """Names as one value."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """An array where the dialect has them."""
        return _Array("TEXT") if dialect.name == "postgresql" else Text()

    def process_bind_param(self, value: Iterable[str] | None, dialect: Dialect) -> str:
        """The names as the dialect reads them."""
        if dialect.name != "postgresql":
            return json.dumps(list(value or ()))
        return array_text(list(value or ()))


def array_text(values: Sequence[str | None]) -> str:
    """Texts as PostgreSQL reads an array of them."""
    return f"{{{','.join('NULL' if value is None else _quoted(value) for value in values)}}}"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


class Within(FunctionElement[bool]):
    """Whether the first element is among the keys of the second."""

    name = "within"
    type = Boolean()
    inherit_cache = True

    def self_group(self, against: Any = None) -> Within:
        """As it is: `= 1` after it, for databases without booleans, would hide the keys from the planner."""
        return self


class NamesWithin(Within):
    """Whether the first element is among the names of the second."""

    inherit_cache = True


def within(column: Column[Any], ids: str = "ids") -> Within:
    """A condition: the column is one of the keys in the bind named `ids`."""
    return Within(column, bindparam(ids, type_=IdList()))


def names_within(column: Column[Any], names: str = "names") -> NamesWithin:
    """A condition: the text column is one of the names in the bind named `names`; none is empty."""
    return NamesWithin(column, bindparam(names, type_=NameList()))


def _parts(element: Within, compiler: Any, options: dict[str, Any]) -> tuple[str, str]:
    column, keys = (compiler.process(one, **options) for one in element.clauses)
    return column, keys


@compiles(Within, "postgresql")
@compiles(NamesWithin, "postgresql")
def _postgresql(element: Within, compiler: Any, **options: Any) -> str:
    column, keys = _parts(element, compiler, options)
    return f"{column} = ANY ({keys})"


@compiles(Within, "sqlite")
@compiles(NamesWithin, "sqlite")
def _sqlite(element: Within, compiler: Any, **options: Any) -> str:
    column, keys = _parts(element, compiler, options)
    return f"{column} IN (SELECT value FROM json_each({keys}))"


@compiles(Within, "oracle")
def _oracle(element: Within, compiler: Any, **options: Any) -> str:
    column, keys = _parts(element, compiler, options)
    return f"{column} IN (SELECT k FROM JSON_TABLE({keys}, '$[*]' COLUMNS (k NUMBER(19) PATH '$')))"


@compiles(NamesWithin, "oracle")
def _oracle_names(element: NamesWithin, compiler: Any, **options: Any) -> str:
    column, names = _parts(element, compiler, options)
    return f"{column} IN (SELECT k FROM JSON_TABLE({names}, '$[*]' COLUMNS (k VARCHAR2(4000) PATH '$')))"
