"""Deliveries at a glance: what is there of each subscription, what it waits for, and whose turn it is.

Each question is bounded: a page of rows by key, counters instead of what they count, and of many wanted
replicas the first ones.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import BigInteger, Connection, Integer, and_, bindparam, func, or_, select

from catalogs.states import ReplicaState
from catalogs.tables import block, block_replica, dataset, holding, se
from datamgmt import reasons
from datamgmt.reasons import Reason
from datamgmt.subscription_states import SubscriptionState
from datamgmt.tables import block_dest, subscription, transfer
from gridapp.insights import waits
from gridapp.insights.deliveries import sentence
from gridapp.insights.topology import se_names
from gridapp.insights.values import KEY_MAX, iso, plain, record
from gridcore.db import dbnow
from gridcore.db.idlists import within
from gridcore.db.statements import one_of

#: Rows of a page; wanted replicas looked at for what they wait for, and for how their copies fail.
PAGE, WAITING, MOVING = 40, 20_000, 500
#: States in which something is still to be said or done.
UNDER_WAY = (SubscriptionState.ASKED, SubscriptionState.ACTIVE, SubscriptionState.SUSPENDED)

_N = bindparam("n", type_=Integer)
_BEFORE = bindparam("before", type_=BigInteger)

_SUBJECT = and_(
    block_replica.c.block_id == subscription.c.block_id, block_replica.c.se_id == subscription.c.se_id
)
_SUBSCRIBED = (
    select(
        subscription,
        dataset.c.name.label("dataset"),
        se.c.name.label("se"),
        dataset.c.files.label("n_files"),
        dataset.c.bytes.label("n_bytes"),
        dataset.c.closed_blocks,
        holding.c.closed,
        holding.c.files.label("held_files"),
        holding.c.bytes.label("held_bytes"),
        block.c.name.label("block"),
        block.c.files.label("block_files"),
        block.c.bytes.label("block_bytes"),
        block_replica.c.state.label("replica"),
    )
    .join_from(subscription, dataset, dataset.c.id == subscription.c.dataset_id)
    .join(se, se.c.id == subscription.c.se_id)
    .outerjoin(
        holding,
        and_(holding.c.dataset_id == subscription.c.dataset_id, holding.c.se_id == subscription.c.se_id),
    )
    .outerjoin(block, block.c.id == subscription.c.block_id)
    .outerjoin(block_replica, _SUBJECT)
)
SUBSCRIBED = (
    _SUBSCRIBED.where(
        subscription.c.id < _BEFORE, subscription.c.state.in_(bindparam("states", expanding=True))
    )
    .order_by(subscription.c.id.desc())
    .limit(_N)
)
SUBSCRIBED_FOR = SUBSCRIBED.where(subscription.c.acct_group == bindparam("of_group"))
SUBSCRIBED_OF = (
    _SUBSCRIBED.where(
        subscription.c.dataset_id == bindparam("of_dataset"),
        subscription.c.state != SubscriptionState.REMOVED,
    )
    .order_by(se.c.name)
    .limit(_N)
)
STATES = select(subscription.c.acct_group, subscription.c.state, func.count().label("n")).group_by(
    subscription.c.acct_group, subscription.c.state
)
_LOOKED_AT = (
    select(block_dest.c.subscription_id, block_dest.c.code, block_dest.c.block_id, block_dest.c.se_id)
    .where(within(block_dest.c.subscription_id))
    .limit(_N)
    .subquery("looked_at")
)
WAITS = (
    select(
        _LOOKED_AT.c.subscription_id,
        _LOOKED_AT.c.code,
        func.count().label("n"),
        func.min(_LOOKED_AT.c.block_id).label("block_id"),
        func.min(_LOOKED_AT.c.se_id).label("se_id"),
    )
    .group_by(_LOOKED_AT.c.subscription_id, _LOOKED_AT.c.code)
    .order_by(_LOOKED_AT.c.subscription_id, func.count().desc())
)
SAID = select(block_dest.c.block_id, block_dest.c.se_id, block_dest.c.code, block_dest.c.params).where(
    within(block_dest.c.block_id)
)
_GOING = (
    select(
        *(block_dest.c[name] for name in ("subscription_id", "block_id", "se_id")),
        func.coalesce(block_dest.c.via_se_id, block_dest.c.se_id).label("stop_id"),
    )
    .where(within(block_dest.c.subscription_id), one_of(block_dest.c.code, waits.GOING))
    .limit(_N)
    .subquery("going")
)
#: The newest of the failing copies of each block on its way.
_NEWEST = (
    select(_GOING.c.subscription_id, func.max(transfer.c.id).label("id"))
    .join_from(_GOING, transfer, transfer.c.block_id == _GOING.c.block_id)
    .where(
        or_(transfer.c.dst_se_id == _GOING.c.stop_id, transfer.c.dst_se_id == _GOING.c.se_id),
        transfer.c.error_class.is_not(None),
        one_of(transfer.c.state, waits.FAILING),
    )
    .group_by(_GOING.c.subscription_id, _GOING.c.block_id)
    .subquery("newest")
)
FAILING = (
    select(_NEWEST.c.subscription_id, func.count().label("n"), func.max(_NEWEST.c.id).label("id"))
    .join_from(_NEWEST, transfer, transfer.c.id == _NEWEST.c.id)
    .group_by(_NEWEST.c.subscription_id, transfer.c.dst_se_id, transfer.c.error_class)
    .order_by(_NEWEST.c.subscription_id, func.count().desc())
)


def deliveries(
    conn: Connection,
    before: int = KEY_MAX,
    group: str | None = None,
    states: Sequence[SubscriptionState] | None = None,
    limit: int = PAGE,
) -> dict[str, Any]:
    """Subscriptions in these states by group: {at, states, under_way, groups: [{group, states, list}], known,
    turns, before}; those first that wait for a person, the newest first.

    Without states: those under way, or all where none is.
    Each has what is there of what there is (`percent` None where that is not known), `eta_p50`, `eta_p90`,
    whose `turn` it is (None: there is nothing to do), and `waits`: what its blocks wait for, `n` of them
    each. `turns` counts the listed ones by turn. `before` is the key the next page begins below.
    """
    counts = counted(conn)
    here = sum(counts.values(), Counter()) if group is None else counts.get(group, Counter())
    under_way = states is None and any(here[state] for state in UNDER_WAY)
    statement = SUBSCRIBED if group is None else SUBSCRIBED_FOR
    shown = states or (UNDER_WAY if under_way else tuple(SubscriptionState))
    binds = {"before": before, "n": limit + 1, "states": shown}
    rows = conn.execute(statement, binds | ({} if group is None else {"of_group": group})).all()
    told = _told(conn, rows[:limit])
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for one in sorted(told, key=lambda one: not one["person"]):
        groups[one["group"]].append(one)
    return {
        "at": iso(dbnow(conn)),
        "states": {state.value: here[state] for state in SubscriptionState if here[state]},
        "under_way": under_way,
        "groups": [
            {"group": name, "states": plain(counts[name]), "list": groups[name]} for name in sorted(groups)
        ],
        "known": sorted(counts),
        "turns": _turns(told),
        "before": rows[limit - 1].id if len(rows) > limit else None,
    }


def recent(conn: Connection, limit: int) -> list[dict[str, Any]]:
    """Subscriptions under way, newest first, and as many others as make up so many."""
    ended = [state for state in SubscriptionState if state not in UNDER_WAY]
    rows: list[Any] = []
    for states in (UNDER_WAY, ended):
        rows += conn.execute(SUBSCRIBED, {"before": KEY_MAX, "n": limit - len(rows), "states": states}).all()
    return _told(conn, rows)


def deliveries_of(conn: Connection, dataset_id: int, limit: int = PAGE) -> list[dict[str, Any]]:
    """The same of one dataset, by storage element, without those removed."""
    return _told(conn, conn.execute(SUBSCRIBED_OF, {"of_dataset": dataset_id, "n": limit}).all())


def counted(conn: Connection) -> dict[str, Counter[SubscriptionState]]:
    """How many subscriptions each group has in each state."""
    found: dict[str, Counter[SubscriptionState]] = defaultdict(Counter)
    for row in conn.execute(STATES):
        found[row.acct_group][row.state] += row.n
    return found


def _turns(told: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Who is waited for by how many, persons first. Pure."""
    found = Counter((one["turn"], one["person"]) for one in told if one["turn"])
    rows = [{"turn": turn, "person": person, "n": n} for (turn, person), n in found.items()]
    return sorted(rows, key=lambda one: (not one["person"], -one["n"], one["turn"]))


