"""Input that grows: each block that closes becomes jobs; the task waits for more and ends with the last."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from servers.lumi_input import LumiInput
from servers.work_desk import OPS
from servers.work_grid import Grid
from sqlalchemy import Connection, select

from catalogs import bookkeeping
from gridapp import amendments
from gridapp.insights import work
from gridcore.db import Database, dbnow
from gridcore.errors import Conflict
from gridcore.tables import audit_log
from prodsys.job_states import JobEvent, JobState
from prodsys.jobs import store
from prodsys.jobs.store import Move
from prodsys.states import RequestState, TaskState
from prodsys.tables import job
from prodsys.tables import request as request_table
from prodsys.tasks import tasks
from prodsys.units import slicing


@pytest.fixture
def stream(database: Database, tmp_path: Path) -> LumiInput:
    return LumiInput(Grid(database, tmp_path))


def cycle(stream: LumiInput, times: int = 1) -> None:
    for _ in range(times):
        stream.grid.cycle([stream.grid.agents[0]])


def states(stream: LumiInput) -> list[str]:
    return [row.state.value for row in stream.grid.rows(select(job.c.state).order_by(job.c.id))]


def fail_all(stream: LumiInput) -> None:
    """The jobs there are end, without a payload."""
    for event, to in ((JobEvent.CLAIMED, JobState.LEASED), (JobEvent.REFUSED, JobState.FAILED)):
        rows = stream.grid.rows(select(job.c.id, job.c.attempt).where(job.c.state.not_in(["FAILED"])))
        moves = [Move(job_id=row.id, attempt=row.attempt, event=event, to=to) for row in rows]
        stream.grid.database.transaction(partial(_apply, moves, stream.grid.context.clock.now()))


def _apply(moves: list[Move], now: datetime, conn: Connection) -> Any:
    return store.apply(conn, moves, now)


def test_blocks_become_jobs_as_they_close_and_the_task_stays(stream: LumiInput) -> None:
    name = stream.submit("files_per_job = 2")
    cycle(stream, 3)
    assert states(stream) == []
    for made in (2, 4, 6):
        stream.add_block([(1, made, made)], [(2, made, made)], [(3, made, made)])
        cycle(stream, 2)
        assert len(states(stream)) == made
        fail_all(stream)
        cycle(stream, 2)
        one = stream.grid.task(name)
        assert (one.state, one.units_total, one.units_made) == (TaskState.ACTIVE, None, made // 2 * 3)
    with stream.grid.database.snapshot() as conn:
        view = work.task(conn, name)
    assert any("still growing" in line for line in view["because"])
    assert view["forecast"]["wanted"] is None
    assert view["forecast"]["sentence"].startswith("0 files of a growing input done")
    stream.close()
    cycle(stream, 3)
    one = stream.grid.task(name)
    assert (one.state, one.units_total) == (TaskState.INCOMPLETE, 9)
    assert stream.grid.rows(select(request_table.c.state))[0].state == RequestState.INCOMPLETE


def test_a_block_that_closes_in_a_pause_waits(stream: LumiInput) -> None:

    name = stream.submit("files_per_job = 1")
    stream.add_block([(1, 1, 1)])
    cycle(stream, 2)
    amendments.pause(stream.grid.context, 1, OPS)
    stream.add_block([(2, 1, 1)])
    cycle(stream, 2)
    assert states(stream) == ["HELD"]
    amendments.resume(stream.grid.context, 1, OPS)
    cycle(stream, 2)
    assert states(stream) == ["READY", "READY"]
    stream.close()
    cycle(stream)
    assert stream.grid.task(name).units_total == 2


def test_a_slice_read_before_a_pause_is_not_made_in_it(stream: LumiInput) -> None:
    name = stream.submit("files_per_job = 1")
    stream.add_block([(1, 1, 1)])
    with stream.grid.database.snapshot() as conn:
        due = slicing.next_slice(conn, stream.grid.task(name), 10, 100)
    assert due is not None
    amendments.pause(stream.grid.context, 1, OPS)
    assert stream.make_slice(stream.grid.task(name), due) == 0
    assert states(stream) == []


def test_an_extension_upstream_keeps_the_reader_waiting(database: Database, tmp_path: Path) -> None:
    grid = Grid(database, tmp_path)
    stream = LumiInput(grid)
    name = stream.submit("files_per_job = 1")
    stream.add_block([(1, 1, 1)])
    stream.close()
    cycle(stream, 2)
    assert grid.task(name).units_total == 1

    def reopen(conn: Connection) -> None:
        bookkeeping.reopen_dataset(conn, stream.dataset_id, "test", dbnow(conn))
        source = replace(grid.task(name), id=-1, output_dataset_id=stream.dataset_id)
        tasks.expect_more(conn, source)

    database.transaction(reopen)
    fail_all(stream)
    cycle(stream, 2)
    assert (grid.task(name).state, grid.task(name).units_total) == (TaskState.ACTIVE, None)
    stream.add_block([(2, 1, 1)])
    stream.close()
    cycle(stream, 2)
    assert grid.task(name).units_total == 2


# --- declared complete while it grows ----------------------------------------------------------------------


def force(stream: LumiInput, name: str) -> Any:
    return amendments.force_complete(stream.grid.context, name, "enough for the paper", OPS)


def view(stream: LumiInput, name: str) -> dict[str, Any]:
    with stream.grid.database.snapshot() as conn:
        return work.task(conn, name)


def test_a_task_is_declared_complete_before_its_input_ends(stream: LumiInput) -> None:
    """It takes no block more, even one that was closed before; what it has made ends first."""
    name = stream.submit("files_per_job = 1")
    stream.add_block([(1, 1, 1)], [(2, 1, 1)])
    cycle(stream, 2)
    stream.add_block([(3, 1, 1)])
    dry = amendments.force_complete(stream.grid.context, name, "enough", OPS, dry_run=True)
    assert (dry["state"], dry["changed"], stream.grid.task(name).forced) == ("ACTIVE", False, False)
    told = force(stream, name)
    assert (told["state"], told["changed"], told["jobs"]) == ("ACTIVE", True, {"READY": 2})
    assert (told["units"]["wanted"], told["units"]["made"]) == (2, 2)
    stream.add_block([(4, 1, 1)])
    cycle(stream, 3)
    assert states(stream) == ["READY", "READY"]
    because = view(stream, name)["because"]
    assert because[0].startswith("declared complete by ops, it takes no more input")
    assert not any("growing" in line or "to be cut" in line for line in because)
    fail_all(stream)
    cycle(stream, 3)
    assert (stream.grid.task(name).state, stream.grid.task(name).units_total) == (TaskState.COMPLETED, 2)
    assert stream.grid.rows(select(request_table.c.state))[0].state == RequestState.COMPLETED
    assert "declared complete by ops with 0 of 2 files done" in view(stream, name)["reason"]
    (row,) = stream.grid.rows(select(audit_log))
    assert (row.verb, row.actor) == ("task force-complete", "ops")
    assert row.detail == {"reason": "enough for the paper", "units": 2, "live_jobs": 2}


def test_a_block_that_is_cut_in_part_is_left_there(stream: LumiInput) -> None:
    name = stream.submit("files_per_job = 1")
    stream.add_block([(1, 1, 1)], [(2, 1, 1)], [(3, 1, 1)])
    assert stream.make(name, room=2) == 2
    with stream.grid.database.snapshot() as conn:
        due = slicing.next_slice(conn, stream.grid.task(name), 10, 100)
    assert due is not None
    force(stream, name)
    assert stream.make_slice(stream.grid.task(name), due) == 0  # it was read before
    assert stream.make(name) is None
    fail_all(stream)
    cycle(stream, 3)
    assert (stream.grid.task(name).state, len(states(stream))) == (TaskState.COMPLETED, 2)


def test_a_task_declared_complete_stays_so_over_a_pause_and_news_from_upstream(stream: LumiInput) -> None:
    name = stream.submit("files_per_job = 1")
    stream.add_block([(1, 1, 1)])
    cycle(stream, 2)
    force(stream, name)
    amendments.pause(stream.grid.context, 1, OPS)
    cycle(stream, 2)
    assert (states(stream), stream.grid.task(name).forced) == (["HELD"], True)
    amendments.resume(stream.grid.context, 1, OPS)
    source = replace(stream.grid.task(name), id=-1, output_dataset_id=stream.dataset_id)
    stream.grid.database.transaction(lambda conn: tasks.expect_more(conn, source))
    stream.add_block([(2, 1, 1)])
    cycle(stream, 2)
    assert (states(stream), stream.grid.task(name).units_total) == (["READY"], 1)
    fail_all(stream)
    cycle(stream, 3)
    assert stream.grid.task(name).state == TaskState.COMPLETED


def test_a_task_without_any_job_yet_is_declared_complete(stream: LumiInput) -> None:
    name = stream.submit("files_per_job = 1")
    force(stream, name)
    cycle(stream, 3)
    assert stream.grid.task(name).state == TaskState.COMPLETED
    stream.add_block([(1, 1, 1)])
    cycle(stream, 2)
    assert states(stream) == []


def test_a_paused_task_is_not_declared_complete(stream: LumiInput) -> None:
    name = stream.submit("files_per_job = 1")
    amendments.pause(stream.grid.context, 1, OPS)
    with pytest.raises(Conflict, match="paused") as caught:
        force(stream, name)
    assert caught.value.hint == "tierflow request resume 1"
