"""Where data are, asked of a large catalogue while four processes register more.

The catalogue is written by the raw driver: blocks of 500 files, a thousand files to a directory, half the
names random, three replicas of each block over sixty sites, of which some are still on their way.
"""

from __future__ import annotations

import multiprocessing
import random
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from multiprocessing.synchronize import Barrier, Event
from threading import BrokenBarrierError
from typing import Any

from sqlalchemy import Connection, text

from catalogs import bookkeeping, location, registration
from catalogs.bookkeeping import BlockPolicy
from catalogs.filebatch import NewFile
from catalogs.tables import dataset, se, site
from gridapp import schema
from gridapp.bench.backlog import settle
from gridapp.bench.ground import Ground
from gridapp.bench.measure import Arm, Figure, alternate
from gridapp.bench.server import conninfo, driver
from gridcore.clock import SystemClock
from gridcore.db import Database, insert_rows
from gridcore.db.keys import Keys
from gridcore.errors import GridError
from gridcore.ids import split_lfn

SITES, COPIES = 60, 3
BLOCK_FILES, DIR_FILES, DATASET_BLOCKS = 500, 1000, 100
FILE_BYTES = 10**9
#: Of so many blocks one has a single COMPLETE replica, and of others one a bad file.
ONE_COPY_OF, FAULT_OF = 50, 20
WRITERS, WRITER_FILES = 4, 100
#: Files written by one transaction of the loader.
PORTION = 500_000
#: Questions of a turn, and the milliseconds that 99 of a hundred may take at most.
FILES, DATASETS = 500, 200
FILE_MS, DATASET_MS, UNIQUE_MS = 5.0, 10.0, 100.0
#: Between two questions: they come one by one, not as fast as one process can ask.
PAUSE_S = 0.002
START_S = 120.0

_SERIES = """WITH RECURSIVE n(i) AS (SELECT CAST(:low AS BIGINT) UNION ALL
    SELECT i + 1 FROM n WHERE i < CAST(:high AS BIGINT))"""
_RANDOM = {"sqlite": "lower(hex(randomblob(16)))", "postgresql": "CAST(gen_random_uuid() AS TEXT)"}
FILL_DIRS = text(f"INSERT INTO dir (id, path) {_SERIES} SELECT i, '/store/bench/' || i FROM n")
FILL_FILES = f"""INSERT INTO data_file (id, block_id, dir_id, name, bytes, adler32, events, created_at)
    {_SERIES} SELECT i, 1 + (i - 1) / {BLOCK_FILES}, 1 + (i - 1) / {DIR_FILES},
      CASE WHEN i % 2 = 0 THEN 'events_' || i ELSE {{random}} END || '.root',
      {FILE_BYTES}, i * 7919 % 4294967296, 100, CAST(:at AS BIGINT) FROM n"""
FILL_BLOCKS = text(
    f"""INSERT INTO block
      (id, dataset_id, name, origin_se_id, state, files, bytes, events, created_at, closed_at)
    {_SERIES} SELECT i, 1 + (i - 1) / {DATASET_BLOCKS}, '/Bench/v' || i || '/RAW#' || i, 1 + i % {SITES},
      'CLOSED', {BLOCK_FILES}, {BLOCK_FILES} * CAST({FILE_BYTES} AS BIGINT), {BLOCK_FILES * 100},
      CAST(:at AS BIGINT), CAST(:at AS BIGINT) FROM n"""
)
#: The first replica of a block is at its origin, the two others somewhere in each half of the sites after it.
FILL_REPLICAS = text(
    f"""INSERT INTO block_replica (block_id, se_id, state, created_at)
    {_SERIES} SELECT i,
      1 + (i + CASE WHEN j = 0 THEN 0 ELSE (j - 1) * 30 + 1 + i / {SITES} % 29 END) % {SITES},
      CASE WHEN j > 0 AND i % {ONE_COPY_OF} = 0 THEN 'COPYING' ELSE 'COMPLETE' END, CAST(:at AS BIGINT)
    FROM n CROSS JOIN (SELECT 0 AS j UNION ALL SELECT 1 UNION ALL SELECT 2) k"""
)
FILL_FAULTS = text(
    f"""INSERT INTO file_exception (block_id, se_id, file_id, kind, at)
    {_SERIES} SELECT i, 1 + i % {SITES}, (i - 1) * {BLOCK_FILES} + 1, 'bad', CAST(:at AS BIGINT)
    FROM n WHERE i % {FAULT_OF} = 0"""
)
COUNT_HOLDINGS = text(
    """INSERT INTO holding (dataset_id, se_id, blocks, closed, files, bytes)
    SELECT b.dataset_id, r.se_id, count(*), count(*), sum(b.files), sum(b.bytes)
    FROM block b JOIN block_replica r ON r.block_id = b.id
    WHERE r.state = 'COMPLETE' GROUP BY b.dataset_id, r.se_id"""
)
COUNT_USE = text(
    """INSERT INTO se_use (se_id, files, complete_bytes) SELECT se_id, sum(files), sum(bytes)
    FROM holding GROUP BY se_id"""
)
LFNS = text(
    "SELECT d.path || '/' || f.name FROM data_file f JOIN dir d ON d.id = f.dir_id WHERE f.id = :file_id"
)

