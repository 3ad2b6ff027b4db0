"""Janitor: clean-up by the calendar. Nothing depends on it but size and tidiness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import ClassVar

from sqlalchemy import Connection

import catalogs.recount
import datamgmt.recount
from agents.runtime import heartbeats
from agents.runtime.agent import Agent, Counts
from agents.runtime.schedule import Duty
from datamgmt.deletions import pruning
from gridcore.db import leases, outbox
from gridcore.db.leases import Lease
from prodsys import recount
from prodsys.control import orders
from prodsys.queue import sqlport
from prodsys.settling import outcomes
from prodsys.shares import shares

#: How long told events and answers to agents are kept.
KEPT = timedelta(days=1)
SETTLE_S = 300.0
PRUNE_S = 3600.0
#: Orders removed at once: each may have had many parts.
ORDERS = 20


class Janitor(Agent):
    """Settles the decay of shares, and removes rows nobody will ask for."""

    name: ClassVar[str] = "janitor"

    def cycle(self, held: Mapping[str, Lease]) -> Counts:
        """Its work is in its duties."""
        return {}

    def duties(self) -> Sequence[Duty]:
        """Settle shares every five minutes, prune and recount every hour."""
        return [
            Duty(name="settle_shares", act=self.settle_shares, every_s=SETTLE_S),
            Duty(name="prune", act=self.prune, every_s=PRUNE_S),
            Duty(name="recount", act=self.recount, every_s=PRUNE_S),
        ]

    def settle_shares(self, lease: Lease) -> Counts:
        """Write the decay of usage into the share nodes."""

        def unit(conn: Connection) -> int:
            return shares.settle(conn, leases.hold(conn, lease))

        return {"settled": self.context.database.transaction(unit)}

    def recount(self, lease: Lease) -> Counts:
        """Put right what agents of an older release do not count."""

        def unit(conn: Connection) -> dict[str, int]:
            leases.hold(conn, lease)
            return recount.mend(conn, recount.SLOTS)

        def data(conn: Connection) -> dict[str, int]:
            leases.hold(conn, lease)
            return catalogs.recount.mend(conn) | datamgmt.recount.mend(conn)

        return self.context.database.transaction(unit) | self.context.database.transaction(data)

    def prune(self, lease: Lease) -> Counts:
        """Remove events, answers, orders, heartbeats, histories and statistics that are out of date."""

        def unit(conn: Connection) -> dict[str, int]:
            now = leases.hold(conn, lease)
            before = now - KEPT
            return {
                "outcomes": outcomes.prune(conn, now - outcomes.KEPT),
                "events": outbox.forget(conn, before),
                "orders": orders.prune(conn, now - orders.KEPT, ORDERS),
                "answers": sqlport.forget(conn, before),
                "heartbeats": heartbeats.prune(conn, self.context.settings.lease.heartbeat_s),
            }

        def data(conn: Connection) -> dict[str, int]:
            return pruning.prune(conn, leases.hold(conn, lease))

        return self.context.database.transaction(unit) | self.context.database.transaction(data)
