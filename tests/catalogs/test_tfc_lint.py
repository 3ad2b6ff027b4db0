"""Remarks on a Trivial File Catalog: every fault, shadowed rules, names that do not lead back."""

from __future__ import annotations

import pytest

from catalogs.tfc.catalog import TrivialCatalog
from catalogs.tfc.examples import example
from catalogs.tfc.lint import lint
from catalogs.tfc.rules import Dialect, Rule
from catalogs.tfc.storage_xml import parse_storage_xml

DIRECT = Rule("direct", "/+(.*)", "/castor/cms/$1")


def forward(*rules: Rule) -> TrivialCatalog:
    return TrivialCatalog("storage.xml", lfn_to_pfn=rules)


def test_lint_lists_every_fault_of_a_file_read_leniently() -> None:
    text = (
        '<storage-mapping><lfn-to-pfn protocol="a" path-match="(" result=""/>'
        '<lfn-to-pfn protocol="a" path-match="x" result="$"/>'
        '<lfn-to-pfn protocol="a" chain="b" path-match="x" result=""/>'
        '<lfn-to-pfn protocol="b" chain="a" path-match="x" result=""/></storage-mapping>'
    )
    findings = lint(parse_storage_xml(text, source="storage.xml", strict=False))
    assert {finding.severity for finding in findings} == {"error"}
    assert [finding.where[:17] for finding in findings[:2]] == ["lfn-to-pfn rule 1", "lfn-to-pfn rule 2"]
    assert "chain loop a -> b -> a" in findings[2].what


def test_lint_is_content_with_a_sound_catalogue() -> None:
    door = Rule("srm", "(.*)", "srm://srm.alder.org/srm/managerv1?SFN=$1", chain="direct")
    back = (Rule("direct", "/+castor/cms/(.*)", "/$1"), Rule("srm", r".*\?SFN=(.*)", "$1", chain="direct"))
    assert lint(TrivialCatalog("storage.xml", (DIRECT, door), back)) == []


@pytest.mark.parametrize(
    ("rules", "told"),
    [
        ((Rule("p", "/(.*)", "/x/$1$2"),), "rule 1 (protocol 'p'): result uses $2, path-match has 1 groups"),
        ((Rule("p", "/(.*)", "/x/$1", chain="q"),), "chains to 'q', which has no lfn-to-pfn rule"),
        ((DIRECT,), "no pfn-to-lfn rule"),
        (
            (Rule("p", "/+store/(.*)", "$1"), Rule("p", "/+store/user/(.*)", "$1")),
            "rule 2 (protocol 'p'): never reached after rule 1",
        ),
        (
            (Rule("p", "(.*)", "$1"), Rule("p", "/x", "$1", chain="p2"), Rule("p2", "/", "")),
            "rule 2 (protocol 'p'): never",
        ),
    ],
)
def test_lint_doubts(rules: tuple[Rule, ...], told: str) -> None:
    assert told in "\n".join(map(str, lint(forward(*rules))))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (Rule("p", "/+store/(.*)", "$1", destination_match="T1"), Rule("p", "/+store/user/(.*)", "$1")),
        (Rule("p", "/+store/(.*)", "$1", is_custodial="y"), Rule("p", "/+store/user/(.*)", "$1")),
        (Rule("p", "/+store/(.*)", "$1"), Rule("p", "/+store/user/(.*)", "$1", chain="p2")),
        (Rule("p", "/store(.*)", "$1"), Rule("p", "/store?/(.*)", "$1")),
        (Rule("p", "/store(.*)", "$1"), Rule("p", "/store/a|/(.*)", "$1")),
        (Rule("p", "/store/user/(.*)", "$1"), Rule("p", "/store/(.*)", "$1")),
        (Rule("p", "/store/(.*)", "$1"), Rule("q", "/store/(.*)", "$1")),
    ],
)
def test_lint_calls_no_reachable_rule_unreachable(first: Rule, second: Rule) -> None:
    assert "never reached" not in "\n".join(map(str, lint(forward(first, second))))


def test_lint_finds_a_failing_round_trip() -> None:
    catalog = TrivialCatalog("storage.xml", (DIRECT,), (Rule("direct", "/castor/(.*)", "/$1"),))
    findings = lint(catalog, ["/store/a"])
    assert [finding.what for finding in findings] == [
        "/store/a becomes /castor/cms/store/a becomes /cms/store/a"
    ]


def test_lint_tries_each_rule_with_a_name_of_its_own() -> None:
    catalog = TrivialCatalog(
        "storage.xml",
        (Rule("p", "/+store/special/([^/]+)/x[0-9]/(.*)", "/s/$1/$2"), Rule("p", "/+store/(.*)", "/d/$1")),
        (Rule("p", "^/d/(.*)", "/store/$1"), Rule("p", "^/s/(.*)", "/store/special/$1")),
    )
    (found,) = lint(catalog)
    assert found.where == "lfn-to-pfn rule 1 (protocol 'p')"
    assert found.what.startswith("/store/special/")
    assert found.cure == "correct the rule or pfn-to-lfn"


def test_lint_counts_names_without_a_pfn_and_names_that_share_one() -> None:
    catalog = TrivialCatalog(
        "storage.xml", (Rule("p", "^/store/mc/.*/([^/]+)$", "/d/$1"),), (Rule("p", "/d/(.*)", "/store/$1"),)
    )
    lfns = [f"/store/{kind}/{n}/a.root" for n in range(3) for kind in ("mc", "data")]
    nameless, shared, broken = (one.what for one in lint(catalog, lfns))
    assert "'/store/data/0/a.root' has no PFN" in nameless
    assert nameless.endswith("; and 2 more LFNs")
    assert shared == "/store/mc/1/a.root becomes /d/a.root, as does /store/mc/0/a.root; and 1 more LFNs"
    assert broken.endswith("and 2 more LFNs")


def test_lint_looks_at_the_protocols_asked_for() -> None:
    rules = (DIRECT, Rule("q", "/nothing", ""))
    assert {one.where for one in lint(forward(*rules), protocols=["direct"])} == {"protocol 'direct'"}
    assert {one.where for one in lint(forward(*rules))} == {"protocol 'direct'", "protocol 'q'"}


@pytest.mark.parametrize(
    ("path_match", "lfn"),
    [
        ("/+(.*)", "/store/example.root"),
        ("store/(.*)", "/store/example.root"),
        ("^/+store/mc/([^/]+)/(.*)$", "/store/mc/x/example.root"),
        ("/store/(mc|data)/[A-Z]{2}/(.+)", "/store/mc/AA/example.root"),
        ("(?=/store/)/?(.*)", "/store/example.root"),
        (r"/store/(\d)(?:x)?(.*)", "/store/1xexample.root"),
        (r"(.)\1", None),
        ("/store/ (.*)", None),
    ],
)
def test_an_example_fits_the_rule(path_match: str, lfn: str | None) -> None:
    rule = Rule("p", path_match, "/$1")
    assert example(rule) == lfn
    if lfn is not None:
        assert forward(rule).pfn(lfn, "p").pfn


def test_where_destinations_mean_nothing_the_first_rule_takes_all() -> None:
    rules = (Rule("p", "/(.*)", "/a/$1", destination_match="T1"), Rule("p", "/(.*)", "/b/$1"))
    for dialect, shadowed in ((Dialect.PHEDEX, False), (Dialect.CMSSW, False), (Dialect.WMCORE, True)):
        told = "\n".join(map(str, lint(TrivialCatalog("storage.xml", rules, dialect=dialect))))
        assert ("never reached" in told) is shadowed
