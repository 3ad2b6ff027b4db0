"""Links switched, bounded, held open or shut, and probed by hand, for every face."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from agents.runtime.agent import Context
from catalogs import sites
from catalogs.sites import Link
from catalogs.states import Switch
from datamgmt.links import linkstates, linkwords
from datamgmt.links.health import Phase
from datamgmt.links.linkstates import LinkView
from datamgmt.links.linkwords import Bounds
from datamgmt.previews import preview
from gridapp.insights import previews, topology
from gridapp.insights.values import plain
from gridapp.naming import element, site_of, words
from gridcore import audit, identity
from gridcore.db import dbnow
from gridcore.errors import Conflict, NotFound, UsageError
from gridcore.identity import Action, Principal, Subject

#: A link's state is what its copies make it.
AUTO = "AUTO"
#: Files in flight, and characters of a note.
WINDOW_MAX, NOTE_MAX = 1_000_000, 400


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkChange:
    """What is to change of a link; None leaves it. window, rate_cap (bytes per second): 0 for no bound. word:
    OPEN, PARKED, or AUTO for neither; until when it holds."""

    window: int | None = None
    rate_cap: float | None = None
    distance: float | None = None
    word: str | None = None
    until: datetime | None = None
    note: str | None = None

    def told(self) -> dict[str, Any]:
        """What is said, for audit and answer."""
        found = {name: getattr(self, name) for name in ("window", "rate_cap", "distance", "word", "note")}
        found["until"] = plain(self.until)
        return {name: value for name, value in found.items() if value is not None}


def switch_link(
    context: Context, src: str, dst: str, state: Switch, note: str | None, actor: Principal
) -> dict[str, Any]:
    """Let a link be used or not, audited: {"src", "dst", "state", "note"}. Raises NotFound, Denied."""
    found, note = _mine(context, src, dst, actor), words(note, "note", NOTE_MAX)

    def unit(conn: Connection, now: datetime) -> None:
        sites.set_link_state(conn, found.id, state, note)
        verb = f"link {state.value.lower()}"
        audit.record(conn, actor.name, verb, f"link {src} -> {dst}", now, {"note": note})

    _do(context, unit)
    return {"src": src, "dst": dst, "state": state.value, "note": note}


def set_link(
    context: Context, src: str, dst: str, change: LinkChange, actor: Principal, *, dry_run: bool = False
) -> dict[str, Any]:
    """Change what bounds or holds a link, audited: {"src", "dst", ...what changed}. With `dry_run` nothing is
    changed, and "preview" compares what is wanted over the links as they are and would be.

    Raises NotFound, Denied, UsageError.
    """
    told = change.told()
    if not told:
        raise UsageError("nothing is to be changed", hint="for example: --window 10, --park or --note TEXT")
    _check(change, context.clock.now())
    found = _mine(context, src, dst, actor)
    if dry_run:
        return {"src": src, "dst": dst, **told, "preview": _previewed(context, found, change, actor)}

    def unit(conn: Connection, now: datetime) -> None:
        view = _view(conn, found)
        linkwords.bound(conn, found.id, _bounds(view, change))
        if change.word is not None:
            word = None if change.word == AUTO else Phase(change.word)
            linkwords.force(conn, found.id, word, actor.name, change.until, now)
        audit.record(conn, actor.name, "link set", f"link {src} -> {dst}", now, told)

    _do(context, unit)
    return {"src": src, "dst": dst, **told}


def _check(change: LinkChange, now: datetime) -> None:
    """Raises UsageError for what no link can have."""
    for what, value in (("distance", change.distance), ("rate cap", change.rate_cap)):
        if value is not None and not math.isfinite(value):
            raise UsageError(f"a {what} of {value}", hint="give a number")
    if change.window is not None and change.window > WINDOW_MAX:
        raise UsageError(f"a window of {change.window} files", hint=f"it is at most {WINDOW_MAX:,}")
    if change.until is not None and change.until <= now:
        raise UsageError("the moment until which the word holds is over", hint="give a later one, or none")
    words(change.note, "note", NOTE_MAX)


def probe_link(context: Context, src: str, dst: str, actor: Principal) -> dict[str, Any]:
    """Let a parked link be tried now, audited: {"src", "dst", "state"}. Raises NotFound, Denied, Conflict."""
    found = _mine(context, src, dst, actor)

    def unit(conn: Connection, now: datetime) -> None:
        if not linkwords.probe(conn, found.id, now):
            hint = f"see: tierflow link show {src} {dst}"
            raise Conflict(f"link {src} -> {dst} is not parked after failures", hint=hint)
        audit.record(conn, actor.name, "link probe", f"link {src} -> {dst}", now, {})

    _do(context, unit)
    return {"src": src, "dst": dst, "state": Phase.PROBING.value}


def _do(context: Context, unit: Callable[[Connection, datetime], None]) -> None:
    context.database.transaction(lambda conn: unit(conn, dbnow(conn)))


def _mine(context: Context, src: str, dst: str, actor: Principal) -> Link:
    """The link, which the account may change at one of its ends. Raises NotFound, Denied."""
    with context.database.snapshot() as conn:
        ends = element(conn, src), element(conn, dst)
        keys = ends[0].id, ends[1].id
        found = [one for one in sites.links(conn) if (one.src_se_id, one.dst_se_id) == keys]
        places = [site_of(conn, end) for end in ends]
    if not found:
        raise NotFound(f"there is no link {src} -> {dst}", hint="see: tierflow link list")
    if not any(identity.may(actor, Action.SITE_CONFIGURE, Subject(site=site)) for site in places):
        identity.require(actor, Action.SITE_CONFIGURE, Subject(site=places[0]))
    return found[0]


def _view(conn: Connection, found: Link) -> LinkView:
    return linkstates.views(conn)[found.src_se_id, found.dst_se_id]


def _bounds(view: LinkView, change: LinkChange) -> Bounds:
    return Bounds(
        distance=view.distance if change.distance is None else change.distance,
        window_max=view.window_max if change.window is None else change.window or None,
        rate_cap=view.rate_cap if change.rate_cap is None else change.rate_cap or None,
        note=view.note if change.note is None else change.note,
    )


def _previewed(context: Context, found: Link, change: LinkChange, actor: Principal) -> dict[str, Any]:
    policies = linkstates.policies(context.settings)
    with context.database.snapshot() as conn:
        view, now = _view(conn, found), dbnow(conn)
        state = view.state
        if change.word is not None:
            word = None if change.word == AUTO else Phase(change.word)
            state = replace(state, forced=word, forced_until=change.until)
        after = replace(view, state=state, forced_by=actor.name, **asdict(_bounds(view, change)))
        ends = found.src_se_id, found.dst_se_id
        compared = preview.link_change(conn, {ends: after}, now, policies)
        return previews.comparison(compared, topology.se_names(conn))
