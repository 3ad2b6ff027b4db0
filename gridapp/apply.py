"""The topology in the database, the truth: files are its input by `apply` and its output by `export`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from gridapp.topology.changes import KEY_TABLES, PUT, REMOVE, Unit
from gridapp.topology.diff import Change, difference, merged, settled, summary
from gridapp.topology.items import Topology
from gridapp.topology.rows import stored
from gridapp.topology.work import check_agents, check_shares
from gridapp.topology.writer import write_topology
from gridcore.db import Database, insert_rows, lock_rows
from gridcore.db.keys import Keys
from gridcore.errors import Conflict
from gridcore.tables import audit_log, revision
from prodsys.jobs.store import QUEUE
from prodsys.tables import queue

__all__ = ["Change", "apply", "export", "plan", "stored", "summary"]

#: Where something stands that only the files and the database together make wrong.
WHOLE = "files and database together"


def export(conn: Connection, directory: Path) -> list[Path]:
    """Write the stored topology as a directory that `apply` reads; the paths. Raises UsageError."""
    return write_topology(stored(conn), directory)


def plan(conn: Connection, topology: Topology, prune: bool) -> list[Change]:
    """What `apply` would do now, in its order; with `prune`, what the files do not name is removed.

    Raises UsageError where files and database do not go together.
    """
    return _planned(conn, topology, prune)[1]


def _planned(conn: Connection, topology: Topology, prune: bool) -> tuple[Topology, list[Change]]:
    """The topology with what it leaves open settled, and what it changes."""
    old = stored(conn)
    new = settled(topology, old)
    whole = merged(new, old, prune)
    check_agents((WHOLE, one) for one in whole.agent.values())
    check_shares(whole.share, WHOLE)
    return new, difference(old, new, prune)


def apply(
    database: Database, keys: Keys, topology: Topology, actor: str, prune: bool, now: datetime
) -> list[Change]:
    """Make the database say what the topology says, all of it or nothing; what was changed.

    Each change is audited, and the input's digest is recorded as a revision. Raises Conflict where something
    to be removed is in use, or somebody else applied at the same moment, UsageError where files and database
    do not go together.
    """
    with database.snapshot() as conn:
        if not plan(conn, topology, prune):
            return []
    needed: Counter[str] = Counter()
    for kind, items in topology.kinds().items():
        needed.update(dict.fromkeys(KEY_TABLES[kind], len(items)))
    ranges = {table: keys.take(table, n) for table, n in needed.items()}

    def write(conn: Connection) -> list[Change]:
        # Claims wait, so that none sees half of it; two who apply take turns.
        lock_rows(conn, queue, [QUEUE])
        unit = Unit(conn, {table: iter(taken) for table, taken in ranges.items()}, now)
        new, changes = _planned(conn, topology, prune)
        _carry_out(unit, new, changes)
        _record(conn, topology, changes, actor, now)
        return changes

    try:
        return database.transaction(write)
    except IntegrityError:
        raise Conflict(
            "the topology changed while it was applied; nothing was written", hint="apply it again"
        ) from None


def _carry_out(unit: Unit, new: Topology, changes: Sequence[Change]) -> None:
    for kind, items in new.kinds().items():
        todo = [items[one.name] for one in changes if one.kind == kind and one.action != "remove"]
        if todo:
            PUT[kind](unit, todo)
    for one in changes:
        if one.action == "remove":
            try:
                REMOVE[one.kind](unit, one.name)
            except Conflict as error:
                raise Conflict(
                    f"{one.kind} {one.name} cannot be removed: {error.message}", hint=error.hint
                ) from None


def _record(
    conn: Connection, topology: Topology, changes: Sequence[Change], actor: str, now: datetime
) -> None:
    rows = [
        {
            "at": now,
            "actor": actor,
            "verb": f"apply: {one.action}",
            "subject": f"{one.kind} {one.name}",
            "detail": {"change": one.detail},
        }
        for one in changes
    ]
    insert_rows(conn, audit_log, rows)
    row = {"at": now, "actor": actor, "digest": topology.digest(), "summary": summary(changes)}
    if changes:
        insert_rows(conn, revision, [row])
