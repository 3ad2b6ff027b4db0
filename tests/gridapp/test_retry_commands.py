"""`retry-rule` and `breaker`: the table, a log tried on it, what failures cost, breakers closed by hand."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import embedded_grid
import pytest
from click.testing import CliRunner, Result
from sqlalchemy import Connection

from catalogs import sites
from gridapp import session
from gridapp.cli.main import main
from gridapp.installation import Installation
from gridcore.db import dbnow
from prodsys.queue import breakers
from prodsys.queue.breaker_states import Policy
from prodsys.settling import outcomes, retry_rules
from prodsys.settling.outcomes import Outcome
from prodsys.settling.retries import DEFAULT_RULES, ErrorClass, RetryRule


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return embedded_grid.make(tmp_path_factory.mktemp("template") / "grid")


@pytest.fixture
def grid(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("TIERFLOW_")]:
        monkeypatch.delenv(name)
    return embedded_grid.copy(template, tmp_path / "grid")


@pytest.fixture
def installation(grid: Path) -> Iterator[Installation]:
    made = session.connect(grid, None)
    yield made
    made.close()


def run(*args: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


def answer(*args: object) -> Any:
    result = run(*args)
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_list_shows_every_class_and_what_was_changed(grid: Path, installation: Installation) -> None:
    new = RetryRule(
        error_class=ErrorClass.KILLED,
        max_retries=9,
        delay_s=5,
        cap_s=50,
        elsewhere=False,
        penalty=True,
        blame="site",
        bigger="memory",
        factor=2,
    )
    installation.database.transaction(lambda conn: retry_rules.put(conn, new))
    found = {row["class"]: row for row in answer("--dir", grid, "retry-rule", "list")}
    assert set(found) == {kind.value for kind in ErrorClass}
    assert found["memory"]["bigger"] == "memory x 1.5"
    assert (found["memory"]["source"], found["killed"]["source"]) == ("default", "override")
    assert (found["killed"]["max"], found["killed"]["bigger"]) == (9, "memory x 2")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"exit_code": 1, "signal": null, "error_class": "stage_in", "outcome": "failed"}', "stage_in"),
        ('{"exit_code": \nexit code 3', "payload"),
        ("Exit code 8021", "stage_in"),
        ("...\nKilled", "killed"),
        ("----- Begin Fatal Exception", "payload"),
    ],
)
def test_a_log_is_tried_on_the_table(grid: Path, tmp_path: Path, text: str, expected: str) -> None:
    log = tmp_path / "job.log"
    log.write_text(text)
    told = answer("--dir", grid, "retry-rule", "test", log)
    rule = DEFAULT_RULES[ErrorClass(expected)]
    assert (told["class"], told["rule"]["max"]) == (expected, rule.max_retries)
    steps = told["failures"]
    assert steps[0]["then"] == "RETRY_WAIT"
    assert steps[0]["after_s"] == rule.delay_s
    assert (steps[-1]["failure"], steps[-1]["then"]) == (rule.max_retries + 1, "FAILED")


def test_a_large_or_hostile_log_is_read_in_bounds(grid: Path, tmp_path: Path) -> None:
    log = tmp_path / "job.log"
    with log.open("wb") as stream:
        stream.write(b"\x1b]0;evil\x07\xff\x00" * 100)
        stream.seek(3 * 2**30)
        stream.write(b"\nexit code 50660\n")
    assert answer("--dir", grid, "retry-rule", "test", log)["class"] == "memory"
    log.write_text("[" * 1_000_000)
    assert run("--dir", grid, "retry-rule", "test", log).exit_code == 2
    log.write_text('{"a":' * 100_000)
    assert "nothing in" in run("--dir", grid, "retry-rule", "test", log).stderr


def test_what_is_no_log_is_said(grid: Path, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path in (fifo, tmp_path / "missing", Path("/dev/zero")):
        result = run("--dir", grid, "retry-rule", "test", path)
        assert (result.exit_code, "error: " in result.stderr) == (2, True)


def test_hits_tell_what_failures_cost(grid: Path, installation: Installation) -> None:
    assert answer("--dir", grid, "retry-rule", "hits") == []

    def unit(conn: Connection) -> None:
        now = dbnow(conn)
        keys = {one.name: one.id for one in sites.sites(conn)}
        first, second, *_ = sorted(keys)
        rows = [Outcome(keys[first], "stage_out", 3600.0)] * 3 + [Outcome(keys[first], "ok", 36000.0)] * 6
        outcomes.record(conn, [*rows, Outcome(keys[second], "stage_out", 1800.0)], now)
        outcomes.record(conn, [Outcome(keys[second], "site", 99.0)], now - timedelta(days=2))

    installation.database.transaction(unit)
    found = answer("--dir", grid, "retry-rule", "hits", "--days", 1)
    assert [row["class"] for row in found] == ["stage_out", "ok"]
    lost = found[0]
    assert (lost["attempts"], lost["core_hours"], lost["sites"], lost["percent"]) == (4, 3.5, 2, 40.0)
    assert list(lost["worst"].values()) == [3, 1]
    assert [row["class"] for row in answer("--dir", grid, "retry-rule", "hits")] == [
        "stage_out",
        "site",
        "ok",
    ]
    assert run("--dir", grid, "retry-rule", "hits", "--days", 8).exit_code == 2


def test_breakers_are_listed_and_reset(grid: Path, installation: Installation) -> None:
    assert answer("--dir", grid, "breaker", "list") == []

    def unit(conn: Connection) -> str:
        now = dbnow(conn)
        one = sites.sites(conn)[0]
        outcomes.record(conn, [Outcome(one.id, "site", 1.0)] * 20, now)
        policy = Policy(ceiling=1.0)
        assert len(breakers.update_all(conn, DEFAULT_RULES, now, policy)) == 1
        return one.name

    name = installation.database.transaction(unit)
    (row,) = answer("--dir", grid, "breaker", "list")
    assert (row["site"], row["state"], row["allowance"], row["trips"]) == (name, "OPEN", 0, 1)
    assert row["reason"].startswith("20 of 20 attempts ended with site: no work until ")
    assert answer("--dir", grid, "breaker", "reset", name, "site")["changed"]
    (row,) = answer("--dir", grid, "breaker", "list")
    assert (row["state"], row["allowance"]) == ("CLOSED", None)
    assert run("--dir", grid, "breaker", "reset", name, "payload").exit_code == 3
    assert run("--dir", grid, "breaker", "reset", name, "nonsense").exit_code == 2
