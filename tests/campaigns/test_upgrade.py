"""A rolling upgrade: agents of the first release go on working while the schema is expanded under them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from campaigns.grid_process import REQUESTS, GridProcess, run
from servers.postgres import Postgres

from catalogs import bookkeeping
from gridapp import schema, session
from gridapp.demo.summary import delivered_files
from prodsys import recount

pytestmark = [pytest.mark.long, pytest.mark.timeout(400)]

ROOT = Path(__file__).parents[2]
MIGRATION = "gridapp/migrations/versions/v0002_queue_operators_trust.py"
EVENTS = 60
PLACES = {"T2_FR_Birch_Disk", "T1_DE_Alder_Disk", "T0_CH_Oak_Disk"}
MAIN = "import sys; from gridapp.cli.main import main; sys.argv[0] = 'tierflow'; sys.exit(main())"
#: A process of the old code, connected before the upgrade: says who it is, then hands in what it is told.
DESK = """
import json, sys
from pathlib import Path
import gridapp, prodsys, agents
from gridapp import schema, session, submission, wiring
installation = session.connect(Path(sys.argv[1]), None)
shared, actor = wiring.context(installation), session.principal(installation)
files = [one.__file__ for one in (gridapp, prodsys, agents)]
print(json.dumps({"files": files, "schema": schema.HEAD}), flush=True)
for line in sys.stdin:
    made = submission.submit_request(installation, shared, Path(line.strip()), actor)
    print(json.dumps(made, default=str), flush=True)
"""


def git(*arguments: str) -> bytes:
    command = ["git", "-c", f"safe.directory={ROOT}", "-C", str(ROOT), *arguments]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        pytest.fail(
            "the first release is taken from the git history, which is not here whole: "
            f"{' '.join(arguments)}: {done.stderr.decode().strip()} (a shallow clone? git fetch --unshallow)"
        )
    return done.stdout


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout of the last commit before the second revision of the schema."""
    added = git("log", "--diff-filter=A", "--format=%H", "--", MIGRATION).decode().split()
    if not added:
        pytest.fail(f"no commit in the git history adds {MIGRATION}: is it whole?")
    place = tmp_path_factory.mktemp("old")
    subprocess.run(["tar", "-x", "-C", str(place)], input=git("archive", f"{added[-1]}^"), check=True)
    assert not (place / MIGRATION).exists()
    return place


def environment(old: Path) -> dict[str, str]:
    """In which Python takes our packages from the old checkout."""
    return {**os.environ, "PYTHONPATH": str(old), "PYTHONSAFEPATH": "1"}


class OldGrid(GridProcess):
    """One `tierflow up` of the old code."""

    def __init__(self, directory: Path, old: Path) -> None:
        self.old = old
        super().__init__(directory)

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", MAIN, "up", "--dir", str(self.directory)]
        with self.log.open("ab") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=environment(self.old),
            )

    @property
    def log(self) -> Path:
        return self.directory.parent / "old.log"


class Desk:
    """Hands in requests by the old code."""

    def __init__(self, directory: Path, old: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", DESK, str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(old),
        )
        told = self._answer()
        assert told["schema"] == "0001"
        assert all(Path(file).is_relative_to(old) for file in told["files"]), told

    def submit(self, path: Path) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{path}\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the old code's process has ended"
        return json.loads(line)

    def close(self) -> None:
        self._process.communicate(timeout=30)


@pytest.fixture(params=["sqlite", "postgresql"])
def directory(request: pytest.FixtureRequest, old: Path, tmp_path: Path) -> Iterator[Path]:
    """Where the old code finds its settings, and a database of its own."""
    place = tmp_path / "grid"
    place.mkdir(mode=0o700)
    if request.param == "sqlite":
        yield place
        return
    server = Postgres().start()
    text = (old / "etc/embedded/tierflow.toml").read_text()
    (place / "tierflow.toml").write_text(f'{text}\n[database]\nurl = "{server.create_empty()}"\n')
    made = [sys.executable, "-c", MAIN, "--dir", str(place), "db", "upgrade"]
    subprocess.run(made, env=environment(old), check=True, capture_output=True)
    yield place
    server.stop()


@pytest.fixture
def started() -> Iterator[list[GridProcess]]:
    """Grids that a failed test shall not leave behind."""
    grids: list[GridProcess] = []
    yield grids
    for one in grids:
        if one.process.poll() is None:
            one.kill(payloads=True)


def document(source: Path, target: Path, number: int) -> Path:
    """The toy request of a release, for datasets of its own."""
    shutil.copytree(source, target)
    path = target / "auau7-toy.toml"
    text = path.read_text().replace("Toy-v1", f"Toy-v{number}").replace('"auau7-toy"', f'"toy{number}"')
    path.write_text(re.sub(r"^events = \d+$", f"events = {EVENTS}", text, flags=re.MULTILINE))
    return path


