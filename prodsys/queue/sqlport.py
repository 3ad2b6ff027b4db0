"""QueuePort by SQL, for agents that run beside the database. Opens its own transactions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, delete, select

from catalogs import sites
from catalogs.sites import StorageElement
from catalogs.states import Switch
from gridcore.db import Database, dbnow, leases
from gridcore.db.keys import Keys
from gridcore.db.statements import insert_rows, lock_rows, select_in
from gridcore.ids import BatchKey
from prodsys.job_states import JobEvent, JobKind, JobState
from prodsys.jobs import attempts, outputs, store
from prodsys.jobs.attempts import Attempt, Claimant, Ending
from prodsys.jobs.jobdocument import Place, PlannedOutput, document, planned_lfn
from prodsys.jobs.outputs import OutputKind, OutputRow
from prodsys.jobs.queueport import Call, Commands, News, WorkItem
from prodsys.jobs.store import Move
from prodsys.queue import taskqueue, withdrawals
from prodsys.queue.outlook import Memory
from prodsys.settling import retry_rules
from prodsys.settling.retries import ErrorClass
from prodsys.settling.settlement import WAITING, Settler
from prodsys.tables import endpoint, job, job_class, job_spec, port_call, queue, sandbox
from prodsys.tasks import tasks
from prodsys.tasks.tasks import Task

#: Delete wishes one settled attempt may need.
WISHES_PER_ATTEMPT = 4

ENDPOINT = select(endpoint.c.site_id).where(endpoint.c.id == bindparam("endpoint_id"))
ANSWERED = select(port_call.c.answer).where(port_call.c.id == bindparam("call_id"))
JOBS = (
    select(
        job.c.id,
        job.c.task_id,
        job.c.idx,
        job.c.kind,
        job.c.attempt,
        job_spec.c.spec,
        job_class.c.requirements,
    )
    .join_from(job, job_spec, job_spec.c.job_id == job.c.id)
    .join(job_class, job_class.c.id == job.c.class_id)
    .where(job.c.id.in_(bindparam("ids", expanding=True)))
    .order_by(job.c.id)
)
LEAVES = (
    select(job.c.id, job_class.c.leaf_id, job_class.c.task_type, job_class.c.cores)
    .join(job_class, job_class.c.id == job.c.class_id)
    .where(job.c.id.in_(bindparam("ids", expanding=True)))
)
#: What is written of an attempt that was taken back.
WITHDRAWN = "withdrawn before it began, for work that the shares put first"
SANDBOXES = select(sandbox.c.digest, sandbox.c.content).where(
    sandbox.c.digest.in_(bindparam("ids", expanding=True))
)
FORGET = delete(port_call).where(port_call.c.at < bindparam("before", type_=port_call.c.at.type))


def forget(conn: Connection, before: datetime) -> int:
    """Remove answers given before that moment; how many."""
    return conn.execute(FORGET, {"before": before}).rowcount


@dataclass(frozen=True, slots=True)
class _Work:
    """A leased job's row and its task."""

    row: Any
    task: Task


