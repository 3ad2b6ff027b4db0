"""Leaving: which replicas would go if they were deleted now, and why the others would stay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from sqlalchemy import Connection, select

from catalogs import exceptions, guard
from catalogs.bookkeeping import BlockRow
from catalogs.replicas import ReplicaRow
from catalogs.states import ReplicaState
from datamgmt.deletions.hindrances import KEPT
from datamgmt.reasons import Reason
from datamgmt.subscription_states import WANTING
from datamgmt.tables import subscription
from datamgmt.wanted import destinations
from datamgmt.wanted.allocation import ReplicaKey
from gridcore.db.idlists import within

#: A reason's code and parameters, as `reasons.render` takes them.
Why = tuple[Reason, dict[str, object]]

ASKED_FOR = select(
    subscription.c.id, subscription.c.dataset_id, subscription.c.block_id, subscription.c.se_id
).where(within(subscription.c.dataset_id), subscription.c.state.in_(WANTING))


def verdicts(
    conn: Connection,
    blocks: Mapping[int, BlockRow],
    held: Mapping[int, Sequence[ReplicaRow]],
    mine: Sequence[ReplicaRow],
    *,
    custodial_too: bool,
) -> dict[ReplicaKey, Why]:
    """Those that would stay, and why; one after the other, as of a block's last two copies one stays."""
    faults = exceptions.faults_by_se(conn, blocks)
    asked = _subscribed(conn, blocks)
    fed = {
        (row.block_id, row.src_se_id or (row.path or [0])[0]): row.se_id
        for row in destinations.of_blocks(conn, blocks)
    }
    here = {key: {one.se_id: one for one in rows} for key, rows in held.items()}
    found: dict[ReplicaKey, Why] = {}
    for one in sorted(mine, key=lambda one: one.key):
        rows = here[one.block_id]
        wrong = faults.get(one.block_id, {})
        kept = guard.refusal(rows, wrong, one.se_id, custodial_too=custodial_too)
        if one.key in asked:
            found[one.key] = Reason.SUBSCRIBED, {"id": asked[one.key]}
        elif kept is not None:
            found[one.key] = KEPT[kept], {"se": one.se_id}
        elif one.key in fed:
            found[one.key] = Reason.SOURCE_IN_USE, {"dst": fed[one.key]}
        else:
            rows[one.se_id] = replace(one, state=ReplicaState.DELETING)
    return found


def _subscribed(conn: Connection, blocks: Mapping[int, BlockRow]) -> dict[ReplicaKey, int]:
    rows = conn.execute(ASKED_FOR, {"ids": sorted({one.dataset_id for one in blocks.values()})}).all()
    return {
        (one.id, row.se_id): row.id
        for row in rows
        for one in blocks.values()
        if one.dataset_id == row.dataset_id and row.block_id in (0, one.id)
    }
