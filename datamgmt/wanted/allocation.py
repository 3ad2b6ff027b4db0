"""Allocation: the block replicas that the subscriptions want, against what is wanted and held. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Set
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple

from datamgmt.reasons import Reason

ReplicaKey = tuple[int, int]
"""(block id, SE id)."""
Limit = str | int
"""An account that has a quota, or an SE that has a limit."""
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

    account, group, size, files: what a new row takes of whose quota; here: its bytes count in the space of
    the SE already. They do not make rows differ.
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
    here: bool = field(default=False, compare=False)

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


class Room(NamedTuple):
    """Bytes that are left of a limit, below zero where more is used, and the limit."""

    left: int
    limit: int


@dataclass(frozen=True, slots=True)
class Waiting:
    """A row that is not added yet: its account, or with code SE_FULL its SE, has no room for it, or keeps
    what is left for the subscription `behind` which it stands."""

    wanted: Wanted
    code: Reason
    room: Room
    behind: int | None = None


@dataclass(frozen=True, slots=True)
class Allocation:
    """The changes to make, each list in key order, all empty where nothing is to be done; what to `add` needs
    room, see `admitted`."""

    add: list[Wanted]
    change: list[Wanted]
    drop: list[Drop]


def allocate(
    subscriptions: Iterable[Subscription],
    closed_blocks: Iterable[ClosedBlock],
    existing: Existing,
) -> Allocation:
    """The changes that make the wanted rows what the subscriptions ask for.

    A suspended subscription adds nothing and keeps what it had. Applying the result and asking again gives no
    change.
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
    drop = [
        Drop(key, Reason.COMPLETE if key in existing.complete else Reason.UNSUBSCRIBED)
        for key in sorted(existing.wanted)
        if key in existing.complete or key not in asked
    ]
    return Allocation(new, change, drop)


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
    new: Iterable[Wanted], rooms: Mapping[Limit, Room], line: Iterable[Wanted] = ()
) -> tuple[list[Wanted], list[Waiting]]:
    """New rows that fit, in key order, and those that wait, in the order they are to get room.

    rooms: what is left by account and by SE, beyond what is held and wanted; what is not named has no limit.
    line: the first row of each other subscription that waits; room is kept for it. The urgent come first,
    then the older subscriptions, and none takes what one before it waits for: small blocks do not keep a
    large one out. One that is larger than the whole limit holds up its own subscription alone.
    """
    left = {limit: room.left for limit, room in rooms.items()}
    first: dict[Limit, int] = {}
    held: dict[int, Limit] = {}
    add: list[Wanted] = []
    waiting: list[Waiting] = []
    rows = [*((one, True) for one in new), *((one, False) for one in line)]
    for one, mine in sorted(rows, key=lambda row: (-row[0].priority, row[0].subscription_id, row[0].key)):
        limits = [limit for limit in _limits(one) if limit in left]
        short = held.get(one.subscription_id)
        if short is None:
            short = next((limit for limit in limits if limit in first or one.size > left[limit]), None)
            if short is None:
                left.update({limit: left[limit] - one.size for limit in limits})
                add += [one] * mine
                continue
            held[one.subscription_id] = short
            if one.size <= rooms[short].limit:
                first.setdefault(short, one.subscription_id)
        if mine:
            waiting.append(_waiting(one, short, Room(left[short], rooms[short].limit), first.get(short)))
    return sorted(add, key=lambda row: row.key), waiting


def _limits(one: Wanted) -> list[Limit]:
    account: list[Limit] = [] if one.account is None else [one.account]
    return account if one.here else [*account, one.se_id]


def _waiting(one: Wanted, short: Limit, room: Room, first: int | None) -> Waiting:
    code = Reason.QUOTA_FULL if short == one.account else Reason.SE_FULL
    return Waiting(one, code, room, None if first == one.subscription_id else first)


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
