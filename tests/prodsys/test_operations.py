"""Orders by hand: what each changes, what it leaves alone, who may give it; on both databases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from servers.work_desk import OPS, Desk
from servers.work_grid import STEP, Grid
from sqlalchemy import Connection, select

from catalogs import bookkeeping
from catalogs.states import DatasetState
from catalogs.tables import wish
from gridapp import operations as shell
from gridapp.selections import Selection
from gridcore.db import Database
from gridcore.errors import Conflict, Denied, InvalidTransition, NotFound, UsageError
from gridcore.identity import EVERYWHERE, Principal, Role
from gridcore.tables import audit_log
from prodsys.control import operations
from prodsys.control.orders import Changed, Order, OrderVerb
from prodsys.control.selection import Walk
from prodsys.job_states import JobEvent, JobState
from prodsys.jobs.outputs import OutputState
from prodsys.queue import endpoints
from prodsys.requests import requests
from prodsys.settling.settlement import Settler
from prodsys.states import RequestState, TaskEvent, TaskState
from prodsys.tables import attempt, output
from prodsys.tasks import tasks

OWNER = Principal("anna", frozenset(["production"]), {EVERYWHERE: frozenset([Role.USER])})
EVE = Principal("eve", frozenset(["other"]), {EVERYWHERE: frozenset([Role.USER])})


@pytest.fixture
def desk(database: Database, tmp_path: Path) -> Desk:
    made = Desk(database, tmp_path, STEP.format(events=20))
    made.make_jobs()
    assert made.states() == 4 * ["READY"]
    return made


# --- jobs --------------------------------------------------------------------------------------------------


def test_held_jobs_wait_until_they_are_released(desk: Desk) -> None:
    assert desk.order(JobEvent.HOLD, 1, 3)["changed"] == 2
    assert desk.states() == ["HELD", "READY", "HELD", "READY"]
    assert {row.hold_kind for row in desk.jobs() if row.state == JobState.HELD} == {"operator"}
    assert desk.order(JobEvent.HOLD)["left"] == {"HELD": 2}
    assert desk.order(JobEvent.RELEASE, state="held")["changed"] == 4
    assert desk.states() == 4 * ["READY"]
    assert desk.verbs() == ["job hold", "job hold", "job release"]


def test_a_dry_run_counts_and_changes_nothing(desk: Desk) -> None:
    desk.order(JobEvent.HOLD, 2)
    told = desk.order(JobEvent.HOLD, dry_run=True)
    assert told == {
        "verb": "hold",
        "due": {"READY": 3},
        "left": {"HELD": 1},
        "tasks": {desk.task: 3},
        "sites": {},
        "operation": None,
        "changed": 0,
    }
    assert desk.states() == ["READY", "HELD", "READY", "READY"]
    assert len(desk.verbs()) == 1


def test_the_audit_names_actor_task_and_jobs(desk: Desk) -> None:
    desk.order(JobEvent.KILL, 2, 4)
    (row,) = desk.grid.rows(select(audit_log))
    assert (row.actor, row.verb, row.subject) == ("ops", "job kill", f"task {desk.task}")
    task_id = str(desk.jobs()[0].task_id)
    assert row.detail == {
        "operation": 1,
        "jobs": 2,
        "where": None,
        "named": {task_id: [2, 4]},
        "tasks": [desk.task],
    }


def test_a_killed_attempt_ends_without_blame_and_its_output_is_wished_away(desk: Desk) -> None:
    desk.grid.cycle([desk.grid.agents[0]])
    desk.grid.keeper.take(["endpoint/T2_FI_Birch"])
    port = desk.grid.agents[1]._port  # type: ignore[attr-defined]
    (lease,) = desk.grid.keeper.held(["endpoint/T2_FI_Birch"]).values()
    call = desk.grid.agents[1]._call(_endpoint(desk), lease)  # type: ignore[attr-defined]
    (item, _) = port.lease(call, 2)
    assert desk.order(JobEvent.KILL, state="LEASED")["changed"] == 2
    assert port.intend(call, [item.key]) == []
    assert port.renew(call) == []
    assert port.commands(call, [item.key]).drop == [item.key]
    tries = desk.grid.rows(select(attempt.c.error_class, attempt.c.error, attempt.c.penalty))
    assert [tuple(row) for row in tries] == 2 * [("killed", "killed by ops", 0)]
    left = desk.grid.rows(select(output))
    assert {row.state for row in left} == {OutputState.DISCARDED}
    assert {row.lfn for row in left} == {row.subject for row in desk.grid.rows(select(wish.c.subject))}


def _endpoint(desk: Desk) -> Any:
    with desk.grid.database.snapshot() as conn:
        return endpoints.endpoints(conn)[0]


def test_a_stale_order_is_not_made(desk: Desk) -> None:
    """Its rows were read before another hand killed the job."""
    rows = desk.jobs()
    desk.force(JobEvent.KILL, JobState.KILLED, rows[0])
    now = desk.grid.context.clock.now()

    def unit(conn: Connection) -> list[Changed]:
        settler = Settler(conn, now, {}, 1.0, iter(()))
        made = []
        for verb in (OrderVerb.KILL, OrderVerb.HOLD, OrderVerb.RELEASE, OrderVerb.RETRY, OrderVerb.PRIORITY):
            walk = Walk(None, now, operations.sources(verb))
            order = Order(id=1, verb=verb, selector={}, tasks=[1], actor="ops", created_at=now, total=1, by=1)
            made.append(operations.carry_out(settler, order, rows[0].task_id, rows[:1], walk.again))
        return made

    assert desk.grid.database.transaction(unit) == 5 * [{}]


# --- who and which -----------------------------------------------------------------------------------------


def test_only_its_owner_and_operators_order_jobs(desk: Desk) -> None:
    context, wanted = desk.grid.context, Selection(task=desk.task)
    with pytest.raises(Denied):
        shell.order_jobs(context, OrderVerb.KILL, wanted, EVE)
    with pytest.raises(Denied):
        shell.kill_task(context, desk.task, EVE)
    with pytest.raises(Denied):
        shell.retry_task(context, desk.task, EVE)
    with pytest.raises(Denied):
        shell.abort_request(context, 1, EVE)
    assert desk.states() == 4 * ["READY"]
    assert shell.order_jobs(context, OrderVerb.HOLD, wanted, OWNER)["changed"] == 4


@pytest.mark.parametrize(
    ("wanted", "error"),
    [
        (Selection(), UsageError),
        (Selection(names=["T/1"], task="T"), UsageError),
        (Selection(names=["nonsense"]), UsageError),
        (Selection(task="T"), NotFound),
        (Selection(names=["T/1"]), NotFound),
        (Selection(task="T", state="WEIRD"), UsageError),
    ],
)
def test_what_cannot_be_meant_is_refused(
    sqlite_db: Database, tmp_path: Path, wanted: Selection, error: type[Exception]
) -> None:
    with pytest.raises(error):
        shell.order_jobs(Grid(sqlite_db, tmp_path).context, OrderVerb.HOLD, wanted, OPS)


def test_one_unknown_job_and_nothing_is_changed(desk: Desk) -> None:
    for index in (99, 10**18):
        with pytest.raises(NotFound, match=str(index)):
            desk.order(JobEvent.KILL, 1, index)
    assert desk.states() == 4 * ["READY"]


# --- tasks and requests ------------------------------------------------------------------------------------


def test_a_killed_task_gets_no_more_jobs_and_its_dataset_closes(desk: Desk) -> None:
    desk.order(JobEvent.HOLD, 1)
    told = shell.kill_task(desk.grid.context, desk.task, OPS, dry_run=True)
    assert told == {"task": desk.task, "state": "ACTIVE", "due": {"HELD": 1, "READY": 3}, "changed": 0}
    assert shell.kill_task(desk.grid.context, desk.task, OPS)["changed"] == 4
    assert shell.kill_task(desk.grid.context, desk.task, OPS)["changed"] == 0
    desk.make_jobs()
    assert desk.states() == 4 * ["KILLED"]
    one = desk.grid.task(desk.task)
    assert one.state == TaskState.KILLED
    with desk.grid.database.snapshot() as conn:
        assert bookkeeping.dataset_by_id(conn, one.output_dataset_id).state == DatasetState.CLOSED
    assert desk.request_state() == RequestState.INCOMPLETE
    assert desk.verbs() == ["job hold", "task kill", "job kill"]


def test_jobs_are_not_made_for_a_task_that_is_killed_meanwhile(
    sqlite_db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(sqlite_db, tmp_path, STEP.format(events=20))
    in_state = tasks.in_state

    def late(conn: Connection, state: TaskState) -> list[tasks.Task]:
        found = in_state(conn, state)
        if state == TaskState.ACTIVE and found:
            shell.kill_task(desk.grid.context, desk.task, OPS)
        return found

    monkeypatch.setattr(tasks, "in_state", late)
    desk.make_jobs()
    assert desk.jobs() == []


def test_failed_jobs_of_a_killed_task_stay_failed(desk: Desk) -> None:
    desk.force(JobEvent.CLAIMED, JobState.LEASED, *desk.jobs())
    desk.force(JobEvent.REFUSED, JobState.FAILED, *desk.jobs())
    assert shell.kill_task(desk.grid.context, desk.task, OPS)["due"] == {}
    for event in (JobEvent.RETRY, JobEvent.HOLD, JobEvent.RELEASE):
        with pytest.raises(Conflict, match="was killed"):
            desk.order(event)
    rows, now = desk.jobs(), desk.grid.context.clock.now()
    order = Order(id=1, verb=OrderVerb.RETRY, selector={}, tasks=[1], actor="ops", created_at=now, total=4)

    def unit(conn: Connection) -> Changed:
        settler, walk = Settler(conn, now, {}, 1.0, iter(())), Walk(None, now)
        return operations.carry_out(settler, order, rows[0].task_id, rows, walk.again)

    assert desk.grid.database.transaction(unit) == {}
    assert desk.states() == 4 * ["FAILED"]


def test_an_aborted_request_ends_with_its_tasks(desk: Desk) -> None:
    told = shell.abort_request(desk.grid.context, 1, OPS, dry_run=True)
    assert (told["state"], told["tasks"][0]["due"]) == ("RUNNING", {"READY": 4})
    for changed in (4, 0):
        told = shell.abort_request(desk.grid.context, 1, OPS)
        assert [one["changed"] for one in told["tasks"]] == [changed]
        assert (told["state"], told["tasks"][0]["state"]) == ("ABORTED", "KILLED")
    desk.make_jobs()
    assert desk.request_state() == RequestState.ABORTED
    assert desk.verbs() == ["request abort", "task kill", "job kill"]
    with pytest.raises(NotFound):
        shell.abort_request(desk.grid.context, 7, OPS)


def test_what_is_completed_is_not_ended(desk: Desk) -> None:
    task, now = desk.grid.task(desk.task), desk.grid.context.clock.now()

    def complete(conn: Connection) -> None:
        tasks.move(conn, task, TaskEvent.WORKED_OFF, TaskState.CLOSING, now, actor="test")
        closing = tasks.by_id(conn, task.id)
        tasks.move(conn, closing, TaskEvent.BLOCKS_CLOSED, TaskState.COMPLETED, now, actor="test")
        requests.finish(conn, 1, RequestState.COMPLETED, now, "test")

    desk.grid.database.transaction(complete)
    with pytest.raises(InvalidTransition):
        shell.kill_task(desk.grid.context, desk.task, OPS)
    with pytest.raises(InvalidTransition):
        shell.abort_request(desk.grid.context, 1, OPS)
    assert desk.verbs() == []


def test_a_request_is_not_ended_over_a_task_taken_up_meanwhile(
    sqlite_db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(sqlite_db, tmp_path, STEP.format(events=5))
    of_request, first = tasks.of_request, [True]

    def early(conn: Connection, request_id: int) -> list[Any]:
        """The first look sees a task that has ended."""
        found = of_request(conn, request_id)
        if first:
            first.clear()
            return [_Ended()]
        return found

    monkeypatch.setattr(tasks, "of_request", early)
    desk.make_jobs()
    assert first == []
    assert desk.request_state() == RequestState.RUNNING


class _Ended:
    state = TaskState.INCOMPLETE
