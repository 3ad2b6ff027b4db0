"""What is said of wanted replicas now: the stored reason, and for those on their way, what their files do."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Integer, and_, bindparam, func, or_, select

from agents.transfer_agent import SHARD
from catalogs import sites
from catalogs.states import Switch
from catalogs.tables import block, data_file, dir_, se
from datamgmt import reasons
from datamgmt.reasons import Reason
from datamgmt.tables import block_dest, transfer
from datamgmt.tools.base import ErrorClass
from datamgmt.transfer_states import RetryPolicy, TransferState
from datamgmt.wanted.allocation import ReplicaKey
from gridapp.insights.topology import se_names
from gridapp.insights.values import iso, plain
from gridcore.db import leases
from gridcore.db.idlists import within
from gridcore.errors import GridError

#: Transfers whose error is looked at.
ERRORS = 200

_COLUMNS = ("block_id", "se_id", "subscription_id", "transit_for_id", "src_se_id", "path", "code", "params")
_WANTED = select(
    *(block_dest.c[name] for name in (*_COLUMNS, "valid_until", "decided_at", "repair")),
    block.c.name.label("block"),
).join_from(block_dest, block, block.c.id == block_dest.c.block_id)
OF_BLOCKS = _WANTED.where(within(block_dest.c.block_id)).order_by(block_dest.c.block_id, block_dest.c.se_id)
OF_SUBSCRIPTION = (
    _WANTED.where(block_dest.c.subscription_id == bindparam("on_subscription"))
    .order_by(block_dest.c.block_id)
    .limit(bindparam("n", type_=Integer))
)
FILES = (
    select(
        transfer.c.block_id,
        transfer.c.dst_se_id,
        transfer.c.src_se_id,
        transfer.c.state,
        func.count().label("n"),
        func.min(transfer.c.claimed_at).label("since"),
        func.min(transfer.c.id).label("first_id"),
        func.max(transfer.c.priority).label("priority"),
    )
    .where(within(transfer.c.block_id))
    .group_by(transfer.c.block_id, transfer.c.dst_se_id, transfer.c.src_se_id, transfer.c.state)
)
_FAILURES = (
    select(
        *(transfer.c[name] for name in ("id", "block_id", "dst_se_id", "src_se_id", "state", "attempts")),
        *(transfer.c[name] for name in ("not_before", "error_class", "error")),
        dir_.c.path,
        data_file.c.name,
    )
    .join_from(transfer, data_file, data_file.c.id == transfer.c.file_id)
    .join(dir_, dir_.c.id == data_file.c.dir_id)
)
#: States of a transfer whose last try has failed.
FAILING = (TransferState.RETRY_WAIT, TransferState.FAILED)
FAILED = (
    _FAILURES.where(within(transfer.c.block_id), transfer.c.error_class.is_not(None))
    .where(transfer.c.state.in_(FAILING))
    .order_by(transfer.c.updated_at.desc(), transfer.c.id)
    .limit(bindparam("n", type_=Integer))
)
FAILURE = _FAILURES.where(within(transfer.c.id))
AHEAD = (
    select(func.count())
    .select_from(transfer)
    .where(
        transfer.c.src_se_id == bindparam("src"),
        transfer.c.dst_se_id == bindparam("dst"),
        transfer.c.state == TransferState.QUEUED,
        or_(
            transfer.c.priority > bindparam("rank"),
            and_(transfer.c.priority == bindparam("rank"), transfer.c.id < bindparam("first")),
        ),
    )
)
SWITCHED_OFF = select(se.c.id).where(se.c.state == Switch.DISABLED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """One reason as people are told it; `basis` is the number PhEDEx had for it."""

    code: Reason
    sentence: str
    turn: str
    cure: str | None
    basis: int | None
    params: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As evidence."""
        words = {"code": self.code.value, "sentence": self.sentence, "turn": self.turn, "cure": self.cure}
        return {**words, "basis": self.basis, "params": plain(self.params)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """A wanted replica and what is said of it, what matters most first."""

    block_id: int
    block: str
    se_id: int
    told: tuple[Told, ...]
    decided_at: datetime
    valid_until: datetime | None
    path: tuple[int, ...]


def told(code: Reason, params: Mapping[str, Any], names: Mapping[int, str]) -> Told:
    """A reason in words."""
    return Told(
        code=code,
        sentence=reasons.render(code, params, names),
        turn=reasons.turn(code, params, names),
        cure=reasons.cure(code, params, names),
        basis=reasons.basis(code),
        params=params,
    )


def of_blocks(conn: Connection, block_ids: Collection[int], now: datetime) -> list[Wait]:
    """The wanted replicas of these blocks, those in transit too."""
    return _waits(conn, conn.execute(OF_BLOCKS, {"ids": sorted(block_ids)}).all(), now)


def of_subscription(conn: Connection, subscription_id: int, now: datetime, limit: int) -> list[Wait]:
    """Up to `limit` wanted replicas of a subscription, by block."""
    rows = conn.execute(OF_SUBSCRIPTION, {"on_subscription": subscription_id, "n": limit}).all()
    return _waits(conn, rows, now)


def _waits(conn: Connection, rows: Collection[Any], now: datetime) -> list[Wait]:
    seen = _Seen(conn, {row.block_id for row in rows}, now)
    return [
        Wait(
            block_id=row.block_id,
            block=row.block,
            se_id=row.se_id,
            told=tuple(told(code, params, seen.names) for code, params in seen.words(row)),
            decided_at=row.decided_at,
            valid_until=row.valid_until,
            path=tuple(row.path or ()),
        )
        for row in rows
    ]


Said = tuple[Reason, dict[str, Any]]
#: What the router says of a replica whose files are on their way.
GOING = (Reason.ROUTED, Reason.PROBE)


class _Seen:
    """All that is on its way to some blocks' replicas, and who is there to carry it."""

    def __init__(self, conn: Connection, block_ids: Collection[int], now: datetime) -> None:
        ids = {"ids": sorted(block_ids)}
        self.conn = conn
        self.now = now
        self.names = se_names(conn)
        self.off = {row.id for row in conn.execute(SWITCHED_OFF)}
        self.rows = {(row.block_id, row.se_id): row for row in conn.execute(OF_BLOCKS, ids)}
        self.files: dict[ReplicaKey, dict[TransferState, Any]] = defaultdict(dict)
        for row in conn.execute(FILES, ids):
            self.files[row.block_id, row.dst_se_id][row.state] = row
        self.errors: dict[ReplicaKey, Any] = {}
        for row in conn.execute(FAILED, {**ids, "n": ERRORS}):
            self.errors.setdefault((row.block_id, row.dst_se_id), row)

    def words(self, row: Any) -> list[Said]:
        """Of one wanted replica: what its files wait for, before what the router said."""
        stored = self._stored(row)
        if row.se_id in self.off:
            return [(Reason.SE_DISABLED, {"se": row.se_id}), *stored]
        if row.code not in GOING:
            return stored
        path = row.path or []
        first = (row.block_id, row.se_id if row.src_se_id is not None or len(path) < 3 else path[1])
        return [*self.moving(first), *stored]

    def _stored(self, row: Any) -> list[Said]:
        if row.code not in tuple(Reason):
            return []
        extra = {"block": row.block, "dst": row.se_id, "id": row.subscription_id}
        return [(Reason(row.code), {**extra, **(row.params or {})})]

    def moving(self, key: ReplicaKey) -> list[Said]:
        """What the files on the hop that ends at this replica do."""
        states = self.files.get(key, {})
        if active := states.get(TransferState.ACTIVE):
            since = iso(active.since)
            return [(Reason.IN_FLIGHT, {"src": active.src_se_id, "dst": key[1], "since": since})]
        if TransferState.RETRY_WAIT in states or TransferState.FAILED in states:
            return failure(self.conn, self.errors[key]) if key in self.errors else []
        if queued := states.get(TransferState.QUEUED):
            return [absent(self.conn, key[1], self.names, self.now) or self._queued(queued)]
        return []

    def _queued(self, row: Any) -> Said:
        ends = {"src": row.src_se_id, "dst": row.dst_se_id}
        ahead = self.conn.execute(AHEAD, {**ends, "rank": row.priority, "first": row.first_id}).scalar_one()
        named = {"link_src": row.src_se_id, "link_dst": row.dst_se_id}
        return Reason.QUEUED, {"n": row.n, **named, "ahead": f"{ahead} others"}


def failure(conn: Connection, row: Any) -> list[Said]:
    """What the last failed try of a transfer means, read with its file's `path` and `name`: what is wrong,
    what comes next, and who does not answer."""
    known = row.error_class in tuple(ErrorClass)
    ends = {"src": row.src_se_id, "dst": row.dst_se_id}
    facts = {
        **ends,
        "attempt": row.attempts,
        "max_attempts": _most(row.error_class) if known else RetryPolicy().max_attempts,
        "error_class": row.error_class,
        "owner": ErrorClass(row.error_class).owner.value if known else None,
        "error": row.error,
    }
    again = row.state is TransferState.RETRY_WAIT
    last = (
        (Reason.RETRY_LATER, {**facts, "until": iso(row.not_before)}) if again else (Reason.EXHAUSTED, facts)
    )
    if row.error_class == ErrorClass.BAD_PFN:
        lfn = f"{row.path}/{row.name}"
        return [(Reason.TFC_NO_PFN, {"se": _without_pfn(conn, row, lfn), "lfn": lfn}), last]
    blamed = _BLAMED.get(row.error_class)
    return [last, (blamed, ends)] if blamed else [last]


def _most(error_class: str) -> int:
    """Tries that end in such an error before the transfer is given up."""
    return min(ErrorClass(error_class).tries, RetryPolicy().max_attempts)


def _without_pfn(conn: Connection, row: Any, lfn: str) -> int:
    """The end of the hop whose rules give no PFN; the destination where both do by now."""
    ends = {one.id: one for one in sites.storage_elements(conn)}
    for se_id in (row.dst_se_id, row.src_se_id):
        try:
            sites.pfn_of(ends[se_id], lfn)
        except GridError:
            return int(se_id)
    return int(row.dst_se_id)


def absent(conn: Connection, se_id: int, names: Mapping[int, str], now: datetime) -> Said | None:
    """That no transfer agent serves the storage element, where that is so."""
    found = leases.read(conn, [SHARD + names[se_id]])
    if any(one.owner and one.expires_at and one.expires_at > now for one in found):
        return None
    ended = [one.expires_at for one in found if one.expires_at]
    return Reason.AGENT_ABSENT, {"se": se_id, "since": iso(max(ended)) if ended else None}


_BLAMED: Mapping[str, Reason] = {
    ErrorClass.STORAGE_SILENT: Reason.DESTINATION_SILENT,
    ErrorClass.DEST_UNWRITABLE: Reason.DESTINATION_SILENT,
    ErrorClass.SOURCE_UNREADABLE: Reason.SOURCE_SILENT,
}
