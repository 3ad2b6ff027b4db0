"""The grid in the foreground: first start, page, stop in time, payloads preempted, neighbours left alone."""

from __future__ import annotations

import json
import os
import select as selecting
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import embedded_grid
import pytest
from click.testing import CliRunner
from sqlalchemy import Connection, delete

from agents.runtime.signals import KILLED
from catalogs import sites
from gridapp import apply, session, up
from gridapp.cli.main import main
from gridapp.installation import SETTINGS_FILE
from gridapp.topology import reader
from gridcore.errors import UsageError
from gridcore.tables import account, account_role
from prodsys.executors.local import LocalExecutor

REPOSITORY = Path(__file__).parents[2]
PATIENCE_S = 60.0
#: One job that tells its pid through a named pipe and then stays, deaf to SIGTERM if told so.
PAYLOAD = """
import os, signal, time
if os.environ["DEAF"] == "yes":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
with open(os.environ["SAY"], "w") as pipe:
    pipe.write(f"{os.getpid()}\\n")
time.sleep(300)
"""
REQUEST = """
name = "long"
group = "production"
lfn_area = "/store/mc"

[[step]]
name = "sleep"
command = ["python", "sleep.py"]
sandbox = ["sleep.py"]
env = {{ SAY = "{say}", DEAF = "{deaf}" }}
events = 1
events_per_job = 1
limits = {{ wall_s = 600 }}
output = {{ name = "out.txt", dataset = "/Long/Test-v1/GEN" }}
"""


