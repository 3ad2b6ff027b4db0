"""Metrics of this process: ONE table of names, filled by count, gauge and observe, shown by expose."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

M = TypeVar("M", "Counter", "Gauge", "Histogram")
PREFIX = "tierflow"


class Kind(StrEnum):
    """What a metric does."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """One line of the table. Labels have few values: never a job, file or user."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()

    @property
    def exposed(self) -> str:
        """The name a scrape shows."""
        return f"{PREFIX}_{self.name}" + ("_total" if self.kind is Kind.COUNTER else "")


METRICS = (
    Metric("cycles", Kind.COUNTER, "Cycles a daemon has finished", ("agent",)),
    Metric("cycle_seconds", Kind.HISTOGRAM, "Length of one cycle", ("agent",)),
    Metric("cycle_errors", Kind.COUNTER, "Cycles that ended in an error", ("agent", "error")),
    Metric("transaction_seconds", Kind.HISTOGRAM, "Length of one database transaction"),
    Metric("transaction_repeats", Kind.COUNTER, "Transactions repeated after a conflict"),
    Metric("lease_takeovers", Kind.COUNTER, "Leases taken over from another owner"),
    Metric("stale_reports", Kind.COUNTER, "Reports that came too late to count", ("agent",)),
    Metric("jobs", Kind.GAUGE, "Jobs by state", ("state",)),
    Metric("events_registered", Kind.GAUGE, "Events in the catalogue, where they are known"),
    Metric("files_registered", Kind.GAUGE, "Files in the catalogue"),
    Metric("blocks_closed", Kind.COUNTER, "Blocks closed"),
    Metric("transfers", Kind.COUNTER, "Copies by link and result", ("source", "destination", "result")),
    Metric("transfer_bytes", Kind.COUNTER, "Bytes copied and verified", ("source", "destination")),
    Metric("transfer_seconds", Kind.HISTOGRAM, "Length of one copy", ("source", "destination")),
    Metric("link_queue", Kind.GAUGE, "Copies queued or running on a link", ("source", "destination")),
    Metric("files_deleted", Kind.COUNTER, "Files removed from storage", ("se",)),
)


_SECONDS = (0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0, 300.0, 1800.0)


class _Collectors:
    """The table as prometheus-client's objects, on a registry of our own."""

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self.registry: CollectorRegistry = CollectorRegistry()
        self.counters: dict[str, Counter] = {}
        self.gauges: dict[str, Gauge] = {}
        self.histograms: dict[str, Histogram] = {}
        for one in METRICS:
            name = f"{PREFIX}_{one.name}"
            if one.kind is Kind.COUNTER:
                self.counters[one.name] = Counter(name, one.help, one.labels, registry=self.registry)
            elif one.kind is Kind.GAUGE:
                self.gauges[one.name] = Gauge(name, one.help, one.labels, registry=self.registry)
            else:
                self.histograms[one.name] = Histogram(
                    name, one.help, one.labels, buckets=_SECONDS, registry=self.registry
                )


_LOCK = threading.Lock()
_MADE: list[_Collectors] = []


def _collectors() -> _Collectors:
    """This process's collectors; prometheus-client is imported with the first use."""
    with _LOCK:
        if not _MADE:
            _MADE.append(_Collectors())
        return _MADE[0]


def count(name: str, n: float = 1, **labels: str) -> None:
    """Add n to a counter. Raises ValueError for a name or label that is not in the table."""
    _child(_collectors().counters, name, labels).inc(n)


def gauge(name: str, value: float, **labels: str) -> None:
    """Set a gauge. Raises ValueError for a name or label that is not in the table."""
    _child(_collectors().gauges, name, labels).set(value)


def observe(name: str, seconds: float, **labels: str) -> None:
    """Add one length to a histogram. Raises ValueError for a name or label that is not in the table."""
    _child(_collectors().histograms, name, labels).observe(seconds)


def observe_all(name: str, lengths: Iterable[float], **labels: str) -> None:
    """Add lengths to a histogram. Raises ValueError for a name or label that is not in the table."""
    add = _child(_collectors().histograms, name, labels).observe
    for seconds in lengths:
        add(seconds)


def expose() -> bytes:
    """All metrics in Prometheus' text format."""
    from prometheus_client import generate_latest

    return generate_latest(_collectors().registry)


def _child(table: Mapping[str, M], name: str, labels: Mapping[str, str]) -> M:
    metric = table.get(name)
    if metric is None:
        raise ValueError(f"no such metric: {name!r}; this kind has {', '.join(sorted(table))}")
    return metric.labels(**labels) if labels else metric


def document() -> str:
    """The page docs/metrics.md, from the table above."""
    lines = [
        "# Metrics",
        "",
        "Written by `gridcore.metrics.document()`; a test keeps it so. Lengths are in seconds.",
        "",
        "| Metric | Kind | Labels | Meaning |",
        "|---|---|---|---|",
    ]
    for one in METRICS:
        labels = ", ".join(f"`{label}`" for label in one.labels)
        lines.append(f"| `{one.exposed}` | {one.kind} | {labels} | {one.help} |")
    return "\n".join(lines) + "\n"
