"""Histories: who changed what of datasets and files, a row in the transaction of the change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Integer, bindparam, select

from catalogs.tables import dataset_history, file_history, se
from gridcore.db import bulk
from gridcore.db.bulk import New, Same
from gridcore.db.statements import insert_rows


@dataclass(frozen=True, slots=True)
class Event:
    """A change: what was done, by whom, and what there is to know of it; `se` where it is of one copy."""

    at: datetime
    actor: str
    change: str
    detail: Mapping[str, Any] | None
    se: str | None = None


_COLUMNS = ("at", "actor", "change", "detail")
OF_DATASET = (
    select(*(dataset_history.c[name] for name in _COLUMNS))
    .where(dataset_history.c.dataset_id == bindparam("of_dataset"))
    .order_by(dataset_history.c.seq.desc())
    .limit(bindparam("n", type_=Integer))
)
OF_FILE = (
    select(*(file_history.c[name] for name in _COLUMNS), se.c.name.label("se"))
    .outerjoin_from(file_history, se, se.c.id == file_history.c.se_id)
    .where(file_history.c.file_id == bindparam("of_file"))
    .order_by(file_history.c.seq.desc())
    .limit(bindparam("n", type_=Integer))
)


def tell_dataset(
    conn: Connection,
    dataset_id: int,
    change: str,
    actor: str,
    now: datetime,
    detail: Mapping[str, Any] | None = None,
) -> None:
    """Remember what was done to a dataset."""
    row = {"at": now, "actor": actor, "change": change, "detail": detail or None}
    insert_rows(conn, dataset_history, [{"dataset_id": dataset_id, **row}])


def tell_files(
    conn: Connection,
    file_ids: Sequence[int],
    change: str,
    actor: str,
    now: datetime,
    detail: Mapping[str, Any] | None = None,
    se_id: int | None = None,
) -> None:
    """Remember what was done to files, or to their copies at one SE."""
    said = {"at": now, "actor": actor, "change": change, "detail": detail or None, "se_id": se_id}
    columns = {name: Same(value) for name, value in said.items()}
    bulk.write(conn, [New(file_history, {"file_id": file_ids, **columns})])


def of_dataset(conn: Connection, dataset_id: int, n: int) -> list[Event]:
    """The last `n` changes of a dataset, newest first."""
    return [Event(**row._mapping) for row in conn.execute(OF_DATASET, {"of_dataset": dataset_id, "n": n})]


def of_file(conn: Connection, file_id: int, n: int) -> list[Event]:
    """The last `n` changes of a file, newest first."""
    return [Event(**row._mapping) for row in conn.execute(OF_FILE, {"of_file": file_id, "n": n})]
