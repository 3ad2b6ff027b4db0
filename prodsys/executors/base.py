"""What a ProdAgent asks of a batch system: the Executor protocol, all calls in bulk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Protocol

from prodsys import wrapper

Document = dict[str, Any]
Key = str
"""A batch key, `str(gridcore.ids.BatchKey)`."""

_OUTPUT_FIELDS: dict[str, type | tuple[type, ...]] = {
    "name": str,
    "lfn": str,
    "se": str,
    "size": int,
    "adler32": int,
    "events": (int, type(None)),
    "runs": dict,
}
_USAGE_MAX, _SIZE_MAX = 10**12, 1 << 50
_INT4_MAX = 2**31


class BatchState(StrEnum):
    """Where a batch job is, as far as its endpoint can tell."""

    WAITING = "WAITING"
    """Known to the batch system, not admitted by the gate."""
    RUNNING = "RUNNING"
    """Admitted by the gate and alive."""
    ENDED = "ENDED"
    """Its report is here."""
    GONE = "GONE"
    """Provably not there and without a report; when not admitted, retire it before a retry."""
    UNKNOWN = "UNKNOWN"
    """The endpoint does not answer; nothing may be concluded."""


@dataclass(frozen=True, slots=True)
class Submission:
    """One attempt to run: its job.json and its sandbox, a tar.gz."""

    key: Key
    document: Document
    sandbox: bytes | None = None


@dataclass(frozen=True, slots=True)
class Submitted:
    """The endpoint has it, or had it already."""

    key: Key
    batch_id: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """The endpoint does not take it; this attempt can no longer start there."""

    key: Key
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What is known of one attempt. `nonce` is set once the gate admitted it; times are the worker's."""

    key: Key
    state: BatchState
    batch_id: str | None = None
    nonce: str | None = None
    admitted_at: datetime | None = None
    heartbeat_at: datetime | None = None
    report: Document | None = None
    note: str = ""


class Executor(Protocol):
    """One endpoint of a batch system. Calls may be repeated; none raises for a single key's trouble."""

    @property
    def kind(self) -> str:
        """The name of the batch system: local, fake, ..."""

    def wanted(self) -> int:
        """How many more attempts it would take now: free slots, a little more, minus the unstarted."""

    def submit(self, submissions: Sequence[Submission]) -> list[Submitted | Refusal]:
        """Start each attempt at most once; a key already there is answered, not started again."""

    def find(self, keys: Sequence[Key]) -> dict[Key, str | None]:
        """The batch id by key, None where there is none; a key is left out when the endpoint is silent."""

    def poll(self, keys: Sequence[Key]) -> list[Status]:
        """The status of each key, in order."""

    def retire(self, keys: Sequence[Key]) -> dict[Key, bool]:
        """Close the start gate: True when the attempt can never start, False when it was admitted.

        A key is left out when the endpoint is silent. Also for keys that were never submitted.
        """

    def cancel(self, keys: Sequence[Key]) -> None:
        """Stop the payloads, as far as they can be reached."""

    def forget(self, keys: Sequence[Key]) -> None:
        """Remove all traces, once the report is committed or the attempt retired; live ones are kept."""

    def known(self) -> list[Key]:
        """All keys that still have traces here."""


def parse_time(text: object) -> datetime | None:
    """A worker's ISO time, None where it is none."""
    try:
        moment = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return moment.astimezone(UTC) if moment is not None and moment.tzinfo is not None else None


def report_fault(report: Document, key: Key, nonce: str) -> str | None:
    """What is wrong with a wrapper's report on the attempt admitted with `nonce`; None when it is sound."""
    if (report.get("version"), report.get("key"), report.get("nonce")) != (1, key, nonce):
        return "the report is of another attempt"
    code = report.get("exit_code")
    if report.get("outcome") not in ("done", "failed") or type(code) is not int or abs(code) >= _INT4_MAX:
        return "the report has no outcome"
    if not all(isinstance(report.get(name), str | None) for name in ("host", "error")):
        return "the report's host or error is no text"
    if report["outcome"] == "failed" and not isinstance(report.get("error_class"), str):
        return "the report of a failure has no error class"
    outputs, usage = report.get("outputs"), report.get("usage")
    if not isinstance(outputs, list) or not all(map(_is_output, outputs)):
        return "the report's outputs are malformed"
    if not isinstance(usage, dict) or not all(map(_is_usage, usage.values())):
        return "the report's usage is malformed"
    return None


def _is_usage(value: object) -> bool:
    """Whether it is a number that a column takes: no bool, and no NaN, which is not within any bounds."""
    return type(value) in (int, float) and 0 <= value <= _USAGE_MAX  # type: ignore[operator]


def _is_output(entry: object) -> bool:
    """Whether counters and columns can take it: a payload could have written the report itself."""
    return (
        isinstance(entry, dict)
        and all(
            isinstance(entry.get(name), kind) and not isinstance(entry.get(name), bool)
            for name, kind in _OUTPUT_FIELDS.items()
        )
        and 0 <= entry["size"] <= _SIZE_MAX
        and 0 <= entry["adler32"] < 1 << 32
        and wrapper.is_count(entry["events"])
        and wrapper.is_runs(entry["runs"])
    )
