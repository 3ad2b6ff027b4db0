"""`like(column, pattern)`: whether a name matches a pattern with `*` for anything and `?` for one character.

Regular expressions would do, but not in bounded time: a pattern of many stars keeps SQLite busy for hours.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Boolean, ColumnElement, literal
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

_LIKE = str.maketrans({"%": "\\%", "_": "\\_", "\\": "\\\\", "*": "%", "?": "_"})
_GLOB = str.maketrans({"[": "[[]"})


class Like(FunctionElement[bool]):
    """Whether the first element matches: the second is the pattern for LIKE, the third for SQLite's GLOB,
    which minds upper and lower case as the others do."""

    name = "glob_like"
    type = Boolean()
    inherit_cache = True

    def self_group(self, against: Any = None) -> Like:
        """As it is: no `= 1` after it, for databases without booleans."""
        return self


def like(column: ColumnElement[Any], pattern: str) -> Like:
    """A condition: the column matches the whole pattern."""
    return Like(column, literal(pattern.translate(_LIKE)), literal(pattern.translate(_GLOB)))


@compiles(Like)
def _default(element: Like, compiler: Any, **options: Any) -> str:
    column, pattern, _ = element.clauses
    escape = compiler.render_literal_value("\\", pattern.type)
    return (
        f"({compiler.process(column, **options)} LIKE {compiler.process(pattern, **options)} ESCAPE {escape})"
    )


@compiles(Like, "sqlite")
def _sqlite(element: Like, compiler: Any, **options: Any) -> str:
    column, _, pattern = element.clauses
    return f"({compiler.process(column, **options)} GLOB {compiler.process(pattern, **options)})"
