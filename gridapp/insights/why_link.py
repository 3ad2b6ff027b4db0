"""Why a link carries what it carries: operators' words, what it has shown, its queue and its errors."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, bindparam, func, select

from catalogs.states import Switch
from catalogs.tables import link as link_table
from datamgmt.links import linkstates
from datamgmt.links.health import LinkPolicy, Phase, is_forced, phase, window
from datamgmt.links.linkstates import LinkView
from datamgmt.reasons import Reason
from datamgmt.tables import block_dest, link_bin, link_state, transfer_error
from datamgmt.tools.base import ErrorClass
from gridapp import naming
from gridapp.insights import waits
from gridapp.insights.answers import Answer
from gridapp.insights.topology import se_names
from gridapp.insights.values import iso, plain, record, some
from gridapp.insights.waits import Told, told
from gridcore.amounts import size
from gridcore.errors import NotFound

#: How far back copies are counted.
LOOK = timedelta(hours=2)
#: The stored windows are within the installation's bound already.
_AS_STORED = LinkPolicy(window_max=10**6)

#: What is said of a dead link on which nothing is queued.
_TRIED = ("it failed repeatedly, and nobody needs it now: a small copy tries it about once an hour",)

SHOWN = (
    select(
        link_table.c.note,
        link_table.c.state,
        link_table.c.window_max,
        link_table.c.rate_cap,
        link_state.c.forced_by,
        link_state.c.rationale,
        link_state.c.last_error,
        link_state.c.updated_at,
    )
    .outerjoin_from(link_table, link_state, link_state.c.link_id == link_table.c.id)
    .where(link_table.c.id == bindparam("on_link"))
)
ERRORS = (
    select(*(transfer_error.c[name] for name in ("error_class", "n", "first_at", "last_at", "sample")))
    .where(transfer_error.c.link_id == bindparam("on_link"))
    .order_by(transfer_error.c.last_at.desc())
)
_COUNTED = ("files_ok", "files_bad", "bytes_ok")
LATELY = select(*(func.coalesce(func.sum(link_bin.c[name]), 0).label(name) for name in _COUNTED)).where(
    link_bin.c.link_id == bindparam("on_link"),
    link_bin.c.bin_start >= bindparam("since", type_=link_bin.c.bin_start.type),
)
OVER_IT = select(func.count(), func.coalesce(func.sum(block_dest.c.bytes), 0).label("n_bytes")).where(
    block_dest.c.src_se_id == bindparam("src"), block_dest.c.se_id == bindparam("dst")
)


def why_link(conn: Connection, src: str, dst: str, now: datetime) -> Answer:
    """Why a link is open, parked or shut, what it carries and what went wrong there. Raises NotFound."""
    ends = naming.element(conn, src), naming.element(conn, dst)
    view = linkstates.views(conn).get((ends[0].id, ends[1].id))
    if view is None:
        raise NotFound(f"there is no link {src} -> {dst}", hint="see: tierflow link list")
    shown = conn.execute(SHOWN, {"on_link": view.id}).one()
    errors = conn.execute(ERRORS, {"on_link": view.id}).all()
    said = _said(conn, view, shown, errors, ends, now)
    lead = next(iter(said), None)
    routed = conn.execute(OVER_IT, {"src": view.src, "dst": view.dst}).one()
    lately = conn.execute(LATELY, {"on_link": view.id, "since": now - LOOK}).one()
    load = linkstates.loads(conn).get((view.src, view.dst), linkstates.Load())
    dead = bool(view.enabled and view.state.parked_until and not is_forced(view.state, now))
    return Answer(
        what=f"link:{src}>{dst}",
        kind="link",
        state=_state(view, now),
        since=iso(shown.updated_at),
        because=[
            *(one.sentence for one in said),
            f"{_places(view, now)} files at a time: {shown.rationale or view.state.rationale}",
            *(_TRIED if dead and not load.files else ()),
            f"{some(routed[0], 'block')} of {size(int(routed[1]))} routed over it",
            f"{some(load.files, 'file')} queued or under way",
            *(_error(one) for one in errors[:3]),
            *([f"last error: {shown.last_error}"] if shown.last_error and not errors else []),
        ],
        evidence={
            **record(shown, "note", "window_max", "rate_cap", "forced_by", "last_error"),
            **plain({"forced": view.state.forced, "forced_until": view.state.forced_until}),
            **plain({"parked_until": view.state.parked_until, "failures": view.state.failures}),
            "rate": view.state.rate,
            "distance": view.distance,
            "last_2_h": record(lately, "files_ok", "files_bad", "bytes_ok"),
            "queue": {"files": load.files, "active": load.active, "bytes": load.bytes},
            "routed": {"blocks": routed[0], "bytes": int(routed[1])},
            "errors": [record(one, "error_class", "n", "first_at", "last_at", "sample") for one in errors],
            "reasons": [one.to_json() for one in said],
        },
        turn=lead.turn if lead else "the transfer agent" if load.files or dead else "nobody",
        next=(lead.cure if lead else None) or f"tierflow link show {src} {dst}",
    )


def _places(view: LinkView, now: datetime) -> int:
    return window(view.state, now, _AS_STORED)


def _state(view: LinkView, now: datetime) -> str:
    return phase(view.state, now).value if view.enabled else Switch.DISABLED.value


def _said(conn: Connection, view: LinkView, shown: Any, errors: Any, ends: Any, now: datetime) -> list[Told]:
    """What keeps it from carrying, most important first."""
    names = se_names(conn)
    found: list[waits.Said] = [
        (Reason.SE_DISABLED, {"se": one.id}) for one in ends if one.state is Switch.DISABLED
    ]
    link = {"link_src": view.src, "link_dst": view.dst}
    if shown.state is Switch.DISABLED:
        others = {"dst": view.dst, "n": 1, "links": f"this one{f' ({shown.note})' if shown.note else ''}"}
        found.append((Reason.NO_LIVE_LINK, {**link, **others}))
    state = view.state
    if is_forced(state, now) and state.forced is Phase.PARKED:
        params = {**link, "actor": shown.forced_by or "an operator", "note": shown.note}
        found.append((Reason.LINK_FORCED, {**params, "until": iso(state.forced_until)}))
    elif state.parked_until and now < state.parked_until and state.forced is not Phase.OPEN:
        found.append((Reason.LINK_PARKED, {**link, **_blame(errors), "until": iso(state.parked_until)}))
    queued = linkstates.loads(conn).get((view.src, view.dst))
    if queued and phase(state, now) is Phase.PROBING:
        found.append((Reason.PROBE_UNDER_WAY, link))
    if queued and (gone := waits.absent(conn, view.dst, names, now)):
        found.append(gone)
    return [told(code, params, names) for code, params in found]


def _blame(errors: Any) -> dict[str, Any]:
    """The class that parked it, most likely, and whose it is."""
    blaming = [one for one in errors if one.error_class in tuple(ErrorClass)]
    if not blaming:
        return {}
    kind = ErrorClass(blaming[0].error_class)
    return {"n": blaming[0].n, "error_class": kind.value, "owner": kind.owner.value}


def _error(one: Any) -> str:
    return f"{one.n} times {one.error_class}, last at {iso(one.last_at)}: {one.sample}"
