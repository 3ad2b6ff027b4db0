"""What the database would do for a statement."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection

from gridcore.db import Database


def explained(
    database: Database, statement: Any, binds: Mapping[str, Any], *, as_if_large: bool = False
) -> list[str]:
    """The steps of the plan, a line each, as this database writes them; nothing is run.

    `as_if_large`: tables are read from end to end only where no index serves.
    """

    def unit(conn: Connection) -> list[str]:
        if as_if_large and conn.dialect.name == "postgresql":
            conn.exec_driver_sql("SET LOCAL enable_seqscan = off")
        compiled = statement.compile(dialect=conn.dialect)
        values = {**compiled.params, **binds}
        for name in values:
            process = compiled.binds[name].type.dialect_impl(conn.dialect).bind_processor(conn.dialect)
            values[name] = process(values[name]) if process else values[name]
        given = tuple(values[name] for name in compiled.positiontup) if compiled.positional else values
        verb = "EXPLAIN QUERY PLAN" if conn.dialect.name == "sqlite" else "EXPLAIN"
        return [row[-1].strip() for row in conn.exec_driver_sql(f"{verb} {compiled}", given)]

    return database.transaction(unit)
