"""Retargets: what a job that is due again asks for and where it may go, by what became of its attempts.

A job goes back to the queue in another class where the retry table says *bigger* or *elsewhere*, and where
its task's share or sites have changed since. Exclusions are the job's newest failures, and never the last
site that would have it: such a job would wait for ever.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import BindParameter, Connection, Integer, bindparam, select

from catalogs.tables import block_replica, site
from gridcore.db.statements import lock_rows, one_of, select_in
from prodsys.control import holds
from prodsys.job_states import TROUBLE, JobEvent, JobState
from prodsys.jobs import lostinputs, store
from prodsys.jobs.store import Move
from prodsys.queue import classes
from prodsys.queue.brokerage import Requirements, SiteFacts, judge
from prodsys.queue.classes import ClassSpec
from prodsys.settling.retries import ErrorClass, Reason, RetryRule
from prodsys.states import TaskState
from prodsys.tables import attempt, endpoint, in_state, job, job_class, job_history, queue, task_count
from prodsys.tasks import tasks

#: Sites a job stays away from at most; each set of them is a class of its own.
AWAY_MAX = 3
_MEASURES = {"memory": "memory_mb", "wall": "wall_s"}


@dataclass(frozen=True, slots=True)
class Failure:
    """How an attempt of a job ended, and at which site."""

    error_class: str
    site: str


Rules = Mapping[ErrorClass, RetryRule]
#: What is offered, endpoint by endpoint; a site may have several.
Offers = Iterable[SiteFacts]


# --- the rule --------------------------------------------------------------------------------------------


def retarget(
    needs: Requirements,
    failures: Sequence[Failure],
    rules: Rules,
    offers: Offers,
    banned: Collection[str] = (),
) -> Requirements:
    """What the next attempt asks for. Pure.

    `needs` is what the last one asked for, `failures` are newest first, `banned` sites that take no work now.
    """
    gone = [one.site for one in failures if _rule(rules, one.error_class, "elsewhere")]
    free = replace(needs, sites_excluded=needs.sites_excluded - set(gone))
    grown = _grown(free, failures, rules, offers)
    takers = {one.name for one in offers if judge(grown, one).eligible}
    left = takers - set(banned)
    away: set[str] = set()
    for name in dict.fromkeys(gone):
        if name in takers and left - {name} and len(away) < AWAY_MAX:
            away.add(name)
            left.discard(name)
    return replace(grown, sites_excluded=grown.sites_excluded | away)


def _rule(rules: Rules, error_class: str, wish: str) -> Any:
    """What the class's rule says of a wish; None for a class of another release."""
    known = error_class in tuple(ErrorClass)
    return getattr(rules[ErrorClass(error_class)], wish) if known else None


def _grown(needs: Requirements, failures: Sequence[Failure], rules: Rules, offers: Offers) -> Requirements:
    """More of what the newest failure lacked, as far as a site that may run it offers that."""
    newest = failures[0].error_class if failures else ""
    bigger = _rule(rules, newest, "bigger")
    if bigger is None:
        return needs
    name = _MEASURES[bigger]
    now = getattr(needs, name)
    takers = [one for one in offers if judge(needs, one).eligible]
    most = max((_offered(one, name, needs.cores) for one in takers), default=0)
    wanted = int(min(math.ceil(now * _rule(rules, newest, "factor")), most))
    if not wanted > now > 0:
        return needs
    return replace(needs, memory_mb=wanted) if bigger == "memory" else replace(needs, wall_s=wanted)


def _offered(one: SiteFacts, name: str, cores: int) -> float:
    """The most a job of so many cores gets there; a limit that is not declared does not bind."""
    if name == "wall_s":
        return math.inf if one.wall_s_max is None else one.wall_s_max
    return math.inf if one.memory_mb_per_core is None else one.memory_mb_per_core * cores


def difference(old: Requirements, new: Requirements) -> dict[str, Any]:
    """What changed, as `retries.reason` tells it: {"bigger": {field: [old, new]}, "not_at", "again_at"}."""
    pairs = {name: [getattr(old, name), getattr(new, name)] for name in _MEASURES.values()}
    return {
        "bigger": {name: pair for name, pair in pairs.items() if pair[0] != pair[1]},
        "not_at": sorted(new.sites_excluded - old.sites_excluded),
        "again_at": sorted(old.sites_excluded - new.sites_excluded),
    }


