"""Share nodes: the tree's rows. A group's node comes from `apply`; a user's leaf below it appears with the
first task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, and_, bindparam, delete, exists, select, update

from gridcore.db.statements import insert_rows, lock_rows, run_many, select_in
from gridcore.errors import NotFound, UsageError
from prodsys.shares.fairshare import ShareNode, decayed
from prodsys.tables import share_node, site_share, task

#: Weight of a user's leaf beside its siblings, where its group says nothing else.
LEAF_TARGET = 1.0
HALF_LIFE_S = 24 * 3600.0
#: What people set of a node.
SETTINGS = ("target", "floor", "cap", "child_target", "half_life_s")

_COLUMNS = [
    *(share_node.c[name] for name in ("id", "parent_id", "path", "target", "running", "used", "used_at")),
    *(share_node.c[name] for name in ("floor", "cap", "child_target", "half_life_s")),
]
NODES = select(*_COLUMNS).order_by(share_node.c.id)
#: The same with the site's weight, which few nodes have.
NODES_AT = select(*_COLUMNS, site_share.c.weight).outerjoin_from(
    share_node,
    site_share,
    and_(site_share.c.node_id == share_node.c.id, site_share.c.site_id == bindparam("at_site")),
)
BY_PATH = select(share_node).where(share_node.c.path == bindparam("of_path"))
BELOW = select(share_node.c.id).where(share_node.c.parent_id == bindparam("node_id")).limit(1)
PATHS = select(share_node.c.id, share_node.c.path).order_by(share_node.c.path)
#: Users' leaves hold tasks, groups do not.
HOLDS_TASKS = select(share_node.c.id).where(
    share_node.c.id.in_(bindparam("ids", expanding=True)),
    exists(select(task.c.id).where(task.c.leaf_id == share_node.c.id)),
)
CHANGE = (
    update(share_node)
    .where(share_node.c.id == bindparam("node_id"))
    .values({name: bindparam(f"new_{name}") for name in SETTINGS})
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
WEIGHTS = select(site_share).order_by(site_share.c.site_id, site_share.c.node_id)
FORGET_WEIGHT = delete(site_share).where(
    site_share.c.site_id == bindparam("of_site"), site_share.c.node_id == bindparam("of_node")
)


# --- making and changing ----------------------------------------------------------------------------------


def put(
    conn: Connection,
    new_id: int,
    path: str,
    parent: str | None,
    target: float,
    now: datetime,
    *,
    floor: float | None = None,
    cap: float | None = None,
    child_target: float | None = None,
    half_life_s: float | None = None,
) -> bool:
    """Create the node, or give the one of that path these settings, None being none; whether it changed.

    Raises UsageError for a parent that is unknown or a user's.
    """
    wanted = dict(zip(SETTINGS, (target, floor, cap, child_target, half_life_s), strict=True))
    old = conn.execute(BY_PATH, {"of_path": path}).one_or_none()
    if old is not None:
        return _change(conn, old, wanted, now)
    parent_id = None if parent is None else _parent(conn, parent)
    insert_rows(conn, share_node, [_row(new_id, parent_id, path, now, wanted)])
    return True


def change(conn: Connection, path: str, settings: Mapping[str, float | None], now: datetime) -> bool:
    """Give a node some of the SETTINGS, None being none; whether it changed. Raises NotFound.

    A new half-life counts from now on. Whether it stays a tree of shares is for the caller to check.
    """
    old = conn.execute(BY_PATH, {"of_path": path}).one_or_none()
    if old is None:
        raise NotFound(f"there is no share {path}", hint="see: tierflow share show")
    return _change(conn, old, {**_settings(old), **settings}, now)


def _change(conn: Connection, old: Any, wanted: Mapping[str, float | None], now: datetime) -> bool:
    if _settings(old) == wanted:
        return False
    if old.half_life_s != wanted["half_life_s"]:
        settle(conn, now)
    binds = {f"new_{name}": value for name, value in wanted.items()}
    conn.execute(CHANGE, {"node_id": old.id, **binds})
    return True


def _settings(row: Any) -> dict[str, float | None]:
    return {name: getattr(row, name) for name in SETTINGS}


def _parent(conn: Connection, path: str) -> int:
    row = conn.execute(BY_PATH, {"of_path": path}).one_or_none()
    if row is None:
        raise UsageError(f"there is no share {path!r}", hint="define the parent as well, before its children")
    if row.parent_id is not None and select_in(conn, HOLDS_TASKS, [row.id]):
        raise UsageError(
            f"the share {path} is a user's: with another one below it its work would never be served",
            hint="give the new share another parent",
        )
    return int(row.id)


def _row(
    key: int, parent_id: int | None, path: str, now: datetime, settings: Mapping[str, float | None]
) -> dict[str, object]:
    return {"id": key, "parent_id": parent_id, "path": path, "used_at": now, **settings}


def weights(conn: Connection) -> dict[tuple[int, int], float]:
    """What sites multiply targets by, as (site key, node key): weight; what is not named is 1."""
    return {(row.site_id, row.node_id): row.weight for row in conn.execute(WEIGHTS)}


def set_weights(conn: Connection, new: Mapping[tuple[int, int], float]) -> int:
    """Let sites multiply targets by these, 1 being no weight of its own; how many were changed."""
    old = weights(conn)
    changed = {pair: weight for pair, weight in sorted(new.items()) if old.get(pair, 1.0) != weight}
    run_many(conn, FORGET_WEIGHT, [{"of_site": site, "of_node": node} for site, node in changed])
    rows = [
        {"site_id": site, "node_id": node, "weight": weight}
        for (site, node), weight in changed.items()
        if weight != 1.0
    ]
    insert_rows(conn, site_share, rows)
    return len(changed)


# --- groups and users -------------------------------------------------------------------------------------


def leaf(conn: Connection, new_id: int, group: str, user: str, now: datetime) -> int:
    """The leaf of a user in a group, made on first use with the target its group gives new ones.

    The group is a path, or the end of one: "higgs" is "cms/higgs". Raises UsageError for a group without
    share, or where several fit.
    """
    found = _groups(conn, [group])[group]
    if len(found) != 1:
        raise _no_group(conn, group, found)
    above = conn.execute(BY_PATH, {"of_path": found[0]}).one()
    lock_rows(conn, share_node, [above.id])
    path = f"{above.path}/{user}"
    old = conn.execute(BY_PATH, {"of_path": path}).one_or_none()
    if old is not None:
        return _users(conn, old)
    target = LEAF_TARGET if above.child_target is None else above.child_target
    settings = {**dict.fromkeys(SETTINGS), "target": target}
    insert_rows(conn, share_node, [_row(new_id, above.id, path, now, settings)])
    return new_id


def _users(conn: Connection, node: Any) -> int:
    """The key of a node that is to hold a user's work. Raises UsageError for a group's."""
    if node.child_target is not None or conn.execute(BELOW, {"node_id": node.id}).first():
        raise UsageError(
            f"{node.path} is a group: work that waits on it itself would never be served",
            hint="no user may be called as a group beside it is: give the group another name",
        )
    return int(node.id)


def unknown_groups(conn: Connection, groups: Iterable[str]) -> list[str]:
    """Those of the groups that have no node. Raises UsageError for one that several fit."""
    found = _groups(conn, groups)
    for group, paths in found.items():
        if len(paths) > 1:
            raise _no_group(conn, group, paths)
    return sorted(group for group, paths in found.items() if not paths)


def _groups(conn: Connection, groups: Iterable[str]) -> dict[str, list[str]]:
    """The paths each name may mean: the one it is, else those it ends, which are no users' leaves."""
    ids = {row.path: row.id for row in conn.execute(PATHS)}
    found = {
        group: [group] if group in ids else [path for path in ids if path.endswith(f"/{group}")]
        for group in set(groups)
    }
    below = [ids[path] for paths in found.values() for path in paths if "/" in path]
    users = {row.id for row in select_in(conn, HOLDS_TASKS, below)}
    return {group: [path for path in paths if ids[path] not in users] for group, paths in found.items()}


