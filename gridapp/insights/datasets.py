"""What datasets look like: by name, and one with its blocks and who holds or wants them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, select

from catalogs import discovery
from catalogs.tables import dataset as dataset_table
from gridapp.insights import deliveries
from gridapp.insights.values import LIMIT, not_found, record
from gridcore.errors import NotFound

DATASET_NAMES = select(dataset_table.c.name).order_by(dataset_table.c.id.desc()).limit(1000)


def datasets(conn: Connection, pattern: str = "*", limit: int = LIMIT) -> list[dict[str, Any]]:
    """Datasets by name whose name fits the pattern, `*` standing for any text."""
    names = ("id", "name", "state", "files", "bytes", "events", "created_at")
    return [record(one, *names) for one in discovery.datasets(conn, pattern, limit)]


def dataset(conn: Connection, name: str) -> dict[str, Any]:
    """One dataset with its blocks, who holds them and who subscribed. Raises NotFound with near names."""
    try:
        view = discovery.dataset_show(conn, name)
    except NotFound:
        known = conn.execute(DATASET_NAMES).scalars()
        raise not_found("dataset", name, known, "tierflow dataset list") from None
    one = view.dataset
    return {
        **record(one, "id", "name", "state", "files", "bytes", "events", "created_at"),
        "blocks": {state.value: n for state, n in view.blocks.items()},
        "replicas": [
            record(held, "se", "site", "state", "blocks", "files", "bytes") for held in view.holdings
        ],
        "subscriptions": deliveries.subscriptions_of(conn, one.id),
        "block_list": [_block(found) for found in discovery.blocks(conn, name, limit=LIMIT)],
    }


def _block(view: discovery.BlockView) -> dict[str, Any]:
    return {
        **record(view.block, "name", "state", "files", "bytes", "events", "created_at", "closed_at"),
        "replicas": {name: found.state.value for name, found in view.replicas.items()},
    }