def _told(conn: Connection, rows: Sequence[Any]) -> list[dict[str, Any]]:
    names = se_names(conn)
    live = [row.id for row in rows if row.state is SubscriptionState.ACTIVE]
    lines = _waits(conn, live, names) if live else {}
    return [_delivery(row, lines.get(row.id, []), names) for row in rows]


def _waits(conn: Connection, ids: Sequence[int], names: Mapping[int, str]) -> dict[int, list[dict[str, Any]]]:
    """{subscription: what its blocks wait for}: how copies fail, then what was said of most of them."""
    rows = conn.execute(WAITS, {"ids": ids, "n": WAITING}).all()
    blocks = {"ids": sorted({row.block_id for row in rows})}
    said = {(one.block_id, one.se_id): one for one in conn.execute(SAID, blocks)}
    found = _failing(conn, ids, names)
    failing = {key: sum(one["n"] for one in lines) for key, lines in found.items()}
    for row in rows:
        one = said.get((row.block_id, row.se_id))
        params = one.params if one is not None and one.code == row.code else None
        n = row.n - failing.get(row.subscription_id, 0) if row.code in waits.GOING else row.n
        if n > 0:
            found[row.subscription_id].append({"n": n, **_line(row.code, params, names)})
    return found


def _failing(
    conn: Connection, ids: Sequence[int], names: Mapping[int, str]
) -> dict[int, list[dict[str, Any]]]:
    """Of blocks on their way, how many have copies that fail alike, and the last of these copies."""
    rows = conn.execute(FAILING, {"ids": ids, "n": MOVING}).all()
    found: dict[int, list[dict[str, Any]]] = defaultdict(list)
    samples = {}
    if rows:
        samples = {one.id: one for one in conn.execute(waits.FAILURE, {"ids": sorted({r.id for r in rows})})}
    for row in rows:
        if sample := samples.get(row.id):
            lines = [_line(code, params, names) for code, params in waits.failure(conn, sample)]
            acts = next((one["turn"] for one in lines if reasons.is_person(one["turn"])), lines[0]["turn"])
            found[row.subscription_id].append({"n": row.n, **lines[0], "turn": acts})
    return found


