"""Job classes and where they may run: static eligibility, kept with its reason and refreshed as sites and
replicas change.

A class may run at a site if any of its enabled endpoints offers enough. A claim is for one endpoint: where a
site has several, whoever claims leaves out the classes that `refused_at` names.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, delete, func, select

from catalogs.states import Switch
from catalogs.tables import block_replica, se, site
from gridcore.db.statements import chunks, insert_rows, lock_rows, select_in
from prodsys.jobs import store
from prodsys.queue.brokerage import (
    Requirements,
    SiteFacts,
    Verdict,
    fingerprint,
    judge,
    judge_any,
    named_since,
)
from prodsys.tables import class_site, endpoint, job_class, queue

Verdicts = dict[tuple[int, int], Verdict]
#: Verdicts written in one transaction.
SLICE = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassSpec:
    """What makes a class: jobs that share all of this wait in one line.

    `input_block_id`: where the block is complete decides where they run. `input_se`: they run beside this SE.
    """

    task_type: str
    leaf_id: int
    requirements: Requirements
    input_block_id: int | None = None
    input_se: str | None = None

    @property
    def fingerprint(self) -> str:
        """The class's name."""
        input_set = self.input_se or self.input_block_id
        return fingerprint(self.task_type, self.leaf_id, self.requirements, input_set)


BY_FINGERPRINT = select(job_class.c.id).where(job_class.c.fingerprint == bindparam("print"))
LIVE = select(job_class).where(job_class.c.ready > 0)
ALL_OF = select(job_class).where(job_class.c.id.in_(bindparam("ids", expanding=True)))
VERDICTS = select(
    *(class_site.c[name] for name in ("class_id", "site_id", "eligible", "code", "params"))
).where(
    class_site.c.class_id.in_(bindparam("ids", expanding=True)),
    class_site.c.site_id.in_(bindparam("at_sites", expanding=True)),
)
FORGET = delete(class_site).where(
    class_site.c.class_id == bindparam("of_class"),
    class_site.c.site_id.in_(bindparam("ids", expanding=True)),
)
ENDPOINTS = (
    select(
        site.c.id,
        site.c.name,
        site.c.state.label("site_state"),
        site.c.note,
        endpoint.c.id.label("endpoint_id"),
        endpoint.c.state.label("endpoint_state"),
        endpoint.c.offer,
    )
    .select_from(site.outerjoin(endpoint, endpoint.c.site_id == site.c.id))
    .order_by(site.c.id, endpoint.c.id)
)
ENDPOINTS_AT = select(func.count()).select_from(endpoint).where(endpoint.c.site_id == bindparam("at_site"))
SES = select(se.c.site_id, se.c.name).where(se.c.state == Switch.ENABLED)
COMPLETE_AT = (
    select(block_replica.c.block_id, se.c.name)
    .join(se, se.c.id == block_replica.c.se_id)
    .where(
        block_replica.c.state == "COMPLETE", block_replica.c.block_id.in_(bindparam("ids", expanding=True))
    )
)


def put(conn: Connection, new_id: int, spec: ClassSpec) -> int:
    """The key of the class, made if it is new; makers of classes take turns."""
    lock_rows(conn, queue, [store.QUEUE])
    found = conn.execute(BY_FINGERPRINT, {"print": spec.fingerprint}).scalar_one_or_none()
    if found is not None:
        return int(found)
    row = {
        "id": new_id,
        "fingerprint": spec.fingerprint,
        "leaf_id": spec.leaf_id,
        "task_type": spec.task_type,
        "requirements": _document(spec),
        "cores": spec.requirements.cores,
        "input_block_id": spec.input_block_id,
    }
    insert_rows(conn, job_class, [row])
    return new_id


def _document(spec: ClassSpec) -> dict[str, Any]:
    needs = spec.requirements
    return {
        "cores": needs.cores,
        "memory_mb": needs.memory_mb,
        "wall_s": needs.wall_s,
        "platform": needs.platform,
        "sites": None if needs.sites is None else sorted(needs.sites),
        "sites_excluded": sorted(needs.sites_excluded),
        "input_se": spec.input_se,
        **named_since(needs),  # agents of the first release read documents without these
    }


