"""Previews: what deliveries, deletions, moves and changes of links would do, and that they do nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
from grids.data_grid import DataGrid
from sqlalchemy import select, update

from catalogs.tables import block, block_replica, se
from datamgmt.links import linkends, linkstates
from datamgmt.links.health import Outcome
from datamgmt.links.linkends import Ended
from datamgmt.previews import preview
from datamgmt.previews.preview import Amount, Preview, Subject
from datamgmt.reasons import Reason
from datamgmt.subscriptions import store
from datamgmt.tables import block_dest, subscription, transfer
from gridapp.insights import previews
from gridcore.amounts import size as readable
from gridcore.db import Database, insert_rows
from gridcore.tables import quota


def ask(grid: DataGrid, name: str, **options: object) -> Preview:
    """What the whole dataset at an SE would take."""
    policies = linkstates.policies(grid.settings)
    with grid.database.snapshot() as conn:
        return preview.delivery(
            conn,
            Subject(grid.dataset_id),
            [grid.ids[name]],
            grid.clock.now(),
            policies,
            **options,  # type: ignore[arg-type]
        )


def size_of(grid: DataGrid) -> int:
    return sum(row[0] for row in grid.rows(select(block.c.bytes)))


def test_a_delivery_tells_its_bytes_by_source_and_link(database: Database) -> None:
    grid = DataGrid(database)
    grid.link("AB", "BC", "DC", "DA")
    grid.produce(4)
    found = ask(grid, "C")
    size = size_of(grid)
    assert found.copied == Amount(blocks=1, files=4, bytes=size)
    assert found.by_source == {1: size}
    assert found.by_link == {(1, 2): size, (2, 3): size}
    assert found.cautions == ()
    assert grid.count(subscription) == grid.count(block_dest) == grid.count(transfer) == 0


def test_hours_come_from_what_the_links_have_shown(database: Database) -> None:
    grid = DataGrid(database, "AB")
    grid.link("AB")
    grid.produce(2)
    policies = linkstates.policies(grid.settings)
    outcome = Outcome(ok=True, bytes=size_of(grid) * 10, seconds=1.0)
    grid.do(lambda conn, now: linkends.record(conn, [Ended(102, outcome)], now, policies.link))
    grid.clock.advance(600)
    found = ask(grid, "B")
    # Ten times the bytes in one bin of five minutes: half a minute.
    assert found.hours == pytest.approx(30 / 3600)
    assert found.hours_most == found.hours


def test_what_is_there_or_wanted_already_costs_nothing(database: Database) -> None:
    grid = DataGrid(database, "AB")
    grid.link("AB")
    grid.produce(2)
    grid.produce(2, first=2)
    grid.subscribe("B")
    worker = grid.worker()
    worker.run()
    grid.produce(1, first=9)
    worker.take()
    worker.cycle("block_manager")
    grid.produce(1, first=10, close=False)
    found = ask(grid, "B")
    worker.close()
    assert (found.there, found.under_way, found.still_open) == (2, 1, 1)
    assert found.copied == Amount()
    assert found.hours is None


def test_what_finds_no_way_is_said_with_its_reason(database: Database) -> None:
    grid = DataGrid(database, "ABC")
    grid.link("AB")
    grid.produce(2)
    (caution,) = ask(grid, "C").cautions
    assert (caution.code, caution.blocks, caution.bytes) == (Reason.NO_LIVE_LINK, 1, size_of(grid))


def test_quotas_and_space_are_told_before_and_after(database: Database) -> None:
    grid = DataGrid(database, "AB")
    grid.link("AB")
    grid.produce(3)
    size = size_of(grid)
    row = {"id": 1, "owner": "space:T2_XX_B:physics", "limit_value": size - 1, "used_value": 0}
    grid.do(lambda conn, _: insert_rows(conn, quota, [row]))
    grid.do(lambda conn, _: conn.execute(update(se).where(se.c.id == 2).values(space_bytes=10 * size)))
    found = ask(grid, "B", group="physics")
    assert [(one.group, one.before, one.after, one.limit) for one in found.rooms] == [
        (None, 0, size, 10 * size),
        ("physics", 0, size, size - 1),
    ]
    (caution,) = found.cautions
    assert (caution.code, caution.params["free"], caution.params["size"]) == (
        Reason.QUOTA_FULL,
        size - 1,
        size,
    )
    told = previews.preview(found, {1: "T2_A", 2: "T2_B"})
    assert told["by_link"] == {"T2_A -> T2_B": size}
    assert told["warnings"] == [
        f"group physics has {readable(size - 1)} of {readable(size - 1)} left at T2_XX_B, "
        f"and {readable(size)} are needed"
    ]


def test_a_removal_tells_what_stays_and_why(database: Database) -> None:
    grid = DataGrid(database, "ABC")
    grid.link("AB", "AC")
    grid.produce(2)
    keys = {name: grid.subscribe(name) for name in "BC"}
    worker = grid.worker()
    worker.run()
    worker.close()
    grid.do(lambda conn, now: store.unsubscribe(conn, keys["B"], "anna", now))
    subject = Subject(grid.dataset_id)
    with database.snapshot() as conn:
        free = preview.removal(conn, subject, [2])
        asked = preview.removal(conn, subject, [3])
        nothing = preview.removal(conn, Subject(grid.dataset_id, block_id=99), [2])
    assert free.removed == Amount(blocks=1, files=2, bytes=size_of(grid))
    assert asked.removed == nothing.removed == Amount()
    assert [(one.code, one.params["id"]) for one in asked.cautions] == [(Reason.SUBSCRIBED, keys["C"])]
    assert len(grid.rows(select(block_replica.c.se_id))) == 3


def test_of_the_last_two_copies_one_would_stay(database: Database) -> None:
    grid = DataGrid(database, "AB")
    grid.link("AB")
    grid.produce(2)
    key = grid.subscribe("B")
    worker = grid.worker()
    worker.run()
    worker.close()
    grid.do(lambda conn, now: store.unsubscribe(conn, key, "anna", now))
    with database.snapshot() as conn:
        found = preview.removal(conn, Subject(grid.dataset_id), [1, 2])
    assert found.removed.blocks == 1
    assert [one.code for one in found.cautions] == [Reason.LAST_REPLICA]


def test_a_move_counts_the_copy_to_come_as_the_one_that_stays(database: Database) -> None:
    grid = DataGrid(database, "AB")
    grid.link("AB")
    grid.produce(2)
    policies = linkstates.policies(grid.settings)
    with database.snapshot() as conn:
        found = preview.move(conn, Subject(grid.dataset_id), [1], 2, grid.clock.now(), policies)
    assert found.copied == found.removed == Amount(blocks=1, files=2, bytes=size_of(grid))
    assert found.cautions == ()


def test_a_change_of_a_link_tells_what_goes_another_way(database: Database) -> None:
    grid = DataGrid(database, "ABC")
    grid.link("AB", "AC")
    grid.link("CB", distance=30)
    grid.produce(2)
    grid.subscribe("B")
    worker = grid.worker()
    worker.take()
    worker.cycle("block_manager")
    worker.close()
    policies, now, size = linkstates.policies(grid.settings), grid.clock.now(), size_of(grid)
    with database.snapshot() as conn:
        views = linkstates.views(conn)
        off = replace(views[1, 2], enabled=False)
        found = preview.link_change(conn, {(1, 2): off}, now, policies)
        alone = preview.link_change(conn, {(1, 2): off, (1, 3): None}, now, policies)
    assert found.before.by_link == {(1, 2): size}
    assert found.after.by_link == {(1, 3): size, (3, 2): size}
    names = {1: "A", 2: "B", 3: "C"}
    assert previews.comparison(found, names)["changed"] == {
        "A -> B": -size,
        "A -> C": size,
        "C -> B": size,
    }
    assert [one.code for one in alone.after.cautions] == [Reason.NO_PATH]
    (told,) = previews.comparison(alone, names)["warnings"]
    assert told.startswith("1 block: ")


def test_nothing_to_do_is_nothing(database: Database) -> None:
    grid = DataGrid(database, "AB")
    grid.link("AB")
    grid.produce(2)
    found = ask(grid, "A")
    assert (found.there, found.copied, found.by_link, found.hours) == (1, Amount(), {}, None)
