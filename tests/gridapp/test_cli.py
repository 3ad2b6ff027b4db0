"""The commands: what they answer, how they fail, what they load, and that the page about them is true."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
import embedded_grid
import pytest
from click.testing import CliRunner, Result

from gridapp import session
from gridapp.cli.main import COMMANDS, main
from gridapp.cli.reference import document
from gridcore.db import insert_rows
from gridcore.db.flock import file_lock
from gridcore.errors import UsageError
from gridcore.tables import heartbeat

REPOSITORY = Path(__file__).parents[2]
#: `hint="see: tierflow task list"`: commands as messages quote them.
QUOTED = re.compile(r"(?:see|run|with|approval): tierflow ([a-z]+) ?([a-z]*)")
HEAVY = ("sqlalchemy", "pydantic", "fastapi", "rich", "alembic", "structlog")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return embedded_grid.make(tmp_path_factory.mktemp("template") / "grid")


@pytest.fixture
def grid(template: Path, tmp_path: Path) -> Path:
    return embedded_grid.copy(template, tmp_path / "grid")


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("TIERFLOW_")]:
        monkeypatch.delenv(name)


def run(*args: object) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


def answer(*args: object) -> Any:
    result = run(*args)
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def verbs(command: click.Command, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name, verb in command.commands.items():
            yield from verbs(verb, (*path, name))


def tree() -> dict[tuple[str, ...], click.Command]:
    ctx = click.Context(main, info_name="tierflow")
    found = {}
    for name in COMMANDS:
        command = main.get_command(ctx, name)
        assert command is not None
        found.update(verbs(command, (name,)))
    return found


# --- the command tree ----------------------------------------------------------------------------------


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from gridapp.cli.main import main\n"
        "try: main(['--help'])\n"
        f"except SystemExit: print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stderr == "[]\n"
    assert all(f"  {name} " in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("path", tree(), ids=" ".join)
def test_every_command_has_help_and_a_place_in_the_docs(path: tuple[str, ...]) -> None:
    result = run(*path, "--help")
    assert result.exit_code == 0
    command = tree()[path]
    assert command.help
    heading = f"### `tierflow {' '.join(path)}"
    assert isinstance(command, click.Group) or heading in document()


def test_the_table_says_what_the_commands_say() -> None:
    for name, entry in COMMANDS.items():
        assert (tree()[(name,)].help or "").splitlines()[0].startswith(entry.help[:20])


def test_the_page_is_up_to_date() -> None:
    page = REPOSITORY / "docs" / "cli.md"
    assert page.read_text(encoding="utf-8") == document(), "write it anew from gridapp.cli.reference"


def test_lists_and_shows_take_json() -> None:
    for path, command in tree().items():
        if path[-1] in ("list", "show"):
            assert "--json" in [name for param in command.params for name in param.opts], path


def test_every_command_that_a_hint_quotes_is_one() -> None:
    known = tree()
    for package in ("gridcore", "catalogs", "prodsys", "datamgmt", "agents", "gridapp"):
        for path in (REPOSITORY / package).rglob("*.py"):
            for noun, verb in QUOTED.findall(path.read_text(encoding="utf-8")):
                command = known.get((noun,))
                assert command is not None, f"{path}: tierflow {noun}"
                assert not isinstance(command, click.Group) or (noun, verb) in known, f"{path}: {noun} {verb}"


# --- answers -------------------------------------------------------------------------------------------

LISTS = (
    ("request", "list"),
    ("task", "list"),
    ("job", "list"),
    ("dataset", "list"),
    ("subscription", "list"),
    ("transfer", "list"),
    ("agent", "list"),
)


@pytest.mark.parametrize("command", LISTS, ids=" ".join)
def test_lists_of_a_new_grid_are_empty(grid: Path, command: tuple[str, ...]) -> None:
    assert answer("--dir", grid, *command) == []


def test_the_grid_is_listed(grid: Path) -> None:
    assert len(answer("site", "list", "--dir", grid)) == 6
    assert len(answer("link", "list", "--dir", grid)) == 12
    assert {one["path"] for one in answer("share", "show", "--dir", grid)} == {"production", "analysis"}


def test_a_request_from_hand_in_to_why(grid: Path, tmp_path: Path) -> None:
    path = embedded_grid.write_request(tmp_path)
    made = answer("--dir", grid, "request", "submit", path, "--client-id", "one")
    assert answer("--dir", grid, "request", "submit", path, "--client-id", "one") == made
    assert [one["state"] for one in answer("--dir", grid, "request", "list")] == ["RUNNING"]
    assert answer("--dir", grid, "request", "show", made["request"])["name"] == "small"
    (task,) = made["tasks"]
    assert [one["name"] for one in answer("--dir", grid, "task", "list")] == [task]
    assert answer("--dir", grid, "task", "show", task)["units"]["total"] == 40
    assert answer("--dir", grid, "job", "list", "--task", task) == []
    assert [one["name"] for one in answer("--dir", grid, "dataset", "list", "/Small/*")] == [
        "/Small/Test-v1/GEN"
    ]
    assert answer("--dir", grid, "dataset", "show", "/Small/Test-v1/GEN")["state"] == "OPEN"
    assert answer("--dir", grid, "why", task)["because"]


def test_a_subscription(grid: Path, tmp_path: Path) -> None:
    answer("--dir", grid, "request", "submit", embedded_grid.write_request(tmp_path))
    what = ("subscribe", "/Small/Test-v1/GEN", "T0_CH_Oak_Disk", "--custodial")
    assert answer("--dir", grid, *what, "--dry-run")["subscription"] is None
    assert answer("--dir", grid, "subscription", "list") == []
    made = answer("--dir", grid, *what)
    shown = answer("--dir", grid, "subscription", "show", made["subscription"])
    assert (shown["se"], shown["custodial"], shown["priority"]) == ("T0_CH_Oak_Disk", True, 0)
    again = answer("--dir", grid, *what, "--priority", "5")
    assert (again["subscription"], again["new"]) == (made["subscription"], False)
    for verb, state in (("suspend", "SUSPENDED"), ("resume", "ACTIVE"), ("remove", "REMOVED")):
        changed = answer("--dir", grid, "subscription", verb, made["subscription"])
        assert (changed["state"], changed["changed"]) == (state, True)
        assert answer("--dir", grid, "subscription", verb, made["subscription"])["changed"] is False


def test_links_are_switched_and_it_is_written_down(grid: Path) -> None:
    ends = ("T0_CH_Oak_Disk", "T1_DE_Alder_Disk")

    def state() -> list[tuple[str, str | None]]:
        found = answer("--dir", grid, "link", "list")
        return [(one["state"], one["note"]) for one in found if (one["src"], one["dst"]) == ends]

    answer("--dir", grid, "link", "disable", *ends, "--note", "fibre cut")
    assert state() == [("DISABLED", "fibre cut")]
    answer("--dir", grid, "link", "enable", *ends)
    assert state() == [("OPEN", None)]


#: Where --distance and --rate-cap would take part in sums, and the others be cut off by a database.
WRONG_OF_LINKS = (
    ("--park", "--open"),
    ("--distance", "nan"),
    ("--rate-cap", "nan"),
    ("--rate-cap", "inf"),
    ("--window", "9" * 20),
    ("--note", "x" * 401),
    ("--note", "bell \a"),
    ("--park", "--until", "2001-01-01"),
)


def test_links_are_bounded_and_held_by_hand(grid: Path) -> None:
    ends = ("T0_CH_Oak_Disk", "T1_DE_Alder_Disk")

    def shown() -> dict[str, object]:
        return answer("--dir", grid, "link", "show", *ends)  # type: ignore[no-any-return]

    before = shown()
    change = ("--window", "7", "--rate-cap", "20", "--distance", "3", "--park", "--note", "tests")
    for wrong in WRONG_OF_LINKS:
        refused = run("--dir", grid, "link", "set", *ends, *wrong)
        assert refused.exit_code == UsageError.exit_code, wrong
        assert len(refused.stderr.splitlines()) == 2, "what is wrong, and a hint"
    dry = answer("--dir", grid, "link", "set", *ends, *change, "--dry-run")
    assert dry["preview"]["changed"] == {}
    assert shown() == before
    answer("--dir", grid, "link", "set", *ends, *change, "--until", "3d")
    after = shown()
    assert (after["state"], after["forced"], after["note"]) == ("PARKED", "PARKED", "tests")
    assert (after["window_max"], after["rate_cap"], after["distance"]) == (7, 20e6, 3.0)
    assert after["forced_by"]
    assert after["forced_until"]
    answer("--dir", grid, "link", "set", *ends, "--auto", "--window", "0", "--rate-cap", "0")
    after = shown()
    assert (after["state"], after["forced_by"], after["window_max"], after["rate_cap"]) == (
        "OPEN",
        None,
        None,
        None,
    )


def test_words_on_links_that_make_no_sense_are_refused(grid: Path) -> None:
    ends = ("T0_CH_Oak_Disk", "T1_DE_Alder_Disk")
    for verb, said in (
        (["probe", *ends], "is not parked"),
        (["set", *ends], "nothing is to be changed"),
        (["show", ends[0], "T9_Nowhere"], "there is no link"),
        (["set", ends[0], ends[0], "--park"], "there is no link"),
    ):
        result = CliRunner().invoke(main, ["--dir", str(grid), "link", *verb])
        assert result.exit_code != 0
        assert said in result.stderr


def test_apply_and_export(grid: Path, tmp_path: Path) -> None:
    assert len(answer("--dir", grid, "export", tmp_path / "out")) == 7
    assert answer("--dir", grid, "apply", tmp_path / "out", "--prune") == []
    text = (tmp_path / "out" / "grid.toml").read_text()
    (tmp_path / "out" / "grid.toml").write_text(text + '\n[[site]]\nname = "T3_XX_Fir"\n')
    planned = answer("--dir", grid, "apply", tmp_path / "out", "--dry-run")
    assert planned == [{"kind": "site", "name": "T3_XX_Fir", "action": "add", "detail": ""}]
    assert len(answer("--dir", grid, "site", "list")) == 6
    assert answer("--dir", grid, "apply", tmp_path / "out") == planned
    assert len(answer("--dir", grid, "site", "list")) == 7


def test_pfns(grid: Path) -> None:
    (found,) = answer("--dir", grid, "tfc", "lfn2pfn", "T0_CH_Oak_Disk", "/store/mc/x.root")
    assert found["pfn"].endswith("/storage/T0_CH_Oak_Disk/store/mc/x.root")


def test_catalogues_are_linted(tmp_path: Path) -> None:
    catalogs = sorted((REPOSITORY / "etc" / "embedded" / "tfc").glob("*.xml"))
    assert catalogs
    for path in catalogs:
        assert answer("tfc", "lint", path) == []
    loop = tmp_path / "storage.xml"
    loop.write_text(
        '<storage-mapping><lfn-to-pfn protocol="a" chain="a" path-match="(.*)" result="$1"/>'
        "</storage-mapping>"
    )
    result = run("tfc", "lint", loop)
    assert result.exit_code == 1
    assert [one["severity"] for one in json.loads(result.stdout)] == ["error"]


def test_the_schema(grid: Path, tmp_path: Path) -> None:
    head = answer("--dir", grid, "db", "current")
    assert head["current"] == head["needed"]
    assert answer("--dir", grid, "db", "check") == []
    assert answer("--dir", tmp_path / "other", "db", "upgrade") == head


def test_the_doctor_finds_a_healthy_grid_and_an_ill_one(grid: Path) -> None:
    assert all(one["ok"] for one in answer("--dir", grid, "doctor"))
    (grid / "tierflow.db").chmod(0o666)
    result = run("--dir", grid, "doctor")
    assert result.exit_code == 1
    (ill,) = [one for one in json.loads(result.stdout) if not one["ok"]]
    assert ill["check"] == "permissions"
    assert "tierflow.db" in ill["finding"]
    assert ill["cure"]


def test_the_doctor_knows_silent_and_failing_agents(grid: Path) -> None:
    def beat(agent: str, state: str, minutes: int) -> dict[str, Any]:
        then = datetime.now(UTC) - timedelta(minutes=minutes)
        who = {"agent": agent, "owner": f"{agent}@here", "host": "here", "pid": 1, "note": "disk full"}
        return {**who, "state": state, "started_at": then, "beat_at": then, "cycles": 1}

    installation = session.connect(grid, None)
    rows = [beat("router", "running", 30), beat("merger", "failing", 0), beat("janitor", "stopped", 30)]
    installation.database.transaction(lambda conn: insert_rows(conn, heartbeat, rows))
    installation.close()
    result = run("--dir", grid, "doctor")
    assert result.exit_code == 1
    ill = {one["finding"].split()[0]: one for one in json.loads(result.stdout) if not one["ok"]}
    assert set(ill) == {"router", "merger"}
    assert "disk full" in ill["merger"]["finding"]


def test_the_doctor_looks_no_further_where_the_schema_is_another(grid: Path) -> None:
    with sqlite3.connect(grid / "tierflow.db") as conn:
        conn.execute("UPDATE alembic_version SET version_num = '9999'")
    conn.close()
    result = run("--dir", grid, "doctor")
    assert result.exit_code == 1
    assert [one["check"] for one in json.loads(result.stdout)][-1] == "schema"
    assert run("--dir", grid, "site", "list").exit_code == 2


# --- failing -------------------------------------------------------------------------------------------


def test_exit_codes(grid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at = ("--dir", grid)
    path = embedded_grid.write_request(tmp_path)
    outside = embedded_grid.REQUEST.replace("/store/mc", "/store/user/somebody")
    denied = embedded_grid.write_request(tmp_path, outside, "denied.toml")
    assert run(*at, "site", "list").exit_code == 0
    assert run(*at, "request", "submit", path, "--client-id", "x").exit_code == 0
    path.write_text(embedded_grid.REQUEST.replace("40", "50"))
    assert run(*at, "request", "submit", path, "--client-id", "x").exit_code == 1
    assert run(*at, "request", "submit", tmp_path / "none.toml").exit_code == 2
    assert run(*at, "request", "show", 99).exit_code == 3
    assert run(*at, "request", "submit", denied).exit_code == 4
    monkeypatch.setattr("gridcore.db.engine.file_lock", lambda path, wait: file_lock(path, 0.05))
    with file_lock(f"{grid / 'tierflow.db'}.lock", 1):
        assert run(*at, "link", "enable", "T0_CH_Oak_Disk", "T1_DE_Alder_Disk").exit_code == 5


def test_an_error_is_a_line_and_a_hint(grid: Path) -> None:
    result = run("--dir", grid, "task", "show", "nosuch")
    assert result.stdout == ""
    error, hint = result.stderr.splitlines()
    assert error == "error: there is no task nosuch"
    assert hint.startswith("hint: ")


def test_no_installation_is_said_and_none_is_made(tmp_path: Path) -> None:
    for command in (("site", "list"), ("doctor",), ("db", "current"), ("agent", "run", "janitor")):
        result = run("--dir", tmp_path / "none", *command)
        assert result.exit_code == 2
        assert "tierflow up --dir DIR" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "args",
    [
        ("nosuch",),
        ("task", "nosuch"),
        ("task", "list", "--nosuch"),
        ("job", "list", "--limit", "0"),
        ("why",),
    ],
    ids=" ".join,
)
def test_wrong_usage(args: tuple[str, ...]) -> None:
    result = run(*args)
    assert result.exit_code == 2
    assert result.stdout == ""


def test_a_near_name_is_suggested() -> None:
    assert "Did you mean 'task'" in run("tsak", "list").stderr


def test_unknown_agents_are_named(grid: Path) -> None:
    result = run("--dir", grid, "agent", "run", "nosuch")
    assert result.exit_code == 2
    assert "janitor" in result.stderr


def test_a_surprise_is_one_line_unless_debugged(grid: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ValueError("password=hidden\nsecond line")

    monkeypatch.setattr("gridapp.session.connect", fail)
    quiet = run("--dir", grid, "site", "list")
    assert quiet.exit_code == 1
    assert "unexpected ValueError: password=***" in quiet.stderr
    assert "Traceback" not in quiet.stderr
    assert "Traceback" in run("--debug", "--dir", grid, "site", "list").stderr


def test_an_interrupt_is_130(grid: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gridapp.session.connect", interrupt)
    assert run("--dir", grid, "site", "list").exit_code == 130


# --- where the installation is -------------------------------------------------------------------------


def test_the_environment_stands_in_for_options(grid: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIERFLOW_DIR", str(grid))
    assert len(answer("site", "list")) == 6
    monkeypatch.setenv("TIERFLOW_JOB_LIST_STATE", "nosuch")
    assert "nosuch" in run("job", "list").stderr


def test_an_option_beats_the_environment(grid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIERFLOW_DIR", str(tmp_path / "none"))
    assert len(answer("site", "list", "--dir", grid)) == 6
    assert len(answer("--dir", grid, "site", "list")) == 6


def test_settings_lie_beside_the_database_or_where_told(grid: Path, tmp_path: Path) -> None:
    config = tmp_path / "mine.toml"
    config.write_text(f'dir = "{grid}"\n[work]\nsurprise = 1\n')
    result = run("--config", config, "site", "list")
    assert result.exit_code == 2
    assert "surprise" in result.stderr
    config.write_text(f'dir = "{grid}"\n')
    assert len(answer("site", "list", "--config", config)) == 6
    (grid / "tierflow.toml").write_text("[lease]\nnosuch = 1\n")
    assert run("--dir", grid, "site", "list").exit_code == 2


# --- real processes ------------------------------------------------------------------------------------


def launch(*args: object, **options: Any) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", "from gridapp.cli.main import main; main()", *map(str, args)]
    return subprocess.Popen(command, cwd=REPOSITORY, **options)


def test_a_table_on_a_terminal(grid: Path) -> None:
    ours, theirs = pty.openpty()
    process = launch("--dir", grid, "site", "list", stdout=theirs, env={**os.environ, "COLUMNS": "150"})
    os.close(theirs)
    text = b""
    try:
        while chunk := os.read(ours, 65536):
            text += chunk
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    assert process.wait(60) == 0
    assert b"T1_DE_Alder_local" in text
    assert b'"name"' not in text


def test_a_closed_pipe_is_no_news(grid: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    process = launch("--dir", grid, "link", "list", stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    _, said = process.communicate(timeout=60)
    assert said == b""
    assert process.returncode in (1, -signal.SIGPIPE)


def test_the_launcher_can_be_run() -> None:
    launcher = REPOSITORY / "bin" / "tierflow"
    assert launcher.stat().st_mode & stat.S_IXUSR


# --- orders by hand ------------------------------------------------------------------------------------


def test_orders_say_what_they_would_do_and_then_do_it(grid: Path, tmp_path: Path) -> None:
    path = embedded_grid.write_request(tmp_path)
    made = answer("--dir", grid, "request", "submit", path)
    (task,) = made["tasks"]
    none: dict[str, int] = {}
    nothing = {
        "verb": "hold",
        "due": none,
        "left": none,
        "tasks": none,
        "sites": none,
        "operation": None,
        "changed": 0,
    }
    assert answer("--dir", grid, "job", "hold", "--task", task) == nothing
    dry = run("--dir", grid, "task", "kill", task, "--dry-run")
    assert (json.loads(dry.stdout)["state"], dry.stderr) == ("ACTIVE", "nothing was written\n")
    assert answer("--dir", grid, "task", "retry", task)["state"] == "ACTIVE"
    assert answer("--dir", grid, "task", "kill", task)["state"] == "KILLED"
    aborted = answer("--dir", grid, "request", "abort", made["request"])
    assert (aborted["state"], [one["task"] for one in aborted["tasks"]]) == ("ABORTED", [task])


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["job", "kill"], 2),
        (["job", "kill", "T/1", "--task", "T"], 2),
        (["job", "retry", "--task", "T", "--state", "WEIRD"], 2),
        (["job", "release", "T/1"], 3),
        (["task", "kill", "T"], 3),
        (["request", "abort", "7"], 3),
    ],
)
def test_orders_that_mean_nothing(grid: Path, args: list[str], code: int) -> None:
    result = run("--dir", grid, *args)
    assert result.exit_code == code
    assert "hint: " in result.stderr
