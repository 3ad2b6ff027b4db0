"""A catalogue for the benchmarks of data: one storage element, and a dataset there."""

from __future__ import annotations

from dataclasses import dataclass

from catalogs import bookkeeping, registration, sites
from catalogs.bookkeeping import BlockPolicy
from catalogs.filebatch import FileBatch
from catalogs.sites import Site, StorageElement
from catalogs.tfc.catalog import TrivialCatalog
from catalogs.tfc.rules import Rule
from gridapp import schema
from gridapp.bench.ground import Ground
from gridcore.clock import SystemClock
from gridcore.db import Database
from gridcore.db.keys import Keys

SITE = "T1_DE_Alder"


@dataclass(frozen=True, slots=True)
class DataGrid:
    """A database with a dataset at a storage element."""

    database: Database
    keys: Keys
    dataset_id: int
    se_id: int

    def put(self, batch: FileBatch) -> int:
        """Register files by the catalogue, in one transaction; the first key."""
        now, reserved = SystemClock().now(), registration.reserve(self.keys, len(batch))
        register = registration.register
        return self.database.transaction(
            lambda conn: register(conn, reserved, self.dataset_id, self.se_id, batch, now)
        )[0]


def data_grid(
    ground: Ground, dataset: str, block_files: int, rules: tuple[Rule, ...], protocol: str = "direct"
) -> DataGrid:
    """A new one on an empty database: blocks of so many files, names by these rules."""
    database = ground.empty()
    schema.upgrade(database)
    keys, now = Keys(database), SystemClock().now()
    site_id, se_id, dataset_id = (keys.one(table) for table in ("site", "se", "dataset"))
    at = Site(id=site_id, name=SITE, tier=1)
    tfc = sites.tfc_text(TrivialCatalog("bench", rules).to_dict())
    disk = StorageElement(
        id=se_id, name=f"{SITE}_Disk", site_id=site_id, kind="disk", protocol=protocol, tfc=tfc
    )
    database.transaction(lambda conn: (sites.put_site(conn, at), sites.put_se(conn, disk)))
    policy = BlockPolicy(block_files, 10**15, 10**6)
    database.transaction(lambda conn: bookkeeping.create_dataset(conn, dataset_id, dataset, policy, now))
    return DataGrid(database, keys, dataset_id, se_id)
