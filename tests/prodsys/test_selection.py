"""The language of --where: it is about jobs, and rows in SQL and in Python mean the same."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from grids import selector_grid
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, literal, select
from sqlalchemy.dialects import oracle, postgresql

from gridcore import selectors
from gridcore.db import Database, globs
from gridcore.errors import UsageError
from gridcore.selector_parser import parse
from gridcore.selectors import (
    NUMBER,
    ORDERED,
    SPAN,
    WORD,
    All,
    Compare,
    Either,
    Glob,
    Not,
    Op,
    Selector,
    matches,
    render,
)
from prodsys.control import selection
from prodsys.control.selectors import FIELDS, JOBS
from prodsys.tables import job

# --- any selector ------------------------------------------------------------------------------------------

NAMES = st.sampled_from(["ab", "aB", "a.b", "a_b", "axb", "and", "x y", "26:ann_gen-1", "T2_FI_Birch", "%"])
GLOBS = st.sampled_from(["a?b", "*", "A*", "*b", "a.*", "?", "T2_*", "*_gen*", "**b", "*?_*"]).map(Glob)
NUMBERS = st.integers(-3, 4) | st.sampled_from([10**17, -(10**17)])


def values(name: str) -> st.SearchStrategy[Any]:
    kind = FIELDS[name].kind
    if kind == WORD:
        return st.sampled_from(FIELDS[name].words)
    if kind in (NUMBER, SPAN):
        return NUMBERS if kind == NUMBER else st.integers(0, 7200)
    return NAMES | GLOBS


@st.composite
def compares(draw: st.DrawFn) -> Compare:
    name = draw(st.sampled_from(sorted(FIELDS)))
    ordered = FIELDS[name].kind in (NUMBER, SPAN)
    op = draw(st.sampled_from([one for one in Op if ordered or one not in ORDERED]))
    n = draw(st.integers(1, 3)) if op in (Op.IN, Op.NOT_IN) else 1
    return Compare(name, op, tuple(draw(values(name)) for _ in range(n)))


def several(inner: st.SearchStrategy[Selector]) -> st.SearchStrategy[Selector]:
    parts = st.lists(inner, min_size=2, max_size=3).map(tuple)
    return parts.map(All) | parts.map(Either) | inner.map(Not)


SELECTORS: st.SearchStrategy[Selector] = st.recursive(compares(), several, max_leaves=8)


@given(SELECTORS)
def test_what_is_written_reads_as_it_was(one: Selector) -> None:
    assert parse(render(one, JOBS), JOBS) == one


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("stat = HELD", "--where, character 1: there is no field 'stat'", "did you mean state"),
        ("state = HELL", "--where, character 9: there is no state 'HELL'", "did you mean HELD"),
        (
            "state = HELD age > 2h",
            "`and`, `or` or the end should stand before 'age'",
            "state in (HELD, FAILED)",
        ),
    ],
)
def test_errors_are_about_jobs(text: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text, JOBS)
    assert message in caught.value.message
    assert hint in (caught.value.hint or "")


# --- in SQL ------------------------------------------------------------------------------------------------

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
AGES = (0, 1, 3600, 7200)


@pytest.fixture
def filled(database: Database) -> Iterator[Database]:
    database.transaction(lambda conn: selector_grid.fill(conn, NOW, AGES))
    yield database
    database.transaction(empty)


def empty(conn: Connection) -> None:
    """The rows are no work that could be."""
    for table in selector_grid.TABLES:
        conn.execute(table.delete())


@given(one=SELECTORS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
def test_sql_and_python_mean_the_same(filled: Database, one: Selector) -> None:
    expected = {key for key, row in selector_grid.rows(NOW, AGES).items() if matches(one, row)}
    statement = (
        select(job.c.id)
        .select_from(selection.source(selectors.fields_of(one)))
        .where(selection.condition(one, NOW))
    )
    with filled.snapshot() as conn:
        assert set(conn.execute(statement).scalars()) == expected


def test_a_pattern_of_many_stars_takes_no_longer_than_others(database: Database) -> None:
    """By a regular expression that goes back and forth, five stars took minutes for one such name."""
    pattern, name = "*a" * 40 + "*b", "a" * 120
    asked = select(literal(1)).where(globs.like(literal(name), pattern))
    with database.snapshot() as conn:
        assert conn.execute(asked).all() == []
    assert not matches(parse(f"task = {pattern}", JOBS), {"task": name})


@given(SELECTORS)
def test_every_selector_compiles_for_every_database(one: Selector) -> None:
    walk = selection.Walk(one, NOW)
    for dialect in (oracle.dialect(), postgresql.dialect()):  # type: ignore[no-untyped-call]
        for statement in (walk._next, walk._again, walk._count_ids, walk._count_named):
            compiled = statement.compile(dialect=dialect)
            assert all(len(name) <= 30 for name in compiled.bind_names.values())


def test_age_is_time_since_the_last_move() -> None:
    row = dict.fromkeys(FIELDS)
    assert matches(parse("age > 1h", JOBS), {**row, "age": timedelta(hours=2).total_seconds()})
    assert not matches(parse("age > 1h", JOBS), {**row, "age": 3600.0})
