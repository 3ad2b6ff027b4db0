"""Work that waits in a full batch system gives way to a group that starves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from servers.work_grid import STEP, Grid
from sqlalchemy import Connection, select

from gridcore.db import Database, insert_rows
from prodsys.executors.base import BatchState, Refusal, Status, Submission, Submitted
from prodsys.job_states import JobState
from prodsys.shares import shares
from prodsys.tables import attempt, job, output, task, work_limit


class Full:
    """A batch system in which nothing ever starts, with room for so many."""

    kind = "full"

    def __init__(self, room: int) -> None:
        self.room, self.keys = room, list[str]()

    def wanted(self) -> int:
        return self.room - len(self.keys)

    def submit(self, submissions: Sequence[Submission]) -> list[Submitted | Refusal]:
        self.keys += [one.key for one in submissions]
        return [Submitted(one.key, f"b{one.key}") for one in submissions]

    def find(self, keys: Sequence[str]) -> dict[str, str | None]:
        return {key: f"b{key}" if key in self.keys else None for key in keys}

    def poll(self, keys: Sequence[str]) -> list[Status]:
        return [
            Status(key=key, state=BatchState.WAITING if key in self.keys else BatchState.GONE) for key in keys
        ]

    def retire(self, keys: Sequence[str]) -> dict[str, bool]:
        return dict.fromkeys(keys, True)

    def cancel(self, keys: Sequence[str]) -> None:
        self.keys = [key for key in self.keys if key not in keys]

    def forget(self, keys: Sequence[str]) -> None:
        """Nothing is left of what was cancelled."""

    def known(self) -> list[str]:
        return list(self.keys)


OTHER = STEP.replace('name = "toy"', 'name = "late"').replace("/Toy/", "/Late/")


def states(grid: Grid, group: str) -> list[JobState]:
    statement = select(job.c.state).join(task, task.c.id == job.c.task_id).where(task.c.acct_group == group)
    return sorted(row.state for row in grid.rows(statement))


def test_a_starving_group_gets_what_another_has_queued_up(database: Database, tmp_path: Path) -> None:
    grid = Grid(database, tmp_path)
    grid.executor = Full(room=3)
    grid.agents = grid.make_agents()
    now = grid.context.clock.now()
    database.transaction(lambda conn: shares.put(conn, 902, "higgs", None, 30, now))
    grid.submit(STEP.format(events=60))
    for _ in range(3):
        grid.cycle()
    sent = states(grid, "production").count(JobState.SUBMITTED)
    assert sent == 3
    grid.submit(OTHER.format(events=60).replace('group = "production"', 'group = "higgs"'), client_id="c2")
    for _ in range(4):
        grid.cycle()
    assert states(grid, "higgs").count(JobState.SUBMITTED) >= 1
    assert states(grid, "production").count(JobState.SUBMITTED) < sent
    closed = grid.rows(select(attempt).where(attempt.c.ended_at.is_not(None)))
    assert closed
    assert all("withdrawn" in row.error and not row.penalty and not row.error_class for row in closed)
    left = grid.rows(select(output.c.job_id, output.c.attempt))
    assert not {(row.job_id, row.attempt) for row in closed} & {tuple(row) for row in left}


def test_nothing_is_taken_back_for_work_that_may_not_start(database: Database, tmp_path: Path) -> None:
    grid = Grid(database, tmp_path)
    grid.executor = Full(room=3)
    grid.agents = grid.make_agents()
    now = grid.context.clock.now()
    bound = {"id": 1, "name": "none", "share_path": "higgs", "max_jobs": 0}

    def unit(conn: Connection) -> None:
        shares.put(conn, 902, "higgs", None, 30, now)
        insert_rows(conn, work_limit, [bound])

    database.transaction(unit)
    grid.submit(STEP.format(events=60))
    grid.submit(OTHER.format(events=60).replace('group = "production"', 'group = "higgs"'), client_id="c2")
    for _ in range(5):
        grid.cycle()
    assert states(grid, "production").count(JobState.SUBMITTED) == 3
    assert not grid.rows(select(attempt).where(attempt.c.ended_at.is_not(None)))
