"""`job` and `operation` at the keyboard: what they answer, when they ask, how orders are taken back."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import embedded_grid
import pytest
from click.testing import CliRunner, Result

from agents.job_maker import JobMaker
from agents.runtime.leasing import LeaseKeeper
from gridapp import session, wiring
from gridapp.cli import jobs
from gridapp.cli.main import main
from gridcore.db.leases import Owner
from prodsys.control import orders

REPOSITORY = Path(__file__).parents[2]


def run(grid: Path, *args: object, answer: str | None = None) -> Result:
    return CliRunner().invoke(main, ["--dir", str(grid), *map(str, args)], input=answer)


def told(grid: Path, *args: object) -> Any:
    result = run(grid, *args)
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded grid with one task of four jobs that wait."""
    directory = tmp_path_factory.mktemp("template")
    grid = embedded_grid.make(directory / "grid")
    told(grid, "request", "submit", embedded_grid.write_request(directory))
    installation = session.connect(grid, None)
    agent = JobMaker(wiring.context(installation))
    keeper = LeaseKeeper(installation.database, Owner.current("test"), 60)
    for _ in range(2):
        with installation.database.snapshot() as conn:
            names = agent.shards(conn)
        keeper.take(names)
        agent.cycle(keeper.held(names))
    installation.close()
    return grid


@pytest.fixture
def grid(template: Path, tmp_path: Path) -> Path:
    return embedded_grid.copy(template, tmp_path / "grid")


def states(grid: Path) -> list[str]:
    return [one["state"] for one in told(grid, "job", "list")]


def test_an_order_is_previewed_given_and_undone(grid: Path) -> None:
    where = ("--where", "index <= 3 and not state = HELD")
    preview = run(grid, "job", "hold", *where, "--dry-run")
    assert json.loads(preview.stdout)["due"] == {"READY": 3}
    assert "nothing was written" in preview.stderr
    assert states(grid) == 4 * ["READY"]
    made = told(grid, "job", "hold", *where)
    assert made["changed"] == 3
    (listed,) = told(grid, "operation", "list")
    assert listed == told(grid, "operation", "show", made["operation"])
    assert (listed["where"], listed["state"], listed["seen"]) == (where[1], "DONE", 3)
    assert told(grid, "operation", "resume", made["operation"])["changed"] == 3
    undone = told(grid, "operation", "undo", made["operation"])
    assert (undone["verb"], undone["undoes"], undone["changed"]) == ("undo", made["operation"], 3)
    assert states(grid) == 4 * ["READY"]


def test_an_order_that_fits_no_job_says_so(grid: Path) -> None:
    result = run(grid, "job", "release", "--where", "state = READY")
    assert json.loads(result.stdout)["changed"] == 0
    assert "nothing to release: no job meant is HELD" in result.stderr
    assert "tierflow request resume ID" in result.stderr
    held = run(grid, "job", "retry", "--where", "state = READY", "--dry-run")
    assert "nothing to retry" in held.stderr


def test_priority_is_relative_or_absolute(grid: Path) -> None:
    (task,) = {one["task"] for one in told(grid, "job", "list")}
    assert told(grid, "job", "priority", "--by", "-5", f"{task}/2")["changed"] == 1
    again = told(grid, "job", "priority", "--by", "5", "--where", f"task = {task} and priority < 0")
    assert again["due"] == {"READY": 1}
    assert run(grid, "job", "priority", f"{task}/2").exit_code == 2
    assert run(grid, "job", "priority", "--by", "1", "--to", "1", f"{task}/2").exit_code == 2
    made = told(grid, "job", "priority", "--to", "-7", "--where", "index <= 3")
    assert (made["due"], made["changed"]) == ({"READY": 3}, 3)
    shown = told(grid, "operation", "show", made["operation"])
    assert (shown["to"], shown["by"], shown["where"]) == (-7, None, "index <= 3 and priority != -7")
    repeated = run(grid, "job", "priority", "--to", "-7", f"{task}/2")
    assert "nothing to shift" in repeated.stderr
    assert told(grid, "operation", "undo", made["operation"])["changed"] == 3


