"""Links switched on and off by hand, for every face."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection

from agents.runtime.agent import Context
from catalogs import sites
from catalogs.states import Switch
from gridapp.naming import element, site_of
from gridcore import audit, identity
from gridcore.errors import NotFound
from gridcore.identity import Action, Principal, Subject


def switch_link(
    context: Context, src: str, dst: str, state: Switch, note: str | None, actor: Principal
) -> dict[str, Any]:
    """Let a link be used or not, audited: {"src", "dst", "state", "note"}. Raises NotFound, Denied."""
    with context.database.snapshot() as conn:
        ends = element(conn, src), element(conn, dst)
        found = [
            one for one in sites.links(conn) if (one.src_se_id, one.dst_se_id) == (ends[0].id, ends[1].id)
        ]
        places = [site_of(conn, end) for end in ends]
    if not found:
        raise NotFound(f"there is no link {src} -> {dst}", hint="see: tierflow link list")
    if not any(identity.may(actor, Action.SITE_CONFIGURE, Subject(site=site)) for site in places):
        identity.require(actor, Action.SITE_CONFIGURE, Subject(site=places[0]))
    now = context.clock.now()

    def unit(conn: Connection) -> None:
        sites.set_link_state(conn, found[0].id, state, note)
        verb = f"link {state.value.lower()}"
        audit.record(conn, actor.name, verb, f"link {src} -> {dst}", now, {"note": note})

    context.database.transaction(unit)
    return {"src": src, "dst": dst, "state": state.value, "note": note}
