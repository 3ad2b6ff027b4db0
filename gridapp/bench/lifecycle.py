"""A job's whole life: created, ready, leased, submitted, running, stage-out, done; six commits a batch."""

from __future__ import annotations

from gridapp.bench import backlog as backlogs
from gridapp.bench.agent import STEPS, new_jobs
from gridapp.bench.backlog import Line
from gridapp.bench.ground import Ground
from gridapp.bench.measure import Figure
from gridapp.bench.taking import BATCH, Taking
from prodsys.job_states import JobState
from prodsys.jobs.store import NewJob


def life(ground: Ground) -> Figure:
    """A hundred jobs are created and a hundred led from READY to DONE, step by step; lives per second."""
    backlog = ground.backlog()
    taking = Taking(ground, backlog, BATCH)
    mine, other = (backlogs.add_line(backlog, number, ground.rows) for number in (1, 2))
    made = {mine: 0, other: 0}

    def next_jobs(line: Line) -> list[NewJob]:
        made[line] += BATCH
        return new_jobs(backlog, line, made[line] - BATCH + 1, BATCH)

    def ours(finish: bool = True) -> int:
        taking.agent.insert(next_jobs(mine))
        held = taking.agent.claim(BATCH)
        for state in STEPS:
            taking.agent.step(held, state)
        return len(held)

    def raw(finish: bool = True) -> int:
        taking.limit.create(other, next_jobs(other), backlog.now())
        taken = taking.claim_raw()
        frm = JobState.LEASED
        for to in STEPS:
            taking.limit.step(taken, frm, to, backlog.now())
            frm = to
        return len(taken)

    for work in (ours, raw):
        work()
    most = ground.rows // 10
    arms = {"ours": taking.arm(ours, most), "limit": taking.arm(raw, most)}
    found = ground.compare("life", "lives/s", arms)
    for line, jobs in made.items():
        backlogs.tell_made(backlog, line, jobs)
    return found
