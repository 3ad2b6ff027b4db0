"""The job document: everything a worker needs for one attempt, as plain JSON. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gridcore.ids import job_name, output_lfn
from prodsys.job_states import JobKind
from prodsys.tasks.tasks import Task

UNMERGED = "/store/unmerged"


@dataclass(frozen=True, slots=True)
class Place:
    """A copy of a file: at which SE, under which PFN, reached how."""

    se: str
    pfn: str
    method: str

    def to_json(self) -> dict[str, str]:
        """As the worker reads it."""
        return {"se": self.se, "pfn": self.pfn, "method": self.method}


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedOutput:
    """An output's name for the payload, its LFN, and where to put it, best first."""

    name: str
    lfn: str
    places: Sequence[Place]


def output_area(task: Task, kind: JobKind) -> str:
    """The directory of a task's outputs; unmerged ones lie apart until they are merged."""
    primary, processed, tier = task.step.output.dataset.strip("/").split("/")
    area = f"{task.lfn_area}/{primary}/{tier}/{processed}"
    merges = task.step.merge is not None and kind == JobKind.PROCESS
    return UNMERGED + area.removeprefix("/store") if merges else area


def planned_lfn(task: Task, kind: JobKind, index: int, attempt: int) -> str:
    """The LFN of an attempt's output, its own for ever."""
    stem, _, extension = task.step.output.name.rpartition(".")
    return output_lfn(output_area(task, kind), task.name, index, attempt, stem, extension)


def command(task: Task, kind: JobKind) -> list[str]:
    """What runs: the step's executable or its merge's."""
    if kind == JobKind.MERGE and task.step.merge is not None:
        return list(task.step.merge.command)
    return list(task.step.command)


def document(
    *,
    key: str,
    task: Task,
    job_id: int,
    index: int,
    kind: JobKind,
    attempt: int,
    spec: Mapping[str, Any],
    sources: Mapping[str, Sequence[Place]],
    outputs: Sequence[PlannedOutput],
    needs: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The document of one attempt, without what only the endpoint's host knows (`for_host`).

    `spec` is the job's own: seed, run, lumi, range, inputs; `sources` the places of each input LFN. Of its
    inputs the payload takes the `lumis`, {run: [[first, last]]}, all where these are null; `parameters` are
    its point of the task's matrix.
    """
    inputs = [_input(number, one, sources) for number, one in enumerate(spec.get("inputs", []))]
    counted = task.unit_kind == "events" or kind == JobKind.MERGE
    own = {
        "task": task.name,
        "index": index,
        "attempt": attempt,
        "kind": str(kind),
        "salt": f"{job_id:x}-{attempt}",
        "outputs": [{"name": one.name} for one in outputs],
    }
    return {
        "version": 1,
        "key": key,
        "job": job_id,
        "attempt": attempt,
        "name": job_name(task.name, index, attempt),
        "command": command(task, kind),
        "env": dict(task.step.env),
        "inputs": [
            {name: one[name] for name in ("lfn", "name", "size", "adler32", "sources")} for one in inputs
        ],
        "outputs": [
            {"name": one.name, "lfn": one.lfn, "destinations": [place.to_json() for place in one.places]}
            for one in outputs
        ],
        "limits": _limits(task, needs or {}),
        "events_required": counted,
        "events": spec.get("events"),
        "payload": {**_payload(spec, inputs), **own},
    }


def _limits(task: Task, needs: Mapping[str, Any]) -> dict[str, Any]:
    """What the worker enforces: the step's limits, or the class's where a retry was given more."""
    limits = task.step.limits
    return {
        "wall_s": max(limits.wall_s, needs.get("wall_s", 0)),
        "memory_mb": max(limits.memory_mb or 0, needs.get("memory_mb", 0)) or None,
        "log_bytes": 1_000_000,
    }


def _payload(spec: Mapping[str, Any], inputs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the payload is told of its range and inputs."""
    names = ("seed", "first_event", "events", "run", "lumi", "lumis", "parameters")
    return {
        "version": 1,
        **{name: spec.get(name) for name in names},
        "inputs": [{name: one[name] for name in ("name", "lfn", "events", "runs")} for one in inputs],
    }


def _input(number: int, one: Mapping[str, Any], sources: Mapping[str, Sequence[Place]]) -> dict[str, Any]:
    """An input under a name of its own in the work directory: LFNs of two directories may end alike."""
    extension = one["lfn"].rpartition(".")[2]
    places = [place.to_json() for place in sources.get(one["lfn"], ())]
    return {
        "lfn": one["lfn"],
        "name": f"in_{number}.{extension}",
        "size": one["bytes"],
        "adler32": one["adler32"],
        "events": one.get("events"),
        "runs": one.get("runs") or {},
        "sources": places,
    }


def for_host(
    work: Mapping[str, Any], *, python: str, heartbeat_s: float, stop_grace_s: float, cache: str | None
) -> dict[str, Any]:
    """The document completed with what the endpoint's host decides."""
    return {
        **work,
        "sandbox": "sandbox.tar.gz",
        "python": python,
        "heartbeat_s": heartbeat_s,
        "stop_grace_s": stop_grace_s,
        "cache": cache,
    }
