"""Counters of what lies where, deletions, histories, metadata, routes with leases, fair queues; expands only.

Foreign keys of the rows that come by the million go, and indexes that name a state which changes.
"""

import re
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None
#: The oldest code that goes on working on this schema.
compatible_from = "0001"

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
#: Names of datasets split at once.
CHUNK = 500

#: {table: {column: what it refers to}} of the foreign keys that go.
UNBOUND = {
    "data_file": {"block_id": "block", "dir_id": "dir"},
    "file_run": {"file_id": "data_file"},
    "file_parent": {"file_id": "data_file", "parent_id": "data_file"},
    "block_dest": {"subscription_id": "subscription"},
    "transfer": {"file_id": "data_file", "block_id": "block", "src_se_id": "se", "dst_se_id": "se"},
}
#: Rows that are changed all the time: room for their next versions, and a vacuum that keeps up.
COUNTERS = ("holding", "se_use", "link_state", "quota", "block_dest")

COUNT_CLOSED = """
UPDATE dataset SET closed_blocks =
    (SELECT count(*) FROM block WHERE block.dataset_id = dataset.id AND block.state = 'CLOSED')
"""
#: Blocks grow old within a century: more is no moment, and overflows.
SET_CLOSE_BY = """
UPDATE block SET close_by = created_at + (
    SELECT CAST(1000000 * CASE WHEN dataset.block_age_s < 3153600000 THEN dataset.block_age_s
        ELSE 3153600000 END AS BIGINT)
    FROM dataset WHERE dataset.id = block.dataset_id)
WHERE state = 'OPEN'
"""
SET_SIZES = """
UPDATE block_dest SET
    bytes = (SELECT block.bytes FROM block WHERE block.id = block_dest.block_id),
    files = (SELECT block.files FROM block WHERE block.id = block_dest.block_id)
"""
COUNT_HOLDINGS = """
INSERT INTO holding (dataset_id, se_id, blocks, closed, files, bytes)
SELECT b.dataset_id, r.se_id, count(*), sum(CASE WHEN b.state = 'CLOSED' THEN 1 ELSE 0 END), sum(b.files),
    sum(b.bytes)
FROM block_replica r JOIN block b ON b.id = r.block_id
WHERE r.state = 'COMPLETE' GROUP BY b.dataset_id, r.se_id
"""
COUNT_USE = """
INSERT INTO se_use (se_id, files, complete_bytes, arriving_bytes, leaving_bytes, transit_bytes)
SELECT r.se_id,
    sum(CASE WHEN r.state = 'COMPLETE' THEN b.files ELSE 0 END),
    sum(CASE WHEN r.state = 'COMPLETE' THEN b.bytes ELSE 0 END),
    sum(CASE WHEN r.state = 'COPYING' THEN b.bytes ELSE 0 END),
    sum(CASE WHEN r.state = 'DELETING' THEN b.bytes ELSE 0 END),
    sum(CASE WHEN r.state <> 'DELETING' AND r.transit = 1 THEN b.bytes ELSE 0 END)
FROM block_replica r JOIN block b ON b.id = r.block_id GROUP BY r.se_id
"""
SPAN_RUNS = """
INSERT INTO block_run (block_id, run, first_lumi, last_lumi)
SELECT f.block_id, r.run, min(r.first_lumi), max(r.last_lumi)
FROM file_run r JOIN data_file f ON f.id = r.file_id GROUP BY f.block_id, r.run
"""
JOIN_PARENTS = """
INSERT INTO dataset_parent (dataset_id, parent_id)
SELECT DISTINCT b.dataset_id, q.dataset_id
FROM file_parent p
JOIN data_file f ON f.id = p.file_id JOIN block b ON b.id = f.block_id
JOIN data_file g ON g.id = p.parent_id JOIN block q ON q.id = g.block_id
WHERE b.dataset_id <> q.dataset_id
"""
FILLED = (COUNT_CLOSED, SET_CLOSE_BY, SET_SIZES, COUNT_HOLDINGS, COUNT_USE, SPAN_RUNS, JOIN_PARENTS)


