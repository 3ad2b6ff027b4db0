"""Block manager: closes blocks, turns wishes into subscriptions and these into wanted replicas."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import ClassVar

from sqlalchemy import Connection

from agents.runtime.agent import Agent, Counts, own_lease
from catalogs import bookkeeping, wishes
from catalogs.states import WishKind
from datamgmt import allocating, deliveries, subscriptions
from gridcore import metrics
from gridcore.bus import Event
from gridcore.db import dbnow, leases
from gridcore.db.leases import Lease

#: Wishes looked at, and blocks closed, in one transaction.
SLICE = 500


class BlockManager(Agent):
    """Keeps what subscriptions ask for and what is wanted the same."""

    name: ClassVar[str] = "block_manager"
    wakes: ClassVar[frozenset[str]] = frozenset(["job.done", "replica.complete", "subscription.changed"])

    def cycle(self, held: Mapping[str, Lease]) -> Counts:
        """One pass: blocks that are due, states of subscriptions, wishes, wanted replicas."""
        lease = held[own_lease(self.name)]
        counts = {
            "closed": self._close_blocks(lease),
            "reviewed": self._review(lease),
            "wishes": self._serve(lease),
            "allocated": self._allocate(lease),
        }
        if counts["closed"]:
            metrics.count("blocks_closed", counts["closed"])
            self.context.bus.publish(Event("block.closed", self.name))
        if counts["allocated"]:
            self.context.bus.publish(Event("destinations.changed", self.name))
        return counts

    def _close_blocks(self, lease: Lease) -> int:
        def unit(conn: Connection) -> int:
            return bookkeeping.close_due(conn, leases.hold(conn, lease), SLICE)

        with self.context.database.snapshot() as conn:
            due = bookkeeping.due_blocks(conn, dbnow(conn))
        return self.context.database.transaction(unit) if due else 0

    def _review(self, lease: Lease) -> int:
        with self.context.database.snapshot() as conn:
            if not subscriptions.outdated(conn):
                return 0
        return self.context.database.transaction(
            lambda conn: subscriptions.review(conn, leases.hold(conn, lease))
        )

    def _serve(self, lease: Lease) -> int:
        with self.context.database.snapshot() as conn:
            seen = wishes.open_wishes(conn, WishKind.PLACE, dbnow(conn), SLICE)
        if not seen:
            return 0
        keys = self.context.keys.take("subscription", len(seen))
        pause = timedelta(seconds=self.interval_s)

        def unit(conn: Connection) -> int:
            now = leases.hold(conn, lease)
            due = wishes.open_wishes(conn, WishKind.PLACE, now, len(seen))
            return deliveries.serve(conn, due, keys, now, now + pause)

        return self.context.database.transaction(unit)

    def _allocate(self, lease: Lease) -> int:
        with self.context.database.snapshot() as conn:
            unsettled = allocating.unsettled_datasets(conn)
        return sum(self._allocate_dataset(lease, dataset_id) for dataset_id in unsettled)

    def _allocate_dataset(self, lease: Lease, dataset_id: int) -> int:
        return self.context.database.transaction(
            lambda conn: allocating.allocate_dataset(conn, dataset_id, leases.hold(conn, lease))
        )
