"""Deleting replicas: asked for and approved, begun when due, removed; three commits for each thousand."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

from catalogs import recount, sites
from catalogs.sites import Site, StorageElement
from catalogs.states import BlockState, ReplicaState
from catalogs.tables import block, block_replica, dataset
from datamgmt.deletions import deletion, removal
from datamgmt.deletions.deletion import Asker
from gridapp import schema
from gridapp.bench.backlog import settle
from gridapp.bench.ground import TURN_S, Ground
from gridapp.bench.limits import DURABLE
from gridapp.bench.measure import TURNS, Figure, per_second
from gridapp.bench.server import conninfo, driver
from gridcore.clock import SystemClock
from gridcore.db import Database, bulk, insert_rows
from gridcore.db.bulk import New, Same
from gridcore.db.keys import Keys
from gridcore.db.types import to_micros

#: Replicas of a commit, of which each is one of two of its block; blocks of a dataset; most replicas at all.
BATCH, BLOCKS, MOST = 1_000, 20_000, 200_000
FILES, BYTES = 500, 10**12
KEPT_AT, GOES_FROM = 1, 2
ADMIN = Asker("bench", "bench", decides=True)
NONE = timedelta()


@dataclass(slots=True)
class Stock:
    """A database with blocks at two storage elements, from the second of which replicas go."""

    database: Database
    keys: Keys
    blocks: Iterator[list[int]]


def stock(ground: Ground) -> Stock:
    """A new one, with as many blocks as rows."""
    database = ground.empty()
    schema.upgrade(database)
    keys, now, n = Keys(database), SystemClock().now(), replicas_of(ground)
    ground.say(f"loading {n:,} blocks on {ground.backend}")

    def topology(conn: Any) -> None:
        for key, name in ((KEPT_AT, "T1_DE_Alder"), (GOES_FROM, "T2_DE_Ash")):
            sites.put_site(conn, Site(id=key, name=name, tier=1))
            element = StorageElement(
                id=key, name=f"{name}_Disk", site_id=key, kind="disk", protocol="direct", tfc="{}"
            )
            sites.put_se(conn, element)
        limits = {"block_files": FILES, "block_bytes": BYTES, "block_age_s": 1.0, "created_at": now}
        counts = {"files": FILES, "bytes": BYTES}
        rows = [
            {
                "id": key,
                "name": f"/Bench/{key}/RAW",
                "state": "CLOSED",
                **limits,
                "closed_blocks": len(ids),
                **{name: size * len(ids) for name, size in counts.items()},
            }
            for key, ids in _datasets(n)
        ]
        insert_rows(conn, dataset, rows)

    database.transaction(topology)
    for key, ids in _datasets(n):
        rows = _rows(key, ids, now)
        database.transaction(partial(bulk.write, writes=rows))
    database.transaction(recount.mend)
    settle(database)
    chunks = (list(range(first, min(first + BATCH, n + 1))) for first in range(1, n + 1, BATCH))
    return Stock(database, keys, chunks)


def replicas_of(ground: Ground) -> int:
    """How many replicas there are to delete in all: a round number of commits for each turn."""
    return max(BATCH * TURNS, min(ground.rows, MOST) // BATCH * BATCH)


def _datasets(n: int) -> Iterator[tuple[int, range]]:
    """(key, its blocks' keys)."""
    for number, first in enumerate(range(1, n + 1, BLOCKS), 1):
        yield number, range(first, min(first + BLOCKS, n + 1))


def _rows(dataset_id: int, ids: Sequence[int], now: Any) -> list[New]:
    counted = {"files": Same(FILES), "bytes": Same(BYTES), "created_at": Same(now), "closed_at": Same(now)}
    blocks = {
        "id": ids,
        "dataset_id": Same(dataset_id),
        "name": [f"/Bench/{dataset_id}/RAW#{key:08x}" for key in ids],
        "origin_se_id": Same(KEPT_AT),
        "state": Same(BlockState.CLOSED),
        **counted,
    }
    made = {"state": Same(ReplicaState.COMPLETE), "created_at": Same(now), "completed_at": Same(now)}
    copies = [
        New(block_replica, {"block_id": ids, "se_id": Same(se_id), "hops": Same(se_id - 1), **made})
        for se_id in (KEPT_AT, GOES_FROM)
    ]
    return [New(block, blocks), *copies]


def delete(ground: Ground) -> Figure:
    """Replicas asked away, begun and removed, 1,000 a commit; the limit is raw statements of the same."""
    ours, theirs = stock(ground), stock(ground)
    limit = _limit(theirs)
    ground.closing(limit.close)
    per_turn = replicas_of(ground) // TURNS
    arms = {
        "ours": lambda: per_second(lambda: _delete(ours), per_turn, TURN_S),
        "limit": lambda: per_second(lambda: _raw(limit, theirs), per_turn, TURN_S),
    }
    return ground.compare("delete", "replicas/s", arms, rows=replicas_of(ground))


def _delete(on: Stock) -> int:
    """The next batch by the product's own functions; how many replicas went."""
    places = [(block_id, GOES_FROM) for block_id in next(on.blocks, [])]
    if not places:
        return 0
    keys, now = on.keys.take("deletion", len(places)), SystemClock().now()
    run = on.database.transaction
    run(lambda conn: deletion.ask_all(conn, keys, places, ADMIN, now, undelete=NONE))
    run(lambda conn: deletion.carry_out(conn, now, BATCH, NONE))
    return run(lambda conn: removal.remove(conn, places, now))


# --- the limit ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Limit:
    """A raw connection: `execute` and `many` as its driver has them, in transactions."""

    execute: Callable[..., Any]
    many: Callable[[str, str, Sequence[tuple[Any, ...]]], None]
    commit: Callable[[], AbstractContextManager[Any]]
    close: Callable[[], None]
    #: `key` is among those given as one value.
    among: str
    keys: Callable[[Sequence[int]], Any]
    mark: str


def _limit(of: Stock) -> Limit:
    return _sqlite(of.database) if of.database.dialect == "sqlite" else _postgres(of.database)


def _sqlite(database: Database) -> Limit:
    conn = sqlite3.connect(str(database.url.database), timeout=60)
    for pragma in (*DURABLE, "cache_size = -65536", "wal_autocheckpoint = 10000"):
        conn.execute(f"PRAGMA {pragma}")

    def many(table: str, columns: str, rows: Sequence[tuple[Any, ...]]) -> None:
        marks = ", ".join("?" * (columns.count(",") + 1))
        conn.executemany(f"INSERT INTO {table} ({columns}) VALUES ({marks})", rows)

    among = "{key} IN (SELECT value FROM json_each(?))"
    return Limit(conn.execute, many, lambda: conn, conn.close, among, lambda ids: json.dumps(list(ids)), "?")


def _postgres(database: Database) -> Limit:
    conn: Any = driver().connect(conninfo(database.url), autocommit=True)
    # As for the product's writers: a plan made while a table is empty must not walk it once it is large.
    conn.execute("SET enable_seqscan = off")

    def many(table: str, columns: str, rows: Sequence[tuple[Any, ...]]) -> None:
        with conn.cursor() as cursor, cursor.copy(f"COPY {table} ({columns}) FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)

    return Limit(conn.execute, many, conn.transaction, conn.close, "{key} = ANY(%s)", list, "%s")


_ASKED = (
    "id, block_id, se_id, state, custodial_too, subscribed_too, ask_id, requester, acct_group, decided_by, "
    "decided_at, due_at, created_at, updated_at"
)


def _raw(limit: Limit, of: Stock) -> int:
    """The next batch: what `_delete` writes, in three commits, nothing read or judged."""
    ids = next(of.blocks, [])
    if not ids:
        return 0
    at, keys, mark = to_micros(SystemClock().now()), limit.keys(ids), limit.mark
    here = f"WHERE se_id = {GOES_FROM} AND {limit.among.format(key='block_id')}"
    mine = f"WHERE {limit.among.format(key='id')}"  # a deletion has the key of its block
    n, of_dataset = len(ids), (ids[0] - 1) // BLOCKS + 1
    size = {"files": n * FILES, "bytes": n * BYTES}
    with limit.commit():
        asked = (("APPROVED", 0, 0, "bench", "bench", "bench", "bench", at, at, at, at) for _ in ids)
        limit.many(
            "deletion", _ASKED, [(key, key, GOES_FROM, *row) for key, row in zip(ids, asked, strict=True)]
        )
        limit.execute(f"UPDATE block_replica SET delete_at = {mark} {here}", (at, keys))
    with limit.commit():
        limit.execute(f"UPDATE block_replica SET state = 'DELETING', delete_at = NULL {here}", (keys,))
        limit.execute(f"UPDATE deletion SET state = 'DELETING', updated_at = {mark} {mine}", (at, keys))
        limit.execute(
            f"UPDATE holding SET blocks = blocks - {n}, closed = closed - {n}, "
            f"files = files - {size['files']}, bytes = bytes - {size['bytes']} "
            f"WHERE dataset_id = {of_dataset} AND se_id = {GOES_FROM}"
        )
        limit.execute(
            f"UPDATE se_use SET files = files - {size['files']}, complete_bytes = complete_bytes - "
            f"{size['bytes']}, leaving_bytes = leaving_bytes + {size['bytes']} WHERE se_id = {GOES_FROM}"
        )
        told = [
            ("replica.deleting", f"/Bench/1/RAW#{key:08x}", '{"block_id":1,"se_id":2}', at) for key in ids
        ]
        limit.many("outbox", "kind, subject, body, created_at", told)
    with limit.commit():
        limit.execute(f"DELETE FROM block_replica {here}", (keys,))
        limit.execute(f"UPDATE deletion SET state = 'DELETED', updated_at = {mark} {mine}", (at, keys))
        limit.execute(
            f"UPDATE se_use SET leaving_bytes = leaving_bytes - {size['bytes']} WHERE se_id = {GOES_FROM}"
        )
    return n
