"""Gathering: what many pilots ask at about the same time becomes one claim, one commit, one lock."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice

from sqlalchemy import Connection

from gridcore.db import Database, dbnow
from prodsys.jobs.attempts import Claimant
from prodsys.jobs.store import Head
from prodsys.queue import taskqueue
from prodsys.queue.outlook import Memory

#: The longest that a first asker waits for others, in seconds.
WINDOW_S = 0.01
#: The longest anybody waits for an answer, in seconds.
PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class Ask:
    """Up to `n` jobs for an endpoint at a site."""

    endpoint_id: int
    site_id: int
    n: int


@dataclass(slots=True)
class _Batch:
    """Asks that will be answered together."""

    tickets: list[tuple[Ask, Future[list[Head]]]] = field(default_factory=list)
    full: threading.Event = field(default_factory=threading.Event)


class Gatherer:
    """Claims for the threads of one process; `agent` is who holds what they get."""

    def __init__(self, database: Database, instance: str, agent: str, window_s: float = WINDOW_S) -> None:
        self._database = database
        self._instance = instance
        self._agent = agent
        self._window_s = window_s
        self._memory = Memory()
        self._guard = threading.Lock()
        self._claiming = threading.Lock()
        self._batch = _Batch()
        self._usual = 1

    def lease(self, endpoint_id: int, site_id: int, n: int) -> list[Head]:
        """Up to `n` jobs, LEASED with an open attempt. The first of a batch claims for all who ask meanwhile.

        It goes as soon as as many have asked as the last time, and after the window at the latest.
        """
        answer: Future[list[Head]] = Future()
        with self._guard:
            batch = self._batch
            batch.tickets.append((Ask(endpoint_id, site_id, n), answer))
            first = len(batch.tickets) == 1
            if len(batch.tickets) >= self._usual:
                batch.full.set()
        if first:
            self._lead(batch)
        return answer.result(PATIENCE_S)

    def _lead(self, batch: _Batch) -> None:
        batch.full.wait(self._window_s)
        with self._claiming:  # more may ask while the batch before is being claimed
            with self._guard:
                self._batch = _Batch()
                self._usual = len(batch.tickets)
            try:
                heads = self._claim([ask for ask, _ in batch.tickets])
            except BaseException as error:
                for _, answer in batch.tickets:
                    answer.set_exception(error)
                return
        for ask, answer in batch.tickets:
            answer.set_result(list(islice(heads[ask.endpoint_id], ask.n)))

    def _claim(self, asks: Sequence[Ask]) -> dict[int, Iterator[Head]]:
        wanted: dict[tuple[int, int], int] = defaultdict(int)
        for ask in asks:
            wanted[ask.endpoint_id, ask.site_id] += ask.n

        def unit(conn: Connection) -> dict[int, list[Head]]:
            now = dbnow(conn)
            return {
                endpoint_id: self._claimed(conn, endpoint_id, site_id, n, now)
                for (endpoint_id, site_id), n in sorted(wanted.items())
            }

        found = self._database.transaction(unit)
        return {endpoint_id: iter(heads) for endpoint_id, heads in found.items()}

    def _claimed(self, conn: Connection, endpoint_id: int, site_id: int, n: int, now: datetime) -> list[Head]:
        by = Claimant(endpoint_id=endpoint_id, site_id=site_id, agent=self._agent, instance=self._instance)
        return taskqueue.claim(conn, by, n, now, self._memory)
