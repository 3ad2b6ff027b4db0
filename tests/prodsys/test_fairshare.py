"""Fair share: proportional in the long run, exact pick by pick, the same whatever the order of the input."""

from __future__ import annotations

import heapq
import math
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridcore.errors import UsageError
from prodsys.fairshare import ShareNode, Waiting, check_tree, decayed, divide, explain, key

HOUR = 3600.0


def node(
    id: int,
    target: float = 1.0,
    running: float = 0.0,
    used: float = 0.0,
    parent: int | None = None,
    path: str = "",
) -> ShareNode:
    return ShareNode(
        id=id, parent=parent, path=path or f"/{id:03}", target=target, running=running, used=used
    )


def tree() -> list[ShareNode]:
    """/prod (70: higgs 50, top 50) and /users (30: ada 50, bob 50)."""
    return [
        node(1, 70, path="/prod"),
        node(2, 30, path="/users"),
        node(3, 50, parent=1, path="/prod/higgs"),
        node(4, 50, parent=1, path="/prod/top"),
        node(5, 50, parent=2, path="/users/ada"),
        node(6, 50, parent=2, path="/users/bob"),
    ]


def picked_naively(nodes: list[ShareNode], waiting: dict[int, Waiting], n: int, c: float) -> list[int]:
    """The definition: before every pick all sums, targets and keys anew."""
    left = {id: work.jobs for id, work in waiting.items()}
    running = {item.id: item.running for item in nodes}
    children: dict[int | None, list[ShareNode]] = {}
    for item in nodes:
        children.setdefault(item.parent, []).append(item)

    def leaves(item: ShareNode) -> list[ShareNode]:
        return [leaf for child in children.get(item.id, []) for leaf in leaves(child)] or [item]

    picks: list[int] = []
    while len(picks) < n and any(count > 0 for count in left.values()):
        at: int | None = None
        while at in children:
            racing = [item for item in children[at] if sum(left.get(leaf.id, 0) for leaf in leaves(item))]
            targets = sum(item.target for item in racing)
            used = {item.id: sum(leaf.used for leaf in leaves(item)) for item in racing}
            total = sum(used.values())
            keys = {
                item.id: key(
                    item.target / targets,
                    sum(running[leaf.id] for leaf in leaves(item)),
                    used[item.id] / total if total else 0.0,
                    c,
                )
                for item in racing
            }
            at = min(racing, key=lambda item: (keys[item.id], item.path)).id
        assert at is not None
        picks.append(at)
        left[at] -= 1
        running[at] += waiting[at].cores_per_job
    return picks


@st.composite
def trees(draw: st.DrawFn) -> tuple[list[ShareNode], dict[int, Waiting]]:
    """Trees of any shape with whole numbers, so that no rounding hides a wrong pick."""
    nodes: list[ShareNode] = []
    for id in range(draw(st.integers(1, 9))):
        parent = draw(st.sampled_from([None, *(item.id for item in nodes)]))
        whole = st.integers(0, 50).map(float)
        nodes.append(
            node(id, float(draw(st.integers(1, 8))), draw(whole), draw(whole), parent, path=f"/{id:03}")
        )
    inner = {item.parent for item in nodes}
    leaves = [item.id for item in nodes if item.id not in inner]
    work = st.builds(Waiting, st.integers(0, 9), st.sampled_from([1.0, 4.0, 8.0]))
    return nodes, {leaf: draw(work) for leaf in leaves}


@given(case=trees(), n=st.integers(0, 40))
def test_divide_picks_as_one_by_one(case: tuple[list[ShareNode], dict[int, Waiting]], n: int) -> None:
    nodes, waiting = case
    assert divide(nodes, waiting, n) == picked_naively(nodes, waiting, n, 1.25)


@given(case=trees(), n=st.integers(0, 40), order=st.randoms(use_true_random=False))
def test_order_of_input_does_not_matter(
    case: tuple[list[ShareNode], dict[int, Waiting]], n: int, order: random.Random
) -> None:
    nodes, waiting = case
    shuffled = order.sample(nodes, len(nodes))
    turned = dict(order.sample(list(waiting.items()), len(waiting)))
    assert divide(shuffled, turned, n) == divide(nodes, waiting, n)
    assert explain(shuffled, turned) == explain(nodes, waiting)


