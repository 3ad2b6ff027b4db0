"""Projection: which ways wanted blocks would take now, over which links, and for how long. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import pairwise

from datamgmt.links.paths import DEFAULT_POLICY, LinkCost, LinkKey, RoutingPolicy
from datamgmt.reasons import Reason
from datamgmt.routing.decisions import BlockDest, Decision
from datamgmt.routing.planning import plan
from datamgmt.subscriptions.eta import Eta, Onward, Quantiles, eta

_UNLIMITED = 1 << 62
#: A decision that waits says so of each block; people are told once.
_PER_BLOCK = frozenset(("size", "free", "bytes", "until"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Net:
    """Enabled links with their prices, those that are there and switched off, bytes queued on them and the
    rates they have shown in bytes per second, of all links named."""

    costs: Sequence[LinkCost]
    disabled: Collection[LinkKey] = ()
    queued: Mapping[LinkKey, int] = field(default_factory=dict)
    rates: Mapping[LinkKey, Quantiles] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Caution:
    """What stands in the way, of so many blocks and bytes; `code` and `params` as `reasons.render` takes
    them."""

    code: Reason
    params: Mapping[str, object]
    blocks: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """Bytes copied by the source they come from and by each link they pass; `passing`: by SE, bytes that
    only pass through; `eta` None where nothing moves, or not within any horizon."""

    by_source: Mapping[int, int]
    by_link: Mapping[LinkKey, int]
    passing: Mapping[int, int]
    eta: Eta | None
    waits: tuple[Caution, ...] = ()


def flow(
    wanted: Iterable[BlockDest],
    sources: Mapping[int, Collection[int]],
    net: Net,
    now: datetime,
    policy: RoutingPolicy = DEFAULT_POLICY,
) -> Flow:
    """The ways the blocks would take from the SEs that hold them, each link's load counted, as if windows and
    transit space had no limit."""
    rows = {(one.block_id, one.dest): one for one in wanted}
    ends = {se: _UNLIMITED for one in net.costs for se in one.key}
    unlimited = replace(policy, window_bytes=_UNLIMITED)
    decided = plan(
        rows.values(), sources, net.costs, ends, now, lambda: 0.5, disabled=net.disabled, policy=unlimited
    )
    moving = [one for one in decided if one.path]
    sizes = {key: one.size for key, one in rows.items()}
    by_link = _by_link(moving, sizes)
    by_source: dict[int, int] = defaultdict(int)
    for ((src, _), _), size in _first_hops(moving, sizes).items():
        by_source[src] += size
    return Flow(
        by_source=dict(sorted(by_source.items())),
        by_link=dict(sorted(by_link.items())),
        passing=_passing(moving, rows),
        eta=_eta(moving, sizes, by_link, net, now),
        waits=tuple(_cautions(decided, sizes)),
    )


def _first_hops(
    moving: Iterable[Decision], sizes: Mapping[tuple[int, int], int]
) -> dict[tuple[LinkKey, int], int]:
    """{(first link, block): bytes}."""
    return {((one.path[0], one.path[1]), one.block_id): sizes[one.block_id, one.dest] for one in moving}


def _by_link(moving: Iterable[Decision], sizes: Mapping[tuple[int, int], int]) -> dict[LinkKey, int]:
    """A block passes a link once, for however many destinations behind it."""
    copies = {
        (link, one.block_id): sizes[one.block_id, one.dest] for one in moving for link in pairwise(one.path)
    }
    found: dict[LinkKey, int] = defaultdict(int)
    for (link, _), size in copies.items():
        found[link] += size
    return found


def _passing(moving: Iterable[Decision], rows: Mapping[tuple[int, int], BlockDest]) -> dict[int, int]:
    through = {
        (one.block_id, se): rows[one.block_id, one.dest].size
        for one in moving
        for se in one.path[1:-1]
        if (one.block_id, se) not in rows
    }
    found: dict[int, int] = defaultdict(int)
    for (_, se), size in sorted(through.items()):
        found[se] += size
    return dict(found)


def _eta(
    moving: Sequence[Decision],
    sizes: Mapping[tuple[int, int], int],
    by_link: Mapping[LinkKey, int],
    net: Net,
    now: datetime,
) -> Eta | None:
    """The busiest link decides, and behind a first one the largest block has to pass the others."""
    if not moving:
        return None
    onward: dict[LinkKey, list[Onward]] = {}
    for one in sorted(moving, key=lambda one: (len(one.path), sizes[one.block_id, one.dest])):
        links = list(pairwise(one.path))
        onward[links[0]] = [Onward(link, sizes[one.block_id, one.dest]) for link in links[1:]]
    return eta(by_link, net.queued, net.rates, now, onward)


def _cautions(decided: Iterable[Decision], sizes: Mapping[tuple[int, int], int]) -> list[Caution]:
    """What waits, or goes a way nobody would wait for, the same words counted together."""
    found: dict[tuple[Reason, str], Caution] = {}
    for one in decided:
        if one.path and one.code is not Reason.SLOW_PATH:
            continue
        said = {name: value for name, value in one.params.items() if name not in _PER_BLOCK}
        key = one.code, repr(sorted(said.items()))
        old = found.get(key, Caution(one.code, one.params, 0, 0))
        size = sizes[one.block_id, one.dest]
        found[key] = replace(old, blocks=old.blocks + 1, bytes=old.bytes + size)
    return sorted(found.values(), key=lambda one: -one.bytes)
