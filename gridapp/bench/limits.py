"""The limits: the rows the product writes, by the raw driver in its fastest form, with as many commits.

On PostgreSQL one statement moves a batch and everything that goes with it: a single round trip. On SQLite
there is no round trip to save; prepared statements and executemany are the fastest. Neither decides
anything: which classes to take from is given, so shares, limits and eligibility cost them nothing.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from gridapp.bench.backlog import Backlog, Line
from gridapp.bench.server import conninfo, driver
from gridcore.db.types import to_micros
from prodsys.jobs.store import NewJob

#: Steps of a job from its lease to its end, as history tells them.
TO_DONE = (("LEASED", "RUNNING"), ("RUNNING", "STAGEOUT"), ("STAGEOUT", "DONE"))
#: What a worker's report says, in short.
REPORT = '{"outcome":"done"}'
WALL_S = 1.0
AGENT = "bench"

Want = tuple[Line, int]


@dataclass(frozen=True, slots=True)
class Taken:
    """A job a limit has claimed."""

    id: int
    attempt: int
    units: int
    line: Line


class Limit(Protocol):
    """The same work by the raw driver. Each call is one commit."""

    def claim(self, wants: Sequence[Want], now: datetime) -> list[Taken]:
        """Lease so many jobs of each class: job, history, attempt, counters of class, task, leaf, site."""

    def step(self, jobs: Sequence[Taken], frm: str, to: str, now: datetime) -> None:
        """Move jobs on: job, history, attempt, task counters; leaf and site when they stop running."""

    def finish(self, jobs: Sequence[Taken], now: datetime) -> None:
        """From LEASED to DONE in one go, with the history of all three steps."""

    def create(self, line: Line, jobs: Sequence[NewJob], now: datetime) -> None:
        """Queue new jobs: job, specification, history, counters of class and task."""

    def rest(self) -> None:
        """Before a turn: write out what other turns have left, so that none pays for another."""

    def close(self) -> None:
        """Disconnect."""


def limit_for(backlog: Backlog) -> Limit:
    """The limit of the backlog's database."""
    if backlog.database.dialect == "sqlite":
        return SqliteLimit(str(backlog.database.url.database), backlog)
    return PostgresLimit(conninfo(backlog.database.url), backlog)


def _active(state: str) -> bool:
    return state in ("LEASED", "SUBMITTED", "RUNNING")


def _job_row(one: NewJob, at: int) -> tuple[Any, ...]:
    return (
        one.id,
        one.task_id,
        one.index,
        one.kind.value,
        one.class_id,
        "READY",
        0,
        one.rank,
        one.units,
        at,
    )


_spec_text = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


def _spec(one: NewJob) -> str:
    return _spec_text(one.spec)


# --- PostgreSQL --------------------------------------------------------------------------------------------

_COUNT_TASKS = """tasks AS (
  UPDATE task_count t SET jobs = t.jobs + k.n, units = t.units + k.u
  FROM (SELECT task_id, kind, '{frm}' AS state, -count(*) AS n, -sum(units) AS u FROM {rows} GROUP BY 1, 2
        UNION ALL SELECT task_id, kind, '{to}', count(*), sum(units) FROM {rows} GROUP BY 1, 2) k
  WHERE t.task_id = k.task_id AND t.kind = k.kind AND t.state = k.state)"""
_COUNT_LEAVES = """leaves AS (
  UPDATE share_node s SET running = s.running {sign} k.cores, used = s.used + k.used
  FROM (SELECT leaf_id, sum(cores) AS cores, sum(cores) * {used} AS used FROM {rows} GROUP BY 1) k
  WHERE s.id = k.leaf_id),
uses AS (
  INSERT INTO class_use AS u (class_id, site_id, jobs, cores)
  SELECT class_id, %(site)s, {sign} count(*), {sign} sum(cores) FROM {rows} GROUP BY 1
  ON CONFLICT (class_id, site_id) DO UPDATE
  SET jobs = u.jobs + excluded.jobs, cores = u.cores + excluded.cores)"""