@pytest.mark.parametrize(("answer", "left"), [("n\n", 4), ("y\n", 0)])
def test_many_jobs_are_asked_about_at_a_terminal(
    grid: Path, monkeypatch: pytest.MonkeyPatch, answer: str, left: int
) -> None:
    monkeypatch.setattr(jobs, "_somebody", lambda: True)
    monkeypatch.setattr(jobs, "CONFIRM_FROM", 4)
    result = run(grid, "job", "kill", "--where", "state = READY", answer=answer)
    assert "kill 4 jobs?" in result.stderr
    assert states(grid).count("READY") == left


def test_nobody_is_asked_about_few_jobs_or_with_yes(grid: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "_somebody", lambda: True)
    assert told(grid, "job", "hold", "--where", "state = READY")["changed"] == 4
    monkeypatch.setattr(jobs, "CONFIRM_FROM", 1)
    assert told(grid, "job", "release", "--where", "held = operator", "--yes")["changed"] == 4


@pytest.mark.parametrize(
    ("where", "status", "said"),
    [
        ("stat = HELD", 2, "hint: did you mean state?"),
        ("state = HELD; x", 2, "--where, character 13"),
        ("task = nosuch", 3, "there is no task nosuch"),
    ],
)
def test_a_selector_that_says_nothing_fails_with_its_place(
    grid: Path, where: str, status: int, said: str
) -> None:
    result = run(grid, "job", "kill", "--where", where)
    assert result.exit_code == status
    assert said in result.stderr
    assert states(grid) == 4 * ["READY"]


def test_an_interrupted_order_says_how_to_go_on(grid: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as during:
        during.setattr(orders, "advance", stop)
        result = run(grid, "job", "hold", "--where", "state = READY")
    assert result.exit_code == 130
    assert "tierflow operation resume ID" in result.stderr
    assert told(grid, "operation", "resume", 1)["changed"] == 4


KILLED = """
import os, signal, sys
from gridapp import carrying
from gridapp.cli.main import main
from prodsys.control import orders

carrying.CHUNK = carrying.LEAST = 1
advance, calls = orders.advance, []

def last(*args):
    calls.append(1)
    advance(*args)
    if len(calls) == 3:
        os.kill(os.getpid(), signal.SIGKILL)

orders.advance = last
main(sys.argv[1:])
"""


@pytest.mark.slow
def test_an_order_killed_within_a_chunk_is_taken_up_by_the_same_command(grid: Path) -> None:
    order = ("job", "priority", "--by", "3", "--where", "state = READY")
    done = subprocess.run(
        [sys.executable, "-c", KILLED, "--dir", grid, *order], cwd=REPOSITORY, capture_output=True, timeout=60
    )
    assert done.returncode == -signal.SIGKILL
    (cut,) = told(grid, "operation", "list")
    assert (cut["state"], cut["seen"], cut["changed"]) == ("RUNNING", 2, 2)
    assert told(grid, *order)["changed"] == 4
    assert told(grid, "job", "priority", "--by", "1", "--where", "priority = 3", "--dry-run")["due"] == {
        "READY": 4
    }


def test_jobs_are_listed_by_a_selector(grid: Path) -> None:
    found = told(grid, "job", "list", "--where", "index in (2, 3) and type = production*")
    assert [one["index"] for one in found] == [3, 2]
    assert told(grid, "job", "list", "--where", "error = lost or site = T2_*") == []
    assert len(told(grid, "job", "list", "--where", "attempt = 0", "--limit", 1, "--state", "ready")) == 1


def test_an_unknown_operation_is_not_found(grid: Path) -> None:
    for verb in ("show", "resume", "undo"):
        assert run(grid, "operation", verb, 99).exit_code == 3


def test_the_fields_are_listed() -> None:
    names = [one["field"] for one in json.loads(CliRunner().invoke(main, ["job", "fields"]).stdout)]
    assert {"task", "state", "age", "error"} <= set(names)
