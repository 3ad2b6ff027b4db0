"""The retry table as the faces show it: its rules, what they would do with a log, what failures cost, and
the breakers."""

from __future__ import annotations

import json
import os
import stat
from datetime import datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from gridapp.insights.values import iso
from gridcore.errors import UsageError
from prodsys.queue import breakers
from prodsys.settling import diagnosis, outcomes, retries, retry_rules
from prodsys.settling.diagnosis import Diagnosis
from prodsys.settling.retries import RetryRule

#: Bytes of a log that are read, from its beginning and from its end.
HEAD, TAIL = 64 * 1024, 1024 * 1024
#: Failures told one by one before the one that ends it.
TOLD = 5
#: Sites named with a class.
NAMED = 3


def rules(conn: Connection) -> list[dict[str, Any]]:
    """The rule of every class; `source` says whether it is the default."""
    changed = retry_rules.overrides(conn)
    return [
        {**_rule(rule), "source": "override" if kind in changed else "default"}
        for kind, rule in retry_rules.rules(conn).items()
    ]


def _rule(rule: RetryRule) -> dict[str, Any]:
    return {
        "class": rule.error_class.value,
        "max": rule.max_retries,
        "delay_s": rule.delay_s,
        "cap_s": rule.cap_s,
        "elsewhere": rule.elsewhere,
        "bigger": None if rule.bigger is None else f"{rule.bigger} x {rule.factor:g}",
        "blame": rule.blame,
        "penalty": rule.penalty,
        "final": rule.final,
    }


# --- a log, tried on the table ---------------------------------------------------------------------------


def diagnose(conn: Connection, path: Path, now: datetime) -> dict[str, Any]:
    """What the table makes of a report or log: {"log", "class", "because", "also", "rule", "failures"}.

    `failures` tells what a job would do after its first, second, ... failure of that class. Raises
    UsageError.
    """
    found = _diagnosis(path)
    rule = retry_rules.rules(conn)[found.error_class]
    return {
        "log": str(path),
        "class": found.error_class.value,
        "because": found.because,
        "also": list(found.also),
        "rule": _rule(rule),
        "failures": _course(rule, now),
    }


def _diagnosis(path: Path) -> Diagnosis:
    text, whole = _read(path)
    report = _document(text) if whole and text.lstrip().startswith("{") else None
    found = diagnosis.of_text(text) if report is None else diagnosis.of_report(report)
    if found is None:
        raise UsageError(
            f"nothing in {path} tells of a failure",
            hint="give a report.json, a job's log, or a line such as: Exit code 8021",
        )
    return found


def _read(path: Path) -> tuple[str, bool]:
    """The text of a regular file, or its beginning and end; whether that is all."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(handle, "rb") as stream:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise UsageError(f"{path} is no regular file", hint="give a report.json or a job's log")
            raw = stream.read(HEAD + TAIL)
            size = os.fstat(handle).st_size
            if size > HEAD + TAIL:
                stream.seek(size - TAIL)
                raw = raw[:HEAD] + b"\n" + stream.read(TAIL)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}", hint="give a file that you may read") from None
    return raw.decode("utf-8", errors="replace"), size <= HEAD + TAIL


def _document(text: str) -> dict[str, Any] | None:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _course(rule: RetryRule, now: datetime) -> list[dict[str, Any]]:
    """Failure by failure; long budgets are told by their first ones and the end."""
    last = rule.max_retries + 1
    return [_step(rule, k, now) for k in range(1, last + 1) if k <= TOLD or k == last]


def _step(rule: RetryRule, failures: int, now: datetime) -> dict[str, Any]:
    then = retries.decide(rule, failures, now, jitter=0.5)
    after = None if then.due_at is None else (then.due_at - now).total_seconds()
    return {
        "failure": failures,
        "then": then.state,
        "after_s": after,
        "told": retries.reason(then.reason_code, then.params),
    }


# --- what failures cost ----------------------------------------------------------------------------------


def hits(conn: Connection, days: int, now: datetime) -> list[dict[str, Any]]:
    """Attempts by how they ended in the last days, most core-hours first; of "ok" they are not lost.

    `sites` counts the sites, `worst` names those with most. Bins are kept for `outcomes.KEPT`.
    """
    found = outcomes.totals(conn, now - timedelta(days=days))
    ended = sum(one.jobs for one in found)
    rows = [_hit(kind, list(group), ended) for kind, group in groupby(found, lambda one: one.error_class)]
    return sorted(rows, key=lambda row: (row["class"] == outcomes.OK, -row["core_hours"], -row["attempts"]))


def _hit(kind: str, group: list[outcomes.Total], ended: int) -> dict[str, Any]:
    jobs = sum(one.jobs for one in group)
    return {
        "class": kind,
        "attempts": jobs,
        "percent": round(100 * jobs / ended, 1),
        "core_hours": round(sum(one.core_s for one in group) / 3600, 3),
        "sites": len(group),
        "worst": {one.site: one.jobs for one in group[:NAMED]},
    }


def standing(conn: Connection) -> list[dict[str, Any]]:
    """The breakers that ever changed; `allowance` is what the site may be sent now, None for any number."""
    return [
        {
            "site": one.site,
            "class": one.breaker.error_class,
            "state": one.breaker.state.value,
            "changed_at": iso(one.breaker.changed_at),
            "until": iso(one.breaker.until),
            "trips": one.breaker.trips,
            "allowance": one.breaker.allowance,
            "reason": one.reason,
        }
        for one in breakers.standing(conn)
    ]
