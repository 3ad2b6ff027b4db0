"""Breakers as the database holds them: kept up to date from outcomes, asked by claims."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, func, select, update

from catalogs.states import Switch
from catalogs.tables import site
from gridcore import audit
from gridcore.db.statements import insert_new, lock_rows
from gridcore.errors import NotFound
from prodsys.jobs import store
from prodsys.queue import breaker_states
from prodsys.queue.breaker_states import Breaker, BreakerCode, BreakerState, Ended, Facts, Key, Policy
from prodsys.settling import outcomes
from prodsys.settling.outcomes import Binned
from prodsys.settling.retries import ErrorClass, RetryRule
from prodsys.tables import breaker, endpoint, queue

BREAKERS = select(breaker).order_by(breaker.c.site_id, breaker.c.error_class)
AT_SITE = select(breaker).where(breaker.c.site_id == bindparam("at_site"), breaker.c.state != "CLOSED")
ON_SITES = (
    select(breaker, site.c.name.label("site"))
    .join(site, site.c.id == breaker.c.site_id)
    .order_by(site.c.name, breaker.c.error_class)
)
SLOTS = (
    select(endpoint.c.site_id, func.sum(endpoint.c.slots).label("slots"))
    .join(site, site.c.id == endpoint.c.site_id)
    .where(endpoint.c.state == Switch.ENABLED, site.c.state == Switch.ENABLED)
    .group_by(endpoint.c.site_id)
)
_THIS = (breaker.c.site_id == bindparam("at_site"), breaker.c.error_class == bindparam("of_class"))
CHANGE = (
    update(breaker)
    .where(*_THIS)
    .values(
        state=bindparam("to_state"),
        trips=bindparam("n_trips"),
        changed_at=bindparam("at", type_=breaker.c.changed_at.type),
        until=bindparam("till", type_=breaker.c.until.type),
        canaries=bindparam("n_sent"),
        params=bindparam("told", type_=breaker.c.params.type),
    )
)
SENT = (
    update(breaker)
    .where(breaker.c.site_id == bindparam("at_site"), breaker.c.state == "CANARY")
    .values(canaries=breaker.c.canaries + bindparam("n"))
)
SITE_NAMED = select(site.c.id).where(site.c.name == bindparam("of_name"))


def allowance(conn: Connection, site_id: int, now: datetime) -> int | None:
    """How many jobs the site may be sent: None for any number, 0 where it is banned, else canaries."""
    found = [_of_row(row).allowance for row in conn.execute(AT_SITE, {"at_site": site_id})]
    return min((n for n in found if n is not None), default=None)


def sent(conn: Connection, site_id: int, n: int, now: datetime) -> None:
    """The site was sent so many jobs, under the queue's lock."""
    conn.execute(SENT, {"at_site": site_id, "n": n})


def banned(conn: Connection) -> set[str]:
    """The names of the sites that are sent no work now."""
    return {one.site for one in standing(conn) if one.breaker.allowance == 0}


@dataclass(frozen=True, slots=True)
class Standing:
    """A breaker and the name of its site."""

    site: str
    breaker: Breaker

    @property
    def reason(self) -> str:
        """Why it is as it is, as a sentence."""
        return breaker_states.reason(self.breaker)


def standing(conn: Connection) -> list[Standing]:
    """All breakers that ever changed, by site and class."""
    return [Standing(row.site, _of_row(row)) for row in conn.execute(ON_SITES)]


def guarded(rules: Mapping[ErrorClass, RetryRule]) -> frozenset[str]:
    """The classes that are held against a site. Input that is nowhere is no site's fault."""
    blamed = {kind.value for kind, rule in rules.items() if rule.blame != "user"}
    return frozenset(blamed - {ErrorClass.INPUT_MISSING.value})


def due(
    conn: Connection, rules: Mapping[ErrorClass, RetryRule], now: datetime, policy: Policy
) -> list[Breaker]:
    """The breakers that change now, as they are to be."""
    stored = [_of_row(row) for row in conn.execute(BREAKERS)]
    live = [one.changed_at for one in stored if one.state != BreakerState.CLOSED]
    bins = outcomes.recent(conn, min([now - policy.window, *live]))
    slots = {row.site_id: int(row.slots) for row in conn.execute(SLOTS)}
    kinds = guarded(rules)
    facts = _facts(stored, bins, kinds, now, policy)
    return breaker_states.decide(stored, facts, slots, kinds, now, policy)


