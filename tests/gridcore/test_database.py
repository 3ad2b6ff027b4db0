"""The database layer's promises, kept alike on SQLite and PostgreSQL, with real connections."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import accumulate

import pytest
from sqlalchemy import Connection, bindparam, delete, func, insert, select, update
from sqlalchemy.exc import OperationalError

from catalogs.tables import holding
from gridcore.db import Database, counters, dbnow, engine, insert_rows, leases, lock_rows, outbox, quotas
from gridcore.db.engine import Stale
from gridcore.db.keys import Keys
from gridcore.errors import Busy, LeaseLost, Unavailable, UsageError
from gridcore.tables import account, lease, quota

NOBODY = leases.Owner("ghost@here", "elsewhere", "boot", 1, 1)


def at_once(n: int, act: Callable[[int], object]) -> list[object]:
    """Run act(0..n-1) in threads that start together; their results."""
    barrier = threading.Barrier(n)

    def one(number: int) -> object:
        barrier.wait(10)
        return act(number)

    with ThreadPoolExecutor(n) as pool:
        return list(pool.map(one, range(n)))


def test_transaction_commits_and_rolls_back(database: Database) -> None:
    row = {"id": 1, "name": "anna", "full_name": None}
    database.transaction(lambda conn: insert_rows(conn, account, [row]))

    def fails(conn: Connection) -> None:
        insert_rows(conn, account, [{**row, "id": 2, "name": "bert"}])
        raise UsageError("no")

    with pytest.raises(UsageError):
        database.transaction(fails)
    with database.snapshot() as conn:
        assert conn.execute(select(account.c.name)).scalars().all() == ["anna"]


@pytest.mark.parametrize("stale", [True, False])
def test_who_always_comes_second_is_told_so(
    database: Database, monkeypatch: pytest.MonkeyPatch, stale: bool
) -> None:
    monkeypatch.setattr(engine, "ATTEMPTS", 2)
    runs = []

    def unit(_: Connection) -> None:
        runs.append(1)
        raise Stale if stale else OperationalError(None, None, Exception("database is locked"))

    with pytest.raises(Busy, match="others keep changing"):
        database.transaction(unit)
    assert len(runs) == 2


def test_snapshot_refuses_to_write(database: Database) -> None:
    with pytest.raises(Exception, match=r"read-?only"), database.snapshot() as conn:
        conn.execute(insert(account), {"id": 1, "name": "x"})


def test_snapshot_is_stopped_when_it_takes_too_long(database: Database) -> None:
    database.statement_timeout_s = 0.2
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    if database.dialect == "postgresql":
        endless = f"SET statement_timeout = 200; {endless}"
    with pytest.raises(Unavailable, match="longer than"), database.snapshot() as conn:
        conn.exec_driver_sql(endless)


def test_a_transaction_within_a_transaction_is_refused(database: Database) -> None:
    with pytest.raises(RuntimeError, match="within"):
        database.transaction(lambda _: database.transaction(lambda _: None))


def test_keys_are_never_given_twice(database: Database) -> None:
    takers = [Keys(database) for _ in range(4)]
    ranges = at_once(8, lambda n: [key for _ in range(5) for key in takers[n % 4].take("job", 37)])
    counts = Counter(key for keys in ranges for key in keys)  # type: ignore[attr-defined]
    assert len(counts) == 8 * 5 * 37
    assert max(counts.values()) == 1


def test_sqlite_time_never_goes_back(sqlite_db: Database) -> None:
    ahead = datetime.now(UTC) + timedelta(hours=2)
    sqlite_db._last = ahead
    assert sqlite_db.transaction(dbnow) == ahead


def test_dbnow_is_aware_and_close_to_ours(database: Database) -> None:
    now = database.transaction(dbnow)
    assert abs((now - datetime.now(UTC)).total_seconds()) < 5


# --- races -------------------------------------------------------------------------------------------


def test_reservation_race_never_exceeds_the_limit(database: Database) -> None:
    row = {"id": 1, "owner": "pilots:T1", "limit_value": 100, "used_value": 0}
    database.transaction(lambda conn: insert_rows(conn, quota, [row]))

    def writer(_: int) -> int:
        return sum(database.transaction(lambda conn: quotas.take(conn, "pilots:T1", 7)) for _ in range(3))

    granted = sum(at_once(20, writer))  # type: ignore[arg-type]
    with database.snapshot() as conn:
        used = conn.execute(select(quota.c.used_value)).scalar_one()
    assert granted == 100 // 7
    assert used == granted * 7


def take_most(conn: Connection, owner: str, sizes: Sequence[int]) -> int:
    """As allocation does: what fits, from the front, into what is left under the lock."""
    quotas.lock(conn, [owner])
    room = quotas.room(conn, [owner]).get(owner)
    if room is None:
        return len(sizes)
    sums = [one for one in accumulate(sizes) if one <= room[0]]
    assert not sums or not sums[-1] or quotas.take(conn, owner, sums[-1])
    return len(sums)


def test_takers_of_the_most_share_what_there_is(database: Database) -> None:
    row = {"id": 1, "owner": "pilots:T1:heavy", "limit_value": 1000, "used_value": 30}
    database.transaction(lambda conn: insert_rows(conn, quota, [row]))
    sizes = [40, 0, 9, 11]

    def writer(_: int) -> int:
        n = database.transaction(lambda conn: take_most(conn, "pilots:T1:heavy", sizes))
        return sum(sizes[:n])

    taken = sum(at_once(20, writer))  # type: ignore[arg-type]
    with database.snapshot() as conn:
        used = conn.execute(select(quota.c.used_value)).scalar_one()
    assert used == 30 + taken <= 1000
    assert 1000 - used < 40  # not even the first of them fits any more


def test_the_most_that_fits_is_taken_from_the_front(database: Database) -> None:
    rows = [{"id": 1, "owner": "a", "limit_value": 100, "used_value": 0}]
    rows += [{"id": 2, "owner": "b", "limit_value": 5, "used_value": 9}]
    database.transaction(lambda conn: insert_rows(conn, quota, rows))

    def most(owner: str, *sizes: int) -> int:
        return database.transaction(lambda conn: take_most(conn, owner, sizes))

    assert most("a", 60, 50, 1) == 1
    assert most("a") == most("a", 41) == most("b", 1) == most("b", 0) == 0
    assert (most("a", 40, 0), most("a", 0, 1)) == (2, 1)
    assert most("nobody", 10**18, 1) == 2
    room = database.transaction(lambda conn: quotas.room(conn, ["b", "a", "nobody"]))
    assert room == {"a": (0, 100), "b": (-4, 5)}


def test_events_of_one_kind_go_together(database: Database) -> None:
    events = [(f"/a/b#{number}", {"files": number}) for number in range(3)]
    database.transaction(lambda conn: outbox.emit_all(conn, "block.closed", events))
    database.transaction(lambda conn: outbox.emit_all(conn, "block.closed", []))
    with database.snapshot() as conn:
        assert [(one.subject, one.body) for one in outbox.waiting(conn, 9)] == events


def test_counters_begin_at_zero_and_grow_in_many_hands(database: Database) -> None:
    def writer(number: int) -> None:
        rows = {(2, 1): [1, 1, 2, number], (1, 2): [0, 0, 0, 0], (1, 1): [1, 0, 0, -1]}
        database.transaction(lambda conn: counters.grow(conn, holding, rows))

    at_once(8, writer)
    with database.snapshot() as conn:
        rows = [tuple(row) for row in conn.execute(select(holding).order_by(*holding.primary_key))]
    database.transaction(lambda conn: conn.execute(delete(holding)))
    assert rows == [(1, 1, 8, 0, 0, -8), (2, 1, 8, 8, 16, 28)]


def test_guarded_delete_race_keeps_the_last_copy(database: Database) -> None:
    """ "Delete if more than one is left", run for both copies at once under the owner's row lock."""
    rows = [{"id": n, "name": f"copy{n}", "full_name": None} for n in (1, 2)]
    guard = {"id": 9, "owner": "block", "limit_value": 0, "used_value": 0}
    copies = select(func.count()).select_from(account)
    remove = delete(account).where(account.c.id == bindparam("copy"))
    for _ in range(5):
        database.transaction(lambda conn: conn.execute(delete(account)))
        database.transaction(lambda conn: conn.execute(delete(quota)))
        database.transaction(lambda conn: insert_rows(conn, account, rows))
        database.transaction(lambda conn: insert_rows(conn, quota, [guard]))

        def unit(conn: Connection, number: int) -> bool:
            lock_rows(conn, quota, [9])
            if conn.execute(copies).scalar_one() < 2:
                return False
            return conn.execute(remove, {"copy": number + 1}).rowcount == 1

        removed = at_once(2, lambda n: database.transaction(lambda conn: unit(conn, n)))
        assert sorted(removed) == [False, True]  # type: ignore[type-var]


