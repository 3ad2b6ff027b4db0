"""Orders on many jobs: written down, cut off, taken up, undone, fenced and refused; on both databases."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from servers.work_desk import OPS, Desk
from servers.work_grid import STEP
from sqlalchemy import Connection, select, update

from gridapp import amendments, carrying
from gridapp import operations as shell
from gridapp.selections import Selection
from gridcore.db import Database
from gridcore.errors import Busy, Conflict, Denied, NotFound, UsageError
from gridcore.identity import Principal, Role
from gridcore.tables import audit_log
from prodsys.control import orders, selection
from prodsys.control.orders import Order, OrderState, OrderVerb
from prodsys.control.selection import Walk
from prodsys.job_states import JobEvent, JobState
from prodsys.jobs import store
from prodsys.jobs.outputs import OutputState
from prodsys.jobs.store import Move
from prodsys.queue import endpoints
from prodsys.tables import attempt, job, job_class, operation, operation_part, output
from prodsys.tables import task as task_table
from prodsys.tasks import tasks

N = 20
SECOND = """
[[step]]
name = "more"
command = ["python", "toy_generate.py"]
sandbox = ["toy_generate.py", "payload.py", "merge_text.py"]
events = 30
events_per_job = 5
output = { name = "events.txt", dataset = "/Toy/v1/MORE" }
"""
BOB = Principal("bob", frozenset(["other"]), {"other": frozenset([Role.PRODUCTION])})


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carrying, "CHUNK", 4)
    monkeypatch.setattr(carrying, "LEAST", 4)
    monkeypatch.setattr(carrying, "REST", 0.0)


@pytest.fixture
def desk(database: Database, tmp_path: Path) -> Desk:
    """20 jobs of one task."""
    made = Desk(database, tmp_path, STEP.format(events=5 * N))
    made.make_jobs()
    assert made.states() == N * ["READY"]
    return made


@pytest.fixture
def two(database: Database, tmp_path: Path) -> Desk:
    """20 jobs of one task, and 6 of another for the group `other`."""
    made = Desk(database, tmp_path, STEP.format(events=5 * N) + SECOND)
    made.make_jobs()
    second = update(task_table).where(task_table.c.name.like("%more")).values(acct_group="other")
    database.transaction(lambda conn: conn.execute(second))
    assert len(made.jobs()) == N + 6
    return made


def give(desk: Desk, verb: str, where: str, actor: Principal = OPS, **options: Any) -> Any:
    return shell.order_jobs(desk.grid.context, OrderVerb(verb), Selection(where=where), actor, **options)


def held(desk: Desk) -> list[int]:
    return [row.idx for row in desk.jobs() if row.state == JobState.HELD]


def order(desk: Desk, key: int) -> Order:
    with desk.grid.database.snapshot() as conn:
        return orders.by_id(conn, key)


def parts(desk: Desk) -> list[int]:
    return [key for row in desk.grid.rows(select(operation_part)) for key in row.jobs]


class Cut(Exception):
    """As by kill -9."""


def cut_after(chunks: int) -> Callable[[int, int], None]:
    seen = []

    def tell(done: int, of: int) -> None:
        seen.append(done)
        if len(seen) == chunks:
            raise Cut

    return tell


# --- which jobs --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "meant"),
    [
        ("index <= 3 or index = 7", [1, 2, 3, 7]),
        ("task = *gen and index in (5, 6)", [5, 6]),
        ("state = READY and not index < 20", [20]),
        ("group = production and user = anna and attempt = 0 and kind = process and index = 1", [1]),
        ("priority >= 0 and priority < 1 and age >= 0s and index = 9", [9]),
        ("site = T2_*", []),
        ("age > 1h", []),
        ("class != 0 and type = production* and held != operator and code != X and index < 3", [1, 2]),
    ],
)
def test_the_jobs_that_are_meant_are_held(desk: Desk, where: str, meant: list[int]) -> None:
    told = give(desk, "hold", where)
    assert held(desk) == meant
    assert told["changed"] == sum(told["due"].values()) == len(meant)
    assert sorted(parts(desk)) == [row.id for row in desk.jobs() if row.idx in meant]


def test_an_order_spans_tasks_and_is_audited_once(two: Desk) -> None:
    told = give(two, "hold", "index <= 5 and state = READY")
    assert (told["due"], told["changed"]) == ({"READY": 10}, 10)
    assert sorted(told["tasks"].values()) == [5, 5]
    assert Counter(held(two)) == dict.fromkeys(range(1, 6), 2)
    (row,) = two.grid.rows(select(audit_log))
    assert (row.actor, row.verb, row.subject) == ("ops", "job hold", f"operation {told['operation']}")
    assert (row.detail["jobs"], row.detail["where"]) == (10, "index <= 5 and state = READY")
    done = order(two, told["operation"])
    assert (done.state, done.total, done.seen, done.changed) == (OrderState.DONE, 10, 10, 10)


@pytest.mark.parametrize(
    "where",
    ["state = READY", "group = other", "request = 1", "not task = *gen", "user = anna and kind = process"],
)
def test_counters_and_rows_count_alike(two: Desk, where: str) -> None:
    give(two, "hold", "index = 2")
    by_counters = give(two, "kill", where, dry_run=True)
    by_rows = give(two, "kill", f"({where}) and attempt >= 0", dry_run=True)
    assert by_counters == by_rows
    assert sum(by_counters["due"].values()) > 0


def test_spans_hold_every_key_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "SPAN", 4)
    assert list(selection.spans(0)) == []
    assert list(selection.spans(10, after=3)) == [(3, 7), (7, 10)]


def test_a_wide_table_is_walked_in_pieces(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "SPAN", 7)
    assert give(desk, "hold", "index in (1, 8, 15, 20) and attempt = 0")["changed"] == 4
    assert held(desk) == [1, 8, 15, 20]


# --- cut off and taken up ----------------------------------------------------------------------------------


def test_an_order_cut_off_between_chunks_is_resumed(desk: Desk) -> None:
    with pytest.raises(Cut):
        give(desk, "hold", "index <= 18", tell=cut_after(2))
    assert held(desk) == list(range(1, 9))
    assert order(desk, 1).state == OrderState.RUNNING
    done = shell.resume(desk.grid.context, 1, OPS)
    assert (done.state, done.seen, done.changed) == (OrderState.DONE, 18, 18)
    assert held(desk) == list(range(1, 19))
    assert parts(desk) == [row.id for row in desk.jobs() if row.idx <= 18]
    assert desk.verbs() == ["job hold"]
    assert shell.resume(desk.grid.context, 1, OPS) == done


def test_the_same_order_again_takes_it_up(desk: Desk) -> None:
    with pytest.raises(Cut):
        give(desk, "hold", "index <= 18", tell=cut_after(2))
    told = give(desk, "hold", "index<=18")
    assert (told["operation"], told["changed"]) == (1, 18)
    assert held(desk) == list(range(1, 19))
    assert desk.verbs() == ["job hold"]


def test_a_cut_within_a_chunk_leaves_nothing_of_it(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    advance, calls = orders.advance, []

    def cut(*args: Any) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise Cut
        advance(*args)

    monkeypatch.setattr(orders, "advance", cut)
    with pytest.raises(Cut):
        give(desk, "priority", "index > 0", by=5)
    ranks = [row.rank for row in desk.jobs()]
    one = order(desk, 1)
    assert (one.seen, one.cursor) == (8, 8)
    told = give(desk, "priority", "index > 0", by=5)
    assert told["changed"] == N
    shifted = [old - row.rank for old, row in zip(ranks, desk.jobs(), strict=True)]
    assert shifted == 8 * [0] + 12 * [5 * store.POINT]
    assert desk.verbs() == ["job priority"]


def test_slow_transactions_take_fewer_jobs_and_longer_rests(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(carrying, "CHUNK", 90)
    monkeypatch.setattr(carrying, "REST", 1.0)
    carrier = carrying._Carrier(desk.grid.context, _order(), carrying.silent)
    sizes = []
    for took in (0.1, 0.1, 0.015, 0.001, 0.001, 0.001):
        carrier._pace(took)
        sizes.append(carrier.size)
        assert carrier.rest == took
    assert sizes == [60, 40, 40, 60, 90, 90]
    for _ in range(20):
        carrier._pace(1)
    assert carrier.size == 4


def _order() -> Order:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    return Order(id=1, verb=OrderVerb.HOLD, selector={}, tasks=[1], actor="ops", created_at=at, total=1)


def test_of_two_that_go_on_one_is_turned_away(desk: Desk) -> None:
    with pytest.raises(Cut):
        give(desk, "priority", "index > 0", by=5, tell=cut_after(2))
    seen = order(desk, 1)
    shell.resume(desk.grid.context, 1, OPS)
    ranks = [row.rank for row in desk.jobs()]
    with pytest.raises(Busy, match="carried on"):
        carrying.carry_out(desk.grid.context, seen)
    assert [row.rank for row in desk.jobs()] == ranks
    assert order(desk, 1).changed == N


# --- beside a claim ----------------------------------------------------------------------------------------


def claimed_between(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two jobs are leased after the order has read its first chunk."""
    desk.grid.cycle([desk.grid.agents[0], desk.grid.agents[1]])
    port = desk.grid.agents[1]._port  # type: ignore[attr-defined]
    (lease,) = desk.grid.keeper.held(["endpoint/T2_FI_Birch"]).values()
    with desk.grid.database.snapshot() as conn:
        here = endpoints.endpoints(conn)[0]
    call = desk.grid.agents[1]._call(here, lease)  # type: ignore[attr-defined]
    read, first = Walk.next, [True]

    def late(*args: Any) -> list[Any]:
        rows = read(*args)
        if first:
            first.clear()
            assert len(port.lease(call, 2)) == 2
        return rows

    monkeypatch.setattr(Walk, "next", late)


