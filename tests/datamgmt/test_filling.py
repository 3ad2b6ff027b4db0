"""Filling: every file of a wanted replica is queued once, groups get what they weigh, windows hold."""

from __future__ import annotations

import random
from collections import Counter
from datetime import timedelta

import pytest
from grids.data_grid import DataGrid
from grids.plans import explained
from sqlalchemy import func, insert, select, update

from catalogs import exceptions, replicas
from catalogs.exceptions import FileFault
from catalogs.replicas import Begin
from catalogs.tables import block, data_file
from datamgmt.links import linkqueues, linkstates
from datamgmt.links.linkqueues import Queue
from datamgmt.subscriptions import allocating
from datamgmt.tables import ALL_QUEUED, block_dest, group_weight, link_use, subscription, transfer
from datamgmt.tools.base import ErrorClass
from datamgmt.transfers import claiming, filling, finishing, store, tries
from datamgmt.transfers.claiming import Place
from datamgmt.transfers.tries import Claimed, Try
from gridcore.db import Database

A, B, C = 1, 2, 3
HOP = (A, B)


def made(database: Database, files: list[int]) -> DataGrid:
    """Blocks of so many files at A on their way to B; C has them all too."""
    grid = DataGrid(database, "ABC")
    grid.link("AB", "CB")
    first = 0
    for n in files:
        grid.produce(n, first=first)
        first += n
    grid.subscribe("B")
    blocks = ids(grid)

    def unit(conn, now):
        allocating.allocate_dataset(conn, grid.dataset_id, now)
        replicas.begin_all(conn, [Begin(one, se) for one in blocks for se in (B, C)], now)
        replicas.complete_all(conn, {(key, C): 1 for key in blocks}, now)
        conn.execute(update(block_dest).values(src_se_id=A))

    grid.do(unit)
    return grid


def ids(grid: DataGrid) -> list[int]:
    """The blocks."""
    return [row[0] for row in grid.rows(select(block.c.id).order_by(block.c.id))]


def fill(grid: DataGrid, n: int, hop: tuple[int, int] = HOP) -> int:
    keys = grid.keys.take("transfer", max(n, 1))
    chosen = grid.do(lambda conn, now: filling.candidates(conn, {hop: n}, now))
    assert sum(one.files for one in chosen.get(hop, ())) <= n
    return grid.do(lambda conn, now: filling.fill(conn, chosen, keys, now))


def cursors(grid: DataGrid) -> list[int]:
    return [row[0] for row in grid.rows(select(block_dest.c.cursor_id).order_by(block_dest.c.block_id))]


def test_a_block_is_queued_in_the_order_of_its_files_and_then_left_alone(database: Database) -> None:
    grid = made(database, [5])
    assert fill(grid, 2) == 2
    files = [row[0] for row in grid.rows(select(data_file.c.id).order_by(data_file.c.id))]
    assert cursors(grid) == [files[1]]
    assert fill(grid, 10) == 3
    assert cursors(grid) == [ALL_QUEUED]
    assert fill(grid, 10) == 0
    rows = grid.rows(select(transfer.c.file_id).order_by(transfer.c.id))
    assert [row[0] for row in rows] == files
    grid.check()


def test_what_is_queued_already_is_not_queued_again(database: Database) -> None:
    """Agents of an older release have no cursors."""
    grid = made(database, [3])
    fill(grid, 2)
    grid.do(lambda conn, _: conn.execute(update(block_dest).values(cursor_id=0)))
    assert fill(grid, 10) == 1
    assert cursors(grid) == [ALL_QUEUED]
    grid.check()


def test_begun_blocks_come_before_others_and_the_urgent_before_all(database: Database) -> None:
    grid = made(database, [4, 4, 4])
    first, second, _ = ids(grid)

    def queued() -> Counter[int]:
        return Counter(row[0] for row in grid.rows(select(transfer.c.block_id)))

    urgent = update(block_dest).where(block_dest.c.block_id == second).values(priority=5)
    grid.do(lambda conn, _: conn.execute(urgent))
    fill(grid, 2)
    assert queued() == {second: 2}
    grid.do(lambda conn, _: conn.execute(update(block_dest).values(priority=0)))
    fill(grid, 4)
    assert queued() == {second: 4, first: 2}


