"""Calls of the QueuePort: what they may touch, what workers may say, and what another hand does meanwhile."""

from __future__ import annotations

import math
import threading
from pathlib import Path

import pytest
from grids.failing_grid import ALDER, BIRCH, FailingGrid, report
from grids.waiting_grid import step
from servers.backlog import NOW, fill
from sqlalchemy import Connection, func, select, update

from catalogs.tables import wish
from gridcore.db import Database
from prodsys.executors.base import report_fault
from prodsys.job_states import JobEvent, JobState
from prodsys.jobs import store
from prodsys.jobs.queueport import Admission, News
from prodsys.jobs.store import Move
from prodsys.settling import accounting
from prodsys.settling.retries import ErrorClass
from prodsys.tables import attempt, job, share_node, task


@pytest.fixture
def grid(database: Database, tmp_path: Path) -> FailingGrid:
    made = FailingGrid(database, tmp_path)
    made.request(step("gen"))
    made.make()
    return made


def test_an_endpoint_has_no_say_in_the_attempts_of_another(grid: FailingGrid) -> None:
    (item,) = grid.claim(BIRCH)
    other = grid.call(ALDER)
    assert grid.port.intend(other, [item.key]) == []
    grid.port.submitted(other, [(item.key, "b1")])
    grid.port.reported(other, News(admitted=[Admission(item.key, "n1")], withdrawn=[item.key]))
    grid.refuse(ALDER, item.key)
    grid.finish(ALDER, item)
    assert grid.state() == JobState.LEASED
    grid.finish(BIRCH, item)
    assert grid.state() == JobState.STAGEOUT


def test_every_call_may_be_repeated(grid: FailingGrid) -> None:
    (item,) = grid.claim(BIRCH)
    for _ in range(2):
        grid.port.submitted(grid.call(BIRCH), [(item.key, "b1")])
        grid.port.reported(grid.call(BIRCH), News(admitted=[Admission(item.key, "n1")]))
        assert grid.state() == JobState.RUNNING
    for _ in range(2):
        grid.port.finished(grid.call(BIRCH), [(item.key, report(item.document, ErrorClass.PAYLOAD))])
        assert grid.state() == JobState.RETRY_WAIT
    assert len(grid.rows(select(wish.c.id))) == 1


def test_words_no_database_takes_do_not_stop_the_agent(grid: FailingGrid) -> None:
    (item,) = grid.claim(BIRCH)
    said = report(item.document, ErrorClass.PAYLOAD) | {
        "error": "a\0b\ud800" + "c" * 2000,
        "host": "\0" * 300,
    }
    grid.port.finished(grid.call(BIRCH), [(item.key, said)])
    assert grid.state() == JobState.RETRY_WAIT
    (row,) = grid.rows(select(attempt.c.error, attempt.c.host))
    assert row.error.startswith("a b?c")
    assert (len(row.error), len(row.host)) == (1000, 200)


def test_no_more_time_is_charged_than_has_passed(grid: FailingGrid) -> None:
    (item,) = grid.claim(BIRCH)
    said = report(item.document, None)
    said["usage"]["wall_s"] = 1e12
    grid.port.finished(grid.call(BIRCH), [(item.key, said)])
    (row,) = grid.rows(select(func.sum(share_node.c.used).label("used")))
    assert 0 < row.used < 3600


@pytest.mark.parametrize("wall_s", [True, math.nan, math.inf, -1, 10**400, "1"])
def test_usage_that_is_no_number_is_no_sound_report(grid: FailingGrid, wall_s: object) -> None:
    (item,) = grid.claim(BIRCH)
    said = {**report(item.document, None), "version": 1, "key": item.key, "nonce": "n"}
    assert report_fault(said, item.key, "n") is None
    assert report_fault({**said, "usage": {"wall_s": wall_s}}, item.key, "n") == (
        "the report's usage is malformed"
    )


# --- another hand meanwhile --------------------------------------------------------------------------------


def waits(database: Database) -> bool:
    """Whether somebody waits for a lock."""
    if database.dialect == "sqlite":
        return True
    with database.snapshot() as conn:
        found = conn.exec_driver_sql(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' "
            "AND datname = current_database()"
        )
        return bool(found.scalar_one())


def test_a_job_that_changes_its_class_meanwhile_still_moves(database: Database) -> None:
    """A row read under a lock that had to be waited for is the new one, with what belongs to it."""
    fill(database, 1, classes=2)
    hold = Move(job_id=1, attempt=0, event=JobEvent.HOLD, to=JobState.HELD)
    back = Move(job_id=1, attempt=0, event=JobEvent.RELEASE, to=JobState.READY, class_id=2)
    kill = Move(job_id=1, attempt=0, event=JobEvent.KILL, to=JobState.KILLED)
    made: list[Move] = []

    def other() -> None:
        made.extend(database.transaction(lambda conn: store.apply(conn, [kill], NOW)))

    thread = threading.Thread(target=other)

    def unit(conn: Connection) -> None:
        store.apply(conn, [hold, back], NOW)
        thread.start()
        while not waits(database):
            pass

    database.transaction(unit)
    thread.join(timeout=60)
    told = update(task).where(task.c.id == 1).values(units_made=10)  # the backlog does not say
    database.transaction(lambda conn: conn.execute(told))
    assert made == [kill]
    with database.snapshot() as conn:
        assert conn.execute(select(job.c.class_id, job.c.state)).one() == (2, JobState.KILLED)


# --- jobs that cannot be committed -------------------------------------------------------------------------


@pytest.fixture(params=[1, 50])
def batch(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(accounting, "BATCH", request.param)
    return int(request.param)


@pytest.mark.usefixtures("batch")
def test_a_job_that_cannot_be_committed_is_in_nobodys_way(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = FailingGrid(database, tmp_path)
    grid.request(step("gen", jobs=3))
    grid.make()
    items = grid.claim(BIRCH, 3)
    assert len(items) == 3
    for item in items:
        grid.finish(BIRCH, item)
    real, first = accounting.commit, grid.jobs()[0].id

    def commit(conn, settler, task_id, job_ids, reserved):  # type: ignore[no-untyped-def]
        if first in job_ids:
            raise ValueError("no")
        return real(conn, settler, task_id, job_ids, reserved)

    accountant = grid.agents[2]
    with monkeypatch.context() as patched:
        patched.setattr(accounting, "commit", commit)
        with pytest.raises(ValueError, match="no"):
            grid.cycle([accountant])
    assert [row.state for row in grid.jobs()] == [JobState.STAGEOUT, JobState.DONE, JobState.DONE]
    grid.cycle([accountant])
    assert {row.state for row in grid.jobs()} == {JobState.DONE}
