"""Match: what a claim would take and why, what it would pass over and why, and that nothing is changed."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import embedded_grid
import pytest
from click.testing import CliRunner
from grids.waiting_grid import WaitingGrid, step
from sqlalchemy import Connection, select

from catalogs.tables import site
from gridapp import session
from gridapp.cli.main import main
from gridapp.insights.match import match
from gridapp.insights.places import Obstacle, Ways
from gridcore.db import Database, insert_rows
from gridcore.errors import NotFound, UsageError
from prodsys.queue import taskqueue
from prodsys.queue.brokerage import Requirements
from prodsys.queue.classes import ClassSpec
from prodsys.shares import shares
from prodsys.tables import breaker, job, job_class, work_limit

ELM, OAK = 2, 3
SMALL, LARGE = {"memory_mb_per_core": 2000}, {"memory_mb_per_core": 8000}


class Farm:
    """Two sites, two shares: anna's production with three classes, and berta's."""

    def __init__(self, database: Database, root: Path) -> None:
        self.grid = WaitingGrid(database, root)
        self.grid.site(ELM, "T2_DE_Elm", SMALL, LARGE)
        self.grid.site(OAK, "T2_DE_Oak", SMALL)
        self.tasks = self.grid.request(
            step("plain", 3),
            step("big", 2, "limits = { memory_mb = 6000 }"),
            step("elsewhere", 1, 'sites = ["T2_DE_Oak"]'),
        )
        leaf = database.transaction(self._berta)
        spec = ClassSpec(task_type="analysis", leaf_id=leaf, requirements=Requirements(cores=2))
        self.berta = self.grid.more_jobs(self.tasks["plain"], spec, 4)
        self.grid.serve("T2_DE_Elm")
        self.grid.serve("T2_DE_Elm-1")
        self.grid.cycle([self.grid.job_maker])

    def _berta(self, conn: Connection) -> int:
        now = self.grid.database.now(conn)
        shares.put(conn, 950, "light", None, 30, now)
        return shares.leaf(conn, 951, "light", "berta", now)

    def insert(self, table: Any, **row: Any) -> None:
        self.grid.database.transaction(lambda conn: insert_rows(conn, table, [row]))

    def match(self, n: int = 10, endpoint: str | None = None) -> dict[str, Any]:
        with self.grid.database.snapshot() as conn:
            answer = match(conn, "T2_DE_Elm", n, self.grid.database.now(conn), endpoint)
        json.dumps(answer)
        return answer

    def over(self, answer: dict[str, Any]) -> dict[int, tuple[str, str]]:
        return {one["class"]: (one["code"], one["reason"]) for one in answer["passed_over"]}

    def class_of(self, step_name: str) -> int:
        wanted = select(job.c.class_id).where(job.c.task_id == self.grid.task(self.tasks[step_name]).id)
        return min(row.class_id for row in self.grid.rows(wanted))


@pytest.fixture
def farm(database: Database, tmp_path: Path) -> Farm:
    return Farm(database, tmp_path)


def test_what_would_be_picked_is_what_a_claim_takes(farm: Farm) -> None:
    answer = farm.match(6)
    with farm.grid.database.snapshot() as conn:
        heads = taskqueue.preview(conn, ELM, 6, farm.grid.database.now(conn))
    assert [one["rank"] for one in answer["picked"]] == [one.rank for one in heads]
    assert len(answer["picked"]) == 6
    assert farm.grid.claim("T2_DE_Elm-1", 6) == 6
    names = farm.grid.rows(select(job.c.idx, job.c.task_id).where(job.c.state == "LEASED"))
    tasks = {farm.grid.task(name).id: name for name in farm.tasks.values()}
    assert {f"{tasks[row.task_id]}/{row.idx}" for row in names} == {one["job"] for one in answer["picked"]}


def test_nothing_is_changed(farm: Farm) -> None:
    before = farm.grid.rows(select(job)), farm.grid.rows(select(job_class))
    farm.match()
    assert (farm.grid.rows(select(job)), farm.grid.rows(select(job_class))) == before


def test_each_pick_says_by_which_keys(farm: Farm) -> None:
    picked = farm.match(3)["picked"]
    assert [one["share"] for one in picked] == ["light/berta", "production/anna", "production/anna"]
    assert picked[0]["why"] == "light goes before production (key 0 against 0)"
    assert "production goes before light (key 0 against" in picked[1]["why"]
    assert {one["task_type"] for one in picked} == {"analysis", "production"}
    assert [one["n"] for one in picked] == [1, 2, 3]


def test_what_is_passed_over_says_why(farm: Farm) -> None:
    answer = farm.match(1)
    over = farm.over(answer)
    assert over[farm.class_of("elsewhere")] == ("NOT_ALLOWED", "the task runs only at T2_DE_Oak")
    code, reason = over[farm.class_of("plain")]
    assert code == "OUTRANKED"
    assert reason.endswith("; no more was asked for")
    assert answer["reasons"] == {"NOT_ALLOWED": 1, "OUTRANKED": 2}
    assert answer["ready"] == 10


def test_later_jobs_of_a_share_come_after_its_first(farm: Farm) -> None:
    over = farm.over(farm.match(2))
    assert over[farm.class_of("big")] == (
        "OUTRANKED",
        "other jobs of its share come first by age and priority",
    )


def test_an_endpoint_gets_only_what_it_can_run(farm: Farm) -> None:
    big = farm.class_of("big")
    assert big in {one["class"] for one in farm.match()["picked"]}
    small = farm.match(endpoint="T2_DE_Elm")
    assert big not in {one["class"] for one in small["picked"]}
    assert farm.over(small)[big] == (
        "ENDPOINT",
        "this endpoint cannot run it: needs 6 GB, the site offers 2 GB",
    )
    assert big in {one["class"] for one in farm.match(endpoint="T2_DE_Elm-1")["picked"]}


def test_a_full_limit_says_so(farm: Farm) -> None:
    farm.insert(work_limit, id=1, name="berta", share_path="light", max_cores=5)
    answer = farm.match()
    assert [one["share"] for one in answer["picked"]].count("light/berta") == 2
    farm.insert(work_limit, id=2, name="closed", task_type="analysis", site_id=ELM, max_jobs=0)
    code, reason = farm.over(farm.match())[farm.berta]
    assert (code, reason) == ("LIMIT", "limit closed is full with what was picked: 0 of 0 jobs")


def test_an_open_breaker_says_so(farm: Farm) -> None:
    with farm.grid.database.snapshot() as conn:
        now = farm.grid.database.now(conn)
    told = {"code": "TRIPPED", "failed": 30, "all": 40}
    opened = {"site_id": ELM, "error_class": "stage_out", "state": "OPEN", "trips": 1, "changed_at": now}
    farm.insert(breaker, **opened, until=now + timedelta(hours=1), params=told)
    answer = farm.match()
    assert answer["picked"] == []
    assert farm.over(answer)[farm.berta][0] == "BREAKER"
    assert any("its breaker for stage_out is OPEN" in one for one in answer["notes"])


def test_canaries_are_all_that_goes_through_a_breaker_that_tries(farm: Farm) -> None:
    with farm.grid.database.snapshot() as conn:
        now = farm.grid.database.now(conn)
    told = {"code": "CANARIES_LET_GO", "at_once": 2, "ended": 0}
    tries = {"site_id": ELM, "error_class": "stage_out", "state": "CANARY", "trips": 1, "changed_at": now}
    farm.insert(breaker, **tries, params=told)
    answer = farm.match()
    assert len(answer["picked"]) == 2
    code, reason = farm.over(answer)[farm.class_of("big")]
    assert code == "BREAKER"
    assert "tries canaries, 2 at a time" in reason
    assert farm.grid.claim("T2_DE_Elm-1", 10) == 2
    with farm.grid.database.snapshot() as conn:
        ways = Ways(conn, now).at(ELM, "T2_DE_Elm", "production/anna", "production")
    assert Obstacle.CANARIES in [one.what for one in ways]


def test_what_keeps_agents_from_asking_is_noted(farm: Farm) -> None:
    assert farm.match()["notes"] == []
    with farm.grid.database.snapshot() as conn:
        answer = match(conn, "T2_DE_Oak", 1, farm.grid.database.now(conn))
    assert answer["notes"] == ["no prodagent serves T2_DE_Oak"]
    assert len(answer["picked"]) == 1


def test_what_is_not_there(farm: Farm) -> None:
    with farm.grid.database.snapshot() as conn:
        now = farm.grid.database.now(conn)
        with pytest.raises(NotFound, match="there is no site T2_DE_Ulm"):
            match(conn, "T2_DE_Ulm", 1, now)
        with pytest.raises(NotFound, match="there is no endpoint"):
            match(conn, "T2_DE_Elm", 1, now, "nowhere")
        with pytest.raises(UsageError, match="not at T2_DE_Elm"):
            match(conn, "T2_DE_Elm", 1, now, "T2_DE_Oak")


# --- the command -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return embedded_grid.make(tmp_path_factory.mktemp("match") / "grid")


def test_the_command_asks_for_dry_run(installation: Path) -> None:
    run = CliRunner().invoke(main, ["--dir", str(installation), "match", "--site", "T2_DE_Elm"])
    assert run.exit_code == 2
    assert "claims are made by agents, not by hand" in run.output
    assert "--dry-run" in run.output


def test_the_command_answers_in_json(installation: Path) -> None:
    place = session.connect(installation, None)
    with place.database.snapshot() as conn:
        name = conn.execute(select(site.c.name)).scalars().first()
    place.close()
    run = CliRunner().invoke(main, ["--dir", str(installation), "match", "--dry-run", "--site", str(name)])
    assert run.exit_code == 0, run.output
    answer = json.loads(run.output)
    assert (answer["site"], answer["picked"], answer["passed_over"]) == (name, [], [])
