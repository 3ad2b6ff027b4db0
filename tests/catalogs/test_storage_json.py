"""storage.json: which volume is read, what becomes of prefixes and rules, what is refused with its place."""

from __future__ import annotations

import contextlib
import json
import resource
import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalogs.tfc.catalog import TrivialCatalog
from catalogs.tfc.lint import SAMPLE_LFNS, lint
from catalogs.tfc.rules import Dialect
from catalogs.tfc.storage_json import parse_storage_json
from gridcore.errors import GridError, NotFound, UsageError

SRM = "srm://srm.alder.org:8443/srm/managerv2?SFN="
DISK = {
    "site": "T1_DE_Alder",
    "volume": "Alder_dCache",
    "type": "DISK",
    "rse": "T1_DE_Alder_Disk",
    "fts": ["https://fts.alder.org:8446"],
    "protocols": [
        {
            "protocol": "SRMv2",
            "access": "global-rw",
            "rules": [{"lfn": "(.*)", "pfn": f"{SRM}$1", "chain": "pnfs"}],
        },
        {
            "protocol": "pnfs",
            "access": "virtual",
            "rules": [
                {"lfn": "/+store/temp/user/(.*)", "pfn": "/pnfs/alder.org/disk-only/$1"},
                {"lfn": "/+(.*)", "pfn": "/pnfs/alder.org/cms/$1"},
            ],
        },
        {"protocol": "root", "access": "global-ro", "prefix": "root://xrootd.alder.org:1094/"},
    ],
}
TAPE = {
    "site": "T1_DE_Alder",
    "volume": "Alder_MSS",
    "type": "TAPE",
    "rse": "T1_DE_Alder_Tape",
    "protocols": [{"protocol": "root", "access": "site-ro", "prefix": "root://tape.alder.org"}],
}


def read(*entries: Any, **chosen: Any) -> TrivialCatalog:
    return parse_storage_json(json.dumps(list(entries)), source="storage.json", **chosen)


def rules(*pairs: tuple[str, str], **more: Any) -> dict[str, Any]:
    listed = [{"lfn": lfn, "pfn": pfn} for lfn, pfn in pairs]
    return {"site": "T2_FR_Birch", "volume": "v", "protocols": [{"protocol": "p", "rules": listed, **more}]}


@pytest.mark.parametrize("dialect", Dialect)
def test_chains_reach_every_protocol_of_the_volume(dialect: Dialect) -> None:
    catalog = read(DISK, dialect=dialect)
    assert catalog.protocols() == ["SRMv2", "pnfs", "root"]
    pfn = catalog.pfn("/store/temp/user/a", "SRMv2").pfn
    assert pfn == f"{SRM}/pnfs/alder.org/disk-only/a"
    assert catalog.pfn("/store/mc/a", "SRMv2").pfn == f"{SRM}/pnfs/alder.org/cms/store/mc/a"


@pytest.mark.parametrize("dialect", Dialect)
def test_a_prefix_is_kept_as_it_stands(dialect: Dialect) -> None:
    catalog = read(DISK, dialect=dialect)
    pfn = catalog.pfn("/store/mc/a", "root").pfn
    assert pfn == "root://xrootd.alder.org:1094//store/mc/a"
    assert catalog.lfn(pfn, "root") == "/store/mc/a"


@pytest.mark.parametrize("dialect", [Dialect.PHEDEX, Dialect.CMSSW])
def test_what_leads_there_leads_back(dialect: Dialect) -> None:
    assert lint(read(DISK, dialect=dialect)) == []


def test_wmcore_does_not_find_back_through_a_question_mark() -> None:
    told = [one.what for one in lint(read(DISK, dialect=Dialect.WMCORE), protocols=["SRMv2"])]
    assert len(told) == 1
    assert "has no LFN" in told[0]


def test_cmssw_takes_nothing_but_store() -> None:
    entry = rules(("/x/(.*)|/store/(.*)", "/d/$1$2"))
    for dialect, answers in ((Dialect.PHEDEX, True), (Dialect.CMSSW, False)):
        catalog = read(entry, DISK, volume="v", dialect=dialect)
        assert catalog.pfn("/store/a", "p").pfn.startswith("/d/")
        if answers:
            assert catalog.pfn("/x/a", "p").pfn == "/d/a"
        else:
            with pytest.raises(NotFound):
                catalog.pfn("/x/a", "p")


def test_the_volume_is_named_or_found_by_the_rse() -> None:
    assert read(DISK, TAPE, volume="Alder_MSS").protocols() == ["root"]
    assert read(DISK, TAPE, site="T1_DE_Alder", rse="T1_DE_Alder_Tape").protocols() == ["root"]
    assert read(DISK, rse="whatever").protocols() == ["SRMv2", "pnfs", "root"]
    with pytest.raises(UsageError, match="2 entries for it") as caught:
        read(DISK, TAPE)
    assert caught.value.hint == "name the volume; there are T1_DE_Alder Alder_dCache, T1_DE_Alder Alder_MSS"
    with pytest.raises(NotFound, match="no entries for site 'T2_FR_Birch' and volume 'Alder_MSS'"):
        read(DISK, TAPE, site="T2_FR_Birch", volume="Alder_MSS")


