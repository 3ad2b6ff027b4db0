"""Languages of selectors: what is written reads as it was, limits hold, errors name the place."""

from __future__ import annotations

import string
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridcore import selectors
from gridcore.errors import UsageError
from gridcore.selector_parser import parse
from gridcore.selectors import (
    AMOUNT,
    DATE,
    FREE,
    NAME,
    NUMBER,
    RANGE,
    SPAN,
    UNORDERED,
    WALK,
    WORD,
    All,
    Between,
    Compare,
    Either,
    Fact,
    Field,
    FieldKind,
    Glob,
    Language,
    Nested,
    Not,
    Op,
    Selector,
    matches,
    render,
)

STRICT = Language(
    {
        "name": Field(NAME, "what it is called"),
        "colour": Field(WORD, "how it looks", ("RED", "GREEN")),
        "legs": Field(NUMBER, "how many it stands on"),
        "age": Field(SPAN, "since its birth"),
    }
)
LOOSE = Language(
    {
        **STRICT.fields,
        "bytes": Field(AMOUNT, "how large it is"),
        "run": Field(RANGE, "when it was seen"),
        "born": Field(DATE, "its day"),
        "parent": Field(WALK, "made by", through="name"),
    },
    adjacency_is_and=True,
    free=Field(FREE, "whatever else"),
    said="the query",
    pattern_max=20,
    wildcards_max=3,
    list_max=4,
    walks_max=2,
)

# --- any selector ------------------------------------------------------------------------------------------

NAMES = st.sampled_from(
    ["ab", "aB", "a.b", "and", "x y", "26:ann_gen-1", "T2_FI_Birch", "%", "8", "1e3", 'a"b']
)
GLOBS = st.sampled_from(["a?b", "*", "A*", "a.*", "*_gen*", "**b", "*?_*"]).map(Glob)
DAYS = st.dates(date(1970, 1, 1), date(2999, 1, 1)).map(
    lambda day: datetime(day.year, day.month, day.day, tzinfo=UTC)
)
MICROSECOND = timedelta(microseconds=1)
VALUES: dict[FieldKind, st.SearchStrategy[Any]] = {
    NAME: NAMES | GLOBS,
    WORD: st.sampled_from(["RED", "GREEN"]),
    NUMBER: st.integers(-3, 10**17),
    SPAN: st.integers(0, 7200),
    AMOUNT: st.integers(0, 10**18 - 1),
    RANGE: st.tuples(st.integers(0, 9), st.integers(0, 9)).map(lambda ends: Between(min(ends), max(ends))),
    DATE: DAYS.map(lambda day: Between(day, day + timedelta(days=1) - MICROSECOND))
    | DAYS.map(lambda day: Between(day, day + timedelta(minutes=1) - MICROSECOND)),
    FREE: NAMES | GLOBS | st.floats(-1e15, 1e15, allow_subnormal=False),
}


@st.composite
def compares(draw: st.DrawFn, language: Language) -> Compare:
    names = [*language.fields, *(["energy", "beam.p-t"] if language.free else [])]
    name = draw(st.sampled_from(sorted(set(names) - {"parent"})))
    field = language.field(name)
    assert field is not None
    op = draw(st.sampled_from(Op))
    if op in selectors.ORDERED:
        if field.kind in UNORDERED:
            op = Op.EQ
        elif field.kind == FREE:
            return Compare(name, op, (draw(st.floats(-1e15, 1e15)),))
    n = draw(st.integers(1, 3)) if op in selectors.LISTED else 1
    return Compare(name, op, tuple(draw(VALUES[field.kind]) for _ in range(n)))


def several(inner: st.SearchStrategy[Selector]) -> st.SearchStrategy[Selector]:
    parts = st.lists(inner, min_size=2, max_size=3).map(tuple)
    return parts.map(All) | parts.map(Either) | inner.map(Not)


def nested(inner: st.SearchStrategy[Selector]) -> st.SearchStrategy[Selector]:
    return several(inner) | inner.map(lambda of: Compare("parent", Op.EQ, (Nested(of),)))


STRICT_ONES: st.SearchStrategy[Selector] = st.recursive(compares(STRICT), several, max_leaves=8)
LOOSE_ONES: st.SearchStrategy[Selector] = st.recursive(compares(LOOSE), nested, max_leaves=8)
#: For what is drawn, which may walk as often as it likes.
WIDE = replace(LOOSE, walks_max=100)


@given(STRICT_ONES)
def test_what_is_written_reads_as_it_was(one: Selector) -> None:
    assert parse(render(one, STRICT), STRICT) == one


@given(LOOSE_ONES)
def test_what_is_written_in_a_rich_language_reads_as_it_was(one: Selector) -> None:
    assert parse(render(one, WIDE), WIDE) == one


