"""The work half, whole and real: requests to registered, merged files, and what survives which death."""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from servers.work_grid import STEP, Grid
from sqlalchemy import Connection, func, select
from sqlalchemy.exc import DBAPIError

from agents.runtime.leasing import LeaseKeeper
from catalogs import bookkeeping, discovery, sites
from catalogs.tables import wish
from gridcore.db import Database, leases
from gridcore.db.leases import Owner
from prodsys.executors.local import LocalExecutor
from prodsys.job_states import JobState
from prodsys.jobs import attempts
from prodsys.jobs.outputs import OutputState
from prodsys.jobs.queueport import Admission, Call, News, QueuePort, WorkItem
from prodsys.queue import endpoints
from prodsys.queue.sqlport import SqlQueuePort
from prodsys.settling import retry_rules
from prodsys.settling.retries import DEFAULT_RULES, ErrorClass
from prodsys.states import TaskState
from prodsys.tables import attempt, class_site, job, job_history, output
from prodsys.tasks import tasks


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
        patched.setattr("prodsys.queue.sqlport.SqlQueuePort.intend", dies)
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


def leased(grid: Grid, n: int) -> tuple[QueuePort, Call, list[WorkItem]]:
    """Jobs of a request of one step, leased by hand and about to be submitted."""
    for _ in range(2):
        grid.cycle([grid.agents[0]])
    grid.keeper.take(["endpoint/T2_FI_Birch"])
    (lease,) = grid.keeper.held(["endpoint/T2_FI_Birch"]).values()
    port: QueuePort = grid.agents[1]._port  # type: ignore[attr-defined]
    items = port.lease(Call("lease", "me", 1, lease), n)
    call = Call("x", "me", 1, lease)
    port.intend(call, [item.key for item in items])
    return port, call, items


def rule(grid: Grid, kind: ErrorClass, **values: Any) -> None:
    grid.database.transaction(
        lambda conn: retry_rules.put(conn, replace(DEFAULT_RULES[kind], delay_s=0, **values))
    )


def test_outputs_of_an_attempt_lost_for_good_are_wished_away(database: Database, tmp_path: Path) -> None:
    grid = Grid(database, tmp_path)
    rule(grid, ErrorClass.LOST, max_retries=0)
    grid.submit(STEP.format(events=5))
    port, call, (item,) = leased(grid, 1)
    port.reported(call, News(admitted=[Admission(item.key, "n")]))
    port.reported(call, News(lost=[(item.key, "gone")]))
    assert grid.rows(select(job.c.state))[0].state == JobState.FAILED
    (left,) = grid.rows(select(output))
    assert left.state == OutputState.DISCARDED
    assert [row.subject for row in grid.rows(select(wish.c.subject))] == [left.lfn]


def test_a_claim_that_is_repeated_plans_every_output(
    sqlite_db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = Grid(sqlite_db, tmp_path)
    grid.submit(STEP.format(events=10))
    once, seen = SqlQueuePort._plan_outputs, []

    def twice(*arguments: Any) -> None:
        once(*arguments)
        seen.append(arguments)
        if len(seen) == 1:  # as PostgreSQL's deadlocks do it: the unit is run again
            raise DEADLOCK

    monkeypatch.setattr(SqlQueuePort, "_plan_outputs", twice)
    monkeypatch.setattr("gridcore.db.engine._retryable", lambda error: error is DEADLOCK)
    assert len(leased(grid, 2)[2]) == 2
    assert len(seen) == 2


DEADLOCK = DBAPIError("deadlock detected", None, Exception("deadlock detected"))


def test_what_the_accountant_refuses_is_counted_and_ends(
    sqlite_db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = Grid(sqlite_db, tmp_path)
    rule(grid, ErrorClass.BAD_REPORT, max_retries=2)
    monkeypatch.setattr("prodsys.settling.accounting._complaint", lambda *_: "the sum is wrong")
    name = grid.submit(STEP.format(events=5))
    grid.until(lambda: grid.task(name).state == TaskState.CLOSING)
    assert grid.rows(select(job.c.state))[0].state == JobState.FAILED
    tries = grid.rows(select(attempt.c.error_class, attempt.c.error))
    assert [tuple(row) for row in tries] == 3 * [(ErrorClass.BAD_REPORT, "the sum is wrong")]


def test_a_site_without_storage_gets_no_work_and_stops_nobody(sqlite_db: Database, tmp_path: Path) -> None:
    grid = Grid(sqlite_db, tmp_path)

    def moss(conn: Connection) -> None:
        sites.put_site(conn, sites.Site(id=2, name="T3_FI_Moss", tier=3))
        place = endpoints.Endpoint(id=2, name="Moss", site_id=2, lease_id=902, kind="local", slots=2)
        endpoints.put(conn, place)

    sqlite_db.transaction(moss)
    spare = LocalExecutor(tmp_path / "moss", slots=2, python=sys.executable)
    grid.agents[1]._executors = {"Moss": spare, "T2_FI_Birch": grid.executor}  # type: ignore[attr-defined]
    finish(grid, grid.submit(STEP.format(events=5)), 5)
    assert spare.known() == []
    (told,) = grid.rows(select(class_site.c.params).where(class_site.c.site_id == 2).limit(1))
    assert "storage" in told.params["reason"]


def test_a_repeated_lease_call_gives_the_same_jobs(database: Database, tmp_path: Path) -> None:
    grid = Grid(database, tmp_path)
    grid.submit(STEP.format(events=20))
    grid.cycle([grid.agents[0]])
    grid.cycle([grid.agents[0]])
    grid.keeper.take(["endpoint/T2_FI_Birch"])
    (lease,) = grid.keeper.held(["endpoint/T2_FI_Birch"]).values()
    port = grid.agents[1]._port  # type: ignore[attr-defined]
    first = [item.key for item in port.lease(Call("once", "me", 1, lease), 2)]
    assert [item.key for item in port.lease(Call("once", "me", 1, lease), 2)] == first
    assert len(first) == 2
    assert not set(first) & {item.key for item in port.lease(Call("twice", "me", 1, lease), 2)}