def _facts(
    stored: Sequence[Breaker], bins: Iterable[Binned], kinds: frozenset[str], now: datetime, policy: Policy
) -> dict[Key, Facts]:
    known = {one.key: one for one in stored}
    at_site: dict[int, list[Binned]] = defaultdict(list)
    for one in bins:
        at_site[one.site_id].append(one)
    failing = {(one.site_id, one.error_class) for here in at_site.values() for one in here}
    keys = {key for key in failing if key[1] in kinds} | set(known)
    return {key: _fact(key, at_site[key[0]], known.get(key), now, policy) for key in keys}


def _fact(key: Key, bins: Sequence[Binned], old: Breaker | None, now: datetime, policy: Policy) -> Facts:
    begin = outcomes.bin_of(now - policy.window)
    window = _ended(bins, key[1], begin)
    since = window
    if old is not None:
        changed = outcomes.bin_of(old.changed_at)
        since = _ended(bins, key[1], changed) - old.before
        window = since if changed >= begin else window
    return Facts(window, since, _ended(bins, key[1], outcomes.bin_of(now)))


def _ended(bins: Iterable[Binned], kind: str, begin: datetime) -> Ended:
    mine = [one for one in bins if one.bin >= begin]
    return Ended(
        sum(one.jobs for one in mine),
        sum(one.jobs for one in mine if one.error_class == kind),
        sum(one.jobs for one in mine if one.error_class == outcomes.OK),
    )


def update_all(
    conn: Connection, rules: Mapping[ErrorClass, RetryRule], now: datetime, policy: Policy
) -> list[Breaker]:
    """Change the breakers that are due to, under the queue's lock: no claim counts canaries meanwhile."""
    lock_rows(conn, queue, [store.QUEUE])
    changed = due(conn, rules, now, policy)
    for one in changed:
        _write(conn, one)
    return changed


def reset(conn: Connection, site_name: str, kind: ErrorClass, actor: str, now: datetime) -> bool:
    """Close a breaker and forget its trips, audited; False where it is closed and clear already.

    Raises NotFound for a site or a breaker there is not.
    """
    lock_rows(conn, queue, [store.QUEUE])
    site_id = conn.execute(SITE_NAMED, {"of_name": site_name}).scalar_one_or_none()
    if site_id is None:
        raise NotFound(f"there is no site {site_name}", hint="see: tierflow breaker list")
    stored = {one.key: one for one in map(_of_row, conn.execute(BREAKERS))}
    old = stored.get((site_id, kind.value))
    if old is None:
        raise NotFound(
            f"no breaker for {kind.value} was ever open at {site_name}", hint="see: tierflow breaker list"
        )
    if old.state == BreakerState.CLOSED and not old.trips:
        return False
    bins = [one for one in outcomes.recent(conn, now) if one.site_id == site_id]
    facts = Facts(bin=_ended(bins, kind.value, outcomes.bin_of(now)))
    shut = breaker_states.close(old, BreakerCode.RESET, now, facts)
    _write(conn, replace(shut, params={**shut.params, "by": actor}))
    detail = {"was": old.state.value, "trips": old.trips}
    audit.record(conn, actor, "breaker reset", f"site {site_name} {kind.value}", now, detail)
    return True


def _write(conn: Connection, one: Breaker) -> None:
    values = {
        "state": one.state.value,
        "trips": one.trips,
        "changed_at": one.changed_at,
        "until": one.until,
        "canaries": one.canaries,
        "params": dict(one.params),
    }
    binds = {
        "at_site": one.site_id,
        "of_class": one.error_class,
        "to_state": one.state.value,
        "n_trips": one.trips,
        "at": one.changed_at,
        "till": one.until,
        "n_sent": one.canaries,
        "told": values["params"],
    }
    if not conn.execute(CHANGE, binds).rowcount:
        insert_new(conn, breaker, {"site_id": one.site_id, "error_class": one.error_class, **values})


def _of_row(row: Any) -> Breaker:
    return Breaker(
        site_id=row.site_id,
        error_class=row.error_class,
        state=BreakerState(row.state),
        trips=row.trips,
        changed_at=row.changed_at,
        until=row.until,
        canaries=row.canaries,
        params=row.params or {},
    )
