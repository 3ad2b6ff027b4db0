"""ETA: when a subscription will be complete, from what its links have left to send, and their rates. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from datamgmt.links.paths import LinkKey

#: How far back a link's rates are looked at: the first of these in which it sent anything.
LOOKS = (timedelta(hours=2), timedelta(hours=12), timedelta(days=2))
#: A forecast farther off than this is none.
HORIZON = timedelta(days=3650)


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Bytes per second of a link: half of the time it has had at least `p50`, nine times in ten `p10`."""

    p50: float
    p10: float

    def __post_init__(self) -> None:
        if not 0 < self.p10 <= self.p50:
            raise ValueError(
                f"rates of {self.p50} and {self.p10} B/s; they are above 0, the usual one not below"
            )


@dataclass(frozen=True, slots=True)
class Onward:
    """A link behind a first one, and the bytes of one block that pass it after the last has arrived."""

    link: LinkKey
    bytes: int


@dataclass(frozen=True, slots=True)
class Eta:
    """When it is complete: as likely as not, and nine times in ten."""

    p50: datetime
    p90: datetime


def measured(
    bins: Iterable[tuple[datetime, int]], width: timedelta, now: datetime, nominal: float
) -> Quantiles:
    """The rates of a link from its bins (start, bytes sent), each `width` long and over by now; idle ones say
    nothing. `nominal`, in bytes per second, where it has sent nothing lately."""
    sent = [(start, n) for start, n in bins if n > 0 and start + width <= now]
    for look in LOOKS:
        seen = sorted(n / width.total_seconds() for start, n in sent if start >= now - look)
        if seen:
            return Quantiles(_quantile(seen, 0.5), _quantile(seen, 0.1))
    return Quantiles(nominal, nominal)


def _quantile(ordered: Sequence[float], share: float) -> float:
    """Between its neighbours in proportion; `ordered` ascends and is not empty."""
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def eta(
    remaining: Mapping[LinkKey, int],
    queued: Mapping[LinkKey, int],
    rates: Mapping[LinkKey, Quantiles],
    now: datetime,
    onward: Mapping[LinkKey, Sequence[Onward]] | None = None,
) -> Eta | None:
    """When all that is routed has arrived; None where that is beyond any horizon. What has no route has no
    place in it: the caller says so.

    remaining: bytes of the subscription by the first link they take. queued: bytes of others before them
    there. rates: of all links named. onward: by first link, what comes behind it.
    """
    behind = onward or {}
    p50 = p90 = 0.0
    for first, n in remaining.items():
        if n <= 0:
            continue
        legs = [(first, n + queued.get(first, 0)), *((one.link, one.bytes) for one in behind.get(first, ()))]
        p50 = max(p50, sum(size / rates[link].p50 for link, size in legs))
        p90 = max(p90, sum(size / rates[link].p10 for link, size in legs))
    if p90 > HORIZON.total_seconds():
        return None
    return Eta(now + timedelta(seconds=p50), now + timedelta(seconds=p90))


def error(started: datetime, forecast: datetime, actual: datetime) -> float:
    """By how much of the forecast time it took longer (0.12: 12 %), less than 0 where it was faster."""
    expected = (forecast - started).total_seconds()
    return (actual - forecast).total_seconds() / max(expected, 1.0)
