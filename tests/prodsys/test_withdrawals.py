"""What waits in a batch system gives way to a leaf that starves, and to nobody else."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from prodsys.queue.withdrawals import plan
from prodsys.shares.fairshare import ShareNode, Waiting

LEAVES = (1, 2, 3)


def nodes(*running: float) -> list[ShareNode]:
    return [
        ShareNode(id=leaf, parent=None, path=f"g{leaf}", target=1.0, running=cores)
        for leaf, cores in zip(LEAVES, running, strict=True)
    ]


def keys(leaf: int, n: int) -> list[str]:
    return [f"{leaf}.{number}" for number in range(n)]


def test_a_starving_leaf_gets_what_another_has_queued_up() -> None:
    taken = plan(nodes(20, 0, 0), {2: Waiting(50)}, {1: keys(1, 4)}, {1: 1.0})
    assert taken == ["1.3", "1.2", "1.1", "1.0"]


def test_no_more_is_taken_than_waits() -> None:
    assert plan(nodes(20, 0, 0), {2: Waiting(1)}, {1: keys(1, 4)}, {1: 1.0}) == ["1.3"]


def test_a_leaf_that_runs_something_does_not_starve() -> None:
    assert plan(nodes(20, 1, 0), {2: Waiting(50)}, {1: keys(1, 4)}, {1: 1.0}) == []


def test_nothing_waits_nothing_is_taken() -> None:
    assert plan(nodes(20, 0, 0), {}, {1: keys(1, 4)}, {1: 1.0}) == []
    assert plan(nodes(20, 0, 0), {2: Waiting(5)}, {}, {}) == []


def test_the_leaf_with_most_to_spare_gives() -> None:
    sent = {1: keys(1, 3), 3: keys(3, 3)}
    taken = plan(nodes(30, 0, 4), {2: Waiting(2)}, sent, {1: 1.0, 3: 1.0})
    assert Counter(key[0] for key in taken) == {"1": 2}


@given(
    running=st.tuples(*[st.integers(0, 30)] * 3),
    waiting=st.dictionaries(st.sampled_from(LEAVES), st.integers(1, 20), max_size=3),
    sent=st.dictionaries(st.sampled_from(LEAVES), st.integers(1, 8), max_size=3),
)
def test_only_what_a_starving_leaf_can_use_is_taken(
    running: tuple[int, ...], waiting: dict[int, int], sent: dict[int, int]
) -> None:
    cores = [max(run, sent.get(leaf, 0)) for leaf, run in zip(LEAVES, running, strict=True)]
    unstarted = {leaf: keys(leaf, n) for leaf, n in sent.items()}
    taken = plan(
        nodes(*cores), {leaf: Waiting(n) for leaf, n in waiting.items()}, unstarted, dict.fromkeys(sent, 1.0)
    )
    starving = {leaf for leaf in waiting if leaf not in sent and not cores[leaf - 1]}
    assert len(set(taken)) == len(taken) <= sum(waiting[leaf] for leaf in starving)
    assert set(taken) <= {key for mine in unstarted.values() for key in mine}
    for mine in unstarted.values():
        count = sum(key in taken for key in mine)
        assert set(mine[len(mine) - count :]) == {key for key in mine if key in taken}
