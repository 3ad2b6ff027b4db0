"""Every invariant of the data half finds the one row that breaks it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from grids.data_grid import DataGrid
from sqlalchemy import Connection, Table, delete, insert, select, update

from catalogs import replicas
from catalogs.invariants import INVARIANTS as OF_CATALOGUES
from catalogs.replicas import Begin
from catalogs.states import BlockState, ReplicaState, WishState
from catalogs.tables import (
    block,
    block_replica,
    data_file,
    dataset,
    file_exception,
    file_parent,
    file_run,
    holding,
    invalid_file,
    se_use,
    wish,
)
from datamgmt.deletion_states import DeletionState
from datamgmt.invariants import INVARIANTS as OF_MOTION
from datamgmt.subscription_states import SubscriptionState
from datamgmt.subscriptions import allocating
from datamgmt.tables import (
    ALL_QUEUED,
    block_dest,
    deletion,
    link_state,
    route_via,
    subscription,
    transfer,
)
from gridapp import quotas
from gridcore.clock import FakeClock
from gridcore.db import Database
from gridcore.db.invariants import violations
from gridcore.tables import quota

INVARIANTS = (*OF_CATALOGUES, *OF_MOTION)
A, B, C = 1, 2, 3
#: No file, block or directory has this key.
NOWHERE = 99
NOW = FakeClock().now()
Break = Callable[[Connection], object]


def put(table: Table, values: dict[str, Any], **where: Any) -> Break:
    """Rows of the table get these values; a callable makes them of what they are."""
    new = {name: one(table.c[name]) if callable(one) else one for name, one in values.items()}
    conditions = [table.c[name] == value for name, value in where.items()]
    return lambda conn: conn.execute(update(table).where(*conditions).values(new))


def new(table: Table, **values: Any) -> Break:
    return lambda conn: conn.execute(insert(table).values(values))


def gone(table: Table, **where: Any) -> Break:
    conditions = [table.c[name] == value for name, value in where.items()]
    return lambda conn: conn.execute(delete(table).where(*conditions))


def copy_to(se_id: int, **values: Any) -> Break:
    """A transfer of the first file there."""
    row = {"id": 1, "file_id": 1, "block_id": 1, "src_se_id": A, "dst_se_id": se_id, "state": "QUEUED"}
    return new(transfer, **{**row, "bytes": 1, "priority": 0, "created_at": NOW, "updated_at": NOW, **values})


def more(column: Any) -> Any:
    return column + 1


THE_OPEN = select(block.c.id).where(block.c.state == BlockState.OPEN).scalar_subquery()
GO = {"id": 1, "block_id": 1, "ask_id": "a", "requester": "anna", "acct_group": "physics"}
PASSING = {"block_id": 1, "se_id": C, "via_se_id": A, "pos": 0, "lease_until": NOW}
BREAKS: dict[str, Break] = {
    "block counters": put(block, {"events": more}, id=1),
    "dataset counters": put(dataset, {"bytes": more}),
    "closed blocks": put(dataset, {"closed_blocks": more}),
    "holdings": put(holding, {"closed": more}, se_id=C),
    "uncounted holding": gone(holding, se_id=C),
    "space in use": put(se_use, {"arriving_bytes": more}, se_id=B),
    "uncounted use": gone(se_use, se_id=B),
    "empty block": put(block, {"files": 0}, state=BlockState.OPEN),
    "orphaned file": put(data_file, {"dir_id": NOWHERE}, id=1),
    "one open block": put(block, {"state": BlockState.OPEN, "closed_at": None}, id=1),
    "open block at its origin": put(block, {"origin_se_id": B}, state=BlockState.OPEN),
    "open block elsewhere": put(block_replica, {"block_id": THE_OPEN}, se_id=C),
    "lost block": put(block_replica, {"state": ReplicaState.COPYING}, block_id=1),
    "block to go": put(block_replica, {"delete_at": NOW}, block_id=1),
    "closing time": put(block, {"closed_at": None}, id=1),
    "hops": put(block_replica, {"hops": 0}, block_id=1, se_id=C),
    "file exception": new(file_exception, block_id=1, se_id=B, file_id=1, kind="bad", at=NOW),
    "invalid file": new(invalid_file, file_id=NOWHERE, code="LOST", actor="anna", at=NOW),
    "orphaned lumi range": new(file_run, file_id=NOWHERE, run=5, first_lumi=1, last_lumi=2),
    "orphaned parent": new(file_parent, file_id=1, parent_id=NOWHERE),
    "lumis of a block": new(file_run, file_id=1, run=5, first_lumi=1, last_lumi=2),
    "lumi range": new(file_run, file_id=1, run=5, first_lumi=2, last_lumi=1),
    "refused wish": put(wish, {"state": WishState.REFUSED}),
    "space quotas": put(quota, {"used_value": more}, owner="space:T2_XX_B:physics"),
    "unwanted transfer": copy_to(B, state="CANCELLED"),
    "unfolded transfer": copy_to(C, state="DONE"),
    "done but missing": copy_to(C),
    "transfer of no file": copy_to(B, file_id=NOWHERE),
    "broken route": put(block_dest, {"src_se_id": C}),
    "unwanted copy": gone(block_dest),
    "nothing to copy": put(block_dest, {"cursor_id": ALL_QUEUED}),
    "wanted sizes": put(block_dest, {"files": more}),
    "link queues": new(link_state, link_id=102, state={}, updated_at=NOW, queued_bytes=1),
    "wanted by nobody": gone(subscription),
    "route of nothing": new(route_via, **PASSING),
    "transit space": put(quota, {"used_value": more}, owner="transit:T2_B"),
    "claims": copy_to(B, claimed_by="one@here"),
    "complete and wanted": put(block_replica, {"state": ReplicaState.COMPLETE, "hops": 1}, se_id=B),
    "complete subscription": put(subscription, {"state": SubscriptionState.COMPLETE}),
    "wanted by both sides": put(block_dest, {"transit_for_id": C}),
    "repair of nothing": put(block_dest, {"repair": 1}),
    "deletion of nothing": new(
        deletion, se_id=C, state=DeletionState.DELETING, created_at=NOW, updated_at=NOW, **GO
    ),
    "replica to go": put(block_replica, {"delete_at": NOW}, block_id=1, se_id=C),
    "last copy": put(block_replica, {"state": ReplicaState.DELETING}, block_id=1),
}


class _Undone(Exception):
    """So that nothing of a broken state stays."""


def test_each_invariant_finds_what_breaks_it(database: Database) -> None:
    grid = _grid(database)
    assert set(BREAKS) == {one.name for one in INVARIANTS}
    missed = {name for name, act in BREAKS.items() if name not in _found(grid, act)}
    assert missed == set()
    assert _found(grid, lambda conn: None) == set()


def _grid(database: Database) -> DataGrid:
    """A block at A and C, on its way to B; another one open."""
    grid = DataGrid(database, "ABC")
    grid.link("AB")
    grid.produce(2)
    grid.subscribe("B")
    for number, owner in enumerate(("space:T2_XX_B:physics", "transit:T2_B"), 1):
        grid.do(lambda conn, _, key=number, of=owner: quotas.put(conn, key, of, 10**6))
    grid.do(lambda conn, now: allocating.allocate_dataset(conn, grid.dataset_id, now))
    grid.do(lambda conn, now: replicas.begin_all(conn, [Begin(1, B), Begin(1, C)], now))
    grid.do(lambda conn, now: replicas.complete_all(conn, {(1, C): 2}, now))
    grid.produce(1, first=2, close=False)
    grid.wish_away("A", "/store/unmerged/left.root")
    return grid


def _found(grid: DataGrid, act: Break) -> set[str]:
    """The invariants that do not hold after this, which is undone."""
    found: set[str] = set()

    def unit(conn: Connection, _: object) -> None:
        act(conn)
        found.update(one.name for one in violations(conn, INVARIANTS))
        raise _Undone

    try:
        grid.do(unit)
    except _Undone:
        return found
    raise AssertionError
