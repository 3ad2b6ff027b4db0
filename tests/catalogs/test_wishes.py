"""Wishes: made once, served or refused once, explained while they wait."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from catalog_grid import ALDER, BIRCH, NOW, Grid, at_once, plans

from catalogs import wishes
from catalogs.states import WishKind, WishState
from catalogs.wishes import NewWish, Wish
from gridcore.errors import NotFound

LATER = NOW + timedelta(minutes=5)


def wish(number: int, **values: Any) -> NewWish:
    defaults = {
        "kind": WishKind.STAGE,
        "subject_kind": "lfn",
        "subject": f"/store/a/{number}.root",
        "se_id": ALDER,
        "owner": "job/17",
    }
    return NewWish(id=number, **{**defaults, **values})


def ready(grid: Grid, kind: WishKind = WishKind.STAGE, now: Any = NOW, limit: int = 100) -> list[int]:
    return [one.id for one in grid.read(wishes.open_wishes, kind, now, limit)]


def of_owner(grid: Grid, owner: str = "job/17") -> list[Wish]:
    return grid.read(wishes.of_owner, owner)


def test_the_same_wish_is_made_once(grid: Grid) -> None:
    assert grid.do(wishes.make, [wish(1), wish(2)], NOW) == [1, 2]
    grid.do(wishes.serve, [1], NOW)
    again = [
        wish(13, subject="/store/a/3.root"),
        wish(12, subject="/store/a/2.root"),
        wish(11, subject=wish(1).subject),
    ]
    assert grid.do(wishes.make, [*again, again[0]], LATER) == [13, 2, 1, 13]
    others = [wish(21, kind=WishKind.DELETE), wish(22, se_id=BIRCH), wish(23, owner="job/18")]
    assert grid.do(wishes.make, others, NOW) == [21, 22, 23]
    assert [(one.id, one.state) for one in of_owner(grid)][:2] == [(1, WishState.SERVED), (2, WishState.OPEN)]
    assert grid.do(wishes.make, [], NOW) == []


def test_wishes_made_by_many_at_once_are_made_once(grid: Grid) -> None:
    def make(n: int) -> list[int]:
        rows = [wish(100 * n + k, subject=f"/store/a/{k}.root") for k in range(n, n + 40)]
        return grid.do(wishes.make, rows[:: (-1) ** n], NOW)[:: (-1) ** n]

    answers = at_once(4, make)
    assert {tuple(ids[3 - n :][:37]) for n, ids in enumerate(answers)} == {tuple(answers[3][:37])}
    assert len(of_owner(grid)) == 43


def test_an_unknown_storage_element_is_named(grid: Grid) -> None:
    with pytest.raises(NotFound, match="no storage element with id 99"):
        grid.do(wishes.make, [wish(1), wish(2, se_id=99)], NOW)
    assert of_owner(grid) == []


def test_open_wishes_come_when_due_longest_due_first(grid: Grid) -> None:
    early = NOW - timedelta(hours=1)
    rows = [wish(1), wish(2, not_before=LATER), wish(3, not_before=early), wish(4, kind=WishKind.PLACE)]
    grid.do(wishes.make, rows, NOW)
    assert ready(grid) == [3, 1]
    assert ready(grid, now=LATER) == [3, 1, 2]
    assert ready(grid, limit=1) == [3]
    assert ready(grid, WishKind.PLACE) == [4]


def test_a_wish_is_settled_once(grid: Grid) -> None:
    grid.do(wishes.make, [wish(1), wish(2)], NOW)
    assert grid.do(wishes.serve, [1, 1], LATER) == 1
    assert grid.do(wishes.refuse, [(1, "no_space", {}), (2, "no_space", {"free": 3})], LATER) == 1
    assert grid.do(wishes.serve, [2], LATER) == 0
    one, two = of_owner(grid)
    assert (one.state, one.code, one.updated_at) == (WishState.SERVED, None, LATER)
    assert (two.state, two.code, two.params) == (WishState.REFUSED, "no_space", {"free": 3})
    assert ready(grid, now=LATER) == []


def test_an_explained_wish_waits_and_lets_others_pass(grid: Grid) -> None:
    grid.do(wishes.make, [wish(1), wish(2)], NOW)
    assert grid.do(wishes.explain, [(1, "tape_queue", {"ahead": 12})], NOW, LATER) == 1
    assert ready(grid, limit=1) == [2]
    assert ready(grid, now=LATER) == [2, 1]
    (waiting, _) = of_owner(grid)
    assert (waiting.state, waiting.code, waiting.params) == (WishState.OPEN, "tape_queue", {"ahead": 12})


def test_hot_reads_use_an_index(sqlite_grid: Grid) -> None:
    assert "SCAN" not in plans(sqlite_grid, wishes.open_wishes, WishKind.STAGE, NOW, 10)
    assert "TEMP B-TREE" not in plans(sqlite_grid, wishes.open_wishes, WishKind.STAGE, NOW, 10)
