"""Holdings: what each storage element holds of each dataset in COMPLETE replicas, counted as it changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, bindparam, select

from catalogs.tables import holding
from gridcore.db import counters

#: (dataset, se, more blocks, more of them closed, more files, more bytes)
Growth = tuple[int, int, int, int, int, int]


@dataclass(frozen=True, slots=True)
class Held:
    """COMPLETE replicas of a dataset's blocks at an SE, those of closed blocks, and what is in them."""

    dataset_id: int
    se_id: int
    blocks: int
    closed: int
    files: int
    bytes: int


_HELD = select(holding).where(holding.c.blocks > 0)
OF_DATASET = _HELD.where(holding.c.dataset_id == bindparam("on_dataset")).order_by(holding.c.se_id)
AT_SE = _HELD.where(holding.c.se_id == bindparam("on_se")).order_by(holding.c.dataset_id)


def grow(conn: Connection, rows: Sequence[Growth]) -> None:
    """Count what came, or with negative numbers went; in the transaction of the replicas it counts."""
    more: dict[tuple[int, ...], list[int]] = {}
    for dataset_id, se_id, blocks, closed, files, size in rows:
        sums = more.setdefault((dataset_id, se_id), [0, 0, 0, 0])
        sums[0] += blocks
        sums[1] += closed
        sums[2] += files
        sums[3] += size
    counters.grow(conn, holding, more)


def of_dataset(conn: Connection, dataset_id: int) -> list[Held]:
    """Who holds anything of the dataset, by SE."""
    return [Held(*row) for row in conn.execute(OF_DATASET, {"on_dataset": dataset_id})]


def at(conn: Connection, se_id: int) -> list[Held]:
    """What the SE holds, by dataset."""
    return [Held(*row) for row in conn.execute(AT_SE, {"on_se": se_id})]
