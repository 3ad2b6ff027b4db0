"""Copying: one try to bring one file over one hop. Safe to repeat: what is there already is only verified."""

from __future__ import annotations

from catalogs.sites import StorageElement, pfn_of
from datamgmt.tools.base import CopyResult, ErrorClass, ToolError, TransferTool
from datamgmt.tries import Claimed, Try
from datamgmt.verification import Verdict, verify
from gridcore import log
from gridcore.errors import GridError

_LOG = log.get(__name__)


def attempt(
    tool: TransferTool | None,
    claimed: Claimed,
    source: StorageElement,
    dest: StorageElement,
    link_id: int,
    deadline_s: float,
) -> Try:
    """Copy and verify. Whatever goes wrong is in the result: a try that is begun ends."""
    try:
        if tool is None:
            raise ToolError(ErrorClass.BAD_PFN, "no transfer tool of this agent has the name the link gives")
        source_pfn = _pfn(source, claimed.lfn, claimed.src_custodial)
        dest_pfn = _pfn(dest, claimed.lfn, claimed.dst_custodial)
        result = _copy(tool, claimed, source_pfn, dest_pfn, _bearer(dest, dest_pfn), deadline_s)
    except ToolError as error:
        return _failed(claimed, link_id, error.error_class, error.message)
    except Exception as error:
        _LOG.exception("copy failed unexpectedly", lfn=claimed.lfn, destination=dest.name)
        return _failed(claimed, link_id, ErrorClass.CONNECTION_LOST, repr(error))
    if result.ok:
        return Try(claimed=claimed, link_id=link_id, bytes=result.bytes, seconds=result.seconds)
    error_class = result.error_class or ErrorClass.NOT_ARRIVED
    return _failed(claimed, link_id, error_class, result.error or error_class, result.seconds)


def _copy(
    tool: TransferTool, claimed: Claimed, source: str, dest: str, bearer: str | None, deadline_s: float
) -> CopyResult:
    """The copy's result, with the verdict of verification in place of the tool's own.

    `bearer` is the LFN that the destination's own rules give the name; another file's is left alone.
    """
    content = {"size": claimed.bytes, "adler32": claimed.adler32}
    found = verify(tool, dest, **content)
    if found.ok:
        return CopyResult(ok=True)
    if found.code not in _DOUBTFUL:
        return _refused(found, 0.0)
    if found.found and bearer not in (None, claimed.lfn):
        return CopyResult(
            ok=False, seconds=0.0, error=f"{dest} is the name of {bearer}", error_class=ErrorClass.DEST_EXISTS
        )
    if found.found:  # never touch a name that nothing bears: another copy may just be arriving there
        tool.delete(dest)
    result = tool.copy(source, dest, deadline_s=deadline_s, **content)
    verdict = verify(tool, dest, **content)
    if verdict.ok:
        return CopyResult(ok=True, bytes=claimed.bytes, seconds=result.seconds)
    if verdict.found:
        tool.delete(dest)
    return _refused(verdict, result.seconds) if result.ok else result


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


def _pfn(element: StorageElement, lfn: str, custodial: bool) -> str:
    try:
        return pfn_of(element, lfn, custodial=custodial)[0]
    except GridError as error:
        raise ToolError(ErrorClass.BAD_PFN, error.message) from error
