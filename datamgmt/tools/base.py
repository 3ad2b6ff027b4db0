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
    CREDENTIALS = "credentials"
    CATALOGUE = "catalogue"


class ErrorClass(StrEnum):
    """What went wrong with a copy or a storage call."""

    SOURCE_MISSING = "SOURCE_MISSING"
    SOURCE_CORRUPT = "SOURCE_CORRUPT"
    SOURCE_UNREADABLE = "SOURCE_UNREADABLE"
    DEST_EXISTS = "DEST_EXISTS"
    DEST_FULL = "DEST_FULL"
    DEST_UNWRITABLE = "DEST_UNWRITABLE"
    DEST_BUSY = "DEST_BUSY"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    CREDENTIAL_EXPIRED = "CREDENTIAL_EXPIRED"
    STORAGE_SILENT = "STORAGE_SILENT"
    NOT_ARRIVED = "NOT_ARRIVED"
    SIZE_MISMATCH = "SIZE_MISMATCH"
    CHECKSUM_MISMATCH = "CHECKSUM_MISMATCH"
    CONNECTION_LOST = "CONNECTION_LOST"
    TIMEOUT = "TIMEOUT"
    EXPIRED = "EXPIRED"
    BAD_PFN = "BAD_PFN"

    @property
    def owner(self) -> Owner:
        return _TRAITS[self].owner

    @property
    def tries(self) -> int:
        """How many tries a file has on one hop; one where the same copy would fail again."""
        return _TRAITS[self].tries

    @property
    def delay_factor(self) -> float:
        """How much longer than usual to wait for the next try."""
        return _TRAITS[self].delay_factor

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
    tries: int = 5
    delay_factor: float = 1.0
    blames_link: bool = True


_CORRUPT = "the next try copies it anew; if it comes back, look at the link's hardware"
_O, _E = Owner, ErrorClass
_TRAITS: Mapping[ErrorClass, _Traits] = {
    _E.SOURCE_MISSING: _Traits(_O.SOURCE, "restore the file or declare it lost", 1, blames_link=False),
    _E.SOURCE_CORRUPT: _Traits(
        _O.SOURCE, "declare the replica bad, another source takes over", 1, blames_link=False
    ),
    _E.SOURCE_UNREADABLE: _Traits(_O.SOURCE, "check permissions and disks of the source", 5, 2),
    _E.DEST_EXISTS: _Traits(
        _O.CATALOGUE, "a different file has that name; delete it first", 2, blames_link=False
    ),
    _E.DEST_FULL: _Traits(_O.DESTINATION, "free space at the destination", 1, blames_link=False),
    _E.DEST_UNWRITABLE: _Traits(_O.DESTINATION, "check permissions and disks there", 5, 2),
    _E.DEST_BUSY: _Traits(_O.DESTINATION, "it takes no more copies now; see how many it may", 5, 2),
    _E.PERMISSION_DENIED: _Traits(_O.CREDENTIALS, "check what the agent's account may do there", 2, 10),
    _E.CREDENTIAL_EXPIRED: _Traits(_O.CREDENTIALS, "renew the agent's proxy or token", 2, 10),
    _E.STORAGE_SILENT: _Traits(_O.DESTINATION, "check that the storage is mounted and answers", 5, 2),
    _E.NOT_ARRIVED: _Traits(_O.NETWORK, "the tool reported success; look at its log", 3),
    _E.SIZE_MISMATCH: _Traits(_O.NETWORK, _CORRUPT, 3),
    _E.CHECKSUM_MISMATCH: _Traits(_O.NETWORK, _CORRUPT, 3),
    _E.CONNECTION_LOST: _Traits(_O.NETWORK, "the next try may pass; else check the network"),
    _E.TIMEOUT: _Traits(_O.NETWORK, "its next try may take longer; else look why the link is slow"),
    _E.EXPIRED: _Traits(_O.NETWORK, "the tool gave it up in its own queue; see how long that is"),
    _E.BAD_PFN: _Traits(
        _O.CATALOGUE, "correct the storage element's file catalogue or its roots", 1, blames_link=False
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
