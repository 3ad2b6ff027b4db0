"""Whatever is asked in whatever order: units are conserved, counters true, a resume leaves nothing held."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest
from servers.work_desk import OPS, Desk
from servers.work_grid import STEP
from sqlalchemy import select

from gridapp import amendments as shell
from gridapp.insights import work
from gridapp.invariants import INVARIANTS
from gridcore.db import Database
from gridcore.db.invariants import violations
from gridcore.errors import Conflict, InvalidTransition, UsageError
from prodsys.job_states import JOB, JobEvent, JobState
from prodsys.shares import shares
from prodsys.states import REQUEST, TASK, RequestState, TaskState
from prodsys.tables import job, job_class

ID = 1


class Operator:
    """Somebody who tries anything."""

    def __init__(self, desk: Desk, dice: Random) -> None:
        self.desk, self.dice, self.context = desk, dice, desk.grid.context
        self.acts: list[Callable[[], Any]] = [
            lambda: shell.pause(self.context, ID, OPS),
            lambda: shell.resume(self.context, ID, OPS),
            lambda: shell.extend(self.context, ID, "gen", dice.randint(1, 12), OPS),
            lambda: shell.top_up(self.context, desk.task, OPS),
            lambda: shell.prioritise(self.context, desk.task, dice.randint(-5, 5), OPS),
            lambda: shell.share(self.context, ID, dice.choice(["production", "heavy"]), OPS),
            lambda: shell.assign(self.context, ID, OPS, sites=dice.choice([["T2_FI_Birch"], []])),
            lambda: shell.force_complete(self.context, desk.task, "enough", OPS),
            lambda: desk.order(JobEvent.HOLD, self._index()),
            lambda: desk.order(JobEvent.RELEASE, self._index()),
            lambda: desk.order(JobEvent.KILL, self._index()),
            lambda: desk.order(JobEvent.RETRY, self._index()),
            self._claim,
            self._fail,
            lambda: desk.grid.cycle([desk.grid.agents[0]]),
            lambda: desk.grid.cycle([desk.grid.agents[0]]),
        ]

    def act(self) -> None:
        with suppress(Conflict, InvalidTransition, UsageError):
            self.dice.choice(self.acts)()

    def _index(self) -> int:
        return self.dice.choice(self.desk.jobs()).idx  # type: ignore[no-any-return]

    def _some(self, state: JobState) -> list[Any]:
        found = [row for row in self.desk.jobs() if row.state == state]
        return self.dice.sample(found, min(len(found), 2))

    def _claim(self) -> None:
        self.desk.force(JobEvent.CLAIMED, JobState.LEASED, *self._some(JobState.READY))

    def _fail(self) -> None:
        to = self.dice.choice([JobState.FAILED, JobState.RETRY_WAIT])
        self.desk.force(JobEvent.REFUSED, to, *self._some(JobState.LEASED))


@pytest.mark.parametrize("seed", range(6))
def test_nothing_is_lost_whatever_is_asked(database: Database, tmp_path: Path, seed: int) -> None:
    desk = Desk(database, tmp_path, STEP.format(events=20))
    now = desk.grid.context.clock.now()
    database.transaction(lambda conn: shares.put(conn, 950, "heavy", None, 30, now))
    desk.make_jobs()
    operator = Operator(desk, Random(seed))
    for _ in range(40):
        operator.act()
        with database.snapshot() as conn:
            assert violations(conn, INVARIANTS) == []
            units = work.task(conn, desk.task)["units"]
        found = units["done"] + units["live"] + units["failed"] + units["killed"]
        assert found == units["made"] <= units["total"]
        assert units["wanted"] <= units["total"]
    _settles(desk)


def _settles(desk: Desk) -> None:
    """Resumed, the waiting jobs are where their task says, and none is held by the pause."""
    if desk.request_state() == RequestState.PAUSED:
        shell.resume(desk.grid.context, ID, OPS)
    desk.make_jobs()
    assert "policy" not in {row.hold_kind for row in desk.jobs()}
    leaf_id = desk.grid.task(desk.task).leaf_id
    waiting = select(job_class.c.leaf_id).join(job, job.c.class_id == job_class.c.id)
    rows = desk.grid.rows(waiting.where(job.c.state == JobState.READY, job.c.attempt == 0))
    assert {row.leaf_id for row in rows} <= {leaf_id}


@pytest.mark.parametrize("machine", [JOB, REQUEST, TASK], ids=lambda one: one.name)
def test_every_state_can_end(machine: Any) -> None:
    states = {state for edge in machine.edges() for state in edge}
    ends = set(machine.final)
    while True:
        more = {source for source, target in machine.edges() if target in ends} - ends
        if not more:
            break
        ends |= more
    assert ends == states
    assert {RequestState, TaskState, JobState} >= {type(state) for state in states}
