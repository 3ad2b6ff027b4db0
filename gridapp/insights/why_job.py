"""Why a job is where it is: one short rule per state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, select

from gridapp.insights import agents, jobs, why_ready
from gridapp.insights.answers import Answer
from gridapp.insights.values import ago, iso, plain
from gridcore.ids import job_name
from gridcore.tables import lease
from prodsys.control import holds
from prodsys.job_states import JobKind, JobState
from prodsys.jobs import lostinputs
from prodsys.states import TaskState
from prodsys.tables import endpoint

HOLDER = (
    select(lease.c.owner, lease.c.expires_at)
    .join_from(endpoint, lease, lease.c.id == endpoint.c.lease_id)
    .where(endpoint.c.id == bindparam("endpoint_id"))
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a state's rule finds; `agent` is the daemon whose turn it is, if it is one's."""

    because: list[str]
    turn: str
    agent: str | None = None
    evidence: dict[str, Any] = field(default_factory=dict)
    #: The command that moves it on; `job show` where there is none. `then` is one that names no job.
    command: str | None = None
    then: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    conn: Connection
    row: Any
    name: str
    attempts: list[dict[str, Any]]
    now: datetime

    @property
    def last(self) -> dict[str, Any]:
        """The newest attempt; empty before the first claim."""
        return self.attempts[-1] if self.attempts else {}

    def since(self, key: str) -> str:
        """`since <time>, <age> ago`, of a moment of the last attempt; else of the job's last move."""
        text = self.last.get(key)
        moment = datetime.fromisoformat(text) if text else self.row.updated_at
        return f"since {iso(moment)}, {ago(moment, self.now)} ago"


def why_job(conn: Connection, name: str, now: datetime, heartbeat_s: float) -> Answer:
    """The answer for a job, or for an attempt's job. Raises UsageError, NotFound."""
    row = jobs.job_row(conn, name)
    own = job_name(row.task_name, row.idx)
    case = _Case(conn=conn, row=row, name=own, attempts=jobs.attempts_of(conn, row.id), now=now)
    told = _RULES[row.state](case)
    ailing = agents.trouble(conn, told.agent, heartbeat_s) if told.agent else None
    return Answer(
        what=own,
        kind="job",
        state=row.state.value,
        since=iso(row.updated_at),
        because=[ailing, *told.because] if ailing else told.because,
        evidence={
            "attempt": row.attempt,
            "code": row.code,
            "params": plain(row.params),
            "due_at": iso(row.due_at),
            "last_attempt": case.last or None,
            **told.evidence,
        },
        turn=told.turn,
        next="tierflow agent list" if ailing else told.then or f"tierflow {told.command or 'job show'} {own}",
    )


def _ready(case: _Case) -> Told:
    told = why_ready.waiting(case.conn, case.row, case.now)
    return Told(
        because=told.because, turn=told.turn, agent=told.agent, evidence=told.evidence, then=told.then
    )


def _leased(case: _Case) -> Told:
    sent = "being handed to the batch system" if case.last.get("intent_at") else "not yet handed over"
    first = f"leased for {_where(case)} {case.since('leased_at')}; {sent}"
    return _at_endpoint(case, first)


def _submitted(case: _Case) -> Told:
    first = f"waits in the batch system of {_where(case)} {case.since('submitted_at')}"
    return _at_endpoint(case, f"{first}, batch id {case.last.get('batch_id')}")


def _running(case: _Case) -> Told:
    host = case.last.get("host")
    on = f" on {host}" if host else ""
    told = _at_endpoint(case, f"runs at {_where(case)}{on} {case.since('admitted_at')}")
    limit = case.row.requirements.get("wall_s")
    more = [f"its limit is {limit:g} s of wall time"] if limit else []
    failed = [f"attempt {one['attempt']} failed: {one['error']}" for one in case.attempts if one["error"]]
    turn = "its payload" if len(told.because) == 1 else told.turn
    return Told(because=[*told.because, *more, *failed], turn=turn, agent=told.agent)


def _where(case: _Case) -> str:
    return f"{case.row.site} ({case.row.endpoint})"


