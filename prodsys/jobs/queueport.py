"""QueuePort: all a ProdAgent needs of the central queue, in bulk, whatever lies between them.

SQL beside the database (`sqlport.SqlQueuePort`); HTTPS for an agent or pilot that never holds a DSN. Each
call may be repeated: `lease` by its request id, the others because attempt, state and fence guard them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from gridcore.db.leases import Lease
from prodsys.jobs.attempts import Attempt


@dataclass(frozen=True, slots=True)
class Call:
    """Who calls: the agent and its lease of one endpoint, and an id made by the caller for this call."""

    id: str
    agent: str
    endpoint_id: int
    lease: Lease


@dataclass(frozen=True, slots=True)
class WorkItem:
    """A leased job, ready for its batch system: everything but what the agent's own host decides."""

    key: str
    document: dict[str, Any]
    sandbox: bytes | None


@dataclass(frozen=True, slots=True)
class Admission:
    """The gate let this worker start."""

    key: str
    nonce: str
    host: str | None = None
    batch_id: str | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """The attempt did not start and cannot any more."""

    key: str
    error_class: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """What an agent saw of its attempts: kinds of news in the order in which they are taken."""

    #: Leased, never sent: back to the queue.
    unsent: Sequence[str] = ()
    admitted: Sequence[Admission] = ()
    refused: Sequence[Refused] = ()
    #: Taken back from the batch system before they began: back to the queue.
    withdrawn: Sequence[str] = ()
    #: Gone everywhere and silent, with what is known.
    lost: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True, slots=True)
class Commands:
    """What an agent shall do with traces it still has: stop and remove, or ask once more for a report."""

    drop: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)


class QueuePort(Protocol):
    """The central queue as an agent sees it. Methods raise LeaseLost when the endpoint has passed on."""

    def lease(self, call: Call, n: int) -> list[WorkItem]:
        """Up to `n` jobs; the same ones for a repeat of the call."""

    def renew(self, call: Call) -> list[Attempt]:
        """The live attempts this endpoint answers for."""

    def intend(self, call: Call, keys: Sequence[str]) -> list[str]:
        """Before submitting: those still to be submitted. From now on the batch system may know them."""

    def submitted(self, call: Call, pairs: Sequence[tuple[str, str]]) -> None:
        """(key, batch id) of what the batch system took."""

    def withdraw(self, call: Call, unstarted: Sequence[str]) -> list[str]:
        """Which of the keys that wait in a full batch system, oldest first, should be taken back."""

    def reported(self, call: Call, news: News) -> None:
        """What became of attempts, but for their reports."""

    def finished(self, call: Call, reports: Sequence[tuple[str, dict[str, Any]]]) -> None:
        """(key, wrapper report): success goes to the accountant, failure to the retry table."""

    def commands(self, call: Call, known: Sequence[str]) -> Commands:
        """What to do with the keys that are not live any more."""
