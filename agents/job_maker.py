"""Job maker: cuts tasks into jobs as their input appears, keeps eligibility true, returns due retries to the
queue, and ends tasks and requests that are worked off."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import ClassVar

from sqlalchemy import Connection

from agents.runtime.agent import Agent, Context, Counts, each, own_lease
from catalogs import bookkeeping, validity
from gridcore.bus import Event
from gridcore.db import dbnow, leases
from gridcore.db.leases import Lease
from gridcore.errors import UsageError
from gridcore.log import get
from prodsys.control import amendments, holds, retargets
from prodsys.job_states import JobState
from prodsys.jobs import lostinputs
from prodsys.queue import breakers, classes
from prodsys.requests import completion, requests
from prodsys.requests.completion import Progress
from prodsys.settling import retry_rules
from prodsys.states import RequestState, TaskState
from prodsys.tasks import tasks
from prodsys.tasks.tasks import Task, jobs_in
from prodsys.units import jobmaking, slicing
from prodsys.units.jobmaking import NewKeys
from prodsys.units.slicing import Slice

log = get(__name__)

#: Jobs made in one transaction.
SLICE = 500
#: Files whose jobs are told in one pass that nobody shall read them.
LOST_FILES = 200
#: Transactions that make jobs of one task in one pass.
SLICES = 10


class JobMaker(Agent):
    """Makes jobs from units, bounded per task, and settles what has ended."""

    name: ClassVar[str] = "job_maker"
    wakes: ClassVar[frozenset[str]] = frozenset(
        ["block.closed", "task.created", "job.done", "replica.complete"]
    )

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._watch = classes.Watch()

    def cycle(self, held: Mapping[str, Lease]) -> Counts:
        """One pass: lost inputs, pauses, jobs, eligibility, retries, endings."""
        lease = held[own_lease(self.name)]
        with self.context.database.snapshot() as conn:
            active = tasks.in_state(conn, TaskState.ACTIVE)
        duties: list[Callable[[], Counts]] = [
            lambda: {"held_for_input": self._tell_lost(lease)},
            lambda: self._pause(lease, active),
            lambda: each(active, lambda task: {"jobs_made": self._make(lease, task)}),
            lambda: {"verdicts": self._judge(lease)},
            lambda: {"retried": self._return_due(lease)},
            lambda: self._pause(lease, active),  # once more: some of these may be of a task paused just now
            lambda: self._end(lease),
        ]
        counts = each(duties, lambda duty: duty())
        if any(counts.get(name) for name in ("jobs_made", "retried", "released")):
            self.context.bus.publish(Event("queue.ready", self.name))
        return counts

    def _pause(self, lease: Lease, active: Sequence[Task]) -> Counts:
        """Bring tasks and their waiting jobs in line with what is paused."""
        with self.context.database.snapshot() as conn:
            paused = tasks.in_state(conn, TaskState.PAUSED)
            stopped = set(requests.in_state(conn, RequestState.PAUSED))
            wrong = [one for one in active if one.request_id in stopped]
            wrong += [one for one in paused if one.request_id not in stopped]
            waiting = [one for one in paused if _jobs(conn, one, JobState.READY)]
            resumed = [one for one in active if one.forced or one.code == amendments.RESUMED]
            freed = [one for one in resumed if _jobs(conn, one, JobState.HELD) and holds.held(conn, one.id)]
        awry = {one.request_id for one in wrong if one.request_id is not None}
        aligned = each(sorted(awry), lambda one: {"aligned": self._align(lease, one)})
        held = each(waiting, lambda one: {"held": _often(lambda: self._hold(lease, one.id))})
        released = each(freed, lambda one: {"released": _often(lambda: self._release(lease, one.id))})
        return {**aligned, **held, **released}

    def _align(self, lease: Lease, request_id: int) -> int:
        def unit(conn: Connection) -> int:
            now = leases.hold(conn, lease)
            return amendments.align(conn, request_id, self.name, now)

        return self.context.database.transaction(unit)

    def _hold(self, lease: Lease, task_id: int) -> int:
        """Hold a slice of the waiting jobs of a task, if it is paused still."""

        def unit(conn: Connection) -> int:
            now = leases.hold(conn, lease)
            task = tasks.lock(conn, task_id)
            return holds.hold(conn, task, SLICE, now) if task.state == TaskState.PAUSED else 0

        return self.context.database.transaction(unit)

    def _release(self, lease: Lease, task_id: int) -> int:
        """Release a slice of the jobs that a pause held, if their task goes on still."""
        with self.context.database.snapshot() as conn:
            job_ids = holds.waiting(conn, task_id, SLICE)
            banned, rules = breakers.banned(conn), retry_rules.rules(conn)
            planned = retargets.releases(conn, rules, job_ids, banned)
        class_ids = self.context.keys.take("job_class", planned.new_classes)

        def unit(conn: Connection) -> int:
            now = leases.hold(conn, lease)
            if tasks.lock(conn, task_id).state != TaskState.ACTIVE:
                return 0
            return holds.release(
                conn, job_ids, now, lambda moves: retargets.into(conn, planned, class_ids, moves)
            )

        return self.context.database.transaction(unit)

    def _tell_lost(self, lease: Lease) -> int:
        """Hold the waiting jobs that list a file nobody shall read any more."""
        with self.context.database.snapshot() as conn:
            files = validity.untold(conn, LOST_FILES)
        if not files:
            return 0

        def unit(conn: Connection) -> int:
            return lostinputs.hold(conn, files, SLICE, leases.hold(conn, lease))

        return _often(lambda: self.context.database.transaction(unit))

    def _make(self, lease: Lease, task: Task) -> int:
        """Slice after slice of a task, as far as there is room."""
        with self.context.database.snapshot() as conn:
            room = min(SLICE, self.context.settings.work.ready_per_task - _jobs(conn, task, JobState.READY))
        made = 0
        for _ in range(SLICES):
            with self.context.database.snapshot() as conn:
                due = self._slice(conn, tasks.by_id(conn, task.id), room - made)
            if due is None:
                break
            made += self._make_slice(lease, task.id, due)
        return made

    def _slice(self, conn: Connection, task: Task, room: int) -> Slice | None:
        if room <= 0 or task.state != TaskState.ACTIVE:
            return None
        try:
            return slicing.next_slice(conn, task, room, self.context.settings.work.max_jobs_per_task)
        except UsageError as error:  # an operator's turn: nothing is wrong with this agent
            log.warning("task cannot be cut", task=task.name, reason=error.message)
            return None

    def _make_slice(self, lease: Lease, task_id: int, due: Slice) -> int:
        job_ids = self.context.keys.take("job", len(due.pieces))
        class_ids = self.context.keys.take("job_class")

        def unit(conn: Connection) -> int:
            now = leases.hold(conn, lease)
            keys = NewKeys(iter(job_ids), iter(class_ids))
            return jobmaking.make(conn, keys, tasks.lock(conn, task_id), due, now)

        return self.context.database.transaction(unit)

    def _return_due(self, lease: Lease) -> int:
        """Jobs whose time has come, or whose input is complete again; some of them in another class."""
        pause = timedelta(seconds=self.context.settings.retry.base_s)
        with self.context.database.snapshot() as conn:
            banned = breakers.banned(conn)
            rules, now = retry_rules.rules(conn), dbnow(conn)
            planned = retargets.plan(conn, rules, now, SLICE, pause=pause, banned=banned)
        if not planned.moves:
            return 0
        class_ids = self.context.keys.take("job_class", planned.new_classes)

        def unit(conn: Connection) -> int:
            return len(retargets.carry_out(conn, planned, class_ids, leases.hold(conn, lease)))

        return self.context.database.transaction(unit)

    def _judge(self, lease: Lease) -> int:
        """Write the verdicts that sites, endpoints or replicas have changed."""
        with self.context.database.snapshot() as conn:
            news = self._watch.news(conn, lease.fence)

        def unit(conn: Connection, some: classes.Verdicts) -> int:
            classes.store_verdicts(conn, some, leases.hold(conn, lease))
            return len(some)

        write = self.context.database.transaction
        written = sum(write(partial(unit, some=some)) for some in classes.slices(news))
        self._watch.wrote()
        return written

    def _end(self, lease: Lease) -> Counts:
        with self.context.database.snapshot() as conn:
            open_tasks = [
                task
                for state in (TaskState.ACTIVE, TaskState.CLOSING)
                for task in tasks.in_state(conn, state)
            ]
            running = requests.running(conn)
        tasks_ended = each(open_tasks, lambda task: {"tasks_ended": self._end_task(lease, task)})
        ended = each(running, lambda one: {"requests_ended": self._end_request(lease, one)})
        return {**tasks_ended, **ended}

    def _end_task(self, lease: Lease, seen: Task) -> int:
        with self.context.database.snapshot() as conn:
            total = self._total(conn, seen)
            due = completion.next_state(_progress(conn, seen, total))
        if due is None and total == seen.units_total:
            return 0

        def unit(conn: Connection) -> int:
            now = leases.hold(conn, lease)
            task = tasks.lock(conn, seen.id)
            total = self._total(conn, task)
            if total is not None and task.units_total is None:
                tasks.set_total(conn, task.id, total)
            due = completion.next_state(_progress(conn, task, total))
            if due is None:
                return 0
            if due[1] == TaskState.CLOSING:
                bookkeeping.close_dataset(conn, task.output_dataset_id, self.name, now)
            # why it is complete stays to be read
            code, params = (task.code, task.params) if task.forced else (None, None)
            return int(tasks.move(conn, task, *due, now, actor=self.name, code=code, params=params))

        return self.context.database.transaction(unit)

    def _total(self, conn: Connection, task: Task) -> int | None:
        """All units there will ever be, once that is known."""
        if task.units_total is None and (task.forced or slicing.input_complete(conn, task)):
            return task.units_made
        return task.units_total

    def _end_request(self, lease: Lease, request_id: int) -> int:
        with self.context.database.snapshot() as conn:
            states = [task.state for task in tasks.of_request(conn, request_id)]
        if completion.of_request(states) is None:
            return 0

        def unit(conn: Connection) -> int:
            now = leases.hold(conn, lease)
            row = requests.lock(conn, request_id)
            ended = completion.of_request([task.state for task in tasks.of_request(conn, request_id)])
            if ended is None or row.state != RequestState.RUNNING:  # a task was taken up, or all aborted
                return 0
            requests.finish(conn, request_id, ended, now, self.name)
            return 1

        return self.context.database.transaction(unit)


def _progress(conn: Connection, task: Task, total: int | None) -> Progress:
    counts = tasks.job_counts(conn, task.id)
    return Progress(
        state=task.state,
        units_total=total,
        units_made=task.units_made,
        counts=counts,
        merges_left=jobmaking.merges_left(conn, task, counts),
        open_blocks=slicing.open_blocks(conn, task.output_dataset_id),
        units_wanted=task.units_wanted,
        forced=task.forced,
    )


def _often(act: Callable[[], int]) -> int:
    """Slice after slice, as many as one pass has; how many jobs."""
    done = 0
    for _ in range(SLICES):
        some = act()
        done += some
        if some < SLICE:
            break
    return done


def _jobs(conn: Connection, task: Task, *states: JobState) -> int:
    return jobs_in(tasks.job_counts(conn, task.id), *states)
