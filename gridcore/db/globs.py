"""`like(column, pattern)`: whether a name matches a pattern with `*` for anything and `?` for one character.

Regular expressions would do, but not in bounded time: a pattern of many stars keeps SQLite busy for hours.
What stands before the first star is a range as well, so that an index can find the names.
"""

from __future__ import annotations

import re
import sys
from typing import Any

from sqlalchemy import Boolean, ColumnElement, String, literal
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

_LIKE = str.maketrans({"%": "\\%", "_": "\\_", "\\": "\\\\", "*": "%", "?": "_"})
_GLOB = str.maketrans({"[": "[[]"})


_WILD = re.compile(r"[*?]")


class Like(FunctionElement[bool]):
    """Whether the first element matches: the second is the pattern for LIKE, the third for SQLite's GLOB,
    which minds upper and lower case as the others do. Two more: from where to below where its names are."""

    name = "glob_like"
    type = Boolean()
    inherit_cache = True

    def self_group(self, against: Any = None) -> Like:
        """As it is: no `= 1` after it, for databases without booleans."""
        return self


def like(column: ColumnElement[Any], pattern: str) -> Like:
    """A condition: the column matches the whole pattern."""
    texts = [pattern.translate(_LIKE), pattern.translate(_GLOB), *prefix_range(pattern)]
    return Like(column, *(literal(text) for text in texts))


def prefix_range(pattern: str) -> tuple[str, str] | tuple[()]:
    """(first, below): names that match are not less than the one and less than the other, by code points.

    Empty where the pattern begins with a wildcard. Pure.
    """
    prefix = _WILD.split(pattern, maxsplit=1)[0]
    kept = prefix.rstrip(chr(sys.maxunicode))
    if not kept:
        return ()
    after = ord(kept[-1]) + 1
    # Halves of surrogate pairs are no characters.
    return prefix, kept[:-1] + chr(0xE000 if 0xD800 <= after < 0xE000 else after)


def _written(element: Like, compiler: Any, options: dict[str, Any], at_least: str, below: str) -> list[str]:
    """The column, the two patterns, and the range as a condition to go in front, if any."""
    column, pattern, glob, *ends = (compiler.process(one, **options) for one in element.clauses)
    first = f"{column} {at_least} {ends[0]} AND {column} {below} {ends[1]} AND " if ends else ""
    return [column, pattern, glob, first]


def _like(element: Like, compiler: Any, options: dict[str, Any], at_least: str, below: str) -> str:
    column, pattern, _, first = _written(element, compiler, options, at_least, below)
    escape = compiler.render_literal_value("\\", String())
    return f"({first}{column} LIKE {pattern} ESCAPE {escape})"


@compiles(Like)
def _default(element: Like, compiler: Any, **options: Any) -> str:
    return _like(element, compiler, options, ">=", "<")


@compiles(Like, "postgresql")
def _postgresql(element: Like, compiler: Any, **options: Any) -> str:
    # By bytes, as indexes of varchar_pattern_ops are; the collation may order otherwise.
    return _like(element, compiler, options, "~>=~", "~<~")


@compiles(Like, "sqlite")
def _sqlite(element: Like, compiler: Any, **options: Any) -> str:
    column, _, glob, first = _written(element, compiler, options, ">=", "<")
    return f"({first}{column} GLOB {glob})"
