"""The task queue: match a class, then pop jobs. A claim is one short transaction under the queue's lock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Integer, bindparam, select, update

from gridcore.db.statements import lock_rows
from prodsys import fairshare, shares
from prodsys.jobs import store
from prodsys.jobs.machine import JobEvent, JobState
from prodsys.jobs.store import Move
from prodsys.tables import class_site, job, job_class, queue

ELIGIBLE = (
    select(job_class.c.id, job_class.c.leaf_id, job_class.c.cores, job_class.c.ready, job_class.c.head_rank)
    .join(class_site, class_site.c.class_id == job_class.c.id)
    .where(class_site.c.site_id == bindparam("at_site"), class_site.c.eligible == 1, job_class.c.ready > 0)
    .order_by(job_class.c.id)
)
HEAD = (
    select(job.c.id, job.c.attempt, job.c.rank, job.c.class_id)
    .where(job.c.class_id == bindparam("of_class"), job.c.state == JobState.READY)
    .where(job.c.rank >= bindparam("head"))
    .order_by(job.c.rank, job.c.id)
    .limit(bindparam("n", type_=Integer))
)
SET_HEAD = (
    update(job_class).where(job_class.c.id == bindparam("of_class")).values(head_rank=bindparam("head"))
)


@dataclass(frozen=True, slots=True)
class Claimed:
    """A job taken from the queue and the attempt it is taken for."""

    job_id: int
    attempt: int


def claim(conn: Connection, endpoint_id: int, site_id: int, n: int, now: datetime) -> list[Claimed]:
    """Take up to `n` READY jobs for an endpoint, divided by the shares; the jobs, now LEASED."""
    lock_rows(conn, queue, [store.QUEUE])
    classes = conn.execute(ELIGIBLE, {"at_site": site_id}).all()
    if not classes or n < 1:
        return []
    per_leaf = _per_leaf(conn, classes, n, now)
    heads = [row for leaf_id, k in per_leaf.items() for row in _pop(conn, classes, leaf_id, k)]
    moves = [
        Move(
            job_id=row.id,
            attempt=row.attempt,
            event=JobEvent.CLAIMED,
            to=JobState.LEASED,
            endpoint_id=endpoint_id,
        )
        for row in heads
    ]
    made = store.apply(conn, moves, now)
    _remember_heads(conn, heads)
    return [Claimed(move.job_id, move.attempt + 1) for move in made]


def _per_leaf(conn: Connection, classes: Sequence[Any], n: int, now: datetime) -> Mapping[int, int]:
    jobs: Counter[int] = Counter()
    cores: dict[int, float] = {}
    for row in classes:
        jobs[row.leaf_id] += row.ready
        cores[row.leaf_id] = max(row.cores, cores.get(row.leaf_id, 0.0))
    waiting = {leaf: fairshare.Waiting(jobs[leaf], cores[leaf]) for leaf in jobs}
    return Counter(fairshare.divide(shares.tree(conn, now), waiting, n))


def _pop(conn: Connection, classes: Sequence[Any], leaf_id: int, n: int) -> list[Any]:
    """The `n` jobs of lowest rank over the leaf's classes."""
    rows: list[Any] = []
    for row in classes:
        if row.leaf_id == leaf_id:
            rows += conn.execute(HEAD, {"of_class": row.id, "head": row.head_rank, "n": n}).all()
    return sorted(rows, key=lambda one: (one.rank, one.id))[:n]


def _remember_heads(conn: Connection, taken: Sequence[Any]) -> None:
    """Nothing READY is left before the last job taken from a class: the next claim starts there."""
    last: dict[int, int] = {}
    for row in taken:
        last[row.class_id] = max(row.rank, last.get(row.class_id, row.rank))
    for class_id, rank in sorted(last.items()):
        conn.execute(SET_HEAD, {"of_class": class_id, "head": rank})
