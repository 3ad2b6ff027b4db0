"""The lease keeper: who gets a lease, how long it may be relied on, how it passes on."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from sqlalchemy import Connection, select, update

from agents.runtime.leasing import LeaseKeeper
from gridcore.clock import FakeClock
from gridcore.db import Database, dbnow, leases
from gridcore.db.keys import Keys
from gridcore.errors import LeaseLost, Unavailable
from gridcore.tables import lease

A, B = "endpoint/T2_A", "endpoint/T2_B"
NamedKeeper = Callable[..., LeaseKeeper]


@pytest.fixture
def keeper(database: Database) -> Iterator[NamedKeeper]:
    """Makes keepers of different owners; all are closed in the end."""
    with ExitStack() as stack:

        def make(duty: str, seconds: float = 300, **options: Any) -> LeaseKeeper:
            one = LeaseKeeper(database, leases.Owner.current(duty), seconds, **options)
            stack.callback(one.close)
            return one

        yield make


def row(database: Database, name: str) -> leases.LeaseRow:
    with database.snapshot() as conn:
        return leases.read(conn, [name])[0]


def expire(database: Database, name: str) -> None:
    """Put the lease's end into the past, as if nobody had renewed it."""

    def unit(conn: Connection) -> None:
        conn.execute(update(lease).where(lease.c.name == name), {"expires_at": dbnow(conn)})

    database.transaction(unit)


class Cut(Database):
    """A database whose answers stop coming: before the work of a transaction, or after it."""

    cut = ""

    def transaction(self, unit: Any) -> Any:
        if self.cut == "before":
            raise Unavailable("cut")
        result = super().transaction(unit)
        if self.cut == "after":
            raise Unavailable("cut")
        return result


@pytest.fixture
def cut(sqlite_db: Database) -> Iterator[Cut]:
    database = Cut(str(sqlite_db.url))
    yield database
    database.close()


def test_makes_missing_leases_and_takes_them(database: Database, keeper: NamedKeeper) -> None:
    first = keeper("first")
    first.take([A, B])
    held = first.held([A, B, "endpoint/other"])
    assert set(held) == {A, B}
    database.transaction(lambda conn: leases.hold(conn, held[A]))
    second = keeper("second")
    second.take([A, B])
    assert second.held([A, B]) == {}


def test_keepers_that_start_at_once_share_without_error(database: Database, keeper: NamedKeeper) -> None:
    keepers = [keeper(f"k{n}") for n in range(4)]
    names = [f"endpoint/{n}" for n in range(6)]
    barrier, errors = threading.Barrier(4), []

    def start(one: LeaseKeeper) -> None:
        barrier.wait(60)
        try:
            one.take(names)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=start, args=(one,)) for one in keepers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    held = [name for one in keepers for name in one.held(names)]
    assert errors == []
    assert sorted(held) == names


def test_expired_lease_passes_on_and_its_old_holder_drops_it(database: Database, keeper: NamedKeeper) -> None:
    old, new = keeper("old"), keeper("new")
    old.take([A])
    (mine,) = old.held([A]).values()
    expire(database, A)
    new.take([A])
    assert new.held([A])[A].fence == mine.fence + 1
    with pytest.raises(LeaseLost):
        database.transaction(lambda conn: leases.hold(conn, mine))
    old.renew()
    assert old.held([A]) == {}
    assert row(database, A).owner == new.owner


