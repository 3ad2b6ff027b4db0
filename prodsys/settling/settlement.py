"""Settling attempts: what reports, refusals and losses mean for jobs, their outputs and their retries.

All news of one kind is settled together, by a handful of statements.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, select

from catalogs import wishes
from catalogs.states import WishKind
from gridcore.db.bulk import Change
from gridcore.db.statements import select_in
from prodsys.job_states import JobEvent, JobState
from prodsys.jobs import attempts, outputs, store
from prodsys.jobs.attempts import Attempt, Ending
from prodsys.jobs.outputs import OutputRow
from prodsys.jobs.queueport import Admission
from prodsys.jobs.store import Move
from prodsys.jobs.tally import Tally
from prodsys.settling import outcomes, retries
from prodsys.settling.outcomes import OK, Outcome
from prodsys.settling.retries import ErrorClass, Retry, RetryRule
from prodsys.states import OutputEvent, OutputState
from prodsys.tables import endpoint, job, job_class

Report = Mapping[str, Any]

CORES = (
    select(job.c.id, job_class.c.cores)
    .join(job_class, job_class.c.id == job.c.class_id)
    .where(job.c.id.in_(bindparam("ids", expanding=True)))
)
SITES = select(endpoint.c.id, endpoint.c.site_id).where(endpoint.c.id.in_(bindparam("ids", expanding=True)))
#: Where a lost attempt's job is until the next attempt is leased.
WAITING = (JobState.LOST, JobState.RETRY_WAIT, JobState.READY)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An attempt that failed: on which event, of what class, in which words, with its report if any."""

    attempt: Attempt
    event: JobEvent
    kind: ErrorClass
    error: str
    report: Report | None = None


