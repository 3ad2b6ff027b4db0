"""Facts of datasets: what a text says, what is kept of it, and who changed what."""

from __future__ import annotations

import pytest
from catalog_grid import NOW, Grid
from hypothesis import given
from hypothesis import strategies as st

from catalogs import bookkeeping, facts, finding, histories, metadata, search
from catalogs.facts import amendment
from catalogs.states import Access
from gridcore.errors import UsageError
from gridcore.selector_parser import parse


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("7.7", (7.7, None)), ("-3", (-3.0, None)), ("1e3", (1000.0, None)), ("AuAu", (None, "AuAu"))),
        *(("inf", (None, "inf")), ("nan", (None, "nan")), ("0x10", (None, "0x10")), ("1 2", (None, "1 2"))),
    ],
)
def test_what_a_text_says(text: str, value: tuple[float | None, str | None]) -> None:
    assert metadata.typed(text) == value


@pytest.mark.parametrize("text", ["", " x", "x\n", "x\0", "x" * 201, "1e999", "\u202eabc"])
def test_texts_that_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        metadata.typed(text)


@given(st.text(max_size=210))
def test_a_text_is_a_number_a_text_or_refused(text: str) -> None:
    try:
        number, word = metadata.typed(text)
    except UsageError:
        return
    assert (number is None) == (word == text)


@pytest.mark.parametrize(
    "name", ["", "Energy", "files", "site", "description", "and", "a b", "x" * 41, "a=b", "a\n", "'"]
)
def test_names_that_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="no name for metadata"):
        metadata.check_name(name)


def test_what_is_said_of_a_dataset_is_found(grid: Grid) -> None:
    def find(query: str) -> list[str]:
        asked = finding.plan(parse(query, finding.DATASETS))
        return [one.name for one in grid.read(search.find, asked, "", 10)]

    new = amendment({"collision": "AuAu", "energy": "7.7"}, description="Gold", group="heavy")
    done = grid.do(facts.amend, grid.dataset_id, new, "set", "ann", NOW)
    assert done == {
        "description": [None, "Gold"],
        "group": [None, "heavy"],
        "collision": [None, "AuAu"],
        "energy": [None, 7.7],
    }
    assert grid.read(facts.metadata_of, grid.dataset_id) == {"collision": "AuAu", "energy": 7.7}
    row = grid.read(bookkeeping.dataset_by_id, grid.dataset_id)
    assert (row.description, row.group, row.access, row.tier) == ("Gold", "heavy", Access.VALID, "RAW")
    assert find("collision=AuAu energy<8 group=heavy") == [row.name]
    assert find("energy>8") == []
    assert grid.do(facts.amend, grid.dataset_id, new, "set", "ann", NOW) == {}

    gone = amendment({"energy": None, "trigger": None}, group="")
    done = grid.do(facts.amend, grid.dataset_id, gone, "set", "bob", NOW)
    assert done == {"group": ["heavy", None], "energy": [7.7, None]}
    assert grid.read(facts.metadata_of, grid.dataset_id) == {"collision": "AuAu"}
    told = grid.read(histories.of_dataset, grid.dataset_id, 10)
    assert [(one.actor, one.change) for one in told] == [("bob", "set"), ("ann", "set")]
    assert told[0].detail == done


def test_access_hides_from_queries(grid: Grid) -> None:
    done = grid.do(facts.amend, grid.dataset_id, amendment(access=Access.DEPRECATED), "access", "ann", NOW)
    assert done == {"access": [Access.VALID, Access.DEPRECATED]}
    for query, n in (("tier=RAW", 0), ("tier=RAW access=DEPRECATED", 1), ("tier=RAW access=*", 1)):
        asked = finding.plan(parse(query, finding.DATASETS))
        assert len(grid.read(search.find, asked, "", 10)) == n


def test_closing_and_reopening_are_remembered(grid: Grid) -> None:
    assert grid.do(bookkeeping.close_dataset, grid.dataset_id, "ann", NOW, "the run is over")
    assert not grid.do(bookkeeping.close_dataset, grid.dataset_id, "ann", NOW)
    assert grid.do(bookkeeping.reopen_dataset, grid.dataset_id, "bob", NOW)
    told = grid.read(histories.of_dataset, grid.dataset_id, 10)
    assert [(one.actor, one.change, one.detail) for one in told] == [
        ("bob", "reopened", None),
        ("ann", "closed", {"reason": "the run is over"}),
    ]
