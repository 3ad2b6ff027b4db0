"""Never zero copies: whatever meets the deletion of a copy, in a transaction at the same moment."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from grids.data_grid import DataGrid
from grids.together import in_between
from sqlalchemy import Connection, delete, select

from catalogs import exceptions, replicas
from catalogs.exceptions import FileFault
from catalogs.replicas import Begin
from catalogs.states import ReplicaState
from catalogs.tables import block_replica
from datamgmt.deletion_states import DeletionState
from datamgmt.deletions import deletion, removal
from datamgmt.deletions.deletion import Asker, Due
from datamgmt.deletions.hindrances import PLAIN, Terms
from datamgmt.links import linkqueues, linkstates
from datamgmt.links.linkqueues import Queue
from datamgmt.reasons import Reason
from datamgmt.routing import hops, leftovers, rerouting, routes
from datamgmt.subscriptions import allocating, asking, moving
from datamgmt.subscriptions.asking import Order
from datamgmt.tables import block_dest, transfer
from datamgmt.tables import deletion as deletion_table
from datamgmt.transfer_states import TransferState
from gridcore.db import Database, insert_rows

Act = Callable[[Connection], Any]
NOW, DAY, LATER = timedelta(), timedelta(days=1), timedelta(minutes=10)
ADMIN, ANNA = Asker("admin", "site", decides=True), Asker("anna", "physics")


class Shelf:
    """A block of two files, complete at A; acts that change what becomes of its copies."""

    def __init__(self, database: Database) -> None:
        self.grid = DataGrid(database, "ABCD")
        self.files = self.grid.produce(2)

    def copy(self, name: str, **begin: Any) -> None:
        key = 1, self.grid.ids[name]
        self.grid.do(lambda conn, now: replicas.begin_all(conn, [Begin(*key, **begin)], now))
        self.grid.do(lambda conn, now: replicas.complete_all(conn, {key: 1}, now))

    def ask(self, name: str, by: Asker = ADMIN, *, undelete: timedelta = NOW, terms: Terms = PLAIN) -> Act:
        """Have the copy there deleted: its deletion, or why not."""
        (key,) = self.grid.keys.take("deletion", 1)
        place = 1, self.grid.ids[name]

        def act(conn: Connection) -> int | Reason:
            asked = deletion.ask_all(conn, [key], [place], by, self.now, undelete=undelete, terms=terms)
            return asked.refused[place][0] if asked.refused else asked.ids[place]

        return act

    def asked(self, name: str, by: Asker = ADMIN) -> int:
        """The same, done."""
        return int(self.do(self.ask(name, by)))

    @property
    def now(self) -> Any:
        return self.grid.clock.now()

    def do(self, act: Act) -> Any:
        return self.grid.database.transaction(act)

    def allocate(self) -> None:
        self.do(lambda conn: allocating.allocate_dataset(conn, self.grid.dataset_id, self.now))

    def carry_out(self, conn: Connection) -> Due:
        return deletion.carry_out(conn, self.now, 9, LATER)

    def let_pass(self, conn: Connection) -> int:
        """Let go of the copy in transit."""
        return leftovers.release(conn, leftovers.idle(conn, 9), self.now)

    def read_from(self, conn: Connection, name: str, *states: TransferState) -> None:
        """Files are copied from there to D."""
        made = {"created_at": self.now, "updated_at": self.now, "block_id": 1, "bytes": 1, "priority": 0}
        ends = {"src_se_id": self.grid.ids[name], "dst_se_id": self.grid.ids["D"]}
        rows = [
            {"id": number, "file_id": file_id, "state": state, **ends, **made}
            for number, (file_id, state) in enumerate(zip(self.files, states, strict=False), 1)
        ]
        insert_rows(conn, transfer, rows)

    def report(self, name: str, *files: int) -> Act:
        """The files are bad there."""
        faults = dict.fromkeys(files, FileFault.BAD)
        return lambda conn: exceptions.add(conn, 1, self.grid.ids[name], faults, self.now)

    def together(self, first: Act, second: Act) -> Any:
        found = in_between(self.grid.database, first, lambda: self.do(second))
        self.check()
        return found

    def complete(self) -> set[str]:
        return {name for (_, name), state in self.grid.replicas().items() if state is ReplicaState.COMPLETE}

    def staying(self) -> set[int]:
        """Where complete copies are that are not to go."""
        rows = select(block_replica.c.se_id).where(
            block_replica.c.state == ReplicaState.COMPLETE, block_replica.c.delete_at.is_(None)
        )
        return {se_id for (se_id,) in self.grid.rows(rows)}

    def check(self) -> None:
        """Each file is good in a copy that stays."""
        with self.grid.database.snapshot() as conn:
            faults = exceptions.faults_by_se(conn, [1]).get(1, {})
        for file_id in self.files:
            assert any(file_id not in faults.get(se_id, ()) for se_id in self.staying())
        self.grid.check()


@pytest.fixture
def origin(database: Database) -> Shelf:
    return Shelf(database)


@pytest.fixture
def shelf(origin: Shelf) -> Shelf:
    """Complete at B too."""
    origin.copy("B")
    return origin


Acts = tuple[Act, Act]


def two_words(shelf: Shelf) -> Acts:
    shelf.copy("B")
    return shelf.ask("A", undelete=DAY), shelf.ask("B", undelete=DAY)


def two_approvals(shelf: Shelf) -> Acts:
    """Both were asked for, by who may not decide, before either counted."""
    shelf.copy("B")
    keys = [shelf.asked(name, ANNA) for name in "AB"]
    first, second = (
        lambda conn, key=key: deletion.approve(conn, [key], "admin", shelf.now, undelete=DAY).refused
        for key in keys
    )
    return first, second


def word_and_deed(shelf: Shelf) -> Acts:
    shelf.copy("B")
    shelf.asked("A")
    return shelf.carry_out, shelf.ask("B")


def transit_copy(shelf: Shelf) -> Acts:
    """The other copy was only passing through, and nothing passes any more."""
    shelf.copy("B", transit=True)
    shelf.asked("A")
    return shelf.carry_out, shelf.let_pass


def finished_move(shelf: Shelf) -> Acts:
    """A move to B is over, and lets A go, while B is asked away."""
    shelf.copy("B")
    key = shelf.grid.subscribe("B", move=True, static=True)
    shelf.allocate()
    fresh = shelf.grid.keys.take("deletion", 1)

    def let_go(conn: Connection) -> moving.Moved:
        return moving.let_go(conn, key, fresh, lambda *_: True, shelf.now, DAY)

    return let_go, shelf.ask("B", undelete=DAY, terms=Terms(subscribed_too=True))


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("meet", [two_words, two_approvals, word_and_deed, transit_copy, finished_move])
def test_one_of_two_copies_stays(origin: Shelf, meet: Callable[[Shelf], Acts], turned: bool) -> None:
    first, second = reversed(meet(origin)) if turned else meet(origin)
    origin.together(first, second)
    assert len(origin.staying()) == 1


def test_what_is_reported_of_the_other_copy_counts(shelf: Shelf) -> None:
    shelf.asked("A")
    assert shelf.together(shelf.report("B", shelf.files[0]), shelf.carry_out) == (1, Due(refused=1))
    assert shelf.complete() == {"A", "B"}


def test_a_copy_in_transit_stays_for_what_is_reported_of_the_other(origin: Shelf) -> None:
    origin.copy("B", transit=True)
    assert origin.together(origin.report("A", origin.files[0]), origin.let_pass) == (1, 0)
    assert origin.complete() == {"A", "B"}


def test_what_is_reported_of_a_copy_that_goes_is_not_noted(shelf: Shelf) -> None:
    shelf.asked("A")
    assert shelf.together(shelf.carry_out, shelf.report("A", *shelf.files)) == (Due(begun=1), 0)
    assert shelf.complete() == {"B"}


def test_the_other_copy_is_custodial_no_more(shelf: Shelf) -> None:
    a, b = ((1, shelf.grid.ids[name]) for name in "AB")
    shelf.do(lambda conn: replicas.set_custodial_all(conn, {a: True, b: True}))
    shelf.asked("A")
    free = lambda conn: replicas.set_custodial_all(conn, {b: False})  # noqa: E731
    assert shelf.together(free, shelf.carry_out) == (1, Due(refused=1))


@pytest.mark.parametrize("turned", [False, True])
def test_it_is_undone_or_done(shelf: Shelf, turned: bool) -> None:
    key = shelf.asked("A")
    acts = [lambda conn: deletion.undo(conn, [key], "anna", shelf.now), shelf.carry_out]
    if turned:
        assert shelf.together(*reversed(acts)) == (Due(begun=1), [])
        assert shelf.complete() == {"B"}
    else:
        assert shelf.together(*acts) == ([key], Due())
        assert shelf.complete() == {"A", "B"}


def test_two_deleters_begin_it_once(shelf: Shelf) -> None:
    shelf.asked("A")
    assert shelf.together(shelf.carry_out, shelf.carry_out) == (Due(begun=1), Due())


def hop_from_a(shelf: Shelf) -> Act:
    """The router is about to copy from A to D, the one way there is."""
    shelf.grid.link("AD")
    shelf.grid.subscribe("D")
    shelf.allocate()
    with shelf.grid.database.snapshot() as conn:
        seen = routes.view(conn, routes.due(conn, shelf.now), linkstates.views(conn))
    changes = hops.decide(seen, shelf.now, linkstates.policies(shelf.grid.settings), lambda: 0.5)
    assert changes.words[1, shelf.grid.ids["D"]].src == shelf.grid.ids["A"]
    return lambda conn: rerouting.apply(conn, changes, shelf.now)["decided"]


@pytest.mark.parametrize("turned", [False, True])
def test_a_hop_begins_there_or_it_goes(shelf: Shelf, turned: bool) -> None:
    hop = hop_from_a(shelf)
    shelf.asked("A")
    if turned:
        assert shelf.together(shelf.carry_out, hop)[0] == Due(begun=1)
        assert shelf.grid.rows(select(block_dest.c.src_se_id)) == [(None,)]
    else:
        assert shelf.together(hop, shelf.carry_out)[1] == Due(later=1)
        assert shelf.complete() == {"A", "B"}


@pytest.mark.parametrize("turned", [False, True])
def test_who_subscribes_keeps_it_or_has_it_copied_anew(shelf: Shelf, turned: bool) -> None:
    shelf.asked("B")
    key = shelf.grid.keys.one("subscription")
    order = Order(
        dataset_id=shelf.grid.dataset_id, se_id=shelf.grid.ids["B"], requester="anna", group="physics"
    )

    def subscribe(conn: Connection) -> int:
        return asking.subscribe(conn, key, order, shelf.now, "anna")

    if turned:
        assert shelf.together(shelf.carry_out, subscribe)[0] == Due(begun=1)
        assert shelf.do(lambda conn: allocating.unsettled(conn, 9)) == [shelf.grid.dataset_id]
    else:
        assert shelf.together(subscribe, shelf.carry_out)[1] == Due(refused=1)
        state = select(deletion_table.c.state, deletion_table.c.code)
        assert shelf.grid.rows(state) == [(DeletionState.REFUSED, Reason.SUBSCRIBED)]


@pytest.mark.parametrize("name", ["A", "B"])
def test_what_is_read_from_stays_though_its_files_travel_another_way(origin: Shelf, name: str) -> None:
    """The router has found another source; a file that is on its way comes from the old one still."""
    origin.copy("B", transit=True)
    origin.copy("C")
    if name == "A":
        origin.asked(name)
    go = origin.carry_out if name == "A" else origin.let_pass
    origin.do(lambda conn: origin.read_from(conn, name, TransferState.ACTIVE))
    assert origin.do(go) == (Due(later=1) if name == "A" else 0)
    assert name in origin.complete()
    origin.do(lambda conn: conn.execute(delete(transfer)))
    origin.grid.clock.advance(LATER.total_seconds())
    assert origin.do(go) == (Due(begun=1) if name == "A" else 1)


def test_what_is_still_written_to_is_removed_later(origin: Shelf) -> None:
    """What waits to be copied there goes at once; what is being copied ends first."""
    origin.grid.link("AD")
    d = origin.grid.ids["D"]
    hop = {(origin.grid.ids["A"], d): Queue(1, 1, active=1)}
    origin.do(lambda conn: linkqueues.change(conn, hop, origin.now))
    origin.do(lambda conn: replicas.begin_all(conn, [Begin(1, d)], origin.now))
    origin.do(lambda conn: origin.read_from(conn, "A", TransferState.ACTIVE, TransferState.QUEUED))
    assert origin.do(lambda conn: deletion.release(conn, [(1, d)], origin.now)) == 1
    assert origin.grid.rows(select(transfer.c.state)) == [(TransferState.CANCELLED,)]
    assert origin.do(lambda conn: removal.doomed(conn, d, 9)) == []
    origin.do(lambda conn: conn.execute(delete(transfer)))
    assert [one.key for one in origin.do(lambda conn: removal.doomed(conn, d, 9))] == [(1, d)]
