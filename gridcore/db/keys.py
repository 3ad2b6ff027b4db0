"""Keys: 64-bit integers reserved in ranges, in a short transaction of their own."""

from __future__ import annotations

import threading

from sqlalchemy import Connection, bindparam, select, update
from sqlalchemy.exc import IntegrityError

from gridcore.db.engine import Database
from gridcore.db.statements import insert_rows
from gridcore.tables import id_range

#: Keys taken from the database at once for small needs.
BLOCK = 100

ADVANCE = (
    update(id_range)
    .where(id_range.c.name == bindparam("range"))
    .values(next_id=id_range.c.next_id + bindparam("n"))
)
NEXT_ID = select(id_range.c.next_id).where(id_range.c.name == bindparam("range"))


class Keys:
    """Hands out keys per table; gaps are normal, repeats are not."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lock = threading.Lock()
        self._spare: dict[str, range] = {}

    def take(self, name: str, n: int = 1) -> range:
        """`n` fresh keys of the named range (the table's name). Not within a transaction."""
        with self._lock:
            spare = self._spare.get(name, range(0))
            if len(spare) < n:
                spare = self._reserve(name, max(n, BLOCK))
            self._spare[name] = spare[n:]
            return spare[:n]

    def one(self, name: str) -> int:
        """One fresh key."""
        return self.take(name)[0]

    def _reserve(self, name: str, n: int) -> range:
        def unit(conn: Connection) -> range:
            if not conn.execute(ADVANCE, {"range": name, "n": n}).rowcount:
                insert_rows(conn, id_range, [{"name": name, "next_id": 1 + n}])
                return range(1, 1 + n)
            end = conn.execute(NEXT_ID, {"range": name}).scalar_one()
            return range(end - n, end)

        try:
            return self._database.transaction(unit)
        except IntegrityError:  # two made the range's row at once
            return self._database.transaction(unit)
