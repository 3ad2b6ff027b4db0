"""One try of one copy: what lies under the destination's name, and whose name that is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from catalogs.sites import StorageElement, tfc_text
from datamgmt.tools.base import CopyResult, ErrorClass, Stat
from datamgmt.tools.fake import FakeTool
from datamgmt.transfers.copying import Way, attempt
from datamgmt.transfers.tries import Claimed

LFN = "/store/mc/a.root"


def element(name: str, reverse: str | None) -> StorageElement:
    """All LFNs under one PFN: a mistake that only the way back gives away."""
    back = [{"protocol": "local", "path-match": f"^/{name}/x$", "result": reverse}] if reverse else []
    rules = {
        "lfn-to-pfn": [{"protocol": "local", "path-match": "^/store/.*$", "result": f"/{name}/x"}],
        "pfn-to-lfn": back,
    }
    return StorageElement(
        id=ord(name[0]), name=name, site_id=1, kind="disk", protocol="local", tfc=tfc_text(rules)
    )


def claimed() -> Claimed:
    return Claimed(
        id=1, file_id=1, block_id=1, src=1, dst=2, lfn=LFN, bytes=10, adler32=7, attempts=0,
        src_custodial=False, dst_custodial=False,
    )  # fmt: skip


@pytest.mark.parametrize(("reverse", "kept"), [(LFN, False), (None, False), ("/store/mc/b.root", True)])
def test_a_file_that_bears_another_name_is_never_replaced(reverse: str | None, kept: bool) -> None:
    tool = FakeTool()
    tool.put("/src/x", 10, 7)
    tool.put("/dst/x", 99, 1)
    way = Way(tool, element("src", None), element("dst", reverse), link_id=1, deadline_s=60)
    done = attempt(way, claimed())
    assert (tool.files["/dst/x"] == (99, 1)) is kept
    assert done.error_class == (ErrorClass.DEST_EXISTS if kept else None)


def test_a_copy_that_timed_out_has_more_time_at_its_next_try() -> None:
    """Ten bytes at one a second: the first try ends at its deadline, the second does not."""
    tool = FakeTool(rate=1.0, latency_s=0.0)
    tool.put("/src/x", 10, 7)
    way = Way(tool, element("src", None), element("dst", None), link_id=1, deadline_s=6)
    assert attempt(way, claimed()).error_class is ErrorClass.TIMEOUT
    assert attempt(way, replace(claimed(), attempts=1)).error_class is ErrorClass.TIMEOUT
    assert attempt(way, replace(claimed(), attempts=1, timed_out=True)).ok


class Breaking(FakeTool):
    """Reports a bad source, and breaks when it is looked at."""

    def copy(self, source: str, dest: str, *, size: int, adler32: int, deadline_s: float) -> CopyResult:
        return CopyResult(ok=False, error="bad", error_class=ErrorClass.SOURCE_CORRUPT)

    def stat(self, pfn: str) -> Stat | None:
        if pfn.startswith("/src"):
            raise OSError("broken pipe")
        return None


def test_a_try_ends_whatever_its_tool_does() -> None:
    way = Way(Breaking(), element("src", None), element("dst", None), link_id=1, deadline_s=60)
    done = attempt(way, claimed())
    assert (done.error_class, done.fault) == (ErrorClass.CONNECTION_LOST, None)
