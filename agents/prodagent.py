"""ProdAgent: the supervisor of one endpoint. Asks its executor how much it wants, leases that from the queue,
submits, tracks and collects; it reaches the queue through QueuePort alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ClassVar
from uuid import uuid4

from sqlalchemy import Connection

from agents.runtime import heartbeats
from agents.runtime.agent import Agent, Context, Counts, each
from agents.runtime.heartbeats import AgentState
from catalogs.states import Switch
from gridcore.bus import Event
from gridcore.db import leases
from gridcore.db.leases import Lease
from gridcore.log import get
from prodsys.executors.base import BatchState, Executor, Refusal, Status, Submission, Submitted
from prodsys.job_states import JobState
from prodsys.jobs.attempts import Attempt
from prodsys.jobs.jobdocument import for_host
from prodsys.jobs.queueport import Admission, Call, News, QueuePort, Refused, WorkItem
from prodsys.queue import endpoints, serving
from prodsys.settling.retries import ErrorClass

log = get(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """What this host decides of every job it runs."""

    python: str
    heartbeat_s: float
    stop_grace_s: float
    cache: str | None


class ProdAgent(Agent):
    """Runs jobs at the endpoints whose leases it holds."""

    name: ClassVar[str] = "prodagent"
    wakes: ClassVar[frozenset[str]] = frozenset(["queue.ready"])

    def __init__(
        self, context: Context, port: QueuePort, executors: Mapping[str, Executor], host: Host
    ) -> None:
        """`executors` by endpoint name: only an agent that reaches an endpoint may serve it."""
        super().__init__(context)
        self._port = port
        self._executors = executors
        self._host = host
        self._owner = ""

    def shards(self, conn: Connection) -> Sequence[str]:
        """One lease per endpoint this process reaches; where several agents live, its part of them."""
        names = [endpoints.lease_name(name) for name in self._executors]
        owners = {row.name: row.owner.name if row.owner else None for row in leases.read(conn, names)}
        beating = heartbeats.agents(conn, self.context.settings.lease.heartbeat_s)
        alive = {
            row.owner
            for row in beating
            if row.agent == self.name and not row.stale and row.state != AgentState.STOPPED
        }
        return serving.part(names, self._owner, owners, alive)

    def cycle(self, held: Mapping[str, Lease]) -> Counts:
        """One pass over each endpoint."""
        self._owner = next((lease.owner for lease in held.values()), self._owner)
        with self.context.database.snapshot() as conn:
            known = {row.lease_name: row for row in endpoints.endpoints(conn)}
        served = [(known[name], lease) for name, lease in held.items() if name in known]
        totals = each(served, lambda pair: self._serve(*pair))
        if totals.get("finished"):
            self.context.bus.publish(Event("job.reported", self.name))
        return totals

    def close(self) -> None:
        """Nothing to give back: leases are the runtime's, payloads live on unless they are stopped."""

    def _serve(self, endpoint: endpoints.Endpoint, lease: Lease) -> dict[str, int]:
        executor = self._executors[endpoint.name]
        live = self._port.renew(self._call(endpoint, lease))
        counts = self._track(endpoint, lease, executor, live)
        self._clean(endpoint, lease, executor, live)
        if endpoint.state == Switch.ENABLED:
            counts["submitted"] = self._feed(endpoint, lease, executor)
        if not counts.get("submitted"):
            counts["withdrawn"] = self._withdraw(endpoint, lease, executor, live)
        return counts

    def _call(self, endpoint: endpoints.Endpoint, lease: Lease) -> Call:
        return Call(uuid4().hex, lease.owner, endpoint.id, lease)

    # --- tracking ---------------------------------------------------------------------------------------

    def _track(
        self, endpoint: endpoints.Endpoint, lease: Lease, executor: Executor, live: Sequence[Attempt]
    ) -> dict[str, int]:
        """Compare what the queue believes with what the batch system shows."""
        sent = [one for one in live if one.intent_at is not None]
        statuses = {status.key: status for status in executor.poll([one.key for one in sent])}
        self._adopt(endpoint, lease, executor, [one for one in sent if one.state == JobState.LEASED])
        news = News(
            unsent=[one.key for one in live if one.intent_at is None],
            admitted=[
                Admission(one.key, status.nonce, batch_id=status.batch_id)
                for one in sent
                if (status := statuses[one.key]).nonce is not None and one.admitted_at is None
            ],
            refused=self._never_started(executor, sent, statuses),
            lost=[
                (one.key, _loss(statuses[one.key])) for one in sent if self._is_lost(one, statuses[one.key])
            ],
        )
        self._port.reported(self._call(endpoint, lease), news)
        reports = _reports(statuses.values())
        self._port.finished(self._call(endpoint, lease), reports)
        return {
            "admitted": len(news.admitted),
            "refused": len(news.refused),
            "lost": len(news.lost),
            "finished": len(reports),
        }

    def _adopt(
        self, endpoint: endpoints.Endpoint, lease: Lease, executor: Executor, leased: Sequence[Attempt]
    ) -> None:
        """Attempts with an intent but no batch id, of a predecessor: the key finds those that were sent."""
        found = executor.find([one.key for one in leased])
        pairs = [(key, batch_id) for key, batch_id in found.items() if batch_id is not None]
        self._port.submitted(self._call(endpoint, lease), pairs)

    def _never_started(
        self, executor: Executor, sent: Sequence[Attempt], statuses: Mapping[str, Status]
    ) -> list[Refused]:
        """Attempts that are gone without having been admitted: closed for good before they are tried anew."""
        gone = [
            one.key
            for one in sent
            if statuses[one.key].state == BatchState.GONE and _unadmitted(one, statuses)
        ]
        retired = executor.retire(gone)
        return [
            Refused(
                key, ErrorClass.LOST, statuses[key].note or "it never started and is not in the batch system"
            )
            for key in gone
            if retired.get(key)
        ]

    def _is_lost(self, one: Attempt, status: Status) -> bool:
        """Admitted once, gone now, and silent for long enough."""
        if status.state != BatchState.GONE or _unadmitted(one, {one.key: status}):
            return False
        patience = timedelta(seconds=self.context.settings.work.lost_after_s)
        heard = status.heartbeat_at or one.admitted_at or status.admitted_at
        return heard is None or self.context.clock.now() - heard >= patience

    def _clean(
        self, endpoint: endpoints.Endpoint, lease: Lease, executor: Executor, live: Sequence[Attempt]
    ) -> None:
        """Traces of attempts that are not live any more: stop, remove, or take their late report."""
        alive = {one.key for one in live}
        known = [key for key in executor.known() if key not in alive]
        if not known:
            return
        commands = self._port.commands(self._call(endpoint, lease), known)
        late = _reports(executor.poll(commands.late))
        self._port.finished(
            self._call(endpoint, lease), [pair for pair in late if pair[1]["outcome"] == "done"]
        )
        executor.cancel(commands.drop)
        executor.forget(commands.drop)

    # --- feeding ----------------------------------------------------------------------------------------

    def _feed(self, endpoint: endpoints.Endpoint, lease: Lease, executor: Executor) -> int:
        """Lease and submit what the executor wants; the batch key is on record before anything is sent."""
        wanted = min(executor.wanted(), max(100, 2 * endpoint.slots))
        if wanted <= 0:
            return 0
        items = {item.key: item for item in self._port.lease(self._call(endpoint, lease), wanted)}
        intended = self._port.intend(self._call(endpoint, lease), list(items))
        answers = executor.submit([self._submission(items[key]) for key in intended])
        taken = [(one.key, one.batch_id) for one in answers if isinstance(one, Submitted)]
        refused = [
            Refused(one.key, ErrorClass.SUBMIT, one.reason) for one in answers if isinstance(one, Refusal)
        ]
        self._port.submitted(self._call(endpoint, lease), taken)
        self._port.reported(self._call(endpoint, lease), News(refused=refused))
        for one in refused:
            log.warning("submission refused", endpoint=endpoint.name, key=one.key, reason=one.reason)
        return len(taken)

    def _withdraw(
        self, endpoint: endpoints.Endpoint, lease: Lease, executor: Executor, live: Sequence[Attempt]
    ) -> int:
        """Take back what waits in a full batch system where the shares put other work first; how many."""
        unstarted = [one.key for one in live if one.state == JobState.SUBMITTED and one.admitted_at is None]
        if not unstarted or executor.wanted() > 0:
            return 0
        keys = self._port.withdraw(self._call(endpoint, lease), unstarted)
        retired = executor.retire(keys)
        gone = [key for key in keys if retired.get(key)]
        self._port.reported(self._call(endpoint, lease), News(withdrawn=gone))
        executor.cancel(gone)
        executor.forget(gone)
        return len(gone)

    def _submission(self, item: WorkItem) -> Submission:
        document = for_host(
            item.document,
            python=self._host.python,
            heartbeat_s=self._host.heartbeat_s,
            stop_grace_s=self._host.stop_grace_s,
            cache=self._host.cache,
        )
        return Submission(item.key, document, item.sandbox)


def _unadmitted(one: Attempt, statuses: Mapping[str, Status]) -> bool:
    return one.admitted_at is None and statuses[one.key].nonce is None


def _loss(status: Status) -> str:
    return status.note or "gone from the batch system without a report"


def _reports(statuses: Any) -> list[tuple[str, dict[str, Any]]]:
    return [
        (status.key, status.report)
        for status in statuses
        if status.state == BatchState.ENDED and status.report is not None
    ]
