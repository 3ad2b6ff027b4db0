"""A merge that differs from its inputs: ended, its inputs merged anew, but not for ever."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from servers.work_grid import STEP, Grid
from sqlalchemy import Connection, select

from agents.runtime.agent import Agent
from catalogs.tables import wish
from gridcore.db import Database
from prodsys.job_states import JobKind, JobState
from prodsys.jobs import attempts, outputs
from prodsys.jobs.outputs import OutputState
from prodsys.settling import releases, retry_rules
from prodsys.settling.releases import MERGE_DIFFERS, RELEASES
from prodsys.settling.settlement import Settler
from prodsys.states import TaskState
from prodsys.tables import attempt, job, output
from prodsys.tasks import tasks


class Patient(Grid):
    """A grid some of whose agents rest."""

    def until_true(self, agents: list[Agent], true: Any) -> None:
        self.until(lambda: self.cycle(agents) or true())

    def until(self, true: Any, seconds: int = 30) -> None:
        resting, self.agents = self.agents, []
        try:
            super().until(true, seconds)
        finally:
            self.agents = resting


def merges(grid: Grid) -> list[Any]:
    return grid.rows(select(job).where(job.c.kind == JobKind.MERGE).order_by(job.c.id))


def staged_merge(grid: Patient) -> Any:
    """The newest merge, once it waits for the accountant."""
    job_maker, prodagent, _, merger = grid.agents
    grid.until_true([job_maker, merger, prodagent], lambda: merges(grid)[-1].state == JobState.STAGEOUT)
    return merges(grid)[-1]


def end(grid: Grid, row: Any) -> bool:
    wish_ids = grid.keys.take("wish", 20)

    def unit(conn: Connection) -> bool:
        settler = Settler(conn, grid.context.clock.now(), retry_rules.rules(conn), 0.001, wish_ids)
        keys = conn.execute(select(attempt.c.batch_key).where(attempt.c.job_id == row.id)).scalars().all()
        (one,) = attempts.by_key(conn, keys).values()
        inputs = outputs.of_merges(conn, [row.id])
        ended = releases.end(settler, one, inputs, "the merge reports 9 events, its inputs hold 10")
        settler.write()
        return ended

    return grid.database.transaction(unit)


def test_its_inputs_are_merged_anew_and_in_the_end_it_stays_failed(
    database: Database, tmp_path: Path
) -> None:
    grid = Patient(database, tmp_path)
    name = grid.submit(STEP.format(events=10))
    job_maker, prodagent, accountant, merger = grid.agents
    makers = [job_maker, prodagent, accountant]
    task = grid.task(name)

    def made() -> bool:
        with database.snapshot() as conn:
            return tasks.units_in(tasks.job_counts(conn, task.id), JobState.DONE) == 10

    grid.until_true(makers, made)
    grid.cycle([merger])
    sources = select(output.c.id, output.c.state, output.c.merge_job_id).where(output.c.kind == "unmerged")
    for number in range(1, RELEASES + 1):
        row = staged_merge(grid)
        assert end(grid, row)
        assert not end(grid, row)  # it has ended before
        assert [one.state for one in merges(grid)] == [JobState.KILLED] * number
        assert merges(grid)[-1].code == MERGE_DIFFERS
        assert "inputs hold 10" in merges(grid)[-1].params["error"]
        assert [(one.state, one.merge_job_id) for one in grid.rows(sources)] == [
            (OutputState.REGISTERED, None)
        ] * 2
        grid.cycle([job_maker])
        assert grid.task(name).state == TaskState.ACTIVE
        grid.cycle([merger])
    assert end(grid, staged_merge(grid))
    assert [one.state for one in merges(grid)] == [JobState.KILLED] * RELEASES + [JobState.FAILED]
    assert {(one.state, one.merge_job_id) for one in grid.rows(sources)} == {
        (OutputState.MERGING, merges(grid)[-1].id)
    }
    grid.cycle([merger, job_maker])
    assert len(merges(grid)) == RELEASES + 1
    assert grid.task(name).state == TaskState.CLOSING
    discarded = grid.rows(select(output.c.lfn).where(output.c.state == OutputState.DISCARDED))
    assert sorted(one.subject for one in grid.rows(select(wish.c.subject))) == sorted(
        one.lfn for one in discarded
    )
    assert len(discarded) == RELEASES + 1
