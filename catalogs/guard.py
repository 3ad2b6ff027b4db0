"""The guard: which replicas may go, so that the last good copy of a file stays."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from collections.abc import Set as AbstractSet
from enum import StrEnum
from typing import NamedTuple, Protocol

from sqlalchemy import Connection, case, select

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
    ABSENT = "no such replica"


class Copy(NamedTuple):
    """What of a replica decides whether it may go, and is counted when it does."""

    block_id: int
    se_id: int
    state: ReplicaState
    custodial: int
    transit: int
    #: Whether it is to go: it may be read, but protects no other copy.
    leaving: int

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
    @property
    def leaving(self) -> int: ...


COPIES = (
    select(
        *(block_replica.c[name] for name in Copy._fields[:-1]),
        case((block_replica.c.delete_at.is_(None), 0), else_=1).label("leaving"),
    )
    .where(within(block_replica.c.block_id))
    .order_by(block_replica.c.block_id, block_replica.c.se_id)
)


def judge(
    conn: Connection,
    keys: Collection[ReplicaKey],
    *,
    custodial_too: bool | Collection[ReplicaKey] = False,
    complete_only: bool = False,
) -> tuple[dict[ReplicaKey, Kept], list[Copy]]:
    """Those that stay were all let go now, one after the other, and those that go; nothing changes.

    With `complete_only` a replica in another state is none; `custodial_too` may name the replicas that may be
    the last custodial ones. The caller holds the blocks' locks.
    """
    ids = {"ids": sorted({block_id for block_id, _ in keys})}
    copies, faulty = reads.rows(conn, [Read(COPIES, ids), Read(exceptions.FAULTS, ids)])
    held: dict[int, dict[int, Copy]] = {}
    for one in map(Copy._make, copies):
        held.setdefault(one.block_id, {})[one.se_id] = one
    faults = exceptions.by_se(faulty)
    freed = set(keys) if custodial_too is True else set(custodial_too or ())
    kept: dict[ReplicaKey, Kept] = {}
    going: list[Copy] = []
    for key in sorted(set(keys)):
        block_id, se_id = key
        rows = held.get(block_id, {})
        mine = rows.get(se_id)
        if mine is None or (complete_only and mine.state is not ReplicaState.COMPLETE):
            kept[key] = Kept.ABSENT
        elif why := refusal(rows, faults.get(block_id, {}), se_id, custodial_too=key in freed):
            kept[key] = why
        elif mine.state is not ReplicaState.DELETING:
            going.append(rows.pop(se_id))
    return kept, going


def refusal(
    held: Mapping[int, Standing],
    faults: Mapping[int, AbstractSet[int]],
    se_id: int,
    *,
    custodial_too: bool,
) -> Kept | None:
    """Why the replica at `se_id` must stay, given a block's replicas and faulty files by SE; pure.

    A COMPLETE one goes only while another COMPLETE one stays and each of its good files is good in another.
    Replicas that are leaving will go themselves: they count for nothing.
    """
    mine = held.get(se_id)
    if mine is None:
        return Kept.ABSENT
    if mine.state is ReplicaState.DELETING:
        return None
    others = [
        one
        for one in held.values()
        if one is not mine and one.state is ReplicaState.COMPLETE and not one.leaving
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
