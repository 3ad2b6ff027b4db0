"""A dataset in an installation's catalogue, for the tests of the commands about data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from catalogs import bookkeeping, registration, sites
from catalogs.bookkeeping import BlockPolicy
from catalogs.filebatch import NewFile
from gridapp import session
from gridapp.installation import Installation
from gridcore import accounts
from gridcore.db import Database, insert_rows
from gridcore.db.keys import Keys
from gridcore.identity import Role
from gridcore.tables import account_role

T = TypeVar("T")

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DATASET = "/MinBias/Spring26-v1/RAW"
SE = "T1_DE_Alder_Disk"


def lfn(number: int) -> str:
    return f"/store/data/MinBias/{number // 5}/file_{number}.root"


class Shelf:
    """The catalogue of an installation and a dataset in it."""

    def __init__(self, installation: Installation) -> None:
        self.installation = installation
        self.database: Database = installation.database
        self.keys = Keys(self.database)
        self.dataset_id = self.make(DATASET)

    @classmethod
    @contextmanager
    def at(cls, place: Path) -> Iterator[Shelf]:
        """The one of the installation in a directory."""
        installation = session.connect(place, None)
        try:
            yield cls(installation)
        finally:
            installation.close()

    def do(self, act: Callable[..., T], *args: Any) -> T:
        return self.database.transaction(lambda conn: act(conn, *args))

    def read(self, act: Callable[..., T], *args: Any) -> T:
        with self.database.snapshot() as conn:
            return act(conn, *args)

    def make(self, name: str) -> int:
        policy = BlockPolicy(100, 10**12, 3600)
        return self.do(bookkeeping.create_dataset, self.keys.one("dataset"), name, policy, NOW)

    def se(self, name: str = SE) -> sites.StorageElement:
        return sites.by_name(self.read(sites.storage_elements))[name]

    def register(self, n: int, se: str = SE) -> list[int]:
        """Files 0 to n-1."""
        files = [NewFile(lfn=lfn(number), bytes=10, adler32=number, events=100) for number in range(n)]
        reserved = registration.reserve(self.keys, n)
        return self.do(registration.register, reserved, self.dataset_id, self.se(se).id, files, NOW)

    def audited(self) -> list[str]:
        """The verbs of what was done to data by hand, in order."""
        text = "SELECT verb FROM audit_log WHERE verb NOT LIKE 'apply%' ORDER BY seq"
        return self.read(lambda conn: list(conn.exec_driver_sql(text).scalars()))

    def take_roles(self, site: str | None = None) -> None:
        """Nobody may do anything any more, but for the site's admin."""
        text = "DELETE FROM account_role WHERE acct_role IN ('operator', 'production', 'site_admin')"
        self.do(lambda conn: conn.exec_driver_sql(text))
        if site is not None:
            name = self.read(accounts.accounts)[0].principal.name
            row = {"account": name, "acct_group": site, "acct_role": Role.SITE_ADMIN.value}
            self.do(insert_rows, account_role, [row])
