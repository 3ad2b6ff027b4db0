"""Recount: counters of the queue held against the jobs they count, and put right.

Every mover keeps the counters in its own transaction; agents of an older release do not know the newer ones.
A drift is what one statement sees of counters and jobs at one moment, and it is corrected relatively: movers
at work meanwhile change neither.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from sqlalchemy import Connection, Select, and_, case, func, select, update
from sqlalchemy import bindparam as bind

from gridcore.db import bulk
from gridcore.db.bulk import Change
from gridcore.db.statements import insert_new, lock_rows
from prodsys.job_states import ACTIVE, JobState
from prodsys.jobs.store import QUEUE
from prodsys.tables import class_use, endpoint, job, job_class, queue, share_node, task_count

_ACTIVE = job.c.state.in_(sorted(ACTIVE))
_READY = (
    select(job.c.class_id.label("class_id"), func.count().label("n"), func.min(job.c.rank).label("head"))
    .where(job.c.state == JobState.READY)
    .group_by(job.c.class_id)
    .subquery("ready_jobs")
)
_USED = (
    select(
        job.c.class_id.label("class_id"),
        endpoint.c.site_id.label("site_id"),
        func.count().label("jobs"),
        func.sum(job_class.c.cores).label("cores"),
    )
    .join_from(job, endpoint, endpoint.c.id == job.c.endpoint_id)
    .join(job_class, job_class.c.id == job.c.class_id)
    .where(_ACTIVE)
    .group_by(job.c.class_id, endpoint.c.site_id)
    .subquery("used_slots")
)
_COUNTED = (
    select(
        job.c.task_id.label("task_id"),
        job.c.kind.label("kind"),
        job.c.state.label("state"),
        func.count().label("jobs"),
        func.sum(job.c.units).label("units"),
    )
    .group_by(job.c.task_id, job.c.kind, job.c.state)
    .subquery("counted_jobs")
)
_RUNNING = (
    select(job_class.c.leaf_id.label("leaf_id"), func.sum(job_class.c.cores).label("cores"))
    .join_from(job, job_class, job_class.c.id == job.c.class_id)
    .where(_ACTIVE)
    .group_by(job_class.c.leaf_id)
    .subquery("running_jobs")
)


def _zero(column: Any) -> Any:
    return func.coalesce(column, 0)


_SAME_USE = and_(_USED.c.class_id == class_use.c.class_id, _USED.c.site_id == class_use.c.site_id)
_SAME_COUNT = and_(
    _COUNTED.c.task_id == task_count.c.task_id,
    _COUNTED.c.kind == task_count.c.kind,
    _COUNTED.c.state == task_count.c.state,
)

#: By how much each counter is short of the truth.
CLASSES = (
    select(job_class.c.id, (_zero(_READY.c.n) - job_class.c.ready).label("short"))
    .outerjoin_from(job_class, _READY, _READY.c.class_id == job_class.c.id)
    .where(job_class.c.ready != _zero(_READY.c.n))
    .order_by(job_class.c.id)
)
HEADS = (
    select(job_class.c.id, _READY.c.head)
    .join(_READY, _READY.c.class_id == job_class.c.id)
    .where(_READY.c.head < job_class.c.head_rank)
    .order_by(job_class.c.id)
)
USES = (
    select(
        class_use.c.class_id,
        class_use.c.site_id,
        (_zero(_USED.c.jobs) - class_use.c.jobs).label("jobs"),
        (_zero(_USED.c.cores) - class_use.c.cores).label("cores"),
    )
    .outerjoin_from(class_use, _USED, _SAME_USE)
    .where((class_use.c.jobs != _zero(_USED.c.jobs)) | (class_use.c.cores != _zero(_USED.c.cores)))
    .order_by(class_use.c.class_id, class_use.c.site_id)
)
NEW_USES = (
    select(_USED.c.class_id, _USED.c.site_id)
    .outerjoin_from(_USED, class_use, _SAME_USE)
    .where(class_use.c.class_id.is_(None))
    .order_by(_USED.c.class_id, _USED.c.site_id)
)
TASKS = (
    select(
        task_count.c.task_id,
        task_count.c.kind,
        task_count.c.state,
        (_zero(_COUNTED.c.jobs) - task_count.c.jobs).label("jobs"),
        (_zero(_COUNTED.c.units) - task_count.c.units).label("units"),
    )
    .outerjoin_from(task_count, _COUNTED, _SAME_COUNT)
    .where((task_count.c.jobs != _zero(_COUNTED.c.jobs)) | (task_count.c.units != _zero(_COUNTED.c.units)))
    .order_by(task_count.c.task_id, task_count.c.kind, task_count.c.state)
)
LEAVES = (
    select(share_node.c.id, (_zero(_RUNNING.c.cores) - share_node.c.running).label("short"))
    .outerjoin_from(share_node, _RUNNING, _RUNNING.c.leaf_id == share_node.c.id)
    .where(share_node.c.running != _zero(_RUNNING.c.cores))
    .order_by(share_node.c.id)
)
ADVANCE_HEAD = (
    update(job_class)
    .where(job_class.c.id == bind("of_class"))
    .values(head_rank=case((bind("head") < job_class.c.head_rank, bind("head")), else_=job_class.c.head_rank))
)
#: Each counter's drift, by what it is called.
DRIFTS: dict[str, Select[Any]] = {
    "ready": CLASSES,
    "heads": HEADS,
    "uses": USES,
    "new_uses": NEW_USES,
    "jobs": TASKS,
    "running": LEAVES,
}
ALL = tuple(DRIFTS)
#: Counters of jobs that hold a slot: looked at within a moment, whatever waits or has ended.
SLOTS = ("uses", "new_uses", "running")


def drift(conn: Connection, kinds: Collection[str] = ALL) -> dict[str, int]:
    """How many counters of these kinds are wrong; empty where all are right."""
    found = {name: len(conn.execute(DRIFTS[name]).all()) for name in kinds}
    return {name: n for name, n in found.items() if n}


def mend(conn: Connection, kinds: Collection[str] = ALL) -> dict[str, int]:
    """Put right what has drifted; how many counters of each kind there were.

    The queue's lock is taken only where something is wrong: it keeps others from mending the same.
    """
    found = drift(conn, kinds)
    if found:
        lock_rows(conn, queue, [QUEUE])
        for mender in dict.fromkeys(MENDERS[name] for name in DRIFTS if name in found):
            mender(conn)
    return found


def _mend_classes(conn: Connection) -> None:
    if rows := conn.execute(CLASSES).all():
        ids, short = zip(*rows, strict=True)
        bulk.write(conn, [Change(job_class, {"id": ids}, {"ready": short})])
    for row in conn.execute(HEADS).all():
        conn.execute(ADVANCE_HEAD, {"of_class": row.id, "head": row.head})


def _mend_uses(conn: Connection) -> None:
    for row in conn.execute(NEW_USES).all():
        insert_new(conn, class_use, {**row._mapping, "jobs": 0, "cores": 0})
    if rows := conn.execute(USES).all():
        class_ids, site_ids, jobs, cores = zip(*rows, strict=True)
        keys = {"class_id": class_ids, "site_id": site_ids}
        bulk.write(conn, [Change(class_use, keys, {"jobs": jobs, "cores": cores})])


def _mend_tasks(conn: Connection) -> None:
    if rows := conn.execute(TASKS).all():
        task_ids, kinds, states, jobs, units = zip(*rows, strict=True)
        keys = {"task_id": task_ids, "kind": kinds, "state": states}
        bulk.write(conn, [Change(task_count, keys, {"jobs": jobs, "units": units})])


def _mend_leaves(conn: Connection) -> None:
    if rows := conn.execute(LEAVES).all():
        ids, short = zip(*rows, strict=True)
        bulk.write(conn, [Change(share_node, {"id": ids}, {"running": short})])


#: Who puts which right, in the order of locks.
MENDERS: dict[str, Callable[[Connection], None]] = {
    "ready": _mend_classes,
    "heads": _mend_classes,
    "uses": _mend_uses,
    "new_uses": _mend_uses,
    "jobs": _mend_tasks,
    "running": _mend_leaves,
}
