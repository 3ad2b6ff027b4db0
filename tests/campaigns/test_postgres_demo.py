"""The whole demo on PostgreSQL: the same flow, the same sums, as on SQLite."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from campaigns.grid_process import TIERFLOW, run
from servers.postgres import Postgres

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]

EVENTS = 160


@pytest.fixture
def url() -> Iterator[str]:
    server = Postgres().start()
    yield server.create_empty()
    server.stop()


def demo(directory: Path, url: str) -> subprocess.CompletedProcess[str]:
    command = [str(TIERFLOW), "demo", "--payload", "toy", "--events", str(EVENTS), "--json"]
    command += ["--dir", str(directory), "--database", url]
    return subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)


def test_the_demo_runs_whole_on_postgresql(url: str, tmp_path: Path) -> None:
    done = demo(tmp_path / "demo", url)
    assert done.returncode == 0, done.stderr[-2000:]
    summary = json.loads(done.stdout)
    assert summary["database"] == "postgresql"
    assert summary["events_delivered"] == summary["events_requested"] == EVENTS
    assert {n for places in summary["delivered"].values() for n in places.values()} == {EVENTS}
    assert len(summary["delivered"]) == 2
    assert (summary["invariant_violations"], summary["violations"]) == (0, [])
    assert not list((tmp_path / "demo").glob("tierflow.db*"))
    assert {one["state"] for one in run(tmp_path / "demo", "task", "list")} == {"COMPLETED"}
    again = demo(tmp_path / "other", url)
    assert again.returncode == 2
    assert "is not empty" in again.stderr
    assert not (tmp_path / "other").exists()
