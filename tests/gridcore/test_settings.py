"""Settings: layers, refusals in one line, secrets, the embedded profile and the page in docs/."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gridcore import settings
from gridcore.errors import UsageError
from gridcore.settings import load

ROOT = Path(__file__).parents[2]


@pytest.fixture
def toml(tmp_path):
    def write(text: str) -> Path:
        path = tmp_path / "site.toml"
        path.write_text(text)
        return path

    return write


def refusal(*args) -> str:
    with pytest.raises(UsageError) as caught:
        load(*args)
    line = f"{caught.value.message} ({caught.value.hint})"
    assert "\n" not in line
    assert caught.value.hint
    return line


def refusal_or_none(environ) -> str | None:
    try:
        load(None, {}, environ)
    except UsageError:
        return refusal(None, {}, environ)
    return None


def test_the_last_layer_given_wins(toml):
    path = toml("[lease]\nseconds = 100\nheartbeat_s = 10\n[api]\nport = 81")
    found = load(path, {"lease.seconds": 30}, {"TIERFLOW_LEASE__SECONDS": "50", "TIERFLOW_API__PORT": "82"})
    assert (found.lease.seconds, found.lease.heartbeat_s, found.api.port) == (30, 10, 82)
    assert found.retry.base_s == 60


def test_every_key_can_be_set_by_its_variable():
    values = {"dir": "/d", "log.level": "error", "log.json": "true", "database.url": "sqlite:////x"}
    environ = {settings._variable(key): values.get(key, "60000") for key in settings._known()}
    environ[settings._variable("lease.seconds")] = "600000"
    environ[settings._variable("work.lost_after_s")] = "600000"
    found = load(None, {}, environ)
    assert found.log.as_json is True
    assert found.work.python == "60000"
    defaults = load(None, {}, {})
    for name in settings.Settings.model_fields:
        assert getattr(found, name) != getattr(defaults, name)


def test_variables_of_payloads_and_empty_ones_are_no_settings():
    assert load(None, {}, {"TIERFLOW_REPORT": "/x", "TIERFLOW_API__PORT": "", "HOME": "/h"}) == load(
        None, {}, {}
    )


def test_a_flag_that_was_not_given_is_none():
    assert load(None, {"dir": None}, {"TIERFLOW_DIR": "/there"}).dir == Path("/there")


def test_settings_never_change():
    found = load(None, {}, {})
    with pytest.raises(ValidationError):
        found.lease.seconds = 1  # type: ignore[misc]
    with pytest.raises(ValidationError):
        found.dir = Path("/")  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[lease]\nsecnds = 4", ["site.toml: lease.secnds", "did you mean lease.seconds?"]),
        ("seconds = 4", ["site.toml: seconds", "did you mean lease.seconds?"]),
        ("[work]\nworkers = 4", ["work.workers", "transfer.workers"]),
        ("lease = 5", ["lease is a section", "lease.heartbeat_s"]),
        ("[[lease]]\nseconds = 5", ["lease is a section"]),
        ("[nowhere]", ["nowhere", "the sections are"]),
        ("[a.b]\nc = 1", ["a.b.c is no setting"]),
        ("[lease]\nseconds = 'abc'", ["site.toml: lease.seconds = 'abc'", "valid number", "default 300"]),
        ("[lease]\nseconds = nan", ["finite"]),
        ("[lease]\nseconds = -1", ["greater than 0"]),
        ("[api]\nport = 70000", ["api.port = 70000", "65535"]),
        ("[log]\nlevel = 'loud'", ["'debug', 'info', 'warning' or 'error'"]),
        ("[log]\nlevel = 'loud'\njson = 'x'", ["and 1 more"]),
        ("[lease]\nseconds = 10", ["lease.heartbeat_s 60", "lease.seconds 10", "raise lease.seconds"]),
        ("[work]\nlost_after_s = 4", ["work.lost_after_s 4", "lower work.wrapper_heartbeat_s"]),
        ("lease = {", ["site.toml", "a line looks like"]),
        (".".join("a" * 3000) + " = 1", ["site.toml", "recursion"]),
    ],
)
def test_a_bad_file_is_refused_in_one_line(toml, text, words):
    line = refusal(toml(text), {}, {})
    for word in words:
        assert word in line


def test_the_refusal_names_the_layer_that_gave_the_value(toml):
    path = toml("[api]\nport = 8080")
    assert refusal(path, {}, {"TIERFLOW_API__PORT": "x"}).startswith("environment TIERFLOW_API__PORT = 'x'")
    assert refusal(path, {"api.port": -1}, {"TIERFLOW_API__PORT": "1"}).startswith("flag api.port = -1")
    assert "did you mean TIERFLOW_API__PORT?" in refusal(path, {}, {"TIERFLOW_API__PROT": "1"})
    assert "flag api.prot is no setting" in refusal(path, {"api.prot": 1}, {})


def test_unreadable_files_are_refused(tmp_path):
    assert "No such file" in refusal(tmp_path / "none.toml", {}, {})
    assert "directory" in refusal(tmp_path, {}, {})
    latin = tmp_path / "latin.toml"
    latin.write_bytes(b'[api]\nhost = "\xe9"')
    assert "UTF-8" in refusal(latin, {}, {})


@given(st.text(max_size=20), st.text(max_size=20))
def test_no_value_from_the_environment_breaks_the_loader(name, value):
    assert refusal_or_none({"TIERFLOW_" + name: value, "TIERFLOW_LEASE__SECONDS": value}) != ""


def test_paths_in_the_file_are_relative_to_it(toml, tmp_path):
    path = toml('dir = "data"\n[database]\npassword_file = "secret"')
    found = load(path, {}, {})
    assert found.dir == tmp_path / "data"
    assert found.database.password_file == tmp_path / "secret"
    assert load(path, {"dir": "here"}, {}).dir == Path.cwd() / "here"


def test_the_database_url_takes_the_directory_and_the_password(tmp_path):
    assert load(None, {"dir": "/d"}, {}).database_url() == "sqlite:////d/tierflow.db"
    secret = tmp_path / "secret"
    secret.touch(mode=0o600)
    secret.write_text("p@s/s\nrest\n")
    given = {"database.url": "postgresql+psycopg://ann@host:5432/grid", "database.password_file": secret}
    found = load(None, given, {})
    assert found.database_url() == "postgresql+psycopg://ann:p%40s%2Fs@host:5432/grid"
    assert "p@s" not in repr(found) + str(found)
    with pytest.raises(UsageError, match="names no user"):
        load(None, {**given, "database.url": "postgresql+psycopg://host/grid"}, {}).database_url()
    secret.chmod(0o640)
    with pytest.raises(UsageError, match="others can read"):
        found.database_url()
    secret.chmod(0o600)
    secret.write_text("\n")
    with pytest.raises(UsageError, match="no secret"):
        found.database_url()
    secret.unlink()
    with pytest.raises(UsageError, match="No such file"):
        found.database_url()


def test_a_password_in_the_url_is_refused_and_not_shown():
    line = refusal(None, {}, {"TIERFLOW_DATABASE__URL": "postgresql://ann:hunter2@host/grid"})
    assert "hunter2" not in line
    assert "database.password_file" in line
    # An empty one, as embedded servers print it, is none.
    assert load(None, {"database.url": "postgresql://ann:@/grid?host=/tmp"}, {})


def test_the_embedded_profile():
    found = load(ROOT / "etc/embedded/tierflow.toml", {}, {})
    assert (found.lease.seconds, found.lease.heartbeat_s, found.work.lost_after_s) == (6, 1, 4)
    assert (found.agent.cycle_s, found.retry.base_s) == (0.2, 0.5)
    assert (found.block.files, found.block.age_s) == (8, 20)


def test_the_page_in_docs_is_the_generated_one():
    assert (ROOT / "docs/settings.md").read_text() == settings.document()


def test_the_page_is_the_same_on_every_machine():
    code = "from gridcore import settings; print(settings.document(), end='')"
    run = subprocess.run([sys.executable, "-c", code], cwd="/", capture_output=True, text=True, check=True)
    assert run.stdout == settings.document()
    assert sys.executable not in run.stdout
