"""LeaseKeeper: takes, renews and gives back the leases of all agents of one process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from sqlalchemy.exc import IntegrityError

from gridcore import log, metrics
from gridcore.clock import Clock, SystemClock
from gridcore.db import Database, dbnow, leases
from gridcore.db.keys import Keys
from gridcore.db.leases import Lease, LeaseRow, Owner
from gridcore.errors import Unavailable

#: A holder stops working when this part of its lease has passed without renewal.
TRUSTED = 0.6
#: After a failed renewal the next try comes this many times sooner.
HASTE = 10

_LOG = log.get(__name__)


@dataclass(frozen=True, slots=True)
class _Holding:
    lease: Lease
    since: float | None  # monotonic reading before the last renewal; None while in doubt


class LeaseKeeper:
    """One per process, shared by its agents' threads; ONE thread renews everything held."""

    def __init__(
        self,
        database: Database,
        owner: Owner,
        seconds: float,
        *,
        renew_s: float | None = None,
        clock: Clock | None = None,
    ) -> None:
        """`seconds`: length of a lease; `renew_s`: time between renewals, a third of it unless given."""
        self.owner = owner
        self.seconds = seconds
        self._renew_s = min(renew_s or seconds, seconds / 3)
        self._database = database
        self._keys = Keys(database)
        self._clock = clock or SystemClock()
        self._guard = threading.Lock()
        self._taking = threading.Lock()
        self._holdings: dict[str, _Holding] = {}
        self._unsure: set[str] = set()
        self._kept: frozenset[str] = frozenset()
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="leases", daemon=True)

    def start(self) -> None:
        """Begin to renew."""
        self._thread.start()

    def alive(self) -> bool:
        """Whether renewals go on."""
        return self._thread.is_alive()

    def held(self, names: Collection[str]) -> dict[str, Lease]:
        """Those of the names whose lease may be relied on now."""
        limit = self._clock.monotonic() - TRUSTED * self.seconds
        with self._guard:
            found = {name: self._holdings[name] for name in names if name in self._holdings}
        return {name: one.lease for name, one in found.items() if one.since is not None and one.since > limit}

    def take(self, names: Collection[str]) -> None:
        """Take those that are free, expired or whose owner is provably dead. Raises Unavailable."""
        with self._taking:  # else two threads could take the same row one after the other
            wanted = self._missing(names)
            if not wanted or self._closing.is_set():
                return
            rows, dead = self._takeable(wanted)
            if rows:
                self._take(rows, dead)

    def doubt(self, names: Collection[str]) -> None:
        """Rely on none of these until a renewal, begun at once, has confirmed them."""
        with self._guard:
            for name in names:
                if name in self._holdings:
                    self._holdings[name] = _Holding(self._holdings[name].lease, None)
        self._wake.set()

    def release(self, names: Collection[str]) -> None:
        """Let others have these at once. Raises Unavailable."""
        with self._guard:
            given = [self._holdings.pop(name).lease for name in names if name in self._holdings]
        if given:
            with self._unsure_of([one.name for one in given]):
                self._database.transaction(lambda conn: leases.give_back(conn, given))

    def renew(self) -> None:
        """Prolong all that is held, in one transaction; drop what is no longer ours. Raises Unavailable."""
        with self._guard:
            held = [one.lease for one in self._holdings.values()]
        if not held:
            return
        began = self._clock.monotonic()
        renewed = self._database.transaction(lambda conn: leases.renew(conn, held, self.seconds))
        ours = {one.id: one for one in renewed}
        with self._guard:
            for old in held:
                now_held = self._holdings.get(old.name)
                if now_held is None or now_held.lease.fence != old.fence:
                    continue
                if old.id in ours:
                    self._holdings[old.name] = _Holding(ours[old.id], began)
                else:
                    del self._holdings[old.name]
                    _LOG.warning("lease lost", lease=old.name, fence=old.fence)

    def close(self, *, keep: Collection[str] = (), timeout_s: float = 1.0) -> None:
        """Give everything back but `keep`, which a thread may still work on: those end with the process."""
        self._kept = frozenset(keep)
        self._closing.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        else:
            self._carefully(self._give_back)

    def _run(self) -> None:
        well = True
        while not self._closing.is_set():
            self._wake.wait(self._renew_s if well else self._renew_s / HASTE)
            self._wake.clear()
            if not self._closing.is_set():
                well = self._carefully(self.renew)
        self._carefully(self._give_back)

    def _carefully(self, act: Callable[[], None]) -> bool:
        """Whether it went well; this thread outlives every error."""
        try:
            act()
        except Unavailable as error:
            _LOG.warning("leases not renewed", held=len(self._holdings), error=error.message)
            return False
        except Exception:
            _LOG.exception("leases not renewed", held=len(self._holdings))
            return False
        return True

    def _give_back(self) -> None:
        with self._guard:
            names = self._holdings.keys() - self._kept
        self.release(names)

    def _missing(self, names: Collection[str]) -> list[str]:
        with self._guard:
            return [name for name in names if name not in self._holdings]

    def _takeable(self, names: Collection[str]) -> tuple[list[LeaseRow], set[int]]:
        """The rows worth a transaction, made where they are missing, and which owners are dead."""
        rows, free = self._read(names)
        absent = set(names) - {row.name for row in rows}
        if absent:
            for name in sorted(absent):
                self._create(name)
            rows, free = self._read(names)
        dead = {row.id for row in rows if row.owner and (row.owner.provably_dead() or self._forgotten(row))}
        return [row for row in rows if row.id in free | dead], dead

    @contextmanager
    def _unsure_of(self, names: Collection[str]) -> Iterator[None]:
        """After an error within, nobody knows whether the transaction was committed."""
        with self._guard:
            self._unsure.update(names)
        yield
        with self._guard:
            self._unsure.difference_update(names)

    def _forgotten(self, row: LeaseRow) -> bool:
        """Whether the lease is ours although we do not hold it: the database's answer was lost."""
        return row.owner == self.owner and row.name in self._unsure

    def _read(self, names: Collection[str]) -> tuple[list[LeaseRow], set[int]]:
        """The rows, and the keys of the free and expired ones."""
        with self._database.snapshot() as conn:
            rows, now = leases.read(conn, names), dbnow(conn)
        return rows, {row.id for row in rows if row.expires_at is None or row.expires_at <= now}

    def _create(self, name: str) -> None:
        key = self._keys.one("lease")
        with suppress(IntegrityError):  # another process was faster
            self._database.transaction(lambda conn: leases.create(conn, [(key, name)]))

    def _take(self, rows: Sequence[LeaseRow], dead: Collection[int]) -> None:
        began = self._clock.monotonic()
        with self._unsure_of([row.name for row in rows]):
            taken = self._database.transaction(
                lambda conn: leases.take(conn, rows, self.owner, self.seconds, dead)
            )
        with self._guard:
            self._holdings |= {one.name: _Holding(one, began) for one in taken}
        before = {row.id: row.owner for row in rows}
        for one in taken:
            last = before[one.id]
            if last is not None and last != self.owner:
                metrics.count("lease_takeovers")
                _LOG.info("lease taken over", lease=one.name, fence=one.fence, last_owner=last.name)