class SqlQueuePort:
    """The central queue, in this process. `scale` shrinks the retry table's delays."""

    def __init__(self, database: Database, keys: Keys, instance: str, scale: float = 1.0) -> None:
        self._db = database
        self._keys = keys
        self._instance = instance
        self._scale = scale
        self._memory = Memory()

    def lease(self, call: Call, n: int) -> list[WorkItem]:
        """Claim and plan the outputs in one transaction; then read the documents."""
        output_ids = self._keys.take("output", n)
        wish_ids = self._keys.take("wish", n * WISHES_PER_ATTEMPT)

        def unit(conn: Connection) -> list[int]:
            now = leases.hold(conn, call.lease)
            answer = conn.execute(ANSWERED, {"call_id": call.id}).scalar_one_or_none()
            if answer is not None:
                return list(answer)
            site_id = conn.execute(ENDPOINT, {"endpoint_id": call.endpoint_id}).scalar_one()
            se_id = _output_se(conn, site_id)
            if se_id is None:
                return []
            by = Claimant(
                endpoint_id=call.endpoint_id, site_id=site_id, agent=call.agent, instance=self._instance
            )
            claimed = taskqueue.claim(conn, by, n, now, self._memory)
            ids = [one.id for one in claimed]
            self._plan_outputs(conn, ids, se_id, output_ids, now)
            again = {one.id: one.attempt + 1 for one in claimed if one.attempt}
            self._settler(conn, now, wish_ids).discard(_superseded(conn, again))
            row = {"id": call.id, "agent": call.agent, "verb": "lease", "answer": ids, "at": now}
            if ids:
                insert_rows(conn, port_call, [row])
            return ids

        return self._items(self._db.transaction(unit))

    def _plan_outputs(
        self, conn: Connection, job_ids: Sequence[int], se_id: int, output_ids: Sequence[int], now: datetime
    ) -> None:
        work = _work(conn, job_ids)
        planned = [_planned(one, output_id, se_id) for one, output_id in zip(work, output_ids, strict=False)]
        outputs.plan(conn, planned, now)

    def _key(self, row: Any) -> str:
        return str(BatchKey(self._instance, row.id, row.attempt))

    def _items(self, job_ids: Sequence[int]) -> list[WorkItem]:
        with self._db.snapshot() as conn:
            work = _work(conn, job_ids)
            planned = {(row.job_id, row.attempt): row for row in outputs.of_jobs(conn, job_ids)}
            ses = {se.id: se for se in sites.storage_elements(conn)}
            boxes = {one.task.sandbox for one in work} - {None}
            content = dict(tuple(row) for row in select_in(conn, SANDBOXES, boxes))
        return [
            self._item(one, planned[one.row.id, one.row.attempt], ses, content.get(one.task.sandbox))
            for one in work
            if (one.row.id, one.row.attempt) in planned
        ]

    def _item(
        self, one: _Work, planned: OutputRow, ses: Mapping[int, StorageElement], box: bytes | None
    ) -> WorkItem:
        here = ses[planned.se_id]
        sources = {file["lfn"]: [_place(here, file["lfn"])] for file in one.row.spec.get("inputs", [])}
        target = PlannedOutput(name=planned.name, lfn=planned.lfn, places=[_place(here, planned.lfn)])
        work = document(
            key=self._key(one.row),
            task=one.task,
            job_id=one.row.id,
            index=one.row.idx,
            kind=one.row.kind,
            attempt=one.row.attempt,
            spec=one.row.spec,
            sources=sources,
            outputs=[target],
            needs=one.row.requirements,
        )
        return WorkItem(work["key"], work, box)

    def renew(self, call: Call) -> list[Attempt]:
        """The live attempts of the endpoint."""
        with self._db.snapshot() as conn:
            return attempts.held(conn, call.endpoint_id)

    def intend(self, call: Call, keys: Sequence[str]) -> list[str]:
        """Note the intent of those that are still LEASED."""

        def unit(conn: Connection) -> list[str]:
            now = leases.hold(conn, call.lease)
            found = _locked(conn, call, keys).values()
            due = [one for one in found if one.current and one.state == JobState.LEASED]
            attempts.intend(conn, due, now)
            return [one.key for one in due]

        return self._db.transaction(unit)

    def submitted(self, call: Call, pairs: Sequence[tuple[str, str]]) -> None:
        """Record batch ids: LEASED -> SUBMITTED, unless the worker was faster."""

        def unit(conn: Connection) -> None:
            now = leases.hold(conn, call.lease)
            found = _locked(conn, call, [key for key, _ in pairs])
            known = [(found[key], batch_id) for key, batch_id in pairs if key in found]
            attempts.record(conn, known, now)
            moves = [_move(one, JobEvent.RECORDED, JobState.SUBMITTED) for one, _ in known]
            store.apply(conn, moves, now)

        if pairs:
            self._db.transaction(unit)

    def withdraw(self, call: Call, unstarted: Sequence[str]) -> list[str]:
        """Those whose slots the shares would now give to a leaf that waits and runs nothing."""
        with self._db.snapshot() as conn:
            found = [one for one in _own(conn, call, unstarted).values() if one.current]
            of = {row.id: row for row in select_in(conn, LEAVES, [one.job_id for one in found])}
            site_id = conn.execute(ENDPOINT, {"endpoint_id": call.endpoint_id}).scalar_one()
            now = dbnow(conn)
            back = [(row.leaf_id, row.task_type, row.cores) for row in of.values()]
            nodes, waiting = taskqueue.waiting(conn, call.endpoint_id, site_id, back, now)
        sent: dict[int, list[str]] = defaultdict(list)
        for one in sorted(found, key=lambda one: unstarted.index(one.key)):
            sent[of[one.job_id].leaf_id].append(one.key)
        cores = {row.leaf_id: float(row.cores) for row in of.values()}
        keys = withdrawals.plan(nodes, waiting, sent, cores)
        if keys:  # the slots are for a leaf that a claim may not have seen yet
            self._memory.clear()
        return keys

    def reported(self, call: Call, news: News) -> None:
        """Take news in the order unsent, withdrawn, admitted, refused, lost."""
        keys = [*news.unsent, *(a.key for a in news.admitted), *(r.key for r in news.refused)]
        keys += [*news.withdrawn, *(key for key, _ in news.lost)]
        if not keys:
            return
        wish_ids = self._keys.take("wish", len(keys) * WISHES_PER_ATTEMPT)

        def unit(conn: Connection) -> None:
            now = leases.hold(conn, call.lease)
            if news.unsent or news.withdrawn:
                lock_rows(conn, queue, [store.QUEUE])
            found = _locked(conn, call, keys)
            settler = self._settler(conn, now, wish_ids)
            _unsend(settler, [found[key] for key in news.unsent if key in found])
            _withdraw(settler, [found[key] for key in news.withdrawn if key in found])
            settler.admit([(found[one.key], one) for one in news.admitted if one.key in found])
            settler.refuse(
                (found[one.key], ErrorClass(one.error_class), one.reason)
                for one in news.refused
                if one.key in found
            )
            settler.lose((found[key], reason) for key, reason in news.lost if key in found)
            settler.write()

        self._db.transaction(unit)

    def finished(self, call: Call, reports: Sequence[tuple[str, dict[str, Any]]]) -> None:
        """Settle reports, each guarded by its attempt; only the endpoint's owner may bring them."""
        if not reports:
            return
        wish_ids = self._keys.take("wish", len(reports) * WISHES_PER_ATTEMPT)

        def unit(conn: Connection) -> None:
            now = leases.hold(conn, call.lease)
            found = _locked(conn, call, [key for key, _ in reports])
            settler = self._settler(conn, now, wish_ids)
            settler.finish([(found[key], report) for key, report in reports if key in found])
            settler.write()

        self._db.transaction(unit)

    def commands(self, call: Call, known: Sequence[str]) -> Commands:
        """Which of the keys to drop, and which may still have something to say."""
        with self._db.snapshot() as conn:
            found = attempts.by_key(conn, known)
        commands = Commands()
        for key in known:
            one = found.get(key)
            if one is None or not one.current:
                commands.drop.append(key)
            elif one.state in WAITING and one.error_class == ErrorClass.LOST:
                commands.late.append(key)
            elif one.ended_at is not None or one.state == JobState.KILLED:
                commands.drop.append(key)
        return commands

    def _settler(self, conn: Connection, now: datetime, wish_ids: Iterable[int]) -> Settler:
        return Settler(conn, now, retry_rules.rules(conn), self._scale, wish_ids)


