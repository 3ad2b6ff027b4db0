"""Tables of what exists and where."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Identity,
    Index,
    Integer,
    PrimaryKeyConstraint,
    Table,
    UniqueConstraint,
    text,
)

from catalogs.states import BlockState, DatasetState, ReplicaState, Switch, WishKind, WishState
from gridcore.db.types import EnumText, Json, Key, count, flag, key, label, metadata, moment

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
    UniqueConstraint("name"),
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
    UniqueConstraint("name"),
    Index("ix_block_dataset_id_state", "dataset_id", "state"),
    Index("ix_block_state_created_at", "state", "created_at"),
)

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

#: A registered file. `file` and `size` are reserved words of Oracle.
data_file = Table(
    "data_file",
    metadata,
    key("id", primary_key=True),
    key("block_id", ForeignKey("block.id")),
    key("dir_id", ForeignKey("dir.id")),
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
    key("file_id", ForeignKey("data_file.id")),
    Column("run", BigInteger, nullable=False),
    Column("first_lumi", BigInteger, nullable=False),
    Column("last_lumi", BigInteger, nullable=False),
    PrimaryKeyConstraint("file_id", "run", "first_lumi"),
)

file_parent = Table(
    "file_parent",
    metadata,
    key("file_id", ForeignKey("data_file.id")),
    key("parent_id", ForeignKey("data_file.id")),
    PrimaryKeyConstraint("file_id", "parent_id"),
    Index("ix_file_parent_parent_id", "parent_id"),
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
    PrimaryKeyConstraint("block_id", "se_id"),
    Index("ix_block_replica_se_id_state", "se_id", "state"),
    Index(
        "ix_block_replica_transit",
        "block_id",
        sqlite_where=text("transit = 1"),
        postgresql_where=text("transit = 1"),
    ),
)

file_exception = Table(
    "file_exception",
    metadata,
    key("block_id"),
    key("se_id"),
    key("file_id", ForeignKey("data_file.id")),
    label("kind", 10),
    moment("at", nullable=False),
    PrimaryKeyConstraint("block_id", "se_id", "file_id"),
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
