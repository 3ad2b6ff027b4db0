"""storage.xml: what is read and written, and what is refused with its place and cure."""

from __future__ import annotations

import resource
from collections.abc import Callable

import pytest

from catalogs.tfc.catalog import TrivialCatalog
from catalogs.tfc.rules import Rule
from catalogs.tfc.storage_xml import parse_storage_xml, to_xml
from gridcore.errors import UsageError

SRM = "srm://srm.alder.org/srm/managerv1?SFN="

STORAGE_XML = rf"""<?xml version="1.0"?>
<!-- one SRM in front of one file system -->
<storage-mapping>
  <lfn-to-pfn protocol="direct" path-match="/+(.*)" result="/castor/cms/$1"/>
  <lfn-to-pfn protocol="srm" chain="direct" path-match="(.*)" result="{SRM}$1"/>
  <pfn-to-lfn protocol="direct" path-match="/+castor/cms/(.*)" result="/$1"/>
  <pfn-to-lfn protocol="srm" chain="direct" path-match=".*\?SFN=(.*)" result="$1"/>
</storage-mapping>
"""


def wrap(body: str) -> str:
    return f"<storage-mapping>{body}</storage-mapping>"


def refusal(act: Callable[[], object]) -> str:
    with pytest.raises(UsageError) as caught:
        act()
    message = caught.value.message
    assert caught.value.hint
    assert "\n" not in message
    assert message.startswith("storage.xml: ")
    return message


def test_reads_chains_in_both_directions() -> None:
    catalog = parse_storage_xml(STORAGE_XML, source="storage.xml")
    pfn = catalog.pfn("/store/a", "srm").pfn
    assert pfn == f"{SRM}/castor/cms/store/a"
    assert catalog.lfn(pfn, "srm") == "/store/a"
    assert catalog.protocols() == ["direct", "srm"]


def test_a_phedex_answer_and_blank_attributes_are_read() -> None:
    rule = '<lfn-to-pfn protocol="p" path-match="/(.*)" result="$1" chain="" space-token="" is-custodial=""/>'
    catalog = parse_storage_xml(f"<phedex>{wrap(rule)}</phedex>".encode(), source="storage.xml")
    assert catalog.rules("lfn-to-pfn") == (Rule("p", "/(.*)", "$1"),)


def test_what_is_written_is_read_again() -> None:
    rule = Rule("p", '/+"<a>&(.*)', "srm://h?SFN=$1&x='y'", chain="q", is_custodial="y", space_token="A B")
    catalog = TrivialCatalog("storage.xml", (rule,), (Rule("p", "/x", ""),))
    assert parse_storage_xml(to_xml(catalog), source="storage.xml") == catalog


@pytest.mark.parametrize("kind", ["lfn-to-pfn", "pfn-to-lfn"])
@pytest.mark.parametrize("length", [1, 2, 500])
def test_chain_loop_is_refused_when_loading(kind: str, length: int) -> None:
    rules = "".join(
        f'<{kind} protocol="p{i}" chain="p{(i + 1) % length}" path-match="(.*)" result="$1"/>'
        for i in range(length)
    )
    message = refusal(lambda: parse_storage_xml(wrap(rules), source="storage.xml"))
    assert f"{kind} rule" in message
    assert "chain loop p" in message


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (
            '<lfn-to-pfn protocol="srm" path-match="(" result="x"/>',
            "lfn-to-pfn rule 1 (protocol 'srm'): path-match",
        ),
        ('<lfn-to-pfn protocol="srm" path-match="" result="x"/>', "path-match is empty"),
        ('<lfn-to-pfn protocol="srm" path-match="x"/>', "no result; add"),
        ('<lfn-to-pfn path-match="x" result="y"/>', "no protocol; add"),
        ('<lfn-to-pfn protocol="srm" path-match="x" result="$"/>', "stray '$'"),
        ('<lfn-to-pfn protocol="srm" path-match="x" result="$100"/>', "stray '$'"),
        ('<lfn-to-pfn protocol="srm" path-match="x" result="$0"/>', "stray '$'"),
        (r'<lfn-to-pfn protocol="srm" path-match="x" result="\n"/>', "stray"),
        ('<lfn-to-pfn protocol="srm" path-match="x" result="/a/../b"/>', "'..'"),
        ('<lfn-to-pfn protocol="srm" path-match="x" result="&#233;"/>', "printable ASCII"),
        ('<lfn-to-pfn protocol="srm" path-match="x" result="y" is-custodial="Y"/>', "write y or n"),
        (
            '<lfn-to-pfn protocol="srm" path-match="x" result="y" destination-match="["/>',
            "destination-match '['",
        ),
        ('<lfn-to-pfn protocol="srm" path-match="[[:alpha:]]" result="y"/>', "POSIX"),
        ('<lfn-to-pfn protocol="srm" path-match="x" result="y" cain="z"/>', "unknown attribute 'cain'"),
        ('<lfn-to-pnf protocol="srm" path-match="x" result="y"/>', "use lfn-to-pfn or pfn-to-lfn"),
        ('<lfn-to-pfn protocol="srm" path-match="x" result="y"><a/></lfn-to-pfn>', "<a> is not known here"),
        (f'<lfn-to-pfn protocol="srm" path-match="{"a" * 501}" result="y"/>', "path-match of 501 characters"),
        ('<lfn-to-pfn protocol="srm" path-match="x" result="y"/>' * 1001, "1001 rules; at most 1000"),
        ("<lfn-to-pfn", "line 1: no well-formed XML"),
    ],
)
def test_faulty_file_is_refused_with_file_key_and_cure(body: str, told: str) -> None:
    assert told in refusal(lambda: parse_storage_xml(wrap(body), source="storage.xml"))


@pytest.mark.parametrize(
    "text",
    [
        "<a>" * 200_000,
        "<storage-mapping>" * 55_000,
        '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><storage-mapping>&b;</storage-mapping>',
        '<!DOCTYPE x SYSTEM "file:///etc/passwd"><storage-mapping/>',
        wrap('<lfn-to-pfn protocol="p" path-match="(.*)" result="x"/>' * 17_000),
        wrap(f"<lfn-to-pfn {' '.join(f'a{i}=' + chr(34) * 2 for i in range(90_000))}/>"),
        "<!DOCTYPE storage-mapping><storage-mapping/>",
        wrap(" " * 1_000_000),
        "",
        "\ud800",
        b"\xff\xfe\x00",
        b'<?xml version="1.0" encoding="rot13"?><storage-mapping/>',
        b'<?xml version="1.0" encoding="utf-7"?><storage-mapping/>',
        b'<?xml version="1.0" encoding="nonsense"?><storage-mapping/>',
        "<catalog/>",
    ],
    ids=lambda text: repr(text[:24]),
)
def test_hostile_file_is_refused_in_little_memory(text: str | bytes) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refusal(lambda: parse_storage_xml(text, source="storage.xml"))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB
