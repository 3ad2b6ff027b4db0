"""Why something waits or failed: stored reasons as sentences, the evidence, whose turn, the next command."""

from __future__ import annotations

import re
from collections.abc import Collection
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, select

from catalogs import wishes
from gridapp.insights import deliveries, nowhere, topology, work
from gridapp.insights.answers import Answer
from gridapp.insights.jobs import JOBS_OF_TASK, reason
from gridapp.insights.nowhere import Never
from gridapp.insights.values import KEY_MAX
from gridapp.insights.why_data import why_block, why_deletion, why_file, why_subscription
from gridapp.insights.why_job import why_job
from gridapp.insights.why_link import why_link
from gridcore.errors import NotFound, UsageError
from gridcore.ids import job_name
from prodsys.job_states import TERMINAL, JobState
from prodsys.states import RequestState, TaskState
from prodsys.tables import request as request_table
from prodsys.tasks import tasks
from prodsys.units import slicing

#: Blocks and jobs quoted as evidence.
QUOTED = 20
#: Jobs a task may have where nobody says otherwise.
MOST_JOBS = 100_000
_NUMBERED = re.compile(r"(?:(sub|subscription|req|request|del|deletion):)?([0-9]{1,19})")
_LINK = re.compile(r"link:(\S+?)\s*(?:->|>)\s*(\S+)")
_JOB = re.compile(r"[^/].*/[0-9]+(\.[0-9]+)?", re.DOTALL)

REQUEST_ID = select(request_table.c.id).where(request_table.c.id == bindparam("request_id"))


def why(
    conn: Connection, what: str, now: datetime, heartbeat_s: float = 60.0, most_jobs: int = MOST_JOBS
) -> dict[str, Any]:
    """Why a job, task, request, subscription, block, file, link or deletion is where it is.

    `what` is `TASK/17`, a task's name, `sub:12`, `DATASET@SE`, `DATASET#BLOCK`, an LFN, `link:SRC>DST`,
    `del:5`, `req:3`, or a bare number, taken for a subscription if there is one, else for a request.
    Raises UsageError, NotFound with near names.
    Returns {what, kind, state, since, because: [sentences], evidence, turn, next}.
    """
    what = what.strip()
    if numbered := _NUMBERED.fullmatch(what):
        return _numbered(conn, numbered[1], int(numbered[2]), now).to_json()
    if link := _LINK.fullmatch(what):
        return why_link(conn, link[1], link[2], now).to_json()
    if what.startswith("link:"):
        raise UsageError(f"{what} names no two storage elements", hint="write link:SRC>DST, in quotes")
    if what.startswith(("/", "block:", "file:")):
        return _data(conn, what, now).to_json()
    if _JOB.fullmatch(what):
        return why_job(conn, what, now, heartbeat_s).to_json()
    return _task(conn, what, now, heartbeat_s, most_jobs).to_json()


def _data(conn: Connection, what: str, now: datetime) -> Answer:
    """Of what is named by its path: a block, a dataset at a storage element, a file."""
    kind, colon, path = what.rpartition(":") if what[0] != "/" else ("", "", what)
    del colon
    if kind == "block" or (kind == "" and "#" in path):
        return why_block(conn, path, now)
    dataset, at, se = path.rpartition("@")
    if at:
        return why_subscription(conn, deliveries.subscription_id(conn, dataset, se), now)
    if kind == "file" or path.startswith("/store/"):
        return why_file(conn, path, now)
    raise UsageError(f"{path} is a dataset; ask about its copy at a storage element", hint=f"write {path}@SE")


def _numbered(conn: Connection, kind: str | None, key: int, now: datetime) -> Answer:
    if key > KEY_MAX:
        raise NotFound(f"there is no number {key}", hint="see: tierflow request list")
    if kind in ("req", "request"):
        return _request(conn, key)
    if kind in ("del", "deletion"):
        return why_deletion(conn, key)
    try:
        return why_subscription(conn, key, now)
    except NotFound:
        if kind is None and conn.execute(REQUEST_ID, {"request_id": key}).first():
            return _request(conn, key)
        raise


# --- tasks and requests ------------------------------------------------------------------------------


def _task(conn: Connection, name: str, now: datetime, heartbeat_s: float, most_jobs: int) -> Answer:
    view = work.task(conn, name)
    stuck = _quoted(conn, view)
    deliveries = _deliveries(conn, name)
    never = _impossible(conn, [name])
    because = [*view["because"], *(one for each in never for one in each.because)]
    because += [f"{one['name']}: {one['reason']}" for one in stuck if one["reason"]]
    because += [f"delivery to {one['se']}: {one['sentence']}" for one in deliveries]
    turn, after = _task_turn(view, name)
    ready = [one for one in stuck if one["state"] == JobState.READY]
    if ready and not view["jobs"].keys() & {"LEASED", "SUBMITTED", "RUNNING"}:
        first = why_job(conn, ready[0]["name"], now, heartbeat_s)
        because[1:1] = [f"{first.what}: {one}" for one in first.because[:2]]
        turn, after = first.turn, f"tierflow why {first.what}"
    if never:
        turn = never[0].turn
    obstacle = _obstacle(conn, view, most_jobs)
    if obstacle is not None:
        because[1:1] = [f"its next jobs cannot be made: {obstacle.message}", f"to go on: {obstacle.hint}"]
        turn = "an operator"
    shown = ("units", "jobs", "jobs_by_kind", "merges", "open_blocks", "input_dataset", "output_dataset")
    return Answer(
        what=name,
        kind="task",
        state=view["state"],
        since=view["updated_at"],
        because=because,
        evidence={**{one: view[one] for one in shown}, "stuck_jobs": stuck, "deliveries": deliveries},
        turn=turn,
        next=after,
    )


