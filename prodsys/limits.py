"""Limits on active work: of a site, a share, a task type, or all of these together, judged at the claim."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, func, or_, select

from catalogs.tables import site
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
        func.sum(class_use.c.jobs).label("jobs"),
        func.sum(class_use.c.cores).label("cores"),
    )
    .join(job_class, job_class.c.id == class_use.c.class_id)
    .join(share_node, share_node.c.id == job_class.c.leaf_id)
    .where(class_use.c.jobs > 0)
    .group_by(class_use.c.site_id, share_node.c.path, job_class.c.task_type)
)
ALL = (
    select(work_limit, site.c.name.label("site"))
    .outerjoin_from(work_limit, site, site.c.id == work_limit.c.site_id)
    .order_by(work_limit.c.name)
)


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

    def take(self, cores: int) -> None:
        """One more job runs."""
        self.jobs += 1
        self.cores += cores

    def give(self, cores: int) -> None:
        """One job less runs."""
        self.jobs -= 1
        self.cores -= cores


def at(conn: Connection, site_id: int) -> list[Room]:
    """The limits that hold at a site, as if nothing ran."""
    return [_room(row) for row in conn.execute(AT_SITE, {"at_site": site_id})]


def rooms(conn: Connection, site_id: int) -> list[Room]:
    """What the limits that hold at a site still allow."""
    return filled(conn, at(conn, site_id))


def _room(row: Any) -> Room:
    return Room(
        name=row.name,
        site_id=row.site_id,
        share=row.share_path,
        task_type=row.task_type,
        max_jobs=row.max_jobs,
        max_cores=row.max_cores,
    )


def filled(conn: Connection, found: Sequence[Room]) -> list[Room]:
    """The limits with what runs now counted in."""
    if not found:
        return []
    for use in conn.execute(USES):
        for room in found:
            if room.site_id in (None, use.site_id) and room.covers(use.path, use.task_type):
                room.jobs += int(use.jobs)
                room.cores += int(use.cores)
    return list(found)


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
    found = filled(conn, [_room(row) for row in rows])
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
