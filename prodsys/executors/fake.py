"""Executors that fail on demand: one in memory that runs nothing, one that spoils a real one by plan."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from gridcore.clock import Clock
from gridcore.faults import FaultKind, FaultPlan, draw
from gridcore.ids import BatchKey
from prodsys.executors.base import (
    BatchState,
    Document,
    Executor,
    Key,
    Refusal,
    Status,
    Submission,
    Submitted,
)

FAULT_EXIT = 66
FAULT_TEXT = "injected fault: this attempt was told to fail"
_FAIL = f"import sys; print({FAULT_TEXT!r}, file=sys.stderr); sys.exit({FAULT_EXIT})"
# Starts the payload, then kills the wrapper and its own process group: nobody is left to report.
_VANISH = """\
import json, os, signal, subprocess, sys, time
command = [sys.executable if sys.argv[1] == "python" else sys.argv[1], *sys.argv[2:]]
subprocess.Popen(command)
time.sleep(0.1)
with open(os.path.join(os.path.dirname(os.environ["TIERFLOW_REPORT"]), "gate")) as gate:
    wrapper = json.load(gate)["pid"]
if os.getppid() == wrapper:
    os.kill(wrapper, signal.SIGKILL)
os.kill(0, signal.SIGKILL)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeFaults:
    """Shares (0 to 1) of attempts that meet each fate, drawn by (seed, fate, key)."""

    refuse: float = 0.0
    vanish: float = 0.0
    fail: float = 0.0
    slow: float = 0.0
    fail_class: str = "payload"
    slow_factor: float = 10.0


@dataclass(slots=True)
class _Job:
    batch_id: str
    document: Document
    admitted_at: datetime | None = None
    ends_at: datetime | None = None
    retired: bool = False
    cancelled: bool = False

    @property
    def nonce(self) -> str:
        return hashlib.sha256(self.document["key"].encode()).hexdigest()[:32]


class FakeExecutor:
    """A batch system in memory on a Clock: attempts wait for a slot, "run" for `run_s`, then report.

    While `silent` is set the endpoint answers nothing. Time passes in `poll` and `wanted` only.
    """

    kind = "fake"

    def __init__(
        self,
        clock: Clock,
        *,
        slots: int = 10,
        headroom: int = 0,
        run_s: float = 1.0,
        seed: int = 0,
        faults: FakeFaults | None = None,
    ) -> None:
        self.clock, self.slots, self.headroom, self.run_s = clock, slots, headroom, run_s
        self.seed, self.faults = seed, faults or FakeFaults()
        self.silent = False
        self.admissions: list[Key] = []
        self._jobs: dict[Key, _Job] = {}
        self._closed: set[Key] = set()

    def wanted(self) -> int:
        self._advance()
        live = sum(1 for key in self._jobs if self._state(key) in (BatchState.WAITING, BatchState.RUNNING))
        return 0 if self.silent else max(0, self.slots + self.headroom - live)

    def submit(self, submissions: Sequence[Submission]) -> list[Submitted | Refusal]:
        return [self._submit(submission) for submission in submissions]

    def _submit(self, submission: Submission) -> Submitted | Refusal:
        key = submission.key
        if self.silent or self._drawn("refuse", key):
            self._closed.add(key)
            return Refusal(key, "the endpoint does not take it")
        if key in self._closed:
            return Refusal(key, "its gate is closed")
        job = self._jobs.setdefault(key, _Job(f"fake-{len(self._jobs) + 1}", submission.document))
        return Submitted(key, job.batch_id)

    def find(self, keys: Sequence[Key]) -> dict[Key, str | None]:
        if self.silent:
            return {}
        live = {key: job for key, job in self._jobs.items() if not job.retired}
        return {key: live[key].batch_id if key in live else None for key in keys}

    def poll(self, keys: Sequence[Key]) -> list[Status]:
        self._advance()
        return [self._status(key) for key in keys]

    def retire(self, keys: Sequence[Key]) -> dict[Key, bool]:
        return {} if self.silent else {key: self._retire(key) for key in keys}

    def _retire(self, key: Key) -> bool:
        job = self._jobs.get(key)
        if job is not None and job.admitted_at is not None:
            return False
        self._closed.add(key)
        if job is not None:
            job.retired = True
        return True

    def cancel(self, keys: Sequence[Key]) -> None:
        for key in keys:
            job = self._jobs.get(key)
            if job is not None and not self.silent and self._state(key) is BatchState.RUNNING:
                job.cancelled, job.ends_at = True, self.clock.now()

    def forget(self, keys: Sequence[Key]) -> None:
        for key in keys:
            if key in self._jobs and self._state(key) in (BatchState.ENDED, BatchState.GONE):
                del self._jobs[key]
                self._closed.add(key)

    def known(self) -> list[Key]:
        return sorted(self._jobs)

    def _drawn(self, fate: str, key: Key) -> bool:
        return draw(self.seed, fate, key) < float(getattr(self.faults, fate))

    def _advance(self) -> None:
        """Admit waiting attempts, in the order of submission, into free slots."""
        now = self.clock.now()
        free = self.slots - sum(self._state(key) is BatchState.RUNNING for key in self._jobs)
        for key, job in self._jobs.items():
            if free > 0 and job.admitted_at is None and not job.retired:
                factor = self.faults.slow_factor if self._drawn("slow", key) else 1.0
                job.admitted_at = now
                job.ends_at = now + timedelta(seconds=self.run_s * factor)
                self.admissions.append(key)
                free -= 1

    def _state(self, key: Key) -> BatchState:
        job = self._jobs[key]
        if job.retired:
            return BatchState.GONE
        if job.ends_at is None:
            return BatchState.WAITING
        if self.clock.now() < job.ends_at:
            return BatchState.RUNNING
        return BatchState.GONE if self._drawn("vanish", key) else BatchState.ENDED

    def _status(self, key: Key) -> Status:
        if self.silent:
            return Status(key=key, state=BatchState.UNKNOWN, note="the endpoint is silent")
        if key not in self._jobs:
            return Status(key=key, state=BatchState.GONE, note="no such attempt")
        job, state = self._jobs[key], self._state(key)
        return Status(
            key=key,
            state=state,
            batch_id=job.batch_id,
            nonce=job.nonce if job.admitted_at else None,
            admitted_at=job.admitted_at,
            heartbeat_at=min(self.clock.now(), job.ends_at) if job.ends_at else None,
            report=self._report(key, job) if state is BatchState.ENDED else None,
        )

    def _report(self, key: Key, job: _Job) -> Document:
        assert job.admitted_at is not None
        assert job.ends_at is not None
        error_class = "preempted" if job.cancelled else self.faults.fail_class
        failed = job.cancelled or self._drawn("fail", key)
        wall_s = (job.ends_at - job.admitted_at).total_seconds()
        return {
            "version": 1,
            **{name: job.document[name] for name in ("key", "job", "attempt")},
            "nonce": job.nonce,
            "outcome": "failed" if failed else "done",
            "exit_code": 1 if failed else 0,
            "signal": None,
            "error_class": error_class if failed else None,
            "error": "failed on demand" if failed else None,
            "outputs": [] if failed else _fake_outputs(job.document),
            "inputs_read": len(job.document["inputs"]),
            "events_read": None,
            "usage": {"wall_s": wall_s, "cpu_s": wall_s, "max_rss_kb": 1000},
            "host": "fake",
            "started_at": job.admitted_at.isoformat(),
            "ended_at": job.ends_at.isoformat(),
        }