def test_only_files_with_exceptions_are_queued_for_a_repair(database: Database) -> None:
    grid = made(database, [4])
    files = [row[0] for row in grid.rows(select(data_file.c.id).order_by(data_file.c.id))]
    bad = {files[1]: FileFault.BAD, files[3]: FileFault.MISSING}

    def spoil(conn, now):
        replicas.complete_all(conn, {(1, B): 1}, now)
        exceptions.add(conn, 1, B, bad, now)
        conn.execute(update(block_dest).values(repair=1))

    grid.do(spoil)
    assert fill(grid, 10) == 2
    claimed = grid.do(lambda conn, now: claiming.claim(conn, [Place(B, "me", {A: 9}, 9)], now))
    assert [one.file_id for one in claimed] == sorted(bad)
    end(grid, claimed)
    assert grid.do(lambda conn, now: finishing.finish(conn, [(1, B)], now)) == [(1, B)]
    assert grid.do(lambda conn, _: exceptions.of_blocks(conn, [1])) == []
    assert grid.count(transfer) == grid.count(block_dest) == 0
    grid.check()


def test_files_are_found_by_their_block_and_its_transfers_read_once(database: Database) -> None:
    """A plan made while there was next to nothing is kept, and meets hundreds of thousands of rows."""
    grid = made(database, [3])
    binds = dict.fromkeys(("on_block", "after", "n", "base", "from_se", "to_se", "urgency"), 1)
    plan = explained(database, filling.QUEUE, {**binds, "whose": "-", "at": grid.clock.now()})
    assert any("ix_data_file_block_id" in line for line in plan), plan
    assert not any("pk_data_file" in line or "SCAN data_file" in line for line in plan), plan
    # File by file only what is lost is looked for.
    assert sum("file_id = data_file.id" in line for line in plan) <= 1, plan
    assert not any("CORRELATED" in line and "transfer" in line for line in plan), plan
    assert any("transfer" in line and "ix_transfer" in line for line in plan), plan


def end(grid: DataGrid, claimed: list[Claimed], error: ErrorClass | None = None) -> tries.Settled:
    done = [
        Try(
            claimed=one,
            link_id=100 * one.src + one.dst,
            bytes=0 if error else one.bytes,
            seconds=1.0,
            error_class=error,
            error=error and "it broke",
        )
        for one in claimed
    ]
    policies = linkstates.policies(grid.settings)
    return grid.do(lambda conn, now: tries.settle(conn, done, {B: "me"}, now, policies))


def test_groups_get_what_they_weigh(database: Database) -> None:
    """Two groups with equal files; one weighs three times the other."""
    grid = made(database, [100, 100])
    other = {"id": 77, "block_id": ids(grid)[1], "acct_group": "heavy"}
    second = block_dest.c.block_id == other["block_id"]

    def unit(conn, now):
        row = conn.execute(select(subscription)).first()
        conn.execute(insert(subscription).values({**row._mapping, **other}))
        conn.execute(update(block_dest).where(second).values(subscription_id=77))
        conn.execute(insert(group_weight), [{"acct_group": "heavy", "weight": 3.0}])

    grid.do(unit)
    for _ in range(25):
        fill(grid, 4)
        grid.clock.advance(60)
    sent = select(transfer.c.acct_group, func.sum(transfer.c.bytes)).group_by(transfer.c.acct_group)
    n = dict(grid.rows(sent))
    assert float(n["heavy"] / n["physics"]) == pytest.approx(3, rel=0.2)
    used = dict(grid.rows(select(link_use.c.acct_group, link_use.c.used)))
    assert used["heavy"] / used["physics"] == pytest.approx(float(n["heavy"] / n["physics"]), rel=0.05)


STEPS = (
    *("fill", "claim", "claim", "done", "done", "fail", "spoilt", "move", "back", "abandon", "later"),
    *("finish", "cancel"),
)


