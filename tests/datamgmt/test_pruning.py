"""Pruning: histories and statistics go when they are old, and nothing else does."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from grids.data_grid import DataGrid
from sqlalchemy import Connection, select

from agents.janitor import Janitor
from agents.runtime.agent import own_lease
from catalogs.states import ReplicaState
from catalogs.tables import block, block_replica, se_use
from datamgmt.deletion_states import DeletionState
from datamgmt.deletions import pruning
from datamgmt.reasons import Reason
from datamgmt.tables import deletion, link_bin, route_history
from gridcore.db import Database, insert_rows, leases
from gridcore.db.leases import Owner

AGES = (1, 29, 31, 89, 91, 1000)


def aged(conn: Connection, now: datetime) -> None:
    """A route, a bin, and a deletion in each state, of each age in days."""
    stamps = [now - timedelta(days=days) for days in AGES]
    routes = [{"block_id": 1, "se_id": 1, "at": at, "code": Reason.ROUTED} for at in stamps]
    insert_rows(conn, route_history, routes)
    insert_rows(conn, link_bin, [{"link_id": 102, "bin_start": at} for at in stamps])
    rows: list[dict[str, Any]] = [
        {"state": state, "created_at": at, "updated_at": at, "due_at": None if never_due(state) else at}
        for state in DeletionState
        for at in stamps
    ]
    ((block_id, size),) = conn.execute(select(block.c.id, block.c.bytes))
    going = {"block_id": block_id, "se_id": 2, "state": ReplicaState.DELETING, "created_at": now}
    insert_rows(conn, block_replica, [going])
    insert_rows(conn, se_use, [{"se_id": 2, "leaving_bytes": size}])
    by = {"block_id": block_id, "se_id": 2, "requester": "anna", "acct_group": "physics"}
    insert_rows(conn, deletion, [{"id": n, "ask_id": str(n), **by, **row} for n, row in enumerate(rows, 1)])


def never_due(state: DeletionState) -> bool:
    return state in (DeletionState.ASKED, DeletionState.DENIED)


def test_what_is_old_goes_and_what_is_open_stays(database: Database) -> None:
    grid = DataGrid(database, "AB")
    grid.link("AB")
    grid.produce(1)
    grid.do(aged)
    assert grid.do(pruning.prune) == {"routes": 4, "bins": 4, "deletions": 8}
    assert grid.count(route_history) == grid.count(link_bin) == 2
    left = grid.rows(select(deletion.c.state).order_by(deletion.c.id))
    whole = (DeletionState.ASKED, DeletionState.APPROVED, DeletionState.DELETING)
    assert {state: left.count((state,)) for state in DeletionState} == {
        state: len(AGES) if state in whole else 4 for state in DeletionState
    }
    assert set(grid.do(pruning.prune).values()) == {0}


def test_the_janitor_does_it_every_hour(database: Database) -> None:
    grid = DataGrid(database, "AB")
    grid.link("AB")
    grid.produce(1)
    grid.do(aged)
    agent = Janitor(grid.context())
    name = own_lease(agent.name)
    key = grid.keys.one("lease")
    grid.do(lambda conn, _: leases.create(conn, [(key, name)]))
    with database.snapshot() as conn:
        rows = leases.read(conn, [name])
    (lease,) = grid.do(lambda conn, _: leases.take(conn, rows, Owner("x@here", "x", "b", 1, 1), 10**6, []))
    duties = {one.name: one for one in agent.duties()}
    assert duties["prune"].every_s == 3600
    assert duties["prune"].act(lease)["routes"] == 4
    assert set(duties) == {"settle_shares", "prune", "recount"}
