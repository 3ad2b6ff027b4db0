"""An operator's desk: the small work grid with one request, and orders given by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from servers.work_grid import Grid
from sqlalchemy import Connection, select

from catalogs import bookkeeping
from gridapp import operations as shell
from gridapp.selections import Selection
from gridcore.db import Database
from gridcore.identity import EVERYWHERE, Principal, Role
from gridcore.tables import audit_log
from prodsys.control.orders import OrderVerb
from prodsys.job_states import JobEvent, JobState
from prodsys.jobs import store
from prodsys.jobs.store import Move
from prodsys.settling import retry_rules
from prodsys.settling.retries import DEFAULT_RULES, ErrorClass
from prodsys.states import RequestState
from prodsys.tables import job
from prodsys.tables import request as request_table
from prodsys.tasks import tasks

OPS = Principal("ops", roles={EVERYWHERE: frozenset([Role.OPERATOR])})


class Desk:
    """A grid with one submitted request, and an operator."""

    def __init__(self, database: Database, root: Path, text: str) -> None:
        self.grid = Grid(database, root)
        self.task = self.grid.submit(text)

    def make_jobs(self) -> None:
        self.grid.cycle([self.grid.agents[0]])
        self.grid.cycle([self.grid.agents[0]])

    def order(self, event: JobEvent, *indices: int, state: str | None = None, **options: Any) -> Any:
        names = [f"{self.task}/{index}" for index in indices]
        wanted = Selection(names=names, task=None if names else self.task, state=state)
        return shell.order_jobs(self.grid.context, OrderVerb[event.name], wanted, OPS, **options)

    def jobs(self) -> list[Any]:
        return self.grid.rows(select(job).order_by(job.c.id))

    def states(self) -> list[str]:
        return [row.state.value for row in self.jobs()]

    def request_state(self) -> RequestState:
        (row,) = self.grid.rows(select(request_table.c.state))
        return RequestState(row.state)

    def verbs(self) -> list[str]:
        return [row.verb for row in self.grid.rows(select(audit_log.c.verb).order_by(audit_log.c.seq))]

    def end(self, name: str | None = None) -> tasks.Task:
        """On until its request has ended, blocks closed as they become due; the task of this name."""

        def ended() -> bool:
            self.close_due_blocks()
            return self.request_state() != RequestState.RUNNING

        self.grid.until(ended)
        return self.grid.task(name or self.task)

    def close_due_blocks(self) -> None:
        """What the block manager does."""
        now = self.grid.context.clock.now()

        def unit(conn: Connection) -> None:
            for block_id, code in bookkeeping.due_blocks(conn, now):
                bookkeeping.close_blocks(conn, [block_id], code, now)

        self.grid.database.transaction(unit)

    def force(self, event: JobEvent, to: JobState, *rows: Any) -> None:
        """What agents would have seen."""
        moves = [Move(job_id=row.id, attempt=row.attempt, event=event, to=to) for row in rows]
        now = self.grid.context.clock.now()
        made = self.grid.database.transaction(lambda conn: store.apply(conn, moves, now))
        assert len(made) == len(rows)

    def rule(self, kind: ErrorClass, retries: int) -> None:
        new = replace(DEFAULT_RULES[kind], max_retries=retries, delay_s=0)
        self.grid.database.transaction(lambda conn: retry_rules.put(conn, new))