# --- rows ------------------------------------------------------------------------------------------------

_IDS: BindParameter[int] = bindparam("ids", expanding=True)
CLASS_OF = select(job.c.id, job.c.class_id, job.c.task_id, job.c.kind).where(job.c.id.in_(_IDS))
#: From where held jobs came, the last time last.
HELD_FROM = (
    select(job_history.c.job_id, job_history.c.frm)
    .where(job_history.c.job_id.in_(_IDS), job_history.c.dst == JobState.HELD)
    .order_by(job_history.c.seq)
)
CLASSES = select(job_class).where(job_class.c.id.in_(_IDS))
FAILURES = (
    select(attempt.c.job_id, attempt.c.error_class, site.c.name)
    .join_from(attempt, endpoint, endpoint.c.id == attempt.c.endpoint_id)
    .join(site, site.c.id == endpoint.c.site_id)
    .where(attempt.c.job_id.in_(_IDS), attempt.c.error_class.is_not(None))
    .order_by(attempt.c.job_id, attempt.c.attempt.desc())
)
_SOME_HELD = select(task_count.c.task_id).where(task_count.c.state == JobState.HELD, task_count.c.jobs > 0)
#: The first condition is that of the index of jobs in trouble, word for word.
_HELD_FOR_INPUT = (
    in_state(job, *TROUBLE),
    in_state(job, JobState.HELD),
    one_of(job.c.hold_kind, ["input"]),
)
INPUT_IS_BACK = (
    select(job.c.id, job.c.attempt)
    .join(job_class, job_class.c.id == job.c.class_id)
    .where(*_HELD_FOR_INPUT, job.c.task_id.in_(_SOME_HELD))
    .where(job.c.updated_at <= bindparam("before", type_=job.c.updated_at.type))
    .where(
        select(block_replica.c.block_id)
        .where(block_replica.c.block_id == job_class.c.input_block_id, block_replica.c.state == "COMPLETE")
        .exists()
    )
    .where(~lostinputs.lists_invalid())
    .order_by(job.c.id)
    .limit(bindparam("n", type_=Integer))
)


