"""Brokerage: each refusal, its order and its sentence; the name of a job class."""

from __future__ import annotations

import json
from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prodsys.brokerage import (
    ELIGIBLE,
    PREDICATES,
    Refusal,
    Requirements,
    SiteFacts,
    fingerprint,
    judge,
    judge_all,
    render,
)

SITE = SiteFacts(
    name="T2_RU_Elm",
    ses=frozenset({"elm-disk", "elm-tape"}),
    cores_max=8,
    memory_mb_per_core=2000,
    wall_s_max=86_400,
    platforms=frozenset({"el9-x86_64"}),
)
FITTING = Requirements(
    cores=4,
    memory_mb=8000,
    wall_s=86_400,
    platform="el9-x86_64",
    sites=frozenset({"T2_RU_Elm"}),
    input_ses=frozenset({"elm-disk", "oak-disk"}),
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
    assert render(str(verdict.code), stored) == sentence
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
    huge = Requirements(cores=512, memory_mb=10**7, wall_s=10**7, platform="vax")
    assert judge(huge, SiteFacts(name="T3_IT_Fig")).eligible


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
needs = st.builds(
    Requirements,
    cores=st.integers(1, 16),
    memory_mb=st.integers(0, 32_000),
    wall_s=st.integers(0, 200_000),
    platform=st.sampled_from([None, "el9-x86_64", "el8-x86_64"]),
    sites=st.none() | names,
    sites_excluded=names,
    input_ses=st.none() | st.frozensets(st.sampled_from(["elm-disk", "oak-disk"])),
)


@given(requirements=needs)
def test_judge_is_the_first_of_judge_all(requirements: Requirements) -> None:
    refused = [each for each in judge_all(requirements, SITE) if not each.eligible]
    verdict = judge(requirements, SITE)
    assert verdict.eligible == (not refused)
    if refused:
        assert verdict == refused[0]


def test_fingerprint_is_stable() -> None:
    text = '["process",7,"/A/B/GEN#1",4,8000,86400,"el9-x86_64",["T2_RU_Elm"],[]]'
    assert fingerprint("process", 7, FITTING, "/A/B/GEN#1") == sha256(text.encode()).hexdigest()[:32]


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
