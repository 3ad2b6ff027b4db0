"""Impossible jobs: refused at submission with what would help, found again when a site changes."""

from __future__ import annotations

from pathlib import Path

import pytest
from grids.waiting_grid import HEAD, WaitingGrid, step
from sqlalchemy import Connection

from gridapp.insights import nowhere
from gridcore.db import Database
from gridcore.documents import checked
from gridcore.errors import UsageError
from prodsys import impossible, jobmaking
from prodsys.brokerage import Refusal, Verdict
from prodsys.jobs.machine import JobKind
from prodsys.workflow import Request

NEEDY = """
platform = "el9-x86_64"
tags = ["cvmfs", "geant4-11"]
outbound = true
sites = ["T2_DE_Alder"]
sites_excluded = ["T2_IT_Cedar"]
limits = { cores = 4, memory_mb = 8000, wall_s = 3600, disk_mb = 20000, gpus = 1 }
"""


@pytest.fixture
def grid(database: Database, tmp_path: Path) -> WaitingGrid:
    made = WaitingGrid(database, tmp_path)
    made.offer("T2_FI_Birch", memory_mb_per_core=1000)
    made.site(2, "T2_DE_Alder", {"memory_mb_per_core": 2000, "cores_max": 4})
    made.site(3, "T2_IT_Cedar", {"memory_mb_per_core": 1500})
    return made


def document(*steps: str) -> Request:
    import tomllib

    return checked(Request, tomllib.loads(HEAD + "".join(steps)), "test")


def check(grid: WaitingGrid, *steps: str) -> None:
    with grid.database.snapshot() as conn:
        nowhere.check(conn, document(*steps).step)


def test_a_step_that_some_site_can_run_passes(grid: WaitingGrid) -> None:
    check(grid, step("small"), step("fits", 1, "limits = { memory_mb = 2000 }"))


def test_a_step_that_no_site_can_run_is_refused_with_the_nearest_and_the_cure(grid: WaitingGrid) -> None:
    with pytest.raises(UsageError) as caught:
        check(grid, step("small"), step("big", 1, "limits = { memory_mb = 3000 }"))
    assert caught.value.message == (
        "step 'big' can run at no site: T2_DE_Alder: needs 3 GB, the site offers 2 GB; "
        "T2_IT_Cedar: needs 3 GB, the site offers 1.5 GB; T2_FI_Birch: needs 3 GB, the site offers 1 GB"
    )
    assert caught.value.hint == (
        "ask for 2 GB or less, or raise memory_mb_per_core of T2_DE_Alder to fit 3 GB"
    )


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ('tags = ["cvmfs"]', "needs cvmfs, the site declares no software"),
        ("outbound = true", "needs connections to the outside, the site does not declare any"),
        ("limits = { gpus = 1 }", "needs 1 GPU, the site offers none"),
        (
            'sites = ["T2_DE_Alder"]\nlimits = { cores = 8 }',
            "needs 8 cores, the site offers 4; ",
        ),
        ('sites = ["T2_DE_Alder"]\nsites_excluded = ["T2_DE_Alder"]', "the task excludes T2_DE_Alder"),
    ],
)
def test_every_kind_of_need_counts(grid: WaitingGrid, more: str, told: str) -> None:
    with pytest.raises(UsageError, match="step 'odd' can run at no site") as caught:
        check(grid, step("odd", 1, more))
    assert told in caught.value.message
    assert caught.value.hint


def test_a_grid_without_endpoints_refuses_nothing(database: Database) -> None:
    with database.snapshot() as conn:
        nowhere.check(conn, document(step("big", 1, "limits = { memory_mb = 3000 }")).step)


def test_what_a_step_asks_for_is_what_its_jobs_need(grid: WaitingGrid) -> None:
    name = grid.request(step("needy", 1, NEEDY))["needy"]
    one = grid.task(name)
    assert impossible.asked(one.step) == jobmaking.requirements(one, JobKind.PROCESS)
    assert impossible.asked(document(step("needy", 1, NEEDY)).step[0]) == impossible.asked(one.step)


def test_jobs_that_became_impossible_are_found_with_their_cure(grid: WaitingGrid) -> None:
    task = grid.request(step("fits", 2, "limits = { memory_mb = 2000 }"))["fits"]

    def found(conn: Connection) -> list[tuple[str, str]]:
        return list(nowhere.doctored(conn))

    with grid.database.snapshot() as conn:
        assert found(conn) == []
    grid.offer("T2_DE_Alder", memory_mb_per_core=1800)
    with grid.database.snapshot() as conn:
        ((says, cure),) = found(conn)
    assert says.startswith(
        f"no site can ever run 2 jobs (production, production/anna) of {task}: T2_DE_Alder"
    )
    assert cure == "ask for 1.8 GB or less, or raise memory_mb_per_core of T2_DE_Alder to fit 2 GB"
    grid.offer("T2_DE_Alder", memory_mb_per_core=2000)
    with grid.database.snapshot() as conn:
        assert found(conn) == []


def test_of_many_sites_three_are_quoted_nearest_first() -> None:
    refusals = {f"T2_DE_S{n}": Verdict(False, Refusal.NOT_ALLOWED, {"names": [], "count": 0}) for n in "123"}
    refusals |= {f"T2_DE_M{n}": Verdict(False, Refusal.CORES, {"needs": 8, "offers": n}) for n in (1, 2)}
    refused, cure = nowhere.told(refusals)
    assert refused.startswith("T2_DE_M2: needs 8 cores, the site offers 2; T2_DE_M1: needs 8 cores")
    assert refused.endswith("; and 2 more sites")
    assert cure == "ask for 2 cores or less, or raise cores_max of T2_DE_M2 to fit 8 cores"
