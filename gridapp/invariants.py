"""All invariants of the product, in the order of the layers."""

from __future__ import annotations

import catalogs.invariants
import datamgmt.invariants
import prodsys.invariants
from gridcore.db.invariants import Invariant

INVARIANTS: tuple[Invariant, ...] = (
    *catalogs.invariants.INVARIANTS,
    *prodsys.invariants.INVARIANTS,
    *datamgmt.invariants.INVARIANTS,
)
