"""Replicas: which blocks lie at which storage elements.

All by the set: so many replicas, so many statements. A block's lock owns its replicas; counters change in the
same transaction, after them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from itertools import chain
from typing import Any, Literal, NamedTuple

from sqlalchemy import Connection, Select, bindparam, delete, select

from catalogs import exceptions, guard, holdings, space
from catalogs.guard import Copy, Kept, ReplicaKey
from catalogs.states import BlockState, ReplicaState
from catalogs.tables import block, block_replica
from gridcore.db import bulk, lock_rows, outbox, reads
from gridcore.db.bulk import Change, Columns, New, Same
from gridcore.db.engine import Stale
from gridcore.db.idlists import within
from gridcore.db.reads import Read
from gridcore.db.statements import chunks
from gridcore.errors import Conflict, NotFound


class Begin(NamedTuple):
    """A replica to be had: only passing through or for itself, one to preserve, on whose account."""

    block_id: int
    se_id: int
    transit: bool = False
    custodial: bool = False
    group: str | None = None

    @property
    def key(self) -> ReplicaKey:
        return self.block_id, self.se_id


@dataclass(frozen=True, slots=True)
class ReplicaRow:
    """A block at an SE; `hops` counts the WAN transfers it took from the block's origin.

    `charged` bytes count in the quota of `acct_group`, None for nobody's; at `delete_at` it is to go.
    """

    block_id: int
    se_id: int
    state: ReplicaState
    hops: int
    transit: bool
    custodial: bool
    created_at: datetime
    completed_at: datetime | None
    acct_group: str | None = None
    charged: int = 0
    delete_at: datetime | None = None

    @property
    def key(self) -> ReplicaKey:
        return self.block_id, self.se_id

    @property
    def leaving(self) -> bool:
        return self.delete_at is not None


class _Block(NamedTuple):
    """What of a block counts where its replicas are counted."""

    id: int
    name: str
    dataset_id: int
    state: BlockState
    files: int
    bytes: int


REPLICAS = (
    select(*(block_replica.c[one.name] for one in fields(ReplicaRow)))
    .where(within(block_replica.c.block_id))
    .order_by(block_replica.c.block_id, block_replica.c.se_id)
)
COMPLETE_REPLICAS = REPLICAS.where(block_replica.c.state == ReplicaState.COMPLETE)
BLOCKS = select(*(block.c[name] for name in ("id", "name", "dataset_id", "state", "files", "bytes"))).where(
    within(block.c.id)
)
DELETING = guard.COPIES.where(block_replica.c.state == ReplicaState.DELETING)
REMOVE = delete(block_replica).where(
    within(block_replica.c.block_id),
    block_replica.c.se_id == bindparam("on_se"),
    block_replica.c.state == ReplicaState.DELETING,
)


# --- reading -----------------------------------------------------------------------------------------


def _replica(row: Sequence[Any]) -> ReplicaRow:
    block_id, se_id, state, hops, transit, custodial, *rest = row
    return ReplicaRow(block_id, se_id, state, hops, bool(transit), bool(custodial), *rest)


def _by_block(
    conn: Connection, statement: Select[Any], block_ids: Iterable[int]
) -> dict[int, list[ReplicaRow]]:
    found: dict[int, list[ReplicaRow]] = {}
    ids = chunks(sorted(set(block_ids)))
    for row in chain.from_iterable(reads.rows(conn, [Read(statement, {"ids": part}) for part in ids])):
        found.setdefault(row[0], []).append(_replica(row))
    return found


def complete_replicas(conn: Connection, block_ids: Iterable[int]) -> dict[int, list[ReplicaRow]]:
    """{block id: its COMPLETE replicas by SE} of the blocks that have any: what jobs may read."""
    return _by_block(conn, COMPLETE_REPLICAS, block_ids)


def replicas(conn: Connection, block_ids: Iterable[int]) -> dict[int, list[ReplicaRow]]:
    """{block id: its replicas in any state, by SE} of the blocks that have any."""
    return _by_block(conn, REPLICAS, block_ids)


def _rows(conn: Connection, keys: Iterable[ReplicaKey]) -> dict[ReplicaKey, ReplicaRow]:
    """Those of the keys that there are, in their order."""
    wanted = set(keys)
    found = replicas(conn, {block_id for block_id, _ in wanted})
    return {one.key: one for rows in found.values() for one in rows if one.key in wanted}


def _blocks(conn: Connection, keys: Iterable[ReplicaKey]) -> dict[int, _Block]:
    (rows,) = reads.rows(conn, [Read(BLOCKS, {"ids": sorted({block_id for block_id, _ in keys})})])
    return {row[0]: _Block(*row) for row in rows}


# --- a replica's life --------------------------------------------------------------------------------


def begin_all(
    conn: Connection,
    wanted: Sequence[Begin],
    now: datetime,
    there: Mapping[ReplicaKey, ReplicaRow] | None = None,
) -> dict[ReplicaKey, ReplicaState]:
    """Have COPYING replicas, made where there are none; the states of those that are there then.

    One that was in transit only or not custodial becomes wanted or custodial as asked. DELETING is a refusal:
    ask again when it is gone. The caller holds the blocks' locks, and may know already which replicas are
    `there`. Raises NotFound, Conflict for open blocks.
    """
    asked = _merged(wanted)
    blocks = _blocks(conn, asked)
    for block_id, _ in asked:
        if block_id not in blocks:
            raise NotFound(f"there is no block with id {block_id}")
        if blocks[block_id].state is BlockState.OPEN:
            name = blocks[block_id].name
            raise Conflict(f"block {name} is open: it grows at its origin and is copied once it is closed")
    here = _rows(conn, asked) if there is None else {key: there[key] for key in asked if key in there}
    alive = [key for key, one in here.items() if one.state is not ReplicaState.DELETING]
    new = [one for key, one in asked.items() if key not in here]
    if new:
        bulk.write(conn, [_copying(new, now)])
        arriving = (
            (
                one.se_id,
                space.of_replica(ReplicaState.COPYING, 0, blocks[one.block_id].bytes, transit=one.transit),
            )
            for one in new
        )
        space.change(conn, space.sums(arriving))
    _keep(conn, [here[key] for key in alive if not asked[key].transit], blocks)
    _put_custodial(conn, {key: True for key in alive if asked[key].custodial and not here[key].custodial})
    return {key: here[key].state if key in here else ReplicaState.COPYING for key in asked}


def _merged(wanted: Iterable[Begin]) -> dict[ReplicaKey, Begin]:
    """By key, ascending; one asked for twice is in transit only if both say so."""
    asked: dict[ReplicaKey, Begin] = {}
    for one in sorted(wanted, key=lambda one: one.key):
        old = asked.get(one.key, one)
        both = {"transit": old.transit and one.transit, "custodial": old.custodial or one.custodial}
        asked[one.key] = one._replace(**both, group=old.group or one.group)
    return asked


def _copying(new: Sequence[Begin], now: datetime) -> New:
    columns: dict[str, Any] = {
        "block_id": [one.block_id for one in new],
        "se_id": [one.se_id for one in new],
        "state": Same(ReplicaState.COPYING),
        "transit": [int(one.transit) for one in new],
        "custodial": [int(one.custodial) for one in new],
        "acct_group": [one.group for one in new],
        "created_at": Same(now),
    }
    return New(block_replica, columns)


def complete_all(conn: Connection, done: Mapping[ReplicaKey, int], now: datetime) -> list[ReplicaKey]:
    """Replicas whose last file has arrived, with the WAN transfers it took from the blocks' origins; those
    that were COPYING and are COMPLETE now. The caller holds the blocks' locks."""
    copies = [one for one in _rows(conn, done).values() if one.state is ReplicaState.COPYING]
    if not copies:
        return []
    keys = [one.key for one in copies]
    columns = {"block_id": [key[0] for key in keys], "se_id": [key[1] for key in keys]}
    put = {
        "state": Same(ReplicaState.COMPLETE),
        "hops": [done[key] for key in keys],
        "completed_at": Same(now),
    }
    _write(conn, [Change(block_replica, columns, put=put, only={"state": ReplicaState.COPYING})], len(keys))
    blocks = _blocks(conn, keys)
    _hold(conn, copies, blocks, 1)
    _recount(conn, copies, {"state": ReplicaState.COMPLETE}, blocks)
    _tell(conn, "replica.complete", copies, blocks)
    return keys


