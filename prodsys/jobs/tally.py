"""What moves of jobs add up to, written as relative updates in key order: classes, tasks, shares, sites."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, bindparam, case, select, tuple_, update

from gridcore.db import bulk
from gridcore.db.bulk import Change
from gridcore.db.statements import insert_new, lock_rows, run_many
from prodsys.jobs.machine import ACTIVE, JobKind, JobState
from prodsys.tables import class_use, job_class, share_node, task_count

if TYPE_CHECKING:
    from prodsys.jobs.store import Head

COUNT_READY = (
    update(job_class)
    .where(job_class.c.id == bindparam("of_class"))
    .values(
        ready=job_class.c.ready + bindparam("n"),
        head_rank=case(
            (job_class.c.head_rank.is_(None), bindparam("head")),
            (bindparam("head") < job_class.c.head_rank, bindparam("head")),
            else_=job_class.c.head_rank,
        ),
    )
)
USES = select(class_use.c.class_id, class_use.c.site_id).where(
    tuple_(class_use.c.class_id, class_use.c.site_id).in_(bindparam("pairs", expanding=True))
)


class Tally:
    """Sums of a transaction."""

    def __init__(self) -> None:
        self._ready: dict[int, int] = defaultdict(int)
        self._head: dict[int, int] = {}
        self._taken: dict[int, int] = {}
        self._jobs: dict[tuple[int, JobKind, JobState], list[int]] = defaultdict(lambda: [0, 0])
        self._leaf: dict[int, list[float]] = defaultdict(lambda: [0, 0.0])
        self._use: dict[tuple[int, int], list[int]] = defaultdict(lambda: [0, 0])

    def born(self, task_id: int, kind: JobKind, class_id: int, rank: int, units: int) -> None:
        """A new READY job."""
        self._ready[class_id] += 1
        self.ahead(class_id, rank)
        self._add(task_id, kind, JobState.READY, 1, units)

    def ahead(self, class_id: int, rank: int) -> None:
        """A READY job stands at that rank."""
        self._ready[class_id] += 0
        self._head[class_id] = min(rank, self._head.get(class_id, rank))

    def taken(self, one: Head, site_id: int) -> None:
        """A READY job was claimed for a site."""
        self._ready[one.class_id] -= 1
        self._taken[one.class_id] = max(one.rank, self._taken.get(one.class_id, one.rank))
        self._add(one.task_id, one.kind, JobState.READY, -1, -one.units)
        self._add(one.task_id, one.kind, JobState.LEASED, 1, one.units)
        self._occupy(one.leaf_id, one.class_id, site_id, 1, one.cores)

    def moved(self, one: Any, to: JobState, used: float, to_class: int | None = None) -> None:
        """A job, by its row before, went to a state, by way of any others, and waits in `to_class` if given.

        `used` core-seconds are charged.
        """
        if one.state == JobState.READY:
            self._ready[one.class_id] -= 1
        if to == JobState.READY:
            self._ready[to_class or one.class_id] += 1
            self.ahead(to_class or one.class_id, one.rank)
        if (one.state in ACTIVE) != (to in ACTIVE):
            self._occupy(one.leaf_id, one.class_id, one.site_id, 1 if to in ACTIVE else -1, one.cores)
        if used:
            self._leaf[one.leaf_id][1] += used
        self._add(one.task_id, one.kind, one.state, -1, -one.units)
        self._add(one.task_id, one.kind, to, 1, one.units)

    def _add(self, task_id: int, kind: JobKind, state: JobState, jobs: int, units: int) -> None:
        cell = self._jobs[task_id, kind, state]
        cell[0] += jobs
        cell[1] += units

    def _occupy(self, leaf_id: int, class_id: int, site_id: int | None, jobs: int, cores: int) -> None:
        self._leaf[leaf_id][0] += jobs * cores
        if site_id is not None:
            use = self._use[class_id, site_id]
            use[0] += jobs
            use[1] += jobs * cores

    def write(self, conn: Connection) -> None:
        """Add the sums to the rows, in the order class < use < task < leaf, ascending within each."""
        classes = self._classes(conn)
        uses = [(*pair, *sums) for pair, sums in sorted(self._use.items()) if any(sums)]
        changes = [*classes, *_uses(uses), *self._tasks(), *self._leaves()]
        found = bulk.change(conn, changes)
        if uses and found[len(classes)] < len(uses):
            _open_missing(conn, uses)

    def _classes(self, conn: Connection) -> list[Change]:
        ready = {class_id: n for class_id, n in sorted(self._ready.items()) if class_id in self._head}
        gone = {
            key: n
            for key, n in sorted(self._ready.items())
            if n and key not in self._head and key not in self._taken
        }
        if ready and gone:  # each has its statement: none may wait while it holds a later one
            lock_rows(conn, job_class, [*ready, *gone])
        rows = [{"of_class": key, "n": n, "head": self._head[key]} for key, n in ready.items()]
        run_many(conn, COUNT_READY, rows)
        taken = {key: n for key, n in sorted(self._ready.items()) if key in self._taken}
        changes = []
        if taken:  # nothing READY is left before the last job taken: the next claim starts there
            heads = {"head_rank": [self._taken[key] for key in taken]}
            changes.append(Change(job_class, {"id": list(taken)}, {"ready": list(taken.values())}, heads))
        if gone:
            changes.append(Change(job_class, {"id": list(gone)}, {"ready": list(gone.values())}))
        return changes

    def _tasks(self) -> list[Change]:
        cells = [(*key, *sums) for key, sums in sorted(self._jobs.items()) if any(sums)]
        if not cells:
            return []
        task_ids, kinds, states, jobs, units = zip(*cells, strict=True)
        keys = {"task_id": task_ids, "kind": kinds, "state": states}
        return [Change(task_count, keys, {"jobs": jobs, "units": units})]

    def _leaves(self) -> list[Change]:
        charges = [(leaf_id, *sums) for leaf_id, sums in sorted(self._leaf.items()) if any(sums)]
        if not charges:
            return []
        ids, cores, used = zip(*charges, strict=True)
        return [Change(share_node, {"id": ids}, {"running": cores, "used": used})]


Use = tuple[int, ...]
"""(class, site, jobs, cores)"""


def _uses(uses: Sequence[Use]) -> list[Change]:
    if not uses:
        return []
    class_ids, site_ids, jobs, cores = zip(*uses, strict=True)
    return [Change(class_use, {"class_id": class_ids, "site_id": site_ids}, {"jobs": jobs, "cores": cores})]


def _open_missing(conn: Connection, uses: Sequence[Use]) -> None:
    """The first jobs of a class at a site; of two at once the second adds to the first one's row."""
    known = {tuple(row) for row in conn.execute(USES, {"pairs": [use[:2] for use in uses]})}
    for use in uses:
        row = dict(zip(("class_id", "site_id", "jobs", "cores"), use, strict=True))
        if use[:2] not in known and not insert_new(conn, class_use, row):
            bulk.change(conn, _uses([use]))
