"""What datasets look like: by name, and one with its facts, its blocks and who holds or wants them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection

from catalogs import discovery, histories
from gridapp import naming
from gridapp.insights import blocks, deliveries
from gridapp.insights.values import LIMIT, record

SHORT = ("id", "name", "state", "tier", "access", "files", "bytes", "events", "created_at")


def datasets(conn: Connection, pattern: str = "*", limit: int = LIMIT) -> list[dict[str, Any]]:
    """Datasets by name whose name fits the pattern, `*` standing for any text."""
    return [record(one, *SHORT) for one in discovery.datasets(conn, pattern, limit)]


def dataset(conn: Connection, name: str, limit: int = LIMIT) -> dict[str, Any]:
    """One dataset, its first blocks, who has them, who subscribed. Raises NotFound with near names."""
    found = facts(conn, name)
    wanted = deliveries.subscriptions_of(conn, found["id"])
    return {**found, "subscriptions": wanted, "block_list": blocks.blocks(conn, name, limit=limit)}


def facts(conn: Connection, name: str) -> dict[str, Any]:
    """One dataset: what is said of it, and who holds it. Raises NotFound with near names."""
    view = discovery.dataset_show(conn, naming.dataset(conn, name).name)
    one = view.dataset
    return {
        **record(one, *SHORT, "group", "description"),
        **record(view, "metadata", "parents", "children", "invalid", "blocks"),
        "holdings": [
            record(held, "se", "site", "blocks", "closed", "files", "bytes", "excepted")
            for held in view.holdings
        ],
        "moving": [record(held, "se", "site", "state", "blocks", "files", "bytes") for held in view.moving],
    }


def history(conn: Connection, name: str, limit: int = LIMIT) -> list[dict[str, Any]]:
    """What was changed of a dataset, newest first. Raises NotFound."""
    found = histories.of_dataset(conn, naming.dataset(conn, name).id, limit)
    return [record(one, "at", "actor", "change", "detail") for one in found]
