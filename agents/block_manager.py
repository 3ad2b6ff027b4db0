"""Block manager: closes blocks, turns wishes into subscriptions and these into wanted replicas."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import ClassVar, TypeVar

from sqlalchemy import Connection

from agents.runtime.agent import Agent, Counts, own_lease
from agents.runtime.schedule import Duty
from catalogs import bookkeeping, wishes
from catalogs.states import WishKind
from datamgmt.deletions import repairs
from datamgmt.links import linkstates
from datamgmt.subscriptions import allocating, deliveries, forecasts, line, moving, progress, store
from datamgmt.subscriptions.moving import Decides, Moved
from gridcore import accounts, identity, metrics
from gridcore.bus import Event
from gridcore.db import dbnow, leases
from gridcore.db.leases import Lease
from gridcore.identity import Action, Subject

FORECAST_S = 60.0
#: Cycles between two looks for files to repair.
REPAIR_CYCLES = 6
#: Wishes looked at, and blocks closed, in one transaction; datasets looked at in one cycle.
SLICE = 500
T = TypeVar("T")


class BlockManager(Agent):
    """Keeps what subscriptions ask for and what is wanted the same."""

    name: ClassVar[str] = "block_manager"
    wakes: ClassVar[frozenset[str]] = frozenset(["job.done", "replica.complete", "subscription.changed"])

    def cycle(self, held: Mapping[str, Lease]) -> Counts:
        """One pass: blocks that are due, subscriptions to resume, wishes, wanted replicas, states."""
        lease = held[own_lease(self.name)]
        counts = {
            "closed": self._close_blocks(lease),
            "resumed": self._resume(lease),
            "wishes": self._serve(lease),
            "allocated": self._allocate(lease),
            "reviewed": self._review(lease),
            "moved": self._let_go(lease),
        }
        if counts["closed"]:
            metrics.count("blocks_closed", counts["closed"])
            self.context.bus.publish(Event("block.closed", self.name))
        if counts["allocated"]:
            self.context.bus.publish(Event("destinations.changed", self.name))
        return counts

    def duties(self) -> Sequence[Duty]:
        """Every minute say when subscriptions will be complete; look anew for room for what waits for it, and
        for files to repair."""
        return [
            Duty(name="forecast", act=self.forecast, every_s=FORECAST_S),
            Duty(name="stir", act=self.stir, every_s=self.context.settings.retry.base_s),
            Duty(name="repair", act=self.repair, every_s=REPAIR_CYCLES * self.interval_s),
        ]

    def forecast(self, lease: Lease) -> Counts:
        """Write how much of each live subscription is there, and when all of it will be."""
        nominal = linkstates.policies(self.context.settings).link.nominal_rate
        found = self._look(lambda conn, now: forecasts.outdated(conn, now, nominal))
        if not found:
            return {}
        return {"forecast": self._hold(lease, lambda conn, _: forecasts.write(conn, found))}

    def stir(self, lease: Lease) -> Counts:
        """Have the datasets looked at for whose subscriptions room in a quota or at an SE has come."""
        found = self._look(lambda conn, _: line.ready(conn))[:SLICE]
        if found:
            self._hold(lease, lambda conn, _: bookkeeping.unsettle(conn, found))
        return {"stirred": len(found)}

    def repair(self, lease: Lease) -> Counts:
        """Have faulty files copied anew from good copies, give up those that have none, and finish without
        them what misses nothing else."""
        after = timedelta(seconds=self.context.settings.repair.lost_after_s)
        return {
            "repairs": self._hold(lease, repairs.arrange),
            "lost": self._hold(lease, lambda conn, now: repairs.give_up(conn, now, after)),
            "left_out": self._hold(lease, repairs.leave_out),
            "finished": self._hold(lease, repairs.finish),
        }

    def _hold(self, lease: Lease, unit: Callable[[Connection, datetime], T]) -> T:
        """The unit in a transaction, under the lease."""
        return self.context.database.transaction(lambda conn: unit(conn, leases.hold(conn, lease)))

    def _look(self, question: Callable[[Connection, datetime], T]) -> T:
        with self.context.database.snapshot() as conn:
            return question(conn, dbnow(conn))

    def _close_blocks(self, lease: Lease) -> int:
        if not self._look(bookkeeping.due_blocks):
            return 0
        return self._hold(lease, lambda conn, now: bookkeeping.close_due(conn, now, SLICE))

    def _resume(self, lease: Lease) -> int:
        return self._hold(lease, store.resume_due) if self._look(store.resumable) else 0

    def _review(self, lease: Lease) -> int:
        return self._hold(lease, progress.review) if self._look(progress.outdated) else 0

    def _serve(self, lease: Lease) -> int:
        seen = self._look(lambda conn, now: wishes.open_wishes(conn, WishKind.PLACE, now, SLICE))
        if not seen:
            return 0
        keys = self.context.keys.take("subscription", len(seen))
        pause = timedelta(seconds=self.interval_s)

        def unit(conn: Connection, now: datetime) -> int:
            due = wishes.open_wishes(conn, WishKind.PLACE, now, len(seen))
            return deliveries.serve(conn, due, keys, now, now + pause)

        return self._hold(lease, unit)

    def _allocate(self, lease: Lease) -> int:
        found = self._look(lambda conn, _: allocating.unsettled(conn, SLICE))
        return sum(self._allocate_dataset(lease, dataset_id) for dataset_id in found)

    def _allocate_dataset(self, lease: Lease, dataset_id: int) -> int:
        done, changed = allocating.Allocated(0), 0
        while True:
            done = self._hold(
                lease,
                lambda conn, now, last=done: allocating.allocate_dataset(  # type: ignore[misc]
                    conn, dataset_id, now, last.after, last.waits
                ),
            )
            changed += done.changed
            if not done.after:
                return changed

    def _let_go(self, lease: Lease) -> int:
        settings = self.context.settings
        grace = timedelta(seconds=settings.subscription.move_grace_s)
        found = self._look(lambda conn, now: moving.over(conn, now, grace))
        if not found:
            return 0
        decides = self._look(lambda conn, _: _decides(conn))
        return sum(self._let_go_of(lease, one, decides) for one in found)

    def _let_go_of(self, lease: Lease, subscription_id: int, decides: Decides) -> int:
        undelete = timedelta(seconds=self.context.settings.deletion.undelete_s)
        asked, after = 0, (0, 0)
        while True:
            seen = self._look(lambda conn, _, after=after: moving.sources(conn, subscription_id, after))  # type: ignore[misc]
            keys = self.context.keys.take("deletion", len(seen)) if seen else ()

            def unit(
                conn: Connection, now: datetime, keys: Sequence[int] = keys, after: tuple[int, int] = after
            ) -> Moved:
                return moving.let_go(conn, subscription_id, keys, decides, now, undelete, after)

            done = self._hold(lease, unit)
            asked += done.asked
            if done.after is None:
                return asked
            after = done.after


def _decides(conn: Connection) -> Decides:
    """Whether somebody decides what goes from a site, by the roles there are now."""
    known = {one.principal.name: one.principal for one in accounts.accounts(conn)}

    def decides(name: str, site: str, group: str) -> bool:
        if name not in known:
            return False
        subject = Subject(group=group, site=site)
        return identity.may(known[name], Action.DELETION_DECIDE, subject)

    return decides
