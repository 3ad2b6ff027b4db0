"""Logs: one record one line, fields and context, and no secret in any of them."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
import threading
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridcore import log
from gridcore.errors import UsageError

LOG = log.get("gridcore.test")


@pytest.fixture(autouse=True)
def _restored_root():
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger("apscheduler").setLevel(logging.NOTSET)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def written(as_json: bool | None = None, stream: io.StringIO | None = None):
    target = io.StringIO() if stream is None else stream
    log.configure("info", as_json, target)
    handlers = logging.getLogger().handlers
    # pytest keeps a copy of what is logged, which xdist cannot send where it holds a lone surrogate.
    handlers[:] = [one for one in handlers if getattr(one, "stream", None) is target]
    others = {one.ident for one in threading.enumerate()} - {threading.get_ident()}  # left by other tests
    handlers[0].addFilter(lambda record: record.thread not in others)
    return target


def test_a_file_gets_json_lines():
    out = written()
    LOG.info("claimed", jobs=7, site="T2_RU_Elm", left=None)
    record = json.loads(out.getvalue())
    assert record.pop("timestamp").endswith("Z")
    assert record == {
        "event": "claimed", "level": "info", "logger": "gridcore.test", "jobs": 7, "site": "T2_RU_Elm",
        "left": None,
    }  # fmt: skip


def test_a_terminal_gets_key_value():
    out = written(stream=Terminal())
    LOG.info("claimed", jobs=7, reason="no free slot", quoted='a"b\\', empty="")
    line = out.getvalue()
    assert line.endswith(
        'info    claimed jobs=7 reason="no free slot" quoted="a\\"b\\\\" empty="" (gridcore.test)\n'
    )


def test_the_context_is_carried_and_ends():
    out = written(True)
    with log.context(agent="merger"), log.context(job="t/1", attempt=2):
        LOG.info("inside")
        other = threading.Thread(target=LOG.info, args=("other thread",))
        other.start()
        other.join()
    LOG.info("outside")
    inside, elsewhere, outside = map(json.loads, out.getvalue().splitlines())
    assert (inside["agent"], inside["job"], inside["attempt"]) == ("merger", "t/1", 2)
    assert "agent" not in elsewhere
    assert "agent" not in outside


def test_fields_cannot_replace_what_the_record_says():
    out = written(True)
    LOG.info("truth", level="critical", timestamp="never", logger="other")
    record = json.loads(out.getvalue())
    assert (record["event"], record["level"], record["logger"]) == ("truth", "info", "gridcore.test")


def test_the_level_holds_and_a_second_configure_replaces_the_first():
    first, second = written(), io.StringIO()
    log.configure("warning", True, second)
    LOG.info("quiet")
    LOG.warning("loud")
    assert first.getvalue() == ""
    assert [json.loads(line)["event"] for line in second.getvalue().splitlines()] == ["loud"]
    with pytest.raises(UsageError, match="verbose"):
        log.configure("verbose")


def test_other_libraries_come_the_same_way():
    out = written(False)
    logging.getLogger("lib").warning("bad %s", "url postgresql://u:pw@h/d\nforged")
    assert "(lib)" in out.getvalue()
    assert "postgresql://u:***@h/d\\u000aforged" in out.getvalue()
    assert out.getvalue().count("\n") == 1


@pytest.mark.parametrize("as_json", [True, False])
def test_a_traceback_cannot_pass_for_records_and_holds_no_secret(as_json):
    out = written(as_json)
    try:
        raise RuntimeError("postgresql://u:hunter2@h/d\n2026-01-01T00:00:00Z info    all is well (x)\x1b[2J")
    except RuntimeError:
        LOG.exception("failed")
    assert "hunter2" not in out.getvalue()
    assert "\x1b" not in out.getvalue()
    assert "RuntimeError" in out.getvalue()
    first, *rest = out.getvalue().splitlines()
    assert "failed" in first
    assert all(line.startswith("    | ") for line in rest)


def test_secrets_are_hidden_by_key_and_by_shape():
    out = written(True)
    jwt = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl"
    LOG.info(
        "all of them",
        password="hunter1",
        api_token="hunter2",
        nested={"Secret": "hunter3", "list": ["token=hunter4", ("postgresql://u:hunt@er5/x@h/d",)]},
        header="Authorization: Bearer hunter6",
        text=f"got {jwt}",
        body='{"password": "hunter7"}',
        url="https://h/x?access_token=hunter8&n=1",
        error=ValueError("secret='hunter9'"),
    )
    line = out.getvalue()
    assert "hunt" not in line
    assert "er5" not in line
    assert jwt[:12] not in line
    assert "n=1" in line
    assert "postgresql://u:***@h/d" in line


def test_what_is_no_secret_stays():
    for text in ("no token: ask an operator", "http://host:8080/a/b", "davs://se:443//store/x.root"):
        assert log.scrub(text) == text


# Lone surrogates are tried apart: a failure that quotes one cannot be sent between test processes.
hostile = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@given(hostile, hostile)
def test_no_text_makes_a_second_line_or_drives_the_terminal(event, value):
    out = written(stream=Terminal())
    LOG.info(event, value=value, mapping={value: event})
    line = out.getvalue()
    assert line.endswith("\n")
    for char in line[:-1]:
        assert unicodedata.category(char) not in ("Cc", "Zl", "Zp", "Cs")
    assert len(line.splitlines()) == 1


@pytest.mark.parametrize("as_json", [False, True])
def test_a_lone_surrogate_is_escaped(as_json: bool):
    out = written(as_json, Terminal())
    LOG.info("bad \ud800 text", value="\udfff")
    assert "\\ud800" in out.getvalue()
    assert out.getvalue().isascii()


@given(hostile, hostile)
def test_any_text_survives_as_json(event, value):
    out = written(True)
    LOG.info("x" + event, value="v" + value)
    record = json.loads(out.getvalue())
    assert record["event"].startswith("x")
    assert record["value"].startswith("v")


def test_importing_it_imports_no_structlog():
    code = (
        "import sys; from gridcore import log, bus; log.get('a').warning('hello'); "
        "sys.exit('structlog' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (run.stdout, run.stderr) == ("", "hello\n")
