"""Rows of link_state and link_bin: what each link has shown, and the pace all data rules work at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Connection, case, select, type_coerce

from catalogs.states import Switch
from catalogs.tables import link, se
from datamgmt.links import linkqueues
from datamgmt.links.health import LinkPolicy, LinkState, Phase, is_forced, phase, window
from datamgmt.links.paths import LinkKey, RoutingPolicy
from datamgmt.tables import link_state
from datamgmt.transfer_states import RetryPolicy
from gridcore.db.idlists import within
from gridcore.db.reads import Read, rows
from gridcore.settings import Settings

BIN = timedelta(minutes=5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policies:
    """`exclusion`: how long a hop is left out for a block after its tries are used up, and up to twice that;
    `transit_age`: how long a transit copy that no route passes may wait for one; `probe_every`: about how
    often a dead link is tried that nobody needs."""

    link: LinkPolicy
    retry: RetryPolicy
    routing: RoutingPolicy
    exclusion: timedelta
    transit_age: timedelta
    probe_every: timedelta = timedelta(hours=1)


def policies(settings: Settings) -> Policies:
    """The rules' times, all in proportion to the wait before a first retry: a test grid lives faster."""
    scale = settings.retry.base_s / 60
    return Policies(
        link=LinkPolicy(
            hop_s=30 * scale,
            cool_off=timedelta(minutes=5) * scale,
            cool_off_max=timedelta(hours=6) * scale,
            window_max=settings.transfer.window_max,
            queue_ahead=timedelta(minutes=15) * scale,
            queue_max=settings.transfer.queue_max,
            nominal_rate=settings.transfer.nominal_rate,
        ),
        retry=RetryPolicy(
            delay=timedelta(seconds=settings.retry.base_s), delay_max=timedelta(hours=1) * scale
        ),
        routing=RoutingPolicy(
            scale=scale,
            streams=min(settings.transfer.window_max, max(settings.transfer.workers, 1)),
            window_bytes=settings.transfer.window_bytes,
        ),
        exclusion=timedelta(minutes=45) * scale,
        transit_age=timedelta(days=7) * scale,
        probe_every=timedelta(hours=1) * scale,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkView:
    """A link and what it has shown; disabled where it, or the storage element at an end, is. A `local` one
    costs next to nothing; `window_max` files in flight and `rate_cap` bytes per second are its own bounds.
    forced_by: whose word its state is, if one holds; note: why."""

    id: int
    src: int
    dst: int
    enabled: bool
    distance: float
    tool: str
    state: LinkState
    local: bool = False
    window_max: int | None = None
    rate_cap: float | None = None
    forced_by: str | None = None
    note: str | None = None

    def bounded(self, policy: LinkPolicy) -> LinkPolicy:
        """The policy within the link's own bounds."""
        if self.window_max is None and self.rate_cap is None:
            return policy
        return replace(policy, window_max=self.window_max or policy.window_max, rate_cap=self.rate_cap)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkOverview:
    """One line of a face's list of links: rate in bytes per second and stream, `window` files in flight at
    most, `active` of them now, `queued` waiting; `failures` in a row; `enabled` is the operators' word, and
    so is what was `forced`, by whom and until when."""

    id: int
    src: str
    dst: str
    enabled: bool
    phase: Phase
    rate: float | None
    window: int
    failures: int
    queued: int
    queued_bytes: int
    active: int
    files_ok: int
    files_bad: int
    bytes_ok: int
    parked_until: datetime | None
    rationale: str
    last_error: str | None
    forced: Phase | None
    forced_by: str | None
    forced_until: datetime | None
    distance: float
    tool: str
    local: bool
    window_max: int | None
    rate_cap: float | None
    note: str | None


_SRC, _DST = se.alias("src_se"), se.alias("dst_se")
_LINK = (
    "id",
    "src_se_id",
    "dst_se_id",
    "state",
    "distance",
    "tool",
    "local",
    "window_max",
    "rate_cap",
    "note",
)
_SHOWN = ("window_files", "rate", "failures", "parked_until", "opened_at", "forced", "forced_until")
#: What older code wrote where newer has not written yet.
_DOCUMENT = case((link_state.c.window_files.is_(None), link_state.c.state), else_=None)
VIEWS = (
    select(
        *(link.c[name] for name in _LINK),
        _SRC.c.state.label("src_switch"),
        _DST.c.state.label("dst_switch"),
        link_state.c.forced_by,
        *(link_state.c[name] for name in _SHOWN),
        link_state.c.updated_at,
        type_coerce(_DOCUMENT, link_state.c.state.type).label("document"),
    )
    .join_from(link, _SRC, _SRC.c.id == link.c.src_se_id)
    .join(_DST, _DST.c.id == link.c.dst_se_id)
    .outerjoin(link_state, link_state.c.link_id == link.c.id)
    .order_by(_SRC.c.name, _DST.c.name)
)
SHOWN = (
    select(
        link.c.id,
        _SRC.c.name.label("src_name"),
        _DST.c.name.label("dst_name"),
        *(link_state.c[name] for name in ("rationale", "last_error")),
        *(link_state.c[name] for name in ("files_ok", "files_bad", "bytes_ok")),
    )
    .join_from(link, _SRC, _SRC.c.id == link.c.src_se_id)
    .join(_DST, _DST.c.id == link.c.dst_se_id)
    .outerjoin(link_state, link_state.c.link_id == link.c.id)
)
STATES = (
    select(
        link_state.c.link_id,
        link_state.c.state,
        *(link_state.c[name] for name in ("window_files", "opened_at", "forced", "forced_until")),
        link.c.window_max,
        link.c.rate_cap,
    )
    .join_from(link_state, link, link.c.id == link_state.c.link_id)
    .where(within(link_state.c.link_id))
)


def views(conn: Connection) -> dict[LinkKey, LinkView]:
    """All links by their ends."""
    (found,) = rows(conn, [Read(VIEWS, {})])
    return {(row[1], row[2]): _view(row) for row in found}


def _view(row: Sequence[Any]) -> LinkView:
    link_id, src, dst, switch, distance, tool, local, window_max, rate_cap, note = row[:10]
    src_switch, dst_switch, forced_by = row[10:13]
    return LinkView(
        id=link_id,
        src=src,
        dst=dst,
        enabled=switch is src_switch is dst_switch is Switch.ENABLED,
        distance=distance,
        tool=tool,
        state=_state(*row[13:]),
        local=bool(local),
        window_max=window_max,
        rate_cap=rate_cap,
        forced_by=forced_by,
        note=note,
    )


_UNSEEN = LinkState()


def _state(
    places: float | None,
    rate: float | None,
    failures: int | None,
    parked_until: datetime | None,
    opened_at: datetime | None,
    forced: str | None,
    forced_until: datetime | None,
    updated_at: datetime | None,
    document: Mapping[str, Any] | None,
) -> LinkState:
    """From the columns, which do not say how often it was parked; from JSON where older code wrote it."""
    word = Phase(forced) if forced else None
    if places is None:
        known = LinkState.from_json(document) if document else _UNSEEN
        return replace(known, forced=word, forced_until=forced_until) if word else known
    return LinkState(
        rate=rate,
        measured_at=updated_at,
        failures=failures or 0,
        parked_until=parked_until,
        window=places,
        opened_at=opened_at,
        forced=word,
        forced_until=forced_until,
    )


@dataclass(frozen=True, slots=True)
class Load:
    """What a link has taken: files, those of them under way, and bytes that wait."""

    files: int = 0
    active: int = 0
    bytes: int = 0


def loads(conn: Connection) -> dict[LinkKey, Load]:
    """What is queued, waiting to be tried again or under way, by link; idle links are left out."""
    found = linkqueues.queues(conn)
    return {key: Load(one.files + one.active, one.active, one.bytes) for key, one in found.items()}


def overview(conn: Connection, now: datetime, policy: LinkPolicy) -> list[LinkOverview]:
    """All links by the names of their ends."""
    busy = loads(conn)
    told = {row.id: row for row in conn.execute(SHOWN)}
    result = []
    for key, view in views(conn).items():
        row, load = told[view.id], busy.get(key, Load())
        forced = view.state.forced if is_forced(view.state, now) else None
        result.append(
            LinkOverview(
                id=view.id,
                src=row.src_name,
                dst=row.dst_name,
                enabled=view.enabled,
                phase=phase(view.state, now),
                rate=view.state.rate,
                window=window(view.state, now, view.bounded(policy)),
                failures=view.state.failures,
                queued=load.files - load.active,
                queued_bytes=load.bytes,
                active=load.active,
                files_ok=row.files_ok or 0,
                files_bad=row.files_bad or 0,
                bytes_ok=row.bytes_ok or 0,
                parked_until=view.state.parked_until,
                rationale=row.rationale or view.state.rationale,
                last_error=row.last_error,
                forced=forced,
                forced_by=view.forced_by if forced else None,
                forced_until=view.state.forced_until if forced else None,
                distance=view.distance,
                tool=view.tool,
                local=view.local,
                window_max=view.window_max,
                rate_cap=view.rate_cap,
                note=view.note,
            )
        )
    return result


def documents(conn: Connection, link_ids: Sequence[int]) -> dict[int, dict[str, Any]]:
    """The state in JSON of those of the links that have shown anything."""
    return {row.link_id: row.state or {} for row in conn.execute(STATES, {"ids": sorted(link_ids)})}


def bin_of(now: datetime) -> datetime:
    """The start of the five-minute bin of a moment."""
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    return now - (now - epoch) % BIN
