"""Tries: one attempt to bring one file over one hop, and how it ended.

The rows of a destination are its lease holder's: nobody else ends them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby

from sqlalchemy import Connection, delete, select

from catalogs.exceptions import FileFault
from datamgmt.links import linkends, linkerrors, linkqueues
from datamgmt.links.health import LinkState, Outcome
from datamgmt.links.linkends import Ended
from datamgmt.links.linkerrors import Failed
from datamgmt.links.linkqueues import Queue
from datamgmt.links.linkstates import Policies
from datamgmt.tables import transfer
from datamgmt.tools.base import ErrorClass, Owner
from datamgmt.transfer_states import TransferState, after_failure
from datamgmt.wanted import destinations
from datamgmt.wanted.allocation import ReplicaKey
from gridcore.db import bulk, reads
from gridcore.db.bulk import Change, Same, Values
from gridcore.db.idlists import within
from gridcore.db.labels import plain
from gridcore.db.reads import Read

_ERROR_MAX = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """One try: all that is needed to name both ends. `attempts` counts the tries before it; `timed_out`: the
    last of them ended at its deadline."""

    id: int
    file_id: int
    block_id: int
    src: int
    dst: int
    lfn: str
    bytes: int
    adler32: int
    attempts: int
    src_custodial: bool
    dst_custodial: bool
    timed_out: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Try:
    """How a claimed try ended: `bytes` moved in `seconds`; `error_class` is None for a verified file.

    `fault` is what a second look has found wrong with the file at its source.
    """

    claimed: Claimed
    link_id: int
    bytes: int = 0
    seconds: float = 0.0
    error_class: ErrorClass | None = None
    error: str | None = None
    fault: FileFault | None = None

    @property
    def ok(self) -> bool:
        return self.error_class is None


@dataclass(frozen=True, slots=True)
class Settled:
    """How many tries ended how; stale ones found their row taken away or taken over. `arrived` are the
    replicas of which files have come: to be finished, if these were their last. `links`: by id, what is known
    now of those they went over."""

    done: int = 0
    retry: int = 0
    failed: int = 0
    stale: int = 0
    arrived: frozenset[ReplicaKey] = frozenset()
    links: Mapping[int, LinkState] = field(default_factory=dict, compare=False)


MINE = (
    select(transfer.c.id, transfer.c.claimed_by)
    .where(within(transfer.c.id), transfer.c.state == TransferState.ACTIVE)
    .order_by(transfer.c.id)
    .with_for_update(key_share=True)
)
FORGET_CANCELLED = delete(transfer).where(within(transfer.c.id), transfer.c.state == TransferState.CANCELLED)


def forget(conn: Connection, ids: Sequence[int]) -> None:
    """Let go of cancelled transfers: their files are in nobody's hand any more."""
    if ids:
        conn.execute(FORGET_CANCELLED, {"ids": ids})


# --- ending ------------------------------------------------------------------------------------------


def settle(
    conn: Connection, tries: Iterable[Try], marks: Mapping[int, str], now: datetime, policy: Policies
) -> Settled:
    """Write down how tries ended that were claimed under the name `marks` has for their destination. No block
    is locked: what may be whole now is finished in a transaction that follows."""
    tries = sorted(tries, key=lambda one: one.claimed.id)
    _stir(conn, tries, now, policy)
    (held,) = reads.rows(conn, [Read(MINE, {"ids": [one.claimed.id for one in tries]})])
    holders = dict(held)
    ended, stale = list[Try](), list[int]()
    for one in tries:
        if holders.get(one.claimed.id, "") == marks[one.claimed.dst]:
            ended.append(one)
        else:
            stale.append(one.claimed.id)
    forget(conn, stale)
    groups = _grouped(ended, now, policy)
    bulk.write(conn, [_end(key, group, now) for key, group in groups.items()])
    _count(conn, groups, now)
    linkerrors.record(conn, _failed(ended), now)
    links = linkends.record(conn, _by_link(ended), now, policy.link)
    sizes: dict[TransferState, int] = defaultdict(int)
    for (state, _, _), group in groups.items():
        sizes[state] += len(group)
    return Settled(
        done=sizes[TransferState.DONE],
        retry=sizes[TransferState.RETRY_WAIT],
        failed=sizes[TransferState.FAILED],
        stale=len(stale),
        arrived=frozenset((one.claimed.block_id, one.claimed.dst) for one in ended if one.ok),
        links=links,
    )


