"""The local executor: what one process submits, another finds, polls, adopts, retires and stops."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gridcore.errors import UsageError
from prodsys import wrapper
from prodsys.executors.base import BatchState, Executor, Refusal, Status, Submission, Submitted
from prodsys.executors.local import LocalExecutor

KEY = "tf.1234abcd.17.1"
SLEEP = "import time; print('up', flush=True); time.sleep(60)"
WRITE = "open('out.dat','w').write('physics')"


def submission(key: str = KEY, code: str = SLEEP, pfn: Path | None = None) -> Submission:
    job, attempt = (int(part) for part in key.split(".")[2:])
    destination = {"se": "SE", "pfn": str(pfn), "method": "local"}
    document: dict[str, Any] = {
        "version": 1,
        "key": key,
        "job": job,
        "attempt": attempt,
        "name": f"task/{job}.{attempt}",
        "sandbox": None,
        "command": ["python", "-c", code],
        "python": sys.executable,
        "env": {},
        "payload": {},
        "inputs": [],
        "outputs": [{"name": "out.dat", "lfn": "/store/out.dat", "destinations": [destination]}]
        if pfn
        else [],
        "limits": {"wall_s": 60, "memory_mb": None, "log_bytes": 1000},
        "events_required": False,
        "events": None,
        "heartbeat_s": 0.1,
        "stop_grace_s": 0.3,
        "cache": None,
    }
    return Submission(key, document)


def wait_for(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


def status(executor: Executor, key: str = KEY) -> Status:
    return executor.poll([key])[0]


def wait_state(executor: Executor, state: BatchState, key: str = KEY) -> Status:
    wait_for(lambda: status(executor, key).state is state)
    return status(executor, key)


def over(executor: Executor, key: str) -> bool:
    return status(executor, key).state in (BatchState.ENDED, BatchState.GONE)


def running(executor: LocalExecutor, key: str = KEY) -> Status:
    """Wait until the payload itself speaks."""
    log = executor.spool / key / "stdout.log"
    wait_for(lambda: log.exists() and log.stat().st_size > 0)
    return wait_state(executor, BatchState.RUNNING, key)


def pid_in(path: Path) -> int:
    return int(json.loads(path.read_text())["pid"])


def wrappers_of(executor: LocalExecutor) -> list[Path]:
    """The processes whose command line ends in the attempt's directory."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if path.read_bytes().rstrip(b"\0").endswith(bytes(executor.spool / KEY)):
                found.append(path)
    return found


def dead(pid: int) -> bool:
    process = wrapper.find_process(pid)
    return process is None or process.dead


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., LocalExecutor]]:
    made: list[LocalExecutor] = []

    def build(**options: Any) -> LocalExecutor:
        options = {"slots": 2, "python": sys.executable, **options}
        made.append(LocalExecutor(tmp_path / "spool", **options))
        return made[-1]

    yield build
    for executor in made:
        executor.stop(3)
        executor.cancel(executor.known())


@pytest.fixture
def executor(make: Callable[..., LocalExecutor]) -> LocalExecutor:
    return make()


def test_an_attempt_from_submission_to_oblivion(executor: LocalExecutor, tmp_path: Path) -> None:
    protocol: Executor = executor
    (answer,) = protocol.submit([submission(code=WRITE, pfn=tmp_path / "se" / "out.dat")])
    assert isinstance(answer, Submitted)
    found = wait_state(executor, BatchState.ENDED)
    assert found.report is not None
    assert found.report["outputs"][0]["size"] == 7
    assert found.nonce == found.report["nonce"]
    assert found.batch_id == answer.batch_id
    assert found.admitted_at is not None
    assert executor.find([KEY]) == {KEY: answer.batch_id}
    assert (executor.spool / KEY).stat().st_mode & 0o777 == 0o700
    assert (executor.spool / KEY / "job.json").stat().st_mode & 0o777 == 0o600
    executor.forget([KEY])
    assert executor.known() == []
    assert executor.find([KEY]) == {KEY: None}
    assert isinstance(executor.submit([submission()])[0], Refusal)
    assert executor.known() == []


def test_wanted_counts_what_lives_here(make: Callable[..., LocalExecutor]) -> None:
    executor = make(slots=1, headroom=1)
    assert executor.wanted() == 2
    executor.submit([submission()])
    running(executor)
    executor.submit([submission("tf.1234abcd.18.1")])
    assert make(slots=1, headroom=1).wanted() == 0
    assert wait_state(executor, BatchState.WAITING, "tf.1234abcd.18.1").nonce is None
    executor.cancel([KEY])
    running(executor, "tf.1234abcd.18.1")
    assert executor.wanted() == 1


def test_the_same_key_is_answered_and_not_started_twice(make: Callable[..., LocalExecutor]) -> None:
    executor = make()
    first = executor.submit([submission()])
    assert make().submit([submission()]) == first
    running(executor)
    assert len(wrappers_of(executor)) == 1


