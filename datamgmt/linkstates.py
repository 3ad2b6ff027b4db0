"""Rows of link_state and link_bin: what each link has shown, and the pace all data rules work at."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import BigInteger, Connection, bindparam, case, func, select, update

from catalogs.states import Switch
from catalogs.tables import link, se
from datamgmt.links import LinkPolicy, LinkState, Outcome, Phase, observe, phase, window
from datamgmt.routing import LinkKey, RoutingPolicy
from datamgmt.tables import link_bin, link_state, transfer
from datamgmt.transfer_states import RetryPolicy, TransferState
from gridcore.db import insert_rows
from gridcore.settings import Settings

BIN = timedelta(minutes=5)
#: States of transfers that fill a link's window.
IN_WINDOW = (TransferState.QUEUED, TransferState.ACTIVE, TransferState.RETRY_WAIT)
_ERROR_MAX = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Policies:
    """`exclusion`: how long a hop is left out for a block after its tries are used up, and up to twice that;
    `transit_age`: how long a transit copy that no route passes may wait for one."""

    link: LinkPolicy
    retry: RetryPolicy
    routing: RoutingPolicy
    exclusion: timedelta
    transit_age: timedelta


def policies(settings: Settings) -> Policies:
    """The rules' times, all in proportion to the wait before a first retry: a test grid lives faster."""
    scale = settings.retry.base_s / 60
    return Policies(
        link=LinkPolicy(
            hop_s=30 * scale,
            cool_off=timedelta(minutes=5) * scale,
            cool_off_max=timedelta(hours=6) * scale,
            window_max=settings.transfer.window_max,
        ),
        retry=RetryPolicy(
            delay=timedelta(seconds=settings.retry.base_s), delay_max=timedelta(hours=1) * scale
        ),
        routing=RoutingPolicy(
            scale=scale, streams=min(settings.transfer.window_max, max(settings.transfer.workers, 1))
        ),
        exclusion=timedelta(minutes=45) * scale,
        transit_age=timedelta(days=7) * scale,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkView:
    """A link and what it has shown; disabled where it, or the storage element at an end, is. A `local` one
    costs next to nothing."""

    id: int
    src: int
    dst: int
    enabled: bool
    distance: float
    tool: str
    state: LinkState
    local: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkOverview:
    """One line of a face's list of links: rate in bytes per second and stream, `window` files in flight at
    most, `queued` of them waiting and `active` under way; `enabled` is the operators' word."""

    id: int
    src: str
    dst: str
    enabled: bool
    phase: Phase
    rate: float | None
    window: int
    queued: int
    active: int
    files_ok: int
    files_bad: int
    bytes_ok: int
    parked_until: datetime | None
    rationale: str
    last_error: str | None


@dataclass(frozen=True, slots=True)
class Ended:
    """One ended copy over a link; `error` is None for a good one."""

    link_id: int
    outcome: Outcome
    error: str | None = None


_SRC, _DST = se.alias("src_se"), se.alias("dst_se")
VIEWS = (
    select(
        link.c.id,
        link.c.src_se_id,
        link.c.dst_se_id,
        link.c.state.label("switch"),
        link.c.distance,
        link.c.tool,
        _SRC.c.name.label("src_name"),
        _DST.c.name.label("dst_name"),
        _SRC.c.state.label("src_switch"),
        _DST.c.state.label("dst_switch"),
        link_state.c.state,
        link_state.c.files_ok,
        link_state.c.files_bad,
        link_state.c.bytes_ok,
        link_state.c.last_error,
    )
    .join_from(link, _SRC, _SRC.c.id == link.c.src_se_id)
    .join(_DST, _DST.c.id == link.c.dst_se_id)
    .outerjoin(link_state, link_state.c.link_id == link.c.id)
    .order_by(_SRC.c.name, _DST.c.name)
)
LOADS = (
    select(
        transfer.c.src_se_id,
        transfer.c.dst_se_id,
        func.count().label("files"),
        func.sum(transfer.c.bytes).label("bytes"),
        func.sum(case((transfer.c.state == TransferState.ACTIVE, 1), else_=0)).label("active"),
    )
    .where(transfer.c.state.in_(IN_WINDOW))
    .group_by(transfer.c.src_se_id, transfer.c.dst_se_id)
)
STATES = select(link_state.c.link_id, link_state.c.state).where(
    link_state.c.link_id.in_(bindparam("ids", expanding=True))
)
_COUNTED = ("files_ok", "files_bad", "bytes_ok")
ADD_TO_LINK = (
    update(link_state)
    .where(link_state.c.link_id == bindparam("on_link"))
    .values(
        state=bindparam("new_state"),
        rationale=bindparam("new_rationale"),
        last_error=func.coalesce(bindparam("new_error"), link_state.c.last_error),
        parked_until=bindparam("new_parked"),
        updated_at=bindparam("at"),
        **{name: link_state.c[name] + bindparam(f"more_{name}", type_=BigInteger) for name in _COUNTED},
    )
)
ADD_TO_BIN = (
    update(link_bin)
    .where(link_bin.c.link_id == bindparam("on_link"), link_bin.c.bin_start == bindparam("in_bin"))
    .values(
        busy_s=link_bin.c.busy_s + bindparam("more_busy_s"),
        **{name: link_bin.c[name] + bindparam(f"more_{name}", type_=BigInteger) for name in _COUNTED},
    )
)


def views(conn: Connection) -> dict[LinkKey, LinkView]:
    """All links by their ends."""
    return {(row.src_se_id, row.dst_se_id): _view(row) for row in conn.execute(VIEWS)}


def _view(row: Any) -> LinkView:
    switches = (row.switch, row.src_switch, row.dst_switch)
    return LinkView(
        id=row.id,
        src=row.src_se_id,
        dst=row.dst_se_id,
        enabled=all(one is Switch.ENABLED for one in switches),
        distance=row.distance,
        tool=row.tool,
        state=LinkState.from_json(row.state or {}),
    )


@dataclass(frozen=True, slots=True)
class Load:
    """What fills a link's window: files, those of them under way, and bytes."""

    files: int = 0
    active: int = 0
    bytes: int = 0


def loads(conn: Connection) -> dict[LinkKey, Load]:
    """What is queued, waiting to be tried again or under way, by link; idle links are left out."""
    rows = conn.execute(LOADS)
    return {(row.src_se_id, row.dst_se_id): Load(row.files, int(row.active), int(row.bytes)) for row in rows}


def overview(conn: Connection, now: datetime, policy: LinkPolicy) -> list[LinkOverview]:
    """All links by the names of their ends."""
    busy = loads(conn)
    result = []
    for row in conn.execute(VIEWS):
        view = _view(row)
        load = busy.get((view.src, view.dst), Load())
        result.append(
            LinkOverview(
                id=view.id,
                src=row.src_name,
                dst=row.dst_name,
                enabled=view.enabled,
                phase=phase(view.state, now),
                rate=view.state.rate,
                window=window(view.state, now, policy),
                queued=load.files - load.active,
                active=load.active,
                files_ok=row.files_ok or 0,
                files_bad=row.files_bad or 0,
                bytes_ok=row.bytes_ok or 0,
                parked_until=view.state.parked_until,
                rationale=view.state.rationale,
                last_error=row.last_error,
            )
        )
    return result


def record(conn: Connection, ended: Iterable[Ended], now: datetime, policy: LinkPolicy) -> None:
    """Learn from copies that ended. One agent serves all links into a storage element, so that nobody else
    writes these rows meanwhile."""
    by_link: dict[int, list[Ended]] = defaultdict(list)
    for one in ended:
        by_link[one.link_id].append(one)
    found = {row.link_id: row.state for row in conn.execute(STATES, {"ids": sorted(by_link)})}
    for link_id, ends in sorted(by_link.items()):
        state = LinkState.from_json(found.get(link_id) or {})
        for one in ends:
            state = observe(state, one.outcome, now, policy)
        _add(conn, link_id, state, ends, now)


def _add(conn: Connection, link_id: int, state: LinkState, ends: Sequence[Ended], now: datetime) -> None:
    good = [one.outcome for one in ends if one.outcome.ok]
    bytes_ok = sum(one.bytes for one in good)
    more = {"files_ok": len(good), "files_bad": len(ends) - len(good), "bytes_ok": bytes_ok}
    binds = {f"more_{name}": n for name, n in more.items()}
    errors = [one.error for one in ends if one.error]
    link_values: dict[str, object] = {
        "state": state.to_json(),
        "rationale": state.rationale[:300],
        "error": errors[-1][:_ERROR_MAX] if errors else None,
        "parked": state.parked_until,
    }
    new = {f"new_{name}": value for name, value in link_values.items()}
    if not conn.execute(ADD_TO_LINK, {"on_link": link_id, "at": now, **new, **binds}).rowcount:
        names = {"error": "last_error", "parked": "parked_until"}
        shown = {names.get(name, name): value for name, value in link_values.items()}
        insert_rows(conn, link_state, [{"link_id": link_id, "updated_at": now, **shown, **more}])
    busy = sum(one.outcome.seconds for one in ends)
    here = {"on_link": link_id, "in_bin": bin_of(now)}
    if not conn.execute(ADD_TO_BIN, {**here, "more_busy_s": busy, **binds}).rowcount:
        key = {"link_id": link_id, "bin_start": bin_of(now)}
        insert_rows(conn, link_bin, [{**key, "busy_s": busy, **more}])


def bin_of(now: datetime) -> datetime:
    """The start of the five-minute bin of a moment."""
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    return now - (now - epoch) % BIN
