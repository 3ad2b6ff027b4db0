"""Limits on active work: of a site, a share, a task type, or all of these together, judged at the claim."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import BigInteger, Connection, bindparam, cast, func, or_, select

from catalogs.tables import site
from gridcore.db import reads
from gridcore.db.reads import Read
from prodsys.tables import class_use, job_class, share_node, work_limit

AT_SITE = (
    select(work_limit)
    .where(or_(work_limit.c.site_id.is_(None), work_limit.c.site_id == bindparam("at_site")))
    .order_by(work_limit.c.id)
)
#: What runs, by all that limits tell apart.
USES = (
    select(
        class_use.c.site_id,
        share_node.c.path,
        job_class.c.task_type,
        cast(func.sum(class_use.c.jobs), BigInteger).label("jobs"),
        cast(func.sum(class_use.c.cores), BigInteger).label("cores"),
    )
    .join(job_class, job_class.c.id == class_use.c.class_id)
    .join(share_node, share_node.c.id == job_class.c.leaf_id)
    .where(class_use.c.jobs > 0)
    .group_by(class_use.c.site_id, share_node.c.path, job_class.c.task_type)
)
#: The same as a read, to be run together with others.
RUNNING = Read(USES, {})
ALL = (
    select(work_limit, site.c.name.label("site"))
    .outerjoin_from(work_limit, site, site.c.id == work_limit.c.site_id)
    .order_by(work_limit.c.name)
)


Use = tuple[Any, ...]
"""(site key, share, task type, jobs, cores)"""


@dataclass(slots=True, kw_only=True)
class Room:
    """What one limit still allows; None is no bound. It shrinks as work is taken."""

    name: str
    site_id: int | None
    share: str | None
    task_type: str | None
    max_jobs: int | None
    max_cores: int | None
    jobs: int = 0
    cores: int = 0

    def covers(self, path: str, task_type: str) -> bool:
        """Whether work of this leaf and type counts here."""
        if self.task_type is not None and self.task_type != task_type:
            return False
        return self.share is None or path == self.share or path.startswith(f"{self.share}/")

    def most(self, cores: int) -> int | None:
        """How many more jobs of so many cores fit; None for any number."""
        bounds = []
        if self.max_jobs is not None:
            bounds.append(self.max_jobs - self.jobs)
        if self.max_cores is not None:
            bounds.append((self.max_cores - self.cores) // cores)
        return max(0, min(bounds)) if bounds else None

    def holds(self, jobs: int, cores: int) -> bool:
        """Whether so many more jobs of so many cores in all fit."""
        jobs_fit = self.max_jobs is None or self.jobs + jobs <= self.max_jobs
        return jobs_fit and (self.max_cores is None or self.cores + cores <= self.max_cores)

    def take(self, jobs: int, cores: int) -> None:
        """So many more run, or fewer."""
        self.jobs += jobs
        self.cores += cores


def at(conn: Connection, site_id: int) -> list[Room]:
    """The limits that hold at a site, as if nothing ran."""
    return [_room(row) for row in conn.execute(AT_SITE, {"at_site": site_id})]


def rooms(conn: Connection, site_id: int) -> list[Room]:
    """What the limits that hold at a site still allow."""
    found = at(conn, site_id)
    return filled(found, uses(conn)) if found else []


def uses(conn: Connection) -> list[Use]:
    """What runs now: (site key, share, task type, jobs, cores)."""
    (found,) = reads.rows(conn, [RUNNING])
    return found


def _room(row: Any) -> Room:
    return Room(
        name=row.name,
        site_id=row.site_id,
        share=row.share_path,
        task_type=row.task_type,
        max_jobs=row.max_jobs,
        max_cores=row.max_cores,
    )


def filled(
    found: Sequence[Room], running: Iterable[Use], covering: dict[Use, list[int]] | None = None
) -> list[Room]:
    """The limits, as if nothing ran, with what runs counted in.

    `covering` remembers the places of the limits that count a use, from one count to the next.
    """
    known = {} if covering is None else covering
    rooms_ = [replace(room) for room in found]
    for *of, jobs, cores in running:
        key = tuple(of)
        if key not in known:
            site_id, path, task_type = key
            known[key] = [
                place
                for place, room in enumerate(found)
                if room.site_id in (None, site_id) and room.covers(path, task_type)
            ]
        for place in known[key]:
            rooms_[place].take(jobs, cores)
    return rooms_


def most(rooms_: Iterable[Room], path: str, task_type: str, cores: int) -> int | None:
    """How many more jobs of this kind all limits together allow; None for any number."""
    bounds = [room.most(cores) for room in rooms_ if room.covers(path, task_type)]
    known = [bound for bound in bounds if bound is not None]
    return min(known) if known else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A limit as the faces show it."""

    name: str
    site: str | None
    share: str | None
    task_type: str | None
    jobs: int
    max_jobs: int | None
    cores: int
    max_cores: int | None

    @property
    def full(self) -> bool:
        """Whether nothing more may start under it."""
        jobs_full = self.max_jobs is not None and self.jobs >= self.max_jobs
        return jobs_full or (self.max_cores is not None and self.cores >= self.max_cores)


def standing(conn: Connection, site_id: int | None = None) -> list[Standing]:
    """All limits by name, or those that hold at a site, with what counts against them."""
    rows = [row for row in conn.execute(ALL) if site_id is None or row.site_id in (None, site_id)]
    found = filled([_room(row) for row in rows], uses(conn))
    return [
        Standing(
            name=room.name,
            site=row.site,
            share=room.share,
            task_type=room.task_type,
            jobs=room.jobs,
            max_jobs=room.max_jobs,
            cores=room.cores,
            max_cores=room.max_cores,
        )
        for row, room in zip(rows, found, strict=True)
    ]
