"""Verification: the storage is asked, whatever the tool said."""

from __future__ import annotations

import pytest

from datamgmt.tools.base import ErrorClass, TransferTool
from datamgmt.tools.fake import FakeTool
from datamgmt.tools.local import LocalTool
from datamgmt.transfers.verification import Found, Verdict, verify

PFN = "/se/file"


@pytest.fixture
def tool() -> FakeTool:
    fake = FakeTool()
    fake.put(PFN, 10, 77)
    return fake


def test_a_good_file(tool):
    assert verify(tool, PFN, 10, 77) == Verdict(True, None, Found(10, 77))


@pytest.mark.parametrize(
    ("pfn", "size", "adler32", "code", "found"),
    [
        ("/se/other", 10, 77, ErrorClass.NOT_ARRIVED, None),
        (PFN, 11, 77, ErrorClass.SIZE_MISMATCH, Found(10)),
        (PFN, 10, 78, ErrorClass.CHECKSUM_MISMATCH, Found(10, 77)),
    ],
)
def test_a_bad_file_is_told_with_what_was_found(tool, pfn, size, adler32, code, found):
    verdict = verify(tool, pfn, size, adler32)
    assert (verdict.ok, verdict.code, verdict.found) == (False, code, found)
    assert verdict.error
    assert pfn in verdict.error


def test_a_silent_storage_is_not_known_rather_than_bad(tool):
    tool.silent.add("/se")
    verdict = verify(tool, PFN, 10, 77)
    assert (verdict.ok, verdict.code) == (False, ErrorClass.STORAGE_SILENT)


def test_a_corrupting_copy_that_reports_success_is_caught():
    tool: TransferTool = FakeTool(corrupt=1.0)
    assert isinstance(tool, FakeTool)
    tool.put(PFN, 10, 77)
    assert tool.copy(PFN, "/b", size=10, adler32=77, deadline_s=60).ok
    assert verify(tool, "/b", 10, 77).code is ErrorClass.CHECKSUM_MISMATCH


def test_a_file_that_vanishes_before_its_checksum_has_not_arrived(tmp_path, monkeypatch):
    tool = LocalTool(lambda: [tmp_path])
    (tmp_path / "file").write_bytes(b"data")
    stat = tool.stat

    def stat_then_lose(pfn: str):
        found = stat(pfn)
        tool.delete(pfn)
        return found

    monkeypatch.setattr(tool, "stat", stat_then_lose)
    assert verify(tool, f"{tmp_path}/file", 4, 1).code is ErrorClass.NOT_ARRIVED
