"""What deliveries look like: subscriptions, and each block on its way with its sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    BindParameter,
    Connection,
    Integer,
    and_,
    bindparam,
    case,
    func,
    or_,
    select,
)

from catalogs.states import BlockState, ReplicaState
from catalogs.tables import block, block_replica, se
from catalogs.tables import dataset as dataset_table
from datamgmt import reasons
from datamgmt.reasons import Reason
from datamgmt.subscription_states import SubscriptionState
from datamgmt.subscriptions import forecasts
from datamgmt.subscriptions.store import COVERS
from datamgmt.tables import block_dest, subscription_history, transfer
from datamgmt.tables import subscription as subscription_table
from datamgmt.transfer_states import TransferState
from gridapp.insights.topology import se_names
from gridapp.insights.values import LIMIT, plain, record, state_of
from gridcore.db.statements import select_in
from gridcore.errors import NotFound

_IDS: BindParameter[int] = bindparam("ids", expanding=True)

_SUBSCRIPTIONS = (
    select(
        subscription_table,
        dataset_table.c.name.label("dataset"),
        se.c.name.label("se"),
        block.c.name.label("block"),
    )
    .join_from(subscription_table, dataset_table, dataset_table.c.id == subscription_table.c.dataset_id)
    .join(se, se.c.id == subscription_table.c.se_id)
    .outerjoin(block, block.c.id == subscription_table.c.block_id)
)
SUBSCRIPTIONS = (
    _SUBSCRIPTIONS.where(subscription_table.c.state.in_(bindparam("states", expanding=True)))
    .order_by(subscription_table.c.id.desc())
    .limit(bindparam("n", type_=Integer))
)
SUBSCRIPTIONS_OF = _SUBSCRIPTIONS.where(dataset_table.c.id == bindparam("dataset_id")).order_by(se.c.name)
SUBSCRIPTION = _SUBSCRIPTIONS.where(subscription_table.c.id == bindparam("subscription_id"))
SUBSCRIPTION_AT = _SUBSCRIPTIONS.where(
    or_(
        and_(dataset_table.c.name == bindparam("name"), subscription_table.c.block_id == 0),
        block.c.name == bindparam("name"),
    ),
    se.c.name == bindparam("se_name"),
)
SUBSCRIPTION_MOVES = (
    select(subscription_history)
    .where(subscription_history.c.subscription_id == bindparam("subscription_id"))
    .order_by(subscription_history.c.seq)
)
_THERE = and_(
    block_replica.c.block_id == block.c.id,
    block_replica.c.se_id == subscription_table.c.se_id,
    block_replica.c.state == ReplicaState.COMPLETE,
)


def _sums(column: Any) -> list[Any]:
    """Of the column: over all closed blocks, and over those that are there."""
    here = case((block_replica.c.block_id.is_not(None), column), else_=0)
    return [func.sum(column), func.sum(here)]


PROGRESS = (
    select(
        subscription_table.c.id,
        *(one.label(name) for one, name in zip(_sums(1), ("blocks", "blocks_done"), strict=True)),
        *(one.label(name) for one, name in zip(_sums(block.c.files), ("n_files", "files_done"), strict=True)),
        *(one.label(name) for one, name in zip(_sums(block.c.bytes), ("n_bytes", "bytes_done"), strict=True)),
    )
    .join_from(
        subscription_table,
        block,
        and_(
            block.c.dataset_id == subscription_table.c.dataset_id,
            block.c.state == BlockState.CLOSED,
            COVERS,
        ),
    )
    .outerjoin(block_replica, _THERE)
    .where(subscription_table.c.id.in_(_IDS))
    .group_by(subscription_table.c.id)
)
ARRIVING = (
    select(
        subscription_table.c.id, func.count().label("n_files"), func.sum(transfer.c.bytes).label("n_bytes")
    )
    .join_from(subscription_table, block, and_(block.c.dataset_id == subscription_table.c.dataset_id, COVERS))
    .join(
        transfer, and_(transfer.c.block_id == block.c.id, transfer.c.dst_se_id == subscription_table.c.se_id)
    )
    .where(subscription_table.c.id.in_(_IDS), transfer.c.state == TransferState.DONE)
    .group_by(subscription_table.c.id)
)
BLOCKS_AT = (
    select(
        block.c.id,
        block.c.name,
        block.c.state,
        block.c.files,
        block.c.bytes,
        se.c.name.label("origin"),
        block_replica.c.state.label("replica"),
        block_replica.c.hops,
        block_replica.c.completed_at,
        block_dest.c.code,
        block_dest.c.params,
        block_dest.c.decided_at,
        block_dest.c.path,
    )
    .join_from(block, se, se.c.id == block.c.origin_se_id)
    .outerjoin(
        block_replica,
        and_(block_replica.c.block_id == block.c.id, block_replica.c.se_id == bindparam("at_se")),
    )
    .outerjoin(
        block_dest, and_(block_dest.c.block_id == block.c.id, block_dest.c.se_id == bindparam("at_se"))
    )
    .where(block.c.dataset_id == bindparam("dataset_id"))
    .where(or_(bindparam("only", type_=BigInteger) == 0, block.c.id == bindparam("only", type_=BigInteger)))
    .order_by(case((block_replica.c.state == ReplicaState.COMPLETE, 1), else_=0), block.c.id)
    .limit(bindparam("n", type_=Integer))
)
TRANSFERS_TO = (
    select(
        transfer.c.block_id,
        transfer.c.state,
        func.count().label("n"),
        func.max(transfer.c.error).label("error"),
    )
    .where(transfer.c.block_id.in_(_IDS), transfer.c.dst_se_id == bindparam("at_se"))
    .group_by(transfer.c.block_id, transfer.c.state)
)


def sentence(code: str | None, params: Mapping[str, Any] | None, names: Mapping[int, str]) -> str | None:
    """A stored reason of the data half as a sentence; a code of another release is shown as it is. Pure."""
    if code is None:
        return None
    if code not in tuple(Reason):
        return f"{code} {dict(params or {})}"
    return reasons.render(Reason(code), params or {}, names)


# --- subscriptions -----------------------------------------------------------------------------------


def subscriptions(conn: Connection, limit: int = LIMIT, state: str | None = None) -> list[dict[str, Any]]:
    """Subscriptions, newest first, in one state or any, with how much of each is there. Raises UsageError."""
    states = state_of(SubscriptionState, state)
    return _subscriptions(conn, conn.execute(SUBSCRIPTIONS, {"n": limit, "states": states}).all())


def subscriptions_of(conn: Connection, dataset_id: int) -> list[dict[str, Any]]:
    """Those of one dataset, by the name of the storage element."""
    return _subscriptions(conn, conn.execute(SUBSCRIPTIONS_OF, {"dataset_id": dataset_id}).all())


def _subscriptions(conn: Connection, rows: Sequence[Any]) -> list[dict[str, Any]]:
    ids = [row.id for row in rows]
    progress = {one.id: one for one in select_in(conn, PROGRESS, ids)}
    arriving = {one.id: one for one in select_in(conn, ARRIVING, ids)}
    names = se_names(conn)
    return [_subscription(row, progress.get(row.id), arriving.get(row.id), names) for row in rows]


def _subscription(row: Any, progress: Any, arriving: Any, names: Mapping[int, str]) -> dict[str, Any]:
    done, whole = _amounts(progress, arriving)
    return {
        **record(row, *_SHOWN),
        "group": row.acct_group,
        **{name: bool(row._mapping[name]) for name in ("custodial", "move", "static")},
        "move_from": names.get(row.move_from_se_id),
        "since": plain(row.fill_after),
        "until": plain(row.suspended_until),
        "comment": row.comments,
        **{name: whole[name] for name in ("blocks", "files", "bytes")},
        **{f"{name}_done": done[name] for name in ("blocks", "files", "bytes")},
        "percent": _percent(done, whole),
        "eta": plain(row.eta_p50),
        "eta_late": plain(row.eta_p90),
        "no_eta": None if row.eta_p50 else forecasts.missing(row.state, row.code),
        "reason": sentence(row.code, row.params, names) or _standing(row.state, done, whole),
    }


_SHOWN = (
    *("id", "dataset", "block", "se", "state", "priority", "requester", "ask_id", "decided_by"),
    *("created_at", "updated_at", "complete_at"),
)


def _amounts(progress: Any, arriving: Any) -> tuple[dict[str, int], dict[str, int]]:
    """What is there, and what there is in closed blocks."""
    if progress is None:
        return dict.fromkeys(("blocks", "files", "bytes"), 0), dict.fromkeys(("blocks", "files", "bytes"), 0)
    whole = {"blocks": progress.blocks, "files": progress.n_files, "bytes": progress.n_bytes}
    done = {"blocks": progress.blocks_done, "files": progress.files_done, "bytes": progress.bytes_done}
    if arriving is not None:
        done["files"] += arriving.n_files
        done["bytes"] += arriving.n_bytes
    as_numbers = [{name: int(value) for name, value in side.items()} for side in (done, whole)]
    return as_numbers[0], as_numbers[1]


def _percent(done: Mapping[str, int], whole: Mapping[str, int]) -> float:
    """By bytes; by files where all are empty. Below 100 until the last block is complete."""
    kind = "bytes" if whole["bytes"] else "files"
    if not whole[kind]:
        return 0.0
    part = round(100 * done[kind] / whole[kind], 1)
    return part if done["blocks"] == whole["blocks"] else min(part, 99.9)


def _standing(state: SubscriptionState, done: Mapping[str, int], whole: Mapping[str, int]) -> str:
    """The sentence of a subscription that has no stored one."""
    if state == SubscriptionState.SUSPENDED:
        return reasons.render(Reason.SUSPENDED, {})
    if state == SubscriptionState.REMOVED:
        return reasons.render(Reason.UNSUBSCRIBED, {})
    if not whole["blocks"]:
        return reasons.render(Reason.NO_CLOSED_BLOCK, {})
    params = {"complete": done["blocks"], "blocks": whole["blocks"]}
    all_there = done["blocks"] == whole["blocks"]
    return reasons.render(Reason.DELIVERED if all_there else Reason.DELIVERING, params)


def subscription(conn: Connection, subscription_id: int, limit: int = LIMIT) -> dict[str, Any]:
    """One subscription with the first of its `block_list`, what is missing first. Raises NotFound."""
    row = conn.execute(SUBSCRIPTION, {"subscription_id": subscription_id}).one_or_none()
    if row is None:
        raise NotFound(f"there is no subscription {subscription_id}", hint="see: tierflow subscription list")
    (view,) = _subscriptions(conn, [row])
    found = blocks_at(conn, row.dataset_id, row.se_id, limit, only=row.block_id)
    if row.state not in (SubscriptionState.ACTIVE, SubscriptionState.COMPLETE):
        turn = reasons.turn(Reason(row.code), row.params or {}, se_names(conn)) if row.code else "nobody"
        for one in found:  # nobody looks at them
            if one["state"] == BlockState.CLOSED and one["replica"] is one["code"] is None:
                one |= {"sentence": view["reason"], "turn": turn}
    moves = conn.execute(SUBSCRIPTION_MOVES, {"subscription_id": subscription_id})
    return {
        **view,
        "block_list": found,
        "history": [
            {"from": plain(one.frm), "to": one.dst.value, **record(one, "at", "actor", "code")}
            for one in moves
        ],
    }


def subscription_id(conn: Connection, dataset_name: str, se_name: str) -> int:
    """The key of the subscription of a dataset at a storage element. Raises NotFound."""
    found = conn.execute(SUBSCRIPTION_AT, {"name": dataset_name, "se_name": se_name}).one_or_none()
    if found is None:
        raise NotFound(
            f"{dataset_name} is not subscribed to {se_name}",
            hint=f"see: tierflow dataset show {dataset_name}",
        )
    return int(found.id)


# --- blocks ------------------------------------------------------------------------------------------


def blocks_at(
    conn: Connection, dataset_id: int, se_id: int, limit: int = LIMIT, *, only: int = 0
) -> list[dict[str, Any]]:
    """Blocks of a dataset, or the `only` one, as one storage element has them, what is missing first, each
    with its sentence."""
    binds = {"dataset_id": dataset_id, "at_se": se_id, "n": limit, "only": only}
    rows = conn.execute(BLOCKS_AT, binds).all()
    busy: dict[int, dict[str, Any]] = {}
    for one in select_in(conn, TRANSFERS_TO, [row.id for row in rows], {"at_se": se_id}):
        busy.setdefault(one.block_id, {})[one.state.value] = {"files": one.n, "error": one.error}
    names = se_names(conn)
    return [_block_at(row, busy.get(row.id, {}), names, names[se_id]) for row in rows]


def _block_at(row: Any, busy: Mapping[str, Any], names: Mapping[int, str], here: str) -> dict[str, Any]:
    there = row.replica == ReplicaState.COMPLETE
    arrived = row.files if there else busy.get(TransferState.DONE, {}).get("files", 0)
    errors = [one["error"] for one in busy.values() if one["error"]]
    return {
        **record(row, "name", "state", "files", "bytes", "origin", "replica", "hops", "completed_at"),
        "files_done": arrived,
        "transfers": {state: one["files"] for state, one in busy.items()},
        "code": row.code,
        "decided_at": plain(row.decided_at),
        "path": [names.get(one, f"SE {one}") for one in row.path or []],
        "last_error": errors[-1] if errors else None,
        "sentence": _told(row, names, here),
        "turn": _turn(row, names),
    }


def _turn(row: Any, names: Mapping[int, str]) -> str:
    """Whose turn it is to bring the block there."""
    if row.replica == ReplicaState.COMPLETE:
        return "nobody"
    if row.replica == ReplicaState.DELETING:
        return "the deleter"
    if row.code in tuple(Reason):
        return reasons.turn(Reason(row.code), row.params or {}, names)
    return "the block_manager"


def _told(row: Any, names: Mapping[int, str], here: str) -> str:
    if row.replica == ReplicaState.COMPLETE:
        return reasons.render(Reason.COMPLETE, {"dst": here})
    if row.replica == ReplicaState.DELETING:
        return f"its replica at {here} is being removed"
    if row.state == BlockState.OPEN:
        return f"still open: it grows at {row.origin} and is copied once it is closed"
    return sentence(row.code, row.params, names) or "closed, and not yet looked at by the block manager"