#: The barest statements with the same answers; exceptions are not asked for.
BARE_FILE = """SELECT f.id, s.name, r.state FROM dir d JOIN data_file f ON f.dir_id = d.id
    JOIN block_replica r ON r.block_id = f.block_id JOIN se s ON s.id = r.se_id
    WHERE d.path = ? AND f.name = ?"""
BARE_DATASET = """SELECT s.name, h.blocks, h.files, h.bytes FROM holding h JOIN se s ON s.id = h.se_id
    WHERE h.dataset_id = ?"""
BARE_UNIQUE = """SELECT b.dataset_id, count(*), sum(b.files), sum(b.bytes)
    FROM block_replica r JOIN block b ON b.id = r.block_id WHERE r.se_id = ? AND r.state = 'COMPLETE'
      AND NOT EXISTS (SELECT 1 FROM block_replica o
        WHERE o.block_id = r.block_id AND o.state = 'COMPLETE' AND o.se_id <> r.se_id)
    GROUP BY b.dataset_id"""


def locate(ground: Ground) -> list[Figure]:
    """Milliseconds that 99 of 100 questions take at most: where a file, a dataset is; what is unique."""
    catalogue = load(ground.empty(), ground.rows, ground.say)
    with bare_connection(catalogue.database) as bare, writing(catalogue) as registered:
        began, before = time.perf_counter(), registered()
        found = list(_figures(ground, catalogue, bare))
        pace = (registered() - before) / (time.perf_counter() - began)
        ground.say(f"{WRITERS} writers registered {pace:,.0f} files/s beside it")
    fault = None if pace else "the writers registered nothing meanwhile"
    return [replace(one, error=fault) for one in found]


def _figures(ground: Ground, catalogue: Catalogue, bare: Ask) -> Iterator[Figure]:
    ask = catalogue.ask
    lfns, dataset_ids = catalogue.lfns(FILES), catalogue.dataset_ids(DATASETS)
    se_ids = range(1, SITES + 1)
    questions = (
        (
            "locate_file",
            FILE_MS,
            lfns,
            ask(location.where_file),
            lambda one: bare(BARE_FILE, *split_lfn(one)),
        ),
        ("locate_dataset", DATASET_MS, dataset_ids, ask(location.where), lambda key: bare(BARE_DATASET, key)),
        ("unique_at", UNIQUE_MS, se_ids, ask(_unique), lambda se_id: bare(BARE_UNIQUE, se_id)),
    )
    for case, limit, subjects, ours, barest in questions:
        ground.say(f"measuring {ground.bench} {case}")
        arms: dict[str, Arm] = {
            "ours": lambda ours=ours, of=subjects: slowest(ours, of),  # type: ignore[misc]
            "bare": lambda barest=barest, of=subjects: slowest(barest, of),  # type: ignore[misc]
        }
        found = alternate(arms)
        yield ground.figure(
            case, found["ours"], "ms", limit, rows=catalogue.files, bare=found["bare"], less_is_better=True
        )