def upgrade() -> None:
    drop_foreign_keys()
    widen_subscription()
    add_columns()
    for name, elements, keys in new_tables():
        op.create_table(name, *elements, sa.PrimaryKeyConstraint(*keys, name=op.f(f"pk_{name}")))
    change_indexes()
    split_names()
    for statement in FILLED:
        op.execute(statement)
    if op.get_bind().dialect.name == "postgresql":
        for name in COUNTERS:
            op.execute(f"ALTER TABLE {name} SET (fillfactor = 40, autovacuum_vacuum_threshold = 200)")
        op.execute("ALTER TABLE transfer SET (fillfactor = 45, autovacuum_vacuum_threshold = 200)")


# --- constraints --------------------------------------------------------------------------------------------


def drop_foreign_keys() -> None:
    """SQLite cannot drop a constraint, nor a table that others refer to: the stored text loses it instead,
    as its own documentation of ALTER TABLE has it for constraints that say less afterwards."""
    if op.get_bind().dialect.name != "sqlite":
        for table, columns in UNBOUND.items():
            for column in columns:
                op.drop_constraint(f"fk_{table}_{column}", table, type_="foreignkey")
        return
    bind = op.get_bind()
    version = bind.exec_driver_sql("PRAGMA schema_version").scalar_one()
    bind.exec_driver_sql("PRAGMA writable_schema = ON")
    for table, columns in UNBOUND.items():
        found = sa.text("SELECT sql FROM sqlite_master WHERE type = 'table' AND name = :name")
        text = bind.execute(found, {"name": table}).scalar_one()
        for column, owner in columns.items():
            text = without_key(text, table, column, owner)
        change = sa.text("UPDATE sqlite_master SET sql = :sql WHERE type = 'table' AND name = :name")
        bind.execute(change, {"sql": text, "name": table})
    bind.exec_driver_sql(f"PRAGMA schema_version = {version + 1}")
    bind.exec_driver_sql("PRAGMA writable_schema = RESET")
    faults = [one for (one,) in bind.exec_driver_sql("PRAGMA integrity_check") if one != "ok"]
    if faults:
        raise RuntimeError(f"the database is damaged: {'; '.join(faults)}")


def without_key(text: str, table: str, column: str, owner: str) -> str:
    """The text of a table without one of its foreign keys. Raises RuntimeError where it is not there once."""
    key = rf",\s*CONSTRAINT fk_{table}_{column} FOREIGN KEY\s*\({column}\) REFERENCES {owner} \(id\)"
    shorter, n = re.subn(key, "", text)
    if n != 1:
        raise RuntimeError(f"foreign key fk_{table}_{column} is written {n} times in table {table}")
    return shorter


def widen_subscription() -> None:
    """A dataset may be asked for whole and by blocks: another unique key, for which SQLite needs a new table.

    Nothing refers to the table any more.
    """
    added: list[sa.Column[Any]] = [
        sa.Column("block_id", KEY, autoincrement=False, server_default="0", nullable=False),
        flag("move"),
        key("move_from_se_id", nullable=True),
        flag("static"),
        moment("fill_after"),
        moment("suspended_until"),
        label("comments", 500),
        label("ask_id", 36),
        label("decided_by", 100),
        moment("decided_at"),
        count("files_done"),
        count("bytes_done"),
        moment("eta_p50"),
        moment("eta_p90"),
        moment("complete_at"),
    ]
    subject = ["dataset_id", "se_id", "block_id"]
    if op.get_bind().dialect.name != "sqlite":
        for column in added:
            op.add_column("subscription", column)
        op.drop_constraint("uq_subscription_dataset_se", "subscription", type_="unique")
        op.create_unique_constraint("uq_subscription_subject", "subscription", subject)
        return
    op.create_table(
        "subscription_new",
        key("id"),
        key("dataset_id"),
        key("se_id"),
        sa.Column("state", sa.String(20), nullable=False),
        flag("custodial"),
        sa.Column("priority", sa.Integer(), nullable=False),
        label("requester", 60, nullable=False),
        label("acct_group", 60, nullable=False),
        label("code", 40),
        sa.Column("params", sa.Text(), nullable=True),
        moment("created_at", nullable=False),
        moment("updated_at", nullable=False),
        *added,
        sa.ForeignKeyConstraint(["dataset_id"], ["dataset.id"], name=op.f("fk_subscription_dataset_id")),
        sa.ForeignKeyConstraint(["se_id"], ["se.id"], name=op.f("fk_subscription_se_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_subscription")),
        sa.UniqueConstraint(*subject, name="uq_subscription_subject"),
    )
    old = "id, dataset_id, se_id, state, custodial, priority, requester, acct_group, code, params, created_at"
    copied = f"{old}, updated_at"
    op.execute(f"INSERT INTO subscription_new ({copied}) SELECT {copied} FROM subscription")
    op.drop_table("subscription")
    op.rename_table("subscription_new", "subscription")
    op.create_index("ix_subscription_state", "subscription", ["state"])


