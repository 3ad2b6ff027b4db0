"""The queue's cases: claims, a rival, an old snapshot, creation, a look at a big task, a big kill."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median

from gridapp.bench import backlog as backlogs
from gridapp.bench import killing, rivals
from gridapp.bench.agent import Agent, new_jobs
from gridapp.bench.backlog import Backlog, Line, settle
from gridapp.bench.ground import TURN_S, Ground
from gridapp.bench.limits import limit_for
from gridapp.bench.measure import TURNS, Figure, per_second
from gridapp.bench.server import conninfo, driver
from gridapp.bench.taking import BATCH, Taking
from gridapp.insights import tasks as task_answers

#: Jobs queued by one call: the job maker's slices are as long.
SLICE = 5000
#: Longest an answer about a big task may take, in seconds.
SHOW_S = 0.2
#: Jobs claimed under the snapshot before the clock starts.
AGED = 50_000


def claim_finish(ground: Ground) -> Figure:
    """One agent claims by 100 and finishes them, with history, attempts, counters, shares and limits."""
    taking = Taking(ground, ground.backlog(), BATCH)
    return ground.compare("claim_finish", "jobs/s", taking.arms(ground.rows // 10))


def vs_pgqueuer(ground: Ground) -> Figure:
    """Two agents of ours against two workers of pgqueuer (the limit figure), each by its best batch size."""
    url = ground.backlog().database.url.render_as_string(hide_password=False)
    theirs = conninfo(ground.server.create())
    ground.say(f"handing {ground.rows:,} jobs to pgqueuer")
    rivals.fill(theirs, ground.rows)
    most = ground.rows // 20
    its = rivals.best_batch(rivals.theirs, theirs, rivals.ITS_BATCHES, most)
    ours = rivals.best_batch(rivals.ours, url, rivals.OUR_BATCHES, most)
    ground.say(f"pgqueuer is fastest by {its}, ours by {ours}")
    return ground.compare(
        "vs_pgqueuer",
        "jobs/s",
        {
            "ours": lambda: rivals.together(rivals.ours, url, ours, most, TURN_S),
            "limit": lambda: rivals.together(rivals.theirs, theirs, its, most, TURN_S),
        },
    )


def snapshot(ground: Ground) -> Figure:
    """Claim and finish while a forgotten report holds an old snapshot; the limit figure is without one."""
    backlog = ground.backlog()
    agent = Agent(backlog)
    most = ground.rows // 10

    def batch() -> int:
        held = agent.claim(BATCH)
        if held:
            agent.finish(held)
        return len(held)

    def under_snapshot() -> float:
        with _old_snapshot(backlog):
            per_second(batch, min(AGED, most // 2), 2 * TURN_S)
            return per_second(batch, most // 2, TURN_S)

    def undisturbed() -> float:
        settle(backlog.database)
        return per_second(batch, most // 2, TURN_S)

    return ground.compare("snapshot", "jobs/s", {"ours": under_snapshot, "limit": undisturbed})


@contextmanager
def _old_snapshot(backlog: Backlog) -> Iterator[None]:
    """Whatever is deleted meanwhile stays on disk for this one."""
    conn = driver().connect(conninfo(backlog.database.url))
    try:
        conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        conn.execute("SELECT count(*) FROM job_class").fetchone()
        yield
    finally:
        conn.close()


# --- a big task -----------------------------------------------------------------------------------------


def create(ground: Ground) -> Figure:
    """Queue as many jobs as the backlog has, in one task and in slices; the limit is COPY or executemany."""
    backlog = ground.backlog()
    limit = limit_for(backlog)
    ground.closing(limit.close)
    agent = Agent(backlog)
    per_turn = -(-ground.rows // TURNS)
    mine = backlogs.add_line(backlog, 1, per_turn * TURNS)
    other = backlogs.add_line(backlog, 2, per_turn * TURNS)

    begins = {line: iter(range(0, per_turn * TURNS, per_turn)) for line in (mine, other)}

    def ours() -> float:
        limit.rest()
        return _create(backlog, mine, next(begins[mine]), per_turn, agent.insert)

    def raw() -> float:
        limit.rest()
        return _create(
            backlog,
            other,
            next(begins[other]),
            per_turn,
            lambda jobs: limit.create(other, jobs, backlog.now()),
        )

    found = ground.compare("create", "jobs/s", {"ours": ours, "limit": raw})
    ground.big = mine
    return found


def _create(backlog: Backlog, line: Line, begin: int, n: int, insert: Callable[..., None]) -> float:
    """So many more jobs of the line; jobs per second of the inserts alone."""
    seconds = 0.0
    for start in range(begin, begin + n, SLICE):
        jobs = new_jobs(backlog, line, start + 1, min(SLICE, begin + n - start))
        began = time.perf_counter()
        insert(jobs)
        seconds += time.perf_counter() - began
    backlogs.tell_made(backlog, line, begin + n)
    return n / seconds


def _big(ground: Ground) -> tuple[Backlog, Line]:
    """A task as big as the backlog: the one `create` made, or one loaded for the purpose."""
    backlog = ground.backlog()
    if ground.big is None:
        ground.say(f"loading a task of {ground.rows:,} jobs")
        ground.big = backlogs.add_line(backlog, 1, ground.rows)
        backlogs.fill_line(backlog, ground.big)
        settle(backlog.database)
    return backlog, ground.big


def task_show(ground: Ground) -> Figure:
    """What `tierflow task show` tells of a task of as many jobs; the limit figure is what it may take."""
    backlog, line = _big(ground)
    with backlog.database.snapshot() as conn:
        name = backlogs.task_name_of(line, conn)
    seconds = []
    for _ in range(2 * TURNS + 1):
        began = time.perf_counter()
        with backlog.database.snapshot() as conn:
            task_answers.task(conn, name)
        seconds.append(time.perf_counter() - began)
    figure = median(seconds)
    return ground.figure("task_show", figure, "s", SHOW_S, less_is_better=True)


def bulk_kill(ground: Ground) -> Figure:
    """Claim and finish while a task of as many jobs is being killed; the limit figure is without that."""
    backlog, line = _big(ground)
    with backlog.database.snapshot() as conn:
        name = backlogs.task_name_of(line, conn)
    url = backlog.database.url.render_as_string(hide_password=False)
    agent = Agent(backlog)
    most = ground.rows // 20

    def batch() -> int:
        held = agent.claim(BATCH)
        if held:
            agent.finish(held)
        return len(held)

    def normal() -> float:
        return per_second(batch, most, TURN_S)

    def meanwhile() -> float:
        before = backlogs.killed_of(backlog, line)
        with killing.under_way(url, name):
            figure = per_second(batch, most, TURN_S)
        ground.say(f"{backlogs.killed_of(backlog, line) - before:,} jobs killed meanwhile")
        return figure

    return ground.compare("bulk_kill", "jobs/s", {"ours": meanwhile, "limit": normal})
