"""Counters kept as rows: sums by key, made when first counted, changed by what is added."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import Connection, Select, Table, select

from gridcore.db import bulk
from gridcore.db.bulk import Change
from gridcore.db.idlists import within
from gridcore.db.statements import insert_new

Key = tuple[int, ...]


@cache
def _known(table: Table) -> Select[Any]:
    keys = list(table.primary_key.columns)
    return select(*keys).where(*(within(one, one.name) for one in keys))


def grow(conn: Connection, table: Table, rows: Mapping[Key, Sequence[int]]) -> None:
    """Add to the rows named by their primary keys, in ascending order; one that is not there begins at zero.

    What is added, negative too, goes by the table's other columns in their order; rows with nothing to add
    are left alone.
    """
    more = {key: rows[key] for key in sorted(rows) if any(rows[key])}
    if not more:
        return
    keys = table.primary_key.columns.keys()
    named = dict(zip(keys, map(list, zip(*more, strict=True)), strict=True))
    known = {tuple(row) for row in conn.execute(_known(table), named)}
    for key in sorted(more.keys() - known):
        insert_new(conn, table, dict(zip(keys, key, strict=True)))
    sums = [one.name for one in table.columns if not one.primary_key]
    added = dict(zip(sums, map(list, zip(*more.values(), strict=True)), strict=True))
    bulk.write(conn, [Change(table, named, added)])
