"""Places work could start at: the endpoints of each site, what they are judged by, and what stands in the way
there now."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy import Connection, select

from catalogs.states import Switch
from catalogs.tables import site
from gridapp.insights.values import iso, some
from gridcore.tables import lease
from prodsys.queue import breakers, limits
from prodsys.queue.breaker_states import BreakerState
from prodsys.queue.endpoints import HELD_HERE
from prodsys.queue.outlook import LINES
from prodsys.shares import fairshare, shares
from prodsys.shares.fairshare import Standing, Waiting
from prodsys.tables import endpoint

PLACES = (
    select(
        endpoint.c.id,
        endpoint.c.name,
        endpoint.c.site_id,
        endpoint.c.slots,
        site.c.name.label("site"),
        lease.c.owner,
        lease.c.expires_at,
        HELD_HERE.label("n_open"),
    )
    .join_from(endpoint, site, endpoint.c.site_id == site.c.id)
    .join(lease, endpoint.c.lease_id == lease.c.id)
    .where(endpoint.c.state == Switch.ENABLED)
    .order_by(endpoint.c.name)
)


class Obstacle(StrEnum):
    """What keeps work from starting at a site that could run it, the easiest to wait for first."""

    SLOTS = "SLOTS"
    CANARIES = "CANARIES"
    LIMIT = "LIMIT"
    BREAKER = "BREAKER"
    SILENT_AGENT = "SILENT_AGENT"
    NO_AGENT = "NO_AGENT"
    NO_SLOTS = "NO_SLOTS"


@dataclass(frozen=True, slots=True, kw_only=True)
class InTheWay:
    """An obstacle: what is so, whose turn it is, and what would take it away."""

    what: Obstacle
    says: str
    turn: str
    cure: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """An enabled endpoint: `agent` holds it now; `silent_since` is set where one held it and is gone."""

    endpoint_id: int
    name: str
    site_id: int
    site: str
    slots: int
    open: int
    agent: str | None
    silent_since: datetime | None


def places(conn: Connection, now: datetime) -> dict[int, list[Place]]:
    """The enabled endpoints of each site, by site key."""
    found: dict[int, list[Place]] = defaultdict(list)
    for row in conn.execute(PLACES):
        alive = row.owner is not None and row.expires_at is not None and row.expires_at > now
        found[row.site_id].append(
            Place(
                endpoint_id=row.id,
                name=row.name,
                site_id=row.site_id,
                site=row.site,
                slots=row.slots,
                open=row.n_open,
                agent=row.owner if alive else None,
                silent_since=None if alive or row.owner is None else row.expires_at,
            )
        )
    return dict(found)


def of_endpoint(place: Place) -> InTheWay | None:
    """What keeps any work from starting at this endpoint; None where nothing does. Pure."""
    if place.slots == 0:
        return InTheWay(
            what=Obstacle.NO_SLOTS,
            says=f"{place.name} has no slots",
            turn="an operator of the sites",
            cure=f"give {place.name} slots",
        )
    if place.agent is None and place.silent_since is not None:
        return InTheWay(
            what=Obstacle.SILENT_AGENT,
            says=f"the prodagent of {place.name} is silent since {iso(place.silent_since)}",
            turn="whoever runs the prodagent",
            cure=f"start the prodagent of {place.name} again",
        )
    if place.agent is None:
        return InTheWay(
            what=Obstacle.NO_AGENT,
            says=f"no prodagent serves {place.name}",
            turn="whoever starts a prodagent",
            cure=f"start a prodagent that serves {place.name}",
        )
    if place.open >= place.slots:
        return InTheWay(
            what=Obstacle.SLOTS,
            says=taken(place),
            turn="the prodagent",
            cure=f"wait for a slot of {place.name}, or give it more than {place.slots}",
        )
    return None


def taken(place: Place) -> str:
    """How full it is."""
    return f"{place.open} of {some(place.slots, 'slot')} taken at {place.name}"


class Ways:
    """What stands in the way of work at each site, read once per question."""

    def __init__(self, conn: Connection, now: datetime) -> None:
        self.places = places(conn, now)
        self._limits = limits.standing(conn)
        self._breakers: dict[str, list[breakers.Standing]] = defaultdict(list)
        for one in breakers.standing(conn):
            if one.breaker.allowance is not None:
                self._breakers[one.site].append(one)

    def at(
        self, site_id: int, name: str, share: str, task_type: str, fit: Iterable[int] | None = None
    ) -> list[InTheWay]:
        """What stands in the way of such work at a site; empty where it may start.

        `fit` are the keys of the endpoints that can run it, all by default. What keeps every one of them
        from starting it stands in the way, the easiest of each.
        """
        here = self.places.get(site_id, ())
        wanted = None if fit is None else set(fit)
        told = [of_endpoint(one) for one in here if wanted is None or one.endpoint_id in wanted]
        found = [*self._banned(name), *self._full(name, share, task_type)]
        if told and all(told):
            found.append(easiest([one for one in told if one]))
        return sorted(found, key=_ease)

    def bound(self, name: str) -> tuple[int, str] | None:
        """How many jobs the breakers let a site have now, and why; None for any number."""
        bounds = [(one.breaker.allowance or 0, _told(one)) for one in self._breakers[name]]
        return min(bounds, default=None)

    def _banned(self, name: str) -> list[InTheWay]:
        return [
            InTheWay(
                what=Obstacle.BREAKER if one.breaker.state == BreakerState.OPEN else Obstacle.CANARIES,
                says=_told(one),
                turn="an operator of the site",
                cure=f"have {name} mended; then: tierflow breaker reset {name} {one.breaker.error_class}",
            )
            for one in self._breakers[name]
            if one.breaker.allowance == 0
        ]

    def _full(self, name: str, share: str, task_type: str) -> list[InTheWay]:
        return [
            InTheWay(
                what=Obstacle.LIMIT,
                says=f"limit {one.name} is full: {use(one)}",
                turn="the jobs that run under it",
                cure=f"wait for one of them to end, or raise the limit {one.name}",
            )
            for one in self._limits
            if one.full and one.site in (None, name) and _covers(one, share, task_type)
        ]


def _covers(one: limits.Standing, share: str, task_type: str) -> bool:
    if one.task_type is not None and one.task_type != task_type:
        return False
    return one.share is None or share == one.share or share.startswith(f"{one.share}/")


def _told(one: breakers.Standing) -> str:
    return f"its breaker for {one.breaker.error_class} is {one.breaker.state}: {one.reason}"


def use(one: limits.Standing | limits.Room) -> str:
    """What counts against a limit, and its most."""
    told = []
    if one.max_jobs is not None:
        told.append(f"{one.jobs} of {some(one.max_jobs, 'job')}")
    if one.max_cores is not None:
        told.append(f"{one.cores} of {some(one.max_cores, 'core')}")
    return ", ".join(told)


def easiest(found: Sequence[InTheWay]) -> InTheWay:
    """The one to wait for; the first of equals. Raises ValueError for none."""
    return min(found, key=_ease)


def _ease(one: InTheWay) -> int:
    return list(Obstacle).index(one.what)


# --- shares at a site --------------------------------------------------------------------------------------


def standings(conn: Connection, site_id: int, now: datetime) -> dict[str, Standing]:
    """Where each share stands at a site, with the work that may run there and has room, by path."""
    nodes = shares.tree(conn, now, site_id)
    waiting = ready_work(conn, site_id, {node.id: node.path for node in nodes})
    return {one.path: one for one in fairshare.explain(nodes, waiting)}


def ready_work(conn: Connection, site_id: int, paths: Mapping[int, str]) -> dict[int, Waiting]:
    """The work of each leaf that a claim at the site would divide."""
    rooms = limits.rooms(conn, site_id)
    jobs: Counter[int] = Counter()
    cores: dict[int, float] = {}
    for row in conn.execute(LINES, {"at_site": site_id}):
        room = limits.most(rooms, paths.get(row.leaf_id, ""), row.task_type, row.cores)
        jobs[row.leaf_id] += row.ready if room is None else min(row.ready, room)
        cores[row.leaf_id] = max(float(row.cores), cores.get(row.leaf_id, 0.0))
    return {leaf_id: Waiting(n, cores[leaf_id]) for leaf_id, n in jobs.items() if n}


def line_of(share: str) -> list[str]:
    """The paths from the root down to a share."""
    parts = share.split("/")
    return ["/".join(parts[: n + 1]) for n in range(len(parts))]


def turn_of(share: str, standing: Mapping[str, Standing]) -> str:
    """Why a share's work comes when it comes: the first of its nodes, from the root, that is not first."""
    for path in line_of(share):
        one = standing.get(path)
        if one is not None and one.place != 1:
            return f"share {path} {one.why}"
    last = standing.get(share)
    return f"share {share} {last.why if last else 'is unknown'}"
