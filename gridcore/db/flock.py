"""The write lock of a SQLite database: a lock file beside it, so that writers queue up and none starves."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from gridcore.errors import Busy, UsageError

#: File systems on which SQLite's locks cannot be trusted.
NETWORK_DISKS = frozenset(["nfs", "nfs4", "afs", "gpfs", "lustre", "cifs", "smb3", "fuse.sshfs", "beegfs"])


@contextmanager
def file_lock(path: str, wait_s: float) -> Iterator[None]:
    """Hold an exclusive lock on the file, opened anew. Raises Busy after `wait_s` seconds."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    closing = True
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            closing = _wait(fd, wait_s)
            if not closing:
                raise Busy(
                    f"the database lock {path} was not free within {wait_s:g} s",
                    hint="another tierflow process holds it; is one stopped or hanging?",
                ) from None
        yield
    finally:
        if closing:
            os.close(fd)


def _wait(fd: int, wait_s: float) -> bool:
    """Queue up in the kernel; flock has no time limit of its own, so a thread waits in our place.

    On time-out the thread keeps the file and closes it when its turn comes.
    """
    guard = threading.Lock()
    outcome: list[str] = []
    done = threading.Event()

    def queue_up() -> None:
        with suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_EX)
        with guard:
            abandoned = bool(outcome)
            outcome.append("held")
        if abandoned:
            os.close(fd)
        done.set()

    threading.Thread(target=queue_up, name="flock", daemon=True).start()
    if done.wait(wait_s):
        return True
    with guard:
        if outcome:
            return True
        outcome.append("abandoned")
        return False


def refuse_network_disk(path: str, mounts: str = "/proc/self/mounts") -> None:
    """Raises UsageError where the path lies on a network disk."""
    real = os.path.realpath(path)
    best, kind = "", ""
    with suppress(OSError), open(mounts, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            _, point, fs, *_ = line.split()
            inside = point == "/" or real == point or real.startswith(point + "/")
            if inside and len(point) >= len(best):
                best, kind = point, fs
    if kind in NETWORK_DISKS:
        raise UsageError(
            f"the SQLite database {path} lies on a network disk ({kind} at {best})",
            hint="put it on a local disk, or use PostgreSQL: database.url = postgresql+psycopg://...",
        )
