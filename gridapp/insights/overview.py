"""The overview: all that the page and the progress lines show, in one answer."""

from __future__ import annotations

from collections import Counter
from typing import Any

from sqlalchemy import Connection

from gridapp.insights import dashboards, topology, transfers, work
from gridapp.insights.agents import agents
from gridapp.insights.requests import awaiting
from gridapp.insights.retries import standing
from gridapp.insights.values import iso
from gridcore.db import dbnow
from prodsys.queue.breaker_states import BreakerState
from prodsys.states import TaskState

#: Tasks and subscriptions shown, newest first; of subscriptions, those under way before others.
SHOWN = 25
ENDED = frozenset([TaskState.COMPLETED, TaskState.INCOMPLETE, TaskState.KILLED])


def overview(conn: Connection, heartbeat_s: float) -> dict[str, Any]:
    """Tasks with progress and forecast, jobs by state, links, transfers, agents, subscriptions and sites.

    And what stands still until somebody acts: `requests` to be decided, `breakers` that are not closed.
    """
    now = dbnow(conn)
    tasks = [{**one, **progress(one)} for one in work.tasks(conn, SHOWN, foretold=True)]
    tasks.sort(key=_order)
    jobs: Counter[str] = Counter()
    for one in tasks:
        jobs.update(one["jobs"])
    return {
        "at": iso(now),
        "tasks": tasks,
        "jobs": dict(jobs),
        "links": topology.links(conn),
        "transfers_by_link": transfers.transfers_by_link(conn),
        "requests": awaiting(conn, SHOWN),
        "breakers": [one for one in standing(conn) if one["state"] != BreakerState.CLOSED],
        "agents": agents(conn, heartbeat_s),
        "subscriptions": dashboards.recent(conn, SHOWN),
        "sites": topology.sites(conn),
    }


def _order(task: dict[str, Any]) -> tuple[bool, int]:
    """Tasks under way in the order they were made, then ended ones, newest first."""
    ended = task["state"] in ENDED
    return ended, -task["id"] if ended else task["id"]


def progress(task: dict[str, Any]) -> dict[str, Any]:
    """Of a task's view: percent of units done, events done and in all; None where units are files. Pure."""
    units = task["units"]
    done, total = units["done"], units["total"]
    counts_events = units["kind"] == "events"
    return {
        "percent": round(100 * done / total, 1) if total else 0.0,
        "events_done": done if counts_events else None,
        "events_total": total if counts_events else None,
    }