CLAIM = f"""
WITH picked AS MATERIALIZED (
  SELECT j.id, j.task_id, j.kind, j.units, j.rank, c.id AS class_id, c.leaf_id, c.cores
  FROM unnest(%(classes)s::bigint[], %(counts)s::bigint[]) AS w (class_id, n)
  JOIN job_class c ON c.id = w.class_id
  CROSS JOIN LATERAL (
    SELECT id, task_id, kind, units, rank FROM job
    WHERE class_id = c.id AND state = 'READY' AND rank >= c.head_rank ORDER BY rank, id LIMIT w.n) j),
moved AS (
  UPDATE job SET state = 'LEASED', attempt = job.attempt + 1, endpoint_id = %(endpoint)s,
    updated_at = %(at)s
  FROM picked p WHERE job.id = p.id RETURNING job.id, job.attempt, job.units, job.class_id),
told AS (
  INSERT INTO job_history (job_id, attempt, frm, dst, at)
  SELECT id, attempt, 'READY', 'LEASED', %(at)s FROM moved),
opened AS (
  INSERT INTO attempt (job_id, attempt, batch_key, endpoint_id, agent, leased_at)
  SELECT id, attempt, 'tf.bebebebe.' || id || '.' || attempt, %(endpoint)s, %(agent)s, %(at)s FROM moved),
classes AS (
  UPDATE job_class c SET ready = c.ready - k.n, head_rank = k.head
  FROM (SELECT class_id, count(*) AS n, max(rank) AS head FROM picked GROUP BY 1) k
  WHERE c.id = k.class_id),
{_COUNT_TASKS.format(rows="picked", frm="READY", to="LEASED")},
{_COUNT_LEAVES.format(rows="picked", sign="+", used="0")}
SELECT id, attempt, units, class_id FROM moved
"""
_DUE = """
WITH due AS MATERIALIZED (
  SELECT j.id, j.attempt, j.task_id, j.kind, j.units, j.class_id, c.leaf_id, c.cores
  FROM unnest(%(ids)s::bigint[], %(attempts)s::bigint[]) AS d (id, attempt)
  JOIN job j ON j.id = d.id AND j.attempt = d.attempt AND j.state = '{frm}'
  JOIN job_class c ON c.id = j.class_id),
moved AS (
  UPDATE job SET state = '{to}', updated_at = %(at)s{endpoint}
  FROM due WHERE job.id = due.id RETURNING job.id, job.attempt)"""
_KEEP_HISTORY = """told AS (
  INSERT INTO job_history (job_id, attempt, frm, dst, at)
  SELECT m.id, m.attempt, s.frm, s.dst, %(at)s
  FROM moved m CROSS JOIN (VALUES {steps}) AS s (nr, frm, dst) ORDER BY m.id, s.nr)"""
_TOUCH_ATTEMPTS = """closed AS (
  UPDATE attempt a SET {values} FROM moved m WHERE a.job_id = m.id AND a.attempt = m.attempt)"""
_ADMITTED = "nonce = 'n' || m.id, host = 'worker', admitted_at = %(at)s"
_ENDED = "ended_at = %(at)s, exit_code = 0, wall_s = %(wall)s, cpu_s = %(wall)s, report = %(report)s"
_TOUCHED = {
    "SUBMITTED": "intent_at = %(at)s, batch_id = 'b' || m.id, submitted_at = %(at)s",
    "RUNNING": _ADMITTED,
    "STAGEOUT": _ENDED,
}


def _step_text(frm: str, to: str) -> str:
    parts = [
        _DUE.format(frm=frm, to=to, endpoint=", endpoint_id = NULL" if to == "DONE" else ""),
        _KEEP_HISTORY.format(steps=f"(1, '{frm}', '{to}')"),
        _COUNT_TASKS.format(rows="due", frm=frm, to=to),
    ]
    if to in _TOUCHED:
        parts.append(_TOUCH_ATTEMPTS.format(values=_TOUCHED[to]))
    if _active(frm) and not _active(to):
        parts.append(_COUNT_LEAVES.format(rows="due", sign="-", used=WALL_S))
    return ",\n".join(parts) + "\nSELECT 1"