def test_lease_of_a_dead_process_is_taken_at_once(database: Database, keeper: NamedKeeper) -> None:
    script = (
        "import sys\n"
        "from agents.runtime.leasing import LeaseKeeper\n"
        "from gridcore.db import Database, leases\n"
        "keeper = LeaseKeeper(Database(sys.argv[1]), leases.Owner.current('child'), 300)\n"
        f"keeper.take([{A!r}]); print(len(keeper.held([{A!r}])), flush=True); input()\n"
    )
    url = database.url.render_as_string(hide_password=False)
    with subprocess.Popen(
        [sys.executable, "-c", script, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "1\n"
        heir = keeper("heir")
        heir.take([A])
        assert heir.held([A]) == {}
        child.kill()
        child.wait()
        heir.take([A])
    assert heir.held([A])[A].fence == 2


def test_a_lease_is_relied_on_for_60_percent_of_its_time(sqlite_db: Database, keeper: NamedKeeper) -> None:
    clock = FakeClock()
    one = keeper("one", 100, clock=clock)
    one.take([A])
    clock.advance(59)
    assert A in one.held([A])
    clock.advance(2)
    assert one.held([A]) == {}
    one.renew()
    assert A in one.held([A])


def test_renewal_counts_from_before_its_transaction(cut: Cut) -> None:
    clock = FakeClock()
    one = LeaseKeeper(cut, leases.Owner.current("slow"), 100, clock=clock)
    one.take([A])
    swift = cut.transaction

    def slow(unit: Any) -> Any:
        clock.advance(70)
        return swift(unit)

    cut.transaction = slow  # type: ignore[method-assign]
    one.renew()
    assert one.held([A]) == {}


def test_lease_in_doubt_is_not_relied_on_until_confirmed(database: Database, keeper: NamedKeeper) -> None:
    one = keeper("one")
    one.take([A, B])
    one.doubt([A])
    assert set(one.held([A, B])) == {B}
    one.renew()
    assert set(one.held([A, B])) == {A, B}


def test_thread_renews_what_is_held(database: Database, keeper: NamedKeeper) -> None:
    one = keeper("one", 300, renew_s=0.01)
    renewed = threading.Event()
    renew = one.renew

    def seen() -> None:
        renew()
        renewed.set()

    one.renew = seen  # type: ignore[method-assign]
    one.take([A])
    before = row(database, A).expires_at
    one.start()
    assert renewed.wait(60)
    after = row(database, A).expires_at
    assert before is not None
    assert after is not None
    assert after > before


def test_thread_outlives_a_silent_database(cut: Cut) -> None:
    one = LeaseKeeper(cut, leases.Owner.current("one"), 300, renew_s=0.01)
    one.take([A])
    failed, renewed = threading.Event(), threading.Event()
    renew = one.renew

    def seen() -> None:
        try:
            renew()
        except Unavailable:
            failed.set()
            raise
        renewed.set()

    one.renew = seen  # type: ignore[method-assign]
    cut.cut = "before"
    one.start()
    assert failed.wait(60)
    assert not renewed.is_set()
    cut.cut = ""
    assert renewed.wait(60)
    one.close()
    assert row(cut, A).owner is None


def test_taking_whose_answer_was_lost_is_repeated(cut: Cut) -> None:
    one = LeaseKeeper(cut, leases.Owner.current("one"), 300)
    one.take([B])
    one.release([B])
    cut.cut = "after"
    with pytest.raises(Unavailable):
        one.take([B])
    assert one.held([B]) == {}
    assert row(cut, B).owner == one.owner
    cut.cut = ""
    one.take([B])
    assert set(one.held([B])) == {B}


def test_a_namesake_in_the_same_process_is_not_robbed(database: Database, keeper: NamedKeeper) -> None:
    first, second = keeper("same"), keeper("same")
    first.take([A])
    second.take([A])
    assert second.held([A]) == {}
    assert set(first.held([A])) == {A}


def test_close_gives_back_all_but_what_is_still_worked_on(database: Database, keeper: NamedKeeper) -> None:
    one = keeper("one")
    one.start()
    one.take([A, B])
    one.close(keep=[B])
    assert row(database, A).owner is None
    assert row(database, B).owner == one.owner
    assert not one.alive()
    one.take([A])
    assert one.held([A]) == {}


def test_released_lease_is_free_at_once(database: Database, keeper: NamedKeeper) -> None:
    one, other = keeper("one"), keeper("other")
    one.take([A])
    one.release([A])
    other.take([A])
    assert set(other.held([A])) == {A}


def test_keys_of_new_leases_do_not_clash_with_others(database: Database, keeper: NamedKeeper) -> None:
    taken = Keys(database).one("lease")
    keeper("one").take([A])
    with database.snapshot() as conn:
        assert conn.execute(select(lease.c.id)).scalar_one() != taken


def test_of_many_leases_those_that_were_taken_over_are_left_out(
    database: Database, keeper: NamedKeeper
) -> None:
    first = keeper("first")
    first.take([A, B])
    held = first.held([A, B])
    lost = update(lease).where(lease.c.name == A).values(fence=lease.c.fence + 1)
    database.transaction(lambda conn: conn.execute(lost))
    _, mine = database.transaction(lambda conn: leases.hold_all(conn, list(held.values())))
    assert mine == [held[B]]
