"""Pruning: what data in motion has left behind, once nobody will ask for it any more."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import Connection, bindparam, delete, select

from catalogs.tables import link
from datamgmt.deletion_states import MACHINE, DeletionState
from datamgmt.tables import deletion, link_bin, route_history
from gridcore.db.idlists import within
from gridcore.db.statements import one_of

#: How long what the router said and what links have carried are kept, and deletions that have ended.
ROUTES = BINS = timedelta(days=30)
DELETIONS = timedelta(days=90)

OLD_ROUTES = delete(route_history).where(
    route_history.c.at < bindparam("before", type_=route_history.c.at.type)
)
LINKS = select(link.c.id).order_by(link.c.id)
OLD_BINS = delete(link_bin).where(
    within(link_bin.c.link_id),
    link_bin.c.bin_start < bindparam("before", type_=link_bin.c.bin_start.type),
)
OLD_DELETIONS = delete(deletion).where(
    one_of(deletion.c.state, sorted(MACHINE.final)),
    deletion.c.due_at < bindparam("before", type_=deletion.c.due_at.type),
)
#: They were never due.
OLD_DENIALS = delete(deletion).where(
    deletion.c.state == DeletionState.DENIED,
    deletion.c.updated_at < bindparam("before", type_=deletion.c.updated_at.type),
)


def prune(conn: Connection, now: datetime) -> dict[str, int]:
    """Remove what is out of date; how many rows of each."""
    links = list(conn.execute(LINKS).scalars())
    ended = {"before": now - DELETIONS}
    return {
        "routes": conn.execute(OLD_ROUTES, {"before": now - ROUTES}).rowcount,
        "bins": conn.execute(OLD_BINS, {"ids": links, "before": now - BINS}).rowcount,
        "deletions": conn.execute(OLD_DELETIONS, ended).rowcount + conn.execute(OLD_DENIALS, ended).rowcount,
    }
