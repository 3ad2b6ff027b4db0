"""Why: each state of a job, tasks, subscriptions and requests, and what cannot be asked about."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from full_grid import EVENTS, SCRIPT, Names, full_grid

from gridapp.insights.why import why
from gridcore.db import Database
from gridcore.errors import NotFound, UsageError
from prodsys.job_states import JobEvent, JobState
from prodsys.jobs import store
from prodsys.jobs.store import Move
from prodsys.queue import classes
from prodsys.queue.brokerage import Verdict

Grid = tuple[Database, Names]


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grid]:
    with full_grid(tmp_path_factory.mktemp("grid")) as made:
        yield made


def ask(grid: Grid, what: str, later: float = 0.0) -> dict[str, Any]:
    with grid[0].snapshot() as conn:
        answer = why(conn, what, grid[0].now(conn) + timedelta(seconds=later), 60.0)
    json.dumps(answer)
    assert set(answer) == {"what", "kind", "state", "since", "because", "evidence", "turn", "next"}
    assert answer["because"]
    assert all(answer["because"])
    return answer


@pytest.mark.parametrize(
    ("index", "state", "first", "turn"),
    [
        (1, "DONE", "done at T2_DE_Birch", "nobody"),
        (4, "RETRY_WAIT", "retry 1 of 3 after", "the job_maker"),
        (5, "FAILED", "ValueError: no nucleus", "its requester"),
        (6, "RUNNING", "runs at T2_DE_Birch (birch-local) on wn1.birch since", "its payload"),
        (8, "SUBMITTED", "batch id 7.oak", "the prodagent of birch-local"),
        (9, "LEASED", "being handed to the batch system", "the prodagent of birch-local"),
        (10, "LEASED", "not yet handed over", "the prodagent of birch-local"),
        (12, "READY", "waits in the queue: 1 job of its class ahead", "the prodagent"),
    ],
)
def test_a_job_in_each_state(grid: Grid, index: int, state: str, first: str, turn: str) -> None:
    answer = ask(grid, f"{grid[1].generate}/{index}")
    assert answer["state"] == state
    assert first in answer["because"][0]
    assert answer["turn"] == turn
    verb = "retry" if state == "FAILED" else "show"
    then = f"tierflow job {verb} {grid[1].generate}/{index}"
    assert answer["next"] == ("tierflow match --dry-run --site T2_DE_Birch" if state == "READY" else then)


def test_a_ready_job_names_every_site(grid: Grid) -> None:
    told = " | ".join(ask(grid, f"{grid[1].generate}/12")["because"])
    assert "T2_DE_Birch: can run here; 5 of 4 slots taken" in told
    assert "T2_RU_Elm: can run here, but no prodagent serves elm-local" in told
    assert "no endpoint to run jobs: T0_DE_Oak" in told
    assert "share heavy/anna goes first" in told


def test_a_failed_job_tells_all_its_attempts(grid: Grid) -> None:
    because = ask(grid, f"{grid[1].generate}/5")["because"]
    assert [one.split(" at ")[0] for one in because[1:]] == [f"attempt {n}" for n in (4, 3, 2, 1)]
    assert all(SCRIPT in one for one in because)


def test_a_waiting_job_says_when_it_is_due(grid: Grid) -> None:
    assert "next attempt at 2026-03-01T12:2" in ask(grid, f"{grid[1].generate}/4")["because"][1]
    assert "due now" in ask(grid, f"{grid[1].generate}/4", later=3600)["because"][1]


def test_an_endpoint_nobody_holds_is_said_first(grid: Grid) -> None:
    answer = ask(grid, f"{grid[1].generate}/6", later=2 * 86_400)
    assert answer["because"][0].startswith("no prodagent holds birch-local since")
    assert answer["turn"] == "whoever starts a prodagent"


def test_a_task_quotes_its_stuck_jobs_and_deliveries(grid: Grid) -> None:
    answer = ask(grid, grid[1].generate)
    told = " | ".join(answer["because"])
    assert answer["because"][0] == "1 job out of retries"
    assert answer["next"] == f"tierflow job list --task {grid[1].generate} --state FAILED"
    assert f"{grid[1].generate}/5: exit code 84" in told
    assert "delivery to Alder_Disk" in told
    assert ask(grid, grid[1].reduce)["turn"] == "the job_maker"


def test_a_subscription_by_all_its_names(grid: Grid) -> None:
    key = grid[1].subscription
    answers = [ask(grid, what) for what in (f"sub:{key}", str(key), f"{EVENTS}@Alder_Disk")]
    assert answers[0] == answers[1] == answers[2]
    assert answers[0]["because"][0] == "1 of 2 blocks are delivered"
    assert answers[0]["because"][1].startswith("1 block: try 1 of 5 failed (adler32 differs")
    assert answers[0]["because"][2].startswith("1 block: on its way from Birch_Disk")
    assert SCRIPT in answers[0]["because"][1]


def test_requests(grid: Grid) -> None:
    assert ask(grid, "req:1")["next"] == f"tierflow why {grid[1].generate}"
    assert ask(grid, "request:2")["because"] == ["waits for the approval of group heavy's production role"]
    assert ask(grid, "req:2")["next"] == "tierflow request approve 2"
    assert ask(grid, "2")["what"] == "req:2"  # no subscription has that number


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ("sub:99", NotFound),
        ("req:99", NotFound),
        ("9" * 19, NotFound),
        ("nobody", NotFound),
        ("nobody/1", NotFound),
        (f"{EVENTS}@Nowhere", NotFound),
        (EVENTS, UsageError),
        ("link:T1_DE_Alder_Disk", UsageError),
        ("", NotFound),
    ],
)
def test_what_is_not_there(grid: Grid, what: str, error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        ask(grid, what)
    assert caught.value.hint  # type: ignore[attr-defined]


# --- states the grid of these tests has not reached ----------------------------------------------------


@pytest.fixture
def own_grid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grid]:
    with full_grid(tmp_path_factory.mktemp("own")) as made:
        yield made


def test_held_and_killed_jobs_and_one_no_site_can_run(own_grid: Grid) -> None:
    database, names = own_grid
    with database.snapshot() as conn:
        now = database.now(conn)
        ready = {row.idx: row for row in conn.execute(store.ROWS, {"ids": list(range(1, 20))})}
    hold = {"event": JobEvent.HOLD, "to": JobState.HELD, "hold_kind": "operator"}
    kill = {"event": JobEvent.KILL, "to": JobState.KILLED}
    moves = [Move(job_id=ready[11].id, attempt=0, **hold), Move(job_id=ready[12].id, attempt=0, **kill)]
    refusals = {(ready[13].class_id, site): Verdict(False, "INPUT_NOWHERE") for site in range(1, 7)}
    database.transaction(lambda conn: store.apply(conn, moves, now))
    database.transaction(lambda conn: classes.store_verdicts(conn, refusals, now))
    assert ask(own_grid, f"{names.generate}/11")["turn"] == "an operator"
    assert ask(own_grid, f"{names.generate}/12")["because"] == ["ended by an operator"]
    stuck = ask(own_grid, f"{names.generate}/13")
    assert stuck["because"][0] == "no site can run it"
    assert stuck["turn"] == "whoever produces or restores its input"