@dataclass
class Grid:
    """A directory, the processes that run it and a pipe its payloads speak through."""

    home: Path
    pipe: Path
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    def launch(self, *args: str) -> subprocess.Popen[str]:
        code = "from gridapp.cli.main import main; main()"
        process = subprocess.Popen(
            [sys.executable, "-c", code, *args, "--dir", str(self.home)],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.processes.append(process)
        return process

    def up(self) -> tuple[subprocess.Popen[str], str]:
        """A running grid and the URL of its page."""
        process = self.launch("up")
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert url, process.communicate()[1]
        return process, url

    def answer(self, *args: str) -> Any:
        result = CliRunner().invoke(main, ["--dir", str(self.home), *args])
        assert result.exit_code == 0, result.stderr
        return json.loads(result.stdout)

    def submit(self, deaf: bool = False) -> str:
        """Hand in the one long job; the task's name."""
        (self.home / "sleep.py").write_text(PAYLOAD)
        path = self.home / "request.toml"
        path.write_text(REQUEST.format(say=self.pipe, deaf="yes" if deaf else "no"))
        (task,) = self.answer("request", "submit", str(path))["tasks"]
        return str(task)

    def started_payload(self) -> int:
        """Wait for a payload to tell its pid."""
        fd = os.open(self.pipe, os.O_RDONLY | os.O_NONBLOCK)
        try:
            assert selecting.select([fd], [], [], PATIENCE_S)[0], "no payload has started"
            return int(os.read(fd, 100))
        finally:
            os.close(fd)


@pytest.fixture
def grid(tmp_path: Path) -> Iterator[Grid]:
    made = Grid(tmp_path / "grid", tmp_path / "pipe")
    os.mkfifo(made.pipe)
    yield made
    for process in made.processes:
        if process.poll() is None:
            process.kill()
        process.communicate()
    installation = session.connect(made.home, None)
    for executor in up.local_executors(installation).values():
        for key in executor.stop(0):
            executor.retire([key])
        executor.stop(5)
    installation.close()


def ended(process: subprocess.Popen[str], *numbers: int) -> str:
    """What it said until it ended."""
    for number in numbers:
        process.send_signal(number)
    _, said = process.communicate(timeout=PATIENCE_S)
    return said


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
def test_from_an_empty_directory_to_the_page_and_out(grid: Grid) -> None:
    process, url = grid.up()
    with urllib.request.urlopen(url, timeout=60) as page:
        assert page.status == 200
    with urllib.request.urlopen(f"{url}api/v1/tasks", timeout=60) as tasks:
        assert json.load(tasks) == []
    assert len(grid.answer("site", "list")) == 6
    said = ended(process, signal.SIGTERM)
    assert process.returncode == 0
    assert "applied the embedded grid" in said
    assert {one["state"] for one in grid.answer("agent", "list")} == {"stopped"}
    assert all(one["ok"] for one in grid.answer("doctor"))


@pytest.mark.slow
def test_a_stop_preempts_payloads_and_the_next_start_tries_again(grid: Grid) -> None:
    first, _ = grid.up()
    task = grid.submit()
    pid = grid.started_payload()
    ended(first, signal.SIGINT)
    assert first.returncode == 0
    assert not alive(pid)
    second, _ = grid.up()
    assert grid.started_payload() != pid
    attempts = grid.answer("job", "show", f"{task}/1")["attempts"]
    assert [one["error_class"] for one in attempts] == ["preempted", None]
    ended(second, signal.SIGTERM)


@pytest.mark.slow
def test_deaf_payloads_do_not_delay_the_end_and_a_second_signal_is_final(grid: Grid) -> None:
    first, _ = grid.up()
    grid.submit(deaf=True)
    grid.started_payload()
    ended(first, signal.SIGTERM)
    assert first.returncode == 0
    second, _ = grid.up()
    grid.started_payload()
    second.send_signal(signal.SIGINT)
    assert second.stderr is not None
    while "stopping" not in second.stderr.readline():
        pass
    ended(second, signal.SIGINT)
    assert second.returncode == KILLED


@pytest.mark.slow
def test_a_second_grid_process_leaves_the_payloads_of_the_first_alone(grid: Grid) -> None:
    first, _ = grid.up()
    task = grid.submit()
    pid = grid.started_payload()
    second, _ = grid.up()
    ended(second, signal.SIGTERM)
    assert second.returncode == 0
    assert alive(pid)
    assert grid.answer("job", "show", f"{task}/1")["attempt"] == 1
    ended(first, signal.SIGTERM)
    assert not alive(pid)


@pytest.mark.slow
def test_one_agent_alone(grid: Grid) -> None:
    embedded_grid.make(grid.home)
    process = grid.launch("agent", "run", "janitor")
    assert process.stderr is not None
    while "Ctrl-C" not in process.stderr.readline():
        assert process.poll() is None
    ended(process, signal.SIGTERM)
    assert process.returncode == 0
    assert [one["agent"] for one in grid.answer("agent", "list")] == ["janitor"]


# --- the first start, step by step ---------------------------------------------------------------------


def test_a_start_that_was_killed_before_the_grid_was_applied_is_repeated(tmp_path: Path) -> None:
    home = tmp_path / "grid"
    shipped = session.EMBEDDED / SETTINGS_FILE
    home.mkdir()
    (home / SETTINGS_FILE).write_bytes(shipped.read_bytes())
    assert CliRunner().invoke(main, ["--dir", str(home), "db", "upgrade"]).exit_code == 0
    with ExitStack() as stack:
        started = session.start(home, None)
        stack.callback(started.installation.close)
        assert started.applied > 0
        again = session.start(home, None)
        stack.callback(again.installation.close)
        assert again.applied == 0
        with again.installation.database.snapshot() as conn:
            assert len(sites.sites(conn)) == 6
            wanted = reader.read_topology(session.EMBEDDED, {"TIERFLOW_DIR": str(home)})
            assert apply.plan(conn, wanted, prune=True) == []


def test_own_settings_and_an_own_grid_are_kept(tmp_path: Path) -> None:
    home = embedded_grid.make(tmp_path / "grid")
    (home / SETTINGS_FILE).write_text("[api]\nport = 4711\n")
    started = session.start(home, None)
    assert started.applied == 0
    assert started.installation.settings.api.port == 4711
    started.installation.close()


def test_a_directory_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError) as error:
        session.start(tmp_path / "file" / "grid", None)
    assert str(tmp_path / "file" / "grid") in error.value.message


def test_who_has_no_account_is_denied(tmp_path: Path) -> None:
    home = embedded_grid.make(tmp_path / "grid")
    installation = session.connect(home, None)

    def rename(conn: Connection) -> None:
        conn.execute(delete(account_role).where(account_role.c.acct_role == "login"))

    installation.database.transaction(rename)
    with installation.database.snapshot() as conn:
        assert conn.execute(account.select()).all()
    installation.close()
    for command in (["up"], ["agent", "run", "janitor"], ["apply", str(session.EMBEDDED)]):
        assert CliRunner().invoke(main, ["--dir", str(home), *command]).exit_code == 4


def test_payloads_are_stopped_everywhere_at_once(tmp_path: Path) -> None:
    together = threading.Barrier(6, timeout=60)

    class Slow(LocalExecutor):
        def stop(self, grace: float) -> list[str]:
            together.wait()  # BrokenBarrierError, were they stopped one after another
            return ["tf.0.1.1"]

    slow = [Slow(tmp_path / f"spool{n}", slots=1, python=sys.executable) for n in range(6)]
    assert up.stop_payloads(slow, 0.2) == 6
    assert up.stop_payloads([], 0.2) == 0
