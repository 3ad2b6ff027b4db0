"""Tables for limits, breakers, policies, lumi ranges, bulk operations and finer shares; expands only."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None
#: The oldest code that goes on working on this schema.
compatible_from = "0001"

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

#: Jobs that hold a slot, by class and site.
COUNT_ACTIVE = """
INSERT INTO class_use (class_id, site_id, jobs, cores)
SELECT job.class_id, endpoint.site_id, COUNT(*), SUM(job_class.cores)
FROM job JOIN endpoint ON endpoint.id = job.endpoint_id JOIN job_class ON job_class.id = job.class_id
WHERE job.state IN ('LEASED', 'SUBMITTED', 'RUNNING')
GROUP BY job.class_id, endpoint.site_id
"""
#: Rows that every claim changes: room for their next versions, and a vacuum that keeps up.
COUNTERS = ("job_class", "task_count", "share_node", "class_use", "id_range", "lease")


def upgrade() -> None:
    op.create_table(
        "operation",
        sa.Column("id", KEY, autoincrement=False, nullable=False),
        sa.Column("verb", sa.String(length=20), nullable=False),
        sa.Column("selector", sa.Text(), nullable=False),
        sa.Column("params", sa.Text(), nullable=True),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("actor", sa.String(length=100), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.BigInteger(), nullable=False),
        sa.Column("undo_until", sa.BigInteger(), nullable=True),
        sa.Column("undoes", KEY, autoincrement=False, nullable=True),
        sa.Column("cursor_id", KEY, autoincrement=False, nullable=True),
        sa.Column("total", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("seen", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("changed", sa.BigInteger(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_operation")),
    )
    op.create_index("ix_operation_state", "operation", ["state"], unique=False)
    op.create_table(
        "policy",
        sa.Column("id", KEY, autoincrement=False, nullable=False),
        sa.Column("name", sa.String(length=60), nullable=False),
        sa.Column("rank", sa.Integer(), nullable=False),
        sa.Column("rule", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_policy")),
        sa.UniqueConstraint("name", name=op.f("uq_policy_name")),
    )
    op.create_table(
        "prodagent",
        sa.Column("id", KEY, autoincrement=False, nullable=False),
        sa.Column("name", sa.String(length=60), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_prodagent")),
        sa.UniqueConstraint("name", name=op.f("uq_prodagent_name")),
    )
    op.create_table(
        "site_set",
        sa.Column("id", KEY, autoincrement=False, nullable=False),
        sa.Column("name", sa.String(length=60), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_site_set")),
        sa.UniqueConstraint("name", name=op.f("uq_site_set_name")),
    )
    op.create_table(
        "breaker",
        sa.Column("site_id", KEY, autoincrement=False, nullable=False),
        sa.Column("error_class", sa.String(length=20), nullable=False),
        sa.Column("state", sa.String(length=10), nullable=False),
        sa.Column("trips", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("changed_at", sa.BigInteger(), nullable=False),
        sa.Column("until", sa.BigInteger(), nullable=True),
        sa.Column("canaries", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("params", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["site_id"], ["site.id"], name=op.f("fk_breaker_site_id")),
        sa.PrimaryKeyConstraint("site_id", "error_class", name=op.f("pk_breaker")),
    )
    op.create_table(
        "operation_part",
        sa.Column("operation_id", KEY, autoincrement=False, nullable=False),
        sa.Column("part", sa.Integer(), nullable=False),
        sa.Column("jobs", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["operation_id"], ["operation.id"], name=op.f("fk_operation_part_operation_id")
        ),
        sa.PrimaryKeyConstraint("operation_id", "part", name=op.f("pk_operation_part")),
    )
    op.create_table(
        "request_agent",
        sa.Column("request_id", KEY, autoincrement=False, nullable=False),
        sa.Column("agent_id", KEY, autoincrement=False, nullable=False),
        sa.ForeignKeyConstraint(["agent_id"], ["prodagent.id"], name=op.f("fk_request_agent_agent_id")),
        sa.ForeignKeyConstraint(["request_id"], ["request.id"], name=op.f("fk_request_agent_request_id")),
        sa.PrimaryKeyConstraint("request_id", "agent_id", name=op.f("pk_request_agent")),
    )
    op.create_table(
        "site_outcome",
        sa.Column("site_id", KEY, autoincrement=False, nullable=False),
        sa.Column("bin", sa.BigInteger(), nullable=False),
        sa.Column("error_class", sa.String(length=20), nullable=False),
        sa.Column("jobs", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("core_s", sa.Float(), server_default="0", nullable=False),
        sa.ForeignKeyConstraint(["site_id"], ["site.id"], name=op.f("fk_site_outcome_site_id")),
        sa.PrimaryKeyConstraint("site_id", "bin", "error_class", name=op.f("pk_site_outcome")),
    )
    op.create_table(
        "site_set_member",
        sa.Column("set_id", KEY, autoincrement=False, nullable=False),
        sa.Column("site_id", KEY, autoincrement=False, nullable=False),
        sa.ForeignKeyConstraint(["set_id"], ["site_set.id"], name=op.f("fk_site_set_member_set_id")),
        sa.ForeignKeyConstraint(["site_id"], ["site.id"], name=op.f("fk_site_set_member_site_id")),
        sa.PrimaryKeyConstraint("set_id", "site_id", name=op.f("pk_site_set_member")),
    )
    op.create_table(
        "site_share",
        sa.Column("site_id", KEY, autoincrement=False, nullable=False),
        sa.Column("node_id", KEY, autoincrement=False, nullable=False),
        sa.Column("weight", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["node_id"], ["share_node.id"], name=op.f("fk_site_share_node_id")),
        sa.ForeignKeyConstraint(["site_id"], ["site.id"], name=op.f("fk_site_share_site_id")),
        sa.PrimaryKeyConstraint("site_id", "node_id", name=op.f("pk_site_share")),
    )
    op.create_table(
        "work_limit",
        sa.Column("id", KEY, autoincrement=False, nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("site_id", KEY, autoincrement=False, nullable=True),
        sa.Column("share_path", sa.String(length=200), nullable=True),
        sa.Column("task_type", sa.String(length=30), nullable=True),
        sa.Column("max_jobs", sa.BigInteger(), nullable=True),
        sa.Column("max_cores", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["site_id"], ["site.id"], name=op.f("fk_work_limit_site_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_work_limit")),
        sa.UniqueConstraint("name", name=op.f("uq_work_limit_name")),
    )
    op.create_table(
        "agent_endpoint",
        sa.Column("endpoint_id", KEY, autoincrement=False, nullable=False),
        sa.Column("agent_id", KEY, autoincrement=False, nullable=False),
        sa.ForeignKeyConstraint(["agent_id"], ["prodagent.id"], name=op.f("fk_agent_endpoint_agent_id")),
        sa.ForeignKeyConstraint(["endpoint_id"], ["endpoint.id"], name=op.f("fk_agent_endpoint_endpoint_id")),
        sa.PrimaryKeyConstraint("endpoint_id", name=op.f("pk_agent_endpoint")),
    )
    op.create_table(
        "class_use",
        sa.Column("class_id", KEY, autoincrement=False, nullable=False),
        sa.Column("site_id", KEY, autoincrement=False, nullable=False),
        sa.Column("jobs", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("cores", sa.BigInteger(), server_default="0", nullable=False),
        sa.ForeignKeyConstraint(["class_id"], ["job_class.id"], name=op.f("fk_class_use_class_id")),
        sa.ForeignKeyConstraint(["site_id"], ["site.id"], name=op.f("fk_class_use_site_id")),
        sa.PrimaryKeyConstraint("class_id", "site_id", name=op.f("pk_class_use")),
    )
    op.create_table(
        "job_file",
        sa.Column("job_id", KEY, autoincrement=False, nullable=False),
        sa.Column("file_id", KEY, autoincrement=False, nullable=False),
        sa.ForeignKeyConstraint(["file_id"], ["data_file.id"], name=op.f("fk_job_file_file_id")),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("fk_job_file_job_id")),
        sa.PrimaryKeyConstraint("job_id", "file_id", name=op.f("pk_job_file")),
    )
    op.create_table(
        "task_range",
        sa.Column("task_id", KEY, autoincrement=False, nullable=False),
        sa.Column("run", sa.BigInteger(), nullable=False),
        sa.Column("first_lumi", sa.BigInteger(), nullable=False),
        sa.Column("last_lumi", sa.BigInteger(), nullable=False),
        sa.Column("job_id", KEY, autoincrement=False, nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("fk_task_range_job_id")),
        sa.ForeignKeyConstraint(["task_id"], ["task.id"], name=op.f("fk_task_range_task_id")),
        sa.PrimaryKeyConstraint("task_id", "run", "first_lumi", name=op.f("pk_task_range")),
    )
    op.create_index("ix_task_range_job_id", "task_range", ["job_id"], unique=False)
    op.drop_index(op.f("ix_attempt_endpoint_id"), table_name="attempt")
    op.drop_index(op.f("ix_job_task_id_state"), table_name="job")
    op.create_index(
        "ix_job_trouble",
        "job",
        ["task_id", "state"],
        unique=False,
        sqlite_where=sa.text("state IN ('HELD', 'FAILED', 'RETRY_WAIT', 'LOST')"),
        postgresql_where=sa.text("state IN ('HELD', 'FAILED', 'RETRY_WAIT', 'LOST')"),
    )
    op.add_column("share_node", sa.Column("floor", sa.Float(), nullable=True))
    op.add_column("share_node", sa.Column("cap", sa.Float(), nullable=True))
    op.add_column("share_node", sa.Column("child_target", sa.Float(), nullable=True))
    op.add_column("share_node", sa.Column("half_life_s", sa.Float(), nullable=True))
    op.add_column("task", sa.Column("units_wanted", sa.BigInteger(), nullable=True))
    op.execute(COUNT_ACTIVE)
    if op.get_bind().dialect.name == "postgresql":
        for name in COUNTERS:
            op.execute(f"ALTER TABLE {name} SET (fillfactor = 40, autovacuum_vacuum_threshold = 200)")
        op.execute("ALTER TABLE job SET (autovacuum_vacuum_scale_factor = 0.02)")
