"""Validity: files nobody shall read, because their content is wrong or no good copy is left. Few among many.

Counters go on counting them: they are registered. Whoever cuts work leaves them out, and jobs that list them
are told once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime

from sqlalchemy import Connection, Integer, bindparam, delete, select, update

from catalogs import histories
from catalogs.states import InvalidCode
from catalogs.tables import block, data_file, invalid_file
from gridcore.db import bulk, lock_rows
from gridcore.db.bulk import New, Same
from gridcore.db.idlists import within
from gridcore.errors import NotFound

CODES = select(invalid_file.c.file_id, invalid_file.c.code).where(within(invalid_file.c.file_id))
INVALID_IN = (
    select(data_file.c.id)
    .join_from(data_file, invalid_file, invalid_file.c.file_id == data_file.c.id)
    .where(data_file.c.block_id == bindparam("in_block"))
)
LOST_IN = (
    select(data_file.c.block_id, data_file.c.id)
    .join_from(invalid_file, data_file, data_file.c.id == invalid_file.c.file_id)
    .where(invalid_file.c.code == InvalidCode.LOST, within(data_file.c.block_id))
)
BLOCKS_OF = select(data_file.c.id, data_file.c.block_id).where(within(data_file.c.id))
UNTOLD = (
    select(invalid_file.c.file_id)
    .where(invalid_file.c.told_at.is_(None))
    .order_by(invalid_file.c.file_id)
    .limit(bindparam("n", type_=Integer))
)
TELL = (
    update(invalid_file)
    .where(within(invalid_file.c.file_id), invalid_file.c.told_at.is_(None))
    .values(told_at=bindparam("now"))
)
FORGET = delete(invalid_file).where(within(invalid_file.c.file_id))


def invalidate(
    conn: Connection,
    file_ids: Iterable[int],
    code: InvalidCode,
    actor: str,
    now: datetime,
    reason: str | None = None,
) -> int:
    """Nobody shall read these files any more; how many were not invalid for that before.

    Locks their blocks. Raises NotFound for a key of no file.
    """
    ids = _locked(conn, file_ids)
    known = dict(tuple(row) for row in conn.execute(CODES, {"ids": ids}))
    new = [one for one in ids if known.get(one) != code]
    if not new:
        return 0
    conn.execute(FORGET, {"ids": [one for one in new if one in known]})
    columns = {"code": Same(code), "actor": Same(actor), "at": Same(now), "told_at": Same(None)}
    bulk.write(conn, [New(invalid_file, {"file_id": new, **columns})])
    detail = {"code": code.value, **({"reason": reason} if reason else {})}
    histories.tell_files(conn, new, "invalidated", actor, now, detail)
    return len(new)


def revalidate(
    conn: Connection, file_ids: Iterable[int], actor: str, now: datetime, reason: str | None = None
) -> int:
    """These files are well again; how many were invalid. Locks their blocks. Raises NotFound."""
    ids = _locked(conn, file_ids)
    known = sorted(row.file_id for row in conn.execute(CODES, {"ids": ids}))
    if known:
        conn.execute(FORGET, {"ids": known})
        detail = {"reason": reason} if reason else None
        histories.tell_files(conn, known, "revalidated", actor, now, detail)
    return len(known)


def _locked(conn: Connection, file_ids: Iterable[int]) -> list[int]:
    ids = sorted(set(file_ids))
    found = dict(tuple(row) for row in conn.execute(BLOCKS_OF, {"ids": ids}))
    if len(found) < len(ids):
        raise NotFound(f"there is no file with id {min(set(ids) - found.keys())}")
    lock_rows(conn, block, found.values())
    return ids


def invalid_in(conn: Connection, block_id: int) -> set[int]:
    """The invalid files of a block."""
    return set(conn.execute(INVALID_IN, {"in_block": block_id}).scalars())


def lost_in(conn: Connection, block_ids: Iterable[int]) -> dict[int, set[int]]:
    """{block: its files of which no good copy is left}, where there are any."""
    found: dict[int, set[int]] = {}
    for block_id, file_id in conn.execute(LOST_IN, {"ids": sorted(set(block_ids))}):
        found.setdefault(block_id, set()).add(file_id)
    return found


def untold(conn: Connection, n: int) -> list[int]:
    """Up to `n` invalid files whose jobs have not been told yet."""
    return list(conn.execute(UNTOLD, {"n": n}).scalars())


def told(conn: Connection, file_ids: Collection[int], now: datetime) -> int:
    """The jobs that list these files have been told; how many had not."""
    return conn.execute(TELL, {"ids": sorted(file_ids), "now": now}).rowcount
