"""What blocks look like: those of a dataset, and one with its replicas and history."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection

from catalogs import discovery
from catalogs.discovery import BlockView
from gridapp import naming
from gridapp.insights.values import LIMIT, record

SHORT = ("name", "state", "files", "bytes", "events", "created_at", "closed_at", "close_by")


def blocks(conn: Connection, dataset: str, after: int = 0, limit: int = LIMIT) -> list[dict[str, Any]]:
    """Blocks of a dataset by id, of those ids above `after`. Raises NotFound."""
    name = naming.dataset(conn, dataset).name
    return [_short(one) for one in discovery.blocks(conn, name, after, limit)]


def block(conn: Connection, name: str) -> dict[str, Any]:
    """One block with its replicas and how it was opened and closed. Raises NotFound."""
    view = discovery.block_show(conn, name)
    replicas = [
        {"se": se, **record(one, "state", "custodial", "transit", "hops", "created_at", "completed_at")}
        for se, one in sorted(view.replicas.items())
    ]
    told = [record(one, "at", "state", "code") for one in discovery.block_history(conn, view.block.id)]
    return {**record(view.block, "id", *SHORT), "replicas": replicas, "history": told}


def _short(view: BlockView) -> dict[str, Any]:
    replicas = {name: one.state.value for name, one in view.replicas.items()}
    return {**record(view.block, "id", *SHORT), "replicas": replicas}
