"""What the shares come to: a farm that divides its cores by the fair-share rule itself, hour after hour.

Time goes from event to event: jobs end, work arrives or a leaf is idle, the free cores are divided anew.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from heapq import heapify, heappop, heappush
from itertools import count
from math import ceil, fsum, isfinite

from gridcore.errors import UsageError
from prodsys.shares.fairshare import CLAMP, ShareNode, Waiting, check_tree, decayed, divide

DAY_H = 24
HALF_LIFE_H = 24.0
#: Starts of jobs a simulation makes at most, about; more of them are taken together.
STARTS = 250_000
#: Jobs shorter than this part of the time in which there is work are taken together as well.
SHORT = 1 / 250
#: Moments at which free cores are divided, at most; what ends in between waits for the next one.
MOMENTS = 4000
#: Of these as many an hour as make no more than that.
TICKS = (3600, 1440, 720, 360, 120, 60, 12, 4, 2, 1)
#: Work that never runs out.
ENDLESS = 10**12


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a leaf brings: jobs waiting at the start (None: it never runs out) and `per_h` more each hour.

    In the hours of `idle`, as (from, to), none of it may run. `running` jobs have been started before; they
    end one after the other over the length of a job.
    """

    job_h: float
    cores: float = 1.0
    jobs: int | None = None
    per_h: float = 0.0
    idle: tuple[tuple[float, float], ...] = ()
    running: int = 0

    def __post_init__(self) -> None:
        if not (isfinite(self.job_h) and self.job_h > 0 and self.cores > 0):
            raise UsageError(
                f"a job of {self.job_h} h and {self.cores} cores", hint="both are more than 0: give another"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """What was delivered: `hourly` has the core-hours of each hour, in the order of `paths`.

    `left` are the jobs that wait at the end; `empty_h` is when the last one of a leaf's was started, None
    where some are left.
    """

    paths: tuple[str, ...]
    hourly: tuple[tuple[float, ...], ...]
    left: Mapping[str, int]
    empty_h: Mapping[str, float | None]

    def core_hours(self, first_h: int = 0, end_h: int | None = None) -> dict[str, float]:
        """Core-hours by path, of the hours from `first_h` until before `end_h`."""
        rows = self.hourly[first_h:end_h]
        return {path: fsum(row[at] for row in rows) for at, path in enumerate(self.paths)}

    def parts(self, first_h: int = 0, end_h: int | None = None) -> dict[str, float]:
        """The same as parts of what was delivered in all, 0 to 1; all 0 where nothing was."""
        hours = self.core_hours(first_h, end_h)
        total = fsum(hours.values())
        return {path: value / total if total else 0.0 for path, value in hours.items()}

    def days(self) -> list[dict[str, float]]:
        """Core-hours by path of each day; the last one may be short."""
        return [self.core_hours(at, at + DAY_H) for at in range(0, len(self.hourly), DAY_H)]


def simulate(
    nodes: Iterable[ShareNode],
    loads: Mapping[int, Load],
    *,
    slots: float,
    hours: int,
    c: float = CLAMP,
    half_life_h: float = HALF_LIFE_H,
) -> Table:
    """Share out `slots` cores for so many hours among the leaves that have a load, by node id.

    The nodes' own `used` counts as past use, `running` is replaced by that of the loads; a root's own
    half-life comes before `half_life_h`. A job that does not fit into the free cores waits until it does,
    and those behind it wait too. Of very many or very short jobs several are taken as one. Raises UsageError
    for what is no tree, no cores or no time.
    """
    nodes = list(nodes)
    check_tree(nodes)
    if slots <= 0 or hours <= 0:
        raise UsageError(f"{slots:g} slots for {hours} h", hint="give at least one of each")
    unknown = set(loads) - {node.id for node in nodes}
    if unknown:
        raise UsageError(f"there is no share with the key {min(unknown)}", hint="give loads to the nodes")
    busy_h = _busy(loads.values(), slots, hours)
    coarse = {key: _lengthened(load, busy_h * SHORT) for key, load in loads.items()}
    scale = _scale(coarse.values(), slots, busy_h)
    farm = _Farm(
        nodes=[replace(node, running=0.0, used=node.used / 3600) for node in nodes],
        loads={key: _thinned(load, scale) for key, load in coarse.items()},
        half_lives={node.id: _half_life(node, nodes, half_life_h) for node in nodes},
        slots=slots / scale,
        ticks=next(n for n in TICKS if n == 1 or n * busy_h <= MOMENTS),
        c=c,
    )
    farm.run(hours)
    return farm.table(loads, coarse, scale)


def returning_group(*, days: int = 10, slots: int = 1000, c: float = CLAMP) -> Table:
    """Three groups of 60, 30 and 10 with jobs of 1, 8 and 4 h; the second has no work on the first day.

    The paths are "a", "b" and "c".
    """
    cases = (("a", 60.0, 1.0), ("b", 30.0, 8.0), ("c", 10.0, 4.0))
    nodes = [
        ShareNode(id=key, parent=None, path=path, target=target)
        for key, (path, target, _) in enumerate(cases)
    ]
    loads = {key: Load(job_h=job_h) for key, (_, _, job_h) in enumerate(cases)}
    loads[1] = replace(loads[1], idle=((0, DAY_H),))
    return simulate(nodes, loads, slots=slots, hours=days * DAY_H, c=c)


# --- many jobs as one -------------------------------------------------------------------------------------


def _busy(loads: Iterable[Load], slots: float, hours: int) -> int:
    """The hours in which there may be work."""
    loads = list(loads)
    if not loads or any(one.jobs is None or one.per_h for one in loads):
        return hours
    work = fsum(((one.jobs or 0) + one.running) * one.job_h * one.cores for one in loads)
    idle = max((end for one in loads for _, end in one.idle), default=0.0)
    return min(hours, ceil(work / slots + idle + max(one.job_h for one in loads)))


def _lengthened(load: Load, least_h: float) -> Load:
    """Jobs shorter than `least_h` in rows of several."""
    in_row = ceil(least_h / load.job_h)
    if in_row <= 1:
        return load
    jobs = None if load.jobs is None else ceil(load.jobs / in_row)
    return replace(load, job_h=load.job_h * in_row, jobs=jobs, per_h=load.per_h / in_row)


def _scale(loads: Iterable[Load], slots: float, hours: int) -> int:
    """How many slots to take as one, so that no more than about STARTS jobs are started in these hours."""
    shortest = min((load.job_h * load.cores for load in loads), default=float(hours))
    return max(1, int(slots * hours / shortest / STARTS))


def _thinned(load: Load, scale: int) -> Load:
    jobs = None if load.jobs is None else ceil(load.jobs / scale)
    return replace(load, jobs=jobs, per_h=load.per_h / scale, running=round(load.running / scale))


def _half_life(node: ShareNode, nodes: Sequence[ShareNode], default_h: float) -> float:
    by_id = {one.id: one for one in nodes}
    while node.parent is not None:
        node = by_id[node.parent]
    return default_h if node.half_life_s is None else node.half_life_s / 3600


# --- the farm ---------------------------------------------------------------------------------------------


class _Farm:
    """Cores, the jobs that run on them and the work that waits, at one moment `now`.

    An hour has so many `ticks`. The nodes are the farm's own, with core-hours as use.
    """

    def __init__(
        self,
        *,
        nodes: list[ShareNode],
        loads: Mapping[int, Load],
        half_lives: Mapping[int, float],
        slots: float,
        ticks: int,
        c: float,
    ) -> None:
        self.nodes = {node.id: node for node in nodes}
        self.loads, self.half_lives, self.slots, self.ticks, self.c = loads, half_lives, slots, ticks, c
        self.now = 0
        self.waiting = {key: float(ENDLESS if one.jobs is None else one.jobs) for key, one in loads.items()}
        self.arrives = [key for key, one in loads.items() if one.per_h > 0]
        self.started: dict[int, int] = {}
        self.hourly: list[tuple[float, ...]] = []
        self._order = count()
        self._ends: list[tuple[int, int, int, int]] = []
        for key, one in loads.items():
            self.nodes[key].running = one.running * one.cores
            self._ends += self._first_ends(key, one)
        heapify(self._ends)

    def _tick(self, hours: float) -> int:
        """The nearest tick."""
        return round(hours * self.ticks)

    def _first_ends(self, key: int, load: Load) -> list[tuple[int, int, int, int]]:
        n = load.running
        return [(self._tick((at + 1) / n * load.job_h), next(self._order), key, 1) for at in range(n)]

    def run(self, hours: int) -> None:
        gaps = [gap for one in self.loads.values() for gap in one.idle]
        edges = sorted({self._tick(edge) for gap in gaps for edge in gap})
        for hour in range(hours):
            got = dict.fromkeys(self.loads, 0.0)
            end = (hour + 1) * self.ticks
            while self.now < end:
                self._end_jobs()
                self._start_jobs()
                later = [edge for edge in edges if edge > self.now][:1]
                ends = [self._ends[0][0]] if self._ends else []
                self._go_on(min([end, *later, *ends]), got)
            self.hourly.append(tuple(got.values()))

    def _end_jobs(self) -> None:
        while self._ends and self._ends[0][0] <= self.now:
            _, _, key, n = heappop(self._ends)
            self.nodes[key].running -= n * self.loads[key].cores

    def _start_jobs(self) -> None:
        free = self.slots - fsum([node.running for node in self.nodes.values()])
        waiting = {
            key: Waiting(int(self.waiting[key]), one.cores)
            for key, one in self.loads.items()
            if self.waiting[key] >= 1 and not self._is_idle(one)
        }
        if not waiting or free <= 0:
            return
        most = ceil(free / min(one.cores_per_job for one in waiting.values()))
        taken: Counter[int] = Counter()
        for key in divide(self.nodes.values(), waiting, most, self.c):
            free -= self.loads[key].cores
            if free < 0:
                break
            taken[key] += 1
        for key, n in taken.items():
            self._start(key, n)

    def _is_idle(self, load: Load) -> bool:
        return any(self._tick(start) <= self.now < self._tick(end) for start, end in load.idle)

    def _start(self, key: int, n: int) -> None:
        load = self.loads[key]
        self.waiting[key] -= n
        self.nodes[key].running += n * load.cores
        self.started[key] = self.now
        heappush(self._ends, (self.now + max(1, self._tick(load.job_h)), next(self._order), key, n))

    def _go_on(self, until: int, got: dict[int, float]) -> None:
        """Time passes: use decays and grows by what runs, work arrives."""
        hours = (until - self.now) / self.ticks
        for key, node in self.nodes.items():
            delivered = node.running * hours
            node.used = decayed(node.used, hours, self.half_lives[key]) + delivered
            if key in got:
                got[key] += delivered
        for key in self.arrives:
            self.waiting[key] += self.loads[key].per_h * hours
        self.now = until

    def table(self, asked: Mapping[int, Load], coarse: Mapping[int, Load], scale: int) -> Table:
        """The result in the jobs and cores that were asked about."""
        paths = {key: node.path for key, node in self.nodes.items()}
        left = {
            key: 0
            if self.loads[key].jobs is None
            else round(self.waiting[key] * scale * coarse[key].job_h / asked[key].job_h)
            for key in self.loads
        }
        return Table(
            paths=tuple(paths[key] for key in self.loads),
            hourly=tuple(tuple(value * scale for value in row) for row in self.hourly),
            left={paths[key]: n for key, n in left.items()},
            empty_h={
                paths[key]: None if n or one.jobs is None else self.started.get(key, 0) / self.ticks
                for (key, n), one in zip(left.items(), self.loads.values(), strict=True)
            },
        )
