"""What people change by hand, for every face: subscriptions made and ended, links switched on and off."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection

from agents.runtime.agent import Context
from catalogs import bookkeeping, sites
from catalogs.bookkeeping import DatasetRow
from catalogs.sites import StorageElement
from catalogs.states import Switch
from datamgmt import subscriptions
from gridapp.insights.values import not_found
from gridcore import audit, identity
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
        site = _site_of(conn, _element(conn, row.se))
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
    target = _element(conn, se)
    return wanted, target, _site_of(conn, target)


def _element(conn: Connection, name: str) -> StorageElement:
    known = sites.by_name(sites.storage_elements(conn))
    if name not in known:
        raise not_found("storage element", name, known, "tierflow site list")
    return known[name]


def _site_of(conn: Connection, element: StorageElement) -> str:
    return next(one.name for one in sites.sites(conn) if one.id == element.site_id)


def _group(actor: Principal, group: str | None) -> str:
    """The group a subscription is for: the one named, else the actor's first, else the actor alone."""
    if group is None:
        return min(actor.groups, default=actor.name)
    if group not in actor.groups:
        mine = ", ".join(sorted(actor.groups)) or "none"
        raise UsageError(f"{actor.name} is not in the group {group!r}", hint=f"groups: {mine}")
    return group


def switch_link(
    context: Context, src: str, dst: str, state: Switch, note: str | None, actor: Principal
) -> dict[str, Any]:
    """Let a link be used or not, audited: {"src", "dst", "state", "note"}. Raises NotFound, Denied."""
    with context.database.snapshot() as conn:
        ends = _element(conn, src), _element(conn, dst)
        found = [
            one for one in sites.links(conn) if (one.src_se_id, one.dst_se_id) == (ends[0].id, ends[1].id)
        ]
        places = [_site_of(conn, end) for end in ends]
    if not found:
        raise NotFound(f"there is no link {src} -> {dst}", hint="see: tierflow link list")
    if not any(identity.may(actor, Action.SITE_CONFIGURE, Subject(site=site)) for site in places):
        identity.require(actor, Action.SITE_CONFIGURE, Subject(site=places[0]))
    now = context.clock.now()

    def unit(conn: Connection) -> None:
        sites.set_link_state(conn, found[0].id, state, note)
        verb = f"link {state.value.lower()}"
        audit.record(conn, actor.name, verb, f"link {src} -> {dst}", now, {"note": note})

    context.database.transaction(unit)
    return {"src": src, "dst": dst, "state": state.value, "note": note}
