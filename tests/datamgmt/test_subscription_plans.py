"""Plans: what a subscription costs does not grow with the rest of the catalogue."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from grids.data_grid import DataGrid
from sqlalchemy import event, func, select

from catalogs import bookkeeping, registration
from catalogs.filebatch import FileBatch
from datamgmt.tables import transfer
from gridcore.db import Database, driver

FILES = 20_000
#: Reading from end to end a table that grows with the catalogue; without statistics PostgreSQL also takes the
#: keys of all later files for few.
_LARGE = "data_file|transfer|block|block_replica"
_WHOLE = {
    "sqlite": re.compile(rf"SCAN ({_LARGE})\b(?! USING INDEX ix_block_(close_by|replica_transit))"),
    "postgresql": re.compile(rf"Seq Scan on ({_LARGE})\b|Index Cond: \(id > "),
}


@pytest.fixture
def grid(database: Database) -> DataGrid:
    """A small dataset beside a large one."""
    grid = DataGrid(database, "AB")
    grid.link("AB")
    key, reserved = grid.keys.one("dataset"), registration.reserve(grid.keys, FILES)
    policy = bookkeeping.BlockPolicy(100, 10**12, 10**6)

    def register(conn: Any, now: Any) -> None:
        large = bookkeeping.create_dataset(conn, key, "/Sim/large/RECO", policy, now)
        registration.register(conn, reserved, large, 1, _files(), now)

    grid.do(register)
    grid.produce(3)
    grid.produce(3, first=3)
    return grid


def _files() -> FileBatch:
    return FileBatch(
        dirs=["/store/large"],
        dir_of=[0] * FILES,
        names=[f"f{number}" for number in range(FILES)],
        bytes=[1] * FILES,
        adler32=[1] * FILES,
        events=[None] * FILES,
    )


@contextmanager
def plans(database: Database, seen: dict[str, str]) -> Iterator[None]:
    """{statement: the plan of its first run} of all that runs meanwhile."""
    explain = "EXPLAIN QUERY PLAN " if database.dialect == "sqlite" else "EXPLAIN "

    def note(connection: Any, statement: str, values: Any) -> None:
        if statement not in seen and statement.startswith(("SELECT", "UPDATE", "INSERT", "DELETE", "WITH")):
            seen[statement] = ""
            rows = connection.execute(explain + statement, values).fetchall()
            seen[statement] = "\n".join(str(row[-1]) for row in rows)

    def before(conn: Any, cursor: Any, statement: str, values: Any, context: Any, many: bool) -> None:
        note(conn.connection.driver_connection, statement, values[0] if many else values)

    def run(conn: Any, calls: Any) -> Any:
        known = [one._replace(values=list(one.values)) if one.many else one for one in calls]
        for one in known:
            note(conn.connection.driver_connection, one.sql, one.values[0] if one.many else one.values)
        return direct(conn, known)

    def begin(conn: Any) -> None:
        if database.dialect == "postgresql":
            conn.exec_driver_sql("SET LOCAL enable_seqscan = off")

    direct, engines = driver.run, (database._writer, database._reader)
    for one in engines:
        event.listen(one, "before_cursor_execute", before)
        event.listen(one, "begin", begin)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(driver, "run", run)
        yield
    for one in engines:
        event.remove(one, "before_cursor_execute", before)
        event.remove(one, "begin", begin)


def test_no_statement_walks_what_others_have(grid: DataGrid) -> None:
    worker = grid.worker(kinds=["block_manager", "router"])
    worker.take()
    worker.cycle("block_manager")
    seen: dict[str, str] = {}
    with plans(grid.database, seen):
        grid.subscribe("B")
        for kind in worker.agents:
            worker.cycle(kind)
    worker.close()
    assert grid.rows(select(func.count()).select_from(transfer)) == [(6,)]
    whole = _WHOLE[grid.database.dialect]
    assert [(one, plan) for one, plan in seen.items() if whole.search(plan)] == []
    assert any("INSERT INTO transfer" in one for one in seen)
