"""Probing: dead links that nobody needs now are tried by themselves, and what that shows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from grids.data_grid import DataGrid, Worker
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from catalogs import exceptions, sites
from catalogs.exceptions import FileFault
from catalogs.states import Switch
from catalogs.tables import block_replica
from datamgmt.links import linkends, linkstates, linkwords
from datamgmt.links.health import LinkState, Outcome, Phase, phase
from datamgmt.links.linkends import Ended
from datamgmt.links.linkstates import LinkView
from datamgmt.tables import link_bin, transfer, transfer_error
from datamgmt.tools.base import ErrorClass
from datamgmt.transfers import probing
from gridapp.insights import topology
from gridapp.insights.why import why
from gridcore.db import Database

LINK = 102
NOW = datetime(2026, 6, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


class Dead:
    """A link A -> B that has failed too often, and files at A that nobody wants at B."""

    def __init__(self, database: Database) -> None:
        self.grid = DataGrid(database, "ABC", **{"transfer.workers": 0})
        self.grid.link("AB")
        self.files = self.grid.produce(3)
        self.policies = linkstates.policies(self.grid.settings)
        self.grid.do(self._fail)
        self.agent = self.hire("one")

    def _fail(self, conn: Any, now: datetime) -> None:
        failed = [Ended(LINK, Outcome(ok=False), "connection reset")] * 3
        linkends.record(conn, failed, now, self.policies.link)

    def hire(self, name: str) -> Worker:
        worker = self.grid.worker(name, ["transfer_agent"])
        worker.take()
        return worker

    def wait(self, part: float = 1.3) -> None:
        """So much of the time between two probes."""
        self.grid.clock.advance(part * self.policies.probe_every.total_seconds())

    def look(self) -> int:
        """Two cycles: what one begins the next learns from; the probes that ended."""
        return sum(self.agent.cycle("transfer_agent").get("probed", 0) for _ in range(2))

    def view(self) -> LinkView:
        with self.grid.database.snapshot() as conn:
            return linkstates.views(conn)[1, 2]

    def phase(self) -> Phase:
        return phase(self.view().state, self.grid.clock.now())

    def counted(self) -> tuple[int, int]:
        """Copies good and bad."""
        rows = self.grid.rows(select(link_bin.c.files_ok, link_bin.c.files_bad))
        return sum(row[0] for row in rows), sum(row[1] for row in rows)


@pytest.fixture
def dead(database: Database) -> Iterator[Dead]:
    made = Dead(database)
    yield made
    made.agent.close()


def test_a_dead_link_that_nobody_needs_is_open_again_after_a_probe(dead: Dead) -> None:
    before = dict(dead.grid.tool.files)
    dead.wait()
    assert dead.phase() is not Phase.OPEN
    assert dead.look() == 1
    assert dead.phase() is Phase.OPEN
    assert dead.counted() == (1, 3)
    assert dead.grid.tool.files == before
    assert dead.grid.count(transfer) == 0
    dead.wait()
    assert dead.look() == 0, "it is not dead any more"


def test_its_health_is_told_where_links_are(dead: Dead) -> None:
    dead.wait()
    dead.grid.tool.silent.add(f"{dead.grid.root}/B")
    dead.look()
    with dead.grid.database.snapshot() as conn:
        (line,) = topology.links(conn)
        answer = why(conn, "link:T2_A>T2_B", dead.grid.clock.now())
    assert line["last_error"].startswith("probe: the storage of /grid/B/")
    assert line["failures"] == 4
    assert any("STORAGE_SILENT" in one and "probe: " in one for one in answer["because"])
    assert any("parked until" in one and "after 4 failures in a row" in one for one in answer["because"])
    dead.grid.tool.silent.clear()
    dead.wait()
    dead.look()
    with dead.grid.database.snapshot() as conn:
        answer = why(conn, "link:T2_A>T2_B", dead.grid.clock.now())
    assert answer["state"] == "OPEN"
    assert any("open again after its probe" in one for one in answer["because"])


def test_a_failing_probe_is_counted_and_not_repeated_at_once(dead: Dead) -> None:
    dead.grid.tool._fail = 1.0
    dead.wait()
    assert dead.look() == 1
    assert dead.counted() == (0, 4)
    ((kind, n),) = dead.grid.rows(select(transfer_error.c.error_class, transfer_error.c.n))
    assert (kind, n) == (ErrorClass.CONNECTION_LOST, 1)
    dead.wait(0.5)
    assert dead.look() == 0
    dead.wait()
    assert dead.look() == 1
    assert dead.counted() == (0, 5)


def test_the_first_cool_off_is_not_cut_short(dead: Dead) -> None:
    dead.wait(0.7)
    assert dead.look() == 0


def test_a_probe_that_arrives_spoilt_leaves_nothing_behind(dead: Dead) -> None:
    before = dict(dead.grid.tool.files)
    dead.grid.tool._corrupt = 1.0
    dead.wait()
    assert dead.look() == 1
    assert dead.grid.tool.files == before
    assert dead.phase() is Phase.PARKED
    assert dead.view().state.failures == 4


def test_what_a_dead_probe_left_is_no_good_probe(dead: Dead) -> None:
    """Only a copy made now says anything."""
    for number in range(3):
        pfn = dead.grid.pfn("A", dead.grid.lfn(number))
        left = dead.grid.pfn("B", f"{dead.grid.lfn(number)}.probe{LINK}")
        dead.grid.tool.files[left] = dead.grid.tool.files[pfn]
    dead.grid.tool._fail = 1.0
    dead.wait()
    dead.look()
    assert dead.counted() == (0, 4)


def test_what_waits_in_a_queue_is_its_own_probe(dead: Dead) -> None:
    dead.grid.subscribe("B")
    planner = dead.grid.worker("two", ["block_manager", "router"])
    planner.take()
    dead.wait()
    planner.cycle("block_manager")
    planner.cycle("router")
    assert dead.grid.count(transfer) == 1
    dead.agent.agents["transfer_agent"]._start = lambda *_: None  # type: ignore[attr-defined]
    assert dead.look() == 0


@pytest.mark.parametrize("word", [Phase.PARKED, Phase.OPEN])
def test_an_operators_word_is_not_tried(dead: Dead, word: Phase) -> None:
    dead.grid.do(lambda conn, now: linkwords.force(conn, LINK, word, "olga", None, now))
    dead.wait()
    assert dead.look() == 0


def test_a_disabled_link_is_not_tried(dead: Dead) -> None:
    dead.grid.do(lambda conn, _: sites.set_link_state(conn, LINK, Switch.DISABLED, "fibre cut"))
    dead.wait()
    assert dead.look() == 0


def test_nothing_is_tried_without_a_good_file_at_the_source(dead: Dead) -> None:
    ((block_id, se_id),) = dead.grid.rows(select(block_replica.c.block_id, block_replica.c.se_id))
    bad = dict.fromkeys(dead.files[:2], FileFault.BAD)
    dead.grid.do(lambda conn, now: exceptions.add(conn, block_id, se_id, bad, now))
    dead.wait()
    with dead.grid.database.snapshot() as conn:
        (probe,) = probing.probes(conn, [dead.view()])
    assert probe.file_id == dead.files[2]
    bad = {dead.files[2]: FileFault.BAD}
    dead.grid.do(lambda conn, now: exceptions.add(conn, block_id, se_id, bad, now))
    assert dead.look() == 0


def test_who_has_lost_the_destination_says_nothing_of_its_links(dead: Dead) -> None:
    dead.wait()
    dead.agent.cycle("transfer_agent")  # begun, and not learnt from
    successor = dead.grid.worker("two", ["transfer_agent"])
    successor.take(from_the_dead=True)
    dead.agent.cycle("transfer_agent")
    assert dead.counted() == (0, 3)
    successor.close()


# --- when it is due ----------------------------------------------------------------------------------


def view(link_id: int = 1, **state: Any) -> LinkView:
    known = LinkState(failures=3, parked_until=NOW, measured_at=NOW)
    return LinkView(
        id=link_id, src=link_id, dst=9, enabled=True, distance=1.0, tool="fake", state=replace(known, **state)
    )


@given(st.sets(st.integers(1, 10**6), min_size=1, max_size=20), st.floats(0, 2))
def test_links_are_due_apart_and_once_an_hour(ids: set[int], hours: float) -> None:
    links = {(one, 9): view(one) for one in ids}
    due = {one.id for one in probing.due(links, NOW + hours * HOUR, HOUR)}
    if hours < 0.75:
        assert not due
    if hours >= 1.25:
        assert due == ids
    later = {one.id for one in probing.due(links, NOW + (hours + 0.1) * HOUR, HOUR)}
    assert due <= later, "one that is due stays so"


def test_links_that_died_together_are_not_tried_together() -> None:
    links = {(one, 9): view(one) for one in range(1, 201)}
    due = probing.due(links, NOW + HOUR, HOUR)
    assert 60 <= len(due) <= 140
    assert probing.due(links, NOW + 2 * HOUR, HOUR)[: len(due)] == due


def test_a_link_that_works_is_never_due() -> None:
    alive = view(parked_until=None, failures=2)
    assert probing.due({(1, 9): alive}, NOW + 100 * HOUR, HOUR) == []


def test_a_word_that_has_ended_holds_nothing() -> None:
    once = view(forced=Phase.PARKED, forced_until=NOW + HOUR)
    assert probing.due({(1, 9): once}, NOW + HOUR / 2, HOUR / 4) == []
    assert probing.due({(1, 9): once}, NOW + 2 * HOUR, HOUR) != []
