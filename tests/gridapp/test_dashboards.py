"""What pages tell at a glance: what is stuck, whose turn it is, and by which statements that is found."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from full_grid import START, full_grid
from grids.data_grid import DataGrid
from grids.plans import explained
from sqlalchemy import event, select, update

from catalogs.tables import link
from datamgmt.reasons import Reason
from datamgmt.subscription_states import SubscriptionState
from datamgmt.tables import block_dest, link_bin, subscription, transfer
from datamgmt.transfer_states import TransferState
from gridapp.insights import dashboards, deletions, spaces, traffic, waits
from gridapp.insights.why import why
from gridcore.db import Database, insert_rows


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """The grid in the middle of its work."""
    with full_grid(tmp_path_factory.mktemp("grid")) as (made, _):
        yield made


def wanting(database: Database) -> DataGrid:
    """Blocks of three files at A, wanted at B and C; at B all is queued."""
    grid = DataGrid(database, "ABC")
    grid.link("AB", "AC")
    grid.produce(3)
    grid.subscribe("B")
    grid.subscribe("C", decided_by=None)
    worker = grid.worker(kinds=("block_manager", "router"))
    worker.run(3)
    worker.close()
    return grid


def by_se(grid: DataGrid) -> dict[str, dict[str, Any]]:
    with grid.database.snapshot() as conn:
        seen = dashboards.deliveries(conn)
    return {one["se"]: one for found in seen["groups"] for one in found["list"]}


# --- whose turn --------------------------------------------------------------------------------------


def test_a_delivery_tells_whose_turn_it_is(database: Database) -> None:
    grid = wanting(database)
    found = by_se(grid)
    (wait,) = found["T2_B"]["waits"]
    assert (wait["code"], wait["n"], wait["turn"]) == (Reason.ROUTED, 1, "the transfer agent")
    assert (found["T2_B"]["turn"], found["T2_B"]["person"]) == ("the transfer agent", False)
    assert (found["T2_C"]["turn"], found["T2_C"]["person"]) == ("whoever may decide at T2_C", True)


def test_blocks_whose_copies_fail_are_told_by_how_they_fail(database: Database) -> None:
    grid = wanting(database)
    failed = {"state": TransferState.RETRY_WAIT, "error_class": "STORAGE_SILENT", "error": "no answer"}
    grid.do(lambda conn, _: conn.execute(update(transfer).values(**failed, attempts=2)))
    one = by_se(grid)["T2_B"]
    (wait,) = one["waits"]
    assert (wait["code"], wait["n"]) == (Reason.RETRY_LATER, 1)
    assert "no answer" in wait["sentence"]
    assert (one["turn"], one["person"]) == ("the admin of T2_B", True)


def test_those_who_wait_for_a_person_come_first(database: Database) -> None:
    grid = wanting(database)
    with grid.database.snapshot() as conn:
        seen = dashboards.deliveries(conn)
        only = dashboards.deliveries(conn, states=[SubscriptionState.COMPLETE])
        recent = dashboards.recent(conn, 1)
    assert [one["turn"] for one in seen["turns"]] == ["whoever may decide at T2_C", "the transfer agent"]
    assert [one["person"] for group in seen["groups"] for one in group["list"]] == [True, False]
    assert seen["under_way"]
    assert (only["groups"], only["under_way"]) == ([], False)
    assert [one["se"] for one in recent] == ["T2_C"]


def test_where_nothing_is_under_way_all_is_shown(database: Database) -> None:
    grid = wanting(database)
    grid.worker().run()
    grid.do(lambda conn, _: conn.execute(update(subscription).values(state=SubscriptionState.COMPLETE)))
    with grid.database.snapshot() as conn:
        asked = dashboards.deliveries(conn, states=[SubscriptionState.ACTIVE])
        seen = dashboards.deliveries(conn)
    assert asked["groups"] == []
    assert {one["se"] for found in seen["groups"] for one in found["list"]} == {"T2_B", "T2_C"}
    assert seen["turns"] == []


def test_why_of_a_link_is_json_with_what_went_over_it(database: Database) -> None:
    grid = wanting(database)
    (way, *_) = (key for (key,) in grid.rows(select(link.c.id).order_by(link.c.id)))
    src, dst = grid.rows(select(link.c.src_se_id, link.c.dst_se_id).where(link.c.id == way))[0]
    one = {"link_id": way, "bin_start": grid.clock.now(), "files_ok": 2, "files_bad": 1, "busy_s": 1.0}
    grid.do(lambda conn, _: insert_rows(conn, link_bin, [{**one, "bytes_ok": 10**12}]))
    names = {key: name for name, key in grid.ids.items()}
    with grid.database.snapshot() as conn:
        answer = why(conn, f"link:T2_{names[src]}>T2_{names[dst]}", grid.clock.now())
    evidence = json.loads(json.dumps(answer["evidence"]))
    assert evidence["last_2_h"] == {"files_ok": 2, "files_bad": 1, "bytes_ok": 10**12}


# --- deletions ---------------------------------------------------------------------------------------


def test_deletions_that_differ_in_the_block_alone_are_one_entry() -> None:
    same = {"ask_id": "a", "dataset": "/a/b/C", "se": "X", "state": "ASKED", "sentence": "waits"}
    rows = [
        {**same, "id": 3, "block": "/a/b/C#3", "files": 1, "bytes": 10},
        {**same, "id": 2, "block": "/a/b/C#2", "files": 2, "bytes": 20, "se": "Y"},
        {**same, "id": 1, "block": "/a/b/C#1", "files": 4, "bytes": 40},
    ]
    found = deletions.together(rows)
    assert [(one["id"], one["blocks"], one["files"], one["bytes"]) for one in found] == [
        (3, ["/a/b/C#3", "/a/b/C#1"], 5, 50),
        (2, ["/a/b/C#2"], 2, 20),
    ]


# --- the hours ---------------------------------------------------------------------------------------


def test_what_was_moved_is_told_by_the_hour(database: Database) -> None:
    grid = DataGrid(database, "ABC")
    grid.link("AB", "AC")
    now = datetime(2026, 3, 2, 12, 30, tzinfo=UTC)
    ways = [key for (key,) in grid.rows(select(link.c.id).order_by(link.c.id))]

    def filled(conn: Any, _: Any) -> None:
        for way, back, moved in ((0, 5, 100), (1, 10, 80), (0, 40, 3600), (0, 60 * 25, 7)):
            begin = now - timedelta(minutes=back)
            one = {"link_id": ways[way], "bin_start": begin, "files_ok": 2, "files_bad": 1}
            insert_rows(conn, link_bin, [{**one, "bytes_ok": moved * 1800, "busy_s": 1.0}])

    grid.do(filled)
    with grid.database.snapshot() as conn:
        found = traffic.hours(conn, now)
    assert [one["hour"][11:13] for one in found] == [f"{(13 + n) % 24:02}" for n in range(24)]
    assert (found[-1]["rate"], found[-1]["files_ok"], found[-1]["files_bad"]) == (180.0, 4, 2)
    assert found[-2]["rate"] == 1800.0
    assert sum(one["files_ok"] for one in found) == 6


# --- statements --------------------------------------------------------------------------------------


def plan_of(database: Database, question: Callable[..., object], *args: Any) -> str:
    """What SQLite does for the statements of a question, one step a line."""
    seen: list[tuple[str, Any]] = []

    def note(conn: Any, cursor: Any, sql: str, binds: Any, context: Any, many: bool) -> None:
        seen.append((sql, binds))

    with database.snapshot() as conn:
        event.listen(conn, "before_cursor_execute", note)
        question(conn, *args)
        event.remove(conn, "before_cursor_execute", note)
        rows = [
            one for sql, binds in seen for one in conn.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", binds)
        ]
    return "\n".join(row.detail for row in rows if "json_each" not in row.detail)


#: Tables that grow with what is stored or moved.
GROWING = (
    *("block_dest", "block_replica", "holding", "deletion", "link_bin", "block", "dataset", "transfer"),
    *("data_file", "file_exception", "subscription_history"),
)


#: Of the hot statements: what they may be asked with, and the index that finds the rows of the large table.
HOT = [
    (dashboards.WAITS, {"ids": [1, 2], "n": 9}, "ix_block_dest_subscription_id"),
    (dashboards.FAILING, {"ids": [1, 2], "n": 9}, "ix_transfer_block_id"),
    (waits.FAILURE, {"ids": [1, 2]}, "transfer"),
    (traffic.HOURS, {"ids": [1, 2], "since": START}, "link_bin"),
]


@pytest.mark.parametrize(("statement", "binds", "index"), HOT)
def test_large_tables_are_entered_by_their_indexes(
    database: Database, statement: Any, binds: dict[str, Any], index: str
) -> None:
    steps = explained(database, statement, binds, as_if_large=True)
    large = [one for one in steps if re.search(r"\b(transfer|block_dest|link_bin)\b", one)]
    assert any(index in one for one in steps), steps
    assert not [one for one in large if "SCAN " in one or "Seq Scan" in one], steps


@pytest.mark.parametrize(
    ("question", "args", "counted"),
    [
        (dashboards.deliveries, (), ("subscription",)),
        (dashboards.deliveries, (2**60, "heavy"), ("subscription",)),
        (dashboards.deliveries_of, (1,), ()),
        (dashboards.recent, (25,), ("subscription",)),
        (traffic.quality, (START,), ()),
        (traffic.hours, (START,), ()),
        (deletions.page, (), ("deletion",)),
        (spaces.spaces, (), ()),
    ],
)
def test_no_page_reads_all_of_what_grows(
    full: Database, question: Callable[..., object], args: tuple[Any, ...], counted: tuple[str, ...]
) -> None:
    """But for the states of subscriptions and deletions, counted over an index."""
    steps = plan_of(full, question, *args)
    assert steps
    for step in steps.splitlines():
        scanned = re.match(r"SCAN (\w+)(?! USING (?:COVERING )?INDEX| USING INTEGER)", step)
        assert not (scanned and scanned[1] in GROWING and scanned[1] not in counted), step


def test_what_waits_is_told_of_the_first_ones_only(full: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    with full.snapshot() as conn:
        whole = dashboards.deliveries(conn)["groups"][0]["list"][0]["waits"]
        wanted = conn.execute(select(block_dest.c.block_id)).all()
        monkeypatch.setattr(dashboards, "WAITING", 1)
        first = dashboards.deliveries(conn)["groups"][0]["list"][0]["waits"]
    assert sum(one["n"] for one in whole) == len(wanted)
    assert sum(one["n"] for one in first) == 1
    assert all(one["sentence"] for one in whole)


# --- pure --------------------------------------------------------------------------------------------

ACTIVE, COMPLETE = SubscriptionState.ACTIVE, SubscriptionState.COMPLETE


@pytest.mark.parametrize(
    ("state", "done", "whole", "percent"),
    [
        (ACTIVE, (1, 50), (2, 100), 50.0),
        (ACTIVE, (2, 100), (2, 100), 99.9),
        (ACTIVE, (1, 0), (2, 0), 50.0),
        (ACTIVE, (0, 0), (0, 0), 0.0),
        (ACTIVE, (5, 50), None, None),
        (COMPLETE, (5, 50), None, 100.0),
    ],
)
def test_percent(
    state: SubscriptionState, done: tuple[int, int], whole: tuple[int, int] | None, percent: float | None
) -> None:
    assert dashboards._percent(state, done, whole) == percent


@pytest.mark.parametrize(
    ("good", "bad", "percent"), [(1, 0, 100.0), (9999, 1, 99.9), (1, 9999, 0.1), (0, 3, 0.0), (2, 1, 66.7)]
)
def test_good_and_bad_are_never_told_as_all_or_nothing(good: int, bad: int, percent: float) -> None:
    assert traffic._good(good, bad) == percent
