"""Endpoints: one schedd, cluster, CE or host an executor talks to, and the lease its ProdAgent holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, bindparam, delete, func, select, update

from catalogs.states import Switch
from catalogs.tables import site
from gridcore.db import leases
from gridcore.db.statements import insert_rows, lock_rows
from gridcore.errors import Conflict, NotFound
from gridcore.tables import lease
from prodsys.job_states import LIVE
from prodsys.tables import attempt, endpoint, in_state, job


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where jobs are sent: `offer` is what brokerage compares, `config` what the executor wants to know."""

    id: int
    name: str
    site_id: int
    lease_id: int
    kind: str
    slots: int
    offer: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    state: Switch = Switch.ENABLED

    @property
    def lease_name(self) -> str:
        """The lease whose holder alone submits there."""
        return lease_name(self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Occupancy:
    """An endpoint as the faces list it: its site, who works it, and how many attempts are open there."""

    name: str
    site: str
    kind: str
    state: Switch
    slots: int
    open: int
    owner: str | None


ENDPOINTS = select(endpoint).order_by(endpoint.c.name)
NAMED = select(endpoint).where(endpoint.c.name == bindparam("name"))
CHANGE = (
    update(endpoint)
    .where(endpoint.c.id == bindparam("row_id"))
    .values(
        site_id=bindparam("new_site"),
        kind=bindparam("new_kind"),
        slots=bindparam("new_slots"),
        offer=bindparam("new_offer", type_=endpoint.c.offer.type),
        config=bindparam("new_config", type_=endpoint.c.config.type),
        state=bindparam("new_state", type_=endpoint.c.state.type),
    )
)
#: How many jobs an endpoint holds.
HELD_HERE = (
    select(func.count(job.c.id))
    .where(job.c.endpoint_id == endpoint.c.id, in_state(job, *LIVE))
    .scalar_subquery()
)
OCCUPANCY = (
    select(
        endpoint.c.name,
        site.c.name.label("site"),
        endpoint.c.kind,
        endpoint.c.state,
        endpoint.c.slots,
        HELD_HERE.label("n_open"),
        lease.c.owner,
    )
    .join_from(endpoint, site, endpoint.c.site_id == site.c.id)
    .join(lease, endpoint.c.lease_id == lease.c.id)
    .order_by(endpoint.c.name)
)
ATTEMPTS_AT = select(func.count()).select_from(attempt).where(attempt.c.endpoint_id == bindparam("row_id"))
JOBS_AT = select(func.count()).select_from(job).where(job.c.endpoint_id == bindparam("row_id"))
REMOVE = delete(endpoint).where(endpoint.c.id == bindparam("row_id"))
REMOVE_LEASE = delete(lease).where(lease.c.id == bindparam("row_id"))


def lease_name(name: str) -> str:
    """The name of an endpoint's lease."""
    return f"endpoint/{name}"


def endpoints(conn: Connection) -> list[Endpoint]:
    """All endpoints by name."""
    return [Endpoint(**row._mapping) for row in conn.execute(ENDPOINTS)]


def by_name(conn: Connection, name: str) -> Endpoint:
    """The endpoint. Raises NotFound."""
    row = conn.execute(NAMED, {"name": name}).one_or_none()
    if row is None:
        known = ", ".join(one.name for one in endpoints(conn)) or "none"
        raise NotFound(f"there is no endpoint {name!r}", hint=f"endpoints: {known}")
    return Endpoint(**row._mapping)


def occupancy(conn: Connection) -> list[Occupancy]:
    """All endpoints by name with their open attempts."""
    return [Occupancy(**_renamed(row._mapping)) for row in conn.execute(OCCUPANCY)]


def _renamed(row: Mapping[Any, Any]) -> dict[str, Any]:
    return {"open" if name == "n_open" else name: value for name, value in row.items()}


def put(conn: Connection, new: Endpoint) -> bool:
    """Insert the endpoint with its lease, or change the one of that name, whose ids and lease stay.

    Whether anything changed.
    """
    values = {
        "site_id": new.site_id,
        "kind": new.kind,
        "slots": new.slots,
        "offer": dict(new.offer),
        "config": dict(new.config),
        "state": new.state,
    }
    old = conn.execute(NAMED, {"name": new.name}).one_or_none()
    if old is None:
        leases.create(conn, [(new.lease_id, new.lease_name)])
        insert_rows(conn, endpoint, [{"id": new.id, "name": new.name, "lease_id": new.lease_id, **values}])
        return True
    if {name: old._mapping[name] for name in values} == values:
        return False
    binds = {f"new_{name.removesuffix('_id')}": value for name, value in values.items()}
    conn.execute(CHANGE, {"row_id": old.id, **binds})
    return True


def remove(conn: Connection, name: str) -> None:
    """Remove an endpoint nothing ever ran at, with its lease. Raises NotFound, Conflict with its users."""
    found = by_name(conn, name)
    lock_rows(conn, lease, [found.lease_id])
    used = {
        "attempts": conn.execute(ATTEMPTS_AT, {"row_id": found.id}).scalar_one(),
        "jobs": conn.execute(JOBS_AT, {"row_id": found.id}).scalar_one(),
    }
    if any(used.values()):
        told = ", ".join(f"{n} {what}" for what, n in used.items() if n)
        raise Conflict(f"endpoint {name} is in use by {told}", hint='set its state to "DISABLED" instead')
    conn.execute(REMOVE, {"row_id": found.id})
    conn.execute(REMOVE_LEASE, {"row_id": found.lease_id})
