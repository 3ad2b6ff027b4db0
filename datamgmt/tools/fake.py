"""A transfer tool in memory that fails on demand, and a local tool that corrupts what arrives."""

from __future__ import annotations

import random
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterator

from datamgmt.tools.base import CopyResult, ErrorClass, Stat, ToolError
from datamgmt.tools.local import LocalTool
from gridcore.faults import FaultKind, FaultPlan

#: Copies a hollow tool knows of.
REMEMBERED = 100_000


class FakeTool:
    """Files are (size, adler32) by PFN; copies take simulated seconds and no time.

    rate in bytes per second, latency_s per copy; `fail` and `corrupt` are shares of the copies, drawn by
    seed, source, destination and try, so that a run repeats itself whatever the order of the threads.

    A hollow one has whatever is copied from it and remembers only the last copies: for very many files.
    """

    name = "fake"

    def __init__(
        self,
        *,
        seed: int = 0,
        rate: float = 100e6,
        latency_s: float = 0.1,
        fail: float = 0.0,
        corrupt: float = 0.0,
        hollow: bool = False,
    ) -> None:
        self.files: OrderedDict[str, tuple[int, int]] = OrderedDict()
        self.silent: set[str] = set()
        """PFN prefixes whose storage does not answer."""
        self._seed = seed
        self._rate = rate
        self._latency_s = latency_s
        self._fail = fail
        self._corrupt = corrupt
        self._hollow = hollow
        self._tries: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()

    def put(self, pfn: str, size: int, adler32: int) -> None:
        """Place a file."""
        self.files[pfn] = size, adler32

    def copy(self, source: str, dest: str, *, size: int, adler32: int, deadline_s: float) -> CopyResult:
        seconds = self._latency_s + size / self._rate
        with self._lock:
            if self._hollow:
                return self._pretend(dest, (size, adler32), seconds)
            try:
                self._copy(source, dest, (size, adler32), in_time=seconds <= deadline_s)
            except ToolError as error:
                return CopyResult(
                    ok=False,
                    seconds=min(seconds, deadline_s),
                    error=error.message,
                    error_class=error.error_class,
                )
        return CopyResult(ok=True, bytes=size, seconds=seconds)

    def stat(self, pfn: str) -> Stat | None:
        self._answers(pfn)
        found = self.files.get(pfn)
        return Stat(found[0]) if found else None

    def checksum(self, pfn: str) -> int:
        self._answers(pfn)
        return self._content(pfn)[1]

    def delete(self, pfn: str) -> bool:
        self._answers(pfn)
        return self.files.pop(pfn, None) is not None

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        self._answers(prefix)
        below = prefix.rstrip("/") + "/"
        for pfn, (size, _) in sorted(self.files.items()):
            if pfn.startswith(below):
                yield pfn, size

    def abandoned(self, prefix: str, older_than_s: float) -> Iterator[str]:
        return iter(())  # a copy is whole or not at all

    def _copy(self, source: str, dest: str, expected: tuple[int, int], *, in_time: bool) -> None:
        self._tries[source, dest] += 1
        self._answers(source, ErrorClass.SOURCE_UNREADABLE)
        self._answers(dest)
        if self._content(source) != expected:
            raise ToolError(ErrorClass.SOURCE_CORRUPT, f"{source} is not what the catalogue says")
        if self.files.get(dest, expected) != expected:
            raise ToolError(ErrorClass.DEST_EXISTS, f"{dest} exists with another content")
        if not in_time:
            raise ToolError(ErrorClass.TIMEOUT, f"copying {source} did not end before its deadline")
        if self._drawn("fail", source, dest) < self._fail:
            raise ToolError(ErrorClass.CONNECTION_LOST, f"connection lost while copying {source}")
        size, adler32 = expected
        flipped = self._drawn("corrupt", source, dest) < self._corrupt
        self.files[dest] = size, adler32 ^ flipped

    def _pretend(self, dest: str, content: tuple[int, int], seconds: float) -> CopyResult:
        self.files[dest] = content
        if len(self.files) > REMEMBERED:
            self.files.popitem(last=False)
        return CopyResult(ok=True, bytes=content[0], seconds=seconds)

    def _drawn(self, kind: str, source: str, dest: str) -> float:
        key = f"{self._seed} {kind} {source} {dest} {self._tries[source, dest]}"
        return random.Random(key).random()

    def _content(self, pfn: str) -> tuple[int, int]:
        if pfn not in self.files:
            raise ToolError(ErrorClass.SOURCE_MISSING, f"{pfn} is not there")
        return self.files[pfn]

    def _answers(self, pfn: str, silence: ErrorClass = ErrorClass.STORAGE_SILENT) -> None:
        if any(pfn.startswith(prefix) for prefix in self.silent):
            raise ToolError(silence, f"the storage of {pfn} does not answer")


class FaultyTool:
    """A local tool some of whose arrived files have a byte flipped: the first always, then a share of them.

    The copy reports success: only verification at the destination can tell.
    """

    name = "local"

    def __init__(self, inner: LocalTool, plan: FaultPlan, share: float = 0.05) -> None:
        self._inner = inner
        self._plan = plan
        self._share = share
        self._lock = threading.Lock()

    def copy(self, source: str, dest: str, *, size: int, adler32: int, deadline_s: float) -> CopyResult:
        result = self._inner.copy(source, dest, size=size, adler32=adler32, deadline_s=deadline_s)
        if result.ok and size:
            with self._lock:
                self._strike(dest, size)
        return result

    def stat(self, pfn: str) -> Stat | None:
        return self._inner.stat(pfn)

    def checksum(self, pfn: str) -> int:
        return self._inner.checksum(pfn)

    def delete(self, pfn: str) -> bool:
        return self._inner.delete(pfn)

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        return self._inner.list(prefix)

    def abandoned(self, prefix: str, older_than_s: float) -> Iterator[str]:
        return self._inner.abandoned(prefix, older_than_s)

    def _strike(self, dest: str, size: int) -> None:
        # A file is hit once at most, or none of its tries would ever pass.
        struck = self._plan.journal.keys(FaultKind.FILE_CORRUPTED)
        if dest in struck or (struck and not self._plan.hits(FaultKind.FILE_CORRUPTED, dest, self._share)):
            return
        with open(self._inner.path(dest), "r+b") as stream:
            stream.seek(size // 2)
            byte = stream.read(1)[0]
            stream.seek(size // 2)
            stream.write(bytes([byte ^ 0xFF]))
        self._plan.record(FaultKind.FILE_CORRUPTED, dest)
