"""Accountant: commits finished attempts, each once, and keeps work from sites where it fails."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

from sqlalchemy import Connection

from agents.runtime.agent import Agent, Context, Counts, each, own_lease
from agents.runtime.schedule import Duty
from catalogs import registration
from gridcore.bus import Event
from gridcore.db import dbnow, leases
from gridcore.db.leases import Lease
from gridcore.errors import LeaseLost, Unavailable
from gridcore.log import get
from prodsys.queue import breakers
from prodsys.queue.breaker_states import Breaker, Policy
from prodsys.settling import accounting, retry_rules
from prodsys.settling.settlement import Settler

log = get(__name__)
#: Pages of waiting jobs gone through in one cycle; the runtime wants to beat in between.
PAGES = 20


class Accountant(Agent):
    """Moves STAGEOUT jobs to DONE with all that belongs to it."""

    name: ClassVar[str] = "accountant"
    wakes: ClassVar[frozenset[str]] = frozenset(["job.reported"])

    def __init__(self, context: Context, scale: float) -> None:
        """`scale` shrinks the retry table's delays."""
        super().__init__(context)
        self._scale = scale
        self._policy = Policy().scaled(scale)
        self._after = 0  # the last job of a cycle that left some

    def cycle(self, held: Mapping[str, Lease]) -> Counts:
        """Commit what waits, a batch per task and transaction."""
        lease = held[own_lease(self.name)]
        totals: Counter[str] = Counter()
        try:
            each(self._batches(), lambda batch: self._settle(lease, *batch, totals))
        finally:
            if totals["done"]:
                self.context.bus.publish(Event("job.done", self.name))
        return totals

    def _batches(self) -> Iterator[tuple[int, list[int]]]:
        """What waits, page after page, whatever became of the one before; anew once all was seen."""
        for _ in range(PAGES):
            with self.context.database.snapshot() as conn:
                due = accounting.due(conn, self._after, accounting.BATCH)
            ids = [job_id for some in due.values() for job_id in some]
            more = len(ids) == accounting.BATCH
            self._after = max(ids) if more else 0
            yield from due.items()
            if not more:
                return

    def _settle(
        self, lease: Lease, task_id: int, job_ids: Sequence[int], totals: Counter[str]
    ) -> dict[str, int]:
        """Commit a batch; job by job where it cannot be, so that no job stands in another's way."""
        try:
            counts = self._commit(lease, task_id, job_ids)
        except (LeaseLost, Unavailable):
            raise
        except Exception:
            if len(job_ids) == 1:
                raise
            log.exception("a batch cannot be committed", task=task_id, jobs=len(job_ids))
            return each(job_ids, lambda job_id: self._settle(lease, task_id, [job_id], totals))
        totals.update(counts)
        return counts

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
