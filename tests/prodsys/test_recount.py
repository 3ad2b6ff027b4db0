"""Counters that have drifted from the jobs they count are found and put right, though jobs move meanwhile."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from servers.work_desk import Desk
from servers.work_grid import STEP
from sqlalchemy import delete, select, update

from gridcore.db import Database, bulk
from prodsys import recount
from prodsys.job_states import JobEvent, JobState
from prodsys.jobs.store import Head, Move, apply, take
from prodsys.tables import class_use, endpoint, job, job_class, share_node, task_count

COUNTERS = (class_use, job_class, share_node, task_count)


@pytest.fixture
def desk(database: Database, tmp_path: Path) -> Desk:
    return made(database, tmp_path)


def made(database: Database, tmp_path: Path) -> Desk:
    """Four jobs, two of which hold slots."""
    desk = Desk(database, tmp_path, STEP.format(events=20))
    desk.make_jobs()
    with database.snapshot() as conn:
        place = conn.execute(select(endpoint.c.id, endpoint.c.site_id)).one()
        (cls,) = conn.execute(select(job_class)).all()
    heads = [
        Head(
            id=row.id,
            attempt=row.attempt,
            rank=row.rank,
            class_id=cls.id,
            task_id=row.task_id,
            kind=row.kind,
            units=row.units,
            leaf_id=cls.leaf_id,
            cores=cls.cores,
        )
        for row in desk.jobs()[:2]
    ]
    now = desk.grid.context.clock.now()
    assert len(database.transaction(lambda conn: take(conn, heads, place.id, place.site_id, now))) == 2
    return desk


def counted(database: Database) -> dict[str, list[tuple[Any, ...]]]:
    with database.snapshot() as conn:
        return {one.name: sorted(tuple(row) for row in conn.execute(select(one))) for one in COUNTERS}


def mend(database: Database) -> dict[str, int]:
    return database.transaction(recount.mend)


def test_right_counters_are_left_alone(desk: Desk, database: Database) -> None:
    wanted = counted(database)
    assert mend(database) == {}
    assert counted(database) == wanted


@pytest.mark.parametrize(
    ("statement", "kind"),
    [
        (update(class_use).values(jobs=class_use.c.jobs + 3), "uses"),
        (update(class_use).values(jobs=-2, cores=-2), "uses"),
        (delete(class_use), "new_uses"),
        (update(job_class).values(ready=job_class.c.ready - 1), "ready"),
        (update(job_class).values(head_rank=2**62), "heads"),
        (update(share_node).values(running=0), "running"),
        (update(task_count).values(units=task_count.c.units + 7), "jobs"),
    ],
)
def test_what_has_drifted_is_put_right(desk: Desk, database: Database, statement: Any, kind: str) -> None:
    wanted = counted(database)
    database.transaction(lambda conn: conn.execute(statement))
    with database.snapshot() as conn:
        assert set(recount.drift(conn)) == {kind}
    slots = database.transaction(lambda conn: recount.mend(conn, recount.SLOTS))
    assert set(slots) == ({kind} & set(recount.SLOTS))
    assert set(mend(database)) == {kind} - set(recount.SLOTS)
    assert mend(database) == {}
    found = counted(database)
    if kind == "heads":  # the first READY job may stand behind the head that was remembered
        with database.snapshot() as conn:
            first = conn.execute(select(job.c.rank).where(job.c.state == JobState.READY).order_by(job.c.rank))
            assert conn.execute(select(job_class.c.head_rank)).scalar_one() == first.scalars().first()
    else:
        assert found == wanted


@pytest.mark.slow
def test_jobs_that_end_meanwhile_are_counted_once(
    postgres_db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job leaves its slot, and that is committed, between the look at the drift and its correction."""
    database = postgres_db
    desk = made(database, tmp_path)
    database.transaction(lambda conn: conn.execute(update(class_use).values(jobs=5, cores=5)))
    one, now = desk.jobs()[0], desk.grid.context.clock.now()
    gone = [Move(job_id=one.id, attempt=1, event=JobEvent.KILL, to=JobState.KILLED)]
    other = threading.Thread(target=lambda: database.transaction(lambda conn: apply(conn, gone, now)))
    write = bulk.write

    def late(*args: Any) -> list[int]:
        if threading.current_thread() is not other and other.ident is None:
            other.start()
            other.join(60)
        return write(*args)

    monkeypatch.setattr(bulk, "write", late)
    assert mend(database) == {"uses": 1}
    with database.snapshot() as conn:
        assert recount.drift(conn) == {}
        assert conn.execute(select(class_use.c.jobs)).scalar_one() == 1