@dataclass(frozen=True, slots=True)
class _Change:
    """A job's way into another class, decided while it was in `seen`."""

    seen: int
    spec: ClassSpec
    reason: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Moves that return jobs to the queue, or hold them for their input or a pause; some change the class."""

    moves: Sequence[Move] = ()
    changes: dict[int, _Change] = field(default_factory=dict)

    @property
    def new_classes(self) -> int:
        """Class keys it may use up."""
        return len({one.spec.fingerprint for one in self.changes.values()})


def plan(
    conn: Connection,
    rules: Rules,
    now: datetime,
    limit: int,
    *,
    pause: timedelta = timedelta(0),
    banned: Collection[str] = (),
) -> Plan:
    """At most `limit` jobs that are due, and as many whose input is complete again; from a snapshot. What is
    due of a paused task is held.

    A job held for its input is left for at least the pause: what the catalogue says may not be so.
    """
    due = store.due(conn, now, limit)
    binds = {"before": now - pause, "n": limit}
    back = [_released(row) for row in conn.execute(INPUT_IS_BACK, binds)]
    moves, changes = _decided(conn, due, rules, frozenset(banned))
    again = releases(conn, rules, [move.job_id for move in back], banned)
    return Plan(moves=moves + back, changes={**changes, **again.changes})


def releases(conn: Connection, rules: Rules, job_ids: Collection[int], banned: Collection[str] = ()) -> Plan:
    """A plan without moves for held jobs that are to be released: those that failed and were held before they
    were tried again change their class now. From a snapshot."""
    came_from = dict(tuple(row) for row in select_in(conn, HELD_FROM, job_ids))
    failed = [key for key, frm in came_from.items() if frm != JobState.READY]
    moves = [Move(job_id=key, attempt=0, event=JobEvent.RELEASE, to=JobState.READY) for key in failed]
    return Plan(changes=_decided(conn, moves, rules, frozenset(banned))[1])


def _released(row: Any) -> Move:
    return Move(job_id=row.id, attempt=row.attempt, event=JobEvent.RELEASE, to=JobState.READY)


def _decided(
    conn: Connection, due: Sequence[Move], rules: Rules, banned: frozenset[str]
) -> tuple[list[Move], dict[int, _Change]]:
    if not due:
        return [], {}
    ids = [move.job_id for move in due]
    jobs = {row.id: row for row in select_in(conn, CLASS_OF, ids)}
    rows = {row.id: row for row in select_in(conn, CLASSES, {one.class_id for one in jobs.values()})}
    needs = classes.requirements_of(list(rows.values()), _complete_at(conn, rows.values()))
    owners = tasks.by_ids(conn, {one.task_id for one in jobs.values()})
    offers = [one for here in classes.site_facts(conn).values() for one in here.values()]
    failures = _failures(conn, ids)
    moves: list[Move] = []
    changes: dict[int, _Change] = {}
    known: dict[tuple[Requirements, tuple[Failure, ...]], Requirements] = {}
    for move in due:
        mine = jobs[move.job_id]
        seen, failed = mine.class_id, tuple(failures[move.job_id])
        if needs[seen].input_ses == frozenset():
            moves.append(_held(move))
            continue
        owner = owners[mine.task_id]
        if move.event == JobEvent.DUE and owner.state == TaskState.PAUSED:
            moves.append(holds.paused(move.job_id, move.attempt, owner))  # retargeted when it is released
            continue
        moves.append(move)
        spec = holds.spec_of(owner, mine.kind, rows[seen])
        asked = replace(spec.requirements, input_ses=needs[seen].input_ses)
        if (asked, failed) not in known:
            known[asked, failed] = retarget(asked, failed, rules, offers, banned)
        new = replace(spec, requirements=known[asked, failed])
        if (new.leaf_id, new.requirements) != (rows[seen].leaf_id, needs[seen]):
            changes[move.job_id] = _Change(seen, new, difference(needs[seen], new.requirements))
    return moves, changes


def _complete_at(conn: Connection, rows: Iterable[Any]) -> dict[int, frozenset[str]]:
    """The SEs that hold each input block."""
    found: dict[int, set[str]] = defaultdict(set)
    for block_id, name in select_in(conn, classes.COMPLETE_AT, {row.input_block_id for row in rows} - {None}):
        found[block_id].add(name)
    return {block_id: frozenset(names) for block_id, names in found.items()}


def _failures(conn: Connection, job_ids: Iterable[int]) -> dict[int, list[Failure]]:
    found: dict[int, list[Failure]] = defaultdict(list)
    for row in select_in(conn, FAILURES, job_ids):
        found[row.job_id].append(Failure(row.error_class, row.name))
    return found


def _held(move: Move) -> Move:
    return move._replace(
        event=JobEvent.HOLD, to=JobState.HELD, hold_kind="input", code=Reason.WAITS_FOR_INPUT.value
    )


def carry_out(conn: Connection, planned: Plan, class_ids: Iterable[int], now: datetime) -> list[Move]:
    """Make the planned moves, with fresh class keys; the moves made."""
    return store.apply(conn, into(conn, planned, class_ids, planned.moves), now)


def into(conn: Connection, planned: Plan, class_ids: Iterable[int], moves: Sequence[Move]) -> list[Move]:
    """The moves, those with a planned change into another class; the queue and the jobs are locked.

    A job whose class somebody else changed since keeps that one; one that lists an invalid file is held.
    """
    lock_rows(conn, queue, [store.QUEUE])
    lock_rows(conn, job, [move.job_id for move in moves])
    moves = lostinputs.kept_back(conn, moves)
    now_in = {row.id: row.class_id for row in select_in(conn, CLASS_OF, planned.changes)}
    current = {key: one for key, one in planned.changes.items() if now_in.get(key) == one.seen}
    spare, made = iter(class_ids), dict[str, int]()
    for one in current.values():
        name = one.spec.fingerprint
        if name not in made:
            made[name] = classes.put(conn, next(spare), one.spec)
    return [
        _into(move, current.get(move.job_id), made) if move.to == JobState.READY else move for move in moves
    ]


def _into(move: Move, change: _Change | None, made: Mapping[str, int]) -> Move:
    if change is None:
        return move
    class_id = made[change.spec.fingerprint]
    if not any(change.reason.values()):  # it is only that its task has another share or other sites
        return move._replace(class_id=class_id)
    return move._replace(class_id=class_id, code=Reason.RETARGETED.value, params=change.reason)