def _fake_outputs(document: Document) -> list[Document]:
    """Outputs that share the expected events; sizes and checksums depend on the LFN alone."""
    names, events = document["outputs"], document.get("events")
    share, rest = divmod(events or 0, max(1, len(names)))
    result = []
    for index, output in enumerate(names):
        digest = hashlib.sha256(output["lfn"].encode()).digest()
        facts: Document = {
            "name": output["name"],
            "lfn": output["lfn"],
            "se": output["destinations"][0]["se"],
        }
        facts |= {"size": 1000 + digest[0], "adler32": int.from_bytes(digest[:4], "big")}
        facts |= {"events": None if events is None else share + (index < rest), "runs": {}}
        result.append(facts)
    return result


class FaultyExecutor:
    """Passes everything to `inner`; by plan some attempts fail and some workers vanish, at least one of each.

    The faults travel in the command, so that they strike whoever polls. A job's third and later attempts are
    spared and vanishing hits first attempts only, so that every job ends.
    """

    def __init__(self, inner: Executor, plan: FaultPlan, *, share: float = 0.1) -> None:
        self.inner, self.plan, self.share = inner, plan, share

    @property
    def kind(self) -> str:
        return self.inner.kind

    def wanted(self) -> int:
        return self.inner.wanted()

    def submit(self, submissions: Sequence[Submission]) -> list[Submitted | Refusal]:
        keys = [item.key for item in submissions]
        fates = dict.fromkeys(self._chosen(FaultKind.WORKER_VANISHED, keys, 1), FaultKind.WORKER_VANISHED)
        rest = [key for key in keys if key not in fates]
        fates |= dict.fromkeys(self._chosen(FaultKind.ATTEMPT_FAILED, rest, 2), FaultKind.ATTEMPT_FAILED)
        answers = self.inner.submit([_spoil(item, fates.get(item.key)) for item in submissions])
        for answer in answers:
            if isinstance(answer, Submitted) and answer.key in fates:
                self.plan.record(fates[answer.key], answer.key)
        return answers

    def poll(self, keys: Sequence[Key]) -> list[Status]:
        return self.inner.poll(keys)

    def _chosen(self, kind: FaultKind, keys: Sequence[Key], last_attempt: int) -> set[Key]:
        eligible = [key for key in keys if _attempt(key) <= last_attempt]
        hit = {key for key in eligible if self.plan.hits(kind, key, self.share)}
        if eligible and not hit and self.plan.first(kind):
            return {eligible[0]}
        return hit

    def find(self, keys: Sequence[Key]) -> dict[Key, str | None]:
        return self.inner.find(keys)

    def retire(self, keys: Sequence[Key]) -> dict[Key, bool]:
        return self.inner.retire(keys)

    def cancel(self, keys: Sequence[Key]) -> None:
        self.inner.cancel(keys)

    def forget(self, keys: Sequence[Key]) -> None:
        self.inner.forget(keys)

    def known(self) -> list[Key]:
        return self.inner.known()


def _attempt(key: Key) -> int:
    parsed = BatchKey.parse(key)
    return parsed.attempt if parsed else 0


def _spoil(submission: Submission, fate: FaultKind | None) -> Submission:
    command = submission.document["command"]
    if fate is FaultKind.ATTEMPT_FAILED:
        command = ["python", "-c", _FAIL]
    elif fate is FaultKind.WORKER_VANISHED:
        command = ["python", "-c", _VANISH, *command]
    return replace(submission, document={**submission.document, "command": command})
