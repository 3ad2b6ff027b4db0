"""Decisions: what is asked of a plan for each wanted replica, and what it says of it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from datamgmt.links.paths import LinkKey, NoRoute
from datamgmt.reasons import Reason

Window = tuple[int, int]
"""(destination SE id, priority)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockDest:
    """A wanted replica to be routed; `size` in bytes, higher priority goes first.

    path: the route it makes progress on; empty where there is none. attempts, failing_since: failed tries in
    a row. rested: it has rested after too many of them and is tried again. partial: SEs with some of the
    files it lacks, of use by a link that leads straight here.
    """

    block_id: int
    dest: int
    size: int
    priority: int = 0
    suspended: bool = False
    path: tuple[int, ...] = ()
    attempts: int = 0
    failing_since: datetime | None = None
    rested: bool = False
    partial: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What is to be done next for one wanted replica: copy from `src` to `hop_dst`, or nothing, and why.

    Good until `valid_until`; a change of the block's replicas or of a link is reason to plan earlier. A
    SLOW_PATH has a path and nothing to do.
    """

    block_id: int
    dest: int
    code: Reason
    params: Mapping[str, object]
    valid_until: datetime
    src: int | None = None
    hop_dst: int | None = None
    path: tuple[int, ...] = ()
    cost: float | None = None


#: Hours a decision holds and hours of random spread, so that not everything is planned again at once.
VALIDITY: Mapping[Reason, tuple[float, float]] = {
    Reason.ROUTED: (7.0, 3.0),
    Reason.PROBE: (0.7, 3.0),
    Reason.SLOW_PATH: (0.7, 3.0),
    Reason.NO_PATH: (2.0, 3.0),
    Reason.NO_LIVE_LINK: (2.0, 3.0),
    Reason.LINK_FORCED: (2.0, 3.0),
    Reason.NO_SOURCE: (0.0, 3.0),
    Reason.SE_DISABLED: (2.0, 3.0),
    Reason.NO_TRANSIT_SPACE: (0.0, 0.7),
    Reason.PROBE_UNDER_WAY: (0.0, 0.7),
    Reason.WINDOW_FULL: (1 / 6, 0.5),
    Reason.ROUTER_SUSPENDED: (15 * 24.0, 0.0),
    Reason.SUSPENDED: (7.0, 3.0),
    Reason.COMPLETE: (7.0, 3.0),
}


def shut_by(code: Reason, link: LinkKey, until: datetime | None = None) -> NoRoute:
    """No route because of a link, until a moment if that is known."""
    params: dict[str, object] = {"link_src": link[0], "link_dst": link[1]}
    if until:
        params["until"] = moment(until)
    return NoRoute(code, params, until)


def moment(at: datetime) -> str:
    """A moment as parameters of reasons carry it."""
    return at.isoformat(timespec="seconds")
