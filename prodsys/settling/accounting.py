"""Accounting: a finished attempt's effect, committed once. Job, outputs, catalogue, counters and events
change in one transaction."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Integer, bindparam, select, text

from catalogs import filebatch, registration
from catalogs.filebatch import NewFile
from catalogs.registration import Reserved
from gridcore.db.statements import lock_rows, select_in
from prodsys.job_states import JobEvent, JobKind, JobState
from prodsys.jobs import attempts, outputs
from prodsys.jobs.attempts import Attempt
from prodsys.jobs.outputs import OutputKind, OutputRow
from prodsys.jobs.store import Move
from prodsys.settling import releases
from prodsys.settling.retries import ErrorClass
from prodsys.settling.settlement import Failure, Settler
from prodsys.states import OutputEvent, OutputState
from prodsys.tables import attempt, job, job_file, task_input
from prodsys.tasks import tasks

#: Jobs settled in one transaction.
BATCH = 50

#: The first condition is that of the index, word for word: as it stands, SQLite uses it for nothing less.
STAGED_OUT = (
    select(job.c.id, job.c.task_id)
    .where(text("job.state IN ('STAGEOUT', 'LOST')"), job.c.state == JobState.STAGEOUT)
    .where(job.c.id > bindparam("after"))
    .order_by(job.c.id)
    .limit(bindparam("n", type_=Integer))
)
ROWS = (
    select(job.c.id, job.c.task_id, job.c.kind, job.c.attempt, job.c.state, attempt.c.batch_key)
    .join(attempt, (attempt.c.job_id == job.c.id) & (attempt.c.attempt == job.c.attempt))
    .where(job.c.id.in_(bindparam("ids", expanding=True)), job.c.state == JobState.STAGEOUT)
    .order_by(job.c.id)
)
PARENTS = select(task_input.c.job_id, task_input.c.file_id).where(
    task_input.c.job_id.in_(bindparam("ids", expanding=True))
)
LUMI_PARENTS = select(job_file.c.job_id, job_file.c.file_id).where(
    job_file.c.job_id.in_(bindparam("ids", expanding=True))
)

Runs = Mapping[str, Sequence[Sequence[int]]]


def due(conn: Connection, after: int = 0, limit: int = BATCH) -> dict[int, list[int]]:
    """The next jobs in STAGEOUT behind that key, by task."""
    by_task: dict[int, list[int]] = defaultdict(list)
    for job_id, task_id in conn.execute(STAGED_OUT, {"after": after, "n": limit}):
        by_task[task_id].append(job_id)
    return by_task


def wishes_needed(conn: Connection, job_ids: Sequence[int]) -> int:
    """Keys for all delete wishes that committing these jobs may take."""
    return len(outputs.of_merges(conn, job_ids)) + len(outputs.of_jobs(conn, job_ids))


def commit(
    conn: Connection, settler: Settler, task_id: int, job_ids: Sequence[int], reserved: Reserved
) -> dict[str, int]:
    """Commit jobs of one task; how many are done, how many failed after all."""
    lock_rows(conn, job, job_ids)
    rows = select_in(conn, ROWS, job_ids)
    found = attempts.by_key(conn, [row.batch_key for row in rows])
    current = {(row.id, row.attempt) for row in rows}
    staged = {
        row.job_id: row
        for row in outputs.of_jobs(conn, [row.id for row in rows])
        if row.state == OutputState.STAGED and (row.job_id, row.attempt) in current
    }
    inputs = _inputs_of_merges(conn, rows)
    good: list[Any] = []
    bad: list[Failure] = []
    ended = 0
    for row in rows:
        complaint = _complaint(row, staged.get(row.id), inputs.get(row.id, []))
        if complaint is None:
            good.append(row)
        elif row.kind == JobKind.MERGE and row.id in staged:
            ended += releases.end(settler, found[row.batch_key], inputs.get(row.id, []), complaint)
        else:
            bad.append(_refused(found[row.batch_key], complaint))
    attempts.reopen_all(conn, [one.attempt for one in bad])  # they ended well, so it was said
    failed = settler.fail(bad)
    _finish(conn, settler, good, staged, inputs)
    settler.write()
    final = [row for row in good if staged[row.id].kind == OutputKind.FINAL]
    if final:
        _register(conn, task_id, final, staged, inputs, reserved, settler.now)
    return {"done": len(good), "failed": failed + ended}


def _inputs_of_merges(conn: Connection, rows: Iterable[Any]) -> dict[int, list[OutputRow]]:
    merges = [row.id for row in rows if row.kind == JobKind.MERGE]
    inputs: dict[int, list[OutputRow]] = defaultdict(list)
    for one in outputs.of_merges(conn, merges):
        if one.merge_job_id is not None and one.state == OutputState.MERGING:
            inputs[one.merge_job_id].append(one)
    return inputs


def _refused(one: Attempt, complaint: str) -> Failure:
    return Failure(attempt=one, event=JobEvent.FAILURE, kind=ErrorClass.BAD_REPORT, error=complaint)


def _complaint(row: Any, one: OutputRow | None, inputs: Sequence[OutputRow]) -> str | None:
    """What is wrong with a job's output; a merge must hold exactly the events of its inputs."""
    if one is None:
        return "no output of this attempt is staged"
    if row.kind == JobKind.MERGE:
        expected = [file.events for file in inputs]
        known = [events for events in expected if events is not None]
        if len(known) == len(expected) and one.events != sum(known):
            return f"the merge reports {one.events} events, its inputs hold {sum(known)}"
    return None


