"""What every transfer tool offers, and one vocabulary of errors with the side that owns each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from gridcore.errors import GridError


class Owner(StrEnum):
    """Who has to look at an error."""

    SOURCE = "source"
    DESTINATION = "destination"
    NETWORK = "network"
    CATALOGUE = "catalogue"


class ErrorClass(StrEnum):
    """What went wrong with a copy or a storage call."""

    SOURCE_MISSING = "SOURCE_MISSING"
    SOURCE_CORRUPT = "SOURCE_CORRUPT"
    SOURCE_UNREADABLE = "SOURCE_UNREADABLE"
    DEST_EXISTS = "DEST_EXISTS"
    DEST_FULL = "DEST_FULL"
    DEST_UNWRITABLE = "DEST_UNWRITABLE"
    STORAGE_SILENT = "STORAGE_SILENT"
    NOT_ARRIVED = "NOT_ARRIVED"
    SIZE_MISMATCH = "SIZE_MISMATCH"
    CHECKSUM_MISMATCH = "CHECKSUM_MISMATCH"
    CONNECTION_LOST = "CONNECTION_LOST"
    TIMEOUT = "TIMEOUT"
    BAD_PFN = "BAD_PFN"

    @property
    def owner(self) -> Owner:
        return _TRAITS[self].owner

    @property
    def permanent(self) -> bool:
        """Whether the same copy would fail again, so that another try on this hop is wasted."""
        return _TRAITS[self].permanent

    @property
    def blames_link(self) -> bool:
        """Whether it counts as a failure of the link, and not of this one file."""
        return _TRAITS[self].blames_link

    @property
    def hint(self) -> str:
        """What the owner should do."""
        return _TRAITS[self].hint


@dataclass(frozen=True, slots=True)
class _Traits:
    owner: Owner
    hint: str
    permanent: bool = False
    blames_link: bool = True


_CORRUPT = "the next try copies it anew; if it comes back, look at the link's hardware"
_TRAITS: Mapping[ErrorClass, _Traits] = {
    ErrorClass.SOURCE_MISSING: _Traits(
        Owner.SOURCE, "restore the file or declare it lost", permanent=True, blames_link=False
    ),
    ErrorClass.SOURCE_CORRUPT: _Traits(
        Owner.SOURCE, "declare the replica bad, another source takes over", permanent=True, blames_link=False
    ),
    ErrorClass.SOURCE_UNREADABLE: _Traits(Owner.SOURCE, "check permissions and disks of the source"),
    ErrorClass.DEST_EXISTS: _Traits(
        Owner.DESTINATION, "a different file has that name; delete it first", blames_link=False
    ),
    ErrorClass.DEST_FULL: _Traits(Owner.DESTINATION, "free space at the destination"),
    ErrorClass.DEST_UNWRITABLE: _Traits(Owner.DESTINATION, "check permissions and disks there"),
    ErrorClass.STORAGE_SILENT: _Traits(Owner.DESTINATION, "check that the storage is mounted and answers"),
    ErrorClass.NOT_ARRIVED: _Traits(Owner.NETWORK, "the tool reported success; look at its log"),
    ErrorClass.SIZE_MISMATCH: _Traits(Owner.NETWORK, _CORRUPT),
    ErrorClass.CHECKSUM_MISMATCH: _Traits(Owner.NETWORK, _CORRUPT),
    ErrorClass.CONNECTION_LOST: _Traits(Owner.NETWORK, "the next try may pass; else check the network"),
    ErrorClass.TIMEOUT: _Traits(Owner.NETWORK, "raise the deadline or look why the link is slow"),
    ErrorClass.BAD_PFN: _Traits(
        Owner.CATALOGUE,
        "correct the storage element's file catalogue or its roots",
        permanent=True,
        blames_link=False,
    ),
}


class ToolError(GridError):
    """The storage or the copy failed."""

    def __init__(self, error_class: ErrorClass, message: str) -> None:
        super().__init__(message, hint=error_class.hint)
        self.error_class = error_class

    @property
    def owner(self) -> Owner:
        return self.error_class.owner


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyResult:
    """How a copy ended as the tool saw it; `bytes` moved in `seconds`. Verification has the last word."""

    ok: bool
    bytes: int = 0
    seconds: float = 0.0
    error: str | None = None
    error_class: ErrorClass | None = None


@dataclass(frozen=True, slots=True)
class Stat:
    """What a storage says of a file; size in bytes."""

    size: int


class TransferTool(Protocol):
    """A way to copy files between storages and to look after them; safe to call from several threads."""

    @property
    def name(self) -> str: ...

    def copy(self, source: str, dest: str, *, size: int, adler32: int, deadline_s: float) -> CopyResult:
        """Copy one file. Never replaces a different file; never raises ToolError, the result carries it."""
        ...

    def stat(self, pfn: str) -> Stat | None:
        """None where there is no such file. Raises ToolError."""
        ...

    def checksum(self, pfn: str) -> int:
        """The adler32 of what the storage holds. Raises ToolError."""
        ...

    def delete(self, pfn: str) -> bool:
        """False where it was not there. Raises ToolError."""
        ...

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """(PFN, size) of all files below a directory, in a fixed order. Raises ToolError."""
        ...

    def abandoned(self, prefix: str, older_than_s: float) -> Iterator[str]:
        """The PFNs of parts nobody has written to for that long: what dead copies left behind. Raises
        ToolError."""
        ...
