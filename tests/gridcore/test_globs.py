"""Patterns of names: what they match, the range an index finds them in, and which are refused."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sqlalchemy import select

from gridcore.db import Database
from gridcore.db.globs import like, prefix_range
from gridcore.db.idlists import names_within
from gridcore.tables import account

NAMES = ["/Min/a", "/Min/b%", "/Min/_c", "/min/d", "/Mia/[e]", "/Mö/f", "/Mz/g", "Min", "/Min\\h"]
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0*?"), max_size=6)


@given(prefix=TEXTS, rest=TEXTS)
@example("a\U0010ffff", "b")
@example("\ud7ff", "x")
def test_what_matches_is_in_the_range(prefix: str, rest: str) -> None:
    if ends := prefix_range(f"{prefix}*"):
        first, below = ends
        assert first.encode() <= (prefix + rest).encode() < below.encode()


def test_a_pattern_that_begins_wildly_has_no_range() -> None:
    assert prefix_range("*a") == prefix_range("?") == prefix_range("") == ()
    assert prefix_range("/Min*a") == ("/Min", "/Mio")
    assert prefix_range("/Min") == ("/Min", "/Mio")


@pytest.fixture
def named(database: Database) -> Database:
    rows = [{"id": number, "name": name} for number, name in enumerate(NAMES)]
    database.transaction(lambda conn: conn.execute(account.insert(), rows))
    return database


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*", NAMES),
        ("/Min*", ["/Min/a", "/Min/b%", "/Min/_c", "/Min\\h"]),
        ("/Min/?", ["/Min/a"]),
        ("/Min/b%", ["/Min/b%"]),
        ("/Min/_*", ["/Min/_c"]),
        ("/Mia/[e]", ["/Mia/[e]"]),
        ("/M\u00f6*", ["/M\u00f6/f"]),
        ("/Min\\h", ["/Min\\h"]),
        ("/min/*", ["/min/d"]),
        ("Mi", []),
    ],
)
def test_patterns_mind_case_and_mean_the_same_everywhere(
    named: Database, pattern: str, found: list[str]
) -> None:
    with named.snapshot() as conn:
        names = conn.execute(select(account.c.name).where(like(account.c.name, pattern))).scalars().all()
    assert sorted(names) == sorted(found)


def test_a_prefix_is_found_by_the_index(sqlite_db: Database) -> None:
    statement = select(account.c.id).where(like(account.c.name, "/Min/*"))
    with sqlite_db.snapshot() as conn:
        text = statement.compile(conn, compile_kwargs={"literal_binds": True})
        (plan,) = conn.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}").all()
    assert "(name>? AND name<?)" in plan.detail


@pytest.mark.parametrize("names", [NAMES, [], ['a"b', "c,d", "{e}", "f\\g", "NULL", "'"]])
def test_names_go_as_one_bind(database: Database, names: list[str]) -> None:
    rows = [{"id": number, "name": name} for number, name in enumerate([*names, "other"])]
    database.transaction(lambda conn: conn.execute(account.insert(), rows))
    with database.snapshot() as conn:
        found = conn.execute(select(account.c.name).where(names_within(account.c.name)), {"names": names})
        assert sorted(found.scalars()) == sorted(names)
