"""Space: what each storage element holds in all, what is arriving and leaving, and what is left."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import Connection, func, select

from catalogs.states import ReplicaState
from catalogs.tables import se, se_use
from gridcore.db import counters


class Use(NamedTuple):
    """Files of COMPLETE replicas, and bytes of COMPLETE, COPYING and DELETING ones, each as the whole block;
    `transit` bytes are the part of complete and arriving that is only passing through."""

    files: int = 0
    complete: int = 0
    arriving: int = 0
    leaving: int = 0
    transit: int = 0

    def __neg__(self) -> Use:
        return Use(*(-one for one in self))


@dataclass(frozen=True, slots=True)
class Space:
    """What an SE may hold in bytes, None for no limit, and what it does."""

    limit: int | None
    use: Use

    @property
    def free(self) -> int | None:
        """Bytes that nothing holds or is on its way to; below zero where more is there than may be."""
        if self.limit is None:
            return None
        return self.limit - self.use.complete - self.use.arriving - self.use.leaving


_USED = [func.coalesce(one, 0) for one in se_use.c if not one.primary_key]
SPACE = select(se.c.id, se.c.space_bytes, *_USED).outerjoin_from(se, se_use, se_use.c.se_id == se.c.id)


def of_replica(state: ReplicaState, files: int, size: int, *, transit: bool) -> Use:
    """What one replica of a block with so many files and bytes counts as."""
    passing = size if transit else 0
    if state is ReplicaState.COMPLETE:
        return Use(files=files, complete=size, transit=passing)
    if state is ReplicaState.COPYING:
        return Use(arriving=size, transit=passing)
    return Use(leaving=size)


def sums(uses: Iterable[tuple[int, Use]]) -> dict[int, Use]:
    """{se: their sum}."""
    found: dict[int, Use] = {}
    for se_id, one in uses:
        old = found.get(se_id, Use())
        found[se_id] = Use(*(a + b for a, b in zip(old, one, strict=True)))
    return found


def change(conn: Connection, uses: Mapping[int, Use]) -> None:
    """Count what changed, by SE; in the transaction of the replicas it counts."""
    counters.grow(conn, se_use, {(se_id,): use for se_id, use in uses.items()})


def read(conn: Connection) -> dict[int, Space]:
    """By SE."""
    return {row[0]: Space(row[1], Use(*row[2:])) for row in conn.execute(SPACE)}