def site_facts(conn: Connection) -> dict[int, dict[int, SiteFacts]]:
    """What each site offers, by site key and endpoint key; a site without endpoint has one offer, disabled,
    with key 0."""
    ses: dict[int, set[str]] = {}
    for row in conn.execute(SES):
        ses.setdefault(row.site_id, set()).add(row.name)
    facts: dict[int, dict[int, SiteFacts]] = {}
    for offer in conn.execute(ENDPOINTS):
        here = facts.setdefault(offer.id, {})
        here[offer.endpoint_id or 0] = _facts(offer, frozenset(ses.get(offer.id, ())))
    return facts


def _facts(row: Any, ses: frozenset[str]) -> SiteFacts:
    """What a site offers at one of its endpoints; keys of an offer this release does not know are left."""
    disabled = _why_disabled(row) or (None if ses else "it has no enabled storage element to write to")
    offer = row.offer or {}
    limits = {name: offer.get(name) for name in ("cores_max", "memory_mb_per_core", "wall_s_max", "disk_mb")}
    return SiteFacts(
        name=row.name,
        ses=ses,
        **limits,
        platforms=_names(offer.get("platforms")),
        tags=_names(offer.get("tags")),
        gpus=offer.get("gpus") or 0,
        outbound=offer.get("outbound"),
        enabled=disabled is None,
        disabled_reason=disabled,
    )


def _names(declared: Iterable[str] | None) -> frozenset[str] | None:
    return None if declared is None else frozenset(declared)


def _why_disabled(row: Any) -> str | None:
    if row.site_state != Switch.ENABLED:
        return row.note or "switched off by an operator"
    if row.endpoint_state is None:
        return "it has no endpoint to run jobs"
    if row.endpoint_state != Switch.ENABLED:
        return "its endpoint is switched off"
    return None


def requirements_of(
    rows: Sequence[Any], ses_by_block: Mapping[int, frozenset[str]]
) -> dict[int, Requirements]:
    """The requirements of class rows, with the SEs that hold their input now."""
    found = {}
    for row in rows:
        needs = dict(row.requirements)
        input_se = needs.pop("input_se", None)
        input_ses: frozenset[str] | None = frozenset([input_se]) if input_se else None
        if row.input_block_id is not None:
            input_ses = ses_by_block.get(row.input_block_id, frozenset())
        sites = needs.pop("sites")
        excluded, tags = needs.pop("sites_excluded"), needs.pop("tags", ())
        found[row.id] = Requirements(
            **needs,
            sites_excluded=frozenset(excluded),
            tags=frozenset(tags),
            sites=None if sites is None else frozenset(sites),
            input_ses=input_ses,
        )
    return found


def needs(conn: Connection, rows: Sequence[Any]) -> dict[int, Requirements]:
    """The requirements of class rows by key, with the SEs that hold their input complete now."""
    return requirements_of(rows, _complete_at(conn, rows))


def _complete_at(conn: Connection, rows: Iterable[Any]) -> dict[int, frozenset[str]]:
    blocks = {row.input_block_id for row in rows} - {None}
    found: dict[int, set[str]] = {}
    for block_id, name in select_in(conn, COMPLETE_AT, blocks):
        found.setdefault(block_id, set()).add(name)
    return {block_id: frozenset(names) for block_id, names in found.items()}


def _judged(needs: Mapping[int, Requirements], offers: Mapping[int, Sequence[SiteFacts]]) -> Verdicts:
    """By class and site; classes that need the same are judged once."""
    once: dict[Requirements, dict[int, Verdict]] = {}
    for requirements in needs.values():
        if requirements not in once:
            once[requirements] = {site_id: judge_any(requirements, here) for site_id, here in offers.items()}
    return {
        (class_id, site_id): verdict
        for class_id, requirements in needs.items()
        for site_id, verdict in once[requirements].items()
    }


def _offers(facts: Mapping[int, Mapping[int, SiteFacts]]) -> dict[int, tuple[SiteFacts, ...]]:
    """What a site's enabled endpoints offer, by site key; the first endpoint where none is enabled."""
    return {
        site_id: tuple(one for one in here.values() if one.enabled) or (next(iter(here.values())),)
        for site_id, here in facts.items()
    }


