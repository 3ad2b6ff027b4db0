"""The demo's summary: counted from what lies on storage and what the database remembers."""

from __future__ import annotations

import json
import subprocess
from collections import defaultdict
from typing import Any

from sqlalchemy import Connection, func, select

from catalogs import bookkeeping, sites
from catalogs.states import ReplicaState
from catalogs.tables import block, block_replica, dataset, se
from gridapp.demo.plan import Plan
from gridapp.insights import topology
from gridapp.installation import Installation
from gridapp.invariants import INVARIANTS
from gridcore.db.invariants import violations
from gridcore.errors import GridError
from gridcore.faults import FaultKind
from prodsys.job_states import JobKind, JobState
from prodsys.tables import attempt, job, request
from prodsys.tasks import workflow_files

#: Reading every delivered file takes seconds; a tool that hangs shall not.
TOOL_TIMEOUT_S = 300

JOBS = select(func.count()).select_from(job)
MERGES = JOBS.where(job.c.kind == JobKind.MERGE, job.c.state == JobState.DONE)
ATTEMPTS = select(func.count()).select_from(attempt)
RETRIES = ATTEMPTS.where(attempt.c.attempt > 1)
MAX_HOPS = select(func.coalesce(func.max(block_replica.c.hops), 0)).where(
    block_replica.c.state == ReplicaState.COMPLETE, block_replica.c.transit == 0
)
REPLICAS = (
    select(dataset.c.name, se.c.name.label("se"), block.c.id)
    .join(block, block.c.dataset_id == dataset.c.id)
    .join(block_replica, block_replica.c.block_id == block.c.id)
    .join(se, se.c.id == block_replica.c.se_id)
    .where(block_replica.c.state == ReplicaState.COMPLETE)
    .order_by(dataset.c.name, se.c.name, block.c.id)
)
REQUESTS = select(request.c.id, request.c.client_id).order_by(request.c.id)


def summarise(plan: Plan, installation: Installation, wall_s: float) -> dict[str, Any]:
    """Count, draw, write `summary.json`, return it. Raises GridError where a tool fails."""
    document, _ = workflow_files.read(plan.request)
    with installation.database.snapshot() as conn:
        files = delivered_files(conn)
        facts = _facts(conn)
        broken = violations(conn, INVARIANTS)
        python = installation.settings.work.python
    wanted = {step.output.dataset: [one.se for one in step.deliver] for step in document.step}
    counted = {
        name: {place: _events(plan, python, files[name, place]) for place in places}
        for name, places in wanted.items()
    }
    spectra, _ = workflow_files.read(plan.task)
    drawn = _draw(plan, python, _one_copy(files, spectra.step[0].output.dataset))
    faults = plan.faults()
    injected = faults.journal.counts() if faults else dict.fromkeys(FaultKind, 0)
    summary = {
        "events_requested": plan.options.events,
        "events_delivered": min(n for places in counted.values() for n in places.values()),
        "delivered": counted,
        **facts,
        "faults": {
            "attempts_failed": injected[FaultKind.ATTEMPT_FAILED],
            "workers_vanished": injected[FaultKind.WORKER_VANISHED],
            "links_dropped": injected[FaultKind.LINK_DROPPED],
            "files_corrupted": injected[FaultKind.FILE_CORRUPTED],
        },
        "invariants_checked": len(INVARIANTS),
        "invariant_violations": len(broken),
        "violations": [one.name for one in broken],
        "dnch_deta_mid": drawn["dnch_deta_mid"],
        "wall_s": round(wall_s, 1),
        "payload": plan.options.payload,
        "database": installation.database.dialect,
        "picture": drawn["picture"],
        "table": drawn["table"],
        "dir": str(plan.directory),
    }
    part = plan.summary.with_suffix(".part")
    part.write_text(json.dumps(summary, indent=2) + "\n")
    part.rename(plan.summary)
    return summary


def delivered_files(conn: Connection) -> dict[tuple[str, str], list[str]]:
    """PFNs by (dataset, SE) of every complete replica."""
    elements = sites.by_name(sites.storage_elements(conn))
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name, place, block_id in conn.execute(REPLICAS).all():
        for file in bookkeeping.files_of_block(conn, block_id):
            found[name, place].append(str(sites.pfn_of(elements[place], file.lfn)[0]))
    return found


def _facts(conn: Connection) -> dict[str, Any]:
    by_link = {
        f"{link['src']}->{link['dst']}": link["files_ok"] for link in topology.links(conn) if link["files_ok"]
    }
    return {
        "jobs": conn.execute(JOBS).scalar_one(),
        "attempts": conn.execute(ATTEMPTS).scalar_one(),
        "retries": conn.execute(RETRIES).scalar_one(),
        "merges": conn.execute(MERGES).scalar_one(),
        "max_hops": conn.execute(MAX_HOPS).scalar_one(),
        "files_by_link": by_link,
    }


def _one_copy(files: dict[tuple[str, str], list[str]], name: str) -> list[str]:
    """The files of a dataset that nobody has subscribed: each lies where it was made."""
    return [pfn for (of, _), pfns in sorted(files.items()) if of == name for pfn in pfns]


def _events(plan: Plan, python: str, pfns: list[str]) -> int:
    if not pfns:
        return 0
    return sum(_tool(plan, python, "count_events.py", *pfns).values())


def _draw(plan: Plan, python: str, histograms: list[str]) -> dict[str, Any]:
    if not histograms:
        raise GridError(
            "the analysis left no histograms", hint=f"look with: tierflow --dir {plan.directory} task list"
        )
    return _tool(plan, python, "picture.py", *histograms, str(plan.directory / "spectra"))


def _tool(plan: Plan, python: str, script: str, *arguments: str) -> dict[str, Any]:
    """Run one of the demo's scripts; the JSON it prints."""
    path = plan.tools / script
    try:
        done = subprocess.run(
            [python, str(path), *arguments],
            capture_output=True,
            text=True,
            timeout=TOOL_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise GridError(
            f"{script} did not end within {TOOL_TIMEOUT_S} s", hint="is the machine overloaded?"
        ) from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise GridError(f"{script} failed: {lines[-1]}", hint=f"run it by hand: {path}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer
