"""Why a job waits: every reason, each made to happen on a small grid; `-s -k ten_reasons` prints them."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from grids.waiting_grid import WaitingGrid, step
from sqlalchemy import Connection, select

from catalogs.states import Switch
from gridapp.insights.why import why
from gridapp.insights.why_ready import AHEAD
from gridcore.db import Database, insert_rows
from gridcore.tables import heartbeat
from prodsys.control import holds
from prodsys.job_states import JobEvent, JobState
from prodsys.jobs import store
from prodsys.jobs.store import Move
from prodsys.queue.brokerage import Refusal, Requirements
from prodsys.queue.classes import ClassSpec
from prodsys.shares import shares
from prodsys.tables import breaker, job, work_limit

SITES = ("Alder", "Cedar", "Dune", "Elm", "Fir", "Gorse", "Heath", "Ivy")
NUMBER = {name: number for number, name in enumerate(SITES, 2)}


def at(name: str) -> str:
    return f"T2_DE_{name}"


def only(name: str, jobs: int = 1, more: str = "") -> str:
    """A step called like the site it may run at."""
    return step(name.lower(), jobs, f'sites = ["{at(name)}"]\n{more}')


class Trouble:
    """A grid with a reason to wait at each site, and the names of the jobs that wait for it."""

    def __init__(self, database: Database, root: Path) -> None:
        self.grid = WaitingGrid(database, root)
        self.tasks: dict[str, str] = {}
        self._sites()
        self._work()

    def _sites(self) -> None:
        offers = {"Alder": {"memory_mb_per_core": 2000}}
        for name, number in NUMBER.items():
            self.grid.site(number, at(name), offers.get(name, {}))
        for name in ("Dune", "Gorse", "Heath", "Ivy"):
            self.grid.serve(at(name))

    def _work(self) -> None:
        big = "limits = { memory_mb = 3000 }"
        self.tasks = self.grid.request(
            only("Alder", 1, big),
            only("Cedar"),
            only("Dune"),
            only("Elm", 2),
            only("Fir"),
            only("Gorse", 2),
            only("Heath", 4),
            only("Ivy", 4),
            step("tagged", 1, 'tags = ["geant4-11"]'),
        )
        self.grid.site(NUMBER["Cedar"], at("Cedar"), {}, state=Switch.DISABLED)
        self.grid.site_note(NUMBER["Cedar"], "cooling works until Friday")
        self.grid.serve(at("Elm"))
        self.grid.claim(at("Elm"), 1)
        self.grid.claim(at("Gorse"), 1)
        self.grid.claim(at("Heath"), 3)
        self.grid.database.transaction(self._rows)
        self.grid.cycle([self.grid.job_maker])

    def _rows(self, conn: Connection) -> None:
        now = self.grid.database.now(conn)
        until = now + timedelta(hours=1)
        told = {"code": "TRIPPED", "failed": 30, "all": 40}
        tripped = {"site_id": NUMBER["Dune"], "error_class": "stage_out", "state": "OPEN", "trips": 1}
        insert_rows(conn, breaker, [{**tripped, "changed_at": now, "until": until, "params": told}])
        limit = {"id": 1, "name": "gorse-jobs", "site_id": NUMBER["Gorse"], "max_jobs": 1}
        insert_rows(conn, work_limit, [limit])
        beat = {"host": "oak", "pid": 1, "state": "running", "cycles": 1, "started_at": now, "beat_at": now}
        rows = [{"agent": name, "owner": name, **beat} for name in ("prodagent", "job_maker")]
        insert_rows(conn, heartbeat, rows)

    def job(self, step_name: str, index: int = 1) -> str:
        return f"{self.tasks[step_name]}/{index}"

    def move(self, step_name: str, index: int, event: JobEvent, to: JobState, **values: Any) -> None:
        """Have a job make a move."""
        task_id = self.grid.task(self.tasks[step_name]).id
        (row,) = self.grid.rows(select(job).where(job.c.task_id == task_id, job.c.idx == index))
        move = Move(job_id=row.id, attempt=row.attempt, event=event, to=to, **values)

        def unit(conn: Connection) -> None:
            assert store.apply(conn, [move], self.grid.database.now(conn))

        self.grid.database.transaction(unit)

    def now(self) -> datetime:
        with self.grid.database.snapshot() as conn:
            return self.grid.database.now(conn)

    def ask(self, what: str, later: float = 0.0) -> dict[str, Any]:
        """`why`, so many seconds from now."""
        with self.grid.database.snapshot() as conn:
            now = self.grid.database.now(conn) + timedelta(seconds=later)
            return why(conn, what, now, heartbeat_s=60.0)


@pytest.fixture
def trouble(database: Database, tmp_path: Path) -> Trouble:
    return Trouble(database, tmp_path)


def reasons(trouble: Trouble) -> dict[str, dict[str, Any]]:
    """An answer for each reason, by a word for it."""
    now = trouble.now()
    trouble.move(
        "ivy", 2, JobEvent.HOLD, JobState.HELD, hold_kind="operator", code="HOLD", params={"by": "ops"}
    )
    trouble.move("ivy", 3, JobEvent.HOLD, JobState.HELD, hold_kind="input", code="WAITS_FOR_INPUT")
    params = {"class": "stage_out", "failures": 1, "max": 5, "blame": "storage", "delay_s": 60}
    due = {"code": "RETRY_LATER", "params": params, "due_at": now + timedelta(seconds=60)}
    trouble.move("heath", 1, JobEvent.REFUSED, JobState.RETRY_WAIT, **due)
    asked = {
        "memory": ("alder", 1, 0),
        "disabled site": ("cedar", 1, 0),
        "breaker": ("dune", 1, 0),
        "leased, silent agent": ("elm", 1, 3600),
        "silent agent": ("elm", 2, 3600),
        "no agent": ("fir", 1, 0),
        "limit": ("gorse", 2, 0),
        "slots": ("heath", 4, 0),
        "its turn": ("ivy", 4, 0),
        "held": ("ivy", 2, 0),
        "held for input": ("ivy", 3, 0),
        "retry": ("heath", 1, 0),
        "software": ("tagged", 1, 0),
    }
    return {word: trouble.ask(trouble.job(name, n), later) for word, (name, n, later) in asked.items()}


def test_each_reason_is_told_by_its_own_words(trouble: Trouble) -> None:
    found = reasons(trouble)
    told = {word: " | ".join(one["because"]) for word, one in found.items()}
    assert "no site can ever run it" in told["memory"]
    assert f"{at('Alder')}: needs 3 GB, the site offers 2 GB" in told["memory"]
    assert f"ask for 2 GB or less, or raise memory_mb_per_core of {at('Alder')} to fit 3 GB" in told["memory"]
    assert f"{at('Cedar')} is disabled: cooling works until Friday" in told["disabled site"]
    assert f"have {at('Cedar')} take work again" in told["disabled site"]
    assert "its breaker for stage_out is OPEN" in told["breaker"]
    assert f"tierflow breaker reset {at('Dune')} stage_out" in told["breaker"]
    assert f"no prodagent holds {at('Elm')} since" in told["leased, silent agent"]
    assert f"the prodagent of {at('Elm')} is silent since" in told["silent agent"]
    assert f"can run here, but no prodagent serves {at('Fir')}" in told["no agent"]
    assert "limit gorse-jobs is full: 1 of 1 job" in told["limit"]
    assert f"2 of 2 slots taken at {at('Heath')}" in told["slots"]
    assert f"nothing is in the way at {at('Ivy')}" in told["its turn"]
    assert told["held"].startswith("held by ops")
    assert "no storage element holds the complete input" in told["held for input"]
    assert "retry 1 of 5 after 60 s" in told["retry"]
    assert "needs geant4-11, the site declares no software" in told["software"]


def test_each_reason_says_whose_turn_it_is(trouble: Trouble) -> None:
    turns = {word: one["turn"] for word, one in reasons(trouble).items()}
    assert turns == {
        "memory": "whoever wrote the task's requirements, or an operator of the sites",
        "disabled site": "an operator of the sites, or whoever wrote the task's requirements",
        "breaker": "an operator of the site",
        "leased, silent agent": "whoever starts a prodagent",
        "silent agent": "whoever runs the prodagent",
        "no agent": "whoever starts a prodagent",
        "limit": "the jobs that run under it",
        "slots": "the prodagent",
        "its turn": "the prodagent",
        "held": "an operator",
        "held for input": "whoever produces or restores its input",
        "retry": "the job_maker",
        "software": "whoever wrote the task's requirements, or an operator of the sites",
    }


def test_each_reason_says_where_to_look_next(trouble: Trouble) -> None:
    then = {word: one["next"].removeprefix("tierflow ") for word, one in reasons(trouble).items()}
    assert then["breaker"] == "breaker list"
    assert then["no agent"] == then["silent agent"] == "agent list"
    assert then["its turn"] == f"match --dry-run --site {at('Ivy')}"
    assert then["held"] == f"job release {trouble.job('ivy', 2)}"


def test_each_site_is_judged_predicate_by_predicate(trouble: Trouble) -> None:
    verdicts = {one["site"]: one for one in trouble.ask(trouble.job("alder"))["evidence"]["verdicts"]}
    assert len(verdicts) == len(SITES) + 1
    alder, fir = verdicts[at("Alder")], verdicts[at("Fir")]
    assert list(alder["predicates"]) == [*Refusal]
    bad = {name: says for name, says in alder["predicates"].items() if says != "ok"}
    assert bad == {"MEMORY": "needs 3 GB, the site offers 2 GB"}
    assert {name for name, says in fir["predicates"].items() if says != "ok"} == {"NOT_ALLOWED"}
    assert not alder["eligible"]
    assert not alder["open"]


def test_the_dynamic_reasons_are_in_the_evidence(trouble: Trouble) -> None:
    kinds = {
        word: set().union(*(one["in_the_way"] for one in answer["evidence"]["verdicts"]))
        for word, answer in reasons(trouble).items()
        if "verdicts" in answer["evidence"]
    }
    assert kinds == {
        "memory": set(),
        "disabled site": set(),
        "breaker": {"BREAKER"},
        "silent agent": {"SILENT_AGENT"},
        "no agent": {"NO_AGENT"},
        "limit": {"LIMIT"},
        "slots": {"SLOTS"},
        "its turn": set(),
        "software": set(),
    }


def test_a_limit_of_others_is_not_in_the_way(trouble: Trouble) -> None:
    def unit(conn: Connection) -> None:
        rows = [
            {"id": 2, "name": "merges", "task_type": "production-merge", "max_jobs": 0},
            {"id": 3, "name": "others", "share_path": "prod", "max_jobs": 0},
            {"id": 4, "name": "alder", "site_id": NUMBER["Alder"], "max_cores": 0},
        ]
        for row in rows:
            insert_rows(conn, work_limit, [row])

    trouble.grid.database.transaction(unit)
    told = " | ".join(trouble.ask(trouble.job("ivy", 4))["because"])
    assert "limit" not in told
    assert "nothing is in the way" in told


def test_its_place_is_told_and_counted_only_so_far(trouble: Trouble, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = trouble.ask(trouble.job("ivy", 4))
    assert "3 jobs of its class ahead of it" in answer["because"][0]
    assert (answer["evidence"]["ahead"], answer["evidence"]["ahead_more"]) == (3, False)
    monkeypatch.setattr("gridapp.insights.why_ready.COUNTED", 2)
    answer = trouble.ask(trouble.job("ivy", 4))
    assert "more than 2 jobs of its class ahead of it" in answer["because"][0]
    assert (answer["evidence"]["ahead"], answer["evidence"]["ahead_more"]) == (2, True)


def test_the_jobs_ahead_are_counted_from_the_index_of_waiting_jobs(database: Database) -> None:
    binds = {"of_class": 1, "own_rank": 5, "own_id": 7, "n": 10_001}
    with database.snapshot() as conn:
        options = {"literal_binds": True, "render_postcompile": True}
        text = str(AHEAD.params(**binds).compile(conn, compile_kwargs=options))
        if conn.dialect.name == "sqlite":
            plan = conn.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}").all()
        else:
            conn.exec_driver_sql("SET LOCAL enable_seqscan = off")
            plan = conn.exec_driver_sql(f"EXPLAIN {text}").all()
    told = " ".join(str(row) for row in plan)
    assert "ix_job_ready" in told
    assert "SCAN job" not in told


def test_the_share_that_comes_first_is_named(trouble: Trouble) -> None:
    def unit(conn: Connection) -> int:
        now = trouble.grid.database.now(conn)
        shares.put(conn, 950, "light", None, 1000, now)
        return shares.leaf(conn, 951, "light", "berta", now)

    leaf = trouble.grid.database.transaction(unit)
    spec = ClassSpec(task_type="production", leaf_id=leaf, requirements=Requirements())
    trouble.grid.more_jobs(trouble.tasks["fir"], spec)
    trouble.grid.cycle([trouble.grid.job_maker])
    told = trouble.ask(trouble.job("ivy", 4))["because"]
    assert not any("limit" in one or "breaker" in one for one in told)
    assert any(one.startswith("share production comes after light") for one in told)


def test_input_elsewhere_and_a_class_not_judged_yet(trouble: Trouble) -> None:
    block = trouble.grid.block("/Far/v1/GEN", "Alder_Disk")
    leaf = trouble.grid.task(trouble.tasks["ivy"]).leaf_id
    needs = Requirements(sites=frozenset([at("Ivy")]))
    spec = ClassSpec(task_type="analysis", leaf_id=leaf, requirements=needs, input_block_id=block)
    key = trouble.grid.more_jobs(trouble.tasks["ivy"], spec)
    (row,) = trouble.grid.rows(select(job.c.idx).where(job.c.class_id == key))
    name = trouble.job("ivy", row.idx)
    answer = trouble.ask(name)
    assert answer["because"][0] == "the sites have not been judged for its class yet"
    trouble.grid.cycle([trouble.grid.job_maker])
    answer = trouble.ask(name)
    assert f"{at('Ivy')}: the input block is not at {at('Ivy')}; complete at Alder_Disk" in answer["because"]
    assert answer["turn"] == "whoever subscribes its input to a site that runs jobs"
    assert "subscribe the input dataset to a storage element of T2_DE_Ivy" in answer["because"][-1]


def test_a_paused_request_is_said_of_its_jobs(trouble: Trouble) -> None:
    one = trouble.grid.task(trouble.tasks["ivy"])
    trouble.grid.database.transaction(lambda conn: holds.hold(conn, one, 10, trouble.grid.database.now(conn)))
    answer = trouble.ask(trouble.job("ivy", 4))
    assert answer["because"][0].startswith("its request is paused: nothing of it starts")
    assert answer["next"] == f"tierflow request resume {one.request_id}"


def test_impossible_work_is_said_of_its_task_and_request(trouble: Trouble) -> None:
    task = trouble.tasks["alder"]
    says = f"no site can ever run 1 job (production, production/anna) of {task}: T2_DE_Alder: needs 3 GB"
    of_task = trouble.ask(task)
    assert any(one.startswith(says) for one in of_task["because"])
    assert of_task["turn"].startswith("whoever wrote the task's requirements")
    request = trouble.grid.task(task).request_id
    assert any(one.startswith(says) for one in trouble.ask(f"req:{request}")["because"])
    assert not any("can ever run" in one for one in trouble.ask(trouble.tasks["cedar"])["because"])


def test_of_many_sites_the_first_are_told_and_the_rest_counted(
    trouble: Trouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gridapp.insights.why_ready.TOLD", 3)
    because = trouble.ask(trouble.job("tagged"))["because"]
    assert f"{at('Alder')}: needs geant4-11, the site declares no software" in because
    assert "and 6 more sites: TAGS at 5, SITE_DISABLED at 1" in because
    because = trouble.ask(trouble.job("ivy", 4))["because"]
    assert f"{at('Ivy')}: can run here; 0 of 2 slots taken at {at('Ivy')}" in because
    assert f"the task runs only at {at('Ivy')}, not at 8 other sites" in because


def test_ten_reasons(trouble: Trouble) -> None:
    """What the closing note quotes."""
    found = reasons(trouble)
    assert len({"".join(one["because"]) for one in found.values()}) >= 10
    for number, (word, one) in enumerate(found.items(), 1):
        print(f"\n{number}. {word}: {one['what']} is {one['state']}")
        for line in one["because"]:
            print(f"   {line}")
        print(f"   whose turn: {one['turn']}; next: {one['next']}")
