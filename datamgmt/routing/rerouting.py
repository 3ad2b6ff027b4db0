"""Rerouting: the router's decisions are written, all of a block or none."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select

from catalogs import replicas
from catalogs.replicas import Begin, ReplicaRow
from catalogs.states import ReplicaState
from catalogs.tables import block
from datamgmt.reasons import Reason
from datamgmt.routing.words import Changes, NewTransit, Word
from datamgmt.tables import block_dest, route_history
from datamgmt.transfers import store
from datamgmt.wanted import charging, destinations, transit
from datamgmt.wanted.allocation import ReplicaKey
from datamgmt.wanted.transit import Via
from gridcore.db import bulk, lock_rows
from gridcore.db.bulk import Change, New, Same
from gridcore.db.idlists import within
from gridcore.db.reads import Read, rows

HELD = (
    select(*(block_dest.c[name] for name in ("block_id", "se_id", "bytes", "files", "transit_for_id")))
    .add_columns(block_dest.c.valid_until)
    .where(within(block_dest.c.block_id))
    .order_by(block_dest.c.block_id, block_dest.c.se_id)
    .with_for_update(key_share=True)
)


@dataclass(frozen=True, slots=True)
class _Row:
    """A wanted replica as it is now."""

    bytes: int
    files: int
    transit: bool
    due_at: datetime | None


@dataclass(frozen=True, slots=True)
class _There:
    """What is there of the blocks, whose locks are held."""

    rows: Mapping[ReplicaKey, _Row]
    copies: Mapping[ReplicaKey, ReplicaRow]
    vias: Sequence[Via]

    def complete(self, key: ReplicaKey) -> bool:
        copy = self.copies.get(key)
        return copy is not None and copy.state is ReplicaState.COMPLETE

    def may_begin(self, key: ReplicaKey) -> bool:
        """Whether there is nothing, or what another route has begun and left."""
        copy = self.copies.get(key)
        return copy is None or copy.state is ReplicaState.COPYING


def apply(conn: Connection, changes: Changes, now: datetime) -> dict[str, int]:
    """Make the changes: how many rows are "decided", how many files "requeued" on other hops.

    They concern few blocks, which are locked. Blocks of which anything due has changed since it was looked at
    are left as they are, and stay due. Raises NoRoom.
    """
    lock_rows(conn, block, changes.blocks())
    there = _there(conn, changes.blocks())
    changes = changes.of_blocks(_unchanged(changes, there))
    words = _with_holders(conn, {key: word for key, word in changes.words.items() if key in there.rows})
    add = [new for new in changes.add if new.key not in there.rows and there.may_begin(new.key)]
    gone = sorted(
        {*changes.drop, *(key for key in changes.complete if there.complete(key))} & there.rows.keys()
    )
    _write(conn, words, add, changes, there, now)
    begun = [Begin(*one.key, one.transit_for is not None, one.custodial) for one in changes.begin]
    begun = [one for one in begun if one.key in there.rows]
    replicas.begin_all(conn, [*begun, *(Begin(*new.key, transit=True) for new in add)], now, there.copies)
    charging.charge(conn, {one.block_id for one in begun})
    destinations.forget(conn, gone)
    rerouted = changes.again | {key for key, word in words.items() if word.src is not None}
    requeued = store.follow(conn, rerouted, now) if rerouted else 0
    _keep_room(conn, changes, there, set(gone), now)
    decided = len(words) + len(changes.extend) + len(begun) + len(add) + len(gone)
    return {"decided": decided, "requeued": requeued}


def _there(conn: Connection, blocks: Sequence[int]) -> _There:
    (held,) = rows(conn, [Read(HELD, {"ids": blocks})])
    copies = replicas.replicas(conn, blocks)
    return _There(
        {(row[0], row[1]): _Row(row[2], row[3], row[4] is not None, row[5]) for row in held},
        {one.key: one for some in copies.values() for one in some},
        transit.of_blocks(conn, blocks),
    )


def _unchanged(changes: Changes, there: _There) -> set[int]:
    """The blocks whose rows are due since when they were, and whose sources are still complete."""
    moved = {
        key[0] for key, at in changes.seen.items() if key not in there.rows or there.rows[key].due_at != at
    }
    said = [*changes.words.items(), *((new.key, new.word) for new in changes.add)]
    for key, word in said:
        if word.path and not there.complete((key[0], word.path[0])):
            moved.add(key[0])
    return set(changes.blocks()) - moved


def _with_holders(conn: Connection, words: Mapping[ReplicaKey, Word]) -> dict[ReplicaKey, Word]:
    """The words, those that find no transit space with who has most of it."""
    short = {key: word for key, word in words.items() if word.code == Reason.NO_TRANSIT_SPACE}
    holders = {se_id: transit.holders(conn, se_id) for se_id in {_full(word) for word in short.values()}}
    told = {
        key: replace(word, params={**word.params, "holders": holders[_full(word)] or None})
        for key, word in short.items()
    }
    return {**words, **told}


def _full(word: Word) -> int:
    return int(str(word.params["se"]))


# --- rows --------------------------------------------------------------------------------------------


def _write(
    conn: Connection,
    words: Mapping[ReplicaKey, Word],
    add: Sequence[NewTransit],
    changes: Changes,
    there: _There,
    now: datetime,
) -> None:
    tries = {key: one for key, one in sorted(changes.tries.items()) if key in there.rows}
    extend = {key: at for key, at in sorted(changes.extend.items()) if key in there.rows}
    said = dict(sorted(words.items()))
    put = {**_spoken(said.values()), "decided_at": Same(now)}
    writes: list[bulk.Write] = [
        Change(block_dest, _keys(said), put=put),
        Change(block_dest, _keys(extend), put={"valid_until": list(extend.values())}),
        Change(
            block_dest,
            _keys(tries),
            put={
                "attempts": [one.attempts for one in tries.values()],
                "failing_since": [one.failing_since for one in tries.values()],
            },
        ),
        New(block_dest, _transit(add, there, now)),
    ]
    every = said | {new.key: new.word for new in add}
    writes.append(New(route_history, {**_keys(every), "at": Same(now), **_told(every.values())}))
    bulk.write(conn, writes)


def _keys(found: Iterable[ReplicaKey]) -> dict[str, Any]:
    keys = list(found)
    return {"block_id": [key[0] for key in keys], "se_id": [key[1] for key in keys]}


def _told(words: Iterable[Word]) -> dict[str, Any]:
    """The columns of words that history keeps."""
    said = list(words)
    return {
        "path": [word.path or None for word in said],
        "cost": [word.cost for word in said],
        "code": [word.code for word in said],
        "params": [word.params for word in said],
    }


def _spoken(words: Iterable[Word]) -> dict[str, Any]:
    """The columns of words."""
    said = list(words)
    return {
        **_told(said),
        "src_se_id": [word.src for word in said],
        "via_se_id": [word.path[1] if word.moving and len(word.path) > 2 else None for word in said],
        "valid_until": [word.valid_until for word in said],
    }


def _transit(add: Sequence[NewTransit], there: _There, now: datetime) -> dict[str, Any]:
    sizes = [there.rows[new.dest.key] for new in add]
    return {
        **_keys(new.key for new in add),
        "transit_for_id": [new.dest.se_id for new in add],
        "priority": [new.dest.priority for new in add],
        "bytes": [one.bytes for one in sizes],
        "files": [one.files for one in sizes],
        **_spoken([new.word for new in add]),
        "custodial": Same(0),
        "decided_at": Same(now),
        "created_at": Same(now),
    }


# --- room --------------------------------------------------------------------------------------------


def _keep_room(
    conn: Connection, changes: Changes, there: _There, gone: Collection[ReplicaKey], now: datetime
) -> None:
    old = {one[:3]: one for one in there.vias}
    new = [one for one in there.vias if one[:2] not in changes.rooms and one[:2] not in gone]
    for key, room in changes.rooms.items():
        if key in gone or key not in there.rows:
            continue
        for via, pos in room.stops.items():
            known = old.get((*key, via))
            if room.until is None:
                new += [known] if known else []
            elif known and known.pos == pos and known.lease_until > now + (room.until - now) / 2:
                new.append(known)
            else:
                new.append(Via(*key, via, pos, there.rows[key].bytes, room.until))
    transit.change(conn, there.vias, new)
