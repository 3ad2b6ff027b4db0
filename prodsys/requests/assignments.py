"""Whom requests may be assigned to: named ProdAgents with their endpoints, site sets, and the policies that
choose between them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, Delete, Select, Table, bindparam, delete, func, select, update

from gridcore.db.statements import insert_rows, lock_rows
from gridcore.errors import Conflict, NotFound
from prodsys.states import REQUEST_ENDED, RequestState
from prodsys.tables import (
    agent_endpoint,
    policy,
    prodagent,
    request,
    request_agent,
    site_set,
    site_set_member,
)

#: The lists of names in a policy's rule that lead to something else of the topology.
Named = Literal["groups", "agents", "sites", "site_sets"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """A named ProdAgent; `endpoints` are the keys of those it serves."""

    id: int
    name: str
    endpoints: frozenset[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteSet:
    """Sites under one name; `sites` are their keys."""

    id: int
    name: str
    sites: frozenset[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Who gets which requests: of those that fit, the one of the lowest rank decides.

    `rule` is {"groups", "requesters", "names", "min_priority", "max_priority", "agents", "sites",
    "site_sets"}: what a request must be, None for any, and whom it is assigned to.
    """

    id: int
    name: str
    rank: int
    rule: Mapping[str, Any]


AGENTS = select(prodagent).order_by(prodagent.c.name)
AGENT_NAMED = select(prodagent.c.id).where(prodagent.c.name == bindparam("of_name"))
AGENT_ENDPOINTS = select(agent_endpoint)
LEAVE_AGENT = delete(agent_endpoint).where(agent_endpoint.c.agent_id == bindparam("row_id"))
LEAVE_ENDPOINT = delete(agent_endpoint).where(agent_endpoint.c.endpoint_id == bindparam("row_id"))
REMOVE_AGENT = delete(prodagent).where(prodagent.c.id == bindparam("row_id"))
#: Requests that will run nothing more, whatever is done to their tasks.
OVER = REQUEST_ENDED - {RequestState.INCOMPLETE}
REQUESTS_OF_AGENT = (
    select(func.count())
    .select_from(request_agent)
    .join(request, request.c.id == request_agent.c.request_id)
    .where(request_agent.c.agent_id == bindparam("row_id"), request.c.state.not_in(sorted(OVER)))
)
FORGET_REQUESTS = delete(request_agent).where(request_agent.c.agent_id == bindparam("row_id"))

SITE_SETS = select(site_set).order_by(site_set.c.name)
SITE_SET_NAMED = select(site_set.c.id).where(site_set.c.name == bindparam("of_name"))
SITE_SET_MEMBERS = select(site_set_member)
LEAVE_SITE_SET = delete(site_set_member).where(site_set_member.c.set_id == bindparam("row_id"))
REMOVE_SITE_SET = delete(site_set).where(site_set.c.id == bindparam("row_id"))

POLICIES = select(policy).order_by(policy.c.rank, policy.c.name)
POLICY_NAMED = select(policy).where(policy.c.name == bindparam("of_name"))
CHANGE_POLICY = (
    update(policy)
    .where(policy.c.id == bindparam("row_id"))
    .values(rank=bindparam("new_rank"), rule=bindparam("new_rule", type_=policy.c.rule.type))
)
REMOVE_POLICY = delete(policy).where(policy.c.id == bindparam("row_id"))


# --- reading -----------------------------------------------------------------------------------------


def agents(conn: Connection) -> list[Agent]:
    """All named ProdAgents by name."""
    served = _members(conn.execute(AGENT_ENDPOINTS).all(), "agent_id", "endpoint_id")
    return [Agent(id=row.id, name=row.name, endpoints=served[row.id]) for row in conn.execute(AGENTS)]


def site_sets(conn: Connection) -> list[SiteSet]:
    """All site sets by name."""
    held = _members(conn.execute(SITE_SET_MEMBERS).all(), "set_id", "site_id")
    return [SiteSet(id=row.id, name=row.name, sites=held[row.id]) for row in conn.execute(SITE_SETS)]


def _members(rows: Iterable[Any], owner: str, member: str) -> dict[int, frozenset[int]]:
    found: dict[int, set[int]] = defaultdict(set)
    for row in rows:
        found[getattr(row, owner)].add(getattr(row, member))
    return defaultdict(frozenset, {key: frozenset(members) for key, members in found.items()})


def policies(conn: Connection) -> list[Policy]:
    """All policies, in the order in which they are asked."""
    return [Policy(**row._mapping) for row in conn.execute(POLICIES)]


