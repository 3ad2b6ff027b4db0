"""Filling: files of wanted replicas are queued on the links they take, by group, priority and age.

A wanted replica's cursor is the last file queued; files go in the order of their ids, and none is looked at
twice. Only the router queues files, under its lease.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    String,
    and_,
    bindparam,
    case,
    exists,
    func,
    insert,
    literal_column,
    select,
)
from sqlalchemy.sql.selectable import Select

from catalogs.states import InvalidCode, ReplicaState
from catalogs.tables import block, block_replica, data_file, file_exception, invalid_file
from datamgmt.links import linkqueues
from datamgmt.links.linkqueues import Queue
from datamgmt.links.paths import LinkKey
from datamgmt.tables import ALL_QUEUED, block_dest, group_weight, link_use, subscription, transfer
from datamgmt.transfer_states import TransferState
from datamgmt.transfers.fairness import Begun, decay, next_blocks
from datamgmt.wanted.allocation import ReplicaKey
from gridcore.db import bulk, lock_rows, reads
from gridcore.db.bulk import Change, New, Same, Values
from gridcore.db.idlists import within
from gridcore.db.reads import Read
from gridcore.db.statements import run_many
from gridcore.db.types import Key, UtcTime

#: Wanted replicas of one group that are looked at for one filling of a link.
DEPTH = 200
#: Whose the files are that nobody has subscribed to for a group.
NOBODY = "-"


class Chosen(NamedTuple):
    """Files of a wanted replica to be queued: `files` of the `left` ones after its cursor; whose they are."""

    block_id: int
    files: int
    left: int
    priority: int
    group: str
    repair: bool


# --- statements --------------------------------------------------------------------------------------

_HOP = (
    block_dest.c.src_se_id == bindparam("src"),
    block_dest.c.se_id == bindparam("dst"),
    block_dest.c.cursor_id < bindparam("all_queued", type_=Key),
)
_FINAL = block_dest.alias("final")
_GROUP = func.coalesce(subscription.c.acct_group, NOBODY)
_RANK = (
    block_dest.c.priority.desc(),
    case((block_dest.c.cursor_id > 0, 0), else_=1),
    block_dest.c.created_at,
    block_dest.c.block_id,
)
#: Those first in rank of each group. What is in transit counts as the one's it travels for.
_FIRST = (
    select(
        *(block_dest.c[name] for name in ("block_id", "se_id", "src_se_id", "priority", "cursor_id")),
        *(block_dest.c[name] for name in ("created_at", "files", "bytes", "repair")),
        _GROUP.label("acct_group"),
        func.row_number().over(partition_by=_GROUP, order_by=_RANK).label("place"),
    )
    .outerjoin_from(
        block_dest,
        _FINAL,
        and_(_FINAL.c.block_id == block_dest.c.block_id, _FINAL.c.se_id == block_dest.c.transit_for_id),
    )
    .outerjoin(
        subscription,
        subscription.c.id == func.coalesce(block_dest.c.subscription_id, _FINAL.c.subscription_id),
    )
    .where(*_HOP)
    .subquery("first")
)
_HERE, _THERE = block_replica.alias("here"), block_replica.alias("there")


def _may_travel(wanted: Any) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    """The copy here is one to be completed or repaired, the one there is complete."""
    here = case(
        (wanted.c.repair == 1, literal_column(f"'{ReplicaState.COMPLETE}'")),
        else_=literal_column(f"'{ReplicaState.COPYING}'"),
    )
    return (
        and_(_HERE.c.block_id == wanted.c.block_id, _HERE.c.se_id == wanted.c.se_id, _HERE.c.state == here),
        and_(
            _THERE.c.block_id == wanted.c.block_id,
            _THERE.c.se_id == wanted.c.src_se_id,
            _THERE.c.state == ReplicaState.COMPLETE,
        ),
    )


#: No bare column: without statistics PostgreSQL would read the keys of all later files of the catalogue.
_FILE_ID = data_file.c.id + literal_column("0", Key)
_LEFT_OF_BLOCK = (
    select(func.count())
    .where(data_file.c.block_id == _FIRST.c.block_id, _FIRST.c.cursor_id < _FILE_ID)
    .scalar_subquery()
)
_LEFT_TO_REPAIR = (
    select(func.count())
    .where(
        file_exception.c.block_id == _FIRST.c.block_id,
        file_exception.c.se_id == _FIRST.c.se_id,
        file_exception.c.file_id > _FIRST.c.cursor_id,
    )
    .scalar_subquery()
)
_HERE_OF_FIRST, _THERE_OF_FIRST = _may_travel(_FIRST)
WAITING = (
    select(
        _FIRST.c.block_id,
        _FIRST.c.acct_group,
        case(
            (_FIRST.c.repair == 1, _LEFT_TO_REPAIR),
            (and_(_FIRST.c.cursor_id == 0, _FIRST.c.files > 0), _FIRST.c.files),
            else_=_LEFT_OF_BLOCK,
        ).label("files_left"),
        *(_FIRST.c[name] for name in ("files", "bytes", "created_at", "priority", "cursor_id", "repair")),
    )
    .join_from(_FIRST, _HERE, _HERE_OF_FIRST)
    .join(_THERE, _THERE_OF_FIRST)
    .where(_FIRST.c.place <= bindparam("n", type_=Integer))
    .order_by(_FIRST.c.priority.desc(), _FIRST.c.created_at, _FIRST.c.block_id)
)
WEIGHTS = select(group_weight.c.acct_group, group_weight.c.weight)
USES = (
    select(link_use.c.link_id, link_use.c.acct_group, link_use.c.used, link_use.c.at)
    .where(within(link_use.c.link_id))
    .order_by(link_use.c.link_id, link_use.c.acct_group)
)
_HERE_NOW, _THERE_NOW = _may_travel(block_dest)
STILL_HOP = (
    select(block_dest.c.block_id, block_dest.c.cursor_id)
    .join_from(block_dest, _HERE, _HERE_NOW)
    .join(_THERE, _THERE_NOW)
    .where(*_HOP, within(block_dest.c.block_id))
)
# Read once for the block: plans outlive the statistics they were made by, and one that looks file by file,
# made when there were few transfers, reads all of the destination's for each.
_AFTER = bindparam("after", type_=Key)
_QUEUED = select(transfer.c.file_id).where(
    transfer.c.block_id == bindparam("on_block"),
    transfer.c.dst_se_id == bindparam("to_se", type_=Key),
    transfer.c.file_id > _AFTER,
)
_NOT_QUEUED = data_file.c.id.not_in(_QUEUED)
_OF_BLOCK = (data_file.c.block_id == bindparam("on_block"), _AFTER < _FILE_ID)
_NOT_LOST = (
    select(invalid_file.c.file_id)
    .where(
        invalid_file.c.file_id == data_file.c.id,
        invalid_file.c.code == literal_column(f"'{InvalidCode.LOST}'"),
    )
    .scalar_subquery()
    .is_(None)
)


def _queue(files: Select[Any]) -> Any:
    """The next files of a block as new transfers, with keys from `base` on in the order of the files' ids."""
    mine = (
        files.where(*_OF_BLOCK, _NOT_QUEUED, _NOT_LOST)
        .order_by(_FILE_ID)
        .limit(bindparam("n", type_=Integer))
    )
    one = mine.subquery("one")
    number = func.row_number().over(order_by=one.c.id)
    columns: dict[str, ColumnElement[Any]] = {
        "id": number + bindparam("base", type_=Key),
        "file_id": one.c.id,
        "block_id": one.c.block_id,
        "src_se_id": bindparam("from_se", type_=Key),
        "dst_se_id": bindparam("to_se", type_=Key),
        "state": literal_column(f"'{TransferState.QUEUED}'"),
        "attempts": literal_column("0"),
        "bytes": one.c.bytes,
        "priority": bindparam("urgency", type_=Integer),
        "acct_group": bindparam("whose", type_=String),
        "created_at": bindparam("at", type_=UtcTime),
        "updated_at": bindparam("at", type_=UtcTime),
    }
    return insert(transfer).from_select(list(columns), select(*columns.values()))


