"""The barest two statements that take jobs off a queue and end them: no history, attempts or counters.

They write the columns of the job rows that the product writes, on a copy of the job table with the same
rows, indexes and foreign keys, so that nothing they do is missed.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, MetaData, Table, insert, select
from sqlalchemy.schema import CreateIndex, CreateTable, DropTable
from sqlalchemy.sql.elements import quoted_name

from gridapp.bench.backlog import Backlog, settle
from gridapp.bench.limits import Want
from gridapp.bench.server import conninfo, driver
from gridcore.db.types import to_micros
from prodsys.tables import job


def _copy_of_job() -> Table:
    tables = MetaData()
    for one in job.metadata.sorted_tables:
        one.to_metadata(tables)
    copy = job.to_metadata(tables, name="bare")
    for constraint in copy.constraints:
        constraint.name = None
    for index in copy.indexes:
        index.name = quoted_name(f"bare_{index.name}", None)
    return copy


def _fill(conn: Connection) -> None:
    copy = _copy_of_job()
    conn.execute(DropTable(copy, if_exists=True))
    conn.execute(CreateTable(copy))
    names = [one.name for one in job.c]
    ready = select(*job.c).where(job.c.state == "READY").order_by(job.c.id)
    conn.execute(insert(copy).from_select(names, ready))
    for one in sorted(copy.indexes, key=lambda index: str(index.name)):
        conn.execute(CreateIndex(one))


_FRONT = "SELECT id FROM bare WHERE class_id = {of} AND state = 'READY' ORDER BY rank, id LIMIT {n}"
_CLAIM = """UPDATE bare SET state = 'LEASED', attempt = attempt + 1, endpoint_id = {mark}, updated_at = {mark}
  WHERE id IN ({jobs}) RETURNING id"""
_END = "UPDATE bare SET state = 'DONE', endpoint_id = NULL, updated_at = {mark} WHERE id {ids}"


class Bare:
    """Claims and ends, each one statement and one commit; they spread over classes as the limit's do."""

    def __init__(self, backlog: Backlog) -> None:
        backlog.database.transaction(_fill)
        settle(backlog.database)
        self._backlog = backlog
        self._sqlite = backlog.database.dialect == "sqlite"
        self._conn = _connect(backlog)

    def claim(self, wants: Sequence[Want]) -> list[int]:
        """The keys of so many jobs of each class."""
        if self._sqlite:
            front = f"SELECT * FROM ({_FRONT.format(of='?', n='?')})"
            text = _CLAIM.format(mark="?", jobs=" UNION ALL ".join([front] * len(wants)))
            binds: list[Any] = [value for line, n in wants for value in (line.class_id, n)]
        else:
            front = _FRONT.format(of="w.of", n="w.n")
            jobs = f"SELECT j.id FROM unnest(%s::bigint[], %s::bigint[]) w (of, n), LATERAL ({front}) j"
            text = _CLAIM.format(mark="%s", jobs=jobs)
            binds = [[line.class_id for line, _ in wants], [n for _, n in wants]]
        rows = self._conn.execute(text, [self._backlog.endpoint_id, self._at(), *binds])
        return [row[0] for row in rows.fetchall()]

    def finish(self, ids: Sequence[int]) -> None:
        """End them."""
        if self._sqlite:
            text = _END.format(mark="?", ids="IN (SELECT value FROM json_each(?))")
            self._conn.execute(text, (self._at(), json.dumps(ids)))
        else:
            self._conn.execute(_END.format(mark="%s", ids="= ANY (%s)"), (self._at(), list(ids)))

    def _at(self) -> int:
        return to_micros(self._backlog.now())

    def close(self) -> None:
        """Disconnect."""
        self._conn.close()


def _connect(backlog: Backlog) -> Any:
    if backlog.database.dialect == "postgresql":
        return driver().connect(conninfo(backlog.database.url), autocommit=True, prepare_threshold=0)
    conn = sqlite3.connect(str(backlog.database.url.database), isolation_level=None, timeout=60)
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        conn.execute(f"PRAGMA {pragma}")
    return conn
