"""LFNs of the catalogue for the rules of Trivial File Catalogs: all of a dataset, or samples to try."""

from __future__ import annotations

from sqlalchemy import Connection, Integer, bindparam, func, select

from catalogs.states import ReplicaState
from catalogs.tables import block, block_replica, data_file, dir_
from catalogs.tfc.diff import Held
from gridcore.db import reads

#: Directories, or blocks, that are looked at.
SAMPLES_MAX = 100_000

_FIRST_NAME = (
    select(func.min(data_file.c.name)).where(data_file.c.dir_id == dir_.c.id).scalar_subquery().label("name")
)
_A_FILE = (
    select(data_file.c.id)
    .where(data_file.c.block_id == block.c.id)
    .limit(1)
    .correlate(block)
    .scalar_subquery()
)
#: One file of each directory.
OF_DIRECTORIES = select(dir_.c.path, _FIRST_NAME).order_by(dir_.c.id).limit(bindparam("n", type_=Integer))
#: One file of each block that is at a storage element.
HELD = (
    select(dir_.c.path, data_file.c.name, block.c.files, block.c.bytes)
    .join_from(block_replica, block, block.c.id == block_replica.c.block_id)
    .join(data_file, data_file.c.id == _A_FILE)
    .join(dir_, dir_.c.id == data_file.c.dir_id)
    .where(block_replica.c.se_id == bindparam("se_id"), block_replica.c.state == bindparam("state"))
    .order_by(block.c.id)
    .limit(bindparam("n", type_=Integer))
)

#: The files of a dataset.
OF_DATASET = (
    select(dir_.c.path, data_file.c.name)
    .join_from(block, data_file, data_file.c.block_id == block.c.id)
    .join(dir_, dir_.c.id == data_file.c.dir_id)
    .where(block.c.dataset_id == bindparam("dataset_id"))
)


def of_directories(conn: Connection, n: int = SAMPLES_MAX) -> list[str]:
    """An LFN of each of the first `n` directories; an empty directory has none."""
    rows = conn.execute(OF_DIRECTORIES, {"n": n})
    return [f"{path}/{name}" for path, name in rows if name is not None]


def held(conn: Connection, se_id: int, n: int = SAMPLES_MAX) -> list[Held]:
    """A file of each of the first `n` blocks that are complete at the SE."""
    rows = conn.execute(HELD, {"se_id": se_id, "state": ReplicaState.COMPLETE, "n": n})
    return [Held(f"{path}/{name}", files, size) for path, name, files, size in rows]


def of_dataset(conn: Connection, dataset_id: int) -> list[str]:
    """The LFNs of a dataset's files, in no order."""
    (rows,) = reads.rows(conn, [reads.Read(OF_DATASET, {"dataset_id": dataset_id})])
    return [f"{path}/{name}" for path, name in rows]
