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
)

import catalogs.tables  # noqa: F401  (foreign keys point down)
from datamgmt.deletion_states import DeletionState
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
    #: The one block it is for; 0 for all of the dataset, those to come too.
    key("block_id", server_default="0"),
    #: Other copies are let go once this one is complete.
    flag("move"),
    #: Of a move: the one SE whose copies are let go; null for all others nobody asks for.
    key("move_from_se_id", nullable=True),
    #: For the blocks there were when it was made, no later ones.
    flag("static"),
    #: For blocks made after this moment only.
    moment("fill_after"),
    moment("suspended_until"),
    label("comments", 500, nullable=True),
    #: The client's id of what was asked for at once; who decided it, and when.
    label("ask_id", 36, nullable=True),
    label("decided_by", 100, nullable=True),
    moment("decided_at"),
    count("files_done"),
    count("bytes_done"),
    #: When it will be complete: as likely as not, and nine times in ten.
    moment("eta_p50"),
    moment("eta_p90"),
    moment("complete_at"),
    UniqueConstraint("dataset_id", "se_id", "block_id", name="uq_subscription_subject"),
    Index("ix_subscription_state", "state"),
    Index("ix_subscription_se_id", "se_id"),
    Index("ix_subscription_ask_id", "ask_id"),
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
#: Due for the router when `valid_until` has passed: 0 is at once, and so is null, which older code writes.
block_dest = Table(
    "block_dest",
    metadata,
    key("block_id", ForeignKey("block.id")),
    key("se_id", ForeignKey("se.id")),
    key("subscription_id", nullable=True),
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
    #: What the block holds, which is closed.
    count("bytes"),
    count("files"),
    #: The last file queued; files go in the order of their ids.
    key("cursor_id", server_default="0"),
    #: The first stop of a route of several hops.
    key("via_se_id", nullable=True),
    Column("attempts", Integer, nullable=False, server_default="0"),
    moment("failing_since"),
    #: 1 where the replica is COMPLETE and only its excepted files are wanted.
    flag("repair"),
    #: In whose quota its bytes are reserved, until its replica begins and is charged; null for nobody's.
    label("acct_group", 60, nullable=True),
    PrimaryKeyConstraint("block_id", "se_id"),
    Index("ix_block_dest_se_id", "se_id", "priority"),
    Index("ix_block_dest_subscription_id", "subscription_id"),
    Index("ix_block_dest_due", "valid_until", "priority"),
    Index("ix_block_dest_hop", "src_se_id", "se_id"),
)

#: The cursor of a wanted replica all files of which are queued.
ALL_QUEUED = 2**63 - 1

#: Until when the route of a wanted replica passes an SE, and so keeps room in its transit space.
route_via = Table(
    "route_via",
    metadata,
    key("block_id"),
    key("se_id"),
    key("via_se_id"),
    Column("pos", Integer, nullable=False),
    count("bytes"),
    moment("lease_until", nullable=False),
    PrimaryKeyConstraint("block_id", "se_id", "via_se_id"),
    Index("ix_route_via_via_se_id", "via_se_id", "block_id"),
    Index("ix_route_via_lease_until", "lease_until"),
)

#: What the router said when, kept for a while.
route_history = Table(
    "route_history",
    metadata,
    Column("seq", Key, Identity(), primary_key=True),
    key("block_id"),
    key("se_id"),
    moment("at", nullable=False),
    label("code", 40),
    Column("path", Json),
    Column("cost", Float),
    Column("params", Json),
    Index("ix_route_history_block_id", "block_id", "se_id"),
    Index("ix_route_history_at", "at"),
)

#: A replica somebody wants away: asked for, decided, carried out.
deletion = Table(
    "deletion",
    metadata,
    key("id", primary_key=True),
    key("block_id"),
    key("se_id"),
    Column("state", EnumText(DeletionState), nullable=False),
    flag("custodial_too"),
    #: Though a subscription asks for it, which will have it copied anew.
    flag("subscribed_too"),
    label("ask_id", 36),
    label("requester", 60),
    label("acct_group", 60),
    label("code", 40, nullable=True),
    Column("params", Json),
    label("comments", 500, nullable=True),
    label("decided_by", 100, nullable=True),
    moment("decided_at"),
    #: When it is carried out; until then it can be undone.
    moment("due_at"),
    moment("created_at", nullable=False),
    moment("updated_at", nullable=False),
    UniqueConstraint("block_id", "se_id", "ask_id", name="uq_deletion_subject"),
    Index("ix_deletion_state", "state", "due_at"),
    Index("ix_deletion_ask_id", "ask_id"),
)

#: One file, one hop. No foreign keys, and no index names the state: rows change in place, several times each.
transfer = Table(
    "transfer",
    metadata,
    key("id", primary_key=True),
    key("file_id"),
    key("block_id"),
    key("src_se_id"),
    key("dst_se_id"),
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
    label("acct_group", 60, nullable=True),
    UniqueConstraint("file_id", "dst_se_id"),
    Index("ix_transfer_block_id", "block_id", "dst_se_id"),
)
Index("ix_transfer_waiting", transfer.c.dst_se_id, transfer.c.priority.desc(), transfer.c.id)

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
    #: The same as in `state`, which older code reads; null where older code wrote last.
    Column("window_files", Float),
    Column("rate", Float),
    Column("failures", Integer),
    moment("opened_at"),
    #: OPEN or PARKED by an operator's word, until a time or for good.
    label("forced", 10, nullable=True),
    label("forced_by", 100, nullable=True),
    moment("forced_until"),
    count("queued_files"),
    count("queued_bytes"),
    count("active_files"),
)

#: Errors of a link by class: how many, and one of them.
transfer_error = Table(
    "transfer_error",
    metadata,
    key("link_id"),
    label("error_class", 30),
    count("n"),
    moment("first_at", nullable=False),
    moment("last_at", nullable=False),
    label("sample", 1000),
    key("file_id", nullable=True),
    PrimaryKeyConstraint("link_id", "error_class"),
)

#: What a group's files are worth in a queue; 1 where it is not named.
group_weight = Table(
    "group_weight",
    metadata,
    label("acct_group", 60, primary_key=True),
    Column("weight", Float, nullable=False),
)

#: Bytes a group has lately sent over a link, decayed to the moment `at`.
link_use = Table(
    "link_use",
    metadata,
    key("link_id"),
    label("acct_group", 60),
    Column("used", Float, nullable=False, server_default="0"),
    moment("at", nullable=False),
    PrimaryKeyConstraint("link_id", "acct_group"),
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
