"""What deletions look like: what was asked for together, and each replica with its sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import BigInteger, Connection, Integer, and_, bindparam, func, select

from catalogs import sites
from catalogs.tables import block, dataset, se
from datamgmt import reasons
from datamgmt.deletion_states import MEANING, OPEN, DeletionState
from datamgmt.reasons import Reason
from datamgmt.tables import deletion as deletion_table
from gridapp.insights.topology import se_names
from gridapp.insights.values import KEY_MAX, LIMIT, iso, record, state_of
from gridcore.db import dbnow
from gridcore.errors import NotFound

#: Rows of a page.
PAGE = 40
#: Those in which something is still to be said or done.
UNDER_WAY = (*OPEN, DeletionState.DELETING)
_ALIKE = (
    deletion_table.c.ask_id,
    deletion_table.c.se_id,
    deletion_table.c.state,
    deletion_table.c.requester,
    block.c.dataset_id,
)
# Summed and joined: documents cannot be grouped by on Oracle.
_SUMS = (
    select(
        *_ALIKE,
        func.min(deletion_table.c.id).label("id"),
        func.count().label("replicas"),
        func.sum(block.c.files).label("n_files"),
        func.sum(block.c.bytes).label("n_bytes"),
        func.max(deletion_table.c.code).label("code"),
        func.min(deletion_table.c.due_at).label("due_at"),
        func.min(deletion_table.c.created_at).label("created_at"),
        func.min(block.c.name).label("block"),
    )
    .join_from(deletion_table, block, block.c.id == deletion_table.c.block_id)
    .where(deletion_table.c.state.in_(bindparam("states", expanding=True)))
    .group_by(*_ALIKE)
    .subquery("sums")
)
LINES = (
    select(_SUMS, dataset.c.name.label("dataset"), se.c.name.label("se"))
    .join_from(_SUMS, dataset, dataset.c.id == _SUMS.c.dataset_id)
    .join(se, se.c.id == _SUMS.c.se_id)
    .order_by(_SUMS.c.id.desc())
    .limit(bindparam("n", type_=Integer))
)
ONE = select(deletion_table.c.ask_id, deletion_table.c.se_id).where(
    deletion_table.c.id == bindparam("deletion_id")
)
_TOGETHER = and_(deletion_table.c.ask_id == bindparam("asked"), deletion_table.c.se_id == bindparam("on_se"))
TOGETHER = (
    select(deletion_table, block.c.name.label("block"), block.c.files, block.c.bytes)
    .join_from(deletion_table, block, block.c.id == deletion_table.c.block_id)
    .where(_TOGETHER)
    .order_by(deletion_table.c.id)
    .limit(bindparam("n", type_=Integer))
)
COUNTS = (
    select(
        deletion_table.c.state,
        func.count().label("n"),
        func.sum(block.c.files).label("n_files"),
        func.sum(block.c.bytes).label("n_bytes"),
    )
    .join_from(deletion_table, block, block.c.id == deletion_table.c.block_id)
    .where(_TOGETHER)
    .group_by(deletion_table.c.state)
)


PAGE_OF = (
    select(
        deletion_table,
        dataset.c.name.label("dataset"),
        block.c.name.label("block"),
        block.c.files,
        block.c.bytes,
        se.c.name.label("se"),
    )
    .join_from(deletion_table, block, block.c.id == deletion_table.c.block_id)
    .join(dataset, dataset.c.id == block.c.dataset_id)
    .join(se, se.c.id == deletion_table.c.se_id)
    .where(
        deletion_table.c.id < bindparam("before", type_=BigInteger),
        deletion_table.c.state.in_(bindparam("states", expanding=True)),
    )
    .order_by(deletion_table.c.id.desc())
    .limit(bindparam("n", type_=Integer))
)
STATES = select(deletion_table.c.state, func.count().label("n")).group_by(deletion_table.c.state)


def page(
    conn: Connection,
    before: int = KEY_MAX,
    states: Sequence[DeletionState] | None = None,
    limit: int = PAGE,
) -> dict[str, Any]:
    """Deletions in these states, newest first: {at, states: {state: n}, under_way, list, before}.

    Without states: those under way, or all where none is. Replicas of a dataset that go the same way for
    one asking are one entry, with its `blocks`, its sentence and whose `turn` it is. `before` is the key the
    next page begins below.
    """
    counts = {row.state: row.n for row in conn.execute(STATES)}
    under_way = states is None and any(counts.get(state) for state in UNDER_WAY)
    shown = states or (UNDER_WAY if under_way else tuple(DeletionState))
    rows = conn.execute(PAGE_OF, {"states": shown, "before": before, "n": limit + 1}).all()
    names, paced = se_names(conn), _rates(conn)
    return {
        "at": iso(dbnow(conn)),
        "states": {state.value: counts[state] for state in DeletionState if state in counts},
        "under_way": under_way,
        "list": together([_entry(row, names, paced) for row in rows[:limit]]),
        "before": rows[limit - 1].id if len(rows) > limit else None,
    }


#: What is of a block alone.
_SINGLE = frozenset(("id", "block", "files", "bytes"))


def together(entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Those that differ in the block alone as one, where the first of them is, with sums. Pure."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for one in entries:
        shared = tuple(value for name, value in one.items() if name not in _SINGLE)
        line = found.setdefault(shared, {**one, "blocks": [], "files": 0, "bytes": 0})
        line["blocks"].append(one["block"])
        line["files"] += one["files"]
        line["bytes"] += one["bytes"]
    return list(found.values())


def _entry(row: Any, names: Mapping[int, str], paced: Mapping[int, int]) -> dict[str, Any]:
    said, turn = _said(row, row.params or {}, names, paced)
    return {
        **record(row, "id", "dataset", "block", "se", "state", "files", "bytes", "requester", "comments"),
        **record(row, "created_at", "due_at", "decided_by", "decided_at", "ask_id"),
        "group": row.acct_group,
        "custodial_too": bool(row.custodial_too),
        "sentence": said,
        "turn": turn,
        "person": reasons.is_person(turn),
    }


def deletions(conn: Connection, limit: int = LIMIT, state: str | None = None) -> list[dict[str, Any]]:
    """What was asked for together and is in one state, newest first; without a state, what is under way.

    Raises UsageError for a state that is none.
    """
    states = list(UNDER_WAY) if state is None else state_of(DeletionState, state)
    names, paced = se_names(conn), _rates(conn)
    return [_line(row, names, paced) for row in conn.execute(LINES, {"states": states, "n": limit})]


def _line(row: Any, names: Mapping[int, str], paced: Mapping[int, int]) -> dict[str, Any]:
    files = int(row.n_files)
    return {
        **record(row, "id", "state", "requester", "se", "replicas", "created_at", "due_at"),
        "subject": row.block if row.replicas == 1 else row.dataset,
        "files": files,
        "files_left": 0 if row.state == DeletionState.DELETED else files,
        "bytes": int(row.n_bytes),
        "reason": _said(row, {}, names, paced)[0],
    }


def deletion(conn: Connection, deletion_id: int, limit: int = LIMIT) -> dict[str, Any]:
    """All that was asked for with this deletion at its SE, with its `replica_list`. Raises NotFound."""
    one = conn.execute(ONE, {"deletion_id": deletion_id}).one_or_none()
    if one is None:
        raise NotFound(f"there is no deletion {deletion_id}", hint="see: tierflow deletion list")
    binds = {"asked": one.ask_id, "on_se": one.se_id}
    counts = conn.execute(COUNTS, binds).all()
    rows = conn.execute(TOGETHER, {**binds, "n": limit}).all()
    names, paced = se_names(conn), _rates(conn)
    left = [row for row in counts if row.state in UNDER_WAY]
    return {
        "id": deletion_id,
        "se": names[one.se_id],
        **record(rows[0], "requester", "comments", "created_at"),
        "group": rows[0].acct_group,
        "custodial_too": bool(rows[0].custodial_too),
        "subscribed_too": bool(rows[0].subscribed_too),
        "states": {row.state.value: row.n for row in counts},
        "files_left": sum(int(row.n_files) for row in left),
        "bytes_left": sum(int(row.n_bytes) for row in left),
        "replica_list": [_replica(row, names, paced) for row in rows],
    }


def _replica(row: Any, names: Mapping[int, str], paced: Mapping[int, int]) -> dict[str, Any]:
    stamps = record(row, "decided_by", "decided_at", "due_at", "updated_at")
    return {
        **record(row, "id", "block", "state", "files", "bytes"),
        **stamps,
        "code": row.code,
        "reason": _said(row, row.params or {}, names, paced)[0],
    }


def _rates(conn: Connection) -> dict[int, int]:
    """Files an hour, by the storage elements that name a limit."""
    return {one.id: one.delete_rate for one in sites.storage_elements(conn) if one.delete_rate is not None}


def _said(
    row: Any, params: Mapping[str, Any], names: Mapping[int, str], paced: Mapping[int, int]
) -> tuple[str, str | None]:
    """Why a deletion is where it is, by its stored reason, else by its state; and whose turn it is, None
    where there is nothing to do any more. Pure."""
    code, facts = _reason(row, params, paced)
    if code is None:
        return MEANING[row.state], "the deleter" if row.state in UNDER_WAY else None
    wanting = row.state in (*UNDER_WAY, DeletionState.REFUSED)
    return reasons.render(code, facts, names), reasons.turn(code, facts, names) if wanting else None


def _reason(
    row: Any, params: Mapping[str, Any], paced: Mapping[int, int]
) -> tuple[Reason | None, Mapping[str, Any]]:
    state = row.state
    if state == DeletionState.ASKED:
        return Reason.ASKED, {"dst": row.se_id, "since": iso(row.created_at)}
    if row.code in tuple(Reason) and row.code != Reason.MOVED:
        return Reason(row.code), params
    if state == DeletionState.APPROVED:
        return Reason.UNDELETE_WINDOW, {"until": iso(row.due_at)}
    if state == DeletionState.DELETING and row.se_id in paced:
        return Reason.PACED, {"n": paced[row.se_id], "se": row.se_id}
    return None, {}
