"""The guard: which replicas may go, so that the last good copy of a file stays."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from collections.abc import Set as AbstractSet
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple, Protocol

from sqlalchemy import Connection, select

from catalogs import exceptions
from catalogs.states import ReplicaState
from catalogs.tables import block_replica
from gridcore.db import reads
from gridcore.db.idlists import within
from gridcore.db.reads import Read

#: (block, SE)
ReplicaKey = tuple[int, int]


class Kept(StrEnum):
    """Why a replica is not deleted."""

    LAST = "last complete replica"
    LAST_OF_FILES = "only good copy of some files"
    CUSTODIAL = "last custodial replica"
    IN_USE = "held for others"
    ABSENT = "no such replica"


class Copy(NamedTuple):
    """What of a replica decides whether it may go, and is counted when it does."""

    block_id: int
    se_id: int
    state: ReplicaState
    custodial: int
    transit: int
    delete_at: datetime | None

    @property
    def key(self) -> ReplicaKey:
        return self.block_id, self.se_id


class Standing(Protocol):
    """A replica as the guard sees it."""

    @property
    def se_id(self) -> int: ...
    @property
    def state(self) -> ReplicaState: ...
    @property
    def custodial(self) -> int: ...


COPIES = (
    select(*(block_replica.c[name] for name in Copy._fields))
    .where(within(block_replica.c.block_id))
    .order_by(block_replica.c.block_id, block_replica.c.se_id)
)


def copies(conn: Connection, block_ids: Iterable[int]) -> dict[int, dict[int, Copy]]:
    """{block: {SE: its replica}} in any state, of the blocks that have any."""
    found: dict[int, dict[int, Copy]] = {}
    (rows,) = reads.rows(conn, [Read(COPIES, {"ids": sorted(set(block_ids))})])
    for row in rows:
        found.setdefault(row[0], {})[row[1]] = Copy(*row)
    return found


def judge(
    conn: Connection,
    keys: Collection[ReplicaKey],
    *,
    custodial_too: bool | Collection[ReplicaKey] = False,
    held_for: Collection[ReplicaKey] = (),
    complete_only: bool = False,
) -> tuple[dict[ReplicaKey, Kept], list[Copy]]:
    """Those that stay were all let go now, one after the other, and those that go; nothing changes.

    With `complete_only` a replica in another state is none. The caller holds the blocks' locks.
    """
    block_ids = {block_id for block_id, _ in keys}
    held, faults = copies(conn, block_ids), exceptions.faults_by_se(conn, block_ids)
    kept: dict[ReplicaKey, Kept] = {}
    going: list[Copy] = []
    for key in sorted(set(keys)):
        block_id, se_id = key
        rows = held.get(block_id, {})
        mine = rows.get(se_id)
        if mine is None or (complete_only and mine.state is not ReplicaState.COMPLETE):
            kept[key] = Kept.ABSENT
            continue
        custody = custodial_too if isinstance(custodial_too, bool) else key in custodial_too
        leaving = [one.se_id for one in rows.values() if one.delete_at is not None]
        why = refusal(rows, faults.get(block_id, {}), se_id, custodial_too=custody, leaving=leaving)
        if why is None and key in held_for and mine.state is not ReplicaState.DELETING:
            why = Kept.IN_USE
        if why is not None:
            kept[key] = why
        elif mine.state is not ReplicaState.DELETING:
            going.append(mine)
            rows[se_id] = mine._replace(state=ReplicaState.DELETING)
    return kept, going


def refusal(
    held: Mapping[int, Standing],
    faults: Mapping[int, AbstractSet[int]],
    se_id: int,
    *,
    custodial_too: bool,
    leaving: Collection[int] = (),
) -> Kept | None:
    """Why the replica at `se_id` must stay, given a block's replicas and faulty files by SE; pure.

    A COMPLETE one goes only while another COMPLETE one stays and each of its good files is good in another.
    Replicas at SEs that are `leaving` will go themselves: they count for nothing.
    """
    mine = held.get(se_id)
    if mine is None:
        return Kept.ABSENT
    if mine.state is ReplicaState.DELETING:
        return None
    others = [
        one
        for key, one in held.items()
        if key != se_id and key not in leaving and one.state is ReplicaState.COMPLETE
    ]
    if mine.custodial and not custodial_too and not any(one.custodial for one in others):
        return Kept.CUSTODIAL
    if mine.state is ReplicaState.COPYING:
        return None
    if not others:
        return Kept.LAST
    if not faults:
        return None
    nowhere_good = set.intersection(*(set(faults.get(one.se_id, ())) for one in others))
    return Kept.LAST_OF_FILES if nowhere_good - set(faults.get(se_id, ())) else None
