"""Tables of the foundation: keys, leases, heartbeats, outbox, quotas, accounts, audit."""

from __future__ import annotations

from sqlalchemy import Column, Identity, Index, Integer, PrimaryKeyConstraint, String, Table, UniqueConstraint

from gridcore.db.types import Json, Key, count, key, label, metadata, moment

instance = Table(
    "instance",
    metadata,
    key("id", primary_key=True),
    label("uuid", 36),
    moment("created_at", nullable=False),
)

id_range = Table(
    "id_range",
    metadata,
    label("name", 30, primary_key=True),
    count("next_id", server_default="1"),
)

#: One owner's right to a named piece of work until a time; fence counts the owners.
lease = Table(
    "lease",
    metadata,
    key("id", primary_key=True),
    label("name", 120),
    label("owner", 200, nullable=True),
    label("host", 100, nullable=True),
    label("boot_id", 40, nullable=True),
    Column("pid", Integer),
    Column("started", Key),
    count("fence"),
    moment("expires_at"),
    UniqueConstraint("name"),
)

#: One row per running agent process and duty.
heartbeat = Table(
    "heartbeat",
    metadata,
    label("agent", 60),
    label("owner", 200),
    label("host", 100),
    Column("pid", Integer, nullable=False),
    moment("started_at", nullable=False),
    moment("beat_at", nullable=False),
    moment("progress_at"),
    count("cycles"),
    label("state", 20),
    Column("counts", Json),
    label("note", 400, nullable=True),
    PrimaryKeyConstraint("agent", "owner"),
)

outbox = Table(
    "outbox",
    metadata,
    Column("seq", Key, Identity(), primary_key=True),
    label("kind", 40),
    label("subject", 600),
    Column("body", Json),
    moment("created_at", nullable=False),
    label("claimed_by", 200, nullable=True),
    moment("claimed_at"),
    moment("sent_at"),
    Index("ix_outbox_sent_at_seq", "sent_at", "seq"),
)

#: (owner, limit, used): space, slots, whatever is counted before it is used.
quota = Table(
    "quota",
    metadata,
    key("id", primary_key=True),
    label("owner", 120),
    count("limit_value"),
    count("used_value"),
    UniqueConstraint("owner"),
)

account = Table(
    "account",
    metadata,
    key("id", primary_key=True),
    label("name", 60),
    label("full_name", 200, nullable=True),
    UniqueConstraint("name"),
)

account_role = Table(
    "account_role",
    metadata,
    label("account", 60),
    label("acct_group", 60),
    label("acct_role", 30),
    PrimaryKeyConstraint("account", "acct_group", "acct_role"),
)

audit_log = Table(
    "audit_log",
    metadata,
    Column("seq", Key, Identity(), primary_key=True),
    moment("at", nullable=False),
    label("actor", 100),
    label("verb", 40),
    label("subject", 600),
    Column("detail", Json),
    Index("ix_audit_log_subject", "subject"),
)

#: Files already applied, by name and digest.
revision = Table(
    "revision",
    metadata,
    Column("seq", Key, Identity(), primary_key=True),
    moment("at", nullable=False),
    label("actor", 100),
    label("digest", 64),
    Column("summary", String(1000)),
)
