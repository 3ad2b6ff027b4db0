"""Words on links: what operators say of a link, open, parked or to be probed, and the bounds they set."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, update

from catalogs.tables import link
from datamgmt.links import linkstates
from datamgmt.links.health import Phase
from datamgmt.tables import link_state
from gridcore.db.statements import insert_new

_THIS_LINK = link.c.id == bindparam("on_link")
BOUND = (
    update(link)
    .where(_THIS_LINK)
    .values(
        distance=bindparam("new_distance"),
        window_max=bindparam("new_window"),
        rate_cap=bindparam("new_cap"),
        note=bindparam("new_note"),
    )
)
_THIS = link_state.c.link_id == bindparam("on_link")
FORCE = (
    update(link_state)
    .where(_THIS)
    .values(forced=bindparam("word"), forced_by=bindparam("who"), forced_until=bindparam("until"))
)
PROBE = (
    update(link_state)
    .where(_THIS, link_state.c.parked_until.is_not(None))
    .values(state=bindparam("document", type_=link_state.c.state.type), parked_until=bindparam("at"))
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How far a link reaches and what it may take: files in flight, bytes per second; None for no bound of
    its own. note: why."""

    distance: float
    window_max: int | None
    rate_cap: float | None
    note: str | None


def bound(conn: Connection, link_id: int, bounds: Bounds) -> None:
    """Set them."""
    new = {"distance": bounds.distance, "window": bounds.window_max, "cap": bounds.rate_cap}
    binds = {f"new_{name}": value for name, value in {**new, "note": bounds.note}.items()}
    conn.execute(BOUND, {"on_link": link_id, **binds})


def force(
    conn: Connection, link_id: int, word: Phase | None, actor: str, until: datetime | None, now: datetime
) -> None:
    """Hold the link OPEN or PARKED until a moment, or for good; None lets it find its state by itself."""
    _known(conn, link_id, now)
    who = actor if word else None
    binds = {"word": word.value if word else None, "who": who, "until": until if word else None}
    conn.execute(FORCE, {"on_link": link_id, **binds})


def probe(conn: Connection, link_id: int, now: datetime) -> bool:
    """End the cool-off of a parked link: the next block that would go over it is sent as a probe. False where
    it is not parked."""
    (state,) = linkstates.documents(conn, [link_id]).values() or ({},)
    binds: dict[str, Any] = {"document": {**state, "parked_until": now.isoformat()}, "at": now}
    return conn.execute(PROBE, {"on_link": link_id, **binds}).rowcount == 1


def _known(conn: Connection, link_id: int, now: datetime) -> None:
    if not linkstates.documents(conn, [link_id]):
        insert_new(conn, link_state, {"link_id": link_id, "state": {}, "updated_at": now})
