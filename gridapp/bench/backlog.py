"""A backlog to measure against: waiting jobs in 501 classes, sized as LHCb's real queue was on 2026-03-28."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

from sqlalchemy import Connection, text

from catalogs.tables import se, site
from gridapp import schema
from gridapp.bench.server import conninfo, driver
from gridcore.clock import SystemClock
from gridcore.db import Database, insert_rows
from gridcore.db.keys import Keys
from gridcore.tables import instance, lease
from prodsys.job_states import JobKind, JobState
from prodsys.jobs.store import QUEUE, rank_of
from prodsys.states import TaskState
from prodsys.tables import (
    class_site,
    endpoint,
    job_class,
    queue,
    share_node,
    task,
    task_count,
    work_limit,
)

CLASSES = 501
#: So many of the classes hold 1,001 to 5,000 jobs each and 93 % of all.
LARGE_CLASSES = 271
#: Group -> (target, users): each user is a leaf of the share tree.
GROUPS = {"mc": (60, 8), "reco": (20, 3), "analysis": (10, 5), "calib": (5, 2), "tests": (5, 2)}
#: Of 16 classes in a row so many are mc's: it held 81 % of the jobs.
MC_OF_16 = 13
SITES = 4
#: Events of a job.
UNITS = 10
#: A limit that is weighed at each claim and binds none.
ROOMY = 10**9

#: One text for SQLite and PostgreSQL: the jobs of a class are made where they are kept.
FILL_JOBS = text(
    """INSERT INTO job (id, task_id, idx, kind, class_id, state, attempt, rank, units, updated_at)
    WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < CAST(:last AS INTEGER))
    SELECT CAST(:first_id AS BIGINT) + i, CAST(:of_task AS BIGINT), i + 1, 'process',
      CAST(:of_class AS BIGINT), 'READY', 0, CAST(:first_rank AS BIGINT) + i, CAST(:units AS BIGINT),
      CAST(:at AS BIGINT) FROM n"""
)
FILL_SPECS = text(
    r"""INSERT INTO job_spec (job_id, spec)
    SELECT id, '{"events"\:10,"first_event"\:' || (idx - 1) * 10 || ',"lumi"\:' || idx
      || ',"run"\:1,"seed"\:' || (id * 7919) % 900000000 || '}' FROM job WHERE id BETWEEN :low AND :high"""
)
FILL_HISTORY = text(
    """INSERT INTO job_history (job_id, attempt, frm, dst, at, code)
    SELECT id, 0, NULL, 'READY', updated_at, NULL FROM job WHERE id BETWEEN :low AND :high ORDER BY id"""
)
HEADS = text("SELECT id, head_rank FROM job_class")
TASK_NAME = text("SELECT name FROM task WHERE id = :task_id")
WAITING = text("SELECT sum(ready) FROM job_class")
KILLED = text(
    "SELECT jobs FROM task_count WHERE task_id = :task_id AND kind = 'process' AND state = 'KILLED'"
)
OPEN_CLASS = text("UPDATE job_class SET ready = :n, head_rank = :head WHERE id = :class_id")
COUNT_READY = text(
    "UPDATE task_count SET jobs = :n, units = :units "
    "WHERE task_id = :task_id AND kind = 'process' AND state = 'READY'"
)
COUNT_UNITS = text("UPDATE task SET units_made = :units, next_index = :n + 1 WHERE id = :task_id")
IS_SUPERUSER = text("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")
#: Foreign keys of rows made from each other need no check.
TRUSTED = text("SET LOCAL session_replication_role = replica")

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Line:
    """One class of the backlog and its one task."""

    class_id: int
    task_id: int
    leaf_id: int
    jobs: int
    cores: int


@dataclass(frozen=True, slots=True)
class Backlog:
    """A loaded database: its classes, and the endpoint and site whose work is measured."""

    database: Database
    keys: Keys
    lines: Sequence[Line]
    endpoint_id: int = 1
    site_id: int = 1

    @property
    def rows(self) -> int:
        """How many jobs were loaded."""
        return sum(line.jobs for line in self.lines)

    def waiting(self) -> int:
        """How many jobs wait now."""
        with self.database.snapshot() as conn:
            return int(conn.execute(WAITING).scalar_one())

    def now(self) -> datetime:
        """The host's time, for the product's functions."""
        return SystemClock().now()


def sizes(rows: int, classes: int = CLASSES) -> list[int]:
    """So many jobs per class, largest first, `rows` in all: the measured histogram, scaled. Pure."""
    classes = min(classes, rows)
    large = max(1, classes * LARGE_CLASSES // CLASSES)
    small = classes - large
    weights = [5000 - 3999 * i / max(1, large - 1) for i in range(large)]
    weights += [1000 ** (1 - i / max(1, small - 1)) for i in range(small)]
    scale = (rows - classes) / sum(weights)
    found = [1 + int(weight * scale) for weight in weights]
    for i in range(rows - sum(found)):
        found[i % classes] += 1
    return found


def fill(database: Database, rows: int, say: Say) -> Backlog:
    """Make the schema and load a backlog; all invariants of the queue hold."""
    schema.upgrade(database)
    keys = Keys(database)
    now = SystemClock().now()
    lines = _lines(keys, rows)
    database.transaction(lambda conn: _fill_grid(conn, now))
    database.transaction(lambda conn: _fill_classes(conn, lines, now))
    first = keys.take("job", rows).start
    loaded = 0
    for few in _by_size(lines, 100_000):
        start = first + loaded
        database.transaction(lambda conn, few=few, start=start: _fill_jobs(conn, few, start, now))  # type: ignore[misc]
        loaded += sum(line.jobs for line in few)
        say(f"{loaded:,} of {rows:,} jobs loaded")
    settle(database)
    return Backlog(database, keys, lines)


def settle(database: Database) -> None:
    """What the server would long have done by itself: statistics, visibility, a checkpoint."""
    if database.dialect != "postgresql":
        return
    with driver().connect(conninfo(database.url), autocommit=True) as conn:
        conn.execute("VACUUM ANALYZE")
        conn.execute("CHECKPOINT")


def _lines(keys: Keys, rows: int) -> list[Line]:
    counts = sizes(rows)
    class_ids, task_ids = keys.take("job_class", len(counts)), keys.take("task", len(counts))
    leaves = _leaves()
    mc = [leaf["id"] for leaf in leaves if leaf["path"].startswith("mc/")]
    others = [leaf["id"] for leaf in leaves if not leaf["path"].startswith("mc/")]
    found = []
    for i, jobs in enumerate(counts):
        of = mc if i % 16 < MC_OF_16 else others
        found.append(Line(class_ids[i], task_ids[i], of[i % len(of)], jobs, 8 if i % 10 == 9 else 1))
    return found


def _leaves() -> list[dict[str, Any]]:
    paths = [(group, user) for group, (_, users) in GROUPS.items() for user in range(users)]
    parents = {group: 1 + i for i, group in enumerate(GROUPS)}
    return [
        {"id": 101 + i, "parent_id": parents[group], "path": f"{group}/user{user}", "target": 1.0}
        for i, (group, user) in enumerate(paths)
    ]


def _fill_grid(conn: Connection, now: datetime) -> None:
    insert_rows(conn, instance, [{"id": 1, "uuid": "be" * 16, "created_at": now}])
    insert_rows(conn, queue, [{"id": QUEUE, "name": "central"}])
    places = range(1, SITES + 1)
    insert_rows(
        conn, site, [{"id": i, "name": f"T2_XX_Site{i}", "tier": 2, "state": "ENABLED"} for i in places]
    )
    disk = {"kind": "disk", "protocol": "local", "tfc": {}, "state": "ENABLED"}
    insert_rows(conn, se, [{"id": i, "name": f"Site{i}_Disk", "site_id": i, **disk} for i in places])
    insert_rows(conn, lease, [_lease(i) for i in places])
    insert_rows(conn, endpoint, [_endpoint(i) for i in places])
    groups = [
        {"id": 1 + i, "parent_id": None, "path": group, "target": float(target), "used_at": now}
        for i, (group, (target, _)) in enumerate(GROUPS.items())
    ]
    insert_rows(conn, share_node, groups)
    insert_rows(conn, share_node, [{**leaf, "used_at": now} for leaf in _leaves()])
    limits = [
        {"id": 1, "name": "site", "site_id": 1, "share_path": None, "task_type": None, "max_jobs": ROOMY},
        {"id": 2, "name": "group", "site_id": None, "share_path": "mc", "task_type": None, "max_jobs": ROOMY},
        {"id": 3, "name": "type", "site_id": None, "share_path": None, "task_type": "mc", "max_jobs": ROOMY},
    ]
    insert_rows(conn, work_limit, limits)


def _lease(i: int) -> dict[str, Any]:
    return {"id": i, "name": f"endpoint T2_XX_Site{i}", "fence": 0}


def _endpoint(i: int) -> dict[str, Any]:
    name = {"id": i, "name": f"T2_XX_Site{i}", "site_id": i, "lease_id": i}
    return {**name, "kind": "fake", "slots": 10_000, "offer": {}, "config": {}, "state": "ENABLED"}


def _fill_classes(conn: Connection, lines: Sequence[Line], now: datetime) -> None:
    insert_rows(conn, task, [_task(line, _created(i, now)) for i, line in enumerate(lines)])
    cells = [
        {"task_id": line.task_id, "kind": kind, "state": state, **_counts(line, kind, state)}
        for line in lines
        for kind in JobKind
        for state in JobState
    ]
    insert_rows(conn, task_count, cells)
    insert_rows(conn, job_class, [_class(line, rank_of(_created(i, now), 0)) for i, line in enumerate(lines)])
    insert_rows(
        conn,
        class_site,
        [_verdict(i, line, place, now) for i, line in enumerate(lines) for place in range(1, SITES + 1)],
    )


def _created(i: int, now: datetime) -> datetime:
    """The tasks came one every few minutes, in no order of size."""
    return now - timedelta(minutes=5 * (1 + i * 211 % CLASSES))


def _counts(line: Line, kind: JobKind, state: JobState) -> dict[str, int]:
    jobs = line.jobs if (kind, state) == (JobKind.PROCESS, JobState.READY) else 0
    return {"jobs": jobs, "units": jobs * UNITS}


def _verdict(i: int, line: Line, place: int, now: datetime) -> dict[str, Any]:
    """The first site may run everything, another three classes of four."""
    eligible = place == 1 or (i + place) % 4 != 0
    code, params = ("ELIGIBLE", {}) if eligible else ("PLATFORM", {"wanted": "el9"})
    verdict = {"eligible": int(eligible), "code": code, "params": params}
    return {"class_id": line.class_id, "site_id": place, **verdict, "decided_at": now}


def _class(line: Line, head: int) -> dict[str, Any]:
    needs = {"cores": line.cores, "memory_mb": 2000, "wall_s": 86_400, "platform": "el9"}
    return {
        "id": line.class_id,
        "fingerprint": sha256(f"bench {line.class_id}".encode()).hexdigest(),
        "leaf_id": line.leaf_id,
        "task_type": "mc",
        "requirements": {**needs, "sites": None, "sites_excluded": [], "input_se": None},
        "cores": line.cores,
        "ready": line.jobs,
        "head_rank": head,
    }


def _task(line: Line, created: datetime) -> dict[str, Any]:
    name = f"{created:%y%m%d_%H%M%S}:user_bench-{line.task_id}"
    step = {
        "name": "gen",
        "command": ["payload"],
        "events": line.jobs * UNITS,
        "events_per_job": UNITS,
        "output": {"name": "events.root", "dataset": f"/Bench/v{line.task_id}/GEN"},
        "lfn_area": "/store/mc",
    }
    return {
        "id": line.task_id,
        "client_id": f"bench-{line.task_id}",
        "name": name,
        "task_type": "mc",
        "state": TaskState.ACTIVE,
        "spec": step,
        "leaf_id": line.leaf_id,
        "requester": "user",
        "acct_group": "mc",
        "priority": 0,
        "unit_kind": "events",
        "units_total": line.jobs * UNITS,
        "units_made": line.jobs * UNITS,
        "next_index": line.jobs + 1,
        "created_at": created,
        "updated_at": created,
    }


def add_line(backlog: Backlog, number: int, jobs: int) -> Line:
    """One more class with a task for `jobs` jobs that are still to be made, of the last leaf."""
    now = backlog.now()
    of = _leaves()[-1]["id"]
    line = Line(backlog.keys.one("job_class"), backlog.keys.one("task"), of, jobs, 1)

    def unit(conn: Connection) -> None:
        made = {**_task(line, now), "units_made": 0, "next_index": 1}
        insert_rows(conn, task, [made])
        none = {"jobs": 0, "units": 0}
        cells = [
            {"task_id": line.task_id, "kind": kind, "state": state, **none}
            for kind in JobKind
            for state in JobState
        ]
        insert_rows(conn, task_count, cells)
        insert_rows(conn, job_class, [{**_class(line, 0), "ready": 0, "head_rank": None}])
        insert_rows(conn, class_site, [_verdict(number, line, place, now) for place in range(1, SITES + 1)])

    backlog.database.transaction(unit)
    return line


def fill_line(backlog: Backlog, line: Line) -> None:
    """Make all jobs of such a line where they are kept."""
    now = backlog.now()
    first = backlog.keys.take("job", line.jobs).start
    binds = {"n": line.jobs, "units": line.jobs * UNITS, "head": rank_of(now, 0)}

    def unit(conn: Connection) -> None:
        conn.execute(OPEN_CLASS, {**binds, "class_id": line.class_id})
        _fill_jobs(conn, [line], first, now)
        conn.execute(COUNT_READY, {**binds, "task_id": line.task_id})
        conn.execute(COUNT_UNITS, {**binds, "task_id": line.task_id})

    backlog.database.transaction(unit)


def task_name_of(line: Line, conn: Connection) -> str:
    """The name of the line's task."""
    return str(conn.execute(TASK_NAME, {"task_id": line.task_id}).scalar_one())


