"""Reasons read as sentences, name whose turn it is and the next command."""

from __future__ import annotations

import re

import pytest

from datamgmt import reasons
from datamgmt.reasons import Reason, basis, cure, render, turn

NAMES = {1: "T1_DE_Alder", 2: "T1_FR_Birch"}
PARAMETER = re.compile(r"\{(\w+)\}")


@pytest.mark.parametrize("code", Reason)
def test_every_code_has_its_sentence_turn_and_cure(code: Reason) -> None:
    text = reasons._TEXTS[code]
    given = {name: name for name in PARAMETER.findall(f"{text.sentence} {text.turn} {text.cure}")}
    for told in (render(code, given), turn(code, given), cure(code, given) or "nothing"):
        assert told == " ".join(told.split())
        assert not set("[]{}?") & set(told)
    assert all(name in render(code, given) for name in PARAMETER.findall(text.sentence))
    assert not set("[]{}") & set(render(code, {}) + turn(code, {}) + (cure(code, {}) or ""))


def test_storage_elements_are_named() -> None:
    params = {"src": 1, "path": [1, 2], "hop_dst": 2}
    assert render(Reason.ROUTED, params, NAMES) == (
        "on its way from T1_DE_Alder over T1_DE_Alder -> T1_FR_Birch; next hop T1_DE_Alder -> T1_FR_Birch"
    )
    assert turn(Reason.SOURCE_SILENT, params, NAMES) == "the admin of T1_DE_Alder"
    assert render(Reason.ROUTED, params).endswith("next hop SE 1 -> SE 2")


def test_what_a_row_does_not_carry_is_left_out_or_shown_as_missing() -> None:
    params = {"se": 1, "free": 5, "size": 10, "limit": None}
    assert render(Reason.NO_TRANSIT_SPACE, params, NAMES) == (
        "T1_DE_Alder has 5 B of transit space left and the block has 10 B"
    )
    assert render(Reason.NO_TRANSIT_SPACE, {**params, "limit": 7, "holders": [2]}, NAMES) == (
        "T1_DE_Alder has 5 B of 7 B of transit space left, held for T1_FR_Birch, and the block has 10 B"
    )
    assert render(Reason.SOURCE_SILENT, {}) == "source ? does not answer"


def test_cures_are_commands_with_their_arguments() -> None:
    params = {"link_src": 1, "link_dst": 2, "until": "noon"}
    assert cure(Reason.LINK_PARKED, params, NAMES) == "tierflow link probe T1_DE_Alder T1_FR_Birch"
    assert cure(Reason.SUSPENDED, {}) == "tierflow subscription resume ID"
    assert cure(Reason.COMPLETE, {}) is None


def test_codes_that_others_had_before_keep_their_numbers() -> None:
    numbers = {
        code: basis(code) for code in (Reason.ROUTED, Reason.SUSPENDED, Reason.NO_SOURCE, Reason.MOVED)
    }
    assert list(numbers.values()) == [0, -2, -6, None]


@pytest.mark.parametrize("moment", ["2026-03-01T12:00:00.250Z", "2026-03-01T12:00:00+00:00"])
def test_bytes_have_units_and_moments_are_short(moment: str) -> None:
    params = {"se": 1, "free": -114_950_618_604, "space": 124_411_133_800, "size": 10_503_392_214}
    assert render(Reason.SE_FULL, params, NAMES) == (
        "T1_DE_Alder has -115 GB of 124 GB free, and 10.5 GB are needed"
    )
    assert render(Reason.SE_FULL, {"se": 1, "until": moment}, NAMES).endswith("at 2026-03-01 12:00 UTC")
    assert cure(Reason.QUOTA_FULL, {"site": "T1", "group": "g", "size": 7}) == (
        "tierflow site quota set T1 g BYTES"
    )


def test_who_acts_without_a_person() -> None:
    turns = {turn(code, {}) for code in Reason}
    agents = {one for one in turns if not reasons.is_person(one)}
    assert agents >= {"nobody", "the router", "the transfer agent", "the deleter", "the block manager"}
    assert not [one for one in agents if "admin" in one or "who" in one]
    assert turns >= reasons._AGENTS
