"""Leases: one owner's right to a named piece of work until a time, with a fence number.

A takeover changes one row here (owner, fence + 1, expiry) and nothing it covers.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path

from sqlalchemy import Connection, bindparam, or_, select, update

from gridcore.db import reads
from gridcore.db.engine import dbnow
from gridcore.db.idlists import within
from gridcore.db.reads import Read
from gridcore.db.statements import insert_rows, lock_rows
from gridcore.errors import LeaseLost
from gridcore.tables import lease


@dataclass(frozen=True, slots=True)
class Owner:
    """A process that may hold leases, told apart from all others that ever were."""

    name: str
    host: str
    boot_id: str
    pid: int
    started: int

    @classmethod
    def current(cls, duty: str) -> Owner:
        """This process, for one duty (agent)."""
        host, pid = socket.gethostname(), os.getpid()
        return cls(f"{duty}@{host}:{pid}.{start_time(pid)}", host, boot_id(), pid, start_time(pid) or 0)

    def provably_dead(self) -> bool:
        """Whether this host knows that the process is gone; False where it cannot know."""
        if self.host != socket.gethostname():
            return False
        return self.boot_id != boot_id() or start_time(self.pid) != self.started


@cache
def boot_id() -> str:
    """Names this boot of this host."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "unknown"


def start_time(pid: int) -> int | None:
    """Start time of a live process in clock ticks since boot, None where there is none (or a zombie)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


@dataclass(frozen=True, slots=True)
class Lease:
    """What its holder keeps in hand."""

    id: int
    name: str
    owner: str
    fence: int
    expires_at: datetime


ROWS = select(lease).where(lease.c.name.in_(bindparam("names", expanding=True))).order_by(lease.c.id)
BY_ID = select(lease.c.fence, lease.c.expires_at).where(lease.c.id == bindparam("lease_id"))
BY_IDS = select(lease.c.id, lease.c.fence, lease.c.expires_at).where(within(lease.c.id))
TAKE = (
    update(lease)
    .where(lease.c.id == bindparam("lease_id"), lease.c.fence == bindparam("seen"))
    .where(
        or_(
            lease.c.owner.is_(None),
            lease.c.expires_at <= bindparam("at", type_=lease.c.expires_at.type),
            bindparam("dead") == 1,
        )
    )
    .values(
        owner=bindparam("new_owner"),
        host=bindparam("new_host"),
        boot_id=bindparam("new_boot"),
        pid=bindparam("new_pid"),
        started=bindparam("new_started"),
        expires_at=bindparam("until"),
        fence=lease.c.fence + 1,
    )
)
RENEW = (
    update(lease)
    .where(lease.c.id == bindparam("lease_id"), lease.c.fence == bindparam("held"))
    .where(lease.c.expires_at > bindparam("at", type_=lease.c.expires_at.type))
    .values(expires_at=bindparam("until"))
)
GIVE_BACK = (
    update(lease)
    .where(lease.c.id == bindparam("lease_id"), lease.c.fence == bindparam("held"))
    .values(owner=None, expires_at=None)
)


@dataclass(frozen=True, slots=True)
class LeaseRow:
    """A lease as it stands in the database."""

    id: int
    name: str
    fence: int
    owner: Owner | None
    expires_at: datetime | None


def read(conn: Connection, names: Collection[str]) -> list[LeaseRow]:
    """The rows of these names that exist."""
    rows = conn.execute(ROWS, {"names": list(names)}).all() if names else []
    return [
        LeaseRow(
            row.id,
            row.name,
            row.fence,
            Owner(row.owner, row.host, row.boot_id, row.pid, row.started) if row.owner else None,
            row.expires_at,
        )
        for row in rows
    ]


def create(conn: Connection, rows: Iterable[tuple[int, str]]) -> None:
    """Make free leases from (key, name) pairs."""
    insert_rows(conn, lease, [{"id": key, "name": name, "fence": 0} for key, name in rows])


def take(
    conn: Connection, rows: Sequence[LeaseRow], owner: Owner, seconds: float, dead: Collection[int]
) -> list[Lease]:
    """Those of the rows this owner now holds: free, expired, or in `dead` (owner provably dead).

    A row changed since it was read is somebody else's.
    """
    lock_rows(conn, lease, [row.id for row in rows])
    now = dbnow(conn)
    until = now + timedelta(seconds=seconds)
    taken = []
    for row in rows:
        binds = {
            "lease_id": row.id,
            "seen": row.fence,
            "at": now,
            "dead": int(row.id in dead),
            "new_owner": owner.name,
            "new_host": owner.host,
            "new_boot": owner.boot_id,
            "new_pid": owner.pid,
            "new_started": owner.started,
            "until": until,
        }
        if conn.execute(TAKE, binds).rowcount:
            taken.append(Lease(row.id, row.name, owner.name, row.fence + 1, until))
    return taken


def renew(conn: Connection, held: Sequence[Lease], seconds: float) -> list[Lease]:
    """Those of the leases that are still ours, prolonged."""
    lock_rows(conn, lease, [one.id for one in held])
    now = dbnow(conn)
    until = now + timedelta(seconds=seconds)
    return [
        replace(one, expires_at=until)
        for one in held
        if conn.execute(RENEW, {"lease_id": one.id, "held": one.fence, "at": now, "until": until}).rowcount
    ]


def give_back(conn: Connection, held: Sequence[Lease]) -> None:
    """Let others have them at once."""
    for one in sorted(held, key=lambda lease_: lease_.id):
        conn.execute(GIVE_BACK, {"lease_id": one.id, "held": one.fence})


def hold_all(conn: Connection, held: Collection[Lease]) -> tuple[datetime, list[Lease]]:
    """The database's time, and those of the leases that are ours for the rest of this transaction."""
    lock_rows(conn, lease, [one.id for one in held])
    now = dbnow(conn)
    (rows,) = reads.rows(conn, [Read(BY_IDS, {"ids": [one.id for one in held]})])
    valid = {key: fence for key, fence, until in rows if until is not None and until > now}
    return now, [one for one in held if valid.get(one.id) == one.fence]


def hold(conn: Connection, held: Lease) -> datetime:
    """Make sure, for the rest of this transaction, that the lease is ours; the database's time.

    Raises LeaseLost.
    """
    lock_rows(conn, lease, [held.id])
    now = dbnow(conn)
    row = conn.execute(BY_ID, {"lease_id": held.id}).one()
    if row.fence != held.fence or row.expires_at is None or row.expires_at <= now:
        raise LeaseLost(
            f"the lease {held.name} has passed to another owner (fence {row.fence}, ours {held.fence})"
        )
    return now
