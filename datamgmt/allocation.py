"""Allocation: the block replicas that the subscriptions want, against what is wanted and held. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Set
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain

from datamgmt.reasons import Reason

ReplicaKey = tuple[int, int]
"""(block id, SE id)."""
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """The wish to have closed blocks of a dataset at an SE; higher priority goes first.

    block_id: the one block; 0 for all there are and will be. after, until: only those made after, and up to,
    a moment (static ones end when they were made). move: other copies go once this one is complete. account:
    whose quota of space it takes, which is its group's; None for nobody's.
    """

    id: int
    dataset_id: int
    se_id: int
    custodial: bool = False
    priority: int = 0
    suspended: bool = False
    block_id: int = 0
    after: datetime | None = None
    until: datetime | None = None
    move: bool = False
    account: str | None = None
    group: str | None = None

    def covers(self, block: ClosedBlock) -> bool:
        """Whether it asks for the block."""
        return (
            self.dataset_id == block.dataset_id
            and self.block_id in (0, block.id)
            and (self.after is None or block.created_at > self.after)
            and (self.until is None or block.created_at <= self.until)
        )


@dataclass(frozen=True, slots=True)
class ClosedBlock:
    """`bytes` are what a replica takes of a quota."""

    id: int
    dataset_id: int
    bytes: int = 0
    created_at: datetime = _LONG_AGO
    files: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """One block_dest row: the block is wanted at the SE, on behalf of the subscription that asks loudest.

    account, group, size, files: what a new row takes of whose quota; they do not make rows differ.
    """

    block_id: int
    se_id: int
    subscription_id: int
    custodial: bool
    priority: int
    account: str | None = field(default=None, compare=False)
    group: str | None = field(default=None, compare=False)
    size: int = field(default=0, compare=False)
    files: int = field(default=0, compare=False)

    @property
    def key(self) -> ReplicaKey:
        return self.block_id, self.se_id


@dataclass(frozen=True, slots=True)
class Existing:
    """What the database has: the wanted rows by key, and the keys of COMPLETE replicas."""

    wanted: Mapping[ReplicaKey, Wanted]
    complete: Set[ReplicaKey]


@dataclass(frozen=True, slots=True)
class Drop:
    """A wanted row to take away; code is COMPLETE or UNSUBSCRIBED."""

    key: ReplicaKey
    code: Reason


@dataclass(frozen=True, slots=True)
class Waiting:
    """A row that is not added yet: its block has more bytes than the `free` ones of its account, or with code
    SE_FULL of its SE."""

    wanted: Wanted
    code: Reason
    free: int


@dataclass(frozen=True, slots=True)
class Allocation:
    """The changes to make, each list in key order, and what waits for room in a quota, in the order it is to
    get it. The first three are empty where nothing is to be done."""

    add: list[Wanted]
    change: list[Wanted]
    drop: list[Drop]
    waiting: list[Waiting] = field(default_factory=list)


def allocate(
    subscriptions: Iterable[Subscription],
    closed_blocks: Iterable[ClosedBlock],
    existing: Existing,
    room: Mapping[str, int] | None = None,
    spaces: Mapping[int, int] | None = None,
) -> Allocation:
    """The changes that make the wanted rows what the subscriptions ask for.

    room: bytes left by account, beyond what is held and wanted; spaces: the same by SE; what is not named has
    no limit. A suspended subscription adds nothing and keeps what it had. Applying the result and asking
    again gives no change.
    """
    asked = _asked(subscriptions, closed_blocks)
    new: list[Wanted] = []
    change: list[Wanted] = []
    for key, (block, askers) in sorted(asked.items()):
        if key in existing.complete:
            continue
        now = existing.wanted.get(key)
        active = [asker for asker in askers if not asker.suspended]
        if active and now != (row := _wanted(block, key[1], active)):
            (change if now else new).append(row)
    add, waiting = admitted(new, room or {}, spaces or {})
    drop = [
        Drop(key, Reason.COMPLETE if key in existing.complete else Reason.UNSUBSCRIBED)
        for key in sorted(existing.wanted)
        if key in existing.complete or key not in asked
    ]
    return Allocation(add, change, drop, waiting)


def movable(
    move: Subscription,
    closed_blocks: Collection[ClosedBlock],
    subscriptions: Iterable[Subscription],
    complete: Set[ReplicaKey],
    kept: Set[ReplicaKey] = frozenset(),
) -> list[ReplicaKey]:
    """The copies elsewhere that a finished move lets go, in key order; none until all it asks for is complete
    at its target.

    subscriptions: the live ones, whoever's; what any of them asks for stays, suspended or not. kept: copies
    that stay anyhow, custodial ones for one.
    """
    moved = [block for block in closed_blocks if move.covers(block)]
    if not move.move or any((block.id, move.se_id) not in complete for block in moved):
        return []
    ids = {block.id for block in moved}
    asked = _asked(subscriptions, moved).keys()
    return sorted(key for key in complete - kept - asked if key[0] in ids and key[1] != move.se_id)


def admitted(
    new: Iterable[Wanted], room: Mapping[str, int], spaces: Mapping[int, int]
) -> tuple[list[Wanted], list[Waiting]]:
    """New rows that fit, in key order, and those that wait, in the order they are to get room.

    Of each account and each SE they are those from the front, so that small blocks do not keep a large one
    out.
    """
    left: dict[str | int | None, int] = dict(chain[tuple[str | int, int]](room.items(), spaces.items()))
    full = set[str | int | None]()
    add: list[Wanted] = []
    waiting: list[Waiting] = []
    for one in sorted(new, key=lambda one: (-one.priority, one.subscription_id, one.key)):
        limits = [limit for limit in (one.account, one.se_id) if limit in left]
        short = next((limit for limit in limits if limit in full or one.size > left[limit]), None)
        if short is not None:
            full.add(short)
            code = Reason.QUOTA_FULL if short == one.account else Reason.SE_FULL
            waiting.append(Waiting(one, code, left[short]))
            continue
        for limit in limits:
            left[limit] -= one.size
        add.append(one)
    return sorted(add, key=lambda row: row.key), waiting


def _asked(
    subscriptions: Iterable[Subscription], closed_blocks: Iterable[ClosedBlock]
) -> dict[ReplicaKey, tuple[ClosedBlock, list[Subscription]]]:
    """Who asks for each block at each SE."""
    by_dataset: dict[int, list[Subscription]] = defaultdict(list)
    for subscription in subscriptions:
        by_dataset[subscription.dataset_id].append(subscription)
    asked: dict[ReplicaKey, tuple[ClosedBlock, list[Subscription]]] = {}
    for block in closed_blocks:
        for subscription in by_dataset[block.dataset_id]:
            if subscription.covers(block):
                asked.setdefault((block.id, subscription.se_id), (block, []))[1].append(subscription)
    return asked


def _loudest(askers: Iterable[Subscription]) -> Subscription:
    return min(askers, key=lambda asker: (-asker.priority, asker.id))


def _wanted(block: ClosedBlock, se_id: int, askers: list[Subscription]) -> Wanted:
    """One row for several subscriptions: the highest priority, custodial if any of them is."""
    loudest = _loudest(askers)
    return Wanted(
        block_id=block.id,
        se_id=se_id,
        subscription_id=loudest.id,
        custodial=any(asker.custodial for asker in askers),
        priority=loudest.priority,
        account=loudest.account,
        group=loudest.group,
        size=block.bytes,
        files=block.files,
    )