# --- columns and tables -------------------------------------------------------------------------------------


def key(name: str, **options: Any) -> sa.Column[int]:
    return sa.Column(name, KEY, autoincrement=False, **{"nullable": False, **options})


def count(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), server_default="0", nullable=False)


def flag(name: str, default: str = "0") -> sa.Column[int]:
    return sa.Column(name, sa.Integer(), server_default=default, nullable=False)


def label(name: str, length: int, nullable: bool = True) -> sa.Column[str]:
    return sa.Column(name, sa.String(length=length), nullable=nullable)


def moment(name: str, nullable: bool = True) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), nullable=nullable)


def number(name: str, nullable: bool = True) -> sa.Column[int]:
    return sa.Column(name, sa.Integer(), nullable=nullable)


def real(name: str, nullable: bool = True) -> sa.Column[float]:
    return sa.Column(name, sa.Float(), nullable=nullable)


def document(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), nullable=True)


def sequence() -> sa.Column[int]:
    return sa.Column("seq", KEY, sa.Identity(always=False), nullable=False)


def added_columns() -> Iterator[tuple[str, list[sa.Column[Any]]]]:
    yield (
        "dataset",
        [
            label("prim", 99),
            label("proc", 99),
            label("data_tier", 20),
            sa.Column("access_type", sa.String(20), server_default="VALID", nullable=False),
            label("description", 1000),
            label("acct_group", 60),
            count("closed_blocks"),
            flag("unsettled", "1"),
        ],
    )
    yield "block", [moment("close_by")]
    yield "block_replica", [label("acct_group", 60), count("charged"), moment("delete_at")]
    yield "se", [sa.Column("space_bytes", sa.BigInteger()), number("delete_rate"), label("dialect", 10)]
    yield "link", [number("window_max"), real("rate_cap"), flag("local")]
    yield (
        "block_dest",
        [
            count("bytes"),
            count("files"),
            key("cursor_id", server_default="0"),
            key("via_se_id", nullable=True),
            flag("attempts"),
            moment("failing_since"),
            flag("repair"),
            label("acct_group", 60),
        ],
    )
    yield "transfer", [label("acct_group", 60)]
    yield (
        "link_state",
        [
            real("window_files"),
            real("rate"),
            number("failures"),
            moment("opened_at"),
            label("forced", 10),
            label("forced_by", 100),
            moment("forced_until"),
            count("queued_files"),
            count("queued_bytes"),
            count("active_files"),
        ],
    )
    yield "file_exception", [label("note", 200), label("actor", 100)]


def add_columns() -> None:
    for table, columns in added_columns():
        for column in columns:
            op.add_column(table, column)


Made = tuple[str, list[Any], tuple[str, ...]]


def new_tables() -> Iterator[Made]:
    yield from catalogue_tables()
    yield from motion_tables()


