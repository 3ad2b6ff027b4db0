"""Facts of a dataset that its owner states: access, description, group and free metadata."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, delete, select, update

from catalogs import histories
from catalogs.metadata import DESCRIPTION_MAX, Value, check_name, check_text, typed
from catalogs.states import Access
from catalogs.tables import dataset, dataset_meta
from gridcore.db import bulk, lock_rows
from gridcore.db.bulk import New, Same
from gridcore.db.idlists import names_within
from gridcore.ids import check_label


@dataclass(frozen=True, slots=True, kw_only=True)
class Amendment:
    """What is to be another from now on; a text or value of None takes away what there was."""

    columns: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, tuple[float | None, str | None] | None] = field(default_factory=dict)


#: What columns are called where people read of them.
_WORD = {"access_type": "access", "description": "description", "acct_group": "group"}
METADATA = (
    select(dataset_meta.c.name, dataset_meta.c.num, dataset_meta.c.txt)
    .where(dataset_meta.c.dataset_id == bindparam("of_dataset"))
    .order_by(dataset_meta.c.name)
)
COLUMNS = select(dataset.c.access_type, dataset.c.description, dataset.c.acct_group).where(
    dataset.c.id == bindparam("of_dataset")
)
FORGET = delete(dataset_meta).where(
    dataset_meta.c.dataset_id == bindparam("of_dataset"), names_within(dataset_meta.c.name)
)
AMEND = (
    update(dataset)
    .where(dataset.c.id == bindparam("of_dataset"))
    .values({name: bindparam(f"new_{name}") for name in ("access_type", "description", "acct_group")})
)


def amendment(
    values: Mapping[str, str | None] | None = None,
    *,
    access: Access | None = None,
    description: str | None = None,
    group: str | None = None,
) -> Amendment:
    """What a face is asked to change, checked; "" takes the description or group away. Pure.

    Raises UsageError.
    """
    columns: dict[str, Any] = {}
    if access is not None:
        columns["access_type"] = access
    if description is not None:
        text = check_text(description, "description", DESCRIPTION_MAX) if description else None
        columns["description"] = text
    if group is not None:
        columns["acct_group"] = check_label(group, "group name")[:60] if group else None
    metadata = {check_name(name): typed(text) if text else None for name, text in (values or {}).items()}
    return Amendment(columns=columns, metadata=metadata)


def metadata_of(conn: Connection, dataset_id: int) -> dict[str, Value]:
    """What its owner says of it, by name."""
    rows = conn.execute(METADATA, {"of_dataset": dataset_id})
    return {row.name: _value(row.num, row.txt) for row in rows}


def amend(
    conn: Connection, dataset_id: int, new: Amendment, change: str, actor: str, now: datetime
) -> dict[str, list[Any]]:
    """Change what is to be another: {what: [before, after]} of what was. Locks the dataset."""
    lock_rows(conn, dataset, [dataset_id])
    old = conn.execute(COLUMNS, {"of_dataset": dataset_id}).one()._mapping
    known = metadata_of(conn, dataset_id)
    said = {name: None if pair is None else _value(*pair) for name, pair in new.metadata.items()}
    done = {
        **{_WORD[name]: [old[name], value] for name, value in new.columns.items() if old[name] != value},
        **{name: [known.get(name), value] for name, value in said.items() if known.get(name) != value},
    }
    if done:
        _write(conn, dataset_id, {**old, **new.columns}, {name: said[name] for name in said if name in done})
        histories.tell_dataset(conn, dataset_id, change, actor, now, done)
    return done


def _write(
    conn: Connection, dataset_id: int, columns: Mapping[str, Any], metadata: Mapping[str, Value | None]
) -> None:
    conn.execute(AMEND, {"of_dataset": dataset_id, **{f"new_{name}": one for name, one in columns.items()}})
    if not metadata:
        return
    conn.execute(FORGET, {"of_dataset": dataset_id, "names": list(metadata)})
    kept = {name: one for name, one in sorted(metadata.items()) if one is not None}
    numbers = [one if isinstance(one, float) else None for one in kept.values()]
    texts = [one if isinstance(one, str) else None for one in kept.values()]
    rows = {"dataset_id": Same(dataset_id), "name": list(kept), "num": numbers, "txt": texts}
    bulk.write(conn, [New(dataset_meta, rows)])


def _value(number: float | None, text: str | None) -> Value:
    return number if number is not None else text or ""