class Settler:
    """One transaction's settlements. `scale` shrinks the retry table's delays; `wish_ids` are fresh keys.

    What they add up to is written by `write`, once: counters are locked after the last job.
    """

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
        self._tally = Tally()
        self._closed: list[Change] = []
        self._outcomes: list[Outcome] = []

    def apply(self, moves: Sequence[Move]) -> list[Move]:
        """Make moves of jobs, as `store.apply` does, but for the counters."""
        return store.apply(self.conn, moves, self.now, self._tally)

    def write(self) -> None:
        """Write the ends of attempts and the counters: the last thing to be done."""
        self._tally.write(self.conn, self._closed)
        outcomes.record(self.conn, self._outcomes, self.now)
        self._tally, self._closed, self._outcomes = Tally(), [], []

    def admit(self, pairs: Sequence[tuple[Attempt, Admission]]) -> int:
        """The gate admitted workers: LEASED or SUBMITTED -> RUNNING; how many were not known yet."""
        fresh = [(one, said) for one, said in pairs if one.admitted_at is None]
        attempts.admit_all(self.conn, fresh, self.now)
        return len(self.apply([_admitted(one) for one, _ in fresh]))

    def finish(self, reports: Sequence[tuple[Attempt, Report]]) -> None:
        """Reports of workers: success to STAGEOUT for the accountant, failure by the retry table.

        An attempt that has ended is left alone, unless it was only lost and is the job's last one.
        """
        heard = [pair for pair in reports if _counts(pair[0])]
        told = [(one, Admission(one.key, said["nonce"], said.get("host"))) for one, said in heard]
        attempts.admit_all(self.conn, [pair for pair in told if pair[0].admitted_at is None], self.now)
        planned = self.outputs_of(one for one, _ in heard)
        heard = [pair for pair in heard if not _given_up(planned[pair[0].job_id])]
        good, bad = [], []
        for one, report in heard:
            failure = _failure(one, report, planned[one.job_id])
            good += [] if failure else [(one, report)]
            bad += [failure] if failure else []
        self._succeed(good, planned)
        self.fail(bad)

    def _succeed(
        self, good: Sequence[tuple[Attempt, Report]], planned: Mapping[int, Sequence[OutputRow]]
    ) -> None:
        used = self._core_seconds(good)
        moves = [move for one, _ in good for move in _course(one, used[one.job_id])]
        made = {move.job_id for move in self.apply(moves) if move.to == JobState.STAGEOUT}
        took = [(one, report) for one, report in good if one.job_id in made]
        attempts.reopen_all(self.conn, [one for one, _ in took if one.state in WAITING])
        self._closed += attempts.closed([(one, _ending(report)) for one, report in took], self.now)
        said = {(one.job_id, entry["name"]): entry for one, report in took for entry in report["outputs"]}
        rows = [row for one, _ in took for row in planned[one.job_id]]
        outputs.stage(self.conn, [(row, said[row.job_id, row.name]) for row in rows], self.now)
        self._count([(one, OK, used[one.job_id]) for one, _ in took])
        self.discard(row for one, _ in good if one.job_id not in made for row in planned[one.job_id])

    def refuse(self, refused: Iterable[tuple[Attempt, ErrorClass, str]]) -> int:
        """Attempts that never started."""
        failures = [
            Failure(attempt=one, event=JobEvent.REFUSED, kind=kind, error=error)
            for one, kind, error in refused
        ]
        return self.fail(failures)

    def lose(self, lost: Iterable[tuple[Attempt, str]]) -> int:
        """Gone everywhere and silent: LOST, and from there by the retry table."""
        failures = [
            Failure(attempt=one, event=JobEvent.VANISHED, kind=ErrorClass.LOST, error=error)
            for one, error in lost
        ]
        return self.fail(failures)

    def fail(self, failures: Sequence[Failure]) -> int:
        """Failures settled by the retry table; how many moved their job."""
        decisions = self._decide(failures)
        used = self._core_seconds([(one.attempt, one.report) for one in failures if one.report])
        moves = [
            move
            for one, decision in zip(failures, decisions, strict=True)
            for move in _moves(one, decision, used.get(one.attempt.job_id, 0.0))
        ]
        made = {move.job_id for move in self.apply(moves)}
        ended = [
            (one.attempt, _ending(one.report, one.kind, one.error, self.rules[one.kind].penalty))
            for one in failures
            if one.event != JobEvent.VANISHED or one.attempt.job_id in made
        ]
        self._closed += attempts.closed(ended, self.now)
        moved = [one for one in failures if one.attempt.job_id in made]
        self._count([(one.attempt, one.kind.value, used.get(one.attempt.job_id, 0.0)) for one in moved])
        # A lost one may still be heard of, until the next attempt is leased: if there will be one.
        gone = [
            one.attempt
            for one, decision in zip(failures, decisions, strict=True)
            if one.kind != ErrorClass.LOST or decision.state != "RETRY_WAIT"
        ]
        left = self.outputs_of(gone)
        self.discard(row for rows in left.values() for row in rows)
        return len(moved)

    def _decide(self, failures: Sequence[Failure]) -> list[Retry]:
        jobs: dict[ErrorClass, list[int]] = defaultdict(list)
        for one in failures:
            jobs[one.kind].append(one.attempt.job_id)
        before = {kind: attempts.failures(self.conn, ids, kind) for kind, ids in jobs.items()}
        return [
            retries.decide(
                self.rules[one.kind],
                before[one.kind].get(one.attempt.job_id, 0) + 1,
                self.now,
                random.random(),
                self.scale,
            )
            for one in failures
        ]

    def _count(self, ended: Sequence[tuple[Attempt, str, float]]) -> None:
        at = dict(tuple(row) for row in select_in(self.conn, SITES, {one.endpoint_id for one, _, _ in ended}))
        self._outcomes += [Outcome(at[one.endpoint_id], kind, used) for one, kind, used in ended]

    def discard(self, rows: Iterable[OutputRow]) -> None:
        """Outputs that do not count; what may lie of them on storage is wished away."""
        unsettled = [row for row in rows if row.state in (OutputState.PLANNED, OutputState.STAGED)]
        outputs.move(self.conn, unsettled, OutputEvent.DISCARD, self.now)
        self.remove(unsettled)

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

    def outputs_of(self, of: Iterable[Attempt]) -> dict[int, list[OutputRow]]:
        """The outputs of these attempts, by job."""
        current = {one.job_id: one.attempt for one in of}
        found: dict[int, list[OutputRow]] = {job_id: [] for job_id in current}
        for row in outputs.of_jobs(self.conn, current):
            if row.attempt == current[row.job_id]:
                found[row.job_id].append(row)
        return found

    def _core_seconds(self, ended: Sequence[tuple[Attempt, Report]]) -> dict[int, float]:
        cores = dict(tuple(row) for row in select_in(self.conn, CORES, {one.job_id for one, _ in ended}))
        return {one.job_id: cores[one.job_id] * _wall_s(one, report, self.now) for one, report in ended}


