"""The demo's plan: where its database is, what is refused before anything is written, what is resumed."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gridapp import session
from gridapp.demo.plan import Options, Plan, prepare
from gridcore.db import Database
from gridcore.errors import UsageError

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("TIERFLOW_")]:
        monkeypatch.delenv(name)


def plan(directory: Path, database: str | None = None) -> Plan:
    return prepare(Options(payload="toy", database=database), directory, NOW)


def test_a_demo_without_database_gets_a_file_of_its_own(tmp_path: Path) -> None:
    made = plan(tmp_path / "demo")
    assert made.options.database is None
    assert not (made.directory / "tierflow.toml").exists()


def test_every_command_finds_the_database_by_the_directory(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/elsewhere.db"
    made = plan(tmp_path / "demo", url)
    chosen = session.settings(made.directory, None)
    assert chosen.database_url() == url
    assert chosen.agent.cycle_s < 1  # the embedded grid's


def test_the_database_may_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{tmp_path}/elsewhere.db"
    monkeypatch.setenv("TIERFLOW_DATABASE__URL", url)
    assert plan(tmp_path / "demo").options.database == url


def test_a_resumed_demo_keeps_its_database(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/elsewhere.db"
    first = plan(tmp_path / "demo", url)
    made = Database(url)  # as the first run left it
    made.transaction(lambda conn: conn.exec_driver_sql("CREATE TABLE job (id INTEGER)"))
    made.close()
    assert plan(tmp_path / "demo") == plan(tmp_path / "demo", url) == first
    with pytest.raises(UsageError, match="other options"):
        plan(tmp_path / "demo", f"sqlite:///{tmp_path}/third.db")


def test_a_database_that_holds_anything_is_refused(database: Database, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not empty"):
        plan(tmp_path / "demo", database.url.render_as_string(hide_password=False))
    assert not (tmp_path / "demo").exists()


def test_a_password_is_never_written_down(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="password") as caught:
        plan(tmp_path / "demo", "postgresql+psycopg://ann:s3cret@nowhere/demo")
    assert "password_file" in str(caught.value.hint)
    assert not (tmp_path / "demo").exists()
