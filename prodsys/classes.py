"""Job classes and where they may run: static eligibility, kept with its reason and refreshed as sites and
replicas change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, delete, select

from catalogs.states import Switch
from catalogs.tables import block_replica, se, site
from gridcore.db.statements import insert_rows, lock_rows, select_in
from prodsys.brokerage import Requirements, SiteFacts, Verdict, fingerprint, judge
from prodsys.jobs import store
from prodsys.tables import class_site, endpoint, job_class, queue


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
VERDICTS = select(class_site).where(class_site.c.class_id.in_(bindparam("ids", expanding=True)))
FORGET = delete(class_site).where(
    class_site.c.class_id == bindparam("of_class"), class_site.c.site_id == bindparam("of_site")
)
ENDPOINTS = (
    select(
        site.c.id,
        site.c.name,
        site.c.state.label("site_state"),
        site.c.note,
        endpoint.c.state.label("endpoint_state"),
        endpoint.c.offer,
    )
    .select_from(site.outerjoin(endpoint, endpoint.c.site_id == site.c.id))
    .order_by(site.c.id)
)
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
    }


def site_facts(conn: Connection) -> dict[int, SiteFacts]:
    """What each site offers, by site key; a site without endpoint runs nothing."""
    ses: dict[int, set[str]] = {}
    for row in conn.execute(SES):
        ses.setdefault(row.site_id, set()).add(row.name)
    facts: dict[int, SiteFacts] = {}
    for offer in conn.execute(ENDPOINTS):
        facts[offer.id] = _facts(offer, frozenset(ses.get(offer.id, ())), facts.get(offer.id))
    return facts


def _facts(row: Any, ses: frozenset[str], other: SiteFacts | None) -> SiteFacts:
    """A site's facts from its row with one endpoint; of several endpoints the widest offer counts."""
    if other is not None and other.enabled:
        return other
    disabled = _why_disabled(row) or (None if ses else "it has no enabled storage element to write to")
    offer = row.offer or {}
    platforms = offer.get("platforms")
    return SiteFacts(
        name=row.name,
        ses=ses,
        cores_max=offer.get("cores_max"),
        memory_mb_per_core=offer.get("memory_mb_per_core"),
        wall_s_max=offer.get("wall_s_max"),
        platforms=None if platforms is None else frozenset(platforms),
        enabled=disabled is None,
        disabled_reason=disabled,
    )


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
        found[row.id] = Requirements(
            **{**needs, "sites_excluded": frozenset(needs["sites_excluded"])},
            sites=None if sites is None else frozenset(sites),
            input_ses=input_ses,
        )
    return found


def _complete_at(conn: Connection, rows: Iterable[Any]) -> dict[int, frozenset[str]]:
    blocks = {row.input_block_id for row in rows} - {None}
    found: dict[int, set[str]] = {}
    for block_id, name in select_in(conn, COMPLETE_AT, blocks):
        found.setdefault(block_id, set()).add(name)
    return {block_id: frozenset(names) for block_id, names in found.items()}


def judge_live(conn: Connection, class_ids: Iterable[int] | None = None) -> dict[tuple[int, int], Verdict]:
    """Verdicts by (class, site): of all classes with waiting jobs, or of the given ones."""
    rows = conn.execute(LIVE).all() if class_ids is None else select_in(conn, ALL_OF, class_ids)
    needs = requirements_of(rows, _complete_at(conn, rows))
    facts = site_facts(conn)
    return {
        (class_id, site_id): judge(requirements, offer)
        for class_id, requirements in needs.items()
        for site_id, offer in facts.items()
    }


def changed(conn: Connection, verdicts: Mapping[tuple[int, int], Verdict]) -> dict[tuple[int, int], Verdict]:
    """Those that differ from what is stored."""
    stored = {
        (row.class_id, row.site_id): (bool(row.eligible), row.code, row.params or {})
        for row in select_in(conn, VERDICTS, {class_id for class_id, _ in verdicts})
    }
    return {
        pair: verdict
        for pair, verdict in verdicts.items()
        if stored.get(pair) != (verdict.eligible, str(verdict.code), verdict.params)
    }


def store_verdicts(conn: Connection, verdicts: Mapping[tuple[int, int], Verdict], now: datetime) -> None:
    """Replace the stored verdicts by these."""
    for class_id, site_id in sorted(verdicts):
        conn.execute(FORGET, {"of_class": class_id, "of_site": site_id})
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
