"""Making jobs of lumis, bytes, points and events: in slices, as blocks appear, each unit once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from servers.lumi_input import LumiInput
from servers.work_grid import STEP, Grid
from sqlalchemy import Connection, delete, select, update

from agents.job_maker import JobMaker
from catalogs import bookkeeping, discovery
from catalogs.states import BlockState
from catalogs.tables import block
from gridapp.insights import why
from gridcore.db import Database, insert_rows
from gridcore.errors import UsageError
from prodsys.job_states import JobEvent, JobKind, JobState
from prodsys.jobs import jobdocument, store
from prodsys.jobs.store import Move, NewJob
from prodsys.states import OutputState, TaskState
from prodsys.tables import job, job_class, job_file, job_spec, output, task_block, task_input, task_range
from prodsys.tables import task as task_table
from prodsys.tasks import lumis, tasks, workflow
from prodsys.units import jobmaking, slicing
from prodsys.units.cutting import LUMI_TOO_LONG
from prodsys.units.slicing import Forecast

Span = tuple[int, int, int]


@pytest.fixture
def lumi_input(database: Database, tmp_path: Path) -> LumiInput:
    return LumiInput(Grid(database, tmp_path))


def specs(grid: Grid) -> list[dict[str, Any]]:
    """The specifications of the process jobs, in the order of their index."""
    statement = select(job_spec.c.spec).join(job, job.c.id == job_spec.c.job_id)
    rows = grid.rows(statement.where(job.c.kind == JobKind.PROCESS).order_by(job.c.idx))
    return [dict(row.spec) for row in rows]


def read_by(spec: dict[str, Any]) -> Iterator[tuple[str, int, int]]:
    """(LFN, run, lumi) of all a job reads."""
    for one in spec["inputs"]:
        for run, pairs in one["runs"].items():
            for first, last in pairs:
                yield from ((one["lfn"], int(run), lumi) for lumi in range(first, last + 1))


def ledger(grid: Grid) -> list[tuple[int, int]]:
    rows = grid.rows(select(task_range).order_by(task_range.c.run, task_range.c.first_lumi))
    return [(row.run, lumi) for row in rows for lumi in range(row.first_lumi, row.last_lumi + 1)]


def test_a_lumi_of_two_blocks_is_owned_once_and_each_part_read_once(lumi_input: LumiInput) -> None:
    grid = lumi_input.grid
    lumi_input.add_block([(7, 1, 5)], [(7, 4, 8)])
    name = lumi_input.submit("lumis_per_job = 3")
    assert lumi_input.make(name) == 3
    assert lumi_input.make(name) is None
    lumi_input.add_block([(7, 8, 10)], [(8, 1, 2)])
    assert lumi_input.make(name) == 3
    read = sorted(one for spec in specs(grid) for one in read_by(spec))
    expected = [("/store/data/f0.root", 7, n) for n in range(1, 6)]
    expected += [("/store/data/f1.root", 7, n) for n in range(4, 9)]
    expected += [("/store/data/f2.root", 7, n) for n in range(8, 11)]
    expected += [("/store/data/f3.root", 8, n) for n in (1, 2)]
    assert read == sorted(expected)
    assert ledger(grid) == [(7, n) for n in range(1, 11)] + [(8, 1), (8, 2)]
    assert [spec["lumis"] for spec in specs(grid)] == [
        {"7": [[1, 3]]},
        {"7": [[4, 6]]},
        {"7": [[7, 8]]},
        {"7": [[9, 10]], "8": [[1, 1]]},
        {"8": [[2, 2]]},
        {"7": [[8, 8]]},
    ]
    task = grid.task(name)
    assert (task.unit_kind, task.units_made, task.units_total) == ("lumis", 13, None)
    files = grid.rows(select(job_file.c.job_id, job_file.c.file_id))
    assert len(files) == 1 + 2 + 1 + 2 + 1 + 1
    assert grid.rows(select(task_input)) == []


@pytest.mark.parametrize(
    "cut", ["lumis_per_job = 2", "events_per_job = 25", "bytes_per_job = 1500", "files_per_job = 2"]
)
@pytest.mark.parametrize("room", [1, 3])
def test_a_block_larger_than_a_slice_is_cut_on_where_it_stopped(
    lumi_input: LumiInput, cut: str, room: int
) -> None:
    grid = lumi_input.grid
    blocks = [([(7, 1, 4)], [(7, 3, 9)], [(9, 1, 3)]), ([(7, 8, 12)], [(9, 2, 5)], [(9, 7, 7)])]
    for one in blocks:
        lumi_input.add_block(*one)
    name = lumi_input.submit(cut)
    while lumi_input.make(name, room) is not None:
        merge_between(grid, name)
    read = [one for spec in specs(grid) for one in read_by(spec)]
    expected = {
        (f"/store/data/f{number}.root", run, lumi)
        for number, ((run, first, last),) in enumerate(file for one in blocks for file in one)
        for lumi in range(first, last + 1)
    }
    assert sorted(read) == sorted(expected)
    assert len(grid.rows(select(task_block))) == 2
    with grid.database.snapshot() as conn:
        told = slicing.forecast(conn, grid.task(name).step, lumi_input.dataset_id, 1000)
    made = grid.task(name)
    assert (told.jobs, told.units) == (len(specs(grid)), made.units_made)
    parts = [(spec["cut"]["block"], spec["cut"]["part"]) for spec in specs(grid)]
    assert parts == sorted(set(parts))


def merge_between(grid: Grid, name: str) -> None:
    """A merge takes the next index, as the merger may at any time."""
    key = grid.keys.one("job")

    def unit(conn: Connection) -> None:
        task = tasks.lock(conn, grid_task_id)
        tasks.advance(conn, task, 1, 0)
        class_id = conn.execute(select(job_class.c.id)).scalars().first() or 0
        merge = NewJob(
            id=key,
            task_id=task.id,
            index=task.next_index,
            kind=JobKind.MERGE,
            class_id=class_id,
            rank=0,
            units=0,
            spec={},
        )
        store.insert(conn, [merge], grid.context.clock.now())

    grid_task_id = grid.task(name).id
    grid.database.transaction(unit)


def test_a_slice_planned_before_another_was_made_makes_nothing(lumi_input: LumiInput) -> None:
    grid = lumi_input.grid
    lumi_input.add_block([(7, 1, 6)])
    name = lumi_input.submit("lumis_per_job = 1")
    task = grid.task(name)
    with grid.database.snapshot() as conn:
        early = slicing.next_slice(conn, task, 2, 1000)
    assert early is not None
    assert lumi_input.make(name, 2) == 2
    assert lumi_input.make_slice(task, early) == 0
    assert grid.task(name).units_made == 2


def test_the_job_maker_keeps_to_its_bound_and_goes_on_as_there_is_room(
    lumi_input: LumiInput,
) -> None:
    grid = lumi_input.grid
    work = grid.context.settings.work.model_copy(update={"ready_per_task": 4})
    settings = grid.context.settings.model_copy(update={"work": work})
    grid.context = replace(grid.context, settings=settings)
    lumi_input.add_block([(7, 1, 7)])
    lumi_input.add_block([(8, 1, 3)])
    lumi_input.submit("lumis_per_job = 1")
    maker = [JobMaker(grid.context)]
    counts = []
    for _ in range(4):
        grid.cycle(maker)
        ready = grid.rows(select(job).where(job.c.state == JobState.READY).order_by(job.c.id))
        counts.append(len(ready))
        kill(grid, ready)
    assert counts == [4, 4, 2, 0]
    assert ledger(grid) == [(7, n) for n in range(1, 8)] + [(8, n) for n in range(1, 4)]
    ranks = [row.rank for row in grid.rows(select(job.c.rank).order_by(job.c.idx))]
    assert ranks == list(range(ranks[0], ranks[0] + 10))


def kill(grid: Grid, rows: list[Any]) -> None:
    moves = [
        Move(job_id=row.id, attempt=row.attempt, event=JobEvent.KILL, to=JobState.KILLED) for row in rows
    ]
    now = grid.context.clock.now()
    grid.database.transaction(lambda conn: store.apply(conn, moves, now))


def test_a_block_outside_the_mask_is_taken_without_a_job(lumi_input: LumiInput) -> None:
    grid = lumi_input.grid
    lumi_input.add_block([(7, 1, 6)])
    lumi_input.add_block([(8, 1, 6)])
    name = lumi_input.submit("lumis_per_job = 9", "mask = { 8 = [[2, 3], [5, 99]] }")
    assert lumi_input.make(name) == 0
    assert lumi_input.make(name) == 1
    assert lumi_input.make(name) is None
    assert [spec["lumis"] for spec in specs(grid)] == [{"8": [[2, 3], [5, 6]]}]
    assert grid.task(name).units_made == 4
    lumi_input.close()
    grid.cycle(grid.agents[:1])
    assert grid.task(name).units_total == 4


def test_a_lumi_too_long_waits_for_an_operator(lumi_input: LumiInput) -> None:
    grid = lumi_input.grid
    lumi_input.add_block([(7, 1, 1)], [(7, 2, 11)], events=1000)
    lumi_input.submit("events_per_job = 200", "max_events_per_job = 900")
    grid.cycle(grid.agents[:1])
    held, *others = grid.rows(select(job).order_by(job.c.idx))
    assert (held.state, held.hold_kind, held.code) == (JobState.HELD, "policy", LUMI_TOO_LONG)
    assert held.params == {"run": 7, "lumi": 1, "events": 1000, "most": 900}
    assert [row.state for row in others] == [JobState.READY] * 5
    with grid.database.snapshot() as conn:
        step = grid.task(grid.rows(select(task_table.c.name))[0].name).step
        told = slicing.forecast(conn, step, lumi_input.dataset_id, 1000)
    assert told == Forecast(jobs=6, units=11, held=1)


def test_a_task_over_the_cap_makes_nothing_and_says_why(lumi_input: LumiInput) -> None:
    grid = lumi_input.grid
    lumi_input.add_block([(7, 1, 6)])
    lumi_input.add_block([(7, 7, 20)])
    name = lumi_input.submit("lumis_per_job = 1")
    assert lumi_input.make(name, most_jobs=10) == 6
    with pytest.raises(UsageError, match=r"more than 10 jobs: 6 are made, .* at least 11"):
        lumi_input.make(name, most_jobs=10)
    with grid.database.snapshot() as conn:
        found = slicing.obstacle(conn, grid.task(name), 10)
        assert found is not None
        assert "work.max_jobs_per_task" in (found.hint or "")
        assert slicing.obstacle(conn, grid.task(name), 20) is None
        with pytest.raises(UsageError, match="more than 10 jobs"):
            slicing.forecast(conn, grid.task(name).step, lumi_input.dataset_id, 10)
    assert len(specs(grid)) == 6


def test_a_task_that_cannot_be_cut_does_not_stop_the_others(lumi_input: LumiInput) -> None:
    grid = lumi_input.grid
    lumi_input.add_block([], events=10)
    name = lumi_input.submit("lumis_per_job = 1")
    grid.cycle(grid.agents[:1])
    assert specs(grid) == []
    with grid.database.snapshot() as conn:
        found = slicing.obstacle(conn, grid.task(name), 10)
        told = why.why(conn, name, grid.context.clock.now())
    assert found is not None
    assert "knows no lumi of /store/data/f0.root" in found.message
    assert any("f0.root" in line for line in told["because"])
    assert any("files_per_job" in line for line in told["because"])
    assert told["turn"] == "an operator"


def test_the_number_of_jobs_of_files_is_told_without_reading_them(lumi_input: LumiInput) -> None:
    lumi_input.add_block(*[[(7, n, n)] for n in range(1, 6)])
    step = workflow.Step.model_validate(
        {
            "name": "one",
            "command": ["sh"],
            "input": "/Data/v1/RAW",
            "files_per_job": 2,
            "output": {"name": "a.b", "dataset": "/A/b/C"},
        }
    )
    none = step.model_copy(update={"mask": lumis.to_json({99: [(1, 1)]})})
    with lumi_input.grid.database.snapshot() as conn:
        assert slicing.forecast(conn, step, lumi_input.dataset_id, 1000) == Forecast(jobs=3, units=5)
        with pytest.raises(UsageError, match="3 jobs; a task has at most 2"):
            slicing.forecast(conn, step, lumi_input.dataset_id, 2)
        assert slicing.forecast(conn, none, lumi_input.dataset_id, 2) == Forecast()
    lumi_input.close()
    with (
        lumi_input.grid.database.snapshot() as conn,
        pytest.raises(UsageError, match="nothing to do"),
    ):
        slicing.forecast(conn, none, lumi_input.dataset_id, 2)


def test_more_events_go_on_where_the_first_ended(database: Database, tmp_path: Path) -> None:
    grid = Grid(database, tmp_path)
    name = grid.submit(STEP.format(events=100).replace("events_per_job = 5", "events_per_job = 30"))
    grid.cycle(grid.agents[:1])
    more = update(task_table).values(units_total=150)
    grid.database.transaction(lambda conn: conn.execute(more))
    grid.cycle(grid.agents[:1])
    ranges = [(spec["first_event"], spec["events"]) for spec in specs(grid)]
    assert ranges == [(0, 30), (30, 30), (60, 30), (90, 10), (100, 30), (130, 20)]
    assert grid.task(name).units_made == 150


def test_each_point_of_a_matrix_gets_its_events_and_parameters(database: Database, tmp_path: Path) -> None:
    grid = Grid(database, tmp_path)
    matrix = 'matrix = { pt = [10, 20.5], tune = ["A", "B"] }\n'
    name = grid.submit(STEP.format(events=8).replace("events_per_job", matrix + "events_per_job"))
    grid.cycle(grid.agents[:1])
    made = [(spec["parameters"], spec["first_event"], spec["events"]) for spec in specs(grid)]
    points = [{"pt": pt, "tune": tune} for pt in (10, 20.5) for tune in ("A", "B")]
    assert made == [(point, first, count) for point in points for first, count in ((0, 5), (5, 3))]
    assert len({spec["seed"] for spec in specs(grid)}) == 8
    task = grid.task(name)
    assert (task.units_made, task.units_total) == (32, 32)
    document = jobdocument.document(
        key="k",
        task=task,
        job_id=1,
        index=3,
        kind=JobKind.PROCESS,
        attempt=1,
        spec=specs(grid)[2],
        sources={},
        outputs=[],
    )
    assert document["payload"]["parameters"] == {"pt": 10, "tune": "B"}
    assert document["payload"]["lumis"] is None


def test_a_job_document_names_the_lumis_of_the_job(lumi_input: LumiInput) -> None:
    lumi_input.add_block([(7, 1, 6)])
    name = lumi_input.submit("lumis_per_job = 2")
    lumi_input.make(name)
    task = lumi_input.grid.task(name)
    spec = specs(lumi_input.grid)[1]
    work = jobdocument.document(
        key="k",
        task=task,
        job_id=1,
        index=2,
        kind=JobKind.PROCESS,
        attempt=1,
        spec=spec,
        sources={},
        outputs=[],
    )
    assert work["payload"]["lumis"] == {"7": [[3, 4]]}
    assert work["payload"]["inputs"][0]["runs"] == {"7": [[3, 4]]}
    assert work["events"] is None
    assert not work["events_required"]


def test_a_task_of_lumis_runs_to_its_end(database: Database, tmp_path: Path) -> None:
    grid = Grid(database, tmp_path)
    generate = STEP.format(events=25).split("[step.merge]")[0]
    reduce = """
