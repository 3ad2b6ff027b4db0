"""Merger: bundles small outputs of a task into merge jobs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from sqlalchemy import Connection

from agents.runtime.agent import Agent, Counts, each, own_lease
from gridcore.bus import Event
from gridcore.db import leases
from gridcore.db.leases import Lease
from prodsys.states import TaskState
from prodsys.tasks import tasks
from prodsys.units import jobmaking
from prodsys.units.jobmaking import NewKeys


class Merger(Agent):
    """Plans merges over what lies unmerged."""

    name: ClassVar[str] = "merger"
    wakes: ClassVar[frozenset[str]] = frozenset(["job.done"])

    def cycle(self, held: Mapping[str, Lease]) -> Counts:
        """One plan per active task that merges."""
        lease = held[own_lease(self.name)]
        with self.context.database.snapshot() as conn:
            due = [task.id for task in tasks.in_state(conn, TaskState.ACTIVE) if task.step.merge is not None]
        counts = each(due, lambda task_id: {"merges_made": self._merge(lease, task_id)})
        if counts.get("merges_made"):
            self.context.bus.publish(Event("queue.ready", self.name))
        return counts

    def _merge(self, lease: Lease, task_id: int) -> int:
        with self.context.database.snapshot() as conn:
            now = self.context.clock.now()
            groups = jobmaking.plan_merges(conn, tasks.by_id(conn, task_id), now)
        if not groups:
            return 0
        job_ids = self.context.keys.take("job", len(groups))
        class_ids = self.context.keys.take("job_class", len(groups))

        def unit(conn: Connection) -> int:
            now = leases.hold(conn, lease)
            task = tasks.lock(conn, task_id)
            keys = NewKeys(iter(job_ids), iter(class_ids))
            return jobmaking.make_merge_jobs(conn, keys, task, groups, now)

        return self.context.database.transaction(unit)