def test_racing_submitters_start_one_wrapper(make: Callable[..., LocalExecutor]) -> None:
    """Both may be told the same id; where one is refused, the attempt is closed and runs nowhere."""
    executors = [make(), make()]
    barrier = threading.Barrier(2)
    answers: list[Submitted | Refusal] = []

    def submit(executor: LocalExecutor) -> None:
        barrier.wait()
        answers.extend(executor.submit([submission()]))

    threads = [threading.Thread(target=submit, args=(executor,)) for executor in executors]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({answer.batch_id for answer in answers if isinstance(answer, Submitted)}) == 1
    assert len(wrappers_of(executors[0])) <= 1
    refused = any(isinstance(answer, Refusal) for answer in answers)
    assert executors[0].retire([KEY])[KEY] or not refused


def test_a_new_executor_adopts_what_runs(make: Callable[..., LocalExecutor], tmp_path: Path) -> None:
    """The submitter is another process, which dies as kill -9 kills an agent."""
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\n"
        "from test_local_executor import LocalExecutor, submission\n"
        "executor = LocalExecutor(Path(sys.argv[2]), slots=2, python=sys.executable)\n"
        "print(executor.submit([submission()])[0].batch_id, flush=True); os.kill(os.getpid(), 9)\n"
    )
    here = str(Path(__file__).parent)
    command = [sys.executable, "-c", code, here, str(tmp_path / "spool")]
    agent = subprocess.run(command, capture_output=True, text=True, check=False)
    assert agent.returncode == -signal.SIGKILL
    executor = make()
    assert executor.known() == [KEY]
    assert executor.find([KEY]) == {KEY: agent.stdout.strip()}
    found = running(executor)
    assert found.nonce
    assert executor.retire([KEY]) == {KEY: False}
    executor.cancel([KEY])
    report = wait_state(executor, BatchState.ENDED).report
    assert report is not None
    assert report["error_class"] == "preempted"


def test_kill_9_of_the_wrapper_is_noticed_and_the_payload_found(executor: LocalExecutor) -> None:
    executor.submit([submission()])
    running(executor)
    payload = pid_in(executor.spool / KEY / "payload.json")
    os.kill(pid_in(executor.spool / KEY / "gate"), signal.SIGKILL)
    gone = wait_state(executor, BatchState.GONE)
    assert gone.nonce
    assert "no report" in gone.note
    assert not dead(payload)
    executor.cancel([KEY])
    wait_for(lambda: dead(payload))
    executor.cancel([KEY])


def test_a_payload_is_found_without_its_record_too(executor: LocalExecutor) -> None:
    executor.submit([submission()])
    running(executor)
    record = executor.spool / KEY / "payload.json"
    payload = pid_in(record)
    record.unlink()
    os.kill(pid_in(executor.spool / KEY / "gate"), signal.SIGKILL)
    wait_state(executor, BatchState.GONE)
    executor.cancel([KEY])
    wait_for(lambda: dead(payload))


def test_a_payload_that_cleared_its_environment_is_found_by_its_session(executor: LocalExecutor) -> None:
    code = "import os; print('up', flush=True); os.execve('/bin/sleep', ['sleep', '60'], {})"
    executor.submit([submission(code=code)])
    running(executor)
    payload = pid_in(executor.spool / KEY / "payload.json")
    wait_for(lambda: not Path(f"/proc/{payload}/environ").read_bytes())
    os.kill(pid_in(executor.spool / KEY / "gate"), signal.SIGKILL)
    wait_state(executor, BatchState.GONE)
    executor.cancel([KEY])
    wait_for(lambda: dead(payload))


def test_a_stranger_with_the_same_pid_is_neither_alive_nor_killed(executor: LocalExecutor) -> None:
    executor.submit([submission(code="pass")])
    wait_state(executor, BatchState.ENDED)
    jobdir = executor.spool / KEY
    (jobdir / "report.json").unlink()
    gate = json.loads((jobdir / "gate").read_text())
    with subprocess.Popen(["sleep", "60"]) as stranger:
        for name in ("gate", "payload.json"):
            (jobdir / name).write_text(json.dumps({**gate, "pid": stranger.pid}))
        assert status(executor).state is BatchState.GONE
        executor.cancel([KEY])
        assert stranger.poll() is None
        stranger.kill()


def test_another_boot_means_dead(executor: LocalExecutor) -> None:
    executor.submit([submission()])
    running(executor)
    path = executor.spool / KEY / "gate"
    gate = path.read_text()
    path.write_text(json.dumps({**json.loads(gate), "boot_id": "earlier"}))
    assert status(executor).state is BatchState.GONE
    path.write_text(gate)
    assert status(executor).state is BatchState.RUNNING


@pytest.mark.parametrize(
    "raw", ["", "{", "[]", '{"version": 1}', '{"version": 1, "key": "tf.1.1.1"}', "[" * 99999]
)
def test_garbage_for_a_report_is_no_report(executor: LocalExecutor, raw: str) -> None:
    executor.submit([submission(code="pass")])
    wait_state(executor, BatchState.ENDED)
    wait_for(lambda: executor.wanted() == 2)
    (executor.spool / KEY / "report.json").write_text(raw)
    wait_for(lambda: status(executor).state is BatchState.GONE)
    assert "report" in status(executor).note