_FILES = select(data_file.c.id, data_file.c.block_id, data_file.c.bytes)
QUEUE = _queue(_FILES)
_SPOILT = and_(
    file_exception.c.file_id == data_file.c.id,
    file_exception.c.block_id == data_file.c.block_id,
    file_exception.c.se_id == bindparam("to_se", type_=Key),
)
_THERE_TOO = file_exception.alias("there_too")
_GOOD_THERE = ~exists().where(
    _THERE_TOO.c.file_id == data_file.c.id,
    _THERE_TOO.c.block_id == data_file.c.block_id,
    _THERE_TOO.c.se_id == bindparam("from_se", type_=Key),
)
#: A source of repairs may lack other files itself.
QUEUE_REPAIR = _queue(_FILES.join(file_exception, _SPOILT).where(_GOOD_THERE))
QUEUED_NOW = (
    select(
        *(transfer.c[name] for name in ("src_se_id", "dst_se_id", "block_id", "acct_group")),
        func.count(),
        func.sum(transfer.c.bytes),
        func.max(transfer.c.file_id),
    )
    .where(transfer.c.id.between(bindparam("low", type_=Key), bindparam("high", type_=Key)))
    .group_by(*(transfer.c[name] for name in ("src_se_id", "dst_se_id", "block_id", "acct_group")))
)


