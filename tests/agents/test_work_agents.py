"""The work half, whole and real: requests to registered, merged files, and what survives which death."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest
from servers.work_grid import STEP, Grid
from sqlalchemy import func, select

from agents.runtime.leasing import LeaseKeeper
from catalogs import bookkeeping, discovery
from catalogs.tables import wish
from gridcore.db import Database, leases
from gridcore.db.leases import Owner
from prodsys import attempts, tasks
from prodsys.executors.local import LocalExecutor
from prodsys.jobs.machine import JobState
from prodsys.outputs import OutputState
from prodsys.queueport import Call, News
from prodsys.states import TaskState
from prodsys.tables import attempt, job, job_history, output


def test_a_request_becomes_merged_registered_files(database: Database, tmp_path: Path) -> None:
    grid = Grid(database, tmp_path)
    name = grid.submit(STEP.format(events=30))
    grid.until(lambda: grid.task(name).state == TaskState.CLOSING)
    with database.snapshot() as conn:
        view = discovery.dataset_show(conn, "/Toy/v1/GEN")
        counts = tasks.job_counts(conn, grid.task(name).id)
        wishes = conn.execute(select(func.count()).select_from(wish)).scalar_one()
    assert view.dataset.events == 30
    assert view.dataset.files == tasks.jobs_in([one for one in counts if one.kind == "merge"])
    assert tasks.units_in(counts, JobState.DONE) == 30
    assert wishes == 6  # each unmerged file is wished away
    dataset = bookkeeping.dataset_by_name
    with database.snapshot() as conn:
        found = dataset(conn, "/Toy/v1/GEN")
        assert found is not None
        blocks = discovery.blocks(conn, "/Toy/v1/GEN")
    for block in blocks:
        with database.snapshot() as conn:
            for file in bookkeeping.files_of_block(conn, block.block.id):
                path = tmp_path / "storage" / file.lfn.removeprefix("/store/")
                assert path.stat().st_size == file.bytes
    grid.close_blocks(name)
    assert grid.task(name).state == TaskState.COMPLETED


def test_a_failing_payload_is_retried_and_fails_with_its_reason(database: Database, tmp_path: Path) -> None:
    grid = Grid(database, tmp_path)
    script = '"/bin/sh", "-c", "echo nonsense >&2; exit 7"'
    text = STEP.format(events=5).replace('"python", "toy_generate.py"', script)
    name = grid.submit(text)
    grid.until(lambda: grid.task(name).state == TaskState.CLOSING)
    with database.snapshot() as conn:
        row = conn.execute(select(job)).one()
        tries = conn.execute(select(func.count()).select_from(attempt)).scalar_one()
    assert row.state == JobState.FAILED
    assert "nonsense" in row.params["error"]
    assert tries == 4
    grid.close_blocks(name)
    assert grid.task(name).state == TaskState.INCOMPLETE


SLOW = STEP.replace(
    '["python", "toy_generate.py"]',
    """["/bin/sh", "-c", "sleep 1; exec '{python}' toy_generate.py"]""",
)


def slow_request(events: int) -> str:
    return SLOW.replace("{python}", sys.executable).format(events=events)


def pid_in(grid: Grid, key: str, name: str) -> int:
    """The process named in a file of the job's directory, as soon as the file is there."""
    path = grid.root / "spool" / key / name
    grid.until(path.exists)
    return int(json.loads(path.read_text())["pid"])


def running_key(grid: Grid) -> str:
    """The key of a job whose payload runs."""
    running = select(attempt.c.batch_key).join(job, job.c.id == attempt.c.job_id)
    running = running.where(job.c.state == JobState.RUNNING)
    grid.until(lambda: bool(grid.rows(running)))
    return str(grid.rows(running)[0].batch_key)


def finish(grid: Grid, name: str, events: int) -> None:
    grid.until(lambda: grid.task(name).state == TaskState.CLOSING)
    with grid.database.snapshot() as conn:
        assert discovery.dataset_show(conn, "/Toy/v1/GEN").dataset.events == events


@pytest.mark.slow
def test_a_vanished_worker_is_lost_and_its_job_tried_again(sqlite_db: Database, tmp_path: Path) -> None:
    grid = Grid(sqlite_db, tmp_path)
    name = grid.submit(slow_request(10))
    key = running_key(grid)
    payload = pid_in(grid, key, "payload.json")
    os.kill(pid_in(grid, key, "worker.json"), signal.SIGKILL)
    os.killpg(payload, signal.SIGKILL)
    finish(grid, name, 10)
    history = [row.dst for row in grid.rows(select(job_history.c.dst).order_by(job_history.c.seq))]
    assert JobState.LOST in history
    lost = grid.rows(select(attempt).where(attempt.c.error_class == "lost"))
    assert [row.batch_key for row in lost] == [key]
    assert lost[0].penalty == 0
    discarded = grid.rows(select(output).where(output.c.state == OutputState.DISCARDED))
    assert [row.job_id for row in discarded] == [lost[0].job_id]


