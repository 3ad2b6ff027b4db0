"""Limits of concurrent work as the database holds them: most active jobs or cores of a site, a share, a task
type, or of all these together."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, bindparam, delete, select, update

from gridcore.db.statements import insert_rows
from gridcore.errors import NotFound
from prodsys.tables import work_limit


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkLimit:
    """Most active jobs and cores of what it selects; a selector that is None selects everything.

    `share_path` is a group, with all below it, or a user in one: "group" or "group/user".
    """

    id: int
    name: str
    site_id: int | None = None
    share_path: str | None = None
    task_type: str | None = None
    max_jobs: int | None = None
    max_cores: int | None = None


LIMITS = select(work_limit).order_by(work_limit.c.name)
LIMIT_NAMED = select(work_limit.c.id).where(work_limit.c.name == bindparam("of_name"))
CHANGE = (
    update(work_limit)
    .where(work_limit.c.id == bindparam("row_id"))
    .values(
        site_id=bindparam("new_site"),
        share_path=bindparam("new_share"),
        task_type=bindparam("new_type"),
        max_jobs=bindparam("new_jobs"),
        max_cores=bindparam("new_cores"),
    )
)
REMOVE = delete(work_limit).where(work_limit.c.name == bindparam("of_name"))


def limits(conn: Connection) -> list[WorkLimit]:
    """All limits by name."""
    return [WorkLimit(**row._mapping) for row in conn.execute(LIMITS)]


def of_site(conn: Connection, site_id: int) -> list[str]:
    """The names of the limits that name the site."""
    return [one.name for one in limits(conn) if one.site_id == site_id]


def of_share(conn: Connection, path: str) -> list[str]:
    """The names of the limits that name the share or one below it."""
    return [one.name for one in limits(conn) if f"{one.share_path or ''}/".startswith(f"{path}/")]


def put(conn: Connection, new: WorkLimit) -> None:
    """Make the limit, or change the one of that name, whose id stays."""
    old = conn.execute(LIMIT_NAMED, {"of_name": new.name}).scalar_one_or_none()
    if old is None:
        names = ("id", "name", "site_id", "share_path", "task_type", "max_jobs", "max_cores")
        insert_rows(conn, work_limit, [{name: getattr(new, name) for name in names}])
        return
    binds = {
        "row_id": old,
        "new_site": new.site_id,
        "new_share": new.share_path,
        "new_type": new.task_type,
        "new_jobs": new.max_jobs,
        "new_cores": new.max_cores,
    }
    conn.execute(CHANGE, binds)


def remove(conn: Connection, name: str) -> None:
    """Remove a limit. Raises NotFound."""
    if not conn.execute(REMOVE, {"of_name": name}).rowcount:
        raise NotFound(f"there is no limit {name!r}", hint="look into the files of tierflow export DIR")
