"""Agents: who runs, who beats, and what ails those that fail."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection

from agents.runtime import heartbeats
from agents.runtime.heartbeats import AgentRow, AgentState
from gridapp.insights.values import record, span


def agents(conn: Connection, heartbeat_s: float) -> list[dict[str, Any]]:
    """All agents that beat within the last hour, by name; `ok` is False for stale and failing ones."""
    return [_view(one) for one in heartbeats.agents(conn, heartbeat_s)]


def _view(row: AgentRow) -> dict[str, Any]:
    return {
        **record(row, "agent", "owner", "host", "pid", "state", "started_at", "beat_at", "progress_at"),
        "age_s": round(row.age_s, 1),
        "progress_age_s": None if row.progress_age_s is None else round(row.progress_age_s, 1),
        **record(row, "stale", "cycles", "counts", "note"),
        "ok": not row.stale and row.state != AgentState.FAILING,
    }


def trouble(conn: Connection, agent: str, heartbeat_s: float) -> str | None:
    """Why nothing is to be expected of this agent now; None while one of that name is well."""
    rows = [one for one in heartbeats.agents(conn, heartbeat_s) if one.agent == agent]
    alive = [one for one in rows if not one.stale and one.state != AgentState.STOPPED]
    if any(one.state != AgentState.FAILING for one in alive):
        return None
    if alive:
        return f"the {agent} is failing: {alive[0].note or 'no note'}"
    if rows:
        quiet = min(one.age_s for one in rows)
        return f"no {agent} is running: the last sign of life was {span(quiet)} ago"
    return f"no {agent} is running"