def slowest(question: Callable[[Any], object], subjects: Sequence[Any]) -> float:
    """Milliseconds that 99 of 100 take at most; each must find something."""
    took = []
    for one in subjects:
        time.sleep(PAUSE_S)
        began = time.perf_counter()
        answer = question(one)
        took.append(time.perf_counter() - began)
        if not answer:
            raise AssertionError(f"nothing was found of {one}")
    return 1000 * sorted(took)[-1 - len(took) // 100]


def _unique(conn: Connection, se_id: int) -> object:
    # A site of few blocks may have nothing of its own.
    return (location.unique_at(conn, [se_id]),)


# --- the catalogue -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Catalogue:
    """A loaded database; keys of what is in it begin at 1."""

    database: Database
    files: int
    datasets: int

    def ask(self, question: Callable[[Connection, Any], object]) -> Callable[[Any], object]:
        """The question in a snapshot of its own, as the faces ask it."""

        def asked(subject: Any) -> object:
            with self.database.snapshot() as conn:
                return question(conn, subject)

        return asked

    def lfns(self, n: int) -> list[str]:
        """So many files, anywhere."""
        chance = random.Random(1)
        with self.database.snapshot() as conn:
            ids = [chance.randint(1, self.files) for _ in range(n)]
            return [str(conn.execute(LFNS, {"file_id": one}).scalar_one()) for one in ids]

    def dataset_ids(self, n: int) -> list[int]:
        """So many datasets, some of them several times."""
        chance = random.Random(2)
        return [chance.randint(1, self.datasets) for _ in range(n)]


def load(database: Database, rows: int, say: Callable[[str], None]) -> Catalogue:
    """Make the schema and write about so many files, in whole blocks."""
    schema.upgrade(database)
    keys, now = Keys(database), SystemClock().now()
    blocks = max(1, rows // BLOCK_FILES)
    files, datasets = blocks * BLOCK_FILES, -(-blocks // DATASET_BLOCKS)
    dirs = -(-files // DIR_FILES)
    amounts = {"site": SITES, "se": SITES, "dataset": datasets, "block": blocks, "dir": dirs}
    for name, n in {**amounts, "data_file": files}.items():
        if keys.take(name, n).start != 1:
            raise GridError("the database is not empty", hint="bench needs one of its own")
    at = round(now.timestamp() * 1_000_000)
    database.transaction(lambda conn: _fill_topology(conn, blocks, datasets, now))
    for statement, n in ((FILL_DIRS, dirs), (FILL_BLOCKS, blocks), (FILL_REPLICAS, blocks)):
        _run(database, statement, 1, n, at)
    fill = text(FILL_FILES.format(random=_RANDOM[database.dialect]))
    for low in range(1, files + 1, PORTION):
        high = min(low + PORTION - 1, files)
        _run(database, fill, low, high, at)
        say(f"{high:,} of {files:,} files loaded on {database.dialect}")
    _run(database, FILL_FAULTS, 1, blocks, at)
    database.transaction(lambda conn: (conn.execute(COUNT_HOLDINGS), conn.execute(COUNT_USE)))
    settle(database)
    return Catalogue(database, files, datasets)


def _run(database: Database, statement: Any, low: int, high: int, at: int) -> None:
    names = statement.compile().params
    binds = {name: value for name, value in {"low": low, "high": high, "at": at}.items() if name in names}
    database.transaction(lambda conn: conn.execute(statement, binds))


def _fill_topology(conn: Connection, blocks: int, datasets: int, now: datetime) -> None:
    places = range(1, SITES + 1)
    sites = [{"id": i, "name": f"T2_XX_Site{i}", "tier": 2, "state": "ENABLED"} for i in places]
    insert_rows(conn, site, sites)
    disk = {"kind": "disk", "protocol": "local", "tfc": {}, "state": "ENABLED"}
    insert_rows(conn, se, [{"id": i, "name": f"Site{i}_Disk", "site_id": i, **disk} for i in places])
    rows = []
    for i in range(1, datasets + 1):
        n = min(DATASET_BLOCKS, blocks - (i - 1) * DATASET_BLOCKS)
        files = n * BLOCK_FILES
        counted = {"files": files, "bytes": files * FILE_BYTES, "events": files * 100, "closed_blocks": n}
        parts = {"prim": "Bench", "proc": f"v{i}", "data_tier": "RAW"}
        policy = {"block_files": BLOCK_FILES, "block_bytes": 10**15, "block_age_s": 86400.0}
        named = {"id": i, "name": _name(i), "state": "OPEN", "created_at": now}
        rows.append({**named, **parts, **policy, **counted})
    insert_rows(conn, dataset, rows)


def _name(number: int) -> str:
    return f"/Bench/v{number}/RAW"


# --- the barest statements -------------------------------------------------------------------------------

#: A statement with `?` for its values: its rows.
Ask = Callable[..., Sequence[Any]]


@contextmanager
def bare_connection(database: Database) -> Iterator[Ask]:
    """A connection of the raw driver."""
    if database.dialect == "sqlite":
        raw: Any = sqlite3.connect(str(database.url.database), isolation_level=None, timeout=60)
    else:
        raw = driver().connect(conninfo(database.url), autocommit=True, prepare_threshold=0)
    sign = "?" if database.dialect == "sqlite" else "%s"

    def ask(statement: str, *values: object) -> Sequence[Any]:
        return (raw.execute(statement.replace("?", sign), values).fetchall(),)

    try:
        yield ask
    finally:
        raw.close()


# --- the writers -----------------------------------------------------------------------------------------


@contextmanager
def writing(catalogue: Catalogue) -> Iterator[Callable[[], int]]:
    """Four processes that register into datasets of their own, without a rest; how many files they have."""
    database = catalogue.database
    keys, now = Keys(database), SystemClock().now()
    policy = BlockPolicy(BLOCK_FILES, 10**15, 86400.0)
    context = multiprocessing.get_context("spawn")
    barrier, stop, total = context.Barrier(WRITERS + 1), context.Event(), context.Value("q", 0)
    url = database.url.render_as_string(hide_password=False)
    writers = []
    for number in range(WRITERS):
        key, name = keys.one("dataset"), f"/Writer{number}/v1/RAW"
        database.transaction(
            lambda conn, key=key, name=name: bookkeeping.create_dataset(conn, key, name, policy, now)  # type: ignore[misc]
        )
        work = (url, key, 1 + number, barrier, stop, total)
        writers.append(context.Process(target=write, args=work, daemon=True))

    def registered() -> int:
        if not all(one.is_alive() for one in writers):
            raise GridError("a writer has died", hint="what it wrote on stderr says why")
        return int(total.value)

    try:
        for one in writers:
            one.start()
        try:
            barrier.wait(START_S)
        except BrokenBarrierError:
            raise GridError(f"the writers did not start in {START_S:.0f} s") from None
        yield registered
    finally:
        stop.set()
        for one in writers:
            if one.pid is not None:
                one.join(START_S)
                one.kill()


def write(url: str, dataset_id: int, se_id: int, barrier: Barrier, stop: Event, total: Any) -> None:
    """A writer: the product's registration, a hundred files a commit."""
    database = Database(url)
    keys = Keys(database)
    area = f"/store/writer/{dataset_id}"
    serial = 0
    barrier.wait(START_S)
    try:
        while not stop.is_set():
            names = [f"{area}/{(serial + i) // DIR_FILES}/{uuid.uuid4()}.root" for i in range(WRITER_FILES)]
            files = [NewFile(lfn=name, bytes=FILE_BYTES, adler32=1, events=100) for name in names]
            reserved = registration.reserve(keys, len(files))
            now = SystemClock().now()
            database.transaction(
                lambda conn, reserved=reserved, files=files, now=now: registration.register(  # type: ignore[misc]
                    conn, reserved, dataset_id, se_id, files, now
                )
            )
            serial += len(files)
            with total.get_lock():
                total.value += len(files)
    finally:
        database.close()
