"""Sandboxes: what is packed comes out again, and nothing hostile gets in."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridcore.errors import UsageError
from prodsys import wrapper
from prodsys.sandbox import check, digest, pack

NAMES = st.from_regex(r"[a-z][a-z0-9._-]{0,8}(/[a-z][a-z0-9._-]{0,8}){0,2}", fullmatch=True)


def archive(*members: tarfile.TarInfo, data: bytes = b"evil") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for info in members:
            info.size = len(data) if info.isreg() else 0
            tar.addfile(info, io.BytesIO(data) if info.isreg() else None)
    return buffer.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


ATTACKS = {
    "parent": [member("../escaped")],
    "inner parent": [member("a/../../escaped")],
    "absolute": [member("/tmp/tierflow-escaped")],
    "symlink": [member("link", tarfile.SYMTYPE, "/etc/passwd")],
    "write through a symlink": [member("link", tarfile.SYMTYPE, ".."), member("link/escaped")],
    "hard link": [member("link", tarfile.LNKTYPE, "../../etc/passwd")],
    "device": [member("null", tarfile.CHRTYPE)],
    "fifo": [member("pipe", tarfile.FIFOTYPE)],
    "twice": [member("same"), member("same")],
    "file and directory": [member("a"), member("a/b")],
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_attacks_are_refused_by_the_check_and_by_the_wrapper(attack: str, tmp_path: Path) -> None:
    data = archive(*ATTACKS[attack])
    with pytest.raises(UsageError, match="sandbox"):
        check(data)
    work = tmp_path / "deep" / "work"
    work.mkdir(parents=True)
    (tmp_path / "sandbox").write_bytes(data)
    with pytest.raises((ValueError, OSError)):
        wrapper.unpack(str(tmp_path / "sandbox"), str(work))
    outside = {path for path in tmp_path.rglob("*") if work not in path.parents}
    assert outside == {tmp_path / "sandbox", tmp_path / "deep", work}
    assert not any(path.is_symlink() for path in work.rglob("*"))


@pytest.mark.parametrize(
    "data",
    [b"", b"no gzip", gzip.compress(b"no tar" * 100), pack({"a": b"x"})[:-4], pack({"a": b"x"}) + b"tail"],
    ids=["empty", "no gzip", "no tar", "torn", "tail"],
)
def test_broken_archives_are_refused(data: bytes) -> None:
    with pytest.raises(UsageError):
        check(data)


def test_a_bomb_is_refused_unread() -> None:
    bomb = archive(member("zeros"), data=bytes(3 << 20))
    assert len(bomb) < 10_000
    with pytest.raises(UsageError, match="too large unpacked"):
        check(bomb, max_bytes=1 << 20)
    with pytest.raises(UsageError, match="more than 2 entries"):
        check(pack({"a": b"", "b": b"", "c": b""}), max_entries=2)


def test_setuid_does_not_survive(tmp_path: Path) -> None:
    info = member("tool")
    info.mode = 0o4777
    (tmp_path / "sandbox").write_bytes(archive(info))
    (tmp_path / "work").mkdir()
    wrapper.unpack(str(tmp_path / "sandbox"), str(tmp_path / "work"))
    assert (tmp_path / "work" / "tool").stat().st_mode & 0o7000 == 0


@given(st.dictionaries(NAMES, st.binary(max_size=50), max_size=5))
def test_the_same_content_gives_the_same_bytes(content: dict[str, bytes]) -> None:
    data = pack(content)
    assert data == pack(dict(reversed(content.items())))
    assert digest(data) == digest(pack(content))
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert tar.getnames() == sorted(content)


def test_files_and_directories_come_out_as_they_went_in(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "lib").mkdir(parents=True)
    (source / "run.sh").write_text("#!/bin/sh\n")
    (source / "run.sh").chmod(0o755)
    (source / "lib" / "data").write_bytes(b"\0\1")
    data = pack([source / "run.sh", source / "lib"])
    check(data)
    (tmp_path / "sandbox").write_bytes(data)
    (tmp_path / "work").mkdir()
    wrapper.unpack(str(tmp_path / "sandbox"), str(tmp_path / "work"))
    assert (tmp_path / "work" / "lib" / "data").read_bytes() == b"\0\1"
    assert (tmp_path / "work" / "run.sh").stat().st_mode & 0o777 == 0o755


def test_links_and_missing_files_are_not_packed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/passwd")
    for path in (tmp_path / "link", tmp_path / "absent"):
        with pytest.raises(UsageError, match=path.name):
            pack([path])
