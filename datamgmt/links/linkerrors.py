"""Errors of links by class: how many there were, and the last of each as a sample."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, func, select, update

from catalogs.tables import link, se
from datamgmt.tables import transfer_error
from datamgmt.tools.base import ErrorClass, Owner
from gridcore.db.labels import plain
from gridcore.db.statements import insert_new

SAMPLE_MAX = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A failed try over a link."""

    link_id: int
    error_class: ErrorClass
    error: str
    file_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkError:
    """One class of errors of a link; whose it is to mend, and how."""

    src: str
    dst: str
    error_class: str
    n: int
    first_at: datetime
    last_at: datetime
    sample: str
    file_id: int | None

    @property
    def owner(self) -> Owner | None:
        """Whose it is; None for a class of another release."""
        return ErrorClass(self.error_class).owner if self.error_class in set(ErrorClass) else None

    @property
    def hint(self) -> str | None:
        """What the owner should do."""
        return ErrorClass(self.error_class).hint if self.error_class in set(ErrorClass) else None


ADD = (
    update(transfer_error)
    .where(
        transfer_error.c.link_id == bindparam("on_link"),
        transfer_error.c.error_class == bindparam("of_class"),
    )
    .values(
        n=transfer_error.c.n + bindparam("more", type_=transfer_error.c.n.type),
        last_at=bindparam("at"),
        sample=bindparam("told"),
        file_id=bindparam("of_file"),
    )
)
_SRC, _DST = se.alias("src_se"), se.alias("dst_se")
ERRORS = (
    select(
        _SRC.c.name.label("src"),
        _DST.c.name.label("dst"),
        *(column for column in transfer_error.c if column.name != "link_id"),
    )
    .join_from(transfer_error, link, link.c.id == transfer_error.c.link_id)
    .join(_SRC, _SRC.c.id == link.c.src_se_id)
    .join(_DST, _DST.c.id == link.c.dst_se_id)
    .order_by(_SRC.c.name, _DST.c.name, transfer_error.c.error_class)
)

FULL = (
    select(link.c.dst_se_id, func.max(transfer_error.c.last_at).label("at"))
    .join_from(transfer_error, link, link.c.id == transfer_error.c.link_id)
    .where(transfer_error.c.error_class == str(ErrorClass.DEST_FULL))
    .group_by(link.c.dst_se_id)
)


def full(conn: Connection) -> dict[int, datetime]:
    """By SE, when a copy last found no room there."""
    return {row.dst_se_id: row.at for row in conn.execute(FULL)}


def record(conn: Connection, failed: Iterable[Failed], now: datetime) -> None:
    """Count failed tries; the last of each link and class is kept as its sample."""
    groups: dict[tuple[int, ErrorClass], list[Failed]] = {}
    for one in failed:
        groups.setdefault((one.link_id, one.error_class), []).append(one)
    for key in sorted(groups):
        _add(conn, key[0], str(key[1]), groups[key], now)


def _add(conn: Connection, link_id: int, name: str, group: Sequence[Failed], now: datetime) -> None:
    last = group[-1]
    sample = plain(last.error, SAMPLE_MAX) or name
    binds: dict[str, Any] = {"on_link": link_id, "of_class": name, "at": now}
    binds |= {"more": len(group), "told": sample, "of_file": last.file_id}
    if not conn.execute(ADD, binds).rowcount:
        row = {"link_id": link_id, "error_class": name, "first_at": now, "last_at": now}
        insert_new(conn, transfer_error, {**row, "n": len(group), "sample": sample, "file_id": last.file_id})


def errors(conn: Connection) -> list[LinkError]:
    """All that is known, by link and class."""
    return [LinkError(**row._mapping) for row in conn.execute(ERRORS)]
