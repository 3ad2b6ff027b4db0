"""Brokerage: each refusal, its order and its sentence; the name of a job class."""

from __future__ import annotations

import json
from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prodsys.queue.brokerage import (
    ELIGIBLE,
    PREDICATES,
    Refusal,
    Requirements,
    SiteFacts,
    cure,
    fingerprint,
    judge,
    judge_all,
    judge_any,
    named_since,
    render,
)

SITE = SiteFacts(
    name="T2_RU_Elm",
    ses=frozenset({"elm-disk", "elm-tape"}),
    cores_max=8,
    memory_mb_per_core=2000,
    wall_s_max=86_400,
    platforms=frozenset({"el9-x86_64"}),
    disk_mb=20_000,
    tags=frozenset({"cvmfs", "apptainer"}),
    gpus=1,
    outbound=True,
)
FITTING = Requirements(
    cores=4,
    memory_mb=8000,
    wall_s=86_400,
    platform="el9-x86_64",
    sites=frozenset({"T2_RU_Elm"}),
    input_ses=frozenset({"elm-disk", "oak-disk"}),
    disk_mb=20_000,
    tags=frozenset({"cvmfs"}),
    gpus=1,
    outbound=True,
)
REFUSALS: list[tuple[dict[str, Any], dict[str, Any], Refusal, str]] = [
    (
        {},
        {"enabled": False, "disabled_reason": "cooling works"},
        Refusal.SITE_DISABLED,
        "T2_RU_Elm is disabled: cooling works",
    ),
    ({}, {"enabled": False}, Refusal.SITE_DISABLED, "T2_RU_Elm is disabled: no reason given"),
    (
        {"sites": frozenset({"T1_DE_Alder", "T1_FR_Beech"})},
        {},
        Refusal.NOT_ALLOWED,
        "the task runs only at T1_DE_Alder, T1_FR_Beech",
    ),
    ({"sites": frozenset()}, {}, Refusal.NOT_ALLOWED, "the task runs only at none"),
    (
        {"sites_excluded": frozenset({"T2_RU_Elm"})},
        {},
        Refusal.EXCLUDED,
        "the task excludes T2_RU_Elm",
    ),
    (
        {"platform": "el9-aarch64"},
        {},
        Refusal.PLATFORM,
        "needs el9-aarch64, the site offers el9-x86_64",
    ),
    ({"cores": 16}, {}, Refusal.CORES, "needs 16 cores, the site offers 8"),
    ({"cores": 1, "memory_mb": 0}, {"cores_max": 0}, Refusal.CORES, "needs 1 core, the site offers 0"),
    ({"cores": 1, "memory_mb": 4000}, {}, Refusal.MEMORY, "needs 4 GB, the site offers 2 GB"),
    (
        {"cores": 1, "memory_mb": 900},
        {"memory_mb_per_core": 512},
        Refusal.MEMORY,
        "needs 900 MB, the site offers 512 MB",
    ),
    ({"wall_s": 172_800}, {}, Refusal.WALL_TIME, "needs 48 h, the site offers 24 h"),
    (
        {"tags": frozenset({"cvmfs", "geant4-11"})},
        {},
        Refusal.TAGS,
        "needs geant4-11, which the site does not have",
    ),
    ({}, {"tags": None}, Refusal.TAGS, "needs cvmfs, the site declares no software"),
    ({"gpus": 2}, {}, Refusal.GPUS, "needs 2 GPUs, the site offers 1"),
    ({}, {"gpus": 0}, Refusal.GPUS, "needs 1 GPU, the site offers none"),
    ({"disk_mb": 40_000}, {}, Refusal.DISK, "needs 40 GB of scratch disk, the site offers 20 GB"),
    ({}, {"outbound": False}, Refusal.OUTBOUND, "needs connections to the outside, the site has none"),
    (
        {},
        {"outbound": None},
        Refusal.OUTBOUND,
        "needs connections to the outside, the site does not declare any",
    ),
    (
        {"input_ses": frozenset()},
        {},
        Refusal.INPUT_NOWHERE,
        "no storage element holds the complete input block",
    ),
    (
        {"input_ses": frozenset({"oak-disk"})},
        {},
        Refusal.INPUT_NOT_HERE,
        "the input block is not at T2_RU_Elm; complete at oak-disk",
    ),
]


def test_what_fits_is_eligible() -> None:
    verdict = judge(FITTING, SITE)
    assert (verdict.eligible, verdict.code) == (True, ELIGIBLE)
    assert render(verdict.code, verdict.params) == "can run here"
    assert all(each.eligible for each in judge_all(FITTING, SITE))


@pytest.mark.parametrize(("needs", "offers", "code", "sentence"), REFUSALS)
def test_each_refusal_has_its_code_and_sentence(
    needs: dict[str, Any], offers: dict[str, Any], code: Refusal, sentence: str
) -> None:
    requirements, site = replace(FITTING, **needs), replace(SITE, **offers)
    verdict = judge(requirements, site)
    assert (verdict.eligible, verdict.code) == (False, code)
    stored = json.loads(json.dumps(verdict.params))
    assert render(str(verdict.code), stored) == verdict.sentence == sentence
    assert cure(str(verdict.code), stored, site.name)
    assert [each.code for each in judge_all(requirements, site) if not each.eligible] == [code]