def _finish_text() -> str:
    steps = ", ".join(f"({nr}, '{frm}', '{to}')" for nr, (frm, to) in enumerate(TO_DONE))
    parts = [
        _DUE.format(frm="LEASED", to="DONE", endpoint=", endpoint_id = NULL"),
        _KEEP_HISTORY.format(steps=steps),
        _TOUCH_ATTEMPTS.format(values=_ENDED),
        _COUNT_TASKS.format(rows="due", frm="LEASED", to="DONE"),
        _COUNT_LEAVES.format(rows="due", sign="-", used=WALL_S),
    ]
    return ",\n".join(parts) + "\nSELECT 1"


FINISH = _finish_text()
COUNT_CREATED = """
WITH class AS (
  UPDATE job_class SET ready = ready + %(n)s, head_rank = least(head_rank, %(head)s) WHERE id = %(class)s)
UPDATE task_count SET jobs = jobs + %(n)s, units = units + %(units)s
WHERE task_id = %(task)s AND kind = 'process' AND state = 'READY'
"""
JOB_COLUMNS = "id, task_id, idx, kind, class_id, state, attempt, rank, units, updated_at"
HISTORY_COLUMNS = "job_id, attempt, frm, dst, at"


class PostgresLimit:
    """Raw psycopg: one prepared statement per batch, each its own transaction; COPY for new rows."""

    def __init__(self, address: str, backlog: Backlog) -> None:
        self._conn: Any = driver().connect(address, autocommit=True, prepare_threshold=0)
        # Each batch is a hundred rows: what the planner cannot know of an array, it is told.
        for setting in ("enable_hashjoin", "enable_mergejoin"):
            self._conn.execute(f"SET {setting} = off")
        self._lines = {line.class_id: line for line in backlog.lines}
        self._backlog = backlog

    def claim(self, wants: Sequence[Want], now: datetime) -> list[Taken]:
        """See Limit."""
        binds = {
            "classes": [line.class_id for line, _ in wants],
            "counts": [n for _, n in wants],
            "endpoint": self._backlog.endpoint_id,
            "site": self._backlog.site_id,
            "agent": AGENT,
            "at": to_micros(now),
        }
        self._lines.update({line.class_id: line for line, _ in wants})
        rows = self._conn.execute(CLAIM, binds).fetchall()
        return [Taken(row[0], row[1], row[2], self._lines[row[3]]) for row in rows]

    def step(self, jobs: Sequence[Taken], frm: str, to: str, now: datetime) -> None:
        """See Limit."""
        self._conn.execute(_step_text(frm, to), self._binds(jobs, now))

    def finish(self, jobs: Sequence[Taken], now: datetime) -> None:
        """See Limit."""
        self._conn.execute(FINISH, self._binds(jobs, now))

    def _binds(self, jobs: Sequence[Taken], now: datetime) -> dict[str, Any]:
        return {
            "ids": [one.id for one in jobs],
            "attempts": [one.attempt for one in jobs],
            "site": self._backlog.site_id,
            "wall": WALL_S,
            "report": REPORT,
            "at": to_micros(now),
        }

    def create(self, line: Line, jobs: Sequence[NewJob], now: datetime) -> None:
        """See Limit."""
        at = to_micros(now)
        with self._conn.transaction(), self._conn.cursor() as cursor:
            self._copy(cursor, "job", JOB_COLUMNS, (_job_row(one, at) for one in jobs))
            self._copy(cursor, "job_spec", "job_id, spec", ((one.id, _spec(one)) for one in jobs))
            told = ((one.id, 0, None, "READY", at) for one in jobs)
            self._copy(cursor, "job_history", HISTORY_COLUMNS, told)
            counted = {"n": len(jobs), "units": sum(one.units for one in jobs), "head": jobs[0].rank}
            cursor.execute(COUNT_CREATED, {**counted, "class": line.class_id, "task": line.task_id})

    def _copy(self, cursor: Any, table: str, columns: str, rows: Iterable[tuple[Any, ...]]) -> None:
        with cursor.copy(f"COPY {table} ({columns}) FROM STDIN") as copy:
            for row in rows:
                copy.write_row(row)

    def rest(self) -> None:
        """See Limit. Nothing: the server checkpoints when it is due, for all alike."""

    def close(self) -> None:
        """See Limit."""
        self._conn.close()


