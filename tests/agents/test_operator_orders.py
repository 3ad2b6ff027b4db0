"""Orders by hand on work that really runs: failures completed, processes stopped, merges planned anew."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from servers.work_desk import OPS, Desk
from servers.work_grid import STEP
from sqlalchemy import select

from catalogs import discovery
from catalogs.tables import wish
from gridapp import operations as shell
from gridapp.insights.why import why
from gridcore.db import Database
from prodsys.job_states import JobEvent, JobKind, JobState
from prodsys.jobs.outputs import OutputKind, OutputState
from prodsys.settling.retries import ErrorClass
from prodsys.states import RequestState, TaskState
from prodsys.tables import job_history, output, task_history

pytestmark = pytest.mark.slow

FLAGGED = STEP.replace(
    '["python", "toy_generate.py"]',
    """["/bin/sh", "-c", "test -e '{flag}' || exit 7; exec '{python}' toy_generate.py"]""",
)


def flagged(flag: Path, events: int) -> str:
    text = FLAGGED.replace("{flag}", str(flag)).replace("{python}", sys.executable)
    return text.format(events=events)


def test_a_task_that_failed_is_completed_by_a_retry(database: Database, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    desk = Desk(database, tmp_path, flagged(flag, 10))
    desk.rule(ErrorClass.PAYLOAD, 0)
    assert desk.end().state == TaskState.INCOMPLETE
    assert desk.request_state() == RequestState.INCOMPLETE
    flag.touch()
    told = shell.retry_task(desk.grid.context, desk.task, OPS)
    assert told == {"task": desk.task, "state": "ACTIVE", "due": {"FAILED": 2}, "changed": 2}
    assert desk.request_state() == RequestState.RUNNING
    assert desk.end().state == TaskState.COMPLETED
    assert desk.request_state() == RequestState.COMPLETED
    with database.snapshot() as conn:
        assert discovery.dataset_show(conn, "/Toy/v1/GEN").dataset.events == 10
    moves = desk.grid.rows(select(task_history.c.dst, task_history.c.actor).order_by(task_history.c.seq))
    assert [(row.dst.value, row.actor) for row in moves][-4:] == [
        ("INCOMPLETE", "job_maker"),
        ("ACTIVE", "ops"),
        ("CLOSING", "job_maker"),
        ("COMPLETED", "job_maker"),
    ]
    assert desk.verbs() == ["job retry", "task retry"]
    again = select(job_history).where(job_history.c.code == "RETRY")
    assert [(row.frm, row.dst) for row in desk.grid.rows(again)] == 2 * [
        (JobState.FAILED, JobState.RETRY_WAIT)
    ]


def test_a_closing_task_is_taken_up_too(sqlite_db: Database, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    desk = Desk(sqlite_db, tmp_path, flagged(flag, 5))
    desk.rule(ErrorClass.PAYLOAD, 0)
    desk.grid.until(lambda: desk.grid.task(desk.task).state == TaskState.CLOSING)
    flag.touch()
    assert desk.order(JobEvent.RETRY, 1)["changed"] == 1
    assert desk.end().state == TaskState.COMPLETED


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_killed_job_stops_its_process(sqlite_db: Database, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    pids.mkdir()
    script = f"""touch '{pids}'/$$; exec sleep 100"""
    sleeps = f'["/bin/sh", "-c", "{script}"]'
    desk = Desk(sqlite_db, tmp_path, STEP.replace('["python", "toy_generate.py"]', sleeps).format(events=5))
    desk.grid.until(lambda: desk.states() == ["RUNNING"] and any(pids.iterdir()))
    (pid,) = (int(path.name) for path in pids.iterdir())
    assert alive(pid)
    assert desk.order(JobEvent.KILL, 1)["due"] == {"RUNNING": 1}
    desk.grid.until(lambda: not alive(pid))
    desk.grid.until(lambda: desk.grid.executor.known() == [])
    assert desk.end().state == TaskState.INCOMPLETE
    assert desk.request_state() == RequestState.INCOMPLETE
    assert desk.states() == ["KILLED"]
    assert shell.retry_task(desk.grid.context, desk.task, OPS)["changed"] == 0
    assert desk.grid.task(desk.task).state == TaskState.INCOMPLETE


def test_a_job_killed_before_its_commit_has_no_effect(sqlite_db: Database, tmp_path: Path) -> None:
    desk = Desk(sqlite_db, tmp_path, STEP.format(events=5))
    desk.grid.until_state(JobState.STAGEOUT, desk.grid.agents[:2])
    assert desk.order(JobEvent.KILL, 1)["changed"] == 1
    assert desk.end().state == TaskState.INCOMPLETE
    assert desk.grid.executor.known() == []
    (left,) = desk.grid.rows(select(output))
    assert left.state == OutputState.DISCARDED
    assert [row.subject for row in desk.grid.rows(select(wish.c.subject))] == [left.lfn]


def merges(desk: Desk) -> list[str]:
    return [row.state.value for row in desk.jobs() if row.kind == JobKind.MERGE]


def test_a_killed_merge_is_planned_anew(database: Database, tmp_path: Path) -> None:
    desk = Desk(database, tmp_path, STEP.format(events=10))
    desk.grid.until(lambda: bool(merges(desk)))
    (merge,) = [row for row in desk.jobs() if row.kind == JobKind.MERGE]
    assert desk.order(JobEvent.KILL, merge.idx)["changed"] == 1
    unmerged = select(output.c.state, output.c.merge_job_id).where(output.c.kind == OutputKind.UNMERGED)
    assert {tuple(row) for row in desk.grid.rows(unmerged)} == {(OutputState.REGISTERED, None)}
    assert desk.end().state == TaskState.COMPLETED
    assert merges(desk) == ["KILLED", "DONE"]
    with database.snapshot() as conn:
        assert discovery.dataset_show(conn, "/Toy/v1/GEN").dataset.events == 10


def told(desk: Desk, what: str) -> str:
    """Why it is where it is, in one line."""
    with desk.grid.database.snapshot() as conn:
        return " | ".join(why(conn, what, desk.grid.context.clock.now())["because"])


@pytest.mark.parametrize("event", [JobEvent.RETRY, JobEvent.KILL])
def test_a_failed_merge_waits_for_the_operator(sqlite_db: Database, tmp_path: Path, event: JobEvent) -> None:
    """Until then its inputs are kept; both ways out end well."""
    flag = tmp_path / "flag"
    needs = f"""["/bin/sh", "-c", "test -e '{flag}' || exit 7; exec '{sys.executable}' merge_text.py"]"""
    desk = Desk(sqlite_db, tmp_path, STEP.replace('["python", "merge_text.py"]', needs).format(events=5))
    desk.rule(ErrorClass.PAYLOAD, 0)
    assert desk.end().state == TaskState.INCOMPLETE
    assert merges(desk) == ["FAILED"]
    (merge,) = [row for row in desk.jobs() if row.kind == JobKind.MERGE]
    assert "kept for a failed merge" in told(desk, desk.task)
    assert "once it is killed they are merged anew" in told(desk, f"{desk.task}/{merge.idx}")
    flag.touch()
    assert desk.order(event, state="FAILED")["changed"] == 1
    assert desk.grid.task(desk.task).state == TaskState.ACTIVE
    assert desk.end().state == TaskState.COMPLETED
    assert merges(desk) == (["DONE"] if event == JobEvent.RETRY else ["KILLED", "DONE"])


TWO_STEPS = """
name = "toy"
group = "production"
lfn_area = "/store/mc"

