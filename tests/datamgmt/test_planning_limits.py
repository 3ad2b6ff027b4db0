"""Limits of a plan at the very edge: what fits goes, and a partial source is barred like a whole one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from datamgmt.links.paths import LinkCost, RoutingPolicy
from datamgmt.reasons import Reason
from datamgmt.routing.decisions import BlockDest, Decision
from datamgmt.routing.planning import plan
from datamgmt.transfers.fairness import decay

NOW = datetime(2026, 1, 1, tzinfo=UTC)
GB = 10**9


def want(block_id: int = 1, dest: int = 3, **fields: object) -> BlockDest:
    return BlockDest(block_id=block_id, dest=dest, size=10 * GB, **fields)  # type: ignore[arg-type]


def link(src: int, dst: int) -> LinkCost:
    return LinkCost(src, dst, 10.0, rate=1e7)


def planned(*rows: BlockDest, room: int = 10**15, window: int = 10**15, **options: object) -> list[Decision]:
    policy = RoutingPolicy(window_bytes=window)
    held = {1: {1}, 2: {1}}
    links = [link(1, 2), link(2, 3)]
    return plan(rows, held, links, {2: room}, NOW, lambda: 0.5, policy=policy, **options)  # type: ignore[arg-type]


def test_what_fills_the_window_or_the_transit_space_exactly_goes() -> None:
    both = want(1), want(2)
    for bound in ({"window": 20 * GB}, {"room": 20 * GB}):
        assert [one.code for one in planned(*both, **bound)] == [Reason.ROUTED] * 2
    assert planned(*both, window=20 * GB - 1)[1].code is Reason.WINDOW_FULL
    assert planned(*both, room=20 * GB - 1)[1].code is Reason.NO_TRANSIT_SPACE


def test_an_excluded_hop_is_excluded_from_a_partial_source_too() -> None:
    row = want(3, partial=frozenset({2}))
    (found,) = planned(row)
    assert (found.code, found.path) == (Reason.ROUTED, (2, 3))
    (shut,) = planned(row, excluded={3: {(2, 3): NOW + timedelta(hours=1)}})
    assert shut.src is None


def test_a_clock_that_was_set_back_takes_nothing() -> None:
    assert decay(100.0, timedelta(hours=-6)) == 100.0
