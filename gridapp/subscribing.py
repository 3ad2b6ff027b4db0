"""Subscriptions asked for, decided, changed and ended by hand, for every face."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from agents.runtime.agent import Context
from catalogs import discovery, holdings, replicas, sites
from catalogs.bookkeeping import BlockRow, DatasetRow
from catalogs.sites import StorageElement
from datamgmt.links import linkstates
from datamgmt.previews import preview
from datamgmt.subscription_states import SubscriptionState
from datamgmt.subscriptions import asking, store
from datamgmt.subscriptions.asking import Order
from datamgmt.subscriptions.store import SubscriptionRow
from gridapp import quotas
from gridapp.insights import previews
from gridapp.insights.values import not_found
from gridapp.naming import dataset, element, site_of, words
from gridcore import identity
from gridcore.errors import InvalidTransition, NotFound, UsageError
from gridcore.identity import Action, Principal, Subject

#: Characters of a comment and of an ask id.
COMMENT_MAX, ASK_ID_MAX = 500, 36


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """How something is to be had at a storage element; see `datamgmt.subscriptions.asking.Order`. `ask`
    leaves the decision to others even where the asker could decide; `source` is the one SE a move is from."""

    custodial: bool = False
    priority: int = 0
    move: bool = False
    source: StorageElement | None = None
    static: bool = False
    since: datetime | None = None
    until: datetime | None = None
    group: str | None = None
    comment: str | None = None
    ask: bool = False
    ask_id: str | None = None


@dataclass(frozen=True, slots=True)
class _Named:
    """What is asked for, where, and at which site that is."""

    dataset: DatasetRow
    block: BlockRow | None
    se: StorageElement
    site: str

    @property
    def subject(self) -> str:
        """As people write it."""
        return self.dataset.name if self.block is None else self.block.name


PLAIN = Terms()


def subscribe(
    context: Context,
    subject: str,
    se: str,
    actor: Principal,
    terms: Terms = PLAIN,
    *,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Have a dataset, or one block of it, at an SE: {"subscription", "dataset", "se", "state", "new",
    "files", "bytes", "ask_id"}.

    Without the right to decide there it is ASKED. With `dry_run` nothing is written, the subscription of a
    new one is None and `preview` says what it would take. Raises NotFound, Denied, Conflict, UsageError.
    """
    terms = _checked(terms)
    with context.database.snapshot() as conn:
        named = _named(conn, subject, se)
        _check_move(conn, named, terms)
        old = store.between(conn, named.dataset.id, named.se.id, named.block.id if named.block else 0)
    paying = _group(actor, terms.group)
    identity.require(actor, Action.SUBSCRIBE, Subject(owner=actor.name, group=paying, site=named.site))
    decided_by = None if terms.ask or not _decides(actor, named.site, paying) else actor.name
    order = _order(named, actor, paying, terms)
    amount = named.block or named.dataset
    found = {
        "subscription": None if old is None else old.id,
        "dataset": named.subject,
        "se": se,
        "state": None if old is None else old.state.value,
        "new": old is None,
        "files": amount.files,
        "bytes": amount.bytes,
    }
    if dry_run:
        return {**found, "asked": decided_by is None, "preview": _preview(context, order)}
    key, now = context.keys.one("subscription"), context.clock.now()

    def unit(conn: Connection) -> SubscriptionRow:
        return store.one(conn, asking.subscribe(conn, key, order, now, decided_by))

    made = context.database.transaction(unit)
    return {**found, "subscription": made.id, "state": made.state.value, "ask_id": made.ask_id}


def _checked(terms: Terms) -> Terms:
    """With words that can be kept. Raises UsageError."""
    ask_id = words(terms.ask_id, "ask id", ASK_ID_MAX)
    if ask_id is not None and ask_id.isdecimal():
        raise UsageError(f"the ask id {ask_id} is a number, as those of subscriptions", hint="add a letter")
    return replace(terms, comment=words(terms.comment, "comment", COMMENT_MAX), ask_id=ask_id)


def _order(named: _Named, actor: Principal, paying: str, terms: Terms) -> Order:
    return Order(
        dataset_id=named.dataset.id,
        se_id=named.se.id,
        requester=actor.name,
        group=paying,
        block_id=named.block.id if named.block else 0,
        custodial=terms.custodial,
        priority=terms.priority,
        move=terms.move,
        move_from=terms.source.id if terms.source else None,
        static=terms.static,
        fill_after=terms.since,
        suspended_until=terms.until,
        comments=terms.comment,
        ask_id=terms.ask_id or str(uuid.uuid4()),
    )