[[step]]
name = "gen"
command = ["python", "toy_generate.py"]
sandbox = ["toy_generate.py", "payload.py", "merge_text.py"]
events = 10
events_per_job = 5
output = { name = "events.txt", dataset = "/Toy/v1/GEN" }

[[step]]
name = "copy"
input = "/Toy/v1/GEN"
command = ["python", "merge_text.py"]
sandbox = ["payload.py", "merge_text.py"]
output = { name = "copy.txt", dataset = "/Toy/v1/COPY" }
"""


def test_the_next_step_takes_what_a_retry_adds(sqlite_db: Database, tmp_path: Path) -> None:
    desk = Desk(sqlite_db, tmp_path, TWO_STEPS)
    grid = desk.grid
    job_maker = [grid.agents[0]]
    desk.make_jobs()
    failing = [desk.jobs()[1]]
    desk.force(JobEvent.CLAIMED, JobState.LEASED, *failing)
    desk.force(JobEvent.REFUSED, JobState.FAILED, desk.jobs()[1])
    copy = desk.task.replace("-gen", "-copy")
    grid.until(lambda: grid.task(desk.task).state == TaskState.CLOSING)
    desk.close_due_blocks()
    for _ in range(3):
        grid.cycle(job_maker)
    assert grid.task(desk.task).state == TaskState.INCOMPLETE
    assert (grid.task(copy).state, grid.task(copy).units_total) == (TaskState.ACTIVE, 1)
    assert shell.retry_task(grid.context, desk.task, OPS)["changed"] == 1
    assert grid.task(copy).units_total is None
    assert desk.end(copy).state == TaskState.COMPLETED
    assert (grid.task(copy).units_total, grid.task(desk.task).state) == (2, TaskState.COMPLETED)
    assert desk.request_state() == RequestState.COMPLETED
