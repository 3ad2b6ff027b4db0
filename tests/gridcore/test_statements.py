"""Every name and statement of the product suits Oracle too, compiled without a server."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator

import pytest
from sqlalchemy import (
    Delete,
    Executable,
    Index,
    Insert,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    Update,
    select,
)
from sqlalchemy.dialects import oracle
from sqlalchemy.dialects.oracle.base import RESERVED_WORDS
from sqlalchemy.dialects.postgresql import psycopg
from sqlalchemy.schema import CreateIndex, CreateTable
from sqlalchemy.sql.compiler import SQLCompiler

from catalogs.tables import site
from gridcore.db import statements
from gridcore.db.idlists import names_within, within
from gridcore.db.types import label, metadata

DIALECT = oracle.dialect()  # type: ignore[no-untyped-call]
NAME_MAX = 30
VARCHAR2_MAX = 4000

#: V$RESERVED_WORDS where reserved = 'Y'; SQLAlchemy's list lacks some.
ORACLE = frozenset(
    """ACCESS ADD ALL ALTER AND ANY AS ASC AUDIT BETWEEN BY CHAR CHECK CLUSTER COLUMN COLUMN_VALUE
    COMMENT COMPRESS CONNECT CREATE CURRENT DATE DECIMAL DEFAULT DELETE DESC DISTINCT DROP ELSE
    EXCLUSIVE EXISTS FILE FLOAT FOR FROM GRANT GROUP HAVING IDENTIFIED IMMEDIATE IN INCREMENT INDEX
    INITIAL INSERT INTEGER INTERSECT INTO IS LEVEL LIKE LOCK LONG MAXEXTENTS MINUS MLSLABEL MODE
    MODIFY NESTED_TABLE_ID NOAUDIT NOCOMPRESS NOT NOWAIT NULL NUMBER OF OFFLINE ON ONLINE OPTION OR
    ORDER PCTFREE PRIOR PUBLIC RAW RENAME RESOURCE REVOKE ROW ROWID ROWNUM ROWS SELECT SESSION SET
    SHARE SIZE SMALLINT START SUCCESSFUL SYNONYM SYSDATE TABLE THEN TO TRIGGER UID UNION UNIQUE
    UPDATE USER VALIDATE VALUES VARCHAR VARCHAR2 VIEW WHENEVER WHERE WITH""".lower().split()
) | frozenset(RESERVED_WORDS)

#: Where statements are kept; faces hold none.
PACKAGES = ("gridcore", "catalogs", "prodsys", "datamgmt", "agents")


def load_all() -> None:
    for name in PACKAGES:
        package = importlib.import_module(name)
        for module in pkgutil.walk_packages(package.__path__, f"{name}."):
            importlib.import_module(module.name)


load_all()
STATEMENTS = statements()


def faults(schema: MetaData) -> list[str]:
    """Names of the schema Oracle would not take, as `where: what`."""
    return [found for table in schema.sorted_tables for found in _faults(table)]


def _faults(table: Table) -> Iterator[str]:
    names = [table.name, *table.c.keys()]
    yield from (f"{table.name}.{name}: reserved" for name in names if name.lower() in ORACLE)
    things: list[Index | object] = [*table.indexes, *(one for one in table.constraints if one.name)]
    names += [str(one.name) for one in things]  # type: ignore[attr-defined]
    yield from (f"{table.name}.{name}: too long" for name in names if len(name) > NAME_MAX)
    for column in table.c:
        if isinstance(column.type, String) and (column.type.length or 0) > VARCHAR2_MAX:
            yield f"{table.name}.{column.name}: too wide"


def compiled(statement: Executable) -> SQLCompiler:
    if isinstance(statement, Insert):
        columns = [column.name for column in statement.table.c if column.identity is None]
        return statement.compile(dialect=DIALECT, column_keys=columns)  # type: ignore[return-value]
    return statement.compile(dialect=DIALECT)  # type: ignore[attr-defined,no-any-return]


def test_the_names_suit_oracle() -> None:
    assert len(metadata.tables) > 30
    assert faults(metadata) == []


def test_names_that_do_not_suit_are_found() -> None:
    schema = MetaData()
    Table("file", schema, label("size", 10), label("x" * 31, 5000), UniqueConstraint("size", name="u" * 31))
    assert sorted(one.split(": ")[1] for one in faults(schema)) == [
        "reserved",
        "reserved",
        "too long",
        "too long",
        "too wide",
    ]


def test_the_schema_compiles_for_oracle() -> None:
    for table in metadata.sorted_tables:
        assert "CREATE TABLE" in str(CreateTable(table).compile(dialect=DIALECT))
        for index in table.indexes:
            assert "INDEX" in str(CreateIndex(index).compile(dialect=DIALECT))


def test_the_list_of_statements_holds_those_of_every_layer() -> None:
    for name in ("gridcore.db.leases.TAKE", "catalogs.registration.IN_DIR", "insert block", "lock block"):
        assert name in STATEMENTS


@pytest.mark.parametrize("name", sorted(STATEMENTS))
def test_a_statement_suits_oracle(name: str) -> None:
    result = compiled(STATEMENTS[name])
    text = str(result).upper()
    limited = "FETCH FIRST" in text or "ROWNUM" in text
    assert not ("FOR UPDATE" in text and limited), "Oracle locks no limited rows"
    assert "ON CONFLICT" not in text
    assert "SKIP LOCKED" not in text
    assert all(len(bind) <= NAME_MAX for bind in result.bind_names.values())


def test_what_changes_rows_may_be_run_for_many_at_once() -> None:
    """A list of binds with fixed values is refused by executemany, and only once there are two rows."""
    found = {}
    for name, statement in STATEMENTS.items():
        if isinstance(statement, Update | Delete):
            binds = compiled(statement).binds.values()
            found[name] = [bind.key for bind in binds if bind.expanding and not bind.required]
    assert {name: keys for name, keys in found.items() if keys} == {}


def test_postgresql_reads_a_list_of_keys_once() -> None:
    """Bound as a text and cast in the statement, it would be read anew for each row it is compared with."""
    bound = select(site.c.id).where(within(site.c.id), names_within(site.c.name))
    told = str(bound.compile(dialect=psycopg.dialect()))  # type: ignore[no-untyped-call]
    assert "id = ANY (%(ids)s::BIGINT[])" in told
    assert "name = ANY (%(names)s::TEXT[])" in told
