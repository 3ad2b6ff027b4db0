"""Bulk writes: the same rows by every way a driver has, and its errors told as SQLAlchemy's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Column, Float, Integer, MetaData, PrimaryKeyConstraint, Table, select
from sqlalchemy.dialects import oracle
from sqlalchemy.exc import DBAPIError, IntegrityError

from gridcore.db import Database, bulk, bulk_texts
from gridcore.db.bulk import Change, New, Same
from gridcore.db.types import Json, key, label, moment

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SCHEMA = MetaData()
PARCEL = Table(
    "bulk_parcel",
    SCHEMA,
    key("id"),
    Column("part", Integer, nullable=False),
    label("name", 200, nullable=True),
    Column("weight", Float),
    Column("note", Json),
    moment("sent_at"),
    PrimaryKeyConstraint("id", "part"),
)
ALL = select(PARCEL).order_by(PARCEL.c.id, PARCEL.c.part)


@pytest.fixture(params=["direct", "portably"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The drivers' own forms, and the one for databases that have none here."""
    if request.param == "portably":
        monkeypatch.setattr(bulk, "write", bulk.portably)
    return str(request.param)


@pytest.fixture
def parcels(database: Database) -> Iterator[Database]:
    database.transaction(lambda conn: SCHEMA.create_all(conn))
    yield database
    database.transaction(lambda conn: SCHEMA.drop_all(conn))


def rows(database: Database) -> list[tuple[Any, ...]]:
    with database.snapshot() as conn:
        return [tuple(row) for row in conn.execute(ALL)]


def parcel(ids: Sequence[int], names: Sequence[str | None] | None = None) -> New:
    columns: dict[str, Any] = {"id": ids, "part": Same(1), "weight": [float(one) for one in ids]}
    columns |= {"name": names if names is not None else Same(None), "note": Same({"b": 1, "a": [2]})}
    return New(PARCEL, {**columns, "sent_at": Same(NOW)})


@pytest.mark.parametrize("n", [0, 1, 2, bulk.COPY_FROM])
def test_new_rows_arrive_by_every_way(parcels: Database, n: int) -> None:
    names = [f"n{one}" for one in range(n)]
    assert parcels.transaction(lambda conn: bulk.write(conn, [parcel(range(n), names)])) == [n]
    assert rows(parcels) == [(one, 1, names[one], float(one), {"a": [2], "b": 1}, NOW) for one in range(n)]


@given(st.lists(st.none() | st.text(st.characters(exclude_characters="\0", codec="utf-8")), max_size=4))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
def test_any_text_arrives_as_it_was(parcels: Database, names: list[str | None]) -> None:
    def unit(conn: Any) -> None:
        conn.execute(PARCEL.delete())
        bulk.write(conn, [parcel(range(len(names)), names)])

    parcels.transaction(unit)
    assert [row[2] for row in rows(parcels)] == names


@pytest.mark.parametrize("n", [1, 3])
def test_a_change_adds_puts_and_lowers_where_it_may(parcels: Database, n: int) -> None:
    ids = list(range(n))
    change = Change(
        PARCEL,
        {"id": ids, "part": Same(1)},
        add={"weight": [10.0] * n},
        put={"name": [f"new{one}" for one in ids]},
        only={"sent_at": NOW},
    )
    lower = Change(PARCEL, {"id": ids, "part": Same(1)}, low={"weight": [10.5] * n})
    first = Change(PARCEL, {"id": [0], "part": [1]}, put={"sent_at": Same(None), "weight": Same(None)})
    new = parcel(ids)
    assert parcels.transaction(lambda conn: bulk.write(conn, [new, change, lower])) == [n, n, n]
    assert [row[2:4] for row in rows(parcels)] == [(f"new{one}", min(10.5, 10.0 + one)) for one in ids]
    assert parcels.transaction(lambda conn: bulk.write(conn, [first, change, lower])) == [1, n - 1, n]
    assert [row[3] for row in rows(parcels)] == [10.5] * n


def test_a_bound_that_all_rows_share_lowers_them(parcels: Database) -> None:
    lower = Change(PARCEL, {"id": [1, 2, 3], "part": Same(1)}, low={"weight": Same(2.0)})
    alike = Change(PARCEL, {"id": [1, 2, 3]}, low={"weight": Same(1.5)})
    assert parcels.transaction(lambda conn: bulk.write(conn, [parcel([1, 2, 3]), lower])) == [3, 3]
    assert [row[3] for row in rows(parcels)] == [1.0, 2.0, 2.0]
    assert parcels.transaction(lambda conn: bulk.write(conn, [alike])) == [3]
    assert [row[3] for row in rows(parcels)] == [1.0, 1.5, 1.5]


def test_rows_may_be_named_by_texts(parcels: Database) -> None:
    names = ['a"b', "it's", "c"]
    change = Change(PARCEL, {"name": names[:2]}, put={"weight": Same(None)})
    parcels.transaction(lambda conn: bulk.write(conn, [parcel([1, 2, 3], names), change]))
    assert [row[3] for row in rows(parcels)] == [None, None, 3.0]


def test_numbers_among_texts_arrive_as_texts(parcels: Database, way: str) -> None:
    if way == "direct" or parcels.dialect == "sqlite":
        given: Any = [5, "x", None]
        parcels.transaction(lambda conn: bulk.write(conn, [parcel([1, 2, 3], given)]))
        assert [row[2] for row in rows(parcels)] == ["5", "x", None]


def test_rows_named_by_one_key_alone_change_alike(parcels: Database) -> None:
    change = Change(
        PARCEL, {"id": [1, 2]}, {"part": Same(4)}, {"name": Same("x")}, only={"name": None, "part": 1}
    )
    parcels.transaction(lambda conn: bulk.write(conn, [parcel([1, 2, 3], ["", None, None])]))
    parcels.transaction(lambda conn: bulk.write(conn, [change]))
    assert [row[:3] for row in rows(parcels)] == [(1, 1, ""), (2, 5, "x"), (3, 1, None)]


def test_the_drivers_errors_are_sqlalchemys_and_leave_nothing(parcels: Database) -> None:
    twice = [parcel([1, 2]), parcel([3, 2]), parcel([4])]
    with pytest.raises(IntegrityError):
        parcels.transaction(lambda conn: bulk.write(conn, twice))
    assert rows(parcels) == []
    with pytest.raises(DBAPIError):
        parcels.transaction(lambda conn: bulk.write(conn, [parcel([1, 2], ["fine", "n" * 300])] * 2))
    assert rows(parcels) == []


def test_oracle_gets_statements_of_its_own() -> None:
    changes = [
        parcel([1]),
        Change(PARCEL, {"id": [1]}, {"part": [1]}, {"name": ["x"]}, {"weight": [1.0]}, {"note": None}),
    ]
    told = [str(bulk_texts.statement(one.shape()).compile(dialect=oracle.dialect())) for one in changes]  # type: ignore[no-untyped-call]
    assert told[0].startswith("INSERT INTO bulk_parcel (id, part")
    assert "CASE WHEN" in told[1]
    assert "note IS NULL" in told[1]