def test_claim_race_gives_each_row_to_one_owner(database: Database) -> None:
    rows = [{"id": n, "name": f"job{n}", "full_name": None} for n in range(1, 201)]
    database.transaction(lambda conn: insert_rows(conn, account, rows))
    free = select(account.c.id).where(account.c.full_name.is_(None)).order_by(account.c.id).limit(10)
    claim = update(account).where(account.c.id == bindparam("one"), account.c.full_name.is_(None))
    claim = claim.values(full_name=bindparam("owner"))

    def claimer(number: int) -> list[int]:
        mine: list[int] = []
        while True:

            def unit(conn: Connection) -> tuple[bool, list[int]]:
                ids = conn.execute(free).scalars().all()
                won = [i for i in ids if conn.execute(claim, {"one": i, "owner": f"o{number}"}).rowcount]
                return bool(ids), won

            more, won = database.transaction(unit)
            mine += won
            if not more:
                return mine

    claimed = Counter(i for ids in at_once(4, claimer) for i in ids)  # type: ignore[attr-defined]
    assert len(claimed) == 200
    assert max(claimed.values()) == 1


def take(database: Database, owner: leases.Owner, seconds: float, dead: bool = False) -> list[leases.Lease]:
    with database.snapshot() as conn:
        rows = leases.read(conn, ["endpoint/T2"])
    ids = [row.id for row in rows] if dead else []
    return database.transaction(lambda conn: leases.take(conn, rows, owner, seconds, ids))


