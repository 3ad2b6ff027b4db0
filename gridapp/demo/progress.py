"""Progress on stderr: a live panel on a terminal, else a plain line every five seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

LINE_EVERY_S = 5.0
Overview = Mapping[str, Any]


class Progress(Protocol):
    """Shows overviews as they come."""

    def show(self, overview: Overview) -> None: ...


@contextmanager
def progress(started: float) -> Iterator[Progress]:
    """The way to show progress on this stderr."""
    if not sys.stderr.isatty():
        yield Lines(started)
        return
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(stderr=True), refresh_per_second=4, transient=True) as live:
        yield Panel(started, live)


class Lines:
    """Plain lines, for logs."""

    def __init__(self, started: float) -> None:
        self._started = started
        self._last = 0.0

    def show(self, overview: Overview) -> None:
        """Print a line if the last one is old enough."""
        now = time.monotonic()
        if now - self._last >= LINE_EVERY_S:
            self._last = now
            print(line(overview, now - self._started), file=sys.stderr, flush=True)


class Panel:
    """A table that stays in place, for people."""

    def __init__(self, started: float, live: Any) -> None:
        self._started = started
        self._live = live

    def show(self, overview: Overview) -> None:
        """Redraw."""
        from rich.table import Table

        table = Table(title=f"tierflow demo, {time.monotonic() - self._started:.0f} s", expand=False)
        for name in ("task", "jobs", "done", "ETA"):
            table.add_column(name)
        for task in in_order(overview):
            table.add_row(short(task["name"]), counted(task["jobs"]), done(task), eta(task))
        table.add_section()
        for name, traffic in links(overview):
            table.add_row(name, traffic, "", "")
        self._live.update(table)


def in_order(overview: Overview) -> list[Mapping[str, Any]]:
    """Tasks as they were made."""
    return sorted(overview["tasks"], key=lambda task: int(task["id"]))


def short(task: str) -> str:
    """A task's label, without date and user."""
    return task.partition(":")[2].partition("_")[2] or task


def counted(numbers: Mapping[str, int]) -> str:
    """`12 DONE, 2 RUNNING`."""
    return ", ".join(f"{n} {name}" for name, n in sorted(numbers.items()) if n) or "-"


def done(task: Mapping[str, Any]) -> str:
    """`120/160 events`."""
    units = task["units"]
    return f"{units['done']}/{units['total'] if units['total'] is not None else '?'} {units['kind']}"


def eta(task: Mapping[str, Any]) -> str:
    """`34 s`, or nothing where it cannot be told."""
    left_s = task["forecast"]["left_s"]
    return "" if left_s is None else f"{left_s:.0f} s"


def line(overview: Overview, elapsed: float) -> str:
    """One plain line: time, each task, transfers by link."""
    tasks = "; ".join(
        " ".join(filter(None, [short(task["name"]), done(task), f"[{counted(task['jobs'])}]", _eta(task)]))
        for task in in_order(overview)
    )
    traffic = ", ".join(f"{name} {files}" for name, files in links(overview))
    return f"{elapsed:6.1f} s  {tasks or 'no task yet'}" + (f" | {traffic}" if traffic else "")


def links(overview: Overview) -> list[tuple[str, str]]:
    """(link, what went and goes over it) of links that are or were used."""
    used = []
    for one in overview["links"]:
        files = {
            "done": one["files_ok"],
            "failed": one["files_bad"],
            "on the way": one["queued"] + one["active"],
        }
        if any(files.values()):
            used.append((f"{_site(one['src'])}->{_site(one['dst'])}", counted(files)))
    return used


def _site(se: str) -> str:
    return se.removesuffix("_Disk")


def _eta(task: Mapping[str, Any]) -> str:
    return f"ETA {eta(task)}" if eta(task) else ""