def _at_endpoint(case: _Case, first: str) -> Told:
    """The sentence, after a word on the lease where nobody holds the endpoint."""
    holder = case.conn.execute(HOLDER, {"endpoint_id": case.row.endpoint_id}).one_or_none()
    if holder is not None and holder.owner and holder.expires_at and holder.expires_at > case.now:
        return Told(because=[first], turn=f"the prodagent of {case.row.endpoint}", agent="prodagent")
    until = f" since {iso(holder.expires_at)}" if holder is not None and holder.expires_at else ""
    silent = f"no prodagent holds {case.row.endpoint}{until}: nothing newer is known until one takes over"
    return Told(because=[silent, first], turn="whoever starts a prodagent", agent="prodagent")


def _stageout(case: _Case) -> Told:
    first = "its payload ended well and its outputs lie on storage; they are to be committed"
    return Told(because=[f"{first}, {case.since('ended_at')}"], turn="the accountant", agent="accountant")


def _retry_wait(case: _Case) -> Told:
    due = case.row.due_at
    when = "it is due now; the job_maker returns it to the queue"
    if due is not None and due > case.now:
        when = f"next attempt at {iso(due)}, in {ago(due, case.now)}"
    if case.row.task_state == TaskState.PAUSED:
        then = f"its request is paused: once due, at {iso(due)}, it is held until the request is resumed"
        resume = f"tierflow request resume {case.row.request_id}"
        return Told(because=[then, _reason(case)], turn="an operator", then=resume)
    return Told(because=[_reason(case), when], turn="the job_maker", agent="job_maker")


def _failed(case: _Case) -> Told:
    tries = [_ended(one) for one in reversed(case.attempts) if one["error_class"] and one["error"]]
    blame = (case.row.params or {}).get("blame")
    turn = "its requester" if blame == "user" else "an operator"
    inputs = "its inputs wait for it; once it is killed they are merged anew"
    merge = [inputs] if case.row.kind == JobKind.MERGE else []
    return Told(because=[_reason(case), *merge, *tries], turn=turn, command="job retry")


def _ended(one: dict[str, Any]) -> str:
    code = f"exit code {one['exit_code']}"
    told = "" if one["exit_code"] is None or code in one["error"] else f", {code}"
    return f"attempt {one['attempt']} at {one['site']}: {one['error_class']}{told}: {one['error']}"


def _held(case: _Case) -> Told:
    kind = case.row.hold_kind or "operator"
    if case.row.code == holds.PAUSED:
        return _paused(case)
    if case.row.code in lostinputs.CODES:
        return _input_lost(case)
    turn = "whoever produces or restores its input" if kind == "input" else "an operator"
    because = [f"held for {kind} {case.since('ended_at')}"]
    if case.row.code:
        because.insert(0, _reason(case))
    return Told(because=because, turn=turn, command="job release")


def _input_lost(case: _Case) -> Told:
    lfn = (case.row.params or {}).get("lfn")
    after = "it goes on once that is revalidated; else kill it"
    return Told(
        because=[_reason(case), after],
        turn="whoever produces or restores its input",
        then=f"tierflow file show {lfn}",
    )


def _paused(case: _Case) -> Told:
    request = (case.row.params or {}).get("request")
    first = f"its request is paused: nothing of it starts, what runs goes on; held {case.since('ended_at')}"
    return Told(because=[first], turn="an operator", then=f"tierflow request resume {request}")


def _lost(case: _Case) -> Told:
    first = f"gone everywhere and silent {case.since('ended_at')}"
    return Told(because=[_reason(case), first], turn="the prodagent", agent="prodagent")


def _done(case: _Case) -> Told:
    return Told(because=[f"done at {case.last.get('site')}; its outputs are committed"], turn="nobody")


def _killed(case: _Case) -> Told:
    told = jobs.reason(case.row.code, case.row.params)
    return Told(because=[told or "ended by an operator"], turn="nobody")


def _reason(case: _Case) -> str:
    return jobs.reason(case.row.code, case.row.params) or f"no reason was stored with {case.row.state}"


_RULES: dict[JobState, Callable[[_Case], Told]] = {
    JobState.READY: _ready,
    JobState.LEASED: _leased,
    JobState.SUBMITTED: _submitted,
    JobState.RUNNING: _running,
    JobState.STAGEOUT: _stageout,
    JobState.DONE: _done,
    JobState.RETRY_WAIT: _retry_wait,
    JobState.HELD: _held,
    JobState.FAILED: _failed,
    JobState.KILLED: _killed,
    JobState.LOST: _lost,
}
