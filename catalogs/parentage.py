"""Parentage: which datasets were made from which, as the files say that are registered."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from sqlalchemy import Connection, bindparam, func, select

from catalogs.tables import block, data_file, dataset, dataset_parent
from gridcore.db import bulk, lock_rows
from gridcore.db.bulk import New, Same
from gridcore.db.engine import Stale
from gridcore.db.idlists import names_within, within
from gridcore.errors import Conflict, NotFound

FILES_IN = (
    select(block.c.dataset_id, func.count().label("n"))
    .join_from(data_file, block, block.c.id == data_file.c.block_id)
    .where(within(data_file.c.id))
    .group_by(block.c.dataset_id)
)
FOUND = select(data_file.c.id).where(within(data_file.c.id))
PARENTS = select(dataset_parent.c.parent_id).where(within(dataset_parent.c.dataset_id)).distinct()
_CHILD = dataset.alias("child")
PARENTS_NAMED = (
    select(dataset.c.name)
    .join_from(_CHILD, dataset_parent, dataset_parent.c.dataset_id == _CHILD.c.id)
    .join(dataset, dataset.c.id == dataset_parent.c.parent_id)
    .where(names_within(_CHILD.c.name))
    .distinct()
)
NAMES = select(dataset.c.id, dataset.c.name).where(within(dataset.c.id))
PARENTS_OF = select(dataset_parent.c.parent_id).where(dataset_parent.c.dataset_id == bindparam("of_dataset"))


def datasets_of(conn: Connection, files: Collection[int]) -> set[int]:
    """The datasets these files belong to. Raises NotFound where one of the files is not registered."""
    if not files:
        return set()
    wanted = {"ids": sorted(files)}
    found = {row.dataset_id: row.n for row in conn.execute(FILES_IN, wanted)}
    if sum(found.values()) < len(files):
        missing = set(files) - set(conn.execute(FOUND, wanted).scalars())
        raise NotFound(f"no file with id {min(missing)} is registered, yet it is named as a parent")
    return set(found)


def unknown(conn: Connection, dataset_id: int, parents: Iterable[int]) -> set[int]:
    """Those of the datasets that are not yet told to be parents of this one, itself left out."""
    others = set(parents) - {dataset_id}
    if not others:
        return others
    return others - set(conn.execute(PARENTS_OF, {"of_dataset": dataset_id}).scalars())


def lock(conn: Connection, dataset_id: int, parents: Collection[int]) -> None:
    """Lock the dataset and, where these are new parents of it, them and all that they were made from.

    So nobody gives any of them a parent meanwhile: of several who would close a circle together, however
    long, the last one sees what the others did. Raises Stale where one of them has just got another.
    """
    missing = unknown(conn, dataset_id, parents)
    family = missing | ancestors(conn, missing)
    lock_rows(conn, dataset, [dataset_id, *family])
    if not ancestors(conn, missing) <= family:
        raise Stale


def add(conn: Connection, dataset_id: int, parents: Collection[int]) -> None:
    """From now on the dataset was made from these as well; `lock` has locked them for that.

    Raises Conflict where it would be made from itself.
    """
    missing = sorted(unknown(conn, dataset_id, parents))
    if not missing:
        return
    if dataset_id in ancestors(conn, missing):
        names = dict(tuple(row) for row in conn.execute(NAMES, {"ids": [dataset_id, *missing]}))
        made_from = ", ".join(names[key] for key in missing)
        raise Conflict(
            f"{names[dataset_id]} cannot be made from {made_from}: that is made from it",
            hint="name the files it was really made from as parents",
        )
    bulk.write(conn, [New(dataset_parent, {"dataset_id": Same(dataset_id), "parent_id": missing})])


def parents_named(conn: Connection, names: Iterable[str]) -> set[str]:
    """What the datasets of these names were made from."""
    return set(conn.execute(PARENTS_NAMED, {"names": sorted(names)}).scalars())


def ancestors(conn: Connection, ids: Iterable[int]) -> set[int]:
    """What these datasets were made from, generation by generation."""
    found: set[int] = set()
    last = set(ids)
    while last:
        last = set(conn.execute(PARENTS, {"ids": sorted(last)}).scalars()) - found
        found |= last
    return found
