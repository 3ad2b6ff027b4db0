"""Runs one attempt on a worker node: gate, stage-in, payload, stage-out, report.

usage: python -I -S wrapper.py JOBDIR    (one file, standard library only, Python >= 3.8, Linux)

Reads JOBDIR/job.json; leaves worker.json, gate, heartbeat, payload.json, logs and report.json there.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import stat
import subprocess
import sys
import threading
import time
import zlib

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing itself costs start-up time
    from collections.abc import Callable, Iterator
    from typing import Any

REFUSED = 75  # this process's exit code when the gate is closed
CHUNK = 1 << 20
REPORT_MAX = 1 << 20
EVENTS_MAX = 10**12  # of one file; counters of many files are 64 bits wide
SANDBOX_MAX = 256 << 20
SANDBOX_ENTRIES = 10_000
EXIT_CODES = {
    "preempted": 128 + signal.SIGTERM,
    "stage_in": 8028,
    "executable": 50110,
    "bad_report": 50115,
    "no_events": 50115,
    "memory": 50660,
    "timeout": 50664,
    "no_output": 60302,
    "stage_out": 60307,
}
# What an unexpected error counts as, by the phase it happened in.
PHASE_CLASS = {
    "unpack": "executable",
    "stage_in": "stage_in",
    "payload": "executable",
    "check": "bad_report",
    "stage_out": "stage_out",
}


class Failure(Exception):
    """Why the attempt failed: class, one line of text, exit code."""

    def __init__(
        self, error_class: str, text: str, code: int | None = None, signum: int | None = None
    ) -> None:
        super().__init__(text)
        self.error_class = error_class
        self.text = one_line(text)
        self.code = EXIT_CODES[error_class] if code is None else code
        self.signum = signum


# --- small things -------------------------------------------------------------------------------------------


def one_line(text: str) -> str:
    """The text without control characters, at most 400 characters."""
    return "".join(char if char.isprintable() else " " for char in text).strip()[:400]


def stamp(epoch: float) -> str:
    """ISO 8601 in UTC, milliseconds."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(epoch)) + f".{int(epoch % 1 * 1000):03d}Z"


def plain(name: str) -> str:
    """The name, if it is a file name and not a path. Raises ValueError."""
    if not name or name in (".", "..") or "/" in name or "\0" in name:
        raise ValueError(f"{name!r} is not a plain file name")
    return name


def write_json(path: str, document: Any, sync: bool = False) -> None:
    """Write by atomic rename, mode 0600."""
    temporary = f"{path}.{os.getpid()}.tmp"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with open(descriptor, "w", encoding="utf-8") as stream:
        json.dump(document, stream)
        stream.flush()
        if sync:
            os.fsync(descriptor)
    os.rename(temporary, path)


def close_gate(jobdir: str, holder: dict[str, Any]) -> bool:
    """Create JOBDIR/gate with the holder's words in it; False where somebody was first.

    The one who creates it decides: a worker runs the payload, an agent retires the attempt. Raises OSError.
    """
    temporary = os.path.join(jobdir, f"gate.{os.urandom(8).hex()}")
    write_json(temporary, holder, sync=True)
    try:
        os.link(temporary, os.path.join(jobdir, "gate"))
    except FileExistsError:
        return False
    finally:
        os.unlink(temporary)
    return True


# --- processes ----------------------------------------------------------------------------------------------


class Process:
    """A line of /proc/<pid>/stat: what tells a process from a later one with its pid."""

    def __init__(self, pid: int, fields: list[str]) -> None:
        self.pid = pid
        self.dead = fields[0] in "ZX"
        self.group = int(fields[2])
        self.session = int(fields[3])
        self.ticks = sum(int(value) for value in fields[11:15])
        self.start = int(fields[19])
        self.rss_pages = int(fields[21])


def find_process(pid: int) -> Process | None:
    """The process, a zombie too; None where there is none."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stream:
            return Process(pid, stream.read().rpartition(")")[2].split())
    except (OSError, IndexError):
        return None


def processes() -> Iterator[Process]:
    """All processes of the host."""
    for name in os.listdir("/proc"):
        process = find_process(int(name)) if name.isdigit() else None
        if process is not None:
            yield process


def boot_id() -> str:
    """The identity of this boot of the host."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as stream:
        return stream.read().strip()


def identity(pid: int) -> dict[str, Any]:
    """What tells the process from a later one with its pid, on this host and boot."""
    process = find_process(pid)
    return {"pid": pid, "start": process.start if process else None, "boot_id": boot_id()}


