"""Fairness: groups get what their weights say, urgent and begun blocks go first, nothing is queued twice."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datamgmt.transfers.fairness import CHUNK, HALF_LIFE, Begun, decay, next_blocks

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def block(block_id: int, group: str = "higgs", **fields: object) -> Begun:
    given = {"files": 500, "bytes": 5000, "created_at": NOW, **fields}
    return Begun(block_id=block_id, group=group, **given)  # type: ignore[arg-type]


GROUPS = ("higgs", "top", "heavy")
waiting = st.lists(
    st.builds(
        Begun,
        block_id=st.integers(1, 10**6),
        group=st.sampled_from(GROUPS),
        files=st.integers(0, 700),
        bytes=st.integers(0, 10**6),
        created_at=st.timedeltas(timedelta(), timedelta(days=9)).map(lambda ago: NOW - ago),
        priority=st.integers(0, 3),
        begun=st.booleans(),
    ),
    max_size=12,
    unique_by=lambda one: one.block_id,
)


@given(waiting, st.dictionaries(st.sampled_from(GROUPS), st.floats(0, 1e6)), st.integers(0, 3000))
def test_room_is_filled_and_no_block_gives_more_than_it_has(rows, used, room):
    chosen = next_blocks(rows, used, {}, room)
    sums = defaultdict(int)
    for block_id, n in chosen:
        assert n > 0
        sums[block_id] += n
    files = {one.block_id: one.files for one in rows}
    assert all(n <= files[block_id] for block_id, n in sums.items())
    assert sum(sums.values()) == min(room, sum(files.values()))
    assert next_blocks(rows[::-1], used, {}, room) == chosen


@given(waiting, st.integers(0, 3000))
def test_within_a_group_blocks_are_finished_in_the_order_of_their_rank(rows, room):
    mine = {one.block_id: one for one in rows if one.group == "top"}
    ids = [block_id for block_id, _ in next_blocks(rows, {}, {}, room) if block_id in mine]
    ordered = list(dict.fromkeys(ids))
    ranks = [mine[one].rank for one in ordered]
    assert ranks == sorted(ranks)
    # One block after the other: none is left and taken up again.
    assert ids == sorted(ids, key=ordered.index)


@given(
    st.fixed_dictionaries({group: st.sampled_from((0.5, 1.0, 2.0, 5.0)) for group in GROUPS}),
    st.lists(st.integers(1_000, 10_000), min_size=3, max_size=3),
)
@settings(max_examples=15, deadline=None)
def test_over_many_fills_bytes_go_by_weight(weights, sizes):
    sent, used = defaultdict(float), dict.fromkeys(GROUPS, 0.0)
    for n in range(4000):
        rows = [
            block(3 * n + place, group, bytes=500 * size, begun=n % 2 == 0)
            for place, (group, size) in enumerate(zip(GROUPS, sizes, strict=True))
        ]
        chosen = next_blocks(rows, used, weights, 200)
        by_id = {one.block_id: one for one in rows}
        for block_id, files in chosen:
            one = by_id[block_id]
            sent[one.group] += one.bytes * files / one.files
            used[one.group] += one.bytes * files / one.files
        used = {group: decay(size, timedelta(minutes=1)) for group, size in used.items()}
    total, shares = sum(sent.values()), sum(weights.values())
    for group in GROUPS:
        assert sent[group] / total == pytest.approx(weights[group] / shares, rel=0.05)


def test_a_group_that_has_sent_much_waits_for_the_others():
    rows = [block(1, "higgs"), block(2, "top")]
    assert next_blocks(rows, {"higgs": 1e6}, {}, 300) == [(2, 300)]
    assert next_blocks(rows, {"higgs": 1e6, "top": 1.0}, {"higgs": 1e9}, CHUNK) == [(1, CHUNK)]


def test_urgent_blocks_go_first_then_begun_ones_then_old_ones():
    rows = [
        block(1, files=1),
        block(2, files=1, created_at=NOW - timedelta(days=1)),
        block(3, files=1, begun=True),
        block(4, files=1, priority=1),
    ]
    assert next_blocks(rows, {}, {}, 9) == [(4, 1), (3, 1), (2, 1), (1, 1)]


def test_groups_take_turns_by_chunks():
    rows = [block(1, "higgs"), block(2, "top")]
    assert next_blocks(rows, {}, {}, 400) == [(1, 100), (2, 100), (1, 100), (2, 100)]


@given(st.floats(0, 1e15), st.timedeltas(-timedelta(days=1), timedelta(days=90)))
def test_what_was_used_is_forgotten(used, passed):
    left = decay(used, passed)
    assert 0 <= left <= used
    assert decay(used, HALF_LIFE) == pytest.approx(used / 2)
