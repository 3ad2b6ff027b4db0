"""States of requests, tasks and outputs. Pure."""

from __future__ import annotations

from enum import StrEnum

from gridcore.states import StateMachine, rule


class RequestState(StrEnum):
    """Where a request is."""

    #: Written down, not handed in.
    DRAFT = "DRAFT"
    #: Handed in, waits for approval.
    SUBMITTED = "SUBMITTED"
    #: Approved; where it runs is not decided.
    APPROVED = "APPROVED"
    #: The sites it runs at are decided; its tasks do not exist yet.
    ASSIGNED = "ASSIGNED"
    #: Its tasks exist and its jobs are made and run.
    RUNNING = "RUNNING"
    #: No job is made or started; what runs goes on.
    PAUSED = "PAUSED"
    #: Turned down.
    REJECTED = "REJECTED"
    #: Every task is completed.
    COMPLETED = "COMPLETED"
    #: Every task has ended, some without all of their units.
    INCOMPLETE = "INCOMPLETE"
    #: Ended, and nothing more may be asked of it.
    CLOSED = "CLOSED"
    #: Ended by an operator.
    ABORTED = "ABORTED"


class RequestEvent(StrEnum):
    """What happens to a request."""

    SUBMIT = "submit"
    WITHDRAW = "withdraw"
    APPROVE = "approve"
    REJECT = "reject"
    ASSIGN = "assign"
    START = "start"
    PAUSE = "pause"
    UNPAUSE = "resume"
    TASKS_ENDED = "tasks ended"
    RESUME = "task resumed"
    EXTEND = "extended"
    FORCE = "last task forced"
    CLOSE = "close"
    ABORT = "abort"


R, W = RequestState, RequestEvent

REQUEST = StateMachine(
    "request",
    [
        rule(R.DRAFT, W.SUBMIT, R.SUBMITTED, "owner"),
        rule(R.SUBMITTED, W.WITHDRAW, R.DRAFT, "owner"),
        rule(R.SUBMITTED, W.APPROVE, R.APPROVED, "production role"),
        rule(R.SUBMITTED, W.REJECT, R.REJECTED, "production role"),
        rule(R.APPROVED, W.ASSIGN, R.ASSIGNED, "policy"),
        rule(R.ASSIGNED, W.START, R.RUNNING, "policy"),
        rule(R.RUNNING, W.PAUSE, R.PAUSED, "operator"),
        rule(R.PAUSED, W.UNPAUSE, R.RUNNING, "operator"),
        rule(R.RUNNING, W.TASKS_ENDED, [R.COMPLETED, R.INCOMPLETE], "lease"),
        rule(R.INCOMPLETE, W.RESUME, R.RUNNING, "operator"),
        rule([R.COMPLETED, R.INCOMPLETE], W.EXTEND, R.RUNNING, "production role"),
        rule(R.INCOMPLETE, W.FORCE, R.COMPLETED, "production role"),
        rule([R.COMPLETED, R.INCOMPLETE], W.CLOSE, R.CLOSED, "operator"),
        rule(
            [R.DRAFT, R.SUBMITTED, R.APPROVED, R.ASSIGNED, R.RUNNING, R.PAUSED],
            W.ABORT,
            R.ABORTED,
            "operator",
        ),
    ],
    final=[R.REJECTED, R.CLOSED, R.ABORTED],
)

#: Requests that make no work unless somebody asks for more.
REQUEST_ENDED = frozenset([R.REJECTED, R.COMPLETED, R.INCOMPLETE, R.CLOSED, R.ABORTED])


class TaskState(StrEnum):
    """Where a task is."""

    #: Jobs are made as input appears, and run.
    ACTIVE = "ACTIVE"
    #: Its request is paused: no job is made or started.
    PAUSED = "PAUSED"
    #: Every job is terminal and every output merged; its blocks are closing.
    CLOSING = "CLOSING"
    #: All units wanted are done, outputs registered, blocks closed; or declared so by an operator.
    COMPLETED = "COMPLETED"
    #: As COMPLETED, but some units failed or were killed.
    INCOMPLETE = "INCOMPLETE"
    #: Ended by an operator.
    KILLED = "KILLED"


class TaskEvent(StrEnum):
    """What happens to a task."""

    WORKED_OFF = "worked off"
    BLOCKS_CLOSED = "blocks closed"
    PAUSE = "request paused"
    RESUME = "request resumed"
    RETRY = "operator retry"
    EXTEND = "more units"
    FORCE = "force-complete"
    KILL = "kill"


T, X = TaskState, TaskEvent

TASK = StateMachine(
    "task",
    [
        rule(T.ACTIVE, X.WORKED_OFF, T.CLOSING, "lease"),
        rule(T.CLOSING, X.BLOCKS_CLOSED, [T.COMPLETED, T.INCOMPLETE], "lease"),
        rule(T.ACTIVE, X.PAUSE, T.PAUSED, "operator"),
        rule(T.PAUSED, X.RESUME, T.ACTIVE, "operator"),
        rule([T.CLOSING, T.INCOMPLETE], X.RETRY, T.ACTIVE, "operator"),
        rule([T.CLOSING, T.COMPLETED, T.INCOMPLETE], X.EXTEND, T.ACTIVE, "operator"),
        rule(T.ACTIVE, X.FORCE, T.CLOSING, "production role"),
        rule(T.INCOMPLETE, X.FORCE, T.COMPLETED, "production role"),
        rule([T.ACTIVE, T.PAUSED, T.CLOSING, T.INCOMPLETE], X.KILL, T.KILLED, "operator"),
    ],
    final=[T.KILLED],
)


class OutputState(StrEnum):
    """Where an output of an attempt is."""

    #: Its LFN is given away; nothing may be there yet.
    PLANNED = "PLANNED"
    #: On storage, verified by the worker.
    STAGED = "STAGED"
    #: Its job is DONE; in the catalogue if it is final, else ready to be merged.
    REGISTERED = "REGISTERED"
    #: Input of a merge job that is not done.
    MERGING = "MERGING"
    #: Its content lives on in a merged, registered file.
    MERGED = "MERGED"
    #: Of an attempt that does not count; to be removed from storage.
    DISCARDED = "DISCARDED"


class OutputEvent(StrEnum):
    """What happens to an output."""

    REPORTED = "reported"
    COMMITTED = "job committed"
    BUNDLED = "taken by a merge"
    RELEASED = "merge killed"
    MERGED = "merge committed"
    DISCARD = "attempt does not count"


O, V = OutputState, OutputEvent  # noqa: E741

OUTPUT = StateMachine(
    "output",
    [
        rule(O.PLANNED, V.REPORTED, O.STAGED, "attempt"),
        rule(O.STAGED, V.COMMITTED, O.REGISTERED, "attempt"),
        rule(O.REGISTERED, V.BUNDLED, O.MERGING, "lease"),
        rule(O.MERGING, V.RELEASED, O.REGISTERED, "operator"),
        rule(O.MERGING, V.MERGED, O.MERGED, "attempt"),
        rule([O.PLANNED, O.STAGED], V.DISCARD, O.DISCARDED, "attempt"),
    ],
    final=[O.MERGED, O.DISCARDED],
)
