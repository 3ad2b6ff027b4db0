"""Statements of bulk writes, by what they do: for one row at a time, and for arrays of PostgreSQL."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Dialect,
    Insert,
    Integer,
    Table,
    Update,
    bindparam,
    case,
    insert,
    or_,
    update,
)

from gridcore.db.idlists import within

#: What a part of a write does with its column: gives the value of a new row, names the row, is added to what
#: it holds, replaces it, lowers it, must be what it holds.
NEW, KEY, ADD, PUT, LOW, ONLY = "new", "key", "add", "put", "low", "only"
_MARK = re.compile(r"\{(\d+)\}")


class Part(NamedTuple):
    """A column's role in a write; `same` where all rows share its value."""

    role: str
    name: str
    same: bool


class Shape(NamedTuple):
    """What a write does, whatever its values. `null` are columns that must be NULL."""

    table: Table
    parts: tuple[Part, ...]
    null: tuple[str, ...] = ()

    @property
    def alike(self) -> bool:
        """Whether all rows, named by one key that is a number, change in the same way."""
        lists = [part for part in self.parts if not part.same]
        return [part.role for part in lists] == [KEY] and isinstance(
            self.table.c[lists[0].name].type, Integer
        )

    def of(self, *roles: str) -> dict[int, Part]:
        """The parts with these roles, by their places."""
        return {place: part for place, part in enumerate(self.parts) if part.role in roles}


class Text(NamedTuple):
    """A statement for the driver, and the places of the parts whose values it takes, in its order."""

    sql: str
    places: tuple[int, ...]


@lru_cache(maxsize=500)
def statement(shape: Shape) -> Insert | Update:
    """The write for one row at a time, or for all that change alike. Binds: `v` and the part's place."""
    table = shape.table
    binds = {
        place: bindparam(f"v{place}", type_=table.c[part.name].type) for place, part in enumerate(shape.parts)
    }
    if new := shape.of(NEW):
        return insert(table).values({part.name: binds[place] for place, part in new.items()})
    sets: dict[str, Any] = {part.name: binds[place] for place, part in shape.of(PUT).items()}
    for place, part in shape.of(ADD).items():
        sets[part.name] = table.c[part.name] + binds[place]
    for place, part in shape.of(LOW).items():
        column = table.c[part.name]
        sets[part.name] = case((or_(column.is_(None), column > binds[place]), binds[place]), else_=column)
    where: list[ColumnElement[bool]] = [
        within(table.c[part.name], f"v{place}")
        if shape.alike and not part.same
        else table.c[part.name] == binds[place]
        for place, part in shape.of(KEY, ONLY).items()
    ]
    return update(table).where(*where, *(table.c[name].is_(None) for name in shape.null)).values(sets)


@lru_cache(maxsize=500)
def positional(shape: Shape, dialect: Dialect) -> Text:
    """The same for a driver that takes one tuple a row."""
    compiled = statement(shape).compile(dialect=dialect)
    names: Any = getattr(compiled, "positiontup", None)
    return Text(str(compiled), tuple(int(name[1:]) for name in names))


# --- PostgreSQL --------------------------------------------------------------------------------------------


@lru_cache(maxsize=500)
def for_row(shape: Shape, dialect: Dialect) -> Text:
    """The write for a single row."""
    values = {place: f"{{{place}}}" for place in range(len(shape.parts))}
    if shape.of(NEW):
        names = ", ".join(part.name for part in shape.parts)
        return _marked(
            f"INSERT INTO {shape.table.name} ({names}) VALUES ({', '.join(values.values())})", shape, dialect
        )
    return _marked(_update(shape, values), shape, dialect)


@lru_cache(maxsize=500)
def for_arrays(shape: Shape, dialect: Dialect) -> Text:
    """The write for all rows at once: what differs between them comes as arrays."""
    lists = [place for place, part in enumerate(shape.parts) if not part.same]
    values = {place: f"v.v{place}" if place in lists else f"{{{place}}}" for place in range(len(shape.parts))}
    arrays, names = (", ".join(form.format(place) for place in lists) for form in ("{{{}}}", "v{}"))
    rows = f"unnest({arrays}) AS v ({names})"
    if shape.of(NEW):
        names = ", ".join(part.name for part in shape.parts)
        sql = f"INSERT INTO {shape.table.name} ({names}) SELECT {', '.join(values.values())} FROM {rows}"
    elif shape.alike:
        sql = _update(shape, {**values, lists[0]: f"ANY({{{lists[0]}}})"})
    else:
        sql = _update(shape, values, f" FROM {rows}")
    return _marked(sql, shape, dialect, lists)


def _update(shape: Shape, values: dict[int, str], rows: str = "") -> str:
    sets = [f"{part.name} = t.{part.name} + {values[place]}" for place, part in shape.of(ADD).items()]
    sets += [f"{part.name} = {values[place]}" for place, part in shape.of(PUT).items()]
    sets += [f"{part.name} = least(t.{part.name}, {values[place]})" for place, part in shape.of(LOW).items()]
    return f"UPDATE {shape.table.name} t SET {', '.join(sets)}{rows} WHERE {_where(shape, values)}"


def _where(shape: Shape, values: dict[int, str]) -> str:
    same = [f"t.{part.name} = {values[place]}" for place, part in shape.of(KEY, ONLY).items()]
    return " AND ".join([*same, *(f"t.{name} IS NULL" for name in shape.null)])


def _marked(sql: str, shape: Shape, dialect: Dialect, lists: list[int] | None = None) -> Text:
    """The text with the driver's marks for the places in braces, each cast to its column's type."""
    places: list[int] = []

    def mark(found: re.Match[str]) -> str:
        place = int(found[1])
        places.append(place)
        kind = shape.table.c[shape.parts[place].name].type.compile(dialect)
        kind = "TEXT" if kind.startswith("VARCHAR") else kind  # a cast to VARCHAR(n) would cut in silence
        return f"%s::{kind}[]" if lists and place in lists else f"%s::{kind}"

    return Text(_MARK.sub(mark, sql), tuple(places))
