"""When tasks will end: the sentence, and the pace from recent history; on both databases."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from servers.work_desk import Desk
from servers.work_grid import STEP
from sqlalchemy import Connection, update

from gridapp.insights import forecasts, work
from gridapp.insights.forecasts import pace, told
from gridapp.insights.values import iso
from gridcore.db import Database, insert_rows
from prodsys.job_states import JobState
from prodsys.requests.completion import Forecast
from prodsys.states import TaskState
from prodsys.tables import job_history, task, task_count

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def forecast(done: int, wanted: int | None, per_s: float | None, after_s: float | None) -> Forecast:
    ends_at = None if after_s is None else NOW + timedelta(seconds=after_s)
    return Forecast(done=done, wanted=wanted, pace=per_s, ends_at=ends_at)


@pytest.mark.parametrize(
    ("found", "files", "sentence"),
    [
        (
            forecast(600, 1000, 2 / 3, 600),
            12,
            "600 of 1000 events done (60 %), 12 files registered; 40 events/min:"
            " it ends in 10 min if it goes on like this",
        ),
        (
            forecast(0, 1000, None, None),
            0,
            "0 of 1000 events done (0 %), 0 files registered; nothing is done yet that would tell its pace",
        ),
        (forecast(1000, 1000, 3.0, None), 1, "1000 of 1000 events done (100 %), 1 file registered"),
        (
            forecast(5, None, 2.0, None),
            1,
            "5 events of a growing input done, 1 file registered; 2 events/s",
        ),
    ],
)
def test_the_sentence_says_it_plainly(found: Forecast, files: int, sentence: str) -> None:
    assert told(found, files, "event", NOW) == sentence


def test_what_does_not_go_on_has_no_end_in_sight() -> None:
    found = forecast(600, 1000, 2 / 3, 600)
    assert told(found, 12, "event", NOW, going=False) == "600 of 1000 events done (60 %), 12 files registered"


@pytest.mark.parametrize(
    ("per_s", "text"),
    [(12.0, "12 files/s"), (0.5, "30 files/min"), (0.01, "36 files/h"), (1e-5, "0.864 files/day")],
)
def test_a_pace_is_told_in_the_unit_that_fits(per_s: float, text: str) -> None:
    assert pace(per_s, "file") == text


@pytest.fixture
def desk(database: Database, tmp_path: Path) -> Desk:
    made = Desk(database, tmp_path, STEP.format(events=100))
    made.make_jobs()
    return made


def show(desk: Desk) -> dict[str, Any]:
    with desk.grid.database.snapshot() as conn:
        return work.task(conn, desk.task)["forecast"]  # type: ignore[no-any-return]


def test_the_pace_is_read_from_what_was_done_lately(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten of the jobs end, five of them within the last hour; counters and history only."""
    now = desk.grid.context.clock.now()
    rows = desk.jobs()[:10]

    def unit(conn: Connection) -> None:
        ended = [now - timedelta(hours=3)] * 5 + [now - timedelta(minutes=10)] * 5
        history = [
            {"job_id": row.id, "attempt": 1, "frm": JobState.STAGEOUT, "dst": JobState.DONE, "at": at}
            for row, at in zip(rows, ended, strict=True)
        ]
        insert_rows(conn, job_history, history)
        conn.execute(update(task).values(created_at=now - timedelta(hours=5)))
        done = update(task_count).where(task_count.c.kind == "process", task_count.c.state == "DONE")
        conn.execute(done.values(jobs=10, units=50))

    def undo(conn: Connection) -> None:
        conn.execute(job_history.delete().where(job_history.c.dst == JobState.DONE))
        conn.execute(update(task_count).where(task_count.c.state == "DONE").values(jobs=0, units=0))
        conn.execute(update(task).values(state=TaskState.ACTIVE))

    monkeypatch.setattr(forecasts, "dbnow", lambda _: now)
    desk.grid.database.transaction(unit)
    try:
        found = show(desk)
        desk.grid.database.transaction(lambda conn: conn.execute(update(task).values(state=TaskState.PAUSED)))
        paused = show(desk)
    finally:
        desk.grid.database.transaction(undo)
    assert (found["done"], found["wanted"]) == (50, 100)
    assert found["per_s"] == pytest.approx(25 / 3600)
    assert "it ends in 2.0 h" in found["sentence"]
    assert (found["left_s"], found["ends_at"]) == (7200, iso(now + timedelta(hours=2)))
    assert (paused["left_s"], paused["ends_at"]) == (None, None)