def refers(table: str, column: str, owner: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint([column], [f"{owner}.id"], name=op.f(f"fk_{table}_{column}"))


def catalogue_tables() -> Iterator[Made]:
    counts = [count(name) for name in ("blocks", "closed", "files", "bytes")]
    yield "holding", [key("dataset_id"), key("se_id"), *counts], ("dataset_id", "se_id")
    names = ("files", "complete_bytes", "arriving_bytes", "leaving_bytes", "transit_bytes")
    yield "se_use", [key("se_id"), *map(count, names)], ("se_id",)
    lumis = [sa.Column(name, sa.BigInteger(), nullable=False) for name in ("run", "first_lumi", "last_lumi")]
    yield "block_run", [key("block_id"), *lumis], ("block_id", "run")
    yield (
        "dataset_meta",
        [
            key("dataset_id"),
            label("name", 40, nullable=False),
            real("num"),
            label("txt", 200),
            refers("dataset_meta", "dataset_id", "dataset"),
        ],
        ("dataset_id", "name"),
    )
    edges = [refers("dataset_parent", name, "dataset") for name in ("dataset_id", "parent_id")]
    both = ("dataset_id", "parent_id")
    yield "dataset_parent", [*map(key, both), *edges], both
    code = sa.Column("code", sa.String(20), nullable=False)
    by = label("actor", 100, nullable=False)
    when = moment("at", nullable=False)
    yield "invalid_file", [key("file_id"), code, by, when, moment("told_at")], ("file_id",)
    yield "dataset_history", [sequence(), key("dataset_id"), *changed()], ("seq",)
    yield "file_history", [sequence(), key("file_id"), key("se_id", nullable=True), *changed()], ("seq",)


def changed() -> list[sa.Column[Any]]:
    """When who changed what."""
    who = [label("actor", 100, nullable=False), label("change", 40, nullable=False)]
    return [moment("at", nullable=False), *who, document("detail")]


def motion_tables() -> Iterator[Made]:
    route = [number("pos", nullable=False), count("bytes"), moment("lease_until", nullable=False)]
    keys = ("block_id", "se_id", "via_se_id")
    yield "route_via", [*map(key, keys), *route], keys
    said = [moment("at", nullable=False), label("code", 40, nullable=False), document("path"), real("cost")]
    yield (
        "route_history",
        [sequence(), key("block_id"), key("se_id"), *said, document("params")],
        ("seq",),
    )
    yield (
        "deletion",
        [
            *map(key, ("id", "block_id", "se_id")),
            sa.Column("state", sa.String(20), nullable=False),
            flag("custodial_too"),
            flag("subscribed_too"),
            label("ask_id", 36, nullable=False),
            label("requester", 60, nullable=False),
            label("acct_group", 60, nullable=False),
            label("code", 40),
            document("params"),
            label("comments", 500),
            label("decided_by", 100),
            moment("decided_at"),
            moment("due_at"),
            moment("created_at", nullable=False),
            moment("updated_at", nullable=False),
            sa.UniqueConstraint("block_id", "se_id", "ask_id", name="uq_deletion_subject"),
        ],
        ("id",),
    )
    span = [moment("first_at", nullable=False), moment("last_at", nullable=False)]
    sample = [label("sample", 1000, nullable=False), key("file_id", nullable=True)]
    error = label("error_class", 30, nullable=False)
    yield (
        "transfer_error",
        [key("link_id"), error, count("n"), *span, *sample],
        ("link_id", "error_class"),
    )
    group = "acct_group"
    yield "group_weight", [label(group, 60, nullable=False), real("weight", nullable=False)], (group,)
    used = sa.Column("used", sa.Float(), server_default="0", nullable=False)
    decayed = [used, moment("at", nullable=False)]
    yield "link_use", [key("link_id"), label(group, 60, nullable=False), *decayed], ("link_id", group)


# --- indexes ------------------------------------------------------------------------------------------------

INDEXES: tuple[tuple[str, str, list[Any]], ...] = (
    ("ix_dataset_data_tier", "dataset", ["data_tier", "prim"]),
    ("ix_dataset_prim", "dataset", ["prim"]),
    ("ix_block_replica_se_id", "block_replica", ["se_id", "block_id"]),
    ("ix_file_exception_se_id", "file_exception", ["se_id", "block_id"]),
    ("ix_subscription_se_id", "subscription", ["se_id"]),
    ("ix_subscription_ask_id", "subscription", ["ask_id"]),
    ("ix_block_dest_due", "block_dest", ["valid_until", "priority"]),
    ("ix_block_dest_hop", "block_dest", ["src_se_id", "se_id"]),
    ("ix_transfer_block_id", "transfer", ["block_id", "dst_se_id"]),
    ("ix_transfer_waiting", "transfer", ["dst_se_id", sa.text("priority DESC"), "id"]),
    ("ix_holding_se_id", "holding", ["se_id", "dataset_id"]),
    ("ix_block_run_run", "block_run", ["run", "block_id"]),
    ("ix_dataset_meta_num", "dataset_meta", ["name", "num"]),
    ("ix_dataset_meta_txt", "dataset_meta", ["name", "txt"]),
    ("ix_dataset_parent_parent_id", "dataset_parent", ["parent_id"]),
    ("ix_invalid_file_told_at", "invalid_file", ["told_at"]),
    ("ix_dataset_history_dataset_id", "dataset_history", ["dataset_id"]),
    ("ix_file_history_file_id", "file_history", ["file_id"]),
    ("ix_route_via_via_se_id", "route_via", ["via_se_id", "block_id"]),
    ("ix_route_via_lease_until", "route_via", ["lease_until"]),
    ("ix_route_history_block_id", "route_history", ["block_id", "se_id"]),
    ("ix_route_history_at", "route_history", ["at"]),
    ("ix_deletion_state", "deletion", ["state", "due_at"]),
    ("ix_deletion_ask_id", "deletion", ["ask_id"]),
)
PARTIAL_INDEXES = (
    ("ix_dataset_unsettled", "dataset", ["id"], "unsettled = 1"),
    ("ix_block_open", "block", ["dataset_id", "origin_se_id"], "state = 'OPEN'"),
    ("ix_block_close_by", "block", ["close_by"], "state = 'OPEN'"),
    ("ix_block_replica_busy", "block_replica", ["se_id", "state"], "state <> 'COMPLETE'"),
)
DROPPED_INDEXES = (
    ("ix_block_state_created_at", "block"),
    ("ix_block_replica_se_id_state", "block_replica"),
    ("ix_transfer_block_id", "transfer"),
    ("ix_transfer_link", "transfer"),
    ("ix_transfer_dst_se_id", "transfer"),
    ("ix_transfer_waiting", "transfer"),
)


def change_indexes() -> None:
    for name, table in DROPPED_INDEXES:
        op.drop_index(name, table_name=table)
    for name, table, columns in INDEXES:
        op.create_index(name, table, columns)
    for name, table, columns, condition in PARTIAL_INDEXES:
        where = sa.text(condition)
        op.create_index(name, table, columns, sqlite_where=where, postgresql_where=where)
    if op.get_bind().dialect.name == "postgresql":
        # Patterns that begin with letters: the server's collation may order names otherwise.
        op.execute("CREATE INDEX ix_dataset_name_like ON dataset (name varchar_pattern_ops)")


# --- names --------------------------------------------------------------------------------------------------


def split_names() -> None:
    """`/primary/processed/TIER` as columns."""
    bind, last = op.get_bind(), 0
    page = sa.text(f"SELECT id, name FROM dataset WHERE id > :after ORDER BY id LIMIT {CHUNK}")
    change = sa.text("UPDATE dataset SET prim = :prim, proc = :proc, data_tier = :tier WHERE id = :row_id")
    while rows := bind.execute(page, {"after": last}).all():
        parts = [(row.id, *row.name.split("/")[1:]) for row in rows]
        bind.execute(
            change, [dict(zip(("row_id", "prim", "proc", "tier"), one, strict=True)) for one in parts]
        )
        last = rows[-1].id
