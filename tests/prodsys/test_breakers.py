"""Outcomes and breakers in the database: counted, opened, asked by claims, closed by hand."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from grids.failing_grid import FailingGrid
from sqlalchemy import Connection, select

from agents.accountant import Accountant
from agents.janitor import Janitor
from agents.runtime.agent import own_lease
from gridapp import breakers as by_hand
from gridcore.db import Database, dbnow
from gridcore.errors import Denied, NotFound, UsageError
from gridcore.identity import EVERYWHERE, Principal, Role
from gridcore.tables import audit_log
from prodsys.queue import breakers
from prodsys.queue.breaker_states import BreakerState, Policy
from prodsys.settling import outcomes
from prodsys.settling.outcomes import Binned, Outcome
from prodsys.settling.retries import DEFAULT_RULES, ErrorClass
from prodsys.tables import site_outcome

NOW = datetime(2026, 3, 1, 12, 3, tzinfo=UTC)
BIN = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
POLICY = Policy()
OPS = Principal("ops", roles={EVERYWHERE: frozenset([Role.OPERATOR])})
EVE = Principal("eve", roles={EVERYWHERE: frozenset([Role.USER])})
ALDER = 2


@pytest.fixture
def grid(database: Database, tmp_path: Path) -> FailingGrid:
    """Five sites of two slots each: one of them may be taken away."""
    made = FailingGrid(database, tmp_path)
    made.site(4, "T2_UK_Oak", {})
    made.site(5, "T2_SE_Pine", {})
    return made


def ended(
    grid: FailingGrid, now: datetime = NOW, site_id: int = ALDER, well: int = 0, kind: str = "", bad: int = 0
) -> None:
    rows = [Outcome(site_id, outcomes.OK, 100.0)] * well + [Outcome(site_id, kind, 10.0)] * bad
    grid.database.transaction(lambda conn: outcomes.record(conn, rows, now))


def decide(grid: FailingGrid, now: datetime) -> list[BreakerState]:
    """One decision; the states of what changed."""
    changed = grid.database.transaction(lambda conn: breakers.update_all(conn, DEFAULT_RULES, now, POLICY))
    return [one.state for one in changed]


def allowance(grid: FailingGrid, site_id: int = ALDER) -> int | None:
    with grid.database.snapshot() as conn:
        return breakers.allowance(conn, site_id, NOW)


def send(grid: FailingGrid, n: int) -> None:
    grid.database.transaction(lambda conn: breakers.sent(conn, ALDER, n, NOW))


# --- outcomes --------------------------------------------------------------------------------------------


def test_outcomes_add_up_in_bins(grid: FailingGrid) -> None:
    ended(grid, well=2, kind="stage_out", bad=3)
    ended(grid, NOW + MINUTE, well=1)
    ended(grid, NOW + 2 * MINUTE, well=1)
    ended(grid, site_id=1, kind="payload", bad=1)
    with grid.database.snapshot() as conn:
        found = outcomes.recent(conn, NOW)
        later = outcomes.recent(conn, NOW + 3 * MINUTE)
    assert found == [
        Binned(1, BIN, "payload", 1, 10.0),
        Binned(ALDER, BIN, "ok", 3, 300.0),
        Binned(ALDER, BIN, "stage_out", 3, 30.0),
        Binned(ALDER, BIN + 5 * MINUTE, "ok", 1, 100.0),
    ]
    assert later == found[3:]


def test_two_that_count_at_once_count_both(grid: FailingGrid) -> None:
    barrier = threading.Barrier(2, timeout=60)

    def count() -> None:
        barrier.wait()
        for _ in range(5):
            ended(grid, well=1, kind="site", bad=1)

    threads = [threading.Thread(target=count) for _ in range(2)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(timeout=60)
    with grid.database.snapshot() as conn:
        assert [(one.error_class, one.jobs) for one in outcomes.recent(conn, NOW)] == [
            ("ok", 10),
            ("site", 10),
        ]


def test_the_janitor_keeps_a_week(grid: FailingGrid) -> None:
    with grid.database.snapshot() as conn:
        now = dbnow(conn)
    ended(grid, now - timedelta(days=8), well=1)
    ended(grid, now - timedelta(days=6), well=1)
    janitor = Janitor(grid.context)
    grid.keeper.take([own_lease("janitor")])
    (lease,) = grid.keeper.held([own_lease("janitor")]).values()
    assert janitor.prune(lease)["outcomes"] == 1
    assert len(grid.rows(select(site_outcome))) == 1


# --- breakers --------------------------------------------------------------------------------------------


def test_a_breaker_opens_tries_canaries_and_closes(grid: FailingGrid) -> None:
    ended(grid, well=6, kind="stage_out", bad=24)
    assert decide(grid, NOW) == [BreakerState.OPEN]
    assert decide(grid, NOW) == []
    assert (allowance(grid), allowance(grid, 1)) == (0, None)
    later = NOW + 15 * MINUTE
    assert decide(grid, later) == [BreakerState.CANARY]
    assert allowance(grid) == 2
    send(grid, 2)
    assert allowance(grid) == 0
    ended(grid, later + MINUTE, well=2)
    assert decide(grid, later + MINUTE) == [BreakerState.CANARY]
    assert allowance(grid) == 2
    send(grid, 1)
    ended(grid, later + 2 * MINUTE, well=1)
    assert decide(grid, later + 2 * MINUTE) == [BreakerState.CLOSED]
    assert allowance(grid) is None
    assert decide(grid, later + 3 * MINUTE) == []  # what failed before is forgotten


def test_a_canary_that_fails_opens_it_for_twice_as_long(grid: FailingGrid) -> None:
    ended(grid, kind="site", bad=20)
    decide(grid, NOW)
    ended(grid, NOW + MINUTE, kind="site", bad=5)  # those that ran on
    later = NOW + 15 * MINUTE
    assert decide(grid, later) == [BreakerState.CANARY]
    assert decide(grid, later + MINUTE) == []
    send(grid, 1)
    ended(grid, later + 2 * MINUTE, kind="site", bad=1)
    assert decide(grid, later + 2 * MINUTE) == [BreakerState.OPEN]
    with grid.database.snapshot() as conn:
        (one,) = breakers.standing(conn)
        assert breakers.banned(conn) == {"T2_DE_Alder"}
    assert (one.site, one.breaker.trips) == ("T2_DE_Alder", 2)
    assert one.breaker.until == later + 32 * MINUTE
    assert one.reason == "a canary ended with site: no work until 2026-03-01 12:50:00 UTC"


@pytest.mark.parametrize("kind", ["payload", "memory", "input_missing"])
def test_what_no_site_is_to_blame_for_opens_nothing(grid: FailingGrid, kind: str) -> None:
    ended(grid, kind=kind, bad=100)
    assert decide(grid, NOW) == []


def test_a_fault_of_our_own_does_not_ban_the_grid(grid: FailingGrid) -> None:
    for site_id in range(1, 6):
        ended(grid, site_id=site_id, well=site_id, kind="stage_in", bad=25)
    decide(grid, NOW)
    with grid.database.snapshot() as conn:
        found = {one.breaker.site_id: one for one in breakers.standing(conn)}
    assert {key for key, one in found.items() if one.breaker.state == BreakerState.OPEN} == {1}  # the worst
    assert "its 2 slots are more than may still be taken away (2 in all)" in found[5].reason


def test_the_accountant_looks_after_them(grid: FailingGrid) -> None:
    accountant = Accountant(grid.context, scale=1.0)
    grid.keeper.take([own_lease("accountant")])
    (lease,) = grid.keeper.held([own_lease("accountant")]).values()
    with grid.database.snapshot() as conn:
        ended(grid, dbnow(conn), kind="site", bad=20)
    assert [duty.name for duty in accountant.duties()] == ["guard_sites"]
    assert accountant.guard_sites(lease) == {"breakers": 1}
    assert accountant.guard_sites(lease) == {"breakers": 0}
    assert allowance(grid) == 0


# --- by hand ---------------------------------------------------------------------------------------------


def test_a_reset_lets_work_go_there_again_and_is_audited(grid: FailingGrid) -> None:
    ended(grid, kind="site", bad=20)
    decide(grid, NOW)
    assert by_hand.reset(grid.context, "T2_DE_Alder", "site", OPS)["changed"]
    assert allowance(grid) is None
    assert not by_hand.reset(grid.context, "T2_DE_Alder", "site", OPS)["changed"]
    (row,) = grid.rows(select(audit_log))
    assert (row.actor, row.verb, row.subject) == ("ops", "breaker reset", "site T2_DE_Alder site")
    assert row.detail == {"was": "OPEN", "trips": 1}
    with grid.database.snapshot() as conn:
        (one,) = breakers.standing(conn)
    assert one.reason == "reset by ops"


def test_after_a_reset_only_new_failures_count(grid: FailingGrid) -> None:
    ended(grid, kind="site", bad=20)
    decide(grid, NOW)

    def reset(conn: Connection) -> bool:
        return breakers.reset(conn, "T2_DE_Alder", ErrorClass.SITE, "ops", NOW + MINUTE)

    assert grid.database.transaction(reset)
    assert decide(grid, NOW + MINUTE) == []
    ended(grid, NOW + MINUTE, kind="site", bad=19)
    assert decide(grid, NOW + MINUTE) == []
    ended(grid, NOW + 4 * MINUTE, kind="site", bad=1)
    assert decide(grid, NOW + 4 * MINUTE) == [BreakerState.OPEN]


def test_what_cannot_be_reset_is_said(grid: FailingGrid) -> None:
    with pytest.raises(UsageError, match="no error class"):
        by_hand.reset(grid.context, "T2_DE_Alder", "bad luck", OPS)
    with pytest.raises(NotFound, match="no site"):
        by_hand.reset(grid.context, "T2_XX", "site", OPS)
    with pytest.raises(NotFound, match="was ever open"):
        by_hand.reset(grid.context, "T2_DE_Alder", "site", OPS)
    with pytest.raises(Denied):
        by_hand.reset(grid.context, "T2_DE_Alder", "site", EVE)
