"""Recount: what wanted replicas carry of their blocks, where agents of an older release have made them."""

from __future__ import annotations

from sqlalchemy import Connection, and_, func, or_, select

from catalogs import bookkeeping
from catalogs.tables import block, dataset, holding
from datamgmt.links import linkqueues
from datamgmt.subscription_states import WANTING, SubscriptionState
from datamgmt.tables import block_dest, subscription
from datamgmt.wanted import charging, transit
from gridcore.db import bulk
from gridcore.db.bulk import Change

SIZES = (
    select(block_dest.c.block_id, block_dest.c.se_id, block.c.files, block.c.bytes)
    .join_from(block_dest, block, block.c.id == block_dest.c.block_id)
    .where(or_(block_dest.c.files != block.c.files, block_dest.c.bytes != block.c.bytes))
    .order_by(block_dest.c.block_id, block_dest.c.se_id)
)
_WANTED = (
    select(block_dest.c.subscription_id, func.count().label("n"))
    .group_by(block_dest.c.subscription_id)
    .subquery("wanted_for")
)
#: Settled datasets, all of which is asked for somewhere and less than all is there or wanted.
UNSEEN = (
    select(dataset.c.id)
    .join_from(subscription, dataset, dataset.c.id == subscription.c.dataset_id)
    .outerjoin(
        holding,
        and_(holding.c.dataset_id == subscription.c.dataset_id, holding.c.se_id == subscription.c.se_id),
    )
    .outerjoin(_WANTED, _WANTED.c.subscription_id == subscription.c.id)
    .where(subscription.c.state.in_((SubscriptionState.ACTIVE, SubscriptionState.COMPLETE)))
    .where(subscription.c.block_id == 0, subscription.c.static == 0, subscription.c.fill_after.is_(None))
    .where(dataset.c.unsettled == 0)
    .where(
        func.coalesce(holding.c.closed, 0) + func.coalesce(_WANTED.c.n, 0) < dataset.c.closed_blocks,
    )
    .distinct()
)
#: Settled datasets of which something is still wanted for a subscription that has ended.
UNASKED = (
    select(dataset.c.id)
    .join_from(block_dest, subscription, subscription.c.id == block_dest.c.subscription_id)
    .join(dataset, dataset.c.id == subscription.c.dataset_id)
    .where(subscription.c.state.not_in(WANTING), dataset.c.unsettled == 0)
    .distinct()
)


def mend(conn: Connection) -> dict[str, int]:
    """Put right what wanted replicas say of their closed blocks, links of their queues, quotas of space and
    of transit of what is used; have allocation look where something is asked for that is neither there nor
    wanted, or wanted that nobody asks for. How many there were."""
    found = {
        "unseen_datasets": _look_again(conn),
        "wanted_sizes": _mend_sizes(conn),
        "link_queues": linkqueues.recount(conn),
        "space_quotas": charging.mend(conn),
        "transit": transit.mend(conn),
    }
    return {name: n for name, n in found.items() if n}


def _mend_sizes(conn: Connection) -> int:
    rows = conn.execute(SIZES).all()
    if rows:
        blocks, ses, files, sizes = zip(*rows, strict=True)
        keys = {"block_id": blocks, "se_id": ses}
        bulk.write(conn, [Change(block_dest, keys, put={"files": files, "bytes": sizes})])
    return len(rows)


def _look_again(conn: Connection) -> int:
    found = {*conn.execute(UNSEEN).scalars(), *conn.execute(UNASKED).scalars()}
    if found:
        bookkeeping.unsettle(conn, found)
    return len(found)
