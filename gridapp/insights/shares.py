"""The tree of shares as the queue sees it: who is served next, why a job's share is where it is, and what
other targets would come to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, bindparam, func, select

from catalogs.states import Switch
from catalogs.tables import site
from gridapp.insights import jobs
from gridapp.insights.values import not_found, span
from gridcore.db import dbnow
from gridcore.errors import UsageError
from gridcore.ids import job_name
from prodsys.job_states import JobState
from prodsys.shares import fairshare, simulation
from prodsys.shares import shares as share_rows
from prodsys.shares.fairshare import ShareNode, Standing, Waiting
from prodsys.shares.simulation import Load, Table
from prodsys.states import TaskState
from prodsys.tables import attempt, class_site, endpoint, job_class, task
from prodsys.tables import job as job_table

#: Jobs of each active task whose length is looked at, the first ones.
SAMPLE = 50
#: What a job is taken to last where nothing is known.
ASSUMED_H = 1.0

_READY = select(
    job_class.c.leaf_id,
    func.sum(job_class.c.ready).label("n"),
    func.max(job_class.c.cores).label("cores"),
).where(job_class.c.ready > 0)
READY = _READY.group_by(job_class.c.leaf_id)
READY_AT = (
    _READY.join(class_site, class_site.c.class_id == job_class.c.id)
    .where(class_site.c.site_id == bindparam("at_site"), class_site.c.eligible == 1)
    .group_by(job_class.c.leaf_id)
)
SITES = select(site.c.id, site.c.name).order_by(site.c.name)
SLOTS = (
    select(func.sum(endpoint.c.slots))
    .join_from(endpoint, site, site.c.id == endpoint.c.site_id)
    .where(endpoint.c.state == Switch.ENABLED, site.c.state == Switch.ENABLED)
)
LENGTHS = (
    select(task.c.leaf_id, func.avg(attempt.c.wall_s).label("wall_s"))
    .join_from(task, job_table, job_table.c.task_id == task.c.id)
    .join(attempt, (attempt.c.job_id == job_table.c.id) & (attempt.c.attempt == job_table.c.attempt))
    .where(task.c.state == TaskState.ACTIVE, job_table.c.idx <= bindparam("last_idx"))
    .where(job_table.c.state == JobState.DONE, attempt.c.wall_s > 0)
    .group_by(task.c.leaf_id)
)


def waiting(conn: Connection, site_id: int | None = None) -> dict[int, Waiting]:
    """Ready work by leaf; with a site, only what may run there."""
    found = conn.execute(READY) if site_id is None else conn.execute(READY_AT, {"at_site": site_id})
    return {row.leaf_id: Waiting(int(row.n), float(row.cores)) for row in found}


def site_key(conn: Connection, name: str | None) -> int | None:
    """The key of a site; None for none. Raises NotFound."""
    if name is None:
        return None
    known = {row.name: int(row.id) for row in conn.execute(SITES)}
    if name not in known:
        raise not_found("site", name, known, "tierflow site list")
    return known[name]


# --- the tree as it is ------------------------------------------------------------------------------------


def shares(conn: Connection, at_site: str | None = None) -> list[dict[str, Any]]:
    """The share tree, parents before children, siblings in the order they are served: by all sites, or by
    one with its own weights and the work that may run there. Raises NotFound."""
    site_id = site_key(conn, at_site)
    nodes = share_rows.tree(conn, dbnow(conn), site_id)
    work = waiting(conn, site_id)
    by_id = {node.id: node for node in nodes}
    ready = _ready(by_id, work)
    return [_view(one, by_id[one.id], ready[one.id]) for one in fairshare.explain(nodes, work)]


def _ready(by_id: Mapping[int, ShareNode], work: Mapping[int, Waiting]) -> Counter[int]:
    """Ready jobs at and below each node."""
    ready: Counter[int] = Counter()
    for key, one in work.items():
        at: int | None = key
        while at is not None:
            ready[at] += one.jobs
            at = by_id[at].parent
    return ready


def _view(one: Standing, node: ShareNode, ready: int) -> dict[str, Any]:
    return {
        "path": one.path,
        "target": node.target,
        "target_part": one.target_norm,
        "running_cores": one.running,
        "running_part": one.part,
        "used_core_s": one.used,
        "used_part": one.used_norm,
        "ready": ready,
        "next": one.place,
        "key": one.key,
        "floor": node.floor,
        "cap": node.cap,
        "site_weight": node.weight,
        "child_target": node.child_target,
        "half_life_s": node.half_life_s,
        "why": one.why,
    }


def explain(conn: Connection, name: str, at_site: str | None = None) -> dict[str, Any]:
    """Why a job's share is where it is: {"job", "state", "share", "because", "levels"}.

    `levels` are the nodes from the root to the job's leaf, much as `shares` has them, each with its siblings
    that are served before it. Raises UsageError, NotFound.
    """
    row = jobs.job_row(conn, name)
    tree = shares(conn, at_site)
    levels = [_level(one, tree) for one in tree if f"{row.share_path}/".startswith(f"{one['path']}/")]
    return {
        "job": job_name(row.task_name, row.idx),
        "state": row.state.value,
        "share": row.share_path,
        "because": [*_state(row), *(told for one in levels for told in _because(one))],
        "levels": levels,
    }


def _level(one: Mapping[str, Any], tree: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    place = one["next"]
    beside = [other for other in tree if _parent(other["path"]) == _parent(one["path"])]
    before = [other["path"] for other in beside if place and other["next"] and other["next"] < place]
    shown = {name: value for name, value in one.items() if name not in ("child_target", "half_life_s")}
    return {**shown, "before": before, "siblings": len(beside)}


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _state(row: Any) -> list[str]:
    if row.state == JobState.READY:
        return []
    return [f"the job does not wait in the queue, it is {row.state}: this is how its share stands now"]


def _because(one: Mapping[str, Any]) -> list[str]:
    told = [f"{one['path']} {one['why']}"]
    if one["next"] is None:
        return told
    told.append(
        f"{one['path']}: target {one['target']:g} is {one['target_part']:.1%} of those with work; it runs "
        f"{one['running_cores']:g} cores, {one['running_part']:.1%} of what it and its siblings run; "
        f"of their past use {one['used_part']:.1%} is its own"
    )
    if one["site_weight"] != 1:
        told.append(f"{one['path']}: this site multiplies its target by {one['site_weight']:g}")
    if one["before"]:
        told.append(f"{one['path']}: before it go {', '.join(one['before'])}")
    return told


# --- what would be ----------------------------------------------------------------------------------------


def changed(nodes: Sequence[ShareNode], targets: Mapping[str, float]) -> list[ShareNode]:
    """The nodes with these targets by path. Raises NotFound, UsageError where that is no tree of shares."""
    known = {node.path for node in nodes}
    for path in targets:
        if path not in known:
            raise not_found("share", path, known, "tierflow share show")
    found = [replace(node, target=targets.get(node.path, node.target)) for node in nodes]
    fairshare.check_tree(found)
    return found


def lengths(conn: Connection) -> dict[int, float]:
    """Hours a job lasted, by leaf: the mean of the first jobs of its active tasks that are done."""
    rows = conn.execute(LENGTHS, {"last_idx": SAMPLE})
    return {row.leaf_id: float(row.wall_s) / 3600 for row in rows}


def loads(conn: Connection, nodes: Iterable[ShareNode]) -> tuple[dict[int, Load], list[str]]:
    """What each leaf brings to a simulation as things are, and which leaves' jobs have no known length."""
    work, measured = waiting(conn), lengths(conn)
    nodes = list(nodes)
    inner = {node.parent for node in nodes}
    found, guessed = {}, []
    for node in nodes:
        ready = work.get(node.id)
        if node.id in inner or (ready is None and not node.running):
            continue
        cores = ready.cores_per_job if ready else 1.0
        if node.id not in measured:
            guessed.append(node.path)
        found[node.id] = Load(
            job_h=measured.get(node.id, ASSUMED_H),
            cores=cores,
            jobs=ready.jobs if ready else 0,
            running=round(node.running / cores),
        )
    return found, guessed


