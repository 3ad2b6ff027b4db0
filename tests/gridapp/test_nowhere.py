"""Impossible jobs: refused at submission with what would help, found again when a site changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from grids.waiting_grid import HEAD, WaitingGrid, step
from servers.work_desk import OPS
from sqlalchemy import Connection, select

from catalogs.states import Switch
from gridapp import amendments
from gridapp import operations as orders
from gridapp.insights import nowhere
from gridcore.db import Database
from gridcore.documents import checked
from gridcore.errors import UsageError
from prodsys.job_states import JobKind
from prodsys.queue.brokerage import Refusal, Verdict
from prodsys.requests import assignments, impossible
from prodsys.requests.assignments import Agent, Policy, SiteSet
from prodsys.tables import request as request_table
from prodsys.tables import task
from prodsys.tasks.workflow import Request
from prodsys.units import jobmaking

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


# --- assigned to those who could ---------------------------------------------------------------------------

BIG = step("big", 1, "limits = { memory_mb = 2000 }")


@pytest.fixture
def assigned(grid: WaitingGrid) -> WaitingGrid:
    """A request of a small step and one for Alder alone; a named agent at Birch, one at both, a set of two,
    and a site without endpoint."""
    grid.site(4, "T2_PT_Elder")
    grid.request(step("small"), BIG)

    def unit(conn: Connection) -> None:
        assignments.put_agent(conn, Agent(id=50, name="north", endpoints=frozenset([1])))
        assignments.put_agent(conn, Agent(id=51, name="south", endpoints=frozenset([20, 30])))
        assignments.put_site_set(conn, SiteSet(id=52, name="weak", sites=frozenset([1, 3])))
        assignments.put_site_set(conn, SiteSet(id=53, name="bare", sites=frozenset([4])))

    grid.database.transaction(unit)
    return grid


def assign(grid: WaitingGrid, **named: Any) -> list[str]:
    for dry_run in (True, False):
        told = amendments.assign(grid.context, 1, OPS, **named, dry_run=dry_run)
    return list(told["warnings"])


def test_who_can_run_all_of_a_request_is_assigned_without_a_word(assigned: WaitingGrid) -> None:
    assert assign(assigned, sites=["T2_DE_Alder"]) == []
    assert assign(assigned, agents=["south"]) == []
    assert assign(assigned, site_sets=["weak"], sites=["T2_DE_Alder"])[1:] == []
    assert assign(assigned) == []


@pytest.mark.parametrize(
    ("named", "who"),
    [
        ({"sites": ["T2_FI_Birch", "T2_DE_Alder"]}, "the site T2_FI_Birch"),
        ({"agents": ["north"]}, "the ProdAgent north"),
        ({"site_sets": ["weak"]}, "the site set weak"),
    ],
)
def test_who_can_run_a_part_of_it_is_told(assigned: WaitingGrid, named: dict[str, Any], who: str) -> None:
    (warning,) = assign(assigned, **named)
    assert warning.startswith(f"{who} cannot run all of the request's work: step 'big': ")
    assert "needs 2 GB, the site offers 1" in warning
    assert "; to run: ask for 1" in warning


@pytest.mark.parametrize(
    ("named", "says"),
    [
        (
            {"sites": ["T2_DE_Alder", "T2_PT_Elder"]},
            "the site T2_PT_Elder can run none of the request's work",
        ),
        ({"site_sets": ["bare"]}, "the site set bare can run none"),
    ],
)
def test_who_can_run_nothing_is_refused_and_nothing_is_changed(
    assigned: WaitingGrid, named: dict[str, Any], says: str
) -> None:
    before = assigned.rows(select(request_table))
    for dry_run in (True, False):
        with pytest.raises(UsageError, match=says) as caught:
            amendments.assign(assigned.context, 1, OPS, **named, dry_run=dry_run)
        assert (
            "step 'small': T2_PT_Elder: T2_PT_Elder is disabled: it has no endpoint" in caught.value.message
        )
        assert caught.value.hint == "leave it out, or have T2_PT_Elder take work again"
    assert assigned.rows(select(request_table)) == before


def test_an_agent_without_endpoints_is_refused(assigned: WaitingGrid) -> None:
    new = Agent(id=54, name="idle", endpoints=frozenset())
    assigned.database.transaction(lambda conn: assignments.put_agent(conn, new))
    with pytest.raises(UsageError, match=r"the ProdAgent idle can run none .* it has no site"):
        assign(assigned, agents=["idle", "south"])


def test_only_work_that_is_left_counts(assigned: WaitingGrid) -> None:
    """What is killed needs no site, and what is switched off may be switched on."""
    names = {row.name.rpartition("-")[2]: row.name for row in assigned.rows(select(task.c.name))}
    orders.kill_task(assigned.context, names["small"], OPS)
    with pytest.raises(UsageError, match="the site T2_FI_Birch can run none"):
        assign(assigned, sites=["T2_FI_Birch"])
    assigned.offer("T2_FI_Birch", memory_mb_per_core=2000, state=Switch.DISABLED)
    assert assign(assigned, sites=["T2_FI_Birch"]) == []


def test_a_policy_is_told_about_but_not_refused(assigned: WaitingGrid) -> None:
    rule = Policy(id=60, name="all", rank=1, rule={"sites": ["T2_DE_Alder", "T2_PT_Elder"]})
    assigned.database.transaction(lambda conn: assignments.put_policy(conn, rule))
    (warning,) = assign(assigned)
    assert warning.startswith("the site T2_PT_Elder cannot run all of the request's work")
