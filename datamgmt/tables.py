"""Tables of data in motion: subscriptions, wanted replicas, transfers, what links have shown."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
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

import catalogs.tables  # noqa: F401  (foreign keys point down)
from datamgmt.subscription_states import SubscriptionState
from datamgmt.transfer_states import TransferState
from gridcore.db.types import EnumText, Json, Key, count, flag, key, label, metadata, moment

subscription = Table(
    "subscription",
    metadata,
    key("id", primary_key=True),
    key("dataset_id", ForeignKey("dataset.id")),
    key("se_id", ForeignKey("se.id")),
    Column("state", EnumText(SubscriptionState), nullable=False),
    flag("custodial"),
    Column("priority", Integer, nullable=False),
    label("requester", 60),
    label("acct_group", 60),
    label("code", 40, nullable=True),
    Column("params", Json),
    moment("created_at", nullable=False),
    moment("updated_at", nullable=False),
    UniqueConstraint("dataset_id", "se_id", name="uq_subscription_dataset_se"),
    Index("ix_subscription_state", "state"),
)

subscription_history = Table(
    "subscription_history",
    metadata,
    Column("seq", Key, Identity(), primary_key=True),
    key("subscription_id"),
    Column("frm", EnumText(SubscriptionState)),
    Column("dst", EnumText(SubscriptionState), nullable=False),
    moment("at", nullable=False),
    label("actor", 100),
    label("code", 40, nullable=True),
    Index("ix_subscription_history_sid", "subscription_id"),
)

#: A wanted replica of a closed block and the router's last word on it. Gone once the replica is COMPLETE.
block_dest = Table(
    "block_dest",
    metadata,
    key("block_id", ForeignKey("block.id")),
    key("se_id", ForeignKey("se.id")),
    key("subscription_id", ForeignKey("subscription.id"), nullable=True),
    #: Set for a transit copy: the SE it is on the way to.
    key("transit_for_id", ForeignKey("se.id"), nullable=True),
    flag("custodial"),
    Column("priority", Integer, nullable=False),
    #: The hop now under way; null while there is none.
    key("src_se_id", ForeignKey("se.id"), nullable=True),
    Column("path", Json),
    Column("cost", Float),
    moment("valid_until"),
    label("code", 40),
    Column("params", Json),
    moment("decided_at", nullable=False),
    moment("created_at", nullable=False),
    PrimaryKeyConstraint("block_id", "se_id"),
    Index("ix_block_dest_se_id", "se_id", "priority"),
    Index("ix_block_dest_subscription_id", "subscription_id"),
)

#: One file, one hop.
transfer = Table(
    "transfer",
    metadata,
    key("id", primary_key=True),
    key("file_id", ForeignKey("data_file.id")),
    key("block_id", ForeignKey("block.id")),
    key("src_se_id", ForeignKey("se.id")),
    key("dst_se_id", ForeignKey("se.id")),
    Column("state", EnumText(TransferState), nullable=False),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("bytes", BigInteger, nullable=False),
    Column("priority", Integer, nullable=False),
    moment("not_before"),
    label("claimed_by", 200, nullable=True),
    moment("claimed_at"),
    moment("ended_at"),
    label("error_class", 20, nullable=True),
    label("error", 1000, nullable=True),
    moment("created_at", nullable=False),
    moment("updated_at", nullable=False),
    UniqueConstraint("file_id", "dst_se_id"),
    Index("ix_transfer_block_id", "block_id", "dst_se_id", "state"),
    Index("ix_transfer_link", "src_se_id", "dst_se_id", "state"),
    Index("ix_transfer_dst_se_id", "dst_se_id", "state"),
    Index(
        "ix_transfer_waiting",
        "dst_se_id",
        "priority",
        "id",
        sqlite_where=text("state IN ('QUEUED', 'RETRY_WAIT')"),
        postgresql_where=text("state IN ('QUEUED', 'RETRY_WAIT')"),
    ),
)

#: What a link has shown: rate, failures, its window and why, totals.
link_state = Table(
    "link_state",
    metadata,
    key("link_id", ForeignKey("link.id"), primary_key=True),
    Column("state", Json, nullable=False),
    label("rationale", 300, nullable=True),
    label("last_error", 1000, nullable=True),
    moment("parked_until"),
    count("files_ok"),
    count("files_bad"),
    count("bytes_ok"),
    moment("updated_at", nullable=False),
)

#: Five-minute bins of finished transfers per link.
link_bin = Table(
    "link_bin",
    metadata,
    key("link_id", ForeignKey("link.id")),
    moment("bin_start", nullable=False),
    count("files_ok"),
    count("files_bad"),
    count("bytes_ok"),
    Column("busy_s", Float, nullable=False, server_default="0"),
    PrimaryKeyConstraint("link_id", "bin_start"),
)