def group_usage(group: int) -> tuple[float, int]:
    """(CPU seconds, resident kB) of a process group now."""
    members = [process for process in processes() if process.group == group]
    ticks, pages = sum(p.ticks for p in members), sum(p.rss_pages for p in members)
    return ticks / os.sysconf("SC_CLK_TCK"), pages * os.sysconf("SC_PAGE_SIZE") // 1024


class Stop:
    """SIGTERM and SIGINT as a moment after which work ends; `fd` wakes a select on any signal."""

    def __init__(self) -> None:
        self.asked_at: float | None = None
        self.fd, write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, self._ask)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def _ask(self, *_: Any) -> None:
        if self.asked_at is None:
            self.asked_at = time.monotonic()

    def check(self, grace: float = 0.0) -> None:
        """Raises Failure once `grace` seconds have passed since the signal."""
        if self.asked_at is not None and time.monotonic() >= self.asked_at + grace:
            raise Failure("preempted", "stopped by SIGTERM")


class Heartbeat(threading.Thread):
    """Rewrites JOBDIR/heartbeat every `interval` seconds."""

    def __init__(self, jobdir: str, interval: float) -> None:
        super().__init__(daemon=True)
        self.path = os.path.join(jobdir, "heartbeat")
        self.interval = interval
        self.phase = "unpack"
        self.cpu_s, self.rss_kb, self.max_rss_kb = 0.0, 0, 0
        self.since = time.monotonic()
        self.finished = threading.Event()

    def sample(self, group: int) -> None:
        """Measure the payload's process group."""
        self.cpu_s, self.rss_kb = group_usage(group)
        self.max_rss_kb = max(self.max_rss_kb, self.rss_kb)

    def usage(self) -> dict[str, Any]:
        wall_s = round(time.monotonic() - self.since, 3)
        return {"wall_s": wall_s, "cpu_s": round(self.cpu_s, 3), "max_rss_kb": self.max_rss_kb}

    def beat(self) -> None:
        now = stamp(time.time())
        said = {"at": now, "phase": self.phase, "cpu_s": self.cpu_s, "rss_kb": self.rss_kb}
        with contextlib.suppress(OSError):  # a full disk must not end the payload
            write_json(self.path, said)

    def run(self) -> None:
        self.beat()
        while not self.finished.wait(self.interval):
            self.beat()


# --- files --------------------------------------------------------------------------------------------------


def open_regular(path: str, flags: int = 0) -> int:
    """A descriptor of a regular file, never waiting on a FIFO. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | flags)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{path} is not a regular file")
    return descriptor


def checksum(source: int, consume: Callable[[bytes], Any]) -> tuple[int, int]:
    """(size, adler32) of a descriptor read to its end, each chunk handed to `consume`; closes it."""
    size, adler = 0, 1
    with open(source, "rb", buffering=0) as stream:
        while True:
            chunk = stream.read(CHUNK)
            if not chunk:
                return size, adler & 0xFFFFFFFF
            size, adler = size + len(chunk), zlib.adler32(chunk, adler)
            consume(chunk)


def copy(source: int, target: str, check: Callable[[], None]) -> tuple[int, int]:
    """Copy a descriptor into a new file, synced; (size, adler32) of what was read. `check` may stop it."""
    with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644), "wb") as sink:

        def consume(chunk: bytes) -> None:
            check()
            sink.write(chunk)

        result = checksum(source, consume)
        sink.flush()
        os.fsync(sink.fileno())
    return result


def remove(path: str) -> None:
    """Unlink what may be gone already."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def unpack(archive: str, work: str) -> None:
    """Unpack the sandbox: regular files and directories inside `work`, nothing else. Raises ValueError."""
    import io
    import tarfile

    with open(archive, "rb") as stream:
        inflate = zlib.decompressobj(wbits=31)
        raw = inflate.decompress(stream.read(SANDBOX_MAX), SANDBOX_MAX)
    if not inflate.eof or inflate.unused_data:
        raise ValueError("the sandbox is torn, has a tail or is larger than allowed")
    with tarfile.open(fileobj=io.BytesIO(raw), mode="r:") as tar:
        for count, member in enumerate(tar):
            parts = member.name.split("/")
            if count >= SANDBOX_ENTRIES or ".." in parts or member.name.startswith("/"):
                raise ValueError(f"sandbox entry {member.name!r} is not allowed")
            target = os.path.join(work, *parts)
            if member.isdir():
                os.makedirs(target, exist_ok=True)
                continue
            content = tar.extractfile(member) if member.type in (b"0", b"\0") else None
            if content is None or member.issparse():
                raise ValueError(f"sandbox entry {member.name!r} is not a regular file")
            os.makedirs(os.path.dirname(target), exist_ok=True)
            mode = 0o755 if member.mode & 0o100 else 0o644
            with open(
                os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode), "wb"
            ) as sink:
                sink.write(content.read())


