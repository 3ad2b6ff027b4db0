"""Gauges: what the database holds now, for the metrics."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, func, select

from catalogs.tables import dataset
from gridapp.insights import topology
from prodsys.job_states import JobState
from prodsys.tables import task_count

FILES = select(func.sum(dataset.c.files).label("files"), func.sum(dataset.c.events).label("events"))
JOBS = select(task_count.c.state, func.sum(task_count.c.jobs).label("n")).group_by(task_count.c.state)

Gauge = tuple[str, float, dict[str, str]]


def gauges(conn: Connection) -> list[Gauge]:
    """(metric, value, labels) of jobs by state, the catalogue's size and links' queues; zeros included."""
    found = {row.state: row.n for row in conn.execute(JOBS)}
    jobs: list[Gauge] = [("jobs", float(found.get(one, 0)), {"state": one.value}) for one in JobState]
    held = conn.execute(FILES).one()
    totals: list[Gauge] = [
        ("files_registered", float(held.files or 0), {}),
        ("events_registered", float(held.events or 0), {}),
    ]
    return jobs + totals + [_link(one) for one in topology.links(conn)]


def _link(one: dict[str, Any]) -> Gauge:
    return (
        "link_queue",
        float(one["queued"] + one["active"]),
        {"source": one["src"], "destination": one["dst"]},
    )
