"""Tools: whole copies or none, confined to their roots, and the same manners from the fake."""

from __future__ import annotations

import errno
import os
import threading
import zlib
from pathlib import Path

import pytest

from datamgmt.tools.base import CopyResult, ErrorClass, Owner, Stat, ToolError, TransferTool
from datamgmt.tools.fake import FakeTool, FaultyTool
from datamgmt.tools.local import CHUNK, LocalTool
from gridcore.faults import FaultJournal, FaultKind, FaultPlan

DATA = os.urandom(CHUNK + 1000)
SIZE, ADLER = len(DATA), zlib.adler32(DATA)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "se").mkdir()
    return tmp_path / "se"


@pytest.fixture
def local(root: Path) -> LocalTool:
    return LocalTool(lambda: [root])


@pytest.fixture
def source(root: Path) -> str:
    (root / "in.root").write_bytes(DATA)
    return f"{root}/in.root"


def copy(tool: TransferTool, source: str, dest: str, deadline_s: float = 60, **expected: int) -> CopyResult:
    return tool.copy(source, dest, **{"size": SIZE, "adler32": ADLER, **expected}, deadline_s=deadline_s)


def files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


@pytest.fixture(params=["local", "fake"])
def any_tool(request, root: Path, source: str) -> TransferTool:
    if request.param == "local":
        return LocalTool(lambda: [root])
    fake = FakeTool()
    fake.put(source, SIZE, ADLER)
    return fake


class TestEveryTool:
    def test_copies_and_tells_what_is_there(self, any_tool, root, source):
        dest = f"{root}/store/a/out.root"
        result = copy(any_tool, source, dest)
        assert (result.ok, result.bytes, result.error) == (True, SIZE, None)
        assert any_tool.stat(dest) == Stat(SIZE)
        assert any_tool.checksum(dest) == ADLER
        assert list(any_tool.list(str(root))) == [(source, SIZE), (dest, SIZE)]

    def test_the_same_file_again_is_no_error(self, any_tool, root, source):
        assert copy(any_tool, source, f"{root}/out").ok
        assert copy(any_tool, source, f"{root}/out").ok

    def test_deletes_once(self, any_tool, source):
        assert [any_tool.delete(source), any_tool.delete(source)] == [True, False]
        assert any_tool.stat(source) is None

    def test_a_missing_source(self, any_tool, root):
        result = copy(any_tool, f"{root}/nothing", f"{root}/out")
        assert (result.ok, result.error_class) == (False, ErrorClass.SOURCE_MISSING)
        assert any_tool.stat(f"{root}/out") is None

    def test_a_source_that_is_not_what_the_catalogue_says(self, any_tool, root, source):
        result = copy(any_tool, source, f"{root}/out", adler32=ADLER ^ 1)
        assert result.error_class is ErrorClass.SOURCE_CORRUPT
        assert result.error_class.owner is Owner.SOURCE
        assert any_tool.stat(f"{root}/out") is None

    def test_a_deadline_leaves_nothing(self, any_tool, root, source):
        result = copy(any_tool, source, f"{root}/out", deadline_s=-1)
        assert result.error_class is ErrorClass.TIMEOUT
        assert any_tool.stat(f"{root}/out") is None

    def test_nothing_is_listed_below_a_missing_directory(self, any_tool, root):
        assert list(any_tool.list(f"{root}/none")) == []


def test_a_different_file_is_never_replaced(local, root, source):
    (root / "out").write_bytes(b"precious")
    result = copy(local, source, f"{root}/out")
    assert result.error_class is ErrorClass.DEST_EXISTS
    assert (root / "out").read_bytes() == b"precious"
    assert files(root) == ["in.root", "out"]


def test_racing_copies_leave_one_whole_file(local, root, source):
    barrier = threading.Barrier(4)
    results = []

    def run() -> None:
        barrier.wait()
        results.append(copy(local, source, f"{root}/deep/er/out"))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [result.ok for result in results] == [True] * 4
    assert files(root) == ["deep/er/out", "in.root"]
    assert (root / "deep/er/out").read_bytes() == DATA


def test_the_deadline_is_looked_at_while_copying(root, source):
    ticks = iter(range(100))
    tool = LocalTool(lambda: [root], monotonic=lambda: float(next(ticks)))
    result = copy(tool, source, f"{root}/out", deadline_s=1.5)
    assert result.error_class is ErrorClass.TIMEOUT
    assert files(root) == ["in.root"]


def test_a_full_disk_is_the_destinations_error_and_leaves_no_part(local, root, source, monkeypatch):
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    result = copy(local, source, f"{root}/out")
    assert result.error_class is ErrorClass.DEST_FULL
    assert result.error_class.owner is Owner.DESTINATION
    assert files(root) == ["in.root"]


def test_a_destination_below_a_file_is_the_destinations_error(local, root, source):
    result = copy(local, source, f"{source}/out")
    assert result.error_class is ErrorClass.DEST_UNWRITABLE
    assert files(root) == ["in.root"]


@pytest.mark.parametrize(
    "pfn", ["{root}/../secret", "{outside}", "relative/path", "{root}", "{root}2/x", "{root}/a\0b"]
)
def test_a_pfn_outside_the_roots_is_refused_by_every_verb(local, root, source, tmp_path, pfn):
    (tmp_path / "secret").write_bytes(DATA)
    name = pfn.format(root=root, outside=tmp_path / "secret")
    for verb in (local.stat, local.checksum, local.delete):
        with pytest.raises(ToolError, match=r"absolute|outside") as caught:
            verb(name)
        assert caught.value.owner is Owner.CATALOGUE
    assert copy(local, source, name).error_class is ErrorClass.BAD_PFN
    assert copy(local, name, f"{root}/out").error_class is ErrorClass.BAD_PFN
    assert (tmp_path / "secret").read_bytes() == DATA


