"""Retries: what kind of failure it was, and whether, when and where the job runs again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from signal import Signals
from typing import Any, Literal

Blame = Literal["user", "site", "storage", "system"]
Bigger = Literal["memory", "wall"]


class ErrorClass(StrEnum):
    """Kinds of failure that are treated alike."""

    PAYLOAD = "payload"  #: the user's program ended badly
    KILLED = "killed"  #: ended by a signal from outside
    TIMEOUT = "timeout"  #: ran out of its wall or CPU time
    MEMORY = "memory"  #: used more memory than it asked for
    STAGE_IN = "stage_in"  #: an input could not be read
    STAGE_OUT = "stage_out"  #: an output could not be written
    NO_OUTPUT = "no_output"  #: a declared output was not made
    NO_EVENTS = "no_events"  #: a task declared in events got no event count
    BAD_REPORT = "bad_report"  #: the job report is missing or cannot be read
    EXECUTABLE = "executable"  #: the program could not be started
    PREEMPTED = "preempted"  #: the site took its slot back
    LOST = "lost"  #: nobody knows it any more
    SUBMIT = "submit"  #: the endpoint did not take it
    SITE = "site"  #: the worker node or its software is broken
    INPUT_MISSING = "input_missing"  #: the catalogue has no complete replica of its input


_CODES: dict[ErrorClass, tuple[int, ...]] = {
    # cmsRun's own exceptions, as far as the lines below do not say more
    ErrorClass.PAYLOAD: (
        *(7000, 7001, 7002, 9000, 50662, 8501, 99108, 99109, 99305),
        *range(8001, 8004),
        *range(8005, 8020),
        *range(8023, 8028),
        *(8029, 8034),
    ),
    ErrorClass.KILLED: (50669, 61300, 71300, 99400, 99401),
    ErrorClass.TIMEOUT: (8032, 50663, 50664, 50665, 71304, 71305, 71306, 71307),
    ErrorClass.MEMORY: (8004, 8030, 8031, 50660, 50661),
    ErrorClass.STAGE_IN: (8020, 8021, 8022, 8028, 10042),
    ErrorClass.STAGE_OUT: (60307, 60311, 60315, 60317, 60318, 60320, 60321, 60322, 60323, 60324, 60403),
    ErrorClass.NO_OUTPUT: (60302, 60450),
    ErrorClass.BAD_REPORT: (
        *(50115, 50116, 60451, 60452, 70452, 80000, 80001, 80453),
        *(99303, 99996, 99997, 99998, 99999),
    ),
    ErrorClass.EXECUTABLE: (126, 127, 50110, 50111, 50113),
    ErrorClass.PREEMPTED: (61301, 61302, 61303, 71301, 71302, 71303),
    ErrorClass.SUBMIT: (11001, 11002, 61103, 61104, 71104, 71105),
    ErrorClass.SITE: (
        *(8033, 10031, 10032, 10034, 10040, 10043),
        *(11003, 11004, 11005, 50513, 61101, 61102, 71101, 71102),
    ),
}
#: The exit codes of CRAB and WMCore. A code of less than 126 is the program's own: their 8-bit remainders
#: (84 for 8020) cannot be told from it.
EXIT_CODES: dict[int, ErrorClass] = {code: kind for kind, codes in _CODES.items() for code in codes}

_OWN_FAULT = {
    *(Signals.SIGILL, Signals.SIGTRAP, Signals.SIGABRT, Signals.SIGBUS, Signals.SIGFPE, Signals.SIGSEGV),
    *(Signals.SIGPIPE, Signals.SIGXFSZ, Signals.SIGSYS),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryRule:
    """One line of the retry table.

    `max_retries` is the job's budget for this class. `elsewhere`: another site if there is one.
    `bigger`: what the next try gets `factor` times as much of, as far as some site offers it.
    `penalty`: the failure is held against the job; a try it never had, or lost through no fault of its own,
    is not. `final`: the state when the budget is spent.
    """

    error_class: ErrorClass
    max_retries: int
    delay_s: float
    cap_s: float
    elsewhere: bool
    penalty: bool
    blame: Blame
    final: Literal["FAILED", "HELD"] = "FAILED"
    bigger: Bigger | None = None
    factor: float = 1.5


def _rule(
    kind: ErrorClass,
    retries: int,
    delays: tuple[float, float],
    blame: Blame,
    *,
    elsewhere: bool = False,
    penalty: bool = True,
    final: Literal["FAILED", "HELD"] = "FAILED",
    bigger: Bigger | None = None,
) -> RetryRule:
    return RetryRule(
        error_class=kind,
        max_retries=retries,
        delay_s=delays[0],
        cap_s=delays[1],
        elsewhere=elsewhere,
        penalty=penalty,
        blame=blame,
        final=final,
        bigger=bigger,
    )


_SHORT = (60.0, 3600.0)
_STORAGE = (300.0, 7200.0)
_SITE = (600.0, 21600.0)
_ENDPOINT = (60.0, 1800.0)
DEFAULT_RULES: dict[ErrorClass, RetryRule] = {
    rule.error_class: rule
    for rule in (
        _rule(ErrorClass.PAYLOAD, 3, _SHORT, "user"),
        _rule(ErrorClass.KILLED, 3, _SHORT, "site", elsewhere=True),
        _rule(ErrorClass.TIMEOUT, 2, _SHORT, "user", bigger="wall"),
        _rule(ErrorClass.MEMORY, 2, _SHORT, "user", bigger="memory"),
        _rule(ErrorClass.STAGE_IN, 5, _STORAGE, "storage", elsewhere=True),
        _rule(ErrorClass.STAGE_OUT, 5, _STORAGE, "storage", elsewhere=True),
        _rule(ErrorClass.NO_OUTPUT, 1, _SHORT, "user"),
        _rule(ErrorClass.NO_EVENTS, 1, _SHORT, "user"),
        _rule(ErrorClass.BAD_REPORT, 3, _SHORT, "user"),
        _rule(ErrorClass.EXECUTABLE, 1, _SHORT, "user", elsewhere=True),
        _rule(ErrorClass.PREEMPTED, 20, _SHORT, "site", penalty=False),
        _rule(ErrorClass.LOST, 5, _SHORT, "system", elsewhere=True, penalty=False),
        # a day of refusals, then somebody has to look at the endpoint
        _rule(ErrorClass.SUBMIT, 50, _ENDPOINT, "system", elsewhere=True, penalty=False, final="HELD"),
        _rule(ErrorClass.SITE, 5, _SITE, "site", elsewhere=True, penalty=False),
        _rule(ErrorClass.INPUT_MISSING, 0, _STORAGE, "storage", penalty=False, final="HELD"),
    )
}


class Reason(StrEnum):
    """Why a job that failed is where it is."""

    RETRY_LATER = "RETRY_LATER"
    RETRIES_SPENT = "RETRIES_SPENT"
    WAITS_FOR_OPERATOR = "WAITS_FOR_OPERATOR"
    WAITS_FOR_INPUT = "WAITS_FOR_INPUT"
    RETARGETED = "RETARGETED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """What becomes of the job; due_at is None unless it runs again.

    Where and how big the next try is, is decided when it is due (`retargets`): sites change until then.
    """

    state: Literal["RETRY_WAIT", "FAILED", "HELD"]
    due_at: datetime | None
    reason_code: Reason
    params: dict[str, Any]
    elsewhere: bool


def classify(
    exit_code: int | None = None, signal: int | None = None, reported_class: str | None = None
) -> ErrorClass:
    """The class of a failure. What the wrapper reported counts first, then the signal, then the exit code."""
    known = reported_class in tuple(ErrorClass)
    if signal and (not known or reported_class == ErrorClass.KILLED):  # the wrapper knows of no faults
        return _class_of_signal(signal)
    if reported_class is not None and known:
        return ErrorClass(reported_class)
    if exit_code is None:
        return ErrorClass.LOST
    if exit_code in EXIT_CODES:
        return EXIT_CODES[exit_code]
    if exit_code == 0:  # it ended well, so what went wrong is missing from the report
        return ErrorClass.BAD_REPORT
    return _class_of_signal(exit_code - 128) if 128 < exit_code <= 192 else ErrorClass.PAYLOAD


def _class_of_signal(number: int) -> ErrorClass:
    if number in _OWN_FAULT:
        return ErrorClass.PAYLOAD
    return ErrorClass.TIMEOUT if number == Signals.SIGXCPU else ErrorClass.KILLED


def decide(
    rule: RetryRule, failures_of_class: int, now: datetime, jitter: float, base_scale: float = 1.0
) -> Retry:
    """What becomes of a job after its k-th failure of this class, this one included.

    `jitter` is random, 0 <= jitter < 1; `base_scale` shrinks all delays for small installations.
    """
    params = {
        "class": rule.error_class.value,
        "failures": failures_of_class,
        "max": rule.max_retries,
        "blame": rule.blame,
    }
    if failures_of_class > rule.max_retries:
        return Retry(
            state=rule.final, due_at=None, reason_code=_final_reason(rule), params=params, elsewhere=False
        )
    delay = base_scale * _delay(rule, failures_of_class) * (0.5 + jitter)
    return Retry(
        state="RETRY_WAIT",
        due_at=now + timedelta(seconds=delay),
        reason_code=Reason.RETRY_LATER,
        params={
            **params,
            "delay_s": round(delay, 3),
            "elsewhere": rule.elsewhere,
            "bigger": rule.bigger,
        },
        elsewhere=rule.elsewhere,
    )


def _delay(rule: RetryRule, failures: int) -> float:
    doublings = min(failures - 1, 60)  # far above any cap, far below the largest float
    return min(rule.cap_s, rule.delay_s * 2.0**doublings)


def _final_reason(rule: RetryRule) -> Reason:
    if rule.final == "FAILED":
        return Reason.RETRIES_SPENT
    if rule.error_class is ErrorClass.INPUT_MISSING:
        return Reason.WAITS_FOR_INPUT
    return Reason.WAITS_FOR_OPERATOR


def reason(code: str, params: Mapping[str, Any]) -> str:
    """A stored reason as a sentence. Raises KeyError for parameters of another code."""
    if code == Reason.WAITS_FOR_INPUT:
        return "no storage element holds the complete input; runs when one does"
    if code == Reason.RETARGETED:
        return _retargeted(params)
    failure = f"{params['class']} failure {params['failures']} ({params['blame']})"
    match code:
        case Reason.RETRY_LATER:
            retry = f"retry {params['failures']} of {params['max']}"
            return f"{failure}: {retry} after {params['delay_s']:g} s{_changes(params)}"
        case Reason.RETRIES_SPENT:
            return f"{failure}: no retry left of {params['max']}"
        case Reason.WAITS_FOR_OPERATOR:
            return f"{failure}: no retry left of {params['max']}, waits for an operator"
    return f"{code}: {failure}"


_MORE = {"memory": "with more memory", "wall": "with more time"}


def _changes(params: Mapping[str, Any]) -> str:
    told = [
        _MORE.get(str(params.get("bigger")), ""),
        "elsewhere if it can" if params.get("elsewhere") else "",
    ]
    return "".join(f", {one}" for one in told if one)


_UNITS = {"memory_mb": "MB of memory", "wall_s": "s of wall time"}


def _retargeted(params: Mapping[str, Any]) -> str:
    """What the next try asks for that the last one did not."""
    told = [
        f"asks for {to} instead of {old} {_UNITS.get(name, name)}"
        for name, (old, to) in sorted(params.get("bigger", {}).items())
    ]
    if params.get("not_at"):
        told.append(f"stays away from {', '.join(params['not_at'])}, where it failed")
    if params.get("again_at"):
        told.append(f"may run at {', '.join(params['again_at'])} again")
    return "; ".join(told) or "asks for what it asked for before"
