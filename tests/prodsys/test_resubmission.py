"""A resubmission never resurrects an old attempt, whatever is heard of it and when."""

from __future__ import annotations

from pathlib import Path

import pytest
from grids.failing_grid import ALDER, BIRCH, FailingGrid
from grids.waiting_grid import step
from sqlalchemy import Connection, select

from catalogs.tables import data_file, wish
from gridcore.db import Database, dbnow
from prodsys.job_states import JobEvent, JobState
from prodsys.jobs import store
from prodsys.jobs.outputs import OutputState
from prodsys.jobs.queueport import WorkItem
from prodsys.jobs.store import Move
from prodsys.settling.retries import ErrorClass
from prodsys.tables import attempt, output


@pytest.fixture
def grid(database: Database, tmp_path: Path) -> FailingGrid:
    made = FailingGrid(database, tmp_path)
    made.request(step("gen"))
    made.make()
    return made


def retried_by_hand(grid: FailingGrid) -> None:
    """What an operator's `job retry` does to the job."""

    def unit(conn: Connection) -> list[Move]:
        row, now = grid.job(), dbnow(conn)
        move = Move(
            job_id=row.id,
            attempt=row.attempt,
            event=JobEvent.RETRY,
            to=JobState.RETRY_WAIT,
            code="RETRY",
            params={"by": "ops"},
            due_at=now,
        )
        return store.apply(conn, [move], now)

    assert grid.state() == JobState.FAILED
    assert len(grid.database.transaction(unit)) == 1


def lost_for_good(grid: FailingGrid) -> WorkItem:
    """An attempt that was given up: its job FAILED, its output wished away."""
    grid.rule(ErrorClass.LOST, max_retries=0)
    (item,) = grid.claim(BIRCH)
    grid.lose(BIRCH, item.key)
    assert grid.state() == JobState.FAILED
    (lfn,) = [one["lfn"] for one in item.document["outputs"]]
    assert [row.subject for row in grid.rows(select(wish.c.subject))] == [lfn]
    return item


def nothing_of(grid: FailingGrid, item: WorkItem) -> None:
    """The attempt has left nothing that counts."""
    wanted = select(output.c.state).where(output.c.attempt == item.document["attempt"])
    assert {row.state for row in grid.rows(wanted)} == {OutputState.DISCARDED}
    assert grid.rows(select(data_file.c.id)) == []


def test_news_of_a_failed_attempt_change_nothing_after_a_retry(grid: FailingGrid) -> None:
    grid.rule(ErrorClass.PAYLOAD, max_retries=0)
    (item,) = grid.claim(BIRCH)
    grid.finish(BIRCH, item, ErrorClass.PAYLOAD)
    retried_by_hand(grid)
    grid.finish(BIRCH, item)
    assert grid.state() == JobState.RETRY_WAIT
    grid.make()
    grid.finish(BIRCH, item)
    assert (grid.state(), grid.job().attempt) == (JobState.READY, 1)
    nothing_of(grid, item)


def test_a_lost_attempt_that_was_given_up_stays_so_after_a_retry(grid: FailingGrid) -> None:
    item = lost_for_good(grid)
    retried_by_hand(grid)
    grid.finish(BIRCH, item)
    assert grid.state() == JobState.RETRY_WAIT
    grid.make()
    assert grid.state() == JobState.READY
    grid.finish(BIRCH, item)
    assert grid.state() == JobState.READY
    nothing_of(grid, item)


def test_the_new_attempt_alone_counts(grid: FailingGrid) -> None:
    item = lost_for_good(grid)
    retried_by_hand(grid)
    grid.make()
    (again,) = grid.claim(ALDER)
    assert again.document["attempt"] == 2
    grid.finish(BIRCH, item)
    assert grid.state() == JobState.LEASED
    grid.finish(ALDER, again)
    assert grid.state() == JobState.STAGEOUT
    grid.finish(BIRCH, item)
    assert grid.state() == JobState.STAGEOUT
    nothing_of(grid, item)
    ends = grid.rows(select(attempt.c.attempt, attempt.c.error_class).order_by(attempt.c.attempt))
    assert [tuple(row) for row in ends] == [(1, "lost"), (2, None)]
    said = grid.port.commands(grid.call(BIRCH), [item.key])
    assert (said.drop, said.late) == ([item.key], [])


def test_a_lost_attempt_that_waits_for_its_retry_still_counts(grid: FailingGrid) -> None:
    (item,) = grid.claim(BIRCH)
    grid.lose(BIRCH, item.key)
    assert grid.state() == JobState.RETRY_WAIT
    grid.finish(BIRCH, item)
    assert grid.state() == JobState.STAGEOUT
