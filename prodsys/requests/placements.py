"""Placements: where a request runs, chosen by the installation's policies or by hand, stored with the
reason."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import Connection, bindparam, delete, select, update

from catalogs import sites
from gridcore.db.statements import insert_rows
from prodsys.requests import assignments, policies
from prodsys.requests.policies import Choice, Facts, Targets
from prodsys.tables import endpoint, prodagent, request, request_agent, request_site
from prodsys.tasks.workflow import Request

ENDPOINT_SITES = select(endpoint.c.id, endpoint.c.site_id)
AGENT_KEYS = select(prodagent.c.id, prodagent.c.name)
FORGET_SITES = delete(request_site).where(request_site.c.request_id == bindparam("of_request"))
FORGET_AGENTS = delete(request_agent).where(request_agent.c.request_id == bindparam("of_request"))
SET_REASON = (
    update(request)
    .where(request.c.id == bindparam("of_request"))
    .values(code=bindparam("why"), params=bindparam("facts", type_=request.c.params.type))
)


def targets(conn: Connection) -> Targets:
    """The ProdAgents, site sets and sites that there are, with the names of their sites."""
    names = {one.id: one.name for one in sites.sites(conn)}
    places = {row.id: names[row.site_id] for row in conn.execute(ENDPOINT_SITES)}
    agents = {one.name: [places[key] for key in one.endpoints] for one in assignments.agents(conn)}
    sets = {one.name: [names[key] for key in one.sites] for one in assignments.site_sets(conn)}
    return Targets(agents=agents, site_sets=sets, sites=frozenset(names.values()))


def choose(
    conn: Connection,
    row: Any,
    assigned: Collection[str],
    actor: str,
    *,
    agents: Collection[str] = (),
    site_sets: Collection[str] = (),
) -> Choice:
    """What `actor` decides for a request's row by naming sites, agents or site sets; the policies where
    nothing is named. Raises UsageError."""
    known = targets(conn)
    if assigned or agents or site_sets:
        by = {"by": actor}
        return policies.choice(
            policies.BY_HAND, by, known, agents=agents, sites=assigned, site_sets=site_sets
        )
    rules = [policies.rule_of(one.name, one.rank, one.rule) for one in assignments.policies(conn)]
    facts = Facts(group=row.acct_group, requester=row.requester, name=row.name, priority=row.priority)
    return policies.decide(rules, facts, known)


def kept(document: Request, choice: Choice) -> Request:
    """The document with every step kept to the chosen sites. Raises UsageError for a step without any."""
    steps = []
    for step in document.step:
        left = policies.sites_left(choice, step.name, step.sites, step.sites_excluded)
        steps.append(step.model_copy(update={"sites": left}))
    return document.model_copy(update={"step": steps})


def store(conn: Connection, request_id: int, choice: Choice) -> None:
    """Remember where the request runs and why, instead of what was decided before."""
    for forget in (FORGET_SITES, FORGET_AGENTS):
        conn.execute(forget, {"of_request": request_id})
    known = sites.by_name(sites.sites(conn))
    places = [{"request_id": request_id, "site_id": known[name].id} for name in sorted(choice.sites or ())]
    insert_rows(conn, request_site, places)
    keys = {row.name: row.id for row in conn.execute(AGENT_KEYS)}
    served = [{"request_id": request_id, "agent_id": keys[name]} for name in choice.agents]
    insert_rows(conn, request_agent, served)
    conn.execute(SET_REASON, {"of_request": request_id, "why": choice.code, "facts": dict(choice.params)})
