"""A small grid in a database: three SEs and one dataset, for the tests of the catalogues."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, TypeVar

from sqlalchemy import Connection

from catalogs import bookkeeping, registration, replicas, sites
from catalogs.bookkeeping import BlockPolicy
from catalogs.filebatch import NewFile
from catalogs.guard import Kept
from catalogs.replicas import Begin
from catalogs.states import ReplicaState
from catalogs.tables import block
from gridcore.db import Database, lock_rows, outbox
from gridcore.db.keys import Keys

T = TypeVar("T")

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DATASET = "/MinBias/Spring26-v1/RAW"
ALDER, BIRCH, CEDAR = 1, 2, 3
RULES = {
    "lfn-to-pfn": [{"protocol": "direct", "path-match": "/+(.*)", "result": "/data/$1"}],
    "pfn-to-lfn": [],
}


def new_file(number: int, size: int = 10, **values: Any) -> NewFile:
    """The numbered file; five to a directory."""
    lfn = f"/store/data/MinBias/{number // 5}/file_{number}.root"
    return NewFile(lfn=lfn, bytes=size, adler32=number, **{"events": 100, **values})


class Grid:
    """The database and shorthands for what every test does."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.keys = Keys(database)

    def build(self) -> Grid:
        for number, name in ((ALDER, "Alder"), (BIRCH, "Birch"), (CEDAR, "Cedar")):
            self.do(sites.put_site, sites.Site(id=number, name=f"T1_DE_{name}", tier=1))
            self.do(sites.put_se, storage(number, f"{name}_Disk"))
        self.dataset_id = self.make_dataset(DATASET)
        return self

    def do(self, act: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """In a transaction."""
        return self.database.transaction(lambda conn: act(conn, *args, **kwargs))

    def read(self, act: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """In a snapshot."""
        with self.database.snapshot() as conn:
            return act(conn, *args, **kwargs)

    def make_dataset(self, name: str, files: int = 3, size: int = 1000, age_s: float = 60) -> int:
        policy = BlockPolicy(files, size, age_s)
        return self.do(bookkeeping.create_dataset, self.keys.one("dataset"), name, policy, NOW)

    def register(
        self, *files: NewFile, dataset_id: int | None = None, se_id: int = ALDER, now: datetime = NOW
    ) -> list[int]:
        reserved = registration.reserve(self.keys, len(files))
        return self.do(registration.register, reserved, dataset_id or self.dataset_id, se_id, files, now)

    def closed_block(self, *files: NewFile) -> int:
        """The id of a closed block with these files (or file 0), at Alder."""
        (file_id, *_) = self.register(*(files or (new_file(0),)))
        block_id = self.block_of(file_id)
        self.do(bookkeeping.close_blocks, [block_id], "age", NOW)
        return block_id

    def block_of(self, file_id: int) -> int:
        for row in self.all_blocks():
            if any(one.id == file_id for one in self.read(bookkeeping.files_of_block, row.id)):
                return row.id
        raise LookupError(file_id)

    def all_blocks(self) -> list[bookkeeping.BlockRow]:
        return list(self.read(bookkeeping.blocks_by_id, range(1, 1000)).values())

    def copy(self, block_id: int, *se_ids: int) -> None:
        """COMPLETE replicas there too."""
        for hops, se_id in enumerate(se_ids, 1):
            self.begin(block_id, se_id)
            assert self.complete(block_id, se_id, hops)

    def begin(
        self, block_id: int, se_id: int, *, transit: bool = False, custodial: bool = False
    ) -> ReplicaState:
        """Have a replica there; its state."""

        def unit(conn: Connection) -> ReplicaState:
            lock_rows(conn, block, [block_id])
            wanted = Begin(block_id, se_id, transit, custodial)
            return replicas.begin_all(conn, [wanted], NOW)[wanted.key]

        return self.do(unit)

    def complete(self, block_id: int, se_id: int, hops: int = 1) -> bool:
        """The last file has arrived there; False where it was not COPYING."""

        def unit(conn: Connection) -> bool:
            lock_rows(conn, block, [block_id])
            return replicas.complete_all(conn, {(block_id, se_id): hops}, NOW) == [(block_id, se_id)]

        return self.do(unit)

    def let_go(self, block_id: int, se_id: int, **options: Any) -> Kept | None:
        """Delete the replica; why not, None where it is DELETING."""
        key = block_id, se_id

        def unit(conn: Connection) -> Kept | None:
            lock_rows(conn, block, [block_id])
            return replicas.mark_deleting_all(conn, [key], **options).get(key)

        return self.do(unit)

    def drop_copies(self) -> None:
        """Let go of what is being copied: nobody here wants it."""
        found = self.read(replicas.replicas, [one.id for one in self.all_blocks()])
        copying = [one.key for rows in found.values() for one in rows if one.state is ReplicaState.COPYING]
        self.do(replicas.mark_deleting_all, copying, custodial_too=True)

    def told(self) -> list[tuple[str, str]]:
        return [(one.kind, one.subject) for one in self.read(outbox.waiting, 100)]


def storage(number: int, name: str) -> sites.StorageElement:
    text = sites.tfc_text(RULES)
    return sites.StorageElement(
        id=number, name=name, site_id=number, kind="disk", protocol="direct", tfc=text
    )


def at_once(n: int, act: Callable[[int], T]) -> list[T]:
    """Run act(0..n-1) in threads that start together; their results."""
    barrier = threading.Barrier(n)

    def one(number: int) -> T:
        barrier.wait(60)
        return act(number)

    with ThreadPoolExecutor(n) as pool:
        return list(pool.map(one, range(n)))


def plans(grid: Grid, act: Callable[..., object], *args: Any) -> str:
    """What SQLite does for the statements of a read, one step a line; lists given as one bind apart."""
    seen: list[str] = []

    def explain(conn: Connection) -> Sequence[str]:
        driver: Any = conn.connection.driver_connection
        driver.set_trace_callback(seen.append)
        act(conn, *args)
        driver.set_trace_callback(None)
        rows = [row for sql in seen for row in conn.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}")]
        return [row.detail for row in rows if "json_each" not in row.detail]

    return "\n".join(grid.read(explain))
