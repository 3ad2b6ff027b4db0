"""The benches at toy sizes: every case runs and tells all it should; how fast it was is not asked."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from servers.postgres import Postgres

from gridapp.bench import backlog as backlogs
from gridapp.bench import cases, measure, planning
from gridapp.bench.agent import Agent, new_jobs
from gridapp.bench.ground import Ground
from gridapp.bench.measure import Figure
from gridapp.bench.server import Server, address, refuse_careless
from gridapp.bench.taking import Taking
from gridapp.cli.bench import HELP
from gridapp.cli.main import main
from gridapp.invariants import INVARIANTS
from gridcore.db.invariants import violations
from gridcore.errors import UsageError

ROWS = 2000
KEYS = ["bench", "case", "backend", "rows", "figure", "unit", "limit_figure", "bare_figure", "ratio"]
#: What the benches leave out: outputs and their files.
NOT_KEPT = "done has output"
POSTGRES = pytest.mark.slow
#: Fast ones of these run on SQLite in the quick suite.
NEEDS = [
    pytest.param(backend, bench, case.name, marks=[POSTGRES] if backend == "postgres" else [])
    for bench, members in cases.BENCHES.items()
    for case in members
    for backend in case.backends
    if backend == "sqlite" or bench in ("queue", "match", "lifecycle")
]


def run(*args: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


@pytest.fixture(autouse=True)
def short_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Turns end by their number of jobs or soon."""
    for module in ("taking", "queue", "match"):
        monkeypatch.setattr(f"gridapp.bench.{module}.TURN_S", 0.05)
    monkeypatch.setattr("gridapp.bench.rivals.TRIAL_S", 0.1)
    monkeypatch.setattr("gridapp.bench.rivals.ITS_BATCHES", (10, 100))
    monkeypatch.setattr("gridapp.bench.rivals.OUR_BATCHES", (50, 100))


@pytest.fixture(scope="session")
def durable() -> Iterator[str]:
    """The address of one server for all cases, as bench would start it for each."""
    with Server() as server:
        yield server.url.render_as_string(hide_password=False)


@pytest.fixture
def dsn(backend: str, request: pytest.FixtureRequest) -> list[str]:
    """The option that names the server, for PostgreSQL."""
    return ["--dsn", request.getfixturevalue("durable")] if backend == "postgres" else []


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "bench", "case"), NEEDS)
def test_every_case_tells_all_it_should(backend: str, bench: str, case: str, dsn: list[str]) -> None:
    result = run("bench", bench, "--backend", backend, "--rows", ROWS, "--case", case, "--json", *dsn)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert found, result.stderr
    for one in found:
        assert list(one)[: len(KEYS)] == KEYS
        assert (one["bench"], one["backend"]) == (bench, backend)
        assert one["figure"] > 0 or case == "under_minimum"
        assert one["limit_figure"] is not None
    if len(found) == 1:
        assert found[0]["case"] == case
    faults = [one["error"] for one in found if "error" in one]
    assert result.exit_code == (1 if faults else 0), result.stderr
    assert all(fault.startswith("faulty limit") for fault in faults)


@pytest.mark.parametrize("backend", ["sqlite", pytest.param("postgres", marks=POSTGRES)])
def test_limit_writes_what_the_product_writes(backend: str) -> None:
    """Both lead jobs through life on one backlog, and every invariant of the queue holds for both."""
    with Ground("test", backend, ROWS, None, print) as ground:
        backlog = ground.backlog()
        taking = Taking(ground, backlog, 100)
        mine, other = (backlogs.add_line(backlog, number, 10) for number in (1, 2))
        taking.agent.insert(new_jobs(backlog, mine, 1, 10))
        taking.limit.create(other, new_jobs(backlog, other, 1, 10), backlog.now())
        for line in (mine, other):
            backlogs.tell_made(backlog, line, 10)
        rows = [_rows_of(backlog, "ours", taking), _rows_of(backlog, "limit", taking)]
        with backlog.database.snapshot() as conn:
            broken = violations(conn, INVARIANTS)
    assert [one.name for one in broken] == [NOT_KEPT]
    assert rows[0] == rows[1]


