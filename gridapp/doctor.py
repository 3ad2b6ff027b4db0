"""Doctor: looks for what is wrong with an installation, and says what to do about it."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from agents.runtime import heartbeats
from catalogs import sites
from gridapp import schema
from gridapp.insights import nowhere
from gridapp.invariants import INVARIANTS
from gridcore import topnames
from gridcore.db import Database
from gridcore.db.invariants import violations
from gridcore.errors import GridError
from gridcore.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One check and what it found; `cure` is empty where all is well."""

    check: str
    ok: bool
    finding: str
    cure: str = ""


Trouble = tuple[str, str]
"""What is wrong, and its cure."""


def examine(database: Database, settings: Settings) -> list[Finding]:
    """All checks in order; those that need the schema are left out where it is another."""
    found = [
        *_told("packages", "our packages are ours", packages),
        *_told("permissions", "nobody else can read or write here", lambda: permissions(settings)),
        *_told("schema", f"revision {schema.HEAD}", lambda: tables(database)),
    ]
    if not any(one.check == "schema" and not one.ok for one in found):
        found += _told("storage", "every storage element can be written", lambda: storage(database))
        found += _told("invariants", f"{len(INVARIANTS)} invariants hold", lambda: invariants(database))
        found += _told("work", "every waiting job could run somewhere", lambda: impossible(database))
        found += _told("agents", "no agent is stale", lambda: agents(database, settings.lease.heartbeat_s))
    return found


def _told(check: str, well: str, look: Callable[[], Iterator[Trouble]]) -> list[Finding]:
    """The check's findings; a single good one where it has none."""
    found = [Finding(check=check, ok=False, finding=what, cure=cure) for what, cure in look()]
    return found or [Finding(check=check, ok=True, finding=well)]


def packages() -> Iterator[Trouble]:
    """Other distributions that use our import names."""
    try:
        topnames.check()
    except GridError as error:
        yield error.message, error.hint or ""


def permissions(settings: Settings) -> Iterator[Trouble]:
    """Files of the installation that others can change, or read where they should not."""
    home = settings.dir
    for path in (home, home / "spool", home / "cache", home / "tierflow.db", home / "tierflow.toml"):
        if path.exists() and path.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            yield f"others can write {path}", f"chmod go-w {path}"
    spool = home / "spool"
    if spool.exists() and not os.access(spool, os.W_OK):
        yield f"{spool} cannot be written", f"chown it to the user who runs tierflow: {spool}"


def tables(database: Database) -> Iterator[Trouble]:
    """How the database's schema differs from this code's."""
    with database.snapshot() as conn:
        found = schema.current(conn)
        if found is None or not schema.compatible(conn, found):
            yield f"revision {found or 'missing'} instead of {schema.HEAD}", "tierflow db upgrade"
        if found != schema.HEAD:  # a newer one has more than this code knows
            return
        for one in schema.differences(conn):
            yield f"differs from the code: {one}", "restore it from a backup, or report this"


def storage(database: Database) -> Iterator[Trouble]:
    """Storage elements on this host that cannot be written."""
    with database.snapshot() as conn:
        roots = {one.name: Path(one.root) for one in sites.storage_elements(conn) if one.root}
    for name, root in roots.items():
        if root.exists() and not os.access(root, os.W_OK | os.X_OK):
            yield f"{name}: {root} cannot be written", f"chmod u+rwx {root}"


def invariants(database: Database) -> Iterator[Trouble]:
    """What must always hold and does not."""
    with database.snapshot() as conn:
        for one in violations(conn, INVARIANTS):
            ids = ", ".join(" ".join(str(part) for part in row) for row in one.rows[:5])
            more = ", ..." if len(one.rows) > 5 else ""
            yield f"{one.name}: not true that {one.says}: {ids}{more}", "report this with the log"


def impossible(database: Database) -> Iterator[Trouble]:
    """Waiting jobs that no site could ever run."""
    with database.snapshot() as conn:
        yield from nowhere.doctored(conn)


def agents(database: Database, heartbeat_s: float) -> Iterator[Trouble]:
    """Agents that should give signs of life and do not, or fail."""
    with database.snapshot() as conn:
        rows = heartbeats.agents(conn, heartbeat_s)
    well = {one.agent for one in rows if not one.stale and one.state == heartbeats.AgentState.RUNNING}
    for one in rows:
        if one.stale and one.agent not in well:
            yield (
                f"{one.agent} of {one.owner} is silent for {one.age_s:.0f} s",
                "start it: tierflow up --dir DIR",
            )
        elif one.state == heartbeats.AgentState.FAILING:
            yield f"{one.agent} of {one.owner} is failing: {one.note or 'no note'}", "look into its log"
