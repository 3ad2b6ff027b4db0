"""The language that says which jobs are meant, such as `task = 26* and (state = HELD or age > 2h)`. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from gridcore.selectors import NAME, NUMBER, SPAN, WORD, Field, Language
from prodsys.job_states import JobKind, JobState

#: What may be asked of a job.
FIELDS: Mapping[str, Field] = {
    "task": Field(NAME, "its task's name"),
    "index": Field(NUMBER, "its number within the task"),
    "request": Field(NUMBER, "its request's number"),
    "request_name": Field(NAME, "its request's name"),
    "group": Field(NAME, "the group it is for"),
    "user": Field(NAME, "who asked for it"),
    "state": Field(WORD, "where it is", tuple(state.value for state in JobState)),
    "kind": Field(WORD, "process or merge", tuple(kind.value for kind in JobKind)),
    "type": Field(NAME, "its task type"),
    "site": Field(NAME, "where it runs, from its lease to its end"),
    "last_site": Field(NAME, "where its last attempt ran or runs"),
    "attempt": Field(NUMBER, "its last attempt, 0 before the first"),
    "priority": Field(NUMBER, "its points, those given by hand included"),
    "class": Field(NUMBER, "its job class"),
    "age": Field(SPAN, "time since its last move: 90s, 5min, 2h, 3d"),
    "code": Field(NAME, "why it waits or failed, such as INPUT_MISSING"),
    "error": Field(NAME, "error class of its last attempt, such as stage_out"),
    "held": Field(WORD, "what holds it", ("operator", "input", "policy")),
}
JOBS = Language(FIELDS, example="state in (HELD, FAILED) and site = T2_* and not age < 2h")
