"""Accountant: commits finished attempts, each once, and keeps work from sites where it fails."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import ClassVar

from sqlalchemy import Connection

from agents.runtime.agent import Agent, Context, Counts, each, own_lease
from agents.runtime.schedule import Duty
from catalogs import registration
from gridcore.bus import Event
from gridcore.db import dbnow, leases
from gridcore.db.leases import Lease
from gridcore.log import get
from prodsys import accounting, breakers, retry_rules
from prodsys.breaker_states import Breaker, Policy
from prodsys.settlement import Settler

log = get(__name__)
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
        self._policy = Policy().scaled(scale)

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

    def duties(self) -> Sequence[Duty]:
        """Look after the breakers, at most every second."""
        return [Duty(name="guard_sites", act=self.guard_sites, every_s=max(1.0, self.interval_s))]

    def guard_sites(self, lease: Lease) -> Counts:
        """Open and close breakers as attempts ended of late."""
        with self.context.database.snapshot() as conn:
            due = breakers.due(conn, retry_rules.rules(conn), dbnow(conn), self._policy)
        if not due:
            return {"breakers": 0}

        def unit(conn: Connection) -> list[Breaker]:
            now = leases.hold(conn, lease)
            return breakers.update_all(conn, retry_rules.rules(conn), now, self._policy)

        changed = self.context.database.transaction(unit)
        for one in changed:
            log.info("breaker", site_id=one.site_id, **{"class": one.error_class}, state=one.state.value)
        return {"breakers": len(changed)}

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
