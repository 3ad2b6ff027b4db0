"""The bus: who is woken, that a failing subscriber hurts nobody, and threads."""

from __future__ import annotations

import logging
import threading

import pytest

from gridcore.bus import Bus, Event, MemoryBus, NullBus

CLOSED = Event("block.closed", "/p/q/RAW#1", {"files": 8})


def test_only_the_wanted_kinds_wake():
    bus, woken = MemoryBus(), []
    bus.subscribe({"block.closed", "job.done"}, lambda: woken.append("both"))
    bus.subscribe(["job.done"], lambda: woken.append("done"))
    bus.subscribe([], lambda: woken.append("none"))
    bus.publish(CLOSED)
    assert woken == ["both"]
    bus.publish(Event("job.done", "t/1"))
    assert woken == ["both", "both", "done"]


def test_a_closed_subscription_is_not_woken_and_closes_twice():
    bus, woken = MemoryBus(), []
    first = bus.subscribe([CLOSED.kind], lambda: woken.append(1))
    bus.subscribe([CLOSED.kind], lambda: woken.append(2))
    first.close()
    first.close()
    bus.publish(CLOSED)
    assert woken == [2]


def test_a_failing_subscriber_hurts_neither_publisher_nor_others(caplog):
    bus, woken = MemoryBus(), threading.Event()

    def fail() -> None:
        raise RuntimeError("broken")

    bus.subscribe([CLOSED.kind], fail)
    bus.subscribe([CLOSED.kind], woken.set)
    with caplog.at_level(logging.WARNING):
        bus.publish(CLOSED)
    assert woken.is_set()
    assert [record.message for record in caplog.records] == ["subscriber failed"]
    assert "broken" in caplog.records[0].fields["error"]


def test_a_wake_may_use_the_bus_itself():
    bus, woken = MemoryBus(), []

    def once() -> None:
        subscription.close()
        bus.publish(Event("second", ""))
        bus.subscribe(["third"], lambda: woken.append("third"))

    subscription = bus.subscribe(["first"], once)
    bus.subscribe(["second"], lambda: woken.append("second"))
    for kind in ("first", "first", "third"):
        bus.publish(Event(kind, ""))
    assert woken == ["second", "third"]


def test_threads_publish_subscribe_and_close_at_once():
    bus, seen, start = MemoryBus(), [], threading.Barrier(6)
    bus.subscribe(["tick"], lambda: seen.append(1))

    def work() -> None:
        start.wait(timeout=5)
        for _ in range(200):
            other = bus.subscribe(["tock"], lambda: None)
            bus.publish(Event("tick", ""))
            other.close()

    threads = [threading.Thread(target=work) for _ in range(6)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(timeout=10)
    assert len(seen) == 1200
    assert len(bus._subscribers) == 1


def test_the_null_bus_wakes_nobody():
    bus: Bus = NullBus()
    subscription = bus.subscribe([CLOSED.kind], lambda: pytest.fail("woken"))
    bus.publish(CLOSED)
    subscription.close()
