"""Work that really runs, changed on the way: extended after its end, topped up after failures."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from servers.work_desk import OPS, Desk
from servers.work_grid import STEP
from sqlalchemy import select

from catalogs import discovery
from gridapp import amendments
from gridapp.insights import work
from gridcore.db import Database
from prodsys.settling.retries import ErrorClass
from prodsys.states import RequestState, TaskState
from prodsys.tables import request_history, task_history

pytestmark = pytest.mark.slow

#: Nothing is made until the flag is there.
FLAGGED = STEP.replace(
    '["python", "toy_generate.py"]',
    """["/bin/sh", "-c", "test -e '{flag}' || exit 7; exec '{python}' toy_generate.py"]""",
)


def events(database: Database) -> int | None:
    with database.snapshot() as conn:
        return discovery.dataset_show(conn, "/Toy/v1/GEN").dataset.events


def test_a_completed_request_is_extended_and_completed_again(database: Database, tmp_path: Path) -> None:
    desk = Desk(database, tmp_path, STEP.format(events=10))
    assert desk.end().state == TaskState.COMPLETED
    assert events(database) == 10
    assert amendments.extend(desk.grid.context, 1, "gen", 5, OPS)["state"] == "RUNNING"
    assert desk.end().state == TaskState.COMPLETED
    assert events(database) == 15
    moves = desk.grid.rows(select(request_history.c.dst).order_by(request_history.c.seq))
    assert [row.dst.value for row in moves][-3:] == ["COMPLETED", "RUNNING", "COMPLETED"]
    assert amendments.close(desk.grid.context, 1, OPS)["state"] == "CLOSED"


def test_what_failed_is_made_up_for_by_other_events(database: Database, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    text = FLAGGED.replace("{flag}", str(flag)).replace("{python}", sys.executable)
    desk = Desk(database, tmp_path, text.format(events=10))
    desk.rule(ErrorClass.PAYLOAD, 0)
    assert desk.end().state == TaskState.INCOMPLETE
    flag.touch()
    assert amendments.top_up(desk.grid.context, desk.task, OPS)["more"] == 10
    assert desk.end().state == TaskState.COMPLETED
    assert desk.request_state() == RequestState.COMPLETED
    assert events(database) == 10
    with database.snapshot() as conn:
        view = work.task(conn, desk.task)
    units = view["units"]
    assert (units["total"], units["wanted"], units["done"], units["failed"]) == (20, 10, 10, 10)
    assert view["reason"] == "all 10 events done and registered"
    codes = desk.grid.rows(select(task_history.c.code).order_by(task_history.c.seq))
    assert "TOPPED_UP" in [row.code for row in codes]


def test_a_pause_lets_go_on_what_runs(database: Database, tmp_path: Path) -> None:
    desk = Desk(database, tmp_path, STEP.format(events=20))
    amendments.pause(desk.grid.context, 1, OPS)
    for _ in range(5):
        desk.grid.cycle()
    assert desk.states() == []
    amendments.resume(desk.grid.context, 1, OPS)
    assert desk.end().state == TaskState.COMPLETED
    assert events(database) == 20
