"""Places: what stands in the way at an endpoint and at a site, and which share comes first there."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from grids.waiting_grid import WaitingGrid
from hypothesis import given
from hypothesis import strategies as st

from catalogs.states import Switch
from gridapp.insights.places import InTheWay, Obstacle, Place, Ways, easiest, line_of, of_endpoint, turn_of
from gridcore.db import Database
from prodsys.shares.fairshare import ShareNode, Waiting, explain

GONE = datetime(2026, 3, 1, 12, tzinfo=UTC)
ELM = 2


def place(slots: int = 4, open: int = 0, agent: str | None = "a", gone: datetime | None = None) -> Place:
    values = {"endpoint_id": 20, "name": "elm-local", "site_id": ELM, "site": "T2_DE_Elm"}
    return Place(**values, slots=slots, open=open, agent=agent, silent_since=gone)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("here", "what", "says"),
    [
        (place(slots=0, agent=None), Obstacle.NO_SLOTS, "elm-local has no slots"),
        (place(agent=None), Obstacle.NO_AGENT, "no prodagent serves elm-local"),
        (
            place(agent=None, gone=GONE),
            Obstacle.SILENT_AGENT,
            "the prodagent of elm-local is silent since 2026-03-01T12:00:00.000Z",
        ),
        (place(open=4), Obstacle.SLOTS, "4 of 4 slots taken at elm-local"),
        (place(open=6), Obstacle.SLOTS, "6 of 4 slots taken at elm-local"),
    ],
)
def test_what_is_in_the_way_at_an_endpoint(here: Place, what: Obstacle, says: str) -> None:
    found = of_endpoint(here)
    assert found is not None
    assert (found.what, found.says) == (what, says)
    assert found.turn
    assert found.cure


def test_a_free_slot_and_a_living_agent_are_all_it_takes() -> None:
    assert of_endpoint(place(open=3)) is None


@given(st.permutations(list(Obstacle)))
def test_the_easiest_is_the_one_to_wait_for(order: list[Obstacle]) -> None:
    found = [InTheWay(what=one, says=one, turn="x", cure="y") for one in order]
    assert easiest(found).what == Obstacle.SLOTS
    assert easiest([one for one in found if one.what != Obstacle.SLOTS]).what == Obstacle.CANARIES


# --- at a site ---------------------------------------------------------------------------------------------


@pytest.fixture
def grid(database: Database, tmp_path: Path) -> WaitingGrid:
    made = WaitingGrid(database, tmp_path)
    made.site(ELM, "T2_DE_Elm", {}, {})
    return made


def in_the_way(grid: WaitingGrid, fit: Iterable[int] | None = None) -> list[Obstacle]:
    with grid.database.snapshot() as conn:
        ways = Ways(conn, grid.database.now(conn))
    return [one.what for one in ways.at(ELM, "T2_DE_Elm", "production/anna", "production", fit)]


def test_one_endpoint_that_takes_work_is_enough(grid: WaitingGrid) -> None:
    assert in_the_way(grid) == [Obstacle.NO_AGENT]
    grid.serve("T2_DE_Elm-1")
    assert in_the_way(grid) == []
    assert in_the_way(grid, [21]) == []
    assert in_the_way(grid, [20]) == [Obstacle.NO_AGENT]  # the other one cannot run this work


def test_an_endpoint_switched_off_counts_for_nothing(grid: WaitingGrid) -> None:
    grid.serve("T2_DE_Elm-1")
    grid.offer("T2_DE_Elm-1", state=Switch.DISABLED)
    assert in_the_way(grid) == [Obstacle.NO_AGENT]


# --- shares ------------------------------------------------------------------------------------------------


def test_the_first_of_its_nodes_that_is_not_first_is_told() -> None:
    nodes = [
        ShareNode(id=1, parent=None, path="heavy", target=1, running=0),
        ShareNode(id=2, parent=1, path="heavy/anna", target=1, running=8),
        ShareNode(id=3, parent=None, path="light", target=1),
        ShareNode(id=4, parent=3, path="light/berta", target=1),
    ]
    standing = {one.path: one for one in explain(nodes, {2: Waiting(3), 4: Waiting(1)})}
    assert line_of("heavy/anna") == ["heavy", "heavy/anna"]
    assert turn_of("heavy/anna", standing).startswith("share heavy comes after light")
    assert turn_of("light/berta", standing) == "share light/berta goes first"
    assert turn_of("dark/matter", standing) == "share dark/matter is unknown"
