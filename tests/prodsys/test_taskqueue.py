"""The task queue: what a claim takes and in which order, its limits, its counters, and its plans."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from servers import backlog
from servers.backlog import NOW, fill
from sqlalchemy import Connection, event, select, update

from gridcore.db import Database, bulk, driver, engine, insert_rows
from gridcore.db.engine import Stale
from gridcore.errors import Busy
from prodsys.job_states import JobEvent, JobState
from prodsys.jobs import attempts, store
from prodsys.jobs.attempts import Claimant
from prodsys.jobs.store import Head, Move
from prodsys.queue import taskqueue
from prodsys.queue.outlook import Memory
from prodsys.settling import accounting
from prodsys.tables import attempt, class_use, job, job_class, job_history, task, work_limit

LATER = NOW + timedelta(hours=1)
COURSE = (
    (JobEvent.ADMITTED, JobState.RUNNING),
    (JobEvent.SUCCEEDED, JobState.STAGEOUT),
)


@pytest.fixture(autouse=True)
def _no_units(database: Database) -> Iterator[None]:
    """The backlog has no history of its making: what its tasks have made is said here."""
    yield

    def unit(conn: Connection) -> None:
        for one in conn.execute(select(task.c.id)).all():
            made = sum(conn.execute(select(job.c.units).where(job.c.task_id == one.id)).scalars())
            conn.execute(update(task).where(task.c.id == one.id).values(units_made=made))

    database.transaction(unit)


def claim(database: Database, n: int, site: int = 1) -> list[Head]:
    by = Claimant(endpoint_id=site, site_id=site, agent="agent", instance="0123456789ab")
    return database.transaction(lambda conn: taskqueue.claim(conn, by, n, LATER))


def run(database: Database, heads: list[Head], course: Any = COURSE) -> list[Move]:
    moves = [
        Move(job_id=one.id, attempt=one.attempt + 1, event=event, to=to)
        for one in heads
        for event, to in course
    ]

    def unit(conn: Connection) -> list[Move]:
        made = store.apply(conn, moves, LATER)
        now = {"admitted_at": LATER, "ended_at": LATER}
        conn.execute(update(attempt).where(attempt.c.job_id.in_([one.id for one in heads])).values(**now))
        return made

    return database.transaction(unit)


def rows(database: Database, statement: Any) -> list[Any]:
    with database.snapshot() as conn:
        return list(conn.execute(statement))


def limit(database: Database, **values: Any) -> None:
    row = {"id": 1, "name": "l", "site_id": None, "share_path": None, "task_type": None, "max_jobs": None}
    database.transaction(lambda conn: insert_rows(conn, work_limit, [{**row, "max_cores": None, **values}]))


# --- what is taken -----------------------------------------------------------------------------------------


def test_leaves_share_alike_and_lines_are_served_from_the_front(database: Database) -> None:
    fill(database, 400)
    heads = claim(database, 40)
    assert Counter(one.leaf_id for one in heads) == {1: 10, 2: 10, 3: 10, 4: 10}
    for leaf_id in range(1, 5):
        mine = [one for one in heads if one.leaf_id == leaf_id]
        waiting = rows(
            database,
            select(job.c.rank)
            .join(job_class, job_class.c.id == job.c.class_id)
            .where(job_class.c.leaf_id == leaf_id, job.c.state == JobState.READY),
        )
        assert max(one.rank for one in mine) < min(row.rank for row in waiting)


def test_a_claim_opens_attempts_and_remembers(database: Database) -> None:
    fill(database, 40)
    heads = claim(database, 8)
    found = rows(database, select(attempt.c.job_id, attempt.c.attempt, attempt.c.batch_key))
    assert {tuple(row) for row in found} == {(one.id, 1, f"tf.01234567.{one.id}.1") for one in heads}
    states = rows(database, select(job.c.state, job.c.attempt).where(job.c.id.in_([one.id for one in heads])))
    assert {tuple(row) for row in states} == {(JobState.LEASED, 1)}
    told = rows(database, select(job_history).where(job_history.c.dst == JobState.LEASED))
    assert {(row.job_id, row.attempt, row.frm) for row in told} == {
        (one.id, 1, JobState.READY) for one in heads
    }
    assert sum(row.jobs for row in rows(database, select(class_use.c.jobs))) == 8


def test_everything_is_taken_once(database: Database) -> None:
    fill(database, 100)
    taken = [one.id for _ in range(12) for one in claim(database, 9)]
    assert sorted(taken) == list(range(1, 101))
    assert claim(database, 9) == []


def test_what_returns_to_the_queue_is_found_again(database: Database) -> None:
    fill(database, 16)
    heads = claim(database, 16)
    back = [
        Move(job_id=one.id, attempt=1, event=JobEvent.UNSENT, to=JobState.READY)
        for one in heads
        if one.id < 5
    ]
    database.transaction(lambda conn: store.apply(conn, back, LATER))
    database.transaction(lambda conn: conn.execute(attempt.delete().where(attempt.c.job_id < 5)))
    assert sorted(one.id for one in claim(database, 16)) == [1, 2, 3, 4]


def test_what_is_not_taken_after_all_is_not_remembered(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(database, 80)
    memory, tries = Memory(kept_s=3600), Counter[str]()
    take = store.take

    def unit(conn: Connection) -> list[int]:
        tries["units"] += 1
        return [one.id for _ in range(2) for one in taskqueue.claim(conn, by, 8, LATER, memory)]

    def disturbed(*given: Any) -> list[Head]:
        tries["takes"] += 1
        if tries["takes"] == 2:  # the first claim of the unit is undone with the second
            raise Stale
        return take(*given)

    by = Claimant(endpoint_id=1, site_id=1, agent="agent", instance="0123456789ab")
    with database.snapshot() as conn:
        first = [one.id for one in taskqueue.preview(conn, 1, 8, LATER)]
    monkeypatch.setattr(store, "take", disturbed)
    taken = database.transaction(unit)
    assert (tries["units"], len(set(taken)), taken[:8]) == (2, 16, first)
    seen = memory.recall(1, 1)
    assert seen
    assert sum(seen.kinds.values()) == 64


def test_a_use_made_by_another_meanwhile_is_counted_anew(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(database, 16)
    write, made = bulk.write, list[int]()

    def behind(conn: Connection, writes: Any) -> list[int]:
        found = write(conn, writes)
        if not made:  # between the update that finds no row and the look at which are there
            made.extend(conn.execute(select(job_class.c.id)).scalars())
            insert_rows(conn, class_use, [{"class_id": one, "site_id": 1} for one in made])
        return found

    monkeypatch.setattr(bulk, "write", behind)
    monkeypatch.setattr(engine, "ATTEMPTS", 1)
    with pytest.raises(Busy):
        claim(database, 8)
    monkeypatch.undo()
    claim(database, 8)
    assert sum(row.jobs for row in rows(database, select(class_use.c.jobs))) == 8


def test_a_preview_takes_nothing(database: Database) -> None:
    fill(database, 40)
    with database.snapshot() as conn:
        seen = taskqueue.preview(conn, 1, 12, LATER)
    assert [one.id for one in claim(database, 12)] == [one.id for one in seen]


def test_a_shift_of_rank_moves_jobs_to_the_front(database: Database) -> None:
    fill(database, 80, classes=1)
    claim(database, 10)
    database.transaction(lambda conn: store.rerank(conn, dict.fromkeys([79, 80], -store.POINT)))
    assert [one.id for one in claim(database, 2)] == [79, 80]


# --- limits ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "total"),
    [
        ({"site_id": 1, "max_jobs": 5}, 5),
        ({"share_path": "g2", "max_jobs": 3}, 63),
        ({"task_type": "analysis", "max_cores": 7}, 47),
        ({"site_id": 2, "max_jobs": 0}, 80),
        ({"site_id": 1, "share_path": "g1", "task_type": "production", "max_jobs": 0}, 60),
    ],
)
def test_limits_hold_and_others_take_what_they_leave(
    database: Database, values: dict[str, Any], total: int
) -> None:
    fill(database, 80)
    limit(database, **values)
    taken = [len(claim(database, 40)) for _ in range(3)]
    assert taken[0] == min(40, total)
    assert sum(taken) == total


def test_a_limit_opens_as_work_ends(database: Database) -> None:
    fill(database, 80)
    limit(database, site_id=1, max_jobs=5)
    heads = claim(database, 40)
    assert claim(database, 40) == []
    run(database, heads[:2])
    assert len(claim(database, 40)) == 2


def test_a_limit_of_one_site_leaves_the_others_alone(database: Database) -> None:
    fill(database, 80)
    limit(database, site_id=1, max_jobs=5)
    assert len(claim(database, 40, site=1)) == 5
    assert len(claim(database, 40, site=2)) == 40


# --- moves -------------------------------------------------------------------------------------------------


def test_several_moves_of_a_job_are_made_in_their_order(database: Database) -> None:
    fill(database, 8)
    heads = claim(database, 4)
    assert len(run(database, heads)) == 8
    told = rows(
        database,
        select(job_history.c.frm, job_history.c.dst)
        .where(job_history.c.job_id == heads[0].id)
        .order_by(job_history.c.seq),
    )
    assert [row.dst for row in told] == [
        JobState.READY,
        JobState.LEASED,
        JobState.RUNNING,
        JobState.STAGEOUT,
    ]
    assert sum(row.jobs for row in rows(database, select(class_use.c.jobs))) == 0


def test_a_move_of_another_attempt_is_stale(database: Database) -> None:
    fill(database, 8)
    heads = claim(database, 2)
    late = [Move(job_id=heads[0].id, attempt=2, event=JobEvent.ADMITTED, to=JobState.RUNNING)]
    assert database.transaction(lambda conn: store.apply(conn, late, LATER)) == []


# --- plans -------------------------------------------------------------------------------------------------

Seen = dict[str, list[str]]


@contextmanager
def explained(database: Database, seen: Seen) -> Iterator[None]:
    """The plan of every statement that the writer runs meanwhile, those of bulk writes as well."""
    explain = "EXPLAIN QUERY PLAN " if database.dialect == "sqlite" else "EXPLAIN "

    def told(driver: Any, statement: str, values: Any) -> None:
        if statement not in seen:
            plan = driver.execute(explain + statement, values).fetchall()
            seen[statement] = [str(row[-1]) for row in plan]

    def before(conn: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        if statement.split()[0] in ("SELECT", "UPDATE", "INSERT") and "VALUES" not in statement:
            told(conn.connection.driver_connection, statement, parameters[0] if many else parameters)

    def run(conn: Any, calls: Any) -> Any:
        known = [one._replace(values=list(one.values)) if one.many else one for one in calls]
        for one in known:
            told(conn.connection.driver_connection, one.sql, one.values[0] if one.many else one.values)
        return direct(conn, known)

    direct = driver.run
    event.listen(database._writer, "before_cursor_execute", before)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(driver, "run", run)
        yield
    event.remove(database._writer, "before_cursor_execute", before)


def test_no_hot_statement_walks_the_jobs(database: Database) -> None:
    fill(database, 6000, classes=20)
    if database.dialect == "postgresql":
        database.transaction(lambda conn: conn.exec_driver_sql("ANALYZE"))
    seen: Seen = {}
    with explained(database, seen):
        run(database, claim(database, 100))
        claim(database, 1)
        database.transaction(lambda conn: store.due(conn, LATER, 100))
        database.transaction(lambda conn: store.rerank(conn, {500: -5, 501: -6}))
        database.transaction(lambda conn: attempts.held(conn, 1))
        database.transaction(lambda conn: accounting.due(conn, 7))
    walks = {
        statement: plan
        for statement, plan in seen.items()
        for line in plan
        if any(f"{line.lstrip(' ->')} ".startswith(f"{walk} {name}") for walk in WALKS for name in BIG)
    }
    assert walks == {}
    assert any("ix_job_ready" in line for plan in seen.values() for line in plan)
    assert len(seen) > 12


WALKS = ("Seq Scan on", "SCAN", "Parallel Seq Scan on")
BIG = ("job ", "job_history", "job_spec", "one")


def test_the_backlog_is_as_it_says(database: Database) -> None:
    fill(database, 40)
    assert backlog.LEAVES == 4
    ready = rows(database, select(job_class.c.ready))
    assert [row.ready for row in ready] == [5] * 8