def test_every_refusal_is_judged_and_tested() -> None:
    assert list(PREDICATES) == list(Refusal)
    assert {code for _, _, code, _ in REFUSALS} == set(Refusal)


def test_the_first_refusal_counts_and_all_are_told() -> None:
    requirements = replace(FITTING, cores=16, wall_s=10**6, sites_excluded=frozenset({"T2_RU_Elm"}))
    assert judge(requirements, SITE).code == Refusal.EXCLUDED
    told = judge_all(requirements, SITE)
    assert [each.code for each in told] == list(Refusal)
    assert [each.code for each in told if not each.eligible] == [
        *(Refusal.EXCLUDED, Refusal.CORES, Refusal.WALL_TIME)
    ]


def test_limits_a_site_does_not_declare_do_not_bind() -> None:
    huge = Requirements(cores=512, memory_mb=10**7, wall_s=10**7, platform="vax", disk_mb=10**9)
    assert judge(huge, SiteFacts(name="T3_IT_Fig")).eligible


def test_what_a_job_must_find_is_not_assumed() -> None:
    unknown = SiteFacts(name="T3_IT_Fig")
    wishes: dict[str, Any] = {"tags": frozenset({"cvmfs"}), "gpus": 1, "outbound": True}
    for name, value in wishes.items():
        assert not judge(replace(Requirements(), **{name: value}), unknown).eligible


def test_memory_is_offered_per_core() -> None:
    assert judge(Requirements(cores=8, memory_mb=16_000), SITE).eligible
    assert judge(Requirements(cores=7, memory_mb=16_000), SITE).code == Refusal.MEMORY


def test_a_reason_quotes_a_few_names() -> None:
    requirements = replace(FITTING, input_ses=frozenset(f"se-{i:02}" for i in range(40)))
    verdict = judge(requirements, SITE)
    assert len(json.dumps(verdict.params)) < 120
    assert render(verdict.code, verdict.params).endswith("se-00, se-01, se-02, se-03, se-04 and 35 more")


def test_a_code_of_another_release_is_shown() -> None:
    assert render("GPU", {"needs": 2}) == "GPU {'needs': 2}"


names = st.frozensets(st.sampled_from(["T1_DE_Alder", "T2_RU_Elm", "T2_IT_Fig"]))
tags = st.frozensets(st.sampled_from(["cvmfs", "apptainer", "geant4-11"]))
needs = st.builds(
    Requirements,
    cores=st.integers(1, 16),
    memory_mb=st.integers(0, 32_000),
    wall_s=st.integers(0, 200_000),
    platform=st.sampled_from([None, "el9-x86_64", "el8-x86_64"]),
    sites=st.none() | names,
    sites_excluded=names,
    input_ses=st.none() | st.frozensets(st.sampled_from(["elm-disk", "oak-disk"])),
    disk_mb=st.integers(0, 40_000),
    tags=tags,
    gpus=st.integers(0, 2),
    outbound=st.booleans(),
)


def limit(most: int) -> st.SearchStrategy[int | None]:
    return st.none() | st.integers(0, most)


offers = st.builds(
    SiteFacts,
    name=st.just("T2_RU_Elm"),
    ses=st.frozensets(st.sampled_from(["elm-disk", "elm-tape"])),
    cores_max=limit(16),
    memory_mb_per_core=limit(4000),
    wall_s_max=limit(200_000),
    platforms=st.none() | st.frozensets(st.sampled_from(["el9-x86_64", "el8-x86_64"])),
    enabled=st.booleans(),
    disk_mb=limit(40_000),
    tags=st.none() | tags,
    gpus=st.integers(0, 2),
    outbound=st.none() | st.booleans(),
)


@given(requirements=needs, site=offers)
def test_judge_is_the_first_of_judge_all(requirements: Requirements, site: SiteFacts) -> None:
    refused = [each for each in judge_all(requirements, site) if not each.eligible]
    verdict = judge(requirements, site)
    assert verdict.eligible == (not refused)
    if refused:
        assert verdict == refused[0]


def more(one: int | None, other: int | None) -> int | None:
    """The wider limit; none binds least."""
    return None if one is None or other is None else max(one, other)


def wider(one: SiteFacts, other: SiteFacts) -> SiteFacts:
    """A site that offers all that these two do."""
    both = (one.platforms, other.platforms)
    return SiteFacts(
        name=one.name,
        ses=one.ses | other.ses,
        cores_max=more(one.cores_max, other.cores_max),
        memory_mb_per_core=more(one.memory_mb_per_core, other.memory_mb_per_core),
        wall_s_max=more(one.wall_s_max, other.wall_s_max),
        platforms=None if both[0] is None or both[1] is None else both[0] | both[1],
        enabled=one.enabled or other.enabled,
        disk_mb=more(one.disk_mb, other.disk_mb),
        tags=(one.tags or frozenset()) | (other.tags or frozenset()),
        gpus=max(one.gpus, other.gpus),
        outbound=bool(one.outbound or other.outbound),
    )


