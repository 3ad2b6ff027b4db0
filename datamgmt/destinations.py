"""Rows of block_dest: the replicas that are wanted, by subscriptions or in transit."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, bindparam, delete, select

from catalogs.bookkeeping import blocks_by_id
from datamgmt.allocation import ReplicaKey
from datamgmt.tables import block_dest
from gridcore.db.statements import run_many, select_in

THIS = (block_dest.c.block_id == bindparam("on_block"), block_dest.c.se_id == bindparam("on_se"))
DROP = delete(block_dest).where(*THIS)
OF_BLOCKS = select(block_dest).where(block_dest.c.block_id.in_(bindparam("ids", expanding=True)))


def of_blocks(conn: Connection, block_ids: Iterable[int]) -> list[Any]:
    """The rows of these blocks."""
    return list(select_in(conn, OF_BLOCKS, block_ids))


def drop(conn: Connection, keys: Iterable[ReplicaKey]) -> None:
    """Want these no longer."""
    run_many(conn, DROP, [at(key) for key in keys])


def sizes(conn: Connection, block_ids: Iterable[int]) -> dict[int, dict[str, int]]:
    """By closed block, what a wanted replica of it carries."""
    found = blocks_by_id(conn, block_ids)
    return {key: {"bytes": one.bytes, "files": one.files} for key, one in found.items()}


def at(key: ReplicaKey) -> dict[str, int]:
    """The binds of `THIS`."""
    return {"on_block": key[0], "on_se": key[1]}
