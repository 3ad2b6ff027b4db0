"""Transfer agent: copies and verifies what is queued towards the storage elements whose leases it holds."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import ClassVar

from sqlalchemy import Connection

from agents.prober import Prober
from agents.runtime.agent import Agent, Context, Counts
from catalogs import sites
from catalogs.sites import StorageElement
from datamgmt.links import linkqueues, linkstates
from datamgmt.links.health import LinkState
from datamgmt.links.linkstates import LinkView
from datamgmt.links.paths import LinkKey
from datamgmt.tools.base import TransferTool
from datamgmt.transfers import claiming, copying, finishing, tries
from datamgmt.transfers.claiming import Place
from datamgmt.transfers.copying import Way
from datamgmt.transfers.tries import Claimed, Settled, Try
from datamgmt.wanted.allocation import ReplicaKey
from gridcore import metrics
from gridcore.bus import Event
from gridcore.db import dbnow, leases
from gridcore.db.leases import Lease
from gridcore.db.statements import chunks
from gridcore.errors import LeaseLost

#: A lease per destination: `transfers/<SE>`.
SHARD = "transfers/"
COPY_ENDED = "copy.ended"
#: Seconds a cycle waits at most for copies to end; those that last longer wake a later one.
PATIENCE_S = 1.0
#: Seconds a bundle of files is to take, and the most files in one.
BUNDLE_S = 0.5
BUNDLE_MAX = 500
#: Storage elements whose files are claimed, or noted as ended, in one transaction.
TOGETHER = 100

#: {destination: {source: files that may be in flight}}
Rooms = Mapping[int, Mapping[int, int]]


@dataclass(frozen=True, slots=True)
class _Topology:
    """Storage elements by id, links by their ends: as a cycle has found them, and as it learns of the links
    into what it serves, which nobody else does."""

    elements: Mapping[int, StorageElement]
    links: dict[LinkKey, LinkView]

    def learn(self, states: Mapping[int, LinkState]) -> None:
        """By a link's id, what is known of it now."""
        known = {key: one for key, one in self.links.items() if one.id in states}
        self.links.update({key: replace(one, state=states[one.id]) for key, one in known.items()})


@dataclass(frozen=True, slots=True)
class _Ended:
    """How the tries of a bundle ended, and the seconds all of it took."""

    tries: Sequence[Try]
    seconds: float


@dataclass(frozen=True, slots=True)
class _UnderWay:
    """Files of one link being copied one after the other, and the lease they were claimed under."""

    lease: Lease
    bundle: Sequence[Claimed]
    future: Future[_Ended]


