"""Copying: one try to bring one file over one hop. Safe to repeat: what is there already is only verified."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from catalogs.exceptions import FileFault
from catalogs.sites import StorageElement
from datamgmt.tools.base import CopyResult, ErrorClass, ToolError, TransferTool
from datamgmt.transfer_states import deadline_factor
from datamgmt.transfers.tries import Claimed, Try
from datamgmt.transfers.verification import Verdict, verify
from gridcore import log
from gridcore.errors import GridError

_LOG = log.get(__name__)


@dataclass(frozen=True, slots=True)
class Way:
    """How files get from one storage element to another: by which tool, over which link, in which time."""

    tool: TransferTool | None
    source: StorageElement
    dest: StorageElement
    link_id: int
    deadline_s: float
    #: What has been found to make PFNs, by SE and whether it is for custodial copies.
    names: dict[tuple[int, bool], Callable[[str], str]] = field(default_factory=dict)

    def pfn(self, element: StorageElement, lfn: str, custodial: bool) -> str:
        """The name of a file at one of the ends. Raises ToolError."""
        try:
            resolve = self.names.get((element.id, custodial))
            if resolve is None:
                resolve = element.catalog.resolver(element.protocol, custodial=custodial)
                self.names[element.id, custodial] = resolve
            return resolve(lfn)
        except GridError as error:
            raise ToolError(ErrorClass.BAD_PFN, error.message) from error

    def deadline(self, claimed: Claimed) -> float:
        """Seconds the try may take."""
        return self.deadline_s * deadline_factor(claimed.bytes, claimed.attempts, claimed.timed_out)


def attempt_all(way: Way, bundle: Sequence[Claimed]) -> list[Try]:
    """Copy and verify files of one link, one after the other."""
    return [attempt(way, one) for one in bundle]


def attempt(way: Way, claimed: Claimed) -> Try:
    """Copy and verify. Whatever goes wrong is in the result: a try that is begun ends."""
    try:
        return _attempt(way, claimed)
    except ToolError as error:
        return _failed(claimed, way.link_id, error.error_class, error.message)
    except Exception as error:
        _LOG.exception("copy failed unexpectedly", lfn=claimed.lfn, destination=way.dest.name)
        return _failed(claimed, way.link_id, ErrorClass.CONNECTION_LOST, repr(error))


def _attempt(way: Way, claimed: Claimed) -> Try:
    if way.tool is None:
        raise ToolError(ErrorClass.BAD_PFN, "no transfer tool of this agent has the name the link gives")
    source_pfn = way.pfn(way.source, claimed.lfn, claimed.src_custodial)
    dest_pfn = way.pfn(way.dest, claimed.lfn, claimed.dst_custodial)
    result = _copy(way, way.tool, claimed, source_pfn, dest_pfn)
    if result.ok:
        return Try(claimed=claimed, link_id=way.link_id, bytes=result.bytes, seconds=result.seconds)
    error_class = result.error_class or ErrorClass.NOT_ARRIVED
    ended = _failed(claimed, way.link_id, error_class, result.error or error_class, result.seconds)
    return replace(ended, fault=_fault(way.tool, source_pfn, claimed)) if error_class in _AT_SOURCE else ended


def _fault(tool: TransferTool, source: str, claimed: Claimed) -> FileFault | None:
    """What a second look finds wrong with the source; None where it is good, or does not answer."""
    found = verify(tool, source, claimed.bytes, claimed.adler32)
    if found.found is not None and not found.ok:
        return FileFault.BAD
    return FileFault.MISSING if found.code is ErrorClass.NOT_ARRIVED else None


def _copy(way: Way, tool: TransferTool, claimed: Claimed, source: str, dest: str) -> CopyResult:
    """The copy's result, with the verdict of verification in place of the tool's own."""
    size, adler32 = claimed.bytes, claimed.adler32
    found = verify(tool, dest, size, adler32)
    if found.ok:
        return CopyResult(ok=True)
    if found.code not in _DOUBTFUL:
        return _refused(found, 0.0)
    if found.found:  # never touch a name that nothing bears: another copy may just be arriving there
        # Nor that of another file, by the destination's own rules.
        if (bearer := _bearer(way.dest, dest)) not in (None, claimed.lfn):
            told = f"{dest} is the name of {bearer}"
            return CopyResult(ok=False, seconds=0.0, error=told, error_class=ErrorClass.DEST_EXISTS)
        tool.delete(dest)
    result = tool.copy(source, dest, size=size, adler32=adler32, deadline_s=way.deadline(claimed))
    verdict = verify(tool, dest, size, adler32)
    if verdict.ok:
        return CopyResult(ok=True, bytes=size, seconds=result.seconds)
    if verdict.found:
        tool.delete(dest)
    return _refused(verdict, result.seconds) if result.ok else result


_AT_SOURCE = frozenset({ErrorClass.SOURCE_MISSING, ErrorClass.SOURCE_CORRUPT})
_DOUBTFUL = frozenset({ErrorClass.NOT_ARRIVED, ErrorClass.SIZE_MISMATCH, ErrorClass.CHECKSUM_MISMATCH})


def _refused(verdict: Verdict, seconds: float) -> CopyResult:
    return CopyResult(ok=False, seconds=seconds, error=verdict.error, error_class=verdict.code)


def _failed(claimed: Claimed, link_id: int, error_class: ErrorClass, error: str, seconds: float = 0.0) -> Try:
    return Try(claimed=claimed, link_id=link_id, seconds=seconds, error_class=error_class, error=error)


def _bearer(element: StorageElement, pfn: str) -> str | None:
    """The LFN of a PFN by the element's pfn-to-lfn rules, None where they say nothing."""
    try:
        return element.catalog.lfn(pfn, element.protocol)
    except GridError:
        return None
