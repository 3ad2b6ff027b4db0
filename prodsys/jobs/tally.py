"""What moves of jobs add up to, written as relative updates in key order: classes, tasks, shares, sites."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, bindparam, select, tuple_
from sqlalchemy.exc import IntegrityError

from gridcore.db import bulk
from gridcore.db.bulk import Change, New, Write
from gridcore.db.engine import Stale
from gridcore.db.statements import insert_new, lock_rows
from prodsys.job_states import ACTIVE, JobKind, JobState
from prodsys.tables import class_use, job_class, share_node, task_count

if TYPE_CHECKING:
    from prodsys.jobs.store import Head, JobRow

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

    def taken(self, heads: Iterable[Head], site_id: int) -> None:
        """READY jobs were claimed for a site."""
        alike: dict[tuple[int, int, JobKind], list[Head]] = defaultdict(list)
        for one in heads:
            alike[one.class_id, one.task_id, one.kind].append(one)
        for (class_id, task_id, kind), jobs in alike.items():
            n, units, first = len(jobs), sum(one.units for one in jobs), jobs[0]
            last = max(one.rank for one in jobs)
            self._ready[class_id] -= n
            self._taken[class_id] = max(last, self._taken.get(class_id, last))
            self._add(task_id, kind, JobState.READY, -n, -units)
            self._add(task_id, kind, JobState.LEASED, n, units)
            self._occupy(first.leaf_id, class_id, site_id, n, first.cores)

    def moved(
        self, rows: Sequence[JobRow], used: Sequence[float], to: JobState, to_class: int | None = None
    ) -> None:
        """Jobs in one state, by their rows before, went to a state, by way of any others.

        `used` core-seconds are charged for each; they wait in `to_class` if given.
        """
        alike: dict[tuple[Any, ...], list[float]] = defaultdict(lambda: [0, 0, 0.0])
        for row, seconds in zip(rows, used, strict=True):
            cell = alike[row.task_id, row.kind, row.class_id, row.leaf_id, row.cores, row.site_id]
            cell[0] += 1
            cell[1] += row.units
            cell[2] += seconds
        frm = rows[0].state
        for (task_id, kind, class_id, leaf_id, cores, site_id), (jobs, units, seconds) in alike.items():
            n = int(jobs)
            if frm == JobState.READY:
                self._ready[class_id] -= n
            if to == JobState.READY:
                self._ready[to_class or class_id] += n
            if (frm in ACTIVE) != (to in ACTIVE):
                self._occupy(leaf_id, class_id, site_id, n if to in ACTIVE else -n, cores)
            if seconds:
                self._leaf[leaf_id][1] += seconds
            self._add(task_id, kind, frm, -n, -int(units))
            self._add(task_id, kind, to, n, int(units))
        if to == JobState.READY:
            for row in rows:
                self.ahead(to_class or row.class_id, row.rank)

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

    def write(self, conn: Connection, first: Sequence[Write] = ()) -> list[int]:
        """Add the sums to the rows, in the order class < use < task < leaf, ascending within each.

        Before them the writes of `first`, in the same round trip: how many rows each of these touched.
        """
        if len(classes := self._classes()) > 1:  # none may wait for an earlier one while it holds a later one
            lock_rows(conn, job_class, [key for one in classes for key in one.ids])
        uses = [(*pair, *sums) for pair, sums in sorted(self._use.items()) if any(sums)]
        before = [*first, *(one.change() for one in classes)]
        found = bulk.write(conn, [*before, *_uses(uses), *self._tasks(), *self._leaves()])
        if uses and found[len(before)] < len(uses):
            _open_missing(conn, uses, found[len(before)])
        return found[: len(first)]

    def _classes(self) -> list[_Lines]:
        ready, taken, gone = _Lines(lower=True), _Lines(), _Lines()
        for class_id, n in sorted(self._ready.items()):
            if class_id in self._head:
                ready.add(class_id, n, self._head[class_id])
            elif class_id in self._taken:  # nothing READY is left before: the next claim begins there
                taken.add(class_id, n, self._taken[class_id])
            elif n:
                gone.add(class_id, n)
        return [one for one in (ready, taken, gone) if one.ids]

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


class _Lines:
    """Classes whose number of waiting jobs changes, and where their lines begin from now on."""

    def __init__(self, *, lower: bool = False) -> None:
        self.ids: list[int] = []
        self._counts: list[int] = []
        self._heads: list[int] = []
        self._lower = lower

    def add(self, class_id: int, n: int, head: int | None = None) -> None:
        """One class."""
        self.ids.append(class_id)
        self._counts.append(n)
        if head is not None:
            self._heads.append(head)

    def change(self) -> Change:
        """The update of their rows."""
        heads = {"head_rank": self._heads} if self._heads else {}
        put, low = ({}, heads) if self._lower else (heads, {})
        return Change(job_class, {"id": self.ids}, {"ready": self._counts}, put, low)


Use = tuple[int, ...]
"""(class, site, jobs, cores)"""
_USE = ("class_id", "site_id", "jobs", "cores")


def _uses(uses: Sequence[Use]) -> list[Change]:
    if not uses:
        return []
    columns = _by_column(uses)
    return [Change(class_use, *({name: columns[name] for name in part} for part in (_USE[:2], _USE[2:])))]


def _by_column(uses: Sequence[Use]) -> dict[str, Sequence[int]]:
    return dict(zip(_USE, zip(*uses, strict=True), strict=True))


def _open_missing(conn: Connection, uses: Sequence[Use], touched: int) -> None:
    """The first jobs of classes at a site; of two at once the second adds to the first one's.

    Raises Stale where more rows are there by now than were `touched`.
    """
    known = {tuple(row) for row in conn.execute(USES, {"pairs": [use[:2] for use in uses]})}
    if len(known) > touched:  # made by another since: nothing was added to these
        raise Stale
    new = [use for use in uses if use[:2] not in known]
    try:
        with conn.begin_nested():
            bulk.write(conn, [New(class_use, _by_column(new))])
    except IntegrityError:
        for use in new:
            if not insert_new(conn, class_use, dict(zip(_USE, use, strict=True))):
                bulk.write(conn, _uses([use]))
