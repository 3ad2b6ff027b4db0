"""Deleter: removes files that are wished away, and the files of replicas that are being deleted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import ClassVar

from sqlalchemy import Connection

from agents.runtime.agent import Agent, Context, Counts, own_lease
from agents.runtime.schedule import Duty
from catalogs import bookkeeping, replicas, sites, wishes
from catalogs.sites import Link, StorageElement
from catalogs.states import WishKind
from catalogs.wishes import Wish
from datamgmt import removal
from datamgmt.allocation import ReplicaKey
from datamgmt.reasons import Reason
from datamgmt.removal import Doomed
from datamgmt.tools.base import TransferTool
from gridcore import log, metrics
from gridcore.bus import Event
from gridcore.db import dbnow, leases
from gridcore.db.leases import Lease
from gridcore.db.statements import chunks
from gridcore.errors import GridError, Unavailable

#: Wishes and replicas of one cycle, and files between two looks at the lease.
SLICE = 100
SWEEP_S = 3600.0
_LOG = log.get(__name__)


class Deleter(Agent):
    """Files first, rows after: what is repeated finds the file gone."""

    name: ClassVar[str] = "deleter"
    wakes: ClassVar[frozenset[str]] = frozenset(["replica.deleting", "wish.delete"])

    def __init__(self, context: Context, tools: Mapping[str, TransferTool]) -> None:
        """`tools` by the name links give."""
        super().__init__(context)
        self._tools = tools
        self._retry = timedelta(seconds=context.settings.retry.base_s)
        self._after: ReplicaKey = (0, 0)

    def cycle(self, held: Mapping[str, Lease]) -> Counts:
        """One pass: wishes whose time has come, then replicas."""
        lease = held[own_lease(self.name)]
        counts: Counter[str] = Counter()
        storage = self._storage()
        self._serve(lease, storage, counts)
        with self.context.database.snapshot() as conn:
            doomed = removal.doomed(conn, SLICE, self._after)
        for one in doomed:
            self._remove(lease, one, storage, counts)
        # The next slice goes on behind a full one: storage that does not obey keeps no other from its turn.
        self._after = (doomed[-1].block_id, doomed[-1].se_id) if len(doomed) == SLICE else (0, 0)
        if counts["replicas"]:
            self.context.bus.publish(Event("replica.removed", self.name))
        return counts

    def duties(self) -> Sequence[Duty]:
        """Every hour, look for what copies that died left behind."""
        return [Duty(name="sweep_parts", act=self.sweep_parts, every_s=SWEEP_S)]

    def sweep_parts(self, lease: Lease) -> Counts:
        """Delete parts of copies nobody has written to for longer than a copy may take."""
        self.context.database.transaction(lambda conn: leases.hold(conn, lease))
        counts: Counter[str] = Counter()
        age_s = max(2 * self.context.settings.transfer.deadline_s, SWEEP_S)
        for one in self._storage().values():
            try:
                counts["parts"] += one.sweep(age_s)
            except GridError as error:
                _LOG.warning("parts not swept", error=error.message)
                counts["errors"] += 1
        return counts

    def _storage(self) -> dict[int, _Storage]:
        with self.context.database.snapshot() as conn:
            elements, links = sites.storage_elements(conn), sites.links(conn)
        return {one.id: _Storage(one, _tool(one, links, self._tools)) for one in elements}

    # --- wishes ---

    def _serve(self, lease: Lease, storage: Mapping[int, _Storage], counts: Counter[str]) -> None:
        with self.context.database.snapshot() as conn:
            due = wishes.open_wishes(conn, WishKind.DELETE, dbnow(conn), SLICE)
            refused = {
                one.id: removal.refused_wish(conn, one.subject_kind, one.subject, one.se_id) for one in due
            }
        served: list[int] = []
        denied: list[wishes.Reason] = []
        later: list[wishes.Reason] = []
        for one in due:
            reason = refused[one.id]
            if reason is not None:
                denied.append((one.id, reason, {}))
            elif error := self._delete_wished(one, storage, counts):
                later.append((one.id, Reason.STORAGE_ERROR, {"error": error[:300]}))
            else:
                served.append(one.id)
        if due:
            self._answer(lease, served, denied, later)
        counts.update(served=len(served), refused=len(denied), put_off=len(later))

    def _delete_wished(self, wish: Wish, storage: Mapping[int, _Storage], counts: Counter[str]) -> str | None:
        """The error, None when the file is gone; one that was not there is fine."""
        try:
            counts["files"] += storage[wish.se_id].delete(wish.subject, custodial=False)
        except GridError as error:
            return error.message
        return None

    def _answer(
        self,
        lease: Lease,
        served: Sequence[int],
        denied: Sequence[wishes.Reason],
        later: Sequence[wishes.Reason],
    ) -> None:
        def unit(conn: Connection) -> None:
            now = leases.hold(conn, lease)
            wishes.serve(conn, served, now)
            wishes.refuse(conn, denied, now)
            wishes.explain(conn, later, now, now + self._retry)

        self.context.database.transaction(unit)

    # --- replicas ---

    def _remove(
        self, lease: Lease, one: Doomed, storage: Mapping[int, _Storage], counts: Counter[str]
    ) -> None:
        """Delete the files, then the row; one whose storage does not obey stays for the next cycle."""
        with self.context.database.snapshot() as conn:
            files = bookkeeping.files_of_block(conn, one.block_id)
        for part in chunks(files, SLICE):
            # A deleter that was asleep while another took over must not touch a replica copied anew.
            self.context.database.transaction(lambda conn: leases.hold(conn, lease))
            try:
                for row in part:
                    counts["files"] += storage[one.se_id].delete(row.lfn, custodial=one.custodial)
            except GridError as error:
                _LOG.warning("replica not deleted", block=one.block_id, error=error.message)
                counts["errors"] += 1
                return

        def unit(conn: Connection) -> bool:
            leases.hold(conn, lease)
            return bool(replicas.remove_all(conn, [(one.block_id, one.se_id)]))

        counts["replicas"] += self.context.database.transaction(unit)


class _Storage:
    """A storage element and the tool that reaches it."""

    def __init__(self, element: StorageElement, tool: TransferTool | None) -> None:
        self._element = element
        self._tool = tool

    def delete(self, lfn: str, *, custodial: bool) -> bool:
        """False where it was not there. Raises ToolError, NotFound, UsageError."""
        name = self._element.name
        if self._tool is None:
            raise Unavailable(f"no transfer tool reaches {name}", hint="give one of its links a tool")
        gone = self._tool.delete(sites.pfn_of(self._element, lfn, custodial=custodial)[0])
        metrics.count("files_deleted", int(gone), se=name)
        return gone

    def sweep(self, older_than_s: float) -> int:
        """Delete parts of dead copies; how many. Raises ToolError."""
        if self._tool is None or self._element.root is None:
            return 0
        return sum(map(self._tool.delete, list(self._tool.abandoned(self._element.root, older_than_s))))


def _tool(
    element: StorageElement, links: Sequence[Link], tools: Mapping[str, TransferTool]
) -> TransferTool | None:
    """The tool named after the SE's protocol, else one its links use, else the only one there is."""
    by_links = [link.tool for link in links if element.id in (link.src_se_id, link.dst_se_id)]
    only = list(tools) if len(tools) == 1 else []
    return next((tools[name] for name in [element.protocol, *by_links, *only] if name in tools), None)