def _rows_of(backlog: backlogs.Backlog, arm: str, taking: Taking) -> dict[str, float]:
    """How many rows of each table a batch of the arm adds, for a job."""
    before = _counts(backlog)
    if arm == "ours":
        held = taking.agent.claim(100)
        taking.agent.finish(held)
        jobs = len(held)
    else:
        taken = taking.claim_raw()
        taking.limit.finish(taken, backlog.now())
        jobs = len(taken)
    after = _counts(backlog)
    return {name: (after[name] - before[name]) / jobs for name in after}


def _counts(backlog: backlogs.Backlog) -> dict[str, int]:
    tables = ("job", "job_history", "attempt", "job_spec", "task_count", "share_node", "job_class")
    with backlog.database.snapshot() as conn:
        counts = {name: conn.exec_driver_sql(f"SELECT count(*) FROM {name}").scalar_one() for name in tables}
        ended = "SELECT count(*) FROM attempt WHERE ended_at IS NOT NULL AND report IS NOT NULL"
        return {**counts, "ended": conn.exec_driver_sql(ended).scalar_one()}


@pytest.mark.parametrize("backend", ["sqlite", pytest.param("postgres", marks=POSTGRES)])
def test_backlog_keeps_all_invariants(backend: str) -> None:
    with Ground("test", backend, ROWS, None, print) as ground:
        backlog = ground.backlog()
        backlogs.fill_line(backlog, backlogs.add_line(backlog, 1, 50))
        assert len(backlog.lines) == backlogs.CLASSES
        assert backlog.waiting() == ROWS + 50
        assert len(Agent(backlog).claim(30)) == 30
        with backlog.database.snapshot() as conn:
            assert violations(conn, INVARIANTS) == []
            assert conn.exec_driver_sql("SELECT count(DISTINCT rank) FROM job").scalar_one() == ROWS + 50


@pytest.mark.parametrize("rows", [1000, 2000, 871_973, 1_000_000, 10_000_000])
def test_sizes_are_the_histogram(rows: int) -> None:
    found = backlogs.sizes(rows)
    assert (len(found), sum(found), min(found) >= 1) == (501, rows, True)
    if rows >= 871_973:
        large = found[: backlogs.LARGE_CLASSES]
        assert 0.92 < sum(large) / rows < 0.97
        assert min(large) > 0.8 * 1001 * rows / 871_973


# --- arithmetic ----------------------------------------------------------------------------------------


def test_arms_take_turns_and_medians_are_quoted() -> None:
    order: list[str] = []
    values = {"ours": iter([1.0, 9.0, 2.0]), "limit": iter([5.0, 4.0, 60.0])}

    def arm(name: str) -> measure.Arm:
        def turn() -> float:
            order.append(name)
            return next(values[name])

        return turn

    assert measure.alternate({name: arm(name) for name in values}) == {"ours": 2.0, "limit": 5.0}
    assert order == ["ours", "limit", "limit", "ours", "ours", "limit"]


@pytest.mark.parametrize(
    ("figure", "limit", "less", "ratio"),
    [
        (600.0, 1000.0, False, 0.6),
        (0.1, 0.2, True, 2.0),
        (5.0, None, False, None),
        (5.0, 0.0, False, None),
        (0.0, 5.0, True, None),
    ],
)
def test_ratio(figure: float, limit: float | None, less: bool, ratio: float | None) -> None:
    assert measure.ratio(figure, limit, less_is_better=less) == ratio


@pytest.mark.parametrize(
    ("limit", "bare", "faulty"),
    [(35.0, 100.0, False), (34.9, 100.0, True), (None, 100.0, False), (1.0, None, False)],
)
def test_a_limit_far_below_the_bare_statements_is_faulty(
    limit: float | None, bare: float | None, faulty: bool
) -> None:
    assert bool(measure.fault_of(limit, bare)) is faulty


def test_error_is_a_tenth_key_only_where_there_is_one() -> None:
    figure = Figure(bench="b", case="c", backend="sqlite", rows=1, figure=12345.6, unit="jobs/s")
    assert list(figure.record()) == KEYS
    assert figure.record()["figure"] == 12350
    told = Figure(bench="b", case="c", backend="sqlite", rows=1, figure=1, unit="s", error="void").record()
    assert [*told] == [*KEYS, "error"]