def stage_in(item: dict[str, Any], work: str, check: Callable[[], None]) -> None:
    """Copy one input into `work` from the first source that delivers it whole. Raises Failure."""
    target = os.path.join(work, plain(item["name"]))
    problems = []
    for source in item["sources"]:
        try:
            found = copy(open_regular(local_path(source)), target, check)
            if found == (item["size"], item["adler32"]):
                return
            problems.append(
                f"{source['se']}: size or checksum is wrong: {found[0]} B, adler32 {found[1]:08x}"
            )
        except OSError as error:
            problems.append(f"{source['se']}: {error}")
        remove(target)
    raise Failure("stage_in", f"no good copy of {item['lfn']}: {'; '.join(problems) or 'no source'}")


def local_path(replica: dict[str, Any]) -> str:
    """The path behind a (SE, PFN, method). Raises OSError for a method this wrapper does not speak."""
    if replica["method"] != "local" or not os.path.isabs(replica["pfn"]):
        raise OSError(f"no way to reach {replica['pfn']} by {replica['method']}")
    return str(replica["pfn"])


def stage_out(path: str, pfn: str, mark: str, check: Callable[[], None]) -> tuple[int, int]:
    """Copy an output to a PFN that must not exist; (size, adler32), verified by reading the copy.

    Raises OSError (another SE may do) or Failure (the PFN is taken).
    """
    part = f"{pfn}.part-{mark}"
    os.makedirs(os.path.dirname(pfn), exist_ok=True)
    try:
        result = copy(open_regular(path, os.O_NOFOLLOW), part, check)
        if checksum(open_regular(part), lambda _: check()) != result:
            raise OSError("the copy differs from the output")
        try:
            os.link(part, pfn)
        except FileExistsError:
            raise Failure("stage_out", f"{pfn} exists already and is never overwritten") from None
    finally:
        remove(part)
    return result


# --- the payload --------------------------------------------------------------------------------------------


class Log:
    """One output stream of the payload: drained for ever, kept up to `room` bytes."""

    def __init__(self, pipe: Any, path: str, room: int) -> None:
        self.pipe, self.fd = pipe, pipe.fileno()
        self.room, self.tail, self.open = room, b"", True
        self.sink = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        os.set_blocking(self.fd, False)

    def drain(self) -> bool:
        """Take what is there, once; False when there is nothing."""
        try:
            data = os.read(self.fd, 1 << 16)
        except BlockingIOError:
            return False
        self.open = bool(data)
        self.tail = (self.tail + data)[-2000:]
        if self.room > 0:
            cut = b"\n[the log is cut here]\n" if len(data) > self.room else b""
            self.room -= self._write(data[: self.room] + cut)
        return self.open

    def _write(self, data: bytes) -> int:
        try:
            os.write(self.sink, data)
        except OSError:
            return self.room  # the disk is full: keep draining, write no more
        return len(data)

    def last_line(self) -> str:
        lines = self.tail.decode("utf-8", "replace").strip().splitlines()
        return one_line(lines[-1]) if lines else ""


def payload_environment(job: dict[str, Any], jobdir: str, work: str) -> dict[str, str]:
    """The payload's whole environment; nothing of the agent's gets in."""
    path = os.environ.get("PATH", "/usr/local/bin:/usr/bin:/bin")
    env = {"PATH": f"{os.path.dirname(job['python'])}:{path}", "HOME": work, "LANG": "C.UTF-8", "TZ": "UTC"}
    env.update(job["env"])
    env["TIERFLOW_JOB"] = os.path.join(jobdir, "tierflow_job.json")
    env["TIERFLOW_REPORT"] = os.path.join(jobdir, "tierflow_report.json")
    if job.get("cache"):
        os.makedirs(job["cache"], exist_ok=True)
        env["TIERFLOW_CACHE"] = job["cache"]
    return env