def test_listing_outside_the_roots_is_refused(local, tmp_path):
    with pytest.raises(ToolError, match="outside"):
        list(local.list(str(tmp_path)))


def test_symbolic_links_lead_nowhere(local, root, source, tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_bytes(DATA)
    (root / "dir").symlink_to(tmp_path / "outside")
    (root / "file").symlink_to(tmp_path / "outside/secret")
    assert copy(local, source, f"{root}/dir/new").error_class is ErrorClass.BAD_PFN
    assert copy(local, f"{root}/file", f"{root}/out").error_class is ErrorClass.SOURCE_UNREADABLE
    assert copy(local, source, f"{root}/file").error_class is ErrorClass.BAD_PFN
    with pytest.raises(ToolError):
        local.stat(f"{root}/file")
    assert [pfn for pfn, _ in local.list(str(root))] == [source]
    assert local.delete(f"{root}/file")
    assert files(tmp_path / "outside") == ["secret"]


def test_a_pipe_does_not_hang_a_copy(local, root):
    os.mkfifo(root / "pipe")
    result = copy(local, f"{root}/pipe", f"{root}/out")
    assert result.error_class is ErrorClass.SOURCE_MISSING
    assert copy(local, str(root / ".."), f"{root}/out").error_class is ErrorClass.BAD_PFN


def test_file_urls_are_paths(local, root, source):
    assert copy(local, f"file://{source}", f"file://{root}/a/out").ok
    assert list(local.list(f"file://{root}/")) == [
        (f"file://{source}", SIZE),
        (f"file://{root}/a/out", SIZE),
    ]


def test_parts_of_dead_copies_are_found_but_not_listed(local, root, source):
    part = root / "a" / "out.part-0123456789abcdef"
    part.parent.mkdir()
    part.write_bytes(b"half")
    workers = part.with_name("out.part-12-01234567")
    workers.write_bytes(b"half")
    for one in (part, workers):
        os.utime(one, (0, 0))
    (root / "a" / "fresh.part-0123456789abcdef").write_bytes(b"half")
    assert list(local.list(str(root))) == [(source, SIZE)]
    assert list(local.abandoned(str(root), older_than_s=3600)) == [str(part), str(workers)]
    assert local.delete(str(part))


def test_an_empty_file_travels(local, root):
    (root / "empty").touch()
    assert copy(local, f"{root}/empty", f"{root}/out", size=0, adler32=1).ok
    assert local.checksum(f"{root}/out") == 1


def test_the_fake_repeats_itself_by_seed():
    def run(seed: int) -> list[bool]:
        tool = FakeTool(seed=seed, fail=0.5)
        tool.put("/a", SIZE, ADLER)
        return [copy(tool, "/a", f"/b{n}").ok for n in range(40)]

    assert run(1) == run(1) != run(2)
    assert 5 < sum(run(1)) < 35


def test_the_fake_takes_simulated_time_and_minds_its_deadline():
    tool = FakeTool(rate=SIZE / 10, latency_s=1)
    tool.put("/a", SIZE, ADLER)
    assert copy(tool, "/a", "/b").seconds == pytest.approx(11)
    assert copy(tool, "/a", "/c", deadline_s=5).error_class is ErrorClass.TIMEOUT


def test_a_silent_storage_is_blamed_on_its_own_side():
    tool = FakeTool()
    tool.put("/a/1", SIZE, ADLER)
    tool.silent.add("/a/")
    assert copy(tool, "/a/1", "/b").error_class.owner is Owner.SOURCE
    tool.silent = {"/b/"}
    assert copy(tool, "/a/1", "/b/1").error_class.owner is Owner.DESTINATION


def test_the_faulty_tool_hits_the_first_file_and_no_file_twice(local, root, source, tmp_path):
    journal = FaultJournal(tmp_path / "faults.jsonl")
    tool = FaultyTool(local, FaultPlan(1, journal), share=1.0)
    dests = [f"{root}/out{n}" for n in range(3)]
    for dest in dests:
        assert copy(tool, source, dest).ok
        assert tool.checksum(dest) != ADLER
        assert tool.stat(dest) == Stat(SIZE)
        tool.delete(dest)
    restarted = FaultyTool(local, FaultPlan(1, journal), share=1.0)
    for dest in dests:
        assert copy(restarted, source, dest).ok
        assert restarted.checksum(dest) == ADLER
    assert journal.counts()[FaultKind.FILE_CORRUPTED] == 3
    assert (root / "in.root").read_bytes() == DATA


def test_the_faulty_tool_hits_at_least_one_file(local, root, source, tmp_path):
    tool = FaultyTool(local, FaultPlan(1, FaultJournal(tmp_path / "faults.jsonl")), share=0.0)
    copies = [f"{root}/out{n}" for n in range(3)]
    assert all(copy(tool, source, dest).ok for dest in copies)
    assert [tool.checksum(dest) == ADLER for dest in copies] == [False, True, True]


def test_every_error_class_has_an_owner_and_a_hint():
    for error_class in ErrorClass:
        assert error_class.owner in Owner
        assert error_class.hint
        assert len(error_class) <= 20  # the column's width
    assert ErrorClass.SOURCE_MISSING.tries == 1
    assert not ErrorClass.SOURCE_MISSING.blames_link
    assert ErrorClass.CHECKSUM_MISMATCH.blames_link


def test_storage_added_later_is_reached(tmp_path):
    roots = [tmp_path / "a"]
    tool = LocalTool(lambda: roots)
    with pytest.raises(ToolError, match="outside"):
        tool.stat(f"{tmp_path}/b/file")
    roots.append(tmp_path / "b")
    assert tool.stat(f"{tmp_path}/b/file") is None