def _preview(context: Context, order: Order) -> dict[str, Any]:
    subject = preview.Subject(order.dataset_id, order.block_id, order.fill_after)
    policies, now = linkstates.policies(context.settings), context.clock.now()
    with context.database.snapshot() as conn:
        if order.move:
            left = [] if order.move_from is None else [order.move_from]
            found = preview.move(conn, subject, left, order.se_id, now, policies, group=order.group)
        else:
            found = preview.delivery(conn, subject, [order.se_id], now, policies, group=order.group)
        names = {one.id: one.name for one in sites.storage_elements(conn)}
    return previews.preview(found, names)


def _check_move(conn: Connection, named: _Named, terms: Terms) -> None:
    """A move to where all there is of it lies, and nowhere else, moves nothing."""
    if not terms.move:
        return
    if named.block is None:
        held = {one.se_id for one in holdings.of_dataset(conn, named.dataset.id)}
    else:
        copies = replicas.complete_replicas(conn, [named.block.id]).get(named.block.id, [])
        held = {one.se_id for one in copies}
    if held == {named.se.id}:
        raise UsageError(
            f"{named.subject} is at {named.se.name} and nowhere else: there is nothing to move",
            hint="subscribe it elsewhere, or without --move",
        )


# --- decided -----------------------------------------------------------------------------------------


def decide(
    context: Context, what: str, actor: Principal, *, approved: bool, comment: str | None = None
) -> list[dict[str, Any]]:
    """Say yes or no to a subscription that is ASKED, or to those of an ask id where the actor may:
    [{"subscription", "dataset", "se", "state", "changed"}]. Raises NotFound, Denied."""
    comment = words(comment, "comment", COMMENT_MAX)
    with context.database.snapshot() as conn:
        asked = _asked(conn, what)
        places = {one.id: site_of(conn, element(conn, one.se)) for one in asked}
    mine = [one for one in asked if _decides(actor, places[one.id], one.group)]
    if not mine:
        subject = Subject(group=asked[0].group, site=places[asked[0].id])
        identity.require(actor, Action.SUBSCRIPTION_DECIDE, subject)
    now = context.clock.now()

    def unit(conn: Connection) -> dict[int, bool]:
        return {
            one.id: asking.decide(conn, one.id, actor.name, now, approved=approved, note=comment)
            for one in sorted(mine, key=lambda one: (one.dataset_id, one.id))
        }

    changed = context.database.transaction(unit)
    return [_after(context, one.id, changed=changed[one.id]) for one in mine]


def _asked(conn: Connection, what: str) -> list[SubscriptionRow]:
    if what.isdecimal() and len(what) < 19:
        return [store.one(conn, int(what))]
    found = store.of_ask(conn, what)
    if not found:
        raise NotFound(
            f"nothing was asked for as {what}", hint="see: tierflow subscription list --state ASKED"
        )
    return found


def _decides(actor: Principal, site: str, group: str) -> bool:
    """Whether the actor decides what comes to the site; that something is one's own does not count."""
    return identity.may(actor, Action.SUBSCRIPTION_DECIDE, Subject(group=group, site=site))


# --- changed and ended -------------------------------------------------------------------------------

#: What one may do to a subscription, and the states it is in once that is done.
CHANGES = {
    "suspend": (store.suspend, (SubscriptionState.SUSPENDED,)),
    "resume": (store.resume, (SubscriptionState.ACTIVE, SubscriptionState.COMPLETE)),
    "remove": (store.unsubscribe, (SubscriptionState.REMOVED,)),
}


def change_subscription(
    context: Context, subscription_id: int, change: str, actor: Principal, **options: Any
) -> dict[str, Any]:
    """Suspend (`until` a moment), resume or remove a subscription: {"subscription", "dataset", "se", "state",
    "changed"}.

    What has arrived stays where it is. The same again changes nothing. Raises NotFound, Denied, UsageError,
    InvalidTransition.
    """
    _require(context, subscription_id, actor)
    now = context.clock.now()
    if options.get("until") is not None and options["until"] <= now:
        raise UsageError("the moment to go on is over", hint="give a later one, or none")

    act, so = CHANGES[change]

    def unit(conn: Connection) -> bool:
        return act(conn, subscription_id, actor.name, now, **options)

    after = _after(context, subscription_id, changed=context.database.transaction(unit))
    if not after["changed"] and after["state"] not in so:
        raise InvalidTransition(
            f"subscription {subscription_id} is {after['state']}: there is nothing to {change}",
            hint=f"see: tierflow subscription show {subscription_id}",
        )
    return after