def wait_until(directory: Path, requests: int, grid: GridProcess, seconds: float = 120) -> None:
    """Until the tasks of so many requests have ended and all they made is delivered."""
    end = time.monotonic() + seconds
    while True:
        assert grid.process.poll() is None, "the grid has ended"
        tasks = run(directory, "task", "list")
        subscriptions = run(directory, "subscription", "list")
        ended = [one for one in tasks if one["state"] in ("COMPLETED", "INCOMPLETE", "KILLED")]
        complete = [one for one in subscriptions if one["state"] == "COMPLETE"]
        if len(ended) == 2 * requests and len(complete) == 6 * requests:
            return
        assert time.monotonic() < end, f"not finished after {seconds} s: {tasks} {subscriptions}"
        time.sleep(0.5)


def check_exact(directory: Path, versions: range) -> None:
    """Every dataset of these versions has all events: in the catalogue, and in the files delivered."""
    assert {one["state"] for one in run(directory, "task", "list")} == {"COMPLETED"}
    names = {f"/MinBias_AuAu7/Toy-v{n}/{tier}" for n in versions for tier in ("GEN", "NTUP")}
    assert {one["name"]: one["events"] for one in run(directory, "dataset", "list")} == dict.fromkeys(
        names, EVENTS
    )
    installation = session.connect(directory, None)
    with installation.database.snapshot() as conn:
        files = delivered_files(conn)
        for name in names:
            found = bookkeeping.dataset_by_name(conn, name)
            assert found is not None
    installation.close()
    assert {(name, place) for name in names for place in PLACES} <= set(files)
    for (_, place), pfns in files.items():
        if place in PLACES:
            counter = [sys.executable, str(REQUESTS / "payloads" / "count_events.py"), *pfns]
            counted = json.loads(subprocess.run(counter, capture_output=True, check=True).stdout)
            assert sum(counted.values()) == EVENTS


def drift(directory: Path) -> dict[str, int]:
    installation = session.connect(directory, None)
    try:
        with installation.database.snapshot() as conn:
            return recount.drift(conn)
    finally:
        installation.close()


def wait_for_jobs(grid: OldGrid, desk: Desk, path: Path) -> None:
    """Hand in a request and wait until the old agents have jobs of it in hand."""
    desk.submit(path)
    spool, end = grid.directory / "spool", time.monotonic() + 60
    while not any(spool.glob("*/tf.*")) and not any(spool.glob("*/*/tf.*")):
        assert grid.process.poll() is None
        assert time.monotonic() < end, "no job was started"
        time.sleep(0.05)


def test_agents_of_the_first_release_work_on_while_the_schema_is_expanded(
    directory: Path, old: Path, tmp_path: Path, started: list[GridProcess]
) -> None:
    grid = OldGrid(directory, old)
    started.append(grid)
    wait_for_old(grid, old)
    desk = Desk(directory, old)
    wait_for_jobs(grid, desk, document(old / "etc/requests", tmp_path / "one", 1))

    upgraded = run(directory, "db", "upgrade")
    assert (upgraded["current"], upgraded["needed"]) == (schema.HEAD, schema.HEAD)

    desk.submit(document(old / "etc/requests", tmp_path / "two", 2))
    wait_until(directory, 2, grid)
    check_exact(directory, range(1, 3))
    agents = {one["agent"]: one for one in run(directory, "agent", "list")}
    assert {one["state"] for one in agents.values()} == {"running"}, agents
    desk.close()
    grid.stop()
    assert "Traceback" not in grid.log.read_text()

    run(directory, "db", "upgrade")
    assert drift(directory) == {}
    new = GridProcess(directory)
    started.append(new)
    run(directory, "request", "submit", str(document(REQUESTS, tmp_path / "three", 3)))
    wait_until(directory, 3, new)
    check_exact(directory, range(1, 4))
    findings = {one["check"]: one for one in run(directory, "doctor", check=False)}
    assert all(one["ok"] for name, one in findings.items() if name != "agents"), findings
    new.stop()
    assert drift(directory) == {}


def wait_for_old(grid: OldGrid, old: Path, seconds: float = 60) -> None:
    """Until the old grid can be asked, by its own command: the new one refuses its schema."""
    command = [sys.executable, "-c", MAIN, "--dir", str(grid.directory), "site", "list", "--json"]
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done = subprocess.run(command, env=environment(old), capture_output=True, text=True, check=False)
        if done.returncode == 0 and json.loads(done.stdout):
            return
        assert grid.process.poll() is None, grid.log.read_text()
        time.sleep(0.2)
    raise AssertionError(f"no grid after {seconds} s: {done.stderr}")
