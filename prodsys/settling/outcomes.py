"""Outcomes: how attempts ended at each site, counted in bins of time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, bindparam, delete, func, select, update

from catalogs.tables import site
from gridcore.db.statements import insert_new
from prodsys.tables import site_outcome

BIN = timedelta(minutes=5)
#: Bins are kept for this long.
KEPT = timedelta(days=7)
#: The class of attempts that ended well.
OK = "ok"


@dataclass(frozen=True, slots=True)
class Outcome:
    """An attempt that ended: "ok" or its error class, and the core-seconds it took."""

    site_id: int
    error_class: str
    core_s: float


@dataclass(frozen=True, slots=True)
class Binned:
    """Attempts of a site that ended with a class within the bin that begins at `bin`."""

    site_id: int
    bin: datetime
    error_class: str
    jobs: int
    core_s: float


_CELL = (
    site_outcome.c.site_id == bindparam("at_site"),
    site_outcome.c.bin == bindparam("of_bin", type_=site_outcome.c.bin.type),
    site_outcome.c.error_class == bindparam("of_class"),
)
ADD = (
    update(site_outcome)
    .where(*_CELL)
    .values(jobs=site_outcome.c.jobs + bindparam("n"), core_s=site_outcome.c.core_s + bindparam("seconds"))
)
RECENT = (
    select(site_outcome)
    .where(site_outcome.c.bin >= bindparam("since", type_=site_outcome.c.bin.type))
    .order_by(site_outcome.c.site_id, site_outcome.c.bin, site_outcome.c.error_class)
)
TOTALS = (
    select(
        site_outcome.c.error_class,
        site.c.name.label("site"),
        func.sum(site_outcome.c.jobs).label("jobs"),
        func.sum(site_outcome.c.core_s).label("core_s"),
    )
    .join(site, site.c.id == site_outcome.c.site_id)
    .where(site_outcome.c.bin >= bindparam("since", type_=site_outcome.c.bin.type))
    .group_by(site_outcome.c.error_class, site.c.name)
)
PRUNE = delete(site_outcome).where(site_outcome.c.bin < bindparam("before", type_=site_outcome.c.bin.type))


def bin_of(moment: datetime) -> datetime:
    """The beginning of the moment's bin."""
    return datetime.fromtimestamp(moment.timestamp() // BIN.total_seconds() * BIN.total_seconds(), UTC)


def record(conn: Connection, rows: Sequence[Outcome], now: datetime) -> None:
    """Count attempts that ended now, in key order."""
    sums: dict[tuple[int, str], list[float]] = defaultdict(lambda: [0, 0.0])
    for row in rows:
        cell = sums[row.site_id, row.error_class]
        cell[0] += 1
        cell[1] += row.core_s
    for (site_id, kind), (jobs, core_s) in sorted(sums.items()):
        _add(conn, site_id, bin_of(now), kind, int(jobs), core_s)


def _add(conn: Connection, site_id: int, begin: datetime, kind: str, jobs: int, core_s: float) -> None:
    binds = {"at_site": site_id, "of_bin": begin, "of_class": kind, "n": jobs, "seconds": core_s}
    if conn.execute(ADD, binds).rowcount:
        return
    row = {"site_id": site_id, "bin": begin, "error_class": kind, "jobs": jobs, "core_s": core_s}
    if not insert_new(conn, site_outcome, row):  # somebody else was first
        conn.execute(ADD, binds)


def recent(conn: Connection, since: datetime) -> list[Binned]:
    """The bins since the one of that moment, by site and time."""
    rows = conn.execute(RECENT, {"since": bin_of(since)})
    return [Binned(row.site_id, row.bin, row.error_class, row.jobs, row.core_s) for row in rows]


@dataclass(frozen=True, slots=True)
class Total:
    """Attempts of a class that ended at a site: how many, and the core-seconds they took."""

    error_class: str
    site: str
    jobs: int
    core_s: float


def totals(conn: Connection, since: datetime) -> list[Total]:
    """The sums since the bin of that moment, by class, most attempts first."""
    rows = conn.execute(TOTALS, {"since": bin_of(since)})
    found = [Total(row.error_class, row.site, int(row.jobs), float(row.core_s)) for row in rows]
    return sorted(found, key=lambda one: (one.error_class, -one.jobs, one.site))


def prune(conn: Connection, before: datetime) -> int:
    """Remove bins that began before the moment; how many rows."""
    return conn.execute(PRUNE, {"before": before}).rowcount