class Watch:
    """Verdicts as they change: what was judged before is judged again only when its input changed, and at the
    sites that changed.

    Held by the one that writes verdicts. It believes what was written; every `EVERY`-th pass, and when its
    lease's fence is another, it looks at everything anew.
    """

    EVERY = 200

    def __init__(self) -> None:
        #: By class what it needed, and the pass after which it is judged for all sites.
        self._seen: dict[int, tuple[Requirements, int]] = {}
        self._told: dict[int, tuple[Requirements, int]] = {}
        self._offers: dict[int, tuple[SiteFacts, ...]] = {}
        #: By site the pass that found it changed.
        self._changed: dict[int, int] = {}
        self._passes = 0
        self._fence: int | None = None

    def news(self, conn: Connection, fence: int) -> Verdicts:
        """The verdicts on classes with waiting jobs that differ from what is stored: write them, then say
        `wrote`. What was not written is told again."""
        self._passes += 1
        if fence != self._fence or self._passes % self.EVERY == 0:
            self._seen.clear()
            self._fence = fence
        rows = conn.execute(LIVE).all()
        asked, offers = needs(conn, rows), _offers(site_facts(conn))
        for site_id in offers.keys() | self._offers.keys():
            if offers.get(site_id) != self._offers.get(site_id):
                self._changed[site_id] = self._passes
        self._offers = offers
        due: Verdicts = {}
        for classes_, sites in self._due(asked).items():
            due |= _judged({key: asked[key] for key in classes_}, {key: offers[key] for key in sites})
        found = changed(conn, due)
        self._told = {key: (one, self._passes) for key, one in asked.items()}
        if not found:
            self.wrote()
        return found

    def _due(self, asked: Mapping[int, Requirements]) -> dict[Iterable[int], frozenset[int]]:
        """Classes to be judged, and at which sites."""
        due: dict[frozenset[int], list[int]] = {}
        for key, requirements in asked.items():
            seen = self._seen.get(key)
            since = seen[1] if seen and seen[0] == requirements else 0
            sites = frozenset(site for site in self._offers if self._changed[site] > since)
            if sites:
                due.setdefault(sites, []).append(key)
        return {tuple(keys): sites for sites, keys in due.items()}

    def wrote(self) -> None:
        """The news are stored."""
        self._seen.update(self._told)


def changed(conn: Connection, verdicts: Verdicts) -> Verdicts:
    """Those that differ from what is stored."""
    at_sites = sorted({site_id for _, site_id in verdicts})
    rows = select_in(conn, VERDICTS, {class_id for class_id, _ in verdicts}, {"at_sites": at_sites})
    stored = {
        (class_id, site_id): (bool(eligible), code, params or {})
        for class_id, site_id, eligible, code, params in rows
    }
    return {
        pair: verdict
        for pair, verdict in verdicts.items()
        if stored.get(pair) != (verdict.eligible, str(verdict.code), verdict.params)
    }


def store_verdicts(conn: Connection, verdicts: Verdicts, now: datetime) -> None:
    """Replace the stored verdicts by these."""
    by_class: dict[int, list[int]] = {}
    for class_id, site_id in sorted(verdicts):
        by_class.setdefault(class_id, []).append(site_id)
    for class_id, site_ids in by_class.items():
        for chunk in chunks(site_ids):
            conn.execute(FORGET, {"of_class": class_id, "ids": chunk})
    rows = [
        {
            "class_id": class_id,
            "site_id": site_id,
            "eligible": int(verdict.eligible),
            "code": str(verdict.code),
            "params": verdict.params,
            "decided_at": now,
        }
        for (class_id, site_id), verdict in sorted(verdicts.items())
    ]
    insert_rows(conn, class_site, rows)


def slices(verdicts: Verdicts, size: int = SLICE) -> Iterator[Verdicts]:
    """The verdicts in parts of at most `size`, for one transaction each."""
    for part in chunks(sorted(verdicts), size):
        yield {pair: verdicts[pair] for pair in part}


# --- one endpoint ---------------------------------------------------------------------------------------


def refused_at(
    conn: Connection, site_id: int, endpoint_id: int, class_ids: Collection[int]
) -> dict[int, Verdict]:
    """Those of the classes that this endpoint cannot run although its site may, with the refusal.

    Empty, for the price of one small read, at the only endpoint of a site: there the stored verdicts hold.
    """
    if conn.execute(ENDPOINTS_AT, {"at_site": site_id}).scalar_one() < 2:
        return {}
    here = site_facts(conn)[site_id][endpoint_id]
    rows = select_in(conn, ALL_OF, class_ids)
    asked = needs(conn, rows)
    verdicts = {key: judge(one, here) for key, one in asked.items()}
    return {key: verdict for key, verdict in verdicts.items() if not verdict.eligible}