class TransferAgent(Agent):
    """Pulls files in. Copies outlive a cycle; what a dead predecessor had in hand is queued again.

    With no workers it copies in its own thread, one file after the other and the same at each run.
    """

    name: ClassVar[str] = "transfer_agent"
    wakes: ClassVar[frozenset[str]] = frozenset(["transfers.queued", COPY_ENDED])

    def __init__(self, context: Context, tools: Mapping[str, TransferTool]) -> None:
        """`tools` by the name links give."""
        super().__init__(context)
        self._tools = tools
        self._policies = linkstates.policies(context.settings)
        self._workers = context.settings.transfer.workers
        self._pool = ThreadPoolExecutor(max(self._workers, 1), thread_name_prefix="copy")
        self._prober = Prober(context, tools)
        self._under_way: list[_UnderWay] = []
        self._clean: dict[str, int] = {}
        self._pace: dict[LinkKey, float] = {}
        self._turn = 0

    def shards(self, conn: Connection) -> Sequence[str]:
        """One lease per storage element some link leads to."""
        ends = {link.dst_se_id for link in sites.links(conn)}
        return [SHARD + one.name for one in sites.storage_elements(conn) if one.id in ends]

    def cycle(self, held: Mapping[str, Lease]) -> Counts:
        """Copy until nothing is left to begin, or for so long that a stop may come through."""
        clock = self.context.clock
        deadline = clock.monotonic() + min(self.interval_s, PATIENCE_S)
        counts: Counter[str] = Counter()
        with self.context.database.snapshot() as conn:
            elements = {one.id: one for one in sites.storage_elements(conn)}
            topology = _Topology(elements, linkstates.views(conn))
        mine = {key: held[name] for key, one in elements.items() if (name := SHARD + one.name) in held}
        learnt = self._prober.cycle(mine, elements, topology.links)
        topology.learn(learnt)
        counts["probed"] += len(learnt)
        while True:
            self._settle(held, topology, counts)
            self._start(held, topology, counts)
            futures = [one.future for one in self._under_way]
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
        self._prober.close()

    # --- beginning ---

    def _start(self, held: Mapping[str, Lease], topology: _Topology, counts: Counter[str]) -> None:
        """Claim a fair part of what may be under way for each storage element where files wait."""
        ids = {SHARD + one.name: one.id for one in topology.elements.values()}
        held = {name: lease for name, lease in held.items() if name in ids}
        for name, lease in held.items():
            if self._clean.get(name) != lease.fence:
                self._clean_up(lease, ids[name], counts)
        with self.context.database.snapshot() as conn:
            waiting, now = linkqueues.waiting_at(conn), dbnow(conn)
        names = sorted(name for name in held if ids[name] in waiting)
        self._turn += 1  # with more of them than workers, each gets its turn
        first = self._turn % max(len(names), 1)
        asking = names[first:] + names[:first]
        room = claiming.open_room(topology.links, now, self._policies)
        while asking:
            shares = self._shares(asking)
            if not shares:
                break
            full = set[str]()
            for part in chunks(shares, TOGETHER):
                places = [(held[name], ids[name], shares[name]) for name in part]
                full |= self._claim(places, room, topology, counts)
            # What some have not made use of is the others'.
            asking = [name for name in asking if name in full or name not in shares] if self._workers else []

    def _shares(self, names: Sequence[str]) -> dict[str, int]:
        """How many workers each may have for now; those that get none are left out."""
        if not self._workers:
            return dict.fromkeys(names, 1)
        free, shares = self._workers - len(self._under_way), dict[str, int]()
        for position, name in enumerate(names):
            share = -(-free // (len(names) - position))
            if share > 0:
                shares[name] = share
                free -= share
        return shares

    def _clean_up(self, lease: Lease, se_id: int, counts: Counter[str]) -> None:
        """At takeover, or after a claim whose answer was lost: queue again what is in no thread of ours, and
        finish what had arrived."""
        mine = [one for one in self._under_way if one.lease.fence == lease.fence]
        in_hand = {try_.id for one in mine for try_ in one.bundle}

        def unit(conn: Connection) -> int:
            return claiming.abandon(conn, se_id, in_hand, leases.hold(conn, lease))

        with suppress(LeaseLost):
            counts["abandoned"] += self.context.database.transaction(unit)
            with self.context.database.snapshot() as conn:
                begun = finishing.unfinished(conn, se_id)
            self._finish({se_id: lease}, begun, counts)
            self._clean[lease.name] = lease.fence

    def _claim(
        self, places: Sequence[tuple[Lease, int, int]], room: Rooms, topology: _Topology, counts: Counter[str]
    ) -> set[str]:
        """Claim bundles for (lease, its storage element, so many workers); the leases that had enough."""
        leases_ = {se_id: lease for lease, se_id, _ in places}
        shares = {se_id: share for _, se_id, share in places}
        asks = [self._place(lease, se_id, share, room) for lease, se_id, share in places]

        def unit(conn: Connection) -> list[Claimed]:
            now, mine = leases.hold_all(conn, leases_.values())
            names = {lease.name for lease in mine}
            return claiming.claim(conn, [one for one in asks if leases_[one.se_id].name in names], now)

        with self._doubtful(leases_.values()):
            claimed = self.context.database.transaction(unit)
        bundles: Counter[int] = Counter()
        for bundle in self._bundles(claimed):
            se_id = bundle[0].dst
            bundles[se_id] += 1
            self._under_way.append(_UnderWay(leases_[se_id], bundle, self._submit(bundle, topology)))
        counts["claimed"] += len(claimed)
        return {leases_[se_id].name for se_id, n in bundles.items() if n >= shares[se_id]}

    def _place(self, lease: Lease, se_id: int, share: int, room: Rooms) -> Place:
        sizes = {src: share * self._bundle((src, se_id)) for src in room.get(se_id, {})}
        free = {src: min(n, sizes[src]) for src, n in room.get(se_id, {}).items()}
        return Place(se_id, _mark(lease), free, max(sizes.values(), default=0))

    @contextmanager
    def _doubtful(self, held: Iterable[Lease]) -> Iterator[None]:
        """While a transaction's answer is awaited: without one, what is half done is found by cleaning up."""
        clean = {one.name: fence for one in held if (fence := self._clean.pop(one.name, None)) is not None}
        yield
        self._clean |= clean

    def _bundle(self, hop: LinkKey) -> int:
        """Files of a link one worker takes at once: one, until it is known how long they take."""
        seconds = self._pace.get(hop)
        if seconds is None:
            return 1
        return max(1, min(BUNDLE_MAX, int(BUNDLE_S / max(seconds, BUNDLE_S / BUNDLE_MAX))))

    def _bundles(self, claimed: Sequence[Claimed]) -> Iterator[list[Claimed]]:
        by_link: dict[LinkKey, list[Claimed]] = defaultdict(list)
        for one in claimed:
            by_link[one.src, one.dst].append(one)
        for hop, files in by_link.items():
            size = self._bundle(hop)
            yield from (files[start : start + size] for start in range(0, len(files), size))

    def _submit(self, bundle: Sequence[Claimed], topology: _Topology) -> Future[_Ended]:
        src, dst = bundle[0].src, bundle[0].dst
        link = topology.links[src, dst]
        way = Way(
            tool=self._tools.get(link.tool),
            source=topology.elements[src],
            dest=topology.elements[dst],
            link_id=link.id,
            deadline_s=self.context.settings.transfer.deadline_s,
        )
        if not self._workers:
            future: Future[_Ended] = Future()
            future.set_result(self._copy(way, bundle))
            return future
        future = self._pool.submit(self._copy, way, bundle)
        future.add_done_callback(lambda _: self.context.bus.publish(Event(COPY_ENDED, way.dest.name)))
        return future

    def _copy(self, way: Way, bundle: Sequence[Claimed]) -> _Ended:
        began = self.context.clock.monotonic()
        done = copying.attempt_all(way, bundle)
        return _Ended(done, self.context.clock.monotonic() - began)

    # --- ending ---

    def _settle(self, held: Mapping[str, Lease], topology: _Topology, counts: Counter[str]) -> None:
        """Write down how copies ended; those of a lease that is lost are its next owner's to judge."""
        ended = [one for one in self._under_way if one.future.done()]
        by_lease: dict[Lease, list[Try]] = defaultdict(list)
        for one in ended:
            by_lease[one.lease] += self._learn(one)
        mine = dict[Lease, list[Try]]()
        for lease, done in by_lease.items():
            if lease.name in held and held[lease.name].fence == lease.fence:
                mine[lease] = done
            else:
                counts["stale"] += len(done)
        for part in chunks(mine, TOGETHER):
            self._write({lease: mine[lease] for lease in part}, topology, counts)
        gone = set(map(id, ended))
        self._under_way = [one for one in self._under_way if id(one) not in gone]

    def _learn(self, one: _UnderWay) -> Sequence[Try]:
        """See how long files of the link take, for the size of its next bundles."""
        result = one.future.result()
        hop, seconds = (one.bundle[0].src, one.bundle[0].dst), result.seconds / len(one.bundle)
        self._pace[hop] = 0.7 * self._pace.get(hop, seconds) + 0.3 * seconds
        return result.tries

    def _write(self, ended: Mapping[Lease, Sequence[Try]], topology: _Topology, counts: Counter[str]) -> None:
        def unit(conn: Connection) -> Settled:
            now, mine = leases.hold_all(conn, ended)
            done = [one for lease in mine for one in ended[lease]]
            marks = {one.claimed.dst: _mark(lease) for lease in mine for one in ended[lease]}
            settled = tries.settle(conn, done, marks, now, self._policies)
            lost = sum(map(len, ended.values())) - len(done)
            return replace(settled, stale=settled.stale + lost)

        with self._doubtful(ended):
            settled = self.context.database.transaction(unit)
            for name in ("done", "retry", "failed", "stale"):
                counts[name] += getattr(settled, name)
            topology.learn(settled.links)
            done = [one for mine in ended.values() for one in mine]
            _measure(done, topology)
            ends = {mine[0].claimed.dst: lease for lease, mine in ended.items()}
            self._finish(ends, settled.arrived, counts)
            self._spoil(ends, [one for one in done if one.fault], counts)

    def _finish(self, ends: Mapping[int, Lease], keys: Collection[ReplicaKey], counts: Counter[str]) -> None:
        """Of replicas at storage elements of these leases, those that look whole."""
        with self.context.database.snapshot() as conn:
            keys = finishing.whole(conn, keys) if keys else []

        def unit(conn: Connection) -> int:
            now, mine = _held(conn, ends)
            return len(finishing.finish(conn, [key for key in keys if key[1] in mine], now))

        if keys:
            counts["completed"] += self.context.database.transaction(unit)

    def _spoil(self, ends: Mapping[int, Lease], faulty: Sequence[Try], counts: Counter[str]) -> None:
        def unit(conn: Connection) -> int:
            now, mine = _held(conn, ends)
            return finishing.spoil(conn, [one for one in faulty if one.claimed.dst in mine], now)

        if faulty:
            counts["spoilt"] += self.context.database.transaction(unit)


def _held(conn: Connection, ends: Mapping[int, Lease]) -> tuple[datetime, set[int]]:
    """The database's time, and the storage elements whose leases are ours for the rest of the transaction."""
    now, mine = leases.hold_all(conn, ends.values())
    return now, {se_id for se_id, lease in ends.items() if lease in mine}


def _mark(lease: Lease) -> str:
    """Who claims under the lease, told apart from its other owners."""
    return f"{lease.owner[:180]}#{lease.fence}"


def _measure(done: Sequence[Try], topology: _Topology) -> None:
    """Count by link and result; how long each lasted."""
    by_link: dict[LinkKey, list[Try]] = defaultdict(list)
    for one in done:
        by_link[one.claimed.src, one.claimed.dst].append(one)
    for (src, dst), mine in by_link.items():
        ends = {"source": topology.elements[src].name, "destination": topology.elements[dst].name}
        results = Counter("ok" if one.ok else str(one.error_class) for one in mine)
        for result, n in results.items():
            metrics.count("transfers", n, **ends, result=result)
        metrics.count("transfer_bytes", sum(one.bytes for one in mine), **ends)
        metrics.observe_all("transfer_seconds", (one.seconds for one in mine), **ends)
