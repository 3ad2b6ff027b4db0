"""pgqueuer beside us: two processes each on the same server, as many jobs, each by its best batch size.

It takes, runs a no-op and logs; it writes no attempts, shares or limits. Ours claims and finishes.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import Callable, Sequence
from multiprocessing.synchronize import Barrier
from typing import Any

from gridapp.bench.agent import Agent
from gridapp.bench.backlog import Backlog
from gridapp.bench.postgres import EXTRA_HINT
from gridcore.db import Database
from gridcore.db.keys import Keys
from gridcore.errors import GridError, UsageError

PROCESSES = 2
#: Batch sizes tried; each is measured with its fastest.
ITS_BATCHES = (10, 100, 500, 1000)
OUR_BATCHES = (100, 1000)
TRIAL_S = 2.0
#: Jobs handed to the rival at once when it is filled.
ENQUEUE = 1000
START_S = 60.0

#: A worker: works until told the time is up; how many jobs it did in how many seconds.
Worker = Callable[..., tuple[int, float]]


def together(worker: Worker, *args: Any) -> float:
    """Run the worker in two processes at once; jobs per second of both. Raises GridError if one fails."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(PROCESSES)
    answers = context.SimpleQueue()
    workers = [
        context.Process(target=_run, args=(worker, barrier, answers, number, *args), daemon=True)
        for number in range(PROCESSES)
    ]
    try:
        for one in workers:
            one.start()
        for one in workers:
            one.join()
    finally:
        for one in workers:
            if one.pid is not None:
                one.kill()
    found = [answers.get() for _ in workers if not answers.empty()]
    faults = [one for one in found if isinstance(one, str)]
    if faults or len(found) < PROCESSES:
        raise GridError(f"a worker failed: {faults[0] if faults else 'it died'}")
    return float(sum(count / seconds for count, seconds in found))


def _run(worker: Worker, barrier: Barrier, answers: Any, number: int, *args: Any) -> None:
    try:
        answers.put(worker(barrier, number, *args))
    except Exception as error:
        barrier.abort()
        answers.put(f"{type(error).__name__}: {error}")


# --- ours ----------------------------------------------------------------------------------------------


def ours(barrier: Barrier, number: int, url: str, batch: int, most: int, seconds: float) -> tuple[int, float]:
    """One agent of ours: claims and finishes. Each has an endpoint at a site of its own."""
    database = Database(url)
    place = number + 1
    agent = Agent(Backlog(database, Keys(database), (), endpoint_id=place, site_id=place))
    try:
        agent.finish(agent.claim(1))
        barrier.wait(START_S)
        done, began = 0, time.perf_counter()
        while done < most and time.perf_counter() - began < seconds:
            held = agent.claim(batch)
            if not held:
                break
            agent.finish(held)
            done += len(held)
        return done, time.perf_counter() - began
    finally:
        database.close()


# --- pgqueuer ------------------------------------------------------------------------------------------


def fill(address: str, rows: int) -> None:
    """Install the rival's schema and hand it so many jobs. Raises UsageError where it is not installed."""
    try:
        import pgqueuer  # noqa: F401
    except ImportError:
        raise UsageError("pgqueuer is not installed", hint=EXTRA_HINT) from None
    asyncio.run(_fill(address, rows))


async def _fill(address: str, rows: int) -> None:
    import asyncpg
    from pgqueuer.db import AsyncpgDriver
    from pgqueuer.queries import Queries

    conn = await asyncpg.connect(address)
    try:
        queries = Queries(AsyncpgDriver(conn))
        await queries.install()
        left = rows
        while left:
            n = min(left, ENQUEUE)
            await queries.enqueue(["noop"] * n, [None] * n, [0] * n)
            left -= n
        await conn.execute("VACUUM ANALYZE")
        await conn.execute("CHECKPOINT")
    finally:
        await conn.close()


def theirs(
    barrier: Barrier, number: int, address: str, batch: int, most: int, seconds: float
) -> tuple[int, float]:
    """One worker of pgqueuer: its own loop, a job that does nothing."""
    return asyncio.run(_theirs(barrier, address, batch, most, seconds))


async def _theirs(barrier: Barrier, address: str, batch: int, most: int, seconds: float) -> tuple[int, float]:
    import asyncpg
    from pgqueuer import PgQueuer

    conn = await asyncpg.connect(address)
    queuer = PgQueuer.from_asyncpg_connection(conn)
    done, began = 0, 0.0

    @queuer.entrypoint("noop")
    async def noop(job: Any) -> None:
        nonlocal done, began
        began = began or time.perf_counter()  # what it looks up before its first job is not counted
        done += 1
        if done >= most:
            queuer.shutdown.set()

    loop = asyncio.get_running_loop()
    try:
        await loop.run_in_executor(None, barrier.wait, START_S)
        timer = loop.call_later(seconds, queuer.shutdown.set)
        await queuer.qm.run(batch_size=batch)
        timer.cancel()
        return done, time.perf_counter() - began
    finally:
        await conn.close()


def best_batch(worker: Worker, where: str, batches: Sequence[int], most: int) -> int:
    """The batch size with which the worker is fastest here and now."""
    return max(batches, key=lambda batch: together(worker, where, batch, most, TRIAL_S))
