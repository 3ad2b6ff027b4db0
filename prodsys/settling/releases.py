"""Releases: a merge whose file does not hold what its inputs hold is ended, and they are merged anew.

An input is released so often, then its merge stays FAILED and waits for an operator: a broken input does not
go round for ever.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from sqlalchemy import Connection, bindparam, select

from prodsys.job_states import JobEvent, JobKind, JobState
from prodsys.jobs import attempts, outputs
from prodsys.jobs.attempts import Attempt, Ending
from prodsys.jobs.outputs import OutputRow
from prodsys.jobs.store import Move
from prodsys.settling.retries import ErrorClass
from prodsys.settling.settlement import Settler
from prodsys.states import OutputEvent
from prodsys.tables import job, job_spec

#: Why such a merge was ended.
MERGE_DIFFERS = "MERGE_DIFFERS"
#: Times an input is merged anew.
RELEASES = 3

ENDED = (
    select(job_spec.c.spec)
    .join(job, job.c.id == job_spec.c.job_id)
    .where(job.c.task_id == bindparam("of_task"), job.c.kind == JobKind.MERGE)
    .where(job.c.state == JobState.KILLED, job.c.code == MERGE_DIFFERS)
)


def end(settler: Settler, one: Attempt, inputs: Sequence[OutputRow], complaint: str) -> bool:
    """End the merge job of an attempt in STAGEOUT whose output is not the sum of its inputs; False if stale.

    KILLED, its inputs back among those that wait for a merge; FAILED, its inputs kept, once one of them was
    released `RELEASES` times. Its output is wished away.
    """
    conn, now = settler.conn, settler.now
    before = _releases(conn, inputs)
    again = before < RELEASES
    move = Move(
        job_id=one.job_id,
        attempt=one.attempt,
        event=JobEvent.KILL if again else JobEvent.FAILURE,
        to=JobState.KILLED if again else JobState.FAILED,
        code=MERGE_DIFFERS,
        params={"error": complaint[:300], "releases": before + again},
    )
    if not settler.apply([move]):
        return False
    attempts.reopen_all(conn, [one])  # it ended well, so it was said: now it has failed
    ending = Ending(error_class=ErrorClass.BAD_REPORT, error=complaint, penalty=True)
    attempts.close_all(conn, [(one, ending)], now)
    settler.discard(settler.outputs_of([one])[one.job_id])
    if again:
        outputs.move(conn, inputs, OutputEvent.RELEASED, now)
    return True


def _releases(conn: Connection, inputs: Sequence[OutputRow]) -> int:
    """How often the one of the inputs that was released most often was."""
    if not inputs:
        return RELEASES
    times: Counter[str] = Counter()
    for spec in conn.execute(ENDED, {"of_task": inputs[0].task_id}).scalars():
        times.update(source["lfn"] for source in spec["inputs"])
    return max(times[one.lfn] for one in inputs)
