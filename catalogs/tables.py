"""Tables of what exists and where."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ColumnElement,
    Float,
    ForeignKey,
    Identity,
    Index,
    Integer,
    PrimaryKeyConstraint,
    Table,
    UniqueConstraint,
    literal_column,
    text,
)

from catalogs.states import (
    Access,
    BlockState,
    DatasetState,
    InvalidCode,
    ReplicaState,
    Switch,
    WishKind,
    WishState,
)
from gridcore.db.types import EnumText, Json, Key, count, flag, key, label, metadata, moment


def _where(condition: str) -> dict[str, Any]:
    """For an index of the rows that fulfil it; Oracle indexes all."""
    return {"sqlite_where": text(condition), "postgresql_where": text(condition)}


site = Table(
    "site",
    metadata,
    key("id", primary_key=True),
    label("name", 40),
    Column("tier", Integer, nullable=False),
    Column("state", EnumText(Switch), nullable=False),
    label("note", 400, nullable=True),
    UniqueConstraint("name"),
)

#: A storage element: where replicas live, reached through its own trivial file catalog.
se = Table(
    "se",
    metadata,
    key("id", primary_key=True),
    label("name", 60),
    key("site_id", ForeignKey("site.id")),
    label("kind", 10),
    label("protocol", 30),
    Column("tfc", Json, nullable=False),
    label("root", 500, nullable=True),
    Column("state", EnumText(Switch), nullable=False),
    #: What it may hold; null for no limit.
    Column("space_bytes", BigInteger),
    #: Files deleted there in an hour, at most; null for no limit of its own.
    Column("delete_rate", Integer),
    #: How its rules are read, where not in the first dialect.
    label("dialect", 10, nullable=True),
    UniqueConstraint("name"),
)

link = Table(
    "link",
    metadata,
    key("id", primary_key=True),
    key("src_se_id", ForeignKey("se.id")),
    key("dst_se_id", ForeignKey("se.id")),
    Column("state", EnumText(Switch), nullable=False),
    Column("distance", Float, nullable=False),
    label("tool", 20),
    label("note", 400, nullable=True),
    #: Files in flight, and bytes per second, at most; null for what the rules find.
    Column("window_max", Integer),
    Column("rate_cap", Float),
    #: Within one place: costs next to nothing.
    flag("local"),
    UniqueConstraint("src_se_id", "dst_se_id"),
    CheckConstraint("src_se_id <> dst_se_id", name="not_itself"),
)

dataset = Table(
    "dataset",
    metadata,
    key("id", primary_key=True),
    label("name", 220),
    Column("state", EnumText(DatasetState), nullable=False),
    Column("block_files", Integer, nullable=False),
    Column("block_bytes", BigInteger, nullable=False),
    Column("block_age_s", Float, nullable=False),
    count("files"),
    count("bytes"),
    count("events"),
    moment("created_at", nullable=False),
    #: The three parts of its name; null where older code has made it.
    label("prim", 99, nullable=True),
    label("proc", 99, nullable=True),
    label("data_tier", 20, nullable=True),
    Column("access_type", EnumText(Access), nullable=False, server_default=Access.VALID.value),
    label("description", 1000, nullable=True),
    label("acct_group", 60, nullable=True),
    count("closed_blocks"),
    #: 1 while allocation has to look at it.
    flag("unsettled", server_default="1"),
    UniqueConstraint("name"),
    Index("ix_dataset_unsettled", "id", **_where("unsettled = 1")),
    Index("ix_dataset_data_tier", "data_tier", "prim"),
    Index("ix_dataset_prim", "prim"),
)

#: What its owner says of a dataset: a number where it is one, else a text.
dataset_meta = Table(
    "dataset_meta",
    metadata,
    key("dataset_id", ForeignKey("dataset.id")),
    label("name", 40),
    Column("num", Float),
    label("txt", 200, nullable=True),
    PrimaryKeyConstraint("dataset_id", "name"),
    Index("ix_dataset_meta_num", "name", "num"),
    Index("ix_dataset_meta_txt", "name", "txt"),
)

#: Which datasets a dataset's files were made from.
dataset_parent = Table(
    "dataset_parent",
    metadata,
    key("dataset_id", ForeignKey("dataset.id")),
    key("parent_id", ForeignKey("dataset.id")),
    PrimaryKeyConstraint("dataset_id", "parent_id"),
    Index("ix_dataset_parent_parent_id", "parent_id"),
)

dataset_history = Table(
    "dataset_history",
    metadata,
    Column("seq", Key, Identity(), primary_key=True),
    key("dataset_id"),
    moment("at", nullable=False),
    label("actor", 100),
    label("change", 40),
    Column("detail", Json),
    Index("ix_dataset_history_dataset_id", "dataset_id"),
)

#: What an SE holds of a dataset: its COMPLETE replicas, and those of them whose block is closed.
holding = Table(
    "holding",
    metadata,
    key("dataset_id"),
    key("se_id"),
    count("blocks"),
    count("closed"),
    count("files"),
    count("bytes"),
    PrimaryKeyConstraint("dataset_id", "se_id"),
    Index("ix_holding_se_id", "se_id", "dataset_id"),
)

#: What an SE holds in all, by the states of its replicas; `transit_bytes` is a part of complete and arriving.
se_use = Table(
    "se_use",
    metadata,
    key("se_id", primary_key=True),
    count("files"),
    count("complete_bytes"),
    count("arriving_bytes"),
    count("leaving_bytes"),
    count("transit_bytes"),
)

block = Table(
    "block",
    metadata,
    key("id", primary_key=True),
    key("dataset_id", ForeignKey("dataset.id")),
    label("name", 290),
    key("origin_se_id", ForeignKey("se.id")),
    Column("state", EnumText(BlockState), nullable=False),
    count("files"),
    count("bytes"),
    count("events"),
    moment("created_at", nullable=False),
    moment("closed_at"),
    #: When it is old enough to be closed; null where older code has made it.
    moment("close_by"),
    UniqueConstraint("name"),
    Index("ix_block_dataset_id_state", "dataset_id", "state"),
    Index("ix_block_open", "dataset_id", "origin_se_id", **_where("state = 'OPEN'")),
    Index("ix_block_close_by", "close_by", **_where("state = 'OPEN'")),
)

#: In words of the indexes of open blocks, which a bind would keep from being used.
IS_OPEN: ColumnElement[bool] = block.c.state == literal_column("'OPEN'")

block_history = Table(
    "block_history",
    metadata,
    Column("seq", Key, Identity(), primary_key=True),
    key("block_id"),
    Column("frm", EnumText(BlockState)),
    Column("dst", EnumText(BlockState), nullable=False),
    moment("at", nullable=False),
    label("code", 40),
    Index("ix_block_history_block_id", "block_id"),
)

dir_ = Table(
    "dir",
    metadata,
    key("id", primary_key=True),
    label("path", 500),
    UniqueConstraint("path"),
)

#: A registered file. `file` and `size` are reserved words of Oracle. No foreign keys: two of them more than
#: halve the speed of registration on PostgreSQL; invariants hold what they would.
data_file = Table(
    "data_file",
    metadata,
    key("id", primary_key=True),
    key("block_id"),
    key("dir_id"),
    label("name", 200),
    Column("bytes", BigInteger, nullable=False),
    Column("adler32", BigInteger, nullable=False),
    Column("events", BigInteger),
    moment("created_at", nullable=False),
    UniqueConstraint("dir_id", "name"),
    Index("ix_data_file_block_id", "block_id"),
)

file_run = Table(
    "file_run",
    metadata,
    key("file_id"),
    Column("run", BigInteger, nullable=False),
    Column("first_lumi", BigInteger, nullable=False),
    Column("last_lumi", BigInteger, nullable=False),
    PrimaryKeyConstraint("file_id", "run", "first_lumi"),
)

file_parent = Table(
    "file_parent",
    metadata,
    key("file_id"),
    key("parent_id"),
    PrimaryKeyConstraint("file_id", "parent_id"),
    Index("ix_file_parent_parent_id", "parent_id"),
)

#: From the first to the last lumi of a run in a block: which blocks may hold files of a lumi.
block_run = Table(
    "block_run",
    metadata,
    key("block_id"),
    Column("run", BigInteger, nullable=False),
    Column("first_lumi", BigInteger, nullable=False),
    Column("last_lumi", BigInteger, nullable=False),
    PrimaryKeyConstraint("block_id", "run"),
    Index("ix_block_run_run", "run", "block_id"),
)

#: Files nobody shall read, few among many; `told_at` once the jobs that list it have been.
invalid_file = Table(
    "invalid_file",
    metadata,
    key("file_id", primary_key=True),
    Column("code", EnumText(InvalidCode), nullable=False),
    label("actor", 100),
    moment("at", nullable=False),
    moment("told_at"),
    Index("ix_invalid_file_told_at", "told_at"),
)

file_history = Table(
    "file_history",
    metadata,
    Column("seq", Key, Identity(), primary_key=True),
    key("file_id"),
    key("se_id", nullable=True),
    moment("at", nullable=False),
    label("actor", 100),
    label("change", 40),
    Column("detail", Json),
    Index("ix_file_history_file_id", "file_id"),
)

#: A block at an SE. `hops` counts the WAN transfers it took from the block's origin.
block_replica = Table(
    "block_replica",
    metadata,
    key("block_id", ForeignKey("block.id")),
    key("se_id", ForeignKey("se.id")),
    Column("state", EnumText(ReplicaState), nullable=False),
    flag("custodial"),
    flag("transit"),
    Column("hops", Integer, nullable=False, server_default="0"),
    moment("created_at", nullable=False),
    moment("completed_at"),
    #: Whose quota it is charged to, and the bytes charged; null for nobody's.
    label("acct_group", 60, nullable=True),
    count("charged"),
    #: When it is to go: until then it may be kept after all, and is read, but protects no other copy.
    moment("delete_at"),
    PrimaryKeyConstraint("block_id", "se_id"),
    Index("ix_block_replica_se_id", "se_id", "block_id"),
    Index("ix_block_replica_busy", "se_id", "state", **_where("state <> 'COMPLETE'")),
    Index("ix_block_replica_transit", "block_id", **_where("transit = 1")),
)

file_exception = Table(
    "file_exception",
    metadata,
    key("block_id"),
    key("se_id"),
    key("file_id", ForeignKey("data_file.id")),
    label("kind", 10),
    moment("at", nullable=False),
    label("note", 200, nullable=True),
    label("actor", 100, nullable=True),
    PrimaryKeyConstraint("block_id", "se_id", "file_id"),
    Index("ix_file_exception_se_id", "se_id", "block_id"),
)

#: Where prodsys and datamgmt meet: one writes what it wants, the other serves it and says why not yet.
wish = Table(
    "wish",
    metadata,
    key("id", primary_key=True),
    Column("kind", EnumText(WishKind), nullable=False),
    label("subject_kind", 10),
    label("subject", 600),
    key("se_id", ForeignKey("se.id")),
    label("owner", 200),
    #: Of a place wish: whether this shall be a custodial copy.
    flag("custodial"),
    moment("not_before"),
    Column("state", EnumText(WishState), nullable=False),
    label("code", 40, nullable=True),
    Column("params", Json),
    moment("created_at", nullable=False),
    moment("updated_at", nullable=False),
    UniqueConstraint("kind", "subject", "se_id", "owner", name="uq_wish_kind_subject"),
    Index("ix_wish_owner", "owner"),
    Index("ix_wish_state_kind_not_before", "state", "kind", "not_before"),
)