def start_payload(job: dict[str, Any], jobdir: str, work: str) -> subprocess.Popen[bytes]:
    """The payload in a session of its own. Raises Failure."""
    env = payload_environment(job, jobdir, work)
    write_json(env["TIERFLOW_JOB"], job["payload"])
    argv = [job["python"] if job["command"][0] == "python" else job["command"][0], *job["command"][1:]]
    streams: dict[str, Any] = {
        "stdin": subprocess.DEVNULL,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
    }
    try:
        return subprocess.Popen(argv, cwd=work, env=env, start_new_session=True, **streams)
    except (OSError, ValueError) as error:
        raise Failure("executable", f"{argv[0]!r} cannot be started: {error}") from None


class Watch:
    """Waits for a payload, keeps its limits and its logs."""

    def __init__(self, job: dict[str, Any], pid: int, logs: list[Log], stop: Stop, heart: Heartbeat) -> None:
        self.pid, self.logs, self.stop, self.heart = pid, logs, stop, heart
        self.interval, self.grace = job["heartbeat_s"], job["stop_grace_s"]
        self.memory_kb = (job["limits"].get("memory_mb") or 0) * 1024
        self.wall_end = time.monotonic() + job["limits"]["wall_s"]
        self.next_sample = 0.0
        self.kill_at = float("inf")
        self.reason: str | None = None

    def wait(self) -> int:
        """Return the payload's exit code, negative for a signal; then its whole group is dead."""
        while os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            self._enforce(time.monotonic())
            self._sleep(time.monotonic())
        # Not reaped yet, so the group's number cannot be somebody else's.
        self._signal(signal.SIGKILL)
        for log in self.logs:
            for _ in range(8):
                if not log.drain():
                    break
        _, status, usage = os.wait4(self.pid, 0)
        self.heart.cpu_s = max(self.heart.cpu_s, usage.ru_utime + usage.ru_stime)
        self.heart.max_rss_kb = max(self.heart.max_rss_kb, usage.ru_maxrss)
        return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)

    def _enforce(self, now: float) -> None:
        if now >= self.next_sample:
            self.heart.sample(self.pid)
            self.next_sample = now + self.interval
        if self.reason is None:
            self.reason = self._breach(now)
            if self.reason is not None:
                self._signal(signal.SIGTERM)
                self.kill_at = now + self.grace
        elif now >= self.kill_at:
            self._signal(signal.SIGKILL)
            self.kill_at = float("inf")

    def _breach(self, now: float) -> str | None:
        if self.stop.asked_at is not None:
            return "preempted"
        if self.memory_kb and self.heart.rss_kb > self.memory_kb:
            return "memory"
        return "timeout" if now >= self.wall_end else None

    def _sleep(self, now: float) -> None:
        wake_at = min(self.next_sample, self.kill_at, self.wall_end if self.reason is None else self.kill_at)
        streams = {log.fd: log for log in self.logs if log.open}
        for fd in select.select([self.stop.fd, *streams], [], [], max(0.0, wake_at - now))[0]:
            if fd in streams:
                streams[fd].drain()
            else:
                os.read(fd, 4096)

    def _signal(self, signum: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signum)


def run_payload(job: dict[str, Any], jobdir: str, work: str, stop: Stop, heart: Heartbeat) -> None:
    """Run the payload to its end. Raises Failure unless it exited 0 within its limits."""
    stop.check()
    child = start_payload(job, jobdir, work)
    try:
        write_json(os.path.join(jobdir, "payload.json"), identity(child.pid))
        pipes = {"stdout.log": child.stdout, "stderr.log": child.stderr}
        room = job["limits"]["log_bytes"]
        logs = [Log(pipe, os.path.join(jobdir, name), room) for name, pipe in pipes.items()]
        watch = Watch(job, child.pid, logs, stop, heart)
        code = watch.wait()
    except Exception:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        raise
    child.returncode = code
    if code or watch.reason:
        raise payload_failure(watch.reason, code, job["limits"], heart.max_rss_kb, logs[1].last_line())


def payload_failure(reason: str | None, code: int, limits: dict[str, Any], rss_kb: int, said: str) -> Failure:
    """Why the payload failed: `reason` if it was stopped, else its exit code (negative: a signal)."""
    signum = -code if code < 0 else None
    why = {
        "preempted": "stopped by SIGTERM",
        "memory": f"{rss_kb // 1024} MB resident, {limits['memory_mb']} MB allowed",
        "timeout": f"longer than {limits['wall_s']} s",
        "killed": f"killed by signal {signum}",
        "payload": f"exit code {code}",
    }
    error_class = reason or ("killed" if signum else "payload")
    own_code = None if reason else 128 + signum if signum else code
    return Failure(error_class, why[error_class] + (f": {said}" if said else ""), own_code, signum)


