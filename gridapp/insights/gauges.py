"""Gauges: what the database holds now, for the metrics."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, func, select

from gridapp.insights import data
from prodsys.jobs.machine import JobState
from prodsys.tables import task_count

JOBS = select(task_count.c.state, func.sum(task_count.c.jobs).label("n")).group_by(task_count.c.state)

Gauge = tuple[str, float, dict[str, str]]


def gauges(conn: Connection) -> list[Gauge]:
    """(metric, value, labels) of jobs by state and of each link's queue; zeros included."""
    found = {row.state: row.n for row in conn.execute(JOBS)}
    jobs: list[Gauge] = [("jobs", float(found.get(one, 0)), {"state": one.value}) for one in JobState]
    return jobs + [_link(one) for one in data.links(conn)]


def _link(one: dict[str, Any]) -> Gauge:
    return (
        "link_queue",
        float(one["queued"] + one["active"]),
        {"source": one["src"], "destination": one["dst"]},
    )
