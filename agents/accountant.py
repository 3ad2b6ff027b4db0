"""Accountant: commits finished attempts, each once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from sqlalchemy import Connection

from agents.runtime.agent import Agent, Context, Counts, own_lease
from catalogs import registration
from gridcore.bus import Event
from gridcore.db import leases
from gridcore.db.leases import Lease
from prodsys import accounting, retry_rules
from prodsys.settlement import Settler


class Accountant(Agent):
    """Moves STAGEOUT jobs to DONE with all that belongs to it."""

    name: ClassVar[str] = "accountant"
    wakes: ClassVar[frozenset[str]] = frozenset(["job.reported"])

    def __init__(self, context: Context, scale: float) -> None:
        """`scale` shrinks the retry table's delays."""
        super().__init__(context)
        self._scale = scale

    def cycle(self, held: Mapping[str, Lease]) -> Counts:
        """Commit what waits, a batch per task and transaction."""
        lease = held[own_lease(self.name)]
        with self.context.database.snapshot() as conn:
            due = accounting.due(conn)
        totals = {"done": 0, "failed": 0}
        for task_id, job_ids in due.items():
            for what, n in self._commit(lease, task_id, job_ids).items():
                totals[what] += n
        if totals["done"]:
            self.context.bus.publish(Event("job.done", self.name))
        return totals

    def _commit(self, lease: Lease, task_id: int, job_ids: Sequence[int]) -> dict[str, int]:
        reserved = registration.reserve(self.context.keys, len(job_ids))
        with self.context.database.snapshot() as conn:
            wishes_needed = accounting.wishes_needed(conn, job_ids)
        wish_ids = self.context.keys.take("wish", wishes_needed)

        def unit(conn: Connection) -> dict[str, int]:
            now = leases.hold(conn, lease)
            settler = Settler(conn, now, retry_rules.rules(conn), self._scale, wish_ids)
            return accounting.commit(conn, settler, task_id, job_ids, reserved)

        return self.context.database.transaction(unit)