def _finish(
    conn: Connection,
    settler: Settler,
    good: Sequence[Any],
    staged: Mapping[int, OutputRow],
    inputs: Mapping[int, Sequence[OutputRow]],
) -> None:
    moves = [
        Move(job_id=row.id, attempt=row.attempt, event=JobEvent.COMMITTED, to=JobState.DONE) for row in good
    ]
    settler.apply(moves)
    unmerged = [staged[row.id] for row in good if staged[row.id].kind == OutputKind.UNMERGED]
    outputs.move(conn, unmerged, OutputEvent.COMMITTED, settler.now)
    merged = [one for row in good for one in inputs.get(row.id, [])]
    outputs.move(conn, merged, OutputEvent.MERGED, settler.now)
    settler.remove(merged)


def _register(
    conn: Connection,
    task_id: int,
    final: Sequence[Any],
    staged: Mapping[int, OutputRow],
    inputs: Mapping[int, Sequence[OutputRow]],
    reserved: Reserved,
    now: datetime,
) -> None:
    """Enter final outputs into the task's dataset, at the SE where they lie."""
    of_task = tasks.by_id(conn, task_id)
    makers = {row.id: [one.job_id for one in inputs.get(row.id, [])] or [row.id] for row in final}
    parents = _parents(conn, {job_id for jobs in makers.values() for job_id in jobs})
    by_se: dict[int, list[tuple[OutputRow, NewFile]]] = defaultdict(list)
    for row in final:
        one = staged[row.id]
        runs = united([file.runs for file in inputs.get(row.id, [])] or [one.runs])
        family = tuple(sorted({parent for job_id in makers[row.id] for parent in parents.get(job_id, ())}))
        by_se[one.se_id].append((one, _new_file(one, runs, family)))
    used = 0
    for se_id, files in sorted(by_se.items()):
        part = reserved.part(used, len(files))
        used += len(files)
        ids = registration.register(
            conn, part, of_task.output_dataset_id, se_id, [new for _, new in files], now
        )
        rows = [one for one, _ in files]
        as_files = dict(zip((one.id for one in rows), ids, strict=True))
        outputs.move(conn, rows, OutputEvent.COMMITTED, now, files=as_files)


def _new_file(one: OutputRow, runs: dict[int, list[tuple[int, int]]], parents: tuple[int, ...]) -> NewFile:
    return NewFile(
        lfn=one.lfn, bytes=one.bytes, adler32=one.adler32, events=one.events, runs=runs, parents=parents
    )


def _parents(conn: Connection, job_ids: Collection[int]) -> dict[int, list[int]]:
    parents: dict[int, list[int]] = defaultdict(list)
    for statement in (PARENTS, LUMI_PARENTS):
        for job_id, file_id in select_in(conn, statement, job_ids):
            parents[job_id].append(file_id)
    return parents


def united(parts: Iterable[Runs]) -> dict[int, list[tuple[int, int]]]:
    """Lumi ranges by run of several reports, touching ones made one."""
    ranges: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for runs in parts:
        for run, pairs in runs.items():
            ranges[int(run)] += [(first, last) for first, last in pairs]
    return {run: filebatch.merged(pairs) for run, pairs in ranges.items()}
