"""Allocation: the block replicas that the subscriptions want, against what is wanted and held already."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass

from datamgmt.reasons import Reason

ReplicaKey = tuple[int, int]
"""(block id, SE id)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """The standing wish to have every closed block of a dataset at an SE; higher priority goes first."""

    id: int
    dataset_id: int
    se_id: int
    custodial: bool = False
    priority: int = 0
    suspended: bool = False


@dataclass(frozen=True, slots=True)
class ClosedBlock:
    id: int
    dataset_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """One block_dest row: the block is wanted at the SE, on behalf of the subscription that asks loudest."""

    block_id: int
    se_id: int
    subscription_id: int
    custodial: bool
    priority: int

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
class Allocation:
    """The changes to make, each list in key order; all empty where nothing is to be done."""

    add: list[Wanted]
    change: list[Wanted]
    drop: list[Drop]


def allocate(
    subscriptions: Iterable[Subscription], closed_blocks: Iterable[ClosedBlock], existing: Existing
) -> Allocation:
    """The changes that make the wanted rows what the subscriptions ask for.

    A suspended subscription adds nothing and keeps what it had. Applying the result and asking again
    gives no change.
    """
    asked = _asked(subscriptions, closed_blocks)
    add: list[Wanted] = []
    change: list[Wanted] = []
    for key, askers in sorted(asked.items()):
        if key in existing.complete:
            continue
        now = existing.wanted.get(key)
        active = [asker for asker in askers if not asker.suspended]
        if active and now != (row := _wanted(key, active)):
            (change if now else add).append(row)
    drop = [
        Drop(key, Reason.COMPLETE if key in existing.complete else Reason.UNSUBSCRIBED)
        for key in sorted(existing.wanted)
        if key in existing.complete or key not in asked
    ]
    return Allocation(add, change, drop)


def _asked(
    subscriptions: Iterable[Subscription], closed_blocks: Iterable[ClosedBlock]
) -> dict[ReplicaKey, list[Subscription]]:
    """Who asks for each block at each SE."""
    by_dataset: dict[int, list[Subscription]] = defaultdict(list)
    for subscription in subscriptions:
        by_dataset[subscription.dataset_id].append(subscription)
    asked: dict[ReplicaKey, list[Subscription]] = defaultdict(list)
    for block in closed_blocks:
        for subscription in by_dataset[block.dataset_id]:
            asked[block.id, subscription.se_id].append(subscription)
    return asked


def _wanted(key: ReplicaKey, askers: list[Subscription]) -> Wanted:
    """One row for several subscriptions: the highest priority, custodial if any of them is."""
    loudest = min(askers, key=lambda asker: (-asker.priority, asker.id))
    return Wanted(
        block_id=key[0],
        se_id=key[1],
        subscription_id=loudest.id,
        custodial=any(asker.custodial for asker in askers),
        priority=loudest.priority,
    )
