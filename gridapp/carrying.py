"""Carrying orders out: chunk by chunk, each a short transaction that keeps how far it came, then a rest.

Cut off at any point, an order is resumed behind its last whole chunk.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from sqlalchemy import Connection

from agents.runtime.agent import Context
from gridcore.db.statements import chunks
from gridcore.selector_parser import parse
from prodsys.control import operations, orders, retargets, selection
from prodsys.control.operations import Into
from prodsys.control.orders import TASK_SPAN, Changed, Order, OrderState, OrderVerb
from prodsys.control.selection import Walk
from prodsys.control.selectors import JOBS
from prodsys.queue import breakers
from prodsys.queue.sqlport import WISHES_PER_ATTEMPT
from prodsys.settling import retry_rules
from prodsys.settling.settlement import Settler

#: Jobs a transaction moves, at most and at least.
CHUNK = 500
LEAST = 100
#: Seconds a transaction should take at most: nobody else waits longer for what it locks.
AIM_S = 0.02
#: Rest after a transaction, as a part of the time it took: claims get their turn.
REST = 1.0
#: Keys of wishes reserved at once, in chunks' worth.
RESERVE = 20

#: Told after each chunk, where there are several: (jobs gone through, jobs in all).
Tell = Callable[[int, int], None]


def silent(_done: int, _of: int) -> None:
    """Tell nobody."""


def carry_out(context: Context, order: Order, tell: Tell = silent) -> Order:
    """Go on with a running order to its end; the order as it is then. Raises Busy if another does too."""
    carrier = _Carrier(context, order, tell)
    carrier.undo() if order.verb == OrderVerb.UNDO else carrier.go()
    now = context.clock.now()
    context.database.transaction(lambda conn: orders.set_state(conn, order, OrderState.DONE, now))
    with context.database.snapshot() as conn:
        return orders.by_id(conn, order.id)


class _Carrier:
    """An order under way."""

    def __init__(self, context: Context, order: Order, tell: Tell) -> None:
        self.context = context
        self.order = order
        self.tell = tell
        self.wishes: list[int] = []
        self.size = CHUNK
        self.rest = 0.0

    def go(self) -> None:
        """Task by task, from the cursor on."""
        where = self.order.selector.get("where")
        selector = None if where is None else parse(where, JOBS)
        walk = Walk(selector, self.order.created_at, operations.sources(self.order.verb))
        with self.context.database.snapshot() as conn:
            ends = {row.id: row.next_index - 1 for row in selection.tasks_of(conn, self.order.tasks)}
        first, after = divmod(self.order.cursor, TASK_SPAN)
        for place in range(first, len(self.order.tasks)):
            task_id = self.order.tasks[place]
            for rows, upto in self._pieces(walk, task_id, after, ends[task_id]):
                self._chunk(walk, task_id, rows, place * TASK_SPAN + upto)
            after = 0

    def _pieces(self, walk: Walk, task_id: int, after: int, end: int) -> Iterator[tuple[Sequence[Any], int]]:
        """(rows, the index gone through with them), none without rows."""
        named: Mapping[str, list[int]] | None = self.order.selector.get("named")
        if named is not None:
            for indices in chunks([index for index in named[str(task_id)] if index > after], self.size):
                with self.context.database.snapshot() as conn:
                    rows = walk.named(conn, task_id, indices)
                if rows:
                    yield rows, indices[-1]
            return
        while after < end:
            upto = min(after + selection.SPAN, end)
            with self.context.database.snapshot() as conn:
                rows = walk.next(conn, task_id, after, upto, self.size)
            after = rows[-1].idx if len(rows) == self.size else upto
            if rows:
                yield rows, after

    def _chunk(self, walk: Walk, task_id: int, rows: Sequence[Any], cursor: int) -> None:
        if self.order.verb == OrderVerb.KILL:
            self._reserve(len(rows))
        frees = self.order.verb == OrderVerb.RELEASE
        into = self._into([row.id for row in rows]) if frees else operations.unchanged

        def work(settler: Settler) -> Changed:
            return operations.carry_out(settler, self.order, task_id, rows, walk.again, into)

        self._commit(work, cursor, len(rows))

    def undo(self) -> None:
        """The other order's parts, from the cursor on."""
        with self.context.database.snapshot() as conn:
            other = orders.by_id(conn, self.order.undoes or 0)
        while True:
            with self.context.database.snapshot() as conn:
                part = orders.next_part(conn, other, self.order.cursor)
            if part is None:
                return
            number, changed = part
            into = self._into(list(changed)) if other.verb == OrderVerb.HOLD else operations.unchanged
            work = partial(operations.take_back, undo=self.order, order=other, changed=changed, into=into)
            self._commit(work, number, len(changed))

    def _into(self, job_ids: Sequence[int]) -> Into:
        """What had failed before it was held goes bigger or elsewhere, as it would have if nobody held it."""
        with self.context.database.snapshot() as conn:
            banned, rules = breakers.banned(conn), retry_rules.rules(conn)
            planned = retargets.releases(conn, rules, job_ids, banned)
        class_ids = self.context.keys.take("job_class", planned.new_classes)
        return lambda conn, moves: retargets.into(conn, planned, class_ids, moves)

    def _reserve(self, jobs: int) -> None:
        """Keys for what may have to be removed; of jobs that never ran nothing is, so they last."""
        need = jobs * WISHES_PER_ATTEMPT
        if len(self.wishes) < need:
            many = self.order.total > CHUNK
            self.wishes += self.context.keys.take("wish", need * RESERVE if many else need)

    def _commit(self, work: Callable[[Settler], Changed], cursor: int, seen: int) -> None:
        """One transaction: the work and how far it came."""
        now, spare = self.context.clock.now(), iter(self.wishes)

        def unit(conn: Connection) -> int:
            nonlocal spare
            spare = iter(self.wishes)
            changed = work(Settler(conn, now, {}, 1.0, spare))
            orders.advance(conn, self.order, cursor, seen, changed, now)
            return len(changed)

        if self.rest:
            time.sleep(self.rest)
        began = time.monotonic()
        changed = self.context.database.transaction(unit)
        self._pace(time.monotonic() - began)
        self.wishes = list(spare)
        done = self.order
        self.order = replace(done, cursor=cursor, seen=done.seen + seen, changed=done.changed + changed)
        if self.order.total > CHUNK:
            self.tell(min(self.order.seen, self.order.total), self.order.total)

    def _pace(self, took: float) -> None:
        """How long to rest now, and how many jobs to take next."""
        self.rest = took * REST
        if took > AIM_S:
            self.size = max(LEAST, self.size * 2 // 3)
        elif took < AIM_S / 2:
            self.size = min(CHUNK, self.size * 3 // 2)
