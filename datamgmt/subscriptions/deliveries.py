"""Deliveries: place wishes become subscriptions, and carry their reason until all has arrived."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from sqlalchemy import Connection

from catalogs import bookkeeping, wishes
from catalogs.states import BlockState, DatasetState
from datamgmt.reasons import Reason
from datamgmt.subscription_states import SubscriptionState
from datamgmt.subscriptions.asking import Order, subscribe
from datamgmt.subscriptions.store import SubscriptionRow, between, one

#: Group of subscriptions that stem from wishes.
WISH_GROUP = "production"
#: Code of a wish that is refused because only whole datasets are placed.
NOT_A_DATASET = "NOT_A_DATASET"


def serve(
    conn: Connection, due: Iterable[wishes.Wish], keys: Iterable[int], now: datetime, again: datetime
) -> int:
    """Subscribe for place wishes, served once all is delivered and nothing more will come; how many ended.

    Until then a wish carries its subscription's reason and is looked at anew from `again` on. `keys`: a fresh
    one for each wish.
    """
    served: list[int] = []
    refused: list[wishes.Reason] = []
    waiting: list[wishes.Reason] = []
    for key, wish in zip(keys, due, strict=False):
        if wish.subject_kind != "dataset":
            refused.append((wish.id, NOT_A_DATASET, {}))
            continue
        row = _subscribed(conn, key, wish, now)
        if row is None:
            waiting.append((wish.id, Reason.NO_CLOSED_BLOCK, {}))
        elif row.state == SubscriptionState.REMOVED:
            refused.append((wish.id, Reason.UNSUBSCRIBED, {}))
        elif row.state == SubscriptionState.COMPLETE and _finished(conn, row.dataset_id):
            served.append(wish.id)
        else:
            waiting.append((wish.id, row.code or Reason.DELIVERING, dict(row.params)))
    wishes.explain(conn, waiting, now, again)
    return wishes.serve(conn, served, now) + wishes.refuse(conn, refused, now)


def _subscribed(conn: Connection, key: int, wish: wishes.Wish, now: datetime) -> SubscriptionRow | None:
    """The wish's subscription, made if need be; one a person ended after the wish was made stays ended."""
    found = bookkeeping.dataset_by_name(conn, wish.subject)
    if found is None:
        return None
    old = between(conn, found.id, wish.se_id)
    if old is not None and old.state == SubscriptionState.REMOVED and old.updated_at >= wish.created_at:
        return old
    by = wish.owner[:60]
    order = Order(
        dataset_id=found.id,
        se_id=wish.se_id,
        requester=by,
        group=WISH_GROUP,
        custodial=bool(wish.custodial),
    )
    return one(conn, subscribe(conn, key, order, now, decided_by=by))


def _finished(conn: Connection, dataset_id: int) -> bool:
    """Whether the dataset is closed with all its blocks: an open one may still grow."""
    row, blocks = bookkeeping.dataset_summary(conn, dataset_id)
    return row.state is DatasetState.CLOSED and not blocks[BlockState.OPEN]