@pytest.mark.parametrize("seed", range(8))
def test_each_file_is_at_one_place_and_links_count_it(database: Database, seed: int) -> None:
    """Whatever happens in whatever order: not queued, waiting, under way, failed or done, and once."""
    chance = random.Random(seed)
    grid = made(database, [3, 4])
    window, portion = chance.randint(1, 5), chance.randint(1, 6)
    held: list[Claimed] = []
    src = A
    for step in chance.choices(STEPS, k=40):
        match step:
            case "fill":
                fill(grid, portion, (src, B))
            case "claim":
                claimed = grid.do(
                    lambda conn, now: claiming.claim(
                        conn, [Place(B, "me", {A: window, C: window}, portion)], now
                    )
                )
                held += claimed
                assert all(n <= window for n in Counter(one.src for one in held).values())
            case "done" | "fail" | "spoilt":
                errors = {"fail": ErrorClass.CONNECTION_LOST, "spoilt": ErrorClass.SOURCE_MISSING}
                now_, held = held[:portion], held[portion:]
                end(grid, now_, errors.get(step))
            case "move" | "back":
                src = C if step == "move" else A
                grid.do(lambda conn, _, src=src: conn.execute(update(block_dest).values(src_se_id=src)))
                keys = {(row[0], B) for row in grid.rows(select(block_dest.c.block_id))}
                grid.do(lambda conn, now, keys=keys: store.follow(conn, keys, now))
            case "abandon":
                grid.do(lambda conn, now: claiming.abandon(conn, B, [], now))
                held = []
            case "cancel":
                # The wish stays: all that has not come is queued anew, once nobody has it in hand.
                keys = {(row[0], B) for row in grid.rows(select(block_dest.c.block_id))}
                grid.do(lambda conn, now, keys=keys: store.cancel(conn, keys, now))
                end(grid, held)
                held = []
            case "later":
                grid.clock.advance(timedelta(hours=2).total_seconds())
            case "finish":
                blocks = grid.do(lambda conn, _: finishing.unfinished(conn, B))
                grid.do(lambda conn, now, blocks=blocks: finishing.finish(conn, blocks, now))
        whole(grid)
    all_comes(grid, src)


def all_comes(grid: DataGrid, src: int) -> None:
    """Let to itself, each file arrives."""
    grid.do(lambda conn, now: claiming.abandon(conn, B, [], now))
    keys = {(row[0], B) for row in grid.rows(select(block_dest.c.block_id))}
    grid.do(lambda conn, now: store.follow(conn, keys, now))
    grid.clock.advance(timedelta(hours=2).total_seconds())
    fill(grid, 20, (src, B))
    while claimed := grid.do(lambda conn, now: claiming.claim(conn, [Place(B, "me", {A: 9, C: 9}, 9)], now)):
        end(grid, claimed)
    grid.do(lambda conn, now: finishing.finish(conn, finishing.unfinished(conn, B), now))
    whole(grid)
    assert grid.count(transfer) == grid.count(block_dest) == 0


def whole(grid: DataGrid) -> None:
    reasons = select(transfer.c.state, transfer.c.error_class, transfer.c.claimed_by)
    for state, why, holder in grid.rows(reasons):
        assert (why is not None) or state not in ("FAILED", "RETRY_WAIT")
        assert (holder is not None) == (state == "ACTIVE")
    left = {row[0]: row[1] for row in grid.rows(select(block_dest.c.block_id, block_dest.c.cursor_id))}
    files = grid.rows(select(data_file.c.id, data_file.c.block_id))
    queued = Counter(row[0] for row in grid.rows(select(transfer.c.file_id)))
    for file_id, block_id in files:
        due = 1 if block_id in left and file_id <= left[block_id] else 0
        assert queued[file_id] == due
    counts: Counter[tuple[int, str]] = Counter()
    sizes: Counter[int] = Counter()
    for src, state, size in grid.rows(select(transfer.c.src_se_id, transfer.c.state, transfer.c.bytes)):
        counts[
            src, "active" if state == "ACTIVE" else "waits" if state in linkqueues.WAITING else "rests"
        ] += 1
        sizes[src] += size if state in linkqueues.WAITING else 0
    found = grid.do(lambda conn, _: linkqueues.queues(conn))
    for src in (A, C):
        expected = Queue(counts[src, "waits"], sizes[src], counts[src, "active"])
        assert found.get((src, B), Queue()) == expected
    grid.check()
