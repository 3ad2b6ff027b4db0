"""Tables of the work half: requests, tasks, the queue, jobs, attempts, outputs, shares."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Float,
    ForeignKey,
    FromClause,
    Identity,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    Table,
    UniqueConstraint,
    text,
)

import catalogs.tables  # noqa: F401  (foreign keys point down)
import gridcore.tables  # noqa: F401
from catalogs.states import Switch
from gridcore.db.statements import one_of
from gridcore.db.types import EnumText, Json, Key, count, flag, key, label, metadata, moment
from prodsys.job_states import JobKind, JobState
from prodsys.states import OutputState, RequestState, TaskState

#: One row: whoever locks it may claim.
queue = Table("queue", metadata, key("id", primary_key=True), label("name", 30))

share_node = Table(
    "share_node",
    metadata,
    key("id", primary_key=True),
    key("parent_id", ForeignKey("share_node.id"), nullable=True),
    label("path", 200),
    Column("target", Float, nullable=False),
    Column("used", Float, nullable=False, server_default="0"),
    moment("used_at", nullable=False),
    count("running"),
    #: Least and most part of its siblings' cores, 0 to 1.
    Column("floor", Float),
    Column("cap", Float),
    #: What a child made by itself gets.
    Column("child_target", Float),
    #: Of past use, for the whole tree below a root.
    Column("half_life_s", Float),
    UniqueConstraint("path"),
)

#: What a site's own weight multiplies a node's target by.
site_share = Table(
    "site_share",
    metadata,
    key("site_id", ForeignKey("site.id")),
    key("node_id", ForeignKey("share_node.id")),
    Column("weight", Float, nullable=False),
    PrimaryKeyConstraint("site_id", "node_id"),
)

#: One schedd, cluster, CE or host an executor talks to, and what it offers.
endpoint = Table(
    "endpoint",
    metadata,
    key("id", primary_key=True),
    label("name", 80),
    key("site_id", ForeignKey("site.id")),
    key("lease_id", ForeignKey("lease.id")),
    label("kind", 20),
    Column("slots", Integer, nullable=False),
    Column("offer", Json, nullable=False),
    Column("config", Json, nullable=False),
    Column("state", EnumText(Switch), nullable=False),
    UniqueConstraint("name"),
)

#: A named ProdAgent: requests may be assigned to the sites it serves.
prodagent = Table(
    "prodagent",
    metadata,
    key("id", primary_key=True),
    label("name", 60),
    UniqueConstraint("name"),
)

agent_endpoint = Table(
    "agent_endpoint",
    metadata,
    key("endpoint_id", ForeignKey("endpoint.id"), primary_key=True),
    key("agent_id", ForeignKey("prodagent.id")),
)

site_set = Table(
    "site_set",
    metadata,
    key("id", primary_key=True),
    label("name", 60),
    UniqueConstraint("name"),
)

site_set_member = Table(
    "site_set_member",
    metadata,
    key("set_id", ForeignKey("site_set.id")),
    key("site_id", ForeignKey("site.id")),
    PrimaryKeyConstraint("set_id", "site_id"),
)

#: Who gets which requests: the first rule that fits decides.
policy = Table(
    "policy",
    metadata,
    key("id", primary_key=True),
    label("name", 60),
    Column("rank", Integer, nullable=False),
    Column("rule", Json, nullable=False),
    UniqueConstraint("name"),
)

sandbox = Table(
    "sandbox",
    metadata,
    label("digest", 64, primary_key=True),
    Column("content", LargeBinary, nullable=False),
    moment("created_at", nullable=False),
)

request = Table(
    "request",
    metadata,
    key("id", primary_key=True),
    label("client_id", 64),
    label("digest", 64),
    label("name", 100),
    Column("spec", Json, nullable=False),
    Column("state", EnumText(RequestState), nullable=False),
    label("requester", 60),
    label("acct_group", 60),
    Column("priority", Integer, nullable=False),
    label("decided_by", 60, nullable=True),
    moment("created_at", nullable=False),
    moment("updated_at", nullable=False),
    label("code", 40, nullable=True),
    Column("params", Json),
    UniqueConstraint("client_id"),
    Index("ix_request_state", "state"),
)

request_history = Table(
    "request_history",
    metadata,
    Column("seq", Key, Identity(), primary_key=True),
    key("request_id"),
    Column("frm", EnumText(RequestState)),
    Column("dst", EnumText(RequestState), nullable=False),
    moment("at", nullable=False),
    label("actor", 100),
    label("code", 40, nullable=True),
    Index("ix_request_history_request_id", "request_id"),
)

#: The sites a request is assigned to; none means all.
request_site = Table(
    "request_site",
    metadata,
    key("request_id", ForeignKey("request.id")),
    key("site_id", ForeignKey("site.id")),
    PrimaryKeyConstraint("request_id", "site_id"),
)

#: The ProdAgents a request is assigned to; their sites are in request_site.
request_agent = Table(
    "request_agent",
    metadata,
    key("request_id", ForeignKey("request.id")),
    key("agent_id", ForeignKey("prodagent.id")),
    PrimaryKeyConstraint("request_id", "agent_id"),
)

task = Table(
    "task",
    metadata,
    key("id", primary_key=True),
    key("request_id", ForeignKey("request.id"), nullable=True),
    label("client_id", 180),
    label("name", 250),
    label("task_type", 30),
    Column("state", EnumText(TaskState), nullable=False),
    Column("spec", Json, nullable=False),
    label("sandbox", 64, ForeignKey("sandbox.digest"), nullable=True),
    key("leaf_id", ForeignKey("share_node.id")),
    label("requester", 60),
    label("acct_group", 60),
    Column("priority", Integer, nullable=False),
    key("input_dataset_id", ForeignKey("dataset.id"), nullable=True),
    key("output_dataset_id", ForeignKey("dataset.id"), nullable=True),
    label("unit_kind", 10),
    Column("units_total", BigInteger),
    #: What was asked for, where top-ups made the total more than that.
    Column("units_wanted", BigInteger),
    count("units_made"),
    count("next_index", server_default="1"),
    moment("created_at", nullable=False),
    moment("updated_at", nullable=False),
    moment("ended_at"),
    label("code", 40, nullable=True),
    Column("params", Json),
    UniqueConstraint("name"),
    UniqueConstraint("client_id"),
    Index("ix_task_state", "state"),
    Index("ix_task_request_id", "request_id"),
)

#: Jobs and units by kind and state, kept in the transaction that moves the job.
task_count = Table(
    "task_count",
    metadata,
    key("task_id", ForeignKey("task.id")),
    Column("kind", EnumText(JobKind), nullable=False),
    Column("state", EnumText(JobState), nullable=False),
    count("jobs"),
    count("units"),
    PrimaryKeyConstraint("task_id", "kind", "state"),
)

task_history = Table(
    "task_history",
    metadata,
    Column("seq", Key, Identity(), primary_key=True),
    key("task_id"),
    Column("frm", EnumText(TaskState)),
    Column("dst", EnumText(TaskState), nullable=False),
    moment("at", nullable=False),
    label("actor", 100),
    label("code", 40, nullable=True),
    Index("ix_task_history_task_id", "task_id"),
)

#: Input blocks already cut into jobs.
task_block = Table(
    "task_block",
    metadata,
    key("task_id", ForeignKey("task.id")),
    key("block_id", ForeignKey("block.id")),
    PrimaryKeyConstraint("task_id", "block_id"),
)

#: The ledger of units: each input file belongs to exactly one job of a task.
task_input = Table(
    "task_input",
    metadata,
    key("task_id", ForeignKey("task.id")),
    key("file_id", ForeignKey("data_file.id")),
    key("job_id", ForeignKey("job.id")),
    PrimaryKeyConstraint("task_id", "file_id"),
    Index("ix_task_input_job_id", "job_id"),
)

#: The ledger of units where they are lumis: each belongs to exactly one job of a task.
task_range = Table(
    "task_range",
    metadata,
    key("task_id", ForeignKey("task.id")),
    Column("run", BigInteger, nullable=False),
    Column("first_lumi", BigInteger, nullable=False),
    Column("last_lumi", BigInteger, nullable=False),
    key("job_id", ForeignKey("job.id")),
    PrimaryKeyConstraint("task_id", "run", "first_lumi"),
    Index("ix_task_range_job_id", "job_id"),
)

#: The files a job reads, where several jobs may read one.
job_file = Table(
    "job_file",
    metadata,
    key("job_id", ForeignKey("job.id")),
    key("file_id", ForeignKey("data_file.id")),
    PrimaryKeyConstraint("job_id", "file_id"),
)

#: All jobs with the same share leaf, task type, requirements and input set.
job_class = Table(
    "job_class",
    metadata,
    key("id", primary_key=True),
    label("fingerprint", 64),
    key("leaf_id", ForeignKey("share_node.id")),
    label("task_type", 30),
    Column("requirements", Json, nullable=False),
    Column("cores", Integer, nullable=False),
    key("input_block_id", ForeignKey("block.id"), nullable=True),
    count("ready"),
    Column("head_rank", BigInteger),
    UniqueConstraint("fingerprint"),
    Index("ix_job_class_input_block_id", "input_block_id"),
)

#: Active jobs of a class at a site, kept in the transaction that moves them.
class_use = Table(
    "class_use",
    metadata,
    key("class_id", ForeignKey("job_class.id")),
    key("site_id", ForeignKey("site.id")),
    count("jobs"),
    count("cores"),
    PrimaryKeyConstraint("class_id", "site_id"),
)

#: Most active jobs or cores of what the row names: a site, a share (a group or a user), a task type, or all
#: of these together; what is NULL is any.
work_limit = Table(
    "work_limit",
    metadata,
    key("id", primary_key=True),
    label("name", 100),
    key("site_id", ForeignKey("site.id"), nullable=True),
    label("share_path", 200, nullable=True),
    label("task_type", 30, nullable=True),
    Column("max_jobs", BigInteger),
    Column("max_cores", BigInteger),
    UniqueConstraint("name"),
)

#: How attempts ended at a site, by bins of time; the error class is "ok" for the good ones.
site_outcome = Table(
    "site_outcome",
    metadata,
    key("site_id", ForeignKey("site.id")),
    moment("bin", nullable=False),
    label("error_class", 20),
    count("jobs"),
    Column("core_s", Float, nullable=False, server_default="0"),
    PrimaryKeyConstraint("site_id", "bin", "error_class"),
)

#: Sites that get no work, or only canaries, for one kind of failure.
breaker = Table(
    "breaker",
    metadata,
    key("site_id", ForeignKey("site.id")),
    label("error_class", 20),
    label("state", 10),
    count("trips"),
    moment("changed_at", nullable=False),
    moment("until"),
    #: Canaries sent since the last change.
    count("canaries"),
    Column("params", Json),
    PrimaryKeyConstraint("site_id", "error_class"),
)

#: Static eligibility, with the reason of a refusal.
class_site = Table(
    "class_site",
    metadata,
    key("class_id", ForeignKey("job_class.id")),
    key("site_id", ForeignKey("site.id")),
    flag("eligible"),
    label("code", 40, nullable=True),
    Column("params", Json),
    moment("decided_at", nullable=False),
    PrimaryKeyConstraint("class_id", "site_id"),
    Index("ix_class_site_site_id", "site_id", "eligible"),
)

job = Table(
    "job",
    metadata,
    key("id", primary_key=True),
    key("task_id", ForeignKey("task.id")),
    Column("idx", Integer, nullable=False),
    Column("kind", EnumText(JobKind), nullable=False),
    key("class_id", ForeignKey("job_class.id")),
    Column("state", EnumText(JobState), nullable=False),
    #: The last attempt opened; 0 before the first.
    Column("attempt", Integer, nullable=False, server_default="0"),
    Column("rank", BigInteger, nullable=False),
    Column("units", BigInteger, nullable=False),
    key("endpoint_id", ForeignKey("endpoint.id"), nullable=True),
    moment("due_at"),
    label("hold_kind", 10, nullable=True),
    label("code", 40, nullable=True),
    Column("params", Json),
    moment("updated_at", nullable=False),
    UniqueConstraint("task_id", "idx"),
    Index(
        "ix_job_trouble",
        "task_id",
        "state",
        sqlite_where=text("state IN ('HELD', 'FAILED', 'RETRY_WAIT', 'LOST')"),
        postgresql_where=text("state IN ('HELD', 'FAILED', 'RETRY_WAIT', 'LOST')"),
    ),
    Index(
        "ix_job_ready",
        "class_id",
        "rank",
        "id",
        sqlite_where=text("state = 'READY'"),
        postgresql_where=text("state = 'READY'"),
    ),
    Index(
        "ix_job_endpoint",
        "endpoint_id",
        sqlite_where=text("state IN ('LEASED', 'SUBMITTED', 'RUNNING')"),
        postgresql_where=text("state IN ('LEASED', 'SUBMITTED', 'RUNNING')"),
    ),
    Index(
        "ix_job_due",
        "due_at",
        sqlite_where=text("state = 'RETRY_WAIT'"),
        postgresql_where=text("state = 'RETRY_WAIT'"),
    ),
    Index(
        "ix_job_unsettled",
        "state",
        "id",
        sqlite_where=text("state IN ('STAGEOUT', 'LOST')"),
        postgresql_where=text("state IN ('STAGEOUT', 'LOST')"),
    ),
)


def in_state(rows: FromClause, *states: JobState) -> ColumnElement[bool]:
    """Jobs in one of these states, written out as in the conditions of the partial indexes, word for word."""
    return one_of(rows.c.state, states)


#: The cold part of a job: its range or inputs, seed, run and lumi.
job_spec = Table(
    "job_spec",
    metadata,
    key("job_id", ForeignKey("job.id"), primary_key=True),
    Column("spec", Json, nullable=False),
)

job_history = Table(
    "job_history",
    metadata,
    Column("seq", Key, Identity(), primary_key=True),
    key("job_id"),
    Column("attempt", Integer, nullable=False),
    Column("frm", EnumText(JobState)),
    Column("dst", EnumText(JobState), nullable=False),
    moment("at", nullable=False),
    label("code", 40, nullable=True),
    Index("ix_job_history_job_id", "job_id"),
)

#: One try of a job. A row exists from the claim on.
attempt = Table(
    "attempt",
    metadata,
    key("job_id", ForeignKey("job.id")),
    Column("attempt", Integer, nullable=False),
    label("batch_key", 80),
    key("endpoint_id", ForeignKey("endpoint.id")),
    label("agent", 200),
    moment("leased_at", nullable=False),
    moment("intent_at"),
    label("batch_id", 200, nullable=True),
    moment("submitted_at"),
    label("nonce", 64, nullable=True),
    moment("admitted_at"),
    moment("ended_at"),
    label("host", 200, nullable=True),
    Column("exit_code", Integer),
    label("error_class", 20, nullable=True),
    label("error", 1000, nullable=True),
    flag("penalty"),
    Column("wall_s", Float),
    Column("cpu_s", Float),
    Column("report", Json),
    PrimaryKeyConstraint("job_id", "attempt"),
    UniqueConstraint("batch_key"),
)

output = Table(
    "output",
    metadata,
    key("id", primary_key=True),
    key("job_id", ForeignKey("job.id")),
    Column("attempt", Integer, nullable=False),
    key("task_id", ForeignKey("task.id")),
    label("name", 100),
    label("kind", 10),
    label("lfn", 500),
    key("se_id", ForeignKey("se.id")),
    Column("state", EnumText(OutputState), nullable=False),
    Column("bytes", BigInteger),
    Column("adler32", BigInteger),
    Column("events", BigInteger),
    Column("runs", Json),
    key("merge_job_id", ForeignKey("job.id"), nullable=True),
    key("file_id", ForeignKey("data_file.id"), nullable=True),
    moment("created_at", nullable=False),
    moment("updated_at", nullable=False),
    UniqueConstraint("lfn"),
    Index("ix_output_job_id", "job_id", "attempt"),
    Index("ix_output_merge_job_id", "merge_job_id"),
    Index("ix_output_task_id_state", "task_id", "state", "kind"),
)

retry_rule = Table(
    "retry_rule",
    metadata,
    label("error_class", 20, primary_key=True),
    Column("rule", Json, nullable=False),
)

#: Answers already given to a ProdAgent, by its request id: a repeat is harmless.
port_call = Table(
    "port_call",
    metadata,
    label("id", 80, primary_key=True),
    label("agent", 200),
    label("verb", 20),
    Column("answer", Json),
    moment("at", nullable=False),
    Index("ix_port_call_at", "at"),
)


#: An order on many jobs: previewed, carried out in chunks after `cursor`, undone within its window.
operation = Table(
    "operation",
    metadata,
    key("id", primary_key=True),
    label("verb", 20),
    Column("selector", Json, nullable=False),
    Column("params", Json),
    label("state", 20),
    label("actor", 100),
    moment("created_at", nullable=False),
    moment("updated_at", nullable=False),
    moment("undo_until"),
    #: Key of the operation this one undoes.
    key("undoes", nullable=True),
    #: The last job gone through.
    key("cursor_id", nullable=True),
    count("total"),
    count("seen"),
    count("changed"),
    Index("ix_operation_state", "state"),
)

#: The jobs a chunk of an operation changed, by key.
operation_part = Table(
    "operation_part",
    metadata,
    key("operation_id", ForeignKey("operation.id")),
    Column("part", Integer, nullable=False),
    Column("jobs", Json, nullable=False),
    PrimaryKeyConstraint("operation_id", "part"),
)
