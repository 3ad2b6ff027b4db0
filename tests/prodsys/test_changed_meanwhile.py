"""What is changed while other things go on: shares, sites, holds, ends and priorities; on both databases."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from grids.failing_grid import ALDER, BIRCH, CEDAR, FailingGrid
from grids.waiting_grid import step
from servers.backlog import NOW
from servers.work_desk import OPS, Desk
from servers.work_grid import STEP
from sqlalchemy import Connection, func, select, update

from gridapp import amendments as shell
from gridapp import operations as orders_shell
from gridapp.selections import Selection
from gridcore.db import Database
from gridcore.errors import Conflict, UsageError
from prodsys.control import amendments, holds, operations, orders
from prodsys.control.orders import OrderState, OrderVerb
from prodsys.job_states import JobEvent, JobState
from prodsys.jobs import store
from prodsys.jobs.store import POINT, Head, Move, rank_of
from prodsys.queue import taskqueue
from prodsys.settling.retries import ErrorClass, Reason
from prodsys.shares import shares
from prodsys.states import RequestState, TaskState
from prodsys.tables import job_class, operation, operation_part
from prodsys.tables import task as task_table
from prodsys.tasks import tasks

SIZED = "limits = { memory_mb = 2000, wall_s = 3600 }"
SECOND = """
[[step]]
name = "read"
command = ["python", "toy_generate.py"]
sandbox = ["toy_generate.py", "payload.py", "merge_text.py"]
input = "gen"
output = { name = "read.txt", dataset = "/Toy/v1/READ" }
"""


@pytest.fixture
def grid(database: Database, tmp_path: Path) -> FailingGrid:
    """One job of 2000 MB."""
    made = FailingGrid(database, tmp_path)
    made.request(step("gen", more=SIZED))
    made.make()
    return made


def order(grid: FailingGrid, verb: OrderVerb) -> dict[str, Any]:
    (row,) = grid.rows(select(task_table.c.name))
    return orders_shell.order_jobs(grid.context, verb, Selection(task=row.name), OPS)


# --- retargets --------------------------------------------------------------------------------------------


def test_a_job_that_runs_while_its_share_changes_is_tried_again_on_the_new_one(grid: FailingGrid) -> None:
    now = grid.context.clock.now()
    grid.database.transaction(lambda conn: shares.put(conn, 950, "other", None, 10, now))
    (item,) = grid.claim(BIRCH)
    assert shell.share(grid.context, 1, "other", OPS)["changed"] == 0
    grid.finish(BIRCH, item, ErrorClass.PAYLOAD)
    grid.make()
    row, (task,) = grid.job(), grid.rows(select(task_table.c.leaf_id))
    (leaf,) = grid.rows(select(job_class.c.leaf_id).where(job_class.c.id == row.class_id))
    assert (row.state, leaf.leaf_id, row.code) == (JobState.READY, task.leaf_id, None)


def test_a_job_that_runs_while_its_sites_change_is_tried_again_at_the_new_ones(grid: FailingGrid) -> None:
    (item,) = grid.claim(BIRCH)
    shell.assign(grid.context, 1, OPS, sites=[ALDER])
    grid.finish(BIRCH, item, ErrorClass.SITE)
    grid.make()
    assert grid.job().requirements["sites"] == [ALDER]
    assert grid.claim(BIRCH) == []
    assert len(grid.claim(ALDER)) == 1


def test_jobs_kept_away_from_the_only_site_that_is_assigned_may_go_there(grid: FailingGrid) -> None:
    (item,) = grid.claim(BIRCH)
    grid.finish(BIRCH, item, ErrorClass.SITE)
    grid.make()
    assert grid.job().requirements["sites_excluded"] == [BIRCH]
    assert shell.assign(grid.context, 1, OPS, sites=[BIRCH])["changed"] == 1
    grid.make()
    assert len(grid.claim(BIRCH)) == 1


def test_what_an_operator_holds_before_its_retry_is_released_bigger(grid: FailingGrid) -> None:
    (item,) = grid.claim(BIRCH)
    grid.finish(BIRCH, item, ErrorClass.MEMORY)
    order(grid, OrderVerb.HOLD)
    assert order(grid, OrderVerb.RELEASE)["changed"] == 1
    row = grid.job()
    assert (row.state, row.code) == (JobState.READY, Reason.RETARGETED)
    assert row.requirements["memory_mb"] == 3000
    order(grid, OrderVerb.HOLD)  # now it waits: it has grown for that failure
    order(grid, OrderVerb.RELEASE)
    assert grid.job().requirements["memory_mb"] == 3000


def test_an_undone_hold_goes_on_as_if_it_had_not_been(grid: FailingGrid) -> None:
    (item,) = grid.claim(BIRCH)
    grid.finish(BIRCH, item, ErrorClass.STAGE_OUT)
    held = order(grid, OrderVerb.HOLD)
    orders_shell.undo(grid.context, held["operation"], OPS)
    assert grid.job().requirements["sites_excluded"] == [BIRCH]
    assert len(grid.claim(CEDAR) + grid.claim(BIRCH)) == 0  # nobody has judged the new class yet
    grid.make()
    assert (len(grid.claim(BIRCH)), len(grid.claim(CEDAR))) == (0, 1)


def test_what_a_pause_holds_before_its_retry_is_released_bigger(grid: FailingGrid) -> None:
    (item,) = grid.claim(BIRCH)
    shell.pause(grid.context, 1, OPS)
    grid.finish(BIRCH, item, ErrorClass.MEMORY)
    grid.make()
    assert (grid.state(), grid.job().code) == (JobState.HELD, holds.PAUSED)
    shell.resume(grid.context, 1, OPS)
    grid.make()
    assert (grid.state(), grid.job().requirements["memory_mb"]) == (JobState.READY, 3000)


# --- ended and taken up -----------------------------------------------------------------------------------


@pytest.fixture
def desk(database: Database, tmp_path: Path) -> Desk:
    """Four jobs, and a step that reads what they make."""
    made = Desk(database, tmp_path, STEP.format(events=20) + SECOND)
    made.make_jobs()
    assert made.states() == 4 * ["READY"]
    return made


def fail_all(desk: Desk) -> None:
    desk.force(JobEvent.CLAIMED, JobState.LEASED, *desk.jobs())
    desk.force(JobEvent.REFUSED, JobState.FAILED, *desk.jobs())


def end_incomplete(desk: Desk) -> list[tasks.Task]:
    """Every job failed, the first task INCOMPLETE, the one that reads it COMPLETED with nothing to do."""
    fail_all(desk)
    desk.end()
    return mine(desk)


def mine(desk: Desk) -> list[tasks.Task]:
    with desk.grid.database.snapshot() as conn:
        return tasks.of_request(conn, 1)


def test_a_retry_takes_up_what_reads_the_task(desk: Desk) -> None:
    assert [one.state for one in end_incomplete(desk)] == [TaskState.INCOMPLETE, TaskState.COMPLETED]
    assert desk.order(JobEvent.RETRY, 1)["changed"] == 1
    gen, read = mine(desk)
    assert (gen.state, read.state, read.units_total) == (TaskState.ACTIVE, TaskState.ACTIVE, None)
    assert (read.code, desk.request_state()) == (amendments.FED, RequestState.RUNNING)


def test_a_retry_leaves_alone_what_was_declared_complete(desk: Desk) -> None:
    _, read = end_incomplete(desk)
    now = desk.grid.context.clock.now()
    desk.grid.database.transaction(
        lambda conn: tasks.set_reason(conn, read.id, tasks.FORCED, {"by": "ops"}, now)
    )
    desk.order(JobEvent.RETRY, 1)
    assert [one.state for one in mine(desk)] == [TaskState.ACTIVE, TaskState.COMPLETED]


def test_an_order_on_many_tasks_passes_by_those_of_closed_requests(desk: Desk) -> None:
    end_incomplete(desk)
    shell.close(desk.grid.context, 1, OPS)
    wanted = Selection(where="state = FAILED")
    told = orders_shell.order_jobs(desk.grid.context, OrderVerb.RETRY, wanted, OPS)
    assert (told["due"], told["left"], told["operation"]) == ({}, {"FAILED": 4}, None)
    with pytest.raises(Conflict, match="closed"):
        desk.order(JobEvent.RETRY, 1)


def test_a_request_closed_after_an_order_was_counted_does_not_stop_it(desk: Desk) -> None:
    end_incomplete(desk)

    def close(_: Any) -> bool:
        shell.close(desk.grid.context, 1, OPS)
        return True

    wanted = Selection(where="state = FAILED")
    told = orders_shell.order_jobs(desk.grid.context, OrderVerb.RETRY, wanted, OPS, confirm=close)
    assert told["changed"] == 0
    with desk.grid.database.snapshot() as conn:
        assert orders.by_id(conn, told["operation"]).state == OrderState.DONE
    assert desk.states() == 4 * ["FAILED"]


def test_an_aborted_request_makes_no_job_more_whatever_comes_after(desk: Desk) -> None:
    now = desk.grid.context.clock.now()
    desk.grid.database.transaction(lambda conn: operations.abort_request(conn, 1, "ops", now))
    assert [one.state for one in mine(desk)] == 2 * [TaskState.KILLED]
    told = orders_shell.abort_request(desk.grid.context, 1, OPS)  # cut off there, it is given once more
    assert [one["changed"] for one in told["tasks"]] == [4, 0]
    assert desk.states() == 4 * ["KILLED"]


# --- bounds -----------------------------------------------------------------------------------------------


def test_jobs_that_are_still_to_be_made_count_for_the_cap(database: Database, tmp_path: Path) -> None:
    desk = Desk(database, tmp_path, STEP.format(events=20))
    now = desk.grid.context.clock.now()

    def extend(conn: Connection) -> tasks.Task:
        return amendments.extend(conn, 1, "gen", 30, 10, "ops", now)

    assert database.transaction(extend).units_total == 50
    with pytest.raises(UsageError, match="at most 10"):
        database.transaction(extend)
    desk.make_jobs()
    assert len(desk.jobs()) == 10
    with pytest.raises(UsageError):
        shell.extend(desk.grid.context, 1, "gen", 10**13, OPS)


def test_of_two_priorities_at_once_the_later_one_holds_for_all(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shell, "CHUNK", 2)
    rerank, name = holds.rerank, desk.task

    def meanwhile(conn: Connection, *rest: Any) -> int:
        moved = rerank(conn, *rest)
        monkeypatch.setattr(holds, "rerank", rerank)
        others.append(desk.jobs)
        return moved

    others: list[Any] = []
    monkeypatch.setattr(holds, "rerank", meanwhile)
    transaction = desk.grid.database.transaction

    def between(unit: Any) -> Any:
        done = transaction(unit)
        if others:
            others.clear()
            monkeypatch.undo()
            shell.prioritise(desk.grid.context, name, 7, OPS)
        return done

    monkeypatch.setattr(desk.grid.database, "transaction", between)
    shell.prioritise(desk.grid.context, name, 3, OPS)
    base = rank_of(desk.grid.task(name).created_at, 0)
    assert desk.grid.task(name).priority == 3
    assert [(row.rank - base) // POINT for row in desk.jobs()] == 4 * [-3]


def test_old_orders_are_forgotten_with_their_parts(desk: Desk) -> None:
    first = desk.order(JobEvent.HOLD, 1)["operation"]
    second = desk.order(JobEvent.HOLD, 2)["operation"]
    now = desk.grid.context.clock.now()
    old = update(operation).where(operation.c.id == first).values(updated_at=now - orders.KEPT * 2)
    desk.grid.database.transaction(lambda conn: conn.execute(old))
    before = now - orders.KEPT
    assert desk.grid.database.transaction(lambda conn: orders.prune(conn, before, 5)) == 1
    assert desk.grid.database.transaction(lambda conn: orders.prune(conn, before, 5)) == 0
    assert [row.id for row in desk.grid.rows(select(operation.c.id))] == [second]
    parts = select(func.count()).select_from(operation_part)
    assert desk.grid.rows(parts)[0][0] == 1


# --- claims ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_claim_whose_job_is_killed_meanwhile_begins_again(
    postgres_db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill needs no lock of the queue: it may come between the claim's look and its hold."""
    grid = FailingGrid(postgres_db, tmp_path)
    grid.request(step("gen", jobs=3))
    grid.make()
    choose, seen = taskqueue._choose, list[int]()

    def late(*asked: Any) -> list[Head]:
        heads = choose(*asked)
        if not seen:
            gone = [Move(job_id=heads[0].id, attempt=0, event=JobEvent.KILL, to=JobState.KILLED)]
            kill = threading.Thread(
                target=postgres_db.transaction, args=[lambda conn: store.apply(conn, gone, NOW)]
            )
            kill.start()
            kill.join()
        seen.append(len(heads))
        return heads

    monkeypatch.setattr(taskqueue, "_choose", late)
    assert len(grid.claim(BIRCH, 3)) == 2
    assert seen == [3, 2]
