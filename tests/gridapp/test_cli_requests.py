"""Commands about requests and tasks: drafts, decisions and changes, what they answer and what they leave."""

from __future__ import annotations

import json
import os
import sqlite3
from pathlib import Path
from typing import Any

import embedded_grid
import pytest
from click.testing import CliRunner, Result

from gridapp.cli.main import main


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return embedded_grid.make(tmp_path_factory.mktemp("template") / "grid")


@pytest.fixture
def grid(template: Path, tmp_path: Path) -> Path:
    return embedded_grid.copy(template, tmp_path / "grid")


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("TIERFLOW_")]:
        monkeypatch.delenv(name)


def run(*args: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


def answer(*args: object) -> Any:
    result = run(*args)
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def request(grid: Path, *args: object) -> Any:
    return answer("request", *args, "--dir", grid)


def task(grid: Path, *args: object) -> Any:
    return answer("task", *args, "--dir", grid)


def audited(grid: Path) -> list[tuple[str, str]]:
    with sqlite3.connect(grid / "tierflow.db") as raw:
        rows = raw.execute(
            "select verb, subject from audit_log where verb like 'request %' or verb like 'task %'"
        )
        return list(rows.fetchall())


def submitted(grid: Path, tmp_path: Path, *options: str) -> dict[str, Any]:
    path = embedded_grid.write_request(tmp_path)
    made: dict[str, Any] = request(grid, "submit", path, *options)
    return made


def test_a_draft_waits_for_its_owner(grid: Path, tmp_path: Path) -> None:
    made = submitted(grid, tmp_path, "--draft")
    assert (made["state"], made["tasks"]) == ("DRAFT", [])
    (listed,) = request(grid, "list", "--state", "draft")
    assert listed["reason"] == "a draft, not handed in yet"
    refused = run("request", "approve", made["request"], "--dir", grid)
    assert refused.exit_code == 1
    assert "DRAFT" in refused.stderr
    assert request(grid, "submit-draft", made["request"])["state"] == "RUNNING"
    again = run("request", "submit-draft", made["request"], "--dir", grid)
    assert again.exit_code == 1
    assert run("request", "withdraw", made["request"], "--dir", grid).exit_code == 1


def test_why_a_request_is_paused_is_told_in_the_words_of_who_did(grid: Path, tmp_path: Path) -> None:
    key = submitted(grid, tmp_path)["request"]
    request(grid, "pause", key, "--reason", "disks are full")
    reason = request(grid, "show", key)["reason"]
    assert reason.startswith("paused by ")
    assert reason.endswith("; the reason given: disks are full")
    request(grid, "resume", key)
    request(grid, "pause", key)
    assert "the reason given" not in request(grid, "show", key)["reason"]


def test_a_request_is_steered_by_command(grid: Path, tmp_path: Path) -> None:
    made = submitted(grid, tmp_path)
    key, name = made["request"], made["tasks"][0]
    assert request(grid, "pause", key, "--reason", "a bad release")["state"] == "PAUSED"
    assert request(grid, "show", key)["assigned"]["why"] == "no policy fits it: it may run at every site"
    assert request(grid, "resume", key)["state"] == "RUNNING"
    assert request(grid, "extend", key, "--step", "generate", "--events", 10, "--dry-run")["wanted"] == 50
    assert request(grid, "extend", key, "--step", "generate", "--events", 10)["wanted"] == 50
    assert request(grid, "priority", key, -5)["priority"] == -5
    assert task(grid, "priority", name, 7)["priority"] == 7
    assert task(grid, "top-up", name)["more"] == 0
    assert request(grid, "share", key, "analysis")["share"].startswith("analysis/")
    site = answer("site", "list", "--dir", grid)[0]["name"]
    told = request(grid, "assign", key, "--site", site)
    assert told["steps"] == {"generate": [site]}
    assert request(grid, "show", key)["assigned"]["sites"] == [site]
    units = task(grid, "show", name)["units"]
    assert (units["total"], units["wanted"]) == (50, 50)
    assert audited(grid) == [
        ("request pause", f"request {key}"),
        ("request resume", f"request {key}"),
        ("request extend", f"request {key}"),
        ("request priority", f"request {key}"),
        ("task priority", f"task {name}"),
        ("task priority", f"task {name}"),
        ("request share", f"request {key}"),
        ("request assign", f"request {key}"),
    ]


@pytest.mark.parametrize(
    ("args", "code", "told"),
    [
        (["request", "close", 1], 1, "running"),
        (["request", "extend", 1, "--step", "reco", "--events", 5], 3, "reco"),
        (["request", "extend", 1, "--step", "generate", "--events", 0], 2, "events"),
        (["request", "extend", 1, "--step", "generate", "--events", 10**12], 2, "jobs"),
        (["request", "priority", 1, 5000], 2, "5000"),
        (["request", "share", 1, "nobody"], 2, "nobody"),
        (["request", "assign", 1, "--agent", "nobody"], 2, "ProdAgent 'nobody'"),
        (["request", "assign", 1, "--site-set", "nowhere"], 2, "site set 'nowhere'"),
        (["request", "pause", 99], 3, "99"),
        (["request", "list", "--state", "weird"], 2, "weird"),
        (["task", "top-up", "T"], 3, "T"),
        (["task", "force-complete", "T"], 2, "reason"),
        (["task", "force-complete", "T", "--reason", "x"], 3, "T"),
    ],
)
def test_what_makes_no_sense_is_refused_and_nothing_is_written(
    grid: Path, tmp_path: Path, args: list[object], code: int, told: str
) -> None:
    submitted(grid, tmp_path)
    refused = run(*args, "--dir", grid)
    assert refused.exit_code == code, refused.output
    assert told in refused.stderr
    assert refused.stdout == ""
    assert audited(grid) == []
