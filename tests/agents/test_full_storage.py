"""A storage element that told a copy it was full: left alone for a while, or until there is room again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from grids.data_grid import DataGrid

from catalogs import sites, space
from catalogs.space import Use
from catalogs.states import Switch
from datamgmt.links import linkerrors
from datamgmt.links.linkerrors import Failed
from datamgmt.reasons import Reason
from datamgmt.tools.base import ErrorClass
from gridcore.db import Database

LINK, B = 102, 2


class Full:
    """B has 10 GB, is removing some files, and has told a copy that it was full."""

    def __init__(self, database: Database) -> None:
        self.grid = DataGrid(database, "ABC")
        self.grid.link("AB")
        self.grid.produce(3)
        self.grid.subscribe("B")
        self.hold(10**10)
        self.used = Use()
        self.use(Use(leaving=500))
        self.worker = self.grid.worker("one", ["block_manager", "router"])
        self.worker.take()
        self.worker.cycle("block_manager")
        self.tell()

    def tell(self) -> None:
        failed = Failed(link_id=LINK, error_class=ErrorClass.DEST_FULL, error="disk full", file_id=1)
        self.grid.do(lambda conn, now: linkerrors.record(conn, [failed], now))

    def hold(self, most: int | None) -> None:
        with self.grid.database.snapshot() as conn:
            (found,) = (one for one in sites.storage_elements(conn) if one.id == B)
        self.grid.do(lambda conn, _: sites.put_se(conn, replace(found, space_bytes=most)))

    def use(self, more: Use) -> None:
        self.used = Use(*(a + b for a, b in zip(self.used, more, strict=True)))
        self.grid.do(lambda conn, _: space.change(conn, {B: more}))

    def look(self) -> str:
        self.worker.cycle("router")
        return self.grid.word("B")[0]


@pytest.fixture
def full(database: Database) -> Iterator[Full]:
    made = Full(database)
    assert made.look() == Reason.SE_FULL
    made.grid.clock.advance(1)
    assert made.look() == Reason.SE_FULL
    yield made
    made.worker.close()
    made.use(-made.used)  # no replicas are behind it


def test_files_that_are_gone_end_it(full: Full) -> None:
    full.use(Use(leaving=-200))
    assert full.look() == Reason.ROUTED


@pytest.mark.parametrize("most", [2 * 10**10, None])
def test_more_space_ends_it(full: Full, most: int | None) -> None:
    full.hold(most)
    assert full.look() == Reason.ROUTED


def test_less_space_and_files_that_are_to_go_do_not_end_it(full: Full) -> None:
    full.hold(10**9)
    full.use(Use(leaving=300, complete=-300))
    assert full.look() == Reason.SE_FULL


def test_it_is_full_again_when_a_later_copy_says_so(full: Full) -> None:
    full.hold(None)
    assert full.look() == Reason.ROUTED
    full.grid.clock.advance(1)
    full.tell()
    full.grid.do(lambda conn, now: sites.set_link_state(conn, LINK, Switch.DISABLED, "cut"))
    full.look()
    full.grid.do(lambda conn, now: sites.set_link_state(conn, LINK, Switch.ENABLED, None))
    assert full.look() == Reason.SE_FULL
