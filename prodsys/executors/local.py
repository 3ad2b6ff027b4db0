"""Runs attempts as processes of this host; its only memory is the spool, so that any process may adopt them.

One directory per attempt holds job.json, the sandbox, `spawned.json` of the submitter and what the wrapper
writes. Payloads run under the daemon's own account.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import shutil
import signal
import stat
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gridcore.errors import UsageError
from gridcore.ids import BatchKey
from prodsys import wrapper
from prodsys.executors.base import (
    BatchState,
    Document,
    Key,
    Refusal,
    Status,
    Submission,
    Submitted,
    parse_time,
    report_fault,
)

_JSON_MAX = 8 << 20
_TOMBSTONES = "forgotten"
_TOMBSTONE_LIFE_S = 7 * 86400
_INHERITED = ("PATH", "LD_LIBRARY_PATH")
_WRAPPER = Path(wrapper.__file__)


@dataclass(frozen=True, slots=True)
class Identity:
    """A process of one boot of this host, told from a later one with its pid."""

    pid: int
    start: int
    boot_id: str

    @classmethod
    def of(cls, document: Document | None) -> Identity | None:
        """From worker.json, gate, spawned.json or payload.json."""
        fields = [(document or {}).get(name) for name in ("pid", "start", "boot_id")]
        if [type(field) for field in fields] != [int, int, str]:
            return None
        return cls(*fields)  # type: ignore[arg-type]

    @property
    def batch_id(self) -> str:
        return f"{self.pid}.{self.start}"

    def alive(self) -> bool:
        """Whether this very process still runs; a zombie does not."""
        process = wrapper.find_process(self.pid)
        if process is None or process.dead or process.start != self.start:
            return False
        return self.boot_id == wrapper.boot_id()

    def kill(self, signum: int) -> bool:
        """Signal the process if it is still the same; False where it is gone."""
        with contextlib.suppress(ProcessLookupError):
            if self.alive():
                os.kill(self.pid, signum)
                return True
        return False


@dataclass(frozen=True, slots=True)
class JobDir:
    """One attempt's directory and the questions one asks of it."""

    path: Path

    @property
    def key(self) -> Key:
        return self.path.name

    def read(self, name: str) -> Document | None:
        """A JSON object written by a wrapper, None where there is none or it is not one."""
        try:
            with open(wrapper.open_regular(str(self.path / name), os.O_NOFOLLOW), "rb") as stream:
                document = json.loads(stream.read(_JSON_MAX))
        except (OSError, ValueError, RecursionError):
            return None
        return document if isinstance(document, dict) else None

    def gate(self) -> Document:
        return self.read("gate") or {}

    def process(self) -> Identity | None:
        """The wrapper: the admitted one, else the one that started last."""
        gate = self.gate()
        if gate.get("by") == "worker":
            return Identity.of(gate)
        return Identity.of(self.read("worker.json")) or Identity.of(self.read("spawned.json"))

    def batch_id(self) -> str | None:
        """The wrapper's id if it was admitted or may still ask the gate."""
        process = self.process()
        alive = process is not None and process.alive()
        gate = self.gate()
        if gate.get("by") == "worker":
            process = Identity.of(gate)
        elif gate or not alive:
            return None
        return process.batch_id if process else None

    def status(self) -> Status:
        process = self.process()
        alive = process is not None and process.alive()
        # Read after the look at the process: one that was dead then has written all it ever will.
        gate, report = self.gate(), self.read("report.json")
        batch_id = process.batch_id if process else None
        if gate.get("by") != "worker":
            state, note = self._unadmitted(process, alive, retired=bool(gate))
            return Status(key=self.key, state=state, batch_id=batch_id, note=note)
        if process != Identity.of(gate):
            return self.status()  # admitted between the two looks
        nonce = str(gate.get("nonce"))
        state, note = BatchState.RUNNING, ""
        fault = "no report" if report is None else report_fault(report, self.key, nonce)
        if fault is None:
            state = BatchState.ENDED
        elif not alive:
            state, note = BatchState.GONE, self._epitaph(process, fault)
        return Status(
            key=self.key,
            state=state,
            batch_id=batch_id,
            nonce=nonce,
            admitted_at=parse_time(gate.get("at")),
            heartbeat_at=parse_time((self.read("heartbeat") or {}).get("at")),
            report=report if fault is None else None,
            note=note,
        )

    def _unadmitted(self, process: Identity | None, alive: bool, retired: bool) -> tuple[BatchState, str]:
        """State and note of an attempt that the gate has not let in."""
        if retired:
            return BatchState.GONE, "retired before it started"
        if alive:
            return BatchState.WAITING, ""
        if process is not None:
            return BatchState.GONE, self._epitaph(process, "it never started")
        if self.path.is_dir():
            return BatchState.GONE, "submitted, but no process was started"
        return BatchState.GONE, "the spool has no such attempt"

    def _epitaph(self, process: Identity | None, fault: str) -> str:
        who = f"process {process.pid}" if process else "the process"
        said = _last_line(self.path / "wrapper.log")
        return f"{who} is gone: {fault}" + (f" ({said})" if said else "")

    def payload_pids(self) -> Iterator[int]:
        """What is left of the payload: its session, and whoever carries its environment."""
        leader = Identity.of(self.read("payload.json"))
        if leader is not None and leader.boot_id != wrapper.boot_id():
            leader = None
        mark = f"TIERFLOW_REPORT={self.path}/".encode()
        for process in wrapper.processes():
            ours = leader is not None and _belongs(process, leader)
            if not process.dead and (ours or mark in _environment(process.pid)):
                yield process.pid

    def kill(self) -> None:
        """Kill wrapper and payload with -9; again while new processes appear."""
        process = self.process()
        if process is not None:
            process.kill(signal.SIGKILL)
        for _ in range(5):
            pids = list(self.payload_pids())
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if not pids:
                return

    def remove_parts(self) -> None:
        """Remove half-written copies that a killed wrapper left at local SEs."""
        job = self.read("job.json") or {}
        with contextlib.suppress(KeyError, TypeError, ValueError, OSError):  # the payload may have spoilt it
            for output in job["outputs"]:
                for destination in output["destinations"]:
                    pattern = f"{glob.escape(destination['pfn'])}.part-{job['attempt']}-*"
                    for part in glob.glob(pattern) if destination["method"] == "local" else ():
                        Path(part).unlink(missing_ok=True)


