"""A queue with many waiting jobs, without a grid around it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection

from catalogs.tables import site
from gridcore.db import Database, insert_rows
from gridcore.tables import lease
from prodsys.job_states import JobKind, JobState
from prodsys.jobs import store
from prodsys.jobs.store import NewJob
from prodsys.tables import class_site, endpoint, job_class, queue, share_node, task, task_count

NOW = datetime(2026, 11, 20, tzinfo=UTC)
LEAVES = 4


def fill(database: Database, jobs: int, classes: int = 8, sites: int = 2) -> None:
    """READY jobs, spread over the classes; class i is a task of its own, of leaf i modulo 4.

    Sites, endpoints, leaves, tasks and classes have the keys 1, 2, ...
    """

    def unit(conn: Connection) -> None:
        _frame(conn, jobs, classes, sites)
        new = [
            NewJob(
                id=number,
                task_id=(number - 1) % classes + 1,
                index=(number - 1) // classes + 1,
                kind=JobKind.PROCESS,
                class_id=(number - 1) % classes + 1,
                rank=store.rank_of(NOW + timedelta(seconds=number % classes), 0) + number,
                units=10,
                spec={"seed": number},
            )
            for number in range(1, jobs + 1)
        ]
        store.insert(conn, new, NOW)

    database.transaction(unit)


def _frame(conn: Connection, jobs: int, classes: int, sites: int) -> None:
    keys = range(1, sites + 1)
    insert_rows(conn, queue, [{"id": 1, "name": "central"}])
    insert_rows(
        conn, site, [{"id": key, "name": f"T2_DE_S{key}", "tier": 2, "state": "ENABLED"} for key in keys]
    )
    insert_rows(conn, lease, [{"id": key, "name": f"endpoint/e{key}", "fence": 0} for key in keys])
    insert_rows(conn, endpoint, [_endpoint(key) for key in keys])
    insert_rows(conn, share_node, [_leaf(key) for key in range(1, LEAVES + 1)])
    insert_rows(conn, task, [_task(key, jobs) for key in range(1, classes + 1)])
    cells = [
        {"task_id": key, "kind": kind, "state": state, "jobs": 0, "units": 0}
        for key in range(1, classes + 1)
        for kind in JobKind
        for state in JobState
    ]
    insert_rows(conn, task_count, cells)
    insert_rows(conn, job_class, [_class(key) for key in range(1, classes + 1)])
    verdicts = [
        {"class_id": key, "site_id": at, "eligible": 1, "code": "ELIGIBLE", "decided_at": NOW}
        for key in range(1, classes + 1)
        for at in keys
    ]
    insert_rows(conn, class_site, verdicts)


def _endpoint(key: int) -> dict[str, object]:
    return {
        "id": key,
        "name": f"e{key}",
        "site_id": key,
        "lease_id": key,
        "kind": "fake",
        "slots": 100,
        "offer": {},
        "config": {},
        "state": "ENABLED",
    }


def _leaf(key: int) -> dict[str, object]:
    return {"id": key, "parent_id": None, "path": f"g{key}", "target": 1.0, "used_at": NOW}


def _class(key: int) -> dict[str, object]:
    return {
        "id": key,
        "fingerprint": f"f{key}",
        "leaf_id": (key - 1) % LEAVES + 1,
        "task_type": "production" if key % 2 else "analysis",
        "requirements": {},
        "cores": 1,
    }


def _task(key: int, jobs: int) -> dict[str, object]:
    return {
        "id": key,
        "client_id": f"c{key}",
        "name": f"261120_000000:anna_t{key}",
        "task_type": "production",
        "state": "ACTIVE",
        "spec": {},
        "leaf_id": (key - 1) % LEAVES + 1,
        "requester": "anna",
        "acct_group": f"g{(key - 1) % LEAVES + 1}",
        "priority": 0,
        "unit_kind": "events",
        "units_total": 10 * jobs,
        "created_at": NOW,
        "updated_at": NOW,
    }