def _counts(one: Attempt) -> bool:
    return one.current and (one.ended_at is None or one.error_class == ErrorClass.LOST)


def _wall_s(one: Attempt, report: Report, now: datetime) -> float:
    """The wall time to charge: a worker's word for it, but no longer than since it was sent."""
    most = math.inf if one.intent_at is None else max(0.0, (now - one.intent_at).total_seconds())
    return min(float(report["usage"].get("wall_s") or 0.0), most)


def _given_up(planned: Sequence[OutputRow]) -> bool:
    """Whether the attempt's outputs were wished away: a resubmission of its job does not bring them back."""
    return any(row.state == OutputState.DISCARDED for row in planned)


def _admitted(one: Attempt) -> Move:
    return Move(job_id=one.job_id, attempt=one.attempt, event=JobEvent.ADMITTED, to=JobState.RUNNING)


def _course(one: Attempt, used: float) -> list[Move]:
    """The moves of an attempt that ended well, whatever was heard of it before."""
    late = one.state in WAITING
    first = [] if late or one.admitted_at else [_admitted(one)]
    event = JobEvent.LATE_REPORT if late else JobEvent.SUCCEEDED
    last = Move(job_id=one.job_id, attempt=one.attempt, event=event, to=JobState.STAGEOUT, used=used)
    return [*first, last]


def _failure(one: Attempt, report: Report, planned: Sequence[OutputRow]) -> Failure | None:
    """What went wrong by this report; None where all is well."""
    if report["outcome"] != "done":
        kind = retries.classify(report["exit_code"], report.get("signal"), report["error_class"])
        error = report.get("error") or f"exit code {report['exit_code']}"
    else:
        said = {entry["name"] for entry in report["outputs"]}
        if {row.name for row in planned} == said:
            return None
        kind, error = ErrorClass.BAD_REPORT, f"outputs reported: {', '.join(sorted(said)) or 'none'}"
    return Failure(attempt=one, event=JobEvent.FAILURE, kind=kind, error=error, report=report)


def _moves(one: Failure, decision: Retry, used: float) -> list[Move]:
    """The moves of a job whose attempt failed."""
    of = one.attempt
    first = []
    if one.event == JobEvent.VANISHED:
        gone = {"error": one.error}
        first = [
            Move(
                job_id=of.job_id,
                attempt=of.attempt,
                event=one.event,
                to=JobState.LOST,
                code="LOST",
                params=gone,
            )
        ]
    elif one.report is not None and of.admitted_at is None and of.state not in WAITING:
        first = [_admitted(of)]
    held = "input" if decision.reason_code == retries.Reason.WAITS_FOR_INPUT else "operator"
    last = Move(
        job_id=of.job_id,
        attempt=of.attempt,
        event=JobEvent.FAILURE if first else one.event,
        to=JobState(decision.state),
        code=str(decision.reason_code),
        params={**decision.params, "error": one.error[:300]},
        due_at=decision.due_at,
        hold_kind=held if decision.state == "HELD" else None,
        used=used,
    )
    return [*first, last]


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
