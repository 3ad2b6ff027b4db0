"""Matching: one job per commit, many pilots gathered, and a queue ten times as deep."""

from __future__ import annotations

import resource
import threading
import time
from collections.abc import Callable

from gridapp.bench.agent import AGENT, INSTANCE, Agent
from gridapp.bench.backlog import Backlog
from gridapp.bench.ground import TURN_S, Ground
from gridapp.bench.measure import Arm, Figure, alternate, per_second
from gridapp.bench.taking import Taking
from prodsys.queue.gathering import Gatherer

#: Pilots that ask at once.
PILOTS = 16
#: The deep queue is so many times the other one.
DEEPER = 10
DEEP_TURNS = 5
#: Growth of this process over the deep turns that still counts as flat, in bytes.
FLAT = 32 * 2**20


def match(ground: Ground) -> Figure:
    """One job per commit over one connection; the limit writes the same rows in one round trip."""
    taking = Taking(ground, ground.backlog(0.3), 1)
    return ground.compare("match", "matches/s", taking.arms(ground.rows // 20, finish=False))


def match_gathered(ground: Ground) -> Figure:
    """Sixteen pilots ask for one job each, gathered as the API does; the limit claims 16 a commit."""
    backlog = ground.backlog(0.3)
    taking = Taking(ground, backlog, PILOTS)
    lease = gathered(backlog)
    most = ground.rows // 20

    def ours() -> float:
        taking.limit.rest()
        return pilots(lease, most)

    taking.raw(False)
    arms: dict[str, Arm] = {
        "ours": ours,
        "limit": taking.arm(taking.raw, most, finish=False),
        "bare": taking.arm(taking.bare, most, finish=False),
    }
    return ground.compare("match_gathered", "matches/s", arms)


def gathered(backlog: Backlog) -> Callable[[], int]:
    """A pilot's request for one job, through the API's gathering; how many it got."""
    desk = Gatherer(backlog.database, INSTANCE, AGENT)
    return lambda: len(desk.lease(backlog.endpoint_id, backlog.site_id, 1))


def pilots(lease: Callable[[], int], most: int) -> float:
    """So many threads asking for one job after the other; matches per second of all."""
    matched = [0] * PILOTS
    end = time.perf_counter() + TURN_S

    def pilot(number: int) -> None:
        while time.perf_counter() < end and sum(matched) < most:
            got = lease()
            if not got:
                return
            matched[number] += got

    threads = [threading.Thread(target=pilot, args=(number,)) for number in range(PILOTS)]
    began = time.perf_counter()
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    return sum(matched) / (time.perf_counter() - began)


def deep(ground: Ground) -> Figure:
    """One job per commit with ten times as many waiting; the limit figure is with as many as the rest has."""
    shallow = Agent(ground.backlog(0.3))
    few = ground.rows // 20
    deeper = Agent(ground.load(DEEPER * ground.rows))
    arms = {"ours": _matching(deeper, few), "limit": _matching(shallow, few)}
    for arm in arms.values():
        arm()
    before = _resident()
    ground.say("measuring match deep")
    found = alternate(arms, DEEP_TURNS)
    grown = _resident() - before
    return ground.figure(
        "deep",
        found["ours"],
        "matches/s",
        found["limit"],
        rows=DEEPER * ground.rows,
        error=f"memory grew by {grown / 2**20:.0f} MB" if grown > FLAT else None,
    )


def _matching(agent: Agent, few: int) -> Arm:
    return lambda: per_second(lambda: len(agent.claim(1)), few // (DEEP_TURNS + 1), TURN_S)


def _resident() -> int:
    """The most memory this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
