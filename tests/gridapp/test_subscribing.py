"""Who asks and who decides: by role at the destination, one by one or by ask id."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from grids.data_grid import DATASET, DataGrid

from gridapp import subscribing
from gridapp.insights import deliveries
from gridapp.subscribing import Terms
from gridcore import accounts
from gridcore.db import Database
from gridcore.errors import Denied, InvalidTransition, NotFound, UsageError
from gridcore.identity import Account, Principal, Role

GROUP = frozenset(["physics"])
ANNA = Principal("anna", GROUP, {"physics": frozenset([Role.USER])})
BERT = Principal("bert", GROUP, {"T2_XX_B": frozenset([Role.SITE_ADMIN]), **ANNA.roles})


@pytest.fixture
def grid(database: Database) -> DataGrid:
    grid = DataGrid(database, "ABC")
    grid.link("AB", "AC")
    grid.produce(2)
    return grid


def subscribe(grid: DataGrid, who: Principal, se: str = "T2_B", **terms: object) -> dict[str, object]:
    return subscribing.subscribe(grid.context(), DATASET, se, who, Terms(**terms))  # type: ignore[arg-type]


def test_who_decides_there_need_not_ask(grid: DataGrid) -> None:
    assert subscribe(grid, BERT)["state"] == "ACTIVE"
    assert subscribe(grid, BERT, "T2_C")["state"] == "ASKED"
    assert subscribe(grid, ANNA, "T2_B")["state"] == "ACTIVE", "it is there, decided"


def test_who_decides_may_leave_it_to_others(grid: DataGrid) -> None:
    assert subscribe(grid, BERT, ask=True)["state"] == "ASKED"


def test_one_cannot_approve_ones_own(grid: DataGrid) -> None:
    made = subscribe(grid, ANNA)
    with pytest.raises(Denied):
        subscribing.decide(grid.context(), str(made["subscription"]), ANNA, approved=True)
    (done,) = subscribing.decide(grid.context(), str(made["subscription"]), BERT, approved=True)
    assert (done["state"], done["changed"]) == ("ACTIVE", True)


def test_of_what_is_asked_at_once_each_place_decides_its_own(grid: DataGrid) -> None:
    for se in ("T2_B", "T2_C"):
        subscribe(grid, ANNA, se, ask_id="trip")
    done = subscribing.decide(grid.context(), "trip", BERT, approved=False, comment="full")
    assert [(one["se"], one["state"]) for one in done] == [("T2_B", "DENIED")]
    with grid.database.snapshot() as conn:
        shown = deliveries.subscription(conn, int(done[0]["subscription"]))
    assert {one["sentence"] for one in shown["block_list"]} == {shown["reason"]}
    assert "full" in shown["reason"]
    with pytest.raises(NotFound):
        subscribing.decide(grid.context(), "nothing", BERT, approved=True)


def test_what_takes_more_needs_who_decides(grid: DataGrid) -> None:
    made = subscribe(grid, ANNA)
    key = int(str(made["subscription"]))
    subscribing.decide(grid.context(), str(key), BERT, approved=True)
    assert subscribing.amend(grid.context(), key, {"priority": -3}, ANNA)["changed"] == ["priority"]
    for more in ({"priority": 0}, {"custodial": True}, {"move": True}):
        with pytest.raises(Denied):
            subscribing.amend(grid.context(), key, more, ANNA)
    assert subscribing.amend(grid.context(), key, {"priority": 5}, BERT)["changed"] == ["priority"]
    with pytest.raises(UsageError):
        subscribing.amend(grid.context(), key, {"custodial": None}, ANNA)


def test_a_move_to_where_it_lies_alone_is_refused(grid: DataGrid) -> None:
    with pytest.raises(UsageError):
        subscribe(grid, BERT, "T2_A", move=True)


def test_a_dry_run_of_what_comes_later_moves_nothing_that_is_there(grid: DataGrid) -> None:
    terms = Terms(since=grid.clock.now() + timedelta(seconds=1))
    said = subscribing.subscribe(grid.context(), DATASET, "T2_B", BERT, terms, dry_run=True)
    assert (said["preview"]["copied"]["blocks"], said["preview"]["by_link"]) == (0, {})


def test_a_dry_run_says_what_would_be_moved_and_writes_nothing(grid: DataGrid) -> None:
    said = subscribing.subscribe(grid.context(), DATASET, "T2_B", BERT, dry_run=True)
    assert (said["subscription"], said["asked"]) == (None, False)
    assert "T2_A -> T2_B" in said["preview"]["by_link"]
    assert subscribe(grid, BERT)["new"] is True


def test_what_reaches_further_back_needs_who_decides(grid: DataGrid) -> None:
    since = grid.clock.now()
    made = subscribe(grid, ANNA, since=since)
    key = int(str(made["subscription"]))
    subscribing.decide(grid.context(), str(key), BERT, approved=True)
    later, earlier = {"since": since + timedelta(days=1)}, {"since": since - timedelta(days=1)}
    assert subscribing.amend(grid.context(), key, later, ANNA)["changed"] == ["since"]
    with pytest.raises(Denied):
        subscribing.amend(grid.context(), key, earlier, ANNA)
    assert subscribing.amend(grid.context(), key, earlier, BERT)["changed"] == ["since"]


def test_another_group_pays_only_where_one_decides_for_it(grid: DataGrid) -> None:
    key = int(str(subscribe(grid, BERT)["subscription"]))
    carl = Principal("carl", GROUP, {"physics": frozenset([Role.OPERATOR])})
    with pytest.raises(NotFound):
        subscribing.amend(grid.context(), key, {"group": "nobody"}, BERT)
    dora = Account("dora", Principal("dora", frozenset(["heavy"])))
    grid.do(lambda conn, _: accounts.put(conn, 1, dora))
    for who in (ANNA, carl):
        with pytest.raises(Denied):
            subscribing.amend(grid.context(), key, {"group": "heavy"}, who)
    assert subscribing.amend(grid.context(), key, {"group": "heavy"}, BERT)["changed"] == ["group"]


@pytest.mark.parametrize(
    "terms",
    [
        {"comment": "x" * 501},
        {"comment": "one\ntwo"},
        {"comment": "nul \0"},
        {"ask_id": "x" * 37},
        {"ask_id": "17"},
    ],
)
def test_words_that_cannot_be_kept_are_refused(grid: DataGrid, terms: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        subscribe(grid, BERT, **terms)
    made = subscribe(grid, BERT)
    assert made["new"], "nothing was written before"
    if "comment" in terms:
        with pytest.raises(UsageError):
            subscribing.amend(grid.context(), int(str(made["subscription"])), terms, BERT)


def test_a_number_that_is_no_subscription_is_not_found(grid: DataGrid) -> None:
    for number in ("77", "9" * 30):
        with pytest.raises(NotFound):
            subscribing.decide(grid.context(), number, BERT, approved=True)


def test_it_cannot_be_suspended_until_a_moment_that_is_over(grid: DataGrid) -> None:
    key = int(str(subscribe(grid, BERT)["subscription"]))
    with pytest.raises(UsageError):
        subscribing.change_subscription(grid.context(), key, "suspend", BERT, until=grid.clock.now())
    later = grid.clock.now() + timedelta(hours=1)
    assert subscribing.change_subscription(grid.context(), key, "suspend", BERT, until=later)["changed"]


def test_what_waits_for_a_word_cannot_be_suspended(grid: DataGrid) -> None:
    made = subscribe(grid, ANNA)
    assert made["state"] == "ASKED"
    with pytest.raises(InvalidTransition, match="is ASKED: there is nothing to suspend"):
        subscribing.change_subscription(grid.context(), int(str(made["subscription"])), "suspend", ANNA)
