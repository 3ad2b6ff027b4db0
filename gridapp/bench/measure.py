"""Measuring: the arms of a comparison take turns, medians are quoted, and a slow limit is called faulty."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

#: Turns each arm of a comparison takes.
TURNS = 3
#: Part of the barest two statements below which a limit is no limit.
FAULTY_BELOW = 0.35

#: One turn of an arm: does its work and says how fast, or how long, it was.
Arm = Callable[[], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measurement. `figure` is the product's, `limit_figure` what it is held against, both in `unit`.

    `ratio` is 1 where the figure reaches the limit, and more is better, whatever the unit. `bare_figure` is
    the barest statements that could do it, for orientation; `error` says why the measurement is void.
    """

    bench: str
    case: str
    backend: str
    rows: int
    figure: float
    unit: str
    limit_figure: float | None = None
    bare_figure: float | None = None
    ratio: float | None = None
    error: str | None = None

    def record(self) -> dict[str, Any]:
        """The object to print: nine keys, and `error` where there is one."""
        found = {
            "bench": self.bench,
            "case": self.case,
            "backend": self.backend,
            "rows": self.rows,
            "figure": _rounded(self.figure),
            "unit": self.unit,
            "limit_figure": _rounded(self.limit_figure),
            "bare_figure": _rounded(self.bare_figure),
            "ratio": _rounded(self.ratio),
        }
        return {**found, "error": self.error} if self.error else found


def alternate(arms: Mapping[str, Arm], turns: int = TURNS) -> dict[str, float]:
    """The median of each arm over so many turns; they take turns, each round another one first."""
    names = list(arms)
    seen: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(turns):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            seen[name].append(arms[name]())
    return {name: median(values) for name, values in seen.items()}


def per_second(work: Callable[[], int], most: int, seconds: float) -> float:
    """How much per second `work` gets done: repeated until `most` in all, or until the time is up.

    0 where it did nothing. Nothing of a repetition is left out, so its commits count.
    """
    done, began = 0, time.perf_counter()
    while done < most:
        step = work()
        done += step
        if not step or time.perf_counter() - began > seconds:
            break
    return done / (time.perf_counter() - began)


def ratio(figure: float, limit: float | None, *, less_is_better: bool = False) -> float | None:
    """1 where the figure is the limit; above 1 it is better. None where one of them is missing or 0."""
    if not limit or not figure:
        return None
    return limit / figure if less_is_better else figure / limit


def fault_of(limit: float | None, bare: float | None) -> str | None:
    """What is wrong with a limit so far below the bare statements; None where nothing is."""
    if limit is None or not bare or limit >= FAULTY_BELOW * bare:
        return None
    return f"faulty limit: {limit:.4g} is below {FAULTY_BELOW:g} of the bare {bare:.4g}"


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")
