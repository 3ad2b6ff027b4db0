"""Why a READY job has not started: site by site and predicate by predicate, its place in the queue, and the
smallest change that would let it run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Integer, bindparam, func, or_, select

from catalogs.tables import site
from gridapp.insights import places
from gridapp.insights.places import InTheWay, Obstacle, Ways
from gridapp.insights.values import iso, some
from prodsys.job_states import JobState
from prodsys.queue import brokerage, classes
from prodsys.queue.brokerage import Refusal, Requirements, SiteFacts
from prodsys.requests import impossible
from prodsys.tables import class_site, in_state, job, job_class

#: Jobs ahead are counted up to this many.
COUNTED = 10_000
#: Sites told in sentences; all are in the evidence.
TOLD = 12

CLASS = select(job_class).where(job_class.c.id == bindparam("of_class"))
VERDICTS = (
    select(class_site, site.c.name.label("site"))
    .join_from(class_site, site, site.c.id == class_site.c.site_id)
    .where(class_site.c.class_id == bindparam("of_class"))
    .order_by(class_site.c.eligible.desc(), site.c.name)
)
_READY = in_state(job, JobState.READY)
_AHEAD = (
    select(job.c.id)
    .where(job.c.class_id == bindparam("of_class"), _READY, job.c.rank <= bindparam("own_rank"))
    .where(or_(job.c.rank < bindparam("own_rank"), job.c.id < bindparam("own_id")))
    .order_by(job.c.rank, job.c.id)
    .limit(bindparam("n", type_=Integer))
    .subquery("ahead")
)
AHEAD = select(func.count()).select_from(_AHEAD)
#: Other classes of its leaf that may run at the site too and whose first job comes before it.
CLASSES_AHEAD = (
    select(func.count())
    .select_from(job_class)
    .join(class_site, class_site.c.class_id == job_class.c.id)
    .where(
        job_class.c.leaf_id == bindparam("of_leaf"),
        job_class.c.id != bindparam("of_class"),
        job_class.c.ready > 0,
        job_class.c.head_rank < bindparam("own_rank"),
        class_site.c.site_id == bindparam("at_site"),
        class_site.c.eligible == 1,
    )
)
#: Where to look next, by what is in the way.
_NEXT = {
    Obstacle.BREAKER: "tierflow breaker list",
    Obstacle.CANARIES: "tierflow breaker list",
    Obstacle.NO_AGENT: "tierflow agent list",
    Obstacle.SILENT_AGENT: "tierflow agent list",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Here:
    """A site and the job: the stored verdict, what each endpoint offers, and what is in the way if it may."""

    row: Any
    offers: Mapping[int, SiteFacts]
    in_the_way: list[InTheWay]

    @property
    def name(self) -> str:
        return str(self.row.site)

    @property
    def eligible(self) -> bool:
        return bool(self.row.eligible)

    @property
    def open(self) -> bool:
        """Whether it may start there as soon as its turn comes."""
        return self.eligible and not self.in_the_way


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """What there is to tell of a READY job. `turn` is whose it is, `agent` the daemon to look at, `then` the
    next command."""

    because: list[str]
    evidence: dict[str, Any]
    turn: str
    agent: str | None = None
    then: str | None = None


def waiting(conn: Connection, row: Any, now: datetime) -> Waiting:
    """Why this READY job, as `gridapp.insights.jobs.job_row` reads it, has not started."""
    of_class = conn.execute(CLASS, {"of_class": row.class_id}).one()
    needs = classes.needs(conn, [of_class])[row.class_id]
    ways = Ways(conn, now)
    sites = _sites(conn, ways, of_class, needs, row.share_path)
    best = next((one for one in sorted(sites, key=_ease) if one.eligible), None)
    place, position = _position(conn, row, of_class.leaf_id, best)
    evidence = {**position, "share": row.share_path, "verdicts": [_evidence(one, needs) for one in sites]}
    if not sites:
        first = "the sites have not been judged for its class yet"
        return Waiting(because=[first, place], evidence=evidence, turn="the job_maker", agent="job_maker")
    lines = _lines(sites, needs, ways)
    if best is None:
        return _refused(conn, sites, needs, lines, evidence)
    evidence["to_run"] = _to_run(best, place)
    because = [f"waits in the queue: {place}", *lines, *_share(conn, best, row.share_path, now)]
    turn = best.in_the_way[-1].turn if best.in_the_way else "the prodagent"
    return Waiting(
        because=[*because, f"to run: {evidence['to_run']}"],
        evidence=evidence,
        turn=turn,
        agent="prodagent" if turn == "the prodagent" else None,
        then=_then(best),
    )


def _share(conn: Connection, best: Here, share: str, now: datetime) -> list[str]:
    """Where its share stands at a site, where that is what it waits for."""
    if any(one.what != Obstacle.SLOTS for one in best.in_the_way):
        return []
    return [places.turn_of(share, places.standings(conn, best.row.site_id, now))]


def _then(best: Here) -> str | None:
    hardest = best.in_the_way[-1].what if best.in_the_way else Obstacle.SLOTS
    if hardest == Obstacle.SLOTS:
        return f"tierflow match --dry-run --site {best.name}"
    return _NEXT.get(hardest)


def _sites(conn: Connection, ways: Ways, of_class: Any, needs: Requirements, share: str) -> list[Here]:
    facts = classes.site_facts(conn)
    found = []
    for row in conn.execute(VERDICTS, {"of_class": of_class.id}):
        offers = {key: one for key, one in facts.get(row.site_id, {}).items() if key}
        fit = [key for key, one in offers.items() if brokerage.judge(needs, one).eligible]
        told = ways.at(row.site_id, row.site, share, of_class.task_type, fit) if row.eligible else []
        found.append(Here(row=row, offers=offers, in_the_way=told))
    return sorted(found, key=lambda one: _nearness(one, needs), reverse=True)


def _nearness(one: Here, needs: Requirements) -> tuple[Any, ...]:
    """Sites that may run it come first, then those that nearly could."""
    near = [brokerage.nearness(needs, offer) for offer in one.offers.values()]
    return one.eligible, *max(near, default=(False, -len(Refusal), 0, 0.0))


def _position(conn: Connection, row: Any, leaf_id: int, best: Here | None) -> tuple[str, dict[str, Any]]:
    """Its place in words and figures: in its class, counted only so far, and among those of its share."""
    binds = {"of_class": row.class_id, "own_rank": row.rank, "own_id": row.id}
    ahead = conn.execute(AHEAD, {**binds, "n": COUNTED + 1}).scalar_one()
    binds = {"of_leaf": leaf_id, "of_class": row.class_id, "own_rank": row.rank}
    others = best and conn.execute(CLASSES_AHEAD, {**binds, "at_site": best.row.site_id}).scalar_one()
    told = f"{some(ahead, 'job')} of its class ahead of it" if ahead else "it is the first of its class"
    if ahead > COUNTED:
        told = f"more than {COUNTED:,} jobs of its class ahead of it"
    if others:
        told += f", and {others} other class{'es' if others > 1 else ''} of its share"
    return told, {"ahead": min(ahead, COUNTED), "ahead_more": ahead > COUNTED, "classes_ahead": others or 0}


# --- site by site ----------------------------------------------------------------------------------------


def _lines(sites: Sequence[Here], needs: Requirements, ways: Ways) -> list[str]:
    """A sentence for each site that runs jobs and that the task allows, the nearest first; of many some."""
    busy = [one for one in sites if one.offers]
    allowed = [one for one in busy if needs.sites is None or one.name in needs.sites or one.eligible]
    lines = [_line(one, ways) for one in allowed[:TOLD]]
    if len(allowed) > TOLD:
        codes = Counter(str(one.row.code) for one in allowed[TOLD:])
        told = ", ".join(f"{code} at {n}" for code, n in codes.most_common())
        lines.append(f"and {some(len(allowed) - TOLD, 'more site')}: {told}")
    if len(busy) > len(allowed):
        names = sorted(needs.sites or ())
        only = f"the task runs only at {', '.join(names[:TOLD]) or 'none'}"
        more = f" and {len(names) - TOLD} more" if len(names) > TOLD else ""
        lines.append(f"{only}{more}, not at {some(len(busy) - len(allowed), 'other site')}")
    idle = [one.name for one in sites if not one.offers]
    if idle:
        more = f" and {len(idle) - TOLD} more" if len(idle) > TOLD else ""
        lines.append(f"no endpoint to run jobs: {', '.join(idle[:TOLD])}{more}")
    return lines


def _line(one: Here, ways: Ways) -> str:
    says = brokerage.render(one.row.code, one.row.params or {})
    told = says if says.startswith(one.name) else f"{one.name}: {says}"
    if not one.eligible:
        return told
    hard = [way.says for way in one.in_the_way if way.what != Obstacle.SLOTS]
    if hard:
        return f"{told}, but {'; '.join(hard)}"
    full = [place for place in ways.places.get(one.row.site_id, ()) if place.endpoint_id in one.offers]
    return "; ".join([told, *(places.taken(place) for place in full)])


def _ease(one: Here) -> int:
    return list(Obstacle).index(one.in_the_way[-1].what) + 1 if one.in_the_way else 0


def _evidence(one: Here, needs: Requirements) -> dict[str, Any]:
    offer = brokerage.nearest(needs, one.offers.values()) if one.offers else None
    judged = brokerage.judge_all(needs, offer) if offer else []
    return {
        "site": one.name,
        "eligible": one.eligible,
        "open": one.open,
        "code": one.row.code,
        "says": brokerage.render(one.row.code, one.row.params or {}),
        "predicates": {str(each.code): "ok" if each.eligible else each.sentence for each in judged},
        "in_the_way": {str(way.what): way.says for way in one.in_the_way},
        "decided_at": iso(one.row.decided_at),
    }


# --- what would make it run ------------------------------------------------------------------------------


def _to_run(best: Here, place: str) -> str:
    if best.in_the_way:
        return "; ".join(way.cure for way in best.in_the_way)
    return f"nothing is in the way at {best.name}; it starts when its turn comes: {place}"


def _refused(
    conn: Connection, sites: Sequence[Here], needs: Requirements, lines: list[str], evidence: dict[str, Any]
) -> Waiting:
    ever = impossible.nowhere(conn, needs) is None
    evidence["to_run"] = cheapest(needs, [one.offers for one in sites])
    first = "no site can run it" if ever else "no site can ever run it with what they offer now"
    because = [first, *lines, *([f"to run: {evidence['to_run']}"] if evidence["to_run"] else [])]
    return Waiting(because=because, evidence=evidence, turn=_who_opens(sites, ever))


def cheapest(needs: Requirements, sites: Sequence[Mapping[int, SiteFacts]]) -> str:
    """What would have to change at the site that comes nearest; empty where one would run it. Pure."""
    offers = [one for here in sites for one in here.values()]
    if not offers:
        return "give a site an endpoint to run jobs"
    best = brokerage.nearest(needs, offers)
    missing = [one for one in brokerage.judge_all(needs, best) if not one.eligible]
    told = [f"{one.sentence}: {brokerage.cure(one.code, one.params, best.name)}" for one in missing]
    return "; and ".join(told)


def _who_opens(sites: Sequence[Here], ever: bool) -> str:
    codes = {one.row.code for one in sites}
    if not ever:
        return "whoever wrote the task's requirements, or an operator of the sites"
    if Refusal.INPUT_NOWHERE in codes:
        return "whoever produces or restores its input"
    if Refusal.INPUT_NOT_HERE in codes:
        return "whoever subscribes its input to a site that runs jobs"
    return "an operator of the sites, or whoever wrote the task's requirements"
