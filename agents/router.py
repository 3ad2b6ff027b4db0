"""Router: chooses how each wanted replica travels, queues files on links, lets go of transit copies."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import ClassVar, TypeVar

from sqlalchemy import Connection

from agents.runtime.agent import Agent, Context, Counts, own_lease
from catalogs import space
from catalogs.space import Space
from datamgmt.links import linkerrors, linkstates
from datamgmt.links.health import Phase, Seen, queue_limit, seen, stirs
from datamgmt.links.linkstates import LinkView, Load
from datamgmt.links.paths import LinkKey
from datamgmt.routing import hops, leftovers, rerouting, routes
from datamgmt.routing.words import Changes
from datamgmt.transfers import filling
from datamgmt.transfers.filling import Chosen
from datamgmt.wanted.transit import NoRoom
from gridcore.bus import Event
from gridcore.db import dbnow, leases
from gridcore.db.leases import Lease
from gridcore.db.statements import chunks

#: Blocks changed in one transaction.
SLICE = 500
#: Files from which on those of the next links are queued in another transaction.
PORTION = 5000

Views = Mapping[LinkKey, LinkView]
T = TypeVar("T")


class Router(Agent):
    """One for the installation: transit space and probes are given out by one hand.

    It looks at what is due and nothing else. In memory it has only how each link looked when its hops were
    last made due, and what full storage elements held.
    """

    name: ClassVar[str] = "router"
    wakes: ClassVar[frozenset[str]] = frozenset(
        ["destinations.changed", "replica.complete", "transfers.ended"]
    )

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._policies = linkstates.policies(context.settings)
        self._random = random.Random()
        self._seen: dict[LinkKey, Seen] | None = None
        self._full: dict[int, Space] = {}
        self._freed: dict[int, datetime] = {}

    def cycle(self, held: Mapping[str, Lease]) -> Counts:
        """One pass: decisions, what follows from them for queued files, queues, and what is left over."""
        lease = held[own_lease(self.name)]
        links = self._links(lease)
        self._look_for_room(lease)
        changes = self._decide(links)
        counts = {
            **self._apply(lease, changes),
            "queued": self._fill(lease, links),
            "released": self._let_go(lease),
        }
        if counts["requeued"] or counts["queued"]:
            self.context.bus.publish(Event("transfers.queued", self.name))
        if counts["released"]:
            self.context.bus.publish(Event("replica.deleting", self.name))
        return counts

    def _do(self, lease: Lease, unit: Callable[..., T], *args: object) -> T:
        """Run unit(conn, *args, now) in a transaction of the lease."""
        return self.context.database.transaction(lambda conn: unit(conn, *args, leases.hold(conn, lease)))

    # --- links ---------------------------------------------------------------------------------------

    def _links(self, lease: Lease) -> Views:
        """The links; what goes over those that have changed is due."""
        with self.context.database.snapshot() as conn:
            links, now = linkstates.views(conn), dbnow(conn)
        look = {key: seen(one.state, now, enabled=one.enabled) for key, one in links.items()}
        before = self._seen
        if before is None:
            shut = [key for key, one in look.items() if one.phase is not Phase.OPEN]
            self._stir(lease, shut, opened=True, older=True)
            self._seen = look
            return links
        changed = [key for key, one in look.items() if key not in before or stirs(before[key], one)]
        gone = before.keys() - look.keys()
        if changed or gone:
            opened = any(_usable(look[key]) and not _usable(before.get(key)) for key in changed)
            self._stir(lease, [*changed, *gone], opened=opened)
            self._seen = {key: one for key, one in before.items() if key in look}
            self._seen |= {key: look[key] for key in changed}
        return links

    def _stir(self, lease: Lease, changed: Sequence[LinkKey], *, opened: bool, older: bool = False) -> None:
        def unit(conn: Connection) -> None:
            leases.hold(conn, lease)
            routes.stir_links(conn, changed, opened=opened)
            if older:
                routes.stir_older(conn)

        self.context.database.transaction(unit)

    # --- full storage elements -----------------------------------------------------------------------

    def _look_for_room(self, lease: Lease) -> None:
        """What waits for one that was full, and has got room since, is due at once."""
        with self.context.database.snapshot() as conn:
            full, now = linkerrors.full(conn), dbnow(conn)
            spaces = space.read(conn) if full else {}
        seen = {se_id: spaces[se_id] for se_id in full}
        freed = {key: now for key, one in self._full.items() if key in seen and hops.roomier(one, seen[key])}
        self._full = seen
        self._freed |= freed
        if freed:
            self._do(lease, lambda conn, _: routes.stir_full(conn, freed))

    # --- routes --------------------------------------------------------------------------------------

    def _decide(self, links: Views) -> Changes:
        with self.context.database.snapshot() as conn:
            now = dbnow(conn)
            due = routes.due(conn, now)
            if not due:
                return Changes()
            view = routes.view(conn, due, links)
        still = {key: at for key, at in view.full.items() if key not in self._freed or at > self._freed[key]}
        view = replace(view, full=still)
        return hops.decide(view, now, self._policies, self._random.random)

    def _apply(self, lease: Lease, changes: Changes) -> Counter[str]:
        done: Counter[str] = Counter(decided=0, requeued=0)
        for blocks in chunks(changes.blocks(), SLICE):
            part = changes.of_blocks(set(blocks))
            try:
                done.update(self._do(lease, rerouting.apply, part))
            except NoRoom:
                continue  # they are due still, and planned with the room there is
        return done

    def _let_go(self, lease: Lease) -> int:
        """Room whose time is over, then copies nobody keeps room for."""
        self._do(lease, leftovers.expire, SLICE)
        with self.context.database.snapshot() as conn:
            idle = leftovers.idle(conn, SLICE)
        return self._do(lease, leftovers.release, idle) if idle else 0

    # --- queues --------------------------------------------------------------------------------------

    def _fill(self, lease: Lease, links: Views) -> int:
        with self.context.database.snapshot() as conn:
            room = self._room(conn, links)
            chosen = filling.candidates(conn, room, dbnow(conn))
        return sum(self._fill_links(lease, part) for part in _portions(chosen))

    def _room(self, conn: Connection, links: Views) -> dict[LinkKey, int]:
        """By hop under way, how many files its link's queue still takes."""
        busy, now = linkstates.loads(conn), dbnow(conn)
        room: dict[LinkKey, int] = {}
        for hop, mean in routes.hops(conn).items():
            link = links.get(hop)
            if link is not None and link.enabled:
                most = queue_limit(link.state, mean, now, link.bounded(self._policies.link))
                room[hop] = most - busy.get(hop, Load()).files
        return {hop: n for hop, n in sorted(room.items()) if n > 0}

    def _fill_links(self, lease: Lease, chosen: Mapping[LinkKey, Sequence[Chosen]]) -> int:
        keys = self.context.keys.take("transfer", sum(map(_files, chosen.values())))
        return self._do(lease, filling.fill, chosen, keys)


def _files(chosen: Sequence[Chosen]) -> int:
    return sum(one.files for one in chosen)


def _portions(chosen: Mapping[LinkKey, Sequence[Chosen]]) -> Iterator[dict[LinkKey, Sequence[Chosen]]]:
    """What is queued in one transaction each."""
    part: dict[LinkKey, Sequence[Chosen]] = {}
    for hop, mine in chosen.items():
        part[hop] = mine
        if sum(map(_files, part.values())) >= PORTION:
            yield part
            part = {}
    if part:
        yield part


def _usable(look: Seen | None) -> bool:
    return look is not None and look.phase is not Phase.PARKED
