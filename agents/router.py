"""Router: chooses how each wanted replica travels, fills the links' windows, lets go of transit copies."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import ClassVar

from sqlalchemy import Connection

from agents.runtime.agent import Agent, Context, Counts, own_lease
from datamgmt import filling, hops, linkstates, routes, transfers
from datamgmt.hops import Changes
from datamgmt.links import window
from datamgmt.linkstates import Load
from datamgmt.routing import LinkKey
from gridcore.bus import Event
from gridcore.db import dbnow, leases
from gridcore.db.leases import Lease
from gridcore.db.statements import chunks

#: Blocks changed in one transaction.
SLICE = 100


class Router(Agent):
    """One for the installation: transit space and probes are given out by one hand."""

    name: ClassVar[str] = "router"
    wakes: ClassVar[frozenset[str]] = frozenset(
        ["destinations.changed", "replica.complete", "transfers.ended"]
    )

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._policies = linkstates.policies(context.settings)
        self._random = random.Random()

    def cycle(self, held: Mapping[str, Lease]) -> Counts:
        """One pass: decisions, what follows from them for queued files, windows."""
        lease = held[own_lease(self.name)]
        changes = self._decide()
        counts = {
            "decided": self._apply(lease, changes),
            "requeued": self._follow(lease, changes),
            "queued": self._fill(lease),
        }
        if counts["requeued"] or counts["queued"]:
            self.context.bus.publish(Event("transfers.queued", self.name))
        if changes.release:
            self.context.bus.publish(Event("replica.deleting", self.name))
        return counts

    def _decide(self) -> Changes:
        with self.context.database.snapshot() as conn:
            view, now = routes.view(conn), dbnow(conn)
        return hops.decide(view, now, self._policies, self._random.random)

    def _apply(self, lease: Lease, changes: Changes) -> int:
        done = 0
        for blocks in chunks(changes.blocks(), SLICE):
            part = changes.of_blocks(set(blocks))
            done += self.context.database.transaction(
                lambda conn, part=part: routes.apply(conn, part, leases.hold(conn, lease))  # type: ignore[misc]
            )
        return done

    def _follow(self, lease: Lease, changes: Changes) -> int:
        keys = changes.again | {key for key, word in changes.words.items() if word.src is not None}
        return sum(
            self.context.database.transaction(
                lambda conn, part=part: transfers.follow(conn, part, leases.hold(conn, lease))  # type: ignore[misc]
            )
            for part in map(frozenset, chunks(sorted(keys), SLICE))
        )

    def _fill(self, lease: Lease) -> int:
        with self.context.database.snapshot() as conn:
            room = self._room(conn)
        return sum(self._fill_link(lease, hop, n) for hop, n in room.items())

    def _room(self, conn: Connection) -> dict[LinkKey, int]:
        """By hop under way, how many files its link's window still takes."""
        views, busy, now = linkstates.views(conn), linkstates.loads(conn), dbnow(conn)
        open_hops = [hop for hop in routes.hops(conn) if hop in views and views[hop].enabled]
        room = {
            hop: window(views[hop].state, now, self._policies.link) - busy.get(hop, Load()).files
            for hop in open_hops
        }
        return {hop: n for hop, n in room.items() if n > 0}

    def _fill_link(self, lease: Lease, hop: LinkKey, n: int) -> int:
        with self.context.database.snapshot() as conn:
            chosen = filling.candidates(conn, hop, n, dbnow(conn))
        if not chosen:
            return 0
        ids = self.context.keys.take("transfer", sum(one.files for one in chosen))
        return self.context.database.transaction(
            lambda conn: filling.fill(conn, hop, chosen, ids, leases.hold(conn, lease))
        )
