"""Calls of the driver itself, for the few statements that run thousands of times a minute.

On PostgreSQL the calls of one `run` share a round trip. Errors are told as SQLAlchemy tells them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError


class Call(NamedTuple):
    """A statement and its values as the driver takes them; `many` where these are rows of values."""

    sql: str
    values: Any
    many: bool = False


def run(conn: Connection, calls: Sequence[Call]) -> list[Any]:
    """Run the calls one after the other; their cursors."""
    driver: Any = conn.connection.driver_connection
    together = conn.dialect.name == "postgresql" and len(calls) > 1
    with errors_of(conn), driver.pipeline() if together else nullcontext():
        return [(driver.executemany if one.many else driver.execute)(one.sql, one.values) for one in calls]


def copy(conn: Connection, table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> int:
    """Insert rows into a table of PostgreSQL by COPY; how many."""
    driver: Any = conn.connection.driver_connection
    with errors_of(conn), driver.cursor() as cursor:
        with cursor.copy(f"COPY {table} ({', '.join(columns)}) FROM STDIN") as stream:
            for row in rows:
                stream.write_row(row)
        return int(cursor.rowcount)


@contextmanager
def errors_of(conn: Connection) -> Iterator[None]:
    """The driver's errors as SQLAlchemy's own, by which transactions know what to try again."""
    base: Any = conn.dialect.loaded_dbapi.Error
    try:
        yield
    except base as error:
        raise DBAPIError.instance(None, None, error, base, dialect=conn.dialect) from error
