"""The limits of the data half: the rows of registered files by the raw driver in its fastest form.

COPY on PostgreSQL, executemany on SQLite, one commit a batch. Nothing is looked up, checked or decided: keys,
blocks and directories are given.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import repeat
from typing import Any, Protocol

from catalogs.filebatch import FileBatch
from gridapp.bench.limits import DURABLE
from gridapp.bench.server import conninfo, driver
from gridcore.db import Database
from gridcore.db.types import to_micros

#: Files of a block.
BLOCK = 500

Rows = Iterable[tuple[Any, ...]]


class FileLimit(Protocol):
    """Registration by the raw driver. Each call is one commit."""

    def register(self, batch: FileBatch, base: int, now: datetime) -> None:
        """Files with the keys from `base` on, in blocks and directories of their own."""

    def close(self) -> None:
        """Disconnect."""


def file_limit(database: Database, dataset_id: int, se_id: int) -> FileLimit:
    """The limit of that database."""
    if database.dialect == "sqlite":
        return SqliteFiles(str(database.url.database), dataset_id, se_id)
    return PostgresFiles(conninfo(database.url), dataset_id, se_id)


def _tables(
    batch: FileBatch, base: int, at: int, dataset_id: int, se_id: int
) -> Iterator[tuple[str, str, Rows]]:
    """(table, columns, rows) of all that is new. Keys of files, blocks and directories count from `base`."""
    n = len(batch)
    firsts = range(0, n, BLOCK)
    blocks = [base + first for first in firsts]
    yield "dir", "id, path", ((base + number, path) for number, path in enumerate(batch.dirs))
    sums = [
        [sum(column[first : first + BLOCK]) for first in firsts]
        for column in (batch.bytes, [events or 0 for events in batch.events])
    ]
    counted = zip(blocks, *sums, strict=True)
    yield (
        "block",
        "id, dataset_id, name, origin_se_id, state, files, bytes, events, created_at, closed_at, close_by",
        (
            (key, dataset_id, f"/Bench/raw/RAW#{key:08x}", se_id, "CLOSED", BLOCK, size, events, at, at, at)
            for key, size, events in counted
        ),
    )
    yield (
        "block_replica",
        "block_id, se_id, state, created_at, completed_at",
        ((key, se_id, "COMPLETE", at, at) for key in blocks),
    )
    yield (
        "block_history",
        "block_id, frm, dst, at, code",
        (
            (key, *step)
            for key in blocks
            for step in ((None, "OPEN", at, "first file"), ("OPEN", "CLOSED", at, "files"))
        ),
    )
    files = range(base, base + n)
    yield (
        "data_file",
        "id, block_id, dir_id, name, bytes, adler32, events, created_at",
        zip(
            files,
            (key for key in blocks for _ in range(BLOCK)),
            (base + number for number in batch.dir_of),
            batch.names,
            batch.bytes,
            batch.adler32,
            batch.events,
            repeat(at),
            strict=False,
        ),
    )
    yield "file_parent", "file_id, parent_id", ((base + place, parent) for place, parent in batch.parents)
    events = [("block.closed", f"/Bench/raw/RAW#{key:08x}", '{"files":500}', at) for key in blocks]
    yield "outbox", "kind, subject, body, created_at", events


_SUMS = (
    (
        "UPDATE dataset SET files = files + {0}, bytes = bytes + {1}, events = events + {2}, "
        "closed_blocks = closed_blocks + {3}, unsettled = 1 WHERE id = {4}"
    ),
    (
        "UPDATE holding SET blocks = blocks + {3}, closed = closed + {3}, files = files + {0}, "
        "bytes = bytes + {1} WHERE dataset_id = {4} AND se_id = {5}"
    ),
    ("UPDATE se_use SET files = files + {0}, complete_bytes = complete_bytes + {1} WHERE se_id = {5}"),
)


def _sums(batch: FileBatch, dataset_id: int, se_id: int) -> list[str]:
    events = sum(one or 0 for one in batch.events)
    values = (len(batch), sum(batch.bytes), events, -(-len(batch) // BLOCK), dataset_id, se_id)
    return [text.format(*values) for text in _SUMS]


class PostgresFiles:
    """Raw psycopg: COPY for every table."""

    def __init__(self, address: str, dataset_id: int, se_id: int) -> None:
        self._conn: Any = driver().connect(address, autocommit=True)
        self._of = dataset_id, se_id

    def register(self, batch: FileBatch, base: int, now: datetime) -> None:
        """See FileLimit."""
        with self._conn.transaction(), self._conn.cursor() as cursor:
            for table, columns, rows in _tables(batch, base, to_micros(now), *self._of):
                with cursor.copy(f"COPY {table} ({columns}) FROM STDIN") as copy:
                    for row in rows:
                        copy.write_row(row)
            for text in _sums(batch, *self._of):
                cursor.execute(text)

    def close(self) -> None:
        """See FileLimit."""
        self._conn.close()


class SqliteFiles:
    """Raw sqlite3: executemany between BEGIN and COMMIT, synchronous as FULL."""

    def __init__(self, path: str, dataset_id: int, se_id: int) -> None:
        self._conn = sqlite3.connect(path, isolation_level=None, timeout=60)
        for pragma in (*DURABLE, "cache_size = -65536", "wal_autocheckpoint = 10000"):
            self._conn.execute(f"PRAGMA {pragma}")
        self._of = dataset_id, se_id

    def register(self, batch: FileBatch, base: int, now: datetime) -> None:
        """See FileLimit."""
        self._conn.execute("BEGIN IMMEDIATE")
        for table, columns, rows in _tables(batch, base, to_micros(now), *self._of):
            marks = ", ".join("?" * (columns.count(",") + 1))
            self._conn.executemany(f"INSERT INTO {table} ({columns}) VALUES ({marks})", rows)
        for text in _sums(batch, *self._of):
            self._conn.execute(text)
        self._conn.execute("COMMIT")

    def close(self) -> None:
        """See FileLimit."""
        self._conn.close()
