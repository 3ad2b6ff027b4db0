"""What transfers look like: one by one, and by link: queues, errors, quality."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, bindparam, func, select

from catalogs.tables import link
from datamgmt.links import linkerrors, linkqueues, linkstates
from datamgmt.links.health import LinkPolicy, phase, window
from datamgmt.links.linkqueues import Queue
from datamgmt.tables import link_bin
from datamgmt.transfer_states import TransferState
from datamgmt.transfers import store as transfer_rows
from gridapp.insights import topology
from gridapp.insights.traffic import BIN_HOUR, begin_of
from gridapp.insights.values import LIMIT, iso, record, state_of
from gridcore.db import dbnow
from gridcore.errors import UsageError

#: The stored windows are within the installation's bound already.
AS_STORED = LinkPolicy(window_max=10**6)

BY_HOUR = (
    select(
        link.c.src_se_id,
        link.c.dst_se_id,
        BIN_HOUR.label("hour"),
        func.sum(link_bin.c.files_ok).label("ok"),
        func.sum(link_bin.c.files_bad).label("failed"),
        func.sum(link_bin.c.bytes_ok).label("n_bytes"),
    )
    .join_from(link_bin, link, link.c.id == link_bin.c.link_id)
    .where(link_bin.c.bin_start >= bindparam("since", type_=link_bin.c.bin_start.type))
    .group_by(link.c.src_se_id, link.c.dst_se_id, BIN_HOUR)
    .having(func.sum(link_bin.c.files_ok + link_bin.c.files_bad) > 0)
    .order_by(BIN_HOUR, link.c.src_se_id, link.c.dst_se_id)
)


def transfers(
    conn: Connection,
    state: str | None = None,
    limit: int = LIMIT,
    way: str | None = None,
    se_name: str | None = None,
) -> list[dict[str, Any]]:
    """Transfers of replicas that are not complete, oldest first; over one way, as SRC>DST, or those that
    begin or end at one storage element. Raises UsageError for an unknown state or an odd link."""
    only = state_of(TransferState, state)[0] if state else None
    src, dst = _ends(way) if way else (None, None)
    names = ("id", "lfn", "src", "dst", "state", "attempts", "bytes", "priority", "not_before")
    more = ("claimed_by", "claimed_at", "error_class", "error", "deadline_factor", "created_at")
    rows = transfer_rows.transfers(conn, state=only, src=src, dst=dst, end=se_name, limit=limit)
    return [record(one, *names, *more) for one in rows]


def _ends(way: str) -> tuple[str, str]:
    src, between, dst = way.partition(">")
    if not (src and between and dst):
        raise UsageError(f"{way!r} is no link", hint="write it as SRC>DST, in quotes")
    return src, dst


def queue(conn: Connection) -> list[dict[str, Any]]:
    """Links with anything queued or under way: how much, and how long it takes at their rates.

    `last_end` is when a copy over it last ended; `rate_mb_s` is of all streams of the window; `eta_s`
    is None where nothing is measured yet.
    """
    now, names = dbnow(conn), topology.se_names(conn)
    views, busy = linkstates.views(conn), linkqueues.queues(conn)
    found = []
    for hop, one in sorted(busy.items(), key=lambda pair: tuple(names[end] for end in pair[0])):
        view = views[hop]
        places = window(view.state, now, AS_STORED)
        rate = (view.state.rate or 0.0) * places
        found.append(
            {
                "src": names[hop[0]],
                "dst": names[hop[1]],
                "state": phase(view.state, now).value if view.enabled else "DISABLED",
                "queued": one.files,
                "queued_bytes": one.bytes,
                "active": one.active,
                "window": places,
                "last_end": iso(view.state.measured_at),
                "rate_mb_s": round(rate / 1e6, 3) if rate else None,
                "eta_s": round(one.bytes / rate) if rate else None,
            }
        )
    return found


def errors(conn: Connection) -> list[dict[str, Any]]:
    """Errors by link and class, the most frequent first: whose they are, one of them, and the cure."""
    rows = sorted(linkerrors.errors(conn), key=lambda one: (-one.n, one.src, one.dst, one.error_class))
    names = ("src", "dst", "error_class", "owner", "n", "first_at", "last_at", "sample", "file_id", "hint")
    return [record(one, *names) for one in rows]


def quality(conn: Connection, hours: int = 24) -> list[dict[str, Any]]:
    """What ended in each hour on each link, oldest first; `quality` is the part of tries that were good."""
    since = dbnow(conn) - timedelta(hours=hours)
    names = topology.se_names(conn)
    return [
        {
            "src": names[row.src_se_id],
            "dst": names[row.dst_se_id],
            "hour": iso(begin_of(row.hour)),
            "ok": int(row.ok),
            "failed": int(row.failed),
            "bytes": int(row.n_bytes),
            "quality": round(int(row.ok) / (int(row.ok) + int(row.failed)), 3),
        }
        for row in conn.execute(BY_HOUR, {"since": since})
    ]


def transfers_by_link(conn: Connection) -> list[dict[str, Any]]:
    """Files that wait, some perhaps for another try, and that are under way by link, and the bytes that wait,
    as the links count them; links without any are left out."""
    names = topology.se_names(conn)
    return [
        {
            "src": names[src],
            "dst": names[dst],
            "files": {str(state): n for state, n in _states(one) if n},
            "bytes": one.bytes,
        }
        for (src, dst), one in sorted(linkqueues.queues(conn).items())
    ]


def _states(one: Queue) -> Iterator[tuple[TransferState, int]]:
    yield TransferState.QUEUED, one.files
    yield TransferState.ACTIVE, one.active
