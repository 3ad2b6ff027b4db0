"""Database access: transactions, snapshots, keys, leases, outbox, quotas, invariants."""

from gridcore.db.engine import Database, dbnow
from gridcore.db.statements import insert_rows, lock_rows, statements

__all__ = ["Database", "dbnow", "insert_rows", "lock_rows", "statements"]
