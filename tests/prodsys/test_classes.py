"""Job classes: documents of both releases, offers of several endpoints, verdicts as things change, and jobs
that no site can ever run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from grids.waiting_grid import WaitingGrid, step
from sqlalchemy import select, update

from catalogs.states import Switch
from gridcore.db import Database
from prodsys.queue import classes
from prodsys.queue.brokerage import ELIGIBLE, Refusal, Requirements, Verdict, judge
from prodsys.queue.classes import ClassSpec, Watch
from prodsys.requests import impossible
from prodsys.tables import class_site, job_class

BIRCH, ALDER, CEDAR = 1, 2, 3
PLAIN = Requirements()
FULL = Requirements(
    cores=8,
    memory_mb=16_000,
    wall_s=3600,
    platform="el9",
    sites=frozenset({"T2_FI_Birch"}),
    sites_excluded=frozenset({"T2_IT_Cedar"}),
    disk_mb=40_000,
    tags=frozenset({"cvmfs", "geant4-11"}),
    gpus=1,
    outbound=True,
)


@pytest.fixture
def grid(database: Database, tmp_path: Path) -> WaitingGrid:
    made = WaitingGrid(database, tmp_path)
    made.site(ALDER, "T2_DE_Alder", {"memory_mb_per_core": 2000, "cores_max": 4})
    made.site(CEDAR, "T2_IT_Cedar", {"memory_mb_per_core": 2000}, {"memory_mb_per_core": 8000})
    return made


@pytest.fixture
def task(grid: WaitingGrid) -> str:
    return grid.request(step("gen", jobs=2))["gen"]


def spec(requirements: Requirements = PLAIN, **values: Any) -> ClassSpec:
    return ClassSpec(task_type="production", leaf_id=901, requirements=requirements, **values)


def news(grid: WaitingGrid, watch: Watch, fence: int = 1) -> dict[tuple[int, int], Verdict]:
    """What a pass finds, written as the job maker would."""
    with grid.database.snapshot() as conn:
        found = watch.news(conn, fence)
    grid.write(found)
    watch.wrote()
    return found


def stored(grid: WaitingGrid, class_id: int) -> dict[int, str]:
    rows = grid.rows(select(class_site).where(class_site.c.class_id == class_id))
    return {row.site_id: row.code for row in rows}


# --- documents -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", [Requirements(), FULL])
def test_what_a_class_needs_comes_back(grid: WaitingGrid, task: str, asked: Requirements) -> None:
    key = grid.more_jobs(task, spec(asked))
    rows = grid.rows(select(job_class).where(job_class.c.id == key))
    assert classes.requirements_of(rows, {}) == {key: asked}


def test_classes_of_the_first_release_still_load(grid: WaitingGrid, task: str) -> None:
    key = grid.more_jobs(task, spec())
    (row,) = grid.rows(select(job_class).where(job_class.c.id == key))
    first = {"cores", "memory_mb", "wall_s", "platform", "sites", "sites_excluded", "input_se"}
    assert set(row.requirements) == first  # what the first release's agents expect, they read
    assert classes.requirements_of([row], {})[key] == Requirements()


# --- verdicts ------------------------------------------------------------------------------------------


def test_a_site_can_run_what_any_of_its_endpoints_can(grid: WaitingGrid, task: str) -> None:
    key = grid.more_jobs(task, spec(Requirements(memory_mb=6000)))
    news(grid, Watch())
    assert stored(grid, key) == {BIRCH: ELIGIBLE, ALDER: Refusal.MEMORY, CEDAR: ELIGIBLE}
    with grid.database.snapshot() as conn:
        assert list(classes.refused_at(conn, CEDAR, 30, [key])) == [key]
        assert classes.refused_at(conn, CEDAR, 30, [key])[key].code == Refusal.MEMORY
        assert classes.refused_at(conn, CEDAR, 31, [key]) == {}
        assert classes.refused_at(conn, ALDER, 20, [key]) == {}  # the stored verdict has told


def test_an_endpoint_switched_off_offers_nothing(grid: WaitingGrid, task: str) -> None:
    key = grid.more_jobs(task, spec(Requirements(memory_mb=6000)))
    watch = Watch()
    news(grid, watch)
    grid.offer("T2_IT_Cedar-1", memory_mb_per_core=8000, state=Switch.DISABLED)
    assert {pair: one.code for pair, one in news(grid, watch).items()} == {(key, CEDAR): Refusal.MEMORY}
    grid.offer("T2_IT_Cedar", memory_mb_per_core=2000, state=Switch.DISABLED)
    assert news(grid, watch)[key, CEDAR].code == Refusal.SITE_DISABLED
    grid.offer("T2_IT_Cedar-1", memory_mb_per_core=8000)
    assert news(grid, watch)[key, CEDAR].eligible


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> list[Requirements]:
    """The requirements of each judgement, as they are made."""
    asked: list[Requirements] = []

    def judge_any(requirements: Requirements, offers: Any) -> Verdict:
        asked.append(requirements)
        return judge(requirements, offers[0])

    monkeypatch.setattr(classes, "judge_any", judge_any)
    return asked


def test_only_what_changed_is_judged(grid: WaitingGrid, task: str, judged: list[Requirements]) -> None:
    here, there = grid.block("/Here/v1/GEN", "Alder_Disk"), grid.block("/There/v1/GEN", "Cedar_Disk")
    keys = [grid.more_jobs(task, spec(input_block_id=block)) for block in (here, there)]
    watch = Watch()
    news(grid, watch)
    judged.clear()
    assert news(grid, watch) == {}
    assert judged == []
    grid.database.transaction(lambda conn: grid.copy(conn, here, BIRCH))
    told = {pair: str(one.code) for pair, one in news(grid, watch).items()}
    assert told == {(keys[0], BIRCH): ELIGIBLE, (keys[0], CEDAR): Refusal.INPUT_NOT_HERE}  # where else it is
    assert {one.input_ses for one in judged} == {frozenset({"Alder_Disk", "Birch_Disk"})}
    judged.clear()
    grid.offer("T2_DE_Alder", cores_max=1)
    assert {site for _, site in news(grid, watch)} <= {ALDER}
    assert len(judged) == 3  # three classes at the one site


def test_classes_that_need_the_same_are_judged_once(
    grid: WaitingGrid, task: str, judged: list[Requirements]
) -> None:
    block = grid.block("/Here/v1/GEN", "Alder_Disk")
    twins = [
        ClassSpec(task_type=kind, leaf_id=901, requirements=Requirements(), input_block_id=block)
        for kind in ("production", "analysis")
    ]
    for one in twins:
        grid.more_jobs(task, one)
    with grid.database.snapshot() as conn:
        assert len(Watch().news(conn, 1)) == 6  # the job maker has judged the first class
    assert len(judged) == 6  # three sites, two kinds of needs


def test_verdicts_that_were_not_written_are_told_again(grid: WaitingGrid, task: str) -> None:
    watch = Watch()
    with grid.database.snapshot() as conn:
        first = watch.news(conn, 1)
        assert watch.news(conn, 1) == first
    grid.write(first)  # and the writer dies before it can say so
    with grid.database.snapshot() as conn:
        assert watch.news(conn, 1) == {}


def test_another_fence_looks_at_everything_anew(grid: WaitingGrid, task: str) -> None:
    watch = Watch()
    for _ in range(2):
        news(grid, watch)
    wrong = update(class_site).where(class_site.c.site_id == ALDER).values(eligible=0, code="CORES")
    grid.database.transaction(lambda conn: conn.execute(wrong))
    assert news(grid, watch, fence=1) == {}
    assert {site for _, site in news(grid, watch, fence=2)} == {ALDER}


def test_a_class_that_waits_again_is_judged_by_what_is_offered_now(grid: WaitingGrid, task: str) -> None:
    watch = Watch()
    for _ in range(2):
        news(grid, watch)
    (row,) = grid.rows(select(job_class).where(job_class.c.ready > 0))

    def ready(n: int) -> None:
        change = update(job_class).where(job_class.c.id == row.id).values(ready=n)
        grid.database.transaction(lambda conn: conn.execute(change))

    ready(0)
    grid.offer("T2_DE_Alder", cores_max=0)
    assert news(grid, watch) == {}
    ready(row.ready)
    assert news(grid, watch)[row.id, ALDER].code == Refusal.CORES


def test_slices_hold_every_verdict_once(grid: WaitingGrid, task: str) -> None:
    for cores in range(2, 6):
        grid.more_jobs(task, spec(Requirements(cores=cores)))
    with grid.database.snapshot() as conn:
        verdicts = Watch().news(conn, 1)
    parts = list(classes.slices(verdicts, 5))
    assert len(verdicts) == 12
    assert [len(part) for part in parts] == [5, 5, 2]
    assert {pair: one for part in parts for pair, one in part.items()} == verdicts


# --- nowhere -------------------------------------------------------------------------------------------


def test_what_no_site_could_ever_run_is_refused_by_each(grid: WaitingGrid) -> None:
    grid.offer("T2_FI_Birch", memory_mb_per_core=1000)
    with grid.database.snapshot() as conn:
        refusals = impossible.nowhere(conn, Requirements(memory_mb=9000))
        assert refusals is not None
        offers = {name: (one.code, one.params["offers"]) for name, one in refusals.items()}
        assert impossible.nowhere(conn, Requirements(memory_mb=8000)) is None
    assert offers == {
        "T2_FI_Birch": (Refusal.MEMORY, 1000),
        "T2_DE_Alder": (Refusal.MEMORY, 2000),
        "T2_IT_Cedar": (Refusal.MEMORY, 8000),
    }


def test_sites_switched_off_and_input_to_come_make_nothing_impossible(grid: WaitingGrid) -> None:
    grid.site(CEDAR, "T2_IT_Cedar", {}, {"memory_mb_per_core": 8000}, state=Switch.DISABLED)
    only = Requirements(sites=frozenset({"T2_IT_Cedar"}), input_ses=frozenset())
    with grid.database.snapshot() as conn:
        assert impossible.nowhere(conn, only) is None
        refused = impossible.nowhere(conn, Requirements(gpus=1, input_ses=frozenset()))
    assert refused is not None
    assert {one.code for one in refused.values()} == {Refusal.GPUS}


def test_waiting_jobs_become_impossible_when_a_site_changes(grid: WaitingGrid, task: str) -> None:
    asked = Requirements(memory_mb=6000, sites=frozenset({"T2_IT_Cedar", "T2_DE_Alder"}))
    key = grid.more_jobs(task, spec(asked), n=3)
    with grid.database.snapshot() as conn:
        assert impossible.waiting(conn) == []
    grid.offer("T2_IT_Cedar-1", memory_mb_per_core=4000)
    with grid.database.snapshot() as conn:
        (one,) = impossible.waiting(conn)
    assert (one.class_id, one.ready, one.task, one.share) == (key, 3, task, "production")
    assert {name: refusal.code for name, refusal in one.refusals.items()} == {
        "T2_FI_Birch": Refusal.NOT_ALLOWED,
        "T2_DE_Alder": Refusal.MEMORY,
        "T2_IT_Cedar": Refusal.MEMORY,
    }
