"""Routing a backlog: blocks of 400 pending files wanted over 100 storage elements, their sources spread.

Each turn routes all of them anew, by the router's own steps, until the last commit; the plan alone is told
beside it.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import median

from sqlalchemy import Connection, text

from agents.router import SLICE
from catalogs.states import BlockState, ReplicaState, Switch
from catalogs.tables import block, block_replica, dataset, link, se, site
from datamgmt.links import linkstates
from datamgmt.reasons import Reason
from datamgmt.routing import hops, rerouting, routes
from datamgmt.tables import block_dest, link_state, subscription
from datamgmt.wanted import destinations
from gridapp import schema
from gridapp.bench.backlog import Say, settle
from gridapp.bench.ground import Ground
from gridapp.bench.measure import TURNS, Figure
from gridcore import settings
from gridcore.clock import SystemClock
from gridcore.db import Database, bulk, insert_rows
from gridcore.db.bulk import New, Same
from gridcore.db.statements import chunks

NODES, LINKS_EACH, SOURCES = 100, 42, 3
BLOCK_FILES, FILE_BYTES = 400, 10**9
#: Seconds that a million files may take.
MOST_S = 1.0
#: Files written by one transaction of the loader.
PORTION = 500_000

FILL_FILES = text(
    f"""INSERT INTO data_file (id, block_id, dir_id, name, bytes, adler32, events, created_at)
    WITH RECURSIVE n(i) AS (SELECT CAST(:low AS BIGINT) UNION ALL
      SELECT i + 1 FROM n WHERE i < CAST(:high AS BIGINT))
    SELECT i, 1 + (i - 1) / {BLOCK_FILES}, 1, 'f' || i, {FILE_BYTES}, i, 100, CAST(:at AS BIGINT) FROM n"""
)
DIRECTORY = text("INSERT INTO dir (id, path) VALUES (1, '/store/bench')")
#: What the last turn has left.
FORGET = (
    text("DELETE FROM route_history"),
    text("DELETE FROM route_via"),
    text("DELETE FROM block_replica WHERE state = 'COPYING'"),
    text("UPDATE se_use SET arriving_bytes = 0, transit_bytes = 0"),
    text("DELETE FROM block_dest"),
)


@dataclass(frozen=True, slots=True)
class Net:
    """A database with blocks that are wanted elsewhere."""

    database: Database
    blocks: int
    now: datetime

    def want(self) -> None:
        """Everything is wanted, and nothing routed."""

        def unit(conn: Connection) -> None:
            for statement in FORGET:
                conn.execute(statement)
            _want(conn, self.blocks, self.now)

        self.database.transaction(unit)
        settle(self.database)


def route(ground: Ground) -> list[Figure]:
    """Seconds to route all pending files, stored; and of these the plan. The limit is a second a million."""
    net = load(ground.empty(), ground.rows, ground.say)
    gc.freeze()  # as agents do when they start
    found = []
    for turn in range(TURNS):
        net.want()
        found.append(once(net))
        ground.say(f"turn {turn + 1} of {TURNS}: {found[-1][0]:.3f} s, the plan {found[-1][1]:.3f} s")
    limit = MOST_S * max(ground.rows, 1) / 1_000_000
    return list(_figures(ground, net, limit, *(median(part) for part in zip(*found, strict=True))))


def _figures(ground: Ground, net: Net, limit: float, stored: float, planned: float) -> Iterator[Figure]:
    with net.database.snapshot() as conn:
        left = len(routes.due(conn, SystemClock().now()))
    fault = f"{left} wanted replicas are not routed" if left else None
    for case, figure in (("route", stored), ("route_plan", planned)):
        yield ground.figure(case, figure, "s", limit, less_is_better=True, error=fault)


def once(net: Net) -> tuple[float, float]:
    """Route what is due, as the router does; seconds in all, and of these for the plan."""
    policies, chance = linkstates.policies(settings.load(environ={})), random.Random(7)
    began, planned = time.perf_counter(), 0.0
    while True:
        now = SystemClock().now()
        with net.database.snapshot() as conn:
            due = routes.due(conn, now)
            if not due:
                return time.perf_counter() - began, planned
            view = routes.view(conn, due, linkstates.views(conn))
        start = time.perf_counter()
        changes = hops.decide(view, now, policies, chance.random)
        planned += time.perf_counter() - start
        for blocks in chunks(changes.blocks(), SLICE):
            part = changes.of_blocks(set(blocks))
            net.database.transaction(lambda conn, part=part, now=now: rerouting.apply(conn, part, now))  # type: ignore[misc]


# --- loading -----------------------------------------------------------------------------------------


def load(database: Database, rows: int, say: Say) -> Net:
    """So many files in closed blocks, each complete at three elements."""
    say(f"loading {rows:,} files on {database.dialect}")
    schema.upgrade(database)
    now = SystemClock().now()
    blocks = max(1, rows // BLOCK_FILES)
    net = Net(database, blocks, now)
    database.transaction(lambda conn: _nodes(conn, now))
    database.transaction(lambda conn: _blocks(conn, blocks, now))
    at = int(now.timestamp() * 1_000_000)
    database.transaction(lambda conn: conn.execute(DIRECTORY))
    for low in range(1, blocks * BLOCK_FILES + 1, PORTION):
        binds = {"low": low, "high": min(low + PORTION - 1, blocks * BLOCK_FILES), "at": at}
        database.transaction(lambda conn, binds=binds: conn.execute(FILL_FILES, binds))  # type: ignore[misc]
    return net


def _nodes(conn: Connection, now: datetime) -> None:
    chance = random.Random(1)
    numbers = range(1, NODES + 1)
    insert_rows(
        conn, site, [{"id": n, "name": f"T2_{n}", "tier": 2, "state": Switch.ENABLED} for n in numbers]
    )
    insert_rows(
        conn,
        se,
        [
            {
                "id": n,
                "name": f"T2_{n}_Disk",
                "site_id": n,
                "kind": "disk",
                "protocol": "direct",
                "tfc": {},
                "state": Switch.ENABLED,
            }
            for n in numbers
        ],
    )
    pairs = [
        (src, dst) for src in numbers for dst in sorted(chance.sample(numbers, LINKS_EACH + 1)) if src != dst
    ]
    insert_rows(
        conn,
        link,
        [
            {
                "id": n,
                "src_se_id": src,
                "dst_se_id": dst,
                "state": Switch.ENABLED,
                "distance": 1.0 + n % 3,
                "tool": "fake",
            }
            for n, (src, dst) in enumerate(pairs, 1)
        ],
    )
    insert_rows(
        conn,
        link_state,
        [
            {
                "link_id": n,
                "state": {},
                "updated_at": now,
                "window_files": 10.0,
                "failures": 0,
                "rate": chance.uniform(1e6, 2e8),
                "queued_files": n % 50,
                "queued_bytes": n % 50 * FILE_BYTES,
            }
            for n in range(1, len(pairs) + 1)
        ],
    )


def _blocks(conn: Connection, blocks: int, now: datetime) -> None:
    row = {"id": 1, "name": "/Bench/AuAu/DST", "state": "OPEN", "created_at": now}
    policy = {"block_files": BLOCK_FILES, "block_bytes": 10**15, "block_age_s": 10**6}
    insert_rows(conn, dataset, [{**row, **policy}])
    ids = list(range(1, blocks + 1))
    bulk.write(
        conn,
        [
            New(
                block,
                {
                    "id": ids,
                    "dataset_id": Same(1),
                    "name": [f"/Bench/AuAu/DST#{n}" for n in ids],
                    "origin_se_id": [_source(n, 0) for n in ids],
                    "state": Same(BlockState.CLOSED),
                    "files": Same(BLOCK_FILES),
                    "bytes": Same(BLOCK_FILES * FILE_BYTES),
                    "created_at": Same(now),
                    "closed_at": Same(now),
                },
            ),
            New(
                block_replica,
                {
                    "block_id": [n for n in ids for _ in range(SOURCES)],
                    "se_id": [_source(n, place) for n in ids for place in range(SOURCES)],
                    "state": Same(ReplicaState.COMPLETE),
                    "created_at": Same(now),
                    "completed_at": Same(now),
                },
            ),
        ],
    )
    asked = {"id": 1, "dataset_id": 1, "se_id": 1, "state": "ACTIVE", "priority": 0, "requester": "bench"}
    insert_rows(conn, subscription, [{**asked, "acct_group": "bench", "created_at": now, "updated_at": now}])


def _source(n: int, place: int) -> int:
    """Different ones for each block: 37 and 53 share nothing with the number of nodes."""
    return 1 + (n * 37 + place * 31) % NODES


def _want(conn: Connection, blocks: int, now: datetime) -> None:
    ids = range(1, blocks + 1)
    bulk.write(
        conn,
        [
            New(
                block_dest,
                {
                    "block_id": list(ids),
                    "se_id": [_end(n) for n in ids],
                    "subscription_id": Same(1),
                    "priority": [n % 3 for n in ids],
                    "bytes": Same(BLOCK_FILES * FILE_BYTES),
                    "files": Same(BLOCK_FILES),
                    "code": Same(Reason.ALLOCATED),
                    "params": Same({}),
                    "valid_until": Same(destinations.AT_ONCE),
                    "decided_at": Same(now - timedelta(seconds=1)),
                    "created_at": Same(now),
                },
            )
        ],
    )


def _end(n: int) -> int:
    held: Sequence[int] = [_source(n, place) for place in range(SOURCES)]
    return next(se_id for step in range(NODES) if (se_id := 1 + (n * 53 + step) % NODES) not in held)
