"""A fake tool whose copies take their time: so many bytes a step towards each storage element."""

from __future__ import annotations

from collections import Counter
from datetime import datetime

from datamgmt.tools.base import CopyResult, ErrorClass, ToolError
from datamgmt.tools.fake import FakeTool
from gridcore.clock import FakeClock

#: Seconds a copy takes to fail.
FAILS_S = 120.0


def se_of(pfn: str) -> str:
    """The storage element of `/<SE>/...`."""
    return pfn.split("/", 2)[1]


class PacedTool(FakeTool):
    """Lets through rate x step bytes: `spent` counts seconds of copies by destination, and whoever copies
    stops when those of a step are used up.

    failing: the share of copies that fail by (source SE, destination SE), "*" for any; full: SEs that take no
    more.
    """

    def __init__(self, *, seed: int, rate: float, corrupt: float) -> None:
        super().__init__(seed=seed, rate=rate, latency_s=1.0, corrupt=corrupt)
        self.spent: Counter[str] = Counter()
        self.copied: Counter[tuple[str, str]] = Counter()
        self.failing: dict[tuple[str, str], float] = {}
        self.full: set[str] = set()

    def copy(self, source: str, dest: str, *, size: int, adler32: int, deadline_s: float) -> CopyResult:
        result = super().copy(source, dest, size=size, adler32=adler32, deadline_s=deadline_s)
        self.spent[se_of(dest)] += result.seconds if result.ok else FAILS_S  # type: ignore[assignment]
        self.copied[se_of(source), se_of(dest)] += result.ok
        return result

    def _copy(self, source: str, dest: str, expected: tuple[int, int], *, in_time: bool) -> None:
        src, dst = se_of(source), se_of(dest)
        if dst in self.full:
            raise ToolError(ErrorClass.DEST_FULL, f"no space left at {dst}")
        share = max(self.failing.get(one, 0.0) for one in ((src, dst), (src, "*"), ("*", dst)))
        if share:
            self._tries[source, dest] += 1
            if self._drawn("link", source, dest) < share:
                raise ToolError(ErrorClass.CONNECTION_LOST, f"connection lost between {src} and {dst}")
        super()._copy(source, dest, expected, in_time=in_time)


class Meter:
    """The clock of one destination's agent: the grid's time, and for waiting the copies made, in steps."""

    def __init__(self, clock: FakeClock, tool: PacedTool, se: str, streams: int, step_s: float) -> None:
        self._clock = clock
        self._tool = tool
        self._se = se
        self._per_step = streams * step_s

    def now(self) -> datetime:
        return self._clock.now()

    def monotonic(self) -> float:
        return self._tool.spent[self._se] / self._per_step