[[step]]
name = "reduce"
command = ["python", "toy_reduce.py"]
sandbox = ["toy_reduce.py", "payload.py"]
input = "gen"
lumis_per_job = 2
output = { name = "reduced.txt", dataset = "/Toy/v1/NTUP" }
"""
    generated = grid.submit(generate + reduce)
    grid.until(lambda: grid.task(generated).state == TaskState.CLOSING)
    grid.close_blocks(generated)
    name = generated.replace("toy-gen", "toy-reduce")
    grid.until(lambda: grid.task(name).state == TaskState.CLOSING)
    grid.close_blocks(name)
    task = grid.task(name)
    assert (task.state, task.units_made, task.units_total) == (TaskState.COMPLETED, 5, 5)
    with database.snapshot() as conn:
        view = discovery.dataset_show(conn, "/Toy/v1/NTUP")
        (block_id,) = [one.id for one in bookkeeping.closed_blocks(conn, view.dataset.id)]
        files = bookkeeping.files_of_block(conn, block_id)
        runs = bookkeeping.runs_of(conn, [one.id for one in files])
    assert (view.dataset.files, view.dataset.events) == (3, 25)
    assert sorted(runs[one.id][1] for one in files) == [[(1, 2)], [(3, 4)], [(5, 5)]]


def test_runs_are_merged_apart_where_the_policy_says_so(lumi_input: LumiInput) -> None:
    grid = lumi_input.grid
    lumi_input.add_block([(7, 1, 1)], [(8, 1, 1)], [(7, 2, 2)], [(8, 2, 2)])
    merge = 'merge = { command = ["/bin/true"], min_bytes = 20, max_bytes = 99, across_runs = false }'
    name = lumi_input.submit("lumis_per_job = 1", "split_on_run = true", merge)
    lumi_input.make(name)
    made = grid.rows(select(job.c.id).order_by(job.c.idx))
    rows = [
        {
            "id": row.id,
            "job_id": row.id,
            "attempt": 0,
            "task_id": grid.task(name).id,
            "name": "events.txt",
            "kind": "unmerged",
            "lfn": f"/store/unmerged/f{row.id}",
            "se_id": 1,
            "state": OutputState.REGISTERED,
            "bytes": 10,
            "adler32": 1,
            "events": 1,
            "runs": spec["lumis"],
            "created_at": grid.context.clock.now(),
            "updated_at": grid.context.clock.now(),
        }
        for row, spec in zip(made, specs(grid), strict=True)
    ]
    now = grid.context.clock.now()

    def planned(conn: Connection) -> list[list[str]]:
        insert_rows(conn, output, rows)
        groups = jobmaking.plan_merges(conn, grid.task(name), now)
        conn.execute(delete(output))  # they have no attempt
        return [[run for one in members for run in one.runs] for _, members in groups]

    assert grid.database.transaction(planned) == [["7", "7"], ["8", "8"]]


def test_what_a_step_asks_of_a_site_is_asked_of_its_class(lumi_input: LumiInput) -> None:
    name = lumi_input.submit(
        "lumis_per_job = 1",
        'tags = ["root/6.32", "geant4"]',
        "outbound = true",
        "limits = { disk_mb = 500, gpus = 2, memory_mb = 7 }",
    )
    needs = jobmaking.requirements(lumi_input.grid.task(name), JobKind.PROCESS)
    assert (needs.disk_mb, needs.gpus, needs.memory_mb, needs.outbound) == (500, 2, 7, True)
    assert needs.tags == {"root/6.32", "geant4"}


def test_an_older_block_that_closes_late_waits_until_the_begun_one_is_cut(lumi_input: LumiInput) -> None:
    grid = lumi_input.grid
    old = lumi_input.add_block([(7, 1, 4)])
    new = lumi_input.add_block([(7, 3, 6)])
    name = lumi_input.submit("lumis_per_job = 1")
    set_state(grid, old, BlockState.OPEN)
    assert lumi_input.make(name, 1) == 1
    set_state(grid, old, BlockState.CLOSED)
    assert lumi_input.make(name, 9) == 3
    assert lumi_input.make(name, 9) == 4
    assert [spec["cut"]["block"] for spec in specs(grid)] == [new] * 4 + [old] * 4
    read = [one for spec in specs(grid) for one in read_by(spec)]
    assert len(read) == len(set(read)) == 8
    assert ledger(grid) == [(7, n) for n in range(1, 7)]


def set_state(grid: Grid, block_id: int, state: BlockState) -> None:
    change = update(block).where(block.c.id == block_id).values(state=state)
    grid.database.transaction(lambda conn: conn.execute(change))
