"""Runs payload scripts as the wrapper does: in a private directory, with a job file and a report to write."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

# The physics packages come with the demo extra; the demo itself runs these scripts wherever it is installed.
collect_ignore = [] if find_spec("uproot") else ["test_root_payloads.py"]

PAYLOADS = Path(__file__).parents[2] / "etc" / "requests" / "payloads"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a script ended: exit code, stderr, its directory and its report (None: it wrote none)."""

    code: int
    error: str
    path: Path
    report: dict[str, Any] | None

    @property
    def output(self) -> Path:
        """The reported output; fails where the script did not end well."""
        assert self.code == 0, self.error
        assert self.report is not None
        return self.path / str(self.report["outputs"][0]["name"])

    @property
    def events(self) -> int:
        """The reported number of events."""
        assert self.report is not None, self.error
        return int(self.report["outputs"][0]["events"])


class Bench:
    """A place to run scripts in, one directory each."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.count = 0
        self.environment = {"PATH": "/nowhere", "PYTHONDONTWRITEBYTECODE": "1"}

    def prepare(self, output: str, inputs: Sequence[Ended | Path], **job: Any) -> Path:
        """A work directory with the scripts, the inputs and the job file."""
        self.count += 1
        path = self.root / f"job{self.count}"
        shutil.copytree(PAYLOADS, path, ignore=shutil.ignore_patterns("__pycache__"))
        staged = [self._stage(path, number, one) for number, one in enumerate(inputs)]
        content: dict[str, Any] = {"version": 1, "task": "260101_120000:ops_x-gen", "index": 17, "attempt": 1}
        content |= {"kind": "process", "seed": 123, "salt": f"{self.count:08x}"}
        content |= {"first_event": 160, "events": None, "run": 1, "lumi": 17}
        content |= {"inputs": staged, "outputs": [{"name": output}]}
        (path / "job.json").write_text(json.dumps(content | job))
        return path

    @staticmethod
    def _stage(path: Path, number: int, one: Ended | Path) -> dict[str, Any]:
        source = one if isinstance(one, Path) else one.output
        name = f"in_{number}{source.suffix}"
        shutil.copy(source, path / name)
        runs = {"1": [[number + 1, number + 1]]}
        events = None if isinstance(one, Path) else one.events
        return {"name": name, "lfn": f"/store/{name}", "events": events, "runs": runs}

    def variables(self, path: Path) -> dict[str, str]:
        """What the wrapper puts into the payload's environment."""
        files = {"TIERFLOW_JOB": str(path / "job.json"), "TIERFLOW_REPORT": str(path / "report.json")}
        return self.environment | files

    def run(
        self,
        script: str,
        output: str,
        inputs: Sequence[Ended | Path] = (),
        argv: Sequence[str] = (),
        **job: Any,
    ) -> Ended:
        """Run one script to its end."""
        path = self.prepare(output, inputs, **job)
        done = subprocess.run(
            [sys.executable, script, *argv],
            cwd=path,
            env=self.variables(path),
            capture_output=True,
            text=True,
        )
        report = path / "report.json"
        content = json.loads(report.read_text()) if report.exists() else None
        return Ended(code=done.returncode, error=done.stderr, path=path, report=content)

    def tool(self, script: str, *argv: str | os.PathLike[str]) -> Any:
        """The JSON a tool outside of jobs prints."""
        command = [sys.executable, str(PAYLOADS / script), *argv]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)
