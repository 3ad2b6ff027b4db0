"""Deleter: removes files that are wished away, and the files of replicas that are being deleted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import ClassVar

from sqlalchemy import Connection

from agents.runtime.agent import Agent, Context, Counts, own_lease
from agents.runtime.schedule import Duty
from catalogs import sites, wishes
from catalogs.sites import StorageElement
from catalogs.states import WishKind
from catalogs.wishes import Wish
from datamgmt.deletions import deletion, pacing, removal
from datamgmt.deletions.pacing import Pace, PacePolicy
from datamgmt.deletions.removal import Doomed
from datamgmt.reasons import Reason
from datamgmt.tools.base import TransferTool
from datamgmt.tools.reaching import reaching
from datamgmt.wanted.allocation import ReplicaKey
from gridcore import log, metrics
from gridcore.bus import Event
from gridcore.db import dbnow, leases
from gridcore.db.leases import Lease
from gridcore.db.statements import CHUNK, chunks
from gridcore.errors import GridError, Unavailable

#: Wishes of one cycle, and files between two looks at the lease.
SLICE = 100
#: Files of one storage element, and replicas, in one cycle.
FILES, REPLICAS = 2000, 500
SWEEP_S = 3600.0
#: How long a deletion waits for copies from there to end, by the wait before a first retry.
LATER = 10
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
        self._policy = PacePolicy(rest=2 * self._retry, rest_max=60 * self._retry)
        self._paces: dict[int, Pace] = {}
        #: By storage element, where the last slice ended.
        self._after: dict[int, int] = {}
        #: The last file that is gone of each replica begun, as long as nobody else had the lease.
        self._gone: dict[ReplicaKey, int] = {}
        self._fence = 0

    def cycle(self, held: Mapping[str, Lease]) -> Counts:
        """One pass: deletions whose time has come, wishes, then replicas, SE by SE."""
        lease = held[own_lease(self.name)]
        if lease.fence != self._fence:
            self._fence, self._gone = lease.fence, {}
        counts: Counter[str] = Counter()
        self._begin(lease, counts)
        storage = self._storage()
        self._serve(lease, storage, counts)
        with self.context.database.snapshot() as conn:
            busy = removal.leaving(conn)
        for se_id in busy:
            self._empty(lease, storage[se_id], counts)
        if counts["replicas"]:
            self.context.bus.publish(Event("replica.removed", self.name))
        return counts

    def duties(self) -> Sequence[Duty]:
        """Every hour, look for what copies that died left behind."""
        return [Duty(name="sweep_parts", act=self.sweep_parts, every_s=SWEEP_S)]

    def sweep_parts(self, lease: Lease) -> Counts:
        """Delete parts of copies nobody has written to for longer than a copy may take."""
        self._hold(lease)
        counts: Counter[str] = Counter()
        age_s = max(2 * self.context.settings.transfer.deadline_s, SWEEP_S)
        for one in self._storage().values():
            try:
                counts["parts"] += one.sweep(age_s)
            except GridError as error:
                _LOG.warning("parts not swept", error=error.message)
                counts["errors"] += 1
        return counts

    def _hold(self, lease: Lease) -> datetime:
        return self.context.database.transaction(lambda conn: leases.hold(conn, lease))

    def _begin(self, lease: Lease, counts: Counter[str]) -> None:
        """Begin the deletions whose time has come, slice by slice."""

        def unit(conn: Connection) -> deletion.Due:
            return deletion.carry_out(conn, leases.hold(conn, lease), CHUNK, LATER * self._retry)

        with self.context.database.snapshot() as conn:
            due = deletion.is_due(conn, dbnow(conn))
        while due:
            found = self.context.database.transaction(unit)
            counts.update(begun=found.begun, refused=found.refused, later=found.later)
            due = found.begun + found.refused + found.later == CHUNK

    # --- storage ---

    def _storage(self) -> dict[int, _Storage]:
        with self.context.database.snapshot() as conn:
            elements, links, now = sites.storage_elements(conn), sites.links(conn), dbnow(conn)
        return {
            one.id: _Storage(one, reaching(one, links, self._tools), self._pace(one, now), self._policy, now)
            for one in elements
        }

    def _pace(self, element: StorageElement, now: datetime) -> Pace:
        pace = self._paces.get(element.id) or pacing.begin(now)
        rate = element.delete_rate
        default = self.context.settings.deletion.files_per_hour or None
        return pacing.allowance(pace, default if rate is None else rate, now, self._policy)

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
            elif error := self._delete_wished(one, storage[one.se_id], counts):
                later.append((one.id, Reason.STORAGE_ERROR, {"se": one.se_id, "error": error[:300]}))
            else:
                served.append(one.id)
        if due:
            self._answer(lease, served, denied, later)
        self._paces |= {one.se_id: storage[one.se_id].pace for one in due}
        counts.update(served=len(served), refused=len(denied), put_off=len(later))

    def _delete_wished(self, wish: Wish, storage: _Storage, counts: Counter[str]) -> str | None:
        """The error, None when the file is gone; one that was not there is fine."""
        if not storage.may:
            return "it rests, or has had its files of the hour"
        try:
            counts["files"] += storage.delete(wish.subject, custodial=False)
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

    def _empty(self, lease: Lease, storage: _Storage, counts: Counter[str]) -> None:
        """Delete the next files at one storage element, then the rows of replicas that have none left."""
        if not storage.may:
            return
        se_id = storage.element.id
        with self.context.database.snapshot() as conn:
            behind = removal.doomed(conn, se_id, REPLICAS, self._after.get(se_id, 0))
            doomed = _few(behind or removal.doomed(conn, se_id, REPLICAS))
            files = removal.files_of(conn, [one.block_id for one in doomed])
        left = [
            (one, file_id, lfn)
            for one in doomed
            for file_id, lfn in files[one.block_id]
            if file_id > self._gone.get(one.key, 0)
        ]
        failed = self._delete(lease, storage, left, counts)
        self._paces[se_id] = storage.pace
        unfinished = {one.key for one, file_id, _ in left if file_id > self._gone.get(one.key, 0)}
        finished = [one.key for one in doomed if one.key not in unfinished]
        counts["replicas"] += self._write(lease, storage, finished, failed)
        # The next slice goes on behind what failed: it keeps no other from its turn.
        self._after[se_id] = max((block_id for block_id, _ in failed), default=0)

    def _delete(
        self, lease: Lease, storage: _Storage, left: Iterable[tuple[Doomed, int, str]], counts: Counter[str]
    ) -> dict[ReplicaKey, str]:
        """File by file until the storage has had enough; of a replica with an error, which are told by
        replica, the rest is left."""
        failed: dict[ReplicaKey, str] = {}
        for part in chunks(left, SLICE):
            # A deleter that was asleep while another took over must not touch a replica copied anew.
            self._hold(lease)
            for one, file_id, lfn in part:
                if one.key in failed:
                    continue
                if not storage.may:
                    return failed
                try:
                    counts["files"] += storage.delete(lfn, custodial=one.custodial)
                    self._gone[one.key] = file_id
                except GridError as error:
                    _LOG.warning("replica not deleted", block=one.block_id, error=error.message)
                    failed[one.key] = error.message
                    counts["errors"] += 1
        return failed

    def _write(
        self,
        lease: Lease,
        storage: _Storage,
        finished: Sequence[ReplicaKey],
        failed: Mapping[ReplicaKey, str],
    ) -> int:
        """Forget the replicas that are gone, and say why others are not; how many are gone."""
        if not finished and not failed:
            return 0

        def unit(conn: Connection) -> int:
            now = leases.hold(conn, lease)
            if failed:
                removal.stuck(conn, failed, storage.trouble(next(iter(failed.values()))), now)
            return removal.remove(conn, finished, now)

        removed = self.context.database.transaction(unit)
        for key in finished:
            self._gone.pop(key, None)
        return removed


def _few(doomed: Iterable[Doomed]) -> list[Doomed]:
    """The first of them, up to the files of one cycle."""
    chosen: list[Doomed] = []
    files = 0
    for one in doomed:
        if chosen and files + one.files > FILES:
            break
        chosen.append(one)
        files += one.files
    return chosen


class _Storage:
    """A storage element, the tool that reaches it, and how much may be asked of it."""

    def __init__(
        self,
        element: StorageElement,
        tool: TransferTool | None,
        pace: Pace,
        policy: PacePolicy,
        now: datetime,
    ) -> None:
        self.element = element
        self.pace = pace
        self._tool = tool
        self._policy = policy
        self._now = now

    @property
    def may(self) -> bool:
        """Whether one more file may be asked away now."""
        return self.pace.left >= 1 and not pacing.resting(self.pace, self._now)

    def delete(self, lfn: str, *, custodial: bool) -> bool:
        """False where it was not there. Raises ToolError, NotFound, UsageError."""
        self.pace = pacing.spent(self.pace, 1)
        try:
            gone = self._ask(lfn, custodial=custodial)
        except GridError:
            self.pace = pacing.erred(self.pace, self._now, self._policy)
            raise
        self.pace = pacing.worked(self.pace)
        return gone

    def _ask(self, lfn: str, *, custodial: bool) -> bool:
        name = self.element.name
        if self._tool is None:
            raise Unavailable(f"no transfer tool reaches {name}", hint="give one of its links a tool")
        gone = self._tool.delete(sites.pfn_of(self.element, lfn, custodial=custodial)[0])
        metrics.count("files_deleted", int(gone), se=name)
        return gone

    def trouble(self, error: str) -> dict[str, object]:
        """The parameters of STORAGE_ERROR."""
        until = self.pace.rests_until
        told = {} if until is None else {"until": f"{until:%Y-%m-%d %H:%M:%S} UTC"}
        return {"se": self.element.id, "error": error[:300], **told}

    def sweep(self, older_than_s: float) -> int:
        """Delete parts of dead copies; how many. Raises ToolError."""
        if self._tool is None or self.element.root is None:
            return 0
        return sum(map(self._tool.delete, list(self._tool.abandoned(self.element.root, older_than_s))))
