"""What is read from is in use though the router has another plan by now; what only waits is not."""

from __future__ import annotations

from grids.data_grid import DataGrid
from sqlalchemy import update

from datamgmt.deletions import hindrances
from datamgmt.tables import block_dest
from gridcore.db import Database


def test_a_replica_that_a_file_is_copied_from_is_in_use(database: Database) -> None:
    grid = DataGrid(database, "AB")
    grid.link("AB")
    grid.produce(2)
    grid.subscribe("B")
    worker = grid.worker()
    worker.take()
    for kind in ("block_manager", "router"):
        worker.cycle(kind)
    grid.do(lambda conn, _: conn.execute(update(block_dest).values(src_se_id=None)))
    assert grid.do(lambda conn, _: hindrances.sources_in_use(conn, [1])) == {}
    grid.do(lambda conn, _: conn.execute(update(block_dest).values(src_se_id=grid.ids["A"])))
    worker.agents["transfer_agent"]._write = lambda *_: None  # type: ignore[attr-defined]
    worker.cycle("transfer_agent")
    grid.do(lambda conn, _: conn.execute(update(block_dest).values(src_se_id=None)))
    in_use = grid.do(lambda conn, _: hindrances.sources_in_use(conn, [1]))
    worker.close()
    assert in_use == {(1, grid.ids["A"]): grid.ids["B"]}
