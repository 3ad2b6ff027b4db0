"""The wrapper: runs for real, as the batch system runs it, under the oldest Python at hand."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prodsys import wrapper
from prodsys.sandbox import pack

WRAPPER = str(Path(wrapper.__file__))
WRITE = "import os,sys; open('out.dat','wb').write(b'physics'); "
REPORT = WRITE + "open(os.environ['TIERFLOW_REPORT'],'w').write(sys.argv[1])"
GOOD = {
    "version": 1,
    "outputs": [{"name": "out.dat", "events": 10, "runs": {"1": [[3, 3]]}}],
    "events_read": 5,
}


def oldest_python() -> str:
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for minor in range(8, 14):
        found = sorted(pyenv.glob(f"3.{minor}.*/bin/python3"))
        path = str(found[0]) if found else shutil.which(f"python3.{minor}")
        if path and subprocess.run([path, "-c", ""], capture_output=True, check=False).returncode == 0:
            return path
    return sys.executable


OLDEST = oldest_python()


class Bench:
    """A job directory, an SE and a way to run the wrapper on them."""

    def __init__(self, root: Path) -> None:
        self.root, self.jobdir, self.se = root, root / "job", root / "se"
        self.jobdir.mkdir(mode=0o700)
        self.pfn = self.se / "store" / "out.dat"
        self.job: dict[str, Any] = {
            "version": 1,
            "key": "tf.1234abcd.17.2",
            "job": 17,
            "attempt": 2,
            "name": "task/17.2",
            "sandbox": None,
            "command": ["python", "-c", REPORT, json.dumps(GOOD)],
            "python": sys.executable,
            "env": {},
            "payload": {"events": 10},
            "inputs": [],
            "outputs": [self.output("out.dat", self.pfn)],
            "limits": {"wall_s": 30, "memory_mb": None, "log_bytes": 1000},
            "events_required": True,
            "events": 10,
            "heartbeat_s": 0.1,
            "stop_grace_s": 0.3,
            "cache": None,
        }

    def output(self, name: str, *pfns: Path) -> dict[str, Any]:
        destinations = [{"se": f"SE{n}", "pfn": str(pfn), "method": "local"} for n, pfn in enumerate(pfns)]
        return {"name": name, "lfn": f"/store/{name}", "destinations": destinations}

    def source(self, data: bytes, *copies: bytes) -> dict[str, Any]:
        sources = []
        for number, copy in enumerate(copies):
            path = self.root / f"copy{number}"
            path.write_bytes(copy)
            sources.append({"se": f"SE{number}", "pfn": str(path), "method": "local"})
        facts = {"size": len(data), "adler32": zlib.adler32(data)}
        return {"lfn": "/store/in.dat", "name": "in.dat", **facts, "sources": sources}

    def start(self, python: str = sys.executable) -> subprocess.Popen[bytes]:
        wrapper.write_json(str(self.jobdir / "job.json"), self.job)
        command = [python, "-I", "-S", WRAPPER, str(self.jobdir)]
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)

    def run(self, python: str = sys.executable) -> dict[str, Any]:
        assert self.start(python).wait(60) == 0
        return self.report()

    def payload(self, code: str, *args: str) -> dict[str, Any]:
        self.job["command"] = ["python", "-c", code, *args]
        return self.run()

    def report(self) -> dict[str, Any]:
        return dict(json.loads((self.jobdir / "report.json").read_text()))

    def stored(self) -> list[str]:
        return sorted(path.name for path in self.se.rglob("*") if path.is_file())


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.mark.parametrize("python", sorted({OLDEST, sys.executable}))
def test_a_good_attempt_end_to_end(bench: Bench, python: str) -> None:
    code = (
        "import json,os,sys; sys.path.insert(0,'.'); import helper\n"
        "assert json.load(open(os.environ['TIERFLOW_JOB'])) == {'events': 10}\n"
        "assert open('in.dat','rb').read() == b'input' and os.getcwd() == os.environ['HOME']\n"
        "assert os.path.isdir(os.environ['TIERFLOW_CACHE'])\n"
    )
    bench.job["sandbox"] = "sandbox.tar.gz"
    (bench.jobdir / "sandbox.tar.gz").write_bytes(
        pack({"helper.py": b"", "run.py": (code + REPORT).encode()})
    )
    bench.job["command"] = ["python", "run.py", json.dumps(GOOD)]
    bench.job["inputs"] = [bench.source(b"input", b"input")]
    bench.job["cache"] = str(bench.root / "cache")
    report = bench.run(python)
    assert (report["outcome"], report["error"]) == ("done", None)
    assert report["outputs"] == [
        {
            "name": "out.dat",
            "lfn": "/store/out.dat",
            "se": "SE0",
            "size": 7,
            "adler32": zlib.adler32(b"physics"),
            "events": 10,
            "runs": {"1": [[3, 3]]},
        }
    ]
    assert (report["inputs_read"], report["events_read"], report["attempt"]) == (1, 5, 2)
    assert report["usage"]["max_rss_kb"] > 1000
    assert bench.pfn.read_bytes() == b"physics"
    assert bench.stored() == ["out.dat"]
    gate = json.loads((bench.jobdir / "gate").read_text())
    assert (gate["by"], gate["nonce"]) == ("worker", report["nonce"])
    assert json.loads((bench.jobdir / "heartbeat").read_text())["at"] <= report["ended_at"]
    assert (bench.jobdir / "report.json").stat().st_mode & 0o777 == 0o600


def test_the_gate_refuses_a_second_wrapper(bench: Bench) -> None:
    bench.run()
    first = (bench.jobdir / "report.json").read_bytes()
    bench.pfn.unlink()
    assert bench.start().wait(60) == wrapper.REFUSED
    assert (bench.jobdir / "report.json").read_bytes() == first
    assert bench.stored() == []


def test_a_closed_gate_means_no_payload(bench: Bench) -> None:
    assert wrapper.close_gate(str(bench.jobdir), {"by": "agent"})
    assert bench.start().wait(60) == wrapper.REFUSED
    assert not (bench.jobdir / "work").exists()
    assert not wrapper.close_gate(str(bench.jobdir), {"by": "agent"})


def test_only_one_of_many_wrappers_is_admitted(bench: Bench) -> None:
    codes = sorted(child.wait(60) for child in [bench.start() for _ in range(4)])
    assert codes == [0, wrapper.REFUSED, wrapper.REFUSED, wrapper.REFUSED]
    assert bench.report()["outcome"] == "done"


def test_arguments_and_environment_arrive_byte_identical(bench: Bench) -> None:
    canary = bench.root / "canary"
    nasty = [
        f"; touch {canary}",
        f"$(touch {canary})",
        f"`touch {canary}`",
        "a\nb",
        "-rf",
        "%s",
        "'\"\\",
        "",
        "*",
        "ü",
    ]
    bench.job["env"] = {"NASTY": nasty[1]}
    code = WRITE + "import json; json.dump([sys.argv[1:], os.environ['NASTY']], open('out.dat','w'))"
    bench.job["events_required"] = False
    report = bench.payload(code, *nasty)
    assert report["outcome"] == "done"
    assert json.loads(bench.pfn.read_text()) == [nasty, nasty[1]]
    assert not canary.exists()


def test_nothing_of_the_agents_environment_gets_in(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIERFLOW_DSN", "postgresql://secret")
    bench.job["events_required"] = False
    bench.payload(WRITE + "open('out.dat','w').write(' '.join(sorted(os.environ)))")
    assert set(bench.pfn.read_text().split()) <= {
        *("PATH", "HOME", "LANG", "TZ", "TIERFLOW_JOB", "TIERFLOW_REPORT", "LC_CTYPE")
    }


FAILURES: dict[str, tuple[dict[str, Any], str, tuple[str, int]]] = {
    "exit code": ({}, WRITE + "print('boom', file=sys.stderr); sys.exit(3)", ("payload", 3)),
    "signal": ({}, "import os; os.kill(os.getpid(), 11)", ("killed", 139)),
    "no output": ({}, "pass", ("no_output", 60302)),
    "link as output": ({}, "import os; os.symlink('/etc/passwd', 'out.dat')", ("no_output", 60302)),
    "no events": ({}, WRITE, ("no_events", 50115)),
    "wall time": (
        {"limits": {"wall_s": 0.3, "memory_mb": None, "log_bytes": 99}},
        "import signal,time; signal.signal(15, signal.SIG_IGN); time.sleep(60)",
        ("timeout", 50664),
    ),
    "memory": (
        {"limits": {"wall_s": 30, "memory_mb": 60, "log_bytes": 99}},
        "import time; x = b'x' * (90 << 20); time.sleep(60)",
        ("memory", 50660),
    ),
    "no executable": ({"command": ["./absent"]}, "", ("executable", 50110)),
    "NUL in an argument": ({"command": ["python", "a\0b"]}, "", ("executable", 50110)),
    "hostile sandbox": ({"sandbox": "job.json"}, "", ("executable", 50110)),
    "input name with a path": (
        {"inputs": [{"lfn": "/store/x", "name": "../x", "size": 0, "adler32": 1, "sources": []}]},
        "",
        ("stage_in", 8028),
    ),
}


@pytest.mark.parametrize("case", FAILURES)
def test_failures_are_classified(bench: Bench, case: str) -> None:
    changes, code, expected = FAILURES[case]
    bench.job["command"] = ["python", "-c", code]
    bench.job.update(changes)
    report = bench.run()
    assert (report["error_class"], report["exit_code"]) == expected
    assert report["outcome"] == "failed"
    assert report["error"]
    assert report["outputs"] == []
    assert bench.stored() == []


def test_the_error_quotes_the_last_line_and_the_log_is_cut(bench: Bench) -> None:
    noise = "import sys; sys.stderr.write('x' * 300000 + '\\n\\033[31mmuon lost\\n'); "
    report = bench.payload(noise + "sys.stdout.write('y' * 9); sys.exit(2)")
    assert report["error"] == "exit code 2: [31mmuon lost"
    assert 1000 <= (bench.jobdir / "stderr.log").stat().st_size < 1100
    assert (bench.jobdir / "stdout.log").read_bytes() == b"y" * 9


def test_what_a_payload_leaves_running_is_killed(bench: Bench) -> None:
    code = "import subprocess; print(subprocess.Popen(['sleep','60']).pid, flush=True); " + REPORT
    assert bench.payload(code, json.dumps(GOOD))["outcome"] == "done"
    orphan = int((bench.jobdir / "stdout.log").read_text())
    wait_for(lambda: (process := wrapper.find_process(orphan)) is None or process.dead)


def test_a_payload_that_cannot_be_recorded_does_not_run_on(bench: Bench) -> None:
    (bench.jobdir / "payload.json" / "in the way").mkdir(parents=True)
    bench.job["command"] = ["python", "-c", "import time; time.sleep(60)"]
    report = bench.run()
    assert report["outcome"] == "failed"
    mark = os.fsencode(bench.jobdir)
    environments = [path for path in Path("/proc").glob("[0-9]*/environ") if mark in read_quietly(path)]
    assert environments == []


def read_quietly(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_preemption_gives_the_payload_its_grace(bench: Bench) -> None:
    bench.job["command"] = [
        "python",
        "-c",
        "import signal,time,sys\nsignal.signal(15, lambda *_: open('told','w').close())\n"
        "print('up', flush=True)\ntime.sleep(0.01)\nwhile True: time.sleep(60)",
    ]
    child = bench.start()
    wait_for(
        lambda: (bench.jobdir / "stdout.log").exists() and (bench.jobdir / "stdout.log").stat().st_size > 0
    )
    started = time.monotonic()
    child.send_signal(signal.SIGTERM)
    assert child.wait(60) == 0
    assert time.monotonic() - started >= 0.3
    report = bench.report()
    assert (report["outcome"], report["error_class"], report["signal"]) == (
        "failed",
        "preempted",
        signal.SIGKILL,
    )
    assert (bench.jobdir / "work" / "told").exists()


def test_a_corrupted_source_is_passed_over(bench: Bench) -> None:
    bench.job["inputs"] = [bench.source(b"input", b"inpux", b"inp", b"input")]
    assert (
        bench.payload("assert open('in.dat').read() == 'input'; " + REPORT, json.dumps(GOOD))["outcome"]
        == "done"
    )


def test_without_a_good_source_stage_in_fails(bench: Bench) -> None:
    bench.job["inputs"] = [bench.source(b"input", b"inpux")]
    bench.job["inputs"][0]["sources"].append({"se": "X", "pfn": "root://x//y", "method": "xrootd"})
    report = bench.run()
    assert (report["error_class"], report["exit_code"]) == ("stage_in", 8028)
    assert "checksum" in report["error"]
    assert "xrootd" in report["error"]


def test_stage_out_takes_the_first_destination_that_works(bench: Bench) -> None:
    (bench.root / "file").write_text("no directory")
    bench.job["outputs"] = [bench.output("out.dat", bench.root / "file" / "out.dat", bench.pfn)]
    report = bench.run()
    assert report["outputs"][0]["se"] == "SE1"
    assert bench.stored() == ["out.dat"]


def test_a_pfn_is_never_overwritten_and_a_failed_stage_out_leaves_nothing(bench: Bench) -> None:
    taken = bench.se / "taken.dat"
    taken.parent.mkdir()
    taken.write_text("older")
    bench.job["outputs"].append(bench.output("two.dat", taken))
    report = bench.payload("open('two.dat','w').close(); " + REPORT, json.dumps(GOOD))
    assert (report["error_class"], report["exit_code"]) == ("stage_out", 60307)
    assert taken.read_text() == "older"
    assert bench.stored() == ["taken.dat"]


def test_only_slots_many_run_at_a_time(bench: Bench, tmp_path: Path) -> None:
    slot = tmp_path / "slot.0"
    (tmp_path / "other").mkdir()
    other = Bench(tmp_path / "other")
    for item in (bench, other):
        item.job["slots"] = [str(slot)]
    bench.job["command"] = ["sleep", "60"]
    first = bench.start()
    wait_for((bench.jobdir / "payload.json").exists)
    second = other.start()
    wait_for((other.jobdir / "worker.json").exists)
    assert not (other.jobdir / "gate").exists()
    first.send_signal(signal.SIGTERM)
    assert (first.wait(60), second.wait(60)) == (0, 0)
    assert other.report()["outcome"] == "done"


# --- the payload's report, without running anything ---------------------------------------------------------

JOB = {"outputs": [{"name": "a"}, {"name": "b"}], "events_required": True, "events": 10}
BAD: list[Any] = [
    [],
    {"version": 2},
    {"version": 1, "extra": 1},
    {"version": 1, "outputs": {}},
    {"version": 1, "outputs": [{"name": "c", "events": 10}]},
    {"version": 1, "outputs": [{"name": "a", "events": 5}, {"name": "a", "events": 5}]},
    {"version": 1, "outputs": [{"name": "a", "events": -1}]},
    {"version": 1, "outputs": [{"name": "a", "events": True}]},
    {"version": 1, "outputs": [{"name": "a", "events": 10.0}]},
    {"version": 1, "outputs": [{"name": "a", "events": "10"}]},
    {"version": 1, "outputs": [{"name": "a", "events": 10, "event": 1}]},
    {"version": 1, "outputs": [{"name": "a", "events": 9}]},
    {"version": 1, "outputs": [{"name": "a", "events": 10}], "events_read": -1},
    {"version": 1, "outputs": [{"name": "a", "events": 10, "runs": {"1": [[2, 1]]}}]},
    {"version": 1, "outputs": [{"name": "a", "events": 10, "runs": {"x": []}}]},
    {"version": 1, "outputs": [{"name": "a", "events": 10, "runs": {"1": [[1]]}}]},
    {"version": 1, "outputs": [{"name": "a", "events": 2**63}]},
    {"version": 1, "outputs": [{"name": "a", "events": 10}], "events_read": 2**63 - 1},
]


def judge(path: Path) -> dict[str, Any]:
    return wrapper.check_report(JOB, wrapper.read_payload_report(str(path)))


def test_a_number_of_events_that_would_burst_counters_is_refused() -> None:
    job = {**JOB, "events": None}
    entries = [{"name": "a", "events": wrapper.EVENTS_MAX}]
    assert wrapper.check_report(job, {"outputs": entries})["a"]["events"] == wrapper.EVENTS_MAX
    entries[0]["events"] = wrapper.EVENTS_MAX + 1
    with pytest.raises(wrapper.Failure, match="malformed"):
        wrapper.check_report(job, {"outputs": entries})


@pytest.mark.parametrize("document", BAD, ids=str)
def test_malformed_reports_are_refused(document: Any, tmp_path: Path) -> None:
    (tmp_path / "r").write_text(json.dumps(document))
    with pytest.raises(wrapper.Failure) as caught:
        judge(tmp_path / "r")
    assert caught.value.error_class == "bad_report"


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"\xff", b"[" * 200_000, b'{"version": 1}' + b" " * (1 << 20)],
    ids=["", "{", "ff", "[[", "big"],
)
def test_garbage_is_refused(raw: bytes, tmp_path: Path) -> None:
    (tmp_path / "r").write_bytes(raw)
    with pytest.raises(wrapper.Failure) as caught:
        judge(tmp_path / "r")
    assert caught.value.error_class == "bad_report"


def test_a_fifo_or_a_link_is_no_report(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("/etc/passwd")
    for name in ("fifo", "link"):
        with pytest.raises(wrapper.Failure):
            judge(tmp_path / name)


@given(st.lists(st.one_of(st.none(), st.integers(0, 20)), min_size=2, max_size=2))
def test_the_sum_of_the_outputs_decides(counts: list[int | None]) -> None:
    document = {
        "version": 1,
        "outputs": [{"name": n, "events": c} for n, c in zip("ab", counts, strict=True)],
    }
    known = [count for count in counts if count is not None]
    expected = "no_events" if not known else None if sum(known) == 10 else "bad_report"
    try:
        wrapper.check_report(JOB, document)
        found = None
    except wrapper.Failure as failure:
        found = failure.error_class
    assert found == expected


@given(st.text())
def test_one_line_is_one_printable_line(text: str) -> None:
    line = wrapper.one_line(text)
    assert line.isprintable()
    assert len(line) <= 400
