"""Events between agents. They only wake an agent early: nothing may depend on their arrival."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from gridcore import log

_LOG = log.get(__name__)


@dataclass(frozen=True, slots=True)
class Event:
    """Something has happened: `Event("block.closed", "/p/q/TIER#1")`."""

    kind: str
    subject: str
    body: Mapping[str, object] = field(default_factory=dict)


class Subscription(Protocol):
    """A subscriber's place; after `close` no new wake begins. Closing twice is harmless."""

    def close(self) -> None: ...


class Bus(Protocol):
    """Carries events. Publishing never blocks long and never fails."""

    def publish(self, event: Event) -> None: ...

    def subscribe(self, kinds: Collection[str], wake: Callable[[], None]) -> Subscription:
        """`wake` is called, in any thread, after an event of a kind: let it set a threading.Event."""
        ...


class MemoryBus:
    """Between the threads of one process; `wake` runs in the publisher's thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._subscribers: list[_Subscriber] = []

    def publish(self, event: Event) -> None:
        with self._lock:
            awaiting = [one for one in self._subscribers if event.kind in one.kinds]
        # Outside the lock: a wake may publish, subscribe or close.
        for subscriber in awaiting:
            try:
                subscriber.wake()
            except Exception as error:
                _LOG.warning("subscriber failed", kind=event.kind, subject=event.subject, error=repr(error))

    def subscribe(self, kinds: Collection[str], wake: Callable[[], None]) -> Subscription:
        subscriber = _Subscriber(self, frozenset(kinds), wake)
        with self._lock:
            self._subscribers.append(subscriber)
        return subscriber

    def _drop(self, subscriber: _Subscriber) -> None:
        with self._lock:
            self._subscribers = [one for one in self._subscribers if one is not subscriber]


@dataclass(frozen=True, slots=True, eq=False)
class _Subscriber:
    bus: MemoryBus
    kinds: frozenset[str]
    wake: Callable[[], None]

    def close(self) -> None:
        self.bus._drop(self)


class NullBus:
    """The bus switched off: agents find their work by their own cycles."""

    def publish(self, event: Event) -> None:
        return

    def subscribe(self, kinds: Collection[str], wake: Callable[[], None]) -> Subscription:
        return _NoSubscription()


class _NoSubscription:
    def close(self) -> None:
        return