@given(st.lists(compares(LOOSE), min_size=2, max_size=5))
def test_and_may_be_left_out_where_the_language_says_so(parts: list[Compare]) -> None:
    apart = [render(one, LOOSE) for one in parts]
    assert parse(" ".join(apart), LOOSE) == parse(" and ".join(apart), LOOSE) == All(tuple(parts))


@given(st.text(max_size=60) | st.text(string.ascii_letters + " ()=<>!,'\"*?0123456789.-", max_size=60))
@pytest.mark.parametrize("language", [STRICT, LOOSE], ids=["strict", "loose"])
def test_nonsense_is_refused_with_a_place(language: Language, text: str) -> None:
    found: UsageError | None = None
    try:
        parse(text, language)
    except UsageError as error:
        found = error
    assert found is None or (found.message.startswith(language.said) and found.hint)


# --- reading -----------------------------------------------------------------------------------------------


def test_precedence_and_spelling() -> None:
    red = Compare("colour", Op.EQ, ("RED",))
    old = Compare("age", Op.GT, (5400,))
    mine = Compare("name", Op.EQ, (Glob("26*"),))
    assert parse("colour = red AND age > 1.5h or name=26*", STRICT) == Either((All((red, old)), mine))
    assert parse("colour == RED and (age > 90min or name = 26*)", STRICT) == All((red, Either((old, mine))))
    assert parse("not colour = RED", STRICT) == Not(red)
    assert parse('name = "26*"', STRICT) == Compare("name", Op.EQ, ("26*",))
    assert parse("name not in (A, 'B C')", STRICT) == Compare("name", Op.NOT_IN, ("A", "B C"))


def test_adjacency_binds_as_and_does() -> None:
    a, b, c = (Compare("name", Op.EQ, (name,)) for name in "abc")
    assert parse("name=a name=b or name=c", LOOSE) == Either((All((a, b)), c))
    assert parse("name=a not name=b", LOOSE) == All((a, Not(b)))
    assert parse("name=a (name=b or name=c)", LOOSE) == All((a, Either((b, c))))
    assert parse("name=a name not in (b)", LOOSE) == All((a, Compare("name", Op.NOT_IN, ("b",))))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("bytes > 5k", 5000),
        ("bytes > 1.5T", 1_500_000_000_000),
        ("bytes > 999999999999999999", 999_999_999_999_999_999),
        ("run = 7", Between(7, 7)),
        ("run = 7-9", Between(7, 9)),
        ("energy < 8", 8.0),
        ("energy = -1.5e3", -1500.0),
        ("energy = '8'", "8"),
        ("energy = 8*", Glob("8*")),
        ("collision = AuAu", "AuAu"),
        ("name = ***a**", Glob("*a*")),
    ],
)
def test_values_by_kind(text: str, value: Any) -> None:
    assert parse(text, LOOSE).values == (value,)  # type: ignore[union-attr]


def test_walks_lead_to_other_things() -> None:
    a = Compare("name", Op.EQ, ("a",))
    to_a = Compare("parent", Op.EQ, (Nested(a),))
    assert parse("parent(name = a)", LOOSE) == parse("parent = a", LOOSE) == to_a
    assert parse("parent != a", LOOSE) == Not(to_a)
    both = Compare("name", Op.IN, ("a", Glob("b*")))
    assert parse("parent in (a, b*)", LOOSE) == Compare("parent", Op.EQ, (Nested(both),))
    assert parse("parent(name=a legs=4)", LOOSE) == parse("parent(name = a and legs = 4)", LOOSE)


