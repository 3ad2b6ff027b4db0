"""What a file looks like: where it comes from, where it lies, and what was done to it."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection

from catalogs import discovery, histories
from gridapp.insights.values import LIMIT, record


def file(conn: Connection, lfn: str) -> dict[str, Any]:
    """One file with its lumis, parents, children, copies and history. Raises NotFound, UsageError."""
    view = discovery.file_show(conn, lfn)
    one = view.file
    return {
        "lfn": lfn,
        **record(one, "id", "bytes", "events", "created_at", "block", "invalid"),
        "adler32": f"{one.adler32:08x}",
        "runs": {str(run): [list(pair) for pair in pairs] for run, pairs in view.runs.items()},
        **record(view, "parents", "children"),
        "at": [
            record(copy, "se", "site", "state", "custodial", "transit", "fault", "good")
            for copy in one.copies
        ],
        "history": [
            record(event, "at", "actor", "change", "se", "detail")
            for event in histories.of_file(conn, one.id, LIMIT)
        ],
    }