@given(case=trees(), n=st.integers(0, 60))
def test_only_work_that_waits_is_picked(case: tuple[list[ShareNode], dict[int, Waiting]], n: int) -> None:
    nodes, waiting = case
    picks = divide(nodes, waiting, n)
    assert len(picks) == min(n, sum(work.jobs for work in waiting.values()))
    assert all(picks.count(id) <= waiting[id].jobs for id in set(picks))


def test_idle_farm_fills_in_proportion() -> None:
    picks = divide([node(1, 60), node(2, 30), node(3, 10)], {id: Waiting(1000) for id in (1, 2, 3)}, 1000)
    assert [picks.count(id) for id in (1, 2, 3)] == pytest.approx([600, 300, 100], abs=2)


def test_cores_are_shared_not_jobs() -> None:
    picks = divide(tree(), {3: Waiting(1000, 8.0), 5: Waiting(1000, 1.0)}, 1000)
    assert picks.count(3) * 8 / picks.count(5) == pytest.approx(70 / 30, rel=0.03)


def test_surplus_stays_with_the_siblings() -> None:
    work = {3: Waiting(1000), 5: Waiting(1000), 6: Waiting(1000)}  # top has nothing
    picks = divide(tree(), work, 100)
    assert [picks.count(id) for id in (3, 5, 6)] == pytest.approx([70, 15, 15], abs=1)


def test_what_a_branch_cannot_use_goes_to_the_other() -> None:
    picks = divide(tree(), {3: Waiting(5), 5: Waiting(1000)}, 100)
    assert (picks.count(3), picks.count(5)) == (5, 95)


def test_past_use_moves_the_share_by_c_at_most() -> None:
    greedy = [node(1, 50, used=1e9), node(2, 50, used=1.0)]
    picks = divide(greedy, {1: Waiting(1000), 2: Waiting(1000)}, 1000)
    # 0.5 / 1.25 against 0.5 * 1.25
    assert picks.count(2) / picks.count(1) == pytest.approx(1.5625, rel=0.02)


def test_past_use_is_weighed_among_those_left_in_the_race() -> None:
    nodes = [node(1, used=1000), node(2, used=10), node(3, used=20)]
    picks = divide(nodes, {1: Waiting(1), 2: Waiting(1000), 3: Waiting(1000)}, 1001)
    assert picks.count(2) / picks.count(3) == pytest.approx(1.5625, rel=0.02)


def test_ties_go_by_path() -> None:
    assert divide([node(1, path="/b"), node(2, path="/a")], {1: Waiting(1), 2: Waiting(1)}, 1) == [2]


def test_target_0_is_served_last() -> None:
    work = {1: Waiting(3), 2: Waiting(3)}
    assert divide([node(1, 0), node(2, 1)], work, 6) == [2, 2, 2, 1, 1, 1]


def test_work_on_an_inner_node_is_not_picked_but_told() -> None:
    work = {1: Waiting(5), 5: Waiting(1)}
    assert divide(tree(), work, 10) == [5]
    told = {row.path: row.why for row in explain(tree(), work)}
    assert "without children" in told["/prod"]


def test_steady_state_is_proportional() -> None:
    """300 cores, jobs of 1, 8 and 4 h, the second group idle on the first day; core-hours of days 2 to 8."""
    targets, hours = {1: 60.0, 2: 30.0, 3: 10.0}, {1: 1, 2: 8, 3: 4}
    got = core_hours(targets, hours, cores=300, days=8, idle_first_day=2)
    whole = sum(got.values())
    assert [got[id] / whole * 100 for id in (1, 2, 3)] == pytest.approx([60, 30, 10], abs=2)


def core_hours(
    targets: dict[int, float], hours: dict[int, int], *, cores: int, days: int, idle_first_day: int
) -> dict[int, float]:
    running = dict.fromkeys(targets, 0)
    used = dict.fromkeys(targets, 0.0)
    got = dict.fromkeys(targets, 0.0)
    ends: list[tuple[int, int]] = []
    for hour in range(days * 24):
        while ends and ends[0][0] <= hour:
            running[heapq.heappop(ends)[1]] -= 1
        nodes = [node(id, targets[id], running[id], used[id]) for id in targets]
        work = {id: Waiting(cores) for id in targets if hour >= 24 or id != idle_first_day}
        for id in divide(nodes, work, cores - sum(running.values())):
            running[id] += 1
            heapq.heappush(ends, (hour + hours[id], id))
        for id in targets:
            used[id] = decayed(used[id], HOUR, 24 * HOUR) + running[id] * HOUR
            got[id] += running[id] if hour >= 24 else 0
    return got


