"""Insights: what the faces are told of a grid in the middle of its work."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from full_grid import EVENTS, SCRIPT, SELECTED, START, Names, full_grid
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import event

from gridapp.insights import agents, datasets, deliveries, gauges, topology, transfers, work
from gridapp.insights.jobs import jobs_where
from gridapp.insights.overview import overview, progress
from gridapp.insights.tasks import TaskFacts, sentences
from gridapp.insights.values import iso, plain, span
from gridapp.insights.why import why
from gridapp.invariants import INVARIANTS
from gridcore.db import Database, dbnow
from gridcore.db.invariants import violations
from gridcore.errors import NotFound, UsageError
from gridcore.selector_parser import parse
from prodsys.control.selectors import JOBS
from prodsys.job_states import JobKind, JobState
from prodsys.states import TaskState

Grid = tuple[Database, Names]


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grid]:
    with full_grid(tmp_path_factory.mktemp("grid")) as made:
        yield made


def ask(grid: Grid, question: Callable[..., Any], *args: Any) -> Any:
    """The answer, which must be what JSON can hold."""
    with grid[0].snapshot() as conn:
        answer = question(conn, *args)
    assert json.loads(json.dumps(answer)) == answer
    return answer


def test_the_grid_of_these_tests_breaks_no_invariant(grid: Grid) -> None:
    with grid[0].snapshot() as conn:
        assert violations(conn, INVARIANTS) == []


@pytest.mark.slow
def test_all_databases_give_the_same_answers(grid: Grid, postgres_db: Database, tmp_path: Path) -> None:
    url = postgres_db.url.render_as_string(hide_password=False)
    with full_grid(tmp_path, url) as other:
        names = other[1]
        for question, *args in (
            *((overview, 60.0), (work.requests,), (work.request, names.request), (work.shares,)),
            *((work.task, names.generate), (work.jobs, names.reduce), (datasets.datasets, "*AuAu*")),
            *((datasets.dataset, EVENTS), (deliveries.subscription, names.subscription), (topology.sites,)),
            *((transfers.transfers, "RETRY_WAIT"), (work.job, f"{names.generate}/1")),
        ):
            assert ask(other, question, *args) == ask(grid, question, *args), question
        for what in (names.generate, f"{names.generate}/12", "sub:1", "req:1"):
            ask(other, lambda conn, what: why(conn, what, START), what)


def test_requests_are_listed_newest_first_with_their_tasks(grid: Grid) -> None:
    rows = ask(grid, work.requests)
    assert [(row["name"], row["state"], row["task_count"]) for row in rows] == [
        ("pbpb", "SUBMITTED", 0),
        ("auau7", "RUNNING", 2),
    ]
    one = ask(grid, work.request, grid[1].request)
    assert [task["name"] for task in one["tasks"]] == [grid[1].generate, grid[1].reduce]
    assert [move["to"] for move in one["history"]] == [
        "SUBMITTED",
        "APPROVED",
        "ASSIGNED",
        "RUNNING",
    ]
    with pytest.raises(NotFound):
        ask(grid, work.request, 99)


def test_a_task_counts_its_jobs_and_units(grid: Grid) -> None:
    one = ask(grid, work.task, grid[1].generate)
    assert one["units"] == {
        "kind": "events",
        "total": 160,
        "wanted": 160,
        "made": 160,
        "done": 30,
        "live": 120,
        "failed": 10,
        "killed": 0,
    }
    assert one["jobs_by_kind"]["process"]["READY"] == 6
    assert one["output"]["events"] == 30
    assert one["input_dataset"] is None
    assert one["output_dataset"] == EVENTS


def test_tasks_by_state(grid: Grid) -> None:
    assert len(ask(grid, work.tasks, 10, "active")) == 2
    assert ask(grid, work.tasks, 10, "COMPLETED") == []
    assert len(ask(grid, work.tasks, 1)) == 1
    with pytest.raises(UsageError, match="BUSY"):
        ask(grid, work.tasks, 10, "BUSY")


def test_a_wrong_name_is_answered_with_the_right_one(grid: Grid) -> None:
    with pytest.raises(NotFound) as caught:
        ask(grid, work.task, grid[1].generate.replace("generate", "genrate"))
    assert grid[1].generate in (caught.value.hint or "")
    with pytest.raises(NotFound) as caught:
        ask(grid, datasets.dataset, EVENTS.replace("UrQMD", "UrQDM"))
    assert EVENTS in (caught.value.hint or "")
    with pytest.raises(NotFound, match="no task nobody"):
        ask(grid, work.jobs, "nobody")


def test_jobs_of_a_task_and_of_a_state(grid: Grid) -> None:
    rows = ask(grid, work.jobs, grid[1].generate)
    assert [row["index"] for row in rows] == list(range(1, 17))
    failed = ask(grid, work.jobs, None, "FAILED")
    assert [row["name"] for row in failed] == [f"{grid[1].generate}/5"]
    assert SCRIPT in failed[0]["reason"]
    assert "no retry left of 3" in failed[0]["reason"]


def test_a_job_has_attempts_history_and_outputs(grid: Grid) -> None:
    done = ask(grid, work.job, f"{grid[1].generate}/1")
    (attempt,) = done["attempts"]
    assert (attempt["site"], attempt["exit_code"], attempt["wall_s"]) == ("T2_DE_Birch", 0, 31.5)
    assert [move["to"] for move in done["history"]][-2:] == ["STAGEOUT", "DONE"]
    assert [(one["state"], one["adler32"]) for one in done["outputs"]] == [("REGISTERED", "00000007")]
    failed = ask(grid, work.job, f"{grid[1].generate}/5.2")
    assert [one["error_class"] for one in failed["attempts"]] == ["payload"] * 4
    with pytest.raises(NotFound, match="no job") as caught:
        ask(grid, work.job, f"{grid[1].generate}/99")
    assert caught.value.hint == f"its jobs are {grid[1].generate}/1 to {grid[1].generate}/16"
    with pytest.raises(NotFound):
        ask(grid, work.job, f"{grid[1].generate}/{10**30}")


def test_shares_say_who_goes_first(grid: Grid) -> None:
    by_path = {one["path"]: one for one in ask(grid, work.shares)}
    assert by_path["heavy/anna"]["ready"] == 6
    assert by_path["heavy/anna"]["running_cores"] == 5
    assert "no work" in by_path["light"]["why"]


def test_datasets_and_who_holds_them(grid: Grid) -> None:
    assert [one["name"] for one in ask(grid, datasets.datasets, "*AuAu7*")] == [SELECTED, EVENTS]
    assert [one["name"] for one in ask(grid, datasets.datasets, "/MinBias*/Reduced*", 1)] == [SELECTED]
    one = ask(grid, datasets.dataset, EVENTS)
    assert (one["files"], one["events"], one["blocks"]["CLOSED"]) == (3, 30, 2)
    assert {held["se"] for held in one["holdings"]} == {"Alder_Disk", "Birch_Disk"}
    assert {(held["se"], held["state"]) for held in one["moving"]} == {("Alder_Disk", "COPYING")}
    assert (one["tier"], one["access"], one["metadata"], one["invalid"]) == ("GEN", "VALID", {}, 0)
    assert one["subscriptions"][0]["se"] == "Alder_Disk"


def test_a_subscription_block_by_block(grid: Grid) -> None:
    one = ask(grid, deliveries.subscription, grid[1].subscription)
    assert (one["percent"], one["blocks_done"], one["blocks"]) == (66.7, 1, 2)
    missing, there = one["block_list"]
    assert missing["sentence"].startswith("on its way from Birch_Disk")
    assert missing["transfers"] == {"RETRY_WAIT": 1}
    assert missing["turn"] == "the transfer agent"
    assert there["sentence"] == "complete and verified at Alder_Disk"
    assert [row["id"] for row in ask(grid, deliveries.subscriptions)] == [grid[1].subscription]


def test_transfers_and_links(grid: Grid) -> None:
    (one,) = ask(grid, transfers.transfers, "retry_wait")
    assert (one["src"], one["dst"]) == ("Birch_Disk", "Alder_Disk")
    assert ask(grid, transfers.transfers, "DONE") == []
    assert ask(grid, transfers.transfers, None, 9, "Birch_Disk>Alder_Disk") == [one]
    assert ask(grid, transfers.transfers, None, 9, "Alder_Disk>Birch_Disk") == []
    assert ask(grid, transfers.transfers, None, 9, None, "Alder_Disk") == [one]
    assert ask(grid, transfers.transfers, None, 9, None, "Larch_Disk") == []
    with pytest.raises(UsageError, match="is no link"):
        ask(grid, transfers.transfers, None, 9, "Alder_Disk")
    links = {(one["src"], one["dst"]): one for one in ask(grid, topology.links)}
    assert len(links) == 12
    parked = links["Larch_Disk", "Alder_Disk"]
    assert (parked["state"], parked["files_bad"], parked["window"]) == ("PARKED", 3, 0)
    assert links["Alder_Disk", "Birch_Disk"]["rate_mb_s"] == 12.0
    (busy,) = ask(grid, transfers.transfers_by_link)
    assert (busy["src"], busy["files"]) == ("Birch_Disk", {"QUEUED": 1})


def test_agents_that_fail_or_are_silent_are_not_ok(grid: Grid) -> None:
    by_name = {one["agent"]: one for one in ask(grid, agents.agents, 60.0)}
    assert by_name["merger"]["ok"]
    assert by_name["janitor"]["stale"]
    assert not by_name["block_manager"]["ok"]
    assert ask(grid, agents.trouble, "merger", 60.0) is None
    assert "disk full" in ask(grid, agents.trouble, "block_manager", 60.0)
    assert "7 min ago" in ask(grid, agents.trouble, "janitor", 60.0)
    assert ask(grid, agents.trouble, "stager", 60.0) == "no stager is running"


def test_the_overview_holds_all_the_page_shows(grid: Grid) -> None:
    seen = ask(grid, overview, 60.0)
    first, second = seen["tasks"]
    assert (first["name"], first["events_done"], first["events_total"]) == (grid[1].generate, 30, 160)
    forecasts = (first["forecast"], second["forecast"])
    assert [(one["done"], one["wanted"]) for one in forecasts] == [(30, 160), (0, None)]
    assert forecasts[0]["left_s"] > 0
    assert (second["events_done"], forecasts[1]["left_s"]) == (None, None)
    assert seen["jobs"]["DONE"] == 3
    assert {"links", "transfers_by_link", "agents", "subscriptions", "sites", "at"} <= seen.keys()


def test_gauges_count_jobs_of_every_state(grid: Grid) -> None:
    with grid[0].snapshot() as conn:
        found = {(name, *labels.values()): value for name, value, labels in gauges.gauges(conn)}
    assert found["jobs", "READY"] == 6
    assert found["jobs", "LOST"] == 0
    assert found["link_queue", "Birch_Disk", "Alder_Disk"] == 1


def test_an_overview_takes_as_many_statements_however_much_there_is(grid: Grid) -> None:
    seen: list[str] = []
    with grid[0].snapshot() as conn:
        event.listen(conn, "before_cursor_execute", lambda *args: seen.append(args[2]))
        overview(conn, 60.0)
    assert len(seen) < 25
    assert len(set(seen)) >= len(seen) - 4  # none is repeated row by row


# --- pure --------------------------------------------------------------------------------------------


def test_values_are_plain() -> None:
    now = datetime(2026, 3, 1, 12, 0, 0, 250_000, UTC)
    assert iso(now) == "2026-03-01T12:00:00.250Z"
    assert plain({"at": now, "states": [JobState.DONE]}) == {"at": iso(now), "states": ["DONE"]}
    assert [span(n) for n in (0.44, 12, 300, 9000, 400_000)] == ["0.4 s", "12 s", "5 min", "2.5 h", "5 days"]


def facts(state: TaskState, **values: Any) -> TaskFacts:
    return TaskFacts(**{"state": state, "unit": "event", "total": 100, "made": 100, **values})


def test_what_a_task_says() -> None:
    process = JobKind.PROCESS
    held = facts(TaskState.ACTIVE, counts=[(process, JobState.HELD, 2, 20), (process, JobState.DONE, 8, 80)])
    assert sentences(held)[0] == "2 jobs held until somebody releases them"
    merging = facts(TaskState.ACTIVE, to_merge=5, merging=3)
    assert sentences(merging) == ["outputs: 5 wait to be merged, 3 are being merged"]
    assert "3 output blocks still open" in sentences(facts(TaskState.CLOSING, open_blocks=3))[0]
    failed = facts(TaskState.INCOMPLETE, counts=[(process, JobState.FAILED, 1, 10)])
    assert sentences(failed) == ["0 of 100 events done, 10 failed, 0 killed"]
    assert sentences(facts(TaskState.ACTIVE, made=40))[0] == "jobs for 60 events are still to be made"


@given(
    st.sampled_from(TaskState),
    st.lists(
        st.tuples(st.sampled_from(JobKind), st.sampled_from(JobState), st.integers(0, 9), st.integers(0, 99))
    ),
    st.none() | st.integers(0, 1000),
)
def test_every_task_has_something_to_say(state: TaskState, counts: list[Any], total: int | None) -> None:
    told = sentences(facts(state, counts=counts, total=total, made=0))
    assert told
    assert all(told)


def test_progress_is_told_in_events_or_in_percent_alone() -> None:
    units = {"kind": "events", "done": 25, "total": 200}
    assert progress({"units": units}) == {"percent": 12.5, "events_done": 25, "events_total": 200}
    growing = {"kind": "files", "done": 2, "total": None}
    assert progress({"units": growing}) == {"percent": 0.0, "events_done": None, "events_total": None}


def test_ended_jobs_are_chosen_by_the_site_they_were_at(grid: Grid) -> None:
    def chosen(where: str) -> list[str]:
        found = ask(grid, lambda conn: jobs_where(conn, parse(where, JOBS), dbnow(conn)))
        return [one["name"] for one in found]

    failed = f"{grid[1].generate}/5"
    assert chosen("state = FAILED and last_site = T2_DE_*") == [failed]
    assert chosen("state = FAILED and not last_site = T2_DE_Birch") == []
    assert chosen("state = FAILED and site = T2_DE_Birch") == []
    assert chosen("attempt = 0 and last_site = *") == []