def _no_group(conn: Connection, group: str, found: Sequence[str]) -> UsageError:
    if found:
        return UsageError(
            f"the group {group!r} may be any of {', '.join(found)}", hint="name it by its whole path"
        )
    known = sorted(row.path for row in conn.execute(NODES) if row.parent_id is None)
    return UsageError(
        f"the group {group!r} has no share of the grid", hint=f"groups with one: {', '.join(known) or 'none'}"
    )


# --- reading and settling ---------------------------------------------------------------------------------


def tree(conn: Connection, now: datetime, site_id: int | None = None) -> list[ShareNode]:
    """All nodes, usage decayed to now; with a site, weighted as that site wants it.

    What is used and run is at the leaves: divide and explain sum it up. One statement: every claim reads it.
    """
    rows = conn.execute(NODES_AT, {"at_site": site_id}).all()
    lives = _half_lives((row[0], row[1], row[-2]) for row in rows)
    return [_node(row, now, lives) for row in rows]


def _node(row: Any, now: datetime, lives: Mapping[int, float]) -> ShareNode:
    key, parent, path, target, running, used, used_at, floor, cap, child_target, half_life, weight = row
    return ShareNode(
        id=key,
        parent=parent,
        path=path,
        target=target,
        running=float(running),
        used=decayed(used, (now - used_at).total_seconds(), lives[key]) if used else 0.0,
        floor=floor,
        cap=cap,
        weight=1.0 if weight is None else weight,
        child_target=child_target,
        half_life_s=half_life,
    )


def _half_lives(rows: Iterable[tuple[int, int | None, float | None]]) -> dict[int, float]:
    """The half-life that counts for each node, in seconds: its root's. Rows are (key, parent, own)."""
    by_key = {key: (parent, own) for key, parent, own in rows}
    found: dict[int, float] = {}
    for key in by_key:
        at = key
        parent, own = by_key[at]
        while parent is not None and at not in found:
            at = parent
            parent, own = by_key[at]
        found[key] = found.get(at, own or HALF_LIFE_S)
    return found


def settle(conn: Connection, now: datetime) -> int:
    """Write the decay into the rows; how many. Done often, so that charges are hardly misdated."""
    rows = conn.execute(NODES).all()
    lives = _half_lives((row.id, row.parent_id, row.half_life_s) for row in rows)
    binds = [
        {
            "node_id": row.id,
            "seen": row.used_at,
            "at": now,
            "factor": decayed(1.0, (now - row.used_at).total_seconds(), lives[row.id]),
        }
        for row in rows
    ]
    return run_many(conn, SETTLE, binds)
