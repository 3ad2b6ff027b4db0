"""GroupViews: what each group has at each site, what it waits for there, and how long that may take."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, bindparam, func, select

from catalogs.states import Switch
from catalogs.tables import site
from gridapp.insights import shares
from gridapp.insights.values import some, span
from gridcore.db import dbnow
from prodsys.settling.outcomes import BIN, bin_of
from prodsys.shares import fairshare
from prodsys.shares import shares as share_rows
from prodsys.tables import class_site, class_use, endpoint, job_class, share_node, site_outcome

#: How far back attempts that ended count for the rate of a site.
WINDOW = timedelta(hours=6)
HOUR = timedelta(hours=1)

WAITING = (
    select(
        class_site.c.site_id,
        job_class.c.leaf_id,
        func.sum(job_class.c.ready).label("jobs"),
    )
    .join_from(class_site, job_class, job_class.c.id == class_site.c.class_id)
    .where(class_site.c.eligible == 1, job_class.c.ready > 0)
    .group_by(class_site.c.site_id, job_class.c.leaf_id)
)
USE = (
    select(
        class_use.c.site_id,
        job_class.c.leaf_id,
        func.sum(class_use.c.jobs).label("jobs"),
        func.sum(class_use.c.cores).label("cores"),
    )
    .join_from(class_use, job_class, job_class.c.id == class_use.c.class_id)
    .where(class_use.c.jobs > 0)
    .group_by(class_use.c.site_id, job_class.c.leaf_id)
)
SLOTS = (
    select(endpoint.c.site_id, func.sum(endpoint.c.slots).label("slots"))
    .join_from(endpoint, site, site.c.id == endpoint.c.site_id)
    .where(site.c.state == Switch.ENABLED, endpoint.c.state == Switch.ENABLED)
    .group_by(endpoint.c.site_id)
)
ENDED = (
    select(
        site_outcome.c.site_id,
        func.sum(site_outcome.c.jobs).label("jobs"),
        func.min(site_outcome.c.bin).label("first_bin"),
    )
    .where(site_outcome.c.bin >= bindparam("since", type_=site_outcome.c.bin.type))
    .group_by(site_outcome.c.site_id)
)
LEAVES = select(share_node.c.id, share_node.c.path)


@dataclass(slots=True, kw_only=True)
class View:
    """What a group has at a site: jobs and cores that run, and jobs that wait and may run there."""

    running_jobs: int = 0
    running_cores: int = 0
    waiting_jobs: int = 0


@dataclass(frozen=True, slots=True)
class Estimate:
    """Seconds until a job handed in now would start, None for unknown, and how that was found."""

    seconds: float | None
    how: str


def response(view: View, slots: int, busy_cores: int, part: float, pace: float | None) -> Estimate:
    """How long a job of the group would wait at a site, were that the only one to serve it. Pure.

    The site has so many slots and runs `busy_cores` for all; `part` is what the shares give the group of the
    cores there; `pace` are the attempts that ended there per hour, None where none has.
    """
    if not slots:
        return Estimate(None, "unknown: no endpoint of the site is switched on")
    if not view.waiting_jobs and slots > busy_cores:
        return Estimate(0.0, "nothing waits and a slot is free")
    if not pace:
        return Estimate(None, "unknown: no attempt has ended at the site lately")
    if not view.waiting_jobs:
        return Estimate(
            3600 / pace, f"nothing waits; one of the slots gets free {_per_hour(pace)} times an hour"
        )
    if view.running_cores:
        rate = pace * view.running_cores / busy_cores
        by = f"the group's part of the cores that run there ({view.running_cores} of {busy_cores})"
    else:
        rate = pace * part
        by = f"what its share gives the group ({part:.1%}), for it runs nothing there"
    if rate <= 0:
        return Estimate(None, "unknown: the group runs nothing there and has the target 0")
    told = f"{some(view.waiting_jobs, 'waiting job')} at {_per_hour(rate)} an hour"
    return Estimate(
        view.waiting_jobs / rate * 3600,
        f"{told}: {_per_hour(pace)} ended an hour at the site lately, times {by}",
    )


def _per_hour(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def views(conn: Connection) -> list[dict[str, Any]]:
    """Per site and group, by name: slots, what runs and waits there, the response time and how it is found.

    Only groups that run or wait somewhere are told. A job that may run at several sites waits at each.
    """
    now = dbnow(conn)
    found = _views(conn)
    names = {row.id: row.name for row in conn.execute(shares.SITES)}
    slots = {row.site_id: int(row.slots) for row in conn.execute(SLOTS)}
    paces = _paces(conn, now)
    rows = []
    for site_id in sorted(found, key=lambda key: names[key]):
        groups = found[site_id]
        busy = sum(one.running_cores for one in groups.values())
        parts = _parts(conn, site_id, now) if any(map(_by_share, groups.values())) else {}
        for group, view in sorted(groups.items()):
            estimate = response(view, slots.get(site_id, 0), busy, parts.get(group, 0.0), paces.get(site_id))
            rows.append(_told(names[site_id], group, view, slots.get(site_id, 0), estimate))
    return rows


def _by_share(view: View) -> bool:
    """Whether the share alone tells how long the group waits: it runs nothing there."""
    return view.waiting_jobs > 0 and not view.running_cores


def _views(conn: Connection) -> dict[int, dict[str, View]]:
    """By site and group, which is what the users' leaves are below."""
    groups = {row.id: row.path.rpartition("/")[0] or row.path for row in conn.execute(LEAVES)}
    found: dict[int, dict[str, View]] = defaultdict(lambda: defaultdict(View))
    for row in conn.execute(USE):
        view = found[row.site_id][groups[row.leaf_id]]
        view.running_jobs += int(row.jobs)
        view.running_cores += int(row.cores)
    for line in conn.execute(WAITING):
        found[line.site_id][groups[line.leaf_id]].waiting_jobs += int(line.jobs)
    return found


def _paces(conn: Connection, now: datetime) -> dict[int, float]:
    """Attempts that ended at each site per hour, over the window or since the first of them."""
    rows = conn.execute(ENDED, {"since": bin_of(now - WINDOW)})
    return {
        row.site_id: int(row.jobs) / max((now - row.first_bin) / HOUR, BIN / HOUR) for row in rows if row.jobs
    }


def _parts(conn: Connection, site_id: int, now: datetime) -> dict[str, float]:
    """What each node's share comes to at the site, of all its cores, 0 to 1."""
    tree = share_rows.tree(conn, now, site_id)
    parts: dict[str, float] = {"": 1.0}
    for one in fairshare.explain(tree, shares.waiting(conn, site_id)):
        parts[one.path] = one.target_norm * parts[one.path.rpartition("/")[0]]
    return parts


def _told(name: str, group: str, view: View, slots: int, estimate: Estimate) -> dict[str, Any]:
    return {
        "site": name,
        "group": group,
        "site_slots": slots,
        "slots": view.running_cores,
        "running": view.running_jobs,
        "waiting": view.waiting_jobs,
        "response_s": None if estimate.seconds is None else round(estimate.seconds, 1),
        "response": "unknown" if estimate.seconds is None else span(estimate.seconds),
        "how": estimate.how,
    }