BIG = "x" * 4001


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("", "character 1: it is empty", "such as"),
        ("colur = RED", "character 1: there is no field 'colur'", "did you mean colour"),
        ("energy = 8", "character 1: there is no field 'energy'", "fields: name"),
        ("colour = REF", "character 10: there is no colour 'REF'", "did you mean RED"),
        ("colour > RED", "character 8: colour has no order", "= or !="),
        ("colour = RED age > 2h", "character 14: `and`, `or` or the end should stand before 'age'", ""),
        ("age > soon", "character 7: age is a length of time", "5min"),
        ("age > 999999999w", "character 7: age is a length of time", "5min"),
        ("legs = two", "character 8: legs is a number", "legs = 3"),
        ("legs = 12345678901234567890", "character 8: legs is a number", ""),
        ("colour =", "character 9: a value for colour is missing", ""),
        ("(colour = RED", "character 14: `)` is missing", ""),
        ("name = 'x", "character 8: this quote is not closed", ""),
        ("name = x; drop table job", "character 9: ';' means nothing here", "in quotes"),
        ("name in ()", "a value for name should stand before ')'", ""),
        ("name = ''", "a name cannot be empty", ""),
        ("name = 'a\x1b[2J'", "cannot be printed", ""),
        ("name = '\ud800'", "cannot be printed", ""),
        ("name = '\x00'", "cannot be printed", ""),
        ("not " * 30 + "name = x", "nested too deeply", ""),
        ("(" * 30 + "name = x" + ")" * 30, "nested too deeply", ""),
        (" or ".join(["name = x"] * 101), "too many comparisons", "in (...)"),
        (BIG, "4001 characters", "at most"),
    ],
)
def test_errors_point_at_the_place(text: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text, STRICT)
    assert message in caught.value.message
    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("energy < AuAu", "character 10: only numbers have an order, not 'AuAu'", "energy > 3"),
        ("energy < '8'", "only numbers have an order", ""),
        ("energy = 1e999", "too large", ""),
        ("and = 3", "there is no field 'and'", ""),
        ("x" * 41 + " = 3", "there is no field", ""),
        ("a@b = 3", "there is no field", ""),
        ("bytes > 5x", "bytes is an amount", "1.5T"),
        ("bytes > 2000P", "bytes is an amount", ""),
        ("run = 9-7", "run is a number or a range", "3-9"),
        ("born = 2026-02-30", "born is a day", "2026-11-01"),
        ("born = 2026-W01", "born is a day", ""),
        ("parent > a", "parent has no order", ""),
        ("parent(name = a", "`)` is missing", ""),
        ("parent()", "a field should stand before ')'", ""),
        ("name(name = a)", "one of = != < <= > >= in should stand before '('", ""),
        ("name = a name = b or", "a field is missing", ""),
        ("name = a 'b'", "should stand before 'b'", ""),
        ("name = " + "a" * 20 + "*", "the pattern has 21 characters", "at most 20"),
        ("name = a*a?a*a?", "the pattern has 4 wildcards", "at most 3"),
        ("name in (a, b, c, d, e)", "the list is too long", "at most 4"),
        ("parent=a parent=b parent=c", "too many other things", "at most 2"),
        ("parent(parent(parent(name=a)))", "too many other things", "at most 2"),
    ],
)
def test_errors_of_a_rich_language(text: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text, LOOSE)
    assert caught.value.message.startswith("the query, character ")
    assert message in caught.value.message
    assert hint in (caught.value.hint or "")


def test_walks_within_walks_are_nested() -> None:
    with pytest.raises(UsageError, match="nested too deeply"):
        parse("parent(" * 22 + "name=a" + ")" * 22, WIDE)


# --- asking ------------------------------------------------------------------------------------------------


def test_only_one_name_is_seen_through_conjunctions() -> None:
    assert selectors.only(parse("name = a and colour = RED", STRICT), "name") == {"a"}
    assert selectors.only(parse("name in (a, b) and name = b", STRICT), "name") == {"b"}
    for text in ("name = a or colour = RED", "name = a*", "not name = a", "name != a", "colour = RED"):
        assert selectors.only(parse(text, STRICT), "name") is None


def test_fields_of_what_a_walk_reaches_are_not_asked_here() -> None:
    assert selectors.fields_of(parse("legs = 4 parent(colour = RED)", LOOSE)) == {"legs", "parent"}


BORN = datetime(2026, 3, 1, 12, tzinfo=UTC)
ROW = {
    "name": {"a", "b"},
    "colour": None,
    "legs": 4,
    "bytes": 5000,
    "run": [3, 8],
    "born": BORN,
    "parent": [{"name": "p", "legs": 2}, {"name": "q", "legs": 4}],
    "energy": Fact(8.0, "8"),
    "collision": Fact(None, "AuAu"),
}


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("name = a", True),
        ("name = c", False),
        ("name != a", False),
        ("name != c", True),
        ("name in (c, b*)", True),
        ("colour = RED", False),
        ("colour != RED", True),
        ("run = 4-9", True),
        ("run = 4-7", False),
        ("run > 8", False),
        ("run > 4-7", True),
        ("run >= 8", True),
        ("run < 3", False),
        ("born = 2026-03-01", True),
        ("born > 2026-03-01", False),
        ("born >= 2026-03-01", True),
        ("born <= 2026-03-01", True),
        ("born > 2026-03-01T11:59", True),
        ("born = 2026-03-01T12:01", False),
        ("bytes >= 5k", True),
        ("energy = 8", True),
        ("energy = 8.0", True),
        ("energy = '8'", True),
        ("energy = '8.0'", False),
        ("energy < 8.5", True),
        ("energy != 8", False),
        ("collision = AuAu", True),
        ("collision = Au*", True),
        ("collision > 1", False),
        ("collision = 1", False),
        ("parent = q", True),
        ("parent != q", False),
        ("parent(legs > 2 name = q)", True),
        ("parent(legs > 2 name = p)", False),
        ("not parent(name = x)", True),
    ],
)
def test_what_is_meant(text: str, meant: bool) -> None:
    assert matches(parse(text, LOOSE), ROW) is meant


@given(LOOSE_ONES.filter(lambda one: "parent" not in render(one, WIDE)))
def test_not_turns_what_is_meant(one: Selector) -> None:
    row = {**ROW, "age": 60, "beam.p-t": None}
    assert matches(Not(one), row) is not matches(one, row)
