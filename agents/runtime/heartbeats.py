"""Heartbeats: one row per running agent and process, so that everybody can see who lives and who works."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from sqlalchemy import Connection, bindparam, delete, select, update

from gridcore import log
from gridcore.db import dbnow, insert_rows
from gridcore.db.leases import Owner
from gridcore.tables import heartbeat

#: Beats that may fail to come before an agent counts as stale.
MISSED = 3
#: Rows of processes silent for longer are removed.
KEPT_S = 3600.0
NOTE_MAX = 400


class AgentState(StrEnum):
    """How an agent fares."""

    RUNNING = "running"
    STANDBY = "standby"  # another process holds all its leases
    FAILING = "failing"  # its last cycle ended in an error; it will try again
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """What an agent says of itself. Moments are readings of the process's monotonic clock, in seconds.

    `progress` is the end of the last cycle that did something, `busy` the start of the one that is running.
    """

    agent: str
    started: float
    state: AgentState = AgentState.STANDBY
    progress: float | None = None
    busy: float | None = None
    cycles: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)
    note: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentRow:
    """One agent of one process as its last heartbeat tells; `counts` are sums since its start.

    A stale one should beat and does not. One that beats although `progress_age_s` (None: never) and work
    waiting for it both grow is alive but does nothing.
    """

    agent: str
    owner: str
    host: str
    pid: int
    state: AgentState
    started_at: datetime
    beat_at: datetime
    progress_at: datetime | None
    age_s: float
    progress_age_s: float | None
    stale: bool
    cycles: int
    counts: Mapping[str, int]
    note: str | None


BEAT = (
    update(heartbeat)
    .where(heartbeat.c.agent == bindparam("of_agent"), heartbeat.c.owner == bindparam("of_owner"))
    .values(
        beat_at=bindparam("beat_at"),
        progress_at=bindparam("progress_at"),
        cycles=bindparam("cycles"),
        state=bindparam("state"),
        counts=bindparam("counts"),
        note=bindparam("note"),
    )
)
LIST = select(heartbeat).order_by(heartbeat.c.agent, heartbeat.c.started_at, heartbeat.c.owner)
PRUNE = delete(heartbeat).where(heartbeat.c.beat_at < bindparam("before", type_=heartbeat.c.beat_at.type))


def write(
    conn: Connection, owner: Owner, beats: Sequence[Beat], monotonic: float, heartbeat_s: float
) -> None:
    """Write the rows of one process's agents; `monotonic` is its clock's reading now."""
    now = dbnow(conn)
    for beat in beats:
        row = {
            "beat_at": now,
            "progress_at": _moment(now, monotonic, beat.progress),
            "cycles": beat.cycles,
            "state": beat.state.value,
            "counts": dict(beat.counts),
            "note": _note(beat, monotonic, MISSED * heartbeat_s),
        }
        if not conn.execute(BEAT, {"of_agent": beat.agent, "of_owner": owner.name, **row}).rowcount:
            started = _moment(now, monotonic, beat.started)
            birth = {"agent": beat.agent, "owner": owner.name, "host": owner.host, "pid": owner.pid}
            insert_rows(conn, heartbeat, [{**birth, "started_at": started, **row}])


def agents(conn: Connection, heartbeat_s: float) -> list[AgentRow]:
    """All agents that ever beat and are not yet pruned, by name and start."""
    now = dbnow(conn)
    return [
        AgentRow(
            agent=row.agent,
            owner=row.owner,
            host=row.host,
            pid=row.pid,
            state=AgentState(row.state),
            started_at=row.started_at,
            beat_at=row.beat_at,
            progress_at=row.progress_at,
            age_s=(now - row.beat_at).total_seconds(),
            progress_age_s=(now - row.progress_at).total_seconds() if row.progress_at else None,
            stale=row.state != AgentState.STOPPED
            and now - row.beat_at > timedelta(seconds=MISSED * heartbeat_s),
            cycles=row.cycles,
            counts=row.counts or {},
            note=row.note,
        )
        for row in conn.execute(LIST)
    ]


def prune(conn: Connection, heartbeat_s: float) -> int:
    """Remove rows of processes silent for an hour (if beats are rare, for as long as makes one stale)."""
    kept = timedelta(seconds=max(KEPT_S, MISSED * heartbeat_s))
    return conn.execute(PRUNE, {"before": dbnow(conn) - kept}).rowcount


def one_line(error: BaseException) -> str:
    """The error as a note: class, message and hint without secrets, at most NOTE_MAX characters."""
    hint = getattr(error, "hint", None)
    text = f"{type(error).__name__}: {error}" + (f" ({hint})" if hint else "")
    line = " ".join(str(log.scrub(text)).split())
    return "".join(char if char.isprintable() else "\ufffd" for char in line)[:NOTE_MAX]


def _moment(now: datetime, monotonic: float, reading: float | None) -> datetime | None:
    return None if reading is None else now - timedelta(seconds=monotonic - reading)


def _note(beat: Beat, monotonic: float, patience_s: float) -> str | None:
    """The beat's note, or that its cycle takes suspiciously long."""
    if beat.busy is not None and monotonic - beat.busy > patience_s:
        return f"in one cycle for {monotonic - beat.busy:.0f} s"
    return beat.note