# --- the payload's report -----------------------------------------------------------------------------------


def natural(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def is_count(value: Any) -> bool:
    """Whether it is a number of events, or none."""
    return value is None or (natural(value) and value <= EVENTS_MAX)


def is_runs(runs: Any) -> bool:
    """Whether it is {"1": [[first lumi, last lumi], ...], ...}."""
    return isinstance(runs, dict) and all(
        run.isascii()
        and run.isdigit()
        and len(run) <= 18
        and isinstance(ranges, list)
        and all(map(is_range, ranges))
        for run, ranges in runs.items()
    )


def is_range(pair: Any) -> bool:
    return isinstance(pair, list) and len(pair) == 2 and all(map(natural, pair)) and pair[0] <= pair[1]


def read_payload_report(path: str) -> dict[str, Any]:
    """The document a payload wrote, {} where it wrote none. Raises Failure for what is no report."""
    try:
        with open(open_regular(path, os.O_NOFOLLOW), "rb") as stream:
            raw = stream.read(REPORT_MAX + 1)
        document = json.loads(raw[:REPORT_MAX].decode("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise Failure("bad_report", f"the payload's report is unreadable: {error}") from None
    if len(raw) > REPORT_MAX or not isinstance(document, dict) or document.get("version") != 1:
        raise Failure("bad_report", "the payload's report is no version 1 document of at most 1 MB")
    if set(document) - {"version", "outputs", "events_read"}:
        raise Failure("bad_report", f"the payload's report has unknown keys: {sorted(document)}")
    return document


def check_entry(entry: Any, names: set[str]) -> None:
    """Check one of a report's outputs; its name is taken out of `names`. Raises Failure."""
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        raise Failure("bad_report", "an output in the payload's report is no object with a name")
    if entry["name"] not in names or set(entry) - {"name", "events", "runs"}:
        raise Failure(
            "bad_report", f"the report's output {entry['name']!r} is unknown, repeated or has unknown keys"
        )
    if not is_count(entry.get("events")) or not is_runs(entry.get("runs", {})):
        raise Failure(
            "bad_report", f"events or runs of {entry['name']!r} in the payload's report are malformed"
        )
    names.remove(entry["name"])


def check_report(job: dict[str, Any], document: dict[str, Any]) -> dict[str, Any]:
    """{output name: its entry} of a payload's report. Raises Failure where it does not fit the job."""
    entries, read = document.get("outputs", []), document.get("events_read")
    names = {output["name"] for output in job["outputs"]}
    if not isinstance(entries, list) or not is_count(read):
        raise Failure("bad_report", "outputs or events_read in the payload's report are malformed")
    for entry in entries:
        check_entry(entry, names)
    counts = [entry["events"] for entry in entries if entry.get("events") is not None]
    if job["events_required"] and not counts:
        raise Failure("no_events", "the payload reported no number of events")
    if counts and job.get("events") is not None and sum(counts) != job["events"]:
        raise Failure("bad_report", f"the outputs hold {sum(counts)} events, {job['events']} were asked for")
    return {entry["name"]: entry for entry in entries}


# --- one attempt --------------------------------------------------------------------------------------------


class Attempt:
    """One attempt, from the gate to the report."""

    def __init__(self, jobdir: str) -> None:
        with open(os.path.join(jobdir, "job.json"), encoding="utf-8") as stream:
            self.job: dict[str, Any] = json.load(stream)
        self.jobdir = jobdir
        self.work = os.path.join(jobdir, "work")
        self.nonce = os.urandom(16).hex()
        self.stop = Stop()
        self.heart = Heartbeat(jobdir, self.job["heartbeat_s"])
        self.written: list[str] = []
        self.events_read: int | None = None
        self.inputs_read = 0
        self.host = os.uname().nodename

    def path(self, name: str) -> str:
        return os.path.join(self.jobdir, name)

    def admitted(self) -> bool:
        """Ask the gate, once, when there is a slot."""
        who = {**identity(os.getpid()), "host": self.host, "nonce": self.nonce}
        write_json(self.path("worker.json"), who)
        if not self._take_slot() or self.stop.asked_at is not None:
            return False
        return close_gate(self.jobdir, {**who, "by": "worker", "at": stamp(time.time())})

    def _take_slot(self) -> bool:
        """Wait for one of the endpoint's slots: a lock that ends with this process."""
        import fcntl

        slots = [
            os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600) for path in self.job.get("slots", [])
        ]
        while slots:
            for slot in slots:
                try:
                    fcntl.flock(slot, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return True
                except BlockingIOError:
                    pass
            if os.path.exists(self.path("gate")) or not os.path.exists(self.path("job.json")):
                return False
            if select.select([self.stop.fd], [], [], 0.03)[0]:
                return False
        return True

    def run(self) -> None:
        """Do the work and write the report."""
        started = time.time()
        self.heart.since = time.monotonic()
        self.heart.start()
        outputs: list[dict[str, Any]] = []
        failure: Failure | None = None
        try:
            outputs = self._work()
        except Failure as error:
            failure = error
        except Exception as error:
            failure = Failure(PHASE_CLASS[self.heart.phase], f"{type(error).__name__}: {error}")
        if failure is not None:
            self._undo()
        self.heart.finished.set()
        report = {
            "version": 1,
            **{name: self.job[name] for name in ("key", "job", "attempt")},
            "nonce": self.nonce,
            **verdict(failure),
            "outputs": outputs,
            "inputs_read": self.inputs_read,
            "events_read": self.events_read,
            "usage": self.heart.usage(),
            "host": self.host,
            "started_at": stamp(started),
            "ended_at": stamp(time.time()),
        }
        try:
            write_json(self.path("report.json"), report, sync=True)
        except OSError:
            self._undo()  # unheard work is no work
            raise

    def _work(self) -> list[dict[str, Any]]:
        os.mkdir(self.work, 0o700)
        if self.job["sandbox"]:
            unpack(self.path(plain(self.job["sandbox"])), self.work)
        self.heart.phase = "stage_in"
        for item in self.job["inputs"]:
            stage_in(item, self.work, self.stop.check)
            self.inputs_read += 1
        self.heart.phase = "payload"
        run_payload(self.job, self.jobdir, self.work, self.stop, self.heart)
        self.heart.phase = "check"
        for output in self.job["outputs"]:
            path = os.path.join(self.work, plain(output["name"]))
            if not (os.path.isfile(path) and not os.path.islink(path)):
                raise Failure("no_output", f"the payload did not write {output['name']}")
        document = read_payload_report(self.path("tierflow_report.json"))
        entries = check_report(self.job, document)
        self.events_read = document.get("events_read")
        self.heart.phase = "stage_out"
        return [self._stage_out(output, entries.get(output["name"], {})) for output in self.job["outputs"]]

    def _stage_out(self, output: dict[str, Any], entry: dict[str, Any]) -> dict[str, Any]:
        mark = f"{self.job['attempt']}-{self.nonce[:8]}"
        problems = []
        for destination in output["destinations"]:
            try:
                pfn = local_path(destination)
                source = os.path.join(self.work, output["name"])
                size, adler = stage_out(source, pfn, mark, lambda: self.stop.check(self.job["stop_grace_s"]))
            except OSError as error:
                problems.append(f"{destination['se']}: {error}")
                continue
            self.written.append(pfn)
            where = {"name": output["name"], "lfn": output["lfn"], "se": destination["se"]}
            facts = {"size": size, "adler32": adler}
            return {**where, **facts, "events": entry.get("events"), "runs": entry.get("runs", {})}
        raise Failure(
            "stage_out", f"{output['lfn']} is stored nowhere: {'; '.join(problems) or 'no destination'}"
        )

    def _undo(self) -> None:
        for pfn in self.written:
            with contextlib.suppress(OSError):
                os.unlink(pfn)


def verdict(failure: Failure | None) -> dict[str, Any]:
    """The report's five words on how it ended."""
    if failure is None:
        return {"outcome": "done", "exit_code": 0, "signal": None, "error_class": None, "error": None}
    return {
        "outcome": "failed",
        "exit_code": failure.code,
        "signal": failure.signum,
        "error_class": failure.error_class,
        "error": failure.text,
    }


def main(jobdir: str) -> int:
    """0 when a report is written, REFUSED when the gate is closed."""
    os.umask(0o022)
    attempt = Attempt(os.path.abspath(jobdir))
    if not attempt.admitted():
        return REFUSED
    attempt.run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
