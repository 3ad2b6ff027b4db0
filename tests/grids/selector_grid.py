"""Jobs of all kinds as bare rows, and the same as the fields that a selector asks for."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import cycle
from typing import Any

from sqlalchemy import Connection, Table

from catalogs import sites
from catalogs.tables import site
from gridcore.db import insert_rows
from gridcore.tables import lease
from prodsys.job_states import JobKind, JobState
from prodsys.jobs.store import POINT, rank_of
from prodsys.queue import endpoints
from prodsys.states import RequestState, TaskState
from prodsys.tables import attempt, endpoint, job, job_class, request, share_node, task

#: Children first.
TABLES: Sequence[Table] = (attempt, job, task, request, job_class, share_node, endpoint, lease, site)

NAMES = ["ab", "aB", "a.b", "a_b", "axb", "and", "x y", "26:ann_gen-1", "%"]
SITES = {1: "T2_FI_Birch", 2: "T2_FI_birch"}
N = 60


def fill(conn: Connection, now: datetime, ages: Sequence[int]) -> None:
    """60 jobs of 9 tasks at 2 sites."""
    for number, name in SITES.items():
        sites.put_site(conn, sites.Site(id=number, name=name, tier=2))
        made = endpoints.Endpoint(
            id=number, name=name, site_id=number, lease_id=number, kind="local", slots=2
        )
        endpoints.put(conn, made)
    leaf = {"id": 1, "path": "g/u", "target": 1.0, "used_at": now}
    insert_rows(conn, share_node, [leaf])
    common = {"leaf_id": 1, "requirements": {}, "cores": 1}
    kinds = [{"id": n, "fingerprint": f"f{n}", "task_type": NAMES[n], **common} for n in range(1, 4)]
    insert_rows(conn, job_class, kinds)
    insert_rows(conn, request, [_request(n, now) for n in range(1, 4)])
    insert_rows(conn, task, [_task(n, now) for n in range(1, len(NAMES) + 1)])
    insert_rows(conn, job, [_job(n, now, ages) for n in range(1, N + 1)])
    tried = [row for row in (_attempt(n, now) for n in range(1, N + 1)) if row is not None]
    insert_rows(conn, attempt, tried)


def _request(n: int, now: datetime) -> dict[str, Any]:
    return {
        "id": n,
        "client_id": f"c{n}",
        "digest": "d",
        "name": NAMES[n],
        "spec": {},
        "state": RequestState.RUNNING,
        "requester": "ann",
        "acct_group": "g",
        "priority": 0,
        "created_at": now,
        "updated_at": now,
    }


def _task(n: int, now: datetime) -> dict[str, Any]:
    return {
        "id": n,
        "request_id": n % 4 or None,
        "client_id": f"t{n}",
        "name": NAMES[n - 1],
        "task_type": "other",
        "state": TaskState.ACTIVE,
        "spec": {},
        "leaf_id": 1,
        "requester": NAMES[n % 3],
        "acct_group": NAMES[n % 5],
        "priority": 1,
        "unit_kind": "events",
        "created_at": now - timedelta(days=n),
        "updated_at": now,
    }


def _job(n: int, now: datetime, ages: Sequence[int]) -> dict[str, Any]:
    own = n % len(NAMES) + 1
    held = ("operator", "input", None)[n % 3]
    return {
        "id": n,
        "task_id": own,
        "idx": n,
        "kind": list(JobKind)[n % 2],
        "class_id": n % 3 + 1,
        "state": list(JobState)[n % len(JobState)],
        "attempt": n % 4,
        "rank": rank_of(now - timedelta(days=own), n % 5 - 2) + n,
        "units": 1,
        "endpoint_id": (None, 1, 2)[n % 3],
        "hold_kind": held,
        "code": (None, *NAMES)[n % 7],
        "updated_at": now - timedelta(seconds=ages[n % len(ages)]),
    }


def _attempt(n: int, now: datetime) -> dict[str, Any] | None:
    if not n % 4:
        return None
    error = (None, *NAMES)[n % 6]
    return {
        "job_id": n,
        "attempt": n % 4,
        "batch_key": f"k{n}",
        "endpoint_id": n // 4 % 2 + 1,
        "agent": "a",
        "leased_at": now,
        "ended_at": now,
        "error_class": error,
    }


def rows(now: datetime, ages: Sequence[int]) -> dict[int, dict[str, Any]]:
    """The fields of each job, by key, made from what was inserted and not by the product."""
    found = {}
    for n, age in zip(range(1, N + 1), cycle(ages[1:] + ages[:1]), strict=False):
        one, of_task, last = _job(n, now, ages), _task(n % len(NAMES) + 1, now), _attempt(n, now)
        request_id = of_task["request_id"]
        place = one["endpoint_id"]
        found[n] = {
            "task": of_task["name"],
            "index": n,
            "request": request_id,
            "request_name": None if request_id is None else NAMES[request_id],
            "group": of_task["acct_group"],
            "user": of_task["requester"],
            "state": one["state"].value,
            "kind": one["kind"].value,
            "type": NAMES[one["class_id"]],
            "site": None if place is None else SITES[place],
            "last_site": None if last is None else SITES[last["endpoint_id"]],
            "attempt": one["attempt"],
            "priority": n % 5 - 2,
            "class": one["class_id"],
            "age": age,
            "code": one["code"],
            "error": None if last is None else last["error_class"],
            "held": one["hold_kind"],
        }
    return found


assert POINT > 2 * N  # else the index would pass for points
