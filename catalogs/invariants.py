"""Invariants of the catalogues: what never holds, as SQL that returns the ids that break it."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Select, and_, exists, func, or_, select

from catalogs import recount
from catalogs.states import BlockState, ReplicaState, WishState
from catalogs.tables import (
    block,
    block_replica,
    data_file,
    dataset,
    dir_,
    file_exception,
    file_parent,
    file_run,
    invalid_file,
    wish,
)
from gridcore.db.invariants import Invariant

_IN_FILES = (
    select(
        data_file.c.block_id.label("id"),
        func.count().label("files"),
        func.sum(data_file.c.bytes).label("bytes"),
        func.coalesce(func.sum(data_file.c.events), 0).label("events"),
    )
    .group_by(data_file.c.block_id)
    .subquery("in_files")
)
_IN_BLOCKS = (
    select(
        block.c.dataset_id.label("id"),
        func.sum(block.c.files).label("files"),
        func.sum(block.c.bytes).label("bytes"),
        func.sum(block.c.events).label("events"),
    )
    .group_by(block.c.dataset_id)
    .subquery("in_blocks")
)


def _miscounted(table: Any, counted: Any) -> Select[Any]:
    differs = [table.c[name] != func.coalesce(counted.c[name], 0) for name in ("files", "bytes", "events")]
    return select(table.c.id).outerjoin_from(table, counted, counted.c.id == table.c.id).where(or_(*differs))


def _held(*conditions: ColumnElement[bool]) -> ColumnElement[bool]:
    return exists(1).where(block_replica.c.block_id == block.c.id, *conditions).correlate(block)


_PARENT = data_file.alias("parent")
_OPEN = block.c.state == BlockState.OPEN
_COMPLETE = block_replica.c.state == ReplicaState.COMPLETE
_STAYS = block_replica.c.delete_at.is_(None)
_AT_ORIGIN = block_replica.c.se_id == block.c.origin_se_id

INVARIANTS: tuple[Invariant, ...] = (
    Invariant(
        "block counters",
        "a block counts its files, their bytes and the events that are known",
        _miscounted(block, _IN_FILES),
    ),
    Invariant(
        "dataset counters",
        "a dataset's counters are the sums of its blocks'",
        _miscounted(dataset, _IN_BLOCKS),
    ),
    Invariant("closed blocks", "a dataset counts its closed blocks", recount.CLOSED),
    Invariant(
        "holdings", "a storage element's holding of a dataset counts its COMPLETE replicas", recount.HOLDINGS
    ),
    Invariant("uncounted holding", "what a storage element holds is counted", recount.NEW_HOLDINGS),
    Invariant("space in use", "a storage element's use is the sum of its replicas", recount.USES),
    Invariant("uncounted use", "what a storage element holds is counted in its use", recount.NEW_USES),
    Invariant("empty block", "every block has a file", select(block.c.id).where(block.c.files == 0)),
    Invariant(
        "orphaned file",
        "every file belongs to a block and a directory that exist",
        select(data_file.c.id)
        .outerjoin_from(data_file, block, block.c.id == data_file.c.block_id)
        .outerjoin(dir_, dir_.c.id == data_file.c.dir_id)
        .where(or_(block.c.id.is_(None), dir_.c.id.is_(None))),
    ),
    Invariant(
        "one open block",
        "a dataset has at most one open block per origin",
        select(block.c.dataset_id, block.c.origin_se_id)
        .where(_OPEN)
        .group_by(block.c.dataset_id, block.c.origin_se_id)
        .having(func.count() > 1),
    ),
    Invariant(
        "open block at its origin",
        "an open block is COMPLETE at its origin",
        select(block.c.id).where(_OPEN, ~_held(_AT_ORIGIN, _COMPLETE)),
    ),
    Invariant(
        "open block elsewhere",
        "an open block has no replica but the one at its origin",
        select(block.c.id).where(_OPEN, _held(~_AT_ORIGIN)),
    ),
    Invariant(
        "lost block",
        "every closed block has a COMPLETE replica",
        select(block.c.id).where(block.c.state == BlockState.CLOSED, ~_held(_COMPLETE)),
    ),
    Invariant(
        "block to go",
        "of a closed block a COMPLETE replica is to stay",
        select(block.c.id).where(
            block.c.state == BlockState.CLOSED, ~_held(_COMPLETE, block_replica.c.delete_at.is_(None))
        ),
    ),
    Invariant(
        "closing time",
        "a block has a closing time exactly when it is CLOSED",
        select(block.c.id).where(
            or_(
                and_(_OPEN, block.c.closed_at.is_not(None)),
                and_(block.c.state == BlockState.CLOSED, block.c.closed_at.is_(None)),
            )
        ),
    ),
    Invariant(
        "hops",
        "a COMPLETE replica of no hops is at its block's origin",
        select(block_replica.c.block_id, block_replica.c.se_id)
        .join_from(block_replica, block)
        .where(_COMPLETE, block_replica.c.hops < 1, ~_AT_ORIGIN),
    ),
    Invariant(
        "file exception",
        "a file is missing or bad only at COMPLETE replicas of its own block",
        select(file_exception.c.block_id, file_exception.c.se_id, file_exception.c.file_id)
        .outerjoin_from(file_exception, data_file, data_file.c.id == file_exception.c.file_id)
        .outerjoin(
            block_replica,
            and_(
                block_replica.c.block_id == file_exception.c.block_id,
                block_replica.c.se_id == file_exception.c.se_id,
                _COMPLETE,
            ),
        )
        .where(
            or_(
                block_replica.c.se_id.is_(None),
                data_file.c.id.is_(None),
                data_file.c.block_id != file_exception.c.block_id,
            )
        ),
    ),
    Invariant(
        "invalid file",
        "only a registered file is invalid",
        select(invalid_file.c.file_id)
        .outerjoin_from(invalid_file, data_file, data_file.c.id == invalid_file.c.file_id)
        .where(data_file.c.id.is_(None)),
    ),
    Invariant(
        "orphaned lumi range",
        "lumi ranges are those of registered files",
        select(file_run.c.file_id, file_run.c.run)
        .outerjoin_from(file_run, data_file, data_file.c.id == file_run.c.file_id)
        .where(data_file.c.id.is_(None)),
    ),
    Invariant(
        "orphaned parent",
        "files and those they were made from are registered",
        select(file_parent.c.file_id, file_parent.c.parent_id)
        .outerjoin_from(file_parent, data_file, data_file.c.id == file_parent.c.file_id)
        .outerjoin(_PARENT, _PARENT.c.id == file_parent.c.parent_id)
        .where(or_(data_file.c.id.is_(None), _PARENT.c.id.is_(None))),
    ),
    Invariant(
        "lumis of a block",
        "what a block knows of a run reaches as far as the lumis of its files",
        recount.SPANS,
    ),
    Invariant(
        "lumi range",
        "a lumi range does not end before it begins",
        select(file_run.c.file_id, file_run.c.run).where(file_run.c.last_lumi < file_run.c.first_lumi),
    ),
    Invariant(
        "refused wish",
        "a wish is refused for a reason",
        select(wish.c.id).where(wish.c.state == WishState.REFUSED, wish.c.code.is_(None)),
    ),
)
