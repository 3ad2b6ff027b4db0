"""Job maker: cuts tasks into jobs as their input appears, keeps eligibility true, returns due retries to the
queue, and ends tasks and requests that are worked off."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

from sqlalchemy import Connection

from agents.runtime.agent import Agent, Counts, each, own_lease
from catalogs import bookkeeping
from gridcore.bus import Event
from gridcore.db import leases
from gridcore.db.leases import Lease
from prodsys import classes, completion, jobmaking, requests, tasks
from prodsys.completion import Progress
from prodsys.jobmaking import NewKeys
from prodsys.jobs import store
from prodsys.jobs.machine import JobState
from prodsys.states import RequestState, TaskState
from prodsys.tasks import Task, jobs_in

#: Jobs made in one transaction.
SLICE = 500


class JobMaker(Agent):
    """Makes jobs from units, bounded per task, and settles what has ended."""

    name: ClassVar[str] = "job_maker"
    wakes: ClassVar[frozenset[str]] = frozenset(
        ["block.closed", "task.created", "job.done", "replica.complete"]
    )

    def cycle(self, held: Mapping[str, Lease]) -> Counts:
        """One pass: jobs, eligibility, retries, endings."""
        lease = held[own_lease(self.name)]
        with self.context.database.snapshot() as conn:
            active = tasks.in_state(conn, TaskState.ACTIVE)
        duties: list[Callable[[], Counts]] = [
            lambda: each(active, lambda task: {"jobs_made": self._make(lease, task)}),
            lambda: {"verdicts": self._judge(lease)},
            lambda: {"retried": self._return_due(lease)},
            lambda: self._end(lease),
        ]
        counts = each(duties, lambda duty: duty())
        if counts.get("jobs_made") or counts.get("retried"):
            self.context.bus.publish(Event("queue.ready", self.name))
        return counts

    def _make(self, lease: Lease, task: Task) -> int:
        with self.context.database.snapshot() as conn:
            ready = jobs_in(tasks.job_counts(conn, task.id), JobState.READY)
            blocks = jobmaking.waiting_blocks(conn, task) if task.unit_kind == "files" else []
        room = min(SLICE, self.context.settings.work.ready_per_task - ready)
        if room <= 0:
            return 0
        if task.unit_kind == "events":
            if task.units_made >= (task.units_total or 0):
                return 0
            return self._transact(room, lambda conn, keys: self._event_jobs(conn, keys, lease, task, room))
        return sum(self._block(lease, task.id, block_id) for block_id in blocks[: max(1, room // 100)])

    def _event_jobs(self, conn: Connection, keys: NewKeys, lease: Lease, task: Task, room: int) -> int:
        now = leases.hold(conn, lease)
        return jobmaking.make_event_jobs(conn, keys, tasks.lock(conn, task.id), room, now)

    def _block(self, lease: Lease, task_id: int, block_id: int) -> int:
        with self.context.database.snapshot() as conn:
            files = bookkeeping.blocks_by_id(conn, [block_id])[block_id].files

        def unit(conn: Connection, keys: NewKeys) -> int:
            now = leases.hold(conn, lease)
            return jobmaking.make_file_jobs(conn, keys, tasks.lock(conn, task_id), block_id, now)

        return self._transact(files, unit)

    def _transact(self, jobs: int, unit: Callable[[Connection, NewKeys], int]) -> int:
        job_ids = self.context.keys.take("job", jobs)
        class_ids = self.context.keys.take("job_class")
        return self.context.database.transaction(
            lambda conn: unit(conn, NewKeys(iter(job_ids), iter(class_ids)))
        )

    def _return_due(self, lease: Lease) -> int:
        def unit(conn: Connection) -> int:
            now = leases.hold(conn, lease)
            return len(store.apply(conn, store.due(conn, now, SLICE), now))

        return self.context.database.transaction(unit)

    def _judge(self, lease: Lease) -> int:
        """Write the verdicts that sites, endpoints or replicas have changed."""
        with self.context.database.snapshot() as conn:
            news = classes.changed(conn, classes.judge_live(conn))
        if not news:
            return 0

        def unit(conn: Connection) -> int:
            now = leases.hold(conn, lease)
            classes.store_verdicts(conn, news, now)
            return len(news)

        return self.context.database.transaction(unit)

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
                bookkeeping.close_dataset(conn, task.output_dataset_id)
            return int(tasks.move(conn, task, *due, now, actor=self.name))

        return self.context.database.transaction(unit)

    def _total(self, conn: Connection, task: Task) -> int | None:
        """All units there will ever be, once that is known."""
        if task.units_total is None and jobmaking.input_complete(conn, task):
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
        open_blocks=jobmaking.open_blocks(conn, task.output_dataset_id),
    )