# --- choosing ----------------------------------------------------------------------------------------


def candidates(conn: Connection, room: Mapping[LinkKey, int], now: datetime) -> dict[LinkKey, list[Chosen]]:
    """By hop, so many files at most to queue on it, in this order: of the group that has used the link least
    for its weight, of these the urgent, of blocks that are begun, and the oldest. Only reads."""
    asked = [
        Read(WAITING, {"src": hop[0], "dst": hop[1], "all_queued": ALL_QUEUED, "n": min(DEPTH, n)})
        for hop, n in room.items()
    ]
    found = zip(room.items(), reads.rows(conn, asked), strict=True)
    return {hop: _candidates(conn, hop, rows, n, now) for (hop, n), rows in found if rows}


def _candidates(conn: Connection, hop: LinkKey, rows: Sequence[Any], n: int, now: datetime) -> list[Chosen]:
    waiting: dict[int, Begun] = {}
    repairs: dict[int, bool] = {}
    for block_id, group, left, files, size, created_at, priority, cursor, repair in rows:
        waiting[block_id] = Begun(
            block_id=block_id,
            group=group,
            files=left,
            bytes=size * left // files if files else 0,
            created_at=created_at,
            priority=priority,
            begun=cursor > 0,
        )
        repairs[block_id] = bool(repair)
    chosen = _by_group(conn, hop, waiting, n, now)
    return [
        Chosen(key, files, waiting[key].files, waiting[key].priority, waiting[key].group, repairs[key])
        for key, files in chosen
    ] + [
        # Nothing is left of these, though their cursor does not say so yet.
        Chosen(one.block_id, 0, 0, one.priority, one.group, repairs[one.block_id])
        for one in waiting.values()
        if one.files == 0
    ]


def _by_group(
    conn: Connection, hop: LinkKey, waiting: Mapping[int, Begun], n: int, now: datetime
) -> list[tuple[int, int]]:
    if len({one.group for one in waiting.values()}) == 1:
        return next_blocks(waiting.values(), {}, {}, n)
    weights = {group: weight for group, weight in conn.execute(WEIGHTS) if weight > 0}
    link_id = linkqueues.ids(conn, [hop]).get(hop, 0)
    used = {group: n for (_, group), n in _used(conn, [link_id], now).items()}
    return next_blocks(waiting.values(), used, weights, n)


def _used(conn: Connection, link_ids: Iterable[int], now: datetime) -> dict[tuple[int, str], float]:
    """Bytes each group has lately sent over each link."""
    (rows,) = reads.rows(conn, [Read(USES, {"ids": sorted(link_ids)})])
    return {(link_id, group): decay(used, now - at) for link_id, group, used, at in rows}


# --- queueing ----------------------------------------------------------------------------------------


def fill(conn: Connection, chosen: Mapping[LinkKey, Sequence[Chosen]], keys: range, now: datetime) -> int:
    """Queue what was chosen of the replicas that still take these hops; how many files. `keys`: as many fresh
    ones as files. The blocks' locks keep the wish from going meanwhile."""
    lock_rows(conn, block, {one.block_id for mine in chosen.values() for one in mine})
    portions = list(_portions(chosen, _still(conn, chosen), keys))
    for statement, repair in ((QUEUE, False), (QUEUE_REPAIR, True)):
        run_many(
            conn, statement, [one.binds(now) for one in portions if one.n and one.chosen.repair == repair]
        )
    (queued,) = reads.rows(conn, [Read(QUEUED_NOW, {"low": keys.start, "high": keys.stop - 1})])
    _advance(conn, portions, queued)
    _count(conn, queued, now)
    return sum(row[4] for row in queued)