class LocalExecutor:
    """The local batch system: `slots` payloads at a time, `headroom` more attempts wait for a slot.

    `python` runs the wrapper. Raises UsageError for a spool that others could write to.
    """

    kind = "local"

    def __init__(self, spool: Path, *, slots: int, python: str, headroom: int = 0) -> None:
        self.spool = Path(os.path.abspath(spool))
        self.slots, self.headroom, self.python = slots, headroom, python
        _private(self.spool)
        _private(self.spool / _TOMBSTONES)
        self._drop_old_tombstones()

    def wanted(self) -> int:
        live = sum(1 for job in self._all() if self._occupies(job))
        return max(0, self.slots + self.headroom - live)

    def _occupies(self, job: JobDir) -> bool:
        if (job.path / "report.json").exists() or job.gate().get("by") == "agent":
            return False
        process = job.process()
        return process is not None and process.alive()

    def submit(self, submissions: Sequence[Submission]) -> list[Submitted | Refusal]:
        return [self._submit(submission) for submission in submissions]

    def _submit(self, submission: Submission) -> Submitted | Refusal:
        key = submission.key
        if BatchKey.parse(key) is None:
            return Refusal(key, f"{key!r} is no batch key")
        job = self._jobdir(key)
        try:
            job.path.mkdir(mode=0o700)
        except FileExistsError:
            return self._submitted_before(job)
        except OSError as error:
            return Refusal(key, f"spool {self.spool}: {error.strerror}")
        if self._tombstone(key).exists():
            job.path.rmdir()
            return Refusal(key, "this attempt ended here already")
        try:
            self._write(job, submission)
            return Submitted(key, self._spawn(job))
        except OSError as error:
            shutil.rmtree(job.path, ignore_errors=True)
            return Refusal(key, f"cannot start: {error}")

    def _submitted_before(self, job: JobDir) -> Submitted | Refusal:
        batch_id = job.batch_id()
        if batch_id is None and self._retire(job):
            return Refusal(job.key, "an earlier submission was interrupted or retired; its gate is closed")
        return Submitted(job.key, batch_id or job.batch_id() or "")

    def _write(self, job: JobDir, submission: Submission) -> None:
        if submission.sandbox is not None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            with open(os.open(job.path / "sandbox.tar.gz", flags, 0o600), "wb") as sink:
                sink.write(submission.sandbox)
        slots = [str(self.spool / f"slot.{number}") for number in range(self.slots)]
        document = {**submission.document, "slots": slots}
        wrapper.write_json(str(job.path / "job.json"), document)

    def _spawn(self, job: JobDir) -> str:
        """Start the wrapper in a session of its own, without the agent's environment and descriptors."""
        log = os.open(job.path / "wrapper.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            child = subprocess.Popen(
                [self.python, "-I", "-S", str(_WRAPPER), str(job.path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=job.path,
                env={name: os.environ[name] for name in _INHERITED if name in os.environ},
                start_new_session=True,
            )
        finally:
            os.close(log)
        identity = wrapper.identity(child.pid)
        threading.Thread(target=child.wait, name=f"reap-{child.pid}", daemon=True).start()
        with contextlib.suppress(OSError):  # it runs, and says so itself in worker.json
            wrapper.write_json(str(job.path / "spawned.json"), identity)
        return Identity(**identity).batch_id

    def find(self, keys: Sequence[Key]) -> dict[Key, str | None]:
        if not self.spool.is_dir():
            return {}
        return {key: self._jobdir(key).batch_id() for key in keys}

    def poll(self, keys: Sequence[Key]) -> list[Status]:
        if not self.spool.is_dir():
            note = f"spool {self.spool} is not there"
            return [Status(key=key, state=BatchState.UNKNOWN, note=note) for key in keys]
        return [self._jobdir(key).status() for key in keys]

    def retire(self, keys: Sequence[Key]) -> dict[Key, bool]:
        closed = {}
        for key in keys if self.spool.is_dir() else ():
            with contextlib.suppress(OSError):  # a full disk: nothing is known to be closed
                closed[key] = self._retire(self._jobdir(key))
        return closed

    def _retire(self, job: JobDir) -> bool:
        """Create the gate, in a new directory too: a submitter that comes late finds it closed."""
        if self._tombstone(job.key).exists():
            return True
        job.path.mkdir(mode=0o700, exist_ok=True)
        holder = {"by": "agent", "pid": os.getpid(), "at": wrapper.stamp(time.time())}
        return wrapper.close_gate(str(job.path), holder) or job.gate().get("by") == "agent"

    def cancel(self, keys: Sequence[Key]) -> None:
        for key in keys:
            job = self._jobdir(key)
            process = job.process()
            if process is None or not process.kill(signal.SIGTERM):
                job.kill()

    def forget(self, keys: Sequence[Key]) -> None:
        for key in keys:
            job = self._jobdir(key)
            if not job.path.is_dir() or self._occupies(job):
                continue
            job.remove_parts()
            self._tombstone(key).touch(mode=0o600)  # before the directory goes: it stays closed for ever
            _remove(job.path)

    def known(self) -> list[Key]:
        return [job.key for job in self._all()]

    def stop(self, grace: float) -> list[Key]:
        """Ask every wrapper to end and wait up to `grace` seconds; the keys that are still alive."""
        live = [job for job in self._all() if self._occupies(job)]
        self.cancel([job.key for job in live])
        end = time.monotonic() + grace
        while live and time.monotonic() < end:
            time.sleep(0.02)
            live = [job for job in live if self._occupies(job)]
        return [job.key for job in live]

    def _jobdir(self, key: Key) -> JobDir:
        if BatchKey.parse(key) is None:
            raise UsageError(f"{key!r} is no batch key", hint="tf.<instance8>.<job>.<attempt>")
        return JobDir(self.spool / key)

    def _all(self) -> list[JobDir]:
        names = sorted(os.listdir(self.spool)) if self.spool.is_dir() else []
        return [JobDir(self.spool / name) for name in names if BatchKey.parse(name)]

    def _tombstone(self, key: Key) -> Path:
        return self.spool / _TOMBSTONES / key

    def _drop_old_tombstones(self) -> None:
        oldest = time.time() - _TOMBSTONE_LIFE_S
        for path in (self.spool / _TOMBSTONES).iterdir():
            if path.stat().st_mtime < oldest:
                path.unlink(missing_ok=True)


def _private(directory: Path) -> None:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise UsageError(
            f"spool {directory} is open to others", hint=f"chmod 700 {directory}, owned by this user"
        )


def _remove(directory: Path) -> None:
    """Remove a tree, directories a payload has made read-only too."""
    for folder, names, _ in os.walk(directory):
        for path in (os.path.join(folder, name) for name in names):
            with contextlib.suppress(OSError):
                if not os.path.islink(path):
                    os.chmod(path, 0o700)
    shutil.rmtree(directory, ignore_errors=True)


def _last_line(path: Path) -> str:
    try:
        with open(path, "rb") as stream:
            stream.seek(max(0, path.stat().st_size - 1000))
            lines = stream.read().decode("utf-8", "replace").strip().splitlines()
    except OSError:
        return ""
    return wrapper.one_line(lines[-1]) if lines else ""


def _belongs(process: wrapper.Process, leader: Identity) -> bool:
    """Whether it is of the payload's session; its leader may be gone, then nobody else has its number."""
    if leader.pid not in (process.session, process.group) or process.start < leader.start:
        return False
    now = wrapper.find_process(leader.pid)
    return now is None or now.start == leader.start


def _environment(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""
