"""PhEDEx's published router test: files at one Tier-0, subscribed at all of 66 nodes, copied by a fake tool.

The topology has its shape: the Tier-0 feeds the Tier-1s, these feed each other and the Tier-2s, each of which
has a Tier-1 of its own and two more. The agents are the product's own, in turn, in one process.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from sqlalchemy import Connection, func, select

from agents.block_manager import BlockManager
from agents.router import Router
from agents.runtime.agent import Agent, Context
from agents.transfer_agent import TransferAgent
from catalogs import bookkeeping, registration, sites
from catalogs.bookkeeping import BlockPolicy
from catalogs.filebatch import FileBatch
from catalogs.sites import Link, Site, StorageElement
from catalogs.states import BlockState, ReplicaState
from catalogs.tables import block, block_replica
from catalogs.tfc.catalog import TrivialCatalog
from catalogs.tfc.rules import Rule
from datamgmt.subscriptions import asking
from datamgmt.subscriptions.asking import Order
from datamgmt.tables import block_dest
from datamgmt.tools.fake import FakeTool
from gridapp import schema
from gridapp.bench.ground import Ground
from gridapp.bench.measure import Figure
from gridcore import settings
from gridcore.bus import MemoryBus
from gridcore.clock import SystemClock
from gridcore.db import Database, leases
from gridcore.db.keys import Keys
from gridcore.db.leases import Lease, Owner

NODES, TIER1S, FEEDERS = 66, 8, 3
#: Replicas a second: what PhEDEx's own test reached, and what is aimed at.
PHEDEX, AIM = 280.0, 6000.0
BLOCK_FILES, DIR_FILES, FILE_BYTES = 500, 1000, 50_000_000
#: By the shortest ways: one link to a Tier-1, two to a Tier-2.
FEWEST_HOPS = 2 - TIER1S / (NODES - 1)
#: Files of a commit while the dataset is made.
BATCH = 10_000
SAY_EVERY_S = 5.0
SETTINGS = {
    "transfer.workers": 0,
    "transfer.window_max": 500,
    "lease.seconds": 10**6,
    "lease.heartbeat_s": 60,
}

WANTED = select(func.count()).select_from(block_dest)
MADE = (
    select(func.sum(block.c.files), func.sum(block.c.files * block_replica.c.hops))
    .join_from(block_replica, block, block.c.id == block_replica.c.block_id)
    .where(block_replica.c.state == ReplicaState.COMPLETE, block_replica.c.se_id != block.c.origin_se_id)
)
OPEN = select(block.c.id).where(block.c.state == BlockState.OPEN).order_by(block.c.id)


@dataclass(slots=True)
class Fabric:
    """A grid whose nodes all want one dataset; its agents, and the leases they hold."""

    database: Database
    agents: list[Agent]
    held: dict[str, Lease] = field(default_factory=dict)

    def take(self, keys: Keys) -> None:
        """Take the leases of all agents."""
        with self.database.snapshot() as conn:
            names = sorted({name for agent in self.agents for name in agent.shards(conn)})
        ids = keys.take("lease", len(names))
        owner = Owner.current("bench")

        def unit(conn: Connection) -> list[Lease]:
            leases.create(conn, zip(ids, names, strict=True))
            return leases.take(conn, leases.read(conn, names), owner, 10**6, ())

        self.held = {one.name: one for one in self.database.transaction(unit)}

    def round(self) -> None:
        """One cycle of each agent."""
        for agent in self.agents:
            with self.database.snapshot() as conn:
                mine = set(agent.shards(conn))
            agent.cycle({name: lease for name, lease in self.held.items() if name in mine})

    def wanted(self) -> int:
        """Replicas of blocks still to come."""
        with self.database.snapshot() as conn:
            return int(conn.execute(WANTED).scalar_one())

    def made(self) -> tuple[int, float]:
        """(file replicas made, mean hops of theirs)."""
        with self.database.snapshot() as conn:
            files, hops = conn.execute(MADE).one()
        return int(files or 0), float(hops or 0) / int(files or 1)


def fabric(ground: Ground) -> list[Figure]:
    """File replicas a second by the agents, all files to all of 66 nodes; PhEDEx's test had some 280."""
    files = max(ground.rows // NODES, 1)
    grid = build(ground, files)
    ground.say(f"copying {files:,} files to {NODES - 1} nodes")
    seconds = _run(ground, grid)
    made, hops = grid.made()
    pace = made / seconds
    fault = None if made == files * (NODES - 1) else f"{made} replicas instead of {files * (NODES - 1)}"
    return [
        ground.figure("fabric", pace, "replicas/s", AIM, rows=made, error=fault),
        ground.figure("beside_phedex", pace, "replicas/s", PHEDEX, rows=made, error=fault),
        ground.figure("hops", hops, "hops", FEWEST_HOPS, rows=made, less_is_better=True, error=fault),
    ]


def _run(ground: Ground, grid: Fabric) -> float:
    """Rounds until nothing is wanted any more; the seconds all took."""
    began = said = time.perf_counter()
    grid.round()
    while left := grid.wanted():
        grid.round()
        if time.perf_counter() - said > SAY_EVERY_S:
            said = time.perf_counter()
            done = grid.made()[0]
            ground.say(f"{done:,} replicas, {done / (said - began):,.0f}/s; {left:,} of blocks to come")
    return time.perf_counter() - began


# --- the grid ----------------------------------------------------------------------------------------


def build(ground: Ground, files: int) -> Fabric:
    """A new grid with a closed dataset at its Tier-0, subscribed everywhere."""
    database = ground.empty()
    schema.upgrade(database)
    keys = Keys(database)
    database.transaction(_topology)
    dataset_id = _dataset(database, keys, files)
    _subscribe(database, keys, dataset_id)
    context = Context(
        database=database,
        keys=keys,
        settings=settings.load(overrides=SETTINGS, environ={}),
        bus=MemoryBus(),
        clock=SystemClock(),
        instance="00000000-0000-0000-0000-000000000001",
    )
    mover = TransferAgent(context, {"fake": FakeTool(hollow=True)})
    ground.closing(mover.close)
    grid = Fabric(database, [BlockManager(context), Router(context), mover])
    grid.take(keys)
    return grid


def _subscribe(database: Database, keys: Keys, dataset_id: int) -> None:
    ids = keys.take("subscription", NODES - 1)

    def unit(conn: Connection) -> None:
        for se_id, key in enumerate(ids, 2):
            order = Order(dataset_id=dataset_id, se_id=se_id, requester="bench", group="bench")
            asking.subscribe(conn, key, order, SystemClock().now(), "bench")

    database.transaction(unit)


def _topology(conn: Connection) -> None:
    for key in range(1, NODES + 1):
        tier = 0 if key == 1 else 1 if key <= TIER1S + 1 else 2
        name = f"T{tier}_XX_N{key:02}"
        rules = (Rule("direct", "/store/(.*)", f"/{name}/$1"),)
        tfc = sites.tfc_text(TrivialCatalog(name, rules).to_dict())
        sites.put_site(conn, Site(id=key, name=name, tier=tier))
        sites.put_se(
            conn, StorageElement(id=key, name=name, site_id=key, kind="disk", protocol="direct", tfc=tfc)
        )
    for key, (src, dst, distance) in enumerate(_ways(), 1):
        sites.put_link(conn, Link(id=key, src_se_id=src, dst_se_id=dst, distance=distance, tool="fake"))


def _ways() -> Iterator[tuple[int, int, float]]:
    """(source, destination, distance) of the links."""
    tier1s = range(2, TIER1S + 2)
    for one in tier1s:
        yield 1, one, 1.0
        yield one, 1, 1.0
        yield from ((one, other, 1.0) for other in tier1s if other != one)
    for node in range(TIER1S + 2, NODES + 1):
        for place in range(FEEDERS):
            yield tier1s[(node + place) % TIER1S], node, 1.0 + place
        yield node, tier1s[node % TIER1S], 1.0


def _dataset(database: Database, keys: Keys, files: int) -> int:
    now = SystemClock().now()
    dataset_id = keys.one("dataset")
    policy = BlockPolicy(BLOCK_FILES, 10**18, 10**6)
    name = "/Bench/Fabric/RAW"
    database.transaction(lambda conn: bookkeeping.create_dataset(conn, dataset_id, name, policy, now))
    for start in range(0, files, BATCH):
        batch = _batch(start, min(BATCH, files - start))
        reserved = registration.reserve(keys, len(batch))
        database.transaction(
            lambda conn, reserved=reserved, batch=batch: registration.register(  # type: ignore[misc]
                conn, reserved, dataset_id, 1, batch, now
            )
        )
    database.transaction(
        lambda conn: bookkeeping.close_blocks(conn, conn.execute(OPEN).scalars().all(), "files", now)
    )
    return dataset_id


def _batch(start: int, n: int) -> FileBatch:
    return FileBatch(
        dirs=[f"/store/bench/{(start + i) // DIR_FILES:06}" for i in range(0, n, DIR_FILES)],
        dir_of=[i // DIR_FILES for i in range(n)],
        names=[f"f{start + i:08}.root" for i in range(n)],
        bytes=[FILE_BYTES] * n,
        adler32=[start + i for i in range(n)],
        events=[100] * n,
        parents=[],
    )
