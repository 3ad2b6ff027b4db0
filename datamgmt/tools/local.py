"""Copies between directories of this host: whole or not at all, and only below the roots it was given."""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat as modes
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from datamgmt.tools.base import CopyResult, ErrorClass, Stat, ToolError

CHUNK = 1 << 20
# Ours, and those of the wrapper, which names attempt and nonce.
_PART = re.compile(r"\.part-([0-9a-f]{16}|\d+-[0-9a-f]{8})$")
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class LocalTool:
    """PFNs are absolute paths, with or without `file://`."""

    name = "local"

    def __init__(
        self, roots: Callable[[], Iterable[Path]], *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """`roots` is asked again where a PFN lies below none: storage may be added at any time."""
        self._ask = roots
        self._roots: tuple[Path, ...] = ()
        self._monotonic = monotonic

    def copy(self, source: str, dest: str, *, size: int, adler32: int, deadline_s: float) -> CopyResult:
        """Copy through `<dest>.part-<random>`, flushed to disk and then linked under its name.

        The deadline is looked at between chunks; a hanging file system is not interrupted.
        """
        started = self._monotonic()
        try:
            self._copy(self.path(source), self.path(dest), size, adler32, started + deadline_s)
        except ToolError as error:
            return CopyResult(
                ok=False,
                seconds=self._monotonic() - started,
                error=error.message,
                error_class=error.error_class,
            )
        return CopyResult(ok=True, bytes=size, seconds=self._monotonic() - started)

    def stat(self, pfn: str) -> Stat | None:
        path = self.path(pfn)
        with _translated(ErrorClass.STORAGE_SILENT, path):
            try:
                found = path.lstat()
            except (FileNotFoundError, NotADirectoryError):
                return None
        if not modes.S_ISREG(found.st_mode):
            raise ToolError(ErrorClass.BAD_PFN, f"{path} is not a regular file")
        return Stat(found.st_size)

    def checksum(self, pfn: str) -> int:
        path = self.path(pfn)
        value = 1
        with (
            _opened(path, missing=ErrorClass.NOT_ARRIVED, unreadable=ErrorClass.STORAGE_SILENT) as stream,
            _translated(ErrorClass.STORAGE_SILENT, path),
        ):
            while chunk := stream.read(CHUNK):
                value = zlib.adler32(chunk, value)
        return value

    def delete(self, pfn: str) -> bool:
        path = self.path(pfn)
        with _translated(ErrorClass.DEST_UNWRITABLE, path):
            try:
                path.unlink()
            except (FileNotFoundError, NotADirectoryError):
                return False
        return True

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Parts of unfinished copies are left out, symbolic links are not followed."""
        for name, found in self._walk(prefix):
            if not _PART.search(name):
                yield name, found.st_size

    def abandoned(self, prefix: str, older_than_s: float) -> Iterator[str]:
        limit = time.time() - older_than_s
        for name, found in self._walk(prefix):
            if _PART.search(name) and found.st_mtime < limit:
                yield name

    def path(self, pfn: str) -> Path:
        """The path of a PFN. Raises ToolError (BAD_PFN) unless it stays below a root, links resolved."""
        path = Path(pfn.removeprefix("file://"))
        if not path.is_absolute() or ".." in path.parts or "\0" in pfn:
            raise ToolError(ErrorClass.BAD_PFN, f"{pfn!r} is not an absolute path without '..'")
        with _translated(ErrorClass.BAD_PFN, path):
            # The name itself is not resolved: a link is then refused by stat and open, and delete
            # takes the link and not what it points to.
            real = Path(os.path.realpath(path.parent), path.name)
        if not self._allowed(lambda root: root in real.parents):
            raise ToolError(ErrorClass.BAD_PFN, f"{pfn} is outside the directories this tool may touch")
        return real

    def _copy(self, source: Path, dest: Path, size: int, adler32: int, deadline: float) -> None:
        part = dest.with_name(f"{dest.name}.part-{secrets.token_hex(8)}")
        missing, unreadable = ErrorClass.SOURCE_MISSING, ErrorClass.SOURCE_UNREADABLE
        with _opened(source, missing=missing, unreadable=unreadable) as stream:
            try:
                with _translated(ErrorClass.DEST_UNWRITABLE, dest):
                    dest.parent.mkdir(parents=True, exist_ok=True)
                    found = self._write(stream, source, part, deadline)
                if found != (size, adler32):
                    raise ToolError(
                        ErrorClass.SOURCE_CORRUPT,
                        f"{source} has {found[0]} bytes, adler32 {found[1]:08x};"
                        f" catalogued are {size}, {adler32:08x}",
                    )
                self._publish(part, dest, size, adler32)
            finally:
                with _translated(ErrorClass.DEST_UNWRITABLE, part):
                    part.unlink(missing_ok=True)

    def _write(self, stream: BinaryIO, source: Path, part: Path, deadline: float) -> tuple[int, int]:
        """(size, adler32) of what went from the source into the part."""
        size, value = 0, 1
        with open(part, "xb") as out:
            for chunk in self._chunks(stream, source, deadline):
                out.write(chunk)
                size += len(chunk)
                value = zlib.adler32(chunk, value)
            out.flush()
            os.fsync(out.fileno())
        return size, value

    def _chunks(self, stream: BinaryIO, source: Path, deadline: float) -> Iterator[bytes]:
        while True:
            if self._monotonic() > deadline:
                raise ToolError(ErrorClass.TIMEOUT, f"copying {source} did not end before its deadline")
            with _translated(ErrorClass.SOURCE_UNREADABLE, source):
                chunk = stream.read(CHUNK)
            if not chunk:
                return
            yield chunk

    def _publish(self, part: Path, dest: Path, size: int, adler32: int) -> None:
        # A hard link and not a rename: it fails where the name is taken, even by a copy a moment ago.
        with _translated(ErrorClass.DEST_UNWRITABLE, dest):
            try:
                os.link(part, dest)
            except FileExistsError:
                if self.stat(str(dest)) != Stat(size) or self.checksum(str(dest)) != adler32:
                    raise ToolError(ErrorClass.DEST_EXISTS, f"{dest} exists with another content") from None
            _sync_directory(dest.parent)

    def _walk(self, prefix: str) -> Iterator[tuple[str, os.stat_result]]:
        """(PFN in the prefix's own form, its status) of the regular files below it."""
        top = str(self._directory(prefix))
        for folder, folders, names in os.walk(top, onerror=_raise_silent):
            folders.sort()
            base = prefix.rstrip("/") + folder.removeprefix(top)
            for name in sorted(names):
                found = _status(Path(folder, name))
                if found is not None:
                    yield f"{base}/{name}", found

    def _directory(self, prefix: str) -> Path:
        """The directory of a prefix; a root itself may be listed."""
        path = Path(os.path.realpath(prefix.removeprefix("file://")))
        return path if self._allowed(lambda root: root == path) else self.path(prefix)

    def _allowed(self, covers: Callable[[Path], bool]) -> bool:
        if not any(map(covers, self._roots)):
            self._roots = tuple(Path(root).resolve() for root in self._ask())
        return any(map(covers, self._roots))


@contextmanager
def _opened(path: Path, *, missing: ErrorClass, unreadable: ErrorClass) -> Iterator[BinaryIO]:
    """The regular file, open for reading; a pipe or device is refused before it can block."""
    with _translated(unreadable, path):
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            raise ToolError(missing, f"{path} is not there") from None
    if not modes.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise ToolError(missing, f"{path} is not a regular file")
    with open(handle, "rb", buffering=0) as stream:
        yield stream


@contextmanager
def _translated(error_class: ErrorClass, path: Path) -> Iterator[None]:
    """An OSError as a ToolError of that class; a full disk and a refusal keep their own."""
    try:
        yield
    except OSError as error:
        found = ErrorClass.DEST_FULL if error.errno in _FULL else error_class
        found = ErrorClass.PERMISSION_DENIED if error.errno == errno.EACCES else found
        raise ToolError(found, f"{path}: {error.strerror or error}") from error


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _status(path: Path) -> os.stat_result | None:
    """The status of a regular file; None for anything else and for what went away meanwhile."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    return found if modes.S_ISREG(found.st_mode) else None


def _raise_silent(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise ToolError(ErrorClass.STORAGE_SILENT, f"{error.filename}: {error.strerror}") from error