class _Portion(NamedTuple):
    """Files of a replica to be queued: the next `n` after one, with keys from behind `base` on."""

    hop: LinkKey
    chosen: Chosen
    n: int
    after: int
    base: int

    @property
    def key(self) -> ReplicaKey:
        return self.chosen.block_id, self.hop[1]

    def binds(self, now: datetime) -> dict[str, Any]:
        """Of what queues them."""
        return {
            "on_block": self.chosen.block_id,
            "after": self.after,
            "n": self.n,
            "base": self.base,
            "from_se": self.hop[0],
            "to_se": self.hop[1],
            "urgency": self.chosen.priority,
            "whose": None if self.chosen.group == NOBODY else self.chosen.group,
            "at": now,
        }


def _still(conn: Connection, chosen: Mapping[LinkKey, Sequence[Chosen]]) -> list[list[tuple[Any, ...]]]:
    """By hop, the blocks that still take it, with their cursors."""
    asked = [
        {"src": src, "dst": dst, "all_queued": ALL_QUEUED, "ids": sorted({one.block_id for one in mine})}
        for (src, dst), mine in chosen.items()
    ]
    return reads.rows(conn, [Read(STILL_HOP, binds) for binds in asked])


def _portions(
    chosen: Mapping[LinkKey, Sequence[Chosen]], still: Sequence[Sequence[Any]], keys: range
) -> Iterator[_Portion]:
    """In the order they are to go. Of a block that takes turns with others, each portion begins at the same
    cursor and leaves out what those before it have queued."""
    used = 0
    for (hop, mine), rows in zip(chosen.items(), still, strict=True):
        cursors = dict(rows)
        for one in mine:
            n = min(one.files, len(keys) - used)
            if one.block_id in cursors and n == one.files:
                yield _Portion(hop, one, n, cursors[one.block_id], keys.start + used - 1)
                used += n


def _advance(conn: Connection, portions: Iterable[_Portion], queued: Iterable[Sequence[Any]]) -> None:
    """Move the cursors to the last file queued, or to the end where nothing is left."""
    done: Counter[ReplicaKey] = Counter()
    last: dict[ReplicaKey, int] = {}
    for _, dst, block_id, _, n, _, file_id in queued:
        done[block_id, dst] += n
        last[block_id, dst] = max(file_id, last.get((block_id, dst), 0))
    asked: Counter[ReplicaKey] = Counter()
    left = dict[ReplicaKey, int]()
    for one in portions:
        asked[one.key] += one.n
        left[one.key] = one.chosen.left
    keys = sorted(asked)
    cursors = [ALL_QUEUED if done[key] < asked[key] or done[key] >= left[key] else last[key] for key in keys]
    ends = {"block_id": [key[0] for key in keys], "se_id": [key[1] for key in keys]}
    bulk.write(conn, [Change(block_dest, ends, put={"cursor_id": cursors})])


def _count(conn: Connection, queued: Iterable[Sequence[Any]], now: datetime) -> None:
    """Add what was queued to the links' counts, and charge it to the groups."""
    sizes: dict[LinkKey, Counter[str]] = defaultdict(Counter)
    more = []
    for src, dst, _, group, n, size, _ in queued:
        sizes[src, dst][group or NOBODY] += int(size)
        more.append(((src, dst), Queue(n, int(size))))
    linkqueues.change(conn, linkqueues.sums(more), now)
    ids = linkqueues.ids(conn, sizes)
    _charge(conn, {(ids[hop], group): n for hop, groups in sizes.items() for group, n in groups.items()}, now)


def _charge(conn: Connection, sizes: Mapping[tuple[int, str], int], now: datetime) -> None:
    """Bytes by link and group."""
    known = _used(conn, {link_id for link_id, _ in sizes}, now)
    old = sorted(sizes.keys() & known.keys())
    new = sorted(sizes.keys() - known.keys())
    changed = Change(
        link_use, _ends(old), put={"used": [known[one] + sizes[one] for one in old], "at": Same(now)}
    )
    fresh = {"used": [float(sizes[one]) for one in new], "at": Same(now)}
    bulk.write(conn, [changed, New(link_use, {**_ends(new), **fresh})])


def _ends(keys: Sequence[tuple[int, str]]) -> dict[str, Values]:
    return {"link_id": [key[0] for key in keys], "acct_group": [key[1] for key in keys]}
