"""Lists of files to import: what their lines say, and what is refused, with its line."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalogs import listing
from catalogs.listing import Fault, Portion

CSV = "lfn,bytes,adler32,events,runs,parents\n"


def read(text: str | bytes) -> list[Portion | Fault]:
    raw = text if isinstance(text, bytes) else text.encode()
    return list(listing.parse(io.BytesIO(raw)))


def faults(text: str | bytes) -> list[Fault]:
    return [one for one in read(text) if isinstance(one, Fault)]


def as_json(**said: Any) -> str:
    return json.dumps({"lfn": "/store/a/x.root", "bytes": 10, "adler32": "0000000a", **said})


def test_both_forms_say_the_same() -> None:
    table = (
        CSV + "/store/a/x.root,10,0000000a,5,7:1-9 8:5,/store/p/1 /store/p/2\n/store/a/y.root,0,FFFFFFFF,,,\n"
    )
    lines = "\n".join(
        [
            as_json(events=5, runs={"7": [[1, 9]], "8": [[5, 5]]}, parents=["/store/p/1", "/store/p/2"]),
            as_json(lfn="/store/a/y.root", bytes=0, adler32=None, checksum="adler32:ffffffff"),
        ]
    )
    (one,) = read(table)
    (other,) = read(lines)
    assert isinstance(one, Portion)
    assert isinstance(other, Portion)
    assert one.batch == other.batch
    assert list(one.batch.lfns()) == ["/store/a/x.root", "/store/a/y.root"]
    assert (one.batch.bytes, one.batch.adler32, one.batch.events) == ([10, 0], [10, 2**32 - 1], [5, None])
    assert one.batch.runs == {0: {7: [(1, 9)], 8: [(5, 5)]}}
    assert one.parents == other.parents == [(0, "/store/p/1"), (0, "/store/p/2")]
    assert (one.where, other.where) == (["line 2", "line 3"], ["line 1", "line 2"])


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"lfn": "/store/a/../b", "bytes": 1, "adler32": "00000001"}', "is no LFN"),
        ('{"lfn": "/store//b", "bytes": 1, "adler32": "00000001"}', "is no LFN"),
        ('{"lfn": "/store/b\\n", "bytes": 1, "adler32": "00000001"}', "is no LFN"),
        ('{"lfn": "/store/b\\u0000", "bytes": 1, "adler32": "00000001"}', "is no LFN"),
        ('{"lfn": "/store/' + "x" * 9_900 + '", "bytes": 1, "adler32": "00000001"}', "too long"),
        ('{"lfn": "/store/' + "x" * 100_000 + '", "bytes": 1, "adler32": "00000001"}', "longer than 100,000"),
        (as_json(adler32=None), "it has no checksum"),
        (as_json(adler32="xyz"), "its checksum is 'xyz'"),
        (as_json(adler32=10), "its checksum is 10"),
        (as_json(adler32=None, checksum="md5:d41d8cd98f00b204"), "its checksum is 'md5:"),
        (as_json(checksum="adler32:0000000a"), "both adler32 and checksum"),
        (as_json(bytes=-1), "its bytes are -1"),
        (as_json(bytes=1.5), "its bytes are 1.5"),
        (as_json(bytes=True), "its bytes are True"),
        (as_json(bytes=2**53 + 1), "its bytes are"),
        (as_json(bytes="ten"), "its bytes are 'ten'"),
        (as_json(events=-3), "its events are -3"),
        (as_json(runs={"7": [[9, 1]]}), "no range of lumis"),
        (as_json(runs={"x": [[1, 1]]}), "no run"),
        (as_json(runs=[1]), "runs are no object"),
        (as_json(runs={"7": [[1, 1]], "07": [[2, 2]]}), "run 7 twice"),
        (as_json(parents="/store/p"), "parents are no list"),
        (as_json(parents=["/store/a/x.root"]), "its own parent"),
        (as_json(parents=["../p"]), "is no LFN"),
        (as_json(dataset="MinBias"), "no dataset name"),
        (as_json(dataset=3), "its dataset is no name"),
        (as_json(color="red"), "no field 'color'"),
        ('{"lfn": 3}', "names no lfn"),
        ('{"bytes": 3, "bytes": 4}', "'bytes' twice"),
        ('{"bytes": NaN}', "not JSON"),
        ('{"bytes": ' + "9" * 9000 + "}", "not JSON"),
        ('{"a":' * 1500 + "1" + "}" * 1500, "not JSON"),
        ("{broken", "not JSON"),
        ("[1]", "not a JSON object"),
    ],
)
def test_a_line_at_fault_is_named(line: str, says: str) -> None:
    text = as_json() + "\n" + line + "\n" + as_json(lfn="/store/a/z.root")
    (fault,) = faults(text)
    assert fault.where == "line 2"
    assert says in fault.what
    assert len(fault.what) < 700
    (portion,) = (one for one in read(text) if isinstance(one, Portion))
    assert portion.where == ["line 1", "line 3"]


@pytest.mark.parametrize(
    ("text", "where", "says"),
    [
        ("lfn,size\n/store/x,1", "line 1", "no column 'size'"),
        ("lfn,bytes,lfn\n", "line 1", "a column twice"),
        ("lfn,adler32\n", "line 1", "no column lfn, or none of bytes"),
        ("/store/x,10,0000000a\n", "line 1", "no column '/store/x'"),
        (CSV + "/store/x,10\n", "line 2", "2 values for 6 columns"),
        (CSV + '/store/x,"1"0,1,,,\n', "line 2", "not CSV"),
        (CSV + "/store/x,-1,0000000a,,,\n", "line 2", "its bytes are '-1'"),
        (CSV + "/store/x,1,0000000a,,7:x,\n", "line 2", "'7:x' is no range"),
        (CSV + "/store/x,1,0000000a,,7:9-1,\n", "line 2", "no range of lumis"),
    ],
)
def test_tables_at_fault(text: str, where: str, says: str) -> None:
    fault, *rest = faults(text)
    assert (fault.where, rest) == (where, [])
    assert says in fault.what


def test_the_rest_of_a_line_that_is_too_long_is_no_line() -> None:
    text = as_json() + "\n" + as_json(dataset="x" * 3 * listing.LINE_MAX) + "\n" + as_json(bytes=-1) + "\n"
    stream = io.BytesIO(text.encode())
    found = list(listing.parse(iter(lambda: stream.readline(listing.LINE_MAX + 1), b"")))
    told = [(one.where, one.what) for one in found if isinstance(one, Fault)]
    assert told == [
        ("line 2", "it is longer than 100,000 bytes"),
        ("line 3", "its bytes are -1, no number from 0 to 9007199254740992"),
    ]


def test_a_file_may_have_many_parents() -> None:
    parents = [f"/store/raw/Run2026A/MinBias/RAW/v1/000/file_{n}.root" for n in range(1000)]
    (portion,) = read(as_json(parents=parents))
    assert isinstance(portion, Portion)
    assert [parent for _, parent in portion.parents] == parents


@pytest.mark.parametrize("given", [{"adler32": "adler32:0000000a"}, {"checksum": "adler32:0000000a"}])
def test_a_checksum_may_name_its_kind(given: dict[str, str]) -> None:
    (portion,) = read(json.dumps({"lfn": "/store/a/x.root", "bytes": 1, **given}))
    assert isinstance(portion, Portion)
    assert portion.batch.adler32 == [10]


def test_what_is_not_text_is_refused() -> None:
    (fault,) = faults(CSV.encode() + b"/store/\xff,1,00000001,,,\n")
    assert fault == Fault("line 2", "it is not UTF-8")


def test_a_name_twice_is_one_file_or_a_fault() -> None:
    (portion,) = read(f"{as_json()}\n\n{as_json()}\n")
    assert isinstance(portion, Portion)
    assert len(portion.batch) == 1
    (fault,) = faults(f"{as_json()}\n{as_json(bytes=11)}\n")
    assert fault.where == "line 2"
    assert "is given at line 1 with another content" in fault.what


def test_portions_end_with_their_dataset_and_before_a_child() -> None:
    def line(name: str, **said: Any) -> str:
        return as_json(lfn=f"/store/{name}", **said)

    text = "\n".join(
        [
            *(line("a", dataset="/A/b/RAW"), line("b", dataset="/A/b/RAW"), line("c", dataset="/C/d/RAW")),
            *(line("d", dataset="/C/d/RAW", parents=["/store/a"]), line("e", parents=["/store/d"])),
            line("f", parents=["/store/e"]),
        ]
    )
    portions = [one for one in read(text) if isinstance(one, Portion)]
    assert [(one.dataset, list(one.batch.names)) for one in portions] == [
        *(("/A/b/RAW", ["a", "b"]), ("/C/d/RAW", ["c", "d"]), ("", ["e"]), ("", ["f"])),
    ]


names = st.text(alphabet="abc/._-", min_size=1, max_size=12).map("/store/{}".format)
words = st.text(alphabet="0123456789abcdefx:-., \"'{}[]", max_size=12)


@given(st.lists(st.tuples(names, words, words, words), max_size=8))
def test_every_line_is_a_file_or_a_fault(rows: list[tuple[str, str, str, str]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["lfn", "bytes", "adler32", "runs"])
    writer.writerows(rows)
    found = read(text.getvalue())
    told = {one.where for one in found if isinstance(one, Fault)}
    files = [where for one in found if isinstance(one, Portion) for where in one.where]
    good = {row[0] for number, row in enumerate(rows, 2) if f"line {number}" not in told}
    assert told.isdisjoint(files)
    assert len(files) == len(good)


@given(st.binary(max_size=300))
def test_nothing_makes_it_fail(raw: bytes) -> None:
    for one in read(raw):
        assert isinstance(one, Portion | Fault)
