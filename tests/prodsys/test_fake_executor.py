"""The executors that fail on demand do so by seed, and only as told."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridcore.clock import FakeClock
from gridcore.faults import FaultJournal, FaultKind, FaultPlan
from prodsys.executors.base import BatchState, Executor, Refusal, Submission, Submitted, report_fault
from prodsys.executors.fake import FAULT_EXIT, FAULT_TEXT, FakeExecutor, FakeFaults, FaultyExecutor
from prodsys.executors.local import LocalExecutor


def submission(key: str) -> Submission:
    _, _, job, attempt = key.split(".")
    outputs = [
        {
            "name": name,
            "lfn": f"/store/{job}/{name}",
            "destinations": [{"se": "SE", "pfn": "/x", "method": "local"}],
        }
        for name in ("a.root", "b.root")
    ]
    document: dict[str, Any] = {
        "version": 1,
        "key": key,
        "job": int(job),
        "attempt": int(attempt),
        "inputs": [],
        "outputs": outputs,
        "events": 7,
        "command": ["python", "-c", "import time; time.sleep(60)"],
    }
    return Submission(key, document)


def keys(count: int, attempt: int = 1) -> list[str]:
    return [f"tf.1234abcd.{job}.{attempt}" for job in range(1, count + 1)]


def test_a_fake_attempt_waits_runs_and_reports() -> None:
    clock = FakeClock()
    executor = FakeExecutor(clock, slots=1, headroom=1, run_s=5)
    protocol: Executor = executor
    first, second = keys(2)
    protocol.submit([submission(first), submission(second)])
    assert [status.state for status in executor.poll([first, second])] == [
        BatchState.RUNNING,
        BatchState.WAITING,
    ]
    assert executor.wanted() == 0
    assert executor.retire([first, second]) == {first: False, second: True}
    assert isinstance(executor.submit([submission(second)])[0], Refusal)
    clock.advance(5)
    (ended,) = executor.poll([first])
    assert ended.report is not None
    assert ended.nonce is not None
    assert report_fault(ended.report, first, ended.nonce) is None
    assert [output["events"] for output in ended.report["outputs"]] == [4, 3]
    executor.forget([first, second])
    assert executor.known() == []
    assert executor.admissions == [first]


SPOILT: list[dict[str, Any]] = [
    {"exit_code": 2**31},
    {"host": {}},
    {"error": 1},
    {"usage": {"wall_s": float("nan")}},
    {"usage": {"wall_s": -1.0}},
    {"size": 2**63},
    {"size": -1},
    {"adler32": 2**32},
    {"events": 2**63 - 1},
    {"runs": {"x": 5}},
]


@pytest.mark.parametrize("spoilt", SPOILT, ids=str)
def test_a_report_no_column_could_hold_is_faulty(spoilt: dict[str, Any]) -> None:
    clock = FakeClock()
    executor = FakeExecutor(clock)
    key = keys(1)[0]
    executor.submit([submission(key)])
    executor.poll([key])
    clock.advance(60)
    (status,) = executor.poll([key])
    assert status.report is not None
    assert status.nonce is not None
    assert report_fault(status.report, key, status.nonce) is None
    if spoilt.keys() <= set(status.report["outputs"][0]):
        spoilt = {"outputs": [{**status.report["outputs"][0], **spoilt}]}
    assert report_fault({**status.report, **spoilt}, key, status.nonce) is not None


def test_each_fate_can_be_told() -> None:
    clock = FakeClock()
    key = keys(1)[0]
    assert isinstance(FakeExecutor(clock, faults=FakeFaults(refuse=1)).submit([submission(key)])[0], Refusal)
    endings = {}
    for fate in ("vanish", "fail", "slow"):
        executor = FakeExecutor(clock, faults=FakeFaults(**{fate: 1.0}, fail_class="timeout"))
        executor.submit([submission(key)])
        executor.poll([key])
        clock.advance(1)
        endings[fate] = executor.poll([key])[0]
    assert [ending.state for ending in endings.values()] == [
        BatchState.GONE,
        BatchState.ENDED,
        BatchState.RUNNING,
    ]
    assert endings["fail"].report is not None
    assert endings["fail"].report["error_class"] == "timeout"


def test_a_silent_endpoint_says_nothing() -> None:
    executor = FakeExecutor(FakeClock())
    key = keys(1)[0]
    executor.submit([submission(key)])
    executor.silent = True
    assert executor.poll([key])[0].state is BatchState.UNKNOWN
    assert (executor.find([key]), executor.retire([key]), executor.wanted()) == ({}, {}, 0)
    executor.silent = False
    assert executor.find([key])[key] is not None


def test_a_cancelled_fake_is_preempted() -> None:
    executor = FakeExecutor(FakeClock(), run_s=100)
    key = keys(1)[0]
    executor.submit([submission(key)])
    executor.poll([key])
    executor.cancel([key])
    report = executor.poll([key])[0].report
    assert report is not None
    assert report["error_class"] == "preempted"


@given(st.integers(0, 2**32))
def test_a_plan_is_the_same_everywhere_and_hits_its_share(seed: int) -> None:
    plan, again = (FaultPlan(seed, FaultJournal(Path("/nowhere/journal"))) for _ in range(2))
    hits = [plan.hits(FaultKind.LINK_DROPPED, str(key), 0.1) for key in range(400)]
    assert hits == [again.hits(FaultKind.LINK_DROPPED, str(key), 0.1) for key in range(400)]
    assert 5 <= sum(hits) <= 90


def test_the_journal_counts_each_fault_once_and_survives(tmp_path: Path) -> None:
    journal = FaultJournal(tmp_path / "faults.jsonl")
    plan = FaultPlan(1, journal)
    assert plan.first(FaultKind.FILE_CORRUPTED)
    assert journal.counts() == dict.fromkeys(FaultKind, 0)
    for key in ("/store/a", "/store/b", "/store/a"):
        plan.record(FaultKind.FILE_CORRUPTED, key)
    again = FaultJournal(journal.path)
    assert again.counts()[FaultKind.FILE_CORRUPTED] == 2
    assert not plan.first(FaultKind.FILE_CORRUPTED)
    assert plan.first(FaultKind.LINK_DROPPED)


def faulty(
    tmp_path: Path, seed: int, share: float = 0.1
) -> tuple[FakeExecutor, FaultyExecutor, FaultJournal]:
    inner = FakeExecutor(FakeClock(), slots=1000)
    journal = FaultJournal(tmp_path / f"faults-{seed}.jsonl")
    return inner, FaultyExecutor(inner, FaultPlan(seed, journal), share=share), journal


@pytest.mark.parametrize("seed", range(5))
def test_both_faults_strike_at_least_once(tmp_path: Path, seed: int) -> None:
    _, executor, journal = faulty(tmp_path, seed, share=0.0)
    for key in keys(3):
        assert isinstance(executor.submit([submission(key)])[0], Submitted)
    assert journal.counts()[FaultKind.ATTEMPT_FAILED] == 1
    assert journal.counts()[FaultKind.WORKER_VANISHED] == 1


def test_third_attempts_are_spared(tmp_path: Path) -> None:
    _, executor, journal = faulty(tmp_path, 1, share=1.0)
    executor.submit([submission(key) for key in keys(5, attempt=3)])
    assert sum(journal.counts().values()) == 0
    executor.submit([submission(key) for key in keys(5, attempt=2)])
    assert journal.counts()[FaultKind.WORKER_VANISHED] == 0
    assert journal.counts()[FaultKind.ATTEMPT_FAILED] == 5
    executor.submit([submission(key) for key in keys(5)])
    assert journal.counts()[FaultKind.WORKER_VANISHED] == 5


def test_the_faults_are_real_under_the_local_executor(tmp_path: Path) -> None:
    inner = LocalExecutor(tmp_path / "spool", slots=3, python=sys.executable)
    journal = FaultJournal(tmp_path / "faults.jsonl")
    executor = FaultyExecutor(inner, FaultPlan(3, journal), share=0.0)
    chosen = keys(2)
    for item in map(submission, chosen):
        limits = {"wall_s": 60, "memory_mb": None, "log_bytes": 1000}
        extra = {
            "python": sys.executable,
            "env": {},
            "payload": {},
            "sandbox": None,
            "limits": limits,
            "outputs": [],
        }
        extra |= {"events_required": False, "heartbeat_s": 0.1, "stop_grace_s": 0.1}
        executor.submit([Submission(item.key, {**item.document, **extra})])
    end = time.monotonic() + 60
    states = {BatchState.WAITING}
    while states & {BatchState.WAITING, BatchState.RUNNING} and time.monotonic() < end:
        time.sleep(0.01)
        statuses = executor.poll(chosen)
        states = {status.state for status in statuses}
    vanished, failed = statuses
    assert (vanished.state, failed.state) == (BatchState.GONE, BatchState.ENDED)
    assert vanished.nonce
    assert journal.keys(FaultKind.WORKER_VANISHED) == {vanished.key}
    assert journal.keys(FaultKind.ATTEMPT_FAILED) == {failed.key}
    assert failed.report is not None
    assert (failed.report["exit_code"], failed.report["error_class"]) == (FAULT_EXIT, "payload")
    assert FAULT_TEXT in failed.report["error"]
    leftovers = b"TIERFLOW_REPORT=" + str(tmp_path).encode()
    # The payload dies a moment after its wrapper, whose death is what the poll saw.
    while any(_contains(path, leftovers) for path in Path("/proc").glob("[0-9]*/environ")):
        assert time.monotonic() < end, "a process of the vanished worker lives on"
        time.sleep(0.01)


def _contains(path: Path, text: bytes) -> bool:
    try:
        return text in path.read_bytes()
    except OSError:
        return False
