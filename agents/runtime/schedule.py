"""Schedule: says by interval or cron when a duty is due. The agent's own thread then does it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC

from apscheduler.executors.debug import DebugExecutor
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.base import BaseTrigger
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.interval import IntervalTrigger

from gridcore.db.leases import Lease
from gridcore.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Duty:
    """Something an agent does every so many seconds, or by a five-field cron line in UTC.

    `act` gets the agent's lease and returns counts, as a cycle does.
    """

    name: str
    act: Callable[[Lease], Mapping[str, int]]
    every_s: float | None = None
    cron: str | None = None

    def trigger(self) -> BaseTrigger:
        """When it is due. Raises UsageError."""
        if (self.every_s is None) == (self.cron is None):
            raise UsageError(f"duty {self.name} needs a time", hint="give either every_s or cron")
        if self.cron is None:
            return IntervalTrigger(seconds=self.every_s, timezone=UTC)
        try:
            return CronTrigger.from_crontab(self.cron, timezone=UTC)
        except ValueError as error:
            raise UsageError(
                f"duty {self.name}: {self.cron!r} is no cron line: {error}",
                hint="minute hour day month weekday, as in '15 3 * * *'",
            ) from None


class Schedule:
    """The calendar of one process's duties."""

    def __init__(self) -> None:
        # The calls below only mark a duty as due, so the scheduler's own thread may make them.
        self._scheduler = BackgroundScheduler(
            timezone=UTC, daemon=True, executors={"default": DebugExecutor()}
        )
        self._open = False

    def add(self, duty: Duty, due: Callable[[Duty], None]) -> None:
        """Call `due` each time; a duty missed while the host slept is due once, however late."""
        self._scheduler.add_job(
            due,
            duty.trigger(),
            args=[duty],
            name=duty.name,
            coalesce=True,
            max_instances=1,
            misfire_grace_time=None,
        )

    def start(self) -> None:
        """Begin; without duties there is no thread."""
        if self._scheduler.get_jobs():
            self._scheduler.start()
            self._open = True

    def close(self) -> None:
        """End; nothing is due from now on."""
        if self._open:
            self._open = False
            self._scheduler.shutdown(wait=False)