def test_a_thousand_picks_over_a_hundred_leaves_all_find_work() -> None:
    groups = [node(id, id + 1) for id in range(10)]
    leaves = [
        node(10 + i, 1 + i % 7, i % 5, i * 3.0, parent=i % 10, path=f"/{i % 10}/{i}") for i in range(100)
    ]
    work = {leaf.id: Waiting(5 + leaf.id) for leaf in leaves}
    picks = divide([*groups, *leaves], work, 1000)
    assert len(picks) == 1000


def test_key_follows_its_definition() -> None:
    assert key(0.5, 10, 0.5) == 20
    assert key(0.5, 10, 0.0) == pytest.approx(10 / (0.5 * 1.25))
    assert key(0.5, 10, 0.01) == pytest.approx(10 / (0.5 * 1.25))
    assert key(0.5, 10, 0.99) == pytest.approx(10 / (0.5 / 1.25))
    assert key(0.5, 10, 0.45) == pytest.approx(10 / (0.5 * 0.5 / 0.45))
    assert key(0.5, 10, 0.99, c=1) == 20
    assert key(0.0, 0, 0.5) == math.inf


def test_use_halves_in_a_half_life() -> None:
    assert decayed(80, 24 * HOUR, 24 * HOUR) == pytest.approx(40)
    assert decayed(80, 72 * HOUR, 24 * HOUR) == pytest.approx(10)
    assert decayed(80, -5, HOUR) == 80
    with pytest.raises(UsageError):
        decayed(80, 1, 0)


def test_explain_names_who_goes_first_and_why_not_the_others() -> None:
    nodes = [replace(item, running=20.0) if item.id == 3 else item for item in tree()]
    rows = explain(nodes, {3: Waiting(9), 5: Waiting(9)})
    assert [row.path for row in rows] == [
        *("/users", "/users/ada", "/users/bob"),
        *("/prod", "/prod/higgs", "/prod/top"),
    ]
    by_path = {row.path: row for row in rows}
    assert by_path["/users"].why == "goes first"
    assert by_path["/prod"].why == "comes after /users: 20 cores run for a share of 70.0%"
    assert by_path["/prod"].running == 20
    assert by_path["/prod"].key == pytest.approx(20 / (0.7 * 1.25))
    assert by_path["/prod/higgs"].target_norm == 1
    assert by_path["/prod/top"].key is None
    assert "no work" in by_path["/prod/top"].why


def test_explain_agrees_with_the_first_pick() -> None:
    nodes = [replace(item, running=float(item.id), used=float(9 - item.id)) for item in tree()]
    work = {id: Waiting(3) for id in (3, 4, 5, 6)}
    firsts = [row.path for row in explain(nodes, work) if row.why == "goes first"]
    (leaf,) = divide(nodes, work, 1)
    assert next(item.path for item in nodes if item.id == leaf) in firsts


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([node(1, -1)], "/001 has the target -1"),
        ([node(1, math.nan)], "/001 has the target nan"),
        ([node(1, 0), node(2, 0)], "/001, /002 are all 0"),
        ([node(1), node(2, 0, parent=1), node(3, 0, parent=1)], "/002, /003 are all 0"),
        ([node(1, parent=7)], "/001 has an unknown parent"),
        ([node(1, parent=2), node(2, parent=1)], "/001 is below itself"),
        ([node(1, parent=1)], "/001 is below itself"),
        ([node(3), node(1, parent=2), node(2, parent=2)], "below itself"),
        ([node(1), node(1, path="/x")], "same id or path"),
        ([node(1, path="/x"), node(2, path="/x")], "same id or path"),
    ],
)
def test_what_is_no_tree_is_refused(nodes: list[ShareNode], message: str) -> None:
    with pytest.raises(UsageError, match=message) as refused:
        check_tree(nodes)
    assert refused.value.hint


def test_a_good_tree_passes() -> None:
    check_tree(tree())
    check_tree([node(1, 0), node(2, 5)])


def test_a_job_without_cores_is_refused() -> None:
    with pytest.raises(UsageError):
        Waiting(1, 0)
