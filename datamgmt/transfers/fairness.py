"""Fairness: whose files a link takes next, by shares of groups, and by priority and age within one. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from heapq import heapify, heappop, heappush

#: Files a group sends before the others are looked at again.
CHUNK = 100
HALF_LIFE = timedelta(hours=6)


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """A block with files left to queue on a link: `files` of them, `bytes` in all; `begun` where others of
    them are queued already."""

    block_id: int
    group: str
    files: int
    bytes: int
    created_at: datetime
    priority: int = 0
    begun: bool = False

    @property
    def rank(self) -> tuple[object, ...]:
        """Least first: the urgent, of these what is begun, then the oldest."""
        return -self.priority, not self.begun, self.created_at, self.block_id


def next_blocks(
    waiting: Iterable[Begun], used: Mapping[str, float], weights: Mapping[str, float], room: int
) -> list[tuple[int, int]]:
    """(block, files) to queue in this order, `room` files at most.

    used: bytes each group has lately sent over the link, as `decay` leaves them. weights: above zero; 1 for a
    group that is not named. The group that has used least for its weight goes next.
    """
    queues: dict[str, _Queue] = {}
    for one in sorted((one for one in waiting if one.files > 0), key=lambda one: one.rank, reverse=True):
        fresh = _Queue(used.get(one.group, 0.0), weights.get(one.group, 1.0), min(CHUNK, room))
        queues.setdefault(one.group, fresh).blocks.append((one, one.files))
    heap = [(queue.share(), group) for group, queue in queues.items()]
    heapify(heap)
    chosen: list[tuple[int, int]] = []
    while heap and room > 0:
        _, group = heappop(heap)
        queue = queues[group]
        block_id, n = queue.take(room)
        room -= n
        if chosen and chosen[-1][0] == block_id:
            n += chosen.pop()[1]
        chosen.append((block_id, n))
        if queue.blocks:
            heappush(heap, (queue.share(), group))
    return chosen


@dataclass(slots=True)
class _Queue:
    """What a group has waiting, next last, with the files left of each."""

    used: float
    weight: float
    chunk: int
    blocks: list[tuple[Begun, int]] = field(default_factory=list)

    def share(self) -> float:
        """What it has used for its weight by the middle of its next chunk: counted from the start, the decay
        would favour groups that take few large ones."""
        one, left = self.blocks[-1]
        return (self.used + _size(one, min(self.chunk, left)) / 2) / self.weight

    def take(self, room: int) -> tuple[int, int]:
        """(block, files) of its next chunk."""
        one, left = self.blocks.pop()
        n = min(self.chunk, left, room)
        if n < left:
            self.blocks.append((one, left - n))
        self.used += _size(one, n)
        return one.block_id, n


def _size(one: Begun, n: int) -> float:
    """Bytes of some files of a block; all count alike."""
    return one.bytes * n / one.files


def decay(used: float, passed: timedelta, half_life: timedelta = HALF_LIFE) -> float:
    """What is left of `used` bytes after a time; a clock set back takes nothing."""
    return used * math.exp2(-max(passed, timedelta()) / half_life)
