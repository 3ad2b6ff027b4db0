"""Why a job is where it is: one short rule per state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, func, or_, select

from catalogs.tables import site
from gridapp.insights import agents, jobs
from gridapp.insights.answers import Answer
from gridapp.insights.values import ago, iso, plain, some
from gridcore.ids import job_name
from gridcore.tables import lease
from prodsys import brokerage, endpoints
from prodsys.brokerage import Refusal
from prodsys.jobs.machine import JobKind, JobState
from prodsys.tables import class_site, endpoint
from prodsys.tables import job as job_table

VERDICTS = (
    select(class_site, site.c.name.label("site"))
    .join_from(class_site, site, site.c.id == class_site.c.site_id)
    .where(class_site.c.class_id == bindparam("of_class"))
    .order_by(class_site.c.eligible.desc(), site.c.name)
)
AHEAD = select(func.count()).where(
    job_table.c.class_id == bindparam("of_class"),
    job_table.c.state == JobState.READY,
    or_(
        job_table.c.rank < bindparam("own_rank"),
        (job_table.c.rank == bindparam("own_rank")) & (job_table.c.id < bindparam("own_id")),
    ),
)
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
    #: The command that moves it on; `job show` where there is none.
    command: str | None = None


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
        next="tierflow agent list" if ailing else f"tierflow {told.command or 'job show'} {own}",
    )


def _ready(case: _Case) -> Told:
    verdicts = case.conn.execute(VERDICTS, {"of_class": case.row.class_id}).all()
    busy = {one.site: one for one in endpoints.occupancy(case.conn)}
    binds = {"of_class": case.row.class_id, "own_rank": case.row.rank, "own_id": case.row.id}
    ahead = case.conn.execute(AHEAD, binds).scalar_one()
    lines = [_line(one, busy[one.site]) for one in verdicts if one.site in busy]
    idle = [one.site for one in verdicts if one.site not in busy]
    if idle:
        lines.append(f"no endpoint to run jobs: {', '.join(idle)}")
    place = f"{some(ahead, 'job')} of its class ahead of it" if ahead else "it is the first of its class"
    standing = {one["path"]: one["why"] for one in jobs.shares(case.conn)}
    share = f"share {case.row.share_path} {standing.get(case.row.share_path, 'is unknown')}"
    evidence = {
        "ahead": ahead,
        "share": case.row.share_path,
        "verdicts": [
            {
                "site": one.site,
                "eligible": bool(one.eligible),
                "code": one.code,
                "decided_at": iso(one.decided_at),
            }
            for one in verdicts
        ],
    }
    if not verdicts:
        first = "the sites have not been judged for its class yet"
        return Told(because=[first, place], turn="the job_maker", agent="job_maker", evidence=evidence)
    if not any(one.eligible for one in verdicts):
        turn = _who_opens(verdicts)
        return Told(because=["no site can run it", *lines], turn=turn, evidence=evidence)
    because = [f"waits in the queue: {place}", *lines, share]
    return Told(because=because, turn="the prodagent", agent="prodagent", evidence=evidence)


def _line(row: Any, busy: endpoints.Occupancy) -> str:
    told = f"{row.site}: {brokerage.render(row.code, row.params or {})}"
    if not row.eligible:
        return told
    if busy.owner is None:
        return f"{told}, but no prodagent serves {busy.name}"
    return f"{told}; {busy.open} of {some(busy.slots, 'slot')} taken at {busy.name}"


def _who_opens(verdicts: Sequence[Any]) -> str:
    codes = {one.code for one in verdicts}
    if Refusal.INPUT_NOWHERE in codes:
        return "whoever produces or restores its input"
    if codes & {Refusal.INPUT_NOT_HERE}:
        return "whoever subscribes its input to a site that runs jobs"
    return "an operator of the sites, or whoever wrote the task's requirements"


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
    turn = {"input": "whoever produces or restores its input", "policy": "the policy that holds it"}
    because = [f"held for {kind} {case.since('ended_at')}"]
    if case.row.code:
        because.insert(0, _reason(case))
    return Told(because=because, turn=turn.get(kind, "an operator"), command="job release")


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
