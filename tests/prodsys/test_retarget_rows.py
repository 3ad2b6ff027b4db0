"""Retargets in the database: jobs go back to the queue in another class, or wait for their input."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from grids.failing_grid import ALDER, BIRCH, CEDAR, FailingGrid
from grids.waiting_grid import step
from sqlalchemy import Connection, event, update

from catalogs.tables import block_replica
from gridcore.db import Database, dbnow
from prodsys.control import retargets
from prodsys.job_states import JobEvent, JobState
from prodsys.jobs import store
from prodsys.jobs.store import Move
from prodsys.queue import classes
from prodsys.queue.brokerage import Requirements
from prodsys.queue.classes import ClassSpec
from prodsys.settling import retry_rules
from prodsys.settling.retries import DEFAULT_RULES, ErrorClass, Reason, reason

SIZED = "limits = { memory_mb = 2000, wall_s = 3600 }"


@pytest.fixture
def grid(database: Database, tmp_path: Path) -> FailingGrid:
    made = FailingGrid(database, tmp_path)
    made.request(step("gen", more=SIZED))
    made.make()
    return made


def test_too_little_memory_asks_for_more_where_it_is_offered(grid: FailingGrid) -> None:
    (item,) = grid.claim(BIRCH)
    grid.finish(BIRCH, item, ErrorClass.MEMORY)
    assert grid.state() == JobState.RETRY_WAIT
    grid.make()
    row = grid.job()
    assert (row.state, row.requirements["memory_mb"], row.requirements["wall_s"]) == ("READY", 3000, 3600)
    assert row.code == Reason.RETARGETED
    assert reason(row.code, row.params) == "asks for 3000 instead of 2000 MB of memory"
    assert grid.claim(BIRCH) == []
    (again,) = grid.claim(ALDER)
    assert again.document["attempt"] == 2
    grid.finish(ALDER, again, ErrorClass.MEMORY)
    grid.make()
    assert grid.job().requirements["memory_mb"] == 4000  # all that anybody offers


def test_the_worker_is_given_the_larger_limits(grid: FailingGrid) -> None:
    (item,) = grid.claim(BIRCH)
    assert item.document["limits"]["memory_mb"] == 2000
    grid.finish(BIRCH, item, ErrorClass.MEMORY)
    grid.make()
    (again,) = grid.claim(ALDER)
    assert again.document["limits"]["memory_mb"] == 3000
    grid.finish(ALDER, again, ErrorClass.TIMEOUT)
    grid.make()
    (third,) = grid.claim(ALDER)
    assert (third.document["limits"]["memory_mb"], third.document["limits"]["wall_s"]) == (3000, 5400)


def test_a_refused_job_goes_elsewhere_and_its_class_mates_stay(database: Database, tmp_path: Path) -> None:
    grid = FailingGrid(database, tmp_path)
    grid.request(step("gen", jobs=3))
    grid.make()
    first, second = grid.claim(BIRCH, 2)
    grid.refuse(BIRCH, first.key)
    grid.refuse(BIRCH, second.key)
    grid.make()
    away, away_too, stayed = grid.jobs()
    assert away.class_id == away_too.class_id != stayed.class_id
    assert away.requirements["sites_excluded"] == [BIRCH]
    assert [one.document["job"] for one in grid.claim(BIRCH, 9)] == [stayed.id]
    assert {one.document["job"] for one in grid.claim(CEDAR, 9)} == {away.id, away_too.id}


def test_a_job_that_can_run_at_one_site_only_goes_back_there(database: Database, tmp_path: Path) -> None:
    grid = FailingGrid(database, tmp_path)
    grid.request(step("gen", more=f'sites = ["{BIRCH}"]'))
    grid.make()
    for _ in range(3):
        (item,) = grid.claim(BIRCH)
        grid.finish(BIRCH, item, ErrorClass.SITE)
        before = grid.job().class_id
        grid.make()
        assert (grid.state(), grid.job().class_id) == (JobState.READY, before)


def test_failing_everywhere_it_comes_round_to_the_first_site(grid: FailingGrid) -> None:
    excluded = []
    for name in (BIRCH, ALDER, CEDAR):
        (item,) = grid.claim(name)
        grid.finish(name, item, ErrorClass.STAGE_OUT)
        grid.make()
        excluded.append(grid.job().requirements["sites_excluded"])
    assert excluded == [[BIRCH], [ALDER, BIRCH], [ALDER, CEDAR]]


def test_a_class_changed_by_somebody_else_is_left_to_him(grid: FailingGrid) -> None:
    (item,) = grid.claim(BIRCH)
    grid.finish(BIRCH, item, ErrorClass.MEMORY)
    other = grid.keys.one("job_class")
    with grid.database.snapshot() as conn:
        planned = retargets.plan(conn, retry_rules.rules(conn), dbnow(conn), 10)
    assert planned.new_classes == 1

    def unit(conn: Connection) -> list[Move]:
        spec = ClassSpec(task_type="production", leaf_id=901, requirements=Requirements(cores=2))
        key = classes.put(conn, other, spec)
        store.reclass(conn, {grid.job().id: key})
        return retargets.carry_out(conn, planned, [other + 1], dbnow(conn))

    assert len(grid.database.transaction(unit)) == 1
    assert (grid.state(), grid.job().class_id) == (JobState.READY, other)


# --- held for input --------------------------------------------------------------------------------------


@pytest.fixture
def reader(database: Database, tmp_path: Path) -> FailingGrid:
    """One more job, which reads a block at Birch."""
    made = FailingGrid(database, tmp_path)
    names = made.request(step("gen"))
    (mine,) = made.claim(BIRCH)
    made.port.submitted(made.call(BIRCH), [(mine.key, "b0")])  # out of the way
    block = made.block("/Input/v1/RAW", "Birch_Disk")
    leaf_id = made.task(names["gen"]).leaf_id
    reads = ClassSpec(task_type="t", leaf_id=leaf_id, requirements=Requirements(), input_block_id=block)
    made.more_jobs(names["gen"], reads)
    made.make()
    return made


def reading(grid: FailingGrid) -> Any:
    return grid.jobs()[-1]


def set_replica(grid: FailingGrid, state: str) -> None:
    grid.database.transaction(lambda conn: conn.execute(update(block_replica).values(state=state)))


def back(grid: FailingGrid, pause: timedelta = timedelta(0)) -> int:
    """What is returned to the queue now."""
    with grid.database.snapshot() as conn:
        planned = retargets.plan(conn, DEFAULT_RULES, dbnow(conn), 10, pause=pause)
    ids = grid.keys.take("job_class", planned.new_classes)
    return len(grid.database.transaction(lambda conn: retargets.carry_out(conn, planned, ids, dbnow(conn))))


def test_a_job_whose_input_is_gone_is_held_until_it_is_back(reader: FailingGrid) -> None:
    (item,) = reader.claim(BIRCH)
    reader.finish(BIRCH, item, ErrorClass.STAGE_IN)
    set_replica(reader, "DELETING")
    reader.make()
    row = reading(reader)
    assert (row.state, row.hold_kind, row.code) == (JobState.HELD, "input", Reason.WAITS_FOR_INPUT)
    assert reason(row.code, row.params or {}).startswith("no storage element holds")
    assert back(reader) == 0
    set_replica(reader, "COMPLETE")
    assert back(reader, pause=timedelta(hours=1)) == 0
    assert back(reader) == 1
    assert (reading(reader).state, reading(reader).hold_kind) == (JobState.READY, None)


def test_an_attempt_that_found_no_input_is_released_like_any_other(reader: FailingGrid) -> None:
    (item,) = reader.claim(BIRCH)
    reader.finish(BIRCH, item, ErrorClass.INPUT_MISSING)
    assert (reading(reader).state, reading(reader).hold_kind) == (JobState.HELD, "input")
    assert back(reader) == 1
    assert reading(reader).state == JobState.READY


def test_what_an_operator_holds_no_input_releases(reader: FailingGrid) -> None:
    row = reading(reader)
    move = Move(
        job_id=row.id, attempt=0, event=JobEvent.HOLD, to=JobState.HELD, code="HOLD", hold_kind="operator"
    )
    reader.database.transaction(lambda conn: store.apply(conn, [move], dbnow(conn)))
    assert back(reader) == 0
    assert reading(reader).state == JobState.HELD


def test_only_jobs_in_trouble_are_looked_through(sqlite_db: Database) -> None:
    seen: list[tuple[str, Any]] = []
    with sqlite_db.snapshot() as conn:
        event.listen(conn, "before_cursor_execute", lambda *told: seen.append((told[2], told[3])))
        conn.execute(retargets.INPUT_IS_BACK, {"before": dbnow(conn), "n": 5}).all()
        ((text, binds),) = seen
        plan = [row[3] for row in conn.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", binds)]
    assert any("ix_job_trouble" in line for line in plan), plan
    assert not any("SCAN job" in line for line in plan)


# --- the table -------------------------------------------------------------------------------------------


def test_rules_of_both_releases_are_read(grid: FailingGrid) -> None:
    grid.rule(ErrorClass.MEMORY, max_retries=7)
    grid.rule(ErrorClass.KILLED, bigger="memory", factor=2.0)
    stored = {row.error_class: row.rule for row in grid.rows(retry_rules.RULES)}
    assert "bigger" not in stored["memory"]  # agents of the first release read it
    assert (stored["killed"]["bigger"], stored["killed"]["factor"]) == ("memory", 2.0)
    with grid.database.snapshot() as conn:
        found = retry_rules.overrides(conn)
    assert found == {
        ErrorClass.MEMORY: replace(DEFAULT_RULES[ErrorClass.MEMORY], max_retries=7),
        ErrorClass.KILLED: replace(DEFAULT_RULES[ErrorClass.KILLED], bigger="memory", factor=2.0),
    }
