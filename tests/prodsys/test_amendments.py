"""Requests and tasks changed while they run: paused, extended, topped up, moved, ended; on both databases."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from servers.work_desk import OPS, Desk
from servers.work_grid import STEP, Grid
from sqlalchemy import Connection, select, update

from agents import job_maker
from catalogs import bookkeeping, sites
from catalogs.states import DatasetState
from gridapp import amendments as shell
from gridapp import operations as orders
from gridapp.insights import work
from gridapp.insights.why import why
from gridcore.db import Database
from gridcore.errors import Conflict, Denied, InvalidTransition, NotFound, UsageError
from gridcore.identity import EVERYWHERE, Principal, Role
from prodsys.control import holds
from prodsys.job_states import JobEvent, JobState
from prodsys.jobs import store
from prodsys.jobs.store import POINT, Move, rank_of
from prodsys.queue import endpoints
from prodsys.queue.endpoints import Endpoint
from prodsys.requests import assignments, requests
from prodsys.requests.assignments import Agent, Policy, SiteSet
from prodsys.shares import shares
from prodsys.states import RequestEvent, RequestState, TaskEvent, TaskState
from prodsys.tables import job, job_class, job_history, job_spec, request_agent, request_history, task
from prodsys.tables import request as request_table
from prodsys.tasks import tasks

OWNER = Principal("anna", frozenset(["production"]), {EVERYWHERE: frozenset([Role.USER])})
EVE = Principal("eve", frozenset(["other"]), {EVERYWHERE: frozenset([Role.USER])})
#: The desk's one request.
ID = 1
SECOND = """
[[step]]
name = "read"
command = ["python", "toy_generate.py"]
sandbox = ["toy_generate.py", "payload.py", "merge_text.py"]
input = "gen"
output = { name = "read.txt", dataset = "/Toy/v1/READ" }
"""


@pytest.fixture
def desk(database: Database, tmp_path: Path) -> Desk:
    made = Desk(database, tmp_path, STEP.format(events=20))
    made.make_jobs()
    assert made.states() == 4 * ["READY"]
    return made


def make(desk: Desk) -> None:
    """One cycle of the job maker."""
    desk.grid.cycle([desk.grid.agents[0]])


def show(desk: Desk) -> dict[str, Any]:
    with desk.grid.database.snapshot() as conn:
        return work.request(conn, ID)


def show_task(desk: Desk) -> dict[str, Any]:
    with desk.grid.database.snapshot() as conn:
        return work.task(conn, desk.task)


def fail(desk: Desk, *rows: Any) -> None:
    desk.force(JobEvent.CLAIMED, JobState.LEASED, *rows)
    claimed = {row.id for row in rows}
    desk.force(JobEvent.REFUSED, JobState.FAILED, *(row for row in desk.jobs() if row.id in claimed))


# --- pause -------------------------------------------------------------------------------------------------


def test_a_pause_holds_what_waits_and_a_resume_frees_exactly_that(desk: Desk) -> None:
    desk.order(JobEvent.HOLD, 1)
    first, second, *_ = desk.jobs()
    desk.force(JobEvent.CLAIMED, JobState.LEASED, second)
    assert shell.pause(desk.grid.context, ID, OPS, reason="a bad release") == {
        "request": ID,
        "state": "PAUSED",
        "changed": True,
    }
    assert shell.pause(desk.grid.context, ID, OPS)["changed"] is False
    make(desk)
    assert desk.states() == ["HELD", "LEASED", "HELD", "HELD"]
    assert [row.hold_kind for row in desk.jobs()] == ["operator", None, "policy", "policy"]
    assert [row.code for row in desk.jobs()] == ["HOLD", None, "PAUSED", "PAUSED"]
    assert desk.grid.task(desk.task).state == TaskState.PAUSED
    assert "paused by ops" in show(desk)["reason"]
    assert "paused" in show_task(desk)["because"][0]
    shell.resume(desk.grid.context, ID, OPS)
    assert shell.resume(desk.grid.context, ID, OPS)["changed"] is False
    make(desk)
    assert desk.states() == ["HELD", "LEASED", "READY", "READY"]
    assert desk.jobs()[0].hold_kind == "operator"
    assert first.id == desk.jobs()[0].id
    assert desk.verbs() == ["job hold", "request pause", "request resume"]


def wait_for_retry(desk: Desk, due: datetime, *rows: Any) -> None:
    """These jobs fail and are to be tried again at that moment."""
    desk.force(JobEvent.CLAIMED, JobState.LEASED, *rows)
    claimed = {row.id for row in rows}
    moves = [
        Move(
            job_id=row.id,
            attempt=row.attempt,
            event=JobEvent.REFUSED,
            to=JobState.RETRY_WAIT,
            code="RETRY",
            due_at=due,
        )
        for row in desk.jobs()
        if row.id in claimed
    ]
    now = desk.grid.context.clock.now()
    assert len(desk.grid.database.transaction(lambda conn: store.apply(conn, moves, now))) == len(rows)


def bring_forward(desk: Desk, to: datetime) -> None:
    """As if the time until then had gone by."""
    waiting = update(job).where(job.c.state == JobState.RETRY_WAIT).values(due_at=to)
    desk.grid.database.transaction(lambda conn: conn.execute(waiting))


def test_a_pause_keeps_the_back_off_of_what_is_tried_again(desk: Desk) -> None:
    now = desk.grid.context.clock.now()
    late = now + timedelta(hours=1)
    first, second, *_ = desk.jobs()
    wait_for_retry(desk, late, first, second)
    shell.pause(desk.grid.context, ID, OPS)
    make(desk)
    assert desk.states() == ["RETRY_WAIT", "RETRY_WAIT", "HELD", "HELD"]
    with desk.grid.database.snapshot() as conn:
        told = why(conn, f"{desk.task}/1", now)
    assert "its request is paused" in told["because"][0]
    assert told["next"] == f"tierflow request resume {ID}"
    shell.resume(desk.grid.context, ID, OPS)
    make(desk)
    assert desk.states() == ["RETRY_WAIT", "RETRY_WAIT", "READY", "READY"]
    assert [(row.due_at, row.code) for row in desk.jobs()[:2]] == 2 * [(late, "RETRY")]
    bring_forward(desk, now)
    make(desk)
    assert desk.states() == 4 * ["READY"]


def test_what_becomes_due_in_a_pause_waits_for_its_end(desk: Desk) -> None:
    """It is never READY: nobody could claim it."""
    now = desk.grid.context.clock.now()
    shell.pause(desk.grid.context, ID, OPS)
    wait_for_retry(desk, now, *desk.jobs())
    make(desk)
    assert desk.states() == 4 * ["HELD"]
    assert {row.code for row in desk.jobs()} == {holds.PAUSED}
    moves = desk.grid.rows(select(job_history).where(job_history.c.frm == JobState.RETRY_WAIT))
    assert {row.dst for row in moves} == {JobState.HELD}
    shell.resume(desk.grid.context, ID, OPS)
    make(desk)
    assert desk.states() == 4 * ["READY"]


def test_no_job_is_made_in_a_pause(database: Database, tmp_path: Path) -> None:
    desk = Desk(database, tmp_path, STEP.format(events=20))
    shell.pause(desk.grid.context, ID, OPS)
    desk.make_jobs()
    assert desk.jobs() == []
    shell.resume(desk.grid.context, ID, OPS)
    desk.make_jobs()
    assert desk.states() == 4 * ["READY"]


def test_a_pause_is_carried_out_in_slices_whoever_goes_on(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_maker, "SLICE", 1)
    monkeypatch.setattr(job_maker, "SLICES", 1)
    shell.pause(desk.grid.context, ID, OPS)
    make(desk)
    assert sorted(desk.states()) == ["HELD", "HELD", "READY", "READY"]
    desk.grid.agents = desk.grid.make_agents()  # the first one is gone
    make(desk)
    assert desk.states() == 4 * ["HELD"]
    shell.resume(desk.grid.context, ID, OPS)
    make(desk)
    make(desk)
    assert desk.states() == 4 * ["READY"]


def test_a_task_out_of_line_with_its_request_is_put_right(desk: Desk) -> None:
    now = desk.grid.context.clock.now()

    def half(conn: Connection) -> None:
        row = requests.lock(conn, ID)
        requests.move(conn, row, RequestEvent.PAUSE, RequestState.PAUSED, now, "test")

    desk.grid.database.transaction(half)
    make(desk)
    make(desk)
    assert desk.grid.task(desk.task).state == TaskState.PAUSED
    assert desk.states() == 4 * ["HELD"]
    assert shell.resume(desk.grid.context, ID, OPS)["state"] == "RUNNING"
    assert desk.grid.task(desk.task).state == TaskState.ACTIVE


def test_only_what_runs_is_paused_and_only_by_those_who_may(desk: Desk) -> None:
    for change in (shell.pause, shell.resume, shell.close):
        with pytest.raises(Denied):
            change(desk.grid.context, ID, EVE)
        with pytest.raises(NotFound):
            change(desk.grid.context, 7, OPS)
    assert shell.pause(desk.grid.context, ID, OWNER)["state"] == "PAUSED"
    orders.abort_request(desk.grid.context, ID, OPS)
    assert desk.states() == 4 * ["KILLED"]
    for change in (shell.pause, shell.resume):
        with pytest.raises(InvalidTransition):
            change(desk.grid.context, ID, OPS)


# --- more units --------------------------------------------------------------------------------------------


def test_an_extension_goes_on_where_the_events_ended(desk: Desk) -> None:
    told = shell.extend(desk.grid.context, ID, "gen", 12, OPS)
    assert told == {
        "request": ID,
        "state": "RUNNING",
        "task": desk.task,
        "wanted": 32,
        "made": 20,
        "more": 12,
    }
    make(desk)
    specs = [row.spec for row in desk.grid.rows(select(job_spec).order_by(job_spec.c.job_id))]
    ranges = [(one["first_event"], one["events"]) for one in specs]
    assert ranges == [(0, 5), (5, 5), (10, 5), (15, 5), (20, 5), (25, 5), (30, 2)]
    assert len({one["seed"] for one in specs}) == 7
    units = show_task(desk)["units"]
    assert (units["total"], units["wanted"], units["made"], units["live"]) == (32, 32, 32, 32)


def test_extensions_are_dry_run_refused_and_capped_without_a_trace(desk: Desk) -> None:
    context = desk.grid.context
    before = desk.grid.rows(select(task))
    assert shell.extend(context, ID, "gen", 12, OPS, dry_run=True)["wanted"] == 32
    with pytest.raises(UsageError):
        shell.extend(context, ID, "gen", 0, OPS)
    with pytest.raises(UsageError, match="jobs"):
        shell.extend(context, ID, "gen", 10**9, OPS)
    with pytest.raises(NotFound, match="'reco'") as error:
        shell.extend(context, ID, "reco", 5, OPS)
    assert "gen" in str(error.value.hint)
    with pytest.raises(Denied):
        shell.extend(context, ID, "gen", 5, OWNER)
    assert desk.grid.rows(select(task)) == before
    assert desk.verbs() == []


def test_an_extension_takes_up_what_was_completed_down_the_chain(database: Database, tmp_path: Path) -> None:
    desk = Desk(database, tmp_path, STEP.format(events=20) + SECOND)
    desk.make_jobs()
    now = desk.grid.context.clock.now()

    def complete(conn: Connection) -> None:
        for one in tasks.of_request(conn, ID):
            bookkeeping.close_dataset(conn, one.output_dataset_id, "test", now)
            tasks.move(conn, one, TaskEvent.WORKED_OFF, TaskState.CLOSING, now, actor="test")
            one = tasks.by_id(conn, one.id)
            tasks.move(conn, one, TaskEvent.BLOCKS_CLOSED, TaskState.COMPLETED, now, actor="test")
        requests.finish(conn, ID, RequestState.COMPLETED, now, "test")

    database.transaction(complete)
    told = shell.extend(desk.grid.context, ID, "gen", 5, OPS)
    assert (told["state"], told["wanted"]) == ("RUNNING", 25)
    with database.snapshot() as conn:
        generate, read = tasks.of_request(conn, ID)
        assert {generate.state, read.state} == {TaskState.ACTIVE}
        assert (generate.units_total, read.units_total) == (25, None)
        for one in (generate, read):
            assert bookkeeping.dataset_by_id(conn, one.output_dataset_id).state == DatasetState.OPEN
    with pytest.raises(UsageError, match="does not generate"):
        shell.extend(desk.grid.context, ID, "read", 5, OPS)


def test_a_top_up_makes_new_ranges_and_seeds_for_what_is_lost(desk: Desk) -> None:
    desk.order(JobEvent.KILL, 1)
    fail(desk, desk.jobs()[1])
    assert shell.top_up(desk.grid.context, desk.task, OPS, dry_run=True)["more"] == 10
    told = shell.top_up(desk.grid.context, desk.task, OPS)
    assert told == {"task": desk.task, "state": "ACTIVE", "more": 10, "changed": True}
    assert shell.top_up(desk.grid.context, desk.task, OPS)["more"] == 0
    make(desk)
    assert desk.states() == ["KILLED", "FAILED", "READY", "READY", "READY", "READY"]
    rows = desk.grid.rows(select(job_spec).order_by(job_spec.c.job_id))
    assert [row.spec["first_event"] for row in rows] == [0, 5, 10, 15, 20, 25]
    assert len({row.spec["seed"] for row in rows}) == 6
    units = show_task(desk)["units"]
    assert units == {
        "kind": "events",
        "total": 30,
        "wanted": 20,
        "made": 30,
        "done": 0,
        "live": 20,
        "failed": 5,
        "killed": 5,
    }
    assert desk.verbs() == ["job kill", "task top-up"]


def test_a_task_that_ended_is_topped_up_and_goes_on(desk: Desk) -> None:
    fail(desk, *desk.jobs())
    make(desk)
    make(desk)
    assert desk.grid.task(desk.task).state == TaskState.INCOMPLETE
    assert desk.request_state() == RequestState.INCOMPLETE
    assert shell.top_up(desk.grid.context, desk.task, OWNER)["state"] == "ACTIVE"
    assert desk.request_state() == RequestState.RUNNING
    make(desk)
    assert desk.states() == 4 * ["FAILED"] + 4 * ["READY"]
    with pytest.raises(Denied):
        shell.top_up(desk.grid.context, desk.task, EVE)
    with pytest.raises(NotFound):
        shell.top_up(desk.grid.context, "T", OPS)
    orders.kill_task(desk.grid.context, desk.task, OPS)
    with pytest.raises(Conflict, match="killed"):
        shell.top_up(desk.grid.context, desk.task, OPS)


# --- endings -----------------------------------------------------------------------------------------------


def test_a_task_is_declared_complete_with_its_reason(desk: Desk) -> None:
    context = desk.grid.context
    with pytest.raises(Conflict, match="4 live jobs"):
        shell.force_complete(context, desk.task, "enough", OPS)
    fail(desk, *desk.jobs())
    make(desk)
    make(desk)
    with pytest.raises(UsageError):
        shell.force_complete(context, desk.task, " ", OPS)
    with pytest.raises(Denied):
        shell.force_complete(context, desk.task, "enough", OWNER)
    dry = shell.force_complete(context, desk.task, "enough", OPS, dry_run=True)
    assert (dry["state"], dry["changed"]) == ("INCOMPLETE", False)
    told = shell.force_complete(context, desk.task, "enough for the paper", OPS)
    assert (told["state"], told["changed"]) == ("COMPLETED", True)
    assert desk.request_state() == RequestState.COMPLETED
    assert show_task(desk)["reason"] == (
        "declared complete by ops with 0 of 20 events done: enough for the paper"
    )
    assert shell.force_complete(context, desk.task, "again", OPS)["changed"] is False
    assert desk.verbs() == ["task force-complete"]


def test_an_active_task_with_only_failures_left_ends_complete(desk: Desk) -> None:
    fail(desk, *desk.jobs())
    assert shell.force_complete(desk.grid.context, desk.task, "enough", OPS)["state"] == "CLOSING"
    make(desk)
    make(desk)
    assert desk.grid.task(desk.task).state == TaskState.COMPLETED
    assert desk.request_state() == RequestState.COMPLETED
    assert "declared complete by ops" in show_task(desk)["reason"]


def reading(desk: Desk) -> tasks.Task:
    """The step that reads, its input growing."""
    with desk.grid.database.snapshot() as conn:
        return tasks.of_request(conn, ID)[1]


def test_a_forced_reader_is_not_fed_but_extended(database: Database, tmp_path: Path) -> None:
    desk = Desk(database, tmp_path, STEP.format(events=20) + SECOND)
    make(desk)
    context, name = desk.grid.context, reading(desk).name
    assert shell.force_complete(context, name, "enough", OPS)["changed"] is True
    assert shell.force_complete(context, name, "enough", OPS)["changed"] is False
    assert (reading(desk).code, reading(desk).units_total) == (tasks.FORCED, 0)
    shell.extend(context, ID, "gen", 5, OPS)
    assert (reading(desk).forced, reading(desk).units_total) == (False, None)


def test_a_closed_request_is_asked_nothing_more(desk: Desk) -> None:
    context = desk.grid.context
    with pytest.raises(Conflict, match="running"):
        shell.close(context, ID, OPS)
    fail(desk, *desk.jobs())
    make(desk)
    make(desk)
    assert shell.close(context, ID, OPS) == {"request": ID, "state": "CLOSED", "changed": True}
    assert shell.close(context, ID, OPS)["changed"] is False
    asked: list[Callable[[], Any]] = [
        lambda: shell.extend(context, ID, "gen", 5, OPS),
        lambda: shell.top_up(context, desk.task, OPS),
        lambda: shell.force_complete(context, desk.task, "enough", OPS),
        lambda: shell.prioritise_request(context, ID, 3, OPS),
        lambda: shell.assign(context, ID, OPS, sites=["T2_FI_Birch"]),
        lambda: orders.retry_task(context, desk.task, OPS),
    ]
    for ask in asked:
        with pytest.raises(Conflict):
            ask()
    assert desk.states() == 4 * ["FAILED"]


# --- sooner, elsewhere, on another share -------------------------------------------------------------------


def ranks(desk: Desk) -> list[int]:
    base = rank_of(desk.grid.task(desk.task).created_at, 0)
    return [(row.rank - base) // POINT for row in desk.jobs()]


def test_a_priority_moves_the_jobs_there_are_and_those_to_come(desk: Desk) -> None:
    desk.order(JobEvent.HOLD, 2)
    own = desk.jobs()[3]
    desk.grid.database.transaction(lambda conn: holds.store.rerank(conn, {own.id: -7 * POINT}))
    assert ranks(desk) == [0, 0, 0, -7]
    told = shell.prioritise_request(desk.grid.context, ID, 10, OPS)
    assert told["tasks"] == [{"task": desk.task, "from": 0, "priority": 10, "changed": 3}]
    shell.extend(desk.grid.context, ID, "gen", 5, OPS)
    make(desk)
    assert ranks(desk) == [-10, -10, -10, -7, -10]
    assert shell.prioritise(desk.grid.context, desk.task, 10, OPS)["changed"] == 0
    assert shell.prioritise(desk.grid.context, desk.task, -3, OPS)["changed"] == 4
    assert ranks(desk) == [3, 3, 3, -7, 3]
    assert show(desk)["priority"] == 10
    assert show_task(desk)["priority"] == -3
    for bad in (1001, -1001):
        with pytest.raises(UsageError):
            shell.prioritise(desk.grid.context, desk.task, bad, OPS)
    with pytest.raises(Denied):
        shell.prioritise(desk.grid.context, desk.task, 1, OWNER)


def test_a_priority_cut_off_is_taken_up(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shell, "CHUNK", 2)
    rerank = holds.rerank

    def cut(conn: Connection, *rest: Any) -> int:
        monkeypatch.setattr(holds, "rerank", broken)
        return rerank(conn, *rest)

    def broken(*_: Any) -> int:
        raise OSError("cut off")

    monkeypatch.setattr(holds, "rerank", cut)
    with pytest.raises(OSError, match="cut off"):
        shell.prioritise(desk.grid.context, desk.task, 10, OPS)
    assert ranks(desk) == [-10, -10, 0, 0]
    monkeypatch.setattr(holds, "rerank", rerank)
    assert shell.prioritise(desk.grid.context, desk.task, 10, OPS)["changed"] == 2
    assert ranks(desk) == 4 * [-10]


def leaves(desk: Desk) -> list[str]:
    paths = {one.id: one.path for one in desk.grid.rows(select(shares.share_node))}
    classes = {one.id: one.leaf_id for one in desk.grid.rows(select(job_class))}
    return [paths[classes[row.class_id]] for row in desk.jobs()]


def test_a_request_moves_to_another_share_with_all_that_waits(desk: Desk) -> None:
    now = desk.grid.context.clock.now()
    desk.grid.database.transaction(lambda conn: shares.put(conn, 950, "heavy", None, 30, now))
    desk.order(JobEvent.HOLD, 1)
    fail(desk, desk.jobs()[1])
    desk.force(JobEvent.CLAIMED, JobState.LEASED, desk.jobs()[2])
    told = shell.share(desk.grid.context, ID, "heavy", OPS)
    assert (told["share"], told["changed"]) == ("heavy/anna", 3)
    assert leaves(desk) == ["heavy/anna", "heavy/anna", "production/anna", "heavy/anna"]
    assert desk.states() == ["HELD", "FAILED", "LEASED", "READY"]
    assert desk.jobs()[0].hold_kind == "operator"
    assert shell.share(desk.grid.context, ID, "heavy", OPS)["changed"] == 0
    shell.extend(desk.grid.context, ID, "gen", 5, OPS)
    make(desk)
    assert leaves(desk)[-1] == "heavy/anna"
    assert (show(desk)["group"], show_task(desk)["group"]) == ("heavy", "heavy")
    with pytest.raises(UsageError, match="no share"):
        shell.share(desk.grid.context, ID, "nobody", OPS)
    with pytest.raises(Denied):
        shell.share(desk.grid.context, ID, "production", OWNER)


def add_site(conn: Connection, key: int, name: str, endpoint: int | None = None) -> None:
    sites.put_site(conn, sites.Site(id=key, name=name, tier=2))
    if endpoint is not None:
        values = {"id": endpoint, "name": name, "site_id": key, "lease_id": 900 + endpoint}
        endpoints.put(conn, Endpoint(**values, kind="local", slots=2))


def test_a_request_is_assigned_to_other_sites_while_it_runs(desk: Desk) -> None:
    context = desk.grid.context
    desk.grid.database.transaction(lambda conn: add_site(conn, 2, "T2_DE_Oak", endpoint=20))
    dry = shell.assign(context, ID, OPS, sites=["T2_DE_Oak"], dry_run=True)
    assert dry["steps"] == {"gen": ["T2_DE_Oak"]}
    shell.pause(context, ID, OPS)
    make(desk)
    told = shell.assign(context, ID, OPS, sites=["T2_DE_Oak"])
    assert (told["reason"], told["changed"]) == ("ops assigned it to sites T2_DE_Oak", 4)
    shell.resume(context, ID, OPS)
    make(desk)
    assert desk.states() == 4 * ["READY"]
    rows = {row.id: row.requirements for row in desk.grid.rows(select(job_class))}
    assert {tuple(rows[row.class_id]["sites"]) for row in desk.jobs()} == {("T2_DE_Oak",)}
    assert show(desk)["assigned"] == {"agents": [], "sites": ["T2_DE_Oak"], "why": told["reason"]}
    again = shell.assign(context, ID, OPS)
    assert (again["reason"], again["steps"]) == (
        "no policy fits it: it may run at every site",
        {"gen": "everywhere"},
    )
    rows = {row.id: row.requirements for row in desk.grid.rows(select(job_class))}
    assert {rows[row.class_id]["sites"] for row in desk.jobs()} == {None}
    with pytest.raises(UsageError, match="'T2_XX_Gone'"):
        shell.assign(context, ID, OPS, sites=["T2_XX_Gone"])
    with pytest.raises(Denied):
        shell.assign(context, ID, OWNER, sites=["T2_DE_Oak"])


# --- policies ----------------------------------------------------------------------------------------------


def with_policy(grid: Grid, rule: dict[str, Any]) -> None:
    def unit(conn: Connection) -> None:
        add_site(conn, 2, "T2_DE_Oak")
        assignments.put_agent(conn, Agent(id=10, name="north", endpoints=frozenset([1])))
        assignments.put_site_set(conn, SiteSet(id=11, name="oaks", sites=frozenset([2])))
        assignments.put_policy(conn, Policy(id=12, name="toys", rank=5, rule=rule))
        assignments.put_policy(conn, Policy(id=13, name="rest", rank=9, rule={"sites": ["T2_DE_Oak"]}))

    grid.database.transaction(unit)


def test_an_approval_stores_where_the_policy_sends_it(database: Database, tmp_path: Path) -> None:
    grid = Grid(database, tmp_path)
    with_policy(grid, {"groups": ["production"], "names": ["t*"], "agents": ["north"]})
    name = grid.submit(STEP.format(events=20))
    assert grid.task(name).step.sites == ["T2_FI_Birch"]
    with database.snapshot() as conn:
        view = work.request(conn, ID)
    assert view["assigned"] == {
        "agents": ["north"],
        "sites": ["T2_FI_Birch"],
        "why": "policy toys assigns it to agents north",
    }
    assert [row.agent_id for row in grid.rows(select(request_agent))] == [10]
    moves = grid.rows(select(request_history).order_by(request_history.c.seq))
    assert [(row.dst.value, row.code) for row in moves] == [
        ("SUBMITTED", None),
        ("APPROVED", None),
        ("ASSIGNED", "POLICY"),
        ("RUNNING", None),
    ]


def test_a_policy_that_leaves_a_step_nowhere_is_refused_and_nothing_is_made(
    database: Database, tmp_path: Path
) -> None:
    grid = Grid(database, tmp_path)
    with_policy(grid, {"names": ["other*"]})
    text = STEP.format(events=20).replace("events_per_job", 'sites = ["T2_FI_Birch"]\nevents_per_job')
    with pytest.raises(UsageError, match=r"step 'gen'.*policy rest assigns it to sites T2_DE_Oak") as error:
        grid.submit(text)
    assert "--site" in str(error.value.hint)
    assert grid.rows(select(task)) == grid.rows(select(request_table)) == []


def test_a_policy_that_names_what_is_gone_is_told(database: Database, tmp_path: Path) -> None:
    grid = Grid(database, tmp_path)
    with_policy(grid, {"agents": ["south"]})
    with pytest.raises(UsageError, match="policy 'toys' names the ProdAgent 'south'"):
        grid.submit(STEP.format(events=20))
    assert grid.rows(select(request_table)) == []


# --- completion --------------------------------------------------------------------------------------------


def test_a_task_says_where_it_stands(desk: Desk) -> None:
    found = show_task(desk)["forecast"]
    assert (found["done"], found["wanted"], found["files"], found["per_s"]) == (0, 20, 0, None)
    assert found["sentence"].startswith("0 of 20 events done (0 %), 0 files registered")
    assert found["sentence"] in show_task(desk)["because"]
    assert show(desk)["tasks"][0]["forecast"]["wanted"] == 20
