"""Transfer agent: copies and verifies what is queued towards the storage elements whose leases it holds."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import ClassVar

from sqlalchemy import Connection

from agents.runtime.agent import Agent, Context, Counts
from catalogs import sites
from catalogs.sites import StorageElement
from datamgmt import copying, linkstates, tries
from datamgmt.linkstates import LinkView
from datamgmt.routing import LinkKey
from datamgmt.tools.base import TransferTool
from datamgmt.tries import Claimed, Settled, Try
from gridcore import metrics
from gridcore.bus import Event
from gridcore.db import dbnow, leases
from gridcore.db.leases import Lease
from gridcore.errors import LeaseLost

#: A lease per destination: `transfers/<SE>`.
SHARD = "transfers/"
COPY_ENDED = "copy.ended"
#: Seconds a cycle waits at most for copies to end; those that last longer wake a later one.
PATIENCE_S = 1.0


@dataclass(frozen=True, slots=True)
class _Topology:
    """Storage elements by id, links by their ends."""

    elements: Mapping[int, StorageElement]
    links: Mapping[LinkKey, LinkView]


@dataclass(frozen=True, slots=True)
class _UnderWay:
    """A copy in a thread, and the lease it was claimed under."""

    lease: Lease
    future: Future[Try]


class TransferAgent(Agent):
    """Pulls files in. Copies outlive a cycle; what a dead predecessor had in hand is queued again."""

    name: ClassVar[str] = "transfer_agent"
    wakes: ClassVar[frozenset[str]] = frozenset(["transfers.queued", COPY_ENDED])

    def __init__(self, context: Context, tools: Mapping[str, TransferTool]) -> None:
        """`tools` by the name links give."""
        super().__init__(context)
        self._tools = tools
        self._policies = linkstates.policies(context.settings)
        self._workers = context.settings.transfer.workers
        self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix="copy")
        self._under_way: dict[int, _UnderWay] = {}
        self._clean: dict[str, int] = {}

    def shards(self, conn: Connection) -> Sequence[str]:
        """One lease per storage element some link leads to."""
        ends = {link.dst_se_id for link in sites.links(conn)}
        return [SHARD + one.name for one in sites.storage_elements(conn) if one.id in ends]

    def cycle(self, held: Mapping[str, Lease]) -> Counts:
        """Copy until nothing is left to begin, or for so long that a stop may come through."""
        clock = self.context.clock
        deadline = clock.monotonic() + min(self.interval_s, PATIENCE_S)
        counts: Counter[str] = Counter()
        while True:
            topology = self._topology()
            self._settle(held, topology, counts)
            self._start(held, topology, counts)
            futures = [one.future for one in self._under_way.values()]
            left = deadline - clock.monotonic()
            if not futures or left <= 0:
                break
            wait(futures, timeout=left, return_when=FIRST_COMPLETED)
        if counts["done"] or counts["failed"]:
            kind = "replica.complete" if counts["completed"] else "transfers.ended"
            self.context.bus.publish(Event(kind, self.name))
        return counts

    def close(self) -> None:
        """Begin no further copy; those under way end with the process, and their files are queued again."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _topology(self) -> _Topology:
        with self.context.database.snapshot() as conn:
            elements = {one.id: one for one in sites.storage_elements(conn)}
            return _Topology(elements, linkstates.views(conn))

    # --- beginning ---

    def _start(self, held: Mapping[str, Lease], topology: _Topology, counts: Counter[str]) -> None:
        """Claim a fair part of the free workers' number for each storage element where files wait."""
        ids = {SHARD + one.name: one.id for one in topology.elements.values()}
        held = {name: lease for name, lease in held.items() if name in ids}
        for name, lease in held.items():
            if self._clean.get(name) != lease.fence:
                self._clean_up(lease, ids[name], counts)
        with self.context.database.snapshot() as conn:
            waiting = tries.waiting_at(conn, dbnow(conn))
        names = [name for name in held if ids[name] in waiting]
        random.shuffle(names)  # with more of them than workers, each gets its turn
        for position, name in enumerate(names):
            free = self._workers - len(self._under_way)
            share = -(-free // (len(names) - position))
            if share > 0:
                self._claim(held[name], ids[name], share, topology, counts)

    def _clean_up(self, lease: Lease, se_id: int, counts: Counter[str]) -> None:
        """At takeover, or after a claim whose answer was lost: queue again what is in no thread of ours."""
        in_hand = [key for key, one in self._under_way.items() if one.lease.fence == lease.fence]

        def unit(conn: Connection) -> int:
            return tries.abandon(conn, se_id, in_hand, leases.hold(conn, lease))

        with suppress(LeaseLost):
            counts["abandoned"] += self.context.database.transaction(unit)
            self._clean[lease.name] = lease.fence

    def _claim(self, lease: Lease, se_id: int, n: int, topology: _Topology, counts: Counter[str]) -> None:
        def unit(conn: Connection) -> list[Claimed]:
            now = leases.hold(conn, lease)
            room = tries.open_room(topology.links, se_id, now, self._policies)
            return tries.claim(conn, se_id, _mark(lease), room, n, now)

        clean = self._clean.pop(lease.name, None)
        try:
            claimed = self.context.database.transaction(unit)
        except LeaseLost:
            return
        if clean is not None:
            self._clean[lease.name] = clean
        for one in claimed:
            self._under_way[one.id] = _UnderWay(lease, self._submit(one, topology))
        counts["claimed"] += len(claimed)

    def _submit(self, one: Claimed, topology: _Topology) -> Future[Try]:
        link = topology.links[one.src, one.dst]
        ends = topology.elements[one.src], topology.elements[one.dst]
        deadline_s = self.context.settings.transfer.deadline_s
        tool = self._tools.get(link.tool)
        future = self._pool.submit(copying.attempt, tool, one, *ends, link.id, deadline_s)
        future.add_done_callback(lambda _: self.context.bus.publish(Event(COPY_ENDED, one.lfn)))
        return future

    # --- ending ---

    def _settle(self, held: Mapping[str, Lease], topology: _Topology, counts: Counter[str]) -> None:
        """Write down how copies ended; those of a lease that is lost are its next owner's to judge."""
        ended: dict[Lease, list[int]] = defaultdict(list)
        for key, one in self._under_way.items():
            if one.future.done():
                ended[one.lease].append(key)
        for lease, keys in ended.items():
            done = [self._under_way[key].future.result() for key in keys]
            if lease.name in held and held[lease.name].fence == lease.fence:
                self._write(lease, done, topology, counts)
            else:
                counts["stale"] += len(done)
            for key in keys:
                del self._under_way[key]

    def _write(self, lease: Lease, done: Sequence[Try], topology: _Topology, counts: Counter[str]) -> None:
        se_id = done[0].claimed.dst

        def unit(conn: Connection) -> Settled:
            now = leases.hold(conn, lease)
            return tries.settle(conn, se_id, _mark(lease), done, now, self._policies)

        try:
            settled = self.context.database.transaction(unit)
        except LeaseLost:
            counts["stale"] += len(done)
            return
        counts.update(asdict(settled))
        for one in done:
            _measure(one, topology)


def _mark(lease: Lease) -> str:
    """Who claims under the lease, told apart from its other owners."""
    return f"{lease.owner[:180]}#{lease.fence}"


def _measure(one: Try, topology: _Topology) -> None:
    claimed = one.claimed
    ends = {
        "source": topology.elements[claimed.src].name,
        "destination": topology.elements[claimed.dst].name,
    }
    metrics.count("transfers", 1, **ends, result="ok" if one.ok else str(one.error_class))
    metrics.count("transfer_bytes", one.bytes, **ends)
    metrics.observe("transfer_seconds", one.seconds, **ends)