def amend(
    context: Context, subscription_id: int, values: Mapping[str, Any], actor: Principal
) -> dict[str, Any]:
    """Give a subscription other terms: {"subscription", "dataset", "se", "state", "changed": [names]}.

    values: custodial, priority, move, static, since, comment, group, of which None leaves as it is. Raises
    NotFound, Denied, UsageError, Conflict for one that has ended.
    """
    row, site = _require(context, subscription_id, actor)
    given = {name: value for name, value in values.items() if value is not None}
    words(given.get("comment"), "comment", COMMENT_MAX)
    if not given:
        raise UsageError("nothing is to be changed", hint="such as --priority 5")
    asks_more = (
        given.get("custodial")
        or given.get("move")
        or given.get("static") is False
        or given.get("priority", row.priority) > row.priority
        or _reaches_further(row, given.get("since"))
    )
    # That something is one's own does not count where a quota takes more.
    paying = {row.group} if asks_more else set()
    if "group" in given:
        _check_group(context, given["group"])
        paying |= {row.group, given["group"]}
    for group in sorted(paying):
        identity.require(actor, Action.SUBSCRIPTION_DECIDE, Subject(group=group, site=site))
    columns = {"since": "fill_after", "comment": "comments", "group": "acct_group"}
    put = {columns.get(name, name): _as_column(value) for name, value in given.items()}
    now = context.clock.now()
    changed = context.database.transaction(
        lambda conn: asking.change(conn, subscription_id, put, actor.name, now)
    )
    return _after(context, subscription_id, changed=[_FACES.get(name, name) for name in changed])


def _reaches_further(row: SubscriptionRow, since: datetime | None) -> bool:
    return since is not None and row.fill_after is not None and since < row.fill_after


def _check_group(context: Context, group: str) -> None:
    """Raises NotFound where nobody's data could be of that group."""
    with context.database.snapshot() as conn:
        known = quotas.groups(conn)
    if group not in known:
        raise not_found("group", group, known, "tierflow share show")


_FACES = {
    "fill_after": "since",
    "comments": "comment",
    "acct_group": "group",
    "created_at": "newer blocks",
    "move_from_se_id": "from",
}


def _as_column(value: Any) -> Any:
    return int(value) if isinstance(value, bool) else value


def _require(context: Context, subscription_id: int, actor: Principal) -> tuple[SubscriptionRow, str]:
    """The subscription and its site, if the actor may change it. Raises NotFound, Denied."""
    with context.database.snapshot() as conn:
        row = store.one(conn, subscription_id)
        site = site_of(conn, element(conn, row.se))
    subject = Subject(owner=row.requester, group=row.group, site=site)
    identity.require(actor, Action.SUBSCRIPTION_DECIDE, subject)
    return row, site


def _after(context: Context, subscription_id: int, *, changed: Any) -> dict[str, Any]:
    with context.database.snapshot() as conn:
        row = store.one(conn, subscription_id)
    return {
        "subscription": row.id,
        "dataset": row.block or row.dataset,
        "se": row.se,
        "state": row.state.value,
        "changed": changed,
    }


# --- names -------------------------------------------------------------------------------------------


def _named(conn: Connection, subject: str, se: str) -> _Named:
    """Raises NotFound with near names."""
    name, sign, _ = subject.partition("#")
    whole, target = dataset(conn, name), element(conn, se)
    block = discovery.block_show(conn, subject).block if sign else None
    return _Named(whole, block, target, site_of(conn, target))


def _group(actor: Principal, group: str | None) -> str:
    """The group a subscription is for: the one named, else the actor's first, else the actor alone."""
    if group is None:
        return min(actor.groups, default=actor.name)
    if group not in actor.groups:
        mine = ", ".join(sorted(actor.groups)) or "none"
        raise UsageError(f"{actor.name} is not in the group {group!r}", hint=f"groups: {mine}")
    return group
