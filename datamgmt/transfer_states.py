"""The life of a transfer: one file, one hop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from gridcore.states import StateMachine, rule


class TransferState(StrEnum):
    """Where a transfer stands; each has its sentence in MEANING."""

    QUEUED = "QUEUED"
    ACTIVE = "ACTIVE"
    RETRY_WAIT = "RETRY_WAIT"
    DONE = "DONE"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


MEANING: Mapping[TransferState, str] = {
    TransferState.QUEUED: "Waits for a free place in the window of its link.",
    TransferState.ACTIVE: "A transfer agent holds it under a lease and copies or verifies it.",
    TransferState.RETRY_WAIT: "A try failed; it is queued again when its time has come.",
    TransferState.DONE: "The file was verified at the end of the hop.",
    TransferState.FAILED: "The tries on this hop are used up; the router leaves the hop out for a while.",
    TransferState.CANCELLED: "Nobody wants the file there any more.",
}


class TransferEvent(StrEnum):
    """What moves a transfer."""

    CLAIMED = "claimed by an agent"
    VERIFIED = "verified at the destination"
    TRY_FAILED = "try failed"
    ABANDONED = "its agent is gone"
    DUE = "retry is due"
    ROUTED_AGAIN = "routed over this hop again"
    UNWANTED = "not wanted any more"


_S, _E = TransferState, TransferEvent
TRANSITIONS = (
    rule(_S.QUEUED, _E.CLAIMED, _S.ACTIVE, "lease"),
    rule(_S.ACTIVE, _E.VERIFIED, _S.DONE, "lease"),
    rule(_S.ACTIVE, _E.TRY_FAILED, (_S.RETRY_WAIT, _S.FAILED), "lease"),
    rule(_S.ACTIVE, _E.ABANDONED, _S.QUEUED, "lease expired"),
    rule(_S.RETRY_WAIT, _E.DUE, _S.QUEUED),
    rule(_S.FAILED, _E.ROUTED_AGAIN, _S.QUEUED),
    rule((_S.QUEUED, _S.ACTIVE, _S.RETRY_WAIT, _S.FAILED), _E.UNWANTED, _S.CANCELLED),
)
MACHINE = StateMachine("transfer", TRANSITIONS, final=(_S.DONE, _S.CANCELLED))


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Tries on one hop, and the wait after the first; it doubles with each, up to `delay_max`."""

    max_attempts: int = 5
    delay: timedelta = timedelta(seconds=60)
    delay_max: timedelta = timedelta(hours=1)


#: How much longer than others a file may take after timeouts: one of a gigabyte or more, and a smaller one.
LONGEST, LONGEST_OF_SMALL = 8, 2
_LARGE = 10**9


def deadline_factor(size: int, attempts: int, timed_out: bool) -> int:
    """How many times longer than usual the next try of a file of `size` bytes may take: twice as long with
    each of the `attempts` before it, if the last one ended at its deadline."""
    longest = LONGEST if size >= _LARGE else LONGEST_OF_SMALL
    return min(2**attempts, longest) if timed_out else 1


def after_failure(
    attempt: int, tries: int, now: datetime, policy: RetryPolicy, delay_factor: float = 1.0
) -> tuple[TransferState, datetime | None]:
    """(RETRY_WAIT, when) or (FAILED, None) after try number `attempt`, counted from 1, of `tries` at most."""
    if attempt >= min(tries, policy.max_attempts):
        return TransferState.FAILED, None
    delay = policy.delay * delay_factor * 2 ** min(attempt - 1, 20)
    return TransferState.RETRY_WAIT, now + min(delay, policy.delay_max)