def forecast(conn: Connection, targets: Mapping[str, float], hours: int) -> dict[str, Any]:
    """What the queue as it is comes to in so many hours, with the present targets and with these by path.

    {"hours", "slots", "assumes", "shares": [...]}; a share's `now_` and `then_` are core-hours, the part of
    all, and when its last job is started. Nothing is changed. Raises NotFound, UsageError.
    """
    nodes = share_rows.tree(conn, dbnow(conn))
    wanted = changed(nodes, targets)
    slots = int(conn.execute(SLOTS).scalar() or 0)
    if not slots:
        raise UsageError("no enabled endpoint has a slot", hint="see: tierflow site list")
    brought, guessed = loads(conn, nodes)
    if not brought:
        raise UsageError(
            "nothing waits and nothing runs: every share would get what it asks for",
            hint="ask again when work waits: tierflow share show",
        )
    life = share_rows.HALF_LIFE_S / 3600
    now, then = (
        simulation.simulate(each, brought, slots=slots, hours=hours, half_life_h=life)
        for each in (nodes, wanted)
    )
    new = {node.path: node.target for node in wanted}
    return {
        "hours": hours,
        "slots": slots,
        "assumes": _assumes(guessed),
        "shares": [
            _compared(nodes, node, new[node.path], now, then)
            for node in sorted(nodes, key=lambda one: one.path)
        ],
    }


def _assumes(guessed: Sequence[str]) -> list[str]:
    told = ["no new work comes", "every site may run every job", "jobs last as those done so far"]
    if guessed:
        names = ", ".join(sorted(guessed)[:5]) + (", ..." if len(guessed) > 5 else "")
        told.append(f"jobs of {names}, of which none is done yet, last {span(ASSUMED_H * 3600)}")
    return told


def _compared(
    nodes: Iterable[ShareNode], node: ShareNode, target: float, now: Table, then: Table
) -> dict[str, Any]:
    inner = any(one.parent == node.id for one in nodes)
    first, second = _outcome("now", node.path, inner, now), _outcome("then", node.path, inner, then)
    return {
        "path": node.path,
        "now_target": node.target,
        "then_target": target,
        **first,
        **second,
        "change": _change(first, second),
    }


def _outcome(when: str, path: str, inner: bool, table: Table) -> dict[str, Any]:
    hours, parts = table.core_hours(), table.parts()
    below = [one for one in table.paths if one == path or one.startswith(f"{path}/")]
    left = sum(table.left[one] for one in below)
    empty = None if inner or not below else table.empty_h[path]
    told = {
        "core_h": round(sum(hours[one] for one in below), 3),
        "part": round(sum(parts[one] for one in below), 6),
        "left": left,
        "empty_h": None if empty is None else round(empty, 4),
    }
    return {f"{when}_{name}": value for name, value in told.items()}


def _change(now: Mapping[str, Any], then: Mapping[str, Any]) -> str:
    """What a share gains or loses, in words."""
    more = then["then_core_h"] - now["now_core_h"]
    if abs(more) < 0.05:
        return "the same"
    return f"{abs(more):.1f} core-hours {'more' if more > 0 else 'less'}"