def _line(code: str | None, params: Mapping[str, Any] | None, names: Mapping[int, str]) -> dict[str, Any]:
    """A reason in words, with whose turn it is; without its facts, or of another release, the code alone."""
    if params is None or code not in tuple(Reason):
        return {"code": code, "sentence": None, "turn": None}
    turn = reasons.turn(Reason(code), params, names)
    return {"code": code, "sentence": sentence(code, params, names), "turn": turn}


def _delivery(row: Any, lines: list[dict[str, Any]], names: Mapping[int, str]) -> dict[str, Any]:
    done, whole = _amounts(row)
    if row.state is SubscriptionState.COMPLETE:
        whole = done  # what there is more of is in open blocks
    turn = _turn(row, lines, names)
    return {
        **record(row, "id", "dataset", "se", "state", "priority", "requester", "created_at", "eta_p50"),
        **record(row, "eta_p90", "block", "suspended_until", "comments"),
        "group": row.acct_group,
        "custodial": bool(row.custodial),
        "move": bool(row.move),
        "files_done": done[0],
        "bytes_done": done[1],
        "files": whole[0] if whole else None,
        "bytes": whole[1] if whole else None,
        "percent": _percent(row.state, done, whole),
        "reason": sentence(row.code, row.params, names) or _UNSAID.get(row.state),
        "turn": turn,
        "person": reasons.is_person(turn),
        "waits": lines,
    }


_UNSAID = {SubscriptionState.ACTIVE: "not yet looked at by the block manager"}
#: What holds all of a subscription up, whatever was said of its blocks.
_OWN = (Reason.NO_CLOSED_BLOCK, Reason.QUOTA_FULL, Reason.SE_FULL)


def _turn(row: Any, lines: Sequence[Mapping[str, Any]], names: Mapping[int, str]) -> str | None:
    """Who can make it go on: of those its blocks wait for, a person first. Pure."""
    if row.state not in UNDER_WAY:
        return None
    if row.state is not SubscriptionState.ACTIVE or row.code in _OWN:
        return _line(row.code, {"dst": row.se_id, **(row.params or {})}, names)["turn"]  # type: ignore[no-any-return]
    turns = sorted((one["turn"] for one in lines if one["turn"]), key=reasons.is_person, reverse=True)
    return turns[0] if turns else "the block manager"


def _amounts(row: Any) -> tuple[tuple[int, int], tuple[int, int] | None]:
    """(files, bytes) there and in all; None where only some of a dataset's blocks are asked for. Pure."""
    noted = (row.files_done, row.bytes_done)
    if row.block_id:
        whole = (row.block_files or 0, row.block_bytes or 0)
        return (whole if row.replica is ReplicaState.COMPLETE else noted), whole
    if row.static or row.fill_after is not None:
        return noted, None
    held = (row.held_files or 0, row.held_bytes or 0)
    return max(held, noted, key=lambda one: one[1]), (row.n_files, row.n_bytes)


def _percent(state: SubscriptionState, done: tuple[int, int], whole: tuple[int, int] | None) -> float | None:
    """By bytes, by files where all are empty; below 100 until it is complete. Pure."""
    if state is SubscriptionState.COMPLETE:
        return 100.0
    if whole is None:
        return None
    part, total = (done[1], whole[1]) if whole[1] else (done[0], whole[0])
    return min(round(100 * part / total, 1), 99.9) if total else 0.0
