"""States of requests, tasks and outputs. Pure."""

from __future__ import annotations

from enum import StrEnum

from gridcore.states import StateMachine, rule


class RequestState(StrEnum):
    """Where a request is."""

    #: Handed in, waits for approval.
    SUBMITTED = "SUBMITTED"
    #: Approved: its tasks exist and its jobs are made and run.
    RUNNING = "RUNNING"
    #: Turned down.
    REJECTED = "REJECTED"
    #: Every task is completed.
    COMPLETED = "COMPLETED"
    #: Every task has ended, some without all of their units.
    INCOMPLETE = "INCOMPLETE"
    #: Ended by an operator.
    ABORTED = "ABORTED"


class RequestEvent(StrEnum):
    """What happens to a request."""

    APPROVE = "approve"
    REJECT = "reject"
    TASKS_ENDED = "tasks ended"
    RESUME = "task resumed"
    ABORT = "abort"


REQUEST = StateMachine(
    "request",
    [
        rule(RequestState.SUBMITTED, RequestEvent.APPROVE, RequestState.RUNNING, "production role"),
        rule(RequestState.SUBMITTED, RequestEvent.REJECT, RequestState.REJECTED, "production role"),
        rule(
            RequestState.RUNNING,
            RequestEvent.TASKS_ENDED,
            [RequestState.COMPLETED, RequestState.INCOMPLETE],
            "lease",
        ),
        rule(RequestState.INCOMPLETE, RequestEvent.RESUME, RequestState.RUNNING, "operator"),
        rule(
            [RequestState.SUBMITTED, RequestState.RUNNING],
            RequestEvent.ABORT,
            RequestState.ABORTED,
            "operator",
        ),
    ],
    final=[RequestState.REJECTED, RequestState.COMPLETED, RequestState.ABORTED],
)


class TaskState(StrEnum):
    """Where a task is."""

    #: Jobs are made as input appears, and run.
    ACTIVE = "ACTIVE"
    #: Every job is terminal and every output merged; its blocks are closing.
    CLOSING = "CLOSING"
    #: All units done, outputs registered, blocks closed.
    COMPLETED = "COMPLETED"
    #: As COMPLETED, but some units failed or were killed.
    INCOMPLETE = "INCOMPLETE"
    #: Ended by an operator.
    KILLED = "KILLED"


class TaskEvent(StrEnum):
    """What happens to a task."""

    WORKED_OFF = "worked off"
    BLOCKS_CLOSED = "blocks closed"
    RETRY = "operator retry"
    KILL = "kill"


TASK = StateMachine(
    "task",
    [
        rule(TaskState.ACTIVE, TaskEvent.WORKED_OFF, TaskState.CLOSING, "lease"),
        rule(
            TaskState.CLOSING, TaskEvent.BLOCKS_CLOSED, [TaskState.COMPLETED, TaskState.INCOMPLETE], "lease"
        ),
        rule([TaskState.CLOSING, TaskState.INCOMPLETE], TaskEvent.RETRY, TaskState.ACTIVE, "operator"),
        rule(
            [TaskState.ACTIVE, TaskState.CLOSING, TaskState.INCOMPLETE],
            TaskEvent.KILL,
            TaskState.KILLED,
            "operator",
        ),
    ],
    final=[TaskState.COMPLETED, TaskState.KILLED],
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