def test_per_second_stops_at_the_number_and_where_nothing_is_left() -> None:
    steps = iter([10, 10, 10, 0])
    assert measure.per_second(lambda: next(steps), 20, 60) > 0
    assert list(steps) == [10, 0]
    assert measure.per_second(lambda: 0, 20, 60) == 0


def test_lower_bound_of_merges() -> None:
    assert planning.lower_bound([4, 4, 4], 4) == 3
    assert planning.lower_bound([1, 1, 1, 1], 4) == 1
    assert planning.lower_bound([3, 3, 2, 2], 4) == 3
    assert planning.lower_bound([3, 3, 3], 4) == 3  # by bytes alone it would be 3 as well
    assert planning.lower_bound([21, 21, 21], 40) == 3  # by bytes alone it would be 2


# --- the server ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("setting", ["fsync", "synchronous_commit", "full_page_writes"])
def test_a_careless_server_is_refused(setting: str) -> None:
    settings = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}
    refuse_careless(settings)
    with pytest.raises(UsageError, match=f"{setting}=off"):
        refuse_careless({**settings, setting: "off"})


@POSTGRES
def test_the_servers_own_answer_decides(postgres: Postgres) -> None:
    """The tests' server is careless on purpose."""
    words = f"host={postgres.own.home} port={postgres.own.port} user=tierflow dbname=postgres"
    for dsn in (postgres.url("postgres"), words):
        result = run("bench", "match", "--backend", "postgres", "--rows", ROWS, "--dsn", dsn)
        assert result.exit_code == 2, result.output
        assert "fsync=off, synchronous_commit=off, full_page_writes=off" in result.stderr


def test_dsn_as_url_or_as_words() -> None:
    url = address("postgresql://anna@db.example:5433/work")
    assert (url.drivername, url.username, url.port) == ("postgresql+psycopg", "anna", 5433)
    words = address("host=/run/pg port=5433 user=anna dbname=work")
    assert (words.database, words.username, words.query["host"]) == ("work", "anna", "/run/pg")
    with pytest.raises(UsageError):
        address("no such thing")


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["queue", "--case", "snapshot"], "PostgreSQL only"),
        (["queue", "--case", "nothing"], "no case 'nothing'"),
        (["queue", "--dsn", "postgresql:///x"], "--dsn is a PostgreSQL server's"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_runs(args: list[str], says: str) -> None:
    result = run("bench", *args)
    assert result.exit_code == 2
    assert says in result.stderr


def test_deep_is_for_many_rows_or_by_name() -> None:
    assert "deep" not in [one.name for one in cases.chosen("match", "postgres", ROWS, None)]
    assert "deep" in [one.name for one in cases.chosen("match", "postgres", 1_000_000, None)]
    assert [one.name for one in cases.chosen("match", "postgres", ROWS, "deep")] == ["deep"]


def test_help_names_every_case() -> None:
    for bench, members in cases.BENCHES.items():
        for case in members:
            if case.name != "share":
                assert re.search(rf"\b{case.name}\b", HELP[bench]), case.name
            assert case.says


# --- the end -------------------------------------------------------------------------------------------


@pytest.fixture
def temporary(tmp_path: Path) -> Iterator[Path]:
    """Short enough for a socket's path, and open to the server's user."""
    home = Path(f"/tmp/tfb{os.getpid()}")
    home.mkdir(mode=0o777)
    home.chmod(0o777)
    yield home
    home.rmdir()


@POSTGRES
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_nothing_is_left_after_a_signal(temporary: Path, name: str) -> None:
    import signal

    # A shell's background job ignores SIGINT, and so would all its children.
    heed = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    command = [sys.executable, "-c", f"{heed}; from gridapp.cli.main import main; main()"]
    bench: subprocess.Popen[Any] = subprocess.Popen(
        [*command, "bench", "match", "--backend", "postgres", "--rows", "300000"],
        env={**os.environ, "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        while bench.poll() is None and not list(temporary.glob("tfbench*/data/postmaster.pid")):
            time.sleep(0.05)
        assert bench.stderr is not None
        assert b"loading" in bench.stderr.readline()
        bench.send_signal(getattr(signal, name))
        assert bench.wait(60) in (130, 143)
    finally:
        bench.kill()
        bench.communicate()
    assert not list(temporary.iterdir())
