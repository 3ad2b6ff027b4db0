"""Verification: what a storage holds, against the catalogue; this counts, not the tool's exit code."""

from __future__ import annotations

from dataclasses import dataclass

from datamgmt.tools.base import ErrorClass, ToolError, TransferTool


@dataclass(frozen=True, slots=True)
class Found:
    """What the storage holds; the checksum is None where the size settled it."""

    size: int
    adler32: int | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """`code` is None for a good file; STORAGE_SILENT and its like mean not known, rather than bad."""

    ok: bool
    code: ErrorClass | None = None
    found: Found | None = None
    error: str | None = None


def verify(tool: TransferTool, pfn: str, size: int, adler32: int) -> Verdict:
    """Compare size, then checksum. Never raises ToolError: a silent storage is a verdict too."""
    try:
        stat = tool.stat(pfn)
        if stat is None:
            return Verdict(False, ErrorClass.NOT_ARRIVED, None, f"{pfn} is not there")
        if stat.size != size:
            message = f"{pfn} has {stat.size} bytes instead of {size}"
            return Verdict(False, ErrorClass.SIZE_MISMATCH, Found(stat.size), message)
        found = Found(stat.size, tool.checksum(pfn))
    except ToolError as error:
        return Verdict(False, error.error_class, None, error.message)
    if found.adler32 != adler32:
        message = f"{pfn} has adler32 {found.adler32:08x} instead of {adler32:08x}"
        return Verdict(False, ErrorClass.CHECKSUM_MISMATCH, found, message)
    return Verdict(True, None, found)
