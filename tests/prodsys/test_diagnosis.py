"""Diagnosis: which class a report or a log speaks for, whatever is in it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prodsys.settling.diagnosis import LINE_MAX, of_report, of_text
from prodsys.settling.retries import EXIT_CODES, ErrorClass


@pytest.mark.parametrize(
    ("text", "expected", "word"),
    [
        ("Exit code 8021", ErrorClass.STAGE_IN, "8021"),
        ("JOB_EXIT_CODE=50660", ErrorClass.MEMORY, "50660"),
        ('<FrameworkError ExitStatus="8001" Type="CMSExeption">', ErrorClass.PAYLOAD, "8001"),
        ("cmsRun exited with status: 65", ErrorClass.PAYLOAD, "own"),
        ("process exited 137", ErrorClass.KILLED, "signal 9"),
        ("return code was -11", ErrorClass.PAYLOAD, "signal 11"),
        ("exit code 0\nstage out\nexit code 60311\nwrapper exit code 151", ErrorClass.STAGE_OUT, "60311"),
        ("exit code 1\nexit code 7", ErrorClass.PAYLOAD, "7"),
        ("killed by signal 9", ErrorClass.KILLED, "signal 9"),
        ("caught SIGXCPU", ErrorClass.TIMEOUT, "24"),
        ("step 3\nKilled\n", ErrorClass.KILLED, "Killed"),
        ("----- Begin Fatal Exception 01-Mar", ErrorClass.PAYLOAD, "Fatal Exception"),
        ("slurmstepd: *** JOB 7 CANCELLED DUE TO TIME LIMIT ***", ErrorClass.TIMEOUT, "TIME LIMIT"),
        ("terminate called: std::bad_alloc", ErrorClass.MEMORY, "bad_alloc"),
        ("write: No space left on device", ErrorClass.SITE, "No space left"),
        ("error_class: stage_out\nexit code 8021", ErrorClass.STAGE_OUT, "stage_out"),
    ],
)
def test_logs(text: str, expected: ErrorClass, word: str) -> None:
    found = of_text(text)
    assert found is not None
    assert (found.error_class, word in found.because) == (expected, True), found


def test_other_hints_are_told_beside_the_class() -> None:
    found = of_text("Out of memory: Killed process 7\nexit code 1")
    assert found is not None
    assert found.error_class == ErrorClass.PAYLOAD
    assert found.also == ("it says 'Out of memory': memory", "it says 'Killed': killed")


@pytest.mark.parametrize(
    "text", ["", "all well\nexit code 0", "signal 0", "error_class: of_mars", "\x00\xff"]
)
def test_a_log_without_a_failure_has_no_class(text: str) -> None:
    assert of_text(text) is None


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"exit_code": 1, "signal": None, "error_class": "stage_out"}, ErrorClass.STAGE_OUT),
        ({"exitCode": 8021, "exitAcronym": "FileReadError"}, ErrorClass.STAGE_IN),
        ({"exit_code": 139, "signal": 11, "error_class": "killed"}, ErrorClass.PAYLOAD),
        ({"outcome": "done", "exit_code": 0}, None),
        ({"exit_code": True, "signal": "9", "error_class": ["memory"]}, None),
        ({}, None),
    ],
)
def test_reports(document: dict[str, object], expected: ErrorClass | None) -> None:
    found = of_report(document)
    assert (found.error_class if found else None) == expected


@given(st.text(max_size=300) | st.from_regex(r"(?:exit|signal|code|SIG|killed|[ :=\d\"'-]){0,60}"))
def test_any_text_is_read(text: str) -> None:
    found = of_text(text)
    assert found is None or found.error_class in tuple(ErrorClass)


@given(
    st.dictionaries(st.sampled_from(["exit_code", "signal", "error_class", "outcome"]), st.from_type(object))
)
def test_any_report_is_read(document: dict[str, object]) -> None:
    found = of_report(document)
    assert found is None or len(found.because) < 300


@pytest.mark.parametrize("code", sorted(EXIT_CODES))
def test_every_code_of_the_table_is_found(code: int) -> None:
    found = of_text(f"some text\nExit code: {code}\nmore of it, exit code 1")
    assert found is not None
    assert found.error_class == EXIT_CODES[code]


def test_endless_lines_are_cut() -> None:
    assert of_text("x" * LINE_MAX + " exit code 8021") is None
    assert of_text(("exit " * 200_000) + "\n" + "9" * 500_000) is None
    assert of_text("exit code " + "1" * 1_000_000) is None
