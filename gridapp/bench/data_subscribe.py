"""Subscribing a dataset until its transfers are ready, through the agents that do it."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from statistics import median

from sqlalchemy import Connection, func, select

from agents.block_manager import BlockManager
from agents.router import Router
from agents.runtime.agent import Agent, Context, own_lease
from catalogs import bookkeeping, sites
from catalogs.bookkeeping import BlockPolicy
from catalogs.filebatch import FileBatch
from catalogs.sites import Link, Site
from catalogs.tfc.rules import Rule
from datamgmt.subscriptions import asking
from datamgmt.subscriptions.asking import Order
from datamgmt.tables import transfer
from datamgmt.transfers import filling
from gridapp.bench.data_grid import DataGrid, data_grid
from gridapp.bench.ground import Ground
from gridapp.bench.measure import TURNS, Figure
from gridcore import settings
from gridcore.bus import MemoryBus
from gridcore.clock import SystemClock
from gridcore.db import dbnow, leases
from gridcore.db.leases import Lease, Owner

#: Files of the dataset, of a block and of a directory.
FILES, BLOCK, DIRECTORY = 10_000, 500, 1_000
#: So small that no way is too slow for them.
FILE_BYTES = 1_000_000
#: The most it may take.
LIMIT_S = 0.2
LEASE_S = 3600.0

TRANSFERS = select(func.count()).select_from(transfer)


@dataclass(slots=True)
class Desk:
    """A database with two storage elements and a link, and the agents that serve subscriptions."""

    grid: DataGrid
    target: int
    context: Context
    agents: tuple[Agent, ...]
    held: dict[str, Lease]
    made: int = 0

    def dataset(self, files: int) -> int:
        """A new closed dataset of so many files at the first storage element."""
        now, number = SystemClock().now(), self.made
        self.made += 1
        key, policy = self.grid.keys.one("dataset"), BlockPolicy(BLOCK, 10**15, 10**6)
        name = f"/Bench/AuAu-v{number}/DST"

        def begin(conn: Connection) -> int:
            return bookkeeping.create_dataset(conn, key, name, policy, now)

        dataset_id = self.grid.database.transaction(begin)
        on = DataGrid(self.grid.database, self.grid.keys, dataset_id, self.grid.se_id)
        on.put(_batch(number, files))
        self.grid.database.transaction(lambda conn: bookkeeping.close_dataset(conn, dataset_id, "bench", now))
        self.cycle()  # the last block closes, and nothing is left to be done but what is measured
        return dataset_id

    def cycle(self) -> None:
        """One pass of each agent."""
        for agent in self.agents:
            agent.cycle(self.held)

    def subscribe(self, dataset_id: int) -> None:
        """Ask for it and let the agents serve it: its blocks have routes, and the link's queue is full."""
        key, now = self.grid.keys.one("subscription"), SystemClock().now()
        order = Order(dataset_id=dataset_id, se_id=self.target, requester="bench", group="bench")
        self.grid.database.transaction(lambda conn: asking.subscribe(conn, key, order, now, "bench"))
        self.cycle()

    def queue_all(self) -> None:
        """Queue what the router leaves until there is room."""
        hop = self.grid.se_id, self.target
        while True:
            with self.grid.database.snapshot() as conn:
                now = dbnow(conn)
                chosen = filling.candidates(conn, {hop: FILES}, now)
            if not chosen:
                return
            keys = self.grid.keys.take("transfer", sum(one.files for one in chosen[hop]))
            self.grid.database.transaction(
                lambda conn, chosen=chosen, keys=keys, now=now: filling.fill(conn, chosen, keys, now)  # type: ignore[misc]
            )

    def ready(self) -> int:
        """Transfers there are."""
        with self.grid.database.snapshot() as conn:
            return int(conn.execute(TRANSFERS).scalar_one())


def _batch(number: int, files: int) -> FileBatch:
    return FileBatch(
        dirs=[f"/store/data/v{number}/{first:06}" for first in range(0, files, DIRECTORY)],
        dir_of=[one // DIRECTORY for one in range(files)],
        names=[f"AuAu_7GeV_{one:09}.root" for one in range(files)],
        bytes=[FILE_BYTES] * files,
        adler32=[1] * files,
        events=[1000] * files,
    )


def desk(ground: Ground) -> Desk:
    """A new one."""
    grid = data_grid(ground, "/Bench/first/DST", BLOCK, (Rule("direct", "(.*)", "$1"),))
    site_id, target, link_id = (grid.keys.one(name) for name in ("site", "se", "link"))
    there = Site(id=site_id, name="T2_FR_Birch", tier=2)

    def place(conn: Connection) -> None:
        source = sites.storage_elements(conn)[0]
        sites.put_site(conn, there)
        disk = replace(source, id=target, name="T2_FR_Birch_Disk", site_id=site_id)
        sites.put_se(conn, disk)
        new = Link(id=link_id, src_se_id=grid.se_id, dst_se_id=target, distance=1.0, tool="fake")
        sites.put_link(conn, new)

    grid.database.transaction(place)
    context = Context(
        database=grid.database,
        keys=grid.keys,
        settings=settings.load(environ={}),
        bus=MemoryBus(),
        clock=SystemClock(),
        instance="00000000-0000-0000-0000-000000000001",
    )
    agents = (BlockManager(context), Router(context))
    return Desk(grid, target, context, agents, _leases(grid, [own_lease(one.name) for one in agents]))


def _leases(grid: DataGrid, names: list[str]) -> dict[str, Lease]:
    keys = list(zip(grid.keys.take("lease", len(names)), names, strict=True))
    grid.database.transaction(lambda conn: leases.create(conn, keys))
    with grid.database.snapshot() as conn:
        rows = leases.read(conn, names)
    owner = Owner.current("bench")
    taken = grid.database.transaction(lambda conn: leases.take(conn, rows, owner, LEASE_S, ()))
    return {one.name: one for one in taken}


def subscribe(ground: Ground) -> list[Figure]:
    """Seconds from the order for 10,000 files until all blocks are routed; until all transfers are queued."""
    on, files = desk(ground), min(ground.rows, FILES)
    datasets = [on.dataset(files) for _ in range(TURNS + 1)]
    took: list[tuple[float, float]] = []
    for number, dataset_id in enumerate(datasets):
        began = time.perf_counter()
        on.subscribe(dataset_id)
        routed = time.perf_counter() - began
        on.queue_all()
        took.append((routed, time.perf_counter() - began))
        ground.say(f"dataset {number + 1} of {len(datasets)}: {routed:.3f} s, {took[-1][1]:.3f} s")
    ready, all_files = on.ready(), files * len(datasets)
    error = None if ready == all_files else f"only {ready:,} of {all_files:,} transfers are ready"
    seconds = [median(one) for one in zip(*took[1:], strict=True)]  # the first one compiles its statements
    return [
        ground.figure(case, figure, "s", LIMIT_S, rows=files, less_is_better=True, error=error)
        for case, figure in zip(("routed", "subscribe"), seconds, strict=True)
    ]