def _stir(conn: Connection, tries: Iterable[Try], now: datetime, policy: Policies) -> None:
    """Let the router look at those that are used up; wanted rows come before transfers."""
    blocks: dict[int, set[int]] = defaultdict(set)
    for one in tries:
        if not one.ok and _fate(one, now, policy)[0] is TransferState.FAILED:
            blocks[one.claimed.dst].add(one.claimed.block_id)
    for se_id, block_ids in sorted(blocks.items()):
        destinations.stir(conn, block_ids, se_id)


#: What tries have in common that end alike: state, error class, when the next is due.
_Fate = tuple[TransferState, ErrorClass | None, datetime | None]


def _fate(one: Try, now: datetime, policy: Policies) -> _Fate:
    if one.error_class is None:
        return TransferState.DONE, None, None
    kind = one.error_class
    state, due = after_failure(one.claimed.attempts + 1, kind.tries, now, policy.retry, kind.delay_factor)
    return state, kind, due


def _grouped(ended: Iterable[Try], now: datetime, policy: Policies) -> dict[_Fate, list[Try]]:
    groups: dict[_Fate, list[Try]] = defaultdict(list)
    for one in ended:
        groups[_fate(one, now, policy)].append(one)
    return groups


def _end(fate: _Fate, group: Sequence[Try], now: datetime) -> Change:
    state, why, due = fate
    put: dict[str, Values] = {
        "state": Same(state),
        "not_before": Same(due),
        "claimed_by": Same(None),
        "claimed_at": Same(None),
        "ended_at": Same(now),
        "error_class": Same(why and str(why)),
        "error": [plain(one.error, _ERROR_MAX) if one.error else None for one in group]
        if why
        else Same(None),
        "updated_at": Same(now),
    }
    keys = {"id": [one.claimed.id for one in group]}
    return Change(transfer, keys, add={"attempts": Same(1)}, put=put)


def _count(conn: Connection, groups: Mapping[_Fate, Sequence[Try]], now: datetime) -> None:
    changes = []
    for (state, _, _), group in groups.items():
        waits = state is TransferState.RETRY_WAIT
        for one in group:
            queue = Queue(1, one.claimed.bytes, -1) if waits else _GONE
            changes.append(((one.claimed.src, one.claimed.dst), queue))
    linkqueues.change(conn, linkqueues.sums(changes), now)


_GONE = Queue(active=-1)


def _failed(ended: Iterable[Try]) -> Iterator[Failed]:
    for one in ended:
        if one.error_class is not None:
            yield Failed(
                link_id=one.link_id,
                error_class=one.error_class,
                error=one.error or "",
                file_id=one.claimed.file_id,
            )


def _by_link(ended: Iterable[Try]) -> Iterator[Ended]:
    """The ends by link; good ones that follow each other are one."""
    by_link: dict[int, list[Try]] = defaultdict(list)
    for one in ended:
        by_link[one.link_id].append(one)
    for link_id, mine in by_link.items():
        for good, run in groupby(mine, key=lambda one: one.ok):
            if good:
                found = list(run)
                size, seconds = sum(one.bytes for one in found), sum(one.seconds for one in found)
                yield Ended(link_id, Outcome(ok=True, files=len(found), bytes=size, seconds=seconds))
            else:
                yield from map(_bad, run)


def _bad(one: Try) -> Ended:
    kind = one.error_class
    blames, hopeless = (True, False) if kind is None else (kind.blames_link, kind.owner is Owner.CREDENTIALS)
    outcome = Outcome(ok=False, bytes=one.bytes, seconds=one.seconds, blames_link=blames, hopeless=hopeless)
    return Ended(one.link_id, outcome, one.error)
