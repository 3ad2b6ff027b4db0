"""What links did of late: how good each was, and how much was moved in each hour."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    and_,
    bindparam,
    func,
    literal_column,
    select,
    type_coerce,
)

from catalogs.tables import link
from datamgmt.tables import link_bin
from gridapp.insights.topology import se_names
from gridapp.insights.values import iso
from gridcore.db.idlists import within

#: Over which the quality of links is told.
LOOK_BACK = timedelta(hours=24)
HOUR = timedelta(hours=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_HOUR_US: ColumnElement[int] = literal_column("3600000000")
_MICROS = type_coerce(link_bin.c.bin_start, BigInteger)
#: The hour a bin lies in, counted from 1970; `begin_of` is the moment it begins.
BIN_HOUR = (_MICROS - _MICROS % _HOUR_US) / _HOUR_US
_SINCE = link_bin.c.bin_start >= bindparam("since", type_=link_bin.c.bin_start.type)
LINK_IDS = select(link.c.id)
#: Bins are found by link and time: their key begins with the link.
HOURS = (
    select(
        BIN_HOUR.label("hour"),
        func.sum(link_bin.c.files_ok).label("files_ok"),
        func.sum(link_bin.c.files_bad).label("files_bad"),
        func.sum(link_bin.c.bytes_ok).label("bytes_ok"),
    )
    .where(within(link_bin.c.link_id), _SINCE)
    .group_by(BIN_HOUR)
)
QUALITY = (
    select(
        link.c.src_se_id,
        link.c.dst_se_id,
        func.sum(link_bin.c.files_ok).label("files_ok"),
        func.sum(link_bin.c.files_bad).label("files_bad"),
        func.sum(link_bin.c.bytes_ok).label("bytes_ok"),
    )
    .join_from(link, link_bin, and_(link_bin.c.link_id == link.c.id, _SINCE))
    .group_by(link.c.src_se_id, link.c.dst_se_id)
)


def quality(conn: Connection, now: datetime, look_back: timedelta = LOOK_BACK) -> dict[str, Any]:
    """What links did of late: {hours, sources, destinations, cells: {source: {destination: cell}}}.

    A cell has files good and bad, bytes and `percent` good; links that did nothing have none.
    """
    names = se_names(conn)
    cells: dict[str, dict[str, Any]] = defaultdict(dict)
    for row in conn.execute(QUALITY, {"since": now - look_back}):
        good, bad = int(row.files_ok), int(row.files_bad)
        if good or bad:
            cells[names[row.src_se_id]][names[row.dst_se_id]] = {
                "files_ok": good,
                "files_bad": bad,
                "bytes_ok": int(row.bytes_ok),
                "percent": _good(good, bad),
            }
    return {
        "hours": look_back / timedelta(hours=1),
        "sources": sorted(cells),
        "destinations": sorted({dst for row in cells.values() for dst in row}),
        "cells": cells,
    }


def _good(good: int, bad: int) -> float:
    """Percent that were good; 100 only where all were, 0 where none was. Pure."""
    if not good or not bad:
        return 100.0 if good else 0.0
    return min(max(round(100 * good / (good + bad), 1), 0.1), 99.9)


def begin_of(hour: float) -> datetime:
    """When an hour counted from 1970 begins."""
    return _EPOCH + int(hour) * HOUR


def hours(conn: Connection, now: datetime, look_back: timedelta = LOOK_BACK) -> list[dict[str, Any]]:
    """What all links moved in each hour, the one that is running last: files good and bad, bytes, and the
    mean rate in bytes a second of as much of the hour as is over."""
    last = (now - _EPOCH) // HOUR
    first = last - look_back // HOUR + 1
    ids = conn.execute(LINK_IDS).scalars().all()
    rows = {int(row.hour): row for row in conn.execute(HOURS, {"ids": ids, "since": begin_of(first)})}
    found = []
    for hour in range(first, last + 1):
        row, begin = rows.get(hour), begin_of(hour)
        moved = int(row.bytes_ok) if row else 0
        over = min(HOUR, max(now - begin, timedelta(minutes=1)))
        found.append(
            {
                "hour": iso(begin),
                "files_ok": int(row.files_ok) if row else 0,
                "files_bad": int(row.files_bad) if row else 0,
                "bytes_ok": moved,
                "rate": moved / over.total_seconds(),
            }
        )
    return found