def _obstacle(conn: Connection, view: dict[str, Any], most_jobs: int) -> UsageError | None:
    """Why the task cannot be cut on, if it reads and goes on."""
    if view["state"] != TaskState.ACTIVE or not view["input_dataset"]:
        return None
    return slicing.obstacle(conn, tasks.by_id(conn, view["id"]), most_jobs)


def _impossible(conn: Connection, names: Collection[str]) -> list[Never]:
    """The classes with waiting jobs of these tasks that no site could ever run."""
    return [one for one in nowhere.never(conn) if one.task in names]


def _quoted(conn: Connection, view: dict[str, Any]) -> list[dict[str, Any]]:
    """Jobs to look at: failed and held ones, those that wait to be tried again, and the first ready one."""
    found: list[dict[str, Any]] = []
    for state in (JobState.FAILED, JobState.HELD, JobState.RETRY_WAIT, JobState.READY):
        if view["jobs"].get(state):
            n = 1 if state == JobState.READY else 3
            rows = conn.execute(JOBS_OF_TASK, {"task_id": view["id"], "states": [state], "n": n})
            found += [
                {
                    "name": job_name(view["name"], row.idx),
                    "state": row.state.value,
                    "reason": reason(row.code, row.params),
                }
                for row in rows
            ]
    return found


def _deliveries(conn: Connection, name: str) -> list[dict[str, Any]]:
    names = topology.se_names(conn)
    return [
        {
            "dataset": one.subject,
            "se": names[one.se_id],
            "state": one.state.value,
            "sentence": deliveries.sentence(one.code, one.params, names)
            or f"{one.subject} {'is subscribed' if one.state == 'SERVED' else 'waits to be subscribed'}",
        }
        for one in wishes.of_owner(conn, f"task/{name}")
    ]


def _task_turn(view: dict[str, Any], name: str) -> tuple[str, str]:
    jobs = view["jobs"]
    if view["state"] in (TaskState.COMPLETED, TaskState.KILLED):
        return "nobody", f"tierflow task show {name}"
    if view["state"] == TaskState.PAUSED:
        return "an operator", f"tierflow request resume {view['request_id']}"
    if view["state"] == TaskState.INCOMPLETE:
        cure = f"tierflow task retry {name}"
        return f"{view['requester']} or an operator", cure if jobs.get(
            "FAILED"
        ) else f"tierflow task show {name}"
    if view["state"] == TaskState.CLOSING:
        return "the block_manager", f"tierflow dataset show {view['output_dataset']}"
    if jobs.get(JobState.FAILED):
        live = any(n for state, n in jobs.items() if state not in TERMINAL)
        who = "its jobs" if live else f"{view['requester']} or an operator"
        return who, f"tierflow job list --task {name} --state {JobState.FAILED}"
    for state in (JobState.HELD, JobState.RUNNING, JobState.READY, JobState.RETRY_WAIT):
        if jobs.get(state):
            who = "an operator" if state == JobState.HELD else "its jobs"
            return who, f"tierflow job list --task {name} --state {state}"
    if view["merges"]["waiting"]:
        return "the merger", f"tierflow job list --task {name}"
    return "the job_maker", f"tierflow task show {name}"


def _request(conn: Connection, key: int) -> Answer:
    view = work.request(conn, key)
    names = [one["name"] for one in view["tasks"]]
    shown = ("name", "requester", "group", "priority", "created_at", "decided_by", "assigned")
    because = [view["reason"], *([view["assigned"]["why"]] if view["assigned"]["why"] else [])]
    return Answer(
        what=f"req:{key}",
        kind="request",
        state=view["state"],
        since=view["history"][-1]["at"] if view["history"] else view["updated_at"],
        because=[
            *because,
            *(one for each in _impossible(conn, names) for one in each.because),
            *(f"{one['name']}: {one['reason']}" for one in view["tasks"]),
        ],
        evidence={
            **{name: view[name] for name in shown},
            "tasks": [
                {name: one[name] for name in ("name", "state", "jobs", "units")} for one in view["tasks"]
            ],
        },
        turn=view["turn"],
        next=_request_next(view),
    )


def _request_next(view: dict[str, Any]) -> str:
    key = view["id"]
    match view["state"]:
        case RequestState.DRAFT:
            return f"tierflow request submit-draft {key}"
        case RequestState.APPROVED:
            return f"tierflow request assign {key}"
        case RequestState.SUBMITTED:
            return f"tierflow request approve {key}"
        case RequestState.PAUSED:
            return f"tierflow request resume {key}"
    unfinished = [one["name"] for one in view["tasks"] if one["state"] != TaskState.COMPLETED]
    return f"tierflow why {unfinished[0]}" if unfinished else f"tierflow request show {key}"
