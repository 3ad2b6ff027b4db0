"""Files nobody shall read, of which no good copy is left: their blocks are copied without them."""

from __future__ import annotations

from datetime import timedelta

from grids.data_grid import DataGrid
from sqlalchemy import select

from catalogs import exceptions, validity
from catalogs.exceptions import FileFault
from catalogs.states import InvalidCode, ReplicaState
from catalogs.tables import file_exception, invalid_file
from datamgmt.deletions import repairs
from gridcore.db import Database

HOUR = timedelta(hours=1)


def test_an_invalid_file_that_is_bad_everywhere_is_not_waited_for(database: Database) -> None:
    grid = DataGrid(database, "AB")
    grid.link("AB")
    _, second, _ = grid.produce(3)
    worker = grid.worker()
    grid.do(lambda conn, now: validity.invalidate(conn, [second], InvalidCode.INVALID, "anna", now))
    grid.do(lambda conn, now: exceptions.add(conn, 1, grid.ids["A"], {second: FileFault.BAD}, now))
    grid.subscribe("B")
    worker.run(rounds=5)
    assert grid.replicas().keys() == {(1, "A")}
    grid.clock.advance(4000)
    given_up = [grid.do(lambda conn, now: repairs.give_up(conn, now, HOUR)) for _ in range(2)]
    assert given_up == [1, 0]
    assert grid.rows(select(invalid_file.c.code)) == [(InvalidCode.LOST,)]
    grid.clock.advance(10**5)
    worker.run()
    worker.close()
    assert grid.replicas()[1, "B"] is ReplicaState.COMPLETE
    assert grid.rows(select(file_exception.c.se_id).order_by("se_id")) == [(1,), (2,)]
