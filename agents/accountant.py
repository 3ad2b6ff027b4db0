"""Accountant: commits finished attempts, each once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import ClassVar

from sqlalchemy import Connection

from agents.runtime.agent import Agent, Context, Counts, each, own_lease
from catalogs import registration
from gridcore.bus import Event
from gridcore.db import leases
from gridcore.db.leases import Lease
from prodsys import accounting, retry_rules
from prodsys.settlement import Settler

#: Batches settled in one cycle; the runtime wants to beat in between.
BATCHES = 20


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
        totals: Counter[str] = Counter()
        for _ in range(BATCHES):
            with self.context.database.snapshot() as conn:
                due = accounting.due(conn)
            totals.update(each(due.items(), lambda item: self._commit(lease, *item)))
            if sum(map(len, due.values())) < accounting.BATCH:
                break
        if totals.get("done"):
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