@given(requirements=needs, site=offers, added=offers)
def test_offering_more_refuses_nothing_that_was_accepted(
    requirements: Requirements, site: SiteFacts, added: SiteFacts
) -> None:
    before, after = judge_all(requirements, site), judge_all(requirements, wider(site, added))
    assert all(now.eligible for was, now in zip(before, after, strict=True) if was.eligible)


@given(requirements=needs, site=offers)
def test_asking_for_less_is_not_refused(requirements: Requirements, site: SiteFacts) -> None:
    if judge(requirements, site).eligible:
        assert judge(Requirements(cores=requirements.cores), site).eligible


@given(requirements=needs, here=st.lists(offers, min_size=1, max_size=4))
def test_of_several_endpoints_the_best_counts(requirements: Requirements, here: list[SiteFacts]) -> None:
    verdict = judge_any(requirements, here)
    assert verdict.eligible == any(judge(requirements, one).eligible for one in here)
    assert verdict in [judge(requirements, one) for one in here]


def test_the_refusal_of_the_nearest_endpoint_is_told() -> None:
    requirements = Requirements(cores=4, memory_mb=16_000, wall_s=90_000)
    far = replace(SITE, wall_s_max=3600, cores_max=1)
    assert judge_any(requirements, [far, SITE]).code == Refusal.MEMORY
    wider = replace(SITE, memory_mb_per_core=3000, wall_s_max=10**6)
    verdict = judge_any(replace(requirements, wall_s=0), [SITE, wider, replace(SITE, memory_mb_per_core=0)])
    assert verdict.params == {"needs": 16_000, "offers": 12_000}
    nearer = replace(SITE, memory_mb_per_core=4000)
    assert judge_any(requirements, [far, SITE, nearer]).code == Refusal.WALL_TIME


@pytest.mark.parametrize(
    ("needs", "told"),
    [
        ({"cores": 1, "memory_mb": 4000}, "ask for 2 GB or less, or raise memory_mb_per_core of T2_RU_Elm"),
        ({"cores": 16}, "ask for 8 cores or less, or raise cores_max of T2_RU_Elm to fit 16 cores"),
        ({"sites": frozenset({"T1_DE_Alder"})}, "add T2_RU_Elm to the sites it is allowed at"),
        ({"input_ses": frozenset()}, "produce the input block, or restore it"),
    ],
)
def test_a_refusal_says_what_would_take_it_away(needs: dict[str, Any], told: str) -> None:
    verdict = judge(replace(FITTING, **needs), SITE)
    assert cure(verdict.code, verdict.params, SITE.name).startswith(told)
    assert cure("NEW_IN_2031", {}, SITE.name) == cure(ELIGIBLE, {}, SITE.name) == ""


PLAIN = replace(FITTING, disk_mb=0, tags=frozenset(), gpus=0, outbound=False)


def test_fingerprint_is_stable() -> None:
    text = '["process",7,"/A/B/GEN#1",4,8000,86400,"el9-x86_64",["T2_RU_Elm"],[]]'
    assert fingerprint("process", 7, PLAIN, "/A/B/GEN#1") == sha256(text.encode()).hexdigest()[:32]


def test_classes_of_the_first_release_keep_their_names() -> None:
    asked = Requirements(
        cores=8,
        memory_mb=16_000,
        wall_s=86_400,
        platform="el9",
        sites=frozenset({"T1_DE_Alder", "T2_FR_Birch"}),
        sites_excluded=frozenset({"T2_IT_Cedar"}),
    )
    assert fingerprint("simulation", 7, Requirements(), None) == "c88e37aaddac4df278d8f239ba1cdfd6"
    assert fingerprint("merge", 3, asked, 42) == "c3d320d31a04a36d8e181ce390de2367"
    assert named_since(asked) == {}


@pytest.mark.parametrize(
    "change",
    [
        {"cores": 1},
        {"memory_mb": 1},
        {"wall_s": 1},
        {"platform": None},
        {"sites": None},
        {"sites": frozenset()},
        {"sites_excluded": frozenset({"T1_DE_Alder"})},
        {"disk_mb": 1},
        {"tags": frozenset({"cvmfs", "apptainer"})},
        {"gpus": 2},
        {"outbound": False},
    ],
)
def test_fingerprint_tells_requirements_apart(change: dict[str, Any]) -> None:
    assert fingerprint("process", 7, replace(FITTING, **change), 1) != fingerprint("process", 7, FITTING, 1)


def test_fingerprint_tells_type_leaf_and_input_apart() -> None:
    calls = [("process", 7, 1), ("merge", 7, 1), ("process", 8, 1), ("process", 7, 2), ("process", 7, None)]
    assert len({fingerprint(kind, leaf, FITTING, block) for kind, leaf, block in calls}) == len(calls)


def test_fingerprint_does_not_follow_replicas() -> None:
    moved = replace(FITTING, input_ses=frozenset({"fir-disk"}))
    assert fingerprint("process", 7, moved, 1) == fingerprint("process", 7, FITTING, 1)
