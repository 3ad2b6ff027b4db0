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
from gridcore.db import Database
from prodsys import slicing, tasks
from prodsys.jobs import store
from prodsys.jobs.machine import JobEvent, JobState
from prodsys.jobs.store import Move
from prodsys.states import RequestState, TaskState
from prodsys.tables import job
from prodsys.tables import request as request_table


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
        bookkeeping.reopen_dataset(conn, stream.dataset_id)
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