# --- SQLite ------------------------------------------------------------------------------------------------

PICK = """UPDATE job SET state = 'LEASED', attempt = attempt + 1, endpoint_id = ?, updated_at = ?
  WHERE id IN (SELECT id FROM job WHERE class_id = ? AND state = 'READY'
    AND rank >= (SELECT head_rank FROM job_class WHERE id = ?) ORDER BY rank, id LIMIT ?)
  RETURNING id, attempt, units, rank"""
TELL = "INSERT INTO job_history (job_id, attempt, frm, dst, at) VALUES (?, ?, ?, ?, ?)"
OPEN = """INSERT INTO attempt (job_id, attempt, batch_key, endpoint_id, agent, leased_at)
  VALUES (?, ?, ?, ?, ?, ?)"""
TAKE = "UPDATE job_class SET ready = ready - ?, head_rank = ? WHERE id = ?"
COUNT = """UPDATE task_count SET jobs = jobs + ?, units = units + ?
  WHERE task_id = ? AND kind = 'process' AND state = ?"""
CHARGE = "UPDATE share_node SET running = running + ?, used = used + ? WHERE id = ?"
USE = """INSERT INTO class_use (class_id, site_id, jobs, cores) VALUES (?, ?, ?, ?)
  ON CONFLICT DO UPDATE SET jobs = jobs + excluded.jobs, cores = cores + excluded.cores"""
_THESE = "WHERE id IN (SELECT value FROM json_each(?)) AND state = ?"
GO = f"UPDATE job SET state = ?, updated_at = ? {_THESE}"
END = f"UPDATE job SET state = ?, updated_at = ?, endpoint_id = NULL {_THESE}"
_OF = "WHERE job_id = ? AND attempt = ?"
_ADMIT_SET = "nonce = ?, host = 'worker', admitted_at = ?"
_END_SET = "ended_at = ?, exit_code = 0, wall_s = ?, cpu_s = ?, report = ?"
TOUCH = {
    "SUBMITTED": f"UPDATE attempt SET intent_at = ?, batch_id = ?, submitted_at = ? {_OF}",
    "RUNNING": f"UPDATE attempt SET {_ADMIT_SET} {_OF}",
    "STAGEOUT": f"UPDATE attempt SET {_END_SET} {_OF}",
    "DONE": f"UPDATE attempt SET {_END_SET} {_OF}",
}


DURABLE = ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON")


