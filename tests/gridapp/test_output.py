"""What commands print: JSON in a pipe, tables on a terminal, nothing that could drive one."""

from __future__ import annotations

import io
import json
import unicodedata
from contextlib import redirect_stdout
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridapp.cli import output

HOSTILE = "\x1b[2J\x1b]0;title\x07a\x9b31mb\u202ec\x00\nd"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(stream: io.StringIO, *args: Any, **options: Any) -> str:
    """What `output.show` writes to that stdout."""
    with redirect_stdout(stream), pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "120")
        patch.setenv("NO_COLOR", "1")
        patch.setenv("TERM", "dumb")
        output.show(*args, **options)
    return stream.getvalue()


@given(st.text())
def test_safe_text_is_one_line_without_controls(text: str) -> None:
    clean = output.safe(text)
    assert not [char for char in clean if unicodedata.category(char) in ("Cc", "Cs")]
    assert output.safe(clean) == clean


def test_escape_sequences_go_whole() -> None:
    assert output.safe(HOSTILE) == "a31mbc d"
    assert output.safe("\x1b[1;31mred\x1b[0m") == "red"
    assert output.safe("Größe /store/mc") == "Größe /store/mc"


def test_a_change_is_told_to_people_and_a_list_in_json() -> None:
    record = {"energy": output.Change(7.7, 8.0), "collision": output.Change(None, "AuAu")}
    assert output.cell(record) == "energy 7.7 -> 8, collision AuAu"
    assert json.loads(shown(io.StringIO(), record)) == {"energy": [7.7, 8.0], "collision": [None, "AuAu"]}


def test_moments_are_told_to_the_second() -> None:
    assert output.cell("until 2026-11-22T10:19:17.352638+00:00") == "until 2026-11-22T10:19:17Z"


@given(st.lists(st.dictionaries(st.text(), st.text() | st.integers() | st.none())))
def test_a_pipe_gets_one_json_document(rows: list[dict[str, Any]]) -> None:
    text = shown(io.StringIO(), rows)
    assert json.loads(text) == rows
    assert text.isascii()
    assert text.count("\n") == 1


def test_a_terminal_gets_a_table_of_the_columns() -> None:
    rows = [{"name": "first", "units": {"done": 3}, "ok": True, "hidden": "x", "rate": 1.23456}]
    text = shown(Terminal(), rows, ("name", "units.done", "ok", "rate", "none"))
    heading, row = text.splitlines()
    assert heading.split() == ["name", "units", "done", "ok", "rate", "none"]
    assert row.split() == ["first", "3", "yes", "1.235", "-"]


def test_a_table_strips_what_drives_terminals_and_takes_no_markup() -> None:
    text = shown(Terminal(), [{"name": HOSTILE + "[bold]x[/bold]"}])
    assert "a31mbc d[bold]x[/bold]" in text
    assert "\x1b" not in text


def test_a_record_is_lines_and_tables() -> None:
    record = {"name": "/A/B/C", "states": {"DONE": 2, "READY": 1}, "tags": ["x", "y"], "of": [{"id": 7}]}
    lines = [line.split() for line in shown(Terminal(), record).splitlines() if line.strip()]
    assert lines[:3] == [["name", "/A/B/C"], ["states", "DONE", "2,", "READY", "1"], ["tags", "x,", "y"]]
    assert lines[3:] == [["of:"], ["id"], ["7"]]


def test_what_is_too_wide_for_a_table_is_lines() -> None:
    names = ["lfn", "src", "dst", "error", "note"]
    rows = [{name: f"{name}{n}" + "x" * 60 for name in names} for n in range(2)]
    lines = [line.split() for line in shown(Terminal(), {"files": rows}).splitlines() if line]
    assert [line[0] for line in lines] == ["files:", *names, *names]
    assert lines[1][1] == rows[0]["lfn"]


def test_columns_that_may_go_go_before_a_table_does() -> None:
    rows = [{name: name[0] * 30 for name in ("ape", "bear", "cat", "dog")}]
    text = shown(Terminal(), rows, ("ape", "bear?", "cat", "dog?"))
    assert text.split() == ["ape", "bear", "cat", *(letter * 30 for letter in "abc")]
    assert list(json.loads(shown(io.StringIO(), rows, ("ape", "bear?")))[0]) == ["ape", "bear", "cat", "dog"]


def test_a_table_squeezes_its_sentences_not_its_names() -> None:
    rows = [{"name": "n" * 38, "reason": "why " * 40, "of many": 7, "last": "x"}]
    text = shown(Terminal(), rows)
    assert "n" * 38 in text
    assert text.splitlines()[0].split() == ["name", "reason", "of", "many", "last"]
    assert all(len(line) <= 120 for line in text.splitlines())
    assert text.splitlines()[1].split()[-2:] == ["7", "x"]


def test_a_list_within_a_record_has_columns_of_its_own() -> None:
    record = {"name": "x", "tasks": [{"name": "t", "units": {"done": 1}, "hidden": 2}]}
    text = shown(Terminal(), record, tables={"tasks": ("name", "units.done")})
    assert text.split() == ["name", "x", "tasks:", "name", "units", "done", "t", "1"]


def test_sentences_have_lines_of_their_own_and_long_ones_are_wrapped_at_words() -> None:
    long = " ".join(["word"] * 40)
    lines = shown(Terminal(), {"because": ["one, two", long], "name": "n" * 150}).splitlines()
    assert lines[0] == "because  one, two"
    assert len(lines) == 4
    assert all(len(line) <= 120 for line in lines[:3])
    assert [line[:9] for line in lines[1:3]] == [" " * 9] * 2
    assert lines[3] == "name     " + "n" * 150


def test_a_record_too_long_for_a_line_is_a_part_of_its_own() -> None:
    inner = {"site": "T2_DE_Ash", "error": "x" * 60}
    text = shown(Terminal(), {"what": "w", "evidence": {"name": 3, "last": inner}})
    lines = [line.split() for line in text.splitlines() if line]
    assert lines[:3] == [["what", "w"], ["evidence:"], ["name", "3"]]
    assert lines[3][:3] == ["last", "site", "T2_DE_Ash,"]
    short = shown(Terminal(), {"jobs": {"process": {"DONE": 1}, "merge": {}}})
    assert short == "jobs  process DONE 1, merge -\n"


def test_people_get_seconds_and_whole_numbers() -> None:
    assert output.cell("2026-03-01T12:00:00.250Z") == "2026-03-01T12:00:00Z"
    assert (output.cell(21600.0), output.cell(0.25)) == ("21600", "0.25")
    assert output.cell({"done": 1, "sentence": "1 of 2 events done"}) == "1 of 2 events done"


def test_json_on_a_terminal_when_asked() -> None:
    text = shown(Terminal(), [{"name": HOSTILE}], as_json=True)
    assert json.loads(text) == [{"name": HOSTILE}]
    assert "\x1b" not in text


def test_nothing_to_show_is_said_aside(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(Terminal(), []) == ""
    assert capsys.readouterr().err == "nothing to show\n"


def test_an_empty_list_in_a_pipe_is_a_document() -> None:
    assert shown(io.StringIO(), []) == "[]\n"


def test_errors_are_two_lines_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    output.complain("no\x1b[2J such\nthing", "look elsewhere")
    assert capsys.readouterr() == ("", "error: no such thing\nhint: look elsewhere\n")
    output.complain("line 1: no LFN", "line 2: no LFN\nnothing was written")
    assert capsys.readouterr() == (
        "",
        "error: line 1: no LFN\nhint: line 2: no LFN\n      nothing was written\n",
    )