@pytest.fixture
def idle(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """Jobs at a site that asks for none by itself."""
    made = Desk(database, tmp_path, STEP.format(events=5 * N))
    made.make_jobs()
    monkeypatch.setattr(made.grid.executor, "wanted", lambda *_: 0)
    claimed_between(made, monkeypatch)
    return made


def test_a_job_claimed_meanwhile_is_not_held(idle: Desk) -> None:
    told = give(idle, "hold", "index > 0")
    assert told["changed"] == N - 2
    assert Counter(idle.states()) == {"HELD": N - 2, "LEASED": 2}
    assert len(parts(idle)) == N - 2


def test_a_job_claimed_meanwhile_is_killed_with_its_attempt(idle: Desk) -> None:
    assert give(idle, "kill", "index > 0")["changed"] == N
    assert set(idle.states()) == {"KILLED"}
    tries = idle.grid.rows(select(attempt.c.error_class, attempt.c.error, attempt.c.penalty))
    assert [tuple(row) for row in tries] == 2 * [("killed", "killed by ops", 0)]
    assert {row.state for row in idle.grid.rows(select(output.c.state))} == {OutputState.DISCARDED}


def test_a_job_claimed_meanwhile_is_spared_where_waiting_ones_are_meant(idle: Desk) -> None:
    assert give(idle, "kill", "state = READY")["changed"] == N - 2
    assert Counter(idle.states()) == {"KILLED": N - 2, "LEASED": 2}


# --- taken back --------------------------------------------------------------------------------------------


def test_a_hold_is_undone_where_it_still_holds(desk: Desk) -> None:
    first = give(desk, "hold", "index <= 10")["operation"]
    desk.order(JobEvent.RELEASE, 1, 2)
    desk.order(JobEvent.HOLD, 2)
    desk.order(JobEvent.KILL, 3)
    done = shell.undo(desk.grid.context, first, OPS)
    assert (done.verb, done.undoes, done.changed, done.state) == ("undo", first, 7, OrderState.DONE)
    assert held(desk) == [2]
    assert Counter(desk.states()) == {"HELD": 1, "KILLED": 1, "READY": N - 2}
    assert order(desk, first).state == OrderState.UNDONE
    assert desk.verbs()[-1] == "operation undo"
    with pytest.raises(Conflict, match="was undone by operation"):
        shell.undo(desk.grid.context, first, OPS)


def test_priority_is_undone_exactly(desk: Desk) -> None:
    ranks = {row.idx: row.rank for row in desk.jobs()}
    first = give(desk, "priority", "index <= 10", by=7)["operation"]
    give(desk, "priority", "index <= 5", by=-3)
    leased = desk.jobs()[9]
    desk.force(JobEvent.KILL, JobState.KILLED, leased)
    assert shell.undo(desk.grid.context, first, OPS).changed == 9
    moved = {row.idx: (ranks[row.idx] - row.rank) // store.POINT for row in desk.jobs()}
    assert moved == {**dict.fromkeys(range(1, 6), -3), **dict.fromkeys(range(6, N + 1), 0), 10: 7}


def test_priority_puts_jobs_ahead_in_the_queue(desk: Desk) -> None:
    give(desk, "priority", "index = 20", by=1)
    with desk.grid.database.snapshot() as conn:
        first = conn.execute(select(job.c.idx).order_by(job.c.rank).limit(1)).scalar_one()
    assert first == 20
    assert give(desk, "hold", "priority = 1", dry_run=True)["due"] == {"READY": 1}


# --- to a priority -----------------------------------------------------------------------------------------


def points(desk: Desk) -> list[int]:
    """The priority of each job, exactly."""
    base = store.rank_of(desk.grid.task(desk.task).created_at, 0)
    found = [divmod(base + row.idx - row.rank, store.POINT) for row in desk.jobs()]
    assert {rest for _, rest in found} == {0}
    return [whole for whole, _ in found]


@pytest.mark.parametrize("to", [-3, 0, 5])
def test_jobs_are_put_at_a_priority_wherever_they_stood(desk: Desk, to: int) -> None:
    give(desk, "priority", "index <= 6", by=2)
    give(desk, "priority", "index in (5, 6, 7)", by=-7)
    before = points(desk)
    assert before == 4 * [2] + 2 * [-5] + [-7] + 13 * [0]
    due = sum(one != to for one in before)
    assert give(desk, "priority", "index > 0", to=to, dry_run=True)["due"] == {"READY": due}
    told = give(desk, "priority", "index > 0", to=to)
    assert (told["changed"], points(desk)) == (due, N * [to])
    again = give(desk, "priority", "index > 0", to=to)
    assert (again["due"], again["operation"]) == ({}, None)
    done = shell.undo(desk.grid.context, told["operation"], OPS)
    assert (done.changed, points(desk)) == (due, before)


def test_a_priority_given_is_that_of_jobs_made_with_it(desk: Desk) -> None:
    """They are shifted with their task again, and the claim finds them in front."""
    give(desk, "priority", "index = 1", by=-4)
    amendments.prioritise(desk.grid.context, desk.task, 3, OPS)
    assert points(desk) == [-4] + 19 * [3]
    give(desk, "priority", "index = 1", to=3)
    amendments.prioritise(desk.grid.context, desk.task, 9, OPS)
    assert points(desk) == N * [9]
    give(desk, "priority", "index = 20", to=10)
    (first,) = desk.grid.rows(select(job.c.idx, job.c.rank).order_by(job.c.rank).limit(1))
    (head,) = desk.grid.rows(select(job_class.c.head_rank))
    assert (first.idx, head.head_rank) == (20, first.rank)


def test_an_absolute_order_cut_off_is_taken_up_and_undone_whole(desk: Desk) -> None:
    give(desk, "priority", "index <= 10", by=2)
    with pytest.raises(Cut):
        give(desk, "priority", "index > 0", to=6, tell=cut_after(3))
    assert points(desk) == 12 * [6] + 8 * [0]
    told = give(desk, "priority", "index > 0", to=6)
    assert (told["operation"], told["changed"], points(desk)) == (2, N, N * [6])
    assert (order(desk, 2).points, shell.view(order(desk, 2))["to"]) == ({"to": 6}, 6)
    assert desk.verbs() == ["job priority", "job priority"]
    give(desk, "priority", "index = 20", by=1)
    desk.force(JobEvent.KILL, JobState.KILLED, desk.jobs()[0])
    with pytest.raises(Cut):
        shell.undo(desk.grid.context, 2, OPS, tell=cut_after(2))
    assert points(desk) == [6] + 7 * [2] + 11 * [6] + [7]
    assert shell.undo(desk.grid.context, 2, OPS).changed == N - 1
    assert points(desk) == [6] + 9 * [2] + 9 * [0] + [1]


@pytest.mark.parametrize("seed", range(4))
def test_orders_of_priority_are_undone_in_any_order(desk: Desk, seed: int) -> None:
    dice, given = random.Random(seed), []
    before = [row.rank for row in desk.jobs()]
    for _ in range(6):
        where = f"index >= {dice.randint(1, N)} or index = {dice.randint(1, N)}"
        how = {dice.choice(["by", "to"]): dice.choice([-3, -1, 1, 2])}
        given.append(give(desk, "priority", where, **how)["operation"])
    dice.shuffle(given)
    for key in given:
        if key is not None:
            shell.undo(desk.grid.context, key, OPS)
    assert [row.rank for row in desk.jobs()] == before


def test_what_an_absolute_order_did_is_audited_once(desk: Desk) -> None:
    told = give(desk, "priority", "index <= 5", to=4)
    (row,) = desk.grid.rows(select(audit_log))
    assert (row.verb, row.detail["to"], row.detail["jobs"]) == ("job priority", 4, 5)
    assert row.detail["operation"] == told["operation"]


def test_jobs_of_many_tasks_and_kinds_meet_at_a_priority(two: Desk) -> None:
    give(two, "priority", "group = other", by=-3)
    assert give(two, "priority", "state = READY", to=8)["changed"] == N + 6
    assert give(two, "hold", "priority = 8", dry_run=True)["due"] == {"READY": N + 6}


def test_an_undo_cut_off_is_taken_up_by_the_next(desk: Desk) -> None:
    first = give(desk, "hold", "index > 0")["operation"]
    with pytest.raises(Cut):
        shell.undo(desk.grid.context, first, OPS, tell=cut_after(2))
    assert len(held(desk)) == N - 8
    assert shell.undo(desk.grid.context, first, OPS).changed == N
    assert held(desk) == []


def test_an_order_cut_off_is_undone_as_far_as_it_came(desk: Desk) -> None:
    with pytest.raises(Cut):
        give(desk, "hold", "index > 0", tell=cut_after(2))
    seen = order(desk, 1)
    assert shell.undo(desk.grid.context, 1, OPS).changed == 8
    assert held(desk) == []
    with pytest.raises(Conflict, match="was undone"):
        shell.resume(desk.grid.context, 1, OPS)
    with pytest.raises(Busy):
        carrying.carry_out(desk.grid.context, seen)
    assert held(desk) == []


@pytest.mark.parametrize("verb", ["kill", "release", "retry"])
def test_what_had_effects_cannot_be_undone(desk: Desk, verb: str) -> None:
    row = desk.jobs()[0]
    if verb == "release":
        desk.order(JobEvent.HOLD, 1)
    if verb == "retry":
        desk.force(JobEvent.CLAIMED, JobState.LEASED, row)
        desk.force(JobEvent.REFUSED, JobState.FAILED, desk.jobs()[0])
    key = give(desk, verb, "index = 1")["operation"]
    with pytest.raises(Conflict, match=f"a {verb} cannot be undone"):
        shell.undo(desk.grid.context, key, OPS)


def test_what_a_pause_holds_is_not_released(desk: Desk) -> None:
    def unit(conn: Connection) -> None:
        moves = [
            Move(
                job_id=row.id,
                attempt=0,
                event=JobEvent.HOLD,
                to=JobState.HELD,
                hold_kind="policy",
                code="PAUSED" if row.idx == 1 else "LONG_LUMI",
            )
            for row in desk.jobs()[:2]
        ]
        store.apply(conn, moves, desk.grid.context.clock.now())

    desk.grid.database.transaction(unit)
    give(desk, "hold", "index = 3")
    assert desk.order(JobEvent.RELEASE)["changed"] == 2
    assert desk.order(JobEvent.RELEASE, 1)["changed"] == 0
    assert held(desk) == [1]


def test_undoing_has_its_time(desk: Desk) -> None:
    key = give(desk, "hold", "index = 1")["operation"]
    made = order(desk, key)
    assert made.undo_until == made.created_at + timedelta(hours=24)
    late = update(operation).values(undo_until=made.created_at - timedelta(seconds=1))
    desk.grid.database.transaction(lambda conn: conn.execute(late))
    with pytest.raises(Conflict, match="too old"):
        shell.undo(desk.grid.context, key, OPS)
    assert held(desk) == [1]


# --- who and which -----------------------------------------------------------------------------------------


def test_an_order_over_a_task_of_others_is_refused_whole(two: Desk) -> None:
    with pytest.raises(Denied, match="-gen"):
        give(two, "hold", "index = 1", BOB)
    assert held(two) == []
    assert two.verbs() == []
    assert give(two, "hold", "group = other", BOB)["changed"] == 6
    with pytest.raises(Denied):
        shell.undo(two.grid.context, give(two, "hold", "index = 9")["operation"], BOB)


def test_tasks_without_a_job_to_order_about_do_not_matter(two: Desk) -> None:
    give(two, "kill", "group = production")
    assert give(two, "hold", "state = READY or state = KILLED", BOB)["changed"] == 6


def test_jobs_of_killed_tasks_are_left_alone(desk: Desk) -> None:
    desk.force(JobEvent.CLAIMED, JobState.LEASED, *desk.jobs())
    desk.force(JobEvent.REFUSED, JobState.FAILED, *desk.jobs())
    shell.kill_task(desk.grid.context, desk.task, OPS)
    told = give(desk, "retry", "state = FAILED")
    assert (told["due"], told["left"], told["operation"]) == ({}, {"FAILED": N}, None)
    with pytest.raises(Conflict, match="was killed"):
        give(desk, "retry", f'task = "{desk.task}"')


@pytest.mark.parametrize(
    ("where", "error"),
    [
        ("task = T", NotFound),
        ("task = 'x' or 1=1", UsageError),
        ("state = READY; drop table job", UsageError),
        ("", UsageError),
    ],
)
def test_hostile_selectors_are_refused(desk: Desk, where: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        give(desk, "kill", where)
    assert desk.states() == N * ["READY"]


def test_quotes_and_wild_cards_of_sql_mean_nothing(desk: Desk) -> None:
    where = """(user = "x' OR '1'='1" or user = "%" or user = ann_ or user = "ann%") and attempt >= 0"""
    assert give(desk, "kill", where)["changed"] == 0


def test_an_order_that_is_not_confirmed_is_not_given(desk: Desk) -> None:
    asked: list[Any] = []

    def no(told: Any) -> bool:
        asked.append(told["due"])
        return False

    assert give(desk, "kill", "state = READY", confirm=no)["operation"] is None
    assert asked == [{"READY": N}]
    assert desk.grid.rows(select(operation)) == []


def test_a_failed_job_is_tried_again_and_its_task_taken_up(desk: Desk) -> None:
    desk.force(JobEvent.CLAIMED, JobState.LEASED, *desk.jobs())
    desk.force(JobEvent.REFUSED, JobState.FAILED, *desk.jobs())
    desk.grid.cycle([desk.grid.agents[0]])
    with desk.grid.database.snapshot() as conn:
        ended = tasks.by_name(conn, desk.task)
    assert ended is not None
    assert ended.state.value in ("CLOSING", "INCOMPLETE")
    assert give(desk, "retry", "state = FAILED and index <= 3")["changed"] == 3
    assert desk.grid.task(desk.task).state.value == "ACTIVE"
    assert desk.verbs() == ["job retry", "task retry"]


def test_points_out_of_all_measure_are_refused(desk: Desk) -> None:
    for by in (None, 0, 10**7):
        with pytest.raises(UsageError, match="how many points"):
            give(desk, "priority", "index = 1", by=by)
    with pytest.raises(UsageError, match="is no priority"):
        give(desk, "priority", "index = 1", to=-(10**7))
    with pytest.raises(UsageError, match="or to which priority"):
        give(desk, "priority", "index = 1", by=1, to=1)


@pytest.mark.slow
def test_the_next_chunk_is_read_by_key(postgres_db: Database) -> None:
    walk = Walk(None, datetime(2026, 1, 1, tzinfo=UTC), [JobState.READY])
    options = {"literal_binds": True, "render_postcompile": True}

    def unit(conn: Connection) -> str:
        conn.exec_driver_sql("SET LOCAL enable_seqscan = off")
        bound = walk._next.params({"of_task": 1, "after": 0, "upto": 9, "n": 5})
        text = bound.compile(dialect=conn.dialect, compile_kwargs=options)
        return "\n".join(conn.exec_driver_sql(f"EXPLAIN {text}").scalars())

    assert "uq_job_task_id_idx" in postgres_db.transaction(unit)
