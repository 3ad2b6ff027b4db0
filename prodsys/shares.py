"""Share nodes: the tree's rows. A group's node comes from `apply`; a user's leaf below it appears with the
first task."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from sqlalchemy import Connection, bindparam, select, update

from gridcore.db.statements import insert_rows, lock_rows
from gridcore.errors import UsageError
from prodsys.fairshare import ShareNode, decayed
from prodsys.tables import share_node

#: Weight of a user's leaf beside its siblings.
LEAF_TARGET = 1.0
HALF_LIFE_S = 24 * 3600.0

NODES = select(share_node)
BY_PATH = select(share_node.c.id).where(share_node.c.path == bindparam("of_path"))
SET_TARGET = (
    update(share_node)
    .where(share_node.c.path == bindparam("of_path"), share_node.c.target != bindparam("to"))
    .values(target=bindparam("to"))
)
SETTLE = (
    update(share_node)
    .where(
        share_node.c.id == bindparam("node_id"),
        share_node.c.used_at == bindparam("seen", type_=share_node.c.used_at.type),
    )
    .values(
        used=share_node.c.used * bindparam("factor"), used_at=bindparam("at", type_=share_node.c.used_at.type)
    )
)


def put(conn: Connection, new_id: int, path: str, parent: str | None, target: float, now: datetime) -> bool:
    """Create the node or set its target; whether anything changed."""
    if conn.execute(BY_PATH, {"of_path": path}).scalar_one_or_none() is not None:
        return conn.execute(SET_TARGET, {"of_path": path, "to": target}).rowcount == 1
    parent_id = None if parent is None else conn.execute(BY_PATH, {"of_path": parent}).scalar_one()
    insert_rows(conn, share_node, [_row(new_id, parent_id, path, target, now)])
    return True


def leaf(conn: Connection, new_id: int, group: str, user: str, now: datetime) -> int:
    """The leaf of a user in a group, made on first use. Raises UsageError for a group without share."""
    parent_id = conn.execute(BY_PATH, {"of_path": group}).scalar_one_or_none()
    if parent_id is None:
        known = sorted(row.path for row in conn.execute(NODES) if "/" not in row.path)
        raise UsageError(
            f"the group {group!r} has no share of the grid",
            hint=f"groups with one: {', '.join(known) or 'none'}",
        )
    lock_rows(conn, share_node, [parent_id])
    path = f"{group}/{user}"
    found = conn.execute(BY_PATH, {"of_path": path}).scalar_one_or_none()
    if found is not None:
        return int(found)
    insert_rows(conn, share_node, [_row(new_id, parent_id, path, LEAF_TARGET, now)])
    return new_id


def _row(key: int, parent_id: int | None, path: str, target: float, now: datetime) -> dict[str, object]:
    return {"id": key, "parent_id": parent_id, "path": path, "target": target, "used_at": now}


def tree(conn: Connection, now: datetime, half_life_s: float = HALF_LIFE_S) -> list[ShareNode]:
    """All nodes; usage decayed to now; what leaves run and used is summed up into the nodes above."""
    rows = {row.id: row for row in conn.execute(NODES)}
    running = {key: float(row.running) for key, row in rows.items()}
    used = {
        key: decayed(row.used, max(0.0, (now - row.used_at).total_seconds()), half_life_s)
        for key, row in rows.items()
    }
    for key in sorted(rows, key=lambda one: -rows[one].path.count("/")):
        above = rows[key].parent_id
        if above is not None:
            running[above] += running[key]
            used[above] += used[key]
    return [
        ShareNode(
            id=row.id,
            parent=row.parent_id,
            path=row.path,
            target=row.target,
            running=running[key],
            used=used[key],
        )
        for key, row in rows.items()
    ]


def settle(conn: Connection, now: datetime, half_life_s: float = HALF_LIFE_S) -> int:
    """Write the decay into the rows; how many. Done often, so that charges are hardly misdated."""
    rows = conn.execute(NODES).all()
    return sum(
        conn.execute(
            SETTLE,
            {
                "node_id": row.id,
                "seen": row.used_at,
                "at": now,
                "factor": decayed(1.0, max(0.0, (now - row.used_at).total_seconds()), half_life_s),
            },
        ).rowcount
        for row in rows
    )


def unknown_groups(conn: Connection, groups: Iterable[str]) -> list[str]:
    """Those of the groups that have no node."""
    known = {row.path for row in conn.execute(NODES)}
    return sorted(set(groups) - known)
