"""States of a job and who may move it. Pure: the table is the documentation.

*attempt* guards take what the worker says of the current attempt; *lease* guards take what the owner of
the endpoint decides; *queue* is the claim under the queue lock; *operator* events are audited.
"""

from __future__ import annotations

from enum import StrEnum

from gridcore.states import StateMachine, rule


class JobKind(StrEnum):
    """Process jobs own units, merges own inputs."""

    PROCESS = "process"
    MERGE = "merge"


class JobState(StrEnum):
    """Where a job is."""

    #: Waits in the task queue.
    READY = "READY"
    #: Claimed for an endpoint; may or may not have reached it.
    LEASED = "LEASED"
    #: Known to the batch system.
    SUBMITTED = "SUBMITTED"
    #: The start gate admitted one worker; its payload runs.
    RUNNING = "RUNNING"
    #: The payload ended well and its outputs lie on storage; to be committed.
    STAGEOUT = "STAGEOUT"
    #: Its effect is committed.
    DONE = "DONE"
    #: Failed or lost, to be tried again when due.
    RETRY_WAIT = "RETRY_WAIT"
    #: Waits for an operator, an input or a policy.
    HELD = "HELD"
    #: Out of retries.
    FAILED = "FAILED"
    #: Ended by an operator.
    KILLED = "KILLED"
    #: Gone everywhere and silent.
    LOST = "LOST"


class JobEvent(StrEnum):
    """What happens to a job."""

    CLAIMED = "claimed"
    UNSENT = "found without intent"
    ADMITTED = "admitted by the gate"
    RECORDED = "batch id recorded"
    REFUSED = "refused or retired"
    WITHDRAWN = "withdrawn"
    SUCCEEDED = "payload ended well"
    COMMITTED = "committed"
    FAILURE = "failure"
    VANISHED = "gone and silent"
    LATE_REPORT = "late good report"
    DUE = "due"
    HOLD = "hold"
    RELEASE = "release"
    KILL = "kill"
    RETRY = "operator retry"


S, E = JobState, JobEvent

JOB = StateMachine(
    "job",
    [
        rule(S.READY, E.CLAIMED, S.LEASED, "queue"),
        rule(S.LEASED, E.UNSENT, S.READY, "lease"),
        rule([S.LEASED, S.SUBMITTED], E.ADMITTED, S.RUNNING, "attempt"),
        rule(S.LEASED, E.RECORDED, S.SUBMITTED, "lease"),
        rule([S.LEASED, S.SUBMITTED], E.REFUSED, [S.RETRY_WAIT, S.FAILED, S.HELD], "lease"),
        rule([S.LEASED, S.SUBMITTED], E.WITHDRAWN, S.READY, "lease"),
        rule(S.RUNNING, E.SUCCEEDED, S.STAGEOUT, "attempt"),
        rule(S.STAGEOUT, E.COMMITTED, S.DONE, "attempt"),
        rule([S.RUNNING, S.STAGEOUT], E.FAILURE, [S.RETRY_WAIT, S.HELD, S.FAILED], "attempt"),
        rule(S.LOST, E.FAILURE, [S.RETRY_WAIT, S.HELD, S.FAILED], "lease"),
        rule([S.SUBMITTED, S.RUNNING], E.VANISHED, S.LOST, "lease"),
        rule([S.LOST, S.RETRY_WAIT, S.READY], E.LATE_REPORT, S.STAGEOUT, "attempt"),
        rule(S.RETRY_WAIT, E.DUE, S.READY, "lease"),
        rule([S.READY, S.RETRY_WAIT], E.HOLD, S.HELD, "operator"),
        rule(S.HELD, E.RELEASE, S.READY, "operator"),
        rule(
            [S.READY, S.LEASED, S.SUBMITTED, S.RUNNING, S.STAGEOUT, S.RETRY_WAIT, S.HELD, S.FAILED, S.LOST],
            E.KILL,
            S.KILLED,
            "operator",
        ),
        rule(S.FAILED, E.RETRY, S.RETRY_WAIT, "operator"),
    ],
    final=[S.DONE, S.KILLED],
)

#: Jobs that will not move by themselves.
TERMINAL = frozenset([S.DONE, S.FAILED, S.KILLED])
#: Jobs that hold a slot or are on their way to one.
#: In the order of the index of jobs by endpoint, and of that of jobs that need somebody.
LIVE = (S.LEASED, S.SUBMITTED, S.RUNNING)
TROUBLE = (S.HELD, S.FAILED, S.RETRY_WAIT, S.LOST)
ACTIVE = frozenset(LIVE)
