"""Faults injected on purpose: which, decided by a seed, and a journal of those that really happened."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from enum import StrEnum
from pathlib import Path


class FaultKind(StrEnum):
    """What `tierflow demo --faults` breaks."""

    ATTEMPT_FAILED = "attempt_failed"
    WORKER_VANISHED = "worker_vanished"
    LINK_DROPPED = "link_dropped"
    FILE_CORRUPTED = "file_corrupted"


class FaultJournal:
    """The injected faults, one JSON line each, appended at once so that a kill -9 loses none."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def record(self, kind: FaultKind, key: str) -> None:
        """Append a fault; one write, so that lines of several processes do not mix."""
        line = json.dumps({"kind": kind.value, "key": key}) + "\n"
        fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, line.encode())
        finally:
            os.close(fd)

    def keys(self, kind: FaultKind) -> set[str]:
        """The keys hit by faults of one kind."""
        return {key for known, key in self._read() if known == kind}

    def counts(self) -> dict[FaultKind, int]:
        """Faults by kind, 0 included; a fault recorded twice counts once."""
        found = Counter(kind for kind, _ in self._read())
        return {kind: found[kind.value] for kind in FaultKind}

    def _read(self) -> set[tuple[str, str]]:
        if not self.path.exists():
            return set()
        lines = self.path.read_text(encoding="utf-8").split("\n")[:-1]
        entries = [json.loads(line) for line in lines]
        return {(entry["kind"], entry["key"]) for entry in entries}


class FaultPlan:
    """Decides by (seed, kind, key) what is hit, the same in every process and after every restart."""

    def __init__(self, seed: int, journal: FaultJournal) -> None:
        self.seed = seed
        self.journal = journal

    def hits(self, kind: FaultKind, key: str, share: float) -> bool:
        """Whether `key` is among the `share` (0 to 1) of keys that this kind of fault hits."""
        return draw(self.seed, kind, key) < share

    def first(self, kind: FaultKind) -> bool:
        """Whether no fault of this kind has happened yet: the next chance is to be taken."""
        return not self.journal.keys(kind)

    def record(self, kind: FaultKind, key: str) -> None:
        """Note that it happened."""
        self.journal.record(kind, key)


def draw(seed: int, kind: str, key: str) -> float:
    """A number in [0, 1) that depends on nothing but its arguments."""
    digest = hashlib.sha256(f"{seed}:{kind}:{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
