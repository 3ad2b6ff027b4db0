"""Agent: what one daemon is to the runtime, and the Context all agents of a process share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeAlias, TypeVar

from sqlalchemy import Connection

from agents.runtime.schedule import Duty
from gridcore.bus import Bus
from gridcore.clock import Clock
from gridcore.db import Database
from gridcore.db.keys import Keys
from gridcore.db.leases import Lease
from gridcore.settings import Settings

#: What a cycle did: {"claimed": 12, "refused": 0}. All zero means that there was nothing to do.
Counts: TypeAlias = Mapping[str, int]
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What the agents of one process share; `instance` is the installation's UUID."""

    database: Database
    keys: Keys
    settings: Settings
    bus: Bus
    clock: Clock
    instance: str


class Agent(ABC):
    """One daemon: each cycle loads its work by an indexed query, lets rules decide, applies.

    Many processes may run the same agent: whoever holds the leases works, the others stand by. Calls
    come from one thread only.
    """

    #: Also the name of its leases, heartbeats and log lines.
    name: ClassVar[str]
    #: Kinds of events that wake it early.
    wakes: ClassVar[frozenset[str]] = frozenset()
    #: Whether `cycle` is called although no lease is held.
    idle_cycles: ClassVar[bool] = False

    def __init__(self, context: Context) -> None:
        self.context = context

    @property
    def interval_s(self) -> float:
        """Seconds between two cycles that nothing wakes."""
        return self.context.settings.agent.cycle_s

    def shards(self, conn: Connection) -> Sequence[str]:
        """Names of the leased pieces of work there are now; the connection only reads."""
        return [own_lease(self.name)]

    def duties(self) -> Sequence[Duty]:
        """What it does by the calendar, as long as it holds `agent/<name>`, between two cycles."""
        return ()

    @abstractmethod
    def cycle(self, held: Mapping[str, Lease]) -> Counts:
        """One pass over the work of the leases held, by name; each transaction begins with `hold`.

        LeaseLost may be let through: the work is somebody else's. Any other error makes the loop back off.
        """

    def close(self) -> None:
        """Clean up at stop, within seconds; no cycle follows."""
        return


def each(items: Iterable[T], act: Callable[[T], Counts]) -> dict[str, int]:
    """Act on every item, whatever becomes of the others; the summed counts. Raises the first error, last."""
    totals: Counter[str] = Counter()
    errors: list[Exception] = []
    for item in items:
        try:
            totals.update(act(item))
        except Exception as error:
            errors.append(error)
    if errors:
        raise errors[0]
    return dict(totals)


def own_lease(agent: str) -> str:
    """The lease of an agent whose work is in one piece, and of its duties."""
    return f"agent/{agent}"
