"""Input sandboxes: a deterministic tar.gz, packed here, checked where it enters, unpacked by the wrapper."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from gridcore.errors import UsageError

MAX_BYTES = 120 << 20
MAX_ENTRIES = 10_000
_HINT = "a sandbox holds regular files and directories, with relative names and no '..'"


def pack(content: Iterable[Path] | Mapping[str, bytes]) -> bytes:
    """A tar.gz of files, directories (with what is in them) or of name -> bytes.

    The same content gives the same bytes: names are sorted, times and owners are zero; of the modes only
    the owner's x survives. Raises UsageError for an unreadable path or a name that occurs twice.
    """
    entries = _in_memory(content) if isinstance(content, Mapping) else _on_disk(content)
    buffer = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=buffer, mode="wb", filename="", mtime=0, compresslevel=6) as stream,
        tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for name, (data, executable) in sorted(entries.items()):
            info = tarfile.TarInfo(_checked_name(name))
            info.size, info.mode = len(data), 0o755 if executable else 0o644
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def _in_memory(content: Mapping[str, bytes]) -> dict[str, tuple[bytes, bool]]:
    return {name: (data, False) for name, data in content.items()}


def _on_disk(paths: Iterable[Path]) -> dict[str, tuple[bytes, bool]]:
    entries: dict[str, tuple[bytes, bool]] = {}
    for top in paths:
        files = [top] if not top.is_dir() else sorted(path for path in top.rglob("*") if not path.is_dir())
        for path in files:
            name = path.relative_to(top.parent).as_posix()
            if name in entries:
                raise UsageError(
                    f"sandbox: {name} occurs twice", hint="files of one sandbox need distinct names"
                )
            entries[name] = _read(path)
    return entries


def _read(path: Path) -> tuple[bytes, bool]:
    if path.is_symlink() or not path.is_file():
        raise UsageError(f"sandbox: {path} is not a regular file", hint="name existing files, not links")
    try:
        return path.read_bytes(), bool(path.stat().st_mode & 0o100)
    except OSError as error:
        raise UsageError(f"sandbox: {path}: {error.strerror}", hint="make it readable") from error


def digest(sandbox: bytes) -> str:
    """The sandbox's name in the store: sha256, hex."""
    return hashlib.sha256(sandbox).hexdigest()


def check(sandbox: bytes, max_bytes: int = MAX_BYTES, max_entries: int = MAX_ENTRIES) -> None:
    """Refuse a hostile or broken sandbox; `max_bytes` bounds the archive packed and unpacked.

    Raises UsageError saying which entry is wrong.
    """
    if len(sandbox) > max_bytes:
        raise UsageError(f"sandbox of {len(sandbox)} bytes is too large", hint=f"at most {max_bytes} bytes")
    raw = _inflate(sandbox, max_bytes)
    try:
        with tarfile.open(fileobj=io.BytesIO(raw), mode="r:") as tar:
            _check_members(tar, max_entries)
    except (tarfile.TarError, ValueError, EOFError, RecursionError) as error:
        raise UsageError(f"sandbox is no tar archive: {error}", hint="send a tar.gz") from error


def _inflate(sandbox: bytes, max_bytes: int) -> bytes:
    inflate = zlib.decompressobj(wbits=31)
    try:
        raw = inflate.decompress(sandbox, max_bytes + 1)
    except zlib.error as error:
        raise UsageError(f"sandbox is no gzip file: {error}", hint="send a tar.gz") from error
    if len(raw) > max_bytes:
        raise UsageError("sandbox is too large unpacked", hint=f"at most {max_bytes} bytes")
    if not inflate.eof or inflate.unused_data:
        raise UsageError("sandbox is torn or has a tail", hint="send one whole tar.gz")
    return raw


def _check_members(tar: tarfile.TarFile, max_entries: int) -> None:
    files: set[PurePosixPath] = set()
    folders: set[PurePosixPath] = set()
    for count, member in enumerate(tar, 1):
        if count > max_entries:
            raise UsageError(f"sandbox has more than {max_entries} entries", hint="pack fewer files")
        path = PurePosixPath(_checked_name(member.name))
        if member.isdir():
            folders.add(path)
            continue
        if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.issparse():
            raise UsageError(f"sandbox entry {member.name!r} is no regular file", hint=_HINT)
        if path in files:
            raise UsageError(f"sandbox entry {member.name!r} occurs twice", hint=_HINT)
        files.add(path)
        folders.update(path.parents)
    clash = next(iter(files & folders), None)
    if clash is not None:
        raise UsageError(f"sandbox entry {str(clash)!r} is a file and a directory", hint=_HINT)


def _checked_name(name: str) -> str:
    if not name.strip("./") or name.startswith("/") or ".." in name.split("/") or not name.isprintable():
        raise UsageError(f"sandbox entry {name!r} is not allowed", hint=_HINT)
    return name
