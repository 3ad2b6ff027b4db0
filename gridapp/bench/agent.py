"""What one agent does to a batch of jobs, by the product's public functions; each call is one commit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from gridapp.bench.backlog import UNITS, Backlog, Line
from gridcore.ids import BatchKey
from prodsys.job_states import JobEvent, JobKind, JobState
from prodsys.jobs import attempts, store
from prodsys.jobs.attempts import Attempt, Claimant, Ending
from prodsys.jobs.queueport import Admission
from prodsys.jobs.store import Head, Move, NewJob, rank_of
from prodsys.jobs.tally import Tally
from prodsys.queue import taskqueue
from prodsys.queue.outlook import Memory

INSTANCE = "be" * 8
AGENT = "bench"
WALL_S = 1.0
ENDING = Ending(exit_code=0, wall_s=WALL_S, cpu_s=WALL_S, report={"outcome": "done"})

#: A job's way from its lease to its end.
STEPS = {
    JobState.SUBMITTED: JobEvent.RECORDED,
    JobState.RUNNING: JobEvent.ADMITTED,
    JobState.STAGEOUT: JobEvent.SUCCEEDED,
    JobState.DONE: JobEvent.COMMITTED,
}


@dataclass(frozen=True, slots=True)
class Held:
    """A job the agent has claimed: its attempt, and what the share is charged."""

    attempt: Attempt
    class_id: int
    cores: int


class Agent:
    """One agent at one endpoint."""

    def __init__(self, backlog: Backlog) -> None:
        self._backlog = backlog
        self._db = backlog.database
        self._memory = Memory()

    def claim(self, n: int) -> list[Held]:
        """Claim."""
        backlog, now = self._backlog, self._backlog.now()
        by = Claimant(
            endpoint_id=backlog.endpoint_id, site_id=backlog.site_id, agent=AGENT, instance=INSTANCE
        )

        def unit(conn: Connection) -> list[Held]:
            heads = taskqueue.claim(conn, by, n, now, self._memory)
            return [Held(self._attempt(one), one.class_id, one.cores) for one in heads]

        return self._db.transaction(unit)

    def _attempt(self, head: Head) -> Attempt:
        number = head.attempt + 1
        return Attempt(
            job_id=head.id,
            attempt=number,
            key=str(BatchKey(INSTANCE, head.id, number)),
            endpoint_id=self._backlog.endpoint_id,
            state=JobState.LEASED,
            current=True,
            intent_at=None,
            batch_id=None,
            nonce=None,
            admitted_at=None,
            ended_at=None,
            error_class=None,
        )

    def finish(self, held: Sequence[Held]) -> None:
        """What a good report and its settlement do: attempts closed, three moves of each job."""
        now = self._backlog.now()
        states = (JobState.RUNNING, JobState.STAGEOUT, JobState.DONE)

        def unit(conn: Connection) -> None:
            tally = Tally()
            store.apply(conn, [_move(one, state) for one in held for state in states], now, tally)
            tally.write(conn, attempts.closed([(one.attempt, ENDING) for one in held], now))

        self._db.transaction(unit)

    def step(self, held: Sequence[Held], to: JobState) -> None:
        """Move the jobs on by one state, with what that state writes into their attempts."""
        now = self._backlog.now()

        def unit(conn: Connection) -> None:
            store.apply(conn, [_move(one, to) for one in held], now)
            _touch(conn, [one.attempt for one in held], to, now)

        self._db.transaction(unit)

    def insert(self, jobs: Sequence[NewJob]) -> None:
        """Queue new jobs."""
        now = self._backlog.now()
        self._db.transaction(lambda conn: store.insert(conn, jobs, now))


def _touch(conn: Connection, held: Sequence[Attempt], to: JobState, now: datetime) -> None:
    """What a state writes into the attempts."""
    if to == JobState.SUBMITTED:
        attempts.intend(conn, held, now)
        attempts.record(conn, [(one, f"b{one.job_id}") for one in held], now)
    elif to == JobState.RUNNING:
        told = [(one, Admission(one.key, f"n{one.job_id}", "worker")) for one in held]
        attempts.admit_all(conn, told, now)
    elif to == JobState.STAGEOUT:
        attempts.close_all(conn, [(one, ENDING) for one in held], now)


def _move(one: Held, to: JobState) -> Move:
    used = WALL_S * one.cores if to == JobState.STAGEOUT else 0.0
    of = one.attempt
    return Move(job_id=of.job_id, attempt=of.attempt, event=STEPS[to], to=to, used=used)


def new_jobs(backlog: Backlog, line: Line, first_index: int, n: int) -> list[NewJob]:
    """Jobs as the job maker would queue them: distinct ranks, a seed and an event range each."""
    ids = backlog.keys.take("job", n)
    rank = rank_of(backlog.now(), 0)
    return [
        NewJob(
            id=ids[i],
            task_id=line.task_id,
            index=first_index + i,
            kind=JobKind.PROCESS,
            class_id=line.class_id,
            rank=rank + first_index + i,
            units=UNITS,
            spec={
                "seed": (ids[i] * 7919) % 900_000_000,
                "first_event": (first_index + i - 1) * UNITS,
                "events": UNITS,
                "run": 1,
                "lumi": first_index + i,
            },
        )
        for i in range(n)
    ]
