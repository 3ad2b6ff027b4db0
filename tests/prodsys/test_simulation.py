"""The simulated farm: the shares hold over days, a group that comes back does not take it over, and nothing
is made or lost."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gridcore.errors import UsageError
from prodsys.shares import simulation
from prodsys.shares.fairshare import ShareNode
from prodsys.shares.simulation import Load, returning_group, simulate


def groups(*targets: float) -> list[ShareNode]:
    return [
        ShareNode(id=key, parent=None, path="abcdefgh"[key], target=target)
        for key, target in enumerate(targets)
    ]


def test_a_group_that_was_idle_gets_its_share_and_no_burst() -> None:
    """60/30/10 with jobs of 1, 8 and 4 h on 1000 slots; the second idle for a day."""
    table = returning_group()
    assert table.core_hours(0, 24)["b"] == 0
    assert sum(table.core_hours().values()) == 1000 * 240
    parts = table.parts(24)
    assert [parts[path] * 100 for path in "abc"] == pytest.approx([60, 30, 10], abs=2)
    assert 0.30 < table.parts(24, 30)["b"] <= 0.45


def test_past_use_decides_how_big_the_burst_is() -> None:
    bursts = [returning_group(days=2, c=c).parts(24, 30)["b"] for c in (1.0, 1.25, 2.0)]
    assert bursts == sorted(bursts)
    assert bursts[2] > 0.45


def test_days_add_up() -> None:
    table = returning_group(days=3, slots=100)
    assert [sum(day.values()) for day in table.days()] == [2400.0] * 3
    assert sum(day["a"] for day in table.days()) == pytest.approx(table.core_hours()["a"])
    assert sum(table.parts(5, 9).values()) == pytest.approx(1)


def test_work_that_runs_out_leaves_its_cores_to_others() -> None:
    loads = {0: Load(job_h=1, jobs=30), 1: Load(job_h=1, jobs=1000)}
    table = simulate(groups(1, 1), loads, slots=10, hours=12)
    assert table.core_hours() == {"a": 30.0, "b": 90.0}
    assert table.core_hours(8) == {"a": 0.0, "b": 40.0}
    assert table.left == {"a": 0, "b": 910}
    assert (table.empty_h["a"], table.empty_h["b"]) == (pytest.approx(5, abs=1), None)


def test_arrivals_are_served_as_they_come() -> None:
    table = simulate(groups(1), {0: Load(job_h=1, jobs=0, per_h=3)}, slots=10, hours=20)
    assert table.core_hours()["a"] == pytest.approx(3 * 18, abs=6)
    assert table.left["a"] <= 3


def test_what_runs_already_keeps_its_cores_until_it_ends() -> None:
    loads = {0: Load(job_h=4, jobs=100), 1: Load(job_h=4, jobs=0, running=8)}
    table = simulate(groups(1, 1), loads, slots=8, hours=4)
    assert [row[1] for row in table.hourly] == pytest.approx([7.5, 5.5, 3.5, 1.5])
    assert sum(table.core_hours().values()) == 32


def test_a_wide_job_waits_for_its_cores() -> None:
    loads = {0: Load(job_h=1, cores=8, jobs=3), 1: Load(job_h=2, jobs=4)}
    table = simulate(groups(100, 1), loads, slots=10, hours=6)
    assert table.core_hours() == {"a": 24.0, "b": 8.0}
    assert table.left == {"a": 0, "b": 0}


def test_a_root_has_its_own_half_life() -> None:
    def burst(half_life_s: float) -> float:
        nodes = [replace(one, half_life_s=half_life_s) for one in groups(50, 50)]
        nodes[0].used = 1e8
        loads = {key: Load(job_h=1) for key in (0, 1)}
        return simulate(nodes, loads, slots=100, hours=24).parts(12)["b"]

    assert burst(60.0) == pytest.approx(0.5, abs=0.02)
    assert burst(1e9) > 0.58


def test_a_tree_is_shared_out_level_by_level() -> None:
    nodes = [
        *groups(70, 30),
        ShareNode(id=10, parent=0, path="a/x", target=3),
        ShareNode(id=11, parent=0, path="a/y", target=1, cap=0.1),
        ShareNode(id=12, parent=1, path="b/z", target=1),
    ]
    parts = simulate(nodes, {key: Load(job_h=2) for key in (10, 11, 12)}, slots=200, hours=72).parts(24)
    assert parts["a/x"] + parts["a/y"] == pytest.approx(0.7, abs=0.02)
    assert parts["a/y"] == pytest.approx(0.07, abs=0.01)


def test_very_many_short_jobs_are_taken_together() -> None:
    loads = {0: Load(job_h=0.01, jobs=10**7), 1: Load(job_h=0.01, jobs=10**7)}
    table = simulate(groups(60, 40), loads, slots=5000, hours=10)
    assert table.parts()["a"] == pytest.approx(0.6, abs=0.02)
    assert sum(table.core_hours().values()) == pytest.approx(50_000, rel=0.02)
    assert table.left["a"] == pytest.approx(10**7 - 3_000_000, rel=0.03)
    assert table.left["b"] == pytest.approx(10**7 - 2_000_000, rel=0.03)


def test_a_little_work_is_not_rounded_up_to_much() -> None:
    table = simulate(groups(1), {0: Load(job_h=5 / 3600, jobs=64)}, slots=4, hours=24 * 60)
    assert table.core_hours()["a"] == pytest.approx(64 * 5 / 3600, rel=0.1)
    assert table.empty_h["a"] == pytest.approx(80 / 3600, rel=0.3)


def test_starts_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """By counting the picks, not the time."""
    picked = []
    honest = simulation.divide

    def counting(*args: object) -> list[int]:
        found = honest(*args)  # type: ignore[arg-type]
        picked.append(len(found))
        return found

    monkeypatch.setattr(simulation, "divide", counting)
    loads = {0: Load(job_h=1e-6, jobs=10**12), 1: Load(job_h=0.5)}
    simulate(groups(60, 40), loads, slots=100_000, hours=48)
    assert sum(picked) < 2 * simulation.STARTS
    assert len(picked) < 2 * simulation.MOMENTS


@settings(max_examples=60)
@given(data=st.data(), n=st.integers(1, 4), slots=st.integers(1, 40), hours=st.integers(1, 30))
def test_no_core_is_used_twice_and_no_job_is_lost(
    data: st.DataObject, n: int, slots: int, hours: int
) -> None:
    load = st.builds(
        Load,
        job_h=st.sampled_from([0.25, 0.5, 1.0, 3.0, 8.0]),
        jobs=st.integers(0, 300),
        idle=st.just(()) | st.just(((2.0, 5.5),)),
    )
    loads = {key: data.draw(load) for key in range(n)}
    table = simulate(groups(*range(1, n + 1)), loads, slots=slots, hours=hours)
    assert all(sum(row) <= slots + 1e-6 for row in table.hourly)
    for key, path in enumerate(table.paths):
        started = (loads[key].jobs or 0) - table.left[path]
        done = table.core_hours()[path]
        assert done <= started * loads[key].job_h + 1e-6
        assert done >= (started - slots) * loads[key].job_h - 1e-6
        assert (table.empty_h[path] is None) == (table.left[path] > 0)
    waits = any(table.left.values()) and not any(one.idle for one in loads.values())
    assert not waits or all(sum(row) == pytest.approx(slots) for row in table.hourly[:-1])


@pytest.mark.parametrize(
    ("slots", "hours", "message"), [(0, 1, "0 slots"), (1, 0, "for 0 h"), (-5, 1, "-5 slots")]
)
def test_a_farm_has_slots_and_time(slots: int, hours: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        simulate(groups(1), {}, slots=slots, hours=hours)


def test_nonsense_is_refused() -> None:
    for job_h, cores in ((0.0, 1.0), (1.0, 0.0), (math.nan, 1.0), (math.inf, 1.0)):
        with pytest.raises(UsageError):
            Load(job_h=job_h, cores=cores)
    with pytest.raises(UsageError, match="no share with the key 7"):
        simulate(groups(1), {7: Load(job_h=1)}, slots=1, hours=1)
    with pytest.raises(UsageError, match="all 0"):
        simulate(groups(0), {0: Load(job_h=1)}, slots=1, hours=1)