def named_by(conn: Connection, kind: Named, name: str) -> list[str]:
    """The policies whose rules name a group, agent, site or site set."""
    return [one.name for one in policies(conn) if name in (one.rule.get(kind) or ())]


# --- changing ----------------------------------------------------------------------------------------


def put_agent(conn: Connection, new: Agent) -> None:
    """Make the agent or the one of that name serve these endpoints; whoever served them does no longer."""
    row_id = _owner(conn, prodagent, AGENT_NAMED, new)
    conn.execute(LEAVE_AGENT, {"row_id": row_id})
    for endpoint_id in sorted(new.endpoints):
        conn.execute(LEAVE_ENDPOINT, {"row_id": endpoint_id})
    rows = [{"endpoint_id": one, "agent_id": row_id} for one in sorted(new.endpoints)]
    insert_rows(conn, agent_endpoint, rows)


def put_site_set(conn: Connection, new: SiteSet) -> None:
    """Make the set, or let the one of that name hold these sites."""
    row_id = _owner(conn, site_set, SITE_SET_NAMED, new)
    conn.execute(LEAVE_SITE_SET, {"row_id": row_id})
    insert_rows(conn, site_set_member, [{"set_id": row_id, "site_id": one} for one in sorted(new.sites)])


def _owner(conn: Connection, table: Table, named: Select[Any], new: Agent | SiteSet) -> int:
    """The key of the row of that name, made if there is none."""
    found = conn.execute(named, {"of_name": new.name}).scalar_one_or_none()
    if found is None:
        insert_rows(conn, table, [{"id": new.id, "name": new.name}])
        return new.id
    lock_rows(conn, table, [found])
    return int(found)


def put_policy(conn: Connection, new: Policy) -> None:
    """Make the policy, or change the one of that name, whose id stays."""
    old = conn.execute(POLICY_NAMED, {"of_name": new.name}).one_or_none()
    if old is None:
        row = {"id": new.id, "name": new.name, "rank": new.rank, "rule": dict(new.rule)}
        insert_rows(conn, policy, [row])
    else:
        binds = {"row_id": old.id, "new_rank": new.rank, "new_rule": dict(new.rule)}
        conn.execute(CHANGE_POLICY, binds)


def remove_agent(conn: Connection, name: str) -> None:
    """Remove an agent that no policy names and no unfinished request has. Raises NotFound, Conflict."""
    row_id = _found(conn, AGENT_NAMED, "agent", name)
    lock_rows(conn, prodagent, [row_id])
    check_unnamed(conn, "agents", name)
    busy = conn.execute(REQUESTS_OF_AGENT, {"row_id": row_id}).scalar_one()
    if busy:
        told = "1 unfinished request is" if busy == 1 else f"{busy} unfinished requests are"
        raise Conflict(f"{told} assigned to it", hint="assign them to another agent, or wait for their end")
    _run(conn, [FORGET_REQUESTS, LEAVE_AGENT, REMOVE_AGENT], row_id)


def remove_site_set(conn: Connection, name: str) -> None:
    """Remove a site set that no policy names. Raises NotFound, Conflict."""
    row_id = _found(conn, SITE_SET_NAMED, "site set", name)
    check_unnamed(conn, "site_sets", name)
    _run(conn, [LEAVE_SITE_SET, REMOVE_SITE_SET], row_id)


def remove_policy(conn: Connection, name: str) -> None:
    """Remove a policy; requests that it assigned stay where they are. Raises NotFound."""
    _run(conn, [REMOVE_POLICY], _found(conn, POLICY_NAMED, "policy", name))


def check_unnamed(conn: Connection, kind: Named, name: str) -> None:
    """Raises Conflict with the policies whose rules name it."""
    users = named_by(conn, kind, name)
    if users:
        word = "policy" if len(users) == 1 else "policies"
        raise Conflict(f"it is named by the {word} {', '.join(users)}", hint="change or remove that first")


def leave_endpoint(conn: Connection, endpoint_id: int) -> None:
    """No named agent serves the endpoint any more."""
    conn.execute(LEAVE_ENDPOINT, {"row_id": endpoint_id})


def _found(conn: Connection, named: Select[Any], what: str, name: str) -> int:
    row_id = conn.execute(named, {"of_name": name}).scalars().one_or_none()
    if row_id is None:
        raise NotFound(f"there is no {what} {name!r}", hint="look into the files of tierflow export DIR")
    return int(row_id)


def _run(conn: Connection, removals: Iterable[Delete], row_id: int) -> None:
    for removal in removals:
        conn.execute(removal, {"row_id": row_id})
