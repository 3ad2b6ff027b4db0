"""Subscriptions made and ended by hand, for every face."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection

from agents.runtime.agent import Context
from catalogs import bookkeeping
from catalogs.bookkeeping import DatasetRow
from catalogs.sites import StorageElement
from datamgmt import subscriptions
from gridapp.naming import element, site_of
from gridcore import identity
from gridcore.errors import NotFound, UsageError
from gridcore.identity import Action, Principal, Subject


def subscribe(
    context: Context,
    dataset: str,
    se: str,
    actor: Principal,
    *,
    custodial: bool = False,
    priority: int = 0,
    group: str | None = None,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Have a dataset at an SE: {"subscription", "dataset", "se", "new", "files", "bytes"}.

    With `dry_run` nothing is written and the subscription of a new one is None; files and bytes are what the
    dataset holds now. Raises NotFound, Denied, UsageError for a group that is not the actor's.
    """
    with context.database.snapshot() as conn:
        wanted, target, site = _named(conn, dataset, se)
        old = {(one.dataset, one.se): one for one in subscriptions.subscriptions(conn)}.get((dataset, se))
    paying = _group(actor, group)
    identity.require(actor, Action.SUBSCRIBE, Subject(owner=actor.name, group=paying, site=site))
    found = None if old is None else old.id
    if not dry_run:
        key, now = context.keys.one("subscription"), context.clock.now()
        found = context.database.transaction(
            lambda conn: subscriptions.subscribe(
                conn, key, wanted.id, target.id, custodial, priority, actor.name, paying, now
            )
        )
    names = {"dataset": dataset, "se": se, "new": old is None}
    return {"subscription": found, **names, "files": wanted.files, "bytes": wanted.bytes}


#: What one may do to a subscription.
CHANGES = {
    "suspend": subscriptions.suspend,
    "resume": subscriptions.resume,
    "remove": subscriptions.unsubscribe,
}


def change_subscription(
    context: Context, subscription_id: int, change: str, actor: Principal
) -> dict[str, Any]:
    """Suspend, resume or remove a subscription: {"subscription", "dataset", "se", "state", "changed"}.

    What has arrived stays where it is. Raises NotFound, Denied.
    """
    with context.database.snapshot() as conn:
        row = subscriptions.one(conn, subscription_id)
        site = site_of(conn, element(conn, row.se))
    subject = Subject(owner=row.requester, group=row.group, site=site)
    identity.require(actor, Action.SUBSCRIPTION_DECIDE, subject)
    now = context.clock.now()

    def unit(conn: Connection) -> bool:
        return CHANGES[change](conn, subscription_id, actor.name, now)

    changed = context.database.transaction(unit)
    with context.database.snapshot() as conn:
        state = subscriptions.one(conn, subscription_id).state
    return {
        "subscription": subscription_id,
        "dataset": row.dataset,
        "se": row.se,
        "state": state.value,
        "changed": changed,
    }


def _named(conn: Connection, dataset: str, se: str) -> tuple[DatasetRow, StorageElement, str]:
    """The dataset, the storage element and its site's name. Raises NotFound."""
    wanted = bookkeeping.dataset_by_name(conn, dataset)
    if wanted is None:
        raise NotFound(f"there is no dataset {dataset}", hint="see: tierflow dataset list")
    target = element(conn, se)
    return wanted, target, site_of(conn, target)


def _group(actor: Principal, group: str | None) -> str:
    """The group a subscription is for: the one named, else the actor's first, else the actor alone."""
    if group is None:
        return min(actor.groups, default=actor.name)
    if group not in actor.groups:
        mine = ", ".join(sorted(actor.groups)) or "none"
        raise UsageError(f"{actor.name} is not in the group {group!r}", hint=f"groups: {mine}")
    return group
