"""Fair share: proportional in the long run, exact pick by pick, the same whatever the order of the input."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gridcore.errors import UsageError
from prodsys.shares.fairshare import ShareNode, Waiting, check_tree, decayed, divide, explain

HOUR = 3600.0


def node(
    id: int,
    target: float = 1.0,
    running: float = 0.0,
    used: float = 0.0,
    parent: int | None = None,
    path: str = "",
    **more: Any,
) -> ShareNode:
    place = {"id": id, "parent": parent, "path": path or f"/{id:03}"}
    return ShareNode(**place, target=target, running=running, used=used, **more)


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


Case = tuple[list[ShareNode], dict[int, Waiting]]
#: Before each pick: the sibling picked at each level, those in the race beside it, and cores run by node.
Step = tuple[ShareNode, list[ShareNode], dict[int, float], float]


def key(target_norm: float, running: float, used_norm: float, c: float) -> float:
    """run / (t * clamp(t/u, 1/c, c)), where nothing was used run / (t * c)."""
    if target_norm <= 0:
        return math.inf
    factor = c if used_norm <= 0 else min(c, max(1 / c, target_norm / used_norm))
    return running / (target_norm * factor)


def picked_naively(nodes: list[ShareNode], waiting: dict[int, Waiting], n: int, c: float) -> list[int]:
    """The definition: before every pick all sums, targets and keys anew."""
    return [steps[-1][0].id for steps in steps_of(nodes, waiting, n, c)]


def steps_of(
    nodes: list[ShareNode], waiting: dict[int, Waiting], n: int, c: float = 1.25
) -> Iterator[list[Step]]:
    """For every pick its choices from the root to the leaf."""
    left = {id: work.jobs for id, work in waiting.items()}
    running = {item.id: item.running for item in nodes}
    children: dict[int | None, list[ShareNode]] = {}
    for item in nodes:
        children.setdefault(item.parent, []).append(item)

    def leaves(item: ShareNode) -> list[ShareNode]:
        return [leaf for child in children.get(item.id, []) for leaf in leaves(child)] or [item]

    for _ in range(n):
        if not any(count > 0 for count in left.values()):
            return
        at: int | None = None
        steps: list[Step] = []
        while at in children:
            racing = [item for item in children[at] if sum(left.get(leaf.id, 0) for leaf in leaves(item))]
            runs = {item.id: sum(running[leaf.id] for leaf in leaves(item)) for item in children[at]}
            total = sum(runs.values())
            targets = sum(item.target * item.weight for item in racing)
            used = {item.id: sum(leaf.used for leaf in leaves(item)) for item in racing}
            all_used = sum(used.values())
            keys = {
                item.id: key(
                    item.target * item.weight / targets if targets else 1 / len(racing),
                    runs[item.id],
                    used[item.id] / all_used if all_used else 0.0,
                    c,
                )
                for item in racing
            }
            first = min(racing, key=lambda item: (rank(item, runs[item.id], total), keys[item.id], item.path))
            steps.append((first, racing, runs, total))
            at = first.id
        left[first.id] -= 1
        running[first.id] += waiting[first.id].cores_per_job
        yield steps


def rank(item: ShareNode, running: float, total: float) -> int:
    """0 below the floor, 2 at the cap, else 1."""
    if item.floor is not None and running < item.floor * total:
        return 0
    return 2 if item.cap is not None and item.cap < 1 and running >= item.cap * total else 1


@st.composite
def trees(draw: st.DrawFn) -> Case:
    """Trees of any shape with whole numbers, so that no rounding hides a wrong pick."""
    nodes: list[ShareNode] = []
    part = st.sampled_from([0.0, 0.125, 0.25, 0.5, 0.75, 1.0])
    for id in range(draw(st.integers(1, 9))):
        parent = draw(st.sampled_from([None, None, *(item.id for item in nodes)]))
        whole = st.integers(0, 50).map(float) | st.just(0.0)
        values = {"target": float(draw(st.integers(0, 8))), "running": draw(whole), "used": draw(whole)}
        weight = draw(st.sampled_from([1.0, 1.0, 0.0, 4.0]))
        limits = {
            name: draw(part) for name in draw(st.sampled_from(["", "", "cap", "floor", "cap floor"])).split()
        }
        nodes.append(node(id, parent=parent, path=f"/{id:03}", weight=weight, **values, **limits))
    inner = {item.parent for item in nodes}
    leaves = [item.id for item in nodes if item.id not in inner]
    work = st.builds(Waiting, st.integers(0, 9), st.sampled_from([1.0, 4.0, 8.0]))
    return nodes, {leaf: draw(work) for leaf in leaves}


@settings(max_examples=200)
@given(case=trees(), n=st.integers(0, 40), c=st.sampled_from([1.0, 1.25, 2.0]))
def test_divide_picks_as_one_by_one(case: Case, n: int, c: float) -> None:
    nodes, waiting = case
    assert divide(nodes, waiting, n, c) == picked_naively(nodes, waiting, n, c)


@given(case=trees(), n=st.integers(0, 40), order=st.randoms(use_true_random=False))
def test_order_of_input_does_not_matter(case: Case, n: int, order: random.Random) -> None:
    nodes, waiting = case
    shuffled = order.sample(nodes, len(nodes))
    turned = dict(order.sample(list(waiting.items()), len(waiting)))
    assert divide(shuffled, turned, n) == divide(nodes, waiting, n)
    assert explain(shuffled, turned) == explain(nodes, waiting)


@given(case=trees(), n=st.integers(0, 60))
def test_only_work_that_waits_is_picked(case: Case, n: int) -> None:
    nodes, waiting = case
    picks = divide(nodes, waiting, n)
    assert len(picks) == min(n, sum(work.jobs for work in waiting.values()))
    assert all(picks.count(id) <= waiting[id].jobs for id in set(picks))


@given(case=trees())
def test_explain_agrees_with_the_pick_at_every_level(case: Case) -> None:
    nodes, waiting = case
    by_id = {one.id: one for one in explain(nodes, waiting)}
    firsts = {id for id, one in by_id.items() if one.place == 1}
    for steps in steps_of(nodes, waiting, 1):
        for first, racing, runs, _ in steps:
            assert first.id in firsts
            assert all(by_id[item.id].running == runs[item.id] for item in racing)
            assert {by_id[item.id].place for item in racing} == set(range(1, len(racing) + 1))
    waits = sum(work.jobs for work in waiting.values())
    assert bool(firsts) == bool(waits)
    assert all(one.why for one in by_id.values())


@given(case=trees())
def test_floors_come_first_and_caps_last(case: Case) -> None:
    """None is served while a sibling is below its floor, nor beyond a cap before another is there too."""
    nodes, waiting = case
    picks = divide(nodes, waiting, 40)
    for leaf, steps in zip(picks, steps_of(nodes, waiting, 40), strict=True):
        assert steps[-1][0].id == leaf
        for first, racing, runs, total in steps:
            ranks = {item.id: rank(item, runs[item.id], total) for item in racing}
            if 0 in ranks.values():
                assert ranks[first.id] == 0
            if ranks[first.id] == 2:
                assert set(ranks.values()) == {2}


def test_a_floor_is_kept_and_a_cap_not_passed() -> None:
    nodes = [node(1, 98), node(2, 1, floor=0.25), node(3, 1), node(4, 300, cap=0.125)]
    picks = divide(nodes, {id: Waiting(1000) for id in (1, 2, 3, 4)}, 800)
    assert picks.count(2) == 200
    assert picks.count(4) == 100
    assert picks.count(1) / picks.count(3) == pytest.approx(98, rel=0.3)


def test_a_cap_does_not_leave_cores_idle() -> None:
    nodes = [node(1, 1, cap=0.1), node(2, 1)]
    assert divide(nodes, {1: Waiting(30)}, 40) == [1] * 30
    picks = divide(nodes, {1: Waiting(1000), 2: Waiting(9)}, 100)
    assert picks.index(1) <= 1
    assert picks[10:] == [1] * 90


def test_those_that_run_nothing_go_by_path_with_or_without_a_cap() -> None:
    nodes = [node(1), node(2, cap=0.5), node(3), node(4, running=9.0)]
    assert divide(nodes, {id: Waiting(1) for id in (1, 2, 3, 4)}, 4) == [1, 2, 3, 4]


def test_a_site_weighs_targets() -> None:
    nodes = [node(1, 50, weight=3.0), node(2, 50), node(3, 50, weight=0.0)]
    picks = divide(nodes, {id: Waiting(1000) for id in (1, 2, 3)}, 400)
    assert [picks.count(id) for id in (1, 2, 3)] == pytest.approx([300, 100, 0], abs=2)


@given(data=st.data(), n=st.integers(2, 6))
def test_nobody_with_a_target_starves(data: st.DataObject, n: int) -> None:
    """Work never runs out: each is served before the others have had the cores that its share allows them."""
    whole = st.integers(1, 8).map(float)
    nodes = [node(id, data.draw(whole), used=data.draw(st.integers(0, 9)) * 1e4) for id in range(n)]
    work = {id: Waiting(10**6, data.draw(st.sampled_from([1.0, 8.0]))) for id in range(n)}
    late = data.draw(st.sampled_from(nodes))
    late.running = data.draw(st.integers(0, 20)) * 1.0
    # Its key is run / (t / c) at most; once the others' are above that, run' / (t * c) at least, it is next.
    worst = (late.running + 8) * 1.25**2 / late.target
    cores = sum(worst * other.target + 8 for other in nodes if other is not late)
    assert late.id in divide(nodes, work, int(cores) + 1)


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


def test_a_thousand_picks_over_a_hundred_leaves_all_find_work() -> None:
    groups = [node(id, id + 1) for id in range(10)]
    leaves = [
        node(10 + i, 1 + i % 7, i % 5, i * 3.0, parent=i % 10, path=f"/{i % 10}/{i}") for i in range(100)
    ]
    work = {leaf.id: Waiting(5 + leaf.id) for leaf in leaves}
    picks = divide([*groups, *leaves], work, 1000)
    assert len(picks) == 1000


@pytest.mark.parametrize(
    ("used", "c", "factor"),
    [
        *((50, 1.25, 1), (0, 1.25, 1.25), (1, 1.25, 1.25)),
        *((99, 1.25, 1 / 1.25), (45, 1.25, 50 / 45), (99, 1, 1)),
    ],
)
def test_past_use_moves_the_key_within_its_bounds(used: float, c: float, factor: float) -> None:
    """Half the target, 10 cores running, and `used` percent of what both have used."""
    both = [node(1, running=10, used=used), node(2, used=100 - used)]
    rows = explain(both, {1: Waiting(1), 2: Waiting(1)}, c)
    assert {row.id: row.key for row in rows}[1] == pytest.approx(10 / (0.5 * factor))


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
        ([node(1, floor=-0.1)], "/001 has the floor -0.1"),
        ([node(1, cap=1.5)], "/001 has the cap 1.5"),
        ([node(1, cap=math.nan)], "/001 has the cap nan"),
        ([node(1, floor=0.5, cap=0.25)], "/001 has the floor 0.5 above its cap 0.25"),
        ([node(1, floor=0.6), node(2, floor=0.5)], "floors of /001, /002 sum to 1.1"),
        ([node(1, child_target=-1.0)], "/001 has the target for new users -1"),
        ([node(1, half_life_s=0.0)], "/001 has a half-life of 0"),
        ([node(1), node(2, parent=1, half_life_s=5.0)], "/002 has a half-life"),
        ([node(1, weight=-1.0)], "/001 has the weight -1"),
    ],
)
def test_what_is_no_tree_is_refused(nodes: list[ShareNode], message: str) -> None:
    with pytest.raises(UsageError, match=message) as refused:
        check_tree(nodes)
    assert refused.value.hint


def test_a_good_tree_passes() -> None:
    check_tree(tree())
    check_tree([node(1, 0), node(2, 5)])
    check_tree([node(1, floor=0.1), node(2, floor=0.2, cap=0.2), node(3, floor=0.7, half_life_s=60.0)])


def test_explain_tells_of_floors_and_caps() -> None:
    nodes = [node(1, 1, 5, floor=0.5), node(2, 1, 10), node(3, 1, 5, cap=0.25), node(4, 0), node(5, 1)]
    rows = explain(nodes, {id: Waiting(9) for id in (1, 2, 3, 4)})
    assert [(row.path, row.place) for row in rows] == [
        *(("/001", 1), ("/002", 2), ("/004", 3), ("/003", 4), ("/005", None))
    ]
    assert [row.part for row in rows] == [0.25, 0.5, 0.0, 0.25, 0.0]
    assert rows[0].why == "goes first: it runs 5 of 20 cores, below its floor of 50.0%"
    assert rows[2].why == "has the target 0: served when no sibling has work"
    assert rows[3].why.startswith("comes after /004: it runs 5 of 20 cores and is at its cap of 25.0%")


def test_a_job_without_cores_is_refused() -> None:
    with pytest.raises(UsageError):
        Waiting(1, 0)
