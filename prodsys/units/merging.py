"""Merging: which small outputs become one file. Best fit over open bins, one set of bins per group."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import chain, islice
from math import inf
from operator import attrgetter
from typing import Literal, NamedTuple

from gridcore.errors import UsageError

Why = Literal["full", "waited", "last"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeInput:
    """An unmerged file; only files of one group (dataset, run policy, SE) are merged. Size in bytes."""

    id: int
    size: int
    events: int | None
    created_at: datetime
    group: Hashable


@dataclass(frozen=True, slots=True, kw_only=True)
class MergePolicy:
    """The size a merged file should have, and how long its first input may wait for the others."""

    min_bytes: int
    max_bytes: int
    max_wait_s: float
    max_events: int | None = None
    max_inputs: int = 500

    def __post_init__(self) -> None:
        if not 0 <= self.min_bytes <= self.max_bytes or self.max_bytes < 1:
            raise UsageError(
                f"merge sizes {self.min_bytes} to {self.max_bytes} bytes",
                hint="give 0 <= min <= max, max > 0",
            )
        if (
            self.max_inputs < 1
            or self.max_wait_s < 0
            or (self.max_events is not None and self.max_events < 1)
        ):
            raise UsageError(
                "a merge limit is out of range", hint="at least 1 input, 1 event and 0 s of waiting"
            )

    def weight(self, item: MergeInput) -> int:
        """Bytes, or the events expressed in bytes where their limit is the tighter one."""
        if not self.max_events or not item.events:
            return item.size
        return max(item.size, -(-item.events * self.max_bytes // self.max_events))


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeGroup:
    """Inputs, by id, of one merged file; events are None where one input's are unknown."""

    inputs: tuple[int, ...]
    bytes: int
    events: int | None
    why: Why


@dataclass(slots=True)
class _Bin:
    items: list[MergeInput] = field(default_factory=list)
    weight: int = 0

    def add(self, item: MergeInput, weight: int) -> None:
        self.items.append(item)
        self.weight += weight


class _Offer(NamedTuple):
    """An input that its bin can spare."""

    weight: int
    id: int
    item: MergeInput
    donor: _Bin


_order = attrgetter("weight", "id")


def plan(
    inputs: Iterable[MergeInput], policy: MergePolicy, now: datetime, *, last: bool = False
) -> list[MergeGroup]:
    """What to merge now, ordered by first input. The rest waits, at most `max_wait_s` after its creation.

    A group is "full" when it has the minimum size or the maximum number of inputs. `last` says that no
    further input will come. No group exceeds a limit, but for a file that alone does: it goes alone.
    """
    members: dict[Hashable, list[MergeInput]] = defaultdict(list)
    for item in sorted(inputs, key=lambda item: item.id):
        members[item.group].append(item)
    groups: list[MergeGroup] = []
    for items in members.values():
        groups += _emit(_pack(items, policy), policy, now, last)
    return sorted(groups, key=lambda group: group.inputs)


def _pack(items: Sequence[MergeInput], policy: MergePolicy) -> list[_Bin]:
    """Best fit, largest first: each input goes to the fullest bin that takes it.

    Among inputs so small that their number fills a bin, size does not order: the bins should be alike.
    """
    small = policy.max_bytes // policy.max_inputs
    bins: list[_Bin] = []
    open_bins: list[tuple[int, int]] = []  # (weight, index in bins), ascending
    for item in sorted(items, key=lambda item: (-max(small, policy.weight(item)), item.id)):
        weight = policy.weight(item)
        place = bisect_right(open_bins, (policy.max_bytes - weight, inf))
        if place:
            _, index = open_bins.pop(place - 1)
        else:
            index = len(bins)
            bins.append(_Bin())
        bins[index].add(item, weight)
        if len(bins[index].items) < policy.max_inputs:
            insort(open_bins, (bins[index].weight, index))
    return bins


def _emit(bins: list[_Bin], policy: MergePolicy, now: datetime, last: bool) -> list[MergeGroup]:
    """The bins that go now, those that would go unfilled first topped up from what others can spare."""
    expired = now - timedelta(seconds=policy.max_wait_s)
    short = [box for box in bins if _why(box, policy, expired, last) in ("waited", "last")]
    offers = _offers(bins, policy) if short else []
    for box in sorted(short, key=attrgetter("weight"), reverse=True):
        if not _top_up(box, offers, policy):
            break  # the others lack more
    reasons = ((box, _why(box, policy, expired, last)) for box in bins)
    return [_group(box, why) for box, why in reasons if why]


def _is_full(box: _Bin, policy: MergePolicy) -> bool:
    return box.weight >= policy.min_bytes or len(box.items) >= policy.max_inputs


def _why(box: _Bin, policy: MergePolicy, expired: datetime, last: bool) -> Why | None:
    if _is_full(box, policy):
        return "full"
    if last:
        return "last"
    return "waited" if min(item.created_at for item in box.items) <= expired else None


def _offers(bins: list[_Bin], policy: MergePolicy) -> list[_Offer]:
    """The inputs whose bin stays full without them, ascending by weight."""
    return sorted(
        (
            _Offer(weight, item.id, item, box)
            for box in bins
            if box.weight > policy.min_bytes
            for item in box.items
            if (weight := policy.weight(item)) <= box.weight - policy.min_bytes
        ),
        key=_order,
    )


def _top_up(short: _Bin, offers: list[_Offer], policy: MergePolicy) -> bool:
    """Fill the bin from the offers, using them up; changes no bin, and is False, if they do not suffice."""
    taken: list[_Offer] = []
    while not _is_full(short, policy):
        offer = _best_offer(short, offers, policy)
        if offer is None:
            for offer in taken:
                _move(offer, short, offer.donor)
            return False
        offers.remove(offer)
        _move(offer, offer.donor, short)
        taken.append(offer)
    return True


def _best_offer(short: _Bin, offers: list[_Offer], policy: MergePolicy) -> _Offer | None:
    """The lightest that fills the bin, else the heaviest there is."""
    middle = bisect_left(offers, (policy.min_bytes - short.weight, 0), key=_order)
    filling, partial = islice(offers, middle, None), reversed(offers[:middle])
    spare = (
        offer for offer in chain(filling, partial) if offer.donor.weight - offer.weight >= policy.min_bytes
    )
    return next(spare, None)


def _move(offer: _Offer, giver: _Bin, taker: _Bin) -> None:
    giver.items.remove(offer.item)
    giver.weight -= offer.weight
    taker.add(offer.item, offer.weight)


def _group(box: _Bin, why: Why) -> MergeGroup:
    events = [item.events for item in box.items]
    return MergeGroup(
        inputs=tuple(sorted(item.id for item in box.items)),
        bytes=sum(item.size for item in box.items),
        events=None if None in events else sum(count or 0 for count in events),
        why=why,
    )
