"""Prober: the part of the transfer agent that tries dead links nobody needs now."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

from sqlalchemy import Connection

from agents.runtime.agent import Context
from catalogs.sites import StorageElement
from datamgmt.links import linkstates
from datamgmt.links.health import LinkState
from datamgmt.links.linkstates import LinkView
from datamgmt.links.paths import LinkKey
from datamgmt.tools.base import TransferTool
from datamgmt.transfers import probing
from datamgmt.transfers.copying import Way
from datamgmt.transfers.probing import Probe, Probed
from gridcore.db import dbnow, leases
from gridcore.db.leases import Lease

#: Dead links tried at the same time.
PROBES = 4


@dataclass(frozen=True, slots=True)
class _Trying:
    """A dead link that is tried, and the lease it is tried under."""

    lease: Lease
    link: LinkView
    future: Future[Probed]


class Prober:
    """Probes outlive a cycle. They have threads of their own: dead links hang, and would take the places of
    copies; with no workers one is tried at a time, in the agent's own thread."""

    def __init__(self, context: Context, tools: Mapping[str, TransferTool]) -> None:
        """`tools` by the name links give."""
        self._context = context
        self._tools = tools
        self._policies = linkstates.policies(context.settings)
        self._workers = context.settings.transfer.workers
        self._pool = ThreadPoolExecutor(PROBES, thread_name_prefix="probe")
        self._trying: list[_Trying] = []
        self._look_at = 0.0

    def cycle(
        self,
        mine: Mapping[int, Lease],
        elements: Mapping[int, StorageElement],
        links: Mapping[LinkKey, LinkView],
    ) -> dict[int, LinkState]:
        """Begin what is due into storage elements whose leases are ours; of links whose probes have ended,
        what is known now, by id."""
        learnt = self._learn(mine)
        clock, every = self._context.clock, self._policies.probe_every
        if clock.monotonic() >= self._look_at:
            self._look_at = clock.monotonic() + every.total_seconds() / 60
            for probe in self._due(mine, links):
                self._begin(probe, mine[probe.link.dst], elements)
        return learnt

    def close(self) -> None:
        """Begin no further probe."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _due(self, mine: Mapping[int, Lease], links: Mapping[LinkKey, LinkView]) -> list[Probe]:
        room = (PROBES if self._workers else 1) - len(self._trying)
        trying = {one.link.id for one in self._trying}
        with self._context.database.snapshot() as conn:
            due = probing.due(links, dbnow(conn), self._policies.probe_every)
            dead = [one for one in due if one.dst in mine and one.id not in trying]
            return list(islice(probing.probes(conn, dead), room))

    def _begin(self, probe: Probe, lease: Lease, elements: Mapping[int, StorageElement]) -> None:
        link = probe.link
        way = Way(
            tool=self._tools.get(link.tool),
            source=elements[link.src],
            dest=elements[link.dst],
            link_id=link.id,
            deadline_s=self._context.settings.transfer.deadline_s,
        )
        future: Future[Probed] = Future()
        if self._workers:
            future = self._pool.submit(probing.attempt, way, probe)
        else:
            future.set_result(probing.attempt(way, probe))
        self._trying.append(_Trying(lease, link, future))

    def _learn(self, mine: Mapping[int, Lease]) -> dict[int, LinkState]:
        """Of probes whose leases are lost, their links' next owners judge by their own."""
        ended = [one for one in self._trying if one.future.done()]
        self._trying = [one for one in self._trying if one not in ended]
        ended = [one for one in ended if one.link.dst in mine]
        if not ended:
            return {}

        def unit(conn: Connection) -> dict[int, LinkState]:
            now, held = leases.hold_all(conn, {one.lease for one in ended})
            done = [one.future.result() for one in ended if one.lease in held]
            return probing.record(conn, done, now, self._policies.link)

        return self._context.database.transaction(unit)
