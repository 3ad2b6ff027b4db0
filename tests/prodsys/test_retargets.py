"""Retargets: bigger and elsewhere, and never nowhere."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from prodsys.control.retargets import AWAY_MAX, Failure, difference, retarget
from prodsys.queue.brokerage import Requirements, SiteFacts, judge
from prodsys.settling.retries import DEFAULT_RULES, ErrorClass, Reason, reason

RULES = DEFAULT_RULES
NEEDS = Requirements(memory_mb=2000, wall_s=3600)


def offer(name: str, memory: int | None = 4000, wall: int | None = 7200, enabled: bool = True) -> SiteFacts:
    return SiteFacts(name=name, memory_mb_per_core=memory, wall_s_max=wall, enabled=enabled)


def failed(*pairs: str) -> list[Failure]:
    """Failures, newest first, from "class@site"."""
    return [Failure(*pair.split("@")) for pair in pairs]


ABC = [offer("A"), offer("B"), offer("C")]


def test_a_site_failure_sends_the_job_elsewhere() -> None:
    assert retarget(NEEDS, failed("stage_in@A"), RULES, ABC).sites_excluded == {"A"}
    assert retarget(NEEDS, failed("stage_in@B", "site@A"), RULES, ABC).sites_excluded == {"A", "B"}


def test_the_last_site_is_never_excluded_and_the_turn_comes_round() -> None:
    assert retarget(NEEDS, failed("site@A"), RULES, [offer("A")]).sites_excluded == frozenset()
    two = [offer("A"), offer("B")]
    once = retarget(NEEDS, failed("site@A"), RULES, two)
    twice = retarget(once, failed("site@B", "site@A"), RULES, two)
    assert (once.sites_excluded, twice.sites_excluded) == ({"A"}, {"B"})


def test_a_site_that_takes_no_work_now_is_no_refuge() -> None:
    assert retarget(NEEDS, failed("site@A"), RULES, ABC[:2], banned=["B"]).sites_excluded == frozenset()
    assert retarget(NEEDS, failed("site@A"), RULES, ABC, banned=["A"]).sites_excluded == {"A"}


def test_what_the_task_excludes_or_the_user_did_wrong_stays_as_it_is() -> None:
    own = replace(NEEDS, sites_excluded=frozenset(["C"]))
    assert retarget(own, failed("site@A"), RULES, ABC).sites_excluded == {"A", "C"}
    assert retarget(own, failed("payload@A"), RULES, ABC) == own
    assert retarget(own, failed("of_another_release@A"), RULES, ABC) == own


def test_memory_and_time_grow_up_to_what_is_offered() -> None:
    first = retarget(NEEDS, failed("memory@A"), RULES, ABC)
    assert (first.memory_mb, first.wall_s) == (3000, 3600)
    second = retarget(first, failed("memory@B", "memory@A"), RULES, ABC)
    assert second.memory_mb == 4000
    assert retarget(second, failed("memory@B"), RULES, ABC) == second
    assert retarget(NEEDS, failed("timeout@A"), RULES, ABC).wall_s == 5400
    assert retarget(NEEDS, failed("timeout@A"), RULES, [offer("A", wall=None)]).wall_s == 5400


def test_only_a_site_that_could_run_it_counts_for_what_is_offered() -> None:
    sites = [offer("A", memory=2000), offer("B", memory=16000, enabled=False)]
    assert retarget(NEEDS, failed("memory@A"), RULES, sites).memory_mb == 2000
    eight = replace(NEEDS, cores=8, memory_mb=16000)
    assert retarget(eight, failed("memory@A"), RULES, [offer("A", memory=3000)]).memory_mb == 24000


def test_only_the_newest_failure_makes_it_bigger_and_nothing_stays_without_limit() -> None:
    assert retarget(NEEDS, failed("payload@A", "memory@A"), RULES, ABC).memory_mb == 2000
    free = replace(NEEDS, memory_mb=0)
    assert retarget(free, failed("memory@A"), RULES, ABC) == free


names = st.sampled_from(["A", "B", "C", "D", "E"])
kinds = st.sampled_from([kind.value for kind in ErrorClass])
failures_of = st.lists(st.builds(Failure, kinds, names), max_size=12)
offers_of = st.lists(
    st.builds(
        offer,
        names,
        st.none() | st.integers(500, 9000),
        st.none() | st.integers(600, 90000),
        st.booleans(),
    ),
    max_size=7,
)
needs_of = st.builds(
    Requirements,
    cores=st.integers(1, 8),
    memory_mb=st.integers(0, 9000),
    wall_s=st.integers(0, 90000),
    sites_excluded=st.frozensets(names, max_size=2),
    sites=st.none() | st.frozensets(names, max_size=4),
)


@given(needs=needs_of, failures=failures_of, offers=offers_of, banned=st.sets(names))
def test_a_job_some_site_would_take_is_never_left_without_one(
    needs: Requirements, failures: list[Failure], offers: list[SiteFacts], banned: set[str]
) -> None:
    after = retarget(needs, failures, RULES, offers, banned)
    could = any(judge(needs, one).eligible for one in offers)
    assert not could or any(judge(after, one).eligible for one in offers)
    open_before = {one.name for one in offers if judge(needs, one).eligible} - banned
    open_after = {one.name for one in offers if judge(after, one).eligible} - banned
    assert not open_before or open_after
    assert needs.memory_mb <= after.memory_mb
    assert needs.wall_s <= after.wall_s
    gone = {one.site for one in failures}
    assert needs.sites_excluded - gone <= after.sites_excluded <= needs.sites_excluded | gone
    assert len(after.sites_excluded - needs.sites_excluded) <= AWAY_MAX
    unchanged = replace(
        after, memory_mb=needs.memory_mb, wall_s=needs.wall_s, sites_excluded=needs.sites_excluded
    )
    assert unchanged == needs
    told = difference(needs, after)
    assert any(told.values()) == (after != needs)


def test_a_retarget_has_a_sentence() -> None:
    after = retarget(NEEDS, failed("memory@A", "site@B"), RULES, ABC)
    told = reason(Reason.RETARGETED, difference(NEEDS, after))
    assert told == "asks for 3000 instead of 2000 MB of memory; stays away from B, where it failed"
    back = reason(Reason.RETARGETED, {"bigger": {}, "not_at": [], "again_at": ["A"]})
    assert back == "may run at A again"