def _output_se(conn: Connection, site_id: int) -> int | None:
    """Where jobs of the site write: its first enabled storage element; None where it has none."""
    enabled = (se for se in sites.storage_elements(conn) if se.state == Switch.ENABLED)
    return next((se.id for se in enabled if se.site_id == site_id), None)


def _work(conn: Connection, job_ids: Sequence[int]) -> list[_Work]:
    rows = select_in(conn, JOBS, job_ids)
    by_id = {task_id: tasks.by_id(conn, task_id) for task_id in sorted({row.task_id for row in rows})}
    return [_Work(row, by_id[row.task_id]) for row in rows]


def _planned(one: _Work, output_id: int, se_id: int) -> dict[str, Any]:
    """The output row of a job's current attempt, its LFN given away for ever."""
    merges = one.task.step.merge is not None and one.row.kind == JobKind.PROCESS
    return {
        "id": output_id,
        "job_id": one.row.id,
        "attempt": one.row.attempt,
        "task_id": one.task.id,
        "name": one.task.step.output.name,
        "kind": OutputKind.UNMERGED if merges else OutputKind.FINAL,
        "lfn": planned_lfn(one.task, one.row.kind, one.row.idx, one.row.attempt),
        "se_id": se_id,
    }


def _place(se: StorageElement, lfn: str) -> Place:
    pfn, protocol = sites.pfn_of(se, lfn)
    return Place(se.name, pfn, protocol)


def _superseded(conn: Connection, numbers: Mapping[int, int]) -> list[OutputRow]:
    """What earlier attempts of these jobs left planned: with a new attempt leased, they cannot count."""
    return [row for row in outputs.of_jobs(conn, numbers) if row.attempt < numbers[row.job_id]]


def _own(conn: Connection, call: Call, keys: Iterable[str]) -> dict[str, Attempt]:
    """The attempts with these keys at the caller's endpoint; its lease says nothing of others."""
    found = attempts.by_key(conn, keys)
    return {key: one for key, one in found.items() if one.endpoint_id == call.endpoint_id}


def _locked(conn: Connection, call: Call, keys: Iterable[str]) -> dict[str, Attempt]:
    """The same, their jobs locked before they are read: no order or release changes them any more."""
    known = [BatchKey.parse(key) for key in keys]
    lock_rows(conn, job, [one.job for one in known if one is not None])
    return _own(conn, call, keys)


def _unsend(settler: Settler, found: Sequence[Attempt]) -> None:
    gone = _returned(settler, JobEvent.UNSENT, [one for one in found if one.intent_at is None])
    attempts.forget_all(settler.conn, gone)


def _withdraw(settler: Settler, found: Sequence[Attempt]) -> None:
    gone = _returned(settler, JobEvent.WITHDRAWN, found)
    attempts.close_all(settler.conn, [(one, Ending(error=WITHDRAWN)) for one in gone], settler.now)


def _returned(settler: Settler, event: JobEvent, found: Sequence[Attempt]) -> list[Attempt]:
    """Those whose jobs are READY again: they never began, and nothing can lie under their LFNs."""
    made = settler.apply([_move(one, event, JobState.READY) for one in found])
    back = {(move.job_id, move.attempt) for move in made}
    gone = [one for one in found if (one.job_id, one.attempt) in back]
    outputs.forget_all(settler.conn, [(one.job_id, one.attempt) for one in gone])
    return gone


def _move(one: Attempt, event: JobEvent, to: JobState) -> Move:
    return Move(job_id=one.job_id, attempt=one.attempt, event=event, to=to)
