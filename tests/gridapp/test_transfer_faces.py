"""Queues, errors and quality of links as operators see them."""

from __future__ import annotations

from grids.data_grid import DataGrid

from gridapp.insights import transfers
from gridcore.db import Database


def test_a_link_on_which_half_fails(database: Database) -> None:
    grid = DataGrid(database, "AB")
    grid.link("AB")
    grid.produce(6)
    grid.subscribe("B")
    grid.tool.silent.add(f"{grid.root}/B")
    worker = grid.worker()
    worker.run(rounds=3)

    def ask(question):
        with database.snapshot() as conn:
            return question(conn)

    (error,) = ask(transfers.errors)
    assert (error["src"], error["dst"], error["owner"]) == ("T2_A", "T2_B", "destination")
    assert "does not answer" in error["sample"]
    (bad,) = ask(transfers.quality)
    assert (bad["ok"], bad["quality"], bad["failed"]) == (0, 0.0, error["n"])
    (line,) = ask(transfers.queue)
    assert line["queued"] + line["active"] > 0
    assert line["last_end"] is not None
    (busy,) = ask(transfers.transfers_by_link)
    assert sum(busy["files"].values()) == line["queued"] + line["active"]
    assert busy["bytes"] == line["queued_bytes"]
    grid.tool.silent.clear()
    worker.run(rounds=400, step_s=5)
    worker.close()
    assert ask(transfers.queue) == []
    rows = ask(transfers.quality)
    assert sum(one["ok"] for one in rows) == 6
    assert sum(one["failed"] for one in rows) >= error["n"]