def tell_made(backlog: Backlog, line: Line, jobs: int) -> None:
    """The line's task has made so many jobs."""
    binds = {"n": jobs, "units": jobs * UNITS, "task_id": line.task_id}
    backlog.database.transaction(lambda conn: conn.execute(COUNT_UNITS, binds))


def killed_of(backlog: Backlog, line: Line) -> int:
    """How many jobs of the line's task are killed."""
    with backlog.database.snapshot() as conn:
        return int(conn.execute(KILLED, {"task_id": line.task_id}).scalar_one())


def _by_size(lines: Sequence[Line], jobs: int) -> list[list[Line]]:
    """The lines in lists of about so many jobs."""
    lists: list[list[Line]] = [[]]
    for line in lines:
        if sum(one.jobs for one in lists[-1]) >= jobs:
            lists.append([])
        lists[-1].append(line)
    return lists


def _fill_jobs(conn: Connection, lines: Sequence[Line], first: int, now: datetime) -> None:
    if conn.dialect.name == "postgresql" and conn.execute(IS_SUPERUSER).scalar_one():
        conn.execute(TRUSTED)
    start = first
    heads = {row.id: row.head_rank for row in conn.execute(HEADS)}
    at = round(now.timestamp() * 1_000_000)
    for line in lines:
        binds = {"last": line.jobs - 1, "first_id": start, "of_task": line.task_id, "of_class": line.class_id}
        conn.execute(FILL_JOBS, {**binds, "first_rank": heads[line.class_id], "units": UNITS, "at": at})
        start += line.jobs
    conn.execute(FILL_SPECS, {"low": first, "high": start - 1})
    conn.execute(FILL_HISTORY, {"low": first, "high": start - 1})
