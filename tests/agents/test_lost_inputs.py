"""Files that become invalid: waiting jobs that list them are held, new ones leave them out."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from servers.lumi_input import LumiInput
from servers.work_desk import OPS
from servers.work_grid import Grid
from sqlalchemy import Connection, select, update

from catalogs import bookkeeping, validity
from catalogs.states import InvalidCode
from gridapp.insights import work
from gridapp.insights.why import why
from gridapp.operations import order_jobs
from gridapp.selections import Selection
from gridcore.db import Database, dbnow
from prodsys.control.orders import OrderVerb
from prodsys.job_states import JobEvent, JobState
from prodsys.jobs import store
from prodsys.jobs.store import Move
from prodsys.tables import job, job_spec


@pytest.fixture
def stream(database: Database, tmp_path: Path) -> LumiInput:
    return LumiInput(Grid(database, tmp_path))


def cycle(stream: LumiInput, times: int = 1) -> None:
    for _ in range(times):
        stream.grid.cycle([stream.grid.agents[0]])


def do(stream: LumiInput, act: Any, *args: Any) -> Any:
    return stream.grid.database.transaction(lambda conn: act(conn, *args))


def say(stream: LumiInput, number: int, code: InvalidCode = InvalidCode.INVALID) -> str:
    """The numbered file is invalid; its LFN."""
    lfn = f"/store/data/f{number}.root"

    def unit(conn: Connection) -> None:
        found = bookkeeping.file_by_lfn(conn, lfn)
        assert found is not None
        validity.invalidate(conn, [found.id], code, "ann", dbnow(conn))

    stream.grid.database.transaction(unit)
    return lfn


def well(stream: LumiInput, number: int) -> None:
    def unit(conn: Connection) -> None:
        found = bookkeeping.file_by_lfn(conn, f"/store/data/f{number}.root")
        assert found is not None
        validity.revalidate(conn, [found.id], "ann", dbnow(conn))

    stream.grid.database.transaction(unit)


def told(stream: LumiInput) -> list[tuple[str, str | None, str | None]]:
    columns = select(job.c.state, job.c.hold_kind, job.c.code).order_by(job.c.id)
    return [(row.state.value, row.hold_kind, row.code) for row in stream.grid.rows(columns)]


def inputs(stream: LumiInput) -> list[list[str]]:
    """The names of the files each job reads."""
    specs = stream.grid.rows(select(job_spec.c.spec).order_by(job_spec.c.job_id))
    return [[one["lfn"].rpartition("/")[2] for one in row.spec["inputs"]] for row in specs]


READY = ("READY", None, None)
HELD = ("HELD", "input", "INPUT_INVALID")


@pytest.mark.parametrize("lines", ["files_per_job = 1", "lumis_per_job = 1"])
def test_waiting_jobs_are_held_and_go_on_when_it_is_well(stream: LumiInput, lines: str) -> None:
    name = stream.submit(lines)
    stream.add_block([(1, 1, 1)], [(1, 2, 2)], [(1, 3, 3)])
    cycle(stream)
    assert told(stream) == [READY] * 3
    lfn = say(stream, 1)
    cycle(stream)
    assert told(stream) == [READY, HELD, READY]
    with stream.grid.database.snapshot() as conn:
        assert validity.untold(conn, 10) == []
        said = why(conn, f"{name}/2", dbnow(conn), 60.0, 1000)
        shown = work.job(conn, f"{name}/2")
    assert f"its input {lfn} is invalid: nobody shall read it" in said["because"]
    assert said["next"] == f"tierflow file show {lfn}"
    assert shown["state"] == "HELD"
    cycle(stream, 2)
    assert told(stream) == [READY, HELD, READY]
    well(stream, 1)
    long_ago = update(job).values(updated_at=stream.grid.context.clock.now() - timedelta(days=1))
    do(stream, lambda conn: conn.execute(long_ago.where(job.c.state == JobState.HELD)))
    cycle(stream)
    assert told(stream) == [READY] * 3


def test_what_is_lost_comes_before_what_is_wrong(stream: LumiInput) -> None:
    stream.submit("files_per_job = 2")
    stream.add_block([(1, 1, 1)], [(1, 2, 2)])
    cycle(stream)
    say(stream, 0)
    say(stream, 1, InvalidCode.LOST)
    cycle(stream)
    assert told(stream) == [("HELD", "input", "INPUT_LOST")]
    (row,) = stream.grid.rows(select(job.c.params))
    assert row.params == {"lfn": "/store/data/f1.root", "files": 1}


def test_new_jobs_leave_it_out(stream: LumiInput) -> None:
    stream.submit("files_per_job = 2")
    stream.add_block([(1, 1, 1)], [(1, 2, 2)], [(1, 3, 3)])
    stream.add_block([(1, 4, 4)])
    say(stream, 0)
    say(stream, 3)
    cycle(stream, 2)
    assert inputs(stream) == [["f1.root", "f2.root"]]
    assert told(stream) == [READY]


def test_a_block_that_is_begun_is_cut_on_as_it_was(stream: LumiInput) -> None:
    """Whatever becomes invalid or well meanwhile: no file is left out, and none is read twice."""
    name = stream.submit("files_per_job = 1")
    stream.add_block(*([(1, n + 1, n + 1)] for n in range(5)))
    say(stream, 0)
    assert stream.make(name, room=2) == 2
    say(stream, 1)  # of a job that waits
    say(stream, 3)  # of one still to be made
    well(stream, 0)
    assert stream.make(name, room=2) == 2
    assert inputs(stream) == [["f1.root"], ["f2.root"], ["f3.root"], ["f4.root"]]
    assert told(stream) == [READY, READY, HELD, READY]
    cycle(stream)
    assert told(stream) == [HELD, READY, HELD, READY]


def test_a_job_that_returns_later_is_looked_at_then(stream: LumiInput) -> None:
    stream.submit("files_per_job = 1")
    stream.add_block([(1, 1, 1)])
    cycle(stream)
    (row,) = stream.grid.rows(select(job.c.id, job.c.attempt))
    now = stream.grid.context.clock.now()
    go = Move(job_id=row.id, attempt=0, event=JobEvent.CLAIMED, to=JobState.LEASED)
    do(stream, store.apply, [go], now)
    say(stream, 0)
    cycle(stream)
    assert told(stream) == [("LEASED", None, None)]
    back = Move(
        job_id=row.id, attempt=1, event=JobEvent.REFUSED, to=JobState.RETRY_WAIT, due_at=now, code="X"
    )
    do(stream, store.apply, [back], now)
    cycle(stream)
    assert told(stream) == [HELD]


def test_what_an_operator_releases_is_held_for_its_input(stream: LumiInput) -> None:
    name = stream.submit("files_per_job = 1")
    stream.add_block([(1, 1, 1)])
    cycle(stream)
    context = stream.grid.context
    order_jobs(context, OrderVerb.HOLD, Selection(task=name), OPS)
    say(stream, 0)
    cycle(stream)
    assert told(stream)[0][:2] == ("HELD", "operator")
    done = order_jobs(context, OrderVerb.RELEASE, Selection(task=name), OPS)
    assert done["changed"] == 1
    assert told(stream) == [HELD]