def keep_all(conn: Connection, keys: Collection[ReplicaKey]) -> int:
    """Transit copies that are wanted for themselves now; how many there were. Locks the blocks."""
    lock_rows(conn, block, {block_id for block_id, _ in keys})
    alive = [one for one in _rows(conn, keys).values() if one.state is not ReplicaState.DELETING]
    return _keep(conn, alive, _blocks(conn, keys))


def _keep(conn: Connection, alive: Sequence[ReplicaRow], blocks: Mapping[int, _Block]) -> int:
    passing = [one for one in alive if one.transit]
    if passing:
        _write(conn, _changes([one.key for one in passing], {"transit": Same(0)}), len(passing))
        _recount(conn, passing, {"transit": False}, blocks)
    return len(passing)


def set_custodial_all(conn: Connection, wanted: Mapping[ReplicaKey, bool]) -> int:
    """Mark replicas as the ones to preserve, or not; how many changed. Locks the blocks."""
    lock_rows(conn, block, {block_id for block_id, _ in wanted})
    rows = _rows(conn, wanted)
    alive = [one for one in rows.values() if one.state is not ReplicaState.DELETING]
    return _put_custodial(
        conn, {one.key: wanted[one.key] for one in alive if one.custodial != wanted[one.key]}
    )


def _put_custodial(conn: Connection, changed: Mapping[ReplicaKey, bool]) -> int:
    if changed:
        keys = sorted(changed)
        columns = {"block_id": [key[0] for key in keys], "se_id": [key[1] for key in keys]}
        bulk.write(
            conn, [Change(block_replica, columns, put={"custodial": [int(changed[key]) for key in keys]})]
        )
    return len(changed)


