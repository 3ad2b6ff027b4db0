"""Shares for people: the tree explained, changed, simulated, and what groups have where."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import embedded_grid
import pytest
from click.testing import CliRunner, Result
from full_grid import START, Names, full_grid
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select, text

from gridapp import sharing, wiring
from gridapp.cli.main import main
from gridapp.insights import shares, views
from gridapp.insights.views import View, response
from gridapp.session import connect
from gridcore.db import Database, insert_rows
from gridcore.errors import Denied, NotFound, UsageError
from gridcore.identity import Principal, Role
from gridcore.tables import audit_log
from prodsys.job_states import JobKind
from prodsys.jobs import store
from prodsys.jobs.store import NewJob
from prodsys.shares import shares as share_rows
from prodsys.tables import class_site, job_class, share_node, task

Grid = tuple[Database, Names]
BIRCH, ELM = 4, 6


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def grid(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Grid]:
    """The full grid, with 8 two-core jobs of light/bob that only Birch may run."""
    url = None
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres_db").url.render_as_string(hide_password=False)
    with full_grid(tmp_path, url) as made:
        made[0].transaction(bobs_jobs)
        yield made


def bobs_jobs(conn: Any) -> None:
    leaf_id = share_rows.leaf(conn, 70, "light", "bob", START)
    of_class = {"fingerprint": "bobs", "leaf_id": leaf_id, "task_type": "analysis", "cores": 2}
    insert_rows(conn, job_class, [{"id": 70, "requirements": {"cores": 2}, "ready": 0, **of_class}])
    verdicts = [
        {"class_id": 70, "site_id": key, "eligible": int(key == BIRCH), "decided_at": START}
        for key in (BIRCH, ELM)
    ]
    insert_rows(conn, class_site, verdicts)
    (task_id,) = conn.execute(select(task.c.id).order_by(task.c.id).limit(1)).scalars()
    jobs = [
        NewJob(
            id=7000 + at,
            task_id=task_id,
            index=7000 + at,
            kind=JobKind.PROCESS,
            class_id=70,
            rank=0,
            units=0,
            spec={},
        )
        for at in range(8)
    ]
    store.insert(conn, jobs, START)


def ask(grid: Grid, question: Callable[..., Any], *args: Any) -> Any:
    """The answer, which must be what JSON can hold."""
    with grid[0].snapshot() as conn:
        answer = question(conn, *args)
    assert json.loads(json.dumps(answer)) == answer
    return answer


def change(grid: Grid, path: str, **settings: float | None) -> None:
    assert grid[0].transaction(lambda conn: share_rows.change(conn, path, settings, START))


def test_the_tree_in_the_order_served(grid: Grid) -> None:
    rows = ask(grid, shares.shares)
    assert [(one["path"], one["next"], one["ready"]) for one in rows] == [
        *(("light", 1, 8), ("light/bob", 1, 8), ("heavy", 2, 6), ("heavy/anna", 1, 6))
    ]
    heavy = rows[2]
    assert (heavy["target_part"], heavy["running_cores"], heavy["used_part"]) == (0.75, 5.0, 1.0)
    assert heavy["why"] == "comes after light: 5 cores run for a share of 75.0%"
    change(grid, "heavy", target=3.0, floor=0.5, cap=1.0)
    change(grid, "light", cap=0.0)
    capped = {one["path"]: one for one in ask(grid, shares.shares)}
    assert (capped["heavy"]["next"], capped["light"]["next"]) == (1, 2)
    assert (capped["heavy"]["floor"], capped["light"]["cap"]) == (0.5, 0.0)
    assert "at its cap of 0.0%" in capped["light"]["why"]


def test_a_site_sees_its_own_work_and_weights(grid: Grid) -> None:
    assert {one["path"]: one["ready"] for one in ask(grid, shares.shares, "T2_RU_Elm")}["light"] == 0
    key = {one.path: one.id for one in ask_rows(grid)}["heavy"]
    grid[0].transaction(lambda conn: share_rows.set_weights(conn, {(BIRCH, key): 0.0}))
    here = {one["path"]: one for one in ask(grid, shares.shares, "T2_DE_Birch")}
    assert (here["heavy"]["site_weight"], here["heavy"]["target_part"]) == (0.0, 0.0)
    assert here["light"]["target_part"] == 1.0
    assert {one["path"]: one for one in ask(grid, shares.shares)}["heavy"]["target_part"] == 0.75
    with pytest.raises(NotFound, match="no site T2_DE_Birk") as caught:
        ask(grid, shares.shares, "T2_DE_Birk")
    assert "T2_DE_Birch" in str(caught.value.hint)


def ask_rows(grid: Grid) -> list[Any]:
    with grid[0].snapshot() as conn:
        return list(conn.execute(select(share_node.c.id, share_node.c.path)))


def test_a_jobs_share_is_explained_level_by_level(grid: Grid) -> None:
    told = ask(grid, shares.explain, f"{grid[1].generate}/12")
    assert (told["state"], told["share"]) == ("READY", "heavy/anna")
    assert [(one["path"], one["next"], one["before"], one["siblings"]) for one in told["levels"]] == [
        ("heavy", 2, ["light"], 2),
        ("heavy/anna", 1, [], 1),
    ]
    assert told["because"][0] == "heavy comes after light: 5 cores run for a share of 75.0%"
    assert "heavy: before it go light" in told["because"]
    assert "heavy/anna goes first" in told["because"]
    done = ask(grid, shares.explain, f"{grid[1].generate}/1")
    assert "does not wait in the queue, it is DONE" in done["because"][0]
    at_elm = ask(grid, shares.explain, f"{grid[1].generate}/12", "T2_RU_Elm")
    assert at_elm["levels"][0]["before"] == []
    with pytest.raises(NotFound):
        ask(grid, shares.explain, f"{grid[1].generate}/99")


def test_a_forecast_tells_both_futures_and_changes_nothing(grid: Grid) -> None:
    told = ask(grid, shares.forecast, {"light": 0.0}, 1)
    assert told["slots"] == 8
    assert any("light/bob" in one and "of which none is done" in one for one in told["assumes"])
    by_path = {one["path"]: one for one in told["shares"]}
    assert (by_path["light"]["now_target"], by_path["light"]["then_target"]) == (1.0, 0.0)
    # Bob's wide jobs come first now; without a target hers would.
    assert by_path["heavy/anna"]["then_empty_h"] < by_path["heavy/anna"]["now_empty_h"]
    assert by_path["light/bob"]["now_empty_h"] is None
    assert by_path["heavy"]["now_core_h"] == pytest.approx(11 * 31.5 / 3600, rel=0.2)
    assert by_path["heavy"]["now_left"] == 0
    assert by_path["light/bob"]["now_left"] == pytest.approx(4, abs=1)
    assert {one["path"]: one["target"] for one in ask(grid, shares.shares)}["light"] == 1.0


def test_a_forecast_shows_what_a_target_is_worth(grid: Grid) -> None:
    """All jobs last as long; they are scarce, so each gets what its target says."""
    grid[0].transaction(lambda conn: conn.execute(text("UPDATE attempt SET wall_s = 3600.0")))
    told = {one["path"]: one for one in ask(grid, shares.forecast, {"heavy": 0.25}, 2)["shares"]}
    assert told["heavy"]["then_part"] < told["heavy"]["now_part"]
    assert told["light"]["then_part"] > told["light"]["now_part"]
    assert told["light"]["change"].endswith("core-hours more")
    assert told["heavy"]["change"].endswith("core-hours less")
    assert told["heavy"]["then_part"] + told["light"]["then_part"] == pytest.approx(1)


def test_a_forecast_of_what_is_no_tree_is_refused(grid: Grid) -> None:
    with pytest.raises(NotFound, match="no share lite") as caught:
        ask(grid, shares.forecast, {"lite": 1.0}, 1)
    assert "light" in str(caught.value.hint)
    with pytest.raises(UsageError, match="heavy, light are all 0"):
        ask(grid, shares.forecast, {"light": 0.0, "heavy": 0.0}, 1)
    with pytest.raises(UsageError, match="target -1"):
        ask(grid, shares.forecast, {"light": -1.0}, 1)


def test_views_tell_what_groups_have_where(grid: Grid) -> None:
    rows = {(one["site"], one["group"]): one for one in ask(grid, views.views)}
    assert set(rows) == {("T2_DE_Birch", "heavy"), ("T2_DE_Birch", "light"), ("T2_RU_Elm", "heavy")}
    heavy = rows["T2_DE_Birch", "heavy"]
    assert (heavy["site_slots"], heavy["slots"], heavy["running"], heavy["waiting"]) == (4, 5, 5, 6)
    # 8 attempts have ended there since the first bin, 21 minutes ago; all cores that run are heavy's.
    assert heavy["response_s"] == pytest.approx(6 / 22.8 * 3600, rel=0.01)
    light = rows["T2_DE_Birch", "light"]
    assert light["waiting"] == 8
    assert light["response_s"] == pytest.approx(8 / (22.8 * 0.25) * 3600, rel=0.01)
    assert "its share" in light["how"]
    elm = rows["T2_RU_Elm", "heavy"]
    assert (elm["response_s"], elm["response"]) == (None, "unknown")
    assert "no attempt has ended" in elm["how"]


# --- pure --------------------------------------------------------------------------------------------


def test_a_response_says_how_it_was_found() -> None:
    assert response(View(), 4, 2, 0.5, None).seconds == 0
    assert response(View(), 4, 4, 0.5, 8.0).seconds == 450
    assert response(View(waiting_jobs=3), 0, 0, 0.5, 8.0).how == (
        "unknown: no endpoint of the site is switched on"
    )
    assert response(View(waiting_jobs=3), 4, 4, 0.0, 8.0).how.endswith("has the target 0")
    assert response(View(waiting_jobs=6, running_cores=2), 4, 4, 0.0, 12.0).seconds == 3600


@given(
    st.builds(View, running_cores=st.integers(0, 9), waiting_jobs=st.integers(0, 99)),
    st.integers(0, 9),
    st.integers(0, 9),
    st.floats(0, 1),
    st.none() | st.floats(0, 1e6),
)
def test_every_response_is_a_time_or_unknown(
    view: View, slots: int, others: int, part: float, pace: float | None
) -> None:
    told = response(view, slots, view.running_cores + others, part, pace)
    assert (told.seconds is None) == told.how.startswith("unknown: ")
    assert told.seconds is None or told.seconds >= 0


# --- commands ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return embedded_grid.make(tmp_path_factory.mktemp("template") / "grid")


@pytest.fixture
def place(template: Path, tmp_path: Path) -> Path:
    return embedded_grid.copy(template, tmp_path / "grid")


def run(place: Path, *args: object) -> Result:
    return CliRunner().invoke(main, ["share", *map(str, args), "--dir", str(place)])


def answer(place: Path, *args: object) -> Any:
    result = run(place, *args)
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def audits(place: Path) -> list[Any]:
    installation = connect(place, None)
    with installation.database.snapshot() as conn:
        found = conn.execute(select(audit_log).where(audit_log.c.verb == "share set")).all()
    installation.close()
    return list(found)


def test_set_changes_a_share_and_is_audited(place: Path) -> None:
    before = {one["path"]: one for one in answer(place, "show")}["analysis"]
    dry = run(place, "set", "analysis", "--target", 12, "--cap", "40%", "--dry-run")
    assert "nothing was written" in dry.stderr
    assert json.loads(dry.stdout)["now"]["target"] == 12
    assert {one["path"]: one for one in answer(place, "show")}["analysis"] == before
    assert audits(place) == []
    done = answer(place, "set", "analysis", "--target", 12, "--cap", "40%", "--half-life", 12)
    assert done["changed"]
    assert (done["was"]["target"], done["was"]["cap"]) == (before["target"], None)
    after = {one["path"]: one for one in answer(place, "show")}["analysis"]
    assert (after["target"], after["cap"], after["half_life_s"]) == (12, 0.4, 43200)
    (row,) = audits(place)
    assert row.subject == "share analysis"
    assert row.detail["target"] == [before["target"], 12.0]
    assert not answer(place, "set", "analysis", "--target", 12)["changed"]
    assert len(audits(place)) == 1
    answer(place, "set", "analysis", "--cap", "none", "--child-target", 5)
    last = {one["path"]: one for one in answer(place, "show")}["analysis"]
    assert (last["cap"], last["child_target"]) == (None, 5)
    assert answer(place, "set", "analysis", "--child-target", "none")["now"]["child_target"] == 1


@pytest.mark.parametrize(
    ("asked", "status", "message"),
    [
        (("analyses", "--target", 1), 3, "did you mean analysis"),
        (("analysis",), 2, "what is to be changed"),
        (("analysis", "--target", -1), 2, "has the target -1"),
        (("analysis", "--target", "many"), 2, "is no number"),
        (("analysis", "--target", "none"), 2, "is no number"),
        (("analysis", "--target", "nan"), 2, "has the target nan"),
        (("analysis", "--floor", 0.5, "--cap", 0.4), 2, "above its cap"),
        (("analysis", "--floor", "150%"), 2, "0 to 1"),
        (("analysis", "--half-life", 0), 2, "half-life of 0"),
    ],
)
def test_what_would_be_no_tree_is_not_set(
    place: Path, asked: tuple[Any, ...], status: int, message: str
) -> None:
    before = answer(place, "show")
    result = run(place, "set", *asked)
    assert result.exit_code == status
    assert message in result.stderr
    assert answer(place, "show") == before
    assert audits(place) == []


def test_users_give_nothing_to_others(place: Path) -> None:
    installation = connect(place, None)
    installation.database.transaction(lambda conn: share_rows.leaf(conn, 9000, "analysis", "eve", START))
    installation.close()
    assert answer(place, "set", "analysis/eve", "--target", 3)["now"]["target"] == 3
    refused = run(place, "set", "analysis/eve", "--child-target", 3)
    assert (refused.exit_code, "analysis/eve is a user's" in refused.stderr) == (2, True)
    half_life = run(place, "set", "analysis/eve", "--half-life", 3)
    assert (half_life.exit_code, "set it on the root" in half_life.stderr) == (2, True)


def test_only_those_who_configure_the_grid_set_shares(place: Path) -> None:
    installation = connect(place, None)
    viewer = Principal("eve", roles={"analysis": frozenset([Role.OPERATOR])})
    with pytest.raises(Denied):
        sharing.set_share(wiring.context(installation), "analysis", {"target": 3.0}, viewer)
    installation.close()
    assert audits(place) == []


def test_the_other_commands_answer(place: Path) -> None:
    assert answer(place, "views") == []
    assert [one["next"] for one in answer(place, "show", "--site", "T2_FR_Birch")] == [None, None]
    empty = run(place, "simulate", "--set", "analysis=5", "--hours", 2)
    assert empty.exit_code == 2
    assert "nothing waits and nothing runs" in empty.stderr
    assert "PATH=TARGET" in run(place, "simulate", "--set", "analysis").stderr
    assert run(place, "explain", "260301_120000:anna_x/1").exit_code == 3
