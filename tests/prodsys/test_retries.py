"""Retries: classes of failure, budgets, delays and sentences."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prodsys.settling.retries import (
    DEFAULT_RULES,
    EXIT_CODES,
    ErrorClass,
    Reason,
    RetryRule,
    classify,
    decide,
    reason,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PAYLOAD = DEFAULT_RULES[ErrorClass.PAYLOAD]
SUBMIT = DEFAULT_RULES[ErrorClass.SUBMIT]
rules = st.sampled_from(list(DEFAULT_RULES.values()))
jitters = st.floats(0, 1, exclude_max=True)


def delay(rule: RetryRule, failures: int, jitter: float = 0.5, scale: float = 1.0) -> float:
    due = decide(rule, failures, NOW, jitter, scale).due_at
    assert due is not None
    return (due - NOW).total_seconds()


@pytest.mark.parametrize(
    ("exit_code", "signal", "reported", "expected"),
    [
        (8001, None, None, ErrorClass.PAYLOAD),
        (1, None, None, ErrorClass.PAYLOAD),
        (84, None, None, ErrorClass.PAYLOAD),
        (8004, None, None, ErrorClass.MEMORY),
        (8021, None, None, ErrorClass.STAGE_IN),
        (8028, None, None, ErrorClass.STAGE_IN),
        (10034, None, None, ErrorClass.SITE),
        (50110, None, None, ErrorClass.EXECUTABLE),
        (127, None, None, ErrorClass.EXECUTABLE),
        (50115, None, None, ErrorClass.BAD_REPORT),
        (50660, None, None, ErrorClass.MEMORY),
        (50664, None, None, ErrorClass.TIMEOUT),
        (60302, None, None, ErrorClass.NO_OUTPUT),
        (60307, None, None, ErrorClass.STAGE_OUT),
        (60311, None, None, ErrorClass.STAGE_OUT),
        (60318, None, None, ErrorClass.STAGE_OUT),
        (71302, None, None, ErrorClass.PREEMPTED),
        (99999, None, None, ErrorClass.BAD_REPORT),
        (123_456, None, None, ErrorClass.PAYLOAD),
        (137, None, None, ErrorClass.KILLED),
        (139, None, None, ErrorClass.PAYLOAD),
        (152, None, None, ErrorClass.TIMEOUT),
        (200, None, None, ErrorClass.PAYLOAD),
        (0, None, None, ErrorClass.BAD_REPORT),
        (None, None, None, ErrorClass.LOST),
        (None, 9, None, ErrorClass.KILLED),
        (None, 11, None, ErrorClass.PAYLOAD),
        (None, 24, None, ErrorClass.TIMEOUT),
        (8001, 15, None, ErrorClass.KILLED),
        (1, 0, None, ErrorClass.PAYLOAD),
        (8001, 9, "stage_out", ErrorClass.STAGE_OUT),
        (0, None, "no_events", ErrorClass.NO_EVENTS),
        (8001, None, "of another release", ErrorClass.PAYLOAD),
    ],
)
def test_classify(
    exit_code: int | None, signal: int | None, reported: str | None, expected: ErrorClass
) -> None:
    assert classify(exit_code, signal, reported) is expected


@given(exit_code=st.none() | st.integers(-300, 100_000), signal=st.none() | st.integers(-5, 100))
def test_every_end_has_a_class(exit_code: int | None, signal: int | None) -> None:
    assert classify(exit_code, signal) in set(ErrorClass)


def test_every_class_has_a_rule() -> None:
    assert set(DEFAULT_RULES) == set(ErrorClass)
    assert all(kind is rule.error_class for kind, rule in DEFAULT_RULES.items())


def test_exit_codes_leave_small_numbers_to_the_program() -> None:
    assert min(EXIT_CODES) == 126
    assert all(code not in EXIT_CODES for code in (0, 255))


def test_payload_survives_three_failures() -> None:
    states = [decide(PAYLOAD, failures, NOW, 0.0).state for failures in range(1, 6)]
    assert states == ["RETRY_WAIT", "RETRY_WAIT", "RETRY_WAIT", "FAILED", "FAILED"]


def test_delays_double_up_to_the_cap() -> None:
    assert [delay(SUBMIT, failures) for failures in range(1, 8)] == [60, 120, 240, 480, 960, 1800, 1800]


def test_jitter_spreads_delays_by_half() -> None:
    assert delay(PAYLOAD, 1, jitter=0.0) == 30
    assert delay(PAYLOAD, 1, jitter=0.999) == pytest.approx(90, abs=0.1)


def test_base_scale_shrinks_delays_and_their_cap() -> None:
    assert delay(PAYLOAD, 1, scale=0.5 / 60) == pytest.approx(0.5)
    assert delay(SUBMIT, 40, scale=0.5 / 60) == pytest.approx(15)


@given(rule=rules, failures=st.integers(1, 10_000), jitter=jitters)
def test_decision_keeps_the_rule(rule: RetryRule, failures: int, jitter: float) -> None:
    outcome = decide(rule, failures, NOW, jitter)
    if failures > rule.max_retries:
        assert (outcome.state, outcome.due_at, outcome.elsewhere) == (rule.final, None, False)
    else:
        assert outcome.state == "RETRY_WAIT"
        assert outcome.elsewhere == rule.elsewhere
        assert outcome.due_at is not None
        assert NOW + timedelta(seconds=rule.delay_s / 2) <= outcome.due_at
        assert outcome.due_at <= NOW + timedelta(seconds=rule.cap_s * 1.5)


@given(rule=rules, failures=st.integers(1, 100), jitter=jitters)
def test_every_stored_reason_has_a_sentence(rule: RetryRule, failures: int, jitter: float) -> None:
    outcome = decide(rule, failures, NOW, jitter)
    stored = json.loads(json.dumps(outcome.params))
    assert not reason(str(outcome.reason_code), stored).startswith(outcome.reason_code)


def test_many_failures_do_not_overflow() -> None:
    patient = replace(SUBMIT, max_retries=10**9)
    assert delay(patient, 10**8) == 1800


def test_missing_input_is_held_for_the_input() -> None:
    outcome = decide(DEFAULT_RULES[ErrorClass.INPUT_MISSING], 1, NOW, 0.5)
    assert (outcome.state, outcome.reason_code) == ("HELD", Reason.WAITS_FOR_INPUT)


def test_a_dead_endpoint_ends_with_the_operator() -> None:
    outcome = decide(SUBMIT, 51, NOW, 0.5)
    assert (outcome.state, outcome.reason_code) == ("HELD", Reason.WAITS_FOR_OPERATOR)


@pytest.mark.parametrize(
    ("kind", "failures", "sentence"),
    [
        (ErrorClass.PAYLOAD, 2, "payload failure 2 (user): retry 2 of 3 after 120 s"),
        (
            ErrorClass.STAGE_IN,
            1,
            "stage_in failure 1 (storage): retry 1 of 5 after 300 s, elsewhere if it can",
        ),
        (ErrorClass.MEMORY, 2, "memory failure 2 (user): retry 2 of 2 after 120 s, with more memory"),
        (ErrorClass.TIMEOUT, 1, "timeout failure 1 (user): retry 1 of 2 after 60 s, with more time"),
        (ErrorClass.PAYLOAD, 4, "payload failure 4 (user): no retry left of 3"),
        (ErrorClass.SUBMIT, 51, "submit failure 51 (system): no retry left of 50, waits for an operator"),
        (ErrorClass.INPUT_MISSING, 1, "no storage element holds the complete input; runs when one does"),
    ],
)
def test_reasons(kind: ErrorClass, failures: int, sentence: str) -> None:
    outcome = decide(DEFAULT_RULES[kind], failures, NOW, 0.5)
    assert reason(outcome.reason_code, outcome.params) == sentence


def test_a_reason_of_another_release_is_shown() -> None:
    params = decide(PAYLOAD, 1, NOW, 0.5).params
    assert reason("BIGGER", params) == "BIGGER: payload failure 1 (user)"
