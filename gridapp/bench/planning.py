"""The rules that touch no database: merging, splitting, shares. Pure, so the backend only labels them."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

from gridapp.bench.ground import Ground
from gridapp.bench.measure import Arm, Figure
from prodsys.shares import simulation
from prodsys.units import lumi_splitting, merging, splitting
from prodsys.units.lumi_splitting import LumiFile
from prodsys.units.merging import MergeInput, MergePolicy
from prodsys.units.splitting import InputFile

GB = 10**9
#: The files to be merged: uniform sizes up to 3 GB.
FILES = 2000
SIZES = (0.05 * GB, 3 * GB)
POLICY = MergePolicy(min_bytes=2 * GB, max_bytes=4 * GB, max_wait_s=0)
SEED = 20260328
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
#: Files of a block, lumis of a file.
FILES_OF_BLOCK = 1000
LUMIS_OF_FILE = 100
PER_JOB = 10
#: Most of the farm that a group may take in its first six hours back, in percent.
RETURN_MOST = 45.0


# --- merging -------------------------------------------------------------------------------------------


def _groups() -> tuple[list[MergeInput], list[merging.MergeGroup]]:
    sizes = random.Random(SEED)
    files = [
        MergeInput(id=i, size=int(sizes.uniform(*SIZES)), events=None, created_at=EPOCH, group="bench")
        for i in range(FILES)
    ]
    return files, merging.plan(files, POLICY, EPOCH, last=True)


def merges(ground: Ground) -> Figure:
    """2,000 files of 0.05 to 3 GB into files of 2 to 4 GB; the limit is what no packing can go below."""
    files, groups = _groups()
    bound = lower_bound([one.size for one in files], POLICY.max_bytes)
    return ground.figure("merge", len(groups), "merges", bound, rows=FILES, less_is_better=True)


def under_minimum(ground: Ground) -> Figure:
    """How many of these merges are smaller than they should be; none is the limit."""
    _, groups = _groups()
    short = sum(1 for group in groups if group.bytes < POLICY.min_bytes)
    return ground.figure("under_minimum", short, "merges", 0, rows=FILES)


def lower_bound(sizes: Iterable[int], most: int) -> int:
    """No packing has fewer bins: by the bytes, or by the files of which no two, or only two, go together."""
    ordered = sorted(sizes)
    by_bytes = -(-sum(ordered) // most)
    small = [0, *(size for size in ordered if 2 * size <= most)]
    return max([by_bytes, *(_bound_above(ordered, most, least) for least in small)])


def _bound_above(ordered: list[int], most: int, least: int) -> int:
    """Martello and Toth's second bound: leave out what is smaller than `least`."""
    alone = sum(1 for size in ordered if size > most - least)
    halves = [size for size in ordered if most < 2 * size <= 2 * (most - least)]
    room = len(halves) * most - sum(halves)
    rest = sum(size for size in ordered if least <= size and 2 * size <= most)
    return alone + len(halves) + max(0, -(-(rest - room) // most))


# --- splitting -----------------------------------------------------------------------------------------


def split_events(ground: Ground) -> Figure:
    """Events into jobs of ten; the limit is a loop that makes pairs of integers."""
    total = ground.rows

    def loop() -> list[Any]:
        return [(first, min(PER_JOB, total - first)) for first in range(0, total, PER_JOB)]

    return _rates(ground, "events", "events/s", lambda: splitting.event_units(total, PER_JOB), loop)


def split_files(ground: Ground) -> Figure:
    """Files of closed blocks into jobs of ten; the limit is a loop that slices the list."""
    files = [
        InputFile(id=i, lfn=f"/store/mc/f{i}", events=100, size=GB, block_id=i // FILES_OF_BLOCK)
        for i in range(ground.rows)
    ]

    def loop() -> list[Any]:
        return [tuple(files[at : at + PER_JOB]) for at in range(0, len(files), PER_JOB)]

    return _rates(ground, "files", "files/s", lambda: splitting.file_units(files, PER_JOB), loop)


def split_lumis(ground: Ground) -> Figure:
    """Lumis, in files of a hundred, into jobs of ten; the limit is a loop over the files' ranges."""
    files = [_lumi_file(i) for i in range(max(1, ground.rows // LUMIS_OF_FILE))]

    def loop() -> list[Any]:
        return [
            (run, at, min(at + PER_JOB - 1, last))
            for one in files
            for run, ranges in one.holds.items()
            for first, last in ranges
            for at in range(first, last + 1, PER_JOB)
        ]

    return _rates(ground, "lumis", "lumis/s", lambda: lumi_splitting.lumi_units(files, PER_JOB), loop)


def _lumi_file(i: int) -> LumiFile:
    first = i * LUMIS_OF_FILE + 1
    held = {1: ((first, first + LUMIS_OF_FILE - 1),)}
    return LumiFile(id=i, lfn=f"/store/mc/f{i}", events=1000, holds=held, chosen=held)


def _rates(
    ground: Ground, case: str, unit: str, units: Callable[[], Iterable[Any]], loop: Callable[[], list[Any]]
) -> Figure:
    def arm(work: Callable[[], Iterable[Any]]) -> Arm:
        def turn() -> float:
            began = time.perf_counter()
            for _ in work():
                pass
            return ground.rows / (time.perf_counter() - began)

        return turn

    return ground.compare(case, unit, {"ours": arm(units), "limit": arm(loop)})


# --- shares --------------------------------------------------------------------------------------------


def shares(ground: Ground) -> list[Figure]:
    """Targets 60/30/10, the 30 % group idle for its first day: days 2 to 10, and its first 6 h back."""
    table = simulation.returning_group()
    later = table.parts(simulation.DAY_H)
    first = table.parts(simulation.DAY_H, simulation.DAY_H + 6)
    found = [
        ground.figure(f"share_{target}", 100 * later[path], "%", target, rows=240)
        for path, target in (("a", 60), ("b", 30), ("c", 10))
    ]
    back = ground.figure("return_6h", 100 * first["b"], "%", RETURN_MOST, rows=240, less_is_better=True)
    return [*found, back]