class SqliteLimit:
    """Raw sqlite3: prepared statements and executemany between BEGIN and COMMIT, synchronous as FULL."""

    def __init__(self, path: str, backlog: Backlog) -> None:
        self._conn = sqlite3.connect(path, isolation_level=None, timeout=60)
        for pragma in (*DURABLE, "cache_size = -65536", "wal_autocheckpoint = 10000"):
            self._conn.execute(f"PRAGMA {pragma}")
        self._backlog = backlog

    def claim(self, wants: Sequence[Want], now: datetime) -> list[Taken]:
        """See Limit."""
        at, endpoint = to_micros(now), self._backlog.endpoint_id
        run = self._conn.execute
        taken: list[Taken] = []
        run("BEGIN IMMEDIATE")
        for line, n in wants:
            rows = run(PICK, (endpoint, at, line.class_id, line.class_id, n)).fetchall()
            if rows:
                taken += [Taken(row[0], row[1], row[2], line) for row in rows]
                run(TAKE, (len(rows), max(row[3] for row in rows), line.class_id))
        many = self._conn.executemany
        many(TELL, [(one.id, one.attempt, "READY", "LEASED", at) for one in taken])
        keys = [(one.id, one.attempt, f"tf.bebebebe.{one.id}.{one.attempt}") for one in taken]
        many(OPEN, [(*key, endpoint, AGENT, at) for key in keys])
        self._count(taken, "READY", "LEASED")
        run("COMMIT")
        return taken

    def step(self, jobs: Sequence[Taken], frm: str, to: str, now: datetime) -> None:
        """See Limit."""
        self._go(jobs, frm, to, [(frm, to)], now)

    def finish(self, jobs: Sequence[Taken], now: datetime) -> None:
        """See Limit."""
        self._go(jobs, "LEASED", "DONE", TO_DONE, now)

    def _go(
        self, jobs: Sequence[Taken], frm: str, to: str, steps: Sequence[tuple[str, str]], now: datetime
    ) -> None:
        at = to_micros(now)
        run, many = self._conn.execute, self._conn.executemany
        run("BEGIN IMMEDIATE")
        run(END if to == "DONE" else GO, (to, at, json.dumps([one.id for one in jobs]), frm))
        many(TELL, [(one.id, one.attempt, *step, at) for one in jobs for step in steps])
        if to != "DONE" or len(steps) > 1:
            many(TOUCH[to], [(*_touched(to, one.id, at), one.id, one.attempt) for one in jobs])
        self._count(jobs, frm, to)
        run("COMMIT")

    def _count(self, jobs: Sequence[Taken], frm: str, to: str) -> None:
        """Relative updates of task, leaf and site counters."""
        lines = Counter(one.line for one in jobs)
        units = Counter[Line]()
        for one in jobs:
            units[one.line] += one.units
        many = self._conn.executemany
        many(COUNT, [(-n, -units[line], line.task_id, frm) for line, n in lines.items()])
        many(COUNT, [(n, units[line], line.task_id, to) for line, n in lines.items()])
        sign = _active(to) - _active(frm)
        if not sign:
            return
        used = 0.0 if sign > 0 else WALL_S
        cores = Counter[int]()
        for line, n in lines.items():
            cores[line.leaf_id] += n * line.cores
        many(CHARGE, [(sign * n, used * n, leaf_id) for leaf_id, n in cores.items()])
        site = self._backlog.site_id
        many(USE, [(line.class_id, site, sign * n, sign * n * line.cores) for line, n in lines.items()])

    def create(self, line: Line, jobs: Sequence[NewJob], now: datetime) -> None:
        """See Limit."""
        at = to_micros(now)
        run, many = self._conn.execute, self._conn.executemany
        run("BEGIN IMMEDIATE")
        marks = ", ".join("?" * 10)
        many(f"INSERT INTO job ({JOB_COLUMNS}) VALUES ({marks})", (_job_row(one, at) for one in jobs))
        many("INSERT INTO job_spec (job_id, spec) VALUES (?, ?)", ((one.id, _spec(one)) for one in jobs))
        many(TELL, ((one.id, 0, None, "READY", at) for one in jobs))
        head = (
            "UPDATE job_class SET ready = ready + ?, head_rank = min(coalesce(head_rank, ?), ?) WHERE id = ?"
        )
        run(head, (len(jobs), jobs[0].rank, jobs[0].rank, line.class_id))
        run(COUNT, (len(jobs), sum(one.units for one in jobs), line.task_id, "READY"))
        run("COMMIT")

    def rest(self) -> None:
        """See Limit. SQLite makes the commit that finds the log long pay for all of it."""
        self._conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        """See Limit."""
        self._conn.close()


def _touched(to: str, job_id: int, at: int) -> tuple[Any, ...]:
    """The values of an attempt's columns after a step."""
    match to:
        case "SUBMITTED":
            return at, f"b{job_id}", at
        case "RUNNING":
            return f"n{job_id}", at
    return at, WALL_S, WALL_S, REPORT