def owner(number: int) -> leases.Owner:
    return leases.Owner(f"prodagent@here:{number}", "here", "boot", number, number)


@pytest.fixture
def endpoint_lease(database: Database) -> Database:
    database.transaction(lambda conn: leases.create(conn, [(1, "endpoint/T2")]))
    return database


def test_takeover_race_has_one_winner_and_a_higher_fence(endpoint_lease: Database) -> None:
    (first,) = take(endpoint_lease, owner(1), 300)
    assert take(endpoint_lease, owner(2), 300) == []
    with endpoint_lease.snapshot() as conn:
        seen = leases.read(conn, ["endpoint/T2"])

    def heir(number: int) -> list[leases.Lease]:
        return endpoint_lease.transaction(lambda conn: leases.take(conn, seen, owner(10 + number), 300, [1]))

    winners = at_once(6, heir)
    (won,) = [lease_ for found in winners for lease_ in found]  # type: ignore[attr-defined]
    assert won.fence == first.fence + 1
    with pytest.raises(LeaseLost):
        endpoint_lease.transaction(lambda conn: leases.hold(conn, first))
    endpoint_lease.transaction(lambda conn: leases.hold(conn, won))
    assert endpoint_lease.transaction(lambda conn: leases.renew(conn, [first], 300)) == []


def test_stale_owner_never_writes_after_a_takeover(endpoint_lease: Database) -> None:
    """An owner and its successor write at once, many times: no write of the old one follows the new one's."""
    held = take(endpoint_lease, owner(1), 300)
    log: list[int] = []

    def write(conn: Connection, mine: leases.Lease) -> int:
        leases.hold(conn, mine)
        return mine.fence

    def old(_: int) -> None:
        for _ in range(30):
            try:
                log.append(endpoint_lease.transaction(lambda conn: write(conn, held[0])))
            except LeaseLost:
                return

    def new(_: int) -> None:
        (mine,) = take(endpoint_lease, owner(2), 300, dead=True)
        log.append(endpoint_lease.transaction(lambda conn: write(conn, mine)))

    at_once(2, lambda n: (old, new)[n](n))
    with pytest.raises(LeaseLost):
        endpoint_lease.transaction(lambda conn: leases.hold(conn, held[0]))


def test_lease_expires_and_renews(endpoint_lease: Database) -> None:
    (mine,) = take(endpoint_lease, owner(1), -1)
    assert endpoint_lease.transaction(lambda conn: leases.renew(conn, [mine], 300)) == []
    (again,) = take(endpoint_lease, owner(2), 300)
    (renewed,) = endpoint_lease.transaction(lambda conn: leases.renew(conn, [again], 600))
    assert renewed.expires_at > again.expires_at
    endpoint_lease.transaction(lambda conn: leases.give_back(conn, [renewed]))
    assert len(take(endpoint_lease, owner(3), 300)) == 1


def test_a_dead_process_of_this_host_is_provably_dead() -> None:
    import subprocess
    import sys

    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    me = leases.Owner.current("test")
    child_owner = leases.Owner("x", me.host, me.boot_id, child.pid, leases.start_time(child.pid) or 0)
    assert not child_owner.provably_dead()
    assert not NOBODY.provably_dead()
    child.kill()
    child.communicate()
    assert child_owner.provably_dead()
    assert leases.Owner("x", me.host, "another boot", me.pid, me.started).provably_dead()


def test_outbox_events_are_told_once(database: Database) -> None:
    def unit(conn: Connection) -> None:
        for n in range(5):
            outbox.emit(conn, "block.closed", f"block{n}", {"n": n})

    database.transaction(unit)

    def relay(number: int) -> int:
        def tell(conn: Connection) -> int:
            return outbox.mark(conn, outbox.waiting(conn, 10), f"relay{number}", dbnow(conn))

        return database.transaction(tell)

    assert sum(at_once(3, relay)) == 5  # type: ignore[arg-type]
    with database.snapshot() as conn:
        assert outbox.waiting(conn, 10) == []
        assert conn.execute(select(func.count()).select_from(lease)).scalar_one() == 0


def test_no_writer_starves(database: Database) -> None:
    counts = Counter[int]()
    stop = threading.Timer(1.0, lambda: None)
    stop.start()

    def writer(number: int) -> None:
        keys = Keys(database)
        while stop.is_alive():
            keys._reserve(f"range{number}", 1)
            counts[number] += 1

    at_once(4, writer)
    assert min(counts.values()) > max(counts.values()) / 20
