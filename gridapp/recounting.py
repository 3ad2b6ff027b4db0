"""Counters of all packages put right, after agents of an older release, which do not keep them all."""

from __future__ import annotations

import catalogs.recount
import datamgmt.recount
import prodsys.recount
from gridcore.db import Database


def mend(database: Database) -> dict[str, int]:
    """How many counters of each kind were wrong and are right now."""
    found: dict[str, int] = {}
    units = (prodsys.recount.mend, catalogs.recount.mend, catalogs.recount.span_runs, datamgmt.recount.mend)
    for unit in units:
        found |= database.transaction(unit)
    return found
