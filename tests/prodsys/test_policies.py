"""Policies: the first rule that fits decides; what it names must exist; no step is left without a site."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridcore.errors import UsageError
from prodsys.requests import policies
from prodsys.requests.policies import Choice, Facts, Rule, Targets, rule_of

KNOWN = Targets(
    agents={"east": ["T2_FI_Birch"], "idle": []},
    site_sets={"tier1": ["T1_DE_Oak", "T1_FR_Elm"], "none": []},
    sites=["T2_FI_Birch", "T1_DE_Oak", "T1_FR_Elm"],
)
FACTS = Facts(group="production", requester="anna", name="mc-top", priority=5)

names = st.sampled_from(["anna", "ben", "production", "analysis", "mc-top", "mc-b", "data"])
lists = st.none() | st.lists(names, min_size=1, max_size=3)
numbers = st.none() | st.integers(-10, 10)
facts = st.builds(Facts, group=names, requester=names, name=names, priority=st.integers(-10, 10))


@st.composite
def rules(draw: st.DrawFn) -> Rule:
    low, high = draw(numbers), draw(numbers)
    if low is not None and high is not None and low > high:
        low, high = high, low
    document = {
        "groups": draw(lists),
        "requesters": draw(lists),
        "names": draw(lists),
        "min_priority": low,
        "max_priority": high,
    }
    return rule_of(f"p{draw(st.integers(0, 10**6))}", draw(st.integers(0, 5)), document)


@given(st.lists(rules(), max_size=6), facts)
def test_the_lowest_rank_that_fits_decides(found: list[Rule], one: Facts) -> None:
    chosen = policies.first(found, one)
    fitting = [rule for rule in found if policies.fits(rule, one)]
    assert (chosen is None) == (not fitting)
    if chosen is not None:
        assert chosen in fitting
        assert (chosen.rank, chosen.policy) == min((rule.rank, rule.policy) for rule in fitting)
        assert policies.first(reversed(found), one) in fitting


@given(rules(), facts)
def test_each_condition_only_narrows(rule: Rule, one: Facts) -> None:
    if policies.fits(rule, one):
        assert rule.groups is None or one.group in rule.groups
        assert rule.requesters is None or one.requester in rule.requesters
        assert rule.min_priority is None or one.priority >= rule.min_priority
        assert rule.max_priority is None or one.priority <= rule.max_priority


@pytest.mark.parametrize(
    ("document", "fits"),
    [
        ({}, True),
        ({"groups": ["production"]}, True),
        ({"groups": ["analysis"]}, False),
        ({"requesters": ["ben", "anna"]}, True),
        ({"names": ["mc-*"]}, True),
        ({"names": ["MC-*"]}, False),
        ({"min_priority": 5, "max_priority": 5}, True),
        ({"min_priority": 6}, False),
        ({"max_priority": 4}, False),
        ({"groups": ["production"], "names": ["data*"]}, False),
    ],
)
def test_what_fits(document: dict[str, Any], fits: bool) -> None:
    assert policies.fits(rule_of("p", 1, document), FACTS) == fits


def test_a_request_goes_to_all_that_the_rule_names() -> None:
    document = {"agents": ["east"], "site_sets": ["tier1"]}
    choice = policies.decide([rule_of("split", 1, document)], FACTS, KNOWN)
    assert choice.sites == {"T2_FI_Birch", "T1_DE_Oak", "T1_FR_Elm"}
    assert choice.agents == ("east",)
    assert (choice.code, choice.params) == (
        "POLICY",
        {"policy": "split", "agents": ["east"], "site_sets": ["tier1"]},
    )
    told = policies.sentence(choice.code, choice.params)
    assert told == "policy split assigns it to agents east, site sets tier1"


def test_without_targets_or_rules_it_runs_everywhere() -> None:
    for found in ([], [rule_of("open", 1, {})]):
        choice = policies.decide(found, FACTS, KNOWN)
        assert choice.sites is None
        assert "every site" in policies.sentence(choice.code, choice.params)
        assert policies.sites_left(choice, "gen", None, []) is None
        assert policies.sites_left(choice, "gen", ["B", "A"], []) == ["A", "B"]


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ({"agents": ["west"]}, "ProdAgent 'west'"),
        ({"sites": ["T2_XX_Gone"]}, "site 'T2_XX_Gone'"),
        ({"site_sets": ["tier9"]}, "site set 'tier9'"),
        ({"agents": ["idle"], "site_sets": ["none"]}, "no site"),
    ],
)
def test_what_a_rule_names_must_exist(document: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match="policy 'p'") as error:
        policies.decide([rule_of("p", 1, document)], FACTS, KNOWN)
    assert told in error.value.message
    assert error.value.hint


@pytest.mark.parametrize(
    "document",
    [
        {"group": ["production"]},
        {"groups": "production"},
        {"groups": []},
        {"names": [1]},
        {"names": [""]},
        {"min_priority": "high"},
        {"min_priority": True},
        {"min_priority": 2, "max_priority": 1},
        {"sites": "T1_DE_Oak"},
    ],
)
def test_a_rule_that_makes_no_sense_is_refused_with_a_cure(document: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="policy 'p'") as error:
        rule_of("p", 1, document)
    assert error.value.hint


def test_a_step_without_any_site_is_named_with_the_cure() -> None:
    choice = policies.choice("BY_HAND", {"by": "ops"}, KNOWN, sites=["T1_DE_Oak", "T1_FR_Elm"])
    assert policies.sites_left(choice, "gen", ["T1_DE_Oak", "T2_FI_Birch"], []) == ["T1_DE_Oak"]
    assert policies.sites_left(choice, "gen", None, ["T1_DE_Oak"]) == ["T1_FR_Elm"]
    for allowed, excluded in ((["T2_FI_Birch"], []), (None, ["T1_DE_Oak", "T1_FR_Elm"])):
        with pytest.raises(UsageError, match="step 'gen'") as error:
            policies.sites_left(choice, "gen", allowed, excluded)
        assert "--site" in str(error.value.hint)


@given(
    st.lists(st.sampled_from(sorted(KNOWN.sites)), min_size=1), st.sets(st.sampled_from(sorted(KNOWN.sites)))
)
def test_sites_left_are_chosen_and_not_excluded(chosen: list[str], excluded: set[str]) -> None:
    choice = Choice(code="BY_HAND", params={}, sites=frozenset(chosen))
    try:
        left = policies.sites_left(choice, "gen", None, excluded)
    except UsageError:
        assert set(chosen) <= excluded
    else:
        assert left is not None
        assert set(left) == set(chosen) - excluded