@pytest.mark.slow
def test_an_agent_that_dies_leaves_its_payloads_to_the_next(sqlite_db: Database, tmp_path: Path) -> None:
    grid = Grid(sqlite_db, tmp_path)
    name = grid.submit(slow_request(10))
    key = running_key(grid)
    fence = grid.rows(select(leases.lease.c.fence).where(leases.lease.c.name == "endpoint/T2_FI_Birch"))[
        0
    ].fence
    grid.keeper.close()
    grid.keeper = LeaseKeeper(sqlite_db, Owner.current("heir"), 60)
    grid.executor = LocalExecutor(tmp_path / "spool", slots=2, python=grid.executor.python)  # type: ignore[attr-defined]
    grid.agents = grid.make_agents()
    finish(grid, name, 10)
    now = grid.rows(select(leases.lease.c.fence).where(leases.lease.c.name == "endpoint/T2_FI_Birch"))[
        0
    ].fence
    assert now == fence + 1
    assert grid.rows(select(func.max(attempt.c.attempt)))[0][0] == 1  # adopted, not run again
    assert key in {row.batch_key for row in grid.rows(select(attempt.c.batch_key))}


class Dies(Exception):
    """The agent's process ends here."""


def test_death_between_claim_and_intent_returns_the_job_unharmed(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = Grid(database, tmp_path)
    name = grid.submit(STEP.format(events=10))

    def dies(*_: object) -> None:
        raise Dies

    with monkeypatch.context() as patched:
        patched.setattr("prodsys.sqlport.SqlQueuePort.intend", dies)
        for _ in range(2):
            with pytest.raises(Dies):
                grid.cycle()
        assert {row.state for row in grid.rows(select(job.c.state))} == {JobState.LEASED}
    finish(grid, name, 10)
    tries = grid.rows(select(attempt.c.job_id, attempt.c.error_class))
    assert [row.error_class for row in tries] == [None] * len({row.job_id for row in tries})


@pytest.mark.parametrize("sent", [False, True])
def test_death_around_submission_never_runs_a_job_twice(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: bool
) -> None:
    grid = Grid(database, tmp_path)
    name = grid.submit(STEP.format(events=10))
    really = LocalExecutor.submit

    def dies(self: LocalExecutor, submissions: object) -> None:
        if sent:
            really(self, submissions)  # type: ignore[arg-type]
        raise Dies

    with monkeypatch.context() as patched:
        patched.setattr(LocalExecutor, "submit", dies)
        with pytest.raises(Dies):
            grid.until(lambda: False)
    finish(grid, name, 10)
    tries = grid.rows(select(func.max(attempt.c.attempt)).where(attempt.c.error_class.is_(None)))[0][0]
    assert tries == (1 if sent else 2)
    assert not grid.rows(select(attempt).where(attempt.c.penalty == 1))


@pytest.mark.slow
def test_a_late_report_of_a_lost_attempt_still_counts(sqlite_db: Database, tmp_path: Path) -> None:
    grid = Grid(sqlite_db, tmp_path)
    name = grid.submit(slow_request(5))
    key = running_key(grid)
    with sqlite_db.snapshot() as conn:
        one = attempts.by_key(conn, [key])[key]
    agent = grid.agents[1]
    (lease,) = grid.keeper.held(["endpoint/T2_FI_Birch"]).values()
    agent._port.reported(Call("x", "me", 1, lease), News(lost=[(key, "the endpoint forgot it")]))  # type: ignore[attr-defined]
    (row,) = grid.rows(select(job.c.state, job.c.attempt))
    assert (row.state, row.attempt) == (JobState.RETRY_WAIT, one.attempt)
    grid.until_state(JobState.STAGEOUT, [grid.agents[1]])
    finish(grid, name, 5)
    assert len(grid.rows(select(attempt).where(attempt.c.job_id == one.job_id))) == 1


@pytest.mark.slow
def test_output_of_a_superseded_attempt_is_wished_away(sqlite_db: Database, tmp_path: Path) -> None:
    grid = Grid(sqlite_db, tmp_path, slots=1)
    name = grid.submit(slow_request(5))
    key = running_key(grid)
    (lease,) = grid.keeper.held(["endpoint/T2_FI_Birch"]).values()
    grid.agents[1]._port.reported(Call("x", "me", 1, lease), News(lost=[(key, "forgotten")]))  # type: ignore[attr-defined]
    grid.until_state(JobState.READY, [grid.agents[0]])
    second = grid.agents[1]._port.lease(Call("y", "me", 1, lease), 1)  # type: ignore[attr-defined]
    assert [item.document["attempt"] for item in second] == [2]
    finish(grid, name, 5)
    stale = grid.rows(
        select(output).where(output.c.attempt == 1, output.c.name == "events.txt", output.c.job_id == 1)
    )
    assert [row.state for row in stale] == [OutputState.DISCARDED]
    assert stale[0].lfn in {row.subject for row in grid.rows(select(wish.c.subject))}


def test_only_the_holder_of_an_endpoint_serves_it(sqlite_db: Database, tmp_path: Path) -> None:
    grid = Grid(sqlite_db, tmp_path)
    grid.submit(STEP.format(events=5))
    grid.cycle()
    rival = LeaseKeeper(sqlite_db, Owner("rival@x", "x", "b", 1, 1), 60)
    rival.take(["endpoint/T2_FI_Birch"])
    assert rival.held(["endpoint/T2_FI_Birch"]) == {}
