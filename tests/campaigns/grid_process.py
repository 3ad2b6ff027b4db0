"""A grid in processes of its own, driven by the command line, to be killed at will."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

TIERFLOW = Path(sys.executable).parent / "tierflow"
REQUESTS = Path(__file__).parents[2] / "etc" / "requests"
COMPLETED = ("COMPLETED",)


def run(directory: Path, *arguments: str, check: bool = True) -> Any:
    """The JSON a command prints."""
    command = [str(TIERFLOW), "--dir", str(directory), *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert not check or done.returncode == 0, f"{' '.join(arguments)}: {done.stderr}"
    return json.loads(done.stdout) if done.stdout.strip() else None


class GridProcess:
    """One `tierflow up` on a directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        command = [str(TIERFLOW), "up", "--dir", str(self.directory)]
        with (self.directory.parent / f"{self.directory.name}.log").open("ab") as log:
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def kill(self, *, payloads: bool) -> None:
        """kill -9: the daemons alone, or with everything that works for this directory."""
        self.process.kill()
        if payloads:
            for pid in self._workers():
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
        self.process.wait(30)

    def _workers(self) -> list[int]:
        """Processes whose command line or directory lies in ours: wrappers and payloads."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                try:
                    command = (entry / "cmdline").read_bytes().decode(errors="replace")
                    place = os.readlink(entry / "cwd")
                except OSError:
                    continue
                spool = str(self.directory / "spool")
                if spool in command or place.startswith(spool):
                    found.append(int(entry.name))
        return found

    def restart(self) -> None:
        """`tierflow up` once more."""
        self.process = self._start()

    def stop(self) -> None:
        """SIGTERM, and the end of it."""
        self.process.terminate()
        assert self.process.wait(30) == 0


def wait_ready(directory: Path, seconds: float = 60) -> None:
    """Until the grid in the directory can be asked."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        command = [str(TIERFLOW), "--dir", str(directory), "site", "list", "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0 and json.loads(done.stdout):
            return
        time.sleep(0.2)
    raise AssertionError(f"no grid in {directory} after {seconds} s")


def finished(directory: Path) -> bool:
    """Whether all tasks have ended and all subscriptions are complete."""
    tasks = run(directory, "task", "list")
    subscriptions = run(directory, "subscription", "list")
    done = all(one["state"] in ("COMPLETED", "INCOMPLETE", "KILLED") for one in tasks)
    return done and len(subscriptions) == 6 and all(one["state"] == "COMPLETE" for one in subscriptions)


def wait_finished(directory: Path, seconds: float = 180) -> None:
    """Until everything asked for is made and delivered."""
    end = time.monotonic() + seconds
    while not finished(directory):
        reasons = run(directory, "task", "list")
        assert time.monotonic() < end, f"not finished after {seconds} s: {reasons}"
        time.sleep(0.5)
