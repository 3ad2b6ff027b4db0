"""Finding datasets: the database finds what the language means, by its indexes, page by page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import search_grid
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from search_grid import DATASETS as MADE
from search_grid import NOW, scanned
from sqlalchemy import Connection
from sqlalchemy import text as sql
from sqlalchemy.dialects import oracle

from catalogs import search, tables
from catalogs.finding import DATASETS, FIELDS, Search, plan
from gridcore.clock import FakeClock
from gridcore.db import Database, insert_rows
from gridcore.errors import UsageError
from gridcore.selector_parser import parse
from gridcore.selectors import All, Either, Not, Selector, matches

FACTS = search_grid.facts()
NAMES = sorted(FACTS)
BIG = frozenset(["block", "data_file", "block_replica", "file_run"])


@pytest.fixture
def filled(database: Database) -> Iterator[Database]:
    url = database.url.render_as_string(hide_password=False)
    fixed = Database(url, clock=FakeClock(NOW))
    fixed.transaction(search_grid.fill)
    yield fixed
    fixed.transaction(empty)
    fixed.close()


def empty(conn: Connection) -> None:
    """The rows are no catalogue that could be."""
    for table in search_grid.TABLES:
        conn.execute(table.delete())


def planned(text: str) -> Search:
    return plan(parse(text, DATASETS))


def found(database: Database, text: str, after: str = "", n: int = 100) -> list[str]:
    with database.snapshot() as conn:
        return [one.name for one in search.find(conn, planned(text), after, n)]


# --- the same as in Python ------------------------------------------------------------------------------

VALUES = {
    "dataset": ["/MinBias/v1/RAW", "/MinBias/*", "/Min?Bias/*", "*DST", "*", '"/Min%"', "/Min_*"],
    "primary": ["MinBias", "Min_Bias", "Min*", "hijing", "*"],
    "processed": ["v1", "v*", "A-1.2", "?-1.2"],
    "tier": ["RAW", "DST", "*D*", "raw"],
    "access": ["VALID", "INVALID", "*", "deprecated"],
    "state": ["OPEN", "CLOSED"],
    "group": ["heavy", "h*", "nobody"],
    "files": ["0", "1", "2", "5k"],
    "bytes": ["5M", "0", "1P", "1.5T"],
    "events": ["100", "0.2k", "7"],
    "blocks": ["0", "1", "2"],
    "age": ["60s", "1h", "40d", "0s", "3w"],
    "created": ["2026-03-09", "2026-03-09T11:59", "2026-01-28"],
    "site": ["T1_DE_Alder", "T1_*", "T2_*", "T?_UK_*", "T3_*", "t1_*"],
    "se": ["Alder_Disk", "*_Disk", "*"],
    "complete": ["T1_DE_Alder", "T1_*", "T2_*"],
    "custodial": ["T1_*", "T2_UK_Cedar", "*"],
    "run": ["7", "8-9", "1-6", "7-7"],
    "file": [
        "/store/raw/a/x.root",
        "/store/raw/a/*",
        "/store/aod/x_*.root",
        '"/store/aod/x_1.root"',
        "/store/no/*",
    ],
    "energy": ["7.7", "8", '"7.7"', "high", "hi*", "*", "200"],
    "collision": ["AuAu", "*u", "pp", "50"],
}
ORDERED = {
    *("files", "bytes", "events", "blocks", "age", "created", "run", "energy"),
}
WALKS = ("parent", "child", "ancestor", "descendant")


@st.composite
def one_field(draw: st.DrawFn) -> str:
    name = draw(st.sampled_from(sorted(VALUES)))
    value = st.sampled_from(VALUES[name])
    if draw(st.booleans()):
        op = draw(st.sampled_from(["=", "!=", *(["<", "<=", ">", ">="] if name in ORDERED else [])]))
        if name == "energy" and op not in ("=", "!="):
            return f"energy {op} {draw(st.sampled_from(['7.7', '8', '1e2', '-1']))}"
        return f"{name} {op} {draw(value)}"
    listed = draw(st.lists(value, min_size=1, max_size=3))
    return f"{name} {draw(st.sampled_from(['in', 'not in']))} ({', '.join(listed)})"


@st.composite
def lumis(draw: st.DrawFn) -> str:
    run = draw(st.sampled_from([7, 8, 9]))
    op = draw(st.sampled_from(["=", "!=", "<", "<=", ">", ">="]))
    first = draw(st.integers(0, 15))
    last = f"-{first + draw(st.integers(0, 5))}" if draw(st.booleans()) else ""
    return f"(run={run} lumi{op}{first}{last})"


@st.composite
def walked(draw: st.DrawFn) -> str:
    walk = draw(st.sampled_from(WALKS))
    if draw(st.booleans()):
        return f"{walk}={draw(st.sampled_from(VALUES['dataset']))}"
    inner = draw(one_field() | lumis())
    if draw(st.booleans()):
        inner = f"{draw(st.sampled_from(['not ', draw(st.sampled_from(WALKS))]))}({inner})"
    return f"{walk}({inner})"


def several(inner: st.SearchStrategy[Selector]) -> st.SearchStrategy[Selector]:
    parts = st.lists(inner, min_size=2, max_size=3).map(tuple)
    return parts.map(All) | parts.map(Either) | inner.map(Not)


ONE = (one_field() | lumis() | walked()).map(lambda text: parse(text, DATASETS))
QUERIES = st.recursive(ONE, several, max_leaves=5)


@given(query=QUERIES)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
def test_sql_and_python_mean_the_same(filled: Database, query: Selector) -> None:
    try:
        meant = plan(query)
    except UsageError:  # chance has put lumis of two runs side by side
        reject()
    with filled.snapshot() as conn:
        names = [one.name for one in search.find(conn, meant)]
        more = search.left_out(conn, meant)
    assert names == [name for name in NAMES if matches(meant.where, FACTS[name])]
    every = [name for name in NAMES if matches(meant.asked, FACTS[name])]
    assert more == (len(every) - len(names) if meant.only_valid else 0)


def test_each_field_and_operator_by_itself(filled: Database) -> None:
    """What chance may pass over."""
    texts = [f"access=* {name}{op}{value}" for name in VALUES for op in ("=", "!=") for value in VALUES[name]]
    texts += [f"access=* {name}{op}{VALUES[name][0]}" for name in ORDERED for op in ("<", "<=", ">", ">=")]
    texts += [f"access=* {walk}={name}" for walk in WALKS for name in NAMES]
    for text in texts:
        where = planned(text).where
        assert found(filled, text) == [name for name in NAMES if matches(where, FACTS[name])], text


# --- what is asked for -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("collision=AuAu energy<8 tier=DST site=T1_*", ["/MinBias/v1/DST"]),
        ("site=T1_* access=*", ["/MinBias/v1/DST", "/MinBias/v1/RAW"]),
        ("complete=T1_* access=*", ["/MinBias/v1/RAW"]),
        ("complete=T2_*", ["/Hijing/A-1.2/DST", "/MinBias/v1/AODSIM"]),
        ("custodial=T1_DE_Alder access=INVALID", ["/MinBias/v1/RAW"]),
        ("run=7 lumi=6-8 access=*", ["/MinBias/v1/AODSIM"]),
        ("run=7 lumi=10-13 access=*", ["/MinBias/v1/AODSIM", "/MinBias/v1/RAW"]),
        ("ancestor(tier=RAW)", ["/MinBias/v1/AODSIM", "/MinBias/v1/DST"]),
        ("descendant(tier=AODSIM) access=*", ["/MinBias/v1/DST", "/MinBias/v1/RAW"]),
        ("file=/store/aod/x_*.root", ["/MinBias/v1/AODSIM"]),
        ("file=/store/raw/a/*.root access=*", ["/MinBias/v1/RAW"]),
        ("file=/store/raw/*.root access=*", []),
        ("dataset=/MinBias/v1/RAW file=*b/x.root access=*", ["/MinBias/v1/RAW"]),
        ('dataset="%"', []),
        ("primary=min*", []),
        ("trigger=mb access=*", ["/MinBias/v1/RAW"]),
        ("note='50%'", ["/Hijing/A-1.2/DST"]),
        ("note='5_%'", []),
    ],
)
def test_examples(filled: Database, text: str, names: list[str]) -> None:
    assert found(filled, text) == names


def test_pages_follow_each_other(filled: Database) -> None:
    pages, after = [], ""
    while page := found(filled, "access=*", after, 3):
        pages.append(page)
        after = page[-1]
    assert [len(page) for page in pages] == [3, 3, 2]
    assert [name for page in pages for name in page] == NAMES


def test_unknown_metadata_is_told_with_what_there_is(filled: Database) -> None:
    with pytest.raises(UsageError, match="no field 'colision'") as caught:
        found(filled, "colision=AuAu")
    assert "did you mean collision" in (caught.value.hint or "")
    with pytest.raises(UsageError, match="no field 'enrgy'"):
        found(filled, "parent(energy=7.7 or enrgy>3)")


@pytest.mark.parametrize("value", ["a", "a*"])
def test_the_longest_lists_are_answered(filled: Database, value: str) -> None:
    assert found(filled, f"dataset in ({','.join([value] * 1000)})") == []
    assert found(filled, f"not dataset in ({','.join([value] * 999)})") == found(filled, "dataset=*")


def test_wildcards_made_to_be_slow_are_not(filled: Database) -> None:
    assert found(filled, f"dataset={'*a' * 7}*b primary={'*i' * 7}*x") == []


def test_walks_end_where_edges_run_in_a_circle(filled: Database) -> None:
    """Which registration refuses; a search must end all the same."""
    key = {one.name: number for number, one in enumerate(MADE, 1)}
    edge = {"dataset_id": key["/MinBias/v1/RAW"], "parent_id": key["/MinBias/v1/AODSIM"]}
    filled.transaction(lambda conn: insert_rows(conn, tables.dataset_parent, [edge]))
    circle = ["/MinBias/v1/AODSIM", "/MinBias/v1/DST", "/MinBias/v1/RAW"]
    assert found(filled, "ancestor=/MinBias/v1/RAW access=*") == [*circle, "/MinBias/v2/DST"]
    assert found(filled, "descendant=/MinBias/v1/RAW access=*") == circle


# --- by its indexes --------------------------------------------------------------------------------------

_SERIES = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {}) SELECT"
#: 500 datasets of four blocks with three replicas, ten files in a block, one run in each.
LARGE = (
    f"""INSERT INTO dataset
    (id, name, state, block_files, block_bytes, block_age_s, created_at, prim, data_tier)
    {_SERIES.format(500)} 1000 + i, '/Large/v' || i || '/RAW', 'OPEN', 10, 10, 1, 0, 'Large', 'RAW' FROM n""",
    f"""INSERT INTO block (id, dataset_id, name, origin_se_id, state, created_at)
    {_SERIES.format(2000)} 1000 + i, 1001 + (i - 1) / 4, 'large' || i, 1, 'CLOSED', 0 FROM n""",
    f"""INSERT INTO block_replica (block_id, se_id, state, created_at)
    {_SERIES.format(6000)} 1001 + (i - 1) / 3, 2 + i % 3, 'COMPLETE', 0 FROM n""",
    """INSERT INTO holding (dataset_id, se_id, blocks) SELECT dataset_id, se_id, count(*)
    FROM block_replica JOIN block ON block.id = block_id WHERE block_id > 1000 GROUP BY dataset_id, se_id""",
    f"""INSERT INTO dir (id, path) {_SERIES.format(200)} 1000 + i, '/store/large/' || i FROM n""",
    f"""INSERT INTO data_file (id, block_id, dir_id, name, bytes, adler32, created_at)
    {_SERIES.format(20000)} 20000 + i, 1001 + (i - 1) / 10, 1001 + (i - 1) / 100, 'f' || i, 1, 1, 0 FROM n""",
    f"""INSERT INTO file_run (file_id, run, first_lumi, last_lumi)
    {_SERIES.format(20000)} 20000 + i, 1000 + (i - 1) / 10, i % 10, i % 10 FROM n""",
    f"""INSERT INTO block_run (block_id, run, first_lumi, last_lumi)
    {_SERIES.format(2000)} 1000 + i, 1000 + i - 1, 0, 9 FROM n""",
    f"""INSERT INTO dataset_parent (dataset_id, parent_id) {_SERIES.format(499)} 1001 + i, 1000 + i FROM n""",
    f"""INSERT INTO dataset_meta (dataset_id, name, num, txt)
    {_SERIES.format(500)} 1000 + i, 'energy', i, '' || i FROM n""",
)


@pytest.fixture
def large(filled: Database) -> Database:
    """With statistics: on a few rows every plan is as good as another."""

    def unit(conn: Connection) -> None:
        for statement in LARGE:
            conn.execute(sql(statement))
        if conn.dialect.name == "postgresql":
            conn.exec_driver_sql("ANALYZE")

    filled.transaction(unit)
    return filled


#: Every field, alone and where it does not lead.
ASKED = [
    *(f"{name}={VALUES[name][0]}" for name in VALUES),
    *(f"not {name}={VALUES[name][0]}" for name in VALUES),
    *(f"(tier=RAW or {name}={VALUES[name][0]})" for name in ("site", "custodial", "run", "file", "energy")),
    *(f"{walk}(site=T1_*)" for walk in WALKS),
    *("run=7 lumi=3-4", "not (run=7 lumi=3)", "dataset=/MinBias/v1/RAW file=*x.root", "run>8"),
]


def test_no_field_goes_through_all_blocks_files_or_replicas(large: Database) -> None:
    with large.snapshot() as conn:
        if conn.dialect.name == "postgresql":
            conn.exec_driver_sql("SET enable_seqscan = off")
        through = {one: scanned(conn, partial(search.find, conn, planned(one))) & BIG for one in ASKED}
    assert {one: found for one, found in through.items() if found} == {}


def test_every_field_is_asked_for() -> None:
    fields = {name for text in ASKED for name in re.findall(r"[a-z]+(?=[=(<>])", text)}
    assert FIELDS.keys() <= fields


def test_searches_can_be_said_to_oracle() -> None:
    class Conn:
        """As much of a connection as a statement is made from."""

        dialect: Any = oracle.dialect()  # type: ignore[no-untyped-call]

        def get_execution_options(self) -> dict[str, Any]:
            return {"database": self}

        def now(self, conn: object) -> Any:
            return NOW

        def execute(self, statement: Any) -> list[Any]:
            return []

    for text in ASKED:
        meaning = search._Meaning(Conn())  # type: ignore[arg-type]
        said = str(meaning.search(tables.dataset, planned(text)).compile(dialect=Conn.dialect))
        assert " UNION SELECT" not in said
