"""Settling attempts: what a report, a refusal or a loss means for the job, its outputs and its retries."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, select

from catalogs import wishes
from catalogs.states import WishKind
from gridcore.db.statements import select_in
from prodsys import attempts, outputs, retries
from prodsys.attempts import Attempt, Ending
from prodsys.jobs import store
from prodsys.jobs.machine import JobEvent, JobState
from prodsys.jobs.store import Move
from prodsys.outputs import OutputRow
from prodsys.retries import ErrorClass, RetryRule
from prodsys.states import OutputEvent, OutputState
from prodsys.tables import job, job_class

Report = Mapping[str, Any]

CORES = (
    select(job.c.id, job_class.c.cores)
    .join(job_class, job_class.c.id == job.c.class_id)
    .where(job.c.id.in_(bindparam("ids", expanding=True)))
)


class Settler:
    """One transaction's settlements. `scale` shrinks the retry table's delays; `wish_ids` are fresh keys."""

    def __init__(
        self,
        conn: Connection,
        now: datetime,
        rules: Mapping[ErrorClass, RetryRule],
        scale: float,
        wish_ids: Iterable[int],
    ) -> None:
        self.conn = conn
        self.now = now
        self.rules = rules
        self.scale = scale
        self._wish_ids = iter(wish_ids)

    def admit(self, one: Attempt, nonce: str, host: str | None, batch_id: str | None) -> bool:
        """The gate admitted a worker: LEASED or SUBMITTED -> RUNNING; False if it was known or is stale."""
        if not attempts.admit(self.conn, one, nonce, host, batch_id, self.now):
            return False
        move = Move(job_id=one.job_id, attempt=one.attempt, event=JobEvent.ADMITTED, to=JobState.RUNNING)
        return bool(store.apply(self.conn, [move], self.now))

    def succeed(self, one: Attempt, report: Report) -> bool:
        """A good report: to STAGEOUT for the accountant; False if it comes too late to count."""
        planned = self.outputs_of(one)
        said = {entry["name"]: entry for entry in report["outputs"]}
        if {row.name for row in planned} != set(said):
            names = ", ".join(sorted(said)) or "none"
            return self.fail(one, report, ErrorClass.BAD_REPORT, f"outputs reported: {names}")
        late = one.state in (JobState.LOST, JobState.RETRY_WAIT, JobState.READY)
        move = Move(
            job_id=one.job_id,
            attempt=one.attempt,
            event=JobEvent.LATE_REPORT if late else JobEvent.SUCCEEDED,
            to=JobState.STAGEOUT,
            used=self._core_seconds(one, report),
        )
        if not store.apply(self.conn, [move], self.now):
            self.discard(planned)
            return False
        if late:
            attempts.reopen(self.conn, one)
        attempts.close(self.conn, one, _ending(report), self.now)
        outputs.stage(self.conn, [(row, said[row.name]) for row in planned], self.now)
        return True

    def fail(self, one: Attempt, report: Report | None, kind: ErrorClass, error: str) -> bool:
        """A failure of a running or staged-out attempt, settled by the retry table."""
        used = self._core_seconds(one, report) if report else 0.0
        return self._retry(one, JobEvent.FAILURE, kind, error, report, used)

    def refuse(self, one: Attempt, kind: ErrorClass, error: str) -> bool:
        """An attempt that never started."""
        return self._retry(one, JobEvent.REFUSED, kind, error, None, 0.0)

    def lose(self, one: Attempt, error: str) -> bool:
        """Gone everywhere and silent: LOST, and from there by the retry table."""
        move = Move(
            job_id=one.job_id,
            attempt=one.attempt,
            event=JobEvent.VANISHED,
            to=JobState.LOST,
            code="LOST",
            params={"error": error},
        )
        if not store.apply(self.conn, [move], self.now):
            return False
        return self._retry(one, JobEvent.FAILURE, ErrorClass.LOST, error, None, 0.0)

    def discard(self, rows: Iterable[OutputRow]) -> None:
        """Outputs that do not count; what may lie of them on storage is wished away."""
        unsettled = [row for row in rows if row.state in (OutputState.PLANNED, OutputState.STAGED)]
        outputs.move(self.conn, unsettled, OutputEvent.DISCARD, self.now)
        self.remove(unsettled)

    def outputs_of(self, one: Attempt) -> list[OutputRow]:
        """The outputs of this attempt."""
        return [row for row in outputs.of_jobs(self.conn, [one.job_id]) if row.attempt == one.attempt]

    def remove(self, rows: Sequence[OutputRow]) -> None:
        """Wish these outputs' files away."""
        new = [
            wishes.NewWish(
                id=next(self._wish_ids),
                kind=WishKind.DELETE,
                subject_kind="lfn",
                subject=row.lfn,
                se_id=row.se_id,
                owner=f"output/{row.id}",
            )
            for row in rows
        ]
        wishes.make(self.conn, new, self.now)

    def _retry(
        self,
        one: Attempt,
        event: JobEvent,
        kind: ErrorClass,
        error: str,
        report: Report | None,
        used: float,
    ) -> bool:
        before = attempts.failures(self.conn, [one.job_id], kind).get(one.job_id, 0)
        rule = self.rules[kind]
        decision = retries.decide(rule, before + 1, self.now, random.random(), self.scale)
        held = "input" if decision.reason_code == retries.Reason.WAITS_FOR_INPUT else "operator"
        move = Move(
            job_id=one.job_id,
            attempt=one.attempt,
            event=event,
            to=JobState(decision.state),
            code=str(decision.reason_code),
            params={**decision.params, "error": error[:300]},
            due_at=decision.due_at,
            hold_kind=held if decision.state == "HELD" else None,
            used=used,
        )
        made = bool(store.apply(self.conn, [move], self.now))
        ending = _ending(report, kind, error, rule.penalty)
        attempts.close(self.conn, one, ending, self.now)
        # A lost one may still be heard of, until the next attempt is leased: if there will be one.
        if kind != ErrorClass.LOST or decision.state != "RETRY_WAIT":
            self.discard(self.outputs_of(one))
        return made

    def _core_seconds(self, one: Attempt, report: Report) -> float:
        cores = dict(tuple(row) for row in select_in(self.conn, CORES, [one.job_id]))
        return float(cores[one.job_id] * report["usage"].get("wall_s", 0.0))


def _ending(
    report: Report | None, kind: ErrorClass | None = None, error: str | None = None, penalty: bool = False
) -> Ending:
    usage = report["usage"] if report else {}
    return Ending(
        exit_code=report["exit_code"] if report else None,
        error_class=kind,
        error=error,
        penalty=penalty,
        wall_s=usage.get("wall_s"),
        cpu_s=usage.get("cpu_s"),
        report=report,
    )
