"""Campaigns of many minutes: faults by twenty seeds, and the grid killed at twenty random moments."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from campaigns.grid_process import REQUESTS, TIERFLOW, GridProcess, run, wait_finished, wait_ready
from sqlalchemy import Connection

from catalogs import bookkeeping
from gridapp import session
from gridapp.demo.summary import delivered_files

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

EVENTS = 160
NAMES = ("/MinBias_AuAu7/Toy-v1/GEN", "/MinBias_AuAu7/Toy-v1/NTUP")
#: The subscribers, and the T2 that keeps what was made there.
PLACES = ("T2_FR_Birch_Disk", "T1_DE_Alder_Disk", "T0_CH_Oak_Disk")
MADE_AT = "T2_DE_Ash_Disk"
KILLS_PER_RUN = 4


@pytest.mark.parametrize("seed", range(1, 21))
def test_sums_stay_exact_whatever_fails(seed: int, tmp_path: Path) -> None:
    command = [
        str(TIERFLOW),
        "demo",
        "--payload",
        "toy",
        "--faults",
        str(seed),
        "--dir",
        str(tmp_path / "d"),
        "--json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    summary = json.loads(done.stdout)
    assert summary["events_delivered"] == summary["events_requested"] == EVENTS
    assert summary["invariant_violations"] == 0
    assert summary["max_hops"] >= 3
    assert all(n >= 1 for n in summary["faults"].values()), summary["faults"]
    assert summary["retries"] >= summary["faults"]["attempts_failed"] + summary["faults"]["workers_vanished"]


def check_exact(directory: Path) -> None:
    """Nothing lost, nothing twice, nothing orphaned: in the database, and in the files on storage."""
    assert {one["state"] for one in run(directory, "task", "list")} == {"COMPLETED"}
    assert {one["events"] for one in run(directory, "dataset", "list")} == {EVENTS}
    findings = {one["check"]: one for one in run(directory, "doctor", check=False)}
    assert findings["invariants"]["ok"], findings
    installation = session.connect(directory, None)
    with installation.database.snapshot() as conn:
        files = delivered_files(conn)
        registered = {file.lfn for name in NAMES for file in files_of(conn, name)}
    installation.close()
    assert {place for _, place in files} <= {*PLACES, MADE_AT}
    assert {(name, place) for name in NAMES for place in PLACES} <= set(files)
    for (_, place), pfns in files.items():
        counter = [sys.executable, str(REQUESTS / "payloads" / "count_events.py"), *pfns]
        counted = json.loads(subprocess.run(counter, capture_output=True, check=True).stdout)
        if place != MADE_AT:
            assert sum(counted.values()) == EVENTS
        assert len(counted) == len(set(pfns))
    assert len(registered) == sum(len(pfns) for (_, se), pfns in files.items() if se == PLACES[0])


def files_of(conn: Connection, name: str) -> list[bookkeeping.FileRow]:
    found = bookkeeping.dataset_by_name(conn, name)
    assert found is not None
    blocks = bookkeeping.closed_blocks(conn, found.id)
    return [file for block in blocks for file in bookkeeping.files_of_block(conn, block.id)]


@pytest.mark.parametrize("number", range(1, 6))
def test_the_grid_survives_kill_9_at_any_moment(number: int, tmp_path: Path) -> None:
    """Four kills a run; every other one takes the payloads along, else they are adopted."""
    chance = random.Random(number)
    directory = tmp_path / "grid"
    grid = GridProcess(directory)
    wait_ready(directory)
    run(directory, "request", "submit", str(REQUESTS / "auau7-toy.toml"))
    for kill in range(KILLS_PER_RUN):
        time.sleep(chance.uniform(0.2, 4.0))
        grid.kill(payloads=(number + kill) % 2 == 0)
        grid.restart()
    wait_finished(directory)
    check_exact(directory)
    grid.stop()


def test_two_grids_on_one_database_admit_no_attempt_twice(tmp_path: Path) -> None:
    directory = tmp_path / "grid"
    first = GridProcess(directory)
    wait_ready(directory)
    second = GridProcess(directory)
    requests = tmp_path / "requests"
    shutil.copytree(REQUESTS, requests)
    starts = tmp_path / "starts.log"
    generator = requests / "payloads" / "toy_generate.py"
    mark = (
        "import json, os\n"
        "with open(os.environ['TIERFLOW_JOB']) as f: told = json.load(f)\n"
        f"fd = os.open({str(starts)!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND)\n"
        "os.write(fd, f\"{told['index']}.{told['attempt']}\\n\".encode())\n"
    )
    head, _, tail = generator.read_text().partition("\nimport ")
    generator.write_text(f"{head}\n{mark}import {tail}")
    run(directory, "request", "submit", str(requests / "auau7-toy.toml"))
    time.sleep(3)
    first.kill(payloads=False)
    wait_finished(directory)
    check_exact(directory)
    counts = Counter(starts.read_text().split())
    assert len(counts) >= EVENTS // 10
    assert max(counts.values()) == 1, counts
    second.stop()
