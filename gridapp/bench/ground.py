"""Where a bench runs: its backend, its databases, and who hears of its progress."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from gridapp.bench import backlog
from gridapp.bench.backlog import Backlog, Line, Say
from gridapp.bench.measure import Arm, Figure, alternate, fault_of, ratio
from gridapp.bench.server import Server
from gridcore.db import Database

#: Longest a turn of an arm may take, in seconds.
TURN_S = 4.0


class Ground:
    """The databases of one run; all is gone when it is left."""

    def __init__(self, bench: str, backend: str, rows: int, dsn: str | None, say: Say) -> None:
        self.bench, self.backend, self.rows, self.say = bench, backend, rows, say
        self._dsn = dsn
        self._stack = ExitStack()
        self._server: Server | None = None
        self._loaded: Backlog | None = None
        #: A task with as many jobs as the backlog, once there is one.
        self.big: Line | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def server(self) -> Server:
        """The PostgreSQL server, started when it is first asked for."""
        if self._server is None:
            self._server = self._stack.enter_context(Server(self._dsn))
        return self._server

    def empty(self) -> Database:
        """A new database without a schema."""
        if self.backend == "sqlite":
            home = Path(tempfile.mkdtemp(prefix="tfbench"))
            self._stack.callback(shutil.rmtree, home, ignore_errors=True)
            url = f"sqlite:///{home}/tierflow.db"
        else:
            url = self.server.create().render_as_string(hide_password=False)
        database = Database(url, statement_timeout_s=600)
        self._stack.callback(database.close)
        return database

    def backlog(self, least: float = 0.7) -> Backlog:
        """A loaded database; the last one, if at least that part of its jobs still waits."""
        if self._loaded is None or self._loaded.waiting() < least * self.rows:
            self._loaded, self.big = self.load(self.rows), None
        return self._loaded

    def load(self, rows: int) -> Backlog:
        """A new database with a backlog of so many jobs."""
        self.say(f"loading {rows:,} jobs on {self.backend}")
        return backlog.fill(self.empty(), rows, self.say)

    def closing(self, close: Callable[[], None]) -> None:
        """Call this in the end, before the databases go."""
        self._stack.callback(close)

    def figure(
        self,
        case: str,
        figure: float,
        unit: str,
        limit: float,
        *,
        rows: int | None = None,
        bare: float | None = None,
        less_is_better: bool = False,
        error: str | None = None,
    ) -> Figure:
        """A figure beside its limit; of all rows, if not of so many."""
        return Figure(
            bench=self.bench,
            case=case,
            backend=self.backend,
            rows=self.rows if rows is None else rows,
            figure=figure,
            unit=unit,
            limit_figure=limit,
            bare_figure=bare,
            ratio=ratio(figure, limit, less_is_better=less_is_better),
            error=error,
        )

    def compare(self, case: str, unit: str, arms: Mapping[str, Arm], *, rows: int | None = None) -> Figure:
        """The arms `ours`, `limit` and, where there is one, `bare` take turns; their medians and ratio."""
        self.say(f"measuring {self.bench} {case}")
        found = alternate(arms)
        limit, bare = found.get("limit"), found.get("bare")
        return Figure(
            bench=self.bench,
            case=case,
            backend=self.backend,
            rows=rows or self.rows,
            figure=found["ours"],
            unit=unit,
            limit_figure=limit,
            bare_figure=bare,
            ratio=ratio(found["ours"], limit),
            error=fault_of(limit, bare),
        )
