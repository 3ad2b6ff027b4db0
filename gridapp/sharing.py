"""Shares changed by hand, for every face: checked as a whole tree, then written and audited."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from agents.runtime.agent import Context
from gridapp.insights.values import not_found
from gridcore import audit, identity
from gridcore.db.statements import lock_rows
from gridcore.errors import UsageError
from gridcore.identity import Action, Principal
from prodsys.jobs.store import QUEUE
from prodsys.shares import shares
from prodsys.shares.fairshare import ShareNode, check_tree
from prodsys.tables import queue


def set_share(
    context: Context,
    path: str,
    settings: Mapping[str, float | None],
    actor: Principal,
    *,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Give a share a target, floor, cap, child_target or half_life_s: {"share", "changed", "was", "now"}.

    None takes a setting away; without a child_target new users get 1. With `dry_run` nothing is written.
    Raises NotFound, Denied, UsageError for what would be no tree of shares.
    """
    identity.require(actor, Action.GRID_CONFIGURE)
    if not settings:
        raise UsageError("what is to be changed?", hint="give --target, --floor, --cap, ...")
    with context.database.snapshot() as conn:
        was, now = planned(conn, path, settings, context.clock.now())
    if not dry_run:
        was, now = context.database.transaction(
            lambda conn: _write(conn, path, settings, actor.name, context.clock.now())
        )
    return {"share": path, "changed": was != now, "was": was, "now": now}


def planned(
    conn: Connection, path: str, settings: Mapping[str, float | None], at: datetime
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings of a share as they are, and with these. Raises NotFound, UsageError for no tree."""
    nodes = {node.path: node for node in shares.tree(conn, at)}
    if path not in nodes:
        raise not_found("share", path, nodes, "tierflow share show")
    old = nodes[path]
    if settings.get("target", old.target) is None:
        raise UsageError(f"share {path} needs a target", hint="give 0 to serve it when no sibling has work")
    if "child_target" in settings and not _is_group(old, nodes.values()):
        raise UsageError(f"share {path} is a user's: nobody gets one below it", hint="name the user's group")
    changes: dict[str, Any] = dict(settings)
    if changes.get("child_target", 0.0) is None:
        changes["child_target"] = shares.LEAF_TARGET
    new = replace(old, **changes)
    check_tree([*(node for node in nodes.values() if node.path != path), new])
    return _settings(old), _settings(new)


def _is_group(node: ShareNode, nodes: Iterable[ShareNode]) -> bool:
    """Groups come from files, users' leaves from their first task; files always say what new users get."""
    known = node.parent is None or node.child_target is not None
    return known or any(one.parent == node.id for one in nodes)


def _settings(node: ShareNode) -> dict[str, Any]:
    return {name: getattr(node, name) for name in shares.SETTINGS}


def _write(
    conn: Connection, path: str, settings: Mapping[str, float | None], actor: str, at: datetime
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Claims and applies wait, so that none sees half of it."""
    lock_rows(conn, queue, [QUEUE])
    was, now = planned(conn, path, settings, at)
    if shares.change(conn, path, now, at):
        detail = {name: [was[name], now[name]] for name in settings if was[name] != now[name]}
        audit.record(conn, actor, "share set", f"share {path}", at, detail)
    return was, now
