"""The first schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "account",
        sa.Column("id", KEY, autoincrement=False, nullable=False),
        sa.Column("name", sa.String(length=60), nullable=False),
        sa.Column("full_name", sa.String(length=200), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_account")),
        sa.UniqueConstraint("name", name=op.f("uq_account_name")),
    )
    op.create_table(
        "account_role",
        sa.Column("account", sa.String(length=60), nullable=False),
        sa.Column("acct_group", sa.String(length=60), nullable=False),
        sa.Column("acct_role", sa.String(length=30), nullable=False),
        sa.PrimaryKeyConstraint("account", "acct_group", "acct_role", name=op.f("pk_account_role")),
    )
    op.create_table(
        "audit_log",
        sa.Column("seq", KEY, sa.Identity(always=False), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("actor", sa.String(length=100), nullable=False),
        sa.Column("verb", sa.String(length=40), nullable=False),
        sa.Column("subject", sa.String(length=600), nullable=False),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_audit_log")),
    )
    op.create_index("ix_audit_log_subject", "audit_log", ["subject"], unique=False)
    op.create_table(
        "block_history",
        sa.Column("seq", KEY, sa.Identity(always=False), nullable=False),
        sa.Column("block_id", KEY, autoincrement=False, nullable=False),
        sa.Column("frm", sa.String(20), nullable=True),
        sa.Column("dst", sa.String(20), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("code", sa.String(length=40), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_block_history")),
    )
    op.create_index("ix_block_history_block_id", "block_history", ["block_id"], unique=False)
    op.create_table(
        "dataset",
        sa.Column("id", KEY, autoincrement=False, nullable=False),
        sa.Column("name", sa.String(length=220), nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("block_files", sa.Integer(), nullable=False),
        sa.Column("block_bytes", sa.BigInteger(), nullable=False),
        sa.Column("block_age_s", sa.Float(), nullable=False),
        sa.Column("files", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("bytes", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("events", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_dataset")),
        sa.UniqueConstraint("name", name=op.f("uq_dataset_name")),
    )
    op.create_table(
        "dir",
        sa.Column("id", KEY, autoincrement=False, nullable=False),
        sa.Column("path", sa.String(length=500), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_dir")),
        sa.UniqueConstraint("path", name=op.f("uq_dir_path")),
    )
    op.create_table(
        "heartbeat",
        sa.Column("agent", sa.String(length=60), nullable=False),
        sa.Column("owner", sa.String(length=200), nullable=False),
        sa.Column("host", sa.String(length=100), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("beat_at", sa.BigInteger(), nullable=False),
        sa.Column("progress_at", sa.BigInteger(), nullable=True),
        sa.Column("cycles", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("counts", sa.Text(), nullable=True),
        sa.Column("note", sa.String(length=400), nullable=True),
        sa.PrimaryKeyConstraint("agent", "owner", name=op.f("pk_heartbeat")),
    )
    op.create_table(
        "id_range",
        sa.Column("name", sa.String(length=30), nullable=False),
        sa.Column("next_id", sa.BigInteger(), server_default="1", nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_id_range")),
    )
    op.create_table(
        "instance",
        sa.Column("id", KEY, autoincrement=False, nullable=False),
        sa.Column("uuid", sa.String(length=36), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_instance")),
    )
    op.create_table(
        "job_history",
        sa.Column("seq", KEY, sa.Identity(always=False), nullable=False),
        sa.Column("job_id", KEY, autoincrement=False, nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("frm", sa.String(20), nullable=True),
        sa.Column("dst", sa.String(20), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("code", sa.String(length=40), nullable=True),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_job_history")),
    )
    op.create_index("ix_job_history_job_id", "job_history", ["job_id"], unique=False)
    op.create_table(
        "lease",
        sa.Column("id", KEY, autoincrement=False, nullable=False),
        sa.Column("name", sa.String(length=120), nullable=False),
        sa.Column("owner", sa.String(length=200), nullable=True),
        sa.Column("host", sa.String(length=100), nullable=True),
        sa.Column("boot_id", sa.String(length=40), nullable=True),
        sa.Column("pid", sa.Integer(), nullable=True),
        sa.Column("started", KEY, nullable=True),
        sa.Column("fence", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_lease")),
        sa.UniqueConstraint("name", name=op.f("uq_lease_name")),
    )
    op.create_table(
        "outbox",
        sa.Column("seq", KEY, sa.Identity(always=False), nullable=False),
        sa.Column("kind", sa.String(length=40), nullable=False),
        sa.Column("subject", sa.String(length=600), nullable=False),
        sa.Column("body", sa.Text(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("claimed_by", sa.String(length=200), nullable=True),
        sa.Column("claimed_at", sa.BigInteger(), nullable=True),
        sa.Column("sent_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_outbox")),
    )
    op.create_index("ix_outbox_sent_at_seq", "outbox", ["sent_at", "seq"], unique=False)
    op.create_table(
        "port_call",
        sa.Column("id", sa.String(length=80), nullable=False),
        sa.Column("agent", sa.String(length=200), nullable=False),
        sa.Column("verb", sa.String(length=20), nullable=False),
        sa.Column("answer", sa.Text(), nullable=True),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_port_call")),
    )
    op.create_index("ix_port_call_at", "port_call", ["at"], unique=False)
    op.create_table(
        "queue",
        sa.Column("id", KEY, autoincrement=False, nullable=False),
        sa.Column("name", sa.String(length=30), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_queue")),
    )
    op.create_table(
        "quota",
        sa.Column("id", KEY, autoincrement=False, nullable=False),
        sa.Column("owner", sa.String(length=120), nullable=False),
        sa.Column("limit_value", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("used_value", sa.BigInteger(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_quota")),
        sa.UniqueConstraint("owner", name=op.f("uq_quota_owner")),
    )
    op.create_table(
        "request",
        sa.Column("id", KEY, autoincrement=False, nullable=False),
        sa.Column("client_id", sa.String(length=64), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("spec", sa.Text(), nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("requester", sa.String(length=60), nullable=False),
        sa.Column("acct_group", sa.String(length=60), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("decided_by", sa.String(length=60), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.Column("code", sa.String(length=40), nullable=True),
        sa.Column("params", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_request")),
        sa.UniqueConstraint("client_id", name=op.f("uq_request_client_id")),
    )
    op.create_index("ix_request_state", "request", ["state"], unique=False)
    op.create_table(
        "request_history",
        sa.Column("seq", KEY, sa.Identity(always=False), nullable=False),
        sa.Column("request_id", KEY, autoincrement=False, nullable=False),
        sa.Column("frm", sa.String(20), nullable=True),
        sa.Column("dst", sa.String(20), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("actor", sa.String(length=100), nullable=False),
        sa.Column("code", sa.String(length=40), nullable=True),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_request_history")),
    )
    op.create_index("ix_request_history_request_id", "request_history", ["request_id"], unique=False)
    op.create_table(
        "retry_rule",
        sa.Column("error_class", sa.String(length=20), nullable=False),
        sa.Column("rule", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("error_class", name=op.f("pk_retry_rule")),
    )
    op.create_table(
        "revision",
        sa.Column("seq", KEY, sa.Identity(always=False), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("actor", sa.String(length=100), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("summary", sa.String(length=1000), nullable=True),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_revision")),
    )
    op.create_table(
        "sandbox",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_sandbox")),
    )
    op.create_table(
        "share_node",
        sa.Column("id", KEY, autoincrement=False, nullable=False),
        sa.Column("parent_id", KEY, autoincrement=False, nullable=True),
        sa.Column("path", sa.String(length=200), nullable=False),
        sa.Column("target", sa.Float(), nullable=False),
        sa.Column("used", sa.Float(), server_default="0", nullable=False),
        sa.Column("used_at", sa.BigInteger(), nullable=False),
        sa.Column("running", sa.BigInteger(), server_default="0", nullable=False),
        sa.ForeignKeyConstraint(["parent_id"], ["share_node.id"], name=op.f("fk_share_node_parent_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_share_node")),
        sa.UniqueConstraint("path", name=op.f("uq_share_node_path")),
    )
    op.create_table(
        "site",
        sa.Column("id", KEY, autoincrement=False, nullable=False),
        sa.Column("name", sa.String(length=40), nullable=False),
        sa.Column("tier", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("note", sa.String(length=400), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_site")),
        sa.UniqueConstraint("name", name=op.f("uq_site_name")),
    )
    op.create_table(
        "subscription_history",
        sa.Column("seq", KEY, sa.Identity(always=False), nullable=False),
        sa.Column("subscription_id", KEY, autoincrement=False, nullable=False),
        sa.Column("frm", sa.String(20), nullable=True),
        sa.Column("dst", sa.String(20), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("actor", sa.String(length=100), nullable=False),
        sa.Column("code", sa.String(length=40), nullable=True),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_subscription_history")),
    )
    op.create_index("ix_subscription_history_sid", "subscription_history", ["subscription_id"], unique=False)
    op.create_table(
        "task_history",
        sa.Column("seq", KEY, sa.Identity(always=False), nullable=False),
        sa.Column("task_id", KEY, autoincrement=False, nullable=False),
        sa.Column("frm", sa.String(20), nullable=True),
        sa.Column("dst", sa.String(20), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("actor", sa.String(length=100), nullable=False),
        sa.Column("code", sa.String(length=40), nullable=True),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_task_history")),
    )
    op.create_index("ix_task_history_task_id", "task_history", ["task_id"], unique=False)
    op.create_table(
        "endpoint",
        sa.Column("id", KEY, autoincrement=False, nullable=False),
        sa.Column("name", sa.String(length=80), nullable=False),
        sa.Column("site_id", KEY, autoincrement=False, nullable=False),
        sa.Column("lease_id", KEY, autoincrement=False, nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("slots", sa.Integer(), nullable=False),
        sa.Column("offer", sa.Text(), nullable=False),
        sa.Column("config", sa.Text(), nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.ForeignKeyConstraint(["lease_id"], ["lease.id"], name=op.f("fk_endpoint_lease_id")),
        sa.ForeignKeyConstraint(["site_id"], ["site.id"], name=op.f("fk_endpoint_site_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_endpoint")),
        sa.UniqueConstraint("name", name=op.f("uq_endpoint_name")),
    )
    op.create_table(
        "request_site",
        sa.Column("request_id", KEY, autoincrement=False, nullable=False),
        sa.Column("site_id", KEY, autoincrement=False, nullable=False),
        sa.ForeignKeyConstraint(["request_id"], ["request.id"], name=op.f("fk_request_site_request_id")),
        sa.ForeignKeyConstraint(["site_id"], ["site.id"], name=op.f("fk_request_site_site_id")),
        sa.PrimaryKeyConstraint("request_id", "site_id", name=op.f("pk_request_site")),
    )
    op.create_table(
        "se",
        sa.Column("id", KEY, autoincrement=False, nullable=False),
        sa.Column("name", sa.String(length=60), nullable=False),
        sa.Column("site_id", KEY, autoincrement=False, nullable=False),
        sa.Column("kind", sa.String(length=10), nullable=False),
        sa.Column("protocol", sa.String(length=30), nullable=False),
        sa.Column("tfc", sa.Text(), nullable=False),
        sa.Column("root", sa.String(length=500), nullable=True),
        sa.Column("state", sa.String(20), nullable=False),
        sa.ForeignKeyConstraint(["site_id"], ["site.id"], name=op.f("fk_se_site_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_se")),
        sa.UniqueConstraint("name", name=op.f("uq_se_name")),
    )
    op.create_table(
        "task",
        sa.Column("id", KEY, autoincrement=False, nullable=False),
        sa.Column("request_id", KEY, autoincrement=False, nullable=True),
        sa.Column("client_id", sa.String(length=180), nullable=False),
        sa.Column("name", sa.String(length=250), nullable=False),
        sa.Column("task_type", sa.String(length=30), nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("spec", sa.Text(), nullable=False),
        sa.Column("sandbox", sa.String(length=64), nullable=True),
        sa.Column("leaf_id", KEY, autoincrement=False, nullable=False),
        sa.Column("requester", sa.String(length=60), nullable=False),
        sa.Column("acct_group", sa.String(length=60), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("input_dataset_id", KEY, autoincrement=False, nullable=True),
        sa.Column("output_dataset_id", KEY, autoincrement=False, nullable=True),
        sa.Column("unit_kind", sa.String(length=10), nullable=False),
        sa.Column("units_total", sa.BigInteger(), nullable=True),
        sa.Column("units_made", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("next_index", sa.BigInteger(), server_default="1", nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.Column("code", sa.String(length=40), nullable=True),
        sa.Column("params", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["input_dataset_id"], ["dataset.id"], name=op.f("fk_task_input_dataset_id")),
        sa.ForeignKeyConstraint(["leaf_id"], ["share_node.id"], name=op.f("fk_task_leaf_id")),
        sa.ForeignKeyConstraint(
            ["output_dataset_id"], ["dataset.id"], name=op.f("fk_task_output_dataset_id")
        ),
        sa.ForeignKeyConstraint(["request_id"], ["request.id"], name=op.f("fk_task_request_id")),
        sa.ForeignKeyConstraint(["sandbox"], ["sandbox.digest"], name=op.f("fk_task_sandbox")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_task")),
        sa.UniqueConstraint("client_id", name=op.f("uq_task_client_id")),
        sa.UniqueConstraint("name", name=op.f("uq_task_name")),
    )
    op.create_index("ix_task_request_id", "task", ["request_id"], unique=False)
    op.create_index("ix_task_state", "task", ["state"], unique=False)
    op.create_table(
        "block",
        sa.Column("id", KEY, autoincrement=False, nullable=False),
        sa.Column("dataset_id", KEY, autoincrement=False, nullable=False),
        sa.Column("name", sa.String(length=290), nullable=False),
        sa.Column("origin_se_id", KEY, autoincrement=False, nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("files", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("bytes", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("events", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("closed_at", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["dataset_id"], ["dataset.id"], name=op.f("fk_block_dataset_id")),
        sa.ForeignKeyConstraint(["origin_se_id"], ["se.id"], name=op.f("fk_block_origin_se_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_block")),
        sa.UniqueConstraint("name", name=op.f("uq_block_name")),
    )
    op.create_index("ix_block_dataset_id_state", "block", ["dataset_id", "state"], unique=False)
    op.create_index("ix_block_state_created_at", "block", ["state", "created_at"], unique=False)
    op.create_table(
        "link",
        sa.Column("id", KEY, autoincrement=False, nullable=False),
        sa.Column("src_se_id", KEY, autoincrement=False, nullable=False),
        sa.Column("dst_se_id", KEY, autoincrement=False, nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("distance", sa.Float(), nullable=False),
        sa.Column("tool", sa.String(length=20), nullable=False),
        sa.Column("note", sa.String(length=400), nullable=True),
        sa.CheckConstraint("src_se_id <> dst_se_id", name=op.f("ck_link_not_itself")),
        sa.ForeignKeyConstraint(["dst_se_id"], ["se.id"], name=op.f("fk_link_dst_se_id")),
        sa.ForeignKeyConstraint(["src_se_id"], ["se.id"], name=op.f("fk_link_src_se_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_link")),
        sa.UniqueConstraint("src_se_id", "dst_se_id", name=op.f("uq_link_src_se_id_dst_se_id")),
    )
    op.create_table(
        "subscription",
        sa.Column("id", KEY, autoincrement=False, nullable=False),
        sa.Column("dataset_id", KEY, autoincrement=False, nullable=False),
        sa.Column("se_id", KEY, autoincrement=False, nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("custodial", sa.Integer(), server_default="0", nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("requester", sa.String(length=60), nullable=False),
        sa.Column("acct_group", sa.String(length=60), nullable=False),
        sa.Column("code", sa.String(length=40), nullable=True),
        sa.Column("params", sa.Text(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["dataset_id"], ["dataset.id"], name=op.f("fk_subscription_dataset_id")),
        sa.ForeignKeyConstraint(["se_id"], ["se.id"], name=op.f("fk_subscription_se_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_subscription")),
        sa.UniqueConstraint("dataset_id", "se_id", name="uq_subscription_dataset_se"),
    )
    op.create_index("ix_subscription_state", "subscription", ["state"], unique=False)
    op.create_table(
        "task_count",
        sa.Column("task_id", KEY, autoincrement=False, nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("jobs", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("units", sa.BigInteger(), server_default="0", nullable=False),
        sa.ForeignKeyConstraint(["task_id"], ["task.id"], name=op.f("fk_task_count_task_id")),
        sa.PrimaryKeyConstraint("task_id", "kind", "state", name=op.f("pk_task_count")),
    )
    op.create_table(
        "wish",
        sa.Column("id", KEY, autoincrement=False, nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("subject_kind", sa.String(length=10), nullable=False),
        sa.Column("subject", sa.String(length=600), nullable=False),
        sa.Column("se_id", KEY, autoincrement=False, nullable=False),
        sa.Column("owner", sa.String(length=200), nullable=False),
        sa.Column("custodial", sa.Integer(), server_default="0", nullable=False),
        sa.Column("not_before", sa.BigInteger(), nullable=True),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("code", sa.String(length=40), nullable=True),
        sa.Column("params", sa.Text(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["se_id"], ["se.id"], name=op.f("fk_wish_se_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_wish")),
        sa.UniqueConstraint("kind", "subject", "se_id", "owner", name="uq_wish_kind_subject"),
    )
    op.create_index("ix_wish_owner", "wish", ["owner"], unique=False)
    op.create_index("ix_wish_state_kind_not_before", "wish", ["state", "kind", "not_before"], unique=False)
    op.create_table(
        "block_dest",
        sa.Column("block_id", KEY, autoincrement=False, nullable=False),
        sa.Column("se_id", KEY, autoincrement=False, nullable=False),
        sa.Column("subscription_id", KEY, autoincrement=False, nullable=True),
        sa.Column("transit_for_id", KEY, autoincrement=False, nullable=True),
        sa.Column("custodial", sa.Integer(), server_default="0", nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("src_se_id", KEY, autoincrement=False, nullable=True),
        sa.Column("path", sa.Text(), nullable=True),
        sa.Column("cost", sa.Float(), nullable=True),
        sa.Column("valid_until", sa.BigInteger(), nullable=True),
        sa.Column("code", sa.String(length=40), nullable=False),
        sa.Column("params", sa.Text(), nullable=True),
        sa.Column("decided_at", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["block_id"], ["block.id"], name=op.f("fk_block_dest_block_id")),
        sa.ForeignKeyConstraint(["se_id"], ["se.id"], name=op.f("fk_block_dest_se_id")),
        sa.ForeignKeyConstraint(["src_se_id"], ["se.id"], name=op.f("fk_block_dest_src_se_id")),
        sa.ForeignKeyConstraint(
            ["subscription_id"], ["subscription.id"], name=op.f("fk_block_dest_subscription_id")
        ),
        sa.ForeignKeyConstraint(["transit_for_id"], ["se.id"], name=op.f("fk_block_dest_transit_for_id")),
        sa.PrimaryKeyConstraint("block_id", "se_id", name=op.f("pk_block_dest")),
    )
    op.create_index("ix_block_dest_se_id", "block_dest", ["se_id", "priority"], unique=False)
    op.create_index("ix_block_dest_subscription_id", "block_dest", ["subscription_id"], unique=False)
    op.create_table(
        "block_replica",
        sa.Column("block_id", KEY, autoincrement=False, nullable=False),
        sa.Column("se_id", KEY, autoincrement=False, nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("custodial", sa.Integer(), server_default="0", nullable=False),
        sa.Column("transit", sa.Integer(), server_default="0", nullable=False),
        sa.Column("hops", sa.Integer(), server_default="0", nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("completed_at", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["block_id"], ["block.id"], name=op.f("fk_block_replica_block_id")),
        sa.ForeignKeyConstraint(["se_id"], ["se.id"], name=op.f("fk_block_replica_se_id")),
        sa.PrimaryKeyConstraint("block_id", "se_id", name=op.f("pk_block_replica")),
    )
    op.create_index("ix_block_replica_se_id_state", "block_replica", ["se_id", "state"], unique=False)
    op.create_index(
        "ix_block_replica_transit",
        "block_replica",
        ["block_id"],
        unique=False,
        sqlite_where=sa.text("transit = 1"),
        postgresql_where=sa.text("transit = 1"),
    )
    op.create_table(
        "data_file",
        sa.Column("id", KEY, autoincrement=False, nullable=False),
        sa.Column("block_id", KEY, autoincrement=False, nullable=False),
        sa.Column("dir_id", KEY, autoincrement=False, nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("adler32", sa.BigInteger(), nullable=False),
        sa.Column("events", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["block_id"], ["block.id"], name=op.f("fk_data_file_block_id")),
        sa.ForeignKeyConstraint(["dir_id"], ["dir.id"], name=op.f("fk_data_file_dir_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_data_file")),
        sa.UniqueConstraint("dir_id", "name", name=op.f("uq_data_file_dir_id_name")),
    )
    op.create_index("ix_data_file_block_id", "data_file", ["block_id"], unique=False)
    op.create_table(
        "job_class",
        sa.Column("id", KEY, autoincrement=False, nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("leaf_id", KEY, autoincrement=False, nullable=False),
        sa.Column("task_type", sa.String(length=30), nullable=False),
        sa.Column("requirements", sa.Text(), nullable=False),
        sa.Column("cores", sa.Integer(), nullable=False),
        sa.Column("input_block_id", KEY, autoincrement=False, nullable=True),
        sa.Column("ready", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("head_rank", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["input_block_id"], ["block.id"], name=op.f("fk_job_class_input_block_id")),
        sa.ForeignKeyConstraint(["leaf_id"], ["share_node.id"], name=op.f("fk_job_class_leaf_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job_class")),
        sa.UniqueConstraint("fingerprint", name=op.f("uq_job_class_fingerprint")),
    )
    op.create_index("ix_job_class_input_block_id", "job_class", ["input_block_id"], unique=False)
    op.create_table(
        "link_bin",
        sa.Column("link_id", KEY, autoincrement=False, nullable=False),
        sa.Column("bin_start", sa.BigInteger(), nullable=False),
        sa.Column("files_ok", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("files_bad", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("bytes_ok", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("busy_s", sa.Float(), server_default="0", nullable=False),
        sa.ForeignKeyConstraint(["link_id"], ["link.id"], name=op.f("fk_link_bin_link_id")),
        sa.PrimaryKeyConstraint("link_id", "bin_start", name=op.f("pk_link_bin")),
    )
    op.create_table(
        "link_state",
        sa.Column("link_id", KEY, autoincrement=False, nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("rationale", sa.String(length=300), nullable=True),
        sa.Column("last_error", sa.String(length=1000), nullable=True),
        sa.Column("parked_until", sa.BigInteger(), nullable=True),
        sa.Column("files_ok", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("files_bad", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("bytes_ok", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["link_id"], ["link.id"], name=op.f("fk_link_state_link_id")),
        sa.PrimaryKeyConstraint("link_id", name=op.f("pk_link_state")),
    )
    op.create_table(
        "task_block",
        sa.Column("task_id", KEY, autoincrement=False, nullable=False),
        sa.Column("block_id", KEY, autoincrement=False, nullable=False),
        sa.ForeignKeyConstraint(["block_id"], ["block.id"], name=op.f("fk_task_block_block_id")),
        sa.ForeignKeyConstraint(["task_id"], ["task.id"], name=op.f("fk_task_block_task_id")),
        sa.PrimaryKeyConstraint("task_id", "block_id", name=op.f("pk_task_block")),
    )
    op.create_table(
        "class_site",
        sa.Column("class_id", KEY, autoincrement=False, nullable=False),
        sa.Column("site_id", KEY, autoincrement=False, nullable=False),
        sa.Column("eligible", sa.Integer(), server_default="0", nullable=False),
        sa.Column("code", sa.String(length=40), nullable=True),
        sa.Column("params", sa.Text(), nullable=True),
        sa.Column("decided_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["class_id"], ["job_class.id"], name=op.f("fk_class_site_class_id")),
        sa.ForeignKeyConstraint(["site_id"], ["site.id"], name=op.f("fk_class_site_site_id")),
        sa.PrimaryKeyConstraint("class_id", "site_id", name=op.f("pk_class_site")),
    )
    op.create_index("ix_class_site_site_id", "class_site", ["site_id", "eligible"], unique=False)
    op.create_table(
        "file_exception",
        sa.Column("block_id", KEY, autoincrement=False, nullable=False),
        sa.Column("se_id", KEY, autoincrement=False, nullable=False),
        sa.Column("file_id", KEY, autoincrement=False, nullable=False),
        sa.Column("kind", sa.String(length=10), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["file_id"], ["data_file.id"], name=op.f("fk_file_exception_file_id")),
        sa.PrimaryKeyConstraint("block_id", "se_id", "file_id", name=op.f("pk_file_exception")),
    )
    op.create_table(
        "file_parent",
        sa.Column("file_id", KEY, autoincrement=False, nullable=False),
        sa.Column("parent_id", KEY, autoincrement=False, nullable=False),
        sa.ForeignKeyConstraint(["file_id"], ["data_file.id"], name=op.f("fk_file_parent_file_id")),
        sa.ForeignKeyConstraint(["parent_id"], ["data_file.id"], name=op.f("fk_file_parent_parent_id")),
        sa.PrimaryKeyConstraint("file_id", "parent_id", name=op.f("pk_file_parent")),
    )
    op.create_index("ix_file_parent_parent_id", "file_parent", ["parent_id"], unique=False)
    op.create_table(
        "file_run",
        sa.Column("file_id", KEY, autoincrement=False, nullable=False),
        sa.Column("run", sa.BigInteger(), nullable=False),
        sa.Column("first_lumi", sa.BigInteger(), nullable=False),
        sa.Column("last_lumi", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["file_id"], ["data_file.id"], name=op.f("fk_file_run_file_id")),
        sa.PrimaryKeyConstraint("file_id", "run", "first_lumi", name=op.f("pk_file_run")),
    )
    op.create_table(
        "job",
        sa.Column("id", KEY, autoincrement=False, nullable=False),
        sa.Column("task_id", KEY, autoincrement=False, nullable=False),
        sa.Column("idx", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("class_id", KEY, autoincrement=False, nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("attempt", sa.Integer(), server_default="0", nullable=False),
        sa.Column("rank", sa.BigInteger(), nullable=False),
        sa.Column("units", sa.BigInteger(), nullable=False),
        sa.Column("endpoint_id", KEY, autoincrement=False, nullable=True),
        sa.Column("due_at", sa.BigInteger(), nullable=True),
        sa.Column("hold_kind", sa.String(length=10), nullable=True),
        sa.Column("code", sa.String(length=40), nullable=True),
        sa.Column("params", sa.Text(), nullable=True),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["class_id"], ["job_class.id"], name=op.f("fk_job_class_id")),
        sa.ForeignKeyConstraint(["endpoint_id"], ["endpoint.id"], name=op.f("fk_job_endpoint_id")),
        sa.ForeignKeyConstraint(["task_id"], ["task.id"], name=op.f("fk_job_task_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job")),
        sa.UniqueConstraint("task_id", "idx", name=op.f("uq_job_task_id_idx")),
    )
    op.create_index(
        "ix_job_due",
        "job",
        ["due_at"],
        unique=False,
        sqlite_where=sa.text("state = 'RETRY_WAIT'"),
        postgresql_where=sa.text("state = 'RETRY_WAIT'"),
    )
    op.create_index(
        "ix_job_endpoint",
        "job",
        ["endpoint_id"],
        unique=False,
        sqlite_where=sa.text("state IN ('LEASED', 'SUBMITTED', 'RUNNING')"),
        postgresql_where=sa.text("state IN ('LEASED', 'SUBMITTED', 'RUNNING')"),
    )
    op.create_index(
        "ix_job_ready",
        "job",
        ["class_id", "rank", "id"],
        unique=False,
        sqlite_where=sa.text("state = 'READY'"),
        postgresql_where=sa.text("state = 'READY'"),
    )
    op.create_index("ix_job_task_id_state", "job", ["task_id", "state"], unique=False)
    op.create_index(
        "ix_job_unsettled",
        "job",
        ["state", "id"],
        unique=False,
        sqlite_where=sa.text("state IN ('STAGEOUT', 'LOST')"),
        postgresql_where=sa.text("state IN ('STAGEOUT', 'LOST')"),
    )
    op.create_table(
        "transfer",
        sa.Column("id", KEY, autoincrement=False, nullable=False),
        sa.Column("file_id", KEY, autoincrement=False, nullable=False),
        sa.Column("block_id", KEY, autoincrement=False, nullable=False),
        sa.Column("src_se_id", KEY, autoincrement=False, nullable=False),
        sa.Column("dst_se_id", KEY, autoincrement=False, nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("not_before", sa.BigInteger(), nullable=True),
        sa.Column("claimed_by", sa.String(length=200), nullable=True),
        sa.Column("claimed_at", sa.BigInteger(), nullable=True),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.Column("error_class", sa.String(length=20), nullable=True),
        sa.Column("error", sa.String(length=1000), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["block_id"], ["block.id"], name=op.f("fk_transfer_block_id")),
        sa.ForeignKeyConstraint(["dst_se_id"], ["se.id"], name=op.f("fk_transfer_dst_se_id")),
        sa.ForeignKeyConstraint(["file_id"], ["data_file.id"], name=op.f("fk_transfer_file_id")),
        sa.ForeignKeyConstraint(["src_se_id"], ["se.id"], name=op.f("fk_transfer_src_se_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_transfer")),
        sa.UniqueConstraint("file_id", "dst_se_id", name=op.f("uq_transfer_file_id_dst_se_id")),
    )
    op.create_index("ix_transfer_block_id", "transfer", ["block_id", "dst_se_id", "state"], unique=False)
    op.create_index("ix_transfer_dst_se_id", "transfer", ["dst_se_id", "state"], unique=False)
    op.create_index("ix_transfer_link", "transfer", ["src_se_id", "dst_se_id", "state"], unique=False)
    op.create_index(
        "ix_transfer_waiting",
        "transfer",
        ["dst_se_id", "priority", "id"],
        unique=False,
        sqlite_where=sa.text("state IN ('QUEUED', 'RETRY_WAIT')"),
        postgresql_where=sa.text("state IN ('QUEUED', 'RETRY_WAIT')"),
    )
    op.create_table(
        "attempt",
        sa.Column("job_id", KEY, autoincrement=False, nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("batch_key", sa.String(length=80), nullable=False),
        sa.Column("endpoint_id", KEY, autoincrement=False, nullable=False),
        sa.Column("agent", sa.String(length=200), nullable=False),
        sa.Column("leased_at", sa.BigInteger(), nullable=False),
        sa.Column("intent_at", sa.BigInteger(), nullable=True),
        sa.Column("batch_id", sa.String(length=200), nullable=True),
        sa.Column("submitted_at", sa.BigInteger(), nullable=True),
        sa.Column("nonce", sa.String(length=64), nullable=True),
        sa.Column("admitted_at", sa.BigInteger(), nullable=True),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.Column("host", sa.String(length=200), nullable=True),
        sa.Column("exit_code", sa.Integer(), nullable=True),
        sa.Column("error_class", sa.String(length=20), nullable=True),
        sa.Column("error", sa.String(length=1000), nullable=True),
        sa.Column("penalty", sa.Integer(), server_default="0", nullable=False),
        sa.Column("wall_s", sa.Float(), nullable=True),
        sa.Column("cpu_s", sa.Float(), nullable=True),
        sa.Column("report", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["endpoint_id"], ["endpoint.id"], name=op.f("fk_attempt_endpoint_id")),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("fk_attempt_job_id")),
        sa.PrimaryKeyConstraint("job_id", "attempt", name=op.f("pk_attempt")),
        sa.UniqueConstraint("batch_key", name=op.f("uq_attempt_batch_key")),
    )
    op.create_index("ix_attempt_endpoint_id", "attempt", ["endpoint_id", "ended_at"], unique=False)
    op.create_table(
        "job_spec",
        sa.Column("job_id", KEY, autoincrement=False, nullable=False),
        sa.Column("spec", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("fk_job_spec_job_id")),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_job_spec")),
    )
    op.create_table(
        "output",
        sa.Column("id", KEY, autoincrement=False, nullable=False),
        sa.Column("job_id", KEY, autoincrement=False, nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("task_id", KEY, autoincrement=False, nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("kind", sa.String(length=10), nullable=False),
        sa.Column("lfn", sa.String(length=500), nullable=False),
        sa.Column("se_id", KEY, autoincrement=False, nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=True),
        sa.Column("adler32", sa.BigInteger(), nullable=True),
        sa.Column("events", sa.BigInteger(), nullable=True),
        sa.Column("runs", sa.Text(), nullable=True),
        sa.Column("merge_job_id", KEY, autoincrement=False, nullable=True),
        sa.Column("file_id", KEY, autoincrement=False, nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["file_id"], ["data_file.id"], name=op.f("fk_output_file_id")),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("fk_output_job_id")),
        sa.ForeignKeyConstraint(["merge_job_id"], ["job.id"], name=op.f("fk_output_merge_job_id")),
        sa.ForeignKeyConstraint(["se_id"], ["se.id"], name=op.f("fk_output_se_id")),
        sa.ForeignKeyConstraint(["task_id"], ["task.id"], name=op.f("fk_output_task_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_output")),
        sa.UniqueConstraint("lfn", name=op.f("uq_output_lfn")),
    )
    op.create_index("ix_output_job_id", "output", ["job_id", "attempt"], unique=False)
    op.create_index("ix_output_merge_job_id", "output", ["merge_job_id"], unique=False)
    op.create_index("ix_output_task_id_state", "output", ["task_id", "state", "kind"], unique=False)
    op.create_table(
        "task_input",
        sa.Column("task_id", KEY, autoincrement=False, nullable=False),
        sa.Column("file_id", KEY, autoincrement=False, nullable=False),
        sa.Column("job_id", KEY, autoincrement=False, nullable=False),
        sa.ForeignKeyConstraint(["file_id"], ["data_file.id"], name=op.f("fk_task_input_file_id")),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("fk_task_input_job_id")),
        sa.ForeignKeyConstraint(["task_id"], ["task.id"], name=op.f("fk_task_input_task_id")),
        sa.PrimaryKeyConstraint("task_id", "file_id", name=op.f("pk_task_input")),
    )
    op.create_index("ix_task_input_job_id", "task_input", ["job_id"], unique=False)


def downgrade() -> None:
    op.drop_table("task_input")
    op.drop_table("output")
    op.drop_table("job_spec")
    op.drop_table("attempt")
    op.drop_table("transfer")
    op.drop_table("job")
    op.drop_table("file_run")
    op.drop_table("file_parent")
    op.drop_table("file_exception")
    op.drop_table("class_site")
    op.drop_table("task_block")
    op.drop_table("link_state")
    op.drop_table("link_bin")
    op.drop_table("job_class")
    op.drop_table("data_file")
    op.drop_table("block_replica")
    op.drop_table("block_dest")
    op.drop_table("wish")
    op.drop_table("task_count")
    op.drop_table("subscription")
    op.drop_table("link")
    op.drop_table("block")
    op.drop_table("task")
    op.drop_table("se")
    op.drop_table("request_site")
    op.drop_table("endpoint")
    op.drop_table("task_history")
    op.drop_table("subscription_history")
    op.drop_table("site")
    op.drop_table("share_node")
    op.drop_table("sandbox")
    op.drop_table("revision")
    op.drop_table("retry_rule")
    op.drop_table("request_history")
    op.drop_table("request")
    op.drop_table("quota")
    op.drop_table("queue")
    op.drop_table("port_call")
    op.drop_table("outbox")
    op.drop_table("lease")
    op.drop_table("job_history")
    op.drop_table("instance")
    op.drop_table("id_range")
    op.drop_table("heartbeat")
    op.drop_table("dir")
    op.drop_table("dataset")
    op.drop_table("block_history")
    op.drop_table("audit_log")
    op.drop_table("account_role")
    op.drop_table("account")
