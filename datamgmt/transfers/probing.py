"""Probing: dead links that nobody needs now are tried about once an hour with a copy that is removed again.

So it is known whether they work before somebody needs them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from zlib import crc32

from sqlalchemy import Connection, bindparam, exists, select

from catalogs.states import ReplicaState
from catalogs.tables import block_replica, data_file, dir_, file_exception
from datamgmt.links import linkends, linkerrors, linkqueues
from datamgmt.links.health import LinkPolicy, LinkState, Outcome, is_forced
from datamgmt.links.linkends import Ended
from datamgmt.links.linkerrors import Failed
from datamgmt.links.linkstates import LinkView
from datamgmt.links.paths import LinkKey
from datamgmt.tools.base import CopyResult, ErrorClass, Owner, ToolError, TransferTool
from datamgmt.transfers.copying import Way
from datamgmt.transfers.verification import verify
from gridcore import log

#: Longest a probe may take, in seconds: dead links often hang.
DEADLINE_S = 300.0
_LOG = log.get(__name__)

_SPOILT = (
    file_exception.c.block_id == block_replica.c.block_id,
    file_exception.c.se_id == block_replica.c.se_id,
    file_exception.c.file_id == data_file.c.id,
)
#: The smallest good file of the newest block.
SMALL = (
    select(
        *(data_file.c[name] for name in ("id", "name", "bytes", "adler32")),
        dir_.c.path,
        block_replica.c.custodial,
    )
    .join_from(block_replica, data_file, data_file.c.block_id == block_replica.c.block_id)
    .join(dir_, dir_.c.id == data_file.c.dir_id)
    .where(block_replica.c.se_id == bindparam("on_se"), block_replica.c.state == ReplicaState.COMPLETE)
    .where(~exists().where(*_SPOILT))
    .order_by(block_replica.c.block_id.desc(), data_file.c.bytes, data_file.c.id)
    .limit(1)
)


@dataclass(frozen=True, slots=True)
class Probe:
    """A file of the source, to be copied over a dead link."""

    link: LinkView
    file_id: int
    lfn: str
    bytes: int
    adler32: int
    custodial: bool


@dataclass(frozen=True, slots=True)
class Probed:
    """How a probe ended; `error_class` is None where the copy was good."""

    probe: Probe
    bytes: int = 0
    seconds: float = 0.0
    error_class: ErrorClass | None = None
    error: str = ""


# --- what is due -------------------------------------------------------------------------------------


def due(links: Mapping[LinkKey, LinkView], now: datetime, every: timedelta) -> list[LinkView]:
    """The dead links whose last copy ended long enough ago, those that waited longest first. What is disabled
    or held by an operator's word is left alone."""
    waited = {key: at for key, one in links.items() if (at := _due_at(one, now, every)) and at <= now}
    return [links[key] for key in sorted(waited, key=lambda key: (waited[key], key))]


def _due_at(link: LinkView, now: datetime, every: timedelta) -> datetime | None:
    """Three to five quarters of the time after its last copy, the same at each look: links that died together
    are tried apart."""
    state = link.state
    if not link.enabled or state.parked_until is None or is_forced(state, now):
        return None
    last = state.measured_at or state.parked_until
    spread = crc32(f"{link.id} {last.timestamp()}".encode()) / 2**32
    return last + every * (0.75 + spread / 2)


def probes(conn: Connection, links: Iterable[LinkView]) -> Iterator[Probe]:
    """Of these links those on which nothing is queued or under way, and whose source has a file to try."""
    links = list(links)
    busy = linkqueues.queues(conn) if links else {}
    for link in links:
        if (link.src, link.dst) in busy:
            continue
        row = conn.execute(SMALL, {"on_se": link.src}).one_or_none()
        if row is not None:
            lfn = f"{row.path}/{row.name}"
            yield Probe(link, row.id, lfn, row.bytes, row.adler32, bool(row.custodial))


# --- trying ------------------------------------------------------------------------------------------


def attempt(way: Way, probe: Probe) -> Probed:
    """Copy the file beside its own name, verify and remove it. Whatever goes wrong is in the result."""
    try:
        if way.tool is None:
            raise ToolError(ErrorClass.BAD_PFN, "no transfer tool of this agent has the name the link gives")
        source = way.pfn(way.source, probe.lfn, probe.custodial)
        # Of this link alone: others may be tried with the same file.
        dest = way.pfn(way.dest, f"{probe.lfn}.probe{probe.link.id}", False)
        result = _copy(way, way.tool, probe, source, dest)
    except ToolError as error:
        return Probed(probe, error_class=error.error_class, error=error.message)
    except Exception as error:
        _LOG.exception("probe failed unexpectedly", lfn=probe.lfn, destination=way.dest.name)
        return Probed(probe, error_class=ErrorClass.CONNECTION_LOST, error=repr(error))
    if result.ok:
        return Probed(probe, result.bytes, result.seconds)
    kind = result.error_class or ErrorClass.NOT_ARRIVED
    return Probed(probe, 0, result.seconds, kind, result.error or kind.value)


def _copy(way: Way, tool: TransferTool, probe: Probe, source: str, dest: str) -> CopyResult:
    size, adler32 = probe.bytes, probe.adler32
    tool.delete(dest)  # of a probe that died
    try:
        deadline = min(way.deadline_s, DEADLINE_S)
        result = tool.copy(source, dest, size=size, adler32=adler32, deadline_s=deadline)
        verdict = verify(tool, dest, size, adler32)
        if verdict.ok or not result.ok:
            return result
        return CopyResult(ok=False, seconds=result.seconds, error=verdict.error, error_class=verdict.code)
    finally:
        with suppress(ToolError):
            tool.delete(dest)


# --- learning ----------------------------------------------------------------------------------------


def record(
    conn: Connection, ended: Iterable[Probed], now: datetime, policy: LinkPolicy
) -> dict[int, LinkState]:
    """Let the links learn from these as from any copy; by id, what is known of them now."""
    ended = list(ended)
    failed = [
        Failed(link_id=one.probe.link.id, error_class=one.error_class, error=told, file_id=one.probe.file_id)
        for one in ended
        if one.error_class and (told := _told(one))
    ]
    linkerrors.record(conn, failed, now)
    return linkends.record(conn, map(_ended, ended), now, policy)


def _told(one: Probed) -> str:
    return f"probe: {one.error}"


def _ended(one: Probed) -> Ended:
    kind = one.error_class
    if kind is None:
        return Ended(one.probe.link.id, Outcome(ok=True, bytes=one.bytes, seconds=one.seconds))
    hopeless = kind.owner is Owner.CREDENTIALS
    outcome = Outcome(ok=False, seconds=one.seconds, blames_link=kind.blames_link, hopeless=hopeless)
    return Ended(one.probe.link.id, outcome, _told(one))
