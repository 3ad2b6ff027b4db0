"""Cutting: every step and input gives pieces that hold each unit exactly once."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridcore.errors import UsageError
from prodsys.tasks import lumis
from prodsys.tasks.lumis import Lumis
from prodsys.tasks.workflow import Step
from prodsys.units import cutting
from prodsys.units.cutting import LUMI_TOO_LONG, Piece
from prodsys.units.splitting import InputFile

OUTPUT = {"name": "out.root", "dataset": "/A/b/C"}


def step(**values: Any) -> Step:
    given = {"name": "one", "command": ["sh"], "output": OUTPUT, **values}
    if "events" not in values and "matrix" not in values:
        given["input"] = "/X/y/Z"
    return Step.model_validate(given)


def input_file(id: int, *runs: tuple[int, int, int], events: int | None = 10, size: int = 100) -> InputFile:
    return InputFile(id=id, lfn=f"/store/f{id}", events=events, size=size, block_id=1, runs=runs)


def points(mask: Lumis | None) -> set[tuple[int, int]]:
    return {
        (run, lumi)
        for run, pairs in (mask or {}).items()
        for first, last in pairs
        for lumi in range(first, last + 1)
    }


spans = st.tuples(st.integers(1, 3), st.integers(1, 30), st.integers(0, 8)).map(
    lambda one: (one[0], one[1], one[1] + one[2])
)
masks = st.lists(spans, min_size=1, max_size=8).map(lumis.normal)


@st.composite
def blocks(draw: st.DrawFn) -> list[InputFile]:
    return [
        input_file(id, *draw(st.lists(spans, min_size=1, max_size=4)), events=draw(st.integers(0, 200)))
        for id in range(draw(st.integers(0, 6)))
    ]


cuts = st.sampled_from(
    [{"lumis_per_job": 3}, {"events_per_job": 40}, {"events_per_job": 5, "max_events_per_job": 9}]
)


@given(files=blocks(), how=cuts, mask=st.none() | masks, owned=masks, split_on_run=st.booleans())
def test_each_lumi_of_each_file_is_read_once(
    files: list[InputFile], how: dict[str, int], mask: Lumis | None, owned: Lumis, split_on_run: bool
) -> None:
    content = None if mask is None else lumis.to_json(mask)
    one = step(**how, mask=content, split_on_run=split_on_run)
    pieces = list(cutting.of_block(one, files, owned))
    assert pieces == list(cutting.of_block(one, files[::-1], owned))
    asked = {
        (file.id, lumi)
        for file in files
        for lumi in points(lumis.normal(file.runs))
        if mask is None or lumi in points(mask)
    }
    read = [
        (file.id, lumi)
        for piece in pieces
        for file in piece.files
        for lumi in points(lumis.common(lumis.normal(file.runs), piece.lumis or {}))
    ]
    assert sorted(read) == sorted(asked)
    ledger = [lumi for piece in pieces for lumi in points(lumis.normal(piece.ranges))]
    assert sorted(ledger) == sorted({lumi for _, lumi in asked} - points(owned))
    for piece in pieces:
        assert piece.units == len(points(piece.lumis)) > 0
        assert points(lumis.normal(piece.ranges)) in (points(piece.lumis), set())
        assert (piece.held is None) or piece.units == 1


@given(files=blocks(), mask=masks, how=st.sampled_from([{"files_per_job": 2}, {"bytes_per_job": 250}]))
def test_masked_files_are_read_once_and_others_not_at_all(
    files: list[InputFile], mask: Lumis, how: dict[str, int]
) -> None:
    pieces = list(cutting.of_block(step(**how, mask=lumis.to_json(mask)), files))
    read = [file.id for piece in pieces for file in piece.files]
    held = {file.id: points(lumis.normal(file.runs)) & points(mask) for file in files}
    assert sorted(read) == [id for id, found in held.items() if found]
    for piece in pieces:
        assert points(piece.lumis) == set().union(*(held[file.id] for file in piece.files))
        assert piece.units == len(piece.files) > 0
        assert piece.ranges == ()


@given(files=blocks(), how=cuts, room=st.integers(1, 4))
def test_slices_of_a_block_add_up(files: list[InputFile], how: dict[str, int], room: int) -> None:
    one = step(**how)
    sliced: list[Piece] = []
    while part := cutting.rest(cutting.of_block(one, files), len(sliced), room):
        sliced += part
    assert sliced == list(cutting.of_block(one, files))


matrices = st.dictionaries(
    st.sampled_from("abc"), st.lists(st.integers(0, 9), min_size=1, max_size=3, unique=True), min_size=1
)


@given(
    events=st.none() | st.integers(1, 40),
    per_job=st.integers(1, 20),
    matrix=st.none() | matrices,
    room=st.integers(1, 7),
)
def test_what_is_generated_is_counted_before_and_cut_once(
    events: int | None, per_job: int, matrix: dict[str, list[int]] | None, room: int
) -> None:
    if events is None and matrix is None:
        return
    one = step(events=events, events_per_job=per_job if events else None, matrix=matrix)
    total = one.units_total or 0
    pieces: list[Piece] = []
    while part := cutting.rest(cutting.generated(one, total, sum(p.units for p in pieces)), 0, room):
        pieces += part
    assert len(pieces) == cutting.count_generated(one)
    assert sum(piece.units for piece in pieces) == total
    made = [
        (tuple((piece.parameters or {}).items()), number)
        for piece in pieces
        for number in range(piece.first_event or 0, (piece.first_event or 0) + piece.units)
    ]
    assert len(set(made)) == len(made)
    if events is not None:
        assert {number for _, number in made} == set(range(events))


def test_a_lumi_beyond_the_hard_maximum_is_held_with_its_reason() -> None:
    files = [input_file(1, (7, 1, 2), events=20), input_file(2, (7, 3, 3), events=900)]
    pieces = list(cutting.of_block(step(events_per_job=100, max_events_per_job=500), files))
    assert [piece.held for piece in pieces] == [
        None,
        (LUMI_TOO_LONG, {"run": 7, "lumi": 3, "events": 900, "most": 500}),
    ]


def test_runs_and_mask_select_together() -> None:
    files = [input_file(1, (7, 1, 9)), input_file(2, (8, 1, 9)), input_file(3, (9, 1, 9))]
    mask = {"7": [[1, 3], [5, 6]], "9": [[2, 2]]}
    (piece,) = cutting.of_block(step(lumis_per_job=50, runs="7-8", mask=mask), files)
    assert piece.lumis == {7: ((1, 3), (5, 6))}
    assert [file.id for file in piece.files] == [1]


def test_named_files_only() -> None:
    files = [input_file(id) for id in range(4)]
    (piece,) = cutting.of_block(step(files_per_job=9, files=["/store/f3", "/store/f1", "/store/none"]), files)
    assert [file.id for file in piece.files] == [1, 3]
    assert piece.lumis is None


def test_a_file_without_lumis_cannot_be_cut_by_them() -> None:
    with pytest.raises(UsageError, match="the catalogue knows no lumi of /store/f1") as refused:
        list(cutting.of_block(step(lumis_per_job=5), [input_file(1)]))
    assert "files_per_job" in (refused.value.hint or "")


def test_a_file_with_nothing_in_it_is_passed_over() -> None:
    files = [input_file(1, events=0), input_file(2, (1, 1, 1), events=0)]
    (piece,) = cutting.of_block(step(lumis_per_job=5), files)
    assert [file.id for file in piece.files] == [2]