# --- going -------------------------------------------------------------------------------------------


def mark_deleting_all(
    conn: Connection,
    keys: Collection[ReplicaKey],
    *,
    custodial_too: bool | Collection[ReplicaKey] = False,
) -> dict[ReplicaKey, Kept]:
    """Let replicas go; those that stay, and why. The others are DELETING. The caller holds the blocks' locks.

    They go one after the other: of a block's last two copies the second stays. `custodial_too` may name the
    replicas that may be the last custodial ones.
    """
    kept, going = guard.judge(conn, keys, custodial_too=custodial_too)
    if going:
        _let_go(conn, going)
    return kept


def set_leaving_all(conn: Connection, keys: Collection[ReplicaKey], at: datetime | None) -> None:
    """Say when COMPLETE replicas are to go, None for not at all; until then they may be read, but protect no
    other copy. The caller holds the blocks' locks."""
    bulk.write(conn, _changes(keys, {"delete_at": Same(at)}, {"state": ReplicaState.COMPLETE}))


def _let_go(conn: Connection, going: Sequence[Copy]) -> None:
    keys = [one.key for one in going]
    blocks = _blocks(conn, keys)
    _write(conn, _changes(keys, {"state": Same(ReplicaState.DELETING), "delete_at": Same(None)}), len(keys))
    for se_id, block_ids in _by_se(keys).items():
        exceptions.clear_replicas(conn, se_id, block_ids)
    _hold(conn, [one for one in going if one.state is ReplicaState.COMPLETE], blocks, -1)
    _recount(conn, going, {"state": ReplicaState.DELETING}, blocks)
    _tell(conn, "replica.deleting", going, blocks)


def remove_all(conn: Connection, keys: Collection[ReplicaKey]) -> list[ReplicaKey]:
    """Forget replicas whose files are gone; which were DELETING. The caller holds the blocks' locks."""
    wanted = set(keys)
    (found,) = reads.rows(conn, [Read(DELETING, {"ids": sorted({block_id for block_id, _ in wanted})})])
    gone = [one for row in found if (one := Copy._make(row)).key in wanted]
    left = [one.key for one in gone]
    for se_id, block_ids in _by_se(left).items():
        conn.execute(REMOVE, {"on_se": se_id, "ids": block_ids})
    _recount(conn, gone, None, _blocks(conn, left))
    return left


# --- rows and counters -------------------------------------------------------------------------------


def _changes(keys: Iterable[ReplicaKey], put: Columns, only: Mapping[str, Any] | None = None) -> list[Change]:
    """The same for all, SE by SE: rows that share it are changed by one statement."""
    return [
        Change(block_replica, {"block_id": block_ids, "se_id": Same(se_id)}, put=put, only=only or {})
        for se_id, block_ids in _by_se(keys).items()
    ]


def _write(conn: Connection, changes: Sequence[Change], n: int) -> None:
    """Change so many rows, read under their blocks' locks."""
    if sum(bulk.write(conn, changes)) != n:
        raise Stale("a replica changed though its block was locked")


def _by_se(keys: Iterable[ReplicaKey]) -> dict[int, list[int]]:
    """{SE: blocks}, ascending."""
    found: dict[int, list[int]] = defaultdict(list)
    for block_id, se_id in sorted(keys):
        found[se_id].append(block_id)
    return dict(sorted(found.items()))


def _hold(
    conn: Connection, rows: Iterable[ReplicaRow | Copy], blocks: Mapping[int, _Block], sign: Literal[1, -1]
) -> None:
    """Count COMPLETE replicas that came or went."""
    of = [(blocks[one.block_id], one.se_id) for one in rows]
    holdings.grow(
        conn,
        [
            (b.dataset_id, se_id, sign, sign * (b.state is BlockState.CLOSED), sign * b.files, sign * b.bytes)
            for b, se_id in of
        ],
    )


def _recount(
    conn: Connection,
    rows: Iterable[ReplicaRow | Copy],
    put: Mapping[str, Any] | None,
    blocks: Mapping[int, _Block],
) -> None:
    """Count replicas of which this has changed, None for those that are gone."""
    sums: dict[tuple[int, ReplicaState, int], list[int]] = {}
    for one in rows:
        held = sums.setdefault((one.se_id, one.state, one.transit), [0, 0])
        held[0] += blocks[one.block_id].files
        held[1] += blocks[one.block_id].bytes
    uses: list[tuple[int, space.Use]] = []
    for (se_id, state, transit), (files, size) in sums.items():
        old: dict[str, Any] = {"state": state, "transit": bool(transit)}
        uses.append((se_id, -space.of_replica(files=files, size=size, **old)))
        if put is not None:
            uses.append((se_id, space.of_replica(files=files, size=size, **{**old, **put})))
    space.change(conn, space.sums(uses))


def _tell(
    conn: Connection, kind: str, rows: Sequence[ReplicaRow | Copy], blocks: Mapping[int, _Block]
) -> None:
    events = [(blocks[one.block_id].name, {"block_id": one.block_id, "se_id": one.se_id}) for one in rows]
    outbox.emit_all(conn, kind, events)