def test_retire_comes_before_a_submission_that_is_late(make: Callable[..., LocalExecutor]) -> None:
    agent, late = make(), make()
    assert agent.find([KEY]) == {KEY: None}
    assert agent.retire([KEY]) == {KEY: True}
    assert isinstance(late.submit([submission()])[0], Refusal)
    assert agent.retire([KEY]) == {KEY: True}
    assert status(agent).state is BatchState.GONE
    agent.forget([KEY])
    assert agent.retire([KEY]) == {KEY: True}
    assert agent.known() == []


def test_an_interrupted_submission_is_closed(executor: LocalExecutor) -> None:
    """Killed between writing the directory and starting the wrapper."""
    (executor.spool / KEY).mkdir(mode=0o700)
    wrapper.write_json(str(executor.spool / KEY / "job.json"), submission().document)
    assert executor.find([KEY]) == {KEY: None}
    assert status(executor).state is BatchState.GONE
    assert executor.retire([KEY]) == {KEY: True}
    late = subprocess.run([sys.executable, "-I", wrapper.__file__, str(executor.spool / KEY)], check=False)
    assert late.returncode == wrapper.REFUSED


def test_retire_and_the_start_agree_on_one_winner(make: Callable[..., LocalExecutor]) -> None:
    executor = make(slots=12)
    keys = [f"tf.1234abcd.{job}.1" for job in range(1, 13)]
    outcomes = set()
    for delay, key in enumerate(keys):
        executor.submit([submission(key, "pass")])
        jobdir = executor.spool / key
        if delay % 3 == 1:
            wait_for((jobdir / "worker.json").exists)
        elif delay % 3 == 2:
            wait_for((jobdir / "gate").exists)
        retired = executor.retire([key])[key]
        outcomes.add(retired)
        wait_for(partial(over, executor, key))
        ran = (jobdir / "work").exists()
        assert ran is not retired
    assert outcomes == {True, False}


def test_stop_preempts_everything_within_its_grace(executor: LocalExecutor) -> None:
    keys = [KEY, "tf.1234abcd.18.1"]
    executor.submit([submission(key) for key in keys])
    for key in keys:
        running(executor, key)
    assert executor.stop(5) == []
    reports = [found.report for found in executor.poll(keys)]
    assert [report and report["error_class"] for report in reports] == ["preempted", "preempted"]
    assert executor.stop(5) == []


def test_live_attempts_are_not_forgotten_and_dead_ones_leave_no_parts(
    executor: LocalExecutor, tmp_path: Path
) -> None:
    pfn = tmp_path / "se" / "out.dat"
    executor.submit([submission(pfn=pfn)])
    running(executor)
    executor.forget([KEY])
    assert executor.known() == [KEY]
    pfn.parent.mkdir()
    pfn.with_name("out.dat.part-1-abcdef01").touch()
    pfn.with_name("out.dat.part-2-abcdef01").touch()
    os.kill(pid_in(executor.spool / KEY / "gate"), signal.SIGKILL)
    wait_state(executor, BatchState.GONE)
    executor.cancel([KEY])
    executor.forget([KEY])
    assert executor.known() == []
    assert [path.name for path in pfn.parent.iterdir()] == ["out.dat.part-2-abcdef01"]


@pytest.mark.parametrize("spoilt", ['{"outputs": [1]}', '{"outputs": [{"destinations": [{}]}]}', "[]", "{"])
def test_a_job_document_the_payload_spoilt_stops_nobody(executor: LocalExecutor, spoilt: str) -> None:
    job = executor.spool / KEY
    job.mkdir()
    (job / "job.json").write_text(spoilt)
    executor.forget([KEY])
    assert executor.known() == []


def test_a_spool_that_went_away_says_nothing(executor: LocalExecutor) -> None:
    executor.spool.rename(executor.spool.with_name("elsewhere"))
    assert status(executor).state is BatchState.UNKNOWN
    assert (executor.find([KEY]), executor.retire([KEY]), executor.known()) == ({}, {}, [])
    assert isinstance(executor.submit([submission()])[0], Refusal)
    executor.spool.with_name("elsewhere").rename(executor.spool)


def test_an_open_spool_and_a_foreign_key_are_refused(tmp_path: Path, executor: LocalExecutor) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(UsageError, match="open to others"):
        LocalExecutor(tmp_path / "open", slots=1, python=sys.executable)
    refusal = executor.submit([Submission("../evil", {})])[0]
    assert isinstance(refusal, Refusal)
    with pytest.raises(UsageError):
        executor.poll(["../evil"])


def test_a_python_that_is_not_there_is_a_refusal(make: Callable[..., LocalExecutor]) -> None:
    executor = make(python="/nowhere/python")
    refusal = executor.submit([submission()])[0]
    assert isinstance(refusal, Refusal)
    assert "/nowhere/python" in refusal.reason
    assert executor.known() == []
