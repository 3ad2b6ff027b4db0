"""The language that finds datasets: what a query means, which are refused; planning changes no meaning."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from catalogs.finding import DATASETS, FIELDS, LUMI_MAX, InDir, Lumis, Search, check_metadata, others, plan
from catalogs.states import Access
from gridcore.errors import UsageError
from gridcore.selector_parser import parse
from gridcore.selectors import All, Compare, Either, Fact, Glob, Not, Op, Selector, matches, render

VALID = Compare("access", Op.EQ, ("VALID",))


def planned(text: str) -> Search:
    return plan(parse(text, DATASETS))


# --- what a query means ---------------------------------------------------------------------------------


def test_only_valid_datasets_are_found_unless_the_access_is_named() -> None:
    found = planned("tier = RAW")
    assert (found.where, found.only_valid) == (All((Compare("tier", Op.EQ, ("RAW",)), VALID)), True)
    assert found.fields == {"tier", "access"}
    named = planned("tier = RAW access != INVALID")
    assert (named.where, named.only_valid) == (parse("tier = RAW access != INVALID", DATASETS), False)
    every = Compare("access", Op.IN, tuple(one.value for one in Access))
    assert planned("access = *").where == every
    assert planned("not access != *").where == Not(Compare("access", Op.NOT_IN, every.values))


def test_the_access_of_relatives_is_their_own() -> None:
    found = planned("parent(access = INVALID)")
    assert found.only_valid
    assert found.where == All((parse("parent(access = INVALID)", DATASETS), VALID))
    assert found.fields == {"parent", "access"}


def test_lumis_are_of_the_run_beside_them() -> None:
    def lumis(text: str) -> Any:
        found = planned(text).where
        assert isinstance(found, All)
        inner = found.parts[0]
        assert isinstance(inner, All)
        return inner.parts[-1]

    assert lumis("run=7 lumi=3-5") == Compare("lumi", Op.EQ, (Lumis(7, 3, 5),))
    assert lumis("run=7 lumi in (3, 8-9)") == Compare("lumi", Op.IN, (Lumis(7, 3, 3), Lumis(7, 8, 9)))
    assert lumis("run=7 lumi>=3") == Compare("lumi", Op.EQ, (Lumis(7, 3, LUMI_MAX),))
    assert lumis("run=7 lumi>3-5") == Compare("lumi", Op.EQ, (Lumis(7, 6, LUMI_MAX),))
    assert lumis("run=7 lumi<3") == Compare("lumi", Op.EQ, (Lumis(7, 0, 2),))
    assert lumis("run=7 lumi!=3") == Compare("lumi", Op.NE, (Lumis(7, 3, 3),))
    either = lumis("(tier=RAW run=7) (lumi=3 or not lumi=4)")
    assert either.parts[0] == Compare("lumi", Op.EQ, (Lumis(7, 3, 3),))


@pytest.mark.parametrize(
    "text",
    [
        *("lumi=3", "run=7-8 lumi=3", "run=7 run=8 lumi=3", "run in (7, 8) lumi=3", "run=7 or lumi=3"),
        *("run!=7 lumi=3", "not run=7 lumi=3", "run=7 parent(lumi=3)", "run>7 lumi=3"),
    ],
)
def test_lumis_without_one_run_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="without one run") as caught:
        planned(text)
    assert caught.value.hint == "such as: run=7 lumi=3-5"


@pytest.mark.parametrize(
    "text",
    [
        "file=/store/mc/a/x.root",
        "file=/store/mc/a/*.root",
        "file in (/store/mc/a/x.root, /store/mc/b/y*)",
        "dataset=/A/b/RAW file=*x.root",
        "dataset in (/A/b/RAW, /A/c/RAW) (file=/store/*/x.root or events > 5)",
    ],
)
def test_files_are_looked_for_where_they_can_be_found(text: str) -> None:
    assert "file" in planned(text).fields


def test_patterns_of_files_stay_in_their_directory() -> None:
    asked = planned("file=/store/mc/a/x*.root").asked
    assert isinstance(asked, Compare)
    (found,) = asked.values
    assert isinstance(found, InDir)
    assert found == InDir("/store/mc/a", Glob("x*.root"))
    assert [lfn for lfn in ("/store/mc/a/x1.root", "/store/mc/a/y.root") if found.fits(lfn)] == [
        "/store/mc/a/x1.root"
    ]
    assert not found.fits("/store/mc/a/x/1.root")
    assert not found.fits("/store/mc/x1.root")


def test_others_are_what_the_default_access_leaves_out() -> None:
    rest = others(planned("tier=RAW"))
    assert rest.where == All((parse("tier=RAW", DATASETS), Compare("access", Op.NE, ("VALID",))))
    assert not rest.only_valid


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file=*.root", "would look through all files"),
        ("file=/store/*/x.root", "would look through all files"),
        ("dataset=/A/* file=*.root", "would look through all files"),
        ("dataset=/A/b/RAW or file=*.root", "would look through all files"),
        ("dataset=/A/b/RAW parent(file=*.root)", "would look through all files"),
        ("file=x.root", "is no LFN"),
        ("file=/store/a/../x.root", "is no LFN"),
    ],
)
def test_files_that_would_take_a_look_at_all_are_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        planned(text)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("dataset=/Min*", "/Min"),
        ("dataset=/MinBias/x/RAW", "/MinBias/x/RAW"),
        ("dataset in (/MinBias/x/RAW, /MinB*)", "/MinB"),
        ("dataset=/M* dataset=/MinB* events>3", "/MinB"),
        ("dataset=/MinA* or dataset=/MinB*", "/Min"),
        ("dataset=/MinA* or tier=RAW", ""),
        ("dataset!=/MinA*", ""),
        ("not dataset=/MinA*", ""),
        ("parent=/MinA*", ""),
        ("dataset=*", ""),
    ],
)
def test_what_all_names_begin_with(text: str, start: str) -> None:
    assert planned(text).start == start


def test_metadata_are_named_wherever_they_stand() -> None:
    found = planned("collision=AuAu (energy<8 or not parent(beam.angle=3)) tier=RAW")
    assert found.metadata == {"collision", "energy", "beam.angle"}
    check_metadata(found, ["energy", "collision", "beam.angle", "other"])
    with pytest.raises(UsageError, match=r"there is no field 'collision'") as caught:
        check_metadata(found, ["energy", "collisions", "beam.angle"])
    assert "did you mean collisions" in (caught.value.hint or "")
    with pytest.raises(UsageError) as caught:
        check_metadata(planned("teir=RAW"), [])
    assert "did you mean tier" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dataset=" + "?a" * 9, "9 wildcards"),
        ("dataset=" + "a" * 200 + "*", "201 characters"),
        (f"dataset in ({', '.join(['a'] * 1001)})", "list is too long"),
        ("parent=a child=a parent=b child=b", "too many other things"),
        ("access=valide", "no access 'valide'"),
        ("tier>RAW", "tier has no order"),
        ("energy<AuAu", "only numbers have an order"),
    ],
)
def test_the_limits_of_queries(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        planned(text)
    assert caught.value.message.startswith("the query, character ")
    assert caught.value.hint


def test_a_thousand_names_and_many_stars_are_within_the_limits() -> None:
    assert planned(f"dataset in ({', '.join(['a'] * 1000)})")
    assert planned("dataset=" + "a*" * 8)
    assert planned("dataset=" + "*" * 300).start == ""
    assert planned('dataset="/A*b?c"').start == "/A"


# --- planning changes no meaning ------------------------------------------------------------------------

BORN = datetime(2026, 3, 1, 12, tzinfo=UTC)


def facts(name: str, access: Access = Access.VALID, **more: Any) -> Mapping[str, Any]:
    _, primary, processed, tier = name.split("/")
    plain: dict[str, Any] = {
        "dataset": name,
        "primary": primary,
        "processed": processed,
        "tier": tier,
        "access": access.value,
        "state": "OPEN",
        "group": None,
        "files": 5,
        "bytes": 5000,
        "events": 0,
        "blocks": 1,
        "age": 60,
        "created": BORN,
        "site": {"T1_DE_Alder"},
        "se": {"Alder_Disk"},
        "complete": set(),
        "custodial": set(),
        "run": {7, 9},
        "lumi": {(7, 1, 5), (9, 3, 3)},
        "file": {"/store/mc/a/x.root"},
        **{walk: [] for walk in ("parent", "child", "ancestor", "descendant")},
    }
    return defaultdict(lambda: None, {**plain, **more})


RAW = facts("/MinBias/v1/RAW", Access.INVALID)
ROWS = [
    RAW,
    facts("/MinBias/v1/DST", parent=[RAW], ancestor=[RAW], energy=Fact(7.7, "7.7"), site=set()),
    facts(
        "/MinBias/v2/DST", Access.DEPRECATED, state="CLOSED", energy=Fact(None, "low"), run=set(), lumi=set()
    ),
    facts("/Hijing/v1/DST", group="heavy", files=0, complete={"T1_DE_Alder"}, age=10**6),
]
TEXTS = st.sampled_from(
    [
        *(
            "dataset=/MinBias/*",
            "dataset=/MinBias/v1/RAW",
            "dataset!=/H*",
            "dataset in (/MinBias/v1/DST, /Hi*)",
        ),
        *("primary=Hijing", "tier=DST", "state=closed", "group=heavy", "group!=heavy", "files>0", "bytes=5k"),
        *("age<1h", "created=2026-03-01", "site=T1_*", "site!=T1_*", "complete=T1_*", "run=7-8", "run>8"),
        *(
            "run!=7",
            "parent(tier=RAW)",
            "parent=/MinBias/v1/RAW",
            "ancestor(access=INVALID)",
            "child(files>0)",
        ),
        *(
            "energy<8",
            "energy=low",
            "energy!=low",
            "file=/store/mc/a/*.root",
            "access=INVALID",
            "access!=VALID",
        ),
    ]
)


def several(inner: st.SearchStrategy[Selector]) -> st.SearchStrategy[Selector]:
    parts = st.lists(inner, min_size=2, max_size=3).map(tuple)
    return parts.map(All) | parts.map(Either) | inner.map(Not)


QUERIES = st.recursive(TEXTS.map(lambda text: parse(text, DATASETS)), several, max_leaves=6)


@given(QUERIES)
def test_a_planned_query_means_what_was_asked(query: Selector) -> None:
    found = plan(query)
    for row in ROWS:
        asked = matches(query, row) and (not found.only_valid or row["access"] == "VALID")
        assert matches(found.where, row) == asked
        assert not asked or row["dataset"].startswith(found.start)


@given(QUERIES)
def test_what_is_planned_can_be_planned_again(query: Selector) -> None:
    once = plan(query)
    again = plan(once.where)
    assert (again.where, again.start, again.metadata) == (once.where, once.start, once.metadata)


@given(QUERIES)
def test_queries_are_read_as_they_are_written(query: Selector) -> None:
    text = render(query, DATASETS)
    assume(text.count("parent") + text.count("ancestor") + text.count("child") <= DATASETS.walks_max)
    assert parse(text, DATASETS) == query


@given(st.integers(1, 12), st.integers(1, 6), st.integers(1, 6))
def test_lumis_fit_where_they_meet(run: int, first: int, last: int) -> None:
    assume(first <= last)
    query = planned(f"access=* run={run} lumi={first}-{last}").where
    for row in ROWS:
        named = {(r, n) for r, low, high in row["lumi"] for n in range(low, high + 1)}
        assert matches(query, row) == bool(named & {(run, n) for n in range(first, last + 1)})


def test_every_field_says_what_it_is() -> None:
    assert all(field.help and (field.words or field.kind != "word") for field in FIELDS.values())
