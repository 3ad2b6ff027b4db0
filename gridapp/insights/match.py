"""Match: what an agent at a site would get now and why, and why it would not get the rest. Nothing is
changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, and_, bindparam, select

from catalogs.tables import site
from gridapp.insights import places
from gridapp.insights.places import Ways
from gridapp.insights.values import LIMIT, not_found
from gridcore.db.statements import select_in
from gridcore.errors import UsageError
from gridcore.ids import job_name
from prodsys.jobs.store import Head
from prodsys.queue import brokerage, classes, endpoints, limits, outlook, taskqueue
from prodsys.queue.brokerage import Verdict
from prodsys.queue.limits import Room
from prodsys.shares import fairshare, shares
from prodsys.shares.fairshare import ShareNode, Standing, Waiting
from prodsys.tables import class_site, job, job_class, share_node, task

SITES = select(site.c.id, site.c.name).order_by(site.c.name)
#: Every class that waits, with the site's verdict on it.
LIVE_AT = (
    select(
        job_class.c.id,
        job_class.c.task_type,
        job_class.c.cores,
        job_class.c.ready,
        job_class.c.head_rank,
        share_node.c.path,
        class_site.c.eligible,
        class_site.c.code,
        class_site.c.params,
    )
    .join_from(job_class, share_node, share_node.c.id == job_class.c.leaf_id)
    .outerjoin(
        class_site,
        and_(class_site.c.class_id == job_class.c.id, class_site.c.site_id == bindparam("at_site")),
    )
    .where(job_class.c.ready > 0)
)
NAMES = (
    select(job.c.id, job.c.idx, task.c.name)
    .join_from(job, task, task.c.id == job.c.task_id)
    .where(job.c.id.in_(bindparam("ids", expanding=True)))
)


class PassedOver(StrEnum):
    """Why a class that waits would get nothing; a refusal of brokerage has the code of its predicate."""

    NOT_JUDGED = "NOT_JUDGED"
    ENDPOINT = "ENDPOINT"
    BREAKER = "BREAKER"
    LIMIT = "LIMIT"
    OUTRANKED = "OUTRANKED"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Claim:
    """What the claim would find: `refused` are the classes this endpoint cannot run."""

    heads: Sequence[Head]
    refused: Mapping[int, Verdict]
    bound: tuple[int, str] | None
    nodes: Sequence[ShareNode]
    rooms: Sequence[Room]


def match(
    conn: Connection, site_name: str, n: int, now: datetime, endpoint_name: str | None = None
) -> dict[str, Any]:
    """What a claim of `n` jobs at a site, or at one endpoint of it, would take now.

    Returns {site, endpoint, asked, ready, notes, picked: [{n, job, task, task_type, class, share, key, rank,
    why}], passed_over: [{class, task_type, share, cores, ready, code, reason}], reasons: {code: classes}}.
    Raises NotFound, UsageError for an endpoint of another site.
    """
    site_id = _site(conn, site_name)
    here = endpoints.by_name(conn, endpoint_name) if endpoint_name else None
    if here and here.site_id != site_id:
        raise UsageError(f"endpoint {here.name} is not at {site_name}", hint="see: tierflow site list")
    ways = Ways(conn, now)
    claim = _claim(conn, site_id, here.id if here else None, n, now, ways, site_name)
    live = sorted(conn.execute(LIVE_AT, {"at_site": site_id}), key=_order)
    waiting = places.ready_work(conn, site_id, {node.id: node.path for node in claim.nodes})
    picked, standing = _picked(conn, claim, waiting)
    got = {one.class_id for one in claim.heads}
    over = [_passed_over(row, claim, standing) for row in live if row.id not in got]
    return {
        "site": site_name,
        "endpoint": endpoint_name,
        "asked": n,
        "ready": sum(row.ready for row in live),
        "notes": _notes(ways, site_id, here.id if here else None, claim),
        "picked": picked,
        "passed_over": over[:LIMIT],
        "reasons": dict(Counter(one["code"] for one in over)),
    }


def _order(row: Any) -> tuple[int, str, int]:
    """What may run first, then what was refused, then what was not judged."""
    return (2 if row.eligible is None else 1 - int(row.eligible)), row.path, row.id


def _site(conn: Connection, name: str) -> int:
    known = {row.name: int(row.id) for row in conn.execute(SITES)}
    if name not in known:
        raise not_found("site", name, known, "tierflow site list")
    return known[name]


def _claim(
    conn: Connection, site_id: int, endpoint_id: int | None, n: int, now: datetime, ways: Ways, name: str
) -> _Claim:
    heads = taskqueue.preview(conn, site_id, n, now, endpoint_id)
    refused: Mapping[int, Verdict] = {}
    if endpoint_id is not None:
        lines = conn.execute(outlook.LINES, {"at_site": site_id})
        refused = classes.refused_at(conn, site_id, endpoint_id, [row.id for row in lines])
    return _Claim(
        heads=heads,
        refused=refused,
        bound=ways.bound(name),
        nodes=shares.tree(conn, now, site_id),
        rooms=limits.rooms(conn, site_id),
    )


def _notes(ways: Ways, site_id: int, endpoint_id: int | None, claim: _Claim) -> list[str]:
    """What keeps an agent from asking at all, endpoint by endpoint."""
    here = [one for one in ways.places.get(site_id, ()) if endpoint_id in (None, one.endpoint_id)]
    found = [way.says for way in map(places.of_endpoint, here) if way]
    if not here:
        found.append("there is no enabled endpoint that would ask")
    return [*([claim.bound[1]] if claim.bound else []), *found]


# --- picked ------------------------------------------------------------------------------------------------


def _picked(
    conn: Connection, claim: _Claim, waiting: Mapping[int, Waiting]
) -> tuple[list[dict[str, Any]], dict[str, Standing]]:
    """The jobs in turn, each with the shares as they stood when it was picked; and how they stand after."""
    names = {row.id: row for row in select_in(conn, NAMES, [one.id for one in claim.heads])}
    types = {row.id: row.task_type for row in select_in(conn, classes.ALL_OF, _classes(claim.heads))}
    nodes = {node.id: node for node in claim.nodes}
    left = dict(waiting)
    standing = _standing(nodes, left)
    rows = []
    for place, head in enumerate(claim.heads, 1):
        share, own = nodes[head.leaf_id].path, names[head.id]
        rows.append(
            {
                "n": place,
                "job": job_name(own.name, own.idx),
                "task": own.name,
                "task_type": types[head.class_id],
                "class": head.class_id,
                "share": share,
                "key": _key(standing.get(share)),
                "rank": head.rank,
                "why": _why(share, standing),
            }
        )
        _take(head, nodes, left, claim.rooms, share, types[head.class_id])
        standing = _standing(nodes, left)
    return rows, standing


def _classes(heads: Iterable[Head]) -> Collection[int]:
    return {one.class_id for one in heads}


def _standing(nodes: Mapping[int, ShareNode], waiting: Mapping[int, Waiting]) -> dict[str, Standing]:
    return {one.path: one for one in fairshare.explain(nodes.values(), waiting)}


def _take(
    head: Head,
    nodes: dict[int, ShareNode],
    left: dict[int, Waiting],
    rooms: Iterable[Room],
    share: str,
    task_type: str,
) -> None:
    """The tree, the work and the limits once this job is leased."""
    node = nodes[head.leaf_id]
    nodes[head.leaf_id] = replace(node, running=node.running + head.cores)
    one = left.get(head.leaf_id)
    if one is not None:
        left[head.leaf_id] = replace(one, jobs=max(0, one.jobs - 1))
    for room in rooms:
        if room.covers(share, task_type):
            room.take(1, head.cores)


def _key(one: Standing | None) -> float | None:
    return None if one is None or one.key is None else round(one.key, 4)


def _why(share: str, standing: Mapping[str, Standing]) -> str:
    """Level by level: whom it goes before, by which keys."""
    told = []
    for path in places.line_of(share):
        one = standing.get(path)
        above = path.rpartition("/")[0]
        others = [
            each
            for each in standing.values()
            if each.path.rpartition("/")[0] == above and each.path != path and each.place is not None
        ]
        if one is not None and others:
            told.append(_before(one, min(others, key=lambda each: each.place or 0)))
    return "; ".join(told) or "no other share has work for this site"


def _before(one: Standing, other: Standing) -> str:
    if one.place != 1:
        return f"{one.path} {one.why}"
    return f"{one.path} goes before {other.path} (key {_told(one.key)} against {_told(other.key)})"


def _told(key: float | None) -> str:
    return "none" if key is None else f"{key:.3g}"


# --- passed over -------------------------------------------------------------------------------------------


def _passed_over(row: Any, claim: _Claim, standing: Mapping[str, Standing]) -> dict[str, Any]:
    code, reason = _first_reason(row, claim, standing)
    return {
        "class": row.id,
        "task_type": row.task_type,
        "share": row.path,
        "cores": row.cores,
        "ready": row.ready,
        "code": code,
        "reason": reason,
    }


def _first_reason(row: Any, claim: _Claim, standing: Mapping[str, Standing]) -> tuple[str, str]:
    """In the order in which a claim looks."""
    if row.eligible is None:
        return PassedOver.NOT_JUDGED, "the site has not been judged for it yet"
    if not row.eligible:
        return row.code, brokerage.render(row.code, row.params or {})
    if row.id in claim.refused:
        return PassedOver.ENDPOINT, f"this endpoint cannot run it: {claim.refused[row.id].sentence}"
    if claim.bound and len(claim.heads) >= claim.bound[0]:
        return PassedOver.BREAKER, claim.bound[1]
    for room in claim.rooms:
        if room.covers(row.path, row.task_type) and room.most(row.cores) == 0:
            return (
                PassedOver.LIMIT,
                f"limit {room.name} is full with what was picked: {places.use(room)}",
            )
    path = {node.id: node.path for node in claim.nodes}
    taken = [one.rank for one in claim.heads if path[one.leaf_id] == row.path]
    if taken and (row.head_rank is None or row.head_rank >= max(taken)):
        return PassedOver.OUTRANKED, "other jobs of its share come first by age and priority"
    return PassedOver.OUTRANKED, f"{places.turn_of(row.path, standing)}; no more was asked for"