@pytest.mark.parametrize(
    ("lfn", "pfn", "name"),
    [
        ("/+store/user/(.)(.*)", "/eos/user/$1/$1$2", "/store/user/fred/d"),
        ("/+store/([^/]+)/(.*)", "/a.b/$2/of+$1", "/store/mc/x/y"),
        ("^/?(store/.*)$", "davs://h:2880/[x]/$1", "/store/mc/x"),
        ("/store/mc/(.*)", r"/p\$1/$1", "/store/mc/x"),
    ],
)
def test_a_way_back_is_made_of_any_plain_rule(lfn: str, pfn: str, name: str) -> None:
    catalog = read(rules((lfn, pfn)))
    assert catalog.lfn(catalog.pfn(name, "p").pfn, "p") == name


@pytest.mark.parametrize("lfn", ["/store/.*/([^/]+)", "/store/(a|b)/(.*)", "/store/(.*)/(.*)"])
def test_where_no_way_back_is_sure_none_is_made(lfn: str) -> None:
    catalog = read(rules((lfn, "/d/$1")))
    assert catalog.pfn_to_lfn == ()
    assert "no pfn-to-lfn rule" in "\n".join(map(str, lint(catalog)))


plain = st.text(string.ascii_letters + string.digits + "._-+?=&[]()$^", min_size=1, max_size=10)
component = st.text(string.ascii_letters + string.digits, min_size=1, max_size=8)


@given(st.lists(plain, max_size=4), st.lists(component, min_size=1, max_size=5), st.sampled_from(Dialect))
def test_prefixes_round_trip(prefix: list[str], parts: list[str], dialect: Dialect) -> None:
    text, lfn = "/".join(["root://h", *prefix]), "/store/" + "/".join(parts)
    entry = {"site": "s", "volume": "v", "protocols": [{"protocol": "p", "prefix": text}]}
    try:
        catalog = read(entry, dialect=dialect)
        pfn = catalog.pfn(lfn, "p").pfn
    except UsageError:
        assert dialect is not Dialect.PHEDEX or ".." in text
        return
    if dialect is Dialect.PHEDEX or "$1" not in text:
        assert pfn == f"{text}{lfn}"
        if dialect is not Dialect.WMCORE:
            assert catalog.lfn(pfn, "p") == lfn


def refusal(text: str | bytes) -> str:
    with pytest.raises(GridError) as caught:
        parse_storage_json(text, source="storage.json")
    assert caught.value.hint
    assert "\n" not in caught.value.message
    assert caught.value.message.startswith("storage.json: ")
    return caught.value.message


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ({}, "storage.json: is no list"),
        ([1], "entry 1 is no table"),
        ([], "no entries"),
        ([{"site": "s"}], "entry 1: protocols is no list"),
        ([{"site": "s", "protocols": [{}]}], "entry 1: protocol 1: protocol is missing"),
        ([{"site": "s", "protocols": [{"protocol": "p", "prefx": "/"}]}], "(p): neither prefix nor rules"),
        ([{"site": "s", "protocols": [{"protocol": "p", "prefix": 1}]}], "prefix is no text"),
        ([rules(("(", "/$1"))], "lfn-to-pfn rule 1 (protocol 'p'): path-match '(' cannot be read"),
        ([rules(("(a+)+$", "/$1"))], "rule 1"),
        ([rules(("/(.*)", "/../$1"))], "'..'"),
        ([rules(("/(.*)", "/$1"), chain="p")], "chain loop p -> p"),
        (
            [{"site": "s", "protocols": [{"protocol": "p", "rules": [{"lfn": "/", "pnf": "/"}]}]}],
            "protocol 1: rule 1: unknown key 'pnf'; known are lfn, pfn, chain",
        ),
        ([rules(*[("/(.*)", "/$1")] * 1001)], "1001 rules; at most 1000"),
    ],
)
def test_a_faulty_file_is_refused_with_its_place(document: Any, told: str) -> None:
    assert told.replace("storage.json: is", "storage.json is") in refusal_of(document)


def refusal_of(document: Any) -> str:
    with pytest.raises(GridError) as caught:
        parse_storage_json(json.dumps(document), source="storage.json")
    assert caught.value.hint
    assert "\n" not in caught.value.message
    return caught.value.message


@pytest.mark.parametrize(
    "text",
    [
        "[" * 400_000,
        '{"a":' * 150_000,
        "[" * 31 + "]" * 31,
        '[{"site": "s", "site": "t"}]',
        "[" + "9" * 900_000 + "]",
        "[NaN]",
        "[1e999999999, Infinity]",
        '["' + "\\u0000" * 100_000,
        '["' + "\\" * 900_001,
        b"\xff\xfe[\x00",
        b"\x00\x00",
        "[" + " " * 1_000_000 + "]",
        "",
        "<storage-mapping/>",
        "[1,]",
        '[{"site": "s", "protocols": ' + "[" * 20 + "]" * 20 + "}]",
    ],
    ids=lambda text: repr(text[:24]),
)
def test_a_hostile_file_is_refused_in_little_memory(text: str | bytes) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refusal(text)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["site", "volume", "protocols", "protocol", "prefix", "rules", "lfn", "pfn", "chain"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@given(st.lists(documents, max_size=3), st.sampled_from(Dialect))
def test_any_document_is_read_or_refused(listed: list[Any], dialect: Dialect) -> None:
    with contextlib.suppress(GridError):
        lint(parse_storage_json(json.dumps(listed), source="storage.json", dialect=dialect), SAMPLE_LFNS)
